import tracemalloc
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from scattervae.errors import StoreError
from scattervae.spectra import hats
from scattervae.spectra.hats import Positions
from scattervae.spectra.spectra import Correlations, Flag, GFluxSource, Spectra
from scattervae.spectra.store import SpectrumStore
from scattervae.spectra.store_writer import StoreWriter
from spectra.stores import add, entry, rewrite, scattered, write_store
from toy import SMALL, spoiled, toy_sky

SKY = toy_sky(40)


def rich_stars() -> Spectra:
    """Stars with all that a store can hold: spoilt rows, correlations, missing truncations, both G fluxes."""
    stars = spoiled(SKY.spectra)
    stars = stars.with_g_flux(np.full(len(stars), 123.456), GFluxSource.COEFFICIENTS)
    stars = stars.with_flags(np.where(np.arange(40) == 9, Flag.INFERRED, 0).astype(np.uint16))
    draws = np.random.default_rng(0)
    bp, rp = (draws.uniform(-1, 1, (len(stars), n)).astype(np.float32) for n in (15, 10))
    bp[0] = np.nan
    n_relevant = stars.n_relevant_bases.copy()
    n_relevant[3] = [-1, 4]
    return replace(stars, correlations=Correlations(bp=bp, rp=rp), n_relevant_bases=n_relevant)


def rows_of(back, stars):
    """For each star of `back` its row in `stars`."""
    order = np.argsort(stars.source_id, kind="stable")
    return order[np.searchsorted(stars.source_id[order], back.source_id)]


def check_one_line(error: pytest.ExceptionInfo[StoreError], path) -> None:
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)


def test_stars_and_labels_come_back_in_float32(tmp_path):
    stars = rich_stars()
    write_store(tmp_path / "store", stars, labels=SKY.labels, correlations=True, rows_a_partition=7)
    store = SpectrumStore(tmp_path / "store")
    back = store.read()
    assert (len(store), len(back), store.basis) == (39, 39, SMALL)
    expected = stars.take(rows_of(back, stars))
    for name in ("source_id", "flags", "g_flux", "g_flux_source", "n_relevant_bases"):
        np.testing.assert_array_equal(getattr(back, name), getattr(expected, name))
    for name in ("coeffs", "errors"):
        rounded = getattr(expected, name).astype(np.float32).astype(np.float64)
        np.testing.assert_array_equal(getattr(back, name), rounded)
    assert back.correlations is not None
    np.testing.assert_array_equal(back.correlations.bp, expected.correlations.bp)
    np.testing.assert_array_equal(back.correlations.rp, expected.correlations.rp)
    labels = SKY.labels.aligned_to(expected.source_id)
    np.testing.assert_array_equal(store.labels().values, labels.values)
    np.testing.assert_array_equal(store.labels().errors, labels.errors)
    np.testing.assert_array_equal(store.labels().source_id, back.source_id)


def test_a_star_without_labels_has_none(tmp_path):
    write_store(tmp_path, SKY.spectra, labels=replace(SKY.labels, source_id=SKY.labels.source_id + 1))
    assert np.isnan(SpectrumStore(tmp_path).labels().values).all()


@pytest.mark.parametrize("rows_a_partition", [3, 100])
def test_the_stores_order_is_the_skys(tmp_path, rows_a_partition):
    write_store(tmp_path / "a", SKY.spectra, rows_a_partition=rows_a_partition)
    np.testing.assert_array_equal(
        SpectrumStore(tmp_path / "a").read().source_id, np.sort(SKY.spectra.source_id)
    )
    sources = scattered(SKY.spectra.source_id)
    write_store(tmp_path / "b", SKY.spectra, sources=sources, rows_a_partition=rows_a_partition)
    store = SpectrumStore(tmp_path / "b")
    index = np.concatenate(
        [pq.ParquetFile(store.path_of(p)).read(["_healpix_29"])["_healpix_29"] for p in store.partitions]
    )
    assert (np.diff(index) > 0).all()


