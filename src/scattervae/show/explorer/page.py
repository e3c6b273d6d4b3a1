"""The page: stars, model and assets in one HTML file, as large as allowed."""

import html
import json
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import matplotlib
import numpy as np
import pyarrow as pa
from jaxtyping import Float32
from markupsafe import Markup

import scattervae
from scattervae.arrays import SourceIds, StarMask
from scattervae.errors import CheckpointError, DataError, counted
from scattervae.files import write_text
from scattervae.gaia.basis import g_mag_of
from scattervae.gaia.reading import load
from scattervae.model.checkpoint import Checkpoint
from scattervae.science.trained import TrainedModel, load_model, with_labels
from scattervae.show.explorer.packed_model import (
    coeff_loss,
    deflated,
    packed_coeffs,
    packed_column,
    packed_errors,
    packed_model,
)
from scattervae.show.explorer.shown_stars import (
    Column,
    Sample,
    column_of,
    columns_of,
    model_of,
    sample_of,
    tables_of,
)
from scattervae.spectra.star_tables import LABEL_NAMES, LABEL_UNITS, SOURCE_COLUMNS, rows_of
from scattervae.spectra.store import SpectrumStore

MOST_STARS = 200_000
_SCRIPTS = ("reading.js", "network.js", "stars.js", "plots.js", "map.js", "panels.js", "app.js")
_MEGABYTE = 1_000_000
_STARS, _MEGABYTES = (40_000, 200_000), (15.0, 60.0)  # stars, and the megabytes that a page of them may have
_MARGIN = 0.985
_MEASURED = 2000
_NOT_SHOWN = ("source_id", "_healpix_29", "bp_basis_function_id", "rp_basis_function_id")
_FIRST = (
    "pca_",
    "umap_",
    "latent_",
    "g_mag",
    "bp_rp",
    "bp1_rp1",
    "teff",
    "logg",
    "fe_h",
    "alpha_m",
    "a_k",
    "spectrum_score",
    "reduced_chi2",
)


class Observed(NamedTuple):
    """Spectra of a page's stars, as the model sees them."""

    # coefficients in training standard deviations, NaN where missing, also for stars that are not there
    x: Float32[np.ndarray, "star coeff"]
    errors: Float32[np.ndarray, "star coeff"]  # their errors, same units; infinite or NaN where missing
    g_flux: np.ndarray  # G flux [electron/s]

    @property
    def known(self) -> StarMask:
        """Stars with a coefficient that is known."""
        known: StarMask = np.isfinite(self.x).any(axis=1)
        return known

    def take(self, rows: np.ndarray) -> "Observed":
        """The spectra of these rows."""
        return Observed(*(values[rows] for values in self))


@dataclass(frozen=True)
class ExplorerPage:
    """A page that explores the latent space; it shows itself in a notebook."""

    content: str  # the whole HTML file
    n_stars: int  # stars on the map
    n_all: int  # stars of the catalogue
    n_spectra: int  # stars whose observed spectra are in the page
    # what rounding changes 99.9 % of the coefficients by at most, in their measurement errors
    coeff_loss: float

    @cached_property
    def n_bytes(self) -> int:
        return len(self.content.encode())

    def save(self, path: str | Path) -> Path:
        """Write the file, whole or not at all."""
        write_text(Path(path), self.content)
        return Path(path)

    def _repr_html_(self) -> str:
        frame = 'style="width:100%;height:900px;border:1px solid #8c8c8c" title="Latent space explorer"'
        return f'<iframe {frame} srcdoc="{html.escape(self.content, quote=True)}"></iframe>'


