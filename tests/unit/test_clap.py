"""CLAP on a tiny random model: rows stand alone in train mode too, other rates and 5.1, every person's gradient its own."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mien.adapters.lora import Lora
from mien.adapters.representation import _targets
from mien.backbones import clap
from mien.backbones._binder import Absent, collate
from mien.core.errors import MienError
from mien.core.records import Signal

from .person_by_person import adapted, assert_the_same

FIVE = ("fl", "fr", "fc", "lfe", "sl", "sr")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import ClapConfig, ClapFeatureExtractor, ClapModel, PreTrainedTokenizerFast

    torch.manual_seed(0)
    made = tmp_path_factory.mktemp("weights") / "clap"
    sound = {
        "spec_size": 64, "num_mel_bins": 16, "patch_size": 4, "patch_stride": [4, 4], "patch_embeds_hidden_size": 8,
        "depths": [1, 1], "num_attention_heads": [2, 2], "hidden_size": 16, "window_size": 4, "projection_dim": 12,
    }  # fmt: skip
    words = {
        "vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
        "projection_dim": 12, "max_position_embeddings": 40, "pad_token_id": 1,
    }  # fmt: skip
    ClapModel(ClapConfig(audio_config=sound, text_config=words, projection_dim=12)).save_pretrained(made)
    ClapFeatureExtractor(
        feature_size=16, sampling_rate=16_000, hop_length=160, max_length_s=1, fft_window_size=400, frequency_max=8000
    ).save_pretrained(made)
    letters = {c: i for i, c in enumerate(["<s>", "<pad>", "</s>", "<unk>", *"abcdefghijklmnopqrstuvwxyz"])}
    inner = Tokenizer(models.WordLevel(letters, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", unk_token="<unk>").save_pretrained(made)
    return made


@pytest.fixture
def binder(folder):
    return clap.load(clap.Config(model=str(folder), tokens=20, clips=2))


def tone(hz: float, rate: float = 16_000, seconds: float = 1.5, channels: tuple[str, ...] = ("mono",)) -> Signal:
    wave = np.sin(2 * np.pi * hz * np.arange(int(seconds * rate)) / rate)
    return Signal(values=np.repeat(wave[:, None], len(channels), 1), rate_hz=rate, channels=channels, unit="au")


GIVEN = {
    "audio": [tone(300), tone(1500, 8000), tone(600, channels=FIVE)],
    "text": ["a dog", "rain falls", "somebody laughs"],
}


def rows(binder, modality):
    return collate([binder.towers[modality].prepare(s) for s in GIVEN[modality]])


@pytest.mark.parametrize("modality", ["audio", "text"])
def test_a_row_has_unit_length_and_does_not_see_the_others(binder, modality):
    inputs = rows(binder, modality)
    binder.model.train()  # its batch normalisation stays still
    made = binder.embed(binder.model, modality, inputs)
    assert made.shape == (3, 12)
    torch.testing.assert_close(made.norm(dim=1), torch.ones(3))
    assert (made[0] - made[1]).abs().max() > 1e-4
    alone = binder.embed(binder.model, modality, {k: v[:1] for k, v in inputs.items()})
    torch.testing.assert_close(alone[0], made[0], atol=1e-6, rtol=0)


def test_one_clip_is_what_transformers_makes_of_it(folder):
    from transformers import ClapFeatureExtractor, ClapModel

    binder, sound = clap.load(clap.Config(model=str(folder))), tone(300, seconds=0.7)
    ears, model = ClapFeatureExtractor.from_pretrained(folder), ClapModel.from_pretrained(folder).eval()
    heard = ears(
        sound.values[:, 0], sampling_rate=16_000, padding="repeatpad", truncation="rand_trunc", return_tensors="pt"
    )
    known = model.get_audio_features(input_features=heard["input_features"]).pooler_output
    found = binder.embed(binder.model, "audio", collate([binder.towers["audio"].prepare(sound)]))
    torch.testing.assert_close(found, known, atol=1e-5, rtol=0)


def test_slow_sound_is_the_same_sound(binder):
    one, two = (binder.towers["audio"].prepare(tone(300, rate)) for rate in (16_000, 8000))
    found = binder.embed(binder.model, "audio", collate([one, two]))
    assert found[0] @ found[1] > 0.98


def test_five_channels_are_mixed_by_name():
    values = np.zeros((10, 6), np.float32)
    values[:, 3] = 1.0  # the effects channel alone
    assert np.all(clap.mono(Signal(values=values, rate_hz=10, channels=FIVE, unit="au")) == 0)
    values[:] = 1.0
    assert np.allclose(clap.mono(Signal(values=values, rate_hz=10, channels=FIVE, unit="au")), 1)  # and does not clip
    values[:] = [1, 0, 0, 0, 0, 0]
    turned = Signal(values=values[:, ::-1], rate_hz=10, channels=("RS", "LS", "LFE", "C", "R", "L"), unit="au")
    assert np.allclose(clap.mono(turned), 2**-0.5 / (2 * 2**-0.5 + 1 + 2 * 0.5))


@pytest.mark.parametrize("modality", ["audio", "text"])
def test_gradients_of_persons_are_those_of_one_at_a_time(binder, modality):
    targets = _targets(binder, [modality], Lora(rank=2))
    assert not any("audio_model" in t and ".attention." in t for t in targets)
    model = adapted(binder.model, targets)
    inputs = {k: v.double() if v.is_floating_point() else v for k, v in rows(binder, modality).items()}
    away = torch.randn(12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert_the_same(
        model, lambda keep: binder.embed(model, modality, {k: v[keep] for k, v in inputs.items()}) @ away,
        torch.tensor([0, 1, 0]),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("stream", "says", "kind"),
    [
        ("words", "takes a signal", MienError),
        (tone(300, seconds=0.01), "shorter than one frame", MienError),
        (tone(300, channels=("a", "b", "c")), "name those of 5.1", MienError),
        (
            Signal(values=np.ones((9, 1)), rate_hz=9, channels=("m",), unit="au", valid=np.zeros(9, bool)),
            "empty",
            Absent,
        ),
    ],
)
def test_sound_that_cannot_be_taken(binder, stream, says, kind):
    with pytest.raises(kind, match=says):
        binder.towers["audio"].prepare(stream)


def test_what_cannot_be_loaded_is_named(tmp_path):
    with pytest.raises(MienError, match="cannot load CLAP"):
        clap.load(clap.Config(model=str(tmp_path)))
