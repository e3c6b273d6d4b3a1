"""The table of variants: what varies, and that nothing is trained twice or taken from elsewhere."""

import json
import logging
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import chisquare, kstest
from studies.sensitivity import (
    HEADER,
    PAPER_N_STARS,
    RECIPE_NAMES,
    Variant,
    at_paper_size,
    claim_cells,
    draw_correlated,
    sensitivity,
    simulate,
    variants,
)
from torch.distributions import Normal

from model.noise_toys import N_BP, correlated
from model.noise_toys import N as N_COEFFS
from scattervae.errors import DataError, TrainingError
from scattervae.model.checkpoint import read_checkpoint
from scattervae.model.covariance import square
from scattervae.model.recipe import RECIPES
from scattervae.science.evaluation import evaluate
from scattervae.science.paper.comparison import HOLDS, compare_models, fit_cannons
from scattervae.science.paper.reproduce import claims_of
from scattervae.seeds import folds, numpy_stream
from scattervae.spectra.normalization import NormalizationSettings
from scattervae.spectra.spectra import Correlations
from scattervae.spectra.star_tables import LABEL_NAMES, StellarLabels
from science.toys import KnownLatents, known_latents, trained
from studies import sensitivity as module
from toy import spoiled, toy_recipe, toy_sky, untrained_model

NOISY = toy_sky(300, signal_to_noise=1.5)  # errors as large as the scatter of a model without training
N = 20_000


def which(simulation):
    """The real star that each simulated one is like, found by its Teff, which no two share."""
    labels = NOISY.labels
    order = np.argsort(labels["teff"])
    place = np.searchsorted(labels["teff"][order], simulation.labels["teff"])
    return order[place.clip(max=len(order) - 1)]


@pytest.fixture(scope="module")
def model():
    return known_latents(NOISY.spectra)


@pytest.fixture(scope="module")
def made(model):
    return simulate(model, NOISY.spectra, NOISY.labels, N)


def test_residuals_over_error_and_scatter_in_quadrature_are_standard_normal():
    """The posterior is a point here, so each star's mean spectrum is known."""
    model = known_latents(NOISY.spectra, n_active=3)
    made = simulate(model, NOISY.spectra, NOISY.labels, N)
    star, norm = which(made), model.normalization
    z = torch.from_numpy(NOISY.spectra.coeffs[:, :3] / NOISY.spectra.g_flux[:, None]).float()
    scores = model.reconstruct(z)
    g = made.spectra.g_flux[:, None]
    x, errors = (made.spectra.coeffs / g - norm.mean) / norm.std, made.spectra.errors / g / norm.std
    scatter = scores.scatter.numpy()[star]
    assert 0.1 < np.median(errors / scatter) < 10  # neither hides the other
    residual = (x - scores.mean.numpy()[star]) / np.hypot(errors, scatter)
    np.testing.assert_allclose(residual.var(axis=0), 1.0, atol=5 * math.sqrt(2 / N))
    assert kstest(residual.ravel(), "norm").pvalue > 1e-4
    correlations = np.corrcoef(residual.T) - np.eye(residual.shape[1])
    assert np.abs(correlations).max() < 5 / math.sqrt(N)


def test_latents_are_drawn_from_the_posteriors():
    """One star with a wide posterior: its moments agree with our own draws by torch.distributions."""
    base = known_latents(NOISY.spectra, log_variance=math.log(0.5**2))
    one = NOISY.spectra.take(slice(0, 1))
    made = simulate(base, one, NOISY.labels, N)
    norm, posterior = base.normalization, base.encode(one)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        scores = base.reconstruct(Normal(posterior.mean[0], posterior.sd[0]).sample((N,)))
        errors = torch.from_numpy(one.errors / one.g_flux / norm.std).float()
        mine = Normal(scores.mean, torch.hypot(scores.scatter, errors)).sample().numpy()
    x = (made.spectra.coeffs / made.spectra.g_flux[:, None] - norm.mean) / norm.std
    width = mine.std(axis=0)
    np.testing.assert_allclose(x.mean(axis=0), mine.mean(axis=0), atol=6 * width.max() * math.sqrt(2 / N))
    np.testing.assert_allclose(x.std(axis=0), width, rtol=6 / math.sqrt(N))


def test_everything_else_is_the_real_stars(made):
    star = which(made)
    np.testing.assert_array_equal(made.labels.values, NOISY.labels.values[star])
    np.testing.assert_array_equal(made.labels.errors, NOISY.labels.errors[star])
    np.testing.assert_array_equal(made.spectra.errors, NOISY.spectra.errors[star])
    np.testing.assert_array_equal(made.spectra.g_flux, NOISY.spectra.g_flux[star])
    assert made.spectra.basis == NOISY.spectra.basis
    assert made.spectra.source_id.tolist() == made.labels.source_id.tolist() == list(range(1, N + 1))
    assert made.spectra.usable.all()
    assert chisquare(np.bincount(star, minlength=300)).pvalue > 1e-4


