import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from safetensors.numpy import load_file, save_file
from scipy.spatial import Delaunay
from studies.cannon_labels import infer_labels

from scattervae.errors import CheckpointError, DataError
from scattervae.science.cannon.fit import Fit
from scattervae.science.cannon.model import Cannon, CannonSettings, LabelRange
from scattervae.spectra.normalization import Normalization
from science.cannon_toys import BASIS, MEAN, STD, cannon_sky, terms
from toy import signed_again, spoiled, toy_sky, untrained_model

NAMES = ("teff", "logg", "fe_h", "alpha_m")
RNG = np.random.default_rng(3)
VALUES = RNG.normal(size=(300, 4)) * [600.0, 1.0, 0.3, 0.1] + [5000.0, 3.0, -0.2, 0.1]


@pytest.mark.parametrize("k", [2, 3, 4])
def test_outside_is_outside_every_simplex_of_scipy(k):
    range_ = LabelRange.of(VALUES[:, :k], NAMES[:k])
    asked = VALUES[:, :k].mean(axis=0) + 2.5 * VALUES[:, :k].std(axis=0) * RNG.normal(size=(5000, k))
    triangles = Delaunay(range_.scaled(VALUES[:, :k]).numpy())
    expected = triangles.find_simplex(range_.scaled(asked).numpy()) < 0
    assert 0.1 < expected.mean() < 0.99
    np.testing.assert_array_equal(range_.outside(asked), expected)


def test_one_label_has_two_ends():
    range_ = LabelRange.of(VALUES[:, :1], NAMES[:1])
    low, high = VALUES[:, 0].min(), VALUES[:, 0].max()
    asked = np.array([[low - 1.0], [low], [5000.0], [high], [high + 1.0], [np.nan]])
    assert range_.outside(asked).tolist() == [True, False, False, False, True, False]


def test_no_training_star_is_outside():
    assert not LabelRange.of(VALUES, NAMES).outside(VALUES).any()


def test_scaled_labels_have_zero_mean_and_unit_variance():
    range_ = LabelRange.of(VALUES, NAMES)
    scaled = range_.scaled(VALUES)
    np.testing.assert_allclose(scaled.numpy().std(axis=0), 1.0)
    np.testing.assert_allclose(scaled.numpy().mean(axis=0), 0.0, atol=1e-12)


def test_corners_are_training_stars_far_from_each_other():
    range_ = LabelRange.of(VALUES[:, :2], NAMES[:2])
    scaled = range_.scaled(VALUES[:, :2]).numpy()
    assert {tuple(c) for c in range_.corners} <= {tuple(s) for s in scaled}
    between = np.linalg.norm(range_.corners[:, None] - range_.corners, axis=2)
    to_nearest = np.linalg.norm(scaled[:, None] - range_.corners, axis=2).min(axis=1)
    assert to_nearest.max() <= between[~np.eye(len(between), dtype=bool)].min()


def test_too_few_stars_are_an_error_of_one_line():
    with pytest.raises(
        DataError, match=r"29 usable stars have all of teff, logg, fe_h, alpha_m.*30"
    ) as error:
        LabelRange.of(VALUES[:29], NAMES)
    assert "\n" not in str(error.value)


def test_a_label_without_spread_is_named():
    values = VALUES.copy()
    values[:, 1] = 4.0
    with pytest.raises(DataError, match="logg is 4 in all 300"):
        LabelRange.of(values, NAMES)


def test_a_label_that_follows_from_the_others_is_an_error_of_one_line():
    values = VALUES.copy()
    values[:, 1] = 1e-3 * values[:, 0]
    with pytest.raises(DataError, match="follows from the others") as error:
        LabelRange.of(values, NAMES)
    assert "\n" not in str(error.value)


SKY = cannon_sky(300)
CANNON = SKY.fit()
FILES = {"digests.json", "config.json", "cannon.safetensors", "provenance.json"}
ASKED = MEAN[:3] + STD[:3] * np.random.default_rng(5).normal(size=(40, 3))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    CANNON.save(tmp_path / "cannon")
    return tmp_path / "cannon"


def test_prediction_is_the_polynomial_that_made_the_stars():
    predicted = CANNON.predict(SKY.true_labels[:, :3])
    truth = terms((SKY.true_labels[:, :3] - MEAN[:3]) / STD[:3]) @ SKY.theta
    assert np.abs(predicted.mean.numpy() - truth).max() < 0.2  # five errors of a mean at the corners
    assert np.corrcoef(predicted.mean.numpy().ravel(), truth.ravel())[0, 1] > 0.9995
    assert predicted.mean.dtype == torch.float64
    torch.testing.assert_close(predicted.scatter, CANNON.scatter.expand(300, -1))


