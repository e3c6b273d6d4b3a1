import json
import math
import os
import pickle
import re
import shutil
import stat
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from scattervae.errors import CheckpointError, DataError
from scattervae.files import DIGESTS, read_tensors, software_versions, write_tensors
from scattervae.model.checkpoint import (
    Checkpoint,
    Encoded,
    EpochRecord,
    read_checkpoint,
    read_records,
    write_records,
)
from scattervae.model.network import NetworkShape
from scattervae.model.recipe import Recipe
from scattervae.model.run import train
from scattervae.spectra.normalization import Inputs, NormalizationSettings
from scattervae.spectra.spectra import Basis, Flag, Spectra, rechunk
from toy import DR3, SMALL, SPOILED, signed_again, spoiled, toy_recipe, toy_sky, untrained_model

SKY = toy_sky(60)
DR3_SKY = toy_sky(300, basis=DR3)
MODEL = train(SKY.spectra, toy_recipe(epochs=3))
FILES = {
    "config.json",
    "weights.safetensors",
    "normalization.safetensors",
    "provenance.json",
    "training.jsonl",
    "training_stars.safetensors",
    "digests.json",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    MODEL.save(tmp_path / "model")
    return tmp_path / "model"


def bits(model: Checkpoint, spectra: Spectra) -> list[bytes]:
    """All that the model says of the stars, down to the last bit."""
    (encoded,) = model.encode_batches([spectra])
    parts = [*encoded.posterior, *encoded.reconstruction, encoded.inputs.x, encoded.inputs.errors]
    return [part.numpy().tobytes() for part in parts if part is not None]


@settings(max_examples=15)
@given(
    st.builds(
        NetworkShape,
        n_latent=st.integers(1, 4),
        hidden=st.lists(st.integers(1, 9), min_size=1, max_size=3).map(tuple) | st.just((8, 8)),
        encoder_sees=st.sampled_from(["coefficients", "errors"]),
        posterior=st.sampled_from(["independent", "correlated"]),
        scatter_link=st.sampled_from(["softplus", "exp", "sigmoid"]),
        scatter_floor=st.floats(1e-6, 0.1),
    ),
    st.builds(NormalizationSettings, n_bp=st.integers(1, 6) | st.none(), clip_sigma=st.just(3.0) | st.none()),
    st.sampled_from([SMALL, Basis(6, 5, bp_id=56), Basis(6, 5, bp_id=56, rp_id=57)]),
)
def test_a_saved_model_encodes_bit_for_bit_as_before(tmp_path_factory, shape, normalization, basis):
    spectra = toy_sky(12, basis=basis).spectra
    model = untrained_model(spectra, Recipe(name="any", network=shape, normalization=normalization))
    path = tmp_path_factory.mktemp("models") / "model"
    model.save(path)
    back = read_checkpoint(path)
    assert bits(back, spectra) == bits(model, spectra)
    assert (back.recipe, back.digest, back.normalization.basis) == (model.recipe, model.digest, basis)


def test_a_trained_model_comes_back_with_all_that_was_known_of_it(folder):
    back = read_checkpoint(str(folder))
    assert back.recipe == MODEL.recipe
    assert back.records == MODEL.records
    assert back.provenance == MODEL.provenance
    for name in ("basis", "n_stars", "n_g_flux_from_table"):
        assert getattr(back.normalization, name) == getattr(MODEL.normalization, name)
    for name in ("columns", "mean", "std"):
        np.testing.assert_array_equal(getattr(back.normalization, name), getattr(MODEL.normalization, name))
    assert bits(back, SKY.spectra) == bits(MODEL, SKY.spectra)
    assert not back.network.training
    assert back.n_latent == 3


def test_the_folder_holds_no_pickle(folder):
    assert {path.name for path in folder.iterdir()} == FILES
    for path in folder.iterdir():
        content = path.read_bytes()
        if path.suffix == ".json":
            json.loads(content)
        if path.suffix == ".jsonl":
            assert [json.loads(line)["epoch"] for line in content.splitlines()] == [1, 2, 3]
        if path.suffix == ".safetensors":
            header = int.from_bytes(content[:8], "little")
            assert isinstance(json.loads(content[8 : 8 + header]), dict)


def test_the_config_says_what_the_network_is_without_its_weights(folder):
    config = json.loads((folder / "config.json").read_text())
    assert config["basis"] == {"n_bp": 6, "n_rp": 5, "bp_id": None, "rp_id": None}
    assert config["n_coeffs"] == 11
    assert config["recipe"] == MODEL.recipe.model_dump(mode="json")


def test_a_model_is_replaced_whole(folder):
    (folder / "stray").write_text("left by an older version")
    other = untrained_model(SKY.spectra)
    other.save(folder)
    assert {path.name for path in folder.iterdir()} == FILES - {
        "training_stars.safetensors"
    }  # it was never trained
    assert read_checkpoint(folder).digest == other.digest
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_a_model_stays_as_it_was_when_saving_breaks(folder, monkeypatch):
    def stop(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    other = untrained_model(SKY.spectra)
    with monkeypatch.context() as patch:
        patch.setattr("scattervae.model.checkpoint.write_records", stop)
        with pytest.raises(KeyboardInterrupt):
            other.save(folder)
    assert read_checkpoint(folder).digest == MODEL.digest
    MODEL.save(folder)
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_a_model_is_there_whole_wherever_saving_over_it_is_killed(folder, monkeypatch):
    """The folder's renaming is tested step by step in test_folders; here the worst step, between two renamings."""

    def die(self: Path, target: Path) -> None:
        if self.name.endswith(".saving"):
            raise KeyboardInterrupt
        real(self, target)

    real = Path.rename
    other = untrained_model(SKY.spectra)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", die)
        with pytest.raises(KeyboardInterrupt):
            other.save(folder)
    assert not folder.exists()
    assert Checkpoint.is_model(folder)
    assert read_checkpoint(folder).digest == MODEL.digest
    other.save(folder)
    assert read_checkpoint(folder).digest == other.digest
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def check_refused(folder: Path, match: str) -> None:
    with pytest.raises(CheckpointError, match=match) as caught:
        read_checkpoint(folder)
    message = str(caught.value)
    assert "\n" not in message
    assert str(folder) in message


def test_a_folder_that_is_no_model_is_refused(tmp_path):
    check_refused(tmp_path, "not the folder of a trained model")
    check_refused(tmp_path / "nowhere", "not the folder of a trained model")
    assert not Checkpoint.is_model(tmp_path)


@pytest.mark.parametrize("name", sorted(FILES - {"training.jsonl", "training_stars.safetensors"}))
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    check_refused(folder, f"no {name}")


def test_a_model_without_its_training_log_still_works(folder):
    (folder / "training.jsonl").unlink()
    check_refused(folder, "training.jsonl: is missing")
    signed_again(folder)
    assert read_checkpoint(folder).records == ()


BROKEN = [
    (name, content)
    for name in sorted(FILES)
    for content in (b"", b"torn", b"\xff\xfe", b"[]", b"null", b"{}", b'{"a": 1}')
    if (name, content) != ("training.jsonl", b"")  # no line is no epoch
    and (name, content[:1]) != ("provenance.json", b"{")  # any object is a provenance
]


@pytest.mark.parametrize(("name", "content"), BROKEN)
def test_a_broken_file_is_refused_in_one_line(folder, name, content):
    (folder / name).write_bytes(content)
    check_refused(folder, re.escape(name))
    if name != DIGESTS:
        signed_again(folder)
        check_refused(folder, re.escape(name))


@pytest.mark.parametrize("name", ["weights.safetensors", "normalization.safetensors"])
def test_a_torn_file_is_refused_in_one_line(folder, name):
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) // 2])
    check_refused(folder, "not the file that was written")
    signed_again(folder)
    check_refused(folder, "not readable")


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_flipped_bit_of_any_file_is_noticed(folder, name):
    content = (folder / name).read_bytes()
    for place in np.random.default_rng(0).integers(len(content), size=15):
        flipped = bytearray(content)
        flipped[place] ^= 1
        (folder / name).write_bytes(flipped)
        with pytest.raises(CheckpointError, match=re.escape(str(folder))):
            read_checkpoint(folder)


@pytest.mark.parametrize("name", ["weights.safetensors", "normalization.safetensors"])
def test_a_flipped_bit_of_tensors_is_noticed_without_the_folders_digests(folder, name):
    content = (folder / name).read_bytes()
    header = int.from_bytes(content[:8], "little") + 8
    for place in np.random.default_rng(0).integers(header, len(content), size=15):
        flipped = bytearray(content)
        flipped[place] ^= 1
        (folder / name).write_bytes(flipped)
        signed_again(folder)
        check_refused(folder, "damaged")


@pytest.mark.parametrize("name", ["weights.safetensors", "normalization.safetensors", "config.json"])
def test_a_file_of_another_model_of_the_same_shape_is_refused_by_name(folder, tmp_path, name):
    train(toy_sky(60, seed=5).spectra, toy_recipe(epochs=2)).save(tmp_path / "other")
    shutil.copy(tmp_path / "other" / name, folder / name)
    check_refused(folder, rf"{re.escape(name)}: not the file that was written here")


def test_equal_models_are_equal_bytes_with_the_mode_that_the_user_asks_for(folder, tmp_path):
    before = os.umask(0o027)
    try:
        MODEL.save(tmp_path / "again")
    finally:
        os.umask(before)
    for file in folder.iterdir():
        assert (tmp_path / "again" / file.name).read_bytes() == file.read_bytes()
        assert stat.S_IMODE((tmp_path / "again" / file.name).stat().st_mode) == 0o640


def test_a_new_setting_with_a_default_changes_no_digest():
    class Newer(NetworkShape):
        colour: str = "red"

    network = Newer(**MODEL.recipe.network.model_dump())
    newer = replace(MODEL, recipe=MODEL.recipe.model_copy(update={"network": network}))
    assert newer.digest == MODEL.digest
    other = network.model_copy(update={"colour": "blue"})
    assert replace(MODEL, recipe=MODEL.recipe.model_copy(update={"network": other})).digest != MODEL.digest


STORED = Path(__file__).parent.parent / "fixtures" / "models"


@pytest.mark.parametrize(
    ("version", "digest"),
    [("v1", "104a9ef46c571dd9f2158d8c03df46ea"), ("v2", "104a9ef46c571dd9f2158d8c03df46ea")],
)
def test_models_of_every_format_are_read_for_ever(version, digest):
    """Trained on toy stars; their digests and what they say of three stars are as on the day of writing."""
    model = read_checkpoint(STORED / version)
    assert model.digest == digest
    expected = json.loads((STORED / "v1.json").read_text())
    star, coeff = torch.arange(3)[:, None], torch.arange(9)[None]
    answer = model.predict(Inputs(torch.sin(star * 9.0 + coeff), 0.05 + 0.01 * ((star + coeff) % 4)))
    mean, scatter = answer.reconstruction
    found = {**answer.posterior._asdict(), "coefficients": mean, "scatter": scatter}
    for name, values in expected.items():
        np.testing.assert_allclose(found[name].reshape(3, -1), values, rtol=1e-5, atol=1e-6, err_msg=name)


def test_default_settings_of_the_network_never_change():
    """They are what `Checkpoint.digest` leaves out."""
    assert NetworkShape().model_dump(mode="json") == {
        "n_latent": 6,
        "hidden": [80, 50, 30],
        "layers": "plain",
        "encoder_sees": "coefficients",
        "posterior": "independent",
        "scatter_link": "softplus",
        "scatter_floor": 1e-4,
        "log_variance_limits": [-12.0, 6.0],
    }


def change_config(folder: Path, **changes: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    signed_again(folder)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"format": 99}, "format 99, this version reads 1, 2"),
        ({"format": None}, "format None"),
        ({"format": True}, "format True"),
        ({"n_coeffs": 12}, "11 coefficients.*12"),
        ({"n_coeffs": "eleven"}, "n_coeffs"),
        ({"n_coeffs": -1}, "n_coeffs"),
        ({"basis": {"n_bp": 6}}, "n_rp"),
        ({"basis": {"n_bp": 6, "n_rp": 3}}, "columns are rising numbers from 0 to below 9"),
        ({"basis": None}, "basis"),
        ({"recipe": None}, "recipe"),
        ({"recipe": {"name": "\x1b[2Jred"}}, "control characters"),
        ({"recipe": {"name": "wide", "network": {"hidden": [60_000] * 3}}}, "do not fit each other"),
        ({"recipe": {"name": "wide", "network": {"hidden": [10**30]}}}, "make no network"),
        ({"recipe": {"name": "a", "colour": 1}}, "colour"),
        ({"recipe": {"name": "a", "network": {"n_latent": 0}}}, "n_latent"),
    ],
)
def test_a_config_that_does_not_fit_is_refused_in_one_line(folder, changes, match):
    change_config(folder, **changes)
    check_refused(folder, match)