def test_same_seed_same_survey(model):
    a, b, c = (simulate(model, NOISY.spectra, NOISY.labels, 50, seed=s) for s in (1, 1, 2))
    np.testing.assert_array_equal(a.spectra.coeffs, b.spectra.coeffs)
    assert (a.spectra.coeffs != c.spectra.coeffs).all()
    assert (a.labels.values != c.labels.values).any()


def test_the_folds_of_simulated_stars_have_their_shares(made):
    fold = folds(made.spectra.source_id)
    shares = [part.mean() for part in (fold.test, fold.validation, fold.train)]
    assert shares == pytest.approx([0.15, 0.10, 0.75], abs=0.01)
    few = folds(np.arange(1, 1001))
    assert few.test.mean() == pytest.approx(0.15, abs=0.02)


def test_coefficients_that_the_model_does_not_use_are_noise():
    recipe = toy_recipe().model_copy(update={"normalization": NormalizationSettings(n_bp=4)})
    made = simulate(untrained_model(NOISY.spectra, recipe), NOISY.spectra, NOISY.labels, 4000)
    unused = (made.spectra.coeffs / made.spectra.errors)[:, 4:6]
    assert kstest(unused.ravel(), "norm").pvalue > 1e-4
    assert np.abs(np.corrcoef(unused.T)[0, 1]) < 5 / math.sqrt(4000)


def test_only_usable_stars_are_copied_and_a_missing_label_stays_missing(model):
    values = NOISY.labels.values.copy()
    values[::2, LABEL_NAMES.index("fe_h")] = np.nan
    labels = StellarLabels(NOISY.labels.source_id, values, NOISY.labels.errors).take(slice(0, 250))
    made = simulate(model, spoiled(NOISY.spectra), labels, 3000)
    assert made.spectra.usable.all()
    known = np.isfinite(made.labels["teff"])
    assert known.mean() == pytest.approx(244 / 294, abs=0.04)  # 250 have labels, six of them are spoilt
    star = which(made)[known]
    assert not set(star.tolist()) & {0, 1, 2, 3, 4, 6}
    assert set(star.tolist()) == set(range(250)) - {0, 1, 2, 3, 4, 6}
    np.testing.assert_array_equal(np.isnan(made.labels["fe_h"][known]), star % 2 == 0)


def test_no_usable_star_is_an_error_of_one_line(model):
    assert isinstance(model, KnownLatents)
    with pytest.raises(DataError, match="none of 5 stars is usable") as caught:
        simulate(model, spoiled(NOISY.spectra).take(slice(0, 5)), NOISY.labels, 10)
    assert "\n" not in str(caught.value)


def test_noise_is_as_correlated_as_that_of_the_star(model):
    """Coefficients over error and scatter in quadrature would not be: the errors are made to rule."""
    stars = replace(correlated(NOISY.spectra), errors=1e3 * NOISY.spectra.errors).take(slice(0, 1))
    made = simulate(model, stars, NOISY.labels, N)
    noise = (made.spectra.coeffs / made.spectra.errors).T
    np.testing.assert_array_equal(made.spectra.correlations.rp[N - 1], stars.correlations.rp[0])
    for pairs, here in ((stars.correlations.bp, slice(0, 6)), (stars.correlations.rp, slice(6, 11))):
        expected = square(torch.from_numpy(pairs))[0]
        np.testing.assert_allclose(np.cov(noise[here]), expected, atol=5 / math.sqrt(N))
    assert simulate(model, NOISY.spectra, NOISY.labels, 5).spectra.correlations is None


def test_latents_are_what_the_stars_were_made_from(model):
    made = simulate(model, NOISY.spectra, NOISY.labels, N)
    norm, scores = model.normalization, model.reconstruct(made.latents)
    errors = made.spectra.errors / made.spectra.g_flux[:, None] / norm.std
    x = (made.spectra.coeffs / made.spectra.g_flux[:, None] - norm.mean) / norm.std
    residual = (x - scores.mean.numpy()) / np.hypot(errors, scores.scatter.numpy())
    np.testing.assert_allclose(residual.var(axis=0), 1.0, atol=5 * math.sqrt(2 / N))


SKY = toy_sky(750, n_latent=3)
TINY = [Variant(f"tiny, seed {seed}", toy_recipe(epochs=2, seed=seed)) for seed in (0, 1)]
TINY_BY_NAME = {name: toy_recipe(epochs=2).model_copy(update={"name": name}) for name in RECIPE_NAMES}


