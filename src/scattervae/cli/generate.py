"""``scattervae generate``: spectra and scatter that a model makes."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scattervae.cli.console import AsJson, Summary
from scattervae.errors import DataError

if TYPE_CHECKING:
    from scattervae.arrays import Latents, SourceIds
    from scattervae.model.checkpoint import Checkpoint

Stars = Annotated[
    Path | None,
    typer.Option("--stars", help="A store or file: where --aggregate, --around, --between find stars."),
]


def generate(
    model: Annotated[Path, typer.Argument(help="A trained model's folder.")],
    *,
    out: Annotated[Path, typer.Option("--out", "-o", help="The spectra, a parquet file.")],
    n: Annotated[int, typer.Option("--number", "-n", min=1, help="How many spectra.")] = 100,
    latent: Annotated[
        str | None, typer.Option(help="Make one at this latent vector, as 0.1,-1.2,...")
    ] = None,
    aggregate: Annotated[
        bool, typer.Option("--aggregate", help="Draw from the posteriors of --stars instead of the prior.")
    ] = False,
    around: Annotated[int | None, typer.Option(help="Draw from this star's posterior (a source_id).")] = None,
    between: Annotated[
        tuple[int, int] | None, typer.Option(help="Step along the line between these two stars (source_ids).")
    ] = None,
    stars: Stars = None,
    g_mag: Annotated[float, typer.Option(help="G magnitude to scale the spectra to.")] = 15.0,
    flux: Annotated[
        bool, typer.Option("--flux", help="Also write flux and its scatter on the wavelength grid.")
    ] = False,
    draw_scatter: Annotated[
        bool, typer.Option("--draw-scatter", help="Add a draw of the intrinsic scatter to each spectrum.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of every random number.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Make spectra and their intrinsic scatter: from the prior, the survey, a star, or between two stars.

    Examples: scattervae generate model -n 1000 --out new.parquet --flux;
    scattervae generate model --around 4345775217221821312 --stars store --out twin.parquet
    """
    import numpy as np
    import pyarrow.parquet as pq

    from scattervae.folders import written_aside
    from scattervae.gaia.facts import g_flux_of
    from scattervae.model.checkpoint import Checkpoint
    from scattervae.science import generation

    checkpoint = Checkpoint.load(model)
    ways = {"--latent": latent, "--aggregate": aggregate or None, "--around": around, "--between": between}
    chosen = [way for way, value in ways.items() if value is not None]
    if len(chosen) > 1:
        raise DataError(f"{' and '.join(chosen)} both say where to draw from; give one of them")
    if latent is not None:
        z = _parsed(latent, checkpoint).expand(n, -1)
    elif not chosen:
        z = generation.from_prior(checkpoint, n, seed=seed)
    else:
        z = _drawn_at_stars(checkpoint, _required(stars, chosen[0]), n, seed, around=around, between=between)
    made = generation.generate(
        checkpoint, z, np.full(n, g_flux_of(g_mag)), noise_seed=seed if draw_scatter else None
    )
    table = generation.generated_table(checkpoint, made, generation.flux_of(made) if flux else None)
    with written_aside(out) as partial:
        pq.write_table(table, partial, compression="zstd")
    source = chosen[0] if chosen else "the prior"
    Summary(
        {"out": str(out), "n": n, "source": source, "g_mag": g_mag, "columns": table.column_names},
        (f"made {n:,} spectra of G = {g_mag:g} from {source}", f"wrote {out}"),
    ).show(as_json=as_json)


def _required(stars: Path | None, way: str) -> Path:
    if stars is None:
        raise DataError(f"{way} needs stars; name a store or a file with --stars")
    return stars


def _parsed(latent: str, checkpoint: "Checkpoint") -> "Latents":
    import torch

    try:
        values = [float(value) for value in latent.split(",")]
    except ValueError:
        raise DataError(f"--latent {latent}: expected numbers with commas between them") from None
    if len(values) != checkpoint.n_latent:
        raise DataError(
            f"--latent has {len(values)} numbers, but the model has {checkpoint.n_latent} latents"
        )
    return torch.tensor([values])


def _drawn_at_stars(
    checkpoint: "Checkpoint",
    stars: Path,
    n: int,
    seed: int,
    *,
    around: int | None,
    between: tuple[int, int] | None,
) -> "Latents":
    from scattervae.gaia import intake
    from scattervae.science import generation

    spectra = intake.load(stars).spectra
    if around is not None:
        posterior = checkpoint.encode(spectra.take(_row(spectra.source_id, around, stars)))
        return generation.from_aggregate(posterior, n, seed=seed)
    if between is not None:
        ends = checkpoint.encode(spectra.take([_row(spectra.source_id, i, stars)[0] for i in between]))
        return generation.between(ends.mean[:1], ends.mean[1:], n)
    return generation.from_aggregate(checkpoint.encode(spectra), n, seed=seed)


def _row(source_id: "SourceIds", wanted: int, stars: Path) -> list[int]:
    rows = (source_id == wanted).nonzero()[0]
    if len(rows) == 0:
        raise DataError(f"{stars}: no star {wanted} among {len(source_id):,}")
    return [int(rows[0])]
