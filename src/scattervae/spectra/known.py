"""Which stars are there already: ranges of source_ids, looked into only where a star falls in one."""

from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path

import numpy as np

from scattervae.arrays import SourceIds, StarMask
from scattervae.spectra.hats import read_footer
from scattervae.spectra.parquet import open_parquet, read_groups

_GROUPS_IN_MEMORY = 4096  # of 64 kB


class KnownStars:
    """Stars in memory and in files; files are read only where their range of source_ids meets a question's.

    Gaia's bulk files share no range of source_ids, so of the whole archive only ranges are kept in memory.
    """

    def __init__(self) -> None:
        self._ranges: list[tuple[int, int]] = []
        self._sources: list[Callable[[], SourceIds]] = []
        self._group = lru_cache(_GROUPS_IN_MEMORY)(_read_group)

    def learn(self, source_id: SourceIds) -> None:
        """Take in these stars."""
        if len(source_id):
            self._ranges.append((int(source_id.min()), int(source_id.max())))
            self._sources.append(lambda: source_id)

    def learn_file(self, path: Path) -> None:
        """Take in the stars of a parquet file, from the statistics of its column source_id.

        Raises:
            StoreError: The file is gone, or no parquet file.
        """
        footer = read_footer(path)
        column = footer.schema.names.index("source_id")
        for group in range(footer.num_row_groups):
            statistics = footer.row_group(group).column(column).statistics
            self._ranges.append((statistics.min, statistics.max))
            self._sources.append(partial(self._group, path, group))

    def among(self, source_id: SourceIds) -> StarMask:
        """True for stars that were taken in."""
        known = np.zeros(len(source_id), dtype=bool)
        if len(source_id) and self._ranges:
            low, high = np.array(self._ranges).T
            for index in np.flatnonzero((low <= source_id.max()) & (high >= source_id.min())):
                known |= np.isin(source_id, self._sources[index]())
        return known


def _read_group(path: Path, group: int) -> SourceIds:
    with open_parquet(path) as file:
        ids: SourceIds = read_groups(file, ["source_id"], groups=[group])["source_id"].to_numpy()
    return ids
