import errno
import logging
import os
import re
import subprocess
import sys

import pytest
import typer

import scattervae
from scattervae.cli import application
from scattervae.gaia import reading

COMMANDS = ("demo", "ingest", "train", "encode", "evaluate", "generate", "info", "doctor")


def test_version(cli):
    assert cli("--version").out == f"scattervae {scattervae.__version__}\n"


def test_no_arguments_print_the_help_and_no_error(cli):
    run = cli()
    assert run.code == 2
    assert all(command in run.out + run.err for command in COMMANDS)
    assert "error" not in run.err


def test_help_names_every_command_and_the_usual_way(cli):
    run = cli("--help")
    assert (run.code, run.err) == (0, "")
    assert all(f"│ {command} " in run.out for command in COMMANDS)
    assert "ingest files to a store, train a model on it, encode stars" in " ".join(run.out.split())


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_teaches(cli, command):
    run = cli(command, "--help")
    assert (run.code, run.err) == (0, "")
    assert f" scattervae {command} " in run.out.partition("Example")[2]
    assert "--json" in run.out
    assert cli(command, "-h").out == run.out


def test_help_keeps_square_brackets(cli):
    assert re.search(r"\[Fe/H\],\W+\[alpha/M\]", cli("ingest", "--help").out)  # whatever the terminal's width


def test_help_joins_the_lines_of_a_paragraph(cli):
    text = cli("ingest", "--help").out
    lines = text[text.index("The kind of each file") :].partition("Example")[0].split("\n")
    assert all(len(line.strip()) > 60 for line in lines[:4])


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["trian"], "No such command 'trian'. Did you mean 'train'?; see `scattervae --help`"),
        (["train"], "Missing argument 'STORE'; see `scattervae train --help`"),
        (["train", "store"], "Missing option '--out' / '-o'; see `scattervae train --help`"),
        (["train", "store", "--out"], "'--out' requires an argument"),
        (["train", "store", "--oot", "x"], "No such option: --oot"),
        (["train", "store", "--out", "x", "--epochs", "few"], "Invalid value for '--epochs'"),
        (["train", "store", "--out", "x", "--epochs", "0"], "Invalid value for '--epochs'"),
        (["train", "store", "--out", "x", "--seed", "-1"], "Invalid value for '--seed'"),
        (["evaluate", "m", "store", "--fold", "tset"], "'tset' is not one of 'test', 'validation'"),
        (["generate", "m", "--out", "x", "-n", "0"], "Invalid value for '--number' / '-n'"),
        (["generate", "m", "--out", "x", "--around", "1e18"], "Invalid value for '--around'"),
        (["generate", "m", "--out", "x", "--around", "1.5"], "Invalid value for '--around'"),
        (["generate", "m", "--out", "x", "--g-mag", "nan"], "Invalid value for '--g-mag'"),
    ],
)
def test_a_slip_on_the_command_line_is_one_line_and_code_2(cli, arguments, expected):
    run = cli(*arguments)
    assert run.code == 2
    assert expected in run.error


@pytest.mark.parametrize(
    "arguments",
    [
        ["info", "nothing"],
        ["train", "nothing", "--out", "x"],
        ["evaluate", "nothing", "nothing"],
        ["encode", "nothing", "nothing", "--out", "x"],
        ["generate", "nothing", "--out", "x"],
        ["ingest", "nothing", "--out", "x", "--labels", "nothing"],
    ],
)
@pytest.mark.parametrize("as_json", [[], ["--json"]])
def test_no_such_file_is_one_line_and_code_1(cli, tmp_path, monkeypatch, arguments, as_json):
    monkeypatch.chdir(tmp_path)
    run = cli(*arguments, *as_json)
    assert run.code == 1
    assert run.error.startswith("nothing: ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["train", "encode", "evaluate", "info"])
@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html><html>503</html>", "is a web page, not spectra"),
        (b"\x1f\x8b\x08\x00cut off", "is cut off or damaged"),
        (b"source_id,ra\n1,2\n", "holds no spectra"),
        (b"PAR1 and no more", "cut off"),
        (None, "is a folder|no manifest.json|a folder that is neither"),
    ],
)
def test_files_that_hold_no_spectra(cli, tmp_path, folder, command, content, expected):
    bad = tmp_path / "stars.csv"
    bad.mkdir() if content is None else bad.write_bytes(content)
    arguments = {
        "train": ["train", bad, "--out", tmp_path / "model"],
        "encode": ["encode", folder / "model", bad, "--out", tmp_path / "catalogue.parquet"],
        "evaluate": ["evaluate", folder / "model", bad],
        "info": ["info", bad],
    }
    run = cli(*arguments[command])
    assert run.code == 1
    assert run.error.startswith(f"{bad}: ")
    assert any(part in run.error for part in expected.split("|"))
    assert not any((tmp_path / name).exists() for name in ("model", "model.partial", "catalogue.parquet"))


