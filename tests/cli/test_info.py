import shutil
import subprocess
import sys

import numpy as np
import pytest

from cli.toys import write_csv
from scattervae.model.recipe import RECIPES
from scattervae.spectra.star_tables import StellarLabels
from scattervae.spectra.store import SpectrumStore
from toy import spoiled, toy_sky


def test_store(cli, store, sky):
    text = cli("info", store).out
    assert text.startswith("store of 300 stars, 300 usable; 6 BP + 5 RP coefficients\nflags: none\n")
    assert "G flux from: table 300" in text
    values = cli("info", store, "--json").json
    assert (values["kind"], values["n_stars"], values["n_usable"]) == ("store", 300, 300)
    assert values["n_labelled"] == sky.labels.counts()
    assert values["n_g_flux_from"] == {"none": 0, "table": 300, "coefficients": 0}
    opened = SpectrumStore(store)
    assert values["n_partitions"] == len(opened.partitions)
    assert values["n_bytes"] == sum(opened.path_of(p).stat().st_size for p in opened.partitions)
    assert (
        values["positions"]
        == opened.positions.value
        == "approximate: centres of the order-12 pixels in the source_ids"
    )
    assert f"positions: {values['positions']}\n" in text
    assert f"of HEALPix order {opened.partitions[0].order}" in text


def test_store_with_flags_and_labels_of_some(cli, tmp_path):
    sky = toy_sky(40, seed=3)
    stars = spoiled(sky.spectra)
    values = sky.labels.values.copy()
    values[::3, 1] = np.nan
    labels = StellarLabels(sky.labels.source_id, values, sky.labels.errors)
    cli("ingest", write_csv(tmp_path / "a.csv", stars, labels), "--out", tmp_path / "store")
    run = cli("info", tmp_path / "store", "--json").json
    spectra, stored = SpectrumStore(tmp_path / "store").read(), SpectrumStore(tmp_path / "store").labels()
    assert run["n_usable"] == int(spectra.usable.sum()) < len(spectra)
    assert run["n_labelled"] == stored.counts()
    assert 0 < run["n_labelled"]["logg"] < run["n_labelled"]["teff"]
    assert run["n_g_flux_from"] == {"none": 1, "table": 38, "coefficients": 0}


def test_a_catalogue_of_spectra_from_elsewhere(cli, store, tmp_path):
    shutil.copytree(store, tmp_path / "theirs")
    (tmp_path / "theirs" / "manifest.json").unlink()
    wanted, found = (cli("info", folder, "--json").json for folder in (tmp_path / "theirs", store))
    assert wanted["files"] == []
    for name in (
        "n_stars",
        "n_usable",
        "n_partitions",
        "n_g_flux_from",
        "n_labelled",
        "n_bytes",
        "positions",
    ):
        assert wanted[name] == found[name]


def test_store_names_the_files_that_were_not_read(cli, folder, tmp_path):
    cli("ingest", folder / "stars.parquet", "nothing.csv", "--out", tmp_path / "store")
    lines = cli("info", tmp_path / "store").out.splitlines()
    assert lines[-2:] == [
        "files: 2, 1 of them not read; 0 rows that could not be used",
        "not read: nothing.csv: does not exist; check the path",
    ]


def test_model(cli, model):
    text = cli("info", model).out
    assert text.startswith("scatter VAE, recipe toy: ")
    assert "reads stars of 6 BP + 5 RP coefficients" in text
    values = cli("info", model, "--json").json
    assert (values["kind"], values["path"]) == ("model", str(model))
    assert values["recipe"]["training"]["epochs"] == 50
    assert values["provenance"]["data"]["n_stars"] == 300
    assert values["basis"] == {"n_bp": 6, "n_rp": 5, "bp_id": None, "rp_id": None}


@pytest.mark.parametrize("name", RECIPES)
def test_recipes(cli, name):
    assert cli("info", name).out.startswith(f"recipe {name}\n")
    assert cli("info", name, "--json").json == {"kind": "recipe", **RECIPES[name].model_dump(mode="json")}


def test_recipe_in_a_file(cli, folder, tmp_path):
    assert "network.hidden" in cli("info", folder / "toy.toml").out
    (tmp_path / "bad.toml").write_text("[training]\nepoch = 3")
    assert "training.epoch = 3" in cli("info", tmp_path / "bad.toml").error


def test_catalogue_and_generated_spectra(cli, model, store, tmp_path):
    cli("encode", model, store, "--out", tmp_path / "c.parquet")
    cli("generate", model, "--out", tmp_path / "g.parquet")
    digest = cli("info", model, "--json").json["digest"]
    for file, kind, rows in (("c", "catalogue", 300), ("g", "generated spectra", 100)):
        path = tmp_path / f"{file}.parquet"
        values = cli("info", path, "--json").json
        assert (values["kind"], values["n_rows"], values["made_by"]["model"]) == (kind, rows, digest)
        assert all(column["description"] for column in values["columns"])
        text = cli("info", path).out
        assert text.startswith(f"{kind} of {rows} rows, by model {digest} (recipe toy)\n")
        assert all(column["name"] in text for column in values["columns"])


