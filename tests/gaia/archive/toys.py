"""A toy archive: bulk files of random bytes, gzipped, with the archive's names and list of checksums."""

import gzip
import random

from gaia.archive.server import checksums
from scattervae.gaia.archive.listing import release_of
from scattervae.gaia.archive.transport import Patience

XP, SOURCES = release_of("DR3").bulk.products
QUICK = {"first_wait": 0.001, "longest_wait": 0.01}


def patience(tries=4):
    """Waits too short for a test to notice."""
    return Patience(tries=tries, **QUICK)


def content(n_bytes, seed=0):
    """About so many bytes that are gzipped and cannot be compressed."""
    return gzip.compress(random.Random(seed).randbytes(n_bytes), mtime=0)


def toy_archive(n_files=3, n_bytes=100_000, products=(XP, SOURCES)):
    """Files by their path below the archive's address, the lists of checksums among them."""
    files = {}
    for product in products:
        own = {
            f"{product.folder}{product.prefix}_{1000 * i:06d}-{1000 * i + 999:06d}.csv.gz": content(
                n_bytes, seed=i + 100 * products.index(product)
            )
            for i in range(n_files)
        }
        files |= own | {f"{product.folder}_MD5SUM.txt": checksums(own)}
    return files