@pytest.mark.parametrize("rows", [1, 7, 40, 1000])
def test_chunks_are_the_stars_in_the_stores_order(tmp_path, monkeypatch, rows):
    monkeypatch.setattr(hats, "ROWS_A_GROUP", 6)
    write_store(
        tmp_path, *(SKY.spectra.take(slice(*cut)) for cut in ((0, 25), (25, 40))), rows_a_partition=15
    )
    store = SpectrumStore(tmp_path)
    chunks = list(store.chunks(rows))
    assert max(len(chunk) for chunk in chunks) <= rows
    expected = SKY.spectra.take(np.argsort(SKY.spectra.source_id))
    for stars in (store.read(), Spectra.concatenate(chunks)):
        np.testing.assert_array_equal(stars.source_id, expected.source_id)
        np.testing.assert_array_equal(stars.coeffs, expected.coeffs.astype(np.float32))


@pytest.mark.parametrize("at_most", [None, 0, 5, 100])
def test_only_the_stars_that_are_asked_for_are_read(tmp_path, monkeypatch, at_most):
    monkeypatch.setattr(hats, "ROWS_A_GROUP", 6)
    write_store(tmp_path, SKY.spectra, labels=SKY.labels, rows_a_partition=15)
    store = SpectrumStore(tmp_path)
    whole, half = store.read(), np.sort(SKY.spectra.source_id)[:20]

    def where(source_id, flags):
        return np.isin(source_id, half) & (flags == 0)

    plain, read = store._spectra, []
    monkeypatch.setattr(store, "_spectra", lambda group, columns: read.append(group) or plain(group, columns))
    stars = store.read(where=where, at_most=at_most)
    expected = whole.take(np.isin(whole.source_id, stars.source_id))
    assert len(stars) == min(20, 20 if at_most is None else at_most)
    assert np.isin(stars.source_id, half).all()
    np.testing.assert_array_equal(stars.source_id, expected.source_id)
    np.testing.assert_array_equal(stars.coeffs, expected.coeffs)
    assert len(read) < len(store.row_groups) - 1
    assert at_most != 0 or len(read) == 1  # for what it says of columns
    labels = store.labels(where=where, at_most=at_most)
    np.testing.assert_array_equal(labels.source_id, stars.source_id)
    assert store.read(where=where, at_most=at_most).source_id.tolist() == stars.source_id.tolist()


def peak_of(read) -> int:
    """Bytes that NumPy and Python held at most while this was called."""
    tracemalloc.start()
    try:
        read()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_stars_are_read_into_place_and_labels_leave_only_who_has_them(tmp_path, monkeypatch):
    monkeypatch.setattr(hats, "ROWS_A_GROUP", 100)
    sky = toy_sky(2000)
    write_store(tmp_path, sky.spectra, labels=sky.labels.take(slice(0, 50)), rows_a_partition=500)
    store = SpectrumStore(tmp_path)
    whole = store.read()  # and with it what is read once: row groups and digests
    n_bytes = sum(values.nbytes for values in vars(whole).values() if isinstance(values, np.ndarray))
    assert peak_of(store.read) < 1.4 * n_bytes
    source_id, labelled = store.labelled()
    np.testing.assert_array_equal(source_id, whole.source_id)
    np.testing.assert_array_equal(labelled, np.isfinite(store.labels().values).any(axis=1))
    assert labelled.sum() == 50
    assert peak_of(store.labelled) < 0.8 * peak_of(store.labels)


def test_row_groups_are_the_stars_too(tmp_path, monkeypatch):
    monkeypatch.setattr(hats, "ROWS_A_GROUP", 4)
    write_store(tmp_path, rich_stars(), rows_a_partition=15)
    store = SpectrumStore(tmp_path)
    whole = store.read()
    groups = [store.read_row_group(row_group) for row_group in store.row_groups]
    assert [len(group) for group in groups] == [row_group.n_rows for row_group in store.row_groups]
    assert max(row_group.n_rows for row_group in store.row_groups) == 4
    for name in ("source_id", "coeffs", "errors", "g_flux", "g_flux_source", "flags"):
        joined = np.concatenate([getattr(group, name) for group in groups])
        np.testing.assert_array_equal(joined, getattr(whole, name))
    assert {group.coeffs.dtype for group in groups} == {np.dtype(np.float32)}


def test_a_row_group_that_cannot_be_read_is_named(tmp_path):
    write_store(tmp_path, SKY.spectra)
    store = SpectrumStore(tmp_path)
    row_group = store.row_groups[0]
    content = row_group.path.read_bytes()
    row_group.path.write_bytes(b"PAR1" + b"\0" * (len(content) - 4))
    with pytest.raises(StoreError, match="row group 0 cannot be read") as caught:
        store.read_row_group(row_group)
    check_one_line(caught, row_group.path)


