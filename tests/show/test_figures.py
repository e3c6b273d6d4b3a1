import matplotlib
import pytest
from matplotlib.figure import Figure

from scattervae.errors import ScatterVaeError
from scattervae.show.figures import FIGURES, FigureData, save_figures
from toy import DR3, spoiled, toy_sky

from .toys import data_of, draw, model_of


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize("n_models", [1, 2])
def test_every_figure_is_drawn_with_units_on_its_axes(name, n_models):
    figure = FIGURES[name].build(data_of(DR3, active=(3, 1)[:n_models]))
    assert isinstance(figure, Figure)
    draw(figure)
    labels = [text for a in figure.axes for text in (a.get_xlabel(), a.get_ylabel()) if text]
    assert labels
    countable = {"epoch", "BP coefficient", "RP coefficient"}
    assert all("[" in label or "nats" in label for label in labels if label not in countable), labels


def test_every_entry_says_what_it_shows_and_what_it_answers():
    assert all(entry.title and entry.answers for entry in FIGURES.values())
    assert list(FIGURES) == ["star", "training", "latents"]


def test_stars_that_cannot_be_encoded_do_not_stop_a_figure():
    sky = toy_sky(300)
    bad = spoiled(sky.spectra)
    data = FigureData({"m": model_of(sky)}, bad, sky.labels.aligned_to(bad.source_id))
    for entry in FIGURES.values():
        draw(entry.build(data))


def test_saved_figures_have_the_same_bytes_twice_whatever_the_users_settings(tmp_path):
    data = data_of(n_stars=100)
    first = save_figures(data, tmp_path / "a")
    first += save_figures(data, tmp_path / "a", ["training"], formats=("pdf", "svg"))
    with matplotlib.rc_context({"font.size": 20, "axes.facecolor": "red", "savefig.dpi": 30}):
        second = save_figures(data, tmp_path / "b")
        second += save_figures(data, tmp_path / "b", ["training"], formats=("pdf", "svg"))
    names = ["star.png", "training.png", "latents.png", "training.pdf", "training.svg"]
    assert [path.name for path in first] == names
    assert sorted(tmp_path.joinpath("a").iterdir()) == sorted(first)
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes(), one.name


def test_drawing_changes_none_of_the_users_settings():
    before = dict(matplotlib.rcParams)
    for entry in FIGURES.values():
        draw(entry.build(data_of()))
    assert dict(matplotlib.rcParams) == before


def test_only_the_figures_asked_for_are_drawn(tmp_path):
    assert save_figures(data_of(), tmp_path, ["training"]) == [tmp_path / "training.png"]


@pytest.mark.parametrize("given", [{"names": ["stars"]}, {"formats": ("bmp",)}])
def test_an_unknown_name_is_one_line_that_lists_what_there_is(tmp_path, given):
    with pytest.raises(ScatterVaeError, match=r"^'(stars|bmp)': no such .*(latents|svg)$") as caught:
        save_figures(data_of(), tmp_path, **given)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
