"""The command line: one file a command, which parses, calls, and says what it wrote.

Every command takes ``--json`` for a summary on stdout that a program can read, and fails with one line and a
non-zero code. Nothing here computes.
"""

from scattervae.cli.application import main

__all__ = ["main"]
