"""``scattervae doctor``: what this machine and the archive can do today."""

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from scattervae.cli.console import ArchiveUrl, AsJson, BulkUrl, ReleaseName, Summary, print_stage
from scattervae.errors import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scattervae.gaia.archive.doctor import Finding
    from scattervae.gaia.archive.listing import Release

_WIDTHS = (30, 28, 40)  # of the columns; a longer text runs on


def doctor(
    *,
    release: ReleaseName = "DR3",
    archive_url: ArchiveUrl = None,
    base_url: BulkUrl = None,
    as_json: AsJson = False,
) -> None:
    """Check this machine, and compare what is known of a data release with what the archive has today.

    Of the machine: Python, libraries, threads, GPU, disk, the bases that GaiaXPy knows, and a self-test: simulated
    stars are ingested, trained on and encoded. Of the archive: tables, columns and units by its TAP_SCHEMA, DataLink's
    words and one spectrum, the lists of bulk files and the beginning of the first. A line for each: what, what is
    expected, what was found, and ok, differs, or unknown (where the release file says nothing of it). The last lines
    say what fetch, ingest and encode can do with the release. Where the two differ, the line below names the entry of
    the release file to correct: copy it, correct it, and give the copy as --release.

    The exit code is 1 where anything differs. Without a network only the machine is checked.

    Examples:

        scattervae doctor

        scattervae doctor --release DR4

        scattervae doctor --release mine.toml --json
    """
    from scattervae.gaia.archive.doctor import Examination, Status, no_network
    from scattervae.gaia.archive.listing import release_of
    from scattervae.science.machine import examine_machine

    asked = _at(release_of(release), archive_url, base_url)
    print_stage("checking the machine")
    machine, archive, uses = examine_machine(Path.cwd()), [], {}
    print_stage(f"asking the archive about {asked.name}")
    absent = no_network(asked)
    if absent is None:
        examination = Examination(asked)
        archive, uses = examination.findings, examination.uses()
    n_differing = sum(finding.status is Status.DIFFERS for finding in (*machine, *archive))
    values = {
        "release": asked.name,
        "preliminary": asked.preliminary,
        "machine": [vars(finding) for finding in machine],
        "archive": [vars(finding) for finding in archive],
        "no_network": absent,
        "uses": uses,
        "n_differing": n_differing,
    }
    last = f"{counted(n_differing, 'line')} above not as expected" if n_differing else "all is well"
    lines = (
        *_lines("machine", machine),
        *_lines(f"archive, {asked.name}", archive),
        *([] if absent is None else [f"no network, the archive was not asked: {absent}"]),
        *(f"{command}: {text}" for command, text in uses.items()),
        last,
    )
    Summary(values, lines).show(as_json=as_json)
    if n_differing:
        raise typer.Exit(1)


def _at(release: "Release", archive_url: str | None, base_url: str | None) -> "Release":
    """The release at other addresses, where they are given."""
    urls: dict[str, object] = {} if archive_url is None else {"archive_url": archive_url}
    if base_url is not None and release.bulk is not None:
        urls["bulk"] = release.bulk.model_copy(update={"url": base_url, "listing_url": None})
    return release.model_copy(update=urls)


def _lines(title: str, findings: "Sequence[Finding]") -> list[str]:
    lines = []
    for finding in findings:
        cells = (finding.what, finding.expected or "-", finding.found)
        padded = [cell.ljust(width) for cell, width in zip(cells, _WIDTHS, strict=True)]
        lines.append(" | ".join((*padded, finding.status)))
        if finding.advice:
            lines.append(f"  {finding.advice}")
    return [f"{title}: what | expected | found | status", *lines] if lines else []
