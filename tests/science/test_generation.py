"""Generated spectra: statistics of the draws against closed forms, and the way back through the model."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from scipy.spatial import KDTree

from scattervae.errors import CheckpointError, DataError
from scattervae.gaia.basis import g_flux_from_coeffs, g_flux_of, g_mag_of
from scattervae.model.flow import FlowSettings, fit_to_posteriors
from scattervae.model.network import Posterior
from scattervae.model.recipe import Recipe
from scattervae.science import generation
from scattervae.science.labels.targets import TargetLabels
from scattervae.science.trained import load_model
from scattervae.seeds import stream
from scattervae.spectra.normalization import NormalizationSettings
from scattervae.spectra.spectra import Spectra
from toy import DR3, spoiled, toy_model, toy_sky, untrained_model

SKY = toy_sky(400)
G_FLUX = np.full(5, 1e4)


@pytest.fixture(scope="module")
def model():
    return toy_model(SKY)


def test_prior_draws_are_standard_normal():
    model = untrained_model(SKY.spectra)
    z = generation.from_prior(model, 20_000)
    error = 5 / np.sqrt(20_000)
    assert z.shape == (20_000, 3)
    torch.testing.assert_close(z.mean(0), torch.zeros(3), rtol=0, atol=error)
    torch.testing.assert_close(z.std(0), torch.ones(3), rtol=0, atol=error)


def test_aggregate_draws_have_the_mixtures_mean_and_variance():
    mean = torch.tensor([[-2.0, 0.0], [2.0, 1.0], [float("nan"), float("nan")]])
    posterior = Posterior(mean, torch.full((3, 2), -2.0))
    z = generation.from_aggregate(posterior, 50_000)
    variance = torch.tensor([4.0, 0.25]) + np.exp(-2.0)
    torch.testing.assert_close(z.mean(0), torch.tensor([0.0, 0.5]), rtol=0, atol=0.05)
    torch.testing.assert_close(z.var(0), variance, rtol=0.05, atol=0)


def test_flow_draws_are_the_flows():
    mean = torch.tensor([[-3.0, 0.0], [3.0, 1.0]]).repeat(300, 1)
    posterior = Posterior(mean, torch.full_like(mean, -3.0))
    flow = fit_to_posteriors(posterior, posterior, FlowSettings(transforms=1, hidden=(16,), batch_size=32))
    z = generation.from_flow(flow, 500, seed=2)
    torch.testing.assert_close(z, flow.sample(500, stream(2, "flow")), rtol=0, atol=0)
    assert (z[:, 0].abs() > 1.5).double().mean() > 0.9  # in one of the two groups, not between them


def test_aggregate_of_no_encoded_star_is_an_error(model):
    posterior = model.encode(spoiled(SKY.spectra).take(slice(0, 5)))
    with pytest.raises(DataError, match="could be encoded"):
        generation.from_aggregate(posterior, 3)


def test_between_runs_from_one_star_to_the_other_in_equal_steps():
    start, end = torch.tensor([[0.0, 1.0]]), torch.tensor([[4.0, -1.0]])
    z = generation.between(start, end, 5)
    expected = np.linspace([0.0, 1.0], [4.0, -1.0], 5)
    np.testing.assert_allclose(z.numpy(), expected, atol=1e-6)


def test_generated_coefficients_are_the_decoders_in_archive_units(model):
    z = generation.from_prior(model, 5)
    made = generation.generate(model, z, G_FLUX)
    predicted = model.reconstruct(z)
    normalization = model.normalization
    np.testing.assert_allclose(
        made.coeffs, (predicted.mean.double().numpy() * normalization.std + normalization.mean) * 1e4
    )
    np.testing.assert_allclose(made.scatter, predicted.scatter.double().numpy() * normalization.std * 1e4)


def test_a_star_made_from_its_own_latents_looks_like_itself(model):
    """The toy sky's intrinsic scatter is 1 % and its noise 2 %: the mean spectrum is predicted much better."""
    posterior = model.encode(SKY.spectra)
    made = generation.generate(model, posterior.mean, SKY.spectra.g_flux)
    spread = SKY.shapes.std(axis=0)
    residual = made.coeffs / SKY.spectra.g_flux[:, None] - SKY.shapes
    assert np.median(np.abs(residual) / spread) < 0.1


