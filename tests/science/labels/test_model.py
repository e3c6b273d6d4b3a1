import json
from dataclasses import replace

import numpy as np
import pytest
from studies.label_scores import coverage

from scattervae.errors import CheckpointError, DataError
from scattervae.files import DIGESTS, read_tensors, write_tensors
from scattervae.science.labels import support
from scattervae.science.labels.model import (
    CALIBRATION,
    CONFIG,
    NETWORKS,
    fit_labels,
    label_stars,
    load_label_model,
    save_label_model,
)
from scattervae.science.labels.targets import TargetLabels
from scattervae.seeds import folds
from scattervae.spectra.spectra import Spectra
from science.labels.label_toys import QUICK, known_of, with_labels
from toy import signed_again, spoiled, toy_sky, untrained_model


def new_stars(n: int = 600):
    """Stars of the same sky that nothing was trained on, with their labels and the predictions for them."""
    _, model, label_model = with_labels()
    sky = toy_sky(n, n_latent=3, seed=5)
    return known_of(sky), label_stars(model, label_model, sky.spectra)


def test_labels_of_new_stars_are_predicted():
    known, predicted = new_stars()
    assert predicted.names == known.names
    off = np.sqrt(np.mean((predicted.values - known.values) ** 2, axis=0))
    assert (off < 0.4 * known.values.std(axis=0)).all()


def test_intervals_hold_the_labels_of_new_stars():
    """Two folds of ten calibrate: 150 stars, so the share inside may be off by 0.04 as one standard deviation."""
    known, predicted = new_stars()
    share = coverage(predicted, known)
    assert (np.abs(share.inside_68 - 0.68) < 0.16).all()
    assert (share.inside_95 > 0.87).all()
    for low, high in ((predicted.low_68, predicted.high_68), (predicted.low_95, predicted.high_95)):
        assert ((low < predicted.values) & (predicted.values < high)).all()


def test_stars_that_nothing_like_was_labelled_of_are_flagged():
    sky, model, label_model = with_labels()
    few = toy_sky(300, n_latent=3, seed=9)
    inside = few.latents[:, 0] < 0
    only = fit_labels(model, sky.spectra, known_of(sky).take(sky.latents[:, 0] < -0.3), QUICK)
    outside = label_stars(model, only, few.spectra).outside[:, 0]
    assert outside[few.latents[:, 0] > 0.5].mean() > 0.5
    assert outside[few.latents[:, 0] < -0.5].mean() < 0.1
    assert label_stars(model, label_model, few.spectra.take(inside)).outside.mean() < 0.1


def test_labels_of_the_test_fold_are_never_seen():
    sky, model, _ = with_labels()
    known = known_of(sky)
    test = folds(known.source_id).test
    other = TargetLabels(
        known.source_id, known.names, np.where(test[:, None], 1.0, known.values), known.errors
    )
    settings = QUICK.model_copy(update={"steps": 3})
    first, second = (fit_labels(model, sky.spectra, labels, settings) for labels in (known, other))
    assert first.n_stars == second.n_stars == (~test).sum()
    predicted = [label_stars(model, m, sky.spectra) for m in (first, second)]
    np.testing.assert_array_equal(predicted[0].values, predicted[1].values)
    np.testing.assert_array_equal(predicted[0].low_95, predicted[1].low_95)


def test_stars_without_labels_are_not_copied(monkeypatch):
    """Of a survey of 400,000 stars a copy in archive units is 0.7 GB."""
    sky, model, _ = with_labels()
    copied, plain = [], Spectra.take

    def take(self, rows):
        taken = plain(self, rows)
        if not isinstance(rows, slice):  # of which a view is taken
            copied.append(len(taken))
        return taken

    monkeypatch.setattr(Spectra, "take", take)
    monkeypatch.setattr(support, "FEWEST_UNSEEN", 10)
    fit_labels(model, sky.spectra, known_of(sky).take(slice(0, 100)), QUICK.model_copy(update={"steps": 1}))
    assert sum(copied) < 0.5 * len(sky.spectra)


