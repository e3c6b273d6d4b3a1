"""The benchmark of an archive: what it measures, what it concludes, and the whole of it at a small size."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from simulated_archive.extrapolation import RELEASES, Assumptions, estimate, report
from simulated_archive.measuring import Run, Stage, measured, n_bytes

from cli.toys import write_parquet
from scattervae.cli.application import main
from toy import DR3, toy_sky

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "archive_scale.py"
GIVEN = Assumptions(network=1e6, cores=4, disk=1e7, epochs=5, core_hour=0.1)


def stage(name, **values):
    return {
        **{
            "name": name,
            "stars": 1000,
            "seconds": 10.0,
            "cpu_seconds": 20.0,
            "bytes_in": 1000,
            "bytes_out": 0,
        },
        **values,
    }


def test_work_grows_as_the_stars_do():
    found = estimate(stage("encode"), 3_600_000, GIVEN)  # 3,600 times as many
    assert (found.core_hours, found.here_hours, found.cluster_hours) == pytest.approx((20, 10, 5))
    assert found.limit == "cores"
    assert estimate(stage("train"), 3_600_000, GIVEN).core_hours == pytest.approx(100)  # 5 epochs


def test_the_slower_of_cores_disk_and_network_sets_the_time():
    bulky = estimate(stage("ingest", bytes_in=9 * 10**8, bytes_out=10**8), 3_600_000, GIVEN)
    assert (bulky.limit, bulky.cluster_hours) == ("disk", pytest.approx(100))
    fetched = estimate(stage("fetch", bytes_in=10**8), 3_600_000, GIVEN)
    assert (fetched.limit, fetched.cluster_hours, fetched.here_hours) == (
        "network",
        *[pytest.approx(100)] * 2,
    )


def test_tables_name_the_bottleneck():
    names = ("fetch", "ingest", "train", "encode", "encode, dask", "crossmatch")
    stages = [
        stage(name, peak_process=10**9, peak_together=2 * 10**9, runs=[{"peak_together": 10**9}])
        for name in names
    ]
    text = report({"n_stars": 1000, "machine": {"cores": 2}, "stages": stages}, GIVEN)
    for release in RELEASES:
        assert f"{release}: " in text
    last = [line for line in text.splitlines() if line.startswith("| all, encoded once")]
    assert len(last) == 2
    assert all(line.split(" | ")[4] == "train" for line in last)  # five times the others
    assert text.count("| crossmatch |") == 1  # its work is that of its list


def test_memory_and_time_of_a_process_and_its_children():
    child = "x = bytearray(150_000_000); import time\nwhile time.process_time() < 0.5: pass\ntime.sleep(0.3)"
    parent = (
        f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}], check=True); print('ok')"
    )
    run = measured([sys.executable, "-c", parent])
    assert run.out == "ok\n"
    assert run.seconds > 0.5
    assert run.peak_together > run.peak_process > 150e6
    assert 0.4 < run.cpu_seconds < 60  # counted in ticks of the clock, up to the last look before the end


def test_a_process_that_fails_says_why():
    with pytest.raises(SystemExit, match=r"exit 3\nno luck"):
        measured([sys.executable, "-c", "import sys; print('no luck'); sys.exit(3)"])


def test_stages_add_up(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").write_bytes(b"123")
    (tmp_path / "c").write_bytes(b"12")
    total = Stage("ingest")
    total.add(Run(1.0, 2.0, 30, 40), stars=5, bytes_in=n_bytes(tmp_path / "a"), bytes_out=n_bytes(tmp_path))
    total.add(Run(1.0, 2.0, 20, 50), stars=5)
    assert (total.stars, total.seconds, total.cpu_seconds) == (10, 2.0, 4.0)
    assert (total.bytes_in, total.bytes_out, total.peak_process, total.peak_together) == (3, 5, 30, 50)
    assert [run["peak_process"] for run in total.runs] == [30, 20]


@pytest.mark.slow
def test_the_whole_way(tmp_path):
    pytest.importorskip("lsdb", reason="the way ends with Dask and LSDB")
    stars = write_parquet(tmp_path / "stars.parquet", toy_sky(300, basis=DR3).spectra)
    with pytest.raises(SystemExit) as stopped:
        main(["train", str(stars), "--out", str(tmp_path / "maker"), "--epochs", "1"])
    assert stopped.value.code == 0
    options = {
        **{"--work": tmp_path / "work", "--stars": 500, "--stars-a-file": 100, "--epochs": 1},
        **{"--model": tmp_path / "maker", "--like": stars, "--round-of": 0.005, "--workers": 1},
    }
    arguments = [str(word) for option in options.items() for word in option]
    run = subprocess.run(
        [sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr
    result = json.loads((tmp_path / "work" / "result.json").read_text())
    counted = {one["name"]: one["stars"] for one in result["stages"]}
    assert counted == dict.fromkeys(("fetch", "ingest", "train", "encode", "encode, dask", "crossmatch"), 500)
    assert len(result["stages"][0]["runs"]) == 3  # rounds
    assert "ten times DR3: 2,191,976,430 stars" in run.stdout
