"""What a file says of its numbers is used: units, wavelengths, padding, forms of correlations; and what no id is."""

import json
import warnings

import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy import units as u
from astropy.table import Table
from files_toys import HEADER, ToyStars, csv_of, set_cell, write

from scattervae.errors import DataError
from scattervae.gaia.bulk.reading import read_bulk
from scattervae.gaia.files.reading import read_file, read_labels_file, read_sources_file, read_table
from scattervae.gaia.reading import load
from scattervae.spectra.spectra import Flag

G_OF = "phot_g_mean_mag"


def table_of(toy: ToyStars, **more: object) -> Table:
    return Table({**toy.columns(), **more})


def saved(table: Table, path):
    """The same table in a file of the kind that the name says."""
    if path.suffix == ".parquet":
        columns = {name: pa.array(list(np.asarray(table[name]))) for name in table.colnames}
        fields = [
            pa.field(name, column.type, metadata={"unit": str(table[name].unit or "")})
            for name, column in columns.items()
        ]
        pq.write_table(pa.table(list(columns.values()), schema=pa.schema(fields)), path)
    elif path.suffix == ".hdf5":
        with h5py.File(path, "w") as file:
            for name in table.colnames:
                file[name] = np.asarray(table[name])
                file[name].attrs["unit"] = str(table[name].unit or "")
    else:
        with warnings.catch_warnings(action="ignore"):  # VOTable would rather have g cm2 s-2 than erg
            table.write(path, format={".vot": "votable", ".ecsv": "ascii.ecsv", ".fits": "fits"}[path.suffix])
    return path


class TestUnits:
    @pytest.mark.parametrize("name", ["cgs.fits", "cgs.ecsv"])
    def test_flux_in_cgs(self, faults, name):
        si, cgs = read_file(faults / "si.fits").stars, read_file(faults / name).stars
        np.testing.assert_allclose(cgs.flux, si.flux, rtol=1e-12)
        np.testing.assert_allclose(cgs.errors, si.errors, rtol=1e-12)
        found, wanted = load(faults / name).spectra, load(faults / "si.fits").spectra
        size = np.abs(wanted.coeffs).max(axis=1, keepdims=True)
        np.testing.assert_allclose(found.coeffs / size, wanted.coeffs / size, atol=1e-6)
        np.testing.assert_allclose(found.errors, wanted.errors, rtol=1e-6)
        np.testing.assert_allclose(
            25.6873668671 - 2.5 * np.log10(found.g_flux), [8.954, 13.172], atol=0.01
        )  # the synthetic one, before correction

    @pytest.mark.parametrize("kind", ["vot", "ecsv", "fits", "parquet", "hdf5"])
    def test_every_kind_of_file(self, tmp_path, kind):
        rng = np.random.default_rng(0)
        flux, errors = rng.normal(size=(2, 343)), rng.uniform(1, 2, (2, 343))
        unit = u.Unit("erg / (Angstrom s cm2)")
        toy = Table({"source_id": ToyStars(n=2).source_id, "flux": flux * unit, "flux_error": errors * unit})
        stars = read_file(saved(toy, tmp_path / f"spectra.{kind}")).stars
        np.testing.assert_allclose(stars.flux, flux * 1e-2, rtol=1e-14)
        np.testing.assert_allclose(stars.errors, errors * 1e-2, rtol=1e-14)

    def test_magnitudes_angles_and_labels(self, tmp_path):
        toy = ToyStars(n=2)
        table = table_of(
            toy,
            phot_g_mean_mag=[12_000.0, 13_000.0] * u.mmag,
            ra=[1.0, 2.0] * u.rad,
            dec=[3600.0, -7200.0] * u.arcsec,
            teff=[5.0, 6.0] * u.kK,
            logg=u.Dex([2.0, 2.5], "dex(m/s2)"),
            fe_h=[-0.1, 0.2] * u.dex,
        )
        contents = read_table(table)
        np.testing.assert_allclose(
            contents.stars.g_flux, 10 ** (0.4 * (25.6873668671 - np.array([12.0, 13.0])))
        )
        np.testing.assert_allclose(
            contents.labels.values[:, :3], [[5000, 4.0, -0.1], [6000, 4.5, 0.2]], rtol=1e-12
        )
        np.testing.assert_allclose(contents.sources.values["ra"], np.degrees([1.0, 2.0]))
        np.testing.assert_allclose(contents.sources.values["dec"], [1.0, -2.0])
        path = saved(table, tmp_path / "table.ecsv")
        np.testing.assert_allclose(read_labels_file(path).values, contents.labels.values)
        np.testing.assert_allclose(read_sources_file(path).values["ra"], np.degrees([1.0, 2.0]))

    @pytest.mark.parametrize("unit", ["electron / s", "'electron'.s**-1", "electron.s-1", ""])
    def test_the_archives_own_spellings_change_no_bit(self, tmp_path, unit):
        toy = ToyStars(n=2)
        lines = table_of(toy, phot_g_mean_flux=[1e4, 2e4])
        path = saved(lines, tmp_path / "table.hdf5")
        with h5py.File(path, "a") as file:
            file["phot_g_mean_flux"].attrs["unit"] = unit
        assert read_file(path).stars.g_flux.tolist() == [1e4, 2e4]

    @pytest.mark.parametrize("unit", ["Jy", "furlong"])
    def test_what_cannot_be_converted_is_one_line(self, tmp_path, unit):
        path = saved(table_of(ToyStars(n=2), phot_g_mean_flux=[1e4, 2e4]), tmp_path / "table.hdf5")
        with h5py.File(path, "a") as file:
            file["phot_g_mean_flux"].attrs["unit"] = unit
        with pytest.raises(
            DataError, match=f"column phot_g_mean_flux is in '{unit}', which cannot be converted to"
        ):
            read_file(path)


