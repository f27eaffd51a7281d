"""The codecs of sound: prosody comes back at the right pitch, loudness and time; pretrained codecs stay frozen and exact."""

from __future__ import annotations

import json
import shutil
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mien.core import runs
from mien.core.config import Plugin
from mien.core.errors import MienError
from mien.core.records import CohortCard, Signal, StreamSpec
from mien.data import voice
from mien.generation.adapted import layout_of
from mien.generation.codecs import audio_codec, audio_features
from mien.generation.grammar import Grammar
from mien.generation.layout import Layout
from mien.generation.vocabulary import BOS, EOS, FIRST_CODEC, LABEL_0, STREAM_0


def spoken(seed: int, seconds: float, rate: float) -> tuple[np.ndarray, np.ndarray]:
    """An invented voice [T] and its true pitch in Hz, 0 where it is unvoiced: phrases that rise and fall, hisses, pauses."""
    rng, n = np.random.default_rng(seed), round(seconds * rate)
    t = np.arange(n) / rate
    base = rng.uniform(90, 220)
    pitch = base * 2 ** (0.25 * np.sin(2 * np.pi * rng.uniform(0.3, 0.6) * t + rng.uniform(0, 6)))
    part = np.floor((t + 0.05) / 0.6).astype(int)  # parts of 0.6 s: two voiced, a hiss, a pause
    kind = part % 4
    voiced, hiss = kind <= 1, kind == 2
    phase = 2 * np.pi * np.cumsum(pitch) / rate
    x = np.zeros(n)
    for k in range(1, int(min(3800, rate / 2.2) / pitch.max())):
        hz = k * base
        tone = 1 / (1 + ((hz - 600) / 250) ** 2) + 0.4 / (1 + ((hz - 1700) / 300) ** 2) + 0.02
        x += tone * np.cos(k * phase + rng.uniform(0, 6))
    noise = np.diff(rng.standard_normal(n + 1))  # rises with frequency
    loud = 0.12 * (1 + 0.6 * np.sin(2 * np.pi * 0.7 * t))
    x = loud * (voiced * x / np.std(x) + 0.25 * hiss * noise) + 1e-5 * rng.standard_normal(n)
    return np.clip(x, -1, 1), np.where(voiced, pitch, 0.0)


def codec(seconds: float, rate: float = 16000.0, **config) -> audio_features.Codec:
    return audio_features.Codec(audio_features.Config(**config), {"voice": spec(rate)}, seconds)


def spec(rate: float, channels=("sound",), span=(-1.0, 1.0)) -> StreamSpec:
    return StreamSpec(channels=channels, unit="full scale", rate_hz=rate, range=span)


def signal(x: np.ndarray, rate: float, valid=None) -> Signal:
    return Signal(values=x[:, None], rate_hz=rate, channels=("sound",), unit="full scale", valid=valid)


def back(c: audio_features.Codec, x: np.ndarray) -> np.ndarray:
    (block,) = c.encode([{"voice": signal(x, c.spec.rate_hz)}])
    assert not isinstance(block, str)
    assert len(block) == c.machine.length
    size = FIRST_CODEC + sum(audio_features.TOKENS.values())
    grammar = Grammar.of(classes=1, blocks=[(c.machine, FIRST_CODEC)], size=size)
    assert grammar.accepts([BOS, LABEL_0, STREAM_0, *(block + FIRST_CODEC), EOS])
    y = c.decode(block)["voice"]
    assert isinstance(y, Signal)
    assert y.values.shape == (len(x), 1)
    return y.values[:, 0].astype(float)


def truth(c: audio_features.Codec, pitch: np.ndarray) -> np.ndarray:
    """The middle pitch of each frame; nan where only part of it is voiced."""
    edges = np.rint(np.linspace(0, len(pitch), c.frames + 1)).astype(int)
    out = []
    for a, b in pairwise(edges):
        on = pitch[a:b] > 0
        out.append(float(np.median(pitch[a:b])) if on.all() else (np.nan if on.any() else 0.0))
    return np.array(out)


