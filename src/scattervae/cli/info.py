"""``scattervae info``: what anything is that this package reads or writes."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scattervae.cli.console import AsJson, Summary, table_lines

if TYPE_CHECKING:
    import pyarrow.parquet as pq

    from scattervae.spectra.store import SpectrumStore


def info(
    anything: Annotated[
        str, typer.Argument(help="A store, model, file of spectra, catalogue, or recipe's name.")
    ],
    *,
    as_json: AsJson = False,
) -> None:
    """Say what a store, a model, a file, a catalogue or a recipe holds, and how it was made.

    Example: scattervae info model
    """
    from scattervae.model.recipe import RECIPES

    path = Path(anything)
    if anything in RECIPES and not path.exists():
        summary = _recipe(anything)
    elif (path / "config.json").is_file():
        summary = _model(path)
    elif path.is_dir():
        summary = _store(path)
    elif (made := _made_by_us(path)) is not None:
        summary = made
    elif path.suffix == ".toml":
        summary = _recipe(anything)
    else:
        summary = _file(path)
    summary.show(as_json=as_json)


def store_values(store: "SpectrumStore") -> dict[str, Any]:
    """A store's contents as JSON values."""
    return {
        "kind": "store",
        "path": str(store.path),
        "n_stars": len(store),
        "basis": vars(store.basis),
        "flags": store.flags,
        "files": [asdict(entry) for entry in store.entries],
    }


def _store(path: Path) -> Summary:
    from scattervae.spectra.store import SpectrumStore

    store = SpectrumStore(path)
    spectra, labels = store.read(), store.labels()
    values = {**store_values(store), "n_usable": int(spectra.usable.sum()), "n_labelled": labels.counts()}
    flags = ", ".join(f"{name} {n:,}" for name, n in store.flags.items()) or "none"
    lines = (
        f"store of {len(store):,} stars, {values['n_usable']:,} usable; {store.basis}",
        f"flags: {flags}",
        "labels: " + ", ".join(f"{name} {n:,}" for name, n in labels.counts().items()),
        f"files: {len(store.entries)}, {sum(e.error is not None for e in store.entries)} of them not read",
    )
    return Summary(values, lines)


def _model(path: Path) -> Summary:
    from scattervae.model.checkpoint import Checkpoint

    model = Checkpoint.load(path)
    n_parameters = sum(p.numel() for p in model.network.parameters())
    facts = model.provenance
    values = {
        "kind": "model",
        "path": str(path),
        "digest": model.digest,
        "recipe": model.recipe.model_dump(mode="json"),
        "basis": vars(model.normalization.basis),
        "n_parameters": n_parameters,
        "provenance": facts,
    }
    kl = ", ".join(f"{k:.2f}" for k in facts["training"]["kl_per_latent"])
    data = facts["data"]
    lines = (
        f"scatter VAE, recipe {model.recipe.name}: {n_parameters:,} parameters, {model.n_latent} latents",
        f"for {model.normalization.basis}",
        f"trained on {data['n_trained_on']:,} stars ({data['n_inferred_coefficients']:,} with inferred "
        f"coefficients; G flux of {data['n_g_flux_from_table']:,} from a table, of "
        f"{data['n_g_flux_from_coefficients']:,} from the coefficients)",
        f"{facts['training']['active_latents']} latents active; KL of each [nat]: {kl}",
        f"made with scattervae {facts['versions']['scattervae']}, torch {facts['versions']['torch']}; "
        f"credit {facts['credit']}",
    )
    return Summary(values, lines)


def _recipe(name: str) -> Summary:
    from scattervae.model.recipe import load_recipe

    recipe = load_recipe(name)
    values = {"kind": "recipe", **recipe.model_dump(mode="json")}
    rows = [
        (f"{group}.{key}", str(value))
        for group, settings in values.items()
        if isinstance(settings, dict)
        for key, value in settings.items()
    ]
    lines = table_lines(("setting", "value"), [("objective", recipe.objective), *rows])
    return Summary(values, (f"recipe {recipe.name}", *lines))


def _made_by_us(path: Path) -> Summary | None:
    """A catalogue or generated spectra, told by the note in their metadata."""
    import pyarrow.parquet as pq

    if not path.is_file() or path.open("rb").read(4) != b"PAR1":
        return None
    file = pq.ParquetFile(path)
    notes = file.schema_arrow.metadata or {}
    for key, kind in ((b"scattervae.catalogue", "catalogue"), (b"scattervae.generated", "generated spectra")):
        if key in notes:
            return _table(path, kind, json.loads(notes[key]), file)
    return None


def _table(path: Path, kind: str, about: dict[str, Any], file: "pq.ParquetFile") -> Summary:
    schema, n_rows = file.schema_arrow, file.metadata.num_rows
    columns = [
        {
            "name": field.name,
            "unit": (field.metadata or {}).get(b"unit", b"").decode(),
            "description": (field.metadata or {}).get(b"description", b"").decode(),
        }
        for field in schema
    ]
    values = {"kind": kind, "path": str(path), "n_rows": n_rows, "made_by": about, "columns": columns}
    lines = (
        f"{kind} of {n_rows:,} rows, by model {about['model']} (recipe {about['recipe']})",
        *(f"{c['name']:30s} {c['unit'] or '-':30s} {c['description']}" for c in columns),
    )
    return Summary(values, lines)


def _file(path: Path) -> Summary:
    from scattervae.gaia.files import read_file
    from scattervae.spectra.spectra import SampledSpectra, flag_counts

    contents = read_file(path)
    stars = contents.stars
    what = f"{len(stars.grid_nm)} wavelengths" if isinstance(stars, SampledSpectra) else str(stars.basis)
    labelled = contents.labels.counts()
    flags = flag_counts(stars.flags)
    values = {
        "kind": contents.kind,
        "path": str(path),
        "n_stars": len(stars),
        "holds": what,
        "flags": flags,
        "n_labelled": labelled,
        "skipped": [vars(row) for row in contents.skipped],
    }
    lines = (
        f"{contents.kind}: {len(stars):,} stars of {what}; {len(contents.skipped)} rows left out",
        "flags (G flux as the file has it): " + (", ".join(f"{k} {n:,}" for k, n in flags.items()) or "none"),
        "labels: " + ", ".join(f"{name} {n:,}" for name, n in labelled.items()),
    )
    return Summary(values, lines)
