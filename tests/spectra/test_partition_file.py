from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from scattervae.errors import StoreError
from scattervae.gaia.reading import load
from scattervae.spectra.columns import table_of
from scattervae.spectra.flags import Flag, GFluxSource
from scattervae.spectra.partition_file import is_partition_file, read_partition_file
from scattervae.spectra.sources import SourceColumns
from scattervae.spectra.spectra import Correlations
from scattervae.spectra.store import SpectrumStore
from spectra.stores import scattered, write_store
from toy import DR3, spoiled, toy_sky, with_own_g

SKY = toy_sky(30, basis=DR3)
SKY = replace(SKY, spectra=with_own_g(SKY.spectra))
SOURCES = scattered(SKY.spectra.source_id, ruwe=np.linspace(0.5, 2.0, 30))


def rich_stars():
    stars = spoiled(SKY.spectra).with_flags(np.full(30, Flag.INFERRED, dtype=np.uint16))
    pairs = np.random.default_rng(0).uniform(-1, 1, (30, 2970)).astype(np.float32)
    stars = replace(stars, correlations=Correlations(bp=pairs[:, :1485], rp=pairs[:, 1485:]))
    return stars.with_g_flux(np.full(30, 99.0), GFluxSource.COEFFICIENTS)


def first_file(folder, **what):
    write_store(folder, rich_stars(), labels=SKY.labels, rows_a_partition=10, **what)
    store = SpectrumStore(folder)
    return store.path_of(store.partitions[0]), store, slice(0, store.partitions[0].n_rows)


def check_same(found, expected):
    for name in ("source_id", "coeffs", "errors", "flags", "g_flux", "g_flux_source", "n_relevant_bases"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    assert found.basis == expected.basis


@pytest.mark.parametrize("measured", [True, False])
def test_a_partition_alone_holds_all_that_is_known_of_its_stars(tmp_path, measured):
    path, store, rows = first_file(tmp_path, correlations=True, sources=SOURCES if measured else None)
    assert is_partition_file(path)
    part = read_partition_file(path, correlations=True)
    expected = store.read().take(rows)
    check_same(part.spectra, expected)
    np.testing.assert_array_equal(part.spectra.correlations.rp, expected.correlations.rp)
    assert read_partition_file(path).spectra.correlations is None
    np.testing.assert_array_equal(part.labels.values, store.labels().take(rows).values)
    if not measured:
        assert part.sources.values == {}  # centres of pixels are no measured positions
    else:
        for name, values in SOURCES.aligned_to(expected.source_id).values.items():
            kept = values.astype(np.float32) if name == "ruwe" else values
            np.testing.assert_array_equal(part.sources.values[name], kept)


def test_it_is_read_wherever_a_file_is(tmp_path):
    path, store, rows = first_file(tmp_path)
    stars = load(path)
    check_same(stars.spectra, store.read().take(rows))
    assert (stars.kind, stars.sources.values) == ("store partition", {})


def test_other_files_are_none(tmp_path):
    (tmp_path / "text").write_text("PAR1 and no more")
    (tmp_path / "short").write_text("PA")
    pq.write_table(pa.table({"source_id": [1]}), tmp_path / "other.parquet")
    for name in ("text", "short", "other.parquet", "absent", "."):
        assert not is_partition_file(tmp_path / name)


def test_a_file_without_a_whole_star_is_refused(tmp_path):
    table = table_of(SKY.spectra.take(slice(0, 0)), SKY.labels.take(slice(0, 0)), SourceColumns.empty())
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(StoreError, match=r"a\.parquet: no star has coefficients of both bands"):
        read_partition_file(tmp_path / "a.parquet")


def test_a_torn_file_is_named(tmp_path):
    path, _, _ = first_file(tmp_path)
    content = path.read_bytes()
    path.write_bytes(content[:4] + b"\0" * (len(content) // 2) + content[4 + len(content) // 2 :])
    with pytest.raises(StoreError, match="cannot be read") as caught:
        read_partition_file(path)
    assert str(path) in str(caught.value)