def test_weights_of_another_shape_are_refused_in_one_line(folder):
    recipe = MODEL.recipe.model_copy(update={"network": NetworkShape(n_latent=2, hidden=(4, 3, 2))})
    untrained_model(SKY.spectra, recipe).save(folder.parent / "other")
    (folder / "weights.safetensors").write_bytes(
        (folder.parent / "other" / "weights.safetensors").read_bytes()
    )
    signed_again(folder)
    check_refused(folder, "do not fit")


def test_a_weight_more_or_less_is_refused_in_one_line(folder):
    weights = load_file(folder / "weights.safetensors")
    save_file({**weights, "decoder.9.weight": torch.zeros(2)}, folder / "weights.safetensors")
    signed_again(folder)
    check_refused(folder, r"decoder\.9\.weight")
    save_file({n: w for n, w in weights.items() if n != "encoder.0.bias"}, folder / "weights.safetensors")
    signed_again(folder)
    check_refused(folder, r"encoder\.0\.bias")


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_no_numbers_are_refused(folder, value):
    weights = load_file(folder / "weights.safetensors")
    weights["decoder.0.bias"][1] = value
    save_file(weights, folder / "weights.safetensors")
    signed_again(folder)
    check_refused(folder, r"1 of \d+ numbers in 'decoder\.0\.bias' are not finite")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"std": np.zeros(11)}, "standard deviations above 0"),
        ({"mean": np.zeros(7)}, "one shape"),
        ({"mean": np.full(11, np.nan)}, "means are finite"),
        ({"mean": np.zeros(11, np.float32)}, "float64"),
        ({"columns": np.arange(11) - 3}, "rising numbers from 0"),
        ({"columns": np.arange(11) + 3}, "rising numbers from 0"),
        ({"columns": np.zeros(11, np.int64)}, "rising numbers from 0"),
    ],
)
def test_a_normalization_that_cannot_be_is_refused(folder, change, match):
    stored = read_tensors(folder / "normalization.safetensors")
    write_tensors(stored.path, stored.arrays | change, stored.notes)
    signed_again(folder)
    check_refused(folder, match)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("[" * 100_000, "not readable as JSON"),
        ('{"a": ' * 100_000, "not readable as JSON"),
        ('{"training": {"kl_per_latent": "much"}}', "kl_per_latent"),
        ('{"versions": {"torch": 2}}', "versions.torch"),
        ('{"data": []}', "data"),
        ('{"credit": "\\u001b]0;gone\\u0007"}', "control characters"),
    ],
)
def test_a_provenance_that_cannot_be_is_refused(folder, content, match):
    (folder / "provenance.json").write_text(content)
    signed_again(folder)
    check_refused(folder, match)