def test_stars_without_all_labels_are_left_out_and_counted():
    values = SKY.labels.values.copy()
    values[20:30, 2] = np.nan
    values[30:50, 3] = np.nan  # not asked for
    labels = replace(SKY.labels, values=values)
    cannon = Cannon.fit(spoiled(SKY.spectra), labels, SKY.normalization)
    counts = cannon.counts
    assert (counts.given, counts.unusable, counts.unlabelled, counts.trained_on) == (300, 6, 10, 284)
    kept = np.setdiff1d(np.arange(300), [0, 1, 2, 3, 4, 6, *range(20, 30)])
    alone = Cannon.fit(SKY.spectra.take(kept), labels, SKY.normalization)
    torch.testing.assert_close(cannon.theta, alone.theta)
    four = Cannon.fit(
        SKY.spectra,
        labels,
        SKY.normalization,
        CannonSettings(labels=("teff", "logg", "fe_h", "alpha_m")),
    )
    assert four.counts.unlabelled == 30


def test_labels_are_joined_by_source_id():
    order = np.random.default_rng(1).permutation(300)
    mixed = replace(
        SKY.labels,
        source_id=SKY.labels.source_id[order],
        values=SKY.labels.values[order],
        errors=SKY.labels.errors[order],
    )
    again = Cannon.fit(SKY.spectra, mixed, SKY.normalization)
    assert torch.equal(again.theta, CANNON.theta)


@settings(max_examples=8)
@given(st.permutations(range(300)))
def test_the_order_of_stars_changes_nothing(order):
    again = Cannon.fit(SKY.spectra.take(np.array(order)), SKY.labels, SKY.normalization)
    torch.testing.assert_close(again.predict(ASKED).mean, CANNON.predict(ASKED).mean, rtol=0.0, atol=1e-9)
    torch.testing.assert_close(again.scatter, CANNON.scatter, rtol=0.0, atol=1e-9)
    np.testing.assert_array_equal(again.label_range.outside(ASKED), CANNON.label_range.outside(ASKED))


@settings(max_examples=10)
@given(st.lists(st.floats(1e-4, 1e4), min_size=5, max_size=5), st.floats(-100.0, 100.0))
def test_the_unit_of_a_label_changes_no_prediction(factors, zero):
    """Kelvin or kilokelvin, dex or solar units: labels are scaled before anything else."""
    unit = np.array(factors)
    labels = replace(SKY.labels, values=(SKY.labels.values / STD + zero) * unit)
    again = Cannon.fit(SKY.spectra, labels, SKY.normalization)
    asked = (ASKED / STD[:3] + zero) * unit[:3]
    torch.testing.assert_close(again.predict(asked).mean, CANNON.predict(ASKED).mean, rtol=0.0, atol=1e-9)
    torch.testing.assert_close(again.scatter, CANNON.scatter, rtol=0.0, atol=1e-9)


def test_clipped_values_are_counted():
    coeffs = SKY.spectra.coeffs.copy()
    coeffs[:4, 2] += 50.0
    spectra = replace(SKY.spectra, coeffs=coeffs)
    cannon = Cannon.fit(spectra, SKY.labels, SKY.normalization, CannonSettings(clip_sigma=7.0))
    assert cannon.counts.clipped_values == 4
    assert cannon.counts.rounds > 1


def test_a_fit_that_does_not_settle_says_so(monkeypatch, caplog):
    def restless(*args: object, **kwargs: object) -> Fit:
        return Fit(CANNON.theta, CANNON.scatter, 1, 60, converged=False)

    monkeypatch.setattr("scattervae.science.cannon.model.fit_polynomial", restless)
    SKY.fit(clip_sigma=3.0)
    assert "still changes after 60 rounds" in caplog.text


def test_too_few_stars_and_another_basis_are_errors_of_one_line():
    with pytest.raises(DataError, match=r"19 usable stars have all of teff, logg, fe_h;.*20") as error:
        Cannon.fit(SKY.spectra.take(slice(0, 19)), SKY.labels, SKY.normalization)
    assert "\n" not in str(error.value)
    with pytest.raises(DataError, match="but the model was trained on"):
        Cannon.fit(SKY.spectra, SKY.labels, Normalization.fit(lambda: [toy_sky(50).spectra]))


