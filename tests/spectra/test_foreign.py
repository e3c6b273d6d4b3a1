from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from scattervae.errors import StoreError
from scattervae.gaia.reading import load
from scattervae.spectra.columns import table_of
from scattervae.spectra.foreign import is_partition_file, read_partition_file
from scattervae.spectra.hats import Partition, Positions, finish_catalogue, partition_path
from scattervae.spectra.spectra import Basis, Correlations, Flag, GFluxSource
from scattervae.spectra.star_tables import SourceColumns
from scattervae.spectra.store import SpectrumStore
from spectra.stores import scattered, write_store
from toy import DR3, SMALL, spoiled, toy_sky, with_own_g

SKY = toy_sky(24)
STARS = spoiled(SKY.spectra).take(np.delete(np.arange(24), 6))  # the duplicate
DR3_STARS = spoiled(toy_sky(24, basis=DR3).spectra).take(np.delete(np.arange(24), 6))


def lists(values, kind=None):
    """As most people write them: a row without a number is null."""
    kind = kind or pa.list_(pa.float64())
    return pa.array([None if np.isnan(row).all() else row.tolist() for row in values], kind)


def archive(stars, kind=None, **more):
    """Columns by the archive's names."""
    basis = stars.basis
    columns = {
        "source_id": stars.source_id,
        "ra": np.linspace(0, 20, len(stars)),
        "dec": np.zeros(len(stars)),
    }
    for band, where in (("bp", basis.bp), ("rp", basis.rp)):
        columns[f"{band}_coefficients"] = lists(stars.coeffs[:, where], kind)
        columns[f"{band}_coefficient_errors"] = lists(stars.errors[:, where], kind)
    return pa.table({**columns, "phot_g_mean_flux": pa.array(stars.g_flux, from_pandas=True), **more})


def multimodal(stars, *, nested):
    """The MultimodalUniverse: one list for both bands, text for identifiers, float32 positions."""
    coeff, error = (
        lists(np.nan_to_num(v, nan=np.nan), pa.list_(pa.float32())) for v in (stars.coeffs, stars.errors)
    )
    flux = pa.array(stars.g_flux.astype(np.float32), from_pandas=True)
    columns = {
        "object_id": pa.array([str(star) for star in stars.source_id]),
        "ra": pa.array(np.linspace(0, 20, len(stars)), pa.float32()),
        "dec": pa.array(np.zeros(len(stars)), pa.float32()),
    }
    if not nested:
        return pa.table({**columns, "coeff": coeff, "coeff_error": error, "phot_g_mean_flux": flux})
    spectra = pa.StructArray.from_arrays([coeff, error], names=["coeff", "coeff_error"])
    photometry = pa.StructArray.from_arrays([flux], names=["phot_g_mean_flux"])
    return pa.table({**columns, "spectral_coefficients": spectra, "photometry": photometry})


def catalogue(folder, table):
    """A HATS catalogue of two partitions that somebody else wrote."""
    table = table.add_column(0, "_healpix_29", pa.array(np.arange(len(table))))
    half = len(table) // 2
    partitions = [Partition(0, 0, half), Partition(0, 1, len(table) - half)]
    for part, rows in zip(partitions, (table[:half], table[half:]), strict=True):
        path = partition_path(folder, part.order, part.pixel)
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(rows, path, row_group_size=5)
    finish_catalogue(
        folder, name="other", schema=table.schema, partitions=partitions, positions=Positions.MEASURED
    )
    return folder


def check_same(found, stars, *, exact=True):
    np.testing.assert_array_equal(found.source_id, stars.source_id)
    np.testing.assert_array_equal(found.flags, stars.flags)
    for name in ("coeffs", "errors", "g_flux"):
        expected = getattr(stars, name) if exact else getattr(stars, name).astype(np.float32)
        np.testing.assert_array_equal(getattr(found, name), expected)


@pytest.mark.parametrize(
    "kind",
    [
        pa.list_(pa.float64()),
        pa.large_list(pa.float64()),
        pa.list_(pa.field("item", pa.float64(), nullable=False)),
    ],
)
def test_lists_by_the_archives_names_are_read(tmp_path, kind):
    store = SpectrumStore(catalogue(tmp_path, archive(STARS, kind)))
    assert (len(store), store.basis, store.entries) == (23, SMALL, ())
    check_same(store.read(), STARS)
    assert np.isnan(store.labels().values).all()
    assert SpectrumStore.is_store(tmp_path)


