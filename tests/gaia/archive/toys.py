"""A toy archive: bulk files of random bytes, gzipped, with the archive's names and list of checksums."""

import gzip
import hashlib
import random
from urllib.parse import parse_qs

from gaia.archive.server import Answer, FileServer, checksums
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


def stored(files, prefix, page_size, *, delimiter="", tags=True, tokens=True):
    """An object store's listing of files by their keys, a few objects a page, which a token or the last key follows."""
    keys = sorted(key for key in files if key.startswith(prefix))
    entries = [
        f"<Contents><Key>{key}</Key>"
        + (f"<ETag>&quot;{hashlib.md5(files[key]).hexdigest()}&quot;</ETag>" if tags else "")
        + f"<Size>{len(files[key])}</Size></Contents>"
        for key in keys
    ]
    if delimiter:
        below = {
            key[: key.index(delimiter, len(prefix)) + 1] for key in keys if delimiter in key[len(prefix) :]
        }
        entries = [f"<CommonPrefixes><Prefix>{folder}</Prefix></CommonPrefixes>" for folder in sorted(below)]
    pages = [entries[i : i + page_size] for i in range(0, max(len(entries), 1), page_size)]
    return [
        '<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        + f"<IsTruncated>{str(i + 1 < len(pages)).lower()}</IsTruncated>"
        + (
            f"<NextContinuationToken>page/{i + 1}</NextContinuationToken>"
            if i + 1 < len(pages) and tokens
            else ""
        )
        + "".join(page)
        + "</ListBucketResult>"
        for i, page in enumerate(pages)
    ]


class ObjectStore(FileServer):
    """Serves objects by their keys, and a listing of them; no folder has an index."""

    def __init__(self, files, bucket="", **options):
        super().__init__({bucket + key: content for key, content in files.items()})
        self.objects, self.bucket, self.options = files, bucket, options

    def answer(self, request, _body):
        path, _, query = request.path.partition("?")
        asked = {name: values[0] for name, values in parse_qs(query).items()}
        if path != self.bucket or asked.get("list-type") != "2":
            return None
        pages = stored(self.objects, asked["prefix"], 2, delimiter=asked.get("delimiter", ""), **self.options)
        number = int(asked.get("continuation-token", "page/0").rpartition("/")[2])
        if "marker" in asked:
            number = 1 + next(i for i, page in enumerate(pages) if f">{asked['marker']}<" in "".join(page))
        return Answer(pages[number].encode(), headers={"Content-Type": "application/xml"})
