from dataclasses import replace

import numpy as np
import pytest
from matplotlib.figure import Figure

from scattervae.errors import DataError
from scattervae.model.recipe import RECIPES
from scattervae.show.architecture import architecture_figure, plot_network
from scattervae.show.star_figure import shown_star
from toy import DR3

from .toys import complete, data_of, draw, texts, without_labels


def test_the_drawing_names_the_layers_of_the_model_and_its_latents():
    figure = architecture_figure(complete(data_of()))
    draw(figure)
    widths = [t.get_text() for t in figure.axes[1].texts if t.get_text().isdigit()]
    assert widths == ["11", "24", "16", "16", "24", "11", "16", "24", "11"]
    assert "3 latents" in texts(figure)
    assert {"encoder", "decoder", "scatter estimator"} <= {t.get_text() for t in figure.axes[1].texts}


def test_error_bars_are_scatter_and_measurement_error_in_quadrature():
    data = complete(data_of(DR3))
    figure = architecture_figure(data)
    draw(figure)
    bp = next(axes for axes in figure.axes if len(axes.containers) == 3)
    row = shown_star(data)
    star = data.spectra.take([row])
    g_flux = star.g_flux[0]
    observed, vae, cannon = bp.containers
    np.testing.assert_allclose(observed[0].get_ydata(), star.coeffs[0, DR3.bp] / g_flux)
    normalization = data.cannon.normalization
    decoded = data.cannon.predict(data.labels.values[[row]][:, :3])
    mean = normalization.invert(decoded.mean, star.g_flux)[0] / g_flux
    scatter = normalization.invert_errors(decoded.scatter, star.g_flux)[0] / g_flux
    np.testing.assert_allclose(cannon[0].get_ydata(), mean[DR3.bp], rtol=1e-10)
    heights = [segment[1, 1] - segment[0, 1] for segment in cannon[2][0].get_segments()]
    np.testing.assert_allclose(heights, 2 * np.hypot(star.errors[0] / g_flux, scatter)[DR3.bp], rtol=1e-6)
    (encoded,) = data.models["model 0"].encode_batches([star])
    expected = normalization.invert(encoded.reconstruction.mean, star.g_flux)[0] / g_flux
    np.testing.assert_allclose(vae[0].get_ydata(), expected[DR3.bp], rtol=1e-5)
    assert bp.get_yscale() == "symlog"


def test_the_star_has_the_labels_that_the_cannon_needs():
    data = complete(data_of())
    first = shown_star(data)
    poorer = without_labels(data, [first], "fe_h")
    assert str(data.spectra.source_id[first]) in texts(architecture_figure(data))
    assert str(data.spectra.source_id[first]) not in texts(architecture_figure(poorer))
    assert "test fold" in texts(architecture_figure(poorer))
    with pytest.raises(DataError, match="lacks one of teff, logg, fe_h"):
        architecture_figure(replace(poorer, source_id=int(data.spectra.source_id[first])))
    with pytest.raises(DataError, match="no usable star has all of teff"):
        architecture_figure(without_labels(data, slice(None), "fe_h"))


def test_a_scatter_of_zero_has_no_mark_and_the_figure_says_so():
    data = complete(data_of())
    scatter = data.cannon.scatter.clone()
    scatter[3] = 0.0
    figure = architecture_figure(replace(data, cannon=replace(data.cannon, scatter=scatter)))
    draw(figure)
    assert "none where it is 0" in texts(figure)


@pytest.mark.parametrize(
    ("name", "inputs", "words"),
    [
        (
            "paper2023",
            "110",
            {"encoder", "decoder", "scatter estimator", "6 latents", "$z = \\mu + \\sigma\\,\\epsilon$"},
        ),
        (
            "best",
            "330",
            {
                "residual encoder of coefficients\nand errors",
                "residual decoder",
                "8 latents",
                "$z = \\mu + (1 + C)\\,\\sigma\\,\\epsilon$",
            },
        ),
    ],
)
def test_the_network_is_drawn_as_its_shape_says(name, inputs, words):
    axes = Figure().subplots()
    plot_network(axes, RECIPES[name].network, 110)
    texts = [text.get_text() for text in axes.texts]
    assert words <= set(texts)
    assert texts[0] == inputs
    assert texts.count("110") == (3 if inputs == "110" else 2)
