"""Toy stars in a toy archive: a source table and DataLink's csv of their spectra."""

import csv
import gzip
import io

import numpy as np
from astropy.table import MaskedColumn, Table

from cli.toys import archive_columns, with_ids
from gaia.archive.gaia_server import GaiaServer
from gaia.archive.server import checksums
from toy import DR3, toy_sky

FIRST = 5853498713190525697  # odd and above 2**53: such an identifier does not survive float64


def toy_stars(n=7, seed=0):
    sky = toy_sky(n, basis=DR3, seed=seed)
    return with_ids(sky.spectra, FIRST + 2 * np.arange(n))


def server_of(spectra, without=(), unknown=()):
    """An archive with these stars, some without a spectrum and some that it does not know."""
    known = ~np.isin(spectra.source_id, unknown)
    header, lines = datalink_csv(spectra)
    return GaiaServer(
        source_table(spectra)[known],
        header,
        {star: line for star, line in lines.items() if star not in (*without, *unknown)},
    )


def add_bulk(server, release):
    """One bulk file of each product of the release in the archive's folders, with the lists of checksums."""
    comments = "# %ECSV 1.0\n# ---\n# delimiter: ','\n"
    rows = "\n".join([server.header, *server.spectra.values()])
    sources = io.StringIO()
    table = server.sources.copy()
    table.rename_columns(table.colnames, [name.lower() for name in table.colnames])
    table.write(sources, format="ascii.csv")
    texts = {"xp_continuous_mean_spectrum": rows + "\n", "gaia_source": sources.getvalue()}
    for product in release.bulk.products:
        name = f"{product.folder}{product.prefix}_000000-786431.csv.gz"
        own = {name: gzip.compress((comments + texts[product.name]).encode(), mtime=0)}
        server.files |= own | {f"{product.folder}_MD5SUM.txt": checksums(own)}


def source_table(spectra):
    n = len(spectra)
    rng = np.random.default_rng(0)
    return Table(
        {
            "SOURCE_ID": spectra.source_id,  # as the archive has it, in capitals
            "ra": rng.uniform(0, 360, n),
            "dec": rng.uniform(-90, 90, n),
            "phot_g_mean_flux": spectra.g_flux,
            "phot_g_mean_flux_error": rng.uniform(1, 2, n).astype(np.float32),
            "phot_g_mean_mag": rng.uniform(10, 17, n).astype(np.float32),
            "bp_rp": rng.uniform(0, 2, n).astype(np.float32),
            "phot_bp_rp_excess_factor": rng.uniform(1, 2, n).astype(np.float32),
            "ruwe": MaskedColumn(rng.uniform(1, 2, n).astype(np.float32), mask=np.arange(n) == 1),
            "parallax": MaskedColumn(rng.normal(1, 1, n), mask=np.arange(n) == 1),
            "parallax_error": MaskedColumn(np.full(n, 0.1, dtype=np.float32), mask=np.arange(n) == 1),
        }
    )


def datalink_csv(spectra):
    """The header and the line of each star, arrays in quotes and round brackets."""
    columns = archive_columns(spectra, g_flux=False)
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(
        [
            columns,
            *(
                [f"({', '.join(map(repr, cell))})" if isinstance(cell, list) else cell for cell in row]
                for row in zip(*columns.values(), strict=True)
            ),
        ]
    )
    header, *lines = text.getvalue().splitlines()
    return header, dict(zip(spectra.source_id.tolist(), lines, strict=True))
