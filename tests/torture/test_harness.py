"""The harness itself: what it counts, and that it finds what it is made to find."""

import json
import os
import random
import sys
from multiprocessing import forkserver
from pathlib import Path

import numpy as np
import pytest
from torture.corruption import Kind, corrupted
from torture.forks import Kill, forked
from torture.kills import contents
from torture.readers import CHECKED, Reading, bytes_changed, has_checksums, rows, structure_changed

from torture import Row, failed, in_time, row_of, table


def test_the_table_names_each_miss_and_fails_with_one():
    good, bad = row_of("kills", "train", [None, None]), row_of("server", "TAP", [None, "a page: code 70"])
    assert table([good, bad]).splitlines() == [
        "| part | what | tried | as it should |",
        "|---|---|---:|---:|",
        "| kills | train | 2 | 2 |",
        "| server | TAP | 2 | 1 |",
        "",
        "server, TAP: a page: code 70",
    ]
    assert not failed([good])
    assert failed([good, bad])
    assert failed([])
    assert failed([Row("kills", "nothing was tried", 0, 0)])


def test_a_part_ends_in_time_with_what_was_tried():
    assert list(in_time(range(5), 1.0)) == [0, 1, 2, 3, 4]
    assert list(in_time(range(5), 0.0)) == []


def test_readers_count_each_thing_that_is_to_happen_to_no_file():
    found = [
        Reading("a", "read", 1.0, 1.0),
        Reading("b", "refused", 1.0, 1.0),
        Reading("c", "refused in several lines"),
        Reading("d", "traceback KeyError: x"),
        Reading("e", "crash, code -11: "),
        Reading("f", "other values without a flag"),
        Reading("g", "read", 30.0, 1.0),
        Reading("h", "refused", 1.0, 3000.0),
    ]
    assert [(row.n, row.good) for row in rows(found)] == [(8, 6), (8, 7), (8, 7), (8, 7), (8, 7)]


@pytest.mark.parametrize("change", [bytes_changed, structure_changed])
def test_changes_are_changes_and_the_same_for_one_seed(change):
    text = b"source_id,bp_n_parameters,bp_coefficients\n" + b'1,55,"(1.0, 2.0)"\n' * 20
    made = [change(text, random.Random(seed)) for seed in range(20)]
    assert made == [change(text, random.Random(seed)) for seed in range(20)]
    assert sum(one != text for one in made) > 15
    assert change(b"", random.Random(0)) == b"" if change is structure_changed else True


def test_cards_of_fits_keep_their_places():
    header = b"".join(f"KEY{n:05}= {n:>20}".encode().ljust(80) for n in range(36))
    fits = b"SIMPLE" + header[6:] + b"\0" * 2880
    assert all(len(structure_changed(fits, random.Random(seed))) == len(fits) for seed in range(10))


def test_files_with_checksums(tmp_path):
    for name, content, checked in (
        ("a.gz", b"\x1f\x8b\x08", True),
        ("a.fits", b"SIMPLE", False),
        (f"{CHECKED}/a.fits", b"SIMPLE", True),
    ):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        assert has_checksums(path) == checked


def test_a_fork_ends_as_it_is_made_to(tmp_path):
    def talk() -> None:
        sys.stdout.write("said")
        raise SystemExit(3)

    ended = forked(talk, tmp_path / "log")
    assert (ended.code, ended.line) == (3, "said")

    def loop() -> None:
        while True:
            pass

    for kill in (Kill(0.05), Kill(0.05, "busy"), Kill(0.05, group=False)):
        assert forked(loop, tmp_path / "log", kill).code == -9
    assert "ZeroDivisionError" in forked(lambda: 1 / 0, tmp_path / "log").text


def test_a_kill_comes_before_a_change_of_files(tmp_path):
    def write() -> None:
        for number in range(5):
            (tmp_path / f"written{number}").write_text("")
            (tmp_path / f"written{number}").rename(tmp_path / f"moved{number}")

    ended = forked(write, tmp_path / "log")
    assert (ended.code, ended.files) == (0, 10)
    for path in tmp_path.glob("moved*"):
        path.unlink()
    ended = forked(write, tmp_path / "log", Kill(5.5, "files"))
    assert (ended.code, ended.files) == (-9, 5)
    assert sorted(path.name for path in tmp_path.glob("*[dn]?")) == ["moved0", "moved1", "written2"]


def test_processes_that_are_started_have_what_was_imported(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "a module of this test", sys)

    def start() -> None:
        import multiprocessing

        for way in ("spawn", "forkserver"):
            with multiprocessing.get_context(way).Pool(1) as pool:
                sys.stdout.write(f"{pool.apply(_own_module)} {pool.apply(os.getpgrp) == os.getpgrp()}\n")

    forkserver.ensure_running()  # as another test may have left it: no server of the process that is forked
    ended = forked(start, tmp_path / "log")
    assert (ended.code, ended.text) == (0, "here True\n" * 2)


def _own_module() -> str:
    return "here" if "a module of this test" in sys.modules else "not here"


def test_contents_leave_out_what_holds_the_time(tmp_path):
    def folder(name: str, seconds: float, digest: str) -> dict[str, str]:
        (tmp_path / name).mkdir()
        provenance = {"training": {"seconds": seconds, "stars_per_second": seconds, "active_latents": 2}}
        (tmp_path / name / "provenance.json").write_text(json.dumps(provenance))
        (tmp_path / name / "digests.json").write_text(json.dumps({"provenance.json": digest, "weights": "1"}))
        (tmp_path / name / "ingest.log.jsonl").write_text(str(seconds))
        return contents(tmp_path / name)

    assert folder("a", 1.0, "x") == folder("b", 2.0, "y")


def test_corruption_that_is_not_noticed_is_a_miss(tmp_path):
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "numbers").write_bytes(np.arange(4.0).tobytes() + name.encode().ljust(8))
    kind = Kind(
        "numbers",
        tmp_path / "one",
        tmp_path / "other",
        lambda folder: {"x": np.frombuffer((Path(folder) / "numbers").read_bytes()[:32].ljust(32, b"\0"))},
    )
    found = {row.what: row for row in corrupted(kind, tmp_path, flips=20, seed=1)}
    assert found["numbers: a bit flipped"].good < 20
    (miss,) = found["numbers: missing"].misses
    assert miss.startswith("numbers: traceback FileNotFoundError: ")
    assert found["numbers: of another"].good == 1


def test_every_part_has_outcomes():
    from importlib import import_module

    from torture.__main__ import PARTS

    assert all(callable(import_module(f"torture.{part}").outcomes) for part in PARTS)
