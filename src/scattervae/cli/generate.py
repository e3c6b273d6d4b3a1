"""``scattervae generate``: spectra and scatter that a model makes."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scattervae.cli.console import TABLE_FILE, AsJson, ModelFolder, Summary, check_out, existing
from scattervae.display import progress_bar
from scattervae.errors import DataError, counted

if TYPE_CHECKING:
    from scattervae.arrays import Latents
    from scattervae.gaia.reading import Stars
    from scattervae.model.checkpoint import Checkpoint
    from scattervae.model.flow import FlowEpoch, LatentFlow, Report
    from scattervae.science.generation import LabelFlow

_DEFAULT_NUMBER = 100


def generate(
    model: ModelFolder,
    *,
    out: Annotated[Path, typer.Option("--out", "-o", help=f"The spectra: {TABLE_FILE}.")],
    number: Annotated[
        int | None,
        typer.Option("--number", "-n", min=1, metavar="N", help="How many; 100, or 1 with --latent."),
    ] = None,
    latent: Annotated[
        str | None, typer.Option(metavar="NUMBERS", help="At this latent vector, as 0.1,-1.2,...")
    ] = None,
    aggregate: Annotated[
        bool, typer.Option("--aggregate", help="From the posteriors of all --stars instead of the prior.")
    ] = False,
    flow: Annotated[
        bool,
        typer.Option(
            "--flow",
            help="From the flow in the model's folder, as a survey's stars lie; with --stars, fitted to them first.",
        ),
    ] = False,
    around: Annotated[
        int | None, typer.Option(metavar="SOURCE_ID", help="From the posterior of this one of --stars.")
    ] = None,
    between: Annotated[
        tuple[int, int] | None,
        typer.Option(metavar="SOURCE_ID SOURCE_ID", help="In steps from one of --stars to another."),
    ] = None,
    teff: Annotated[
        float | None,
        typer.Option(min=1.0, max=1e6, metavar="K", help="From stars with this effective temperature."),
    ] = None,
    logg: Annotated[
        float | None,
        typer.Option(min=-20.0, max=20.0, metavar="DEX", help="From stars with this surface gravity."),
    ] = None,
    feh: Annotated[
        float | None, typer.Option(min=-20.0, max=20.0, metavar="DEX", help="From stars with this [Fe/H].")
    ] = None,
    alpha: Annotated[
        float | None, typer.Option(min=-20.0, max=20.0, metavar="DEX", help="From stars with this [alpha/M].")
    ] = None,
    stars: Annotated[
        Path | None,
        typer.Option(
            callback=existing,
            help="A store or file with the stars of --aggregate, --flow, --around or --between; or labelled ones, to "
            "fit anew where stars of given labels lie.",
        ),
    ] = None,
    errors_like: Annotated[
        str | None,
        typer.Option(
            metavar="G=MAG",
            help="Also add a draw of the errors that stars of this G have; with labels alone.",
        ),
    ] = None,
    g_mag: Annotated[
        float, typer.Option(min=-30, max=50, metavar="MAG", help="G magnitude to scale the spectra to.")
    ] = 15.0,
    flux: Annotated[bool, typer.Option("--flux", help="Also flux and its scatter on Gaia's grid.")] = False,
    draw_scatter: Annotated[
        bool,
        typer.Option(
            "--draw-scatter",
            help="Add a draw of the scatter to each spectrum; of a calibrated model, where it was measured.",
        ),
    ] = False,
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Of every random number.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Make spectra and their intrinsic scatter: from the prior, a survey, labels, a star, or between two stars.

    Labels that are not given are left open, and so is all else that differs among stars of these labels, such as dust:
    the spectra differ by as much. Where stars of given labels lie is learnt from labelled --stars once, and kept in the
    model's folder.

    Examples:

        scattervae generate model -n 1000 --flux --out prior.parquet

        scattervae generate model --aggregate --stars store --out survey.parquet

        scattervae generate model --flow --stars store -n 1000 --out survey.parquet

        scattervae generate model --teff 4800 --logg 2.4 --feh -0.5 --stars store --errors-like G=15 -o giants.parquet

        scattervae generate model --around 4345775217221821312 --stars store -o twins.parquet
    """
    import numpy as np

    from scattervae.files import sole_writer
    from scattervae.gaia.basis import g_flux_of
    from scattervae.science import generation
    from scattervae.science.trained import load_model
    from scattervae.spectra.tables import write_table

    given = {"teff": teff, "logg": logg, "fe_h": feh, "alpha_m": alpha}
    labels = {name: value for name, value in given.items() if value is not None}
    source = _LatentSource.of(
        model,
        stars,
        latent=latent,
        aggregate=aggregate,
        flow=flow,
        around=around,
        between=between,
        labels=labels,
    )
    like = _g_mag(errors_like, labels)
    check_out(out, "spectra")
    n = number or (1 if latent is not None else _DEFAULT_NUMBER)
    checkpoint = load_model(model)
    z = source.latents(checkpoint, n, seed)
    made = generation.generate(
        checkpoint, z, np.full(n, g_flux_of(g_mag)), noise_seed=seed if draw_scatter else None
    )
    if like is not None:
        label_flow = generation.LabelFlow.load(model, checkpoint)
        errors = label_flow.errors_like(made.z, like)
        made = generation.with_errors(checkpoint, made, errors, seed=seed)
    table = generation.generated_table(checkpoint, made, made.flux() if flux else None)
    with sole_writer(out):
        write_table(table, out)
    values = {
        "out": str(out),
        "n": n,
        "source": source.option,
        "source_ids": [str(i) for i in source.source_ids],
        "g_mag": g_mag,
        "given": labels,
        "reliability": source.reliability,
        "columns": table.column_names,
    }
    what = counted(n, "spectrum", "spectra")
    unusual = source.reliability is not None and source.reliability < generation.UNUSUAL_BELOW
    doubts = (f"unusual: {source.reliability:.2g} of labelled stars lie as far out",) if unusual else ()
    lines = (f"made {what} of G = {g_mag:g} {source}", *doubts, f"wrote {out}")
    Summary(values, lines).show(as_json=as_json)


