"""The archive's single downloads of sampled spectra, a row for each wavelength; truth from its other forms."""

import numpy as np
import pandas as pd
import pytest
from astropy.table import Table
from files_toys import write

from scattervae.errors import DataError
from scattervae.gaia.files.reading import read_file, read_table

SINGLE = "XP_SAMPLED-Gaia DR3 5853498713190525696"


@pytest.mark.parametrize("end", ["csv", "ecsv", "fits", "xml"])
def test_single_downloads(faults, formats, end):
    contents = read_file(faults / f"{SINGLE}.{end}")
    stars = contents.stars
    assert contents.skipped == ()
    assert stars.source_id.tolist() == [5853498713190525696]
    np.testing.assert_array_equal(stars.grid_nm, np.arange(336.0, 1021.0, 2.0))
    # the same star in the archive's RAW form, of single precision, under GaiaXPy's number for it
    with_arrays = read_file(formats / "XP_SAMPLED_RAW_dr3int6.fits").stars
    np.testing.assert_allclose(stars.flux[0], with_arrays.flux[0], rtol=2e-7)
    np.testing.assert_allclose(stars.errors[0], with_arrays.errors[0], rtol=2e-6)


@pytest.fixture
def frame():
    """Two stars with 343 wavelengths each, the second first."""
    rng = np.random.default_rng(3)
    wavelength = np.arange(336.0, 1021.0, 2.0)
    parts = [
        pd.DataFrame({"source_id": star, "ra": 10.0, "dec": 5.0, "wavelength": wavelength})
        for star in (5853498713190525697, 7)
    ]
    frame = pd.concat(parts, ignore_index=True)
    frame["flux"] = rng.normal(1e-16, 1e-17, len(frame))
    frame["flux_error"] = rng.uniform(1e-18, 2e-18, len(frame))
    return frame


def flux_of(frame, star):
    return frame[frame["source_id"] == star].sort_values("wavelength")["flux"]


def test_combined_downloads_in_any_order(tmp_path, frame):
    mixed = frame.sample(frac=1.0, random_state=1)
    first = [5853498713190525697, 7] if mixed["source_id"].iloc[0] != 7 else [7, 5853498713190525697]
    path = write(tmp_path, mixed.to_csv(index=False))
    for contents in (read_file(path), read_table(mixed), read_table(Table.from_pandas(mixed))):
        assert contents.stars.source_id.tolist() == first
        for row, star in enumerate(first):
            np.testing.assert_array_equal(contents.stars.flux[row], flux_of(frame, star))
        assert contents.sources.source_id.tolist() == first


def test_a_star_twice_is_one_duplicate(frame):
    stars = read_table(pd.concat([frame, frame[frame["source_id"] == 7]])).stars
    assert stars.source_id.tolist() == [5853498713190525697, 7, 7]
    assert stars.flags.tolist()[:2] == [0, 0]
    assert stars.flags[2] > 0


def test_rows_that_cannot_be_used(tmp_path, frame):
    text = frame.astype(str)
    text.loc[4, "source_id"] = "?"
    text.loc[343 + 9, "wavelength"] = ""
    more = pd.concat(
        [text, text[343:].assign(source_id="9", wavelength=frame["wavelength"][343:].astype(str))]
    )
    more = pd.concat([more, more[-343:].assign(source_id="11")])
    contents = read_file(write(tmp_path, more.to_csv(index=False)))
    assert contents.stars.source_id.tolist() == [9, 11]
    assert [(s.row, s.reason) for s in contents.skipped] == [
        (2, "a star of 342 wavelengths; most have 343, or others"),
        (6, "source_id is no integer: ?"),
        (345, "a star of 342 wavelengths; most have 343, or others"),
        (354, "wavelength is no number: "),
    ]


def test_identifier_in_the_name_alone(tmp_path, frame):
    one = frame[frame["source_id"] == 7].drop(columns="source_id")
    path = write(tmp_path, one.to_csv(index=False), name="XP_SAMPLED-Gaia DR3 5853498713190525696.csv")
    assert read_file(path).stars.source_id.tolist() == [5853498713190525696]
    with pytest.raises(DataError, match="lacks source_id"):
        read_file(write(tmp_path, one.to_csv(index=False)))
