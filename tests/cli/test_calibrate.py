"""``calibrate`` writes beside the model, and `evaluate` and `encode` use what it wrote."""

import pyarrow.parquet as pq
import pytest

from cli.toys import write_parquet
from scattervae.model.checkpoint import Checkpoint
from scattervae.science.calibration import fit
from scattervae.science.calibration.calibrated import CALIBRATION
from scattervae.science.trained import load_model
from toy import toy_best, toy_sky, untrained_model

SKY = toy_sky(1200)


@pytest.fixture(scope="module")
def stars(tmp_path_factory):
    return write_parquet(tmp_path_factory.mktemp("sky") / "stars.parquet", SKY.spectra, SKY.labels)


@pytest.fixture
def quick(monkeypatch):
    class Quick(fit.CalibrationSettings):
        n_score: int = 2000

    monkeypatch.setattr(fit, "CalibrationSettings", Quick)


def test_calibrate_then_evaluate_and_encode(cli, stars, tmp_path, quick):
    folder = tmp_path / "model"
    model = untrained_model(SKY.spectra, toy_best())
    model = Checkpoint(
        model.recipe,
        model.normalization,
        model.network,
        {"training": {"seconds": 1.0, "stars_per_second": 1}},
    )
    model.save(folder)
    run = cli("calibrate", folder, stars, "--json")
    assert (run.code, run.json["out"]) == (0, str(folder / CALIBRATION))
    assert run.json["scatter_factors"] == load_model(folder).scatter_factor.tolist()
    scores = cli("evaluate", folder, stars, "--draws", 1, "--json").json["models"]
    assert list(scores) == ["model", "model, calibrated"]
    cli("encode", folder, stars, "--out", tmp_path / "catalogue.parquet")
    table = pq.read_table(tmp_path / "catalogue.parquet")
    assert ((table["spectrum_score"].to_numpy() >= 0) & (table["spectrum_score"].to_numpy() <= 1)).all()


def test_too_few_stars(cli, model, store):
    run = cli("calibrate", model, store)
    assert run.code == 1
    assert "a calibration needs 100" in run.error