def explore(
    model: Checkpoint | str | Path,
    catalogue: str | Path,
    *,
    stars: str | Path | None = None,
    sample: int = MOST_STARS,
    megabytes: float | None = None,
    umap: bool = False,
) -> ExplorerPage:
    """A page of the stars of a catalogue and the model that encoded them.

    Args:
        model: The model, or its folder.
        catalogue: What ``encode`` wrote: a file of any form, or the folder of a HATS catalogue, which is streamed.
        stars: The store or file that was encoded: observed spectra, G flux and labels are taken from it.
        sample: Stars to show at most; of more, a sample that keeps rare places is drawn.
        megabytes: How large the page may be; by default 15 for 40,000 stars and fewer, up to 60 for 200,000.
        umap: Also embed the latents by UMAP, where the package umap-learn is installed.

    Raises:
        DataError: A file cannot be read, or is no catalogue of the model's latents; or UMAP is not installed.
        CheckpointError: The model is broken, or the catalogue is of another one.
    """
    if not isinstance(model, TrainedModel):
        model = with_labels(model, None) if isinstance(model, Checkpoint) else load_model(model)
    catalogue = Path(catalogue)
    _require_own(model, catalogue)
    drawn = sample_of(catalogue, model.n_latent, sample)
    source_id, columns = columns_of(catalogue, drawn.rows)
    columns = [*_embeddings(columns, drawn, model.n_latent, umap=umap), *columns]
    observed = None
    if stars is not None and len(source_id):
        observed = _observed(model, Path(stars), source_id)
        first = np.argsort(~observed.known, kind="stable")  # the page holds spectra of its first stars
        observed, drawn, source_id = observed.take(first), drawn.take(first), source_id[first]
        columns = [replace(column, values=column.values[first]) for column in columns]
        columns += _columns_of_stars(Path(stars), source_id, {column.name for column in columns})
        columns += _photometry(model, observed, {column.name for column in columns})
    order = {name: rank for rank, name in enumerate(_FIRST)}
    columns.sort(key=lambda column: _rank(column.name, order))
    return _Contents(model, catalogue, drawn, source_id, columns, observed).page(megabytes)


def _rank(name: str, order: dict[str, int]) -> int:
    if name.endswith(("_sd", "_corr", "_err")):
        return len(order) + 1
    return next((rank for start, rank in order.items() if name.startswith(start)), len(order))


def _require_own(model: TrainedModel, catalogue: Path) -> None:
    made_with = model_of(catalogue)
    if made_with not in (None, model.digest, model.latent_digest):
        raise CheckpointError(
            f"{catalogue}: made with the model {made_with}, but this one is {model.digest}; give the model that made "
            "it, or encode the stars again"
        )


def _embeddings(columns: list[Column], drawn: Sample, n_latent: int, *, umap: bool) -> list[Column]:
    by_name = {column.name: column.values for column in columns}
    latents = np.stack([by_name[f"latent_{k}_mean"] for k in range(1, n_latent + 1)], axis=1)
    found = [
        Column(f"pca_{k}", values, "", f"latents along their principal axis {k}")
        for k, values in enumerate(drawn.embedded(latents).T, start=1)
    ]
    if umap:
        try:
            from umap import UMAP  # type: ignore[import-not-found]
        except ImportError as error:
            raise DataError(
                "--umap: the package umap-learn is not installed; install it, or leave --umap out"
            ) from error
        known = np.isfinite(latents).all(axis=1)
        places = np.full((len(latents), 2), np.nan)
        if known.sum() > 3:
            places[known] = UMAP(random_state=0, n_jobs=1).fit_transform(latents[known])
        found += [Column(f"umap_{k}", places[:, k - 1], "", f"UMAP of the latents, axis {k}") for k in (1, 2)]
    return found