def test_the_normalization_of_another_model_is_refused_in_one_line(folder):
    fewer = toy_recipe().model_copy(update={"normalization": NormalizationSettings(n_bp=3)})
    untrained_model(SKY.spectra, fewer).save(folder.parent / "other")
    name = "normalization.safetensors"
    (folder / name).write_bytes((folder.parent / "other" / name).read_bytes())
    signed_again(folder)
    check_refused(folder, "8 coefficients.*11")


@pytest.mark.parametrize("basis", [Basis(6, 6), Basis(5, 6), Basis(51, 55)])
def test_stars_of_another_basis_are_refused_in_one_line(basis):
    with pytest.raises(DataError, match=r"trained on 6 BP \+ 5 RP") as caught:
        MODEL.encode(toy_sky(5, basis=basis).spectra)
    assert "\n" not in str(caught.value)


def joined(parts: list[Encoded]) -> list[torch.Tensor]:
    columns = zip(
        *[(*p.posterior[:2], *p.reconstruction, p.inputs.x, p.inputs.errors) for p in parts], strict=True
    )
    return [torch.cat(column) for column in columns]


PAPER_SIZED = untrained_model(DR3_SKY.spectra, Recipe(name="paper_sized"))
EXPECTED = joined(list(PAPER_SIZED.encode_batches([DR3_SKY.spectra])))


