"""The benchmark of hidden groups: which stars they are, and the whole of it at a small size."""

import json
import sys
from dataclasses import replace

import numpy as np

import scattervae as sv
from benchmarks import hidden_groups, outliers
from cli.toys import write_parquet
from scattervae.gaia.flux import design
from scattervae.spectra.spectra import Spectra
from scattervae.spectra.star_tables import LABEL_NAMES, StellarLabels


def made(n: int) -> Spectra:
    """Stars of the package's model, each coefficient with the same error."""
    drawn = sv.load_model("best").generate(n, g_mag=12.0, seed=1, draw_scatter=True)
    draw = np.random.default_rng(0)
    errors = np.full_like(drawn.coeffs, 1e-3 * np.abs(drawn.coeffs).mean())
    ids = draw.permutation(np.unique(draw.integers(4_000_000, 6 * 10**18, 2 * n)))[:n]
    coeffs = drawn.coeffs + errors * draw.normal(size=errors.shape)
    return Spectra.of(ids, coeffs, errors, basis=drawn.basis, g_flux=drawn.g_flux)


def test_carbon_stars_are_those_with_deeper_bands_than_stars_of_their_colour():
    n, carbon = 800, np.arange(0, 800, 40)
    stars = made(n)
    some, grid = stars.take(carbon), design(stars.basis)
    bands = -0.5 * np.clip(some.coeffs @ grid.matrix.T, 0, None) * outliers.carbon_bands(grid.grid_nm)
    coeffs = stars.coeffs.copy()
    coeffs[carbon] = outliers.with_flux(some, bands).coeffs
    found = hidden_groups.carbon_stars(replace(stars, coeffs=coeffs))
    assert found[carbon].mean() > 0.7
    assert np.delete(found, carbon).mean() < 0.02


def test_a_group_is_hidden_and_scored_against_the_others(tmp_path, monkeypatch, capsys):
    """The bluest stars are called hot."""
    stars = made(2600)
    blue = stars.coeffs[:, 0] / stars.coeffs[:, stars.basis.n_bp]
    values = np.zeros((len(stars), len(LABEL_NAMES)))
    values[:, 0] = np.where(blue > np.quantile(blue, 0.9), 7000.0, 5000.0)
    labels = StellarLabels(stars.source_id, values, np.ones_like(values))
    path = write_parquet(tmp_path / "stars.parquet", stars, labels)
    trained, original = [], sv.train

    def train(spectra, **options):
        trained.append(spectra.source_id)
        return original(spectra, "elbo", **options)

    def pca_alone(x):
        pca = outliers.PCA(3, random_state=0).fit(x)
        yield "PCA", lambda y: np.square(y - pca.inverse_transform(pca.transform(y))).mean(axis=1)

    monkeypatch.setattr(hidden_groups.sv, "train", train)
    monkeypatch.setattr(outliers, "classical", pca_alone)
    monkeypatch.setattr(sys, "argv", ["hidden_groups", str(path), "--json", "--only", "hot", "--epochs", "3"])
    hidden_groups.main()
    rows = json.loads(capsys.readouterr().out)
    assert [row["method"] for row in rows] == ["scattervae", "PCA"]
    hot = stars.source_id[values[:, 0] > 6500]
    assert not np.isin(trained[0], hot).any()
    fold = sv.folds(stars.source_id)
    assert rows[0]["n_odd"] == (fold.test & np.isin(stars.source_id, hot)).sum()
    assert rows[0]["n_ordinary"] == (fold.test & ~np.isin(stars.source_id, hot)).sum()
    for row in rows:
        for metric in hidden_groups.METRICS:
            assert 0.0 <= row[f"{metric}_low"] <= row[metric] <= row[f"{metric}_high"] <= 1.0
    assert "| hot |" in hidden_groups.table([{"group": "hot", **row} for row in rows])