def test_flags_are_counted_over_all_files(tmp_path):
    write_store(tmp_path, spoiled(SKY.spectra), spoiled(toy_sky(20, seed=5).spectra))
    expected = ("MISSING_BP", "MISSING_RP", "BAD_COEFFS", "BAD_ERRORS", "NO_G_FLUX")
    assert SpectrumStore(tmp_path).flags == dict.fromkeys(expected, 2)


def test_positions_are_what_they_were_written_as(tmp_path):
    write_store(tmp_path / "a", SKY.spectra)
    write_store(tmp_path / "b", SKY.spectra, sources=scattered(SKY.spectra.source_id))
    assert SpectrumStore(tmp_path / "a").positions is Positions.PIXEL_CENTRES
    assert SpectrumStore(tmp_path / "b").positions is Positions.MEASURED


def test_the_digest_is_that_of_the_files_that_were_read(tmp_path):
    for name, n_stars in (("a", 40), ("b", 40), ("c", 39)):
        write_store(
            tmp_path / name, SKY.spectra.take(slice(0, n_stars)), rows_a_partition=5 if name == "b" else None
        )
    digests = {name: SpectrumStore(tmp_path / name).digest for name in "abc"}
    assert digests["a"] == digests["b"] != digests["c"]


def test_a_folder_that_is_no_store_is_refused(tmp_path):
    assert not SpectrumStore.is_store(tmp_path)
    (tmp_path / "file.parquet").write_text("a file")
    for path in (tmp_path, tmp_path / "nowhere", tmp_path / "file.parquet"):
        assert not SpectrumStore.is_store(path)
        with pytest.raises(StoreError, match=r"no manifest.json; not a store. `scattervae ingest") as caught:
            SpectrumStore(path)
        check_one_line(caught, path)


@pytest.mark.parametrize("finished_before", [False, True])
def test_an_unfinished_ingest_is_refused_until_it_is_finished(tmp_path, finished_before):
    if finished_before:
        write_store(tmp_path, SKY.spectra.take(slice(0, 20)))
    writer = StoreWriter(tmp_path)
    if finished_before:
        assert len(SpectrumStore(tmp_path)) == 20  # nothing has been added yet
    add(writer, "more.csv", SKY.spectra.take(slice(20, 40)))
    assert SpectrumStore.is_store(tmp_path)
    with pytest.raises(StoreError, match="was stopped; run the same `scattervae ingest` again") as caught:
        SpectrumStore(tmp_path)
    check_one_line(caught, tmp_path)
    StoreWriter(tmp_path).finish()
    assert len(SpectrumStore(tmp_path)) == 20 + 20 * finished_before


def test_an_ingest_stopped_in_its_first_file_is_refused(tmp_path):
    StoreWriter(tmp_path)
    assert SpectrumStore.is_store(tmp_path)
    with pytest.raises(StoreError, match="was stopped"):
        SpectrumStore(tmp_path)


def test_a_store_of_an_earlier_version_is_refused(tmp_path):
    (tmp_path / "manifest.json").write_text('{"format": 1, "basis": null, "files": []}')
    with pytest.raises(StoreError, match=r"format 1, this version reads 2; .*ingest again") as caught:
        SpectrumStore(tmp_path)
    check_one_line(caught, tmp_path)


def test_a_partition_that_is_gone_is_missed(tmp_path):
    write_store(tmp_path, SKY.spectra)
    store = SpectrumStore(tmp_path)
    path = store.path_of(store.partitions[1])
    path.unlink()
    with pytest.raises(StoreError, match="is gone") as caught:
        SpectrumStore(tmp_path)
    check_one_line(caught, path)


def test_a_store_without_a_star_says_so(tmp_path):
    writer = StoreWriter(tmp_path)
    writer.add_failed(entry("a.csv", error="torn"))
    add(writer, "b.csv", SKY.spectra.take(slice(0, 0)))
    writer.finish()
    assert SpectrumStore.is_store(tmp_path)
    with pytest.raises(StoreError, match=r"holds no star; its manifest\.json says why") as caught:
        SpectrumStore(tmp_path)
    check_one_line(caught, tmp_path)


def test_an_empty_catalogue_is_refused(tmp_path):
    write_store(tmp_path, SKY.spectra)
    (tmp_path / "manifest.json").unlink()
    (tmp_path / "partition_info.csv").write_text("Norder,Npix,num_rows\n")
    with pytest.raises(StoreError, match="holds no file") as caught:
        SpectrumStore(tmp_path)
    check_one_line(caught, tmp_path)


