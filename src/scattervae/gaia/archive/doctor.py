"""What a release's file expects of the archive, held against what the archive answers today."""

import csv
import re
import xml.etree.ElementTree as ET
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from urllib.parse import urlsplit

import requests

from scattervae.errors import DataError, FetchError, counted
from scattervae.gaia.archive.listing import (
    N_PIXELS,
    Bulk,
    BulkFile,
    Product,
    Release,
    objects_below,
    read_listing,
)
from scattervae.gaia.archive.services import Services
from scattervae.gaia.archive.transport import (
    CONNECT_TIMEOUT,
    PassingError,
    Patience,
    answered,
    new_session,
    reason_of,
)
from scattervae.gaia.basis import is_known
from scattervae.gaia.files.columns import CONTINUOUS_COLUMNS, parse_unit
from scattervae.parallel import thread_pool
from scattervae.spectra.spectra import Basis
from scattervae.spectra.star_tables import G_FLUX_COLUMN, POSITION_COLUMNS, SOURCE_COLUMNS

_TRIES = 2
_TIMEOUT = 60.0  # each question is about one star, or a list of names [s]
_MARK = "has_xp_continuous"  # Gaia DR3 documentation, gaia_source: true where the archive has the star's coefficients
_BRIGHT = (10, 15)  # magnitudes of stars of which most should have a spectrum
_N_BRIGHT = 20
_HEAD_BYTES = 2**16  # of a bulk file: its header and the first row, which is 30 kB at most
_LARGEST_HEAD = 2**22  # bytes of it once they are decompressed
# Folders that are looked into below a release's address, where its file names no products.
_DEPTH, _MOST_FOLDERS = 2, 100
_PRODUCT = re.compile(r"(xp_[a-z_]*mean|mean[a-z_]*_xp|gaia_source)[a-z_]*/$", re.I)
_SPECTRA, _SOURCES = "xp_continuous_mean_spectrum", "gaia_source"
# The entry of a release's file for what the archive says it does not know; the first that fits.
_ENTRIES = {
    "retrieval": "[datalink] retrieval_type",
    "structure": "[datalink] data_structures",
    "release": "[datalink] release",
    "column": "[tap.columns]",
    "table": "[tap] sources",
}


class Status(StrEnum):
    """What became of an expectation."""

    OK = "ok"
    DIFFERS = "differs"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    what: str
    expected: str  # how it should be; empty where nothing says
    found: str  # how it is
    status: Status  # whether these agree; unknown where nothing is expected or nothing can be seen
    advice: str = ""  # what to change where they differ

    @staticmethod
    def of(what: str, expected: str, found: str, *, same: bool | None, advice: str = "") -> "Finding":
        """A finding by whether it is as expected; None where that cannot be said."""
        status = Status.UNKNOWN if same is None else Status.OK if same else Status.DIFFERS
        return Finding(what, expected, found, status, advice if same is False else "")


def no_network(release: Release) -> str | None:
    """Why none of the release's servers can be reached; None where one can be, whatever it answers."""
    urls = [release.archive_url, *([] if release.bulk is None else [release.bulk.url])]
    with thread_pool(len(urls)) as pool:
        reasons = list(pool.map(_absence, urls))
    return None if None in reasons else "; ".join(filter(None, reasons))


def _absence(url: str) -> str | None:
    try:
        with new_session() as session:
            session.head(url, timeout=CONNECT_TIMEOUT).close()
    except requests.ConnectionError as error:
        return f"{urlsplit(url).netloc}: {reason_of(error).partition(';')[0]}"
    except (requests.RequestException, ValueError):  # no absence: what it is will be seen when more is asked
        return None
    return None


