"""``scattervae info``: what anything is that this package reads or writes."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scattervae.cli.console import AsJson, Summary, counted, listed, note_of, table_lines
from scattervae.errors import StoreError

if TYPE_CHECKING:
    from scattervae.spectra.store import SpectrumStore


def info(
    anything: Annotated[
        str,
        typer.Argument(
            metavar="ANYTHING", help="A store, model, file of spectra, catalogue, or recipe's name."
        ),
    ],
    *,
    as_json: AsJson = False,
) -> None:
    """Say what a store, a model, a file, a catalogue or a recipe holds, and how it was made.

    Examples:

        scattervae info model

        scattervae info elbo
    """
    _summary(anything).show(as_json=as_json)


def _summary(anything: str) -> Summary:
    from scattervae.model.checkpoint import Checkpoint
    from scattervae.model.recipe import RECIPES

    path = Path(anything)
    if path.suffix == ".toml" or (anything in RECIPES and not path.exists()):
        return _recipe(anything)
    if path.is_dir():
        return _model(path) if Checkpoint.is_model(path) else _store(path)
    note = note_of(path)
    return _file(path) if note is None else _table(path, *note)


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
    from scattervae.spectra.flags import GFluxSource
    from scattervae.spectra.store import SpectrumStore

    if path.name.endswith(".partial"):
        raise StoreError(
            f"{path}: an unfinished training run; `scattervae train` with --resume goes on with it"
        )
    if not SpectrumStore.is_store(path):
        raise StoreError(f"{path}: a folder that is neither a store nor a finished model")
    store = SpectrumStore(path)
    n_usable, sources = 0, {source.name.lower(): 0 for source in GFluxSource}
    for chunk in store.chunks():
        n_usable += int(chunk.usable.sum())
        for source in GFluxSource:
            sources[source.name.lower()] += int((chunk.g_flux_source == source).sum())
    labelled = store.labels().counts()
    values = {
        **store_values(store),
        "n_usable": n_usable,
        "n_labelled": labelled,
        "n_g_flux_from": sources,
    }
    unread = [entry for entry in store.entries if entry.error is not None]
    lines = (
        f"store of {counted(len(store), 'star')}, {n_usable:,} usable; {store.basis}",
        f"flags: {listed(store.flags)}",
        f"labels: {listed(labelled)}",
        f"G flux from: {listed(sources)}",
        f"files: {len(store.entries):,}, {len(unread):,} of them not read",
        *(f"not read: {entry.error}" for entry in unread),
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


def _table(path: Path, kind: str, about: dict[str, Any]) -> Summary:
    import pyarrow.parquet as pq

    schema, n_rows = pq.read_schema(path), pq.read_metadata(path).num_rows
    columns = [
        {
            "name": field.name,
            "unit": (field.metadata or {}).get(b"unit", b"").decode(),
            "description": (field.metadata or {}).get(b"description", b"").decode(),
        }
        for field in schema
    ]
    values = {"kind": kind, "path": str(path), "n_rows": n_rows, "made_by": about, "columns": columns}
    names, units = (max(len(c[key]) for c in columns) for key in ("name", "unit"))
    lines = (
        f"{kind} of {counted(n_rows, 'row')}, by model {about['model']} (recipe {about['recipe']})",
        *(f"{c['name']:{names}}  {c['unit'] or '-':{units}}  {c['description']}" for c in columns),
    )
    return Summary(values, lines)


def _file(path: Path) -> Summary:
    from scattervae.gaia.files import read_file
    from scattervae.spectra.flags import flag_counts
    from scattervae.spectra.spectra import SampledSpectra

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
        f"{contents.kind}: {counted(len(stars), 'star')} of {what}; "
        f"{counted(len(contents.skipped), 'row')} that cannot be used",
        f"flags (G flux as the file has it): {listed(flags)}",
        f"labels: {listed(labelled)}",
    )
    return Summary(values, lines)
