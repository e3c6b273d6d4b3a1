import numpy as np
import pyarrow.parquet as pq
import pytest

from cli.toys import with_ids, write_csv, write_parquet
from scattervae.model.checkpoint import Checkpoint
from scattervae.science import catalogue
from toy import SMALL, Basis, spoiled, toy_sky


def test_says_what_it_wrote(cli, model, store, tmp_path, sky):
    out = tmp_path / "new" / "catalogue.parquet"
    run = cli("encode", model, store, "--out", out)
    assert (run.code, run.err) == (0, "")
    assert run.out == f"encoded 300 of 300 stars; flags: none\nwrote {out}\n"
    table = pq.read_table(out)
    assert table["source_id"].to_pylist() == sky.spectra.source_id.tolist()
    posterior = Checkpoint.load(model).encode(sky.spectra)
    np.testing.assert_allclose(table["latent_2_mean"].to_numpy(), posterior.mean[:, 1], atol=1e-5)


def test_json_of_several_inputs_of_any_kind(cli, model, store, tmp_path, sky):
    other = toy_sky(40, seed=1)
    bad = write_csv(tmp_path / "bad.csv", spoiled(other.spectra).take(slice(0, 4)))
    more = write_parquet(tmp_path / "more.parquet", other.spectra.take(slice(4, 40)))
    run = cli("encode", model, store, bad, more, "--out", tmp_path / "c.parquet", "--json")
    assert (run.code, run.err) == (0, "")
    assert run.json == {
        "out": str(tmp_path / "c.parquet"),
        "path": str(tmp_path / "c.parquet"),
        "n_stars": 340,
        "n_encoded": 336,
        "flags": {"MISSING_BP": 1, "MISSING_RP": 1, "BAD_COEFFS": 1, "BAD_ERRORS": 1},
        "n_resumed": 0,
    }
    table = pq.read_table(tmp_path / "c.parquet")
    expected = np.concatenate([sky.spectra.source_id, other.spectra.source_id])
    np.testing.assert_array_equal(table["source_id"].to_numpy(), expected)


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
    assert "is a folder; name a file for the catalogue" in cli("encode", model, store, "--out", store).error


def test_a_stopped_run_goes_on(cli, model, store, tmp_path, monkeypatch):
    monkeypatch.setattr(catalogue, "ROWS_A_GROUP", 128)
    cli("encode", model, store, "--out", tmp_path / "whole.parquet")
    real, calls = catalogue._batches, []

    def stop(checkpoint, chunks):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(checkpoint, chunks)

    monkeypatch.setattr(catalogue, "_batches", stop)
    arguments = ("encode", model, store, "--out", tmp_path / "parts.parquet")
    assert cli(*arguments).code == 130
    assert not (tmp_path / "parts.parquet").exists()
    run = cli(*arguments)
    assert run.out.startswith("encoded 300 of 300 stars (256 of them by an earlier run); flags: none")
    assert (tmp_path / "parts.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()


@pytest.mark.parametrize("basis", [Basis(7, 5), Basis(6, 5, bp_id=58)], ids=str)
def test_stars_of_another_basis(cli, dr3, model, tmp_path, basis):
    stars = write_parquet(tmp_path / "stars.parquet", toy_sky(9, basis=basis).spectra)
    run = cli("encode", dr3 / "model", stars, "--out", tmp_path / "c.parquet")
    assert run.code == 1
    assert str(basis) in run.error
    assert "55 BP (basis 56) + 55 RP (basis 57) coefficients" in run.error
    assert not (tmp_path / "c.parquet").exists()
    if (basis.n_bp, basis.n_rp) == (SMALL.n_bp, SMALL.n_rp):  # a model without ids takes any of its sizes
        assert cli("encode", model, stars, "--out", tmp_path / "c.parquet").code == 0


def test_things_that_are_no_model(cli, store, folder, tmp_path):
    for what in (store, folder / "stars.parquet"):
        run = cli("encode", what, store, "--out", tmp_path / "c.parquet")
        assert run.code == 1
        assert "not the folder of a trained model" in run.error


def test_out_that_cannot_be_made(cli, folder, model, store):
    run = cli("encode", model, store, "--out", folder / "stars.parquet" / "c.parquet")
    assert run.code == 1
    assert "Not a directory" in run.error