def test_noise_has_the_width_of_the_scatter(model):
    z = generation.from_prior(model, 1).expand(4000, -1)
    g_flux = np.ones(4000)
    made = generation.generate(model, z, g_flux, noise_seed=1)
    mean = generation.generate(model, z, g_flux)
    np.testing.assert_allclose((made.coeffs - mean.coeffs).std(axis=0), made.scatter[0], rtol=0.06)
    again = generation.generate(model, z, g_flux, noise_seed=1)
    np.testing.assert_array_equal(made.coeffs, again.coeffs)


def test_dropped_coefficients_come_back_as_zeros():
    recipe = Recipe(name="short", normalization=NormalizationSettings(n_bp=4, n_rp=3))
    model = untrained_model(SKY.spectra, recipe)
    made = generation.generate(model, generation.from_prior(model, 5), G_FLUX)
    assert made.coeffs.shape == (5, 11)
    assert not made.coeffs[:, [4, 5, 9, 10]].any()
    assert made.coeffs[:, [0, 1, 2, 3, 6, 7, 8]].all()


def test_flux_needs_a_basis_that_gaiaxpy_knows(model):
    made = generation.generate(model, generation.from_prior(model, 5), G_FLUX)
    with pytest.raises(DataError, match="GaiaXPy knows only"):
        made.flux()


def test_spectra_integrate_to_the_g_that_they_are_made_for():
    """By GaiaXPy's G of the coefficients, which is itself 0.002 to 0.014 mag from the catalogue's."""
    model = load_model("best")
    for g in (9.0, 15.0):
        made = generation.generate(model, generation.from_prior(model, 300), np.full(300, g_flux_of(g)))
        stars = Spectra.of(np.arange(1, 301), made.coeffs, made.scatter, basis=made.basis)
        assert (np.abs(g_mag_of(g_flux_from_coeffs(stars)) - g) < 0.02).all()


def test_drawn_scatter_makes_no_flux_far_below_zero():
    model = load_model("best")
    z = generation.from_prior(model, 5000)
    flux = generation.generate(model, z, np.full(5000, g_flux_of(15.0)), noise_seed=0).flux().flux
    # 0.5 % of 40,000, known to 0.1 % from 5,000; with all of the scatter, measured or not, 1.4 %
    assert (flux.min(axis=1) < -0.05 * flux.max(axis=1)).mean() <= 0.007


def test_flux_and_its_scatter_are_linear_in_the_coefficients():
    """Scatter of the flux against the spread of many spectra with drawn scatter."""
    model = untrained_model(toy_sky(60, basis=DR3).spectra)
    z = generation.from_prior(model, 1).expand(3000, -1)
    g_flux = np.full(3000, 1e4)
    drawn = generation.generate(model, z, g_flux, noise_seed=0).flux()
    assert drawn.flux.shape == (3000, 343)
    ratio = drawn.flux.std(axis=0) / drawn.errors[0]
    np.testing.assert_allclose(ratio, 1.0, atol=0.08)


def test_table_has_units_and_reads_back(tmp_path):
    model = untrained_model(toy_sky(60, basis=DR3).spectra)
    made = generation.generate(model, generation.from_prior(model, 5), G_FLUX)
    table = generation.generated_table(model, made, made.flux())
    pq.write_table(table, tmp_path / "made.parquet")
    read = pq.read_table(tmp_path / "made.parquet")
    assert all(field.metadata[b"description"] for field in read.schema)
    assert read.schema.field("flux").metadata[b"unit"] == b"W m^-2 nm^-1"
    about = json.loads(read.schema.metadata[b"scattervae.generated"])
    assert about["wavelength_nm"][:2] == [336.0, 338.0]
    bp = np.stack(read["bp_coefficients"].to_numpy())
    np.testing.assert_allclose(bp, made.coeffs[:, :55], rtol=1e-6)


