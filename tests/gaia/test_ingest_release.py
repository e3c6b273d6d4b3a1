"""Files of another data release: nothing is made of their identifiers and magnitudes that it does not document."""

import csv
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cli.toys import archive_columns, with_ids
from ingest_toys import sky_stars, source_columns, write_bulk, write_sources
from scattervae.errors import DataError, FetchError, StoreError
from scattervae.gaia.archive import listing
from scattervae.gaia.archive.listing import release_of
from scattervae.gaia.facts import DR3
from scattervae.gaia.files.reading import read_file, read_ids_file
from scattervae.gaia.ingest import ingest
from scattervae.science.crossmatch import ById, crossmatch
from scattervae.spectra.hats import HatsFolder, Positions
from scattervae.spectra.spectra import Basis
from scattervae.spectra.store import SpectrumStore
from toy import toy_sky

DR4_BASIS = Basis(n_bp=51, n_rp=55, bp_id=801, rp_id=802)
IDS = 10**15 + 7 * np.arange(6)


def whole_table(store):
    return pa.concat_tables([pq.read_table(store.path_of(partition)) for partition in store.partitions])


def stars(basis=DR4_BASIS):
    return with_ids(toy_sky(len(IDS), basis=basis).spectra, IDS)


def written(path, spectra=None, **more):
    """The archive's csv with more columns; None leaves a cell empty."""
    columns = (
        archive_columns(stars() if spectra is None else spectra, g_flux="phot_g_mean_mag" not in more) | more
    )
    with path.open("w", newline="") as file:
        rows = zip(*columns.values(), strict=True)
        cells = [[f"({', '.join(map(repr, c))})" if isinstance(c, list) else c for c in row] for row in rows]
        csv.writer(file).writerows([columns, *cells])
    return path


def placed(missing=()):
    where = {name: source_columns(IDS)[name].tolist() for name in ("ra", "dec")}
    return {
        name: [None if i in missing else v for i, v in enumerate(values)] for name, values in where.items()
    }


def test_the_default_release_is_that_of_the_package_and_of_its_file():
    assert release_of("DR3").meaning == DR3


def test_a_file_of_another_release_is_named_with_the_option_to_pass(tmp_path):
    path = written(tmp_path / "a.csv", **placed())
    with pytest.raises(DataError, match=r"a\.csv: .*51 BP.*DR4, not of DR3; give --release DR4"):
        ingest([path], tmp_path / "strict", strict=True)
    dr3 = write_bulk(tmp_path, sky_stars(5, pixel=3), pixel=3)
    with pytest.raises(DataError, match="DR3, not of DR4; give --release DR3"):
        ingest([dr3], tmp_path / "other", release="DR4", strict=True)


def test_no_position_is_made_of_identifiers_that_hold_none(tmp_path):
    bare = written(tmp_path / "bare.csv")
    with pytest.raises(
        StoreError, match=r"bare\.csv: has no ra and dec, and source_ids of DR4 are not documented"
    ):
        ingest([bare], tmp_path / "bare", release="DR4", strict=True)
    part = written(tmp_path / "part.csv", **placed(missing=(1, 4)))
    store = ingest([part], tmp_path / "part", release="DR4")
    assert store.positions is Positions.MEASURED
    assert store.entries[0].skipped == tuple(f"source_id {IDS[i]}: no position in the file" for i in (1, 4))
    table = whole_table(store)
    assert sorted(table["source_id"].to_pylist()) == np.delete(IDS, [1, 4]).tolist()
    np.testing.assert_array_equal(table["ra"], source_columns(table["source_id"].to_numpy())["ra"])


def test_a_store_keeps_its_release_and_mixes_no_two(tmp_path):
    path = written(tmp_path / "a.csv", **placed())
    store = ingest([path], tmp_path / "store", release="DR4")
    assert SpectrumStore(store.path).release == release_of("DR4").meaning
    properties = HatsFolder.read(store.path).properties
    assert (properties["scattervae_release"], properties["scattervae_epoch"]) == ("DR4", "2017.5")
    small = Basis(6, 5)  # no release's own, so that only the store can refuse it
    first = written(tmp_path / "b.csv", stars(small), **placed())
    again = written(tmp_path / "c.csv", with_ids(stars(small), IDS + 1), **placed())
    assert ingest([first], tmp_path / "small").release == DR3
    with pytest.raises(
        StoreError, match=r"c\.csv: stars of DR4 \(epoch J2017\.5\), but .* holds stars of DR3"
    ):
        ingest([again], tmp_path / "small", release="DR4", strict=True)
    with pytest.raises(
        StoreError, match="source_ids of its release are not documented to say where a star is"
    ):
        crossmatch(store.path, path, tmp_path / "out", ById("source_id"))


def test_names_of_source_files_say_nothing_where_identifiers_hold_no_pixel(tmp_path):
    path = written(tmp_path / "a.csv")
    named_otherwise = write_sources(tmp_path, IDS, pixel=700)
    store = ingest([path], tmp_path / "store", sources=[named_otherwise], release="DR4")
    assert len(store) == len(IDS)
    np.testing.assert_array_equal(
        whole_table(store)["ra"], source_columns(whole_table(store)["source_id"].to_numpy())["ra"]
    )


def test_magnitudes_go_by_the_zero_point_of_their_release(tmp_path):
    g_mag = np.linspace(10, 15, len(IDS)).tolist()
    path = written(tmp_path / "a.csv", phot_g_mean_mag=g_mag)
    dr4 = release_of("DR4")
    assert np.isnan(read_file(path, release=dr4.meaning).stars.g_flux).all(), "its zero point is not known"
    known = dr4.model_copy(update={"g_zero_point": 25.0}).meaning
    expected = 100.0 ** ((25.0 - np.array(g_mag)) / 5)  # five magnitudes are a factor of 100
    np.testing.assert_allclose(read_file(path, release=known).stars.g_flux, expected, rtol=1e-12)


def test_designations_are_those_of_the_release(tmp_path):
    path = written(tmp_path / "a.csv", source_id=[f"Gaia DR4 {star}" for star in IDS], **placed())
    assert read_file(path, release=release_of("DR4").meaning).stars.source_id.tolist() == IDS.tolist()
    assert read_ids_file(path, release=release_of("DR4").meaning).tolist() == IDS.tolist()


def test_a_release_that_is_none(tmp_path):
    with pytest.raises(FetchError, match="no release is called DR9"):
        ingest([tmp_path / "a.csv"], tmp_path / "store", release="DR9")
    assert not (tmp_path / "store").exists()


def test_a_release_file_with_an_entry_that_is_none_is_refused(tmp_path):
    """One that is passed over would leave a basis without its identifier, which agrees with any."""
    path, built_in = tmp_path / "own.toml", Path(listing.__file__).with_name("dr3.toml")
    path.write_text(built_in.read_text(encoding="utf-8").replace("bp_id", "bp_idd"), encoding="utf-8")
    with pytest.raises(FetchError, match=r"own\.toml: basis\.bp_idd: Unexpected"):
        release_of(str(path))


def test_a_release_file_with_a_basis_of_no_coefficients_is_refused(tmp_path):
    path, built_in = tmp_path / "own.toml", Path(listing.__file__).with_name("dr3.toml")
    path.write_text(built_in.read_text(encoding="utf-8").replace("n_bp = 55", "n_bp = 0"), encoding="utf-8")
    with pytest.raises(FetchError, match=r"own\.toml: .*basis\.n_bp: .* greater than 0"):
        release_of(str(path))
