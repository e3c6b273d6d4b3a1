"""Tests of what benchmarks make and of what they conclude; nothing here is timed."""

import sys
from pathlib import Path

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.append(str(BENCHMARKS / "archive"))
__path__.append(str(BENCHMARKS))  # this package has the name of what it tests
