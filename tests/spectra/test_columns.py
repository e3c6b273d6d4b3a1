from pathlib import Path

import astropy.units as u
import cdshealpix.nested
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from scattervae.spectra.columns import (
    QUALITY_COLUMNS,
    conformed,
    flag_legend,
    flattened,
    in_sky_order,
    joint_schema,
    label_columns,
    labels_from,
    leaves,
    list_array,
    list_matrix,
    spectra_columns,
    spectra_from,
    store_schema,
    stored_columns,
    stored_from,
    stored_of,
    table_of,
)
from scattervae.spectra.hats import Positions
from scattervae.spectra.spectra import Flag
from scattervae.spectra.star_tables import SourceColumns
from spectra.stores import scattered
from toy import DR3, SMALL, spoiled, toy_sky

SKY = toy_sky(5)
NOWHERE = SourceColumns.empty()


@pytest.mark.parametrize("correlations", [False, True])
def test_every_column_says_its_unit_and_what_it_holds(correlations):
    schema = store_schema(correlations=correlations, quality=QUALITY_COLUMNS)
    for field in schema:
        assert set(field.metadata) == {b"unit", b"description"}
        assert field.metadata[b"description"]
    units = {field.name: field.metadata[b"unit"].decode() for field in schema}
    assert units["bp_coefficients"] == units["rp_coefficient_errors"] == "electron/s in the basis"
    assert units["phot_g_mean_flux"] == "electron/s"
    assert (units["teff"], units["teff_err"], units["logg"], units["fe_h"]) == (
        "K",
        "K",
        "dex(cm s-2)",
        "dex",
    )
    assert ("rp_coefficient_correlations" in schema.names) == correlations
    assert schema.field("source_id").type == pa.int64()


def test_the_legend_of_flags_names_every_bit():
    legend = flag_legend()
    assert all(f"{flag.value} {flag.name}: {flag.meaning}" in legend for flag in Flag)
    assert "\n" not in legend


def test_the_documentation_names_every_column():
    text = (Path(__file__).parents[2] / "docs" / "reference" / "store.md").read_text(encoding="utf-8")
    names = store_schema(correlations=True, quality=QUALITY_COLUMNS).names
    assert [name for name in names if f"`{name.removesuffix('_err')}`" not in text] == []


def test_columns_carry_the_names_of_the_archive():
    names = table_of(SKY.spectra, SKY.labels, NOWHERE).column_names
    archive = ["source_id", "phot_g_mean_flux"] + [
        f"{band}_{column}"
        for band in ("bp", "rp")
        for column in ("coefficients", "coefficient_errors", "n_relevant_bases")
    ]
    assert set(archive) <= set(names)
    assert set(label_columns()) <= set(names)


