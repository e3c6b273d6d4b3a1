"""Stars of two bases: nothing is mixed in a store, and nothing is lost without a word."""

import csv
import io
import logging
from importlib import resources

import numpy as np
import pyarrow.parquet as pq
import pytest

from basis_toys import OTHER, expressed, without_last_four
from cli.toys import write_csv, write_parquet
from ingest_toys import contents
from scattervae.errors import DataError, StoreError
from scattervae.gaia.bulk.reading import read_bulk
from scattervae.gaia.ingest import ingest
from scattervae.gaia.reading import load
from scattervae.spectra.spectra import Basis, Spectra
from scattervae.spectra.store import SpectrumStore
from toy import DR3, toy_sky

SIZES = {"n_bp": 6, "n_rp": 5}
ONE, TWO = Basis(**SIZES, bp_id=56, rp_id=58), Basis(**SIZES, bp_id=57, rp_id=40)
UNNAMED = Basis(**SIZES)


def stars_of(basis: Basis, n: int, *, start: int = 0) -> Spectra:
    """Stars that no other call with another start has."""
    return toy_sky(1000, basis=basis).spectra.take(slice(start, start + n))


def mixed(path, *groups: tuple[Basis, int]):
    """A file whose rows are of several bases, one after another."""
    rows, start = [], 0
    for basis, n in groups:
        part = write_csv(path.with_suffix(".part"), stars_of(basis, n, start=start))
        rows += list(csv.DictReader(io.StringIO(part.read_text())))
        part.unlink()
        start += n
    names = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, names, restval="")
        writer.writeheader()
        writer.writerows(rows)
    return path


def as_bulk(path):
    """The same rows in the archive's bulk form, which has no G flux."""
    rows = list(csv.reader(io.StringIO(path.read_text())))
    g_flux = rows[0].index("phot_g_mean_flux")
    text = "\n".join(
        ",".join(f'"{cell}"' if "," in cell else cell for i, cell in enumerate(row) if i != g_flux)
        for row in rows
    )
    lines = text.replace('"(', '"[').replace(')"', ']"').splitlines()
    out = path.with_name(f"bulk_{path.name}")
    header = "# %ECSV 1.0\n# ---\n# delimiter: ','\n"
    out.write_text(header + "\n".join(lines) + "\n")
    return out


def test_most_rows_decide_and_the_others_are_counted_and_named(tmp_path, caplog):
    store = ingest([mixed(tmp_path / "a.csv", (ONE, 25), (TWO, 15))], tmp_path / "store")
    (entry,) = store.entries
    assert (store.basis, len(store), entry.other_bases) == (ONE, 25, {"57+40": 15})
    assert [reason.partition(": ")[2] for reason in entry.skipped] == [
        "basis 57+40 where others have 56+58"
    ] * 15
    said = [record.message for record in caplog.records if "--basis" in record.message]
    assert said == [
        f"{tmp_path / 'store'}: without 15 rows of basis 57+40, for it holds {ONE}; "
        "--basis 57+40 takes them into a store of their own"
    ]


def test_equally_many_rows_of_two_bases_need_a_choice(tmp_path):
    """Of BP the one id is smaller, of RP the other: each band by itself chose a basis that no row is of."""
    path = mixed(tmp_path / "a.csv", (ONE, 20), (TWO, 20))
    for read in (load, lambda file: ingest([file], tmp_path / "none", strict=True)):
        with pytest.raises(
            DataError, match=r"20 stars of basis 56\+58 and 20 stars of basis 57\+40"
        ) as caught:
            read(path)
        assert "choose with --basis 56+58 or --basis 57+40" in str(caught.value)
        assert "\n" not in str(caught.value)
    for basis in (ONE, TWO):
        store = ingest([path], tmp_path / f"store{basis.bp_id}", basis=(basis.bp_id, basis.rp_id))
        assert (store.basis, len(store)) == (basis, 20)
        assert set(load(path, basis=basis).spectra.source_id) == set(store.read().source_id)


