import json
from dataclasses import replace
from pathlib import Path

import astropy.table
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scattervae.errors import StoreError
from scattervae.spectra.flags import GFluxSource
from scattervae.spectra.labels import StellarLabels
from scattervae.spectra.spectra import Basis, Correlations, Spectra
from scattervae.spectra.store import FileEntry, SpectrumStore, StoreWriter
from toy import SMALL, ToySky, spoiled, toy_sky

SKY = toy_sky(40)
NO_LABELS = StellarLabels(
    source_id=np.empty(0, dtype=np.int64), values=np.empty((0, 4)), errors=np.empty((0, 4))
)


def rich_stars() -> Spectra:
    """Stars with all that a store can hold: spoilt rows, correlations, missing truncations, both G fluxes."""
    stars = spoiled(SKY.spectra)
    stars = stars.with_g_flux(np.full(len(stars), 123.456), GFluxSource.COEFFICIENTS)
    draws = np.random.default_rng(0)
    bp, rp = (draws.uniform(-1, 1, (len(stars), n)).astype(np.float32) for n in (15, 10))
    bp[0] = np.nan
    n_relevant = stars.n_relevant_bases.copy()
    n_relevant[3] = [-1, 4]
    return replace(stars, correlations=Correlations(bp=bp, rp=rp), n_relevant_bases=n_relevant)


def entry(name: str, **more: object) -> FileEntry:
    return FileEntry(name=name, digest=f"digest of {name}", **{"kind": "toy", **more})


def write(path: Path, *skies: Spectra, labels: StellarLabels = NO_LABELS) -> list[FileEntry]:
    writer = StoreWriter(path)
    return [writer.add(entry(f"{i}.csv", n_rows=len(s)), s, labels) for i, s in enumerate(skies)]


def check_one_line(error: pytest.ExceptionInfo[StoreError], path: Path) -> None:
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)


def test_stars_and_labels_come_back_in_float32(tmp_path):
    stars = rich_stars()
    write(tmp_path / "store", stars, labels=SKY.labels)
    store = SpectrumStore(tmp_path / "store")
    kept = np.arange(len(stars)) != 6  # the duplicate
    expected, back = stars.take(kept), store.read()
    for name in ("source_id", "flags", "g_flux", "g_flux_source", "n_relevant_bases"):
        np.testing.assert_array_equal(getattr(back, name), getattr(expected, name))
    for name in ("coeffs", "errors"):
        rounded = getattr(expected, name).astype(np.float32).astype(np.float64)
        np.testing.assert_array_equal(getattr(back, name), rounded)
    assert back.correlations is not None
    np.testing.assert_array_equal(back.correlations.bp, expected.correlations.bp)
    np.testing.assert_array_equal(back.correlations.rp, expected.correlations.rp)
    labels = SKY.labels.aligned_to(expected.source_id)
    np.testing.assert_array_equal(store.labels().values, labels.values)
    np.testing.assert_array_equal(store.labels().errors, labels.errors)
    np.testing.assert_array_equal(store.labels().source_id, back.source_id)
    assert (len(store), store.basis) == (39, SMALL)


def test_a_star_without_labels_has_none(tmp_path):
    write(tmp_path, SKY.spectra, labels=replace(SKY.labels, source_id=SKY.labels.source_id + 1))
    assert np.isnan(SpectrumStore(tmp_path).labels().values).all()


@pytest.mark.parametrize("rows", [1, 7, 40, 1000])
def test_chunks_are_the_stars_in_the_stores_order(tmp_path, monkeypatch, rows):
    monkeypatch.setattr("scattervae.spectra.store._ROWS_A_GROUP", 6)
    write(tmp_path, SKY.spectra.take(slice(0, 25)), SKY.spectra.take(slice(25, 40)))
    store = SpectrumStore(tmp_path)
    chunks = list(store.chunks(rows))
    assert max(len(chunk) for chunk in chunks) <= rows
    for stars in (store.read(), Spectra.concatenate(chunks)):
        np.testing.assert_array_equal(stars.source_id, SKY.spectra.source_id)
        np.testing.assert_array_equal(stars.coeffs, SKY.spectra.coeffs.astype(np.float32))


