"""``scattervae calibrate``: make a model's uncertainties hold the truth as often as they claim."""

from pathlib import Path
from typing import Annotated

import typer

from scattervae.cli.console import (
    AsJson,
    DeviceName,
    ModelFolder,
    Summary,
    Threads,
    choose_device,
    existing,
    print_stage,
)
from scattervae.errors import counted


def calibrate(
    model: ModelFolder,
    store: Annotated[
        Path,
        typer.Argument(callback=existing, metavar="STORE", help="The stars that it was trained on."),
    ],
    *,
    device: DeviceName = "auto",
    threads: Threads = 0,
    as_json: AsJson = False,
) -> None:
    """Correct a model's uncertainties: a 68 % interval should contain the true value in 68 % of cases.

    Scatter, widths and score are fitted to the validation fold, which the model should not have been trained on; the
    score also to stars that the model makes. It takes some three minutes on two cores. Published errors stay as they
    are. The result goes into the model's folder, beside the model's own files. Every command uses it from there, and
    `encode` then refines each star's posterior. To undo it, remove calibration.safetensors.

    Examples:

        scattervae calibrate model store
    """
    from scattervae.files import sole_writer
    from scattervae.gaia import reading
    from scattervae.science.calibration.calibrated import save_calibration
    from scattervae.science.calibration.fit import calibrate as fit
    from scattervae.science.shipped import require_own
    from scattervae.science.trained import load_model
    from scattervae.seeds import folds

    require_own(model)
    machine = choose_device(device, threads)
    with sole_writer(model):
        checkpoint = load_model(model, calibrated=False, labels=False).to(machine)
        stars = reading.load(store, where=lambda ids, _: ~folds(ids).test, at_most=reading.MOST_STARS)
        calibrated = fit(checkpoint, stars.spectra, progress=print_stage)
        path = save_calibration(calibrated, model)
    factors = calibrated.scatter_factor.cpu()
    changed = factors[factors != 1.0]
    values = {
        "out": str(path),
        "n_scatter_factors": len(changed),
        "scatter_factors": factors.tolist(),
    }
    scatter = "no coefficient's scatter is large enough beside its error to be fitted"
    if len(changed):
        scatter = f"scatter of {counted(len(changed), 'coefficient')} times {changed.min():.2f} to {changed.max():.2f}"
    Summary(values, (scatter, f"wrote {path}")).show(as_json=as_json)
