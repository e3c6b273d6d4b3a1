"""A model for programs without PyTorch: ONNX for runtimes, plain arrays with a description for any language.

Both hold what turns archive units into the network's and back, so that nothing else is needed.
"""

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from scattervae.errors import DataError, RecipeError
from scattervae.files import write_json, written_folder
from scattervae.gaia.basis import is_known
from scattervae.gaia.flux import design
from scattervae.model.checkpoint import Checkpoint
from scattervae.model.network import ResidualBlock
from scattervae.science.calibration.calibrated import CalibratedNetwork
from scattervae.spectra.normalization import LARGEST_INPUT

_OPSET = 17
_LINKS = ("softplus", "exp", "sigmoid")
LINEAR, GELU, NORM, KEEP, ADD = range(5)


class _Units(nn.Module):
    """What both halves of the model know of archive units."""

    def __init__(self, model: Checkpoint) -> None:
        super().__init__()
        self.network = model.network
        self.mean, self.std = (
            nn.Buffer(torch.from_numpy(values))
            for values in (model.normalization.mean, model.normalization.std)
        )
        self.columns = nn.Buffer(torch.from_numpy(model.normalization.columns))


class _Encoder(_Units):
    def forward(self, coeffs: Tensor, errors: Tensor, g_flux: Tensor) -> tuple[Tensor, Tensor]:
        x = (coeffs[:, self.columns] / g_flux[:, None] - self.mean) / self.std
        sigma = errors[:, self.columns] / g_flux[:, None] / self.std
        missing = torch.isnan(x) | torch.isnan(sigma) | torch.isinf(sigma) | (sigma <= 0)
        x = x.clamp(-LARGEST_INPUT, LARGEST_INPUT).masked_fill(missing, 0.0).float()
        sigma = sigma.clamp(max=LARGEST_INPUT).masked_fill(missing, torch.inf).float()
        posterior = self.network.encode(x, sigma)
        return posterior.mean, posterior.sd


class _Decoder(_Units):
    def forward(self, z: Tensor, g_flux: Tensor) -> tuple[Tensor, Tensor]:
        mean, scatter = self.network.decode(z)
        return (mean * self.std + self.mean) * g_flux[:, None], scatter * self.std * g_flux[:, None]


def export_onnx(model: Checkpoint, folder: Path) -> None:
    """Write ``encoder.onnx`` and ``decoder.onnx``, with what they take and give in ``model.json``.

    The encoder takes coefficients and errors in archive units (NaN where missing) and the G flux, in float64, and gives
    mean and standard deviation of the latents; the decoder takes latents (float32) and the G flux, and gives
    coefficients and scatter of the model's columns in archive units. Missing coefficients are for models whose encoder
    sees errors.

    Raises:
        RecipeError: The package onnx is not installed.
    """
    try:
        import onnx  # noqa: F401
    except ImportError as error:
        raise RecipeError(
            "--onnx needs the package onnx; in the checkout of scattervae: pip install '.[onnx]'"
        ) from error
    n, n_all = model.n_latent, model.normalization.basis.n_coeffs
    two, g_flux = torch.ones(2, n_all, dtype=torch.float64), torch.ones(2, dtype=torch.float64)
    halves: tuple[tuple[str, nn.Module, tuple[Tensor, ...], list[str], list[str]], ...] = (
        ("encoder", _Encoder(model), (two, two, g_flux), ["coeffs", "errors", "g_flux"], ["mean", "sd"]),
        ("decoder", _Decoder(model), (torch.zeros(2, n), g_flux), ["z", "g_flux"], ["coeffs", "scatter"]),
    )
    with written_folder(folder) as partial, warnings.catch_warnings(), torch.enable_grad():
        warnings.simplefilter("ignore")  # of a tracer that will be another one
        register = torch.onnx.register_custom_op_symbolic  # type: ignore[attr-defined]
        register("aten::asinh", lambda g, x: g.op("Asinh", x), 9)
        for name, half, given, inputs, outputs in halves:
            torch.onnx.export(
                half.eval(),
                given,
                str(partial / f"{name}.onnx"),
                input_names=inputs,
                output_names=outputs,
                dynamic_axes={axis: {0: "star"} for axis in (*inputs, *outputs)},
                opset_version=_OPSET,
                dynamo=False,
            )
        write_json(partial / "model.json", _about(model))


