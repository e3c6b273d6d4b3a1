"""APOGEE's tables. Columns of allStar: data.sdss.org/datamodel, allStar-dr17-synspec_rev1; of astroNN's catalogue:
github.com/henrysky/astroNN_APOGEE_VAC, 5_compile_vac.py."""

import gzip
import logging
import math
import tracemalloc

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scattervae.errors import DataError
from scattervae.gaia.files import fits_and_votable
from scattervae.gaia.files.reading import read_labels_file

STAR_BAD, STAR_WARN, M_H_BAD, NO_RESULT, BRIGHT_NEIGHBOR = 2**23, 2**7, 2**19, 2**31, 2**2
A, B, C = 5853498713190525697, 5853498713190525699, 7
LABELS = ("TEFF", "LOGG", "FE_H", "ALPHA_M")


def row(source_id=A, teff=5000.0, snr=100.0, *, aspcap=0, star=0, logg=2.5, fe_h=-0.2, alpha=0.1):
    return {
        "APOGEE_ID": "2M00000000+0000000",
        "GAIAEDR3_SOURCE_ID": source_id,
        "TEFF": teff,
        "LOGG": logg,
        "FE_H": fe_h,
        "ALPHA_M": alpha,
        "SNR": snr,
        "ASPCAPFLAG": aspcap,
        "STARFLAG": star,
    }


def all_star(path, rows, *, wide=True):
    """The table as DR17 has it: numbers in single precision, and a column of arrays that nobody wants."""
    table = Table(rows=rows)
    for name in (*LABELS, "SNR"):
        table[name] = table[name].astype(np.float32)
    for name in LABELS:
        table[f"{name}_ERR"] = np.where(np.isnan(table[name]), np.nan, 0.05).astype(np.float32)
    if wide:
        table["PARAM_COV"] = np.zeros((len(table), 9, 9), dtype=np.float32)
    hdus = [fits.PrimaryHDU(), fits.BinTableHDU(table), fits.BinTableHDU(Table({"ELEM_SYMBOL": ["C", "CI"]}))]
    fits.HDUList(hdus).writeto(path, overwrite=True)
    return path


def labels_of(path):
    labels = read_labels_file(path)
    assert len(set(labels.source_id.tolist())) == len(labels)
    n = len(LABELS)
    assert np.isnan(labels.values[:, n:]).all(), "those of which the table has no column"
    return {
        star: (labels.values[index, :n], labels.errors[index, :n])
        for index, star in enumerate(labels.source_id.tolist())
    }


def test_good_rows_give_their_labels(tmp_path):
    path = all_star(tmp_path / "allStar.fits", [row(A, 5000.0), row(B, 4000.0, aspcap=STAR_WARN)])
    labels = labels_of(path)
    assert list(labels) == [A, B]
    np.testing.assert_allclose(labels[A][0], [5000, 2.5, -0.2, 0.1], rtol=1e-6)  # single precision
    np.testing.assert_allclose(labels[A][1], [0.05] * 4, rtol=1e-6)


@pytest.mark.parametrize(
    "bad",
    [
        {"aspcap": STAR_BAD},
        {"aspcap": STAR_BAD | STAR_WARN},
        {"aspcap": M_H_BAD},
        {"star": BRIGHT_NEIGHBOR},
        {"star": 1},
        {"teff": math.nan, "logg": math.nan, "fe_h": math.nan, "alpha": math.nan},
        {"teff": -9999.0, "logg": -9999.0, "fe_h": -9999.0, "alpha": -9999.0},
        {"source_id": 0},
        {"source_id": -9999},
    ],
)
def test_rows_that_cannot_be_trusted_are_left_out(tmp_path, bad):
    path = all_star(tmp_path / "allStar.fits", [row(**{"source_id": C, **bad}), row(B)])
    assert list(labels_of(path)) == [B]


def test_a_label_that_is_missing_stays_missing(tmp_path):
    labels = labels_of(
        all_star(
            tmp_path / "a.fits", [row(A, fe_h=math.nan), row(B, alpha=-9999.0), row(C, aspcap=NO_RESULT)]
        )
    )
    assert np.isnan(labels[A][0]).tolist() == np.isnan(labels[A][1]).tolist() == [False, False, True, False]
    assert np.isnan(labels[B][0]).tolist() == np.isnan(labels[B][1]).tolist() == [False, False, False, True]


