"""The page in a real browser: its numbers are Python's, and its parts do what they say."""

import json

import numpy as np
import pytest
import torch

from cli.toys import archive_columns, write_csv
from scattervae import load
from scattervae.gaia.flux import flux_from_coeffs
from scattervae.science.calibration.calibrated import has_score
from scattervae.science.catalogue.encoding import catalogue
from show.explorer.conftest import made_model
from toy import DR3, without_bands

TOLERANCE = 1e-4


def encoded(model, spectra):
    """What Python says of the stars: posterior mean, sd, reconstruction, reduced chi^2 and score."""
    (batch,) = model.encode_batches([spectra])
    predicted, inputs = batch.reconstruction, batch.inputs
    score = None
    if has_score(model):
        score = catalogue(model, spectra)["spectrum_score"].to_numpy()
    squares = (inputs.x - predicted.mean) ** 2 / (inputs.errors**2 + predicted.scatter**2)
    chi2 = squares.sum(dim=1) / inputs.errors.isfinite().sum(dim=1)
    return batch.posterior, predicted, chi2.numpy(), score


def dropped(page, text):
    """All stars of a file through the page's own reader and encoder."""
    return page.run(
        """const app = window.scattervae, { basis, g_zero_point: zero } = app.about.network;
        const stars = Reading.stars(given[0], basis, zero);
        return stars.map((star) => { const { posterior, predicted, fit } = app.encodeStar(star); return {
          id: star.source_id, mean: [...posterior.mean], sd: [...posterior.sd], x: [...predicted.mean],
          scatter: [...predicted.scatter], chi2: fit.reduced_chi2, score: fit.score }; });""",
        text,
    )


def compare(found, spectra, model):
    posterior, predicted, chi2, score = encoded(model, spectra)
    assert [star["id"] for star in found] == [str(i) for i in spectra.source_id]
    # posteriors of a network of random weights have several tops; rounding decides which of them is climbed
    most, tolerance = (0.5, 20 * TOLERANCE) if model.refined is not None else (1.0, TOLERANCE)
    for name, expected in (
        ("mean", posterior.mean),
        ("sd", posterior.sd),
        ("x", predicted.mean),
        ("scatter", predicted.scatter),
    ):
        values = np.array([star[name] for star in found])
        assert np.quantile(np.abs(values - expected.numpy()).max(axis=1), most) < tolerance, name
    assert np.quantile(np.abs(np.array([star["chi2"] for star in found]) / chi2 - 1.0), most) < tolerance
    if score is None:
        assert all(star["score"] is None for star in found)
    else:
        assert np.quantile(np.abs(np.array([star["score"] for star in found]) - score), most) < max(
            1e-3, tolerance
        )


def test_a_hundred_stars_of_a_csv_are_encoded_as_in_python(page, sky, model, tmp_path):
    spectra = sky.spectra.take(slice(0, 100))
    write_csv(tmp_path / "stars.csv", spectra)
    compare(dropped(page, (tmp_path / "stars.csv").read_text()), spectra, model)


def test_stars_with_one_band_and_those_of_json_are_encoded_as_in_python(page, sky, model, tmp_path):
    spectra = without_bands(sky.spectra.take(slice(0, 40)), share=0.8)
    write_csv(tmp_path / "stars.csv", spectra)
    stars = load(tmp_path / "stars.csv").spectra
    columns = archive_columns(stars)
    by_row = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    for text in (json.dumps(columns), json.dumps(by_row), "\n".join(map(json.dumps, by_row))):
        compare(dropped(page, text), stars, model)


def test_a_g_flux_that_no_column_gives_comes_from_the_coefficients(page, sky, model, tmp_path):
    write_csv(tmp_path / "stars.csv", sky.spectra.take(slice(0, 5)), g_flux=False)
    compare(dropped(page, (tmp_path / "stars.csv").read_text()), load(tmp_path / "stars.csv").spectra, model)


@pytest.mark.parametrize("calibration", [False, True])
def test_the_papers_network_runs_in_the_page_too(browser, sky, tmp_path, calibration):
    import pyarrow.parquet as pq

    from scattervae.show.explorer.page import explore

    model = made_model(sky.spectra, best=False, calibration=calibration)
    pq.write_table(catalogue(model, sky.spectra), tmp_path / "catalogue.parquet")
    explore(model, tmp_path / "catalogue.parquet").save(tmp_path / "page.html")
    spectra = sky.spectra.take(slice(0, 20))
    write_csv(tmp_path / "stars.csv", spectra)
    compare(
        dropped(browser.open(tmp_path / "page.html"), (tmp_path / "stars.csv").read_text()), spectra, model
    )


