"""``scattervae info``: what anything is that this package reads or writes."""

from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scattervae.cli.console import AsJson, Summary, existing, listed, note_of, table_lines
from scattervae.errors import StoreError, counted
from scattervae.science.shipped import HUB_NAME, model_folder, shipped_models

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scattervae.arrays import StarFlags
    from scattervae.spectra.store import SpectrumStore

RECIPE_NAMES = ("paper2023", "elbo", "elbo_sgd", "best")
"""Those of `scattervae.model.recipe.RECIPES`, which imports torch."""


def info(
    anything: Annotated[
        str,
        typer.Argument(
            metavar="ANYTHING", help="A store, model, file of spectra, catalogue, or recipe's name."
        ),
    ],
    *,
    verify: Annotated[
        bool, typer.Option("--verify", help="Read every file of a folder again and name those that changed.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Say what a store, a model, a file, a catalogue or a recipe holds, and how it was made.

    Examples:

        scattervae info model

        scattervae info elbo

        scattervae info --verify store
    """
    if not verify:
        _summary(anything).show(as_json=as_json)
        return
    verified = _verified(_found(anything))
    verified.show(as_json=as_json)
    if verified.values["damaged"]:
        raise typer.Exit(1)


def _verified(folder: Path) -> Summary:
    """What is wrong with a folder that we wrote, a line for each bad file: one changed, missing or added."""
    from scattervae.files import DIGESTS, damaged_files, digests_in

    folders = [note.parent for note in sorted(folder.rglob(DIGESTS))]
    if not folders:
        raise StoreError(
            f"{folder}: holds no {DIGESTS}, so there is nothing to compare its files with; "
            "a store, a model or a catalogue of an earlier version has none: make it again"
        )
    n_files = sum("#" not in name for one in folders for name in digests_in(one))
    damaged = [line for one in folders for line in damaged_files(one)]
    data = folder / "dataset"
    damaged += [
        f"{file}: is not among the files in {DIGESTS}; remove it"
        for file in sorted(data.rglob("*.parquet"))
        if file.relative_to(folder).as_posix() not in digests_in(folder)
    ]
    damaged += [] if damaged else _disagreeing(folder)
    found = f"{len(damaged):,} bad" if damaged else "all as they were written"
    return Summary(
        {"path": str(folder), "n_files": n_files, "damaged": damaged},
        (*damaged, f"{folder}: {counted(n_files, 'file')} compared, {found}"),
    )


def _disagreeing(folder: Path) -> list[str]:
    """What is wrong with a folder of files that are as they were written, but perhaps not for each other."""
    from scattervae.errors import ScatterVaeError
    from scattervae.model.checkpoint import Checkpoint

    try:
        if Checkpoint.is_model(folder):
            from scattervae.science.trained import load_model

            _ = load_model(folder).flow
        else:
            _summary(str(folder))
    except ScatterVaeError as error:
        return [str(error)]
    return []


def _found(anything: str) -> Path:
    """What is there by this path; where nothing is, the model of this name."""
    path = Path(anything)
    if path.exists():
        return path
    named = anything in shipped_models() or (HUB_NAME.fullmatch(anything) and not path.parent.exists())
    return model_folder(anything) if named else existing(path)


def _summary(anything: str) -> Summary:
    path = Path(anything)
    if path.suffix != ".toml" and anything not in RECIPE_NAMES:
        path = _found(anything)  # before torch is imported
    from scattervae.model.checkpoint import Checkpoint

    if path.suffix == ".toml" or (anything in RECIPE_NAMES and not path.exists()):
        return _recipe(anything)
    if Checkpoint.is_model(path):
        return _model(path)
    note = note_of(path / "dataset" / "_common_metadata" if path.is_dir() else path)
    if note is not None:
        return _table(path, *note)
    return _store(path) if path.is_dir() else _file(path)


def store_values(store: "SpectrumStore") -> dict[str, Any]:
    """A store's contents as JSON values."""
    return {
        "kind": "store",
        "path": str(store.path),
        "n_stars": len(store),
        "n_partitions": len(store.partitions),
        "n_bytes": sum(file.stat().st_size for file in {row_group.path for row_group in store.row_groups}),
        "positions": store.positions.value,
        "release": None if store.release is None else asdict(store.release),
        "basis": vars(store.basis),
        "flags": store.flags,
        "files": [asdict(entry) for entry in store.entries],
    }


def _store(path: Path) -> Summary:
    from scattervae.spectra.store import SpectrumStore

    if path.name.endswith(".partial"):
        raise StoreError(f"{path}: an unfinished training run; `scattervae train` with --resume continues it")
    if not SpectrumStore.is_store(path):
        raise StoreError(f"{path}: a folder that is neither a store nor a finished model")
    store = SpectrumStore(path)
    values = store_values(store) | _counts(store)
    one_band = values["n_usable_with_one_band"]
    unread = [entry for entry in store.entries if entry.error is not None]
    n_skipped = sum(len(entry.skipped) for entry in store.entries)
    orders = sorted({partition.order for partition in store.partitions})
    span = " to ".join(map(str, dict.fromkeys((orders[0], orders[-1]))))
    lines = (
        f"store of {counted(len(store), 'star')}, {values['n_usable']:,} usable"
        f"{f' and {one_band:,} with one band' if one_band else ''}; {store.basis}",
        f"flags: {listed(store.flags)}",
        f"labels: {listed(values['n_labelled'])}",
        f"G flux from: {listed(values['n_g_flux_from'])}",
        f"positions: {store.positions.value}",
        *([] if store.release is None else [f"release: {store.release}"]),
        f"{counted(len(store.partitions), 'partition')} of HEALPix order {span}, "
        f"{values['n_bytes'] / 1e6:,.1f} MB",
        f"files: {len(store.entries):,}, {len(unread):,} of them not read; "
        f"{counted(n_skipped, 'row')} that could not be used",
        *(f"not read: {entry.error}" for entry in unread),
    )
    return Summary(values, lines)


def _counts(store: "SpectrumStore") -> dict[str, Any]:
    """Stars that are usable, with one band or both, have each label, and their G flux from where.

    They are counted row group by row group, without their coefficients where the store is our own.
    """
    import numpy as np

    from scattervae.spectra.spectra import GFluxSource, usable_stars
    from scattervae.spectra.star_tables import LABEL_NAMES

    n_usable = n_one_band = 0
    labelled, sources = dict.fromkeys(LABEL_NAMES, 0), np.zeros(len(GFluxSource), dtype=int)
    for flags, g_flux_source, n_labelled in _own_columns(store) if store.entries else _columns(store):
        n_complete = int(usable_stars(flags).sum())
        n_usable += n_complete
        n_one_band += int(usable_stars(flags, one_band=True).sum()) - n_complete
        sources += np.bincount(g_flux_source, minlength=len(GFluxSource))
        labelled = {name: n + n_labelled[name] for name, n in labelled.items()}
    return {
        "n_usable": n_usable,
        "n_usable_with_one_band": n_one_band,
        "n_labelled": labelled,
        "n_g_flux_from": {source.name.lower(): int(sources[source]) for source in GFluxSource},
    }


def _own_columns(store: "SpectrumStore") -> "Iterator[tuple[StarFlags, StarFlags, dict[str, int]]]":
    from scattervae.spectra.hats import open_parquet, read_groups
    from scattervae.spectra.spectra import FLAGS
    from scattervae.spectra.star_tables import LABEL_NAMES

    names = [FLAGS, "phot_g_mean_flux_source", *LABEL_NAMES]
    for path, row_groups in groupby(store.row_groups, lambda row_group: row_group.path):
        with open_parquet(path) as file:
            for row_group in row_groups:
                table = read_groups(file, names, groups=[row_group.group])
                n_labelled = {name: len(table) - table[name].null_count for name in LABEL_NAMES}
                yield table[FLAGS].to_numpy(), table["phot_g_mean_flux_source"].to_numpy(), n_labelled


def _columns(store: "SpectrumStore") -> "Iterator[tuple[StarFlags, StarFlags, dict[str, int]]]":
    n_labelled = store.labels().counts()
    for chunk in store.chunks(correlations=False):
        yield chunk.flags, chunk.g_flux_source, n_labelled
        n_labelled = dict.fromkeys(n_labelled, 0)


def _model(path: Path) -> Summary:
    from scattervae.science.calibration.calibrated import is_calibrated
    from scattervae.science.trained import load_model
    from scattervae.settings import Facts

    model = load_model(path)
    n_parameters = sum(p.numel() for p in model.network.parameters())
    facts = Facts.model_validate(model.provenance)
    labels = [] if model.label_model is None else list(model.label_model.names)
    calibrated, has_flow = is_calibrated(model), model.flow is not None
    values = {
        "kind": "model",
        "path": str(path),
        "digest": model.digest,
        "recipe": model.recipe.model_dump(mode="json"),
        "basis": vars(model.normalization.basis),
        "n_parameters": n_parameters,
        "provenance": model.provenance,
        "calibrated": calibrated,
        "labels": labels,
        "flow": has_flow,
    }
    kl = ", ".join(f"{k:.2f}" for k in facts.training.kl_per_latent)
    data = facts.data
    trained_on = "? stars" if data.n_trained_on is None else counted(data.n_trained_on, "star")
    lines = (
        f"scatter VAE, recipe {model.recipe.name}: {n_parameters:,} parameters, {counted(model.n_latent, 'latent')}",
        f"reads stars of {model.normalization.basis}, and, with a warning, those of these sizes that name no basis",
        f"trained on {trained_on} ({_known(data.n_inferred_coefficients)} with inferred "
        f"coefficients; G flux of {_known(data.n_g_flux_from_table)} from a table, of "
        f"{_known(data.n_g_flux_from_coefficients)} from the coefficients)",
        f"{_known(facts.training.active_latents)} of them active; KL of each [nat]: {kl}",
        f"{'calibrated' if calibrated else 'not calibrated'}; "
        f"predicts {', '.join(labels) or 'no labels'}; {'a' if has_flow else 'no'} flow",
        f"made with scattervae {facts.versions.get('scattervae', '?')}, torch {facts.versions.get('torch', '?')}; "
        f"credit {facts.credit or '?'}",
    )
    return Summary(values, lines)


def _known(number: int | None) -> str:
    return "?" if number is None else f"{number:,}"


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

    from scattervae.spectra.columns import unit_and_description
    from scattervae.spectra.hats import HatsFolder

    if path.is_dir():
        folder = HatsFolder.read(path)
        schema, n_rows = folder.schema, sum(partition.n_rows for partition in folder.partitions)
    else:
        schema, n_rows = pq.read_schema(path), pq.read_metadata(path).num_rows
    columns = [{"name": field.name} | unit_and_description(field) for field in schema]
    values = {"kind": kind, "path": str(path), "n_rows": n_rows, "made_by": about, "columns": columns}
    names, units = (max(len(c[key]) for c in columns) for key in ("name", "unit"))
    if "model" in about:
        origin = f"by model {about['model']} (recipe {about['recipe']})"
    else:  # a crossmatch
        origin = f"stars of {about['catalogue']} in {about['list']}"
    lines = (
        f"{kind} of {counted(n_rows, 'row')}, {origin}",
        *(f"{c['name']:{names}}  {c['unit'] or '-':{units}}  {c['description']}" for c in columns),
    )
    return Summary(values, lines)


def _file(path: Path) -> Summary:
    from scattervae.gaia.files.reading import read_file
    from scattervae.spectra.spectra import Spectra, flag_counts

    contents = read_file(path)
    stars = contents.stars
    what = str(stars.basis) if isinstance(stars, Spectra) else f"{len(stars.grid_nm)} wavelengths"
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
