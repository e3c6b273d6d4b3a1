import gzip
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress

import numpy as np
import pytest

from cli.toys import with_ids, write_csv, write_parquet
from ingest_toys import contents, sky_stars, write_bulk, write_sources
from scattervae.spectra.star_tables import LABEL_NAMES, StellarLabels
from scattervae.spectra.store import SpectrumStore
from toy import Basis, spoiled, toy_sky


def test_says_what_it_wrote(cli, tmp_path, sky):
    file = write_csv(tmp_path / "stars[1].csv", sky.spectra)
    run = cli("ingest", file, "--out", tmp_path / "store")
    assert (run.code, run.err) == (0, "")
    header, row, wrote = run.out.splitlines()
    assert header.split() == ["file", "kind", "rows", "kept", "duplicates", "unreadable"]
    assert row.split() == ["stars[1].csv", "archive", "csv", "300", "300", "0", "0"]
    assert wrote == f"wrote {tmp_path / 'store'}: 300 stars, 6 BP + 5 RP coefficients; flags: none"
    stored = SpectrumStore(tmp_path / "store").read().source_id
    np.testing.assert_array_equal(stored, np.sort(sky.spectra.source_id))  # as the sky's pixels are numbered


def test_json(cli, tmp_path, sky):
    stars = spoiled(sky.spectra)
    run = cli("ingest", write_csv(tmp_path / "a.csv", stars), "--out", tmp_path / "store", "--json")
    assert run.code == 0
    (warning,) = run.err.splitlines()
    assert (
        "1 of 300 stars are flagged: they have no G flux in the table, and no flux or G flux from" in warning
    )
    assert run.json["out"] == run.json["path"] == str(tmp_path / "store")
    assert (run.json["kind"], run.json["n_stars"]) == ("store", 299)
    assert run.json["basis"] == {"n_bp": 6, "n_rp": 5, "bp_id": None, "rp_id": None}
    flags = ("MISSING_BP", "MISSING_RP", "BAD_COEFFS", "BAD_ERRORS", "NO_G_FLUX")
    assert run.json["flags"] == dict.fromkeys(flags, 1)
    (entry,) = run.json["files"]
    assert (entry["n_rows"], entry["n_kept"], entry["n_duplicates"]) == (300, 299, 1)


def test_broken_files_are_warned_of_on_stderr_and_cost_nothing_else(cli, tmp_path, sky):
    good = write_csv(tmp_path / "good.csv", sky.spectra)
    page = tmp_path / "page.csv"
    page.write_text("<html>503</html>")
    cut = tmp_path / "cut.csv.gz"
    cut.write_bytes(gzip.compress(good.read_bytes())[:5000])
    run = cli("ingest", page, cut, tmp_path, good, "nothing.csv", "--out", tmp_path / "store", "--json")
    assert run.code == 1
    assert run.json["n_stars"] == 300
    assert [bool(entry["error"]) for entry in run.json["files"]] == [True, True, True, False, True]
    *warnings, error = run.err.splitlines()
    assert len(warnings) == 4
    assert all(line.startswith("scattervae: warning: ") for line in warnings)
    assert error == (
        f"scattervae: error: 4 of 5 files could not be read, as said above, and {tmp_path / 'store'} is without "
        "them; mend them and run the same command again"
    )
    again = cli("ingest", good, "--out", tmp_path / "store")
    assert (again.code, again.err) == (0, "")
    text = again.out
    assert [line.split()[0] for line in text.splitlines() if "not read" in line] == [
        "page.csv",
        "cut.csv.gz",
        tmp_path.name,
        "nothing.csv",
    ]


def test_strict_stops_at_a_broken_file(cli, tmp_path, sky):
    good = write_csv(tmp_path / "good.csv", sky.spectra)
    run = cli("ingest", "nothing.csv", good, "--out", tmp_path / "store", "--strict")
    assert (run.code, run.error) == (1, "nothing.csv: does not exist; check the path")


def test_a_link_to_itself_leads_to_no_file(cli, tmp_path):
    loop = tmp_path / "loop.csv"
    loop.symlink_to(loop)
    run = cli("ingest", loop, "--out", tmp_path / "store")
    assert run.code == 1
    assert f"{loop}: is no path that" in run.err
    assert cli("ingest", loop, "--out", loop).code == 1


def test_no_star_at_all(cli, tmp_path):
    (tmp_path / "empty.csv").touch()
    run = cli("ingest", tmp_path / "empty.csv", "--out", tmp_path / "store", "--json")
    assert (run.code, run.out) == (1, "")
    warning, error = run.err.splitlines()
    assert warning.endswith("empty.csv: is empty; download it again")
    assert error.startswith(f"scattervae: error: {tmp_path / 'store'}: holds no star")


