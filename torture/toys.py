"""Toy stars, a store and a model of them, and the commands that are killed; each takes a second or so."""

import shutil
from pathlib import Path

from torture.forks import made
from torture.kills import Killed

N_STARS, N_LABELLED = 400, 70
_FEWEST = 20  # stars in the validation fold, for a calibration; 100 by itself
_RECIPE = """
base = "elbo"
name = "torture"
[network]
n_latent = 2
hidden = [12]
encoder_sees = "errors"
[training]
epochs = {epochs}
batch_size = 64
learning_rate = 5e-3
"""
_ROWS_A_PART = 64


class Toys:
    """Files of toy stars, with a store and a model of them.

    Args:
        folder: Where they go; what is there already is used.
        seed: Others have other stars, and a model with other weights.
    """

    def __init__(self, folder: Path, *, seed: int = 0) -> None:
        self.folder = folder
        self.stars, self.store, self.model = folder / "stars.parquet", folder / "store", folder / "model"
        self.recipe = folder / "torture.toml"
        _less_to_do()
        if self.model.is_dir():
            return
        from cli.toys import write_parquet
        from toy import toy_sky

        folder.mkdir(parents=True, exist_ok=True)
        sky = toy_sky(N_STARS, seed=seed)
        labels = sky.labels
        labels.values[N_LABELLED:] = float("nan")
        write_parquet(self.stars, sky.spectra, labels)
        self.recipe.write_text(_RECIPE.format(epochs=10))
        (folder / "short.toml").write_text(_RECIPE.format(epochs=3))
        for arguments in (
            ["ingest", self.stars, "--out", self.store],
            ["train", self.store, "--out", self.model, "-r", folder / "short.toml", "--seed", str(seed)],
        ):
            made(arguments, folder / "made.log")

    def finished(self) -> Path:
        """A copy of the model with all that can be fitted to it: calibration, labels and flow."""
        whole = self.folder / "whole"
        if not whole.is_dir():
            partial = self.folder / "whole.making"
            shutil.rmtree(partial, ignore_errors=True)
            shutil.copytree(self.model, partial)
            for arguments in (
                ["calibrate", partial, self.store],
                ["label", partial, self.store],
                ["generate", partial, "--flow", "--stars", self.store, "-o", self.folder / "made.parquet"],
            ):
                made(arguments, self.folder / "made.log")
            partial.rename(whole)
        return whole


def commands(work: Path) -> list[Killed]:
    """The commands that are killed."""
    toys, sky = Toys(work / "toys"), _bulk_files(work / "bulk")
    model, store = toys.model, toys.store
    return [
        *(
            Killed(
                f"ingest, {n} worker{'s' * (n > 1)}",
                lambda run, n=n: ["ingest", *sky[0], "--sources", sky[1], "-o", run / "store", "-j", n],
                code=1,  # one of the files is no table
            )
            for n in (1, 2)
        ),
        Killed(
            "train",
            lambda run: ["train", store, "-o", run / "model", "-r", toys.recipe],
            again=("--resume",),
            ready="model: exists; give another --out",
        ),
        Killed(
            "calibrate",
            lambda run: ["calibrate", run / "model", store],
            inputs=(model,),
        ),
        Killed("label", lambda run: ["label", run / "model", store], inputs=(model,)),
        Killed("encode to a file", lambda run: ["encode", model, store, "-o", run / "catalogue.parquet"]),
        Killed("encode to HATS, local", lambda run: ["encode", model, store, "-o", run / "catalogue"]),
        Killed(
            "encode to HATS, Dask",
            lambda run: [
                *("encode", model, store, "-o", run / "catalogue"),
                *("--engine", "dask", "--workers", 1),
            ],
        ),
    ]


def _bulk_files(folder: Path) -> tuple[list[Path], Path]:
    """Bulk files of spectra, one of them a web page, and ``gaia_source`` of the first."""
    from ingest_toys import sky_stars, write_bulk, write_sources

    folder.mkdir(parents=True, exist_ok=True)
    pixels = (100, 250, 400, 550)
    toys = [sky_stars(12, pixel=pixel, seed=pixel) for pixel in pixels]
    files = [write_bulk(folder, toy, pixel=pixel) for toy, pixel in zip(toys, pixels, strict=True)]
    sources = [
        write_sources(folder, toy.source_id, pixel=pixel) for toy, pixel in zip(toys, pixels, strict=True)
    ]
    page = folder / "page.csv"
    page.write_text("<html>503</html>")
    return [*files[:2], page, *files[2:]], sources[0].parent


def _less_to_do() -> None:
    """Parts of a catalogue's file that even so few stars fill, and few steps of a fit, in every command.

    Processes that are forked later have them too.
    """
    from scattervae.science.calibration import fit, score, widths
    from scattervae.science.catalogue import one_file
    from scattervae.science.labels.training import LabelSettings

    one_file.ROWS_A_GROUP = _ROWS_A_PART
    fit.FEWEST_STARS, widths._STEPS = _FEWEST, 10
    score.fit_score.__kwdefaults__["epochs"] = 1
    for settings, values in (
        (LabelSettings, {"steps": 15, "networks": 2}),
        (fit.CalibrationSettings, {"scatter_rounds": 1, "n_like": 100, "n_score": 500}),
    ):
        for name, value in values.items():
            settings.model_fields[name].default = value
        settings.model_rebuild(force=True)
