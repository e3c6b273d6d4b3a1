"""Files read in processes of their own: hostile ones at full size, faulty ones, and both and real ones changed."""

import itertools
import json
import random
import re
import resource
import shutil
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from torture import SHARED, Row, in_time, row_of
from torture.forks import Ended, forked

SECONDS, MEGABYTES = 20.0, 2000.0
ENDINGS = ("read", "refused")
CHECKED = "checked"  # a folder of files with checksums
_ADDRESSES = 8 * 2**30  # bytes that a process may ask for
NASTY = (
    *("", "0", "-1", "nan", "inf", "-inf", "null", "None", "1e999", "-1e308", "9" * 30, "9" * 400, "5.0"),
    *(
        "2147483648",
        "9223372036854775808",
        "-9223372036854775808",
        "1e18",
        "0x10",
        "true",
        "[",
        "]",
        "(",
        ")",
    ),
    *('"', "'", ",", ";", "\t", "\n", "\0", "\r", "é", "[1,2", "(1.0, nan)", "[[1,2],[3]]", "56", "343", "*"),
    *(
        "short",
        "double",
        "long",
        "char",
        "unicodeChar",
        "boolean",
        "W.m**-2.nm**-1",
        "mag",
        "electron/s",
        "furlong",
    ),
)
_WORD = re.compile(rb"[\w.+-]+")


class Reading(NamedTuple):
    """What became of one file.

    Attributes:
        what: The file.
        ending: ``read``, ``refused``, or what went wrong.
        seconds: CPU time, which other programs do not change; one that hangs is killed, and counted as a crash.
        megabytes: How much memory it took beside what was there.
    """

    what: str
    ending: str
    seconds: float = 0.0
    megabytes: float = 0.0


def read(path: Path, notes: Path, truth: Path | None) -> None:
    """Read a file, and note how that ended; `truth` is the file before it was changed, where it has checksums."""
    from scattervae.errors import ScatterVaeError
    from scattervae.gaia.reading import load

    resource.setrlimit(resource.RLIMIT_AS, (_ADDRESSES, _ADDRESSES))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        spectra = load(path).spectra
        same = truth is None or _agree(spectra, load(truth).spectra)
        ending = "read" if same else "other values without a flag"
    except ScatterVaeError as error:
        ending = "refused" if "\n" not in str(error) else "refused in several lines"
    except Exception as error:  # noqa: BLE001 - to be counted
        ending = f"traceback {type(error).__name__}: {error}"[:200]
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    notes.write_text(json.dumps([ending, time.process_time(), grown]))


def _agree(found: object, truth: object) -> bool:
    """True where each usable star that both have has the same coefficients, errors and G flux."""
    _, own, theirs = np.intersect1d(found.source_id, truth.source_id, return_indices=True)  # type: ignore[attr-defined]
    a, b = found.take(own), truth.take(theirs)  # type: ignore[attr-defined]
    usable = a.usable & b.usable
    return all(
        np.array_equal(getattr(a, name)[usable], getattr(b, name)[usable])
        for name in ("coeffs", "errors", "g_flux")
    )


def reading(what: str, path: Path, work: Path, truth: Path | None = None) -> Reading:
    """How reading a file ends."""
    notes = work / "ending.json"
    notes.unlink(missing_ok=True)
    ended = forked(lambda: read(path, notes, truth), work / "log")
    if not notes.is_file():
        return Reading(what, _gone(ended), ended.seconds)
    return Reading(what, *json.loads(notes.read_text()))


def _gone(ended: Ended) -> str:
    return f"crash, code {ended.code}: {ended.line}"[:200]


def bytes_changed(content: bytes, chance: random.Random) -> bytes:
    """The same bytes with a few changed, a piece cut, doubled, or moved."""
    changed = bytearray(content)
    for _ in range(chance.randint(1, 6)):
        start = chance.randrange(len(changed))
        cut = slice(start, start + chance.randint(1, 64))
        change = chance.choice(("flip", "cut", "double", "large"))
        if change == "flip":
            changed[start] ^= 1 << chance.randrange(8)
        elif change == "cut" and len(changed) > 200:
            del changed[cut]
        elif change == "double":
            changed[start:start] = changed[cut]
        else:
            changed[start : start + 1] = b"\xff" * chance.choice((1, 4, 8))
    return bytes(changed)


def structure_changed(content: bytes, chance: random.Random) -> bytes:
    """The same text, or header of a binary file, with words replaced by nasty ones, or lines moved, lost or doubled."""
    head = content[: 2880 * 4] if content[:6] == b"SIMPLE" else content
    for _ in range(chance.randint(1, 3)):
        if chance.random() < 0.3 and head.count(b"\n") > 2:
            lines = head.split(b"\n")
            at, to = chance.randrange(len(lines)), chance.randrange(len(lines))
            lines[to:to] = [lines.pop(at)] if chance.random() < 0.5 else [lines[at]] * 2
            head = b"\n".join(lines)
            continue
        start = chance.choice((0, chance.randrange(max(len(head), 1))))
        words = [match for _, match in zip(range(200), _WORD.finditer(head, start), strict=False)]
        if words:
            word, nasty = chance.choice(words), chance.choice(NASTY).encode()
            if content[:6] == b"SIMPLE":  # cards keep their places
                nasty = nasty[: len(word[0])].ljust(len(word[0]))
            head = head[: word.start()] + nasty + head[word.end() :]
    return head + content[len(head) :] if content[:6] == b"SIMPLE" else head