def _columns_of_stars(stars: Path, source_id: SourceIds, taken: set[str]) -> list[Column]:
    """Scalar columns of a store or file of spectra, for the stars of the page; empty ones are left out."""
    if not (stars.is_dir() or stars.suffix == ".parquet"):
        return _labels_of_file(stars, source_id)
    n_kept, kept = 0, list[pa.Table]()
    where = np.full(len(source_id), -1, dtype=np.int64)
    for table in tables_of(stars):
        if "source_id" not in table.column_names:
            return _labels_of_file(stars, source_id)
        row, known = rows_of(table["source_id"].to_numpy(), among=source_id)
        where[row[known]] = n_kept + np.arange(known.sum())
        kept.append(table.filter(pa.array(known)))
        n_kept += len(kept[-1])
    rows = pa.concat_tables(kept, promote_options="permissive").take(pa.array(where, mask=where < 0))
    shown = [f for f in rows.schema if f.name not in taken and f.name not in _NOT_SHOWN]
    columns = [_known(column_of(field, rows[field.name])) for field in shown]
    return [c for c in columns if (c.values != "").any() and (c.is_text or np.isfinite(c.values).any())]


def _labels_of_file(stars: Path, source_id: SourceIds) -> list[Column]:
    labels = load(stars).labels.aligned_to(source_id)
    columns = [_known(Column(name, labels[name])) for name in LABEL_NAMES]
    return [column for column in columns if np.isfinite(column.values).any()]


def _known(column: Column) -> Column:
    """The column with the unit and description of Gaia's source table, or of labels, where its file gives none."""
    name = column.name.removesuffix("_err")
    if column.description or not (column.name in SOURCE_COLUMNS or name in LABEL_UNITS):
        return column
    if column.name in SOURCE_COLUMNS:
        _, unit, description = SOURCE_COLUMNS[column.name]
    else:
        unit, description = LABEL_UNITS[name], f"{name} that came with the spectra"
    error = "one standard deviation of " if name != column.name else ""
    return replace(column, unit=column.unit or unit, description=error + description)


def _observed(model: TrainedModel, stars: Path, source_id: SourceIds) -> Observed:
    n = model.normalization.n_coeffs
    x, errors = (np.full((len(source_id), n), np.nan, dtype=np.float32) for _ in range(2))
    g_flux = np.full(len(source_id), np.nan)
    is_store = SpectrumStore.is_store(stars)
    for spectra in SpectrumStore(stars).chunks(correlations=False) if is_store else [load(stars).spectra]:
        row, known = rows_of(spectra.source_id, among=source_id)
        if known.any():
            shown = spectra.take(known)
            inputs = model.normalization.apply(shown, gaps=model.network.sees_errors)
            x[row[known]], errors[row[known]] = inputs.x.numpy(), inputs.errors.numpy()
            g_flux[row[known]] = shown.g_flux
    return Observed(np.where(np.isfinite(errors), x, np.float32(np.nan)), errors, g_flux)


def _photometry(model: TrainedModel, observed: Observed, taken: set[str]) -> list[Column]:
    """G and a colour, where the stars' own columns lack them; the colour is the proxy that `compare` matches on."""
    found = []
    if "phot_g_mean_mag" not in taken and np.isfinite(observed.g_flux).any():
        g_mag = np.asarray(g_mag_of(observed.g_flux))
        found.append(Column("g_mag", g_mag, "mag", "G magnitude of the mean G flux"))
    scale, both = model.normalization, [0, model.normalization.bp.stop]
    if "bp_rp" not in taken and scale.columns[both].tolist() == [0, scale.basis.n_bp]:
        bp, rp = (observed.x[:, both] * scale.std[both] + scale.mean[both]).T
        with np.errstate(invalid="ignore", divide="ignore"):
            colour = -2.5 * np.log10(bp / rp)
        text = "colour: -2.5 log10 of the first BP over the first RP coefficient, a proxy of BP - RP"
        found.append(Column("bp1_rp1", np.where(np.isfinite(colour), colour, np.nan), "mag", text))
    return found


