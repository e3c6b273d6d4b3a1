from dataclasses import replace

import numpy as np
import pytest
from matplotlib.figure import Figure

from scattervae.errors import DataError
from scattervae.science.latent_volume.richness import count_cells
from scattervae.show.latent_volume import (
    enclosing_levels,
    latent_volume_figure,
    measured_volumes,
    plot_cells,
    plot_volumes,
    unlabelled_stars,
)
from scattervae.show.latents_figure import Limits
from scattervae.spectra.spectra import Spectra
from toy import SMALL, toy_sky

from .toys import complete, data_of, draw, texts, without_labels


def test_both_sets_are_counted_and_every_pair_of_active_latents_is_shown():
    data = complete(data_of())
    figure = latent_volume_figure(without_labels(data, slice(0, 30), "logg"))
    draw(figure)
    assert len(figure.axes) == 3
    assert "labelled (270 stars)" in texts(figure)
    assert "unlabelled (200 stars)" in texts(figure)
    assert "drawn for 200 stars of each set" in texts(figure)


def test_volumes_are_those_of_the_coverage_given():
    data = complete(data_of())
    compared = measured_volumes(data)
    figure = latent_volume_figure(replace(data, volumes=compared))
    draw(figure)
    volumes = figure.axes[-1]
    full = volumes.containers[0][0]
    np.testing.assert_allclose(full.get_xdata(), [o.n_labelled for o in compared.full.over_n])
    np.testing.assert_allclose(full.get_ydata(), [100 * o.difference.value for o in compared.full.over_n])
    assert f"{100 * compared.pairs[0].equal_n.difference.value:+.0f}".replace("-", "\N{MINUS SIGN}") in texts(
        figure
    )
    assert (compared.n_labelled, compared.n_unlabelled) == (300, 200)


@pytest.mark.parametrize("active", [2, 3])
def test_there_is_a_place_for_the_volumes_whatever_the_number_of_pairs(active):
    data = complete(data_of(active=(active,)))
    figure = latent_volume_figure(replace(data, volumes=measured_volumes(data)))
    draw(figure)
    assert len(figure.axes) == active * (active - 1) // 2 + 1


def test_stars_of_both_files_are_labelled_only():
    data = complete(data_of())
    mixed = Spectra.concatenate([data.unlabelled, data.spectra.take(slice(0, 50))])
    assert len(unlabelled_stars(replace(data, unlabelled=mixed))) == 200
    with pytest.raises(DataError, match="none of 50 unlabelled stars"):
        latent_volume_figure(replace(data, unlabelled=data.spectra.take(slice(0, 50))))


def test_a_collapsed_model_and_stars_without_labels_are_one_line():
    collapsed = complete(data_of(active=(1,)))
    with pytest.raises(DataError, match="model 0: 1 active latents"):
        latent_volume_figure(collapsed)
    with pytest.raises(DataError, match="no labelled stars to project"):
        latent_volume_figure(without_labels(complete(data_of()), slice(None), "teff"))


def test_cells_are_those_that_volumes_are_counted_in():
    rng = np.random.default_rng(0)
    both = [rng.normal(size=(100, 2)) for _ in range(2)]
    axes = Figure().add_subplot()
    ends = Limits(-6.0, 6.0)
    plot_cells(axes, *both, side=0.25, x=ends, y=ends)
    (mesh,) = axes.collections
    which = mesh.get_array().compressed()
    counts = count_cells(*both, 0.25)
    occupied = [int((of_set > 0).sum()) for of_set in (counts.labelled, counts.unlabelled)]
    assert [(which != other).sum() for other in (1, 0)] == occupied
    assert len(which) == len(counts.labelled)


def test_levels_enclose_their_share():
    density = np.random.default_rng(0).gamma(1.0, size=(40, 40))
    for share, level in zip((0.9, 0.5), enclosing_levels(density, (0.9, 0.5)), strict=True):
        assert density[density >= level].sum() / density.sum() == pytest.approx(share, abs=0.01)


def test_too_few_stars_for_a_contour_are_points():
    data = complete(data_of())
    few = replace(data, unlabelled=toy_sky(20, basis=SMALL, seed=2).spectra)
    figure = latent_volume_figure(few)
    draw(figure)
    assert len(figure.axes[0].lines[0].get_xdata()) == 20


def test_volumes_of_one_size_are_drawn():
    compared = measured_volumes(complete(data_of()))
    axes = Figure().add_subplot()
    plot_volumes(axes, [compared.pairs[0].over_n[:1]], compared.full.over_n[:1], "all")
    assert axes.get_xscale() == "log"