def test_a_part_is_plain_parquet_for_pandas_and_astropy(tmp_path):
    stars = rich_stars()
    (noted,) = write(tmp_path, stars, labels=SKY.labels)
    frame = pd.read_parquet(tmp_path / noted.part)
    table = astropy.table.Table.read(tmp_path / noted.part)
    expected = np.delete(stars.source_id, 6)
    assert frame["source_id"].dtype == np.int64
    np.testing.assert_array_equal(frame["source_id"], expected)
    np.testing.assert_array_equal(table["source_id"], expected)
    np.testing.assert_array_equal(frame["bp_coefficients"][7], stars.coeffs[8, :6].astype(np.float32))
    assert frame["bp_coefficients"][0] is None
    np.testing.assert_array_equal(table["phot_g_mean_flux"], np.delete(stars.g_flux, 6))
    np.testing.assert_array_equal(table["teff"][:6], SKY.labels["teff"][:6])
    metadata = pq.read_schema(tmp_path / noted.part).field("phot_g_mean_flux").metadata
    assert metadata == {b"unit": b"electron/s", b"description": b"mean flux in the G band"}


def test_the_manifest_says_what_became_of_each_file(tmp_path):
    writer = StoreWriter(tmp_path)
    writer.add(entry("a.csv", n_rows=41, skipped=("row 3: no",)), spoiled(SKY.spectra), NO_LABELS)
    writer.leave_out(entry("b.csv", kind=None, error="not a table"))
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["format"] == 1
    assert manifest["basis"] == {"n_bp": 6, "n_rp": 5, "bp_id": None, "rp_id": None}
    assert manifest["credit"] == "ESA/Gaia/DPAC"
    good, bad = manifest["files"]
    flags = {"MISSING_BP": 1, "MISSING_RP": 1, "BAD_COEFFS": 1, "BAD_ERRORS": 1, "NO_G_FLUX": 1}
    assert good == {
        "name": "a.csv",
        "digest": "digest of a.csv",
        "kind": "toy",
        "note": None,
        "part": "part-00000.parquet",
        "n_rows": 41,
        "n_kept": 39,
        "n_duplicates": 1,
        "flags": flags,
        "skipped": ["row 3: no"],
        "error": None,
    }
    assert (bad["name"], bad["error"], bad["part"]) == ("b.csv", "not a table", None)
    assert SpectrumStore(tmp_path).entries == writer.entries
    assert not list(tmp_path.glob("*.partial"))


def test_a_star_is_kept_once_within_a_file_and_across_files(tmp_path):
    first, second = SKY.spectra.take(slice(0, 20)), SKY.spectra.take(slice(15, 40))
    noted = write(tmp_path, first, second, spoiled(SKY.spectra))
    assert [(e.n_kept, e.n_duplicates) for e in noted] == [(20, 0), (20, 5), (0, 40)]
    np.testing.assert_array_equal(SpectrumStore(tmp_path).read().source_id, SKY.spectra.source_id)


@settings(max_examples=20)
@given(st.lists(st.lists(st.integers(-3, 12), max_size=8), max_size=4), st.booleans())
def test_whatever_the_files_hold_each_star_is_kept_where_it_comes_first(tmp_path_factory, files, reopened):
    path = tmp_path_factory.mktemp("stores")
    writer = StoreWriter(path)
    seen: set[int] = set()
    for name, ids in enumerate(files):
        stars = SKY.spectra.take(slice(0, len(ids)))
        source_id = np.array(ids, dtype=np.int64)
        stars = Spectra.of(source_id, stars.coeffs, stars.errors, basis=SMALL, g_flux=stars.g_flux)
        noted = writer.add(entry(str(name)), stars, NO_LABELS)
        assert noted.n_kept == len(set(ids) - seen)
        assert noted.n_kept + noted.n_duplicates == len(ids)
        seen |= set(ids)
        writer = StoreWriter(path) if reopened else writer
    if seen:
        together = [star for ids in files for star in ids]
        assert SpectrumStore(path).read().source_id.tolist() == list(dict.fromkeys(together))


