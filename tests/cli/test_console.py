import io
import json
import logging
import subprocess
import sys

import pytest
import torch
from rich.console import Console

from scattervae import display
from scattervae.cli import console
from scattervae.errors import DataError, RecipeError
from scattervae.model.checkpoint import EpochRecord


def test_summary_is_strict_json(capsys):
    values = {"a": float("nan"), "b": [float("inf"), 1.5], "c": {"d": (1, None)}, "id": str(2**62 + 1)}
    console.Summary(values, ("text",)).show(as_json=True)
    out = capsys.readouterr().out
    expected = {"a": None, "b": [None, 1.5], "c": {"d": [1, None]}, "id": "4611686018427387905"}
    assert json.loads(out, parse_constant=pytest.fail) == expected


def test_summary_for_people(capsys):
    console.Summary({}, ("one", "[two]")).show(as_json=False)
    assert capsys.readouterr() == ("one\n[two]\n", "")


def test_table_lines():
    lines = console.table_lines(("file", "n"), [("a" * 300, "1"), ("[b]", "20,000")])
    assert [line.split() for line in lines] == [["file", "n"], ["a" * 300, "1"], ["[b]", "20,000"]]
    assert {len(line) for line in lines} == {308}


def test_counts_in_words():
    assert console.listed({"A": 1000, "B": 0, "C": 2}) == "A 1,000, C 2"
    assert console.listed({"A": 0}) == "none"


def test_machine():
    before = torch.get_num_threads()
    try:
        assert console.choose_device("cpu", 1) == torch.device("cpu")
        assert torch.get_num_threads() == 1
        assert console.choose_device("auto", 0).type in ("cpu", "cuda")
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("device", ["gpu", "cuda0", "meta", ""])
def test_no_such_device(device):
    with pytest.raises(RecipeError, match=f"--device {device}: no such device; choose auto, cpu, cuda, mps"):
        console.choose_device(device, 0)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_without_one():
    with pytest.raises(
        RecipeError, match=r"--device cuda: not to be had here \(.*\); use --device cpu"
    ) as refused:
        console.choose_device("cuda", 0)
    assert "\n" not in str(refused.value)


def test_warnings_are_one_line_each_however_narrow_the_terminal(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    console.log_to_stderr(verbose=False)
    logging.getLogger("scattervae.test").warning("[b]%s[/b]\n %s", "word " * 20, "end")
    assert capsys.readouterr().err == "scattervae: warning: [b]" + "word " * 20 + "[/b] end\n"


def test_no_bar_where_no_one_looks(capsys):
    with display.progress_bar("files", "file") as bar:
        bar.update(bar.add_task("reading", total=2, file=""), advance=1, file="a.csv")
    assert capsys.readouterr() == ("", "")


def test_a_line_a_minute_where_there_is_no_terminal(capsys, monkeypatch):
    now = 0.0
    monkeypatch.setattr(display.time, "monotonic", lambda: now)
    with display.progress_bar("stars") as bar:
        task = bar.add_task("encoding", total=40_000)
        for now, done in ((30.0, 1000), (61.0, 12_000), (90.0, 13_000), (122.0, 39_999)):  # noqa: B007
            bar.update(task, completed=done)
    assert capsys.readouterr().err.splitlines() == [
        "encoding: 12,000 of 40,000 stars",
        "encoding: 39,999 of 40,000 stars",
    ]


def test_bar_in_a_terminal(monkeypatch):
    screen = io.StringIO()
    terminal = Console(file=screen, force_terminal=True, width=120)
    monkeypatch.setattr(display, "stderr", terminal)
    with display.progress_bar("files", "file") as bar:
        bar.update(bar.add_task("reading", total=2, file=""), advance=1, file="[/red]stars[1].csv")
    assert "[/red]stars[1].csv" in screen.getvalue()
    assert "1/2" in screen.getvalue()


def test_where_a_file_may_be_written(tmp_path):
    console.check_out(tmp_path / "new.parquet", "catalogue")
    with pytest.raises(DataError, match=r"is a folder; name a file for the catalogue, such as .*/catalogue"):
        console.check_out(tmp_path, "catalogue")
    foreign = tmp_path / "stars.parquet"
    foreign.write_bytes(b"PAR1 somebody's stars")
    with pytest.raises(DataError, match="was not made by scattervae; give another --out"):
        console.check_out(foreign, "catalogue")
    assert console.note_of(tmp_path) is None


def test_epochs_fit_a_terminal_of_80_columns(monkeypatch):
    screen = io.StringIO()
    monkeypatch.setattr(display, "stderr", Console(file=screen, force_terminal=True, width=80))
    record = EpochRecord(
        epoch=100, objective=0.0, chi2=55.0, penalty=-170.5, kl=12.34, negative_elbo=-103.2, learning_rate=0.1
    )
    with display.epoch_bar(100) as progress:
        progress(record)
    assert "100/100" in screen.getvalue()
    assert "-ELBO -103.2, KL 12.34 nats" in screen.getvalue()
    assert "…" not in screen.getvalue()


@pytest.mark.parametrize(
    "arguments",
    [
        ("info", "no/file"),
        ("encode", "no", "file", "--out", "a.parquet"),
        ("encode", "best", "no/file", "--out", "a.parquet"),
    ],
)
def test_a_wrong_path_is_named_before_anything_is_imported(tmp_path, arguments):
    script = f"""
import sys
from scattervae.cli import main
try:
    main({list(arguments)})
except SystemExit as stop:
    sys.exit(f"{{stop.code}} {{'torch' in sys.modules}}")
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    error, verdict = done.stderr.splitlines()
    assert "; check the path" in error
    assert verdict == "1 False"