@pytest.fixture(scope="module")
def labelled(model):
    known = TargetLabels.of(SKY.labels, generation.GIVEN_LABELS)
    settings = FlowSettings(transforms=2, hidden=(32,), batch_size=64, epochs=30)
    return generation.LabelFlow.fit(model, SKY.spectra, known, settings)


def test_stars_of_given_labels_are_where_their_labels_say(model, labelled):
    """The toy sky's labels are linear in its true latents: so are those of stars near the draws in latent space."""
    known, posterior = TargetLabels.of(SKY.labels), model.encode(SKY.spectra)
    middle = {name: float(np.nanmedian(known[name])) for name in ("teff", "logg")}
    z = labelled.sample(middle, 300)
    near = KDTree(posterior.mean.numpy()).query(z.numpy())[1]
    for name, value in middle.items():
        off, everywhere = known[name][near] - value, known[name] - value
        assert np.nanstd(off) < 0.75 * np.nanstd(everywhere)
        assert abs(np.nanmedian(off)) < 0.25 * np.nanstd(everywhere)
    wide = labelled.sample({"teff": middle["teff"]}, 300)
    assert wide.var(dim=0).sum() > z.var(dim=0).sum()  # what is not given is left open


def test_labels_beyond_all_stars_are_refused_with_the_nearest(labelled):
    assert labelled.reliability({"teff": float(np.nanmedian(SKY.labels.values[:, 0]))}) > 0.1
    with pytest.raises(
        DataError, match=r"^teff 90000: farther out than any labelled star; the nearest one has teff"
    ):
        labelled.sample({"teff": 90_000.0}, 3)
    with pytest.raises(DataError, match=r"^age: expected one of teff, logg, fe_h, alpha_m"):
        labelled.sample({"age": 1.0}, 3)
    for value in (np.nan, np.inf):
        with pytest.raises(DataError, match=rf"^teff {value}: expected a finite number; leave out a label"):
            labelled.sample({"teff": value}, 3)


def test_a_label_flow_is_kept_and_belongs_to_its_model(model, labelled, tmp_path):
    with pytest.raises(CheckpointError, match="has no label_flow"):
        generation.LabelFlow.load(tmp_path, model)
    labelled.save(tmp_path)
    again = generation.LabelFlow.load(tmp_path, model)
    given = {"logg": float(np.nanmedian(SKY.labels.values[:, 1]))}
    torch.testing.assert_close(again.sample(given, 9), labelled.sample(given, 9), rtol=0, atol=0)
    with pytest.raises(CheckpointError, match="of another model"):
        generation.LabelFlow.load(tmp_path, untrained_model(SKY.spectra))


def test_errors_are_those_of_stars_of_that_brightness(model, labelled):
    z = labelled.sample({"teff": float(np.nanmedian(SKY.labels.values[:, 0]))}, 200)
    g_mag = float(np.median(labelled.g_mag))
    errors = labelled.errors_like(z, g_mag)
    made = generation.generate(model, z, np.full(200, 1e4))
    noisy = generation.with_errors(model, made, errors, seed=3)
    columns = model.normalization.columns
    scaled = (noisy.coeffs - made.coeffs)[:, columns] / noisy.errors[:, columns]
    assert abs(scaled.std() - 1) < 0.05
    near = np.abs(g_mag_of(SKY.spectra.g_flux) - g_mag) < 0.5
    usual = np.median(SKY.spectra.errors[near] / SKY.spectra.g_flux[near, None])
    assert 0.5 < np.median(errors) / usual < 2
    assert "bp_coefficient_errors" in generation.generated_table(model, noisy).column_names
    with pytest.raises(DataError, match=r"^no errors known of stars of G = 3;"):
        labelled.errors_like(z, 3.0)
