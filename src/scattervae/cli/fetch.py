"""``scattervae fetch``: bulk files and single stars from the Gaia archive."""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scattervae.cli.console import ArchiveUrl, AsJson, BulkUrl, ReleaseName, Summary, table_lines
from scattervae.display import LineAMinute, progress_bar, stderr
from scattervae.errors import FetchError, counted

if TYPE_CHECKING:
    from scattervae.arrays import SourceIds
    from scattervae.gaia.archive.bulk import Moved, Plan, Report
    from scattervae.gaia.archive.ids import FetchedIds
    from scattervae.gaia.archive.listing import BulkFile
    from scattervae.gaia.archive.services import Services

app = typer.Typer(no_args_is_help=True, context_settings={"help_option_names": ["-h", "--help"]})


class Products(StrEnum):
    """Which bulk files to fetch."""

    XP = "xp_continuous"
    SOURCES = "gaia_source"
    BOTH = "both"

    @property
    def tables(self) -> list[str]:
        """The archive's names of them."""
        names = {Products.XP: "xp_continuous_mean_spectrum", Products.SOURCES: "gaia_source"}
        return [*names.values()] if self is Products.BOTH else [names[self]]


Out = Annotated[Path, typer.Option("--out", "-o", help="The csv file, gzipped where its name ends in .gz.")]
Batch = Annotated[
    int, typer.Option(min=1, metavar="N", help="Stars asked for at once; DR3 gives 5,000 at most.")
]


@app.callback()
def fetch() -> None:
    """Fetch bulk files or single stars from the Gaia archive; run again, it resumes where it was stopped.

    Example:

        scattervae fetch bulk --out gaia --files 2
    """