# --- pitch ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("rate", [8000.0, 11025.0, 16000.0])
def test_pitch_is_that_of_the_source(rate):
    errors, agree = [], []
    for seed in range(5):
        x, pitch = spoken(seed, 6.0, rate)
        found = voice.track(x, rate, 600, (50.0, 4000.0)).hz
        true = pitch[np.rint((np.arange(600) + 0.5) * len(x) / 600).astype(int)]
        both = (found > 0) & (true > 0)
        errors.append(np.abs(12 * np.log2(found[both] / true[both])))
        agree.append((found > 0) == (true > 0))
    error = np.concatenate(errors)
    assert np.median(error) < 0.05  # semitones
    assert (error > 1).mean() < 0.01
    assert np.mean(agree) > 0.93


def test_maxima_equal_an_obvious_autocorrelation():
    """One frame: Boersma's quotient lag by lag, its best maximum without any interpolation."""
    rate, hz = 16000.0, 187.0
    t = np.arange(3200) / rate
    x = np.cos(2 * np.pi * hz * t) + 0.5 * np.cos(4 * np.pi * hz * t + 1)
    w = round(3 / voice.LOWEST_HZ * rate)
    at = len(x) // 2 - w // 2
    window = np.hanning(w + 2)[1:-1]
    frame = x[at : at + w]
    frame = (frame - frame.mean()) * window
    lags = range(int(np.ceil(rate / voice.HIGHEST_HZ)), int(rate / voice.LOWEST_HZ))
    r = [
        (frame[:-k] @ frame[k:]) / (frame @ frame) / ((window[:-k] @ window[k:]) / (window @ window)) - 0.01 * np.log2(60 * k / rate)
        for k in lags
    ]  # fmt: skip
    slow = rate / lags[int(np.argmax(r))]
    fast = voice.track(x, rate, 1, (50.0, 4000.0)).hz[0]
    assert fast == pytest.approx(slow, rel=0.01)
    assert fast == pytest.approx(hz, rel=0.001)


@pytest.mark.parametrize("hz", [65.0, 100.0, 231.7, 480.0])
def test_a_missing_fundamental_is_still_heard(hz):
    t = np.arange(16000) / 16000
    x = sum(np.cos(2 * np.pi * k * hz * t) for k in (2, 3, 4, 5))
    found = voice.track(np.asarray(x), 16000.0, 50, (50.0, 4000.0)).hz[3:-3]
    assert np.median(found) == pytest.approx(hz, rel=0.003)


def test_noise_and_silence_have_no_pitch():
    rng = np.random.default_rng(0)
    for x in (rng.standard_normal(32000), np.zeros(32000), np.full(32000, 0.3)):
        assert (voice.track(x, 16000.0, 200, (50.0, 4000.0)).hz > 0).mean() < 0.05


# --- prosody ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("rate", [8000.0, 16000.0, 44100.0])
def test_prosody_comes_back(rate):
    """Measured anew on what was decoded, and against the true pitch of the source."""
    pitch_errors, loud_errors, agree = [], [], []
    c = codec(6.0, rate)
    for seed in range(4):
        x, pitch = spoken(seed, 6.0, rate)
        y = back(c, x)
        true = truth(c, pitch)
        found, loud, _ = c.measure(y)
        _, before, _ = c.measure(x)
        both = (found > 0) & (true > 0)
        pitch_errors.append(np.abs(12 * np.log2(found[both] / true[both])))
        heard = before > before.max() - 40
        loud_errors.append(np.abs(loud - before)[heard])
        clear = heard & np.isfinite(true)
        agree.append(((found > 0) == (true > 0))[clear])
    assert np.median(np.concatenate(pitch_errors)) < 0.4  # semitones: half a step is 0.25
    assert (np.concatenate(pitch_errors) > 1).mean() < 0.03
    assert np.concatenate(loud_errors).mean() < 1.0  # dB
    assert np.concatenate(agree).mean() > 0.95


