from dataclasses import replace

import numpy as np
import pytest

from scattervae.gaia.basis import sample_flux
from scattervae.show.figures import FIGURES, FigureData
from scattervae.spectra.spectra import Basis
from toy import DR3, SMALL, toy_recipe, toy_sky, untrained_model

from .toys import RECORDS, data_of, draw, model_of, texts


def test_the_star_figure_shows_the_coefficients_of_the_star_in_units_of_its_g_flux():
    data = data_of(DR3)
    figure = FIGURES["star"].build(data)
    row, spectra = data.star, data.spectra
    bp_axes, rp_axes = figure.axes[0], figure.axes[3]
    for axes, band in ((bp_axes, DR3.bp), (rp_axes, DR3.rp)):
        points, _, (bars,) = axes.containers[0]
        expected = spectra.coeffs[row, band] / spectra.g_flux[row]
        np.testing.assert_allclose(points.get_ydata(), expected)
        heights = [segment[1, 1] - segment[0, 1] for segment in bars.get_segments()]
        np.testing.assert_allclose(heights, 2 * spectra.errors[row, band] / spectra.g_flux[row])
        assert axes.get_yscale() == "symlog"


def test_the_star_figure_shows_the_models_reconstruction_scatter_and_normalised_residuals():
    data = data_of(DR3)
    figure = FIGURES["star"].build(data)
    star = data.spectra.take([data.star])
    (encoded,) = data.models["model 0"].encode_batches([star])
    normalization = data.models["model 0"].normalization
    told = normalization.invert(encoded.reconstruction.mean, star.g_flux)[0] / star.g_flux[0]
    scatter = normalization.invert_errors(encoded.reconstruction.scatter, star.g_flux)[0] / star.g_flux[0]
    residuals = encoded.reconstruction.normalised_errors(encoded.inputs.x, encoded.inputs.errors)[0]
    amplitudes, sigmas, left = figure.axes[:3]
    np.testing.assert_allclose(amplitudes.containers[1][0].get_ydata(), told[DR3.bp], rtol=1e-5)
    np.testing.assert_allclose(sigmas.lines[1].get_ydata(), scatter[DR3.bp], rtol=1e-5)
    np.testing.assert_allclose(left.lines[1].get_ydata(), residuals[DR3.bp], rtol=1e-3, atol=1e-4)  # float32


def test_the_star_figure_shows_flux_on_the_wavelength_grid():
    data = data_of(DR3)
    figure = FIGURES["star"].build(data)
    sampled = sample_flux(data.spectra.take([data.star]))
    flux, residual = figure.axes[-2:]
    observed = flux.lines[-1]
    np.testing.assert_allclose(observed.get_xdata(), sampled.grid_nm)
    power = int(np.floor(np.log10(np.abs(sampled.flux).max())))
    np.testing.assert_allclose(observed.get_ydata() * 10.0**power, sampled.flux[0])
    assert f"10^{{{power}}}" in flux.get_ylabel()
    left = observed.get_ydata() - flux.lines[0].get_ydata()
    np.testing.assert_allclose(residual.lines[1].get_ydata(), left, atol=1e-12)


@pytest.mark.parametrize("basis", [SMALL, Basis(51, 55)])
def test_without_known_basis_functions_the_flux_is_left_out_and_the_figure_says_so(basis):
    figure = FIGURES["star"].build(data_of(basis))
    draw(figure)
    assert len(figure.axes) == 6
    assert "no flux panel" in texts(figure)


def test_a_model_of_some_of_the_coefficients_is_shown_for_those_only():
    sky = toy_sky(300, basis=DR3)
    recipe = toy_recipe()
    recipe = recipe.model_copy(
        update={"normalization": recipe.normalization.model_copy(update={"n_bp": 10, "n_rp": 8})}
    )
    data = FigureData({"short": untrained_model(sky.spectra, recipe)}, sky.spectra, sky.labels)
    figure = FIGURES["star"].build(data)
    draw(figure)
    assert np.isfinite(figure.axes[0].containers[1][0].get_ydata()).sum() == 10
    assert np.isfinite(figure.axes[3].containers[1][0].get_ydata()).sum() == 8


def test_training_curves_are_the_records_and_the_held_out_value_stands_at_the_end():
    data = data_of(active=(3, 3), held_out={"model 1": -41.5})
    figure = FIGURES["training"].build(data)
    main = figure.axes[0]
    first, second, held_out = main.lines
    for line in (first, second):
        np.testing.assert_array_equal(line.get_xdata(), np.arange(1, 21))
        np.testing.assert_array_equal(line.get_ydata(), [r.negative_elbo for r in RECORDS])
    assert held_out.get_xydata().tolist() == [[20.0, -41.5]]
    for axes, quantity in zip(figure.axes[1:], ("chi2", "penalty", "kl", "learning_rate"), strict=True):
        np.testing.assert_array_equal(axes.lines[0].get_ydata(), [getattr(r, quantity) for r in RECORDS])


def test_a_fall_from_thousands_leaves_the_end_visible():
    data = data_of()
    steep = tuple(replace(r, negative_elbo=r.negative_elbo + 9000 / r.epoch**3) for r in RECORDS)
    figure = FIGURES["training"].build(
        replace(data, models={"m": replace(data.models["model 0"], records=steep)})
    )
    draw(figure)
    main = figure.axes[0]
    to_axes = (main.transData + main.transAxes.inverted()).transform
    heights = [to_axes((1.0, y))[1] for y in (-44.0, 0.0, 8900.0)]
    assert 0.0 < heights[0] < heights[1] - 0.1
    assert heights[1] < heights[2] - 0.1
    assert heights[2] < 1.0


def test_a_model_without_records_is_told_of():
    data = data_of()
    bare = {"bare": replace(data.models["model 0"], records=())}
    figure = FIGURES["training"].build(replace(data, models=bare, held_out={"bare": 3.0}))
    draw(figure)
    assert "no training records: bare" in texts(figure)


def test_missing_labels_are_grey_and_counted():
    data = data_of()
    values = data.labels.values.copy()
    values[:40, 2] = np.nan
    figure = FIGURES["latents"].build(replace(data, labels=replace(data.labels, values=values)))
    draw(figure)
    assert "40 without [Fe/H]" in texts(figure)
    assert "0 without $T" in texts(figure)


def test_labels_that_nobody_has_leave_every_hexagon_grey():
    data = data_of()
    nothing = replace(data.labels, values=np.full_like(data.labels.values, np.nan))
    for active in (3, 1):
        model = {"m": model_of(toy_sky(300), active=active)}
        figure = FIGURES["latents"].build(replace(data, models=model, labels=nothing))
        draw(figure)
        assert "300 without $T" in texts(figure)


@pytest.mark.parametrize(
    ("active", "panels", "remark"),
    [
        (3, 6, "3 of 3 latents active"),
        (2, 3, "2 of 3 latents active"),
        (1, 3, "1 of 3 latents active, no pair to show"),
        (0, 0, "0 of 3 latents active, no pair to show"),
    ],
)
def test_the_latent_figure_says_how_many_latents_are_active_and_shows_what_there_is(active, panels, remark):
    figure = FIGURES["latents"].build(data_of(active=(active,)))
    draw(figure)
    assert sum(bool(a.get_xlabel().startswith("latent")) for a in figure.axes) == panels
    assert remark in texts(figure)
