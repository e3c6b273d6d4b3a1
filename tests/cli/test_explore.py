"""``scattervae explore``."""

import importlib.util

import pytest


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory, folder):
    from scattervae.cli.application import main

    out = tmp_path_factory.mktemp("explore") / "catalogue.parquet"
    with pytest.raises(SystemExit):
        main(["encode", str(folder / "model"), str(folder / "store"), "--out", str(out)])
    return out


def test_it_writes_a_page_and_says_how_large(cli, model, store, catalogue, tmp_path):
    out = tmp_path / "page.html"
    done = cli("explore", model, catalogue, "--stars", store, "--out", out)
    assert done.code == 0
    assert "300 stars on the map, observed spectra of 300" in done.out
    assert f"wrote {out}" in done.out
    page = out.read_text()
    assert "effective temperature" in page
    again = cli("explore", model, catalogue, "--sample", 40, "--out", out, "--json").json
    assert (again["n_stars"], again["n_all"], again["n_spectra"]) == (40, 300, 0)
    assert again["megabytes"] == pytest.approx(out.stat().st_size / 1e6, abs=0.01)


def test_a_folder_is_streamed(cli, model, store, tmp_path):
    cli("encode", model, store, "--out", tmp_path / "catalogue")
    done = cli("explore", model, tmp_path / "catalogue", "--stars", store, "--out", tmp_path / "page.html")
    assert "300 stars on the map, observed spectra of 300" in done.out


def test_it_replaces_no_file_of_others_and_no_folder(cli, model, catalogue, tmp_path):
    mine = tmp_path / "mine.html"
    mine.write_text("<html>mine</html>")
    for out, text in (
        (mine, "not made by scattervae"),
        (tmp_path, "is a folder"),
        (tmp_path / "p.pdf", ".html"),
    ):
        assert text in cli("explore", model, catalogue, "--out", out).error
    assert mine.read_text() == "<html>mine</html>"


def test_what_is_no_catalogue_is_refused_in_one_line(cli, model, store, folder, tmp_path):
    out = tmp_path / "page.html"
    assert "latent_1_mean" in cli("explore", model, store, "--out", out).error
    assert "does not exist" in cli("explore", model, tmp_path / "no.parquet", "--out", out).error
    assert "expected .parquet" in cli("explore", model, folder / "toy.toml", "--out", out).error
    assert not out.exists()


def test_umap_is_asked_for_by_name(cli, model, catalogue, tmp_path):
    if importlib.util.find_spec("umap"):
        pytest.skip("umap-learn is installed here")
    refused = cli("explore", model, catalogue, "--umap", "--out", tmp_path / "p.html")
    assert "umap-learn is not installed" in refused.error