def test_decoding_is_continuous_and_the_same_each_time():
    c = codec(4.0)
    x, _ = spoken(7, 4.0, 16000.0)
    (block,) = c.encode([{"voice": signal(x, 16000.0)}])
    assert not isinstance(block, str)
    y, again = (c.decode(block)["voice"] for _ in range(2))
    assert isinstance(y, Signal)
    assert isinstance(again, Signal)
    assert np.array_equal(y.values, again.values)
    # a steady tone: were the phase to restart with the frames, energy between the harmonics would show it
    t = np.arange(64000) / 16000
    tone = sum(np.cos(2 * np.pi * 150 * k * t) / k for k in range(1, 12)) * 0.1
    y = back(c, np.asarray(tone))[8000:-8000]
    power = np.abs(np.fft.rfft(y * np.hanning(len(y)))) ** 2
    hz = np.fft.rfftfreq(len(y), 1 / 16000)
    low = (hz > 80) & (hz < 1400)
    first = hz[low][power[low].argmax()]
    first /= max(1, round(first / 150))
    off = np.abs(hz / first - np.rint(hz / first)) * first
    assert power[low & (off > 20)].sum() < 0.1 * power[low].sum()


@pytest.mark.parametrize("rate", [8000.0, 16000.0])
def test_the_noise_behind_a_voice_comes_back_and_nothing_else_above_it(rate):
    """In pauses its power; in quiet bands under a voice, no more than it: a pass band would be heard, and told."""
    rng, n = np.random.default_rng(3), round(6 * rate)
    t = np.arange(n) / rate
    speaks = (t % 2) < 1.4
    tone = sum(np.cos(2 * np.pi * 130 * k * t + k) for k in range(1, 8))  # nothing above 1 kHz
    c, floor = codec(6.0, rate), 0.002
    x = 0.05 * speaks * tone / np.std(tone) + floor * rng.standard_normal(n)
    y = back(c, x)
    quiet = np.flatnonzero((t % 2 > 1.6) & (t % 2 < 1.9))
    assert 10 * np.log10((y[quiet] ** 2).mean() / (x[quiet] ** 2).mean()) == pytest.approx(0, abs=1.0)
    high = np.fft.rfftfreq(n, 1 / rate) > 0.35 * rate
    before, after = ((np.abs(np.fft.rfft(s)) ** 2)[high].mean() for s in (x, y))
    assert 10 * np.log10(after / before) == pytest.approx(0, abs=1.0)
    assert np.abs(np.corrcoef(x[quiet], y[quiet])[0, 1]) < 0.1  # drawn anew


def test_louder_is_louder_and_silence_is_silence():
    c = codec(3.0)
    x, _ = spoken(1, 3.0, 16000.0)
    levels = [10 * np.log10((back(c, g * x) ** 2).mean()) for g in (0.01, 0.1, 1.0)]
    assert np.diff(levels) == pytest.approx([20, 20], abs=1.5)
    assert np.abs(back(c, np.zeros(48000))).max() == 0
    assert np.abs(back(c, np.full(48000, 0.5))).max() < 1e-4  # an offset is no sound


def test_any_range():
    c = audio_features.Codec(audio_features.Config(), {"voice": spec(8000.0, span=(0.0, 65535.0))}, 2.0)
    x, _ = spoken(2, 2.0, 8000.0)
    (block,) = c.encode([{"voice": signal(32767.5 * (1 + x), 8000.0)}])
    (plain,) = codec(2.0, 8000.0).encode([{"voice": signal(x, 8000.0)}])
    assert (np.asarray(block) == np.asarray(plain)).mean() > 0.95
    y = c.decode(np.asarray(block))["voice"]
    assert isinstance(y, Signal)
    assert 0 <= y.values.min() < 32767 < y.values.max() <= 65535


@given(seed=st.integers(0, 2**20), absurd=st.booleans())
@settings(max_examples=25, deadline=None)
def test_whatever_the_machine_allows_decodes(seed, absurd):
    c, rng = codec(1.5, 8000.0), np.random.default_rng(seed)
    slots = [(a, b) for _, a, b, _ in c.machine.arcs]
    ids = np.array([(a if rng.random() < 0.5 else b - 1) if absurd else rng.integers(a, b) for a, b in slots])
    y = c.decode(ids)["voice"]
    assert isinstance(y, Signal)
    assert y.values.shape == (12000, 1)
    assert np.isfinite(y.values).all()
    assert np.abs(y.values).max() <= 1


