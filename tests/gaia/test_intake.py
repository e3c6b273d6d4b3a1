"""From published files to stars a model can use, and what becomes of those that are broken."""

import gzip
import logging

import numpy as np
import pandas as pd
import pytest
from astropy.table import Table
from files_toys import ToyStars, csv_of, set_cell, write

from scattervae.errors import DataError, StoreError
from scattervae.gaia import intake
from scattervae.gaia.basis import flux_from_coeffs, g_flux_from_coeffs
from scattervae.gaia.files import read_file
from scattervae.gaia.intake import ingest, load, load_chunks
from scattervae.spectra.flags import Flag, GFluxSource
from scattervae.spectra.labels import StellarLabels
from scattervae.spectra.store import SpectrumStore


def bright(n=3, n_bp=55, seed=0):
    """Toy stars whose G flux is positive: the first coefficient of each band is by far the largest."""
    toy = ToyStars(n=n, n_bp=n_bp, seed=seed)
    toy.bp[:, 0] = toy.rp[:, 0] = 1e4
    return toy


def with_g(toy, g_flux, name="phot_g_mean_flux"):
    """The archive's csv with one more column; None leaves its cell empty."""
    header = toy.csv().splitlines()[0] + f",{name}"
    rows = [[*row, "" if g is None else repr(g)] for row, g in zip(toy.cells(), g_flux, strict=True)]
    return csv_of(rows, header)


