"""``scattervae convert``: every form becomes every other, and says the same."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

FORMS = (".parquet", ".fits", ".vot", ".ecsv", ".csv")


@pytest.fixture(scope="module")
def catalogue(folder, tmp_path_factory):
    from scattervae import SpectrumStore, load_model, write_catalogue

    path = tmp_path_factory.mktemp("convert") / "c.parquet"
    write_catalogue(load_model(folder / "model"), SpectrumStore(folder / "store"), path)
    return path


@pytest.mark.parametrize("suffix", FORMS[1:])
def test_a_form_comes_back_as_it_was(cli, catalogue, tmp_path, suffix):
    other, back = tmp_path / f"c{suffix}", tmp_path / "back.parquet"
    assert cli("convert", catalogue, "--out", other).code == 0
    run = cli("convert", other, "--out", back, "--json")
    assert (run.code, run.json["n_rows"]) == (0, 300)
    rows, expected = pq.read_table(back), pq.read_table(catalogue)
    assert rows.column_names == expected.column_names
    for name in rows.column_names:
        found = rows[name].to_numpy().astype(expected[name].type.to_pandas_dtype())
        np.testing.assert_array_equal(found, expected[name].to_numpy(), name)
    if suffix == ".csv":
        return
    notes = [t.schema.metadata[b"scattervae.catalogue"] for t in (rows, expected)]
    assert json.loads(notes[0]) == json.loads(notes[1])
    assert rows.schema.field("kl").metadata == expected.schema.field("kl").metadata
    assert rows.schema.field("source_id").type == expected.schema.field("source_id").type


def test_a_hats_catalogue_becomes_one_table(cli, folder, model, store, tmp_path):
    assert cli("encode", model, store, "--out", tmp_path / "latents").code == 0
    assert cli("convert", tmp_path / "latents", "--out", tmp_path / "c.parquet").code == 0
    rows = pq.read_table(tmp_path / "c.parquet")
    assert len(rows) == 300
    assert rows["_healpix_29"].to_numpy().tolist() == sorted(rows["_healpix_29"].to_numpy())
    assert b"scattervae.catalogue" in rows.schema.metadata


def test_what_cannot_be_is_refused_by_name(cli, catalogue, tmp_path):
    assert "no form of table is called .txt" in cli("convert", catalogue, "--out", tmp_path / "c.txt").err
    assert "is the table itself" in cli("convert", catalogue, "--out", catalogue).err
    (tmp_path / "broken.fits").write_text("no fits")
    assert (
        "broken.fits: cannot be read"
        in cli("convert", tmp_path / "broken.fits", "--out", tmp_path / "c.csv").err
    )
    (tmp_path / "broken.parquet").write_text("no parquet")
    run = cli("convert", tmp_path / "broken.parquet", "--out", tmp_path / "c.csv")
    assert (run.code, "broken.parquet: cannot be read" in run.err) == (1, True)
