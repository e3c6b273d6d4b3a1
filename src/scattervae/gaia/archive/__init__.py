"""Fetching from the Gaia archive: bulk files by its own list of checksums, single stars by their identifiers.

`read_listing`, `plan` and `fetch` bring bulk files; `ids.fetch_ids`, apart because it takes longer to import, brings
the spectra of some stars. Both go on where they were stopped. Nothing here looks at a spectrum's numbers, or knows
what becomes of the files.
"""

from scattervae.gaia.archive.bulk import Moved, Plan, Report, fetch, plan
from scattervae.gaia.archive.listing import BulkFile, Release, built_in, overlapping, read_listing, release_of
from scattervae.gaia.archive.transport import Patience, new_session

__all__ = [
    "BulkFile",
    "Moved",
    "Patience",
    "Plan",
    "Release",
    "Report",
    "built_in",
    "fetch",
    "new_session",
    "overlapping",
    "plan",
    "read_listing",
    "release_of",
]