def test_a_broken_file_is_noted_and_the_others_are_read(tmp_path):
    writer = StoreWriter(tmp_path)
    writer.leave_out(entry("bad.csv", kind=None, error="torn"))
    writer.add(entry("good.csv"), SKY.spectra, NO_LABELS)
    store = SpectrumStore(tmp_path)
    assert [e.error for e in store.entries] == ["torn", None]
    assert len(store) == 40


def test_a_file_is_known_by_its_digest_once_it_was_read(tmp_path):
    write(tmp_path, SKY.spectra)
    writer = StoreWriter(tmp_path)
    writer.leave_out(entry("bad.csv", error="torn"))
    again = StoreWriter(tmp_path)
    assert again.entry_of("digest of 0.csv") == again.entries[0]
    assert again.entry_of("digest of bad.csv") is None
    assert again.entry_of("digest of another") is None


def test_a_broken_file_that_was_mended_is_noted_once(tmp_path):
    writer = StoreWriter(tmp_path)
    writer.leave_out(entry("a.csv", error="torn"))
    writer.add(entry("b.csv"), SKY.spectra.take(slice(0, 5)), NO_LABELS)
    writer.add(entry("a.csv"), SKY.spectra.take(slice(5, 9)), NO_LABELS)
    store = SpectrumStore(tmp_path)
    assert [(e.name, e.part) for e in store.entries] == [
        ("b.csv", "part-00000.parquet"),
        ("a.csv", "part-00001.parquet"),
    ]
    assert len(store) == 9


def all_bytes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def ingest_toys(path: Path, sky: ToySky, names: list[str]) -> None:
    """As a command would: files that were read before are passed over, `bad` is broken each time."""
    writer = StoreWriter(path)
    for name in names:
        if writer.entry_of(f"digest of {name}") is not None:
            continue
        if name == "bad":
            writer.leave_out(entry(name, error="torn"))
        else:
            start = 12 * int(name)
            writer.add(entry(name), sky.spectra.take(slice(start, start + 14)), sky.labels)


@pytest.mark.parametrize("n_done", range(5))
def test_a_resumed_writer_makes_the_same_bytes(tmp_path, n_done):
    names = ["0", "bad", "1", "2"]
    ingest_toys(tmp_path / "whole", SKY, names)
    ingest_toys(tmp_path / "resumed", SKY, names[:n_done])
    ingest_toys(tmp_path / "resumed", SKY, names)
    assert all_bytes(tmp_path / "resumed") == all_bytes(tmp_path / "whole")


@pytest.mark.parametrize(
    "stage", ["scattervae.spectra.store.table_of", "scattervae.spectra.store.write_json"]
)
@pytest.mark.parametrize("n_done", [0, 1, 2])
def test_a_writer_killed_within_a_file_goes_on_with_it(tmp_path, monkeypatch, stage, n_done):
    names = ["0", "1", "2"]
    ingest_toys(tmp_path / "whole", SKY, names)
    ingest_toys(tmp_path / "killed", SKY, names[:n_done])
    writer = StoreWriter(tmp_path / "killed")

    def stop(*args: object, **kwargs: object) -> None:
        (tmp_path / "killed" / f"part-{n_done:05d}.parquet.partial").write_bytes(b"half a p")
        raise KeyboardInterrupt

    stars = SKY.spectra.take(slice(12 * n_done, 12 * n_done + 14))
    with monkeypatch.context() as patch:
        patch.setattr(stage, stop)
        with pytest.raises(KeyboardInterrupt):
            writer.add(entry(names[n_done]), stars, SKY.labels)
    ingest_toys(tmp_path / "killed", SKY, names)
    assert all_bytes(tmp_path / "killed") == all_bytes(tmp_path / "whole")