@given(arrays(np.float64, (6, 3), elements=st.floats(width=32)), st.sets(st.integers(0, 5)))
def test_rows_become_lists_and_rows_without_a_number_become_null(values, missing):
    values[list(missing)] = np.nan
    expected = [None if np.isnan(row).all() else row.tolist() for row in values]
    lists = list_array(values)
    found = lists.to_pylist()
    for one, other in zip(found, expected, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            np.testing.assert_array_equal(one, other)


@given(arrays(np.float64, (6, 3), elements=st.floats(width=32)), st.sets(st.integers(0, 5)), st.booleans())
def test_lists_become_rows_again(values, missing, chunked):
    values[list(missing)] = np.nan
    lists = list_array(values)
    column = pa.chunked_array([lists[:2], lists[2:]] if chunked else [lists])
    np.testing.assert_array_equal(list_matrix(column, 3), values.astype(np.float32))


def test_whole_lists_are_read_without_a_copy():
    lists = list_array(np.ones((4, 3)))
    matrix = list_matrix(pa.chunked_array([lists]), 3)
    assert matrix.__array_interface__["data"][0] == lists.flatten().buffers()[1].address


def test_positions_and_pixels_belong_together():
    sources = scattered(SKY.spectra.source_id)
    table = table_of(SKY.spectra, SKY.labels, sources)
    np.testing.assert_array_equal(table["ra"], sources.values["ra"])
    np.testing.assert_array_equal(table["dec"], sources.values["dec"])
    pixels = cdshealpix.nested.lonlat_to_healpix(
        table["ra"].to_numpy() * u.deg, table["dec"].to_numpy() * u.deg, 29
    )
    np.testing.assert_array_equal(table["_healpix_29"], pixels.astype(np.int64))


def test_without_positions_the_pixels_of_the_source_ids_stand_for_them():
    table = table_of(SKY.spectra, SKY.labels, NOWHERE)
    np.testing.assert_array_equal(table["_healpix_29"].to_numpy() >> 34, SKY.spectra.source_id >> 35)
    texts = {
        positions: store_schema(correlations=False, positions=positions).field("ra").metadata[b"description"]
        for positions in Positions
    }
    assert texts[Positions.PIXEL_CENTRES].startswith(b"approximate")
    assert texts[Positions.MEASURED].startswith(b"right ascension")
    assert table.schema.field("ra").metadata[b"description"] == texts[Positions.PIXEL_CENTRES]


def test_quality_columns_are_kept_but_the_g_flux_is_the_stars_own():
    quality = {"ruwe": np.array([1.0, 1.5, np.nan, 2.0, 1.0]), "phot_g_mean_flux": np.ones(5)}
    table = table_of(SKY.spectra, SKY.labels, scattered(SKY.spectra.source_id, **quality))
    assert table["ruwe"].to_pylist() == [1.0, 1.5, None, 2.0, 1.0]
    assert table.schema.field("ruwe").type == pa.float32()
    np.testing.assert_array_equal(table["phot_g_mean_flux"], SKY.spectra.g_flux)
    assert "parallax" not in table.column_names


@pytest.mark.parametrize("basis", [SMALL, DR3])
def test_each_star_names_its_basis(basis):
    sky = toy_sky(3, basis=basis)
    table = table_of(sky.spectra, sky.labels, NOWHERE)
    assert table["bp_basis_function_id"].to_pylist() == [basis.bp_id] * 3
    assert table["rp_basis_function_id"].to_pylist() == [basis.rp_id] * 3


def test_rows_are_ordered_by_pixel_then_by_source_id():
    index = pa.array([5, 3, 5, 3])
    table = pa.table({"_healpix_29": index, "source_id": pa.array([2, 9, 1, 8])})
    assert in_sky_order(table).to_pydict() == {"_healpix_29": [3, 3, 5, 5], "source_id": [8, 9, 1, 2]}
    in_order = in_sky_order(table)
    assert in_sky_order(in_order) is in_order


def test_a_schema_of_several_has_the_columns_of_all():
    quality = {"ruwe": np.ones(5)}
    plain = table_of(SKY.spectra, SKY.labels, scattered(SKY.spectra.source_id))
    richer = table_of(SKY.spectra, SKY.labels, scattered(SKY.spectra.source_id, **quality))
    schema = joint_schema([plain.schema, richer.schema], Positions.MEASURED)
    assert schema.equals(richer.schema, check_metadata=True)
    filled = conformed(plain, schema)
    assert filled["ruwe"].to_pylist() == [None] * 5
    assert filled.drop_columns(["ruwe"]).equals(plain)


def test_a_block_is_the_same_stars_in_float32():
    sky = toy_sky(12)
    stars = spoiled(sky.spectra)
    table = table_of(stars, sky.labels, NOWHERE)
    block = stored_from(table.select(stored_columns()), SMALL)
    whole = spectra_from(table.select(spectra_columns(correlations=False)), SMALL)
    for other in (block, stored_of(stars), stored_of(whole)):
        np.testing.assert_array_equal(other.source_id, stars.source_id)
        np.testing.assert_array_equal(other.coeffs, stars.coeffs.astype(np.float32))
        np.testing.assert_array_equal(other.errors, stars.errors.astype(np.float32))
        np.testing.assert_array_equal(other.g_flux, stars.g_flux)
        np.testing.assert_array_equal(other.g_flux_source, stars.g_flux_source)
        np.testing.assert_array_equal(other.flags, stars.flags)


def test_no_rows_go_through_a_table_and_back():
    none = SKY.spectra.take(slice(0, 0))
    table = table_of(none, SKY.labels.aligned_to(none.source_id), NOWHERE)
    back = spectra_from(table, SMALL)
    assert (len(back), back.coeffs.shape) == (0, (0, 11))
    assert labels_from(table).values.shape == (0, 5)


def test_sliced_tables_give_their_own_rows():
    """A row group is read as a slice of larger buffers."""
    table = table_of(SKY.spectra, SKY.labels, NOWHERE)
    back = spectra_from(table.slice(2, 2), SMALL)
    np.testing.assert_array_equal(back.source_id, SKY.spectra.source_id[2:4])
    np.testing.assert_array_equal(back.coeffs, SKY.spectra.coeffs[2:4].astype(np.float32))


def test_structs_are_taken_apart_however_deep():
    inner = pa.StructArray.from_arrays([pa.array([1, 2]), pa.array([[0.5], None])], ["n", "values"])
    table = pa.table(
        {"source_id": [7, 8], "bp": pa.StructArray.from_arrays([inner, pa.array([3, 4])], ["spec", "m"])}
    )
    flat = flattened(table)
    assert leaves(table.schema) == flat.column_names == ["source_id", "bp.spec.n", "bp.spec.values", "bp.m"]
    assert flat["bp.spec.values"].to_pylist() == [[0.5], None]
    assert flattened(flat).equals(flat)
