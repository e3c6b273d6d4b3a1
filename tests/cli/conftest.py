"""Commands run in this process, on toy stars ingested and trained on once."""

from functools import partial

import pytest

from cli.toys import RECIPE, write_parquet
from scattervae.cli.application import main
from scattervae.science.labels.model import fit_labels
from science.labels.label_toys import QUICK
from toy import DR3, toy_sky


@pytest.fixture(autouse=True)
def quick_labels(monkeypatch):
    """Labels are fitted in few steps by few networks: how well is asked of the library, not of a command."""
    quick = partial(fit_labels, settings=QUICK)
    monkeypatch.setattr("scattervae.science.labels.model.fit_labels", quick)


@pytest.fixture(scope="session")
def sky():
    return toy_sky(300)


@pytest.fixture(scope="session")
def folder(tmp_path_factory, sky):
    """A folder with stars.parquet, store/, toy.toml and model/, none of which a test may change."""
    folder = tmp_path_factory.mktemp("toy")
    (folder / "toy.toml").write_text(RECIPE)
    stars = write_parquet(folder / "stars.parquet", sky.spectra, sky.labels)
    for arguments in (
        ["ingest", str(stars), "--out", str(folder / "store")],
        ["train", str(folder / "store"), "--out", str(folder / "model"), "-r", str(folder / "toy.toml")],
    ):
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        assert stopped.value.code == 0
    return folder


@pytest.fixture(scope="session")
def store(folder):
    return folder / "store"


@pytest.fixture(scope="session")
def model(folder):
    return folder / "model"


@pytest.fixture(scope="session")
def dr3(tmp_path_factory, folder):
    """The same for stars of the basis of Gaia DR3, the model hardly trained."""
    where = tmp_path_factory.mktemp("dr3")
    stars = write_parquet(where / "stars.parquet", toy_sky(120, basis=DR3).spectra)
    with pytest.raises(SystemExit) as stopped:
        main(["train", str(stars), "--out", str(where / "model"), "--epochs", "2"])
    assert stopped.value.code == 0
    return where