class TestWavelengths:
    @pytest.mark.parametrize("kind", ["csv", "ecsv", "fits"])
    def test_another_grid_of_343_points(self, faults, kind):
        path = faults / f"grid343other.{kind}"
        grid_nm = np.array(
            json.loads(f"[{(faults / 'grid343other_sampling.csv').read_text().split('(')[1].split(')')[0]}]")
        )
        np.testing.assert_allclose(read_file(path).stars.grid_nm, grid_nm, rtol=1e-12)
        stars = load(path)
        published = load(faults.parent / "data/formats/XP_CONTINUOUS_RAW.csv").spectra
        row = [published.source_id.tolist().index(star) for star in stars.spectra.source_id]
        away = np.abs(stars.spectra.coeffs - published.coeffs[row]) / published.errors[row]
        assert np.median(away) < 1.0
        assert "on other wavelengths" in stars.note

    def test_a_votable_gives_them_as_a_parameter(self, tmp_path, faults):
        from astropy.io import votable

        table = Table.read(faults / "grid343other.ecsv")
        grid_nm = table.meta.pop("sampling")
        made = votable.from_table(table)
        inner = made.get_first_table()
        inner.params.append(
            votable.tree.Param(
                made,
                name="sampling",
                ID="_sampling",
                datatype="double",
                arraysize="*",
                unit="nm",
                value=grid_nm,
            )
        )
        made.to_xml(str(tmp_path / "spectra.xml"))
        np.testing.assert_allclose(read_file(tmp_path / "spectra.xml").stars.grid_nm, grid_nm)

    def test_without_them_the_file_is_refused(self, faults, tmp_path):
        alone = write(tmp_path, (faults / "grid343other.csv").read_text(), name="alone.csv")
        with pytest.raises(
            DataError, match=r"alone.csv: sampled spectra are not Gaia's on 343 points from 336 to 1020 nm"
        ):
            load(alone)
        short = write(tmp_path, (faults / "grid126.csv").read_text(), name="short.csv")
        with pytest.raises(DataError, match="column flux holds 126 values per star; expected 343"):
            load(short)

    def test_any_number_of_wavelengths(self, faults):
        stars = load(faults / "grid126.csv")
        assert stars.spectra.usable.all()
        assert len(read_file(faults / "grid126.csv").stars.grid_nm) == 126

    def test_a_column_of_them(self, faults):
        table = Table.read(faults / "grid343other.ecsv")
        grid_nm = np.array(table.meta.pop("sampling"))
        table["wavelength"] = np.tile(grid_nm * 10, (2, 1)) * u.Angstrom
        np.testing.assert_allclose(read_table(table).stars.grid_nm, grid_nm)
        table["wavelength"][1] *= 1.001
        with pytest.raises(DataError, match="rows 1 and 2 have other wavelengths"):
            read_table(table)

    def test_a_companion_that_holds_none_is_named(self, faults, tmp_path):
        path = write(tmp_path, (faults / "grid126.csv").read_text(), name="short.csv")
        write(tmp_path, "pos\nnothing\n", name="short_sampling.csv")
        with pytest.raises(DataError, match=r"short_sampling.csv beside it holds no list of wavelengths"):
            load(path)


