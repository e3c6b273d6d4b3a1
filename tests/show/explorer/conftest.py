"""A page of toy stars, and a real browser to open it in."""

import logging
import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from cli.toys import write_parquet
from scattervae.science.calibration.calibrated import CalibratedModel, with_scatter_factor, with_widths
from scattervae.science.calibration.score import WIDTH, ObservedScores, ScoreMap
from scattervae.science.calibration.widths import WidthLaw
from scattervae.science.catalogue.encoding import catalogue
from scattervae.science.trained import TrainedModel, with_labels
from scattervae.show.explorer.page import explore
from toy import DR3, toy_best, toy_recipe, toy_sky, untrained_model, with_own_g

FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --window-size=1400,1000"
)


class Browser:
    """Chromium with one page open."""

    def __init__(self, driver):
        self.driver = driver

    def open(self, path: Path, *, width=1400, height=1000, scheme="light", fragment=""):
        """Open a page from disk and wait until it can be used."""
        self.driver.get("about:blank")
        self.driver.get_log("browser")
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        self.driver.get(f"{path.as_uri()}{fragment}")
        self.wait("window.scattervaeReady || document.querySelector('#status.error')")
        return self

    def run(self, script, *arguments):
        """What an expression or the body of a function returns, awaited."""
        body = script if "return " in script else f"return {script}"
        found = self.driver.execute_async_script(
            "const done = arguments[arguments.length - 1], given = [...arguments].slice(0, -1);"
            f"(async () => {{ {body} }})().then((v) => done({{ok: v}}), (e) => done({{error: String(e.stack || e)}}))",
            *arguments,
        )
        assert "error" not in found, found["error"]
        return found["ok"]

    def wait(self, condition, seconds=20):
        end = time.monotonic() + seconds
        while not self.driver.execute_script(f"return Boolean({condition})"):
            assert time.monotonic() < end, f"never came true: {condition}"
            time.sleep(0.02)

    def text(self, element):
        return self.driver.execute_script(f"return document.getElementById('{element}').textContent")

    def problems(self):
        """What the console says of errors and warnings, but that there is no graphics card."""
        entries = [e for e in self.driver.get_log("browser") if e["level"] in ("SEVERE", "WARNING")]
        return [e["message"] for e in entries if "WebGL" not in e["message"]]


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    """Debian's Chromium by Selenium; a test that needs it is skipped where either is absent."""
    webdriver = pytest.importorskip(
        "selenium.webdriver", reason="selenium is not installed: pip install -e '.[dev]'"
    )
    chromium, chromedriver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or chromedriver is None:
        pytest.skip("no browser: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in [*FLAGS.split(), f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    logging.getLogger("selenium").setLevel(logging.WARNING)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(chromedriver))
    driver.set_script_timeout(60)
    yield Browser(driver)
    driver.quit()


def stirred(model, seed=0):
    """The same model with weights that no training made: every layer does something."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weights in model.network.named_parameters():
            spread = 0.4 / weights.shape[-1] ** 0.5 if weights.ndim > 1 else 0.1
            shift = 1.0 if "weight" in name and weights.ndim == 1 else 0.0
            weights.copy_(shift + spread * torch.randn(weights.shape, generator=generator))
    return model


def calibrated(model, seed=1) -> CalibratedModel:
    """The same model with a calibration that changes scatter, widths and score."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: 0.3 * torch.randn(*shape, generator=generator)  # noqa: E731
    n, n_features = model.n_latent, 2 * model.n_latent + 4
    changed = with_widths(
        with_scatter_factor(model, draw(model.network.n_coeffs).exp()), WidthLaw(draw(3, n), draw(3, n))
    )
    score = ScoreMap(
        draw(n_features),
        draw(n_features).exp(),
        draw(WIDTH, n_features + 1),
        draw(WIDTH, WIDTH + 1),
        draw(2, WIDTH + 1),
        torch.linspace(-3, 30, 401),
    )
    u, g_mag = 2.0 + 3.0 * draw(600), 15.0 + 5.0 * draw(600)
    observed = ObservedScores.fit(u.double().numpy(), g_mag.double().numpy(), np.zeros(600, dtype=bool))
    return replace(changed, score=score, observed=observed)


def made_model(spectra, *, best=True, calibration=True) -> TrainedModel:
    model = stirred(untrained_model(spectra, toy_best() if best else toy_recipe()))
    return with_labels(calibrated(model) if calibration else model, None)


@pytest.fixture(scope="session")
def sky():
    sky = toy_sky(300, basis=DR3)
    return replace(sky, spectra=with_own_g(sky.spectra))


@pytest.fixture(scope="session")
def model(sky):
    return made_model(sky.spectra)


@pytest.fixture(scope="session")
def files(tmp_path_factory, sky, model):
    """A folder with catalogue.parquet, stars.parquet and page.html."""
    folder = tmp_path_factory.mktemp("explorer")
    pq.write_table(catalogue(model, sky.spectra), folder / "catalogue.parquet")
    write_parquet(folder / "stars.parquet", sky.spectra, sky.labels)
    explore(model, folder / "catalogue.parquet", stars=folder / "stars.parquet").save(folder / "page.html")
    return folder


@pytest.fixture
def page(browser, files):
    return browser.open(files / "page.html")