@dataclass(frozen=True)
class _Contents:
    """All that goes into a page, before it is known how many spectra it has room for."""

    model: TrainedModel
    catalogue: Path
    drawn: Sample
    source_id: SourceIds
    columns: list[Column]
    observed: Observed | None

    def page(self, megabytes: float | None) -> ExplorerPage:
        """The page, with as many observed spectra as it has room for."""
        about, blocks = self._without_spectra()
        if megabytes is None:
            megabytes = float(np.interp(len(self.source_id), _STARS, _MEGABYTES))
        limit = _MEGABYTE * megabytes
        n, coeffs_loss = 0, 0.0
        if self.observed is not None and len(self.source_id):
            room = limit * _MARGIN - len(_rendered(about, blocks))
            measured = self._spectra(min(_MEASURED, len(self.source_id)))
            a_star = sum(map(len, measured[1].values())) / min(_MEASURED, len(self.source_id))
            n = max(min(int(room / a_star), int(self.observed.known.sum())), 0)
        if n and self.observed is not None:
            spectra, texts = self._spectra(n)
            coeffs_loss = spectra["coeff_loss"]
            about, blocks = about | {"spectra": spectra}, blocks | texts
        content = _rendered(about, blocks)
        return ExplorerPage(content, len(self.source_id), self.drawn.n_all, n, coeffs_loss)

    def _without_spectra(self) -> tuple[dict[str, Any], dict[str, str]]:
        network, numbers = packed_model(self.model)
        blocks = {"network": numbers, "source_id": deflated(self.source_id)}
        blocks["weights"] = deflated(self.drawn.weights.astype(np.float32))
        columns = []
        for index, column in enumerate(self.columns):
            packed, blocks[f"column_{index}"] = packed_column(column)
            columns.append(packed)
        about = {
            "version": scattervae.__version__,
            "catalogue": self.catalogue.name,
            "model": {
                "recipe": self.model.recipe.name,
                "digest": self.model.digest,
                "calibrated": "score" in network,
            },
            "n_stars": len(self.source_id),
            "n_all": self.drawn.n_all,
            "components": self.drawn.components[:2].tolist(),
            "centre": self.drawn.centre.tolist(),
            "network": network,
            "columns": columns,
            "spectra": None,
            "palette": [
                matplotlib.colors.to_hex(c) for c in matplotlib.colormaps["viridis"](np.linspace(0, 1, 64))
            ],
        }
        return about, blocks

    def _spectra(self, n: int) -> tuple[dict[str, Any], dict[str, str]]:
        """Observed coefficients and errors of the first `n` stars."""
        assert self.observed is not None
        x, errors, g_flux = (values[:n] for values in self.observed)
        of_coeffs, coeffs = packed_coeffs(x)
        of_errors, packed = packed_errors(errors)
        loss = coeff_loss(x, errors, of_coeffs["scale"])
        about = {
            "n": n,
            "coeffs": of_coeffs,
            "errors": of_errors,
            "coeff_loss": loss,
            "error_loss": of_errors["loss"],
        }
        return about, {"coeffs": coeffs, "errors": packed, "g_flux": deflated(g_flux.astype(np.float32))}


def _rendered(about: dict[str, Any], blocks: dict[str, str]) -> str:
    from bokeh.resources import Resources

    assets = files("scattervae.show.explorer") / "assets"
    read = {
        name: (assets / name).read_text(encoding="utf-8")
        for name in ("page.html.jinja", "page.css", *_SCRIPTS)
    }
    bokeh = Resources(mode="inline", components=["bokeh", "bokeh-api"], minified=True).js_raw
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(read["page.html.jinja"]).render(
        title=f"Latent space of {counted(about['n_all'], 'star')}",
        about=Markup(_in_script(about)),
        blocks=blocks,
        css=Markup(read["page.css"]),
        scripts=[Markup(text) for text in (*bokeh, *(read[name] for name in _SCRIPTS))],
    )


def _in_script(value: Any) -> str:
    """JSON that cannot end the script element it stands in."""
    return (
        json.dumps(value, allow_nan=False)
        .replace("<", "\\u003c")
        .replace("\u2028", "\\u2028")
        .replace("\u2029", "\\u2029")
    )
