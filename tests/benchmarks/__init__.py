"""Tests of what benchmarks make and of what they conclude; nothing here is timed."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks" / "archive"))