def test_tables_are_described_for_other_readers(tmp_path):
    write_store(tmp_path, SKY.spectra)
    schema = pq.read_schema(tmp_path / "dataset" / "_common_metadata")
    store = SpectrumStore(tmp_path)
    assert schema.equals(pq.read_schema(store.path_of(store.partitions[0])), check_metadata=True)
    assert schema.field("phot_g_mean_flux").metadata == {
        b"unit": b"electron/s",
        b"description": b"mean flux in the G band",
    }
    assert pa.types.is_float32(schema.field("bp_coefficients").type.value_type)


def test_a_flipped_bit_in_any_page_is_noticed(tmp_path):
    sky = toy_sky(400)
    write_store(tmp_path / "store", sky.spectra)
    store = SpectrumStore(tmp_path / "store")
    truth, file = (
        store.read(),
        max((row_group.path for row_group in store.row_groups), key=lambda path: path.stat().st_size),
    )
    content, footer = file.read_bytes(), pq.read_metadata(file).row_group(0)
    noticed = {}
    for column in map(footer.column, range(footer.num_columns)):
        broken = bytearray(content)
        broken[column.data_page_offset + column.total_compressed_size - 2] ^= 1  # in what its page holds
        file.write_bytes(broken)
        found, error = None, None
        try:
            found = SpectrumStore(tmp_path / "store").read()
        except StoreError as refusal:
            error = str(refusal)
        noticed[column.path_in_schema.split(".")[0]] = error is not None
        assert found is None or np.array_equal(found.coeffs, truth.coeffs, equal_nan=True)
        assert error is None or str(file) in error
    assert all(noticed[name] for name in ("source_id", "bp_coefficients", "rp_coefficient_errors"))


def test_files_that_were_swapped_or_copied_over_are_noticed(tmp_path):
    stars = toy_sky(300).spectra
    write_store(tmp_path / "store", stars, sources=scattered(stars.source_id), rows_a_partition=60)
    first, second, *_ = (row_group.path for row_group in SpectrumStore(tmp_path / "store").row_groups)
    contents = first.read_bytes(), second.read_bytes()
    second.write_bytes(contents[0])
    with pytest.raises(StoreError, match=f"{second}: holds stars of another pixel than its name says"):
        SpectrumStore(tmp_path / "store").read()
    first.write_bytes(contents[1])
    with pytest.raises(StoreError, match="another pixel"):
        SpectrumStore(tmp_path / "store").read()


def test_a_partition_of_another_store_is_noticed_though_pixel_and_rows_are_the_same(tmp_path):
    stars = toy_sky(50).spectra
    for name, factor in (("a", 1.0), ("b", 1.5)):
        spectra = replace(stars, coeffs=stars.coeffs * factor)
        write_store(tmp_path / name, spectra, sources=scattered(stars.source_id))
    file = SpectrumStore(tmp_path / "a").row_groups[0].path
    other = tmp_path / "b" / file.relative_to(tmp_path / "a")
    own = file.read_bytes()
    file.write_bytes(other.read_bytes())
    with pytest.raises(
        StoreError, match=f"{file}: not the file that was written here, though of the same pixel"
    ):
        SpectrumStore(tmp_path / "a").read()
    file.write_bytes(own)
    assert len(SpectrumStore(tmp_path / "a").read()) == 50


def test_rows_that_the_metadata_do_not_count_are_noticed(tmp_path):
    write_store(tmp_path / "store", toy_sky(50).spectra)
    file = SpectrumStore(tmp_path / "store").row_groups[0].path
    pq.write_table(pq.read_table(file).slice(1), file)
    with pytest.raises(
        StoreError, match=r"\d+ rows; the catalogue's metadata say \d+: it was replaced or changed"
    ):
        SpectrumStore(tmp_path / "store").read()


def test_a_store_without_a_column_that_every_store_has_is_refused(tmp_path):
    write_store(tmp_path / "store", SKY.spectra.take(slice(0, 25)))
    rewrite(tmp_path / "store", lambda table: table.drop_columns(["quality_flags"]))
    with pytest.raises(StoreError, match="lacks columns that every store has; ingest again"):
        SpectrumStore(tmp_path / "store")
