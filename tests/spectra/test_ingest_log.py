"""The log of an ingest: what it keeps, and that it may be torn."""

import json
import os

import pytest

from scattervae.spectra.manifest import LOG_NAME, FileTimes, IngestLog, peak_memory_mb


def times_of(path, digest="d" * 64):
    status = path.stat()
    return FileTimes(
        name=path.name,
        path=str(path.resolve()),
        size=status.st_size,
        modified_ns=status.st_mtime_ns,
        digest=digest,
        started="2026-01-01T00:00:00.000+00:00",
        seconds=2.0,
        rows_per_second=5.0,
        peak_memory_mb=None,
    )


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("some rows")
    return path


def test_a_file_that_has_not_changed_is_known(tmp_path, file, monkeypatch):
    log = IngestLog(tmp_path)
    assert log.digest_of(file) is None
    log.add(times_of(file))
    again = IngestLog(tmp_path)
    assert again.digest_of(file) == "d" * 64
    monkeypatch.chdir(tmp_path)
    assert again.digest_of(type(file)("a.csv")) == "d" * 64
    assert again.digest_of(tmp_path / "missing.csv") is None
    (tmp_path / "copy.csv").write_text("some rows")
    assert again.digest_of(tmp_path / "copy.csv") is None
    changed = file.stat().st_mtime_ns + 1
    os.utime(file, ns=(changed, changed))
    assert again.digest_of(file) is None


def test_a_file_that_could_not_be_opened_has_no_digest(tmp_path, file):
    IngestLog(tmp_path).add(times_of(file, digest=""))
    assert IngestLog(tmp_path).digest_of(file) is None


@pytest.mark.parametrize(
    "torn", ['{"name": "a.csv", "pa', "[]\n", "7\n", "\xff\n", '{"path": 1}\n', '{"path": [1]}\n', "\n\n", ""]
)
def test_a_log_that_is_torn_costs_nothing(tmp_path, file, torn):
    (tmp_path / LOG_NAME).write_bytes(torn.encode("latin-1"))
    log = IngestLog(tmp_path)
    log.add(times_of(file))
    log.add_sealing("2026-01-01T00:00:00.000+00:00", 1.5)
    assert IngestLog(tmp_path).digest_of(file) == "d" * 64
    read, sealing = map(json.loads, (tmp_path / LOG_NAME).read_bytes().splitlines()[-2:])
    assert read["rows_per_second"] == 5.0
    assert (sealing["sealing"], sealing["seconds"]) == (True, 1.5)


def test_memory_is_printed_in_megabytes():
    resource = pytest.importorskip("resource")
    assert resource
    assert 30 < peak_memory_mb() < 1e5
