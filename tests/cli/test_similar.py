"""``scattervae similar`` on toy stars: the library's numbers, examples as numbers, list or spectra, slips."""

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from astropy.table import Table

import scattervae as sv
from cli.toys import write_parquet


def test_the_command_gives_the_librarys_table_however_examples_are_given(cli, folder, sky, tmp_path):
    ids = sky.spectra.source_id[:6].tolist()
    rows = np.flatnonzero(np.isin(sv.load(folder / "store").spectra.source_id, ids))
    listed = tmp_path / "ids.txt"
    listed.write_text("".join(f"{one}\n" for one in ids))
    spectra = write_parquet(tmp_path / "like.parquet", sv.load(folder / "store").spectra.take(rows))
    expected = sv.similar(sv.load_model(folder / "model"), folder / "store", ids, number=25).to_pandas()
    out = tmp_path / "found.parquet"
    for like in (",".join(map(str, ids)), listed, spectra):
        run = cli(
            "similar", folder / "model", folder / "store", "--like", like, "-n", 25, "--out", out, "--json"
        )
        assert run.code == 0, run.err
        pd.testing.assert_frame_equal(pq.read_table(out).to_pandas(), expected, check_exact=True)
        assert (run.json["n_examples"], run.json["n_compared"], run.json["n"]) == (6, 294, 25)
        assert run.json["first"][0]["source_id"] == str(expected["source_id"][0])
    run = cli("similar", folder / "model", folder / "store", "--like", ids[0], "--out", tmp_path / "a.fits")
    assert run.out.startswith("299 stars of 299 most like 1 example\n")
    assert Table.read(tmp_path / "a.fits")["source_id"].dtype.kind == "i"
    assert cli("info", out).out.startswith("list of similar stars of 25 rows, by model ")


@pytest.mark.parametrize(
    ("like", "error"),
    [
        (
            "none.txt",
            "--like none.txt: no such file, and no source_ids with commas between them; check the path",
        ),
        ("", "--like : no such file, and no source_ids with commas between them; check the path"),
        *(
            (
                f"12,{wrong}",
                f"example {wrong} is no source_id; expected a whole number from 1 to 2^63 - 1",
            )
            for wrong in ("0", "-5", "9" * 30)
        ),
        ("12", "example 12 is not among the stars; leave it out, or give its spectrum in a file"),
    ],
)
def test_slips(cli, folder, tmp_path, like, error):
    out = tmp_path / "found.parquet"
    assert cli("similar", folder / "model", folder / "store", "--like", like, "--out", out).error == error
    assert not out.exists()
