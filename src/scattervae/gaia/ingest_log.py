"""How long each file of an ingest took, beside the store's manifest, which holds no time of day.

One JSON object a line. The log also remembers the size and time of change of every file, so that a run that
goes on does not read terabytes again only to find that it knows their digests.
"""

import json
import sys
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

LOG_NAME = "ingest.log.jsonl"


@dataclass(frozen=True)
class FileTimes:
    """What reading one file took.

    Attributes:
        name: The file, as the user named it.
        path: The file from the root of the file system.
        size: Its bytes.
        modified_ns: When it was changed last [ns].
        digest: SHA-256 of its bytes, empty where it could not be read.
        started: When reading began, in universal time.
        seconds: How long it took until its stars were staged.
        rows_per_second: Rows read over seconds.
        peak_memory_mb: The most memory that the process had used by then [10^6 bytes]; None where unknown.
        error: Why it was left out.
    """

    name: str
    path: str
    size: int
    modified_ns: int
    digest: str
    started: str
    seconds: float
    rows_per_second: float
    peak_memory_mb: float | None
    error: str | None = None


class IngestLog:
    """The log in a store's folder, of this run and those before it.

    Args:
        folder: The store's folder.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / LOG_NAME
        self._digests: dict[tuple[str, int, int], str] = {}
        text = self._path.read_text(encoding="utf-8", errors="replace") if self._path.is_file() else ""
        self._start = "" if text.endswith("\n") or not text else "\n"  # after a line left unfinished
        for line in text.splitlines():
            try:
                known = json.loads(line)
                self._digests[known["path"], known["size"], known["modified_ns"]] = known["digest"]
            except (ValueError, KeyError, TypeError):
                continue  # a line that a killed run left unfinished tells nothing

    def digest_of(self, path: Path) -> str | None:
        """The digest of a file that has not changed since it was read, by its size and time of change."""
        try:
            status = path.stat()
        except OSError:
            return None
        return self._digests.get((str(path.resolve()), status.st_size, status.st_mtime_ns)) or None

    def add(self, times: FileTimes) -> None:
        """Append one file."""
        self._append(asdict(times))

    def add_sealing(self, started: str, seconds: float) -> None:
        """Append how long it took to make a catalogue of all staged stars."""
        peak = peak_memory_mb()
        self._append(
            {"sealing": True, "started": started, "seconds": round(seconds, 3), "peak_memory_mb": peak}
        )

    def _append(self, content: dict[str, Any]) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(self._start + json.dumps(content) + "\n")
        self._start = ""


def utc_now() -> str:
    """The time of day in universal time."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def peak_memory_mb() -> float | None:
    """The most memory that this process has used so far [10^6 bytes]; None where the system does not say."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak * (1 if sys.platform == "darwin" else 1024) / 1e6, 1)
