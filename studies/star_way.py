"""One star's way from a bulk csv.gz to its row of a catalogue: which modules it passes, and how often each is entered.

    python -m studies.star_way [XP.csv.gz MODEL]

Traces `scattervae.ingest` with one worker, then `load_model` and `write_catalogue`, as Python runs them. Without
arguments the file is one of simulated stars and the model has random weights. Modules are printed in the order of their
first call. An entry is a function of another module that called a function of this one: as often does a reader come
back to the module. The second table is the way of a model into `encode`: from its folder to latents.
"""

import gzip
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType

import numpy as np
import torch

import scattervae
from scattervae import Checkpoint, SpectrumStore, ingest, load_model, load_recipe, write_catalogue
from scattervae.model.network import ScatterVAE
from scattervae.science.machine import simulated_stars
from scattervae.spectra.normalization import Normalization
from scattervae.spectra.spectra import Spectra
from studies import arguments

PACKAGE = Path(scattervae.__file__).parent


@dataclass
class Way:
    """Modules that a call passed, in order, each with the functions of other modules that called it."""

    entries: dict[str, set[tuple[str, str]]] = field(default_factory=dict)
    functions: dict[str, set[str]] = field(default_factory=dict)

    def called(self, callee: CodeType, caller: FrameType | None) -> None:
        """Note a call; frames of other packages between two of ours are passed over."""
        name = module_of(callee)
        if name is None or callee.co_name == "<module>":
            return
        entries = self.entries.setdefault(name, set())
        self.functions.setdefault(name, set()).add(callee.co_qualname)
        while caller is not None and module_of(caller.f_code) is None:
            caller = caller.f_back
        if caller is None:
            entries.add(("", ""))
        elif (origin := module_of(caller.f_code)) != name and caller.f_code.co_name != "<module>":
            assert origin is not None
            entries.add((origin, caller.f_code.co_qualname))

    def lines(self) -> Iterator[str]:
        """The table for people."""
        yield f"{len(self.entries)} modules, {sum(map(len, self.functions.values()))} functions"
        for number, (name, entries) in enumerate(self.entries.items(), start=1):
            origins = ", ".join(sorted({origin for origin, _ in entries if origin}))
            yield f"{number:3d} {name:36s} {len(entries):2d} {origins}"


def module_of(code: CodeType) -> str | None:
    """The module of a function of ours without the package's name, as ``model.network``; None for one of others."""
    name = _NAMES.get(code.co_filename, "")
    if name == "":
        path = Path(code.co_filename)
        found = path.suffix == ".py" and path.is_relative_to(PACKAGE)
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts) if found else None
        if name is not None:
            name = name.removesuffix("__init__").rstrip(".") or "scattervae"
        _NAMES[code.co_filename] = name
    return name


_NAMES: dict[str, str | None] = {}


@contextmanager
def traced() -> Iterator[Way]:
    """The way of everything that is called inside, in this thread and in those that it starts."""
    way = Way()

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call":
            way.called(frame.f_code, frame.f_back)

    before = sys.getprofile()
    threading.setprofile(note)
    sys.setprofile(note)
    try:
        yield way
    finally:
        sys.setprofile(before)
        threading.setprofile(None)  # type: ignore[arg-type]


def write_bulk(path: Path, stars: Spectra) -> Path:
    """These stars as the archive's bulk files have them."""
    basis = stars.basis
    names = [
        f"{b}_{n}" for b in ("bp", "rp") for n in ("basis_function_id", "coefficients", "coefficient_errors")
    ]
    lines = ["# %ECSV 1.0", "# ---", "# delimiter: ','", ",".join(["source_id", *names])]
    for row, star in enumerate(stars.source_id):
        cells = [str(star)]
        for band, basis_id in ((basis.bp, basis.bp_id), (basis.rp, basis.rp_id)):
            arrays = (values[row, band].tolist() for values in (stars.coeffs, stars.errors))
            cells += [str(basis_id), *(f'"{values}"'.replace(" ", "") for values in arrays)]
        lines.append(",".join(cells))
    path.write_bytes(gzip.compress("\n".join([*lines, ""]).encode()))
    return path


def write_model(folder: Path, stars: Spectra) -> Path:
    """A model of these stars with random weights."""
    recipe = load_recipe("best")
    normalization = Normalization.fit(lambda: [stars])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = ScatterVAE(normalization.n_coeffs, recipe.network).eval()
    Checkpoint(recipe, normalization, network, provenance={}).save(folder)
    return folder


def ways(bulk: Path, model: Path, folder: Path) -> tuple[Way, Way]:
    """The way of the stars of a bulk file to their rows, and within it that of the model into `encode`."""
    _write_row(bulk, model, folder / "untraced")  # imports what is imported late: that is no step of the way
    with traced() as whole:
        store = _write_row(bulk, model, folder / "traced")
    spectra = store.read()
    with traced() as into_encode:
        load_model(model).encode(spectra)
    return whole, into_encode


def _write_row(bulk: Path, model: Path, folder: Path) -> SpectrumStore:
    store = ingest([bulk], folder / "store", workers=1)
    write_catalogue(load_model(model), store, folder / "catalogue.parquet")
    return store


def main() -> None:
    given = arguments(__doc__, 0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if given:
            bulk, model = map(Path, given)
        else:
            stars = simulated_stars().take(np.arange(64))
            bulk, model = write_bulk(folder / "xp.csv.gz", stars), write_model(folder / "model", stars)
        whole, into_encode = ways(bulk, model, folder)
    print("a star, from a bulk file to its row:", *whole.lines(), sep="\n")
    print("\na model, from its folder into encode:", *into_encode.lines(), sep="\n")


if __name__ == "__main__":
    sys.exit(main())
