"""Every command that takes a model, and Python, use the calibration that lies in its folder."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

import scattervae as sv
from cli.toys import write_parquet
from scattervae.errors import CheckpointError
from scattervae.science.calibration.calibrated import (
    is_calibrated,
    save_calibration,
    with_scatter_factor,
    with_widths,
)
from scattervae.science.calibration.widths import WidthLaw
from scattervae.science.catalogue.encoding import catalogue
from toy import toy_sky, untrained_model

FACTOR = 10.0


@pytest.fixture(scope="module")
def folders(tmp_path_factory, folder):
    """A model, and a copy whose calibration multiplies scatter by 10 and changes the encoder."""
    where = tmp_path_factory.mktemp("calibrated")
    plain, calibrated = (
        shutil.copytree(folder / "model", where / name / "model") for name in ("plain", "calibrated")
    )
    model = sv.load_model(calibrated)
    n = model.network.n_coeffs
    changed = with_scatter_factor(model, torch.full((n,), FACTOR))
    changed = with_widths(
        changed, WidthLaw(torch.full((1, model.n_latent), 0.3), torch.zeros(1, model.n_latent))
    )
    with torch.no_grad():
        next(iter(changed.network.encoder.parameters())).mul_(1.2)
    save_calibration(changed, calibrated)
    a, b = toy_sky(60, seed=3), toy_sky(60, seed=4)
    write_parquet(where / "a.parquet", a.spectra, a.labels)
    write_parquet(where / "b.parquet", b.spectra, b.labels)
    return plain, calibrated


COMMANDS = {
    "generate": ("generate", "MODEL", "-n", 5, "--out", "OUT.parquet"),
    "figure": ("figure", "star", "--model", "MODEL", "--stars", "STORE", "--out", "OUT.svg"),
    "info": ("info", "MODEL"),
    "encode": ("encode", "MODEL", "STORE", "--out", "OUT.parquet"),
    "evaluate": ("evaluate", "MODEL", "STORE", "--draws", 1, "--no-coverage"),
    "compare": ("compare", "MODEL", "A.parquet", "B.parquet"),
    "scatter": ("scatter", "MODEL", "STORE", "--fold", "all"),
    "label": ("label", "MODEL", "STORE"),
}


def output_of(cli, command, model, store, tmp_path):
    """What a command leaves or prints: the bytes of its output, or its JSON without paths and times."""
    places = {"MODEL": model, "STORE": store, "A.parquet": model.parents[1] / "a.parquet"}
    places |= {"B.parquet": model.parents[1] / "b.parquet"}
    out = next((tmp_path / a for a in command if str(a).startswith("OUT")), None)
    run = cli(*(out if str(a).startswith("OUT") else places.get(a, a) for a in command), "--json")
    assert run.code == 0, run.err
    if out is not None:
        return pq.read_table(out).to_pydict() if out.suffix == ".parquet" else out.read_bytes()
    values = {name: value for name, value in run.json.items() if name not in ("path", "out")}
    if command[0] == "label":
        labels = sv.load_model(model).label_model
        shutil.rmtree(model / "labels")
        return labels.digest
    return json.dumps(values)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_uses_the_calibration(cli, folders, store, tmp_path, name):
    plain, calibrated = (output_of(cli, COMMANDS[name], model, store, tmp_path) for model in folders)
    assert plain != calibrated
    if name == "generate":
        for column in plain:
            if column.endswith("_scatter"):
                np.testing.assert_allclose(calibrated[column], np.multiply(plain[column], FACTOR), rtol=1e-5)


def test_calibrate_begins_with_the_model_as_it_was_trained(folders):
    plain, calibrated = folders
    begun = sv.load_model(calibrated, calibrated=False)
    assert not is_calibrated(begun)
    assert begun.digest == sv.load_model(plain).digest != sv.load_model(calibrated).digest


def test_python_has_the_calibrated_model(folders, sky):
    plain, calibrated = (sv.load_model(folder) for folder in folders)
    z = torch.linspace(-1.0, 1.0, 5 * plain.n_latent).reshape(5, -1)
    torch.testing.assert_close(calibrated.reconstruct(z).scatter, FACTOR * plain.reconstruct(z).scatter)
    assert catalogue(plain, sky.spectra) != catalogue(calibrated, sky.spectra)


def test_a_calibration_is_saved_with_its_own_model_alone(folders, tmp_path, sky):
    _, calibrated = folders
    other = tmp_path / "other"
    untrained_model(sky.spectra).save(other)
    before = sorted(path.name for path in other.iterdir())
    with pytest.raises(CheckpointError, match="the calibration is of") as error:
        save_calibration(sv.load_model(calibrated), other)
    assert "\n" not in str(error.value)
    assert sorted(path.name for path in other.iterdir()) == before


def test_a_calibration_with_numbers_that_are_none_is_refused(folders, tmp_path):
    calibrated = shutil.copytree(folders[1], tmp_path / "model")
    model = sv.load_model(calibrated)
    factor = model.scatter_factor.clone()
    factor[0] = torch.nan
    base = replace(with_scatter_factor(sv.load_model(folders[0]), factor), base=model.base)
    save_calibration(base, calibrated)
    with pytest.raises(CheckpointError, match="'scatter_factor' are not finite"):
        sv.load_model(calibrated)