@app.command()
def bulk(
    *,
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder; run again, it resumes.")],
    product: Annotated[
        Products,
        typer.Option(help="Spectra, the source table (positions, G flux, quality), or both."),
    ] = Products.BOTH,
    healpix: Annotated[
        str | None,
        typer.Option(metavar="A-B", help="Only files with stars of these nested HEALPix pixels of order 8."),
    ] = None,
    files: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Only the first N files of each product.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, metavar="N", help="Files fetched at a time.")] = 4,
    release: ReleaseName = "DR3",
    base_url: BulkUrl = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Read again and check the files that an earlier run checked.")
    ] = False,
    list_only: Annotated[
        bool, typer.Option("--list", help="Only say which files there are and how large, fetch none.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Fetch whole bulk files, several at a time, each checked against the archive's list of checksums.

    Without --healpix or --files that is the whole release: 3,386 files of each product in DR3, terabytes; --list
    shows how much before anything is fetched. The pixel of a star is its source_id // 2**43. A broken
    connection resumes at the same byte, also in another run. A busy server is tried again. A file that does not
    come is named at the end; the others are fetched all the same.

    Example:

        scattervae fetch bulk --out gaia --healpix 0-3111

        scattervae ingest gaia/xp_continuous_mean_spectrum/Xp*.csv.gz --out store
    """
    from scattervae.gaia.archive import bulk

    if healpix is not None and files is not None:
        raise FetchError("--healpix and --files exclude each other; give one of them")
    wanted = _wanted(product, release, base_url, pixels=_pixels(healpix), n=files)
    with progress_bar("files") as bar:
        task = bar.add_task("looking", total=len(wanted))
        plan = bulk.plan(wanted, out, verify=verify, progress=lambda: bar.advance(task))
    if list_only:
        listing(plan).show(as_json=as_json)
        return
    plan.check_space()
    with byte_bar(plan) as moved:
        report = bulk.fetch(plan, workers=workers, progress=moved)
    fetched_files(plan, report).show(as_json=as_json)
    if report.failed:
        raise typer.Exit(1)


@app.command()
def ids(
    stars: Annotated[
        Path | None,
        typer.Argument(metavar="FILE", help="source_ids: one a line, or a table that has a column of them."),
    ] = None,
    *,
    query: Annotated[
        str | None, typer.Option(metavar="ADQL", help="A query whose result has a column source_id.")
    ] = None,
    out: Out,
    release: ReleaseName = "DR3",
    batch: Batch = 1000,
    archive_url: ArchiveUrl = None,
    as_json: AsJson = False,
) -> None:
    """Fetch the mean spectra of some stars, with their positions and G flux, to one file for `scattervae ingest`.

    Stars without a spectrum are counted and named. Batches that came are kept beside the file until all have:
    stopped, the same command asks only for the others. For a large part of the sky take bulk files.

    Examples:

        scattervae fetch ids stars.txt --out stars.csv.gz

        scattervae fetch ids --query "SELECT source_id FROM gaiadr3.gaia_source WHERE parallax > 50" --out near.csv.gz
    """
    if (stars is None) == (query is None):
        raise FetchError("give either a file of source_ids or --query")
    from scattervae.gaia.files.reading import read_ids_file

    def wanted(services: "Services") -> "SourceIds":
        if query is not None:
            return services.ids_of(query)
        return read_ids_file(stars or "", release=services.release.meaning)

    _fetch_stars(wanted, out, release, archive_url, batch=batch).show(as_json=as_json)


@app.command()
def cone(
    ra: Annotated[float, typer.Argument(metavar="RA", min=0.0, max=360.0, help="Right ascension [deg].")],
    dec: Annotated[float, typer.Argument(metavar="DEC", min=-90.0, max=90.0, help="Declination [deg].")],
    radius: Annotated[float, typer.Argument(metavar="RADIUS", min=0.0, max=180.0, help="Radius [deg].")],
    *,
    out: Out,
    release: ReleaseName = "DR3",
    batch: Batch = 1000,
    archive_url: ArchiveUrl = None,
    as_json: AsJson = False,
) -> None:
    """Fetch the mean spectra of all stars in a cone on the sky, to one file for `scattervae ingest`.

    The position is ICRS at the release's reference epoch. A negative declination goes behind two dashes.

    Examples:

        scattervae fetch cone 56.75 24.12 0.5 --out pleiades.csv.gz

        scattervae fetch cone --out omega_cen.csv.gz -- 201.7 -47.48 0.2
    """
    _fetch_stars(
        lambda services: services.ids_in_cone(ra, dec, radius), out, release, archive_url, batch=batch
    ).show(as_json=as_json)


def _fetch_stars(
    wanted: "Callable[[Services], SourceIds]", out: Path, release: str, archive_url: str | None, *, batch: int
) -> "Summary":
    from scattervae.files import sole_writer
    from scattervae.gaia.archive.ids import fetch_ids
    from scattervae.gaia.archive.listing import release_of
    from scattervae.gaia.archive.services import Services

    if out.exists():
        raise FetchError(f"{out}: exists; remove it, or give another file as --out")
    services = Services(release_of(release), url=archive_url)
    with sole_writer(out), progress_bar("stars") as bar:
        ids = wanted(services)
        task = bar.add_task("fetching", total=len(set(ids.tolist())))
        done = fetch_ids(ids, out, services, batch_size=batch, progress=lambda n: bar.advance(task, n))
    return fetched_stars(done)


def _pixels(text: str | None) -> range | None:
    if text is None:
        return None
    given = re.fullmatch(r"(\d+)(?:-(\d+))?", text.strip())
    if given is None:
        raise FetchError(f"--healpix {text}: expected a pixel or a range of them, such as 0-3111")
    return range(int(given[1]), int(given[2] or given[1]) + 1)


def _wanted(
    product: Products, release: str, base_url: str | None, *, pixels: range | None, n: int | None
) -> list["BulkFile"]:
    from scattervae.gaia.archive import listing, transport

    names = listing.release_of(release)
    wanted: list[BulkFile] = []
    with transport.new_session() as session:
        for table in product.tables:
            files = names.product(table)
            bulk = names.bulk or listing.Bulk(url="")
            address, store = (bulk.url, bulk.listing_url) if base_url is None else (base_url, None)
            listed = listing.read_listing(session, address, files, transport.Patience(), listing_url=store)
            wanted += (listed if pixels is None else listing.overlapping(listed, pixels))[:n]
    return wanted


_NAMED_LIMIT = 20


@contextmanager
def byte_bar(plan: "Plan") -> Iterator[Callable[["Moved"], None]]:
    """A bar over bytes with the rate and the time left; a line a minute without a terminal."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.progress import TransferSpeedColumn as SpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), DownloadColumn(), SpeedColumn())
    files = TextColumn("{task.fields[n]} files", markup=False)
    with (
        Progress(*columns, TimeRemainingColumn(), files, console=stderr)
        if stderr.is_terminal
        else LineAMinute("bytes") as bar
    ):
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
        lines.append(f"failed: {_first_of(failed)}; the same command tries them again")
    return Summary(values, tuple(lines))


def fetched_stars(done: "FetchedIds") -> Summary:
    """What came of single stars."""
    missing = {
        "in the release's tables, but without a position": done.unlocated,
        "in no table of the release (no position; G from the coefficients)": done.unlisted,
        "in no table of the release, and without a mean spectrum": done.unknown,
        "without a mean spectrum": done.without,
    }
    lines = [f"wrote {done.path}: {counted(len(done.fetched), 'star')}"]
    for reason, stars in missing.items():
        if len(stars):
            lines.append(f"{len(stars):,} {reason}: {_first_of(stars.tolist())}")
    names = ("unlocated", "unlisted", "unknown", "without_spectrum")
    ids = {name: [*map(str, stars.tolist())] for name, stars in zip(names, missing.values(), strict=True)}
    return Summary({"out": str(done.path), "stars": len(done.fetched), **ids}, tuple(lines))


def _first_of(names: "Sequence[object]") -> str:
    more = f" and {len(names) - _NAMED_LIMIT:,} more" if len(names) > _NAMED_LIMIT else ""
    return ", ".join(map(str, names[:_NAMED_LIMIT])) + more


def _size(n: int | None) -> str:
    if n is None:
        return "unknown"
    for unit in ("B", "kB", "MB"):
        if n < 1000:
            return f"{n:,.0f} {unit}"
        n = n / 1000  # type: ignore[assignment]
    return f"{n:,.2f} GB"