def export_plain(model: Checkpoint, folder: Path) -> None:
    """Write ``model.npz``, uncompressed, ``model.json``, which describes each array, and ``decode.c``, which decodes.

    A network is a list of steps on a vector: 0 a matrix and a bias, 1 GELU, 2 a layer normalisation, 3 keep the vector,
    4 add the kept one. Array ``d_steps`` has the decoder's, a row each with the number of inputs and outputs; ``d0_w``,
    ``d0_b`` the numbers of its first step, and so on; ``s`` is the estimator of scatter, ``e`` the encoder.
    """
    network, norm = model.network, model.normalization
    arrays: dict[str, np.ndarray] = {"mean": norm.mean, "std": norm.std, "columns": norm.columns}
    texts = {
        "mean": "mean of coefficient over G flux, of the model's coefficients",
        "std": "standard deviation of the same",
        "columns": "which of the basis's coefficients, BP then RP, the model has",
        "scatter_factor": "what the calibration multiplies the scatter of each coefficient by",
        "scatter_link": f"what makes the scatter positive: {', '.join(f'{i} {n}' for i, n in enumerate(_LINKS))}",
        "scatter_floor": "added to it [training standard deviations]",
    }
    factor = (
        network.scatter_factor if isinstance(network, CalibratedNetwork) else torch.ones(network.n_coeffs)
    )
    arrays["scatter_factor"] = factor.double().numpy()
    arrays["scatter_link"] = np.array([_LINKS.index(network.shape.scatter_link)], dtype=np.int64)
    arrays["scatter_floor"] = np.array([network.shape.scatter_floor])
    if isinstance(network, CalibratedNetwork):
        for name in ("width_offset", "width_slope"):
            arrays[name] = getattr(network, name).double().numpy()
            texts[name] = "of the law of the latents' widths, see docs/howto/calibration.md"
    if is_known(norm.basis):
        gaia = design(norm.basis)
        arrays |= {"grid_nm": gaia.grid_nm, "design": np.ascontiguousarray(gaia.matrix)}
        texts |= {
            "grid_nm": "wavelengths [nm]",
            "design": "flux [W m^-2 nm^-1] is this matrix times all coefficients",
        }
    for letter, part in (("d", network.decoder), ("s", network.scatter_estimator), ("e", network.encoder)):
        arrays |= _arrays_of(letter, part)
        texts[f"{letter}_steps"] = "kind of step, inputs, outputs, a row each"
    described = {
        name: {"shape": list(a.shape), "type": str(a.dtype), "holds": texts.get(name, "numbers of a step")}
        for name, a in arrays.items()
    }
    with written_folder(folder) as partial:
        np.savez(partial / "model.npz", allow_pickle=False, **arrays)
        write_json(partial / "model.json", _about(model) | {"arrays": described})
        (partial / "decode.c").write_text(_C, encoding="utf-8")


def _arrays_of(letter: str, part: nn.Sequential) -> dict[str, np.ndarray]:
    """The numbers of each step of a network, and the steps."""
    arrays: dict[str, np.ndarray] = {}
    steps, width = [], 0
    for number, (kind, layer) in enumerate(_steps(part)):
        n_in = width if layer is None else layer.weight.shape[-1]
        if layer is not None:
            width = len(layer.bias)
            for name, values in (("w", layer.weight), ("b", layer.bias)):
                arrays[f"{letter}{number}_{name}"] = values.detach().double().numpy()
        steps.append((kind, n_in, width))
    return arrays | {f"{letter}_steps": np.array(steps, dtype=np.int64)}


def _steps(part: nn.Sequential) -> "Iterator[tuple[int, Any]]":
    for layer in part:
        if isinstance(layer, ResidualBlock):
            yield KEEP, None
            yield from _steps(layer.layers)
            yield ADD, None
        elif isinstance(layer, nn.GELU):
            yield GELU, None
        else:
            yield (LINEAR if isinstance(layer, nn.Linear) else NORM), layer


def _about(model: Checkpoint) -> dict[str, Any]:
    return {
        "model": model.digest,
        "recipe": model.recipe.name,
        "n_latent": model.n_latent,
        "basis": vars(model.normalization.basis),
        "columns": model.normalization.columns.tolist(),
        "units": "coefficients and scatter: electron/s in the basis; G flux: electron/s",
    }


def check_folder(folder: Path) -> None:
    """Refuse a folder that holds something else than an export.

    Raises:
        DataError: It does.
    """
    if folder.exists() and (
        not folder.is_dir() or (any(folder.iterdir()) and not (folder / "model.json").is_file())
    ):
        raise DataError(f"{folder}: exists and is no export of a model; give another folder")


