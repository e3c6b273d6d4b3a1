from dataclasses import replace

import pytest

from scattervae.errors import DataError
from scattervae.seeds import folds
from scattervae.show.data import FigureData
from scattervae.show.star import star_figure
from scattervae.spectra.flags import Flag
from toy import spoiled, toy_sky

from .toys import data_of, model_of, texts


def test_the_default_star_is_the_usable_test_star_of_median_g_flux():
    data = data_of()
    usable = data.spectra.usable & folds(data.spectra.source_id).test
    below = (data.spectra.g_flux[usable] < data.spectra.g_flux[data.star]).sum()
    assert usable[data.star]
    assert below == (usable.sum() - 1) // 2


def test_a_star_can_be_chosen_and_one_that_cannot_be_shown_is_refused():
    sky = toy_sky(300)
    bad = spoiled(sky.spectra)
    data = FigureData({"m": model_of(sky)}, bad, sky.labels.aligned_to(bad.source_id))
    assert replace(data, source_id=int(bad.source_id[50])).star == 50
    assert str(bad.source_id[50]) in texts(star_figure(replace(data, source_id=int(bad.source_id[50]))))
    with pytest.raises(DataError, match=Flag.MISSING_BP.meaning):
        star_figure(replace(data, source_id=int(bad.source_id[0])))
    with pytest.raises(DataError, match="not among these 300 stars"):
        star_figure(replace(data, source_id=1))
    only_bad = bad.take([0, 1, 2])
    with pytest.raises(DataError, match="none of 3 stars"):
        star_figure(FigureData(data.models, only_bad, sky.labels.aligned_to(only_bad.source_id)))


def test_figures_of_nothing_or_with_labels_of_other_stars_are_a_slip():
    data = data_of()
    with pytest.raises(ValueError, match="no model"):
        replace(data, models={})
    with pytest.raises(ValueError, match="labels of other stars"):
        replace(data, labels=data.labels.aligned_to(data.spectra.source_id[::-1].copy()))