class Examination:
    """Asks the archive about one release; every answer is a finding, and so is every refusal."""

    def __init__(self, release: Release, *, patience: Patience | None = None) -> None:
        self.release = release
        self.findings: list[Finding] = []
        self._patience = patience or Patience(tries=_TRIES)
        self._services = Services(release, patience=self._patience, timeout=_TIMEOUT, longest_job=_TIMEOUT)
        self._bases: list[Basis] = []
        self._lacking: set[str] | None = None  # columns of spectra, in all forms; None without a header
        self._gives_stars = False
        self._listed: list[str] = []
        self._located = False
        self._guard("TAP", self._ask_tap, "archive_url")
        self._guard("DataLink", self._ask_datalink, "[datalink]")
        self._guard("bulk files", self._ask_bulk, "[bulk] url")

    def uses(self) -> dict[str, str]:
        """What `fetch`, `ingest` and `encode` can do with the release today."""
        return {"fetch": self._fetch(), "ingest": self._ingest(), "encode": self._encode()}

    def _note(self, what: str, expected: str, found: str, *, same: bool | None, entry: str = "") -> None:
        advice = f"correct {entry} in the release file" if entry.startswith(("[", "archive_url")) else entry
        self.findings.append(Finding.of(what, expected, found, same=same, advice=advice))

    def _guard(self, what: str, look: Callable[[], None], entry: str) -> None:
        try:
            look()
        except (FetchError, csv.Error) as error:
            refused = re.search(r"(?:Unknown|Cannot find) ([^;]*)", str(error))
            words = refused[1].lower() if refused else ""
            entry = next((own for word, own in _ENTRIES.items() if word in words), entry)
            self._note(what, "an answer", str(error), same=False, entry=entry)

    def _ask_tap(self) -> None:
        tap = self.release.tap
        self._table(tap.sources, tuple(SOURCE_COLUMNS), "sources")
        if tap.photometry is not None:
            self._table(tap.photometry, (G_FLUX_COLUMN,), "photometry")
        if tap.astrometry is not None:
            self._table(tap.astrometry, POSITION_COLUMNS, "astrometry")

    def _table(self, table: str, wanted: tuple[str, ...], entry: str) -> None:
        units = self._services.columns_of(table)
        like = [] if units else self._services.tables_like(table)
        elsewhere = f", which has {', '.join(like)}" if like else ""
        found = counted(len(units), "column") if units else f"not in TAP_SCHEMA{elsewhere}"
        self._note(f"table {table}", "there", found, same=bool(units), entry=f"[tap] {entry}")
        if not units:
            return
        own = {name: theirs.lower() for name, theirs in self.release.tap.own("source_id", *wanted).items()}
        if entry == "sources":
            self._located = all(own[name] in units for name in POSITION_COLUMNS)
        for name, theirs in own.items():
            unit = SOURCE_COLUMNS[name][1] if name in SOURCE_COLUMNS else ""
            expected = f"{theirs} [{unit}]" if unit else theirs
            if theirs in units:
                stated = units[theirs]
                found = f"{theirs} [{stated}]" if stated else theirs
                same, entries = _same_unit(stated, unit), f"[tap.columns] {name}: its unit is another"
            else:
                left = "" if name == "source_id" else ", stays empty"
                found, same, entries = f"not there{left}", False, f"[tap.columns] {name}"
            where = "" if entry == "sources" else f" of {table}"
            self._note(f"column {name}{where}", expected, found, same=same, entry=entries)

    def _ask_datalink(self) -> None:
        words, services = self.release.datalink, self._services
        there = services.columns_of(self.release.tap.sources)
        own = self.release.tap.own(_MARK, "source_id", "phot_g_mean_mag")
        where, n = "", _N_BRIGHT
        if own[_MARK].lower() in there:
            where, n = f" WHERE {own[_MARK]} = 'True'", 1
        elif own["phot_g_mean_mag"].lower() in there:
            where = f" WHERE {own['phot_g_mean_mag']} BETWEEN {_BRIGHT[0]} AND {_BRIGHT[1]}"
        select = f"SELECT TOP {n} {own['source_id']} AS source_id"
        ids = services.ids_of(f"{select} FROM {self.release.tap.sources}{where}")[:n]
        lines = services.spectra_of(ids)
        asked = f"{words.release}, {words.retrieval_type}, "
        expected = asked + " or ".join(words.data_structures)
        self._gives_stars = bool(lines)
        stars = counted(max(len(lines) - 1, 0), "spectrum", "spectra")
        found = f"{asked}{services.structure}: {stars} of {counted(len(ids), 'star')}"
        same = True if lines else False if n == 1 and len(ids) else None
        self._note("DataLink words", expected, found, same=same, entry="[datalink] retrieval_type")
        if lines:
            self._spectrum("DataLink", lines)

    def _ask_bulk(self) -> None:
        bulk = self.release.bulk
        if bulk is None or not bulk.products:
            found = "no folders in the release file ([bulk])"
            if bulk is not None and (there := _folders_below(bulk)):
                found = f"no [[bulk.products]] in the release file; at {bulk.url}: {', '.join(there)}"
            self._note("bulk files", "", found, same=None)
            return
        for product in bulk.products:
            self._guard(product.name, partial(self._product, product), "[[bulk.products]] folder or prefix")

    def _product(self, product: Product) -> None:
        bulk = self.release.bulk or Bulk(url="")
        with new_session() as session:
            files = read_listing(session, bulk.url, product, self._patience, listing_url=bulk.listing_url)
            self._listed.append(product.name)
            sky = sum(len(file.pixels) for file in files) / N_PIXELS
            found = f"{counted(len(files), 'file')}, each with its MD5, of {100 * sky:.3g} % of the sky"
            self._note(product.name, f"{product.folder}{product.prefix}_*.csv.gz", found, same=True)
        self._guard(f"first of {product.name}", partial(self._first, product, files[0]), "")

    def _first(self, product: Product, file: BulkFile) -> None:
        with new_session() as session:
            lines = self._head(session, file)
        if not lines:
            found = f"no header in its first {_HEAD_BYTES:,} bytes"
            self._note(f"first of {product.name}", "", found, same=None)
        elif product.name == _SPECTRA:
            self._spectrum(product.name, lines)
        else:
            names = [name.strip().lower() for name in next(csv.reader(lines[:1]))]
            wanted = ("source_id", *SOURCE_COLUMNS) if product.name == _SOURCES else ()
            self._columns(product.name, names, wanted)

    def _head(self, session: requests.Session, file: BulkFile) -> list[str]:
        """The lines of a zipped file's beginning, comments left out, the header first."""

        asked = {"Range": f"bytes=0-{_HEAD_BYTES - 1}"}

        def read() -> bytes:
            with answered(session, "GET", file.url, headers=asked) as response:
                return bytes(response.raw.read(_HEAD_BYTES))

        content = self._patience.persist(read)
        try:
            text = zlib.decompressobj(wbits=31).decompress(content, _LARGEST_HEAD)
        except zlib.error as error:
            raise FetchError(f"{file.url}: is not gzipped") from error
        lines = str(text, "utf-8", errors="replace").split("\n")[:-1]
        return [line for line in lines if line.strip() and not line.startswith("#")]

    def _columns(self, where: str, names: list[str], wanted: tuple[str, ...]) -> set[str]:
        lacking = [name for name in wanted if name not in names]
        found = counted(len(names), "column") + (f", without {', '.join(lacking)}" if lacking else "")
        self._note(
            f"columns of {where}",
            ", ".join(wanted),
            found,
            same=not lacking if wanted else None,
            entry="no entry of the release file renames these; a newer scattervae may read them",
        )
        return set(lacking)

    def _spectrum(self, where: str, lines: list[str]) -> None:
        """What a header and the row below it say of the form of spectra."""
        names, *rows = csv.reader(lines[:2])
        names = [name.strip().lower() for name in names]
        lacking = self._columns(where, names, CONTINUOUS_COLUMNS)
        self._lacking = lacking if self._lacking is None else lacking & self._lacking
        cells = dict(zip(names, rows[0], strict=False)) if rows else {}
        found = {
            f"{entry}_{band}" if entry == "n" else f"{band}_{entry}": _integer(cells.get(f"{band}_{column}"))
            for entry, column in (("n", "n_parameters"), ("id", "basis_function_id"))
            for band in ("bp", "rp")
        }
        for band in ("bp", "rp"):
            if found[f"n_{band}"] is None and cells.get(f"{band}_coefficients", "").strip():
                found[f"n_{band}"] = cells[f"{band}_coefficients"].count(",") + 1
        own = vars(self.release.basis) if self.release.basis else {}
        for entry, value in found.items():
            expected, seen = own.get(entry), "not stated" if value is None else str(value)
            same = None if None in (expected, value) else expected == value
            name = f"{where}: {entry} of the basis"
            self._note(name, str(expected or ""), seen, same=same, entry=f"[basis] {entry}")
        if found["n_bp"] and found["n_rp"]:
            self._bases.append(Basis(found["n_bp"], found["n_rp"], found["bp_id"], found["rp_id"]))

    def _fetch(self) -> str:
        single = "single stars and cones" if self._gives_stars else "no single stars"
        if self._listed:
            return f"{single}; bulk files of {' and '.join(self._listed)}"
        known = self.release.bulk is not None and self.release.bulk.products
        return f"{single}; no bulk files" + ("" if known else ": the release file names none")

    def _ingest(self) -> str:
        if self._lacking is None or not self._bases:
            return "not known: no spectrum of this release could be looked at"
        if self._lacking:
            return f"nothing: spectra come without {', '.join(sorted(self._lacking))}"
        try:
            for basis in self._bases:
                self.release.require_own(basis, where="nothing")
        except DataError as error:
            return str(error)
        pixels = "source_ids" if self.release.ids_hold_pixels else "nowhere"
        positions = "the source table" if self._located else pixels
        flux = "the source table, else the coefficients"
        if not is_known(self._bases[0]):
            flux = "the source table alone: the installed GaiaXPy does not know this basis"
        return f"its spectra, {self._bases[0]}; positions from {positions}; G flux from {flux}"

    def _encode(self) -> str:
        if not self._bases or self._lacking:
            return "not known: no spectrum of this release could be looked at"
        others = "; with --transport those of another basis" if is_known(self._bases[0]) else ""
        return f"its spectra with models of {self._bases[0]} (see `scattervae info MODEL`){others}"


def _folders_below(bulk: Bulk) -> list[str]:
    """Folders that may be of a release's products, each with its first file; none where no object store lists them."""
    path = urlsplit(bulk.url).path.lstrip("/")
    found: list[str] = []
    with new_session() as session, suppress(PassingError, FetchError, ET.ParseError):
        store, level = bulk.listing_url or bulk.url, [path]
        for _ in range(_DEPTH):
            inside = [
                key for above in level for key, _ in objects_below(session, store, above, delimiter="/")
            ]
            level = [key for key in inside if key.endswith("/") and key not in level][:_MOST_FOLDERS]
            for folder in filter(_PRODUCT.search, level):
                first = next(
                    (key for key, _ in objects_below(session, store, folder) if key.endswith(".gz")), ""
                )
                found.append(folder.removeprefix(path) + first.removeprefix(folder))
    return found


def _same_unit(stated: str, wanted: str) -> bool | None:
    """True where both are one unit however they are written; None where the archive's is none that can be read."""
    unit = parse_unit(stated) if stated else None
    if not wanted:
        return True
    return None if unit is None else bool(unit == parse_unit(wanted))


def _integer(cell: str | None) -> int | None:
    try:
        return int(float(cell or ""))
    except (ValueError, OverflowError):
        return None
