"""What became of every ingested file, and what a finished store holds: its ``manifest.json``."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from scattervae.errors import StoreError
from scattervae.files import DIGESTS, digests_in, file_digest, problems, write_json, written_file
from scattervae.spectra.hats import Positions
from scattervae.spectra.spectra import Basis
from scattervae.spectra.staging import StagedStars
from scattervae.spectra.star_tables import DataRelease

MANIFEST = "manifest.json"
_FORMAT = 2


@dataclass(frozen=True)
class FileEntry:
    """What became of one ingested file.

    Attributes:
        name: The file, as the user named it.
        digest: SHA-256 of its bytes.
        kind: What it was recognised as; None where it could not be read.
        note: How its coefficients came about, where they are not the published ones.
        n_rows: Rows read, skipped ones included.
        n_kept: Stars written.
        n_duplicates: Rows dropped because another row of the same source_id was kept.
        flags: Stars kept with each flag, by the flag's name.
        skipped: Rows that could not be read, each with its reason.
        error: Why the whole file could not be read.
        other_bases: Rows dropped that are of other bases than the store's, by the ids.
    """

    name: str
    digest: str
    kind: str | None = None
    note: str | None = None
    n_rows: int = 0
    n_kept: int = 0
    n_duplicates: int = 0
    flags: Mapping[str, int] = field(default_factory=dict)
    skipped: tuple[str, ...] = ()
    error: str | None = None
    other_bases: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Manifest:
    """The files of a store, and what their stars have in common.

    Attributes:
        basis: The basis of all stars; like `positions` and `release` None where there is no star.
        positions: Where their positions come from.
        release: The data release of all stars; None also where it was not noted.
        entries: What became of each file, in the order in which they were given.
    """

    basis: Basis | None = None
    positions: Positions | None = None
    release: DataRelease | None = None
    entries: tuple[FileEntry, ...] = ()

    @staticmethod
    def read(folder: Path) -> "Manifest":
        """The manifest of a store.

        Raises:
            StoreError: There is none, or it is of another make or version.
        """
        file = folder / MANIFEST
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise StoreError(f"{file}: not readable as JSON ({error}); ingest again") from error
        found = content.get("format") if isinstance(content, dict) else None
        if found != _FORMAT:
            raise StoreError(f"{file}: format {found}, this version reads {_FORMAT}; ingest again")
        try:
            return _SCHEMA.validate_python({**content, "entries": content.get("files")})
        except ValidationError as error:
            raise StoreError(f"{file}: no manifest of a store ({problems(error)}); ingest again") from error

    def write(self, folder: Path) -> None:
        """Write ``manifest.json``, whole or not at all, and its digest first, among those of the store's files."""
        content = _SCHEMA.dump_python(self, mode="json")
        files = content.pop("entries")
        content = {"format": _FORMAT, **content, "files": files, "credit": "ESA/Gaia/DPAC"}
        with written_file(folder / MANIFEST) as partial:
            partial.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
            if digests := digests_in(folder):
                write_json(folder / DIGESTS, {**digests, MANIFEST: file_digest(partial)})

    def recording(self, entry: FileEntry, staged: StagedStars | None = None) -> "Manifest":
        """The manifest with one more entry, and with its stars; an entry of the same file that was broken goes.

        Broken again, the file keeps its row.
        """
        earlier = [e for e in self.entries if e.error is not None and e.name == entry.name]
        if earlier and entry.error is not None:
            entries = tuple(entry if e is earlier[0] else e for e in self.entries)
        else:
            entries = (*(e for e in self.entries if e not in earlier), entry)
        if staged is None or staged.basis is None:
            return replace(self, entries=entries)
        return Manifest(
            basis=staged.basis if self.basis is None else self.basis.completed_by(staged.basis),
            positions=staged.positions,
            release=staged.release or self.release,
            entries=entries,
        )


_SCHEMA = TypeAdapter(Manifest)
