"""Every file of every folder that we write with a byte changed, cut, missing, or of another folder of the same shape.

Each is to be refused by its name, or to change no number. A catalogue is opened by others: there it is
``info --verify`` that has to name the file.
"""

import random
import shutil
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from torture import Row, is_chosen, row_of

Numbers = dict[str, np.ndarray]
LOGS = {"ingest.log.jsonl"}  # which nothing is read from but times
UNDOES = {"flow.safetensors"}  # whose removal is the documented way to be without it


class Kind(NamedTuple):
    """A kind of folder.

    Attributes:
        name: What the table calls it.
        folder: One of them.
        other: Another of the same shape.
        read: Its numbers.
    """

    name: str
    folder: Path
    other: Path
    read: Callable[[Path], Numbers]


def read_model(folder: Path) -> Numbers:
    """Latents, scatter, labels and density of toy stars, by all that a trained folder holds."""
    from scattervae.science.catalogue.encoding import catalogue
    from scattervae.science.trained import load_model
    from toy import toy_sky

    model, stars = load_model(folder), toy_sky(20, seed=5).spectra
    rows = catalogue(model, stars)
    found = {name: rows[name].to_numpy() for name in rows.column_names}
    if model.flow is not None:
        found["density"] = model.flow.log_density(model.encode(stars).mean).numpy()
    return found


def read_store(folder: Path) -> Numbers:
    """All numbers of a store's stars."""
    from scattervae.spectra.store import SpectrumStore

    store = SpectrumStore(folder)
    spectra, labels = store.read(), store.labels()
    arrays = {name: getattr(spectra, name) for name in ("source_id", "coeffs", "errors", "g_flux", "flags")}
    return {**arrays, "labels": labels.values, "label_errors": labels.errors}


def verify(folder: Path) -> Numbers:
    """Nothing, unless `info --verify` names a file."""
    from scattervae.cli.info import _verified
    from scattervae.errors import DataError

    for line in _verified(folder).values["damaged"]:
        raise DataError(line)
    return {}


def kinds(work: Path) -> list[Kind]:
    """The folders."""
    from torture.forks import made
    from torture.toys import Toys

    toys, others = (Toys(work / f"toys{seed or ''}", seed=seed) for seed in (0, 1))
    for one in (toys, others):
        for arguments in (
            ["encode", one.model, one.store, "-o", one.folder / "catalogue"],
            ["crossmatch", one.store, one.stars, "-o", one.folder / "matched", "--by-id", "source_id"],
        ):
            if not Path(arguments[4]).exists():
                made(arguments, one.folder / "made.log")
    return [
        Kind("trained folder", toys.finished(), others.finished(), read_model),
        Kind("store", toys.store, others.store, read_store),
        Kind("catalogue", toys.folder / "catalogue", others.folder / "catalogue", verify),
        Kind("crossmatch", toys.folder / "matched", others.folder / "matched", verify),
    ]


def _flipped(path: Path, chance: random.Random) -> None:
    content = bytearray(path.read_bytes())
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    path.write_bytes(content)


def _cut(path: Path, chance: random.Random) -> None:
    path.write_bytes(path.read_bytes()[: chance.randrange(path.stat().st_size)])


def _ending(kind: Kind, name: str, folder: Path, expected: Numbers) -> str | None:
    """None where the folder is refused by the file's name or its own, or where no number is another."""
    from scattervae.errors import ScatterVaeError

    try:
        found = kind.read(folder)
    except ScatterVaeError as error:
        line = str(error)
        named = Path(name).name in line or str(folder) in line
        return None if named and "\n" not in line else f"refused without its name: {line}"
    except Exception as error:  # noqa: BLE001 - to be counted
        return f"traceback {type(error).__name__}: {error}"
    if kind.read is verify:
        return "not named"
    same = found.keys() == expected.keys() and all(
        np.array_equal(found[key], expected[key], equal_nan=True) for key in expected
    )
    return None if same or Path(name).name in UNDOES else "read with other numbers"


def corrupted(kind: Kind, work: Path, *, flips: int, seed: int = 0) -> Iterator[Row]:
    """A row for each way in which the files of a folder are spoilt."""
    chance = random.Random(f"{seed} {kind.name}")
    expected = kind.read(kind.folder)
    names = sorted(
        str(path.relative_to(kind.folder))
        for path in kind.folder.rglob("*")
        if path.is_file() and path.name not in LOGS and path.stat().st_size
    )

    def spoilt(name: str, spoil: Callable[[Path], object]) -> str | None:
        folder = work / "spoilt"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(kind.folder, folder)
        before = (folder / name).read_bytes()
        spoil(folder / name)
        if (folder / name).is_file() and (folder / name).read_bytes() == before:
            return None
        ending = _ending(kind, name, folder, expected)
        return ending and f"{name}: {ending}"

    ways: dict[str, list[tuple[str, Callable[[Path], object]]]] = {
        "a bit flipped": [(n, lambda p: _flipped(p, chance)) for n in names for _ in range(flips)],
        "cut": [(n, lambda p: _cut(p, chance)) for n in names],
        "missing": [(n, Path.unlink) for n in names],
        "of another": [
            (n, lambda p, n=n: shutil.copy(kind.other / n, p)) for n in names if (kind.other / n).is_file()
        ],
    }
    for way, tries in ways.items():
        yield row_of(
            "corruption",
            f"{kind.name}: {way}",
            [spoilt(name, spoil) for name, spoil in tries],
        )


def outcomes(work: Path, given: Namespace) -> Iterator[Row]:
    """The rows of all kinds of folders."""
    for kind in kinds(work):
        if is_chosen(kind.name, given.only):
            yield from corrupted(kind, work, flips=given.flips, seed=given.seed)
