import re
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.table import Table
from rich.progress import Progress

from basis_toys import expressed, without_last_four
from cli.toys import with_ids, write_csv, write_parquet
from scattervae.gaia.reading import load
from scattervae.gaia.transport import transport
from scattervae.model.checkpoint import read_checkpoint
from scattervae.science.catalogue import hats_folder, one_file
from scattervae.science.catalogue.encoding import catalogue
from scattervae.science.trained import load_model
from scattervae.spectra.hats import HatsFolder
from scattervae.spectra.spectra import Spectra
from scattervae.spectra.store import SpectrumStore
from spectra.stores import all_bytes, write_store
from toy import DR3, SMALL, Basis, spoiled, toy_recipe, toy_sky, untrained_model


def test_says_what_it_wrote(cli, model, store, tmp_path, sky):
    out = tmp_path / "new" / "catalogue.parquet"
    run = cli("encode", model, store, "--out", out)
    assert (run.code, run.err) == (0, "")
    first, second = run.out.splitlines()
    assert first == "encoded 300 of 300 stars; flags: none"
    assert re.fullmatch(rf"wrote {out} at [\d,]+ stars/s with the local engine", second)
    table = pq.read_table(out)
    stars = SpectrumStore(store).read()
    assert table["source_id"].to_pylist() == stars.source_id.tolist()
    posterior = read_checkpoint(model).encode(stars)
    np.testing.assert_allclose(table["latent_2_mean"].to_numpy(), posterior.mean[:, 1], atol=1e-5)


def test_stars_unlike_the_training_stars_are_counted_in_one_line(cli, model, tmp_path, sky):
    bright = replace(sky.spectra, g_flux=sky.spectra.g_flux * 300, coeffs=sky.spectra.coeffs * 300)
    stars = write_parquet(tmp_path / "bright.parquet", bright.take(slice(0, 40)))
    run = cli("encode", model, stars, "--out", tmp_path / "c.parquet", "--json")
    assert run.code == 0
    (line,) = (line for line in run.err.splitlines() if "was trained on" in line)
    assert "40 of 40 stars are unlike those that the model was trained on: OUTSIDE_G 40" in line
    assert (run.json["n_unlike"], run.json["training"]["OUTSIDE_G"]) == (40, 40)


@pytest.mark.parametrize("name", ["catalogue.parquet", "folder"])
def test_verbose_says_what_is_done(cli, model, store, tmp_path, name):
    out = tmp_path / name
    lines = cli("-v", "encode", model, store, "--out", out).err.splitlines()
    digest = read_checkpoint(model).digest
    assert f"scattervae: {out}: begins, model {digest}" in lines
    assert f"scattervae: {out}: whole" in lines


def test_json_of_several_inputs_of_any_kind(cli, model, store, tmp_path):
    other = toy_sky(40, seed=1)
    bad = write_csv(tmp_path / "bad.csv", spoiled(other.spectra).take(slice(0, 4)))
    more = write_parquet(tmp_path / "more.parquet", other.spectra.take(slice(4, 40)))
    run = cli("encode", model, store, bad, more, "--out", tmp_path / "c.parquet", "--json")
    assert (run.code, run.err) == (0, "")
    values = run.json
    assert values.pop("stars_per_second") > 0
    assert values == {
        "engine": "local",
        "out": str(tmp_path / "c.parquet"),
        "path": str(tmp_path / "c.parquet"),
        "n_stars": 340,
        "n_encoded": 336,
        "flags": {"MISSING_BP": 1, "MISSING_RP": 1, "BAD_COEFFS": 1, "BAD_ERRORS": 1},
        "n_resumed": 0,
        "n_rows_skipped": 0,
        "training": {"TRAINED_ON": len(read_checkpoint(model).source_id)},
        "n_unlike": 0,
    }
    table = pq.read_table(tmp_path / "c.parquet")
    expected = np.concatenate([SpectrumStore(store).read().source_id, other.spectra.source_id])
    np.testing.assert_array_equal(table["source_id"].to_numpy(), expected)


