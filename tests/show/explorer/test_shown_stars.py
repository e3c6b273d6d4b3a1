"""Which stars a page shows, from catalogues of any form, and what each stands for."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from scattervae.errors import DataError
from scattervae.show.explorer.shown_stars import columns_of, model_of, sample_of, tables_of
from scattervae.spectra.tables import SUFFIXES, written_table


def crowded(n=6000, n_rare=60, seed=0):
    """A catalogue of two latents: a crowd around 0, and a few stars far away."""
    rng = np.random.default_rng(seed)
    z = np.concatenate(
        [0.3 * rng.normal(size=(n - n_rare, 2)), [3.0, 2.0] + 0.5 * rng.normal(size=(n_rare, 2))]
    )
    order = rng.permutation(n)
    return pa.table(
        {
            "source_id": pa.array(np.arange(n) + 2**62),
            "latent_1_mean": pa.array(z[order, 0]),
            "latent_2_mean": pa.array(z[order, 1]),
            "rare": pa.array(order >= n - n_rare),
        }
    )


@pytest.fixture
def catalogue(tmp_path):
    path = tmp_path / "catalogue.parquet"
    pq.write_table(crowded(), path, row_group_size=700)
    return path


def test_all_stars_are_shown_where_there_is_room(catalogue):
    drawn = sample_of(catalogue, 2, 6000)
    assert sorted(drawn.rows) == list(range(6000))
    assert (drawn.weights == 1).all()


def test_a_sample_keeps_rare_places_and_weighs_stars_so_that_all_are_counted(catalogue):
    drawn = sample_of(catalogue, 2, 600)
    _, columns = columns_of(catalogue, drawn.rows)
    rare = next(c.values for c in columns if c.name == "rare") == "yes"
    assert len(np.unique(drawn.rows)) == 600
    assert rare.sum() > 18  # 6 of 600 would come by chance
    assert drawn.weights.sum() == pytest.approx(6000)
    assert drawn.weights[rare].sum() == pytest.approx(60, rel=0.35)
    assert drawn.weights.min() >= 0.9


def test_densities_of_the_sample_are_those_of_all_stars(catalogue):
    table = pq.read_table(catalogue)
    drawn = sample_of(catalogue, 2, 2000)
    x = table["latent_1_mean"].to_numpy()
    bins = np.array([-1.0, -0.3, 0.0, 0.3, 1.0, 5.0])
    true = np.histogram(x, bins)[0]
    found = np.histogram(x[drawn.rows], bins, weights=drawn.weights)[0]
    assert np.abs(found / true - 1).max() < 0.2


def test_the_first_stars_of_a_draw_are_a_draw_themselves(catalogue):
    assert (sample_of(catalogue, 2, 500).rows == sample_of(catalogue, 2, 3000).rows[:500]).all()


def test_the_embedding_is_that_of_the_principal_axes(catalogue):
    from sklearn.decomposition import PCA

    table = pq.read_table(catalogue)
    z = np.stack([table[f"latent_{k}_mean"].to_numpy() for k in (1, 2)], axis=1)
    expected = PCA(2).fit_transform(z)
    found = sample_of(catalogue, 2, 10).embedded(z)
    assert np.allclose(np.abs(found), np.abs(expected))


def test_rows_come_in_the_order_asked_for_with_huge_source_ids(catalogue):
    rows = np.array([5000, 3, 4999, 700])
    source_id, _ = columns_of(catalogue, rows)
    assert source_id.tolist() == (rows + 2**62).tolist()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_catalogues_of_every_form_give_the_same_columns(tmp_path, suffix):
    table = crowded(50, 5).append_column("kind", pa.array(["a", "b"] * 25))
    table = table.set_column(1, "latent_1_mean", pa.array([None, *table["latent_1_mean"].to_pylist()[1:]]))
    with written_table(tmp_path / f"c{suffix}") as parquet:
        pq.write_table(table, parquet)
    drawn = sample_of(tmp_path / f"c{suffix}", 2, 50)
    source_id, columns = columns_of(tmp_path / f"c{suffix}", np.sort(drawn.rows))
    values = {column.name: column.values for column in columns}
    assert source_id.tolist() == table["source_id"].to_pylist()
    assert np.isnan(values["latent_1_mean"][0])
    assert np.allclose(values["latent_2_mean"], table["latent_2_mean"].to_numpy())
    assert values["kind"].tolist() == ["a", "b"] * 25


def test_a_folder_of_partitions_is_read_file_by_file(tmp_path, catalogue):
    table = pq.read_table(catalogue)
    for pixel in range(3):
        where = tmp_path / f"hats/dataset/Norder=0/Dir=0/Npix={pixel}.parquet"
        where.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table.slice(2000 * pixel, 2000), where)
    pq.write_metadata(table.schema, tmp_path / "hats/dataset/_common_metadata")
    one, many = sample_of(catalogue, 2, 100), sample_of(tmp_path / "hats", 2, 100)
    assert (one.rows == many.rows).all()
    assert model_of(tmp_path / "hats") is None


def test_what_is_no_catalogue_is_refused(tmp_path, catalogue):
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 no")
    (tmp_path / "notes.txt").write_text("hello")
    for path, text in (
        (tmp_path / "broken.parquet", "cannot be read"),
        (tmp_path / "notes.txt", "expected .parquet"),
    ):
        with pytest.raises(DataError, match=text):
            list(tables_of(path))
    with pytest.raises(DataError, match="no column latent_3_mean"):
        sample_of(catalogue, 3, 10)
    with pytest.raises(DataError, match="without dataset"):
        sample_of(tmp_path, 3, 10)