def test_no_more_spectra_are_judged_than_ranks_are_made_of(monkeypatch):
    sky, model, _ = with_labels()
    plain, n_judged = support.reduced_chi2, []
    monkeypatch.setattr(support, "FEWEST_UNSEEN", 10)
    monkeypatch.setattr(support, "MOST_JUDGED", 25)
    monkeypatch.setattr(support, "reduced_chi2", lambda of: n_judged.append(len(of.spectra)) or plain(of))
    fitted = fit_labels(model, sky.spectra, known_of(sky), QUICK.model_copy(update={"steps": 1}))
    assert sum(n_judged) == len(fitted.support.chi2) == 25


def test_the_order_of_stars_does_not_matter():
    sky, model, label_model = with_labels()
    stars = sky.spectra.take(slice(0, 50))
    predicted = label_stars(model, label_model, stars)
    back = label_stars(model, label_model, stars.take(slice(None, None, -1)))
    np.testing.assert_allclose(back.values[::-1], predicted.values, rtol=1e-5)
    np.testing.assert_allclose(back.reliability[::-1], predicted.reliability)


def test_a_star_that_cannot_be_encoded_has_no_labels():
    sky, model, label_model = with_labels()
    predicted = label_stars(model, label_model, spoiled(sky.spectra.take(slice(0, 10))))
    for array in (predicted.values, predicted.low_68, predicted.high_95, predicted.reliability):
        assert np.isnan(array[:5]).all()
        assert np.isfinite(array[5:]).all()
    assert not predicted.reliable[:5].any()


def test_no_stars_have_no_labels():
    sky, model, label_model = with_labels()
    predicted = label_stars(model, label_model, sky.spectra.take(slice(0, 0)))
    assert predicted.values.shape == (0, 5)


def test_too_few_labels_are_an_error():
    sky, model, _ = with_labels()
    with pytest.raises(DataError, match="at least 40 are needed"):
        fit_labels(model, sky.spectra, known_of(sky).take(slice(0, 30)), QUICK)


def test_progress_is_reported():
    sky, model, _ = with_labels()
    seen: list[tuple[int, int]] = []
    settings = QUICK.model_copy(update={"steps": 1})
    fit_labels(model, sky.spectra, known_of(sky), settings, progress=lambda *done: seen.append(done))
    assert seen == [(1, 2), (2, 2)]


@pytest.fixture
def saved(tmp_path):
    folder = tmp_path / "labels"
    save_label_model(with_labels()[2], folder)
    return folder


def test_what_is_read_predicts_as_what_was_written(saved):
    sky, model, label_model = with_labels()
    again = load_label_model(saved, model)
    stars = sky.spectra.take(slice(0, 40))
    first, second = (label_stars(model, one, stars) for one in (label_model, again))
    for name, values in vars(first).items():
        np.testing.assert_array_equal(vars(second)[name], values)
    assert again.settings == label_model.settings
    assert again.n_stars == label_model.n_stars


def test_a_folder_is_replaced_whole(saved):
    save_label_model(with_labels()[2], saved)
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
        load_label_model(saved, with_labels()[1])
    (saved / name).unlink()
    with pytest.raises(CheckpointError, match=f"no {name}"):
        load_label_model(saved, with_labels()[1])


def test_labels_from_before_the_survey_was_asked_still_load(saved):
    sky, model, label_model = with_labels()
    config = json.loads((saved / CONFIG).read_text())
    del config["n_support"]
    (saved / CONFIG).write_text(json.dumps(config | {"format": 2}))
    arrays = dict(read_tensors(saved / CALIBRATION).arrays)
    older = {name: values for name, values in arrays.items() if not name.startswith("support_")}
    write_tensors(saved / CALIBRATION, older)
    signed_again(saved)
    predicted, now = (
        label_stars(model, one, sky.spectra) for one in (load_label_model(saved, model), label_model)
    )
    np.testing.assert_array_equal(predicted.values, now.values)
    np.testing.assert_array_equal(predicted.chi2_rank, 1.0)
    assert not predicted.not_reproduced.any()


def test_another_format_is_refused(saved):
    config = json.loads((saved / CONFIG).read_text())
    (saved / CONFIG).write_text(json.dumps(config | {"format": 99}))
    signed_again(saved)
    with pytest.raises(CheckpointError, match="format 99"):
        load_label_model(saved, with_labels()[1])


def test_files_that_do_not_fit_each_other_are_an_error(saved):
    _, model, label_model = with_labels()
    other = replace(label_model, names=label_model.names[:2])
    save_label_model(other, saved)
    with pytest.raises(CheckpointError, match="do not fit"):
        load_label_model(saved, model)
