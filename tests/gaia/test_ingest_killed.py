"""An ingest that is killed, at any step or moment, and run again leaves the bytes of one that was not."""

import os
import shutil
import signal
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from ingest_toys import IngestedSky, contents


class KilledError(BaseException):
    """Stands for the end of the process: no handler of the package takes it for an error."""


class Disk:
    """Counts the steps in which names on disk change, and lets none happen from a chosen one on.

    Files in the making stay as they are, since nothing can be cleaned up after the step either.
    """

    def __init__(self, patch, last=None):
        self.n_steps = 0
        self.last = last
        for module, name in (
            (os, "replace"),
            (os, "rename"),
            (os, "unlink"),
            (os, "remove"),
            (os, "rmdir"),
            (os, "mkdir"),
            (shutil, "rmtree"),
            (Path, "rename"),
            (Path, "replace"),
            (Path, "unlink"),
            (Path, "mkdir"),
        ):
            patch.setattr(module, name, self.counted(getattr(module, name)))

    def counted(self, act):
        def step(*args, **kwargs):
            self.n_steps += 1
            if self.last is not None and self.n_steps > self.last:
                raise KilledError
            return act(*args, **kwargs)

        return step


@pytest.fixture(scope="module")
def sky(tmp_path_factory):
    return IngestedSky.make(tmp_path_factory.mktemp("sky"))


@pytest.mark.parametrize("part", [0, *(pytest.param(part, marks=pytest.mark.slow) for part in range(1, 8))])
def test_killed_at_each_step(sky, tmp_path, monkeypatch, part):
    with monkeypatch.context() as patch:
        disk = Disk(patch)
        sky.ingest(tmp_path / "counted")
    assert contents(tmp_path / "counted") == sky.expected
    assert disk.n_steps > 20
    for last in range(part, disk.n_steps, 8):
        store = tmp_path / f"killed{last}"
        with monkeypatch.context() as patch:
            Disk(patch, last)
            with pytest.raises(KilledError):
                sky.ingest(store)
        sky.ingest(store)
        assert contents(store) == sky.expected, last
        shutil.rmtree(store)


@pytest.mark.slow
def test_killed_again_and_again(sky, tmp_path, monkeypatch):
    store = tmp_path / "store"
    for n_steps in (3, 5, 8, 9, 13, 4, 20, 21):
        with monkeypatch.context() as patch:
            Disk(patch, n_steps)
            with suppress(KilledError):
                sky.ingest(store)
    sky.ingest(store)
    assert contents(store) == sky.expected


def test_stopped_between_files(sky, tmp_path):
    for n_done in range(1, len(sky.files) + 1):
        done = []

        def stop(file, done=done, n_done=n_done):
            done.append(file)
            if len(done) == n_done:
                raise KeyboardInterrupt

        store = tmp_path / f"store{n_done}"
        with pytest.raises(KeyboardInterrupt):
            sky.ingest(store, progress=stop)
        sky.ingest(store)
        assert contents(store) == sky.expected


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_a_process_killed_at_random_moments(sky, tmp_path, workers):
    store = tmp_path / "store"
    rng = np.random.default_rng(workers)
    for n_files in (0, 2):
        with sky.start(tmp_path, store, workers=workers) as run:
            while run.poll() is None and n_noted(store) < n_files:
                time.sleep(0.01)
            time.sleep(rng.uniform(0.0, 0.3))
            run.send_signal(signal.SIGKILL)
    sky.ingest(store)
    assert contents(store) == sky.expected


def n_noted(store: Path) -> int:
    """Files that an unfinished ingest is done with: lines of its journal after the first."""
    try:
        return (store / "staging" / "journal.jsonl").read_bytes().count(b"\n") - 1
    except OSError:
        return -1