@pytest.mark.parametrize("kind", ["clipped", "click", "noise", "constant", "square", "alternating"])
def test_absurd_sound_is_coded(kind):
    rng, t = np.random.default_rng(0), np.arange(16000)
    x = {"clipped": np.clip(9 * spoken(0, 2.0, 8000.0)[0], -1, 1), "click": (t == 5000) * 1.0,
         "noise": rng.uniform(-1, 1, 16000), "constant": np.full(16000, -1.0), "square": np.sign(np.sin(t / 9)),
         "alternating": (-1.0) ** t}[kind]  # fmt: skip
    y = back(codec(2.0, 8000.0), x)
    assert np.abs(y).max() <= 1
    if kind == "clipped":
        assert 10 * np.log10((y**2).mean() / (x**2).mean()) == pytest.approx(0, abs=2)


def test_windows_do_not_depend_on_company_and_gaps_are_told():
    c = codec(2.0, 8000.0)
    windows = [{"voice": signal(spoken(s, 2.0, 8000.0)[0], 8000.0)} for s in range(3)]
    windows[1] = {"voice": signal(spoken(1, 2.0, 8000.0)[0], 8000.0, valid=np.arange(16000) != 99)}
    made = c.encode(windows)
    assert made[1] == "a gap in voice, which its codec cannot say"
    for i in (0, 2):
        assert np.array_equal(made[i], c.encode([windows[i]])[0])


@pytest.mark.parametrize(
    ("stream", "seconds", "says"),
    [
        (spec(16000.0, ("left", "right")), 2.0, "one channel of sound"),
        (spec(4000.0), 2.0, "8 to 48 kHz"),
        (spec(96000.0), 2.0, "8 to 48 kHz"),
        (spec(16000.0), 0.05, "shorter than a frame"),
        (StreamSpec(channels=("sound",), unit="Pa", rate_hz=16000.0), 2.0, "has no range"),
    ],
)
def test_sound_that_does_not_suit_is_refused(stream, seconds, says):
    with pytest.raises(MienError, match=says):
        audio_features.Codec(audio_features.Config(), {"voice": stream}, seconds)


# --- pretrained codecs, as tiny ones of random weights --------------------------------------------------------
@pytest.fixture(scope="module")
def zoo(tmp_path_factory) -> dict[str, str]:
    """Folders of a Mimi, an EnCodec and a DAC of a few thousand parameters each, and some that do not suit."""
    import torch
    from transformers import (
        DacConfig,
        DacModel,
        EncodecConfig,
        EncodecModel,
        LlamaConfig,
        LlamaForCausalLM,
        MimiConfig,
        MimiModel,
    )

    def mimi(**changes: Any) -> Any:
        given: dict[str, Any] = {
            "hidden_size": 16, "num_filters": 4, "codebook_size": 64, "codebook_dim": 8, "num_quantizers": 4,
            "vector_quantization_hidden_dimension": 8, "upsample_groups": 16, "num_hidden_layers": 1,
            "intermediate_size": 16, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 8,
        }  # fmt: skip
        return MimiModel(MimiConfig(**given | changes))

    def encodec(**changes: Any) -> Any:
        given: dict[str, Any] = {"hidden_size": 8, "num_filters": 4, "codebook_size": 64, "num_lstm_layers": 1,
                 "target_bandwidths": [0.45, 0.9, 1.8]}  # fmt: skip
        return EncodecModel(EncodecConfig(**given | changes))

    folder, out = tmp_path_factory.mktemp("zoo"), {}
    torch.manual_seed(0)
    dac = DacConfig(encoder_hidden_size=4, decoder_hidden_size=32, n_codebooks=3, codebook_size=64, codebook_dim=4)
    llama = LlamaConfig(
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        vocab_size=9,
    )
    made = {
        "mimi": mimi(), "encodec": encodec(), "dac": DacModel(dac), "large": mimi(codebook_size=4096),
        "scaled": encodec(normalize=True), "stereo": encodec(audio_channels=2), "llama": LlamaForCausalLM(llama),
        "single": encodec(target_bandwidths=[0.45]),
    }  # fmt: skip
    for name, model in made.items():
        if name != "dac":  # codebooks of zeros, or far from what the encoder says, would make every code the same
            middle, spread = torch.zeros(1), torch.ones(1)
            if isinstance(model, EncodecModel):
                with torch.no_grad():
                    said = model.encoder(torch.randn(1, model.config.audio_channels, 24000) * 0.1)[0]
                middle, spread = said.mean(1), said.std(1)
            for key, value in model.named_buffers():
                if key.endswith((".embed", ".embed_sum")):
                    value.copy_(spread * torch.randn(value.shape) + (middle if "layers.0." in key else 0))
        model.save_pretrained(folder / name, safe_serialization=True)
        out[name] = str(folder / name)
    pickled = folder / "pickled"
    pickled.mkdir()
    made["encodec"].config.save_pretrained(pickled)
    torch.save(made["encodec"].state_dict(), pickled / "pytorch_model.bin")
    return out | {"pickled": str(pickled)}


