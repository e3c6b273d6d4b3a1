"""Many files to one store: what is kept, what is left out and why, and that nothing else decides the bytes."""

import gzip
import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
from files_toys import HEADER, ToyStars, csv_of, set_cell, write

from ingest_toys import (
    LOG,
    bulk_rows,
    contents,
    sky_stars,
    source_columns,
    source_text,
    write_bulk,
    write_sources,
    write_zipped,
)
from scattervae.errors import BusyError, DataError, StoreError
from scattervae.gaia import ingest as ingesting
from scattervae.gaia.basis import catalogue_g_flux
from scattervae.gaia.ingest import ingest
from scattervae.gaia.reading import load
from scattervae.spectra.hats import Positions, pixel_centres
from scattervae.spectra.spectra import Flag, GFluxSource
from scattervae.spectra.star_tables import StellarLabels
from scattervae.spectra.store import SpectrumStore


def with_column(toy, name, values):
    """The archive's csv with one more column; None leaves its cell empty."""
    rows = [[*row, "" if v is None else repr(v)] for row, v in zip(toy.cells(), values, strict=True)]
    return csv_of(rows, f"{HEADER},{name}")


def broken_files(folder):
    """One file of each sort that cannot be read, and a word of what is said of it."""
    packed = gzip.compress(ToyStars(n=20).csv().encode())
    return {
        write(folder, packed[: len(packed) // 2], "cut.csv.gz"): "download it again",
        write(folder, "<!DOCTYPE html><html>503</html>", "page.csv"): "web page",
        write(folder, b"", "empty.csv"): "is empty",
        folder: "is a directory",
        folder / "missing.csv": "does not exist; check the path",
    }


def sky_files(folder, n_files=3, n=12):
    """Bulk files of neighbouring pixels, the last repeating a star of the first."""
    toys = [sky_stars(n, pixel=100 + i, seed=i) for i in range(n_files)]
    toys[-1].source_id[0] = toys[0].source_id[3]
    return [write_bulk(folder, toy, pixel=100 + i) for i, toy in enumerate(toys)], toys


def log_of(store):
    return [json.loads(line) for line in (store / LOG).read_text().splitlines() if "sealing" not in line]


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """Files of many kinds, some broken, and the store of them that one process made."""
    folder = tmp_path_factory.mktemp("many")
    bulk, _ = sky_files(folder)
    spoilt = sky_stars(8, pixel=200, seed=9)
    rows = [*bulk_rows(spoilt), "cut off,3"]
    files = [
        bulk[0],
        folder / "missing.csv",
        write(folder, with_column(sky_stars(5, pixel=300, seed=4), "teff", [5e3, None, 6e3, 4e3, 5e3])),
        bulk[1],
        write_bulk(folder, spoilt, pixel=200, rows=rows),
        write(folder, bulk[1].read_bytes()[:-100], "cut.csv.gz"),
        bulk[2],
        bulk[0],
    ]
    ingest(files, folder / "store")
    return folder, files


@pytest.mark.parametrize("kind", [str, Path])
def test_one_file_is_no_list_of_letters(tmp_path, kind):
    toy = sky_stars(4, pixel=100, seed=1)
    path = write_bulk(tmp_path, toy, pixel=100)
    assert len(ingest(kind(path), tmp_path / "store")) == 4
    with pytest.raises(DataError, match=r"nothing\.csv: no such file"):
        ingest(path, tmp_path / "other", sources=kind(tmp_path / "nothing.csv"))


@pytest.mark.parametrize("workers", [2, 3])
def test_the_number_of_processes_changes_no_byte(many, tmp_path, workers, caplog):
    folder, files = many
    with caplog.at_level(logging.WARNING):
        store = ingest(files, tmp_path / "store", workers=workers)
    assert contents(tmp_path / "store") == contents(folder / "store")
    assert [entry.error is None for entry in store.entries] == [True, False, True, True, True, False, True]
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert [text.partition(": ")[0] for text in said] == [str(files[i]) for i in (1, 4, 5)]


def test_what_a_store_of_many_files_holds(many):
    folder, _ = many
    store = SpectrumStore(folder / "store")
    read = [entry for entry in store.entries if entry.error is None]
    assert [(e.n_rows, e.n_kept, e.n_duplicates) for e in read] == [
        (12, 12, 0),
        (5, 5, 0),
        (12, 12, 0),
        (9, 8, 0),
        (12, 11, 1),
    ]
    assert [e.kind for e in read] == ["bulk csv", "archive csv", "bulk csv", "bulk csv", "bulk csv"]
    (skipped,) = read[3].skipped
    assert skipped.startswith("row 15: 2 cells where the header has")
    assert store.positions is Positions.PIXEL_CENTRES
    assert np.isfinite(store.labels()["teff"]).sum() == 4


def test_a_bulk_file_is_stored_as_the_reader_of_single_files_has_it(tmp_path):
    toy = sky_stars(20, pixel=7)
    path = write_bulk(tmp_path, toy, pixel=7)
    spectra = ingest([path], tmp_path / "store").read()
    order = np.argsort(toy.source_id)
    np.testing.assert_array_equal(np.sort(spectra.source_id), np.sort(toy.source_id))
    row = np.argsort(spectra.source_id)
    np.testing.assert_array_equal(spectra.coeffs[row], toy.coeffs[order].astype(np.float32))
    np.testing.assert_array_equal(spectra.errors[row], toy.errors[order].astype(np.float32))
    np.testing.assert_array_equal(spectra.g_flux[row], catalogue_g_flux(load(path).spectra)[order])
    assert (spectra.g_flux_source == GFluxSource.COEFFICIENTS).all()


def test_two_ingests_do_not_write_one_store(many, tmp_path):
    """The second, begun after the first's third file, ends with one line; the first's bytes are as if it were alone."""
    folder, files = many
    met = []

    def second(_):
        if not met:
            with pytest.raises(BusyError, match="/store: another run is writing to it; wait for its end"):
                ingest(files, tmp_path / "store")
            met.append(True)

    ingest(files, tmp_path / "store", progress=second)
    assert met
    assert contents(tmp_path / "store") == contents(folder / "store")
    assert [file.name for file in tmp_path.iterdir()] == ["store"]


def test_ingest_goes_on_past_broken_files(tmp_path, caplog):
    toy = sky_stars(5)
    good = write(tmp_path, toy.csv(), "good.csv")
    broken = broken_files(tmp_path)
    done = []
    with caplog.at_level(logging.WARNING):
        store = ingest([*broken, good], tmp_path / "store", progress=done.append)
    np.testing.assert_array_equal(store.read().source_id, toy.source_id)
    assert store.entries == tuple(file.entry for file in done)
    for entry, (path, word) in zip(store.entries, broken.items(), strict=False):
        assert (entry.name, entry.kind, entry.n_kept) == (str(path), None, 0)
        assert entry.error.startswith(f"{path}: ")
        assert word in entry.error
    assert [record.getMessage() for record in caplog.records] == [e.error for e in store.entries[:-1]]


@pytest.mark.parametrize("workers", [1, 2])
def test_strict_stops_at_the_first_broken_file_and_without_it_the_run_goes_on(tmp_path, workers):
    good = write(tmp_path, sky_stars(3).csv(), "good.csv")
    bad = tmp_path / "missing.csv"
    files = [good, bad, write(tmp_path, sky_stars(3, pixel=2).csv(), "later.csv")]
    with pytest.raises(DataError, match="does not exist; check the path"):
        ingest(files, tmp_path / "store", strict=True, workers=workers)
    assert len(ingest(files, tmp_path / "store")) == 6


@pytest.mark.parametrize("kind", range(5))
def test_strict_says_why(tmp_path, kind):
    bad, word = list(broken_files(tmp_path).items())[kind]
    with pytest.raises(DataError, match=word):
        ingest([bad], tmp_path / "store", strict=True)


def test_a_file_that_may_not_be_opened(tmp_path, monkeypatch):
    paths = [write(tmp_path, sky_stars(3, pixel=seed).csv(), f"{seed}.csv") for seed in (0, 1)]
    real = ingesting.file_digest

    def digest(path):
        if path == paths[0]:
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(ingesting, "file_digest", digest)
    store = ingest(paths, tmp_path / "store")
    assert store.entries[0].error == f"{paths[0]}: cannot be opened: Permission denied"
    assert len(store) == 3


def test_no_file_gives_a_star(tmp_path):
    with pytest.raises(StoreError, match="holds no star"):
        ingest(list(broken_files(tmp_path)), tmp_path / "store")


def test_a_bulk_file_that_breaks_off_is_left_out_until_it_is_whole(tmp_path, caplog):
    toy = sky_stars(300, pixel=5)
    path = write_bulk(tmp_path, toy, pixel=5)
    other = write_bulk(tmp_path, sky_stars(4, pixel=6), pixel=6)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with caplog.at_level(logging.WARNING):
        store = ingest([path, other], tmp_path / "store")
    entry = store.entries[0]
    assert 0 < entry.n_rows < 300
    assert (entry.n_kept, entry.kind) == (0, None)
    assert f"the {entry.n_rows} rows before that are left out too" in entry.error
    assert len(store) == 4
    path.write_bytes(whole)
    store = ingest([path, other], tmp_path / "store")
    assert [(e.name, e.error) for e in store.entries] == [(str(other), None), (str(path), None)]
    assert len(store) == 304


def test_run_again_changes_nothing_and_takes_new_files(tmp_path):
    first = write(tmp_path, sky_stars(4).csv(), "a.csv")
    ingest([first], tmp_path / "store")
    before = contents(tmp_path / "store")
    ingest([first], tmp_path / "store")
    renamed = first.rename(tmp_path / "renamed.csv")
    ingest([renamed], tmp_path / "store")
    assert contents(tmp_path / "store") == before
    more = write(tmp_path, sky_stars(4, pixel=1).csv(), "b.csv")
    assert len(ingest([renamed, more], tmp_path / "store")) == 8


def test_a_file_that_has_not_changed_is_not_read_to_know_it(tmp_path, monkeypatch):
    files, _ = sky_files(tmp_path)
    ingest(files[:2], tmp_path / "store")
    hashed = []
    real = ingesting.file_digest
    monkeypatch.setattr(ingesting, "file_digest", lambda path: hashed.append(path) or real(path))
    files[0].touch()
    moved = shutil.copy(files[1], tmp_path / "moved.csv.gz")
    ingest([files[1], files[0], files[2], moved], tmp_path / "store")
    assert hashed == [files[0], files[2], tmp_path / "moved.csv.gz"]


def test_the_log_has_a_line_for_each_file_that_was_read(tmp_path):
    files, _ = sky_files(tmp_path)
    store = tmp_path / "store"
    ingest([*files[:2], tmp_path / "missing.csv"], store)
    ingest(files, store)
    lines = log_of(store)
    assert [line["name"] for line in lines] == [
        str(path) for path in (*files[:2], tmp_path / "missing.csv", files[2])
    ]
    for line, n_rows in zip(lines, (12, 12, 0, 12), strict=True):
        assert line["seconds"] >= 0
        assert line["rows_per_second"] * line["seconds"] == pytest.approx(n_rows, rel=0.2)
        assert line["peak_memory_mb"] is None or line["peak_memory_mb"] > 10
        assert line["started"].endswith("+00:00")
    assert [line["error"] is None for line in lines] == [True, True, False, True]
    assert [line["digest"] for line in lines[:2]] == [e.digest for e in SpectrumStore(store).entries[:2]]


def test_a_torn_log_costs_nothing(tmp_path):
    files, _ = sky_files(tmp_path)
    store = tmp_path / "store"
    ingest(files[:2], store)
    with (store / LOG).open("a") as log:
        log.write('{"name": "a.csv", "pa')
    ingest(files, store)
    assert json.loads((store / LOG).read_bytes().splitlines()[-2])["name"] == str(files[2])


def test_the_same_file_under_two_names_is_stored_once(tmp_path):
    files, _ = sky_files(tmp_path)
    copy = shutil.copy(files[0], tmp_path / "copy.csv.gz")
    store = ingest([files[0], copy], tmp_path / "store", workers=2)
    assert [e.name for e in store.entries] == [str(files[0])]
    assert len(store) == 12


def test_a_star_in_two_files_is_stored_once(tmp_path):
    toy = sky_stars(4)
    files = [write(tmp_path, toy.csv(), "a.csv"), write(tmp_path, toy.csv() + "\n", "b.csv")]
    store = ingest(files, tmp_path / "store")
    assert [(e.n_kept, e.n_duplicates) for e in store.entries] == [(4, 0), (0, 4)]
    assert store.read().source_id.tolist() == toy.source_id.tolist()


def test_a_star_twice_in_a_bulk_file_is_stored_once(tmp_path):
    toy = sky_stars(10, pixel=3)
    rows = bulk_rows(toy)
    store = ingest([write_bulk(tmp_path, toy, pixel=3, rows=[*rows, rows[2]])], tmp_path / "store")
    (entry,) = store.entries
    assert (entry.n_rows, entry.n_kept, entry.n_duplicates) == (11, 10, 1)


def test_labels_joined_from_elsewhere(tmp_path, caplog):
    toy = sky_stars(4)
    path = write(tmp_path, with_column(toy, "teff", [5000.0] * 4))
    values = np.arange(10.0).reshape(2, 5)
    given = StellarLabels(toy.source_id[[2, 0]], values, values / 10)
    labels = ingest([path], tmp_path / "store", labels=given).labels()
    row = {star: i for i, star in enumerate(labels.source_id.tolist())}
    rows = [row[star] for star in toy.source_id.tolist()]
    np.testing.assert_array_equal(labels.values[rows][[2, 0]], values)
    assert np.isnan(labels.values[rows][[1, 3]]).all()
    assert caplog.records == []
    ingest([path], tmp_path / "store", labels=given)
    assert "1 of 1 files were in it already and keep the labels" in caplog.text


def test_rows_left_out_are_in_the_manifest(tmp_path):
    rows = sky_stars(4).cells()
    set_cell(rows, 2, "source_id", "?")
    (entry,) = ingest([write(tmp_path, csv_of(rows))], tmp_path / "store").entries
    assert (entry.n_rows, entry.n_kept) == (4, 3)
    assert entry.skipped == ("row 4: source_id is no integer: ?",)


def test_a_star_without_bp_is_kept_and_flagged(tmp_path):
    toy = sky_stars(4, pixel=9)
    rows = toy.cells()
    for name in ("bp_coefficients", "bp_coefficient_errors"):
        set_cell(rows, 1, name, "")
    rows = [",".join(row).replace("(", "[").replace(")", "]") for row in rows]
    (entry,) = ingest([write_bulk(tmp_path, toy, pixel=9, rows=rows)], tmp_path / "store").entries
    assert entry.flags == {"MISSING_BP": 1, "NO_G_FLUX": 1}


def test_correlations_when_asked_for(formats, tmp_path):
    path = formats / "XpContinuousMeanSpectrum_000000-003111.csv.gz"
    store = ingest([path], tmp_path / "store", correlations=True)
    assert store.read().correlations.fit(store.basis)
    assert ingest([path], tmp_path / "plain").read().correlations is None


def test_sampled_spectra(formats, tmp_path):
    path = formats / "XP_SAMPLED_RAW_dr3int6.csv"
    (entry,) = ingest([path], tmp_path / "store").entries
    assert (entry.kind, entry.note, entry.flags) == ("sampled csv", load(path).note, {"INFERRED": 2})


class TestSources:
    """What ``gaia_source`` files give the stars."""

    def test_positions_g_flux_and_quality_columns(self, tmp_path):
        toys = {pixel: sky_stars(10, pixel=pixel, seed=pixel) for pixel in (3, 4, 5)}
        files = [write_bulk(tmp_path, toy, pixel=pixel) for pixel, toy in toys.items()]
        others = np.arange(4 * 2**43 + 5, 4 * 2**43 + 500, 7)  # stars without spectra
        sources = [
            write_sources(tmp_path, toys[5].source_id[::-1], pixel=5),
            write_sources(tmp_path, np.concatenate([others, toys[4].source_id]), pixel=4),
            write_sources(
                tmp_path, toys[3].source_id, pixel=3, nulls={"phot_g_mean_flux": [2], "parallax": [1]}
            ),
        ]
        store = ingest(files, tmp_path / "store", sources=sources)
        assert store.positions is Positions.MEASURED
        table = whole_table(store)
        expected = source_columns(table["source_id"])
        np.testing.assert_array_equal(table["ra"], expected["ra"])
        np.testing.assert_array_equal(table["dec"], expected["dec"])
        no_parallax = table["source_id"] == toys[3].source_id[1]
        np.testing.assert_array_equal(np.isnan(table["parallax"]), no_parallax)
        np.testing.assert_array_equal(table["parallax"][~no_parallax], expected["parallax"][~no_parallax])
        for name in ("ruwe", "bp_rp", "phot_g_mean_mag", "phot_bp_rp_excess_factor", "parallax_error"):
            np.testing.assert_array_equal(table[name], expected[name].astype(np.float32))
        spectra = store.read()
        from_coeffs = spectra.source_id == toys[3].source_id[2]
        np.testing.assert_array_equal(spectra.g_flux_source, np.where(from_coeffs, 2, 1))
        np.testing.assert_array_equal(
            spectra.g_flux[~from_coeffs], expected["phot_g_mean_flux"][~from_coeffs]
        )

    def test_any_number_of_processes_and_tables_give_the_same_bytes(self, tmp_path):
        files, toys = sky_files(tmp_path)
        ids = [toy.source_id for toy in toys]
        ranged = [write_sources(tmp_path, ids[i], pixel=100 + i) for i in range(3)]
        ranged[2] = write_sources(tmp_path, np.concatenate(ids), pixel=102)
        one = write(tmp_path, source_text(np.concatenate(ids), top=""), "result.csv")
        ingest(files, tmp_path / "store", sources=ranged)
        assert SpectrumStore(tmp_path / "store").entries[2].n_duplicates == 1
        expected = contents(tmp_path / "store")
        for sources, workers in ((ranged, 2), ([one], 1), ([one], 2), ([*ranged, one], 1)):
            again = tmp_path / f"store{workers}{len(sources)}"
            ingest(files, again, sources=sources, workers=workers)
            assert contents(again) == expected

    def test_a_star_that_is_not_in_them_is_left_out_and_named(self, tmp_path):
        toy = sky_stars(10, pixel=3)
        sources = write_sources(tmp_path, toy.source_id[1:], pixel=3, nulls={"ra": [4], "dec": [4]})
        store = ingest([write_bulk(tmp_path, toy, pixel=3)], tmp_path / "store", sources=[sources])
        (entry,) = store.entries
        assert (entry.n_rows, entry.n_kept) == (10, 8)
        assert entry.skipped == tuple(
            f"source_id {toy.source_id[row]}: no position in the gaia_source files" for row in (0, 5)
        )

    def test_a_part_of_the_sky_that_no_file_covers_costs_the_file(self, tmp_path):
        toys = [sky_stars(5, pixel=pixel) for pixel in (3, 4)]
        files = [write_bulk(tmp_path, toy, pixel=pixel) for pixel, toy in zip((3, 4), toys, strict=True)]
        sources = [write_sources(tmp_path, toys[0].source_id, pixel=3)]
        store = ingest(files, tmp_path / "store", sources=sources)
        assert store.entries[1].error == (
            f"{files[1]}: its stars have no positions: 5 stars, in level-8 pixels 4 to 4, are in no gaia_source "
            "file given; give the files of these pixels too"
        )
        sources.append(write_sources(tmp_path, toys[1].source_id, pixel=4))
        assert len(ingest(files, tmp_path / "store", sources=sources)) == 10

    def test_a_broken_one_costs_the_files_that_need_it(self, tmp_path):
        toys = [sky_stars(5, pixel=pixel) for pixel in (3, 4)]
        files = [write_bulk(tmp_path, toy, pixel=pixel) for pixel, toy in zip((3, 4), toys, strict=True)]
        sources = [write_sources(tmp_path, toys[i].source_id, pixel=3 + i) for i in range(2)]
        packed = sources[1].read_bytes()
        sources[1].write_bytes(packed[:-20])
        store = ingest(files, tmp_path / "store", sources=sources)
        assert store.entries[1].error.startswith(
            f"{files[1]}: its stars have no positions: {sources[1]}: is cut off"
        )
        assert len(store) == 5

    def test_one_that_is_not_there_or_says_nothing_of_positions(self, tmp_path):
        file = write_bulk(tmp_path, sky_stars(5, pixel=3), pixel=3)
        with pytest.raises(DataError, match="no such file"):
            ingest([file], tmp_path / "store", sources=[tmp_path / "GaiaSource_000003-000003.csv.gz"])
        assert not (tmp_path / "store").exists()
        table = write(tmp_path, "source_id,ruwe\n3,1.0\n", "table.csv")
        with pytest.raises(DataError, match=r"table.csv: .*ra"):
            ingest([file], tmp_path / "store", sources=[table])

    def test_positions_of_two_sources_are_refused(self, tmp_path):
        toys = [sky_stars(5, pixel=pixel) for pixel in (3, 4)]
        files = [write_bulk(tmp_path, toy, pixel=pixel) for pixel, toy in zip((3, 4), toys, strict=True)]
        sources = [write_sources(tmp_path, toys[i].source_id, pixel=3 + i) for i in range(2)]
        ingest(files[:1], tmp_path / "plain")
        with pytest.raises(StoreError, match="one source of positions"):
            ingest(files, tmp_path / "plain", sources=sources)
        ingest(files[:1], tmp_path / "measured", sources=sources)
        before = contents(tmp_path / "measured")
        with pytest.raises(
            StoreError, match=r"positions are approximate.*; give gaia_source files \(--sources\), or"
        ):
            ingest(files, tmp_path / "measured", strict=True)
        store = ingest(files, tmp_path / "measured")
        assert [entry.error is None for entry in store.entries] == [True, False]
        assert before.keys() <= contents(tmp_path / "measured").keys()

    def test_positions_of_the_files_themselves(self, tmp_path, caplog):
        toy = sky_stars(5, pixel=3)
        own = source_columns(toy.source_id)
        rows = [
            [*row, repr(float(own["ra"][i])), repr(float(own["dec"][i]))] for i, row in enumerate(toy.cells())
        ]
        placed = write(tmp_path, csv_of(rows, f"{HEADER},ra,dec"), "placed.csv")
        bare = write_bulk(tmp_path, sky_stars(5, pixel=4), pixel=4)
        store = ingest([placed, bare], tmp_path / "first")
        assert store.positions is Positions.MEASURED
        table = whole_table(store)
        np.testing.assert_array_equal(table["ra"], source_columns(table["source_id"])["ra"])
        assert "positions" in store.entries[1].error
        store = ingest([bare, placed], tmp_path / "second")
        assert store.positions is Positions.PIXEL_CENTRES
        table = whole_table(store)
        np.testing.assert_array_equal(table["ra"], pixel_centres(table["source_id"])[0])
        assert "positions" in store.entries[1].error
        rows[2][-2] = ""
        incomplete = write(tmp_path, csv_of(rows, f"{HEADER},ra,dec"), "incomplete.csv")
        caplog.clear()
        store = ingest([incomplete], tmp_path / "third")
        assert (store.positions, len(store)) == (Positions.PIXEL_CENTRES, 5)
        assert "1 of 5 stars have no ra and dec" in caplog.text
        sources = [write_sources(tmp_path, toy.source_id, pixel=3)]
        assert ingest([placed], tmp_path / "fourth", sources=sources).positions is Positions.MEASURED

    def test_a_partition_of_a_store_brings_its_positions_where_they_are_measured(self, tmp_path):
        toy = sky_stars(5, pixel=3)
        file = write_bulk(tmp_path, toy, pixel=3)
        sources = write_sources(tmp_path, toy.source_id, pixel=3)
        for given, kind in (((), Positions.PIXEL_CENTRES), ((sources,), Positions.MEASURED)):
            store = ingest([file], tmp_path / kind.name, sources=given)
            again = ingest([store.path_of(p) for p in store.partitions], tmp_path / f"{kind.name} again")
            assert again.positions is kind
            np.testing.assert_array_equal(whole_table(again)["ra"], whole_table(store)["ra"])

    def test_nothing_of_the_join_is_left_behind(self, tmp_path):
        toy = sky_stars(5, pixel=3)
        one = write(tmp_path, source_text(toy.source_id, top=""), "result.csv")
        ingest([write_bulk(tmp_path, toy, pixel=3)], tmp_path / "store", sources=[one])
        assert not list((tmp_path / "store").glob("*.partial"))


def whole_table(store):
    """All columns of all partitions that are numbers, in the store's order."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.concat_tables([pq.read_table(store.path_of(p), partitioning=None) for p in store.partitions])
    return {
        name: table[name].to_numpy() for name in table.column_names if not pa.types.is_list(table[name].type)
    }


def test_flags_reach_the_manifest(tmp_path):
    toy = sky_stars(4, pixel=9)
    toy.bp_errors[2, 3] = 0.0
    (entry,) = ingest([write_bulk(tmp_path, toy, pixel=9)], tmp_path / "store").entries
    assert entry.flags == {Flag.BAD_ERRORS.name: 1}


def test_a_gzip_file_that_is_not_as_its_name_says(tmp_path):
    toy = sky_stars(4, pixel=9)
    path = write_zipped(tmp_path / "stars.fits", (tmp_path / "x").name + "\n")
    store = ingest([path, write_bulk(tmp_path, toy, pixel=9)], tmp_path / "store")
    assert store.entries[0].error is not None
