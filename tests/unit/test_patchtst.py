"""PatchTST on tiny random models that transformers saved: its own numbers, rows alone, gaps, weights that do not fit, gradients."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import PatchTSTConfig, PatchTSTForPrediction, PatchTSTForPretraining, PatchTSTModel

from mien.adapters.lora import Lora
from mien.adapters.representation import _targets
from mien.backbones import patchtst
from mien.backbones._binder import Absent, collate
from mien.core.errors import MienError
from mien.core.records import Signal

from .person_by_person import adapted, assert_the_same

SHAPE = {
    "context_length": 32, "patch_length": 8, "patch_stride": 8, "d_model": 16, "num_hidden_layers": 2,
    "num_attention_heads": 2, "ffn_dim": 24, "prediction_length": 4,
}  # fmt: skip
SIGNALS = {"acc": {"channels": 3, "low": -4.0, "high": 4.0}, "eda": {"channels": 1, "low": 0.0, "high": 20.0}}


def saved(place, kind=PatchTSTForPrediction, **shape):
    torch.manual_seed(0)
    model = kind(PatchTSTConfig(**{**SHAPE, "num_input_channels": 7, **shape})).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm1d):  # as if it had been trained
            module.running_mean = torch.rand(len(module.weight)) - 0.5
            module.running_var = torch.rand(len(module.weight)) + 0.5
    model.save_pretrained(place)
    return place


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("weights") / "patchtst")


def loaded(place, **more):
    return patchtst.load(patchtst.Config.model_validate({"model": str(place), "signals": SIGNALS, "dim": 12, **more}))


@pytest.fixture
def binder(folder):
    return loaded(folder)


def moved(hz=1.0, rate=32.0, seconds=4.0, level=0.0, valid=None, channels=("x", "y", "z")) -> Signal:
    t = (np.arange(round(rate * seconds)) + 0.5) / rate
    values = np.stack([level + np.sin(2 * np.pi * hz * t + i) for i in range(len(channels))], 1)
    return Signal(values=values, rate_hz=rate, channels=channels, unit="g", valid=valid)


def rows(binder, *signals):
    return collate([binder.towers["acc"].prepare(s) for s in signals])


GIVEN = (moved(1), moved(0.5, 50, level=0.7), moved(2, 100, seconds=2))


def test_a_row_has_unit_length_and_does_not_see_the_others(binder):
    inputs = rows(binder, *GIVEN)
    binder.model.train()  # its batch normalisation stays still
    made = binder.embed(binder.model, "acc", inputs)
    assert made.shape == (3, 12)
    torch.testing.assert_close(made.norm(dim=1), torch.ones(3))
    assert (made[0] - made[1]).abs().max() > 1e-3
    alone = binder.embed(binder.model, "acc", {k: v[:1] for k, v in inputs.items()})
    torch.testing.assert_close(alone[0], made[0], atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", [PatchTSTForPrediction, PatchTSTForPretraining, PatchTSTModel])
@pytest.mark.parametrize("cls", [False, True])
def test_channels_are_what_transformers_makes_of_them(tmp_path, kind, cls):
    """All channels at once through transformers' own model: the mean of its patches, each channel's level and spread beside."""
    place = saved(tmp_path / "weights", kind, use_cls_token=cls)
    binder = loaded(place)
    inputs = rows(binder, *GIVEN)
    config = PatchTSTConfig.from_pretrained(place, num_input_channels=3, do_mask_input=False)
    theirs = PatchTSTModel.from_pretrained(place, config=config).eval()
    with torch.no_grad():
        state = theirs(past_values=inputs["values"]).last_hidden_state[:, :, int(cls) :]
        pooled = torch.nn.functional.layer_norm(state.mean(2), (16,))  # [B, C, d]
        x = inputs["values"]
        beside = torch.stack([x.mean(1), (x.var(1, correction=0) + 1e-6).sqrt().log10() + 1.5], -1) * 8**0.5
        whole = torch.cat([pooled, beside], -1).flatten(1) @ binder.model.towers["acc"].join.weight.T
        found = binder.embed(binder.model, "acc", inputs)
    torch.testing.assert_close(found, whole / whole.norm(dim=1, keepdim=True), atol=1e-5, rtol=0)


def test_the_same_movement_at_any_rate_is_much_the_same(binder):
    found = binder.embed(binder.model, "acc", rows(binder, *(moved(0.5, r) for r in (16, 32, 50, 200)), moved(2, 32)))
    near = found @ found[1]
    assert near[[0, 2, 3]].min() > 0.99 > near[4]


def test_what_was_not_measured_is_not_read(binder):
    valid = np.ones(128, bool)
    valid[40:72] = False
    one = moved(1, valid=valid)
    values = one.values.copy()
    values[40:72] = 1e6
    values[50] = np.nan
    other = Signal(values=values, rate_hz=32.0, channels=one.channels, unit="g", valid=valid)
    inputs = rows(binder, one, other, moved(1))
    assert all(torch.equal(v[0], v[1]) for v in inputs.values())
    spoilt = {**inputs, "values": torch.where(inputs["there"][..., None] > 0, inputs["values"], 7.0)}
    made, again = (binder.embed(binder.model, "acc", i) for i in (inputs, spoilt))
    torch.testing.assert_close(again, made, atol=1e-6, rtol=0)
    assert (made[0] - made[2]).abs().max() > 1e-4
    with pytest.raises(Absent, match="no sample"):
        binder.towers["acc"].prepare(moved(1, valid=np.zeros(128, bool)))


def test_a_missing_stream_leaves_finite_zeros(binder):
    blank = {k: torch.zeros_like(v) for k, v in rows(binder, moved()).items()}
    assert binder.embed(binder.model, "acc", blank).isfinite().all()


@pytest.mark.parametrize("norm", ["batchnorm", "layernorm"])
def test_gradients_of_persons_are_those_of_one_at_a_time(tmp_path, norm):
    binder = loaded(saved(tmp_path / "weights", norm_type=norm))
    targets = _targets(binder, ["acc"], Lora(rank=2))
    assert {t.rpartition(".")[2] for t in targets} >= {"q_proj", "k_proj", "v_proj", "out_proj", "join"}
    assert not any("towers.eda" in t for t in targets)
    model = adapted(binder.model, targets)
    valid = np.arange(128) > 50
    inputs = {k: v.double() for k, v in rows(binder, *GIVEN, moved(3, valid=valid)).items()}
    away = torch.randn(12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert_the_same(
        model, lambda keep: binder.embed(model, "acc", {k: v[keep] for k, v in inputs.items()}) @ away,
        torch.tensor([0, 1, 0, 2]),
    )  # fmt: skip


def test_attention_of_the_last_block_alone(binder):
    found = _targets(binder, ["eda"], Lora(rank=2, layers=1, targets="attention"))
    here = "towers.eda.encoder.encoder.layers.1.self_attn"
    assert found == [f"{here}.{n}_proj" for n in ("k", "out", "q", "v")]


def test_all_tensors_that_do_not_fit_are_named(folder, tmp_path):
    tensors = load_file(folder / "model.safetensors")
    lost = [n for n in tensors if n.endswith(("q_proj.bias", "v_proj.bias"))]
    for name in lost:
        del tensors[name]
    tensors["model.encoder.layers.0.ff.0.weight"] = torch.zeros(25, 16)
    tensors["model.encoder.layers.7.ff.0.weight"] = torch.zeros(24, 16)
    place = tmp_path / "weights"
    place.mkdir()
    (place / "config.json").write_text((folder / "config.json").read_text())
    save_file(tensors, place / "model.safetensors", {"format": "pt"})
    with pytest.raises(MienError) as error:
        loaded(place)
    for name in [*lost, "model.encoder.layers.7.ff.0.weight"]:
        assert name.removeprefix("model.") in str(error.value)
    assert "encoder.layers.0.ff.0.weight ([25, 16] for [24, 16])" in str(error.value)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"channel_attention": True}, "channels would see each other"),
        ({"share_embedding": False}, "share_embedding"),
        ({"scaling": "mean"}, "rows would see each other"),
        ({"context_length": 8}, "no longer than a patch"),
        ({"model_type": "bert"}, "is a bert"),
        ({"model_type": None}, "no configuration"),
    ],
)
def test_a_configuration_that_cannot_be_a_tower(folder, tmp_path, change, says):
    raw = json.loads((folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**raw, **change}))
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    with pytest.raises(MienError, match=says):
        loaded(tmp_path)


def test_pickled_weights_are_not_read(folder, tmp_path):
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    torch.save(load_file(folder / "model.safetensors"), tmp_path / "pytorch_model.bin")
    with pytest.raises(MienError, match="cannot load the time-series encoder"):
        loaded(tmp_path)


def test_streams_that_cannot_be_taken(binder):
    with pytest.raises(MienError, match="takes a signal"):
        binder.towers["acc"].prepare("words")
    with pytest.raises(MienError, match=r"1 channels, and backbone\.signals says 3"):
        binder.towers["acc"].prepare(moved(channels=("x",)))