@pytest.fixture
def seeds_trained(monkeypatch):
    """The seeds of the models seeds_trained, in order; two tiny variants in place of the many."""
    seeds = []
    train = module.train

    def counted(spectra, recipe, **options):
        model = train(spectra, recipe, **options)
        seeds.append(recipe.training.seed)
        return model

    monkeypatch.setattr(module, "train", counted)
    monkeypatch.setattr(module, "variants", lambda: iter(TINY))
    return seeds


@pytest.fixture
def no_claims(monkeypatch):
    """Rows whose cells nobody looks at need no Cannon and no bootstrap."""
    monkeypatch.setattr(module, "claim_cells", lambda *_: ["1"] * (len(HEADER) - 1))


def test_variants_differ_from_a_named_recipe_in_what_they_say():
    found = {v.name: v.recipe for v in variants()}
    assert len(found) == len(list(variants())) == len({r.model_dump_json() for r in found.values()})
    plain = {r.model_dump_json(exclude={"name"}) for r in found.values()}
    assert len(plain) == len(found)
    for name, recipe in found.items():
        assert recipe.name == name
        assert recipe.training.epochs == 100
    assert sum("seed" in name for name in found) == 10
    printed = found["as printed, seed 3"]
    assert (printed.training.seed, printed.objective) == (3, "printed")
    base = RECIPES["paper2023"]
    assert printed.model_copy(update={"name": base.name, "training": base.training}) == base
    assert found["elbo, 10 latents"].network.n_latent == 10
    assert found["elbo, exp scatter"].network.scatter_link == "exp"
    assert found["elbo with SGD"].training == base.training
    adamw = found["as printed with AdamW"]
    assert (adamw.objective, adamw.training) == ("printed", RECIPES["elbo"].training)


def test_a_row_a_variant_and_a_finished_row_is_not_trained_again(tmp_path, seeds_trained):
    stages = []
    table = sensitivity(SKY.spectra, SKY.labels, tmp_path / "new", stage=stages.append)
    assert table.header == HEADER
    assert [row[0] for row in table.rows] == ["tiny, seed 0", "tiny, seed 1"]
    assert {len(row) for row in table.rows} == {len(HEADER)}
    assert table.rows[0][1:] == tuple(
        claim_cells(module.train(SKY.spectra, TINY[0].recipe), SKY.spectra, SKY.labels)
    )
    assert stages == ["variant 1 of 2: tiny, seed 0", "variant 2 of 2: tiny, seed 1"]
    del seeds_trained[:]
    again = sensitivity(SKY.spectra, SKY.labels, tmp_path / "new", stage=stages.append)
    assert again == table
    assert (seeds_trained, len(stages)) == ([], 2)


def test_a_killed_run_goes_on_with_the_variant_it_was_at(tmp_path, seeds_trained, no_claims):
    def kill(record):
        if len(seeds_trained) == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sensitivity(SKY.spectra, SKY.labels, tmp_path, progress=kill)
    assert seeds_trained == [0]
    assert len(list(tmp_path.iterdir())) == 1
    table = sensitivity(SKY.spectra, SKY.labels, tmp_path)
    assert seeds_trained == [0, 1]
    assert len(table.rows) == 2


def test_rows_of_other_stars_labels_or_recipes_are_made_again(
    tmp_path, seeds_trained, no_claims, monkeypatch
):
    monkeypatch.setattr(module, "variants", lambda: iter(TINY[:1]))
    sensitivity(SKY.spectra, SKY.labels, tmp_path)
    shifted = StellarLabels(SKY.labels.source_id, SKY.labels.values + 1.0, SKY.labels.errors)
    for spectra, labels in ((SKY.spectra, shifted), (SKY.spectra.take(slice(0, 700)), SKY.labels)):
        sensitivity(spectra, labels, tmp_path)
        sensitivity(spectra, labels, tmp_path)
    assert seeds_trained == [0, 0, 0]
    monkeypatch.setattr(
        module, "variants", lambda: iter([Variant(TINY[0].name, toy_recipe(epochs=1, seed=5))])
    )
    sensitivity(SKY.spectra.take(slice(0, 700)), SKY.labels, tmp_path)
    assert seeds_trained == [0, 0, 0, 5]
    (file,) = tmp_path.iterdir()
    assert np.array(json.loads(file.read_text())["cells"]).shape == (len(HEADER) - 1,)


def test_a_variant_that_diverges_is_a_row_and_not_the_end(tmp_path, seeds_trained, monkeypatch, caplog):
    counted = module.train

    def diverges(spectra, recipe, **options):
        if recipe.training.seed == 0:
            raise TrainingError("epoch 1: the loss is nan")
        return counted(spectra, recipe, **options)

    monkeypatch.setattr(module, "train", diverges)
    with caplog.at_level(logging.WARNING, logger="studies.sensitivity"):
        table = sensitivity(SKY.spectra, SKY.labels, tmp_path)
    assert table.rows[0][:3] == ("tiny, seed 0", "training failed", "-")
    assert {len(row) for row in table.rows} == {len(HEADER)}
    assert float(table.rows[1][1]) < 1e6
    assert "tiny, seed 0: epoch 1: the loss is nan" in [r.getMessage() for r in caplog.records]


