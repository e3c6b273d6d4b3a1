"""Unsupervised, generative models of Gaia's BP/RP spectra.

The rooms, in the order a star passes through them: `spectra`, `gaia`, `model`, `science`, `show`, `cli`. What
most programs need is here by its own name, and loaded when it is first asked for.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

# Threads that wait by spinning take the cores from other programs, and these in turn hold up every thread of a step:
# beside two busy programs on two cores a training took 2.6 times as long. OpenMP reads this when torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

if TYPE_CHECKING:
    from scattervae.gaia.basis import g_flux_of as g_flux_of
    from scattervae.gaia.ingest import ingest as ingest
    from scattervae.gaia.reading import Stars as Stars
    from scattervae.gaia.reading import load as load
    from scattervae.gaia.reading import read as read
    from scattervae.gaia.transport import transport as transport
    from scattervae.model.checkpoint import Checkpoint as Checkpoint
    from scattervae.model.recipe import Recipe as Recipe
    from scattervae.model.recipe import load_recipe as load_recipe
    from scattervae.model.run import RunFolder as RunFolder
    from scattervae.science.catalogue.dask import encode_partition as encode_partition
    from scattervae.science.catalogue.encoding import catalogue as catalogue
    from scattervae.science.catalogue.hats_folder import encode_store as encode_store
    from scattervae.science.catalogue.one_file import write_catalogue as write_catalogue
    from scattervae.science.evaluation import evaluate as evaluate
    from scattervae.science.outliers import find_outliers as find_outliers
    from scattervae.science.similar import similar as similar
    from scattervae.science.trained import TrainedModel as TrainedModel
    from scattervae.science.trained import load_model as load_model
    from scattervae.science.trained import train as train
    from scattervae.seeds import folds as folds
    from scattervae.show import plot_latents as plot_latents
    from scattervae.show import plot_star as plot_star
    from scattervae.spectra.spectra import Basis as Basis
    from scattervae.spectra.spectra import Spectra as Spectra
    from scattervae.spectra.store import SpectrumStore as SpectrumStore

_HOMES = {
    "gaia.basis": ("g_flux_of",),
    "gaia.ingest": ("ingest",),
    "gaia.reading": ("Stars", "load", "read"),
    "gaia.transport": ("transport",),
    "model.checkpoint": ("Checkpoint",),
    "model.recipe": ("Recipe", "load_recipe"),
    "model.run": ("RunFolder",),
    "science.catalogue.dask": ("encode_partition",),
    "science.catalogue.encoding": ("catalogue",),
    "science.catalogue.hats_folder": ("encode_store",),
    "science.catalogue.one_file": ("write_catalogue",),
    "science.evaluation": ("evaluate",),
    "science.outliers": ("find_outliers",),
    "science.similar": ("similar",),
    "science.trained": ("TrainedModel", "load_model", "train"),
    "seeds": ("folds",),
    "show": ("plot_latents", "plot_star"),
    "spectra.spectra": ("Basis", "Spectra"),
    "spectra.store": ("SpectrumStore",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}
__all__ = ["__version__", *sorted(_HOME_OF)]  # noqa: PLE0604


def __getattr__(name: str) -> object:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'scattervae' has no attribute {name!r}")
    return getattr(import_module(f"scattervae.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return __all__
