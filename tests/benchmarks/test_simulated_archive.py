"""Simulated bulk files, read by pandas, astropy and our own reader, against what they were made from."""

import csv
import gzip
import json
import re
from io import BytesIO

import numpy as np
import pandas as pd
import pytest
from astropy.table import Table
from cdshealpix.nested import lonlat_to_healpix
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated_archive.gzip_splice import Cell, SplicedGzip
from simulated_archive.sky import FileRange, file_range, place
from simulated_archive.sources_file import COLUMNS as SOURCE_COLUMNS
from simulated_archive.sources_file import Filler, Sources, write_sources
from simulated_archive.spectra_file import COLUMNS, CorrelationPool, Correlations, header, write_spectra
from simulated_archive.stars import BRIGHTEST, FAINTEST, StarMaker
from simulated_archive.text import java
from simulated_archive.writing import jobs

from scattervae.gaia.bulk.reading import read_bulk
from scattervae.gaia.facts import G_ZERO_POINT
from scattervae.gaia.source_join import is_bulk_sources, read_sources
from toy import DR3, toy_sky, untrained_model

N = 40


@pytest.fixture(scope="module")
def placed():
    return place(file_range(7), N, np.random.default_rng(0))


@pytest.fixture(scope="module")
def maker():
    sky = toy_sky(200, basis=DR3)
    return StarMaker.like(untrained_model(sky.spectra), sky.spectra)


@pytest.fixture(scope="module")
def drawn(maker):
    return maker.draw(N, seed=3)


@pytest.fixture(scope="module")
def correlations():
    rng = np.random.default_rng(1)
    return Correlations.draw([CorrelationPool.make(rng, 6) for _ in range(2)], N, rng)


@pytest.fixture(scope="module")
def spectra_file(tmp_path_factory, placed, drawn, correlations):
    path = tmp_path_factory.mktemp("bulk") / "XpContinuousMeanSpectrum_001624-001855.csv.gz"
    with path.open("wb") as file:
        write_spectra(file, placed, drawn, correlations, rng=np.random.default_rng(2))
    return path


@given(texts=st.lists(st.tuples(st.booleans(), st.binary(max_size=200)), max_size=20))
def test_spliced_gzip_is_gzip(texts):
    file = BytesIO()
    with SplicedGzip(file) as out:
        for spliced, text in texts:
            if spliced:
                out.splice(Cell.of(text))
            else:
                out.write(text)
    assert gzip.decompress(file.getvalue()) == b"".join(text for _, text in texts)


