"""An ingest that the machine stops, for lack of room or memory, says so in one line, and goes on afterwards."""

import errno
import shutil
import subprocess
import sys

import pytest

from ingest_toys import IngestedSky, contents
from scattervae.errors import StoreError
from scattervae.parallel import WorkerDied
from scattervae.spectra import manifest, staging
from scattervae.spectra.store import SpectrumStore


@pytest.fixture(scope="module")
def sky(tmp_path_factory):
    return IngestedSky.make(tmp_path_factory.mktemp("sky"))


@pytest.mark.parametrize(
    ("module", "name", "call", "n_done", "where"),
    [
        (staging, "parquet_writer", 2, 1, ""),
        (manifest.Journal, "note", 3, 2, ""),
        (staging, "write_sorted", 1, 5, "/dataset.partial/"),
        (manifest, "write_json", 1, 5, "/manifest.json"),
    ],
    ids=["staging", "noting", "partitions", "manifest"],
)
def test_a_full_disk_stops_the_run_clearly_and_it_goes_on(
    sky, tmp_path, monkeypatch, module, name, call, n_done, where
):
    store = tmp_path / "store"
    real = getattr(module, name)
    calls = []

    def full(*args, **kwargs):
        calls.append(args)
        if len(calls) == call:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(module, name, full)
        with pytest.raises(StoreError) as caught:
            sky.ingest(store)
    place, _, message = str(caught.value).partition(": ")
    assert place.startswith(f"{store}{where}")
    assert message == (
        f"No space left on device; {n_done} of 5 files are in {store}; "
        "make room and run the same command again to go on"
    )
    with pytest.raises(StoreError, match="run the same `scattervae ingest` again"):
        SpectrumStore(store)
    sky.ingest(store)
    assert contents(store) == sky.expected


@pytest.mark.slow
def test_a_full_disk_in_another_process(sky, tmp_path):
    """A real one, as far as a test can make it: a limit on the size of files."""
    pytest.importorskip("resource")
    limit = "resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))"
    limit = f"    import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); {limit}\n"
    store = tmp_path / "store"
    with sky.start(tmp_path, store, workers=2, before=limit) as run:
        assert run.stdout.read() == ""
        said = run.stderr.read().splitlines()[-1]
    assert f"StoreError: {store}" in said
    assert f": File too large; 0 of 5 files are in {store}" in said
    assert "run the same command again to go on" in said
    sky.ingest(store)
    assert contents(store) == sky.expected


def test_space_that_looks_too_small_is_warned_of(sky, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**6, 10**6, 1000))
    sky.ingest(tmp_path / "store")
    assert "0.0 GB are free, and about 0.0 GB may be needed" in caplog.text


def test_a_process_that_was_killed_stops_the_run_clearly_and_it_goes_on(sky, tmp_path, monkeypatch):
    store = tmp_path / "store"

    def killed(task, jobs, *, workers):
        job = next(jobs)
        yield job, task(job)
        raise WorkerDied("a process was killed at its work, mostly for lack of memory")

    with monkeypatch.context() as patch:
        patch.setattr("scattervae.gaia.ingest.in_processes", killed)
        with pytest.raises(StoreError) as caught:
            sky.ingest(store, workers=2)
    assert str(caught.value) == (
        f"{store}: a process was killed at its work, mostly for lack of memory; 1 of 5 files are in it; "
        "run the same command again with fewer workers"
    )
    sky.ingest(store)
    assert contents(store) == sky.expected


def test_a_program_without_a_guard_is_refused_in_one_line(sky, tmp_path):
    program = tmp_path / "program.py"
    files = [str(file) for file in sky.files]
    program.write_text(
        "import scattervae as sv\n"
        "from scattervae.errors import StoreError\n"
        "try:\n"
        f"    sv.ingest({files!r}, {str(tmp_path / 'store')!r}, workers=2)\n"
        "except StoreError as error:\n"
        "    print(error)\n"
    )
    run = subprocess.run([sys.executable, program], capture_output=True, text=True, check=True)
    (line,) = run.stdout.splitlines()
    assert line == (
        f"{tmp_path / 'store'}: no process could begin, since each runs the program that asks for it first; 0 of 5 "
        "files are in it; put its main part below if __name__ == '__main__': or ask for one worker"
    )
    assert run.stderr == ""