def test_flux_is_that_of_python(page, model):
    z = np.random.default_rng(0).normal(size=(4, model.n_latent))
    predicted = model.reconstruct(torch.from_numpy(z).float())
    g_flux = np.full(4, 1e4)
    coeffs = model.normalization.invert(predicted.mean, g_flux)
    expected = flux_from_coeffs(coeffs, model.normalization.invert_errors(predicted.scatter, g_flux), DR3)
    found = page.run(
        """const { network } = window.scattervae; return given[0].map((z) => {
        const { mean, scatter } = network.decode(z);
        const { values, errors } = network.flux(mean, scatter, 1e4); return [[...values], [...errors]]; });""",
        z.tolist(),
    )
    for (values, errors), flux, error in zip(found, expected.flux, expected.errors, strict=True):
        assert np.abs(np.array(values) - flux).max() < TOLERANCE * np.abs(flux).max()
        assert np.allclose(errors, error, rtol=TOLERANCE)


def test_observed_spectra_are_those_of_the_store_but_for_the_stated_loss(page, sky, model):
    rows = np.arange(0, 300, 10)
    found = page.run(
        """const { stars } = window.scattervae; const found = [];
        for (const id of given[0]) {
          const { x, errors } = await stars.observed(stars.rowOf.get(id));
          found.push([[...x], [...errors]]);
        }
        return found;""",
        [str(i) for i in sky.spectra.source_id[rows]],
    )
    inputs = model.normalization.apply(sky.spectra.take(rows), gaps=True)
    x, errors = np.array([one[0] for one in found]), np.array([one[1] for one in found])
    stated = page.run("window.scattervae.about.spectra")
    assert stated["n"] == 300
    away = np.abs(x - inputs.x.numpy()) / inputs.errors.numpy()
    assert np.percentile(away, 99) <= stated["coeff_loss"]
    assert np.abs(errors / inputs.errors.numpy() - 1).max() <= 1.001 * stated["error_loss"]


def test_magnitude_and_colour_are_those_that_stars_are_matched_on(page, sky):
    from scattervae.science.relative.matching import covariates_of

    expected = covariates_of(sky.spectra, sky.labels, ["g_mag", "bp1_rp1"]).values
    for name, values in zip(("g_mag", "bp1_rp1"), expected.T, strict=True):
        found = page.run(
            """const { stars } = window.scattervae, values = await stars.values(given[0]);
            return given[1].map((id) => values[stars.rowOf.get(id)]);""",
            name,
            [str(i) for i in sky.spectra.source_id],
        )
        known = np.isfinite(values)
        assert known.any()
        assert np.allclose(np.array(found, dtype=float)[known], values[known], atol=2e-3)


def test_choosing_a_star_shows_its_row_its_spectrum_and_its_neighbours(page, sky, model):
    source_id = str(sky.spectra.source_id[7])
    page.run("window.scattervae.find(given[0])", source_id)
    page.wait("document.querySelectorAll('#star-neighbours button').length === 8")
    assert source_id in page.text("star-title")
    row = page.text("star-row")
    assert "teff that came with the spectra" in row
    assert " K" in row
    links = page.run("[...document.querySelectorAll('#star-links a')].map((a) => decodeURIComponent(a.href))")
    assert all(source_id in link for link in links)
    z = model.encode(sky.spectra).mean.double().numpy()
    away = np.linalg.norm(z - z[7], axis=1)
    nearest = sky.spectra.source_id[np.argsort(away)[1:9]]
    shown = page.run(
        "[...document.querySelectorAll('#star-neighbours button')].map((b) => b.textContent.split(' ')[0])"
    )
    assert shown == [str(i) for i in nearest]
    assert page.problems() == []


def test_a_lasso_selects_lists_and_exports_and_undo_takes_it_back(page, sky, model):
    page.run("window.scattervae.set({x: 'latent_1_mean', y: 'latent_2_mean', view: null})")
    z = model.encode(sky.spectra).mean.double().numpy()
    low, high = np.percentile(z[:, :2], [20, 80], axis=0)
    corners = [[low[0], high[0], high[0], low[0]], [low[1], low[1], high[1], high[1]]]
    page.run(
        "window.scattervae.map.onShape(given[0], given[1]); await new Promise((r) => setTimeout(r, 300)); return 0",
        *corners,
    )
    within = ((z[:, :2] > low) & (z[:, :2] < high)).all(axis=1)
    csv = page.run("window.scattervae.csv()").splitlines()
    assert csv[0] == "source_id"
    assert sorted(csv[1:]) == sorted(f'"{i}"' for i in sky.spectra.source_id[within])
    assert page.text("n-listed") == f"{within.sum()} selected"
    assert page.text("status").startswith(f"{within.sum()} stars selected")
    page.run("window.scattervae.undo()")
    assert page.text("n-listed") == "300 stars, none selected"