def test_a_star_in_several_inputs_counts_once(cli, model, store, tmp_path, sky):
    """Whatever the order, and whether two small files share a batch or a store comes first."""
    first = write_csv(tmp_path / "first.csv", sky.spectra.take(slice(0, 30)))
    second = write_parquet(tmp_path / "second.parquet", sky.spectra.take(slice(20, 50)))
    for inputs, n, doubled in (
        ((first, second), 60, 10),
        ((store, first, second), 360, 60),
        ((first, store), 330, 30),
    ):
        out = tmp_path / f"{n}.parquet"
        run = cli("encode", model, *inputs, "--out", out, "--json")
        assert run.code == 0, run.err
        assert (run.json["n_stars"], run.json["flags"]) == (n, {"DUPLICATE": doubled})
        table = pq.read_table(out, columns=["source_id", "quality_flags"])
        once = table["source_id"].to_numpy()[table["quality_flags"].to_numpy() == 0]
        assert len(once) == len(np.unique(once)) == n - doubled


def test_identifiers_keep_every_digit(cli, model, tmp_path, sky):
    ids = [2**53 + 1, 2**62 + 1, 2**63 - 1, 5]
    stars = write_csv(tmp_path / "ids.csv", with_ids(sky.spectra.take(slice(0, 4)), ids))
    cli("encode", model, stars, "--out", tmp_path / "c.parquet")
    assert pq.read_table(tmp_path / "c.parquet")["source_id"].to_pylist() == ids


def test_a_catalogue_is_replaced_and_nothing_else_is(cli, model, store, folder, tmp_path):
    out = tmp_path / "c.parquet"
    assert [cli("encode", model, store, "--out", out).code for _ in range(2)] == [0, 0]
    stars = write_parquet(tmp_path / "stars.parquet", toy_sky(9).spectra)
    before = stars.read_bytes()
    run = cli("encode", model, stars, "--out", stars)
    assert (run.code, run.error) == (
        1,
        f"{stars}: exists and was not made by scattervae; give another --out",
    )
    assert stars.read_bytes() == before
    for other in (store, model):
        run = cli("encode", model, store, "--out", other)
        assert run.error == f"{other}: exists and is no catalogue of scattervae; give another --out"
    (tmp_path / "file").write_text("somebody's")
    error = cli("encode", model, store, "--out", tmp_path / "file").error
    assert error.endswith("is a file without a suffix; a name without one is that of a folder")


@pytest.mark.parametrize("name", ["c.parquet", "c"])
def test_a_stopped_run_goes_on(cli, model, store, tmp_path, monkeypatch, name):
    monkeypatch.setattr(one_file, "ROWS_A_GROUP", 128)
    real, calls = one_file.write_rows, []

    def stop(path, table):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(path, table)

    for module in (one_file, hats_folder):
        monkeypatch.setattr(module, "write_rows", stop)
    monkeypatch.setattr(Progress, "update", record := Record())
    arguments = ("encode", model, tmp_path / "store", "--out", tmp_path / name)
    write_store(tmp_path / "store", SpectrumStore(store).read(), rows_a_partition=60)
    assert cli(*arguments).code == 130
    assert not (tmp_path / name).exists()
    assert (tmp_path / (name + ".parts")).is_dir()
    run = cli(*arguments)
    n_done = record.completed[1]
    assert run.out.startswith(f"encoded 300 of 300 stars ({n_done:,} of them by an earlier run); flags: none")
    assert record.completed == sorted(record.completed)
    assert record.completed[-1] == 300


class Record:
    """The updates of a progress bar."""

    def __init__(self):
        self.completed = []

    def __call__(self, *_task, completed):
        self.completed.append(completed)


def test_a_store_becomes_a_hats_catalogue(cli, model, store, tmp_path):
    out = tmp_path / "latents"
    for _ in range(2):  # the second replaces the first
        run = cli("encode", model, store, "--out", out)
        assert (run.code, run.err) == (0, "")
        assert run.out.startswith("encoded 300 of 300 stars; flags: none\nwrote ")
    assert HatsFolder.read(out).partitions == SpectrumStore(store).partitions