@pytest.mark.parametrize("nested", [False, True])
def test_the_multimodal_universe_is_read(tmp_path, nested):
    """A star with one band only has NaN for the other there, so half its list."""
    store = SpectrumStore(catalogue(tmp_path, multimodal(DR3_STARS, nested=nested)))
    assert store.basis == Basis(55, 55)
    check_same(store.read(), DR3_STARS, exact=False)


def test_one_list_of_another_size_than_dr3s_is_not_divided_by_guess(tmp_path):
    stars = toy_sky(24, basis=Basis(51, 55)).spectra
    with pytest.raises(StoreError, match=f"^{tmp_path}: 106 coefficients in one list of BP and RP; only 110"):
        SpectrumStore(catalogue(tmp_path, multimodal(stars, nested=False)))


def test_row_groups_hold_the_same_stars(tmp_path):
    store = SpectrumStore(catalogue(tmp_path, archive(STARS)))
    groups = [store.read_row_group(row_group) for row_group in store.row_groups]
    assert [row_group.n_rows for row_group in store.row_groups] == [5, 5, 1, 5, 5, 2]
    coeffs = np.concatenate([group.coeffs for group in groups])
    np.testing.assert_array_equal(coeffs, STARS.coeffs.astype(np.float32))
    assert sum(len(chunk) for chunk in store.chunks(7)) == 23


def test_flags_are_counted_from_the_stars(tmp_path):
    store = SpectrumStore(catalogue(tmp_path, archive(STARS)))
    assert store.flags == dict.fromkeys(
        ("MISSING_BP", "MISSING_RP", "BAD_COEFFS", "BAD_ERRORS", "NO_G_FLUX"), 1
    )


def test_what_else_the_archive_says_is_read_too(tmp_path):
    more = {
        "bp_basis_function_id": pa.array([56] * 23, pa.int16()),
        "rp_basis_function_id": pa.array([57] * 23, pa.int16()),
        "bp_n_relevant_bases": pa.array([None, *[3] * 22], pa.int16()),
        "teff": pa.array([5000.0, None, *[6000.0] * 21]),
        "teff_err": pa.array([50.0] * 23),
    }
    store = SpectrumStore(catalogue(tmp_path, archive(STARS, **more)))
    assert store.basis == Basis(6, 5, bp_id=56, rp_id=57)
    assert store.read().n_relevant_bases[:2].tolist() == [[-1, -1], [3, -1]]
    assert store.labels()["teff"][[0, 2]].tolist() == [5000.0, 6000.0]
    assert np.isnan(store.labels()["teff"][1])


def test_stars_of_another_basis_than_most_are_flagged(tmp_path):
    """Of a file with two ids none was known, and all stars were taken for those of any model of these sizes."""
    ids = {f"{band}_basis_function_id": pa.array([56, 56, 66] * 7 + [56] * 2) for band in ("bp", "rp")}
    store = SpectrumStore(catalogue(tmp_path, archive(STARS, **ids)))
    assert store.basis == Basis(6, 5, 56, 56)
    other = ids["bp_basis_function_id"].to_numpy() == 66
    flagged = (store.read().flags & np.uint16(Flag.BAD_COEFFS)) > 0
    assert flagged[other].all()
    assert flagged[~other].sum() == ((STARS.flags & np.uint16(Flag.BAD_COEFFS)) > 0)[~other].sum()


def test_a_flux_of_another_name_is_found(tmp_path):
    table = archive(STARS).rename_columns({"phot_g_mean_flux": "g_flux"})
    np.testing.assert_array_equal(SpectrumStore(catalogue(tmp_path, table)).read().g_flux, STARS.g_flux)


def test_lists_of_another_length_and_holes_in_them_are_flagged(tmp_path):
    table = archive(STARS)
    coeffs = table["bp_coefficients"].to_pylist()
    coeffs[10] = coeffs[10][:3]
    coeffs[11][2] = None
    table = table.set_column(3, "bp_coefficients", pa.array(coeffs))
    flags = SpectrumStore(catalogue(tmp_path, table)).read().flags
    assert flags[10] & Flag.BAD_COEFFS
    assert flags[11] == Flag.BAD_COEFFS
    assert (np.delete(flags, [10, 11]) == np.delete(STARS.flags, [10, 11])).all()