_C = r"""/* decode.c: coefficients, scatter and flux of a latent vector. cc -O2 decode.c -lm -o decode
   ./decode model.npz G_FLUX Z1 Z2 ...   prints "coefficient scatter" a line, then "flux" a line. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
static char *npz; static long size;
static void *array(const char *part, int step, const char *what, long *n) { /* numpy's format 1.0, stored */
  char name[64], number[16] = ""; if (step >= 0) sprintf(number, "%d", step);
  int len = sprintf(name, "%s%s%s.npy", part, number, what);
  for (char *p = npz; p < npz + size - 30; p++)
    if (!memcmp(p, "PK\3\4", 4) && (unsigned char)p[26] == len && !memcmp(p + 30, name, len)) {
      char *npy = p + 30 + len + (unsigned char)p[28] + 256 * (unsigned char)p[29];
      int head = (unsigned char)npy[8] + 256 * (unsigned char)npy[9]; npy[10 + head - 1] = 0;
      char *shape = strstr(npy + 10, "(") + 1; long total = 1;
      while (*shape != ')') { total *= strtol(shape, &shape, 10); shape += strspn(shape, ", "); }
      if (n) *n = total;
      void *values = malloc(8 * total); memcpy(values, npy + 10 + head, 8 * total); return values; }
  return NULL; }
static double *run(const char *part, const double *z, long n) {
  double *h = malloc(8 * n), *kept = NULL, *next; memcpy(h, z, 8 * n);
  long rows, *steps = array(part, -1, "_steps", &rows);
  for (int k = 0; k < rows / 3; k++) {
    long kind = steps[3 * k], in = steps[3 * k + 1], out = steps[3 * k + 2];
    double *w = array(part, k, "_w", NULL), *b = array(part, k, "_b", NULL), mean = 0, var = 0;
    next = calloc(out, 8);
    for (long i = 0; i < in; i++) mean += h[i] / in;
    for (long i = 0; i < in; i++) var += (h[i] - mean) * (h[i] - mean) / in;
    for (long j = 0; j < out; j++) {
      if (kind == 0) for (next[j] = b[j], in = steps[3 * k + 1]; in--;) next[j] += w[j * steps[3 * k + 1] + in] * h[in];
      if (kind == 1) next[j] = 0.5 * h[j] * (1 + erf(h[j] / sqrt(2)));
      if (kind == 2) next[j] = w[j] * (h[j] - mean) / sqrt(var + 1e-5) + b[j];
      if (kind == 3) next[j] = h[j];
      if (kind == 4) next[j] = h[j] + kept[j]; }
    if (kind == 3) kept = h;
    h = next; }
  return h; }
int main(int argc, char **argv) {
  FILE *f = fopen(argv[1], "rb"); fseek(f, 0, SEEK_END); size = ftell(f); rewind(f);
  npz = malloc(size); if (fread(npz, 1, size, f) != (size_t)size) return 1;
  double g = atof(argv[2]), z[256], all[4096] = {0}; for (int i = 3; i < argc; i++) z[i - 3] = atof(argv[i]);
  long n, m = 0, *columns = array("columns", -1, "", &n), *link = array("scatter_link", -1, "", NULL);
  double *x = run("d", z, argc - 3), *s = run("s", z, argc - 3), *mean = array("mean", -1, "", NULL);
  double *std = array("std", -1, "", NULL), *factor = array("scatter_factor", -1, "", NULL);
  double *floor = array("scatter_floor", -1, "", NULL), *design = array("design", -1, "", &m);
  array("grid_nm", -1, "", &n); long wavelengths = design ? n : 0, width = design ? m / n : 0; n = 0;
  array("mean", -1, "", &n);
  for (long j = 0; j < n; j++) {
    double raw = *link == 0 ? log1p(exp(-fabs(s[j]))) + fmax(s[j], 0) : *link == 1 ? exp(s[j]) : 1 / (1 + exp(-s[j]));
    all[columns[j]] = (x[j] * std[j] + mean[j]) * g;
    printf("%.9g %.9g\n", all[columns[j]], (raw + *floor) * factor[j] * std[j] * g); }
  for (long i = 0; i < wavelengths; i++) {
    double flux = 0; for (long j = 0; j < width; j++) flux += design[i * width + j] * all[j];
    printf("%.9g\n", flux); }
  return 0; }
"""