def test_a_row_has_the_numbers_of_its_model():
    sky, model = trained()
    cells = claim_cells(model, sky.spectra, sky.labels)
    assert len(cells) == len(HEADER) - 1
    test = sky.spectra.take(folds(sky.spectra.source_id).test)
    score = evaluate(model, test)
    assert cells[:2] == [f"{score.negative_elbo:.1f}", f"{score.active_latents} of 3"]
    comparison = compare_models(model, fit_cannons(model, sky.spectra, sky.labels), sky.spectra, sky.labels)
    claims = {claim.id: claim for claim in claims_of(comparison)}
    order = ("normalised_error_ratio_bp10", "normalised_error_ratio_rp10", "tails", "scatter_ratio")
    for cell, name in zip(cells[2:6], order, strict=True):
        claim = claims[name]
        if claim.measured is None:
            assert cell == "-"
        else:
            assert float(cell.removesuffix(" h")) == pytest.approx(claim.measured, abs=6e-4)
            assert cell.endswith(" h") == (claim.verdict == HOLDS)
    assert any(cell.endswith(" h") for cell in cells[2:6])
    assert cells[6:] == ["-", "-"]  # the toy sky has no cool giants


@pytest.fixture
def fits(monkeypatch):
    """Names of the recipes trained, in order."""
    names = []
    trained()  # kept from here on, so that it is not one of those counted
    monkeypatch.setattr(module, "RECIPES", TINY_BY_NAME)
    from scattervae.model import run

    fit = run.fit_network

    def counted(inputs, recipe, **options):
        names.append(recipe.name)
        return fit(inputs, recipe, **options)

    monkeypatch.setattr(run, "fit_network", counted)
    return names


def test_both_losses_are_rows(tmp_path, fits):
    sky, model = trained()
    stages = []
    table = at_paper_size(model, sky.spectra, sky.labels, tmp_path, n_stars=900, stage=stages.append)
    assert table.header == HEADER
    assert [row[0] for row in table.rows] == ["paper2023", "elbo"] == fits
    assert "900 simulated stars" in table.title
    assert stages[0] == "simulating 900 stars"
    simulated = simulate(model, sky.spectra, sky.labels, 900)
    trained_model = read_checkpoint(tmp_path / "elbo")
    n_test = folds(simulated.spectra.source_id).test.sum()
    assert trained_model.provenance["data"]["n_trained_on"] == 900 - n_test
    assert table.rows[1][1:] == tuple(claim_cells(trained_model, simulated.spectra, simulated.labels))


def test_a_model_of_other_simulated_stars_is_trained_anew(tmp_path, fits, no_claims):
    sky, model = trained()
    for _ in range(2):
        at_paper_size(model, sky.spectra, sky.labels, tmp_path, n_stars=900)
        assert len(fits) == 2
    at_paper_size(model, sky.spectra, sky.labels, tmp_path, n_stars=901)
    assert len(fits) == 4


def test_the_papers_size_is_the_default():
    assert PAPER_N_STARS == 500_000
    assert RECIPE_NAMES == ("paper2023", "elbo")


def test_draws_of_all_coefficients_are_those_of_each_star():
    stars = correlated(toy_sky(60, seed=4).spectra)
    stars.correlations.bp[2] = 1.0  # of none: stays as it is
    noise = numpy_stream(0, "draws").standard_normal((60, N_COEFFS))
    drawn = draw_correlated(stars.correlations, noise)
    for star in (0, 2, 59):
        for pairs, here in (
            (stars.correlations.bp, slice(0, N_BP)),
            (stars.correlations.rp, slice(N_BP, N_COEFFS)),
        ):
            own = square(torch.from_numpy(pairs[star : star + 1]).double())[0].numpy()
            root = np.eye(N_BP) if star == 2 and here.start == 0 else np.linalg.cholesky(own)
            np.testing.assert_allclose(drawn[star, here], root @ noise[star, here], atol=1e-6)


def test_shared_correlations_may_take_no_memory():
    one = correlated(toy_sky(60, seed=4).spectra).correlations
    shared = Correlations(
        *(np.broadcast_to(values[:1], (60, values.shape[1])) for values in (one.bp, one.rp))
    )
    noise = numpy_stream(0, "draws").standard_normal((60, N_COEFFS))
    assert draw_correlated(shared, noise).shape == (60, N_COEFFS)
