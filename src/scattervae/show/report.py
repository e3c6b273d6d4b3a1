"""The report: claims of the paper beside what was measured, figures and provenance, in one HTML file.

It needs no network, no script and no other file: styles are inside, figures are embedded. Its own policy
forbids a browser to load anything else.
"""

import base64
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree.ElementTree import Element

from scattervae.folders import written_aside
from scattervae.science.paper.claim import Claim, Table
from scattervae.show.markup import document, element
from scattervae.show.registry import FIGURES
from scattervae.show.report_style import STYLE

PAPER = "Laroche & Speagle (2023), arXiv:2307.06378"
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_DASH = "\N{EN DASH}"
_MARKS = {"holds": "\N{CHECK MARK}", "does not hold": "\N{MULTIPLICATION SIGN}"}
_UNSURE = "\N{WHITE CIRCLE}"


@dataclass(frozen=True)
class ReportFigure:
    """One figure of the report.

    Attributes:
        png: The image.
        title: What it shows, in a line; what a reader who cannot see it is told.
        caption: What each mark means.
    """

    png: bytes
    title: str
    caption: str

    @classmethod
    def read(cls, path: str | Path, title: str | None = None, caption: str | None = None) -> "ReportFigure":
        """A figure from its PNG file; one of `figures.FIGURES` brings its own title and caption."""
        path = Path(path)
        entry = FIGURES.get(path.stem)
        return cls(
            path.read_bytes(),
            title or (entry.title if entry else path.stem),
            caption or (f"{entry.caption} Answers {entry.answers} of the paper." if entry else ""),
        )


def report_figures(paths: Iterable[Path]) -> dict[str, ReportFigure]:
    """The PNG files among these, by their names; other formats, which stand beside them, are passed over."""
    return {path.stem: ReportFigure.read(path) for path in paths if path.suffix == ".png"}


def render_report(
    *,
    title: str,
    claims: Sequence[Claim],
    figures: Mapping[str, ReportFigure],
    facts: Mapping[str, str],
    tables: Sequence[Table] = (),
) -> str:
    """The page as text; every string in it is escaped.

    Args:
        title: Of the page.
        claims: What the paper says and what was measured, in the order of the summary.
        figures: By name, in order.
        facts: Provenance: data, versions, seeds, how long it took; a line each.
        tables: Comparisons that belong to no single claim.
    """
    sections = [
        _summary(claims),
        *(_claim(index, claim) for index, claim in enumerate(claims, start=1)),
        *([_section("comparisons", "Comparisons", *map(_table, tables))] if tables else []),
        *([_section("figures", "Figures", *_figures(figures))] if figures else []),
        _section("provenance", "Provenance", _facts(facts)),
    ]
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", title),
        element("style", STYLE),
    )
    header = element(
        "header", element("h1", title), element("p", f"Claims of {PAPER}, tested.", class_="about")
    )
    body = element("body", element("main", header, *sections))
    return document(element("html", head, body, lang="en"))


def write_report(
    path: str | Path,
    *,
    title: str,
    claims: Sequence[Claim],
    figures: Mapping[str, ReportFigure],
    facts: Mapping[str, str],
    tables: Sequence[Table] = (),
) -> Path:
    """As `render_report`, to a file that appears whole or not at all."""
    path = Path(path)
    text = render_report(title=title, claims=claims, figures=figures, facts=facts, tables=tables)
    with written_aside(path) as partial:
        partial.write_text(text, encoding="utf-8")
    return path


def number(value: float | None) -> str:
    """Three significant digits with a true minus sign; a dash where there is no number."""
    if value is None or not math.isfinite(value):
        return _DASH
    large = abs(value) >= 1e6 or 0 < abs(value) < 1e-4
    digits = max(0, 2 - math.floor(math.log10(abs(value)))) if value else 0
    text = f"{value:.2e}" if large else f"{value:,.{digits}f}"
    return text.replace("-", "\N{MINUS SIGN}")


def _section(name: str, title: str, *content: Element) -> Element:
    return element(
        "section",
        element("h2", title, id=f"{name}-title"),
        *content,
        id=name,
        aria_labelledby=f"{name}-title",
    )


def _summary(claims: Sequence[Claim]) -> Element:
    counts = Counter(claim.verdict.split(" ")[0] if _depends(claim) else claim.verdict for claim in claims)
    told = ", ".join(f"{n} {verdict}" for verdict, n in counts.items()) or "no claim was tested"
    header = ("Claim", "The paper", "Here", "95 % interval", "Verdict")
    rows = [
        (
            element("a", claim.title, href=f"#claim-{index}"),
            claim.paper,
            number(claim.measured),
            _interval(claim),
            _verdict(claim),
        )
        for index, claim in enumerate(claims, start=1)
    ]
    about = element("p", f"Of {len(claims)} claims: {told}.")
    return _section("summary", "Summary", about, _grid("The paper's claims, one by one", header, rows))


def _claim(index: int, claim: Claim) -> Element:
    pairs = element(
        "dl",
        *_pair("The paper", claim.paper),
        *_pair("Here", _measured(claim)),
        *_pair("Verdict", _verdict(claim)),
    )
    return _section(
        f"claim-{index}",
        f"{index}. {claim.title}",
        pairs,
        element("p", claim.note),
        *map(_table, claim.details),
    )


def _depends(claim: Claim) -> bool:
    return claim.verdict.startswith("depends")


def _verdict(claim: Claim) -> Element:
    mark = _MARKS.get(claim.verdict, _UNSURE)
    return element("span", element("span", mark, aria_hidden="true"), f" {claim.verdict}", class_="verdict")


def _measured(claim: Claim) -> str:
    if claim.measured is None:
        return "no number"
    interval = "" if claim.interval is None else f" (95 % interval: {_interval(claim)})"
    return number(claim.measured) + interval


def _interval(claim: Claim) -> str:
    if claim.interval is None:
        return _DASH
    low, high = claim.interval
    return f"{number(low)} to {number(high)}"


def _pair(term: str, value: Element | str) -> tuple[Element, Element]:
    return element("dt", term), element("dd", value)


def _facts(facts: Mapping[str, str]) -> Element:
    return element("dl", *(part for pair in facts.items() for part in _pair(*pair)))


def _table(table: Table) -> Element:
    return _grid(table.title, table.header, table.rows)


def _grid(title: str, header: Sequence[str], rows: Sequence[Sequence[Element | str]]) -> Element:
    """A table whose first column names the rows; one that is too wide scrolls by itself, by keyboard too."""
    body = [
        element(
            "tr",
            *(element("th", cell, scope="row") for cell in row[:1]),
            *(element("td", cell) for cell in row[1:]),
        )
        for row in rows
    ]
    table = element(
        "table",
        element("caption", title),
        element("thead", element("tr", *(element("th", name, scope="col") for name in header))),
        element("tbody", *body),
    )
    return element("div", table, class_="wide", tabindex="0", role="region", aria_label=title)


def _figures(figures: Mapping[str, ReportFigure]) -> list[Element]:
    return [
        element(
            "figure",
            element(
                "img",
                src="data:image/png;base64," + base64.b64encode(figure.png).decode("ascii"),
                alt=figure.title,
            ),
            element(
                "figcaption",
                element("strong", f"Figure {index}. {figure.title}."),
                f" {figure.caption} ",
                element("code", name),
            ),
            id=f"figure-{index}",
        )
        for index, (name, figure) in enumerate(figures.items(), start=1)
    ]
