"""One run at a time writes to an output: another is refused in one line, before it has done any work."""

import pytest

from gaia.archive.stars import server_of, toy_stars
from scattervae.files import sole_writer


@pytest.mark.parametrize(
    "command",
    [
        ("calibrate", "MODEL", "STORE"),
        ("label", "MODEL", "STORE"),
        ("outliers", "MODEL", "STORE", "--fit"),
        ("generate", "MODEL", "--flow", "--stars", "STORE", "--out", "OTHER"),
        ("train", "STORE", "--out", "MODEL", "--overwrite"),
    ],
    ids=lambda command: command[0],
)
def test_a_model_that_is_being_written_to(cli, model, store, tmp_path, command):
    names = {"MODEL": model, "STORE": store, "OTHER": tmp_path / "other.parquet"}
    before = sorted((path, path.stat().st_mtime_ns) for path in model.rglob("*"))
    with sole_writer(model):
        run = cli(*(names.get(word, word) for word in command))
    assert run.code == 1
    assert run.error == f"{model}: another run is writing to it; wait for its end, or write to another place"
    assert sorted((path, path.stat().st_mtime_ns) for path in model.rglob("*")) == before
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_being_fetched(cli, tmp_path):
    stars, out = toy_stars(), tmp_path / "stars.csv.gz"
    (tmp_path / "ids.txt").write_text("\n".join(map(str, stars.source_id.tolist())))
    with server_of(stars) as server:
        fetch = ("fetch", "ids", tmp_path / "ids.txt", "--out", out, "--archive-url", server.url)
        with sole_writer(out):
            run = cli(*fetch)
        assert (
            run.error == f"{out}: another run is writing to it; wait for its end, or write to another place"
        )
        assert server.asked == []
        assert cli(*fetch).code == 0