def test_of_several_rows_the_one_with_the_highest_snr_is_used(tmp_path):
    rows = [row(A, 5000.0, 50.0), row(A, 5100.0, 90.0), row(A, 5200.0, 80.0), row(B, 4000.0, math.nan)]
    labels = labels_of(all_star(tmp_path / "a.fits", [*rows, row(B, 4100.0, 1.0), row(A, 5300.0, 90.0)]))
    assert (labels[A][0][0], labels[B][0][0]) == (5100, 4100)


def test_a_row_that_a_cut_drops_hides_no_other_of_its_star(tmp_path):
    """The mark of repeated rows in EXTRATARG would: it spares only the row with the highest SNR."""
    rows = [row(A, 5000.0, 200.0, star=1), row(A, 5100.0, 90.0), row(A, math.nan, 150.0, logg=math.nan)]
    rows[2]["FE_H"] = rows[2]["ALPHA_M"] = math.nan
    assert labels_of(all_star(tmp_path / "a.fits", rows))[A][0][0] == 5100


def test_what_is_left_out_is_counted_in_the_log(tmp_path, caplog):
    rows = [
        row(A),
        row(B, aspcap=STAR_BAD | M_H_BAD),
        row(C, aspcap=M_H_BAD),
        row(9, star=1, aspcap=STAR_BAD),
    ]
    path = all_star(tmp_path / "a.fits", [*rows, row(10, star=4)])
    with caplog.at_level(logging.INFO, logger="scattervae"):
        labels_of(path)
    assert caplog.messages == [
        "APOGEE allStar: 5 rows; left out: STAR_BAD 2, M_H_BAD 1, STARFLAG 1, no label 0"
    ]


_ROWS = st.lists(
    st.builds(
        row,
        source_id=st.sampled_from([0, A, B, C]),
        teff=st.sampled_from([math.nan, -9999.0]) | st.integers(3000, 9000).map(float),
        snr=st.integers(1, 1000).map(float),
        aspcap=st.sampled_from([0, 0, STAR_WARN, STAR_BAD, M_H_BAD, NO_RESULT]),
        star=st.sampled_from([0, 0, 0, 4]),
    ),
    min_size=1,
    max_size=30,
)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=_ROWS, chunk=st.integers(1, 40))
def test_any_table_in_chunks_of_any_size(tmp_path_factory, monkeypatch, rows, chunk):
    best = {}
    for each in rows:  # the rule said once more, row by row
        bad = each["ASPCAPFLAG"] & (STAR_BAD | M_H_BAD) or each["STARFLAG"] or each["GAIAEDR3_SOURCE_ID"] <= 0
        if not bad and each["SNR"] > best.get(each["GAIAEDR3_SOURCE_ID"], {"SNR": 0})["SNR"]:
            best[each["GAIAEDR3_SOURCE_ID"]] = each
    monkeypatch.setattr(fits_and_votable, "_ROWS", chunk)
    labels = labels_of(all_star(tmp_path_factory.mktemp("a") / "a.fits", rows))
    assert set(labels) == set(best)
    for star, each in best.items():
        expected = each["TEFF"] if each["TEFF"] > 0 else math.nan
        np.testing.assert_equal(labels[star][0][0], expected)


@pytest.mark.parametrize("form", ["csv", "fits.gz", "unsigned", "vot"])
def test_the_same_table_in_another_form(tmp_path, form):
    rows = [row(A, 5000.0, 50.0), row(A, 5100.0, 90.0, star=1), row(B, 4000.0, aspcap=STAR_BAD), row(C)]
    path = all_star(tmp_path / "a.fits", rows, wide=False)
    table = Table.read(path, hdu=1)
    if form == "unsigned":  # which FITS keeps as signed numbers with an offset
        table["ASPCAPFLAG"] = table["ASPCAPFLAG"].astype(np.uint32)
        table.write(tmp_path / "other", format="fits")
    elif form == "fits.gz":
        (tmp_path / "other").write_bytes(gzip.compress(path.read_bytes()))
    else:
        table.write(tmp_path / "other", format={"csv": "ascii.csv", "vot": "votable"}[form])
    assert {star: values[0].tolist() for star, values in labels_of(tmp_path / "other").items()} == {
        star: values[0].tolist() for star, values in labels_of(path).items()
    }
    assert list(labels_of(path)) == [A, C]


