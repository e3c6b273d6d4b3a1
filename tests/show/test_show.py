"""Figures and the page as a notebook asks for them."""

import pyarrow.parquet as pq
import pytest

import scattervae as sv
from cli.toys import write_parquet
from scattervae import show
from scattervae.errors import DataError
from show.toys import draw, model_of, texts
from toy import toy_sky


@pytest.fixture(scope="module")
def sky():
    return toy_sky(120)


@pytest.fixture(scope="module")
def model(sky):
    return model_of(sky)


def test_one_star_is_a_figure(sky, model, tmp_path):
    figure = show.plot_star(model, sky.spectra, 3)
    assert str(sky.spectra.source_id[3]) in texts(figure)
    assert draw(figure)
    stars = write_parquet(tmp_path / "stars.parquet", sky.spectra, sky.labels)
    model.save(tmp_path / "model")
    again = show.plot_star(tmp_path / "model", stars, 3)
    assert "log" in texts(again)  # the labels that came with the stars
    with pytest.raises(IndexError):
        show.plot_star(model, sky.spectra, 120)


def test_latents_are_a_figure(sky, model, tmp_path):
    stars = sv.load(write_parquet(tmp_path / "stars.parquet", sky.spectra, sky.labels))
    assert "latent 1" in texts(show.plot_latents(model, stars))


def test_the_page_shows_itself(sky, model, tmp_path):
    path = tmp_path / "catalogue.parquet"
    pq.write_table(sv.catalogue(model, sky.spectra), path)
    page = show.explore(model, path, sample=10)
    assert page.n_stars == 10
    assert page._repr_html_().startswith("<iframe")


def test_stars_that_are_none_are_refused(model, tmp_path):
    with pytest.raises(DataError):
        show.plot_star(model, tmp_path / "nothing.csv")
