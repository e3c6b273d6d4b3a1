"""An ingest killed at every step it takes on disk, each time restarted: run as a program by the test beside it.

A step is anything Python does to the store's files: making, opening, renaming, linking or removing one. The process
ends there as a killed one does, without a chance to tidy up; a file that was being written is left half written.
"""

import json
import os
import shutil
import sys
import warnings
from pathlib import Path

from scattervae.spectra.store import SpectrumStore
from scattervae.spectra.store_writer import StoreWriter
from spectra.stores import add, all_bytes, entry, scattered
from toy import toy_sky

SKY = toy_sky(60)
STEPS = {"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "shutil.rmtree"}
SITTINGS = (("0", "bad"), ("0", "1", "bad", "2"))
KILLED = 9


def ingest(path: Path, names: tuple[str, ...]) -> None:
    """As a command would: files that were read before are passed over, `bad` is broken each time."""
    writer = StoreWriter(path, rows_a_partition=12)
    for number, name in enumerate(names):
        if writer.entry_of(f"digest of {name}") is not None:
            continue
        if name == "bad":
            writer.add_failed(entry(name, error="torn"))
        else:
            stars = SKY.spectra.take(slice(18 * int(name), 18 * int(name) + 24))  # six of the next file's too
            sources = scattered(SKY.spectra.source_id)
            add(writer, name, stars, number=number, labels=SKY.labels, sources=sources)
    writer.finish()


def killed_after(n_steps: int, path: Path) -> None:
    """End this process when it is about to take one more step in `path`."""
    left = n_steps

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal left
        if event in STEPS and any(str(argument).startswith(str(path)) for argument in arguments):
            if event == "open" and str(arguments[1]).startswith("r"):
                return
            left -= 1
            if left < 0:
                os._exit(KILLED)

    sys.addaudithook(hook)


def in_a_child(path: Path, names: tuple[str, ...], n_steps: int | None = None) -> int:
    """Exit code of an ingest in a process of its own."""
    child = os.fork()
    if child == 0:
        if n_steps is not None:
            killed_after(n_steps, path)
        ingest(path, names)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def halve_what_was_being_written(path: Path) -> None:
    for file in path.rglob("*.partial"):
        if file.is_file():
            os.truncate(file, file.stat().st_size // 2)


def main(folder: Path, stride: int, start: int) -> None:
    warnings.simplefilter("error")
    ingest(folder / "warm up", SITTINGS[1])  # what is imported on the way is imported once
    before = folder / "before"
    report = []
    for sitting, names in enumerate(SITTINGS):
        whole = folder / "whole"
        shutil.rmtree(whole, ignore_errors=True)
        if before.exists():
            shutil.copytree(before, whole)
        assert in_a_child(whole, names) == 0
        expected = all_bytes(whole)
        n_steps, code = start, KILLED
        while code == KILLED:
            path = folder / f"killed-{sitting}-{n_steps}"
            if before.exists():
                shutil.copytree(before, path)
            code = in_a_child(path, names, n_steps)
            halve_what_was_being_written(path)
            assert in_a_child(path, names) == 0
            same = all_bytes(path) == expected
            report.append({"sitting": sitting, "n_steps": n_steps, "code": code, "same": same})
            shutil.rmtree(path)
            n_steps += stride
        whole.rename(before) if not before.exists() else None
    SpectrumStore(folder / "whole").read()
    print(json.dumps(report))  # noqa: T201


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
