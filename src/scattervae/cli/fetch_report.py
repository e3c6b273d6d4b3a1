"""What ``scattervae fetch`` shows: a bar over bytes, what there is to fetch, what came and what did not."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from scattervae.cli.console import Summary, stderr, table_lines
from scattervae.errors import counted

if TYPE_CHECKING:
    from scattervae.gaia.archive import Moved, Plan, Report
    from scattervae.gaia.archive.ids import FetchedIds

_NAMED_LIMIT = 20


@contextmanager
def byte_bar(plan: "Plan") -> Iterator[Callable[["Moved"], None]]:
    """A bar over bytes with the rate and the time left; nothing where no one looks."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.progress import TransferSpeedColumn as SpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), DownloadColumn(), SpeedColumn())
    files = TextColumn("{task.fields[n]} files", markup=False)
    with Progress(
        *columns, TimeRemainingColumn(), files, console=stderr, disable=not stderr.is_terminal
    ) as bar:
        total = plan.n_bytes if not plan.n_unknown else None
        task = bar.add_task("fetching", total=total, completed=plan.n_present, n=f"0/{len(plan.tasks)}")
        n_finished = 0

        def moved(news: "Moved") -> None:
            nonlocal n_finished
            n_finished += news.finished
            bar.update(task, advance=news.n_bytes, n=f"{n_finished:,}/{len(plan.tasks):,}")

        yield moved


def listing(plan: "Plan") -> Summary:
    """The files of a plan with their sizes, and what of them is here."""
    rows = [
        (task.file.path, _size(task.n_bytes), "here" if task.done else _size(task.n_present))
        for task in plan.tasks
    ]
    values = {
        "out": str(plan.out),
        "bytes": plan.n_bytes,
        "bytes_here": plan.n_present,
        "files": [
            {"path": task.file.path, "url": task.file.url, "md5": task.file.md5, "bytes": task.n_bytes}
            for task in plan.tasks
        ],
    }
    unknown = f", the sizes of {counted(plan.n_unknown, 'file')} unknown" if plan.n_unknown else ""
    total = (
        f"{counted(len(plan.tasks), 'file')}, {_size(plan.n_bytes)}{unknown}; "
        f"{_size(plan.n_present)} are in {plan.out}"
    )
    table = table_lines(("file", "size", "here"), rows) if rows else ()
    return Summary(values, (*table, total))


def fetched_files(plan: "Plan", report: "Report") -> Summary:
    """What came of bulk files."""
    values = {
        "out": str(plan.out),
        "fetched": sorted(report.fetched),
        "kept": len(report.kept),
        "failed": report.failed,
    }
    failed = sorted(report.failed)
    lines = [
        f"{plan.out}: {counted(len(report.fetched), 'file')} fetched, {len(report.kept):,} were here and whole, "
        f"{len(failed):,} failed"
    ]
    if failed:
        more = f" and {len(failed) - _NAMED_LIMIT} more" if len(failed) > _NAMED_LIMIT else ""
        lines.append(f"failed: {', '.join(failed[:_NAMED_LIMIT])}{more}; the same command tries them again")
    return Summary(values, tuple(lines))


def fetched_stars(done: "FetchedIds") -> Summary:
    """What came of single stars."""
    missing = {
        "in the release's table of photometry alone (no position)": done.unlocated,
        "in no table of the release (no position; G from the coefficients)": done.unlisted,
        "in no table of the release, and without a mean spectrum": done.unknown,
        "without a mean spectrum": done.without,
    }
    lines = [f"wrote {done.path}: {counted(len(done.fetched), 'star')}"]
    for reason, stars in missing.items():
        if len(stars):
            more = f" and {len(stars) - _NAMED_LIMIT:,} more" if len(stars) > _NAMED_LIMIT else ""
            lines.append(
                f"{len(stars):,} {reason}: {', '.join(map(str, stars[:_NAMED_LIMIT].tolist()))}{more}"
            )
    values = {
        "out": str(done.path),
        "stars": len(done.fetched),
        "unlocated": [str(star) for star in done.unlocated.tolist()],
        "unlisted": [str(star) for star in done.unlisted.tolist()],
        "unknown": [str(star) for star in done.unknown.tolist()],
        "without_spectrum": [str(star) for star in done.without.tolist()],
    }
    return Summary(values, tuple(lines))


def _size(n: int | None) -> str:
    if n is None:
        return "unknown"
    for unit in ("B", "kB", "MB"):
        if n < 1000:
            return f"{n:,.0f} {unit}"
        n = n / 1000  # type: ignore[assignment]
    return f"{n:,.2f} GB"