def broken_files(folder):
    """One file of each sort that cannot be read, and a word of what is said of it."""
    packed = gzip.compress(ToyStars(n=20).csv().encode())
    return {
        write(folder, packed[: len(packed) // 2], "cut.csv.gz"): "download it again",
        write(folder, "<!DOCTYPE html><html>503</html>", "page.csv"): "web page",
        write(folder, b"", "empty.csv"): "is empty",
        folder: "is a folder",
        folder / "missing.csv": "no such file",
    }


def contents(store):
    return {path.name: path.read_bytes() for path in sorted(store.iterdir())}


def test_g_flux_from_the_coefficients(tmp_path):
    toy = bright()
    stars = load(write(tmp_path, toy.csv()))
    np.testing.assert_array_equal(stars.spectra.source_id, toy.source_id)
    np.testing.assert_array_equal(stars.spectra.coeffs, toy.coeffs)
    np.testing.assert_array_equal(stars.spectra.g_flux, g_flux_from_coeffs(stars.spectra))
    assert (stars.spectra.g_flux_source == GFluxSource.COEFFICIENTS).all()
    assert stars.spectra.usable.all()
    assert (stars.kind, stars.note, stars.skipped) == ("archive csv", None, ())


def test_g_flux_from_the_table_comes_first(tmp_path):
    toy = bright()
    stars = load(write(tmp_path, with_g(toy, [5e4, None, -1.0]))).spectra
    assert stars.g_flux[0] == 5e4
    np.testing.assert_array_equal(stars.g_flux[1:], g_flux_from_coeffs(stars)[1:])
    table, coefficients = GFluxSource.TABLE, GFluxSource.COEFFICIENTS
    assert stars.g_flux_source.tolist() == [table, coefficients, coefficients]


def test_g_flux_of_real_stars_against_their_magnitude(shared_data):
    frame = pd.read_parquet(shared_data / "field_stars.parquet")
    stars = load(shared_data / "field_stars.parquet").spectra
    g_mag = 25.6873668671 - 2.5 * np.log10(stars.g_flux)
    # by GaiaXPy on the same coefficients
    np.testing.assert_allclose(g_mag, frame["phot_g_mean_mag_synth"], atol=1e-5)


def test_star_without_bp_gets_no_g_flux(tmp_path):
    toy = bright()
    rows = toy.cells()
    for name in ("bp_coefficients", "bp_coefficient_errors"):
        set_cell(rows, 1, name, "")
    stars = load(write(tmp_path, csv_of(rows))).spectra
    assert stars.flags.tolist() == [0, Flag.MISSING_BP | Flag.NO_G_FLUX, 0]
    assert np.isnan(stars.g_flux[1])


def test_unknown_basis_with_its_g_flux(tmp_path):
    stars = load(write(tmp_path, with_g(bright(n_bp=51), [1e4, 2e4, 3e4]))).spectra
    assert (stars.basis.n_bp, stars.basis.n_rp) == (51, 55)
    assert stars.usable.all()
    assert (stars.g_flux_source == GFluxSource.TABLE).all()


def test_unknown_basis_without_g_flux(tmp_path):
    path = write(tmp_path, bright(n_bp=51).csv())
    with pytest.raises(DataError) as caught:
        load(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: no flux or G flux from 51 BP (basis 56) + 55 RP (basis 57)")
    assert message.endswith("give phot_g_mean_flux in the table")
    assert "\n" not in message


def test_unknown_basis_where_some_stars_have_their_g_flux(tmp_path, caplog):
    path = write(tmp_path, with_g(bright(n_bp=51), [1e4, None, 3e4]))
    with caplog.at_level(logging.WARNING):
        stars = load(path).spectra
    assert stars.flags.tolist() == [0, Flag.NO_G_FLUX, 0]
    (record,) = caplog.records
    assert record.getMessage().startswith(f"{path}: 1 of 3 stars are flagged: they have no G flux")


def test_sampled_spectra_are_inferred_and_flagged(formats, tmp_path):
    path = formats / "XP_SAMPLED_RAW_dr3int6.csv"
    stars = load(path)
    assert stars.kind == "sampled csv"
    assert "inferred from sampled spectra, not published" in stars.note
    assert (stars.spectra.flags == Flag.INFERRED).all()
    assert stars.spectra.usable.all()
    assert (stars.spectra.g_flux_source == GFluxSource.COEFFICIENTS).all()
    flux = flux_from_coeffs(stars.spectra.coeffs, stars.spectra.errors)
    published = read_file(path).stars.flux
    largest = np.abs(published).max(axis=1, keepdims=True)
    np.testing.assert_allclose(flux.flux / largest, published / largest, atol=3e-6)  # GaiaXPy's six digits
    store = ingest([path], tmp_path / "store")
    (entry,) = store.entries
    assert (entry.kind, entry.note, entry.flags) == ("sampled csv", stars.note, {"INFERRED": 2})


@pytest.mark.parametrize("form", ["astropy", "pandas"])
def test_tables_in_memory(form):
    toy = bright()
    columns = {k: v if v.ndim == 1 else list(v) for k, v in toy.columns().items()}
    table = pd.DataFrame(columns) if form == "pandas" else Table(toy.columns())
    table["phot_g_mean_flux"] = [1e4, 2e4, 3e4]
    stars = load(table)
    np.testing.assert_array_equal(stars.spectra.source_id, toy.source_id)
    np.testing.assert_array_equal(stars.spectra.coeffs, toy.coeffs)
    assert stars.spectra.g_flux.tolist() == [1e4, 2e4, 3e4]


def test_masked_values_of_a_table():
    toy = bright()
    table = Table(toy.columns(), masked=True)
    table["rp_coefficients"].mask[1] = True
    table["bp_coefficient_errors"].mask[2, 7] = True
    table["phot_g_mean_flux"] = np.ma.MaskedArray([1e4, 2e4, 3e4], mask=[True, False, False])
    stars = load(table).spectra
    assert stars.flags.tolist() == [0, Flag.MISSING_RP, Flag.BAD_ERRORS]
    assert stars.g_flux_source.tolist() == [2, 1, 1]


def test_labels_are_those_of_the_stars_in_their_order(tmp_path):
    toy = bright(n=4)
    stars = load(write(tmp_path, with_g(toy, [5000.0, None, -9999.0, 4000.0], "teff")))
    np.testing.assert_array_equal(stars.labels.source_id, stars.spectra.source_id)
    np.testing.assert_array_equal(stars.labels["teff"], [5000.0, np.nan, np.nan, 4000.0])


def test_load_of_a_store_gives_back_what_was_ingested(tmp_path):
    path = write(tmp_path, with_g(bright(n=50), [1e4] * 25 + [None] * 25))
    first = load(path)
    ingest([path], tmp_path / "store")
    again = load(tmp_path / "store")
    assert again.kind == "store"
    for name in ("source_id", "flags", "g_flux", "g_flux_source", "n_relevant_bases"):
        np.testing.assert_array_equal(getattr(again.spectra, name), getattr(first.spectra, name))
    np.testing.assert_array_equal(again.spectra.coeffs, first.spectra.coeffs.astype(np.float32))
    chunks = np.concatenate([chunk.source_id for chunk in load_chunks(tmp_path / "store")])
    np.testing.assert_array_equal(chunks, first.spectra.source_id)
    (chunk,) = load_chunks(path)
    np.testing.assert_array_equal(chunk.coeffs, first.spectra.coeffs)


def test_folder_that_is_no_store(tmp_path):
    for read in (load, lambda path: list(load_chunks(path))):
        with pytest.raises(StoreError, match=r"not a store. `scattervae ingest"):
            read(tmp_path)


def test_correlations_when_asked_for(formats, tmp_path):
    path = formats / "XP_CONTINUOUS_RAW.csv"
    assert load(path).spectra.correlations is None
    assert load(path, correlations=True).spectra.correlations is not None
    store = ingest([path], tmp_path / "store", correlations=True)
    assert store.read().correlations.fit(store.basis)


def test_ingest_goes_on_past_broken_files(tmp_path, caplog):
    toy = bright(n=5)
    good = write(tmp_path, toy.csv(), "good.csv")
    told = broken_files(tmp_path)
    entries = []
    with caplog.at_level(logging.WARNING):
        store = ingest([*told, good], tmp_path / "store", progress=entries.append)
    np.testing.assert_array_equal(store.read().source_id, toy.source_id)
    assert store.entries == tuple(entries)
    for entry, (path, word) in zip(store.entries, told.items(), strict=False):
        assert (entry.name, entry.kind, entry.part) == (str(path), None, None)
        assert entry.error.startswith(f"{path}: ")
        assert word in entry.error
    assert [record.getMessage() for record in caplog.records] == [e.error for e in store.entries[:-1]]


def test_strict_stops_at_the_first_broken_file(tmp_path):
    good = write(tmp_path, bright().csv(), "good.csv")
    for bad, word in broken_files(tmp_path).items():
        with pytest.raises(DataError, match=word):
            ingest([good, bad, tmp_path / "never.csv"], tmp_path / "store", strict=True)
    assert len(SpectrumStore(tmp_path / "store")) == 3


def test_a_file_that_may_not_be_opened(tmp_path, monkeypatch):
    paths = [write(tmp_path, bright(seed=seed).csv(), f"{seed}.csv") for seed in (0, 1)]
    real = intake.file_digest

    def digest(path):
        if path == paths[0]:
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(intake, "file_digest", digest)
    store = ingest(paths, tmp_path / "store")
    assert store.entries[0].error == f"{paths[0]}: cannot be opened: Permission denied"
    assert len(store) == 3


def test_no_file_gives_a_star(tmp_path):
    with pytest.raises(StoreError, match="holds no star"):
        ingest(list(broken_files(tmp_path)), tmp_path / "store")


def test_stopped_between_files_and_run_again(tmp_path):
    files = [write(tmp_path, bright(n=4).csv(), "a.csv"), write(tmp_path, "", "empty.csv")]
    files += [write(tmp_path, with_ids(bright(n=4, seed=s), s).csv(), f"{s}.csv") for s in (1, 2)]
    ingest(files, tmp_path / "whole")
    for n_done in range(1, 4):
        done = []

        def stop(entry, done=done, n_done=n_done):
            done.append(entry)
            if len(done) == n_done:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            ingest(files, tmp_path / f"parts{n_done}", progress=stop)
        ingest(files, tmp_path / f"parts{n_done}")
        assert contents(tmp_path / f"parts{n_done}") == contents(tmp_path / "whole")


def with_ids(toy, offset):
    toy.source_id = toy.source_id + 1000 * offset
    return toy


def test_run_again_changes_nothing_and_takes_new_files(tmp_path):
    first = write(tmp_path, bright(n=4).csv(), "a.csv")
    ingest([first], tmp_path / "store")
    before = contents(tmp_path / "store")
    ingest([first], tmp_path / "store")
    renamed = first.rename(tmp_path / "renamed.csv")
    ingest([renamed], tmp_path / "store")
    assert contents(tmp_path / "store") == before
    more = write(tmp_path, with_ids(bright(n=4, seed=1), 1).csv(), "b.csv")
    assert len(ingest([renamed, more], tmp_path / "store")) == 8


def test_a_star_in_two_files_is_stored_once(tmp_path):
    toy = bright(n=4)
    files = [write(tmp_path, toy.csv(), "a.csv"), write(tmp_path, toy.csv() + "\n", "b.csv")]
    store = ingest(files, tmp_path / "store")
    assert [(e.n_kept, e.n_duplicates) for e in store.entries] == [(4, 0), (0, 4)]
    assert store.read().source_id.tolist() == toy.source_id.tolist()


def test_labels_joined_from_elsewhere(tmp_path, caplog):
    toy = bright(n=4)
    path = write(tmp_path, with_g(toy, [5000.0] * 4, "teff"))
    values = np.arange(8.0).reshape(2, 4)
    given = StellarLabels(toy.source_id[[2, 0]], values, values / 10)
    labels = ingest([path], tmp_path / "store", labels=given).labels()
    np.testing.assert_array_equal(labels.values[[2, 0]], values)
    assert np.isnan(labels.values[[1, 3]]).all()
    assert caplog.records == []
    ingest([path], tmp_path / "store", labels=given)
    assert "1 of 1 files were in it already and keep the labels" in caplog.text


def test_rows_left_out_are_in_the_manifest(tmp_path):
    rows = bright(n=4).cells()
    set_cell(rows, 2, "source_id", "?")
    (entry,) = ingest([write(tmp_path, csv_of(rows))], tmp_path / "store").entries
    assert (entry.n_rows, entry.n_kept) == (4, 3)
    assert entry.skipped == ("row 4: source_id is no integer: ?",)