def test_undo_takes_a_whole_slide_back(page):
    page.run("window.scattervae.set({z: [1, 1, 1], tab: 'generate'})")
    slide = """const slider = document.querySelector('#sliders input');
        slider.value = Number(slider.min) + given[0] * (slider.max - slider.min);
        slider.dispatchEvent(new Event(given[1]));
        return 0"""
    for value, event in ((0.9, "input"), (0.5, "input"), (0.5, "change"), (0.2, "input"), (0.2, "change")):
        page.run(slide, value, event)
    found = []
    for _ in range(3):
        found.append(page.run("window.scattervae.state.z")[0])
        page.run("window.scattervae.undo()")
    low, high = page.run("const s = document.querySelector('#sliders input'); return [+s.min, +s.max]")
    assert found == pytest.approx([low + 0.2 * (high - low), low + 0.5 * (high - low), 1], abs=1e-3)
    assert page.run("window.scattervae.state.tab") == "star"


def test_a_drag_of_the_mouse_draws_the_box(page):
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.by import By

    page.driver.find_element(By.CSS_SELECTOR, "[data-drag=box]").click()
    place = page.driver.find_element(By.ID, "map")
    ActionChains(page.driver).move_to_element_with_offset(place, -120, -120).click_and_hold().move_by_offset(
        200, 180
    ).release().perform()
    page.wait("window.scattervae.state.shape !== null")
    assert 0 < page.run("window.scattervae.listed.length") < 300


def test_the_address_holds_the_state(browser, files, sky):
    page = browser.open(files / "page.html")
    source_id = str(sky.spectra.source_id[3])
    state = {
        "x": "teff",
        "y": "logg",
        "c": "quality_flags",
        "star": source_id,
        "z": [0.5, -0.25, 1.0],
        "tab": "generate",
    }
    page.run(
        "window.scattervae.set(given[0])",
        {**state, "filters": [{"column": "teff", "low": 4500, "high": 5200}]},
    )
    fragment = page.run("location.hash")
    again = browser.open(files / "page.html", fragment=fragment)
    found = again.run("window.scattervae.state")
    assert {name: found[name] for name in state} == state
    teff = sky.labels["teff"]
    assert again.run("window.scattervae.listed.length") == ((teff >= 4500) & (teff <= 5200)).sum()


@pytest.mark.parametrize(
    "fragment", ["#x=%22nothing%22&star=%225%22", "#z=[1,2]&view=%7B%7D", "#x=%&c=", "#&&=="]
)
def test_a_broken_address_is_left_out(browser, files, fragment):
    page = browser.open(files / "page.html", fragment=fragment)
    assert page.run("window.scattervae.state.x") == "pca_1"


def test_the_keyboard_moves_zooms_and_goes_through_the_list(page):
    from selenium.webdriver.common.by import By

    place = page.driver.find_element(By.ID, "map")
    before = page.run("window.scattervae.map.view")
    place.send_keys("+")
    page.wait("window.scattervae.state.view !== null")
    zoomed = page.run("window.scattervae.map.view")
    assert abs(zoomed[1] - zoomed[0]) < abs(before[1] - before[0])
    place.send_keys("n")
    page.wait("window.scattervae.row === window.scattervae.listed[0]")
    place.send_keys("n")
    page.wait("window.scattervae.row === window.scattervae.listed[1]")


def test_every_control_has_a_name_and_the_page_fits_a_phone(browser, files):
    page = browser.open(files / "page.html", width=400, height=800, scheme="dark")
    nameless = page.run(
        """return [...document.querySelectorAll('button, select, input, [role]')].filter((e) => e.offsetParent)
        .filter((e) => !(e.textContent.trim() || e.getAttribute('aria-label') || (e.labels && e.labels.length)))
        .map((e) => e.outerHTML.slice(0, 80));"""
    )
    assert nameless == []
    assert page.run("document.documentElement.scrollWidth") <= 400
    assert page.run("document.documentElement.dataset.theme") == "dark"


def test_the_page_asks_nobody_for_anything(page):
    entries = page.run("performance.getEntriesByType('resource').map((e) => e.name)")
    assert [name for name in entries if not name.startswith(("data:", "blob:"))] == []


def test_a_walk_and_requested_labels_move_the_sliders(page, sky, model):
    ids = [str(i) for i in sky.spectra.source_id[:2]]
    page.run("window.scattervae.set({walk: {a: given[0], b: given[1]}, tab: 'generate'})", *ids)
    page.run("window.scattervae.panels.generate.walk(0.25)")
    z = model.encode(sky.spectra.take(slice(0, 2))).mean.numpy()
    assert np.allclose(page.run("window.scattervae.state.z"), 0.75 * z[0] + 0.25 * z[1], atol=1e-4)
    page.run("document.getElementById('label-teff').value = 5000")
    page.run("window.scattervae.panels.generate.fromLabels()")
    near = np.argsort(np.abs(sky.labels["teff"] - 5000.0))[:25]
    expected = model.encode(sky.spectra).mean.numpy()[near].mean(axis=0)
    assert np.allclose(page.run("window.scattervae.state.z"), expected, atol=2e-3)
    assert "teff" in page.text("requested-note")
    page.run("window.scattervae.panels.generate.showFamily()")
    assert page.run("window.scattervae.panels.generate.family.length") == 11
    assert page.problems() == []