@pytest.mark.parametrize(
    ("dropped", "lacking"),
    [
        (["phot_g_mean_flux"], "phot_g_mean_flux or g_flux"),
        (["source_id"], "source_id or object_id"),
        (
            ["rp_coefficients", "bp_coefficient_errors"],
            r"bp_coefficient_errors, rp_coefficients \(or coeff and coeff_error\)",
        ),
    ],
)
def test_a_catalogue_without_what_is_needed_is_refused(tmp_path, dropped, lacking):
    catalogue(tmp_path, archive(STARS).drop_columns(dropped))
    assert not SpectrumStore.is_store(tmp_path)
    with pytest.raises(StoreError, match=f"columns _healpix_29, .* but without {lacking}") as caught:
        SpectrumStore(tmp_path)
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_a_catalogue_in_which_no_star_has_both_bands_is_refused(tmp_path):
    bands = STARS.take(np.array([0, 1]))
    catalogue(tmp_path, archive(bands))
    with pytest.raises(StoreError, match="no star has coefficients"):
        SpectrumStore(tmp_path)


def test_its_digest_follows_its_files(tmp_path):
    digests = [
        SpectrumStore(catalogue(tmp_path / name, archive(STARS.take(slice(0, n))))).digest
        for name, n in (("a", 23), ("b", 23), ("c", 22))
    ]
    assert digests[0] == digests[1] != digests[2]


def test_a_store_that_lost_its_manifest_keeps_what_it_knows_of_its_stars(tmp_path):
    """As when others write a selection of a store's rows as a catalogue of their own."""
    stars = toy_sky(24, basis=DR3).spectra
    stars = stars.with_flags(np.full(24, Flag.INFERRED, dtype=np.uint16))
    write_store(tmp_path, stars, sources=scattered(stars.source_id), labels=SKY.labels, rows_a_partition=6)
    whole = SpectrumStore(tmp_path)
    expected, labels = whole.read(), whole.labels()
    (tmp_path / "manifest.json").unlink()
    store = SpectrumStore(tmp_path)
    assert (store.basis, store.entries, store.flags) == (DR3, (), {"INFERRED": 24})
    check_same(store.read(), expected)
    np.testing.assert_array_equal(store.labels().values, labels.values)


PART_SKY = toy_sky(30, basis=DR3)
PART_SKY = replace(PART_SKY, spectra=with_own_g(PART_SKY.spectra))
SOURCES = scattered(PART_SKY.spectra.source_id, ruwe=np.linspace(0.5, 2.0, 30))


def rich_stars():
    stars = spoiled(PART_SKY.spectra).with_flags(np.full(30, Flag.INFERRED, dtype=np.uint16))
    pairs = np.random.default_rng(0).uniform(-1, 1, (30, 2970)).astype(np.float32)
    stars = replace(stars, correlations=Correlations(bp=pairs[:, :1485], rp=pairs[:, 1485:]))
    return stars.with_g_flux(np.full(30, 99.0), GFluxSource.COEFFICIENTS)


def first_file(folder, **what):
    write_store(folder, rich_stars(), labels=PART_SKY.labels, rows_a_partition=10, **what)
    store = SpectrumStore(folder)
    return store.path_of(store.partitions[0]), store, slice(0, store.partitions[0].n_rows)


def check_all_columns(found, expected):
    for name in ("source_id", "coeffs", "errors", "flags", "g_flux", "g_flux_source", "n_relevant_bases"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    assert found.basis == expected.basis


@pytest.mark.parametrize("measured", [True, False])
def test_a_partition_alone_holds_all_that_is_known_of_its_stars(tmp_path, measured):
    path, store, rows = first_file(tmp_path, correlations=True, sources=SOURCES if measured else None)
    assert is_partition_file(path)
    part = read_partition_file(path, correlations=True)
    expected = store.read().take(rows)
    check_all_columns(part.spectra, expected)
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
    check_all_columns(stars.spectra, store.read().take(rows))
    assert (stars.kind, stars.sources.values) == ("store partition", {})


def test_other_files_are_none(tmp_path):
    (tmp_path / "text").write_text("PAR1 and no more")
    (tmp_path / "short").write_text("PA")
    pq.write_table(pa.table({"source_id": [1]}), tmp_path / "other.parquet")
    for name in ("text", "short", "other.parquet", "absent", "."):
        assert not is_partition_file(tmp_path / name)


def test_a_file_without_a_whole_star_is_refused(tmp_path):
    table = table_of(
        PART_SKY.spectra.take(slice(0, 0)), PART_SKY.labels.take(slice(0, 0)), SourceColumns.empty()
    )
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
