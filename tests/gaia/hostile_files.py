"""Files of a few kilobytes that point elsewhere, have no end, or stand for gigabytes; made when asked for."""

import gzip
import json
import os
import zlib
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from files_toys import HEADER, ToyStars

MAKERS: dict[str, tuple[Callable[[Path, float], None], str]] = {}
"""Name: what writes the file, at full size or a part of it, and a part of the line in which its refusal ends."""

GROWS = "no file of spectra grows like that"
_MILLION = 1_000_000


def hostile(name: str, refusal: str):
    """Register what makes a hostile file."""

    def register(make):
        MAKERS[name] = (make, refusal)
        return make

    return register


def _zipped(repeated, scale: float = 1.0) -> bytes:
    """Pieces, each so many times, as members of a gzip file; a piece of a megabyte is repeated as scaled."""
    members = [(gzip.compress(text, 9, mtime=0), times) for text, times in repeated]
    return b"".join(member * (max(1, int(times * scale)) if times > 1 else 1) for member, times in members)


def _register_texts():
    header = HEADER.encode() + b"\n"
    bulk = b"# %ECSV 1.0\n# delimiter: ','\n" + header
    million = 2**20
    texts = {
        "blank lines": ([(header, 1), (b"\n" * million, 2000)], GROWS),
        "short lines": ([(header, 1), (b"1\n" * million, 1000)], GROWS),
        "short cells": ([(header, 1), (b"1,2,3,4,5,6,7,8,9\n" * (million // 8), 500)], GROWS),
        "one line": ([(header, 1), (b"1" * million, 2000)], "more than"),
        "commas": ([(b"," * 5 * million, 1), (b"\n", 1)], "a first line of 5242880 characters"),
        "comments": ([((b"# " + b"c" * 98 + b"\n") * 10_000, 1000)], GROWS),
        "zeros": ([(b"\0" * million, 4000)], "unknown binary kind"),
        "spaces": ([(b" " * million, 4000)], "is empty"),
        "bulk blank lines": ([(bulk, 1), (b"\n" * million, 2000)], GROWS),
        "bulk short lines": ([(bulk, 1), (b"1\n" * million, 1000)], GROWS),
        "bulk one line": ([(bulk, 1), (b"1" * million, 2000)], "more than"),
    }
    for name, (repeated, refusal) in texts.items():
        hostile(f"{name}.csv.gz", refusal)(
            lambda path, scale, repeated=repeated: path.write_bytes(_zipped(repeated, scale))
        )


_register_texts()


@hostile("fifo", "a pipe or a device")
def _fifo(path, _):
    os.mkfifo(path)


@hostile("device", "a pipe or a device")
def _device(path, _):
    path.symlink_to("/dev/zero")


@hostile("loop", "is no path that can be opened")
def _loop(path, _):
    path.symlink_to(path)


VOTABLE = (
    '<?xml version="1.0"?>{doctype}<VOTABLE version="1.3"><RESOURCE><TABLE{table}>{body}</TABLE></RESOURCE>'
)
_FIELD = '<FIELD name="source_id" datatype="long"/>'


def votable(body: str, *, doctype: str = "", table: str = "") -> bytes:
    """A VOTable with one table."""
    return (VOTABLE + "</VOTABLE>").format(doctype=doctype, body=body, table=table).encode()


def _register_votables():
    stream = '<STREAM encoding="base64">{}</STREAM>'
    wide = "".join(f'<FIELD name="f{i}" datatype="double" arraysize="1000"/>' for i in range(1000))
    for scheme in ("file:///etc/hostname", "http://127.0.0.1:9/x", "ftp://127.0.0.1:9/x"):
        for form in ("BINARY", "BINARY2", "FITS"):
            data = f'{_FIELD}<DATA><{form}><STREAM href="{scheme}"/></{form}></DATA>'
            name = f"votable {form} {scheme[:4]}"
            hostile(name, "which is not opened")(lambda path, _, data=data: path.write_bytes(votable(data)))
    lol = "".join(f'<!ENTITY a{i} "{f"&a{i - 1};" * 10}">' for i in range(1, 10))
    bodies = {
        "entities": (
            votable("&a9;", doctype=f'<!DOCTYPE VOTABLE [<!ENTITY a0 "lol">{lol}]>'),
            "defines entities",
        ),
        "external entity": (
            votable("&a;", doctype='<!DOCTYPE VOTABLE [<!ENTITY a SYSTEM "file:///etc/hostname">]>'),
            "defines entities",
        ),
        "rows claimed": (votable(f"{_FIELD}<DATA><TABLEDATA/></DATA>", table=' nrows="99999999999"'), GROWS),
        "long column": (
            votable(
                '<FIELD name="source_id" datatype="double" arraysize="99999999"/><DATA><BINARY>'
                f"{stream.format('')}</BINARY></DATA>"
            ),
            GROWS,
        ),
        "wide rows": (votable(f"{wide}<DATA><TABLEDATA>{'<TR/>' * 1000}</TABLEDATA></DATA>"), GROWS),
        "rows of nothing": (
            votable(
                '<FIELD name="source_id" datatype="char" arraysize="0"/><DATA><BINARY>'
                f"{stream.format('AAAA')}</BINARY></DATA>"
            ),
            "expected a size above 0",
        ),
    }
    for name, (content, refusal) in bodies.items():
        hostile(f"votable {name}", refusal)(lambda path, _, content=content: path.write_bytes(content))
    start, end = votable(f"{_FIELD}<DATA>@</DATA>").split(b"@")
    many = {
        "rows": (b"<TABLEDATA>", b"<TR><TD>1</TD></TR>" * 1000, 50_000, b"</TABLEDATA>"),
        "bytes": (b'<BINARY><STREAM encoding="base64">', b"A" * 2**20, 500, b"</STREAM></BINARY>"),
        "elements": (
            b"</DATA></TABLE></RESOURCE><RESOURCE>",
            b"<INFO name='a' value='b'/>" * 1000,
            20_000,
            b"",
        ),
        "text": (b"</DATA></TABLE><DESCRIPTION>", b"A" * 2**20, 2000, b""),
    }
    for name, (before, text, times, after) in many.items():
        repeated = [(start + before, 1), (text, times), (after + end, 1)]
        register = hostile(f"votable {name}.gz", GROWS)
        register(lambda path, scale, repeated=repeated: path.write_bytes(_zipped(repeated, scale)))


_register_votables()


def _card(name: str, value: object) -> bytes:
    text = f"'{value}'" if isinstance(value, str) else "T" if value is True else str(value)
    return f"{name:8}= {text:>20}".ljust(80).encode()


def fits_header(cards: dict[str, object]) -> bytes:
    """A header, padded to whole blocks."""
    header = b"".join(_card(*card) for card in cards.items()) + b"END".ljust(80)
    return header.ljust(-(-len(header) // 2880) * 2880)


_PRIMARY = fits_header({"SIMPLE": True, "BITPIX": 8, "NAXIS": 0, "EXTEND": True})


def fits_table(n: int, width: int, formats: dict[str, str], *, heap: int = 0) -> bytes:
    """The headers of a file with one binary table."""
    cards: dict[str, object] = {"XTENSION": "BINTABLE", "BITPIX": 8, "NAXIS": 2, "NAXIS1": width, "NAXIS2": n}
    cards |= {"PCOUNT": heap, "GCOUNT": 1, "TFIELDS": len(formats)}
    for number, (name, form) in enumerate(formats.items(), 1):
        cards |= {f"TTYPE{number}": name, f"TFORM{number}": form}
    return _PRIMARY + fits_header(cards)


def _register_fits():
    shared = np.tile(np.array([100_000, 0], dtype=">i4"), 10_000).tobytes()
    lists = fits_table(10_000, 8, {"source_id": "PD(100000)"}, heap=800_000) + shared + bytes(800_000)
    small = {
        "rows claimed": (fits_table(10**12, 8, {"source_id": "K"}), ""),
        "rows of nothing": (fits_table(10**12, 0, {"source_id": "0K"}), ""),
        "wide column": (fits_table(10**6, 8 * 10**9, {"source_id": "1000000000K"}), ""),
        "lists that share": (lists.ljust(-(-len(lists) // 2880) * 2880, b"\0"), GROWS),
        "header without end": (_PRIMARY[:2880].replace(b"END", b"AND") + b" " * 2880, ""),
    }
    for name, (content, refusal) in small.items():
        hostile(f"fits {name}", refusal)(lambda path, _, content=content: path.write_bytes(content))
    empty = fits_header({"XTENSION": "IMAGE", "BITPIX": 8, "NAXIS": 0, "PCOUNT": 0, "GCOUNT": 1})
    table = fits_table(400_000_000, 8, {"source_id": "K"})
    many = {
        "rows": [(table, 1), (b"\0" * 2**20, 3100)],
        "headers": [(_PRIMARY, 1), (empty * 100, 2000)],
        "cards": [(_PRIMARY.replace(b"END", b"AND"), 1), (b"COMMENT a".ljust(80) * 1000, 6000)],
        "cards of an extension": [
            (_PRIMARY + empty.replace(b"END", b"AND"), 1),
            (b"COMMENT a".ljust(80) * 1000, 6000),
        ],
    }
    for name, repeated in many.items():
        hostile(f"fits {name}.gz", "")(
            lambda path, scale, repeated=repeated: path.write_bytes(_zipped(repeated, scale))
        )


_register_fits()


def _long(value: int) -> bytes:
    value, out = value << 1, b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def avro(fields: dict[str, object], content: bytes, *, count: int = 1, codec: str = "null") -> bytes:
    """A file of one block."""
    types = {"sourceId": "long", "bpSpec": "null", "rpSpec": "null"} | fields
    schema = {"type": "record", "name": "r", "fields": [{"name": n, "type": t} for n, t in types.items()]}
    entries = {b"avro.schema": json.dumps(schema).encode(), b"avro.codec": codec.encode()}
    header = b"Obj\x01" + _long(len(entries))
    for key, value in entries.items():
        header += _long(len(key)) + key + _long(len(value)) + value
    sync = b"s" * 16
    return header + b"\0" + sync + _long(count) + _long(len(content)) + content + sync


def _deflated(text: bytes, times: int) -> bytes:
    packer = zlib.compressobj(9, wbits=-15)
    return b"".join(packer.compress(text) for _ in range(times)) + packer.flush()


def _register_avro():
    array = {"x": {"type": "array", "items": "null"}}
    empty = {"type": "record", "name": "e", "fields": []}
    node = {"type": "record", "name": "n", "fields": [{"name": "next", "type": ["null", "n"]}]}
    many = {"type": "record", "name": "w", "fields": [{"name": f"f{i}", "type": "null"} for i in range(1000)]}
    many["fields"].append({"name": "z", "type": "boolean"})
    block = _deflated(b"\0" * 2**20, 4000)
    records = _deflated(_long(1) * 2**20, 1000)
    wide = _deflated(b"\x02" + _long(2**22) + b"\0" * 2**22, 1)
    files = {
        "nulls": (avro(array, _long(1) + _long(10**9) + b"\0"), "lists of something else than numbers"),
        "map of records": (
            avro({"x": {"type": "array", "items": empty}}, _long(1) + _long(10**9) + b"\0"),
            "lists of something else than numbers",
        ),
        "records in records": (avro({"x": node}, _long(1) + b"\x02" * 10**6), "in themselves"),
        "records of nothing": (avro({}, b"", count=10**9), "a block of 1000000000 records"),
        "deflated": (avro({}, block, codec="deflate"), GROWS),
        "deflated records": (avro({}, records, count=1000 * 2**20, codec="deflate"), GROWS),
        "deflated numbers": (
            avro({"x": {"type": "array", "items": "int"}}, wide, codec="deflate"),
            GROWS,
        ),
        "wide records": (
            avro({"x": {"type": "array", "items": many}}, wide, codec="deflate"),
            "lists of something else than numbers",
        ),
    }
    for name, (content, refusal) in files.items():
        hostile(f"avro {name}", refusal)(lambda path, _, content=content: path.write_bytes(content))
    zipped = [(avro({}, b""), 1), (b"\0" * 2**20, 4000)]
    hostile("avro zeros.gz", "")(lambda path, scale: path.write_bytes(_zipped(zipped, scale)))


_register_avro()


def _columns(file, n=3):
    for name, values in ToyStars(n=n).columns().items():
        if name not in file:
            file[name] = values


def _with_target(path, link):
    """A dataset that lies in another file, reached through a link."""
    target = path.with_name("target.h5")
    with h5py.File(target, "w") as file:
        _columns(file)
    with h5py.File(path, "w") as file:
        link(file, target)


@hostile("hdf5 external link", "links to other places and files are not followed")
def _external_link(path, _):
    def link(file, target):
        for name in ToyStars().columns():
            file[name] = h5py.ExternalLink(str(target), f"/{name}")

    _with_target(path, link)


@hostile("hdf5 virtual dataset", "which are not opened")
def _virtual(path, _):
    def link(file, target):
        layout = h5py.VirtualLayout((3,), dtype="i8")
        layout[:] = h5py.VirtualSource(str(target), "source_id", shape=(3,))
        file.create_virtual_dataset("source_id", layout)
        _columns(file)

    _with_target(path, link)


@hostile("hdf5 virtual dataset of itself", "which are not opened")
def _virtual_loop(path, _):
    with h5py.File(path, "w") as file:
        layout = h5py.VirtualLayout((3,), dtype="i8")
        layout[:] = h5py.VirtualSource(".", "source_id", shape=(3,))
        file.create_virtual_dataset("source_id", layout)
        _columns(file)


@hostile("hdf5 external storage", "which are not opened")
def _external_storage(path, _):
    with h5py.File(path, "w") as file:
        file.create_dataset("source_id", (3,), "i8", external=[("/etc/passwd", 0, 24)])
        _columns(file)


@hostile("hdf5 soft links in a loop", "are not followed")
def _soft(path, _):
    with h5py.File(path, "w") as file:
        file["source_id"], file["b"] = h5py.SoftLink("/b"), h5py.SoftLink("/source_id")


@hostile("hdf5 group in itself", "are not followed")
def _cycle(path, _):
    with h5py.File(path, "w") as file:
        group = file.create_group("a")
        group["b"] = file["/"]


@hostile("hdf5 links that multiply", "are not followed")
def _multiply(path, _):
    with h5py.File(path, "w") as file:
        group = file.create_group("g0")
        for depth in range(1, 60):
            parent = file.create_group(f"g{depth}")
            parent["a"] = parent["b"] = group
            group = parent


@hostile("hdf5 fill", GROWS)
def _fill(path, _):
    with h5py.File(path, "w") as file:
        for name, values in ToyStars().columns().items():
            shape = (10**10, *values.shape[1:])
            file.create_dataset(name, shape, values.dtype, chunks=(100, *values.shape[1:]), fillvalue=1)


@hostile("hdf5 large chunk", GROWS)
def _chunk(path, _):
    with h5py.File(path, "w") as file:
        file.create_dataset("source_id", (3,), "i8", maxshape=(None,), chunks=(4 * 10**8,), fillvalue=1)
        _columns(file)


@hostile("hdf5 compressed zeros", "source_id is 0")
def _compressed(path, scale):
    with h5py.File(path, "w") as file:
        for name, values in ToyStars().columns().items():
            shape = (int(200_000 * scale), *values.shape[1:])
            file.create_dataset(name, data=np.zeros(shape, values.dtype), chunks=True, compression="gzip")


@hostile("hdf5 many links", "")
def _links(path, _):
    with h5py.File(path, "w", libver="latest") as file:
        group = file.create_group("a")
        for number in range(3_000):
            file[f"l{number}"] = group


@hostile("parquet run", GROWS)
def _parquet_run(path, scale):
    n = int(2 * _MILLION * scale)
    names = [name for name in HEADER.split(",") if "coefficient" in name]
    lists = pa.ListArray.from_arrays(pa.array(np.arange(0, 55 * n + 1, 55, dtype=np.int32)), np.zeros(55 * n))
    batch = pa.table({"source_id": np.zeros(n, dtype=np.int64)} | dict.fromkeys(names, lists))
    with pq.ParquetWriter(path, batch.schema, compression="zstd") as writer:
        writer.write_table(batch)


@hostile("parquet long list", GROWS)
def _parquet_list(path, scale):
    n = int(60 * _MILLION * scale)
    lists = pa.ListArray.from_arrays(pa.array([0, n], pa.int32()), np.zeros(n))
    names = [name for name in HEADER.split(",") if "coefficient" in name]
    pq.write_table(pa.table({"source_id": [1]} | dict.fromkeys(names, lists)), path, compression="zstd")


@hostile("parquet rows.gz", GROWS)
def _parquet_zeros(path, scale):
    path.write_bytes(_zipped([(b"PAR1", 1), (b"\0" * 2**20, 4000), (b"PAR1", 1)]))


@hostile("npz zeros", GROWS)
def _npz(path, scale):
    zeros = np.zeros((1, int(10 * _MILLION * scale)))
    with path.open("wb") as file:
        np.savez_compressed(file, **dict.fromkeys(HEADER.split(","), zeros))


@hostile("json nested", "cannot be read")
def _json_nested(path, _):
    path.write_bytes(b"[" * _MILLION)


@hostile("json records.gz", GROWS)
def _json_records(path, scale):
    path.write_bytes(_zipped([(b"{},\n" * 300_000, 1000)], scale))
