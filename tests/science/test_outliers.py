"""How odd stars are: calibrated on ordinary ones, robust to odd ones among them, and the same on every way in."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.decomposition import PCA

import scattervae as sv
from scattervae.errors import CheckpointError, DataError
from scattervae.files import read_tensors, write_tensors
from scattervae.science.outliers import (
    NOT_ADDED,
    PARTS,
    REFERENCE,
    OutlierReference,
    find_outliers,
)
from scattervae.science.star_parts import Neighbours, StarParts
from scattervae.seeds import stream
from scattervae.spectra.spectra import Spectra
from toy import toy_model, toy_recipe, toy_sky

SKY = toy_sky(1500)


@pytest.fixture(scope="module")
def model():
    return toy_model(SKY, toy_recipe(epochs=20))


@pytest.fixture(scope="module")
def parts(model):
    return StarParts.of(model, [SKY.spectra])


def odd(spectra, sigma):
    """The same stars with a coefficient that is off by so many of its errors."""
    coeffs = spectra.coeffs.copy()
    coeffs[:, 2] += sigma * spectra.errors[:, 2]
    return replace(spectra, coeffs=coeffs, source_id=spectra.source_id + 1)


def test_the_score_is_the_share_of_ordinary_stars_that_are_odder(model, parts):
    """Binomial: of 750 stars drawn as the reference was, 10 and 1 % above 1 and 2, within 3.5 standard deviations."""
    half = np.arange(len(parts)) % 2 == 0
    score = (
        OutlierReference.fit(model, parts.take(np.flatnonzero(half)))
        .score(parts.take(np.flatnonzero(~half)))
        .score
    )
    n = len(score)
    for level in (0.5, 1.0, 2.0):
        share = 10.0**-level
        assert abs((score > level).mean() - share) < 3.5 * np.sqrt(share / n) + 0.01


@pytest.mark.parametrize(("sigma", "share"), [(0.0, 0.2), (30.0, None)])
def test_a_wild_coefficient_is_found_and_named(model, parts, sigma, share):
    reference = OutlierReference.fit(model, parts)
    found = reference.score(StarParts.of(model, [odd(SKY.spectra.take(slice(0, 200)), sigma)]))
    if share is not None:
        assert (found.score > 1).mean() < share
        return
    assert np.median(found.score) > 3
    assert (found.stars.worst == 2).mean() > 0.8
    assert np.mean(["largest_residual" in reasons for reasons in found.reasons()]) > 0.7


@pytest.mark.parametrize("side", [1, -1])
def test_beyond_the_references_g_ordinary_stars_are_not_called_odd(model, parts, side):
    """Unlikelihood is made to rise with brightness, as in real spectra: the nearest stars in G are no measure."""
    g = side * parts.g_mag
    fits = parts.fits.copy()
    fits[:, list(PARTS).index("likelihood")] -= 0.2 * (g - g.mean())
    stars = replace(parts, fits=fits)
    beyond = np.argsort(g)[:75]
    found = OutlierReference.fit(model, stars.take(np.argsort(g)[300:])).score(stars.take(beyond))
    assert (found.score > 2).mean() < 0.04
    text = "brighter than the reference" if side > 0 else "fainter than the reference"
    assert all(reasons.split("; ")[0] == text for reasons in found.reasons())
    assert (np.sign(found.outside) == -side).all()


def test_one_odd_star_in_twenty_among_the_reference_does_not_hide_them(model, parts):
    wild = StarParts.of(model, [odd(SKY.spectra.take(slice(0, 75)), 30.0)])
    both = StarParts(**{name: np.concatenate([vars(parts)[name], vars(wild)[name]]) for name in vars(parts)})
    clean = OutlierReference.fit(model, parts).score(wild).score
    mixed = OutlierReference.fit(model, both).score(wild).score
    assert np.median(mixed) > 1.3
    assert np.median(clean) >= np.median(mixed)


def test_a_star_of_the_reference_is_not_its_own_neighbour(model, parts):
    reference = OutlierReference.fit(model, parts)
    renamed = replace(parts, source_id=parts.source_id + 1)
    near = list(PARTS).index("neighbours")
    own, other = (reference.score(stars).excess[:, near] for stars in (parts, renamed))
    assert (own > other).all()
    np.testing.assert_array_equal(
        reference.score(parts).excess[:, :6], reference.score(renamed).excess[:, :6]
    )


def test_neighbours_are_those_of_a_search_over_all_pairs(model, parts):
    reference = OutlierReference.fit(model, parts.take(np.arange(60, 400)))
    stars = parts.take(np.arange(5))
    d2 = (stars.latents[:, None] - reference.stars.latents) ** 2
    plain = np.sort(np.sqrt(d2.sum(axis=2)), axis=1)[:, :5].mean(axis=1)
    white = np.linalg.inv(np.cov(reference.stars.latents.T) + 0.01 * np.eye(stars.latents.shape[1]))
    off = stars.latents[:, None] - reference.stars.latents
    mahalanobis = np.sqrt(np.einsum("sri,ij,srj->sr", off, white, off))
    whitened = np.sort(mahalanobis, axis=1)[:, :5].mean(axis=1)
    found = 10 ** Neighbours.of(reference.stars).distances(stars)
    np.testing.assert_allclose(found[:, 1:], np.column_stack([plain, whitened]), rtol=1e-6)
    assert stars.fits.shape[1] + found.shape[1] == len(PARTS)


def test_components_are_those_of_scikit_learn(model):
    """Of 4,096 spectra decoded from the prior, half as many components as coefficients; as `PCA` finds them."""
    decoded = model.reconstruct(
        torch.randn(4096, model.n_latent, generator=stream(0, "principal components"))
    ).mean
    n = decoded.shape[1]
    pca = PCA(n // 2, svd_solver="full").fit(decoded.double().numpy())
    inputs = model.normalization.apply(SKY.spectra.take(slice(0, 50)))
    x, errors = inputs.x.double().numpy(), inputs.errors.double().numpy()
    left = x - pca.inverse_transform(pca.transform(x))
    expected = np.log10((np.square(left) / (np.square(errors) + 0.1**2)).mean(axis=1))
    found = StarParts.of(model, [SKY.spectra.take(slice(0, 50))]).fits[:, list(PARTS).index("components")]
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_scatter_of_a_stars_own_does_not_count_twice(model, parts):
    """Excess of chi^2 over errors alone is shown, and no part of the score."""
    reference = OutlierReference.fit(model, parts)
    fits = parts.fits.copy()
    fits[:, list(PARTS).index(NOT_ADDED)] += 1.0
    found, plain = reference.score(replace(parts, fits=fits)), reference.score(parts)
    np.testing.assert_array_equal(found.score, plain.score)
    assert (found.excess[:, 0] > plain.excess[:, 0]).all()


def test_chunks_do_not_matter_and_the_oddest_come_first(model):
    whole = find_outliers(model, [SKY.spectra])
    cut = find_outliers(model, [SKY.spectra.take(slice(0, 7)), SKY.spectra.take(slice(7, None))])
    pd.testing.assert_frame_equal(whole.to_pandas(), cut.to_pandas(), check_exact=True)
    assert (np.diff(whole["outlier_score"].to_numpy()) <= 0).all()
    assert set(whole["source_id"].to_pylist()) == set(SKY.spectra.source_id.tolist())
    for field in whole.schema:
        assert field.metadata[b"description"]


def test_a_reference_is_kept_and_belongs_to_its_model(model, parts, tmp_path):
    reference = OutlierReference.fit(model, parts)
    assert OutlierReference.load(tmp_path, model) is None
    reference.save(tmp_path)
    again = OutlierReference.load(tmp_path, model)
    np.testing.assert_array_equal(again.score(parts).score, reference.score(parts).score)
    stored = read_tensors(tmp_path / REFERENCE)
    write_tensors(tmp_path / REFERENCE, stored.arrays, stored.notes | {"format": "1"})
    with pytest.raises(CheckpointError, match=rf"{REFERENCE}: in format 1 .*expected 2; fit it again with"):
        OutlierReference.load(tmp_path, model)
    with pytest.raises(CheckpointError, match=rf"{REFERENCE}: is of another model"):
        OutlierReference.load(tmp_path, toy_model(SKY, toy_recipe(epochs=1)))


def test_the_models_own_reference_is_taken_where_none_is_given():
    own, stars = sv.load_model("best"), sv.load_model("best").generate(100, seed=1)
    spectra = Spectra.of(
        np.arange(1, 101),
        stars.coeffs,
        0.01 * np.abs(stars.coeffs) + 1.0,
        basis=stars.basis,
        g_flux=stars.g_flux,
    )
    found, expected = (sv.find_outliers(own, spectra, ordinary) for ordinary in (None, own.outlier_reference))
    assert found.equals(expected)


def test_too_few_ordinary_stars_are_refused(model):
    with pytest.raises(DataError, match=r"^99 encodable stars to call ordinary; at least 100"):
        find_outliers(model, [SKY.spectra.take(slice(0, 99))])
    assert len(find_outliers(model, [], [SKY.spectra])) == 0


def test_a_star_that_cannot_be_encoded_is_left_out(model):
    spectra = SKY.spectra.take(slice(0, 200))
    g_flux = spectra.g_flux.copy()
    g_flux[3] = np.nan
    broken = replace(
        spectra, g_flux=g_flux, flags=spectra.flags | np.where(np.isnan(g_flux), 16, 0).astype(np.uint16)
    )
    assert spectra.source_id[3] not in find_outliers(model, [broken])["source_id"].to_pylist()
