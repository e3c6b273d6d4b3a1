"""What an unfinished ingest has done so far: one line a file, so that a stopped run goes on where it was."""

import json
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from scattervae.errors import StoreError
from scattervae.files import file_digest, problems, written_file
from scattervae.spectra.manifest import MANIFEST, FileEntry
from scattervae.spectra.staging import StagedStars

STAGING = "staging"
_JOURNAL = "journal.jsonl"


@dataclass(frozen=True)
class Line:
    """One file's entry, and its staged stars where any was kept."""

    entry: FileEntry
    staged: StagedStars | None


_SCHEMA = TypeAdapter(Line)


class Journal:
    """Entries that the manifest does not have yet, on disk as soon as they are noted.

    Its first line names the manifest it goes on from: once a newer one is written, the journal is void.

    Args:
        folder: The store.

    Raises:
        StoreError: A line is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self._file = folder / STAGING / _JOURNAL
        manifest = folder / MANIFEST
        self._header = json.dumps({"follows": file_digest(manifest) if manifest.is_file() else None})
        text = self._file.read_text(encoding="utf-8") if self._file.is_file() else ""
        header, *lines = text.split("\n")[:-1] or [""]  # what follows the last line break was half written
        try:
            self.lines = [self._line(text) for text in lines] if header == self._header else []
        except ValidationError as error:
            raise StoreError(
                f"{self._file}: no journal of an ingest ({problems(error)}); ingest into a new folder"
            ) from error

    @staticmethod
    def is_in(folder: Path) -> bool:
        """True where a run has begun a journal, void or not."""
        return (folder / STAGING / _JOURNAL).is_file()

    @property
    def digest(self) -> str:
        """What identifies the lines and the manifest they go on from."""
        return file_digest(self._file)

    @property
    def n_staged(self) -> int:
        """One more than the highest number of a staged file."""
        paths = [line.staged.path for line in self.lines if line.staged is not None]
        return max((int(path.stem.removeprefix("stars-")) for path in paths), default=-1) + 1

    def staged_path(self, number: int) -> Path:
        """Where the stars of a file go."""
        return self._file.parent / f"stars-{number:05d}.parquet"

    def begin(self) -> None:
        """Make the file hold these lines and no more, and remove staged files that they do not name."""
        named = {line.staged.path for line in self.lines if line.staged is not None}
        for file in self._file.parent.glob("stars-*"):
            if file not in named:
                file.unlink()
        with written_file(self._file) as partial:
            text = [self._header, *map(_text, self.lines)]
            partial.write_text("\n".join(text) + "\n", encoding="utf-8")

    def note(self, line: Line) -> None:
        """Add a line."""
        with self._file.open("a", encoding="utf-8") as file:
            file.write(_text(line) + "\n")
        self.lines.append(line)

    def discard(self) -> None:
        """Remove the journal, then the files it named."""
        folder = self._file.parent
        self._file.unlink(missing_ok=True)
        if folder.is_dir():
            for file in (*folder.glob("stars-*"), *folder.glob(f"{_JOURNAL}*")):
                file.unlink()
            with suppress(OSError):  # somebody's own files are in it
                folder.rmdir()

    def _line(self, text: str) -> Line:
        line = _SCHEMA.validate_json(text)
        staged = line.staged and replace(line.staged, path=self._file.parent / line.staged.path)
        return Line(line.entry, staged)


def _text(line: Line) -> str:
    """A line as JSON, with the staged file's name alone: the store may be moved before the next run."""
    staged = line.staged and replace(line.staged, path=Path(line.staged.path.name))
    return _SCHEMA.dump_json(Line(line.entry, staged)).decode()