@pytest.mark.parametrize(
    "wrong", [{"labels": ("teff", "age")}, {"labels": ("teff", "teff")}, {"labels": ()}, {"clip_sigma": 2.0}]
)
def test_settings_refuse_what_they_do_not_know(wrong):
    with pytest.raises(ValidationError):
        CannonSettings.model_validate(wrong)


@pytest.mark.parametrize("chosen", [{}, {"labels": ("logg",), "clip_sigma": 5.0}])
def test_a_saved_cannon_predicts_bit_for_bit_as_before(tmp_path, chosen):
    cannon = cannon_sky(200, label_noise=0.05).fit(**chosen)
    cannon.save(tmp_path / "deep" / "cannon")
    back = Cannon.load(str(tmp_path / "deep" / "cannon"))
    k = len(cannon.settings.labels)
    assert [part.numpy().tobytes() for part in back.predict(ASKED[:, :k])] == [
        part.numpy().tobytes() for part in cannon.predict(ASKED[:, :k])
    ]
    for name in ("settings", "counts", "provenance"):
        assert getattr(back, name) == getattr(cannon, name)
    assert back.normalization.basis == BASIS
    inputs = back.normalization.apply(SKY.spectra)
    found, before = infer_labels(back, inputs), infer_labels(cannon, inputs)
    assert found.values.tobytes() == before.values.tobytes()
    assert found.extrapolated.tolist() == before.extrapolated.tolist()


def test_the_folder_holds_no_pickle(folder):
    assert {path.name for path in folder.iterdir()} == FILES
    assert [path.name for path in folder.parent.iterdir()] == ["cannon"]
    config = json.loads((folder / "config.json").read_text())
    assert config["settings"]["labels"] == ["teff", "logg", "fe_h"]
    assert json.loads((folder / "provenance.json").read_text())["versions"]["torch"]


def test_a_cannon_is_replaced_whole_and_nothing_else_is(folder, tmp_path):
    (folder / "stray").write_text("left by an older version")
    SKY.fit(clip_sigma=5.0).save(folder)
    assert {path.name for path in folder.iterdir()} == FILES
    other = tmp_path / "thesis"
    other.mkdir()
    with pytest.raises(CheckpointError, match="is no Cannon; nothing was removed"):
        CANNON.save(other)
    assert other.is_dir()


def test_a_cannon_stays_as_it_was_when_saving_breaks(folder, monkeypatch):
    def stop(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("scattervae.science.cannon.model.write_tensors", stop)
    with pytest.raises(KeyboardInterrupt):
        SKY.fit(clip_sigma=5.0).save(folder)
    assert torch.equal(Cannon.load(folder).theta, CANNON.theta)


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_missing_or_broken_file_is_an_error_of_one_line(folder, name):
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match=r"not the file that was written|not readable") as error:
        Cannon.load(folder)
    assert "\n" not in str(error.value)
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=f"no {name}"):
        Cannon.load(folder)


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("format", 9, "format 9, this version reads 1, 2"),
        ("settings", {"labels": ["teff"]}, "theta has shape"),
        ("settings", {"colour": 1}, "colour"),
        ("basis", {"n_bp": 3}, "n_rp"),
        ("counts", {}, "counts.given"),
    ],
)
def test_a_config_that_does_not_fit_is_an_error_of_one_line(folder, key, value, says):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, key: value}))
    signed_again(folder)
    with pytest.raises(CheckpointError, match=says) as error:
        Cannon.load(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", ["[]", "null", "3"])
def test_json_that_is_no_object_is_an_error_of_one_line(folder, content):
    (folder / "config.json").write_text(content)
    signed_again(folder)
    with pytest.raises(CheckpointError, match="holds no JSON object"):
        Cannon.load(folder)


def test_an_array_that_is_gone_is_named(folder):
    arrays = load_file(folder / "cannon.safetensors")
    del arrays["scatter"]
    save_file(arrays, folder / "cannon.safetensors")
    signed_again(folder)
    with pytest.raises(CheckpointError, match="scatter"):
        Cannon.load(folder)


def test_the_folder_of_a_scatter_vae_is_no_cannon(tmp_path):
    untrained_model(toy_sky(30).spectra).save(tmp_path / "model")
    with pytest.raises(CheckpointError, match=r"no cannon.safetensors; not the folder of a Cannon"):
        Cannon.load(tmp_path / "model")