@pytest.mark.parametrize("there", ["model", "stars.parquet"])
def test_out_that_is_something_else(cli, folder, there):
    run = cli("ingest", folder / "stars.parquet", "--out", folder / there)
    assert run.code == 1
    assert "exists and is no store; give another --out" in run.error


def test_out_that_cannot_be_made(cli, folder):
    run = cli("ingest", folder / "stars.parquet", "--out", folder / "stars.parquet" / "store")
    assert run.code == 1
    assert "Not a directory" in run.error


def test_labels_from_another_file(cli, tmp_path, sky):
    stars = write_parquet(tmp_path / "stars.parquet", sky.spectra)
    some = StellarLabels(*(part[::3][::-1] for part in vars(sky.labels).values()))
    table = tmp_path / "labels.csv"
    header = ",".join(["source_id", *(name.upper() for name in LABEL_NAMES)])
    rows = [
        ",".join([str(i), *map(repr, v)])
        for i, v in zip(some.source_id.tolist(), some.values.tolist(), strict=True)
    ]
    table.write_text("\n".join([header, *rows]) + "\n")
    run = cli("ingest", stars, "--out", tmp_path / "store", "--labels", table)
    assert run.code == 0
    labels = SpectrumStore(tmp_path / "store").labels().aligned_to(sky.spectra.source_id)
    np.testing.assert_array_equal(labels.values[::3], sky.labels.values[::3])
    assert np.isnan(labels.values[1::3]).all()
    again = cli("ingest", stars, "--out", tmp_path / "store", "--labels", table)
    assert "keep the labels, source columns and correlations" in again.err


def test_labels_in_a_file_without_any(cli, tmp_path, folder, sky):
    bare = write_parquet(tmp_path / "bare.parquet", sky.spectra)
    run = cli("ingest", bare, "--out", tmp_path / "store", "--labels", bare)
    assert run.code == 1
    assert "holds no labels" in run.error
    assert not (tmp_path / "store").exists()


def test_a_file_of_another_basis(cli, tmp_path, folder):
    other = write_parquet(tmp_path / "other.parquet", toy_sky(20, basis=Basis(7, 5)).spectra)
    run = cli("ingest", folder / "stars.parquet", other, "--out", tmp_path / "store")
    assert run.code == 1
    assert "7 BP + 5 RP coefficients, but" in run.err
    assert "ingest it into a store of its own" in run.err


def test_many_files_make_a_short_table(cli, tmp_path):
    sky = toy_sky(24)
    ids = np.arange(1, 25) + 2**53
    files = [
        write_parquet(
            tmp_path / f"{row:02d}.parquet",
            with_ids(sky.spectra, ids).take([row, row] if row == 7 else [row]),
        )
        for row in range(24)
    ]
    run = cli("ingest", *files, "--out", tmp_path / "store")
    lines = run.out.splitlines()
    assert [line.split()[0] for line in lines] == ["file", "07.parquet", "and", "wrote"]
    assert lines[2] == "and 23 files of which every row was kept"
    manifest = json.loads((tmp_path / "store" / "manifest.json").read_text())
    assert len(manifest["files"]) == 24
    assert SpectrumStore(tmp_path / "store").read().source_id.tolist() == ids.tolist()


def test_rows_that_cannot_be_read_are_no_failure(cli, tmp_path, sky):
    file = write_csv(tmp_path / "stars.csv", sky.spectra)
    file.write_text(file.read_text() + "x,1\n")
    run = cli("ingest", file, "--out", tmp_path / "store")
    assert run.code == 0
    assert "1 row skipped" in run.err
    assert run.out.splitlines()[1].split()[-4:] == ["301", "300", "0", "1"]


@pytest.fixture
def bulk_files(tmp_path):
    """Two bulk files of spectra and the gaia_source files of their pixels, in a folder each."""
    toys = [sky_stars(6, pixel=pixel, seed=pixel) for pixel in (11, 12)]
    for toy, pixel in zip(toys, (11, 12), strict=True):
        (tmp_path / "xp").mkdir(exist_ok=True)
        write_bulk(tmp_path / "xp", toy, pixel=pixel)
        write_sources(tmp_path / "gaia" / "source", toy.source_id, pixel=pixel)
    return sorted((tmp_path / "xp").iterdir()), tmp_path / "gaia"


@pytest.mark.parametrize("form", ["folder", "pattern", "files"])
def test_gaia_source_files(cli, tmp_path, bulk_files, form):
    files, folder = bulk_files
    named = {
        "folder": [folder],
        "pattern": [folder / "source" / "GaiaSource_*"],
        "files": sorted((folder / "source").iterdir()),
    }[form]
    options = [word for name in named for word in ("--sources", name)]
    run = cli("ingest", *files, *options, "--out", tmp_path / "store", "--json")
    assert (run.code, run.err) == (0, "")
    assert (run.json["n_stars"], run.json["positions"]) == (12, "measured")


