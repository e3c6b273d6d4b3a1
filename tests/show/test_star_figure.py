"""One star's figure shows what the data and the models say."""

from dataclasses import replace

import numpy as np
import pytest

from scattervae.errors import DataError
from scattervae.gaia.flux import sample_flux
from scattervae.seeds import folds
from scattervae.show.registry import FigureData
from scattervae.show.star_figure import shown_star, star_figure
from scattervae.spectra.spectra import Basis, Flag
from toy import DR3, SMALL, spoiled, toy_recipe, toy_sky, untrained_model

from .toys import data_of, draw, model_of, texts


def test_the_star_figure_shows_the_coefficients_of_the_star_in_units_of_its_g_flux():
    data = data_of(DR3)
    figure = star_figure(data)
    row, spectra = shown_star(data), data.spectra
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
    figure = star_figure(data)
    star = data.spectra.take([shown_star(data)])
    (encoded,) = data.models["model 0"].encode_batches([star])
    normalization = data.models["model 0"].normalization
    decoded = normalization.invert(encoded.reconstruction.mean, star.g_flux)[0] / star.g_flux[0]
    scatter = normalization.invert_errors(encoded.reconstruction.scatter, star.g_flux)[0] / star.g_flux[0]
    residuals = encoded.reconstruction.normalised_errors(encoded.inputs.x, encoded.inputs.errors)[0]
    amplitudes, sigmas, left = figure.axes[:3]
    np.testing.assert_allclose(amplitudes.containers[1][0].get_ydata(), decoded[DR3.bp], rtol=1e-5)
    np.testing.assert_allclose(sigmas.lines[1].get_ydata(), scatter[DR3.bp], rtol=1e-5)
    np.testing.assert_allclose(left.lines[1].get_ydata(), residuals[DR3.bp], rtol=1e-3, atol=1e-4)  # float32


def test_the_star_figure_shows_flux_on_the_wavelength_grid():
    data = data_of(DR3)
    figure = star_figure(data)
    sampled = sample_flux(data.spectra.take([shown_star(data)]))
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
    figure = star_figure(data_of(basis))
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
    figure = star_figure(data)
    draw(figure)
    assert np.isfinite(figure.axes[0].containers[1][0].get_ydata()).sum() == 10
    assert np.isfinite(figure.axes[3].containers[1][0].get_ydata()).sum() == 8


def test_the_default_star_is_the_usable_test_star_of_median_g_flux():
    data = data_of()
    usable = data.spectra.usable & folds(data.spectra.source_id).test
    below = (data.spectra.g_flux[usable] < data.spectra.g_flux[shown_star(data)]).sum()
    assert usable[shown_star(data)]
    assert below == (usable.sum() - 1) // 2


def test_a_star_can_be_chosen_and_one_that_cannot_be_shown_is_refused():
    sky = toy_sky(300)
    bad = spoiled(sky.spectra)
    data = FigureData({"m": model_of(sky)}, bad, sky.labels.aligned_to(bad.source_id))
    assert shown_star(replace(data, source_id=int(bad.source_id[50]))) == 50
    assert str(bad.source_id[50]) in texts(star_figure(replace(data, source_id=int(bad.source_id[50]))))
    with pytest.raises(DataError, match=Flag.MISSING_BP.meaning):
        star_figure(replace(data, source_id=int(bad.source_id[0])))
    with pytest.raises(DataError, match="not among these 300 stars"):
        star_figure(replace(data, source_id=1))
    only_bad = bad.take([0, 1, 2])
    with pytest.raises(DataError, match="none of 3 stars"):
        star_figure(FigureData(data.models, only_bad, sky.labels.aligned_to(only_bad.source_id)))