@settings(max_examples=10)
@given(st.randoms())
def test_the_order_of_stars_changes_no_bit(random):
    order = np.array(random.sample(range(300), 300))
    found = joined(list(PAPER_SIZED.encode_batches([DR3_SKY.spectra.take(order)])))
    for one, other in zip(found, EXPECTED, strict=True):
        assert torch.equal(one, other[torch.from_numpy(order)])


@pytest.mark.parametrize("n_threads", [1, 2])
def test_the_order_of_stars_changes_no_bit_with_any_number_of_threads(n_threads):
    before = torch.get_num_threads()
    torch.set_num_threads(n_threads)
    try:
        forwards = PAPER_SIZED.encode(DR3_SKY.spectra)
        backwards = PAPER_SIZED.encode(DR3_SKY.spectra.take(slice(None, None, -1)))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(forwards.mean, backwards.mean.flip(0))
    assert torch.equal(forwards.log_variance, backwards.log_variance.flip(0))


@settings(max_examples=10)
@given(st.integers(1, 400))
def test_the_size_of_chunks_changes_no_bit(rows):
    chunks = rechunk([DR3_SKY.spectra], rows)
    found = joined(list(PAPER_SIZED.encode_batches(chunks)))
    assert all(torch.equal(one, other) for one, other in zip(found, EXPECTED, strict=True))


