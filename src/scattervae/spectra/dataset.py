"""The partitions of a store, replaced as a whole: built beside the old ones, then put in their place.

Two folders cannot be exchanged in one step, and the files that describe them are others still. So the old
partitions stay aside until the store's manifest tells of the new ones; stopped before, they come back.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from scattervae.files import write_json
from scattervae.spectra.hats import Partition, read_footer

_PLAN = "_plan.json"  # readers of parquet pass over files that begin with an underscore


class DatasetFolder:
    """The folder ``dataset`` of a store, and the places where it is built and kept.

    Args:
        store: The store's folder.
    """

    def __init__(self, store: Path) -> None:
        self.path = store / "dataset"
        self._building = store / "dataset.partial"
        self._aside = store / "dataset.old"

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
        """Put the new partitions in their place, the old ones aside."""
        if self.path.is_dir():
            self.path.rename(self._aside)
        self._building.rename(self.path)

    def go_back(self) -> None:
        """Undo `replace`, wherever it was stopped; the new partitions are kept for the next `build`."""
        if (self.path / _PLAN).is_file():
            self.path.rename(self._building)
        if self._aside.is_dir() and not self.path.is_dir():
            self._aside.rename(self.path)

    def settle(self) -> None:
        """Make `replace` final: what was needed to go back is removed."""
        (self.path / _PLAN).unlink(missing_ok=True)
        for folder in (self._aside, self._building):
            if folder.exists():
                shutil.rmtree(folder)
