"""Catalogues in HATS folders: made by somebody else, compared, and stopped half-way."""

import pyarrow as pa
import pyarrow.parquet as pq

from scattervae.spectra.hats import HatsFolder, Positions, finish_catalogue, partition_path
from scattervae.spectra.store import SpectrumStore
from spectra.stores import all_bytes


def rows_of(folder):
    hats = HatsFolder.read(folder)
    return pa.concat_tables(
        pq.read_table(f, partitioning=None) for p in hats.partitions for f in hats.files_of(p)
    )


def check_same(found, expected):
    """Column by column, down to the last bit of what is not a number."""
    assert found.column_names == expected.column_names
    for name in expected.column_names:
        assert found[name].to_numpy().tobytes() == expected[name].to_numpy().tobytes(), name


def elsewhere(folder, store, *, index=True):
    """The same stars as somebody else would publish them: other names, small row groups, one star twice."""
    names = [f"{band}_{what}" for band in ("bp", "rp") for what in ("coefficients", "coefficient_errors")]
    renamed = {"_healpix_29": "_healpix_29", "ra": "RA", "dec": "DE", "source_id": "source_id"}
    renamed |= {name: name for name in (*names, "phot_g_mean_flux")}
    if not index:
        del renamed["_healpix_29"]
    partitions = []
    for partition in store.partitions:
        table = pq.read_table(store.path_of(partition), columns=list(renamed), partitioning=None)
        table = pa.concat_tables([table, table.slice(0, 1)]).rename_columns(list(renamed.values()))
        path = partition_path(folder, partition.order, partition.pixel)
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, path, row_group_size=7)
        partitions.append(partition._replace(n_rows=len(table)))
    finish_catalogue(
        folder, name="other", schema=table.schema, partitions=partitions, positions=Positions.MEASURED
    )
    properties = folder / "hats.properties"
    text = properties.read_text()
    for old, new in (("hats_col_ra=ra", "hats_col_ra=RA"), ("hats_col_dec=dec", "hats_col_dec=DE")):
        assert old in text
        text = text.replace(old, new)
    lines = [line for line in text.splitlines() if index or not line.startswith("hats_col_healpix")]
    properties.write_text("\n".join(lines) + "\n")
    return SpectrumStore(folder)


def stop_after(n_stars):
    def progress(n_done):
        if n_done >= n_stars:
            raise KeyboardInterrupt

    return progress


def bytes_of(folder):
    """Its files; the name of the catalogue, which is that of its folder, taken out, and the digests with it."""
    return {
        name: content.replace(f"={folder.name}".encode(), b"=")
        for name, content in all_bytes(folder).items()
        if name != "digests.json"
    }
