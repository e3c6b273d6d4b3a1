import json
import subprocess
import sys
from pathlib import Path

import pytest

from spectra.killed_ingest import KILLED, SITTINGS

TESTS = Path(__file__).resolve().parents[1]


@pytest.mark.slow  # a plain run kills an ingest at each fourth step: tests/gaia/test_ingest_killed.py
@pytest.mark.parametrize("stride", [1, 13])
def test_killed_at_any_step_and_restarted_a_store_has_the_same_bytes(tmp_path, stride):
    program = [
        sys.executable,
        "-m",
        "spectra.killed_ingest",
        str(tmp_path),
        str(stride),
        str(min(stride - 1, 4)),
    ]
    done = subprocess.run(program, cwd=TESTS, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert [one for one in report if not one["same"]] == []
    for sitting in range(len(SITTINGS)):
        codes = [one["code"] for one in report if one["sitting"] == sitting]
        assert codes[:-1] == [KILLED] * (len(codes) - 1)
        assert codes[-1] == 0
        assert len(codes) > 60 // stride
