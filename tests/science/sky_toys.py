"""A toy catalogue on the sky, laid out as HATS: stars everywhere, and pairs on both sides of borders of partitions."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from cdshealpix.nested import vertices

from scattervae.spectra.columns import described
from scattervae.spectra.hats import Partition, Positions, finish_catalogue, partition_path, spatial_index

IDS_A_PIXEL = 2**35
SCHEMA = pa.schema(
    [
        described("_healpix_29", pa.int64(), "", "order-29 pixel"),
        described("source_id", pa.int64(), "", "Gaia source identifier"),
        described("ra", pa.float64(), "deg", "right ascension"),
        described("dec", pa.float64(), "deg", "declination"),
        described("latent_1_mean", pa.float32(), "", "posterior mean of latent 1"),
        described("bp_coefficients", pa.list_(pa.float32()), "electron/s", "BP coefficients"),
    ]
)


def everywhere(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Right ascension and declination [deg] of points all over the sky."""
    rng = np.random.default_rng(seed)
    return rng.uniform(0, 360, n), np.degrees(np.arcsin(rng.uniform(-1, 1, n)))


def corners(order: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Corners [deg] of the pixels of an order, where up to four partitions meet; the poles are left out."""
    ra, dec = vertices(np.arange(12 * 4**order), order)
    ra, dec = ra.to_value("deg").ravel(), dec.to_value("deg").ravel()
    return ra[abs(dec) < 89], dec[abs(dec) < 89]


def moved(ra, dec, arcsec, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The positions [deg] moved by this angle each, in random directions."""
    from astropy.coordinates import SkyCoord

    angle = np.random.default_rng(seed).uniform(0, 360, len(ra))
    there = SkyCoord(ra, dec, unit="deg").directional_offset_by(
        angle * _deg(), np.asarray(arcsec) / 3600 * _deg()
    )
    return there.ra.deg, there.dec.deg


def _deg():
    from astropy.units import deg

    return deg


def ids_at(ra, dec, seed: int = 0) -> np.ndarray:
    """Source_ids, all different, that name the order-12 pixels of these positions."""
    pixel = spatial_index(np.asarray(ra), np.asarray(dec)) >> 2 * (29 - 12)
    numbers = np.random.default_rng(seed).permutation(len(pixel)) + 1
    return pixel * IDS_A_PIXEL + numbers


def write_hats(folder: Path, ra, dec, source_id, positions: Positions = Positions.MEASURED) -> Path:
    """A catalogue of these stars in the 12 pixels of order 0."""
    index = spatial_index(np.asarray(ra), np.asarray(dec))
    partitions = []
    for pixel in np.unique(index >> 58):
        rows = np.flatnonzero(index >> 58 == pixel)
        rows = rows[np.argsort(index[rows])]
        latents = (source_id[rows] % 97).astype(np.float32)
        coeffs = [[1.0, 2.0]] * len(rows)
        columns = [index[rows], source_id[rows], ra[rows], dec[rows], latents, coeffs]
        file = partition_path(folder, 0, int(pixel))
        file.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(columns, schema=SCHEMA), file)
        partitions.append(Partition(0, int(pixel), len(rows)))
    finish_catalogue(folder, name="toy", schema=SCHEMA, partitions=partitions, positions=positions)
    return folder