def test_bulk_files_by_the_same_rules(tmp_path):
    path = as_bulk(mixed(tmp_path / "a.csv", (ONE, 60), (TWO, 15)))
    chunks = list(read_bulk(path, rows=20))
    assert [len(chunk.spectra) for chunk in chunks] == [20, 20, 20, 0]
    assert {(row.basis, row.reason) for chunk in chunks for row in chunk.skipped} == {
        (TWO, "basis 57+40 where others have 56+58")
    }
    assert chunks[0].spectra.basis == ONE
    (chunk,) = read_bulk(path, basis=(57, 40))
    assert (chunk.spectra.basis, len(chunk.spectra)) == (TWO, 15)
    with pytest.raises(DataError, match=r"a\.csv: holds 60 stars of 6 BP \(basis 56\).*, none of basis 1\+2"):
        list(read_bulk(path, basis=(1, 2)))


def test_a_bulk_file_whose_first_lines_are_not_of_most_stars_is_not_guessed(tmp_path):
    path = as_bulk(mixed(tmp_path / "a.csv", (ONE, 40), (TWO, 60)))
    with pytest.raises(DataError, match=r"40 stars of basis 56\+58 and 60 stars of basis 57\+40"):
        list(read_bulk(path))
    assert sum(len(chunk.spectra) for chunk in read_bulk(path, basis=TWO)) == 60


def test_a_store_takes_what_is_of_its_basis_and_nothing_else(tmp_path):
    files = [
        write_parquet(tmp_path / "one.parquet", stars_of(ONE, 10, start=100)),
        mixed(tmp_path / "more_of_two.csv", (ONE, 3), (TWO, 7)),
        mixed(tmp_path / "tie.csv", (ONE, 4), (TWO, 4)),
        write_parquet(tmp_path / "two.parquet", stars_of(TWO, 5, start=200)),
    ]
    store = ingest(files, tmp_path / "store")
    assert store.basis == ONE
    assert [(entry.n_kept, entry.other_bases) for entry in store.entries] == [
        (10, {}),
        (3, {"57+40": 7}),
        (1, {"57+40": 4}),  # three of the four are in it already
        (0, {}),
    ]
    assert f"two.parquet: {TWO}, but {tmp_path / 'store'} holds {ONE}" in store.entries[3].error


def test_the_bytes_do_not_depend_on_where_an_ingest_stopped(tmp_path):
    files = [
        write_parquet(tmp_path / "one.parquet", stars_of(ONE, 10, start=100)),
        mixed(tmp_path / "more_of_two.csv", (ONE, 3), (TWO, 7)),
    ]
    ingest(files, tmp_path / "at_once")
    ingest(files[:1], tmp_path / "in_two")
    ingest(files, tmp_path / "in_two")
    one, other = (SpectrumStore(tmp_path / name) for name in ("at_once", "in_two"))
    assert one.entries == other.entries
    np.testing.assert_array_equal(one.read().source_id, other.read().source_id)


def test_files_without_ids_join_none_with_ids_until_their_basis_is_stated(tmp_path, caplog):
    """Taken for stars of any basis of their sizes, they made a store of both that called all of them the second."""
    unnamed = write_parquet(tmp_path / "unnamed.parquet", stars_of(UNNAMED, 5))
    two = write_parquet(tmp_path / "two.parquet", stars_of(TWO, 5, start=10))
    assert ingest([unnamed], tmp_path / "alone").basis == UNNAMED
    store = ingest([two, unnamed], tmp_path / "refused")
    assert (store.basis, len(store)) == (TWO, 5)
    assert "--basis 57+40 takes stars that name no basis for these" in store.entries[1].error
    store = ingest([unnamed, two], tmp_path / "other_order")
    assert (store.basis, len(store)) == (UNNAMED, 5)
    assert "holds 6 BP + 5 RP coefficients; ingest it into a store of its own" in store.entries[1].error
    with caplog.at_level(logging.WARNING):
        store = ingest([unnamed, two], tmp_path / "stated", basis=(57, 40))
    assert (store.basis, len(store)) == (TWO, 10)
    assert f"{unnamed}: names no basis functions; its stars are taken for {TWO}" in caplog.messages