def neural(zoo: dict[str, str], name: str, rate: float = 16000.0, seconds: float = 1.0, **config) -> audio_codec.Codec:
    return audio_codec.Codec(audio_codec.Config(model=zoo[name], **config), {"voice": spec(rate)}, seconds)


@pytest.mark.parametrize("rate", [8000.0, 16000.0, 24000.0, 44100.0])
@pytest.mark.parametrize("books", [1, 2])
@pytest.mark.parametrize("name", ["mimi", "encodec", "dac"])
def test_codes_are_the_models_own_and_come_back_as_sound(zoo, name, books, rate):
    import torch

    c = neural(zoo, name, rate, codebooks=books)
    x, _ = spoken(0, 1.0, rate)
    (block,) = c.encode([{"voice": signal(x, rate)}])
    assert not isinstance(block, str)
    assert len(block) == 1 + books * c.frames == c.machine.length
    size = FIRST_CODEC + sum(audio_codec.TOKENS.values())
    grammar = Grammar.of(classes=1, blocks=[(c.machine, FIRST_CODEC)], size=size)
    assert grammar.accepts([BOS, LABEL_0, STREAM_0, *(block + FIRST_CODEC), EOS])
    codes = block[1:].reshape(-1, books).T - np.array([[48], [48 + 2048]])[:books]
    assert len(np.unique(codes)) > 2  # the fixture's codebooks are no trap
    y = c.decode(block)["voice"]
    assert isinstance(y, Signal)
    assert y.values.shape == (len(x), 1)
    assert np.abs(y.values).max() <= 1
    assert y.values.std() > 0
    if rate == c.model.config.sampling_rate:  # what transformers itself says, all codebooks asked for
        hop = -(-len(x) // audio_codec._hop(c.model.config)) * audio_codec._hop(c.model.config)
        gain = 10 ** ((-20 - audio_codec._LEVELS_DB[block[0]]) / 20)
        centred = np.float32(x).astype(float)
        wave = np.pad((centred - centred.mean()) * gain, (0, hop - len(x))).astype(np.float32)
        with torch.no_grad():
            every = {"bandwidth": 1.8} if name == "encodec" else {}
            own = c.model.encode(torch.as_tensor(wave)[None, None], **every).audio_codes
        assert np.array_equal(own.reshape(-1, c.frames).numpy()[:books], codes)


@pytest.mark.parametrize("name", ["mimi", "encodec", "dac"])
def test_neural_codes_do_not_depend_on_company_and_nothing_is_trained(zoo, name):
    c = neural(zoo, name)
    windows = [{"voice": signal(g * spoken(s, 1.0, 16000.0)[0], 16000.0)} for s, g in enumerate((1.0, 0.01, 0.3))]
    windows.insert(1, {"voice": signal(np.zeros(16000), 16000.0, valid=np.arange(16000) > 3)})
    made = c.encode(windows)
    assert made[1] == "a gap in voice, which its codec cannot say"
    for i in (0, 2, 3):
        assert np.array_equal(made[i], c.encode([windows[i]])[0])
    assert not any(p.requires_grad for p in c.model.parameters())
    assert not c.model.training
    assert neural(zoo, name, sha256=c.digest).model is c.model  # read once


@pytest.mark.parametrize("name", ["mimi", "encodec", "dac"])
def test_any_neural_block_decodes_and_its_level_counts(zoo, name):
    c, rng = neural(zoo, name, seconds=0.5, codebooks=2), np.random.default_rng(0)
    for _ in range(5):
        ids = np.array([rng.integers(a, b) for _, a, b, _ in c.machine.arcs])
        loud = []
        for level in (0, 10, 20):
            ids[0] = level
            y = c.decode(ids)["voice"]
            assert isinstance(y, Signal)
            assert y.values.shape == (8000, 1)
            loud.append(y.values.std())
        assert loud[0] == 0
        assert loud[2] == pytest.approx(10 * loud[1], rel=0.01)


@pytest.mark.parametrize(
    ("name", "config", "says"),
    [
        ("large", {}, "codebooks of 4096 codes; the vocabulary is fixed and holds 2048"),
        ("scaled", {}, "a scale for each, which no token says"),
        ("stereo", {}, "is for 2 channels"),
        ("single", {"codebooks": 2}, r"has 1 codebook\(s\), not 2"),
        ("llama", {}, "is a llama model; this codec speaks mimi, encodec, dac"),
        ("pickled", {}, "model.safetensors"),
        ("mimi", {"sha256": "0" * 64}, "are sha256"),
    ],
)
def test_models_that_do_not_suit_are_refused(zoo, name, config, says):
    with pytest.raises(MienError, match=says):
        neural(zoo, name, **config)


def test_other_sound_than_the_neural_codec_takes_is_refused(zoo):
    for stream, seconds, says in ((spec(16000.0, ("left", "right")), 1.0, "one channel"), (spec(4000.0), 1.0, "8 to 48"),
                                  (spec(16000.0), 0.01, "shorter than one frame")):  # fmt: skip
        with pytest.raises(MienError, match=says):
            audio_codec.Codec(audio_codec.Config(model=zoo["mimi"]), {"voice": stream}, seconds)
    with pytest.raises(MienError, match="cannot load 'nowhere/at-all'"):
        audio_codec.Codec(audio_codec.Config(model="nowhere/at-all"), {"voice": spec(16000.0)}, 1.0)


@pytest.fixture
def own(zoo, tmp_path) -> str:
    """A copy of the EnCodec, to be changed."""
    return shutil.copytree(zoo["encodec"], tmp_path / "somebody" / "own-encodec").as_posix()


def speaking(own: str, **options) -> Layout:
    card = CohortCard(
        name="voices", licence="", consent="", streams={"voice": spec(16000.0)}, tasks={"mood": ("low", "high")}
    )
    section = Plugin(name="audio_codec", streams=["voice"], model=own, **options)
    return Layout.of(card, seconds=1.0, task="mood", codec=Plugin(name="transform"), codecs=(section,))


def test_a_published_layout_says_no_folder_and_is_read_where_the_recipe_says(own, tmp_path):
    lay = speaking(own)
    place = tmp_path / "run" / "release" / "adapter"
    place.mkdir(parents=True)
    lay.write(place / "layout.json")
    assert str(tmp_path) not in (place / "layout.json").read_text()
    assert "own-encodec" in (place / "layout.json").read_text()
    with pytest.raises(
        MienError, match=r"'own-encodec', and where it lies is not published: Layout.read\(path, codecs="
    ):
        Layout.read(place / "layout.json")
    sections = [{"name": "audio_codec", "streams": ["voice"], "model": own}]
    again = Layout.read(place / "layout.json", sections)
    assert again.to_json() == lay.to_json()
    recipe = {"verb": "adapt", "config": {"codecs": sections, "codec": {"name": "transform"}}}
    runs.write_text(tmp_path / "run" / "config.yaml", json.dumps(recipe))
    (document,) = lay.encode([{"voice": signal(spoken(0, 1.0, 16000.0)[0], 16000.0)}], ["low"])
    assert document is not None
    one, two = (x.decode(document)[1]["voice"] for x in (lay, layout_of(tmp_path / "run")))
    assert isinstance(one, Signal)
    assert isinstance(two, Signal)
    assert np.array_equal(one.values, two.values)


def test_a_layout_is_not_read_with_other_weights_than_it_was_written_with(own, zoo, tmp_path):
    speaking(own).write(tmp_path / "layout.json")
    other = [{"name": "audio_codec", "streams": ["voice"], "model": zoo["single"]}]
    with pytest.raises(MienError, match="the weights of .* are sha256"):
        _ = Layout.read(tmp_path / "layout.json", other).coders


def test_the_device_is_chosen_where_a_layout_is_read(own, monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert speaking(own, device="cuda").coders[0].model.device.type == "cpu"
