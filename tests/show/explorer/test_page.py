"""What is in a page, how large it is, and data that could break one."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cli.toys import write_parquet
from scattervae import catalogue
from scattervae.errors import CheckpointError
from scattervae.show.explorer.page import explore
from scattervae.spectra.spectra import Flag
from show.explorer.conftest import made_model, stirred
from toy import SMALL, toy_sky

END = '</script><script>window.broken = 1</script><img src=x onerror="window.broken = 1">'


@pytest.fixture(scope="module")
def small():
    """Stars of a basis whose functions nobody knows, and a model that is not calibrated."""
    sky = toy_sky(60, basis=SMALL)
    return sky, made_model(sky.spectra, best=False, calibration=False)


def opened(browser, page, tmp_path):
    page.save(tmp_path / "page.html")
    shown = browser.open(tmp_path / "page.html")
    assert shown.text("status").count("could not start") == 0
    shown.run("window.scattervae.set({tab: 'generate', z: new Array(3).fill(0.5)})")
    shown.run("await new Promise((r) => setTimeout(r, 200)); return 0")
    assert shown.problems() == []
    assert shown.run("window.broken === undefined")
    return shown


def test_a_page_says_what_is_in_it(files, model):
    page = explore(model, files / "catalogue.parquet", stars=files / "stars.parquet", sample=50)
    assert (page.n_stars, page.n_all, page.n_spectra) == (50, 300, 50)
    assert 0 < page.coeff_loss < 0.1
    assert page.n_bytes < 3e6
    assert page.content.count("<script") == page.content.count("</script>")


def test_as_many_spectra_as_there_is_room_for(files, model):
    bare = explore(model, files / "catalogue.parquet")
    assert bare.n_spectra == 0
    limit = bare.n_bytes / 1e6 + 0.12
    page = explore(model, files / "catalogue.parquet", stars=files / "stars.parquet", megabytes=limit)
    assert 20 < page.n_spectra < 300
    assert page.n_bytes <= limit * 1e6


def test_a_catalogue_of_another_model_is_refused(files, sky):
    other = made_model(sky.spectra, calibration=False)
    with pytest.raises(CheckpointError, match="made with the model"):
        explore(other, files / "catalogue.parquet")


def test_in_a_notebook_it_is_a_frame_that_holds_all_of_itself(files, model):
    page = explore(model, files / "catalogue.parquet")
    frame = page._repr_html_()
    assert frame.startswith("<iframe")
    assert frame.count("<") == 2
    assert frame.count('"') == 6


@pytest.mark.parametrize("n_stars", [0, 1, 2])
def test_no_star_one_star_two_stars(browser, small, tmp_path, n_stars):
    sky, model = small
    pq.write_table(catalogue(model, sky.spectra).slice(0, n_stars), tmp_path / "catalogue.parquet")
    write_parquet(tmp_path / "stars.parquet", sky.spectra, sky.labels)
    page = explore(model, tmp_path / "catalogue.parquet", stars=tmp_path / "stars.parquet")
    assert (page.n_stars, page.n_spectra) == (n_stars, n_stars)
    shown = opened(browser, page, tmp_path)
    assert shown.run("window.scattervae.listed.length") == n_stars
    if n_stars:
        shown.run("window.scattervae.choose(0)")
        assert str(sky.spectra.source_id[0]) + str(sky.spectra.source_id[1]) != shown.text("star-title")
        assert "No flux" in shown.text("star-plots")
    assert shown.problems() == []


def test_stars_that_are_all_flagged(browser, small, tmp_path):
    sky, model = small
    n = len(sky.spectra)
    flags = np.full(n, Flag.NO_G_FLUX, dtype=np.uint16)
    spectra = replace(sky.spectra, g_flux=np.full(n, np.nan)).with_flags(flags)
    pq.write_table(catalogue(model, spectra), tmp_path / "catalogue.parquet")
    shown = opened(browser, explore(model, tmp_path / "catalogue.parquet"), tmp_path)
    shown.run("window.scattervae.set({c: 'quality_flags'})")
    assert "NO_G_FLUX (60)" in shown.text("legend")
    shown.run("window.scattervae.choose(3)")
    assert "could not be encoded" in shown.text("star-note")
    assert shown.problems() == []


def test_data_that_would_be_markup_stays_text(browser, small, tmp_path):
    sky, model = small
    table = catalogue(model, sky.spectra)
    ids = np.arange(60) + np.iinfo(np.int64).max - 59
    table = table.set_column(0, "source_id", pa.array(ids))
    field = pa.field(f"label {END}", pa.string(), metadata={"unit": END, "description": END})
    table = table.append_column(field, pa.array([END, "plain", None] * 20))
    table = table.append_column("not a number", pa.array([np.nan, np.inf, -np.inf] * 20))
    table = table.append_column("nothing", pa.nulls(60, pa.float64()))
    table = table.append_column("wide", pa.array(10.0 ** np.linspace(-300, 300, 60)))
    table = table.append_column("when", pa.array([None, 5] * 30, pa.timestamp("s")))
    path = tmp_path / f"c{END[9:20].replace('/', '')}.parquet"
    pq.write_table(table, path)
    shown = opened(browser, explore(model, path), tmp_path)
    for name in (f"label {END}", "not a number", "nothing", "wide", "when"):
        shown.run("window.scattervae.set({c: given[0]})", name)
    for name in ("not a number", "nothing", "wide"):
        shown.run("window.scattervae.set({x: given[0], view: null})", name)
        shown.run(
            "await window.scattervae.addFilter(given[0]); await window.scattervae.undo(); return 0", name
        )
    shown.run("window.scattervae.find(given[0])", str(ids[-1]))
    assert str(ids[-1]) in shown.text("star-title")
    assert END in shown.text("star-row")
    assert shown.problems() == []
    assert shown.run("window.broken === undefined")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no rows"),
        ("a,b\n1,2\n", "no coefficients"),
        ("{broken", "JSON"),
        ('source_id,bp_coefficients\n1,"(1, 2, 3)"\n', "3 numbers in bp"),
        ('[{"source_id": 1, "bp_coefficients": [1, 2, 3, 4, 5, 6], "rp_coefficients": null}]', "no G flux"),
        (f"{END}\n{END}\n", "no coefficients"),
    ],
)
def test_a_file_that_is_no_spectrum_is_refused_in_one_line(browser, small, tmp_path, text, message):
    sky, model = small
    pq.write_table(catalogue(model, sky.spectra), tmp_path / "catalogue.parquet")
    explore(model, tmp_path / "catalogue.parquet").save(tmp_path / "page.html")
    (tmp_path / "mine.csv").write_text(text)
    shown = browser.open(tmp_path / "page.html")
    shown.driver.find_element("id", "file").send_keys(str(tmp_path / "mine.csv"))
    shown.wait("document.querySelector('#status.error')")
    assert message in shown.text("status")
    assert shown.problems() == []


def test_a_layer_that_the_page_does_not_know_is_named(small):
    import torch

    sky, model = small
    network = stirred(made_model(sky.spectra, best=False, calibration=False)).network
    network.decoder.append(torch.nn.ReLU())
    from scattervae.show.explorer.packed_model import packed_model

    with pytest.raises(TypeError, match="ReLU"):
        packed_model(replace(model, network=network))