def test_a_folder_is_made_from_one_store_only(cli, folder, model, store, tmp_path):
    for inputs in ((store, store), (folder / "stars.parquet",), (store, folder / "stars.parquet")):
        run = cli("encode", model, *inputs, "--out", tmp_path / "c")
        assert (
            run.error
            == f"{tmp_path / 'c'}: a folder is written from one store; for other inputs name a file, such as "
            f"{tmp_path / 'c'}.parquet"
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", [".fits", ".vot", ".ecsv", ".csv"])
def test_a_catalogue_has_the_form_that_its_name_says(cli, model, store, tmp_path, suffix):
    out = tmp_path / f"c{suffix}"
    run = cli("encode", model, store, "--out", out)
    assert (run.code, run.err) == (0, "")
    table = Table.read(
        out, format={".vot": "votable", ".csv": "ascii.csv", ".ecsv": "ascii.ecsv"}.get(suffix, "fits")
    )
    assert list(table["source_id"]) == SpectrumStore(store).read().source_id.tolist()
    again = cli("encode", model, store, "--out", out)  # over its own file, where the file says whose it is
    assert again.code == (1 if suffix == ".csv" else 0)
    out.write_text("somebody's")
    assert cli("encode", model, store, "--out", out).code == 1
    assert out.read_text() == "somebody's"


@pytest.mark.parametrize(
    "command", ["encode {model} {store}", "generate {model}", "crossmatch {store} {list}"]
)
def test_a_name_that_says_no_form_is_refused(cli, model, store, tmp_path, command):
    words = command.format(model=model, store=store, list=store).split()
    run = cli(*words, "--out", tmp_path / "c.txt")
    assert run.code == 1
    assert (
        "c.txt: no form of table is called .txt; end it in .parquet, .fits, .vot, .ecsv or .csv" in run.error
    )
    assert list(tmp_path.iterdir()) == []


def test_a_broken_input_leaves_nothing_behind(cli, model, tmp_path, sky):
    good = write_csv(tmp_path / "good.csv", sky.spectra.take(slice(0, 100)))
    (tmp_path / "bad.csv").write_text("<html>503</html>")
    assert cli("encode", model, good, tmp_path / "bad.csv", "--out", tmp_path / "c.parquet").code == 1
    assert sorted(file.name for file in tmp_path.iterdir()) == ["bad.csv", "good.csv"]


_DASKS_OWN = "--scheduler and --workers are Dask's; give --engine dask with them"


@pytest.mark.parametrize(
    ("name", "options", "error"),
    [
        ("c", "--workers 2", _DASKS_OWN),
        ("c", "--scheduler tcp://a:1", _DASKS_OWN),
        (
            "c",
            "--engine dask --device cuda",
            "--device cuda: the workers of --engine dask compute on their CPUs",
        ),
        (
            "c.parquet",
            "--engine dask",
            "--engine dask writes a HATS catalogue; name a folder instead of c.parquet",
        ),
    ],
)
def test_options_that_do_not_go_together(cli, model, store, name, options, error):
    run = cli("encode", model, store, "--out", name, *options.split())
    assert (run.code, run.error) == (1, error)


def test_an_engine_that_there_is_not(cli, model, store):
    run = cli("encode", model, store, "--out", "c", "--engine", "spark")
    assert run.code == 2
    assert "'local', 'dask'" in run.error


@pytest.mark.filterwarnings("ignore:The 'mode.chained_assignment' option")  # set by LSDB for older pandas
@pytest.mark.filterwarnings("ignore:The inplace keyword in NestedFrame")  # nested-pandas under pandas 3
def test_a_dask_cluster_gives_the_same_rows(cli, model, store, tmp_path):
    pytest.importorskip("lsdb", reason="needs the extra `cluster`")
    from distributed import LocalCluster

    cli("encode", model, store, "--out", tmp_path / "here" / "c")
    with LocalCluster(n_workers=1, processes=False, dashboard_address="127.0.0.1:0") as cluster:
        options = ("--engine", "dask", "--scheduler", cluster.scheduler_address)
        run = cli("encode", model, store, "--out", tmp_path / "there" / "c", *options)
    assert (run.code, run.err) == (0, "")
    assert run.out.endswith("stars/s with the dask engine\n")
    assert all_bytes(tmp_path / "here") == all_bytes(tmp_path / "there")


@pytest.mark.parametrize("basis", [Basis(7, 5), Basis(6, 5, bp_id=58)], ids=str)
def test_stars_of_another_basis(cli, dr3, model, tmp_path, basis):
    stars = write_parquet(tmp_path / "stars.parquet", toy_sky(9, basis=basis).spectra)
    run = cli("encode", dr3 / "model", stars, "--out", tmp_path / "c.parquet")
    assert run.code == 1
    assert str(basis) in run.error
    assert "55 BP (basis 56) + 55 RP (basis 57) coefficients" in run.error
    assert not (tmp_path / "c.parquet").exists()
    if (basis.n_bp, basis.n_rp) == (SMALL.n_bp, SMALL.n_rp):  # a model without ids takes any of its sizes
        run = cli("encode", model, stars, "--out", tmp_path / "c.parquet")
        assert (run.code, run.err.count("of which no ids are known")) == (0, 1)


def test_stars_without_ids_are_encoded_with_a_warning_and_other_bases_left_out(cli, dr3, tmp_path):
    sky = toy_sky(12, basis=DR3).spectra
    unnamed, other = (
        replace(sky.take(rows), basis=basis)
        for rows, basis in ((slice(0, 5), Basis(55, 55)), (slice(5, 12), Basis(55, 55, 66, 67)))
    )
    files = [write_parquet(tmp_path / f"{i}.parquet", stars) for i, stars in enumerate((unnamed, other))]
    run = cli("encode", dr3 / "model", files[0], "--out", tmp_path / "c.parquet", "--json")
    assert (run.code, run.json["n_stars"]) == (0, 5)
    assert "0.parquet: names no basis functions; its stars are taken for 55 BP (basis 56)" in run.err
    tables = [pq.read_table(file) for file in files]
    pq.write_table(pa.concat_tables(tables, promote_options="default"), tmp_path / "both.parquet")
    run = cli("encode", dr3 / "model", tmp_path / "both.parquet", "--out", tmp_path / "c.parquet", "--json")
    assert (run.code, run.json["n_stars"]) == (3, 5)  # more rows are left out than is allowed without a word
    assert "7 rows skipped; row 6: basis 66+67 where others have 56+57" in run.err


def test_things_that_are_no_model(cli, store, folder, tmp_path):
    for what in (store, folder / "stars.parquet"):
        run = cli("encode", what, store, "--out", tmp_path / "c.parquet")
        assert run.code == 1
        assert "not the folder of a trained model" in run.error


def test_out_that_cannot_be_made(cli, folder, model, store):
    run = cli("encode", model, store, "--out", folder / "stars.parquet" / "c.parquet")
    assert run.code == 1
    assert "Not a directory" in run.error


@pytest.mark.parametrize(("n_bad", "share", "code"), [(1, "0.01", 3), (1, "0.03", 0), (0, "0", 0)])
def test_rows_that_are_skipped_are_said_and_decide_the_exit_code(cli, model, tmp_path, n_bad, share, code):
    file = write_csv(tmp_path / "a.csv", toy_sky(40, seed=1).spectra)
    lines = file.read_text().splitlines()
    file.write_text("\n".join([*lines[: 41 - n_bad], *["x" + line for line in lines[41 - n_bad :]]]))
    run = cli("encode", model, file, "--out", tmp_path / "c.parquet", "--allow-skipped", share)
    assert run.code == code
    skipped = "; 1 of 40 rows skipped (2.5 %)"
    assert run.out.splitlines()[-1].endswith(skipped if n_bad else "engine")
    assert pq.read_metadata(tmp_path / "c.parquet").num_rows == 40 - n_bad
    if code:
        assert run.err.splitlines()[-1].startswith(
            f"scattervae: error: {skipped[2:]}, more than --allow-skipped 0.01;"
        )


def test_stars_of_another_basis_are_refused_or_transported(cli, tmp_path, other_basis):
    sky = toy_sky(60, basis=DR3)
    untrained_model(sky.spectra, toy_recipe()).save(tmp_path / "model")
    coeffs = without_last_four(sky.spectra.coeffs)
    stars = Spectra.of(
        sky.spectra.source_id,
        expressed(coeffs),
        np.abs(expressed(sky.spectra.errors)) + 1.0,
        basis=other_basis,
        g_flux=sky.spectra.g_flux,
    )
    write_parquet(tmp_path / "other.parquet", stars)
    out = tmp_path / "c.parquet"
    refused = cli("encode", tmp_path / "model", tmp_path / "other.parquet", "--out", out)
    assert refused.code == 1
    assert "encode --transport" in refused.err
    run = cli("encode", tmp_path / "model", tmp_path / "other.parquet", "--out", out, "--transport")
    assert run.code == 0, run.err
    assert "combinations of BP" in run.err
    model = load_model(tmp_path / "model")
    moved = transport(load(tmp_path / "other.parquet").spectra, DR3).spectra
    np.testing.assert_array_equal(
        pq.read_table(out)["latent_1_mean"].to_numpy(), catalogue(model, moved)["latent_1_mean"].to_numpy()
    )
    run = cli(
        "encode", tmp_path / "model", tmp_path / "other.parquet", "--out", tmp_path / "f", "--transport"
    )
    assert "--transport writes one file" in run.error