def test_file(cli, folder, tmp_path):
    text = cli("info", folder / "stars.parquet").out
    assert text.startswith("parquet: 300 stars of 6 BP + 5 RP coefficients; 0 rows that cannot be used\n")
    bad = write_csv(tmp_path / "bad.csv", spoiled(toy_sky(20).spectra))
    bad.write_text(bad.read_text() + "x,1\n")
    run = cli("info", bad, "--json")
    assert "1 row skipped; row 22" in run.err
    assert (run.json["kind"], run.json["n_stars"]) == ("archive csv", 20)
    assert run.json["flags"]["DUPLICATE"] == 1
    assert [row["row"] for row in run.json["skipped"]] == [22]


def test_every_real_file_is_known(cli, formats):
    readable = {path: cli("info", path, "--json") for path in sorted(formats.iterdir())}
    refused = {path.name for path, run in readable.items() if run.code}
    assert len(readable) - len(refused) >= 15
    assert all(run.json["n_stars"] for run in readable.values() if not run.code)
    assert all(len(run.err.splitlines()) == 1 for run in readable.values() if run.code)


def test_catalogue_that_is_cut_off(cli, model, store, tmp_path):
    cli("encode", model, store, "--out", tmp_path / "c.parquet")
    (tmp_path / "cut").write_bytes((tmp_path / "c.parquet").read_bytes()[:-100])
    run = cli("info", tmp_path / "cut")
    assert run.code == 1
    assert "download it again" in run.error


def changed(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def copied(folder, to):
    shutil.copytree(folder, to)
    return to


def test_verify_finds_nothing_wrong_in_what_was_just_written(cli, model, store, tmp_path):
    catalogue = tmp_path / "catalogue"
    cli("encode", model, store, "--out", catalogue)
    for folder in (model, store, catalogue):
        run = cli("info", "--verify", folder)
        assert run.code == 0
        assert run.out.endswith("compared, all as they were written\n")
    assert cli("info", "--verify", store, "--json").json["damaged"] == []


def test_verify_reads_a_model_of_the_package_by_its_name(cli):
    assert cli("info", "--verify", "best", "--json").json["damaged"] == []


def test_verify_reads_the_folder_here_before_a_model_of_the_package(cli, model, tmp_path, monkeypatch):
    shutil.copytree(model, tmp_path / "best")
    (tmp_path / "best" / "weights.safetensors").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    assert "weights.safetensors" in str(cli("info", "--verify", "best", "--json").json["damaged"])


def test_verify_names_each_bad_file(cli, store, tmp_path):
    folder = copied(store, tmp_path / "store")
    first, second, *_ = sorted(folder.rglob("Npix*.parquet"))
    added = second.with_name("Npix=999.parquet")
    shutil.copy(second, added)
    changed(first)
    changed(folder / "manifest.json")
    second.unlink()
    run = cli("info", "--verify", folder)
    assert run.code == 1
    *lines, total = run.out.splitlines()
    assert {line.partition(": ")[0] for line in lines} == set(
        map(str, (first, second, added, folder / "manifest.json"))
    )
    assert total.endswith(" compared, 4 bad")
    assert sorted(cli("info", "--verify", folder, "--json").json["damaged"]) == sorted(lines)


@pytest.mark.parametrize("name", ["weights.safetensors", "provenance.json", "training.jsonl"])
def test_verify_names_a_changed_file_of_a_model(cli, model, tmp_path, name):
    folder = copied(model, tmp_path / "model")
    changed(folder / name)
    run = cli("info", "--verify", folder)
    assert run.code == 1
    assert run.out.startswith(
        f"{folder / name}: not the file that was written here (digests.json has SHA-256 "
    )


def test_verify_of_what_has_no_digests(cli, store, tmp_path):
    folder = copied(store, tmp_path / "store")
    (folder / "digests.json").unlink()
    assert "holds no digests.json, so there is nothing to compare" in cli("info", "--verify", folder).error


@pytest.mark.parametrize(
    "name", ["manifest.json", "hats.properties", "partition_info.csv", "dataset/_common_metadata"]
)
def test_a_changed_description_of_a_store_is_named_when_it_is_opened(cli, store, tmp_path, name):
    folder = copied(store, tmp_path / "store")
    changed(folder / name)
    assert cli("info", folder).error.startswith(f"{folder / name}: not the file that was written here")


def test_names_of_recipes_are_known_without_torch():
    from scattervae.cli.info import RECIPE_NAMES
    from scattervae.model.recipe import RECIPES

    assert sorted(RECIPE_NAMES) == sorted(RECIPES)


@pytest.mark.parametrize("wrong", ["nowhere", "no/where.csv", "nowhere.fits"])
def test_a_wrong_path_is_named_before_torch_is_imported(wrong, tmp_path):
    script = f"""
import sys
from scattervae.cli.application import main
try:
    main(["info", {wrong!r}])
finally:
    assert "torch" not in sys.modules
"""
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert run.returncode == 1
    assert run.stderr.startswith(f"scattervae: error: {wrong}: ")
    assert run.stderr.count("\n") == 1
