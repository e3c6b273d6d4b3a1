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

from jinja2 import Environment, PackageLoader, StrictUndefined

from scattervae.science.paper.comparison import Claim, Outcome
from scattervae.show.registry import FIGURES

PAPER = "Laroche & Speagle (2023), arXiv:2307.06378"
_DASH = "\N{EN DASH}"
_MARKS = {"holds": "\N{CHECK MARK}", "does not hold": "\N{MULTIPLICATION SIGN}"}
_UNSURE = "\N{WHITE CIRCLE}"


@dataclass(frozen=True)
class ReportFigure:
    """One figure of the report."""

    png: bytes  # the image
    title: str  # what it shows, in a line; the text for a reader who cannot see it
    caption: str  # what each mark means


def report_figures(paths: Iterable[Path]) -> dict[str, ReportFigure]:
    """The PNG files of `FIGURES` among these, by name; other formats, which stand beside them, are passed over."""
    figures = {}
    for path in paths:
        if path.suffix == ".png":
            entry = FIGURES[path.stem]
            caption = f"{entry.caption} Answers {entry.answers} of the paper."
            figures[path.stem] = ReportFigure(path.read_bytes(), entry.title, caption)
    return figures


def render_report(
    *,
    title: str,
    claims: Sequence[Claim],
    figures: Mapping[str, ReportFigure],
    facts: Mapping[str, str],
) -> str:
    """The page as text; every string in it is escaped.

    Args:
        claims: What the paper says and what was measured, in the order of the summary.
        facts: Provenance: data, versions, seeds, how long it took; a line each.
    """
    return rendered(
        "report.html.jinja",
        title=title,
        paper=PAPER,
        claims=claims,
        counts=_counts(claims),
        tested=next((claim.tested for claim in claims if claim.tested), ""),
        figures=figures,
        facts=facts,
        marks=_MARKS,
        unsure=_UNSURE,
    )


def rendered(template: str, **values: object) -> str:
    """A page of this room's templates as text; every string in it is escaped."""
    environment = Environment(
        loader=PackageLoader("scattervae.show", "."),
        autoescape=True,
        undefined=StrictUndefined,
        extensions=["jinja2.ext.do"],
        trim_blocks=True,
        finalize=lambda value: _printable(value) if type(value) is str else value,
    )
    environment.filters |= {"number": number, "interval": _interval, "outcome": _outcome, "base64": _base64}
    return environment.get_template(template).render(**values)


def number(value: float | None) -> str:
    """Three significant digits with a true minus sign; a dash where there is no number."""
    if value is None or not math.isfinite(value):
        return _DASH
    large = abs(value) >= 1e6 or 0 < abs(value) < 1e-4
    digits = max(0, 2 - math.floor(math.log10(abs(value)))) if value else 0
    text = f"{value:.2e}" if large else f"{value:,.{digits}f}"
    return text.replace("-", "\N{MINUS SIGN}")


def _counts(claims: Sequence[Claim]) -> str:
    """How many claims have which verdict; one that depends on something counts as such."""
    verdicts = (c.verdict.split(" ")[0] if c.verdict.startswith("depends") else c.verdict for c in claims)
    return ", ".join(f"{n} {verdict}" for verdict, n in Counter(verdicts).items()) or "no claim was tested"


def _interval(interval: tuple[float, float] | None) -> str:
    return _DASH if interval is None else " to ".join(map(number, interval))


def _outcome(outcome: Outcome | None) -> str:
    if outcome is None:
        return _DASH
    return outcome.verdict if outcome.measured is None else f"{number(outcome.measured)}: {outcome.verdict}"


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")


def _printable(text: str) -> str:
    """Text without control characters, which HTML cannot hold."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text)
