"""A store being written: the stars of one file after another are staged, then finished into a HATS catalogue."""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq

from scattervae.errors import StoreError
from scattervae.files import write_json
from scattervae.spectra.columns import joint_schema
from scattervae.spectra.hats import Partition, Positions, finish_catalogue, read_footer
from scattervae.spectra.manifest import MANIFEST, STAGING, FileEntry, Journal, Line, Manifest
from scattervae.spectra.spectra import Flag
from scattervae.spectra.staging import SeenIds, StagedStars, choose_partitions, without_seen, write_partitions

ROWS_A_PARTITION = 2**18  # some 250 MB in memory
ROWS_A_PARTITION_WITH_CORRELATIONS = 2**15  # some 420 MB in memory
_NAME = "gaia_xp"
_NOTES = {
    "obs_title": "Gaia's mean BP and RP spectra, as coefficients",
    "obs_ack": "This work has made use of data from the European Space Agency (ESA) mission Gaia "
    "(https://www.cosmos.esa.int/gaia), processed by the Gaia Data Processing and Analysis Consortium (DPAC).",
    "obs_copyright": "ESA/Gaia/DPAC",
}
_PLAN = "_plan.json"  # readers of parquet pass over files that begin with an underscore


class StoreWriter:
    """A store being written, file by file; stopped at any moment, it resumes with the next file.

    One process at a time may write to a store; `scattervae.gaia.ingest` sees to it with `sole_writer`.

    Args:
        path: The store's folder, new or left by an earlier run.
        rows_a_partition: At most so many rows in a partition of the finished store; where None, as many as a
            worker of a cluster holds comfortably.

    Raises:
        StoreError: The folder holds something else.
        OSError: The disk is full, or the folder cannot be written to; so do all methods that write.
    """

    def __init__(self, path: str | Path, *, rows_a_partition: int | None = None) -> None:
        self.path = Path(path)
        self._rows_a_partition = rows_a_partition
        self._dataset = DatasetFolder(self.path)
        is_finished = (self.path / MANIFEST).is_file()
        if not is_finished and not Journal.is_in(self.path) and _holds_something(self.path):
            raise StoreError(f"{self.path}: exists and is no store; give another --out")
        self.manifest = Manifest.read(self.path) if is_finished else Manifest()
        self._n_finished = sum(entry.n_kept for entry in self.manifest.entries)
        self._journal = Journal(self.path)
        if self._journal.lines:
            self._dataset.roll_back()
        else:
            self._dataset.commit()
        self._journal.begin()
        self._first_number = self._journal.n_staged
        self._seen = SeenIds()
        for file in self._partitions().values():
            self._seen.add_file(file)
        for line in self._journal.lines:
            self._count(line)

    def entry_of(self, digest: str) -> FileEntry | None:
        """What became of a file of this digest that was read before, whatever its name then."""
        return next((e for e in self.manifest.entries if e.digest == digest and e.error is None), None)

    def staged_path(self, index: int) -> Path:
        """Where to `stage` the file of this number, counted from 0 by this writer."""
        return self._journal.staged_path(self._first_number + index)

    def add(self, entry: FileEntry, staged: StagedStars) -> FileEntry:
        """Add the staged stars of a file; those that the store has already are dropped.

        Args:
            entry: Name, digest, kind, note, rows and skipped rows of the file; the rest is filled in here.
            staged: What `stage` returned for it, in this process or another.

        Returns:
            The entry with what was kept, as the manifest will have it.

        Raises:
            StoreError: The store holds stars of another basis or release, or positions of another source; the
                staged file is removed.
        """
        if staged.n_kept:
            self._require_compatible(entry.name, staged)
            staged = without_seen(staged, self._seen)
        flags = {name: staged.flags[name] for name in Flag.__members__ if name in staged.flags}
        entry = replace(entry, n_kept=staged.n_kept, n_duplicates=staged.n_duplicates, flags=flags)
        return self._note(Line(entry, staged if staged.n_kept else None))

    def add_failed(self, entry: FileEntry) -> FileEntry:
        """Note a file that could not be read; its `error` says why. It is read again by the next run."""
        return self._note(Line(entry, None))

    def finish(self) -> None:
        """Make everything added part of the HATS catalogue; only partitions that gain stars are written.

        Until then the folder cannot be opened as a store. The writer is done: another one takes over.
        """
        staged = [line.staged.path for line in self._journal.lines if line.staged is not None]
        if staged:
            self._write_catalogue(staged)
        if self._journal.lines:
            self.manifest.write(self.path)
        self._journal.discard()
        self._dataset.commit()

    def _write_catalogue(self, staged: Sequence[Path]) -> None:
        old = self._partitions()
        files = [*old.values(), *staged]
        assert self.manifest.positions is not None, "known with the first star"
        schemas = {pq.read_schema(path) for path in files}
        schema = joint_schema(schemas, self.manifest.positions)
        light = [name for name in schema.names if not name.endswith("_correlations")]
        most = ROWS_A_PARTITION if len(light) == len(schema) else ROWS_A_PARTITION_WITH_CORRELATIONS
        rows = self._rows_a_partition or most
        partitions = choose_partitions(files, rows_a_partition=rows)
        folder = self._dataset.build({"journal": self._journal.digest, "rows_a_partition": rows})
        unchanged = old if len(schemas) == 1 else {}
        write_partitions(folder, files, partitions, schema=schema, unchanged=unchanged)
        self._dataset.replace()
        of_release = self.manifest.release.properties if self.manifest.release else {}
        finish_catalogue(
            self.path,
            name=_NAME,
            schema=schema,
            partitions=partitions,
            positions=self.manifest.positions,
            notes={**_NOTES, **of_release, "hats_cols_default": " ".join(light)},
            unchanged=unchanged,
        )

    def _partitions(self) -> dict[Partition, Path]:
        """The files that are finished already, all of them there."""
        if self._n_finished == 0:
            return {}
        partitions = self._dataset.partitions()
        n_found = sum(partition.n_rows for partition in partitions)
        if n_found != self._n_finished:
            raise StoreError(
                f"{self._dataset.path}: holds {n_found} stars, but {MANIFEST} says {self._n_finished}: a file is gone "
                "or of another store; ingest again into a new folder"
            )
        return partitions

    def _require_compatible(self, name: str, staged: StagedStars) -> None:
        """Nothing where the stars can join the store's; otherwise their file is removed."""
        message, way_out = None, "ingest it into a store of its own"
        if (
            self.manifest.basis is not None
            and staged.basis is not None
            and not self.manifest.basis.joins(staged.basis)
        ):
            message = f"{staged.basis}, but {self.path} holds {self.manifest.basis}"
            if self.manifest.basis.is_named and self.manifest.basis.agrees_with(staged.basis):
                message += f" (--basis {self.manifest.basis.ids} takes stars that name no basis for these)"
        elif self.manifest.positions not in (None, staged.positions):
            new, old = (
                "none" if one is None else one.value for one in (staged.positions, self.manifest.positions)
            )
            message = f"positions are {new}, but those in {self.path} are {old}"
            if self.manifest.positions is Positions.MEASURED:
                way_out = f"give gaia_source files (--sources), or {way_out}"
        elif self.manifest.release and staged.release and str(self.manifest.release) != str(staged.release):
            message = f"stars of {staged.release}, but {self.path} holds stars of {self.manifest.release}"
        if message is not None:
            staged.path.unlink(missing_ok=True)
            raise StoreError(f"{name}: {message}; {way_out}")

    def _note(self, line: Line) -> FileEntry:
        self._journal.note(line)
        self._count(line)
        return line.entry

    def _count(self, line: Line) -> None:
        if line.staged is not None:
            self._seen.add_file(line.staged.path)
        self.manifest = self.manifest.recording(line.entry, line.staged)


