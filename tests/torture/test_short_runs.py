"""Every part of the harness in short, a minute in all, in processes of their own: it forks, which threads forbid."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

SHORT = {
    "readers": ("--mutations", "1", "--every", "40"),
    "server": ("--every", "9"),
    "corruption": ("--flips", "1", "--only", "trained folder"),
    "kills": ("--kills", "4", "--only", "to a file"),
}


@pytest.fixture(scope="module")
def runs():
    """All parts, started together: this file is among the last that the suite comes to, and would be its tail."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}
    started = {
        part: subprocess.Popen(
            [sys.executable, "-m", "torture", part, *arguments],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for part, arguments in SHORT.items()
    }
    yield started
    for run in started.values():
        run.kill()
        run.wait()


@pytest.mark.parametrize("part", SHORT)
def test_a_part_in_short(runs, part):
    stdout, stderr = runs[part].communicate(timeout=600)
    assert runs[part].returncode == 0, stdout + stderr[-2000:]
    assert stdout.startswith("| part | what | tried | as it should |")