@dataclass
class _LatentSource:
    """Where in the latent space to make spectra: by the one option that was given, and its value."""

    model: Path
    stars: Path | None
    option: str  # prior where none was given
    value: Any
    reliability: float | None = None  # how ordinary the labels are, once they have been looked up

    @classmethod
    def of(cls, model: Path, stars: Path | None, **options: Any) -> "_LatentSource":
        """The source that these options choose."""
        given = [name for name, value in options.items() if value not in (None, False, {})]
        if len(given) > 1:
            both = " and ".join("labels" if name == "labels" else f"--{name}" for name in given)
            raise DataError(f"{both} both choose where to make spectra; give one of them")
        option = given[0] if given else "prior"
        if option in ("prior", "latent") and stars is not None:
            raise DataError(
                "--stars needs one of --aggregate, --flow, --around and --between, or labels, beside it"
            )
        if option in ("aggregate", "around", "between") and stars is None:
            raise DataError(f"--{option} needs stars; name a store or a file with --stars")
        return cls(model, stars, option, options.get(option))

    @property
    def source_ids(self) -> tuple[int, ...]:
        ids: tuple[int, ...] = {"around": (self.value,), "between": self.value}.get(self.option, ())
        return ids

    def __str__(self) -> str:
        labels = self.value if self.option == "labels" else {}
        return {
            "prior": "from the prior",
            "latent": f"at latents {self.value}",
            "aggregate": f"from the posteriors of the stars in {self.stars}",
            "flow": f"from the flow in {self.model}"
            + (f", fitted to the stars in {self.stars}" if self.stars else ""),
            "around": f"from the posterior of star {self.value}",
            "between": "between stars " + " and ".join(map(str, self.source_ids)),
            "labels": "of stars with " + ", ".join(f"{name} {value:g}" for name, value in labels.items()),
        }[self.option]

    def latents(self, checkpoint: "Checkpoint", n: int, seed: int) -> "Latents":
        """`n` latent vectors there."""
        from scattervae.gaia import reading
        from scattervae.science import generation

        if self.option == "latent":
            return _parsed(self.value, checkpoint.n_latent).expand(n, -1)
        if self.option == "flow":
            return generation.from_flow(self._survey_flow(checkpoint), n, seed=seed)
        if self.option == "labels":
            label_flow = self._label_flow(checkpoint)
            self.reliability = label_flow.reliability(self.value)
            return label_flow.sample(self.value, n, seed=seed)
        if self.stars is None:
            return generation.from_prior(checkpoint, n, seed=seed)
        if self.option == "between" and n == 1:
            raise DataError("--between steps from one star to the other; give --number 2 or more")
        if self.source_ids:
            import numpy as np

            wanted = np.array(self.source_ids)
            found = reading.load(self.stars, where=lambda source_id, _: np.isin(source_id, wanted))
            spectra = found.spectra.take(
                [_row(checkpoint, found, one, self.stars) for one in self.source_ids]
            )
        else:
            spectra = reading.load(self.stars, at_most=reading.MOST_STARS).spectra
        posterior = checkpoint.encode(spectra)
        if self.option == "between":
            return generation.between(posterior.mean[:1], posterior.mean[1:], n)
        return generation.from_aggregate(posterior, n, seed=seed)

    def _survey_flow(self, checkpoint: "Checkpoint") -> "LatentFlow":
        """The flow kept with the model, fitted to the stars first where some are named."""
        from scattervae.gaia import reading
        from scattervae.model.flow import FlowSettings, LatentFlow, fit_flow

        if self.stars is None:
            return LatentFlow.load(self.model, checkpoint)
        with self._fitting(FlowSettings().epochs) as progress:
            stars = reading.load(self.stars, at_most=reading.MOST_STARS)
            flow = fit_flow(checkpoint, stars.spectra, progress=progress)
            flow.save(self.model)
        return flow

    def _label_flow(self, checkpoint: "Checkpoint") -> "LabelFlow":
        """Where stars of given labels lie, kept with the model; fitted to the stars first where some are named."""
        from scattervae.gaia import reading
        from scattervae.science.generation import EPOCHS, FITTED_STARS, GIVEN_LABELS, LabelFlow
        from scattervae.science.labels.targets import TargetLabels

        if self.stars is None:
            return LabelFlow.load(self.model, checkpoint)
        with self._fitting(EPOCHS) as progress:
            labelled = reading.labelled_stars(self.stars)
            stars = reading.load(self.stars, where=labelled, at_most=FITTED_STARS)
            known = TargetLabels.of(stars.labels, GIVEN_LABELS)
            flow = LabelFlow.fit(checkpoint, stars.spectra, known, progress=progress)
            flow.save(self.model)
        return flow

    @contextmanager
    def _fitting(self, epochs: int) -> "Iterator[Report]":
        """Alone in the model's folder, which must be one's own, with a bar of epochs."""
        from scattervae.files import sole_writer
        from scattervae.science.shipped import require_own

        require_own(self.model)
        with sole_writer(self.model), progress_bar("epochs", "density") as bar:
            task = bar.add_task("fitting the flow", total=epochs, density="")

            def show(record: "FlowEpoch") -> None:
                bar.update(task, completed=record.epoch, density=f"{-record.validation:.2f} nats")

            yield show


