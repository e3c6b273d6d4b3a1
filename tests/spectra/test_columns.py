import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from scattervae.spectra.columns import (
    flag_legend,
    label_columns,
    labels_from,
    list_array,
    spectra_from,
    store_schema,
    table_of,
)
from scattervae.spectra.flags import Flag
from toy import SMALL, toy_sky

SKY = toy_sky(5)


@pytest.mark.parametrize("correlations", [False, True])
def test_every_column_says_its_unit_and_what_it_holds(correlations):
    schema = store_schema(correlations=correlations)
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


def test_columns_carry_the_names_of_the_archive():
    names = table_of(SKY.spectra, SKY.labels).column_names
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
    found = list_array(values).to_pylist()
    for one, other in zip(found, expected, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            np.testing.assert_array_equal(one, other)


def test_no_rows_go_through_a_table_and_back():
    none = SKY.spectra.take(slice(0, 0))
    table = table_of(none, SKY.labels.aligned_to(none.source_id))
    back = spectra_from(table, SMALL)
    assert (len(back), back.coeffs.shape) == (0, (0, 11))
    assert labels_from(table).values.shape == (0, 4)


def test_sliced_tables_give_their_own_rows():
    """A row group is read as a slice of larger buffers."""
    table = table_of(SKY.spectra, SKY.labels)
    back = spectra_from(table.slice(2, 2), SMALL)
    np.testing.assert_array_equal(back.source_id, SKY.spectra.source_id[2:4])
    np.testing.assert_array_equal(back.coeffs, SKY.spectra.coeffs[2:4].astype(np.float32))
