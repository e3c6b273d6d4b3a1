"""``scattervae ablate`` on toy stars."""

import json

from cli.toys import write_parquet
from toy import toy_sky


def test_a_table_of_all_changes_is_printed_and_written(cli, tmp_path):
    write_parquet(tmp_path / "stars.parquet", toy_sky(60).spectra)
    out = tmp_path / "ablation"
    arguments = ("ablate", tmp_path / "stars.parquet", "--out", out, "--epochs", 1, "--seeds", 1)
    run = cli(*arguments)
    assert run.code == 0
    written = json.loads((out / "ablation.json").read_text())
    assert written["rows"][0][0] == "none"
    assert all(row[0] in run.out for row in written["rows"])
    assert json.loads(cli(*arguments, "--json").out) == written  # read, not trained again