def _holds_something(path: Path) -> bool:
    """True for a file, or a folder with more in it than an ingest stopped at its very start leaves."""
    return path.exists() and (not path.is_dir() or any(item.name != STAGING for item in path.iterdir()))


class DatasetFolder:
    """The folder ``dataset`` of a store, replaced as a whole: built beside the old one, then put in its place.

    Two folders cannot be exchanged in one step, and the files that describe them are others still. So the old
    partitions are kept until the store's manifest names the new ones; stopped before, they come back.
    """

    def __init__(self, store: Path) -> None:
        self.path = store / "dataset"
        self._building = store / "dataset.partial"
        self._old = store / "dataset.old"

    def partitions(self) -> dict[Partition, Path]:
        """Every partition that is there, with its file."""
        found: dict[Partition, Path] = {}
        for file in self.path.glob("Norder=*/Dir=*/Npix=*.parquet"):
            order, pixel = (int(name.partition("=")[2]) for name in (file.parts[-3], file.stem))
            found[Partition(order, pixel, read_footer(file).num_rows)] = file
        return dict(sorted(found.items(), key=lambda item: item[0].index_range))

    def build(self, plan: Mapping[str, object]) -> Path:
        """A folder for new partitions; it holds what an earlier run of the same plan had written to it."""
        file = self._building / _PLAN
        if not file.is_file() or json.loads(file.read_text(encoding="utf-8")) != plan:
            shutil.rmtree(self._building, ignore_errors=True)
            write_json(file, plan)
        return self._building

    def replace(self) -> None:
        """Put the new partitions in their place, beside the old ones."""
        if self.path.is_dir():
            self.path.rename(self._old)
        self._building.rename(self.path)

    def roll_back(self) -> None:
        """Undo `replace`, wherever it was stopped; the new partitions are kept for the next `build`."""
        if (self.path / _PLAN).is_file():
            self.path.rename(self._building)
        if self._old.is_dir() and not self.path.is_dir():
            self._old.rename(self.path)

    def commit(self) -> None:
        """Make `replace` final: the old partitions are removed."""
        (self.path / _PLAN).unlink(missing_ok=True)
        for folder in (self._old, self._building):
            if folder.exists():
                shutil.rmtree(folder)