def test_a_stop_by_the_user(cli, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(reading, "load", stop)
    run = cli("train", "store", "--out", "model")
    assert run.code == 130
    assert run.error.startswith("stopped; what was finished is kept")


def test_a_full_disk_is_one_line(cli, monkeypatch):
    def fail(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "model/weights")

    monkeypatch.setattr(reading, "load", fail)
    assert cli("train", "store", "--out", "model").error == "model/weights: No space left on device"


def test_too_little_memory_is_one_line(cli, folder, tmp_path, monkeypatch):
    """Torch says so by a RuntimeError, of which others stay what they are."""
    run = cli("generate", folder / "model", "-n", 10**14, "--out", tmp_path / "a.parquet")
    assert run.code == 1
    assert re.match(r"not enough memory \(.*can't allocate memory.*\); ask for less at a time$", run.error)
    for error, expected in (
        (MemoryError(), "not enough memory (for what was asked); ask for less at a time"),
        (RuntimeError("CUDA out of memory. Tried"), "not enough memory (CUDA out of memory. Tried)"),
        (RuntimeError("other"), None),
    ):

        def fail(*_, error=error, **__):
            raise error

        monkeypatch.setattr(reading, "load", fail)
        if expected is None:
            with pytest.raises(RuntimeError, match="other"):
                cli("train", "store", "--out", "model")
        else:
            assert cli("train", "store", "--out", "model").error.startswith(expected)


def test_every_number_on_the_command_line_has_bounds():
    """Which nan and infinity are without; a radius has its own, with the reason beside them."""
    group = typer.main.get_command(application.app)
    commands = {**group.commands, **group.commands["fetch"].commands}
    numbers = {
        f"{name} {parameter.name}": (parameter.min, parameter.max)
        for name, command in commands.items()
        for parameter in command.params
        if parameter.type_descriptor.annotation is float
    }
    assert len(numbers) > 9
    assert [name for name, bounds in numbers.items() if None in bounds] == ["crossmatch radius"]


def test_messages_of_several_lines_come_out_as_one(cli, monkeypatch):
    def fail(*_, **__):
        raise scattervae.errors.DataError("first\n  second")

    monkeypatch.setattr(reading, "load", fail)
    assert cli("train", "store", "--out", "model").error == "first second"


def test_verbose_says_what_is_done(cli, folder, tmp_path):
    arguments = ("ingest", folder / "stars.parquet", "--out", tmp_path / "store")
    cli(*arguments)
    assert cli(*arguments).err == ""
    assert cli("-v", *arguments).err == f"scattervae: {folder / 'stars.parquet'}: in the store already\n"


def test_loggers_of_others_are_left_alone(cli, folder):
    before = logging.getLogger().handlers[:]
    cli("-v", "info", folder / "store")
    cli("-v", "info", folder / "store")
    assert logging.getLogger().handlers == before
    assert len(logging.getLogger("scattervae").handlers) == 1


def test_help_starts_fast():
    heavy = "torch astropy gaiaxpy numpy scipy pandas pyarrow matplotlib h5py pydantic_settings"
    code = f"""
import sys
from scattervae.cli.application import main
try:
    main(["--help"])
except SystemExit as stopped:
    assert stopped.code == 0
print([name for name in {heavy!r}.split() if name in sys.modules], file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert "Usage: scattervae" in done.stdout


def test_output_into_a_closed_pipe(folder):
    code = "from scattervae.cli.application import main; main()"
    command = f"'{sys.executable}' -c '{code}' info '{folder / 'store'}' --json | head -c 1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)
    assert done.stdout == "{"
    assert done.stderr == ""


def test_the_script_is_installed():
    assert application.app.info.name == "scattervae"
    assert application.INTERRUPTED == 130


def test_a_shell_completes_commands_once_it_is_installed(tmp_path):
    code = "from scattervae.cli.application import main; main()"
    asked = {"_SCATTERVAE_COMPLETE": "complete_bash", "COMP_WORDS": "scattervae mod", "COMP_CWORD": "1"}
    environment = {**os.environ, **asked, "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False
    )
    assert done.stdout.split() == ["models"]
    install = [sys.executable, "-c", code, "--install-completion", "bash"]
    named = {
        "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"
    }  # there may be no shell to find above the tests
    environment = {**os.environ, **named, "HOME": str(tmp_path)}
    installed = subprocess.run(install, capture_output=True, text=True, env=environment, check=False)
    assert installed.returncode == 0, installed.stderr
    assert any("scattervae" in file.read_text() for file in tmp_path.rglob("*.sh"))
