"""What an unfinished ingest has done so far: one line a file, so that a stopped run goes on where it was."""

import json
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from scattervae.errors import StoreError
from scattervae.files import file_digest, written_aside
from scattervae.spectra.hats import Positions
from scattervae.spectra.manifest import MANIFEST, FileEntry
from scattervae.spectra.spectra import Basis
from scattervae.spectra.staging import StagedPart
from scattervae.spectra.star_tables import DataRelease

INTAKE = "intake"
_JOURNAL = "journal.jsonl"


@dataclass(frozen=True)
class Line:
    """One file's entry, and the staged part of its stars where any was kept."""

    entry: FileEntry
    part: StagedPart | None


class Journal:
    """Entries that the manifest does not have yet, on disk as soon as they are noted.

    Its first line names the manifest it goes on from: once a newer one is written, the journal is void.

    Args:
        folder: The store.

    Raises:
        StoreError: A line is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self._file = folder / INTAKE / _JOURNAL
        manifest = folder / MANIFEST
        self._header = json.dumps({"follows": file_digest(manifest) if manifest.is_file() else None})
        text = self._file.read_text(encoding="utf-8") if self._file.is_file() else ""
        header, *lines, _ = (
            text.split("\n") if "\n" in text else ("", "")
        )  # the last was half written, if at all
        try:
            self.lines = [_line(self._file.parent, line) for line in lines] if header == self._header else []
        except (KeyError, TypeError, ValueError) as error:
            raise StoreError(
                f"{self._file}: not what an unfinished ingest notes ({error!r}); ingest into a new folder"
            ) from error

    @staticmethod
    def is_in(folder: Path) -> bool:
        """True where a run has begun a journal, void or not."""
        return (folder / INTAKE / _JOURNAL).is_file()

    @property
    def digest(self) -> str:
        """What identifies the lines and the manifest they go on from."""
        return file_digest(self._file)

    @property
    def n_parts(self) -> int:
        """One more than the highest number of a staged part."""
        numbers = [
            int(line.part.path.stem.removeprefix("part-")) for line in self.lines if line.part is not None
        ]
        return max(numbers, default=-1) + 1

    def part_path(self, number: int) -> Path:
        """Where a staged part goes."""
        return self._file.parent / f"part-{number:05d}.parquet"

    def begin(self) -> None:
        """Make the file hold these lines and no more, and remove parts that they do not name."""
        named = {line.part.path for line in self.lines if line.part is not None}
        for file in self._file.parent.glob("part-*"):
            if file not in named:
                file.unlink()
        with written_aside(self._file) as partial:
            text = [self._header, *(_text(line) for line in self.lines)]
            partial.write_text("\n".join(text) + "\n", encoding="utf-8")

    def note(self, line: Line) -> None:
        """Add a line."""
        with self._file.open("a", encoding="utf-8") as file:
            file.write(_text(line) + "\n")
        self.lines.append(line)

    def discard(self) -> None:
        """Remove the journal, then the parts it named."""
        folder = self._file.parent
        self._file.unlink(missing_ok=True)
        if folder.is_dir():
            for file in (*folder.glob("part-*"), *folder.glob(f"{_JOURNAL}*")):
                file.unlink()
            with suppress(OSError):  # somebody's own files are in it
                folder.rmdir()


def _text(line: Line) -> str:
    part: dict[str, Any] | None = None
    if line.part is not None:
        positions = line.part.positions and line.part.positions.value
        part = {**asdict(line.part), "path": line.part.path.name, "positions": positions}
    return json.dumps({"entry": asdict(line.entry), "part": part})


def _line(folder: Path, text: str) -> Line:
    content = json.loads(text)
    part = content["part"]
    if part is not None:
        part["path"] = folder / part["path"]
        part["basis"] = part["basis"] and Basis(**part["basis"])
        part["positions"] = part["positions"] and Positions(part["positions"])
        part["release"] = DataRelease(**part["release"]) if part.get("release") else None
    return Line(FileEntry.of(content["entry"]), None if part is None else StagedPart(**part))
