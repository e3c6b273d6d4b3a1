import json
from dataclasses import replace

import numpy as np
import pytest

from scattervae.errors import CheckpointError
from scattervae.files import DIGESTS
from scattervae.science.labels.folder import CALIBRATION, CONFIG, NETWORKS, load_label_model, save_label_model
from scattervae.science.labels.model import label_stars
from science.labels.label_toys import taught
from toy import signed_again, toy_sky, untrained_model


@pytest.fixture
def saved(tmp_path):
    folder = tmp_path / "labels"
    save_label_model(taught()[2], folder)
    return folder


def test_what_is_read_tells_what_was_written(saved):
    sky, model, label_model = taught()
    again = load_label_model(saved, model)
    stars = sky.spectra.take(slice(0, 40))
    first, second = (label_stars(model, one, stars) for one in (label_model, again))
    for name, values in vars(first).items():
        np.testing.assert_array_equal(vars(second)[name], values)
    assert again.settings == label_model.settings
    assert again.n_stars == label_model.n_stars


def test_a_folder_is_replaced_whole(saved):
    save_label_model(taught()[2], saved)
    assert sorted(path.name for path in saved.parent.iterdir()) == ["labels"]
    assert sorted(path.name for path in saved.iterdir()) == sorted([CONFIG, NETWORKS, CALIBRATION, DIGESTS])


def test_labels_of_another_model_are_refused(saved):
    other = untrained_model(toy_sky(50, n_latent=3).spectra)
    with pytest.raises(CheckpointError, match="belong to the model"):
        load_label_model(saved, other)


@pytest.mark.parametrize("name", [CONFIG, NETWORKS, CALIBRATION])
def test_a_missing_or_broken_file_is_an_error(saved, name):
    (saved / name).write_bytes(b"no")
    with pytest.raises(CheckpointError, match="not the file that was written"):
        load_label_model(saved, taught()[1])
    (saved / name).unlink()
    with pytest.raises(CheckpointError, match=f"no {name}"):
        load_label_model(saved, taught()[1])


def test_another_format_is_refused(saved):
    config = json.loads((saved / CONFIG).read_text())
    (saved / CONFIG).write_text(json.dumps(config | {"format": 99}))
    signed_again(saved)
    with pytest.raises(CheckpointError, match="format 99"):
        load_label_model(saved, taught()[1])


def test_files_that_do_not_fit_each_other_are_an_error(saved):
    _, model, label_model = taught()
    other = replace(label_model, names=label_model.names[:2])
    save_label_model(other, saved)
    with pytest.raises(CheckpointError, match="do not fit"):
        load_label_model(saved, model)