def test_gaia_source_files_that_are_not_there(cli, tmp_path, bulk_files):
    files, folder = bulk_files
    (tmp_path / "empty").mkdir()
    for name, words in (
        ("empty", "no GaiaSource_* file in this folder"),
        ("none_*", "no such file"),
    ):
        run = cli("ingest", *files, "--sources", tmp_path / name, "--out", tmp_path / "store")
        assert run.code == 1
        assert f"--sources {tmp_path / name}: {words}" in run.error
    run = cli("ingest", *files, *(folder / "source").iterdir(), "--out", tmp_path / "store")
    assert run.code == 1
    assert "GaiaSource_000011-000011.csv.gz: a gaia_source file among the spectra" in run.error
    assert not (tmp_path / "store").exists()


def test_several_processes(cli, tmp_path, bulk_files):
    files, _ = bulk_files
    bad = tmp_path / "page.csv"
    bad.write_text("<html>503</html>")
    for workers in (1, 2):
        run = cli("ingest", *files, bad, "--out", tmp_path / f"store{workers}", "--workers", workers)
        assert run.code == 1
        warning, _ = run.err.splitlines()
        assert warning.startswith(f"scattervae: warning: {bad}: is a web page")
    assert contents(tmp_path / "store1") == contents(tmp_path / "store2")


def test_small_files_take_no_further_process(tmp_path, bulk_files, monkeypatch):
    from scattervae.cli import ingest

    files, _ = bulk_files
    monkeypatch.setattr("scattervae.parallel.n_cpus", lambda: 16)
    assert ingest._workers_for(files) == 1
    monkeypatch.setattr(ingest, "_SMALL_BYTES", 1)
    assert ingest._workers_for([*files, tmp_path / "missing"]) == 3
    assert ingest._workers_for(files * 20) == 16


# A shell that starts the tests in the background has them, and their children, ignore interrupts.
INTERRUPTIBLE = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "


def interrupted_ingest(files, store, workers):
    """Exit code, stdout and stderr of an ingest that is interrupted once it has begun its journal."""
    command = [
        sys.executable,
        "-c",
        INTERRUPTIBLE + "from scattervae.cli.application import main; main()",
        "ingest",
        *files,
        "-o",
        store,
        "-j",
        str(workers),
    ]
    journal = store / "staging" / "journal.jsonl"
    with subprocess.Popen(
        [*map(str, command)],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as run:
        while not journal.exists() and run.poll() is None:
            time.sleep(0.001)
        with suppress(ProcessLookupError):  # it was done first
            os.killpg(run.pid, signal.SIGINT)
        out, err = run.communicate(timeout=60)
    return run.returncode, out, err


@pytest.mark.parametrize("workers", [1, 2])
def test_interrupted_it_says_one_line_and_goes_on(tmp_path, bulk_files, workers):
    """An interrupt from the keyboard reaches the whole group of processes; one that comes too late is sent again."""
    files, _ = bulk_files
    for attempt in range(5):
        code, out, err = interrupted_ingest(files, tmp_path / f"store{attempt}", workers)
        if code != 0:
            break
    assert (code, out) == (130, "")
    assert err.splitlines() == [
        "scattervae: error: stopped; what was finished is kept, and the same command resumes (train: with --resume)"
    ]


@pytest.mark.parametrize(
    ("n_bad", "options", "code"), [(3, (), 0), (4, (), 3), (4, ("--allow-skipped", 0.02), 0)]
)
def test_rows_that_are_skipped_are_said_and_decide_the_exit_code(cli, tmp_path, sky, n_bad, options, code):
    file = write_csv(tmp_path / "a.csv", sky.spectra)
    lines = file.read_text().splitlines()
    file.write_text("\n".join([*lines[:-n_bad], *["x" + line for line in lines[-n_bad:]]]))
    skipped = f"{n_bad} of 300 rows skipped ({n_bad / 3:.2g} %)"
    for _ in range(2):  # run again, when the store has the file already
        run = cli("ingest", file, "--out", tmp_path / "store", *options)
        assert run.code == code
        assert run.out.splitlines()[-1].endswith(f"; {skipped}")
        assert len(SpectrumStore(tmp_path / "store")) == 300 - n_bad
        if code:
            assert run.err.splitlines()[-1].startswith(
                f"scattervae: error: {skipped}, more than --allow-skipped 0.01; the first, {file}: row "
            )
    run = cli("ingest", file, "--out", tmp_path / "store", "--json", *options)
    assert (run.code, run.json["n_rows_skipped"], run.json["n_rows_read"]) == (code, n_bad, 300)