def test_another_basis_is_refused_and_the_store_stays_whole(tmp_path):
    writer = StoreWriter(tmp_path)
    writer.add(entry("a.csv"), SKY.spectra, NO_LABELS)
    before = all_bytes(tmp_path)
    with pytest.raises(StoreError, match=r"b.csv: 6 BP \+ 6 RP .* holds 6 BP \+ 5 RP") as caught:
        writer.add(entry("b.csv"), toy_sky(5, basis=Basis(6, 6)).spectra, NO_LABELS)
    check_one_line(caught, tmp_path)
    assert all_bytes(tmp_path) == before


def test_a_basis_named_later_is_kept_and_then_binds(tmp_path):
    unnamed, one, other = (
        toy_sky(10, basis=Basis(6, 5, bp_id=i), seed=seed).spectra for seed, i in enumerate((None, 1, 2))
    )
    writer = StoreWriter(tmp_path)
    writer.add(entry("a.csv"), unnamed, NO_LABELS)
    writer.add(entry("b.csv"), one, NO_LABELS)
    with pytest.raises(StoreError, match="basis 2"):
        StoreWriter(tmp_path).add(entry("c.csv"), other, NO_LABELS)
    assert SpectrumStore(tmp_path).basis == Basis(6, 5, bp_id=1)


def test_parts_with_and_without_correlations_are_read_together(tmp_path):
    write(tmp_path, rich_stars(), toy_sky(10, seed=1).spectra)
    stars = SpectrumStore(tmp_path).read()
    assert len(stars) == 49
    assert stars.correlations is None


def test_a_folder_that_is_no_store_is_refused(tmp_path):
    assert not SpectrumStore.is_store(tmp_path)
    (tmp_path / "thesis.tex").write_text("years of work")
    for opened in (SpectrumStore, StoreWriter):
        with pytest.raises(StoreError, match="no") as caught:
            opened(tmp_path)
        check_one_line(caught, tmp_path)
    with pytest.raises(StoreError) as caught:
        SpectrumStore(tmp_path / "nowhere")
    check_one_line(caught, tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_a_file_where_a_store_should_be_is_refused(tmp_path):
    file = tmp_path / "file.parquet"
    file.write_text("a file")
    for opened in (SpectrumStore, StoreWriter):
        with pytest.raises(StoreError) as caught:
            opened(file)
        check_one_line(caught, file)
    assert file.read_text() == "a file"


def test_a_part_that_is_gone_is_missed_by_reader_and_writer(tmp_path):
    write(tmp_path, SKY.spectra)
    (tmp_path / "part-00000.parquet").unlink()
    for opened in (SpectrumStore, StoreWriter):
        with pytest.raises(StoreError, match=r"part-00000.parquet is gone") as caught:
            opened(tmp_path)
        check_one_line(caught, tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "",
        "\xff",
        "[]",
        "null",
        '{"format": 99}',
        '{"format": 1}',
        '{"format": 1, "basis": {"n": 3}, "files": []}',
        '{"format": 1, "basis": null, "files": [{"name": "a"}]}',
        '{"format": 1, "basis": null, "files": [3]}',
    ],
)
def test_a_manifest_that_is_none_is_refused_in_one_line(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text, encoding="latin-1")
    for opened in (SpectrumStore, StoreWriter):
        with pytest.raises(StoreError, match=r"manifest\.json") as caught:
            opened(tmp_path)
        check_one_line(caught, tmp_path)


def test_a_store_without_a_star_says_so(tmp_path):
    writer = StoreWriter(tmp_path)
    with pytest.raises(StoreError, match="holds no star"):
        SpectrumStore(tmp_path)
    writer.leave_out(entry("a.csv", error="torn"))
    writer.add(entry("b.csv"), SKY.spectra.take(slice(0, 0)), NO_LABELS)
    with pytest.raises(StoreError, match="holds no star") as caught:
        SpectrumStore(tmp_path)
    check_one_line(caught, tmp_path)