def test_a_stated_basis_has_the_sizes_that_are_known_of_it(tmp_path):
    unnamed = write_parquet(tmp_path / "a.parquet", stars_of(UNNAMED, 5))
    with pytest.raises(DataError, match=r"holds 5 stars of 6 BP \+ 5 RP .*, none of 55 BP \(basis 56\)"):
        ingest([unnamed], tmp_path / "store", basis=(56, 57), strict=True)


def test_a_store_of_another_basis_than_asked_for_is_refused_at_once(tmp_path):
    ingest([write_parquet(tmp_path / "a.parquet", stars_of(ONE, 5))], tmp_path / "store")
    before = contents(tmp_path / "store")
    with pytest.raises(StoreError, match=r"holds 6 BP \(basis 56\).*--basis 57\+40 is another"):
        ingest([tmp_path / "b.parquet"], tmp_path / "store", basis=(57, 40))
    assert contents(tmp_path / "store") == before


def test_51_and_55_coefficients_go_the_whole_way_without_a_table_of_g_fluxes(
    cli, tmp_path, other_basis, shared_data
):
    """Ingest, train, encode, flux: from real stars in a basis that the installed GaiaXPy knows by its ids."""
    from scattervae.gaia.basis import g_flux_from_coeffs
    from scattervae.gaia.flux import design, sample_flux

    field = load(shared_data / "field_stars.parquet").spectra.take(slice(0, 200))
    own = Spectra.of(field.source_id, without_last_four(field.coeffs), field.errors, basis=DR3)
    errors = np.abs(expressed(field.errors)) + 1e-3
    stars = Spectra.of(field.source_id, expressed(own.coeffs), errors, basis=OTHER)
    path = write_csv(tmp_path / "stars.csv", stars, g_flux=False)
    release = (resources.files("scattervae.gaia.archive") / "dr3.toml").read_text()
    for old, new in (
        ("n_bp = 55", "n_bp = 51"),
        ("bp_id = 56", "bp_id = 156"),
        ("rp_id = 57", "rp_id = 157"),
    ):
        release = release.replace(old, new)
    (tmp_path / "toy.toml").write_text(release.replace('name = "DR3"', 'name = "TOY"', 1))
    run = cli("ingest", path, "--release", tmp_path / "toy.toml", "--out", tmp_path / "store", "--json")
    assert run.code == 0, run.err
    assert (run.code, run.json["basis"]) == (0, {"n_bp": 51, "n_rp": 55, "bp_id": 156, "rp_id": 157})
    store = SpectrumStore(tmp_path / "store").read()
    order = np.argsort(own.source_id)[np.argsort(np.argsort(store.source_id))]
    np.testing.assert_allclose(store.g_flux, g_flux_from_coeffs(own)[order], rtol=1e-5)  # stored in float32
    flux = sample_flux(own).flux[order]
    # stored in float32, and the rotation gives each coefficient the rounding of the largest
    assert (
        np.abs(sample_flux(store).flux - flux) <= 2e-5 * np.nanmax(np.abs(flux), axis=1, keepdims=True)
    ).all()
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('name = "toy"\n[training]\nepochs = 1\nbatch_size = 64\n[network]\nhidden = [16]\n')
    model = tmp_path / "model"
    assert cli("train", tmp_path / "store", "--out", model, "--recipe", recipe).code == 0
    run = cli("encode", model, path, "--out", tmp_path / "c.parquet", "--json")
    assert (run.code, run.json["n_stars"]) == (0, 200)
    assert cli("generate", model, "--number", 3, "--flux", "--out", tmp_path / "g.parquet").code == 0
    made = pq.read_table(tmp_path / "g.parquet")
    coeffs = np.hstack([np.stack(made[f"{band}_coefficients"].to_pylist()) for band in ("bp", "rp")])
    assert coeffs.shape == (3, 106)
    np.testing.assert_allclose(
        np.stack(made["flux"].to_pylist()), coeffs @ design(OTHER).matrix.T, rtol=1e-5, atol=1e-21
    )
