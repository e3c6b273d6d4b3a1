"""The oddest stars side by side: observed and decoded flux with bands, what is left, and in what each is odd."""

from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from scattervae.arrays import Wavelengths
from scattervae.errors import DataError
from scattervae.files import write_text
from scattervae.gaia.flux import sample_flux
from scattervae.model.checkpoint import Checkpoint
from scattervae.science.generation import generate
from scattervae.science.outliers import OUTSIDE, PARTS
from scattervae.show.registry import save_figure
from scattervae.show.report import rendered
from scattervae.show.star_figure import (
    WAVELENGTH_LABEL,
    Curve,
    flux_label,
    plot_flux,
    plot_flux_residuals,
    power_of_ten,
)
from scattervae.show.style import PAGE_WIDTH, house_style
from scattervae.spectra.spectra import Spectra

_COLUMNS = 2
_PANEL = 2.6  # inches


def save_gallery(model: Checkpoint, spectra: Spectra, table: pa.Table, path: Path) -> None:
    """Draw these stars in the order of the table, as a page or as one figure by the suffix of `path`.

    Args:
        model: What the stars were compared with.
        spectra: The stars of the table, in any order.
        table: What `find_outliers` gives, cut to the stars to draw.
        path: An .html file that needs no other, or .png, .pdf or .svg.

    Raises:
        DataError: There is no star, or the basis functions of the stars are not known.
    """
    if len(table) == 0:
        raise DataError(f"{path}: no star to draw")
    rows = np.array([np.flatnonzero(spectra.source_id == star)[0] for star in table["source_id"].to_pylist()])
    stars = spectra.take(rows)
    if path.suffix == ".html":
        write_text(path, render_gallery(model, stars, table))
    else:
        save_figure(gallery_figure(model, stars, table), path)


def gallery_figure(model: Checkpoint, stars: Spectra, table: pa.Table) -> Figure:
    """All stars on one page, two a row; each with its flux above and what is left below."""
    n_rows = -(-len(stars) // _COLUMNS)
    curves = _Curves.of(model, stars)
    with house_style():
        figure = Figure(figsize=(PAGE_WIDTH, _PANEL * n_rows), layout="constrained")
        grid = figure.add_gridspec(2 * n_rows, _COLUMNS, height_ratios=[2.2, 1.0] * n_rows)
        for index, row in enumerate(table.to_pylist()):
            line, column = divmod(index, _COLUMNS)
            above = figure.add_subplot(grid[2 * line, column])
            below = figure.add_subplot(grid[2 * line + 1, column], sharex=above)
            curves.draw(above, below, index)
            if index == 0:
                above.legend(loc="best", fontsize=6.0)
            above.set_title(
                f"{row['source_id']}, $G$ = {row['g_mag']:.1f}, score {row['outlier_score']:.1f}\n"
                f"{row['outlier_reasons'].replace('_', ' ') or 'nothing unusual'}",
                fontsize=6.5,
            )
    return figure


def render_gallery(model: Checkpoint, stars: Spectra, table: pa.Table) -> str:
    """The page as text; every string in it is escaped."""
    curves = _Curves.of(model, stars)
    entries = []
    for index, row in enumerate(table.to_pylist()):
        with house_style():
            figure = Figure(figsize=(PAGE_WIDTH, 3.4), layout="constrained")
            above, below = figure.subplots(2, 1, sharex=True, height_ratios=[2.2, 1.0])
            curves.draw(above, below, index)
            above.legend(loc="upper right")
        file = BytesIO()
        figure.savefig(file, format="png", dpi=110)
        names = row["outlier_reasons"].split("; ") if row["outlier_reasons"] else []
        reasons = [(name.replace("_", " "), (PARTS | OUTSIDE)[name], row.get(name)) for name in names]
        entries.append(
            {**row, "source_id": str(row["source_id"]), "reasons": reasons, "png": file.getvalue()}
        )
    return rendered("gallery.html.jinja", entries=entries, n_stars=len(entries))


class _Curves(NamedTuple):
    """Flux of some stars on one grid."""

    grid_nm: Wavelengths
    observed: list[Curve]
    decoded: list[Curve]

    @classmethod
    def of(cls, model: Checkpoint, stars: Spectra) -> "_Curves":
        """Observed flux with errors and decoded flux with scatter, a curve for each star."""
        observed = sample_flux(stars)
        decoded = generate(model, model.encode(stars).mean, stars.g_flux, to_g=False).flux()
        return cls(
            observed.grid_nm,
            [Curve(flux, error) for flux, error in zip(observed.flux, observed.errors, strict=True)],
            [Curve(flux, scatter) for flux, scatter in zip(decoded.flux, decoded.errors, strict=True)],
        )

    def draw(self, above: Axes, below: Axes, star: int) -> None:
        """One star's flux and its residual in two panels that share the wavelength."""
        observed, models = self.observed[star], {"decoded, with scatter": self.decoded[star]}
        power = power_of_ten(observed)
        plot_flux(above, self.grid_nm, observed, models, power=power)
        plot_flux_residuals(below, self.grid_nm, observed, models, power=power)
        above.tick_params(labelbottom=False)
        below.set_xlabel(WAVELENGTH_LABEL)
        above.set_ylabel(flux_label("flux", power))
        below.set_ylabel("residual")