@settings(max_examples=300)
@given(value=st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_floats_as_java_writes_them_are_the_same_floats(value):
    assert np.float32(java(np.float32(value))) == np.float32(value)


def test_floats_of_the_archive():
    for text in ("0.11844608", "-0.14125401", "5.521873E-4", "-0.006293104", "0.0"):
        assert java(np.float32(text)) == text


def test_spectra_as_pandas_reads_them(spectra_file, placed, drawn, correlations):
    table = pd.read_csv(spectra_file, comment="#")
    assert tuple(table) == COLUMNS
    assert table["source_id"].tolist() == placed.source_id.tolist()
    for index, band in enumerate(("bp", "rp")):
        own = slice(55 * index, 55 * (index + 1))
        arrays = {
            name: np.array(table[f"{band}_{name}"].map(json.loads).tolist())
            for name in ("coefficients", "coefficient_errors", "coefficient_correlations")
        }
        np.testing.assert_array_equal(arrays["coefficients"], drawn.coeffs[:, own])
        np.testing.assert_array_equal(
            arrays["coefficient_errors"].astype(np.float32), drawn.errors[:, own].astype(np.float32)
        )
        expected = correlations.pools[index].values[correlations.chosen[:, index]]
        np.testing.assert_array_equal(arrays["coefficient_correlations"].astype(np.float32), expected)
        freedom = table[f"{band}_degrees_of_freedom"]
        np.testing.assert_allclose(
            np.sqrt(table[f"{band}_chi_squared"] / freedom), table[f"{band}_standard_deviation"], rtol=1e-5
        )
        assert (table[f"{band}_n_measurements"] == freedom + 55).all()


def test_spectra_as_our_reader_and_astropy_read_them(spectra_file, placed, drawn):
    (chunk,) = read_bulk(spectra_file, correlations=True)
    assert not chunk.skipped
    np.testing.assert_array_equal(chunk.spectra.coeffs, drawn.coeffs)
    assert chunk.spectra.basis == DR3
    plain = spectra_file.with_suffix("")
    plain.write_bytes(gzip.decompress(spectra_file.read_bytes()))
    table = Table.read(plain, format="ascii.ecsv")
    assert table["source_id"].tolist() == placed.source_id.tolist()
    assert [len(row) for row in table["rp_coefficient_correlations"]] == [1485] * N


def test_the_header_is_the_archive_s(formats):
    with gzip.open(formats / "XpContinuousMeanSpectrum_000000-003111.csv.gz", "rt") as file:
        lines = file.read().splitlines()

    def named(text):
        return re.findall(r"#   (?:name|datatype|subtype): .*", "\n".join(text))

    assert named(header().decode().splitlines()) == named(lines)
    (names,) = [line for line in lines if line.startswith("source_id,")]
    assert tuple(next(csv.reader([names]))) == COLUMNS


def test_correlations_are_those_of_some_covariance(correlations):
    for pool in correlations.pools:
        for values in pool.values:
            matrix = np.eye(55)
            matrix[np.tril_indices(55, -1)] = values
            assert np.linalg.eigvalsh(matrix, UPLO="L").min() > 0
        assert 0.05 < np.std(pool.values) < 0.2


def test_sources_as_python_reads_them(tmp_path, placed):
    rng = np.random.default_rng(4)
    g_mag = rng.uniform(10, 20, N)
    known = rng.random(N) < 0.3
    path = tmp_path / "GaiaSource_001624-001855.csv.gz"
    with path.open("wb") as file:
        write_sources(file, Sources(placed, g_mag, known), Filler.make(rng, 9), rng)
    with gzip.open(path, "rt") as file:
        rows = list(csv.reader(line for line in file if not line.startswith("#")))
    table = pd.DataFrame(rows[1:], columns=rows[0])
    assert tuple(table) == SOURCE_COLUMNS
    assert len(SOURCE_COLUMNS) == 152
    assert table["source_id"].map(int).tolist() == placed.source_id.tolist()
    assert table["designation"].tolist() == [f"Gaia DR3 {i}" for i in placed.source_id]
    for name in ("ra", "dec"):
        np.testing.assert_array_equal(table[name].map(float), getattr(placed, name))
    np.testing.assert_allclose(table["phot_g_mean_flux"].map(float), 10 ** (0.4 * (G_ZERO_POINT - g_mag)))
    assert table["has_xp_continuous"].eq("True").tolist() == known.tolist()
    assert is_bulk_sources(path)
    read = read_sources(path)
    np.testing.assert_array_equal(read.values["dec"], placed.dec)
    assert {name for name, values in read.values.items() if np.isnan(values).any()} == set()


def test_source_ids_positions_and_file_names_say_the_same(placed):
    pixels = file_range(7)
    assert (pixels.first, pixels.last, pixels.stem) == (1624, 1855, "001624-001855")
    assert ((placed.source_id >> 43 >= 1624) & (placed.source_id >> 43 <= 1855)).all()
    pixel = lonlat_to_healpix(*(np.radians(a) * _rad() for a in (placed.ra, placed.dec)), 12)
    np.testing.assert_array_equal(pixel, placed.source_id >> 35)
    assert (np.diff(placed.source_id) > 0).all()


def _rad():
    from astropy.units import rad

    return rad


def test_errors_grow_with_the_root_of_the_flux(maker, drawn):
    many = maker.draw(3000, seed=5)
    relative = maker.errors / np.sqrt(maker.g_flux)[:, None]
    rows = {tuple(np.round(row, 9)) for row in relative}
    assert {tuple(np.round(row, 9)) for row in many.errors / np.sqrt(many.g_flux)[:, None]} <= rows
    assert BRIGHTEST <= many.g_mag.min() < many.g_mag.max() <= FAINTEST
    again = maker.draw(N, seed=3)
    np.testing.assert_array_equal(again.coeffs, drawn.coeffs)


@given(n=st.integers(1, 10_000), size=st.integers(1, 3000))
def test_files_share_out_all_stars(n, size):
    wanted = list(jobs(n, size, 2.5))
    assert sum(job.n_stars for job in wanted) == n
    assert [job.index for job in wanted] == list(range(len(wanted)))
    assert all(job.n_stars == size for job in wanted[:-1])
    assert FileRange(0, 231) == file_range(0)
