from dataclasses import replace
from importlib import import_module

import matplotlib
import pytest
from matplotlib.figure import Figure

from scattervae.errors import ScatterVaeError
from scattervae.show.latent_volume import measured_volumes
from scattervae.show.registry import FIGURES, FigureData, draw_figure, save_figure, save_figures
from toy import DR3, SMALL, spoiled, toy_sky

from .toys import complete, data_of, draw, model_of


@pytest.fixture(autouse=True)
def coarse(monkeypatch):
    """Files that nobody looks at need no fine pixels."""
    monkeypatch.setattr("scattervae.show.style.DPI", 40)


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_is_drawn_with_units_on_its_axes(name):
    basis = DR3 if name == "star" else SMALL
    data = complete(data_of(basis, active=(3, 1)))
    figure = draw_figure(replace(data, volumes=measured_volumes(data)), name)
    assert isinstance(figure, Figure)
    draw(figure)
    labels = [text for a in figure.axes for text in (a.get_xlabel(), a.get_ylabel()) if text]
    assert labels
    countable = {"epoch", "BP coefficient", "RP coefficient"}
    assert all("[" in label or "nats" in label for label in labels if label not in countable), labels


def test_every_entry_says_what_it_shows_and_what_it_answers():
    assert all(entry.title and entry.answers and entry.caption for entry in FIGURES.values())
    paper, found = (
        ["architecture", "normalised_errors", "latent_volume"],
        ["star", "training", "latents", "calibration"],
    )
    assert list(FIGURES) == paper + found
    assert [entry.answers for entry in FIGURES.values()][:3] == ["fig. 1", "fig. 2", "fig. 3"]


def test_stars_that_cannot_be_encoded_stop_no_figure_and_drawing_changes_none_of_the_users_settings():
    before = dict(matplotlib.rcParams)
    sky = toy_sky(300)
    bad = spoiled(sky.spectra)
    data = complete(FigureData({"m": model_of(sky)}, bad, sky.labels.aligned_to(bad.source_id)))
    data = replace(data, unlabelled=spoiled(data.unlabelled))
    for name in FIGURES:
        draw(draw_figure(data, name))
    assert dict(matplotlib.rcParams) == before


@pytest.mark.slow
def test_saved_figures_have_the_same_bytes_twice_whatever_the_users_settings(tmp_path):
    data = complete(data_of(n_stars=100))
    paper = ["architecture", "normalised_errors", "latent_volume"]
    first = save_figures(data, tmp_path / "a", paper)
    first += save_figures(data, tmp_path / "a", ["training"], formats=("pdf", "svg"))
    with matplotlib.rc_context({"font.size": 20, "axes.facecolor": "red", "savefig.dpi": 30}):
        second = save_figures(data, tmp_path / "b", paper)
        second += save_figures(data, tmp_path / "b", ["training"], formats=("pdf", "svg"))
    names = [*(f"{name}.png" for name in paper), "training.pdf", "training.svg"]
    assert [path.name for path in first] == names
    assert sorted(tmp_path.joinpath("a").iterdir()) == sorted(first)
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes(), one.name


def test_only_the_figures_asked_for_are_drawn(tmp_path):
    assert save_figures(data_of(), tmp_path, ["training"]) == [tmp_path / "training.png"]


@pytest.mark.parametrize("given", [{"names": ["stars"]}, {"formats": ("bmp",)}])
def test_an_unknown_name_is_one_line_that_lists_what_there_is(tmp_path, given):
    with pytest.raises(ScatterVaeError, match=r"^'(stars|bmp|)': no such .*(calibration|svg)$") as caught:
        save_figures(data_of(), tmp_path, **given)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "lacks", "way_out"),
    [
        ("architecture", "cannon", "FigureData.cannon"),
        ("normalised_errors", "cannon", "FigureData.cannon"),
        ("latent_volume", "unlabelled", "--unlabelled STORE"),
    ],
)
def test_a_figure_that_lacks_its_data_says_in_one_line_what_to_give(name, lacks, way_out):
    data = replace(complete(data_of()), **{lacks: None})
    with pytest.raises(ScatterVaeError, match=f"^figure {name}: no .*{way_out}") as caught:
        draw_figure(data, name)
    assert "\n" not in str(caught.value)
    with pytest.raises(ScatterVaeError, match=way_out):
        getattr(import_module(f"scattervae.show.{name}"), f"{name}_figure")(data)


def test_without_names_all_figures_are_drawn_that_the_data_have_everything_for(tmp_path, caplog):
    with caplog.at_level("INFO", "scattervae"):
        names = [path.stem for path in save_figures(data_of(), tmp_path)]
    assert names == ["star", "training", "latents", "calibration"]
    assert "figure latent_volume left out: no unlabelled stars" in caplog.text


def test_a_figure_is_saved_as_its_suffix_says(tmp_path):
    figure = draw_figure(data_of(), "training")
    assert save_figure(figure, tmp_path / "a.PDF").read_bytes().startswith(b"%PDF")
    assert save_figure(figure, tmp_path / "a.svg").read_text().startswith("<?xml")
    with pytest.raises(ScatterVaeError, match=r"'jpg': no such format; choose among png, pdf, svg"):
        save_figure(figure, tmp_path / "a.jpg")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.PDF", "a.svg"]


def test_figures_of_nothing_or_with_labels_of_other_stars_are_a_slip():
    data = data_of()
    with pytest.raises(ValueError, match="no model"):
        replace(data, models={})
    with pytest.raises(ValueError, match="labels of other stars"):
        replace(data, labels=data.labels.aligned_to(data.spectra.source_id[::-1].copy()))
