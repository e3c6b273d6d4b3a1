"""What became of every ingested file, and what a sealed store holds: its ``manifest.json``."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from scattervae.errors import StoreError
from scattervae.files import DIGESTS, digests_in, file_digest, write_json, written_aside
from scattervae.spectra.hats import Positions
from scattervae.spectra.spectra import Basis
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
        n_duplicates: Rows left out because another row of the same source_id was kept.
        flags: Stars kept with each flag, by the flag's name.
        skipped: Rows left out, each with its reason.
        error: Why the whole file was left out.
        other_bases: Rows left out that are of other bases than the store's, by the ids.
    """

    name: str
    digest: str
    kind: str | None = None
    note: str | None = None
    n_rows: int = 0
    n_kept: int = 0
    n_duplicates: int = 0
    flags: dict[str, int] = field(default_factory=dict)
    skipped: tuple[str, ...] = ()
    error: str | None = None
    other_bases: dict[str, int] = field(default_factory=dict)

    @staticmethod
    def of(values: Mapping[str, Any]) -> "FileEntry":
        """The entry that ``asdict`` and JSON made of one."""
        return FileEntry(**{**values, "skipped": tuple(values["skipped"])})


@dataclass(frozen=True)
class Manifest:
    """The files of a store, and what their stars have in common.

    Attributes:
        basis: The basis of all stars; None where there is no star.
        positions: Where their positions come from; None where there is no star.
        entries: What became of each file, in the order in which they were given.
        release: The data release of all stars; None where there is no star, or it was not noted.
    """

    basis: Basis | None = None
    positions: Positions | None = None
    entries: tuple[FileEntry, ...] = ()
    release: DataRelease | None = None

    @staticmethod
    def read(folder: Path) -> "Manifest":
        """The manifest of a store.

        Raises:
            StoreError: There is none, or it is of another make or version.
        """
        file = folder / MANIFEST
        try:
            content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise StoreError(f"{file}: not readable as JSON ({error}); ingest again") from error
        found = content.get("format") if isinstance(content, dict) else None
        if found != _FORMAT:
            raise StoreError(f"{file}: format {found}, this version reads {_FORMAT}; ingest again")
        try:
            basis, positions, release = content["basis"], content["positions"], content.get("release")
            return Manifest(
                basis=None if basis is None else Basis(**basis),
                positions=None if positions is None else Positions(positions),
                entries=tuple(FileEntry.of(entry) for entry in content["files"]),
                release=None if release is None else DataRelease(**release),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise StoreError(
                f"{file}: not what a store's manifest holds ({error!r}); ingest again"
            ) from error

    def write(self, folder: Path) -> None:
        """Write ``manifest.json``, whole or not at all, and its digest first, among those of the store's files."""
        content = {
            "format": _FORMAT,
            "basis": None if self.basis is None else asdict(self.basis),
            "positions": None if self.positions is None else self.positions.value,
            "release": None if self.release is None else asdict(self.release),
            "files": [asdict(entry) for entry in self.entries],
            "credit": "ESA/Gaia/DPAC",
        }
        with written_aside(folder / MANIFEST) as partial:
            partial.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
            if digests := digests_in(folder):
                write_json(folder / DIGESTS, {**digests, MANIFEST: file_digest(partial)})

    def joined_by(
        self, basis: Basis | None, positions: Positions | None, release: DataRelease | None = None
    ) -> "Manifest":
        """The same manifest of stars that these have joined; nothing changes where both are None."""
        if basis is None:
            return self
        return replace(
            self,
            basis=basis if self.basis is None else self.basis.completed_by(basis),
            positions=positions,
            release=release or self.release,
        )

    def recording(self, entry: FileEntry) -> "Manifest":
        """The manifest with one more entry; a file that was broken before has only the newer one.

        Broken again, it keeps its place.
        """
        earlier = [e for e in self.entries if e.error is not None and e.name == entry.name]
        if earlier and entry.error is not None:
            entries = tuple(entry if e is earlier[0] else e for e in self.entries)
        else:
            entries = (*(e for e in self.entries if e not in earlier), entry)
        return replace(self, entries=entries)