def astronn(path, rows):
    columns = {
        "APOGEE_ID": ["2M00000000+0000000"] * len(rows),
        "source_id": np.array([r[0] for r in rows], dtype=np.int64),
        "TEFF": np.array([r[1] for r in rows], dtype=np.float32),
        "TEFF_ERR": np.array([r[2] for r in rows], dtype=np.float32),
        "LOGG": np.full(len(rows), 2.5, dtype=np.float32),
        "LOGG_ERR": np.array([r[3] for r in rows], dtype=np.float32),
        "FE_H": np.full(len(rows), -0.2, dtype=np.float32),
        "FE_H_ERR": np.array([r[4] for r in rows], dtype=np.float32),
        "nn_parallax": np.ones(len(rows)),
    }
    Table(columns).write(path, format="fits")
    return path


def test_astronn_is_cut_by_its_errors_and_the_smaller_one_wins(tmp_path, caplog):
    rows = [
        (A, 5000.0, 50.0, 0.10, 0.05),
        (A, 5100.0, 50.0, 0.05, 0.05),
        (B, 4000.0, 101.0, 0.1, 0.05),
        (C, 4000.0, 50.0, 0.21, 0.05),
        (11, 4000.0, 50.0, 0.1, 0.21),
        (13, 4000.0, math.nan, 0.1, 0.05),
        (-9999, 4000.0, 50.0, 0.1, 0.05),
        (17, 4500.0, 99.0, 0.19, 0.19),
    ]
    with caplog.at_level(logging.INFO, logger="scattervae"):
        labels = labels_of(astronn(tmp_path / "apogee_astroNN.fits", rows))
    assert {star: values[0][0] for star, values in labels.items()} == {A: 5100, 17: 4500}
    assert np.isnan(labels[A][0][3])  # astroNN gives no [alpha/M]
    assert "TEFF_ERR above 100 K 2, LOGG_ERR above 0.2 dex 1, FE_H_ERR above 0.2 dex 1" in caplog.text


def test_any_other_table_is_not_cut(tmp_path):
    table = Table({"source_id": [A, B], "teff": [5000.0, -9999.0], "starflag": [1, 0]})
    table.write(tmp_path / "labels", format="fits")
    labels = labels_of(tmp_path / "labels")
    assert labels[A][0][0] == 5000
    assert np.isnan(labels[B][0][0])


def test_what_is_no_table_of_labels(tmp_path):
    fits.PrimaryHDU(np.zeros((3, 3))).writeto(tmp_path / "image")
    with pytest.raises(DataError, match="is FITS without a table extension"):
        read_labels_file(tmp_path / "image")
    Table({"GAIA_SOURCE_ID": [A], "TEFF": [5000.0]}).write(tmp_path / "dr16", format="fits")  # that is DR2's
    with pytest.raises(DataError, match="holds no labels: columns GAIA_SOURCE_ID, TEFF"):
        read_labels_file(tmp_path / "dr16")
    whole = all_star(tmp_path / "a.fits", [row(A)] * 500).read_bytes()
    (tmp_path / "cut").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="cut off"):
        read_labels_file(tmp_path / "cut")


def test_memory_holds_the_wanted_columns_only(tmp_path):
    """The table is mapped, not read: most of it is arrays that are not wanted."""
    rows = Table(rows=[row(A + i) for i in range(2000)])
    rows["PIXELS"] = np.zeros((2000, 10_000), dtype=np.float32)
    rows.write(tmp_path / "wide.fits")
    tracemalloc.start()
    try:
        assert len(labels_of(tmp_path / "wide.fits")) == 2000
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 0.1 * (tmp_path / "wide.fits").stat().st_size