class TestIdentifiers:
    @pytest.mark.parametrize("dtype", [np.int32, np.uint32])
    def test_columns_of_32_bits_are_refused(self, tmp_path, dtype):
        toy = ToyStars(n=3)
        table = table_of(toy)
        table["source_id"] = toy.source_id.astype(dtype)
        path = saved(table, tmp_path / "cut.fits")
        with pytest.raises(
            DataError, match=rf"source_id is {np.dtype(dtype).name}, which cannot hold Gaia's identifiers"
        ):
            read_file(path)
        frame = pd.DataFrame({name: list(column) for name, column in toy.columns().items()})
        with pytest.raises(DataError, match="cut to 32 bits"):
            read_table(frame.assign(source_id=toy.source_id.astype(dtype).astype(np.int64)))

    def test_identifiers_that_were_float64_are_refused(self):
        toy = ToyStars(n=50)
        rng = np.random.default_rng(0)
        whole = rng.integers(2**60 // 128, 6_917_528_997_577_384_320 // 128, 50) * 128  # as Gaia's are
        toy.source_id = whole
        assert len(read_table(table_of(toy)).stars) == 50
        toy.source_id = whole.astype(np.float64).astype(np.int64)
        with pytest.raises(DataError, match="source_id was rounded: all 50 identifiers above"):
            read_table(table_of(toy))

    def test_zero_and_negative_ones_are_skipped(self):
        toy = ToyStars(n=4)
        toy.source_id[1:3] = 0, -toy.source_id[2]
        contents = read_table(table_of(toy))
        assert contents.stars.source_id.tolist() == toy.source_id[[0, 3]].tolist()
        assert [skipped.row for skipped in contents.skipped] == [2, 3]


class TestPadding:
    @pytest.mark.parametrize("fill", [0.0, np.nan])
    @pytest.mark.parametrize("stated", [True, False])
    def test_a_padded_band_is_a_missing_band(self, tmp_path, fill, stated):
        toy = ToyStars(n=3)
        toy.bp[1] = toy.bp_errors[1] = fill
        table = table_of(toy)
        if not stated:
            table.remove_columns(["bp_n_parameters", "rp_n_parameters"])
        stars = read_file(saved(table, tmp_path / "padded.fits")).stars
        assert stars.flags.tolist() == [Flag.NO_G_FLUX, Flag.NO_G_FLUX | Flag.MISSING_BP, Flag.NO_G_FLUX]
        assert np.isnan(stars.coeffs[1, :55]).all()
        assert np.isnan(stars.errors[1, :55]).all()
        np.testing.assert_array_equal(stars.coeffs[[0, 2]], toy.coeffs[[0, 2]])

    def test_a_band_of_zeros_says_how_many_it_has(self):
        toy = ToyStars(n=3)
        toy.rp[0] = toy.rp_errors[0] = 0.0
        table = table_of(toy)
        table["rp_n_parameters"][0] = 0
        stars = read_table(table).stars
        assert stars.flags[0] == Flag.NO_G_FLUX | Flag.MISSING_RP

    @pytest.mark.parametrize("fill", [0.0, np.nan])
    def test_arrays_longer_than_the_stated_number(self, fill):
        toy = ToyStars(n=3, n_bp=51)
        table = table_of(toy)
        for name in ("bp_coefficients", "bp_coefficient_errors"):
            table[name] = np.hstack([table[name], np.full((3, 9), fill)])
        stars = read_table(table).stars
        assert stars.basis.n_bp == 51
        np.testing.assert_array_equal(stars.coeffs, toy.coeffs)
        np.testing.assert_array_equal(stars.errors, toy.errors)

    def test_a_wider_column_without_a_number(self):
        toy = ToyStars(n=3)
        table = table_of(toy)
        table.remove_columns(["bp_n_parameters", "rp_n_parameters"])
        for name in ("bp_coefficients", "bp_coefficient_errors"):
            table[name] = np.hstack([table[name], np.zeros((3, 5))])
        np.testing.assert_array_equal(read_table(table).stars.coeffs, toy.coeffs)

    def test_more_numbers_than_stated_are_still_a_contradiction(self):
        toy = ToyStars(n=3)
        table = table_of(toy)
        table["bp_n_parameters"] = [55, 54, 55]
        assert read_table(table).stars.flags[1] & Flag.BAD_COEFFS


@pytest.fixture(scope="module")
def published(formats):
    return read_file(formats / "XP_CONTINUOUS_RAW.csv", correlations=True).stars


class TestCorrelations:
    @staticmethod
    def frame(stars, form) -> pd.DataFrame:
        """A frame with correlations in another form of the same matrices."""
        columns = {"source_id": stars.source_id}
        for band, here, pairs in (
            ("bp", stars.basis.bp, stars.correlations.bp),
            ("rp", stars.basis.rp, stars.correlations.rp),
        ):
            errors = stars.errors[:, here]
            columns[f"{band}_coefficients"] = list(stars.coeffs[:, here])
            columns[f"{band}_coefficient_errors"] = list(errors)
            whole = np.tile(np.eye(55), (len(stars), 1, 1))
            i, j = np.tril_indices(55, -1)
            whole[:, i, j] = whole[:, j, i] = pairs
            columns[f"{band}_coefficient_correlations"] = [
                form(m, e) for m, e in zip(whole, errors, strict=True)
            ]
        return pd.DataFrame(columns)

    @pytest.mark.parametrize(
        "form",
        [
            pytest.param(lambda m, _: m, id="matrix"),
            pytest.param(lambda m, _: m.tolist(), id="lists"),
            pytest.param(lambda m, _: json.dumps(m.tolist()), id="text"),
            pytest.param(lambda m, _: m.ravel(), id="flat matrix"),
            pytest.param(lambda m, _: np.tril(m), id="lower half"),
            pytest.param(lambda m, _: np.triu(m, 1), id="upper half without diagonal"),
            pytest.param(lambda m, _: m[np.tril_indices(55)], id="lower triangle with diagonal"),
            pytest.param(lambda m, _: m[np.triu_indices(55)], id="upper triangle with diagonal"),
            pytest.param(lambda m, _: m[np.triu_indices(55, 1)], id="upper triangle"),
            pytest.param(lambda m, _: m[np.tril_indices(55, -1)], id="lower triangle"),
            pytest.param(lambda m, e: m * np.outer(e, e), id="covariance"),
            pytest.param(
                lambda m, e: (m * np.outer(e, e) / 7.0)[np.tril_indices(55)], id="formal covariance"
            ),
        ],
    )
    def test_any_recognisable_form(self, published, form):
        stars = read_table(self.frame(published, form), correlations=True).stars
        np.testing.assert_allclose(stars.correlations.bp, published.correlations.bp, atol=1e-6)
        np.testing.assert_allclose(stars.correlations.rp, published.correlations.rp, atol=1e-6)

    @pytest.mark.parametrize("kind", ["fits", "parquet"])
    def test_matrices_in_files(self, published, tmp_path, kind):
        frame = self.frame(published, lambda m, _: m.tolist())
        path = tmp_path / f"stars.{kind}"
        if kind == "parquet":
            frame.to_parquet(path)
        else:
            Table({name: np.stack(frame[name].map(np.array)) for name in frame}).write(path)
        stars = read_file(path, correlations=True).stars
        np.testing.assert_allclose(stars.correlations.bp, published.correlations.bp, atol=1e-6)

    @pytest.mark.parametrize(
        ("form", "why"),
        [
            (
                lambda m, _: m[:40, :40],
                r"1600 bp_coefficient_correlations; expected a triangle of 1485 or a 55 x 55 matrix",
            ),
            (lambda m, _: m + np.triu(np.ones((55, 55)), 1), "no matrix of correlations or covariances"),
            (lambda m, _: m * np.outer(np.arange(1, 56), np.arange(1, 56)), "no matrix of correlations"),
        ],
    )
    def test_any_other_is_an_error(self, published, form, why):
        with pytest.raises(DataError, match=why):
            read_table(self.frame(published, form), correlations=True)

    def test_a_missing_band_needs_none(self, published):
        frame = self.frame(published, lambda m, _: m)
        for name in ("bp_coefficients", "bp_coefficient_errors", "bp_coefficient_correlations"):
            frame.at[0, name] = None
        stars = read_table(frame, correlations=True).stars
        assert stars.flags[0] & Flag.MISSING_BP
        assert np.isnan(stars.correlations.bp[0]).all()
        np.testing.assert_allclose(stars.correlations.rp, published.correlations.rp, atol=1e-6)


@pytest.mark.parametrize("digits", [26, 401, 5001])
@pytest.mark.parametrize("name", HEADER.split(","))
def test_an_integer_too_large_for_a_float_costs_its_own_row_alone(tmp_path, name, digits):
    """10**400 is no float (OverflowError), and text of more than 4,300 digits no int of Python's (ValueError)."""
    toy = ToyStars()
    rows, large = toy.cells(), "1" + "0" * (digits - 1)
    rows = [[cell.replace("(", "[").replace(")", "]") for cell in row] for row in rows]
    array = toy.cells()[1][HEADER.split(",").index(name)].startswith('"')
    set_cell(rows, 1, name, f'"[{large}{",1" * 54}]"' if array else large)
    path = write(tmp_path, "# %ECSV 1.0\n# ---\n# delimiter: ','\n" + csv_of(rows))
    (chunk,) = read_bulk(path)
    for stars in (read_file(path).stars, chunk.spectra):
        broken = np.uint16(Flag.BAD_COEFFS | Flag.BAD_ERRORS)
        sound = np.isin(toy.source_id, stars.source_id[(stars.flags & broken) == 0])
        assert sound[[0, 2]].all()
        assert not sound[1] or (array and digits == 26)