def has_checksums(path: Path) -> bool:
    """True where a file says of all its values what they are: gzip, and what `_made` writes with checksums."""
    return path.parent.name == CHECKED or path.read_bytes()[:2] == b"\x1f\x8b"


def inputs() -> list[Path]:
    """Real files, and faulty ones."""
    folders = [SHARED / "data" / "formats", SHARED / "faults"]
    return [
        path
        for folder in folders
        if folder.is_dir()
        for path in sorted(folder.iterdir())
        if path.is_file() and path.suffix != ".md"
    ]


def _made(work: Path) -> list[Path]:
    """Files of toy stars in the forms of which there is no real one with checksums: of all bytes, HDUs, or pages."""
    import gzip

    import pyarrow.parquet as pq
    from astropy.io import fits

    from cli.toys import write_csv, write_parquet
    from toy import DR3, toy_sky

    spectra, checked = toy_sky(20, basis=DR3).spectra, work / CHECKED
    checked.mkdir(exist_ok=True)
    text = write_csv(work / "toy.csv", spectra)
    (checked / "toy.csv.gz").write_bytes(gzip.compress(text.read_bytes(), mtime=0))
    table = pq.read_table(write_parquet(work / "toy.parquet", spectra))
    pq.write_table(table, checked / "toy.parquet", write_page_checksum=True)
    columns = [_fits_column(name, table[name]) for name in table.column_names]
    fits.BinTableHDU.from_columns(columns).writeto(checked / "toy.fits", checksum=True, overwrite=True)
    return [text, *sorted(checked.iterdir())]


def _fits_column(name: str, values: Any) -> Any:
    from astropy.io import fits

    array = np.array(values.to_pylist())
    code = {"i": "K", "f": "D"}[array.dtype.kind]
    return fits.Column(name, f"{array[0].size}{code}", array=array)


def readings(work: Path, given: Namespace) -> Iterator[Reading]:
    """Every hostile file, every input, and so many changes of each."""
    import hostile_files

    work.mkdir(parents=True, exist_ok=True)
    chance = random.Random(given.seed)
    for number, (name, (make, _)) in enumerate(hostile_files.MAKERS.items()):
        if number % given.every == 0 and given.only in "hostile":
            path = work / f"hostile {number}"
            make(path, 1.0)
            yield reading(f"hostile: {name}", path, work)
            path.unlink() if not path.is_dir() else shutil.rmtree(path)
    ways: dict[str, Callable[[bytes, random.Random], bytes]] = {
        "bytes": bytes_changed,
        "structure": structure_changed,
    }
    paths = [*inputs(), *_made(work)][:: given.every]
    for path in paths:
        yield reading(f"as it is: {path.name}", path, work)
    for number, path, (way, change) in itertools.product(range(given.mutations), paths, ways.items()):
        changed = work / f"changed{''.join(path.suffixes[-2:])}"
        changed.write_bytes(change(path.read_bytes(), chance))
        truth = path if has_checksums(path) else None
        yield reading(f"{way} changed: {path.name} ({number})", changed, work, truth)


def rows(found: list[Reading]) -> list[Row]:
    """A row for each thing that is to happen to no file."""

    def row(what: str, is_bad: Callable[[Reading], bool]) -> Row:
        return row_of("readers", what, [_line(one) if is_bad(one) else None for one in found])

    return [
        row("no traceback", lambda one: one.ending.startswith(("traceback", "refused in"))),
        row("no crash", lambda one: one.ending.startswith("crash")),
        row("no other value where the file has checksums", lambda one: one.ending.startswith("other")),
        row(f"at most {SECONDS:.0f} s", lambda one: one.seconds > SECONDS),
        row(f"at most {MEGABYTES:,.0f} MB", lambda one: one.megabytes > MEGABYTES),
    ]


def _line(one: Reading) -> str:
    return f"{one.what}: {one.ending}, {one.seconds:.1f} s, {one.megabytes:.0f} MB"


def outcomes(work: Path, given: Namespace) -> Iterator[Row]:
    """The rows of all files."""
    import scattervae.gaia.reading

    del scattervae
    work.mkdir(parents=True, exist_ok=True)
    _warm_up(work)
    found = []
    for one in in_time(readings(work / "readers", given), given.minutes):
        found.append(one)
        if one.ending not in ENDINGS:
            sys.stderr.write(f"  {_line(one)}\n")
    ends = {end: sum(one.ending == end for one in found) for end in ENDINGS}
    sys.stderr.write(f"readers: {len(found)} files, {ends['read']} read, {ends['refused']} refused\n")
    yield from rows(found)


def _warm_up(work: Path) -> None:
    """Import what reading one file of each form imports."""
    from torture.forks import learn_modules

    for path in {path.suffix: path for path in inputs()}.values():
        learn_modules(["info", path], work / "first.log")