@settings(max_examples=10)
@given(st.integers(1, 300))
def test_how_many_stars_come_together_changes_no_bit(n):
    posterior = PAPER_SIZED.encode(DR3_SKY.spectra.take(slice(0, n)))
    assert torch.equal(posterior.mean, EXPECTED[0][:n])
    assert torch.equal(posterior.log_variance, EXPECTED[1][:n])


@pytest.mark.parametrize("batch", [3, 64, 300, 1024])
def test_the_size_of_batches_changes_latents_by_rounding_alone(batch):
    parts = list(PAPER_SIZED.encode_batches([DR3_SKY.spectra], batch=batch))
    assert [len(part.spectra) for part in parts[:-1]] == [batch] * (len(parts) - 1)
    for one, other in zip(joined(parts), EXPECTED, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)  # the project's law: less than 1e-5


def test_stars_that_cannot_be_encoded_are_nan_and_leave_others_alone():
    posterior = PAPER_SIZED.encode(spoiled(DR3_SKY.spectra))
    unknown = [flag not in (Flag(0), Flag.DUPLICATE) for flag in SPOILED] + [False] * 293
    assert posterior.mean[unknown].isnan().all()
    assert posterior.log_variance[unknown].isnan().all()
    known = ~torch.tensor(unknown)
    assert torch.equal(posterior.mean[known], EXPECTED[0][known])
    assert torch.equal(posterior.log_variance[known], EXPECTED[1][known])


def test_no_stars_have_no_latents():
    posterior = MODEL.encode(SKY.spectra.take(slice(0, 0)))
    assert posterior.mean.shape == posterior.log_variance.shape == (0, 3)
    assert list(MODEL.encode_batches([])) == []


