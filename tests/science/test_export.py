"""A model in other programs answers as PyTorch does: under onnxruntime, and in C."""

import json
import shutil
import subprocess

import numpy as np
import pytest
import torch

import scattervae as sv
from scattervae.errors import DataError
from scattervae.gaia.basis import g_flux_of
from scattervae.science.export import check_folder, export_onnx, export_plain
from scattervae.science.generation import generate
from toy import DR3, toy_sky

SKY = toy_sky(6, basis=DR3)


@pytest.fixture(scope="module")
def best():
    return sv.load_model("best")


def test_onnx_gives_what_torch_gives(best, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    export_onnx(best, tmp_path / "onnx")
    encoder, decoder = (
        onnxruntime.InferenceSession(tmp_path / "onnx" / f"{n}.onnx") for n in ("encoder", "decoder")
    )
    sky = SKY.spectra
    coeffs, errors = sky.coeffs.copy(), sky.errors.copy()
    coeffs[1, :55] = errors[1, :55] = np.nan  # a star without BP
    stars = sv.Spectra.of(sky.source_id, coeffs, errors, basis=DR3, g_flux=np.abs(sky.g_flux))
    for rows in (slice(0, 6), slice(2, 3)):
        given = {"coeffs": stars.coeffs[rows], "errors": stars.errors[rows], "g_flux": stars.g_flux[rows]}
        mean, sd = encoder.run(None, given)
        inputs = best.normalization.apply(stars.take(rows), gaps=True)
        with torch.no_grad():
            expected = best.network.encode(
                inputs.x, inputs.errors
            )  # the encoder alone: posteriors are not refined
        np.testing.assert_allclose(mean, expected.mean, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(sd, expected.sd, rtol=1e-5, atol=1e-5)
    z = np.random.default_rng(0).normal(size=(4, best.n_latent)).astype("f4")
    made = generate(
        best, torch.from_numpy(np.atleast_2d(z)), g_flux_of(np.full(len(np.atleast_2d(z)), 12.0)), to_g=False
    )
    coeffs, scatter = decoder.run(None, {"z": z, "g_flux": made.g_flux})
    for found, wanted in ((coeffs, made.coefficients), (scatter, made.scatter)):
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5 * np.abs(wanted).max())


@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
def test_c_gives_what_torch_gives(best, tmp_path):
    export_plain(best, tmp_path / "plain")
    folder = tmp_path / "plain"
    build = ["cc", "-O2", "-Wall", "-Werror", str(folder / "decode.c"), "-lm", "-o", str(tmp_path / "decode")]
    subprocess.run(build, check=True)
    z = np.random.default_rng(1).normal(size=best.n_latent).astype("f4")
    made = generate(
        best, torch.from_numpy(np.atleast_2d(z)), g_flux_of(np.full(len(np.atleast_2d(z)), 12.0)), to_g=False
    )
    command = [
        str(tmp_path / "decode"),
        str(folder / "model.npz"),
        repr(float(made.g_flux[0])),
        *map(repr, z.tolist()),
    ]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    pairs = np.array([line.split() for line in lines[:110]], dtype=float)
    for found, wanted in ((pairs[:, 0], made.coefficients[0]), (pairs[:, 1], made.scatter[0])):
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5 * np.abs(wanted).max())
    flux = made.flux().flux[0]
    np.testing.assert_allclose(
        np.array(lines[110:], dtype=float), flux, rtol=1e-4, atol=1e-5 * np.abs(flux).max()
    )


def test_each_array_is_described(best, tmp_path):
    export_plain(best, tmp_path / "plain")
    arrays = np.load(tmp_path / "plain" / "model.npz", allow_pickle=False)
    about = json.loads((tmp_path / "plain" / "model.json").read_text())
    assert about["model"] == best.digest
    assert {name: [list(a.shape), str(a.dtype)] for name, a in arrays.items()} == {
        name: [one["shape"], one["type"]] for name, one in about["arrays"].items()
    }
    assert len((tmp_path / "plain" / "decode.c").read_text().splitlines()) < 70


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(DataError, match="exists and is no export"):
        check_folder(tmp_path)
    check_folder(tmp_path / "new")


def test_two_exports_are_not_written_to_one_folder(cli, tmp_path):
    run = cli("export", "best", "--plain", tmp_path / "a", "--onnx", tmp_path / "b" / ".." / "a")
    assert (run.code, run.error.split(": ")[1]) == (
        1,
        "--onnx and --plain name one folder; give each its own",
    )
    assert list(tmp_path.iterdir()) == []
