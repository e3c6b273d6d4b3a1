import pytest

from cli.toys import write_parquet
from scattervae.show.registry import FIGURES
from toy import toy_sky


@pytest.fixture(scope="module")
def field(tmp_path_factory):
    return write_parquet(tmp_path_factory.mktemp("field") / "field.parquet", toy_sky(150, seed=3).spectra)


@pytest.fixture(autouse=True)
def coarse(monkeypatch):
    """Files that nobody looks at need no fine pixels."""
    monkeypatch.setattr("scattervae.show.style.DPI", 40)


def drawn(cli, name, model, store, out, *more):
    run = cli("figure", name, "--model", model, "--stars", store, "--out", out, *more)
    assert run.code == 0, run.err
    return run


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_can_be_drawn_alone(cli, name, model, store, field, tmp_path):
    run = drawn(cli, name, model, store, tmp_path / "a.png", "--unlabelled", field, "--json")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert run.json["figure"] == name
    assert run.json["n_stars"] == 300
    assert (run.json["cannon_trained_on"] is not None) == (name in ("architecture", "normalised_errors"))
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_the_suffix_is_the_format_and_the_command_says_what_it_wrote(cli, model, store, tmp_path):
    run = drawn(cli, "normalised_errors", model, store, tmp_path / "new" / "a.pdf")
    assert (tmp_path / "new" / "a.pdf").read_bytes().startswith(b"%PDF")
    assert "fitted a Cannon to " in run.out
    assert f"wrote {tmp_path / 'new' / 'a.pdf'}" in run.out


def test_several_models_and_one_star(cli, model, store, sky, tmp_path):
    star = int(sky.spectra.source_id[5])
    run = drawn(cli, "star", model, store, tmp_path / "a.svg", "--model", model, "--star", star, "--json")
    assert run.json["source_id"] == str(star)
    assert str(star) in (tmp_path / "a.svg").read_text()


def test_help_lists_the_names_with_what_each_answers(cli, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    text = " ".join(cli("figure", "--help").out.split())
    assert all(f"{name}: {entry.title} ({entry.answers})" in text for name, entry in FIGURES.items())


@pytest.mark.parametrize(
    ("name", "out", "error"),
    [
        (
            "fig1",
            "a.png",
            "'fig1': no such figure; choose among architecture, normalised_errors, latent_volume",
        ),
        ("star", "a.jpg", "give one of .png, .pdf, .svg"),
        ("star", "a", "give one of .png, .pdf, .svg"),
        (
            "latent_volume",
            "a.png",
            "figure latent_volume: no unlabelled stars; give some (--unlabelled STORE",
        ),
    ],
)
def test_what_cannot_be_drawn_is_one_line(cli, name, out, error, model, store, tmp_path):
    run = cli("figure", name, "--model", model, "--stars", store, "--out", tmp_path / out)
    assert error in run.error
    assert list(tmp_path.iterdir()) == []


def test_stars_without_labels_give_no_cannon(cli, model, field, tmp_path):
    run = cli("figure", "architecture", "--model", model, "--stars", field, "--out", tmp_path / "a.png")
    assert "have all of teff, logg, fe_h" in run.error