def test_batches_carry_the_stars_they_speak_of():
    parts = list(MODEL.encode_batches([SKY.spectra], batch=25))
    ids = np.concatenate([part.spectra.source_id for part in parts])
    np.testing.assert_array_equal(ids, SKY.spectra.source_id)
    for part in parts:
        torch.testing.assert_close(part.inputs.x, MODEL.normalization.apply(part.spectra).x, rtol=0, atol=0)
        torch.testing.assert_close(MODEL.reconstruct(part.posterior.mean).mean, part.reconstruction.mean)


def test_encoding_is_the_network_on_the_normalised_coefficients():
    """By hand with matrix products in float64, layer by layer, and GELU by the error function."""
    values = torch.from_numpy(SKY.spectra.coeffs / SKY.spectra.g_flux[:, None])
    x = (values - torch.from_numpy(MODEL.normalization.mean)) / torch.from_numpy(MODEL.normalization.std)
    weights = {name: w.double() for name, w in MODEL.network.state_dict().items()}
    for index in (0, 2, 4):
        x = x @ weights[f"encoder.{index}.weight"].T + weights[f"encoder.{index}.bias"]
        if index < 4:
            x = 0.5 * x * (1.0 + torch.erf(x / 2**0.5))
    torch.testing.assert_close(
        MODEL.encode(SKY.spectra).mean.double(), x[:, :3], atol=1e-5, rtol=0
    )  # float32
    torch.testing.assert_close(MODEL.encode(SKY.spectra).log_variance.double(), x[:, 3:], atol=1e-5, rtol=0)


def test_answers_need_no_gradient():
    assert not MODEL.encode(SKY.spectra).mean.requires_grad
    assert not MODEL.reconstruct(torch.zeros(2, 3)).scatter.requires_grad
    for _ in MODEL.encode_batches([SKY.spectra], batch=25):
        assert torch.is_grad_enabled()  # the caller's own arithmetic between batches keeps its gradients


def test_the_digest_sees_weights_and_normalization():
    same = replace(MODEL, provenance={"other": "words"})
    moved = replace(MODEL.normalization, mean=MODEL.normalization.mean + 1e-12)
    digests = [MODEL.digest, replace(MODEL, normalization=moved).digest, untrained_model(SKY.spectra).digest]
    assert same.digest == MODEL.digest
    assert len(set(digests)) == 3


def test_versions_are_those_that_run():
    assert software_versions()["torch"] == torch.__version__
    assert software_versions()["numpy"] == np.__version__


def test_a_model_can_be_sent_to_another_process():
    sent = pickle.loads(pickle.dumps(PAPER_SIZED))
    assert sent.digest == PAPER_SIZED.digest
    assert bits(sent, DR3_SKY.spectra) == bits(PAPER_SIZED, DR3_SKY.spectra)


def test_dask_separates_models_by_what_is_in_them():
    pytest.importorskip("dask", reason="Dask is not installed")
    from dask.tokenize import tokenize

    same = replace(MODEL, provenance={"other": "words"})
    assert tokenize(MODEL, ensure_deterministic=True) == tokenize(same, ensure_deterministic=True)
    assert tokenize(MODEL) != tokenize(untrained_model(SKY.spectra))


def test_values_of_other_types(folder):
    checkpoint = read_checkpoint(str(folder))
    z = np.zeros((2, checkpoint.n_latent))
    torch.testing.assert_close(
        checkpoint.reconstruct(z).mean, checkpoint.reconstruct(torch.zeros(2, z.shape[1])).mean
    )
    with pytest.raises(TypeError, match=r"encode takes Spectra, not (Posix)?Path; scattervae.load"):
        checkpoint.encode.__wrapped__(checkpoint, folder)


def test_records_come_back_as_they_were(tmp_path):
    records = [EpochRecord(n, 0.1 * n, 1 / 3, -2e-17, 1e300, -0.0, 5e-3) for n in (1, 2, 3)]
    write_records(tmp_path / "training.jsonl", records)
    assert read_records(tmp_path / "training.jsonl") == tuple(records)
    lines = (tmp_path / "training.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [asdict(record) for record in records]