def _g_mag(errors_like: str | None, labels: dict[str, float]) -> float | None:
    if errors_like is None:
        return None
    try:
        g_mag = float(errors_like.removeprefix("G="))
    except ValueError:
        g_mag = math.nan
    if not math.isfinite(g_mag):
        raise DataError(f"--errors-like {errors_like}: expected a magnitude, as G=15")
    if not labels:
        raise DataError("--errors-like goes with labels, such as --teff; give one, or leave it out")
    return g_mag


def _parsed(latent: str, n_latent: int) -> "Latents":
    import torch

    try:
        values = [float(value) for value in latent.split(",")]
    except ValueError:
        values = [math.nan]
    if not all(map(math.isfinite, values)):
        raise DataError(f"--latent {latent}: expected numbers with commas between them")
    if len(values) != n_latent:
        raise DataError(
            f"--latent {latent}: {counted(len(values), 'number')}, but the model has {counted(n_latent, 'latent')}"
        )
    return torch.tensor([values])


def _row(checkpoint: "Checkpoint", found: "Stars", wanted: int, stars: Path) -> int:
    """The row of this star that the model can encode."""
    from scattervae.spectra.spectra import flag_counts

    spectra = found.spectra
    rows = (spectra.source_id == wanted).nonzero()[0]
    if len(rows) == 0:
        raise DataError(f"{stars}: no star {wanted} among {found.n_source:,}")
    usable = rows[checkpoint.usable(spectra.take(rows))]
    if len(usable) == 0:
        raise DataError(
            f"{stars}: star {wanted} cannot be encoded: flags {', '.join(flag_counts(spectra.flags[rows]))}"
        )
    return int(usable[0])
