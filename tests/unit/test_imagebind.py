"""ImageBind: the published names and shapes, the reference implementation's outputs, whole weights or none, inputs."""

from __future__ import annotations

import json
import math
import zlib
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from mien.adapters.windows import encode, towers_of
from mien.backbones import _imagebind as inside
from mien.backbones import imagebind
from mien.backbones._binder import collate
from mien.core import config, console
from mien.core.errors import MienError
from mien.core.records import RESTRICTIONS, Cohort, Consent, Recording, Signal, StreamSpec, Text

from ..conftest import CARD
from .person_by_person import adapted, assert_the_same

REFERENCE = Path(__file__).parents[1] / "reference"
KEYS = json.loads((REFERENCE / "imagebind_keys.json").read_text())
RECORDED = json.loads((REFERENCE / "imagebind.json").read_text())


def filled(shapes):
    """Tensors made from their names alone, so that a reference elsewhere can be given the same."""
    out = {}
    for name, shape in shapes.items():
        noise = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
        head_norm = name.endswith(".0.weight") and "head" in name
        if name.endswith(".mask"):
            value = np.triu(np.full(shape, -np.inf), 1)
        elif "log_logit_scale" in name:
            value = 1 + 0.3 * noise
        elif (
            ("norm" in name.split(".")[-2] and "weight" in name)
            or "pre_transformer_layer.0.weight" in name
            or head_norm
        ):
            value = 1 + 0.1 * noise
        else:
            value = 0.2 * noise
        out[name] = torch.as_tensor(np.asarray(value, dtype=np.float32))
    return out


def inputs():
    """Two windows for each tower."""
    source = np.random.RandomState(0)

    def normal(*shape):
        return torch.as_tensor(source.standard_normal(shape).astype(np.float32))

    ids = np.zeros((2, 77), np.int64)
    ids[0, :5] = [49406, 320, 1125, 539, 49407]
    ids[1, :] = source.randint(0, 49406, 77)
    ids[1, 0], ids[1, 76] = 49406, 49407
    return {
        "vision": normal(2, 2, 3, 2, 224, 224), "image": normal(2, 3, 224, 224), "text": torch.as_tensor(ids),
        "audio": normal(2, 3, 1, 128, 204), "depth": normal(2, 1, 224, 224), "thermal": normal(2, 1, 224, 224),
        "imu": normal(2, 6, 2000),
    }  # fmt: skip


@pytest.fixture(scope="module")
def weights():
    return filled(inside.expected(inside.TINY))


@pytest.fixture(scope="module")
def model(weights):
    made = inside.ImageBind(inside.TINY).eval()
    made.load_state_dict(weights)
    return made


# --- the release ----------------------------------------------------------------------------------------------------


def test_names_and_shapes_of_the_huge_configuration():
    expected = {}
    for name, shape in KEYS["shapes"].items():
        modality = name.split(".")[1]
        for i in range(KEYS["blocks"][modality] if "blocks.*" in name else 1):
            expected[name.replace("*", str(i))] = tuple(shape)
    assert inside.expected(inside.HUGE) == expected
    assert len(expected) == KEYS["tensors"]


def test_numbers_per_tower():
    count: Counter[str] = Counter()
    for name, shape in inside.expected(inside.HUGE).items():
        count[name.split(".")[1]] += math.prod(shape)
    assert count == KEYS["numbers"]
    assert sum(count.values()) == 1_200_786_990


@pytest.mark.parametrize("modality", RECORDED["outputs"])
def test_it_computes_what_the_reference_does(model, modality):
    x, name = inputs()[modality], "vision" if modality == "image" else modality
    with torch.no_grad():
        if x.ndim >= 5:
            found = model.clips(name, x, torch.ones(x.shape[:2], dtype=torch.bool))
        else:
            found = model(name, x[:, :, None] if modality == "image" else x)
    assert (found - torch.tensor(RECORDED["outputs"][modality])).abs().max() <= 1e-5


def test_the_comparison_can_fail(weights):
    made = inside.ImageBind(inside.TINY).eval()
    key = "modality_trunks.imu.blocks.1.attn.bias_v"
    made.load_state_dict({**weights, key: weights[key] + 0.5})
    with torch.no_grad():
        found = made("imu", inputs()["imu"])
    assert (found - torch.tensor(RECORDED["outputs"]["imu"])).abs().max() > 1e-3


# --- weights --------------------------------------------------------------------------------------------------------


def write(tensors, path):
    if path.suffix == ".safetensors":
        save_file(tensors, path)
    else:
        torch.save(tensors, path)
    return str(path)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_file_loads_whole_and_its_licence_is_shown(weights, tmp_path, suffix):
    path = write(weights, tmp_path / f"w{suffix}")
    with console.heard() as said:
        base = imagebind.load(imagebind.Config(size="tiny", weights=path))
    assert any("CC BY-NC-SA 4.0" in line for line in said)
    assert base.licence == "CC BY-NC-SA 4.0"
    assert {"non-commercial", "share-alike"} <= set(base.restrictions) <= set(RESTRICTIONS)
    assert str(tmp_path) not in base.identity
    assert not any(p.requires_grad for p in base.model.parameters())
    found = base.model.state_dict()
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[k], v) for k, v in weights.items())
    assert base.logit_scale == pytest.approx(
        math.exp(float(weights["modality_postprocessors.text.1.log_logit_scale"])), rel=1e-6
    )


def test_some_towers_of_a_file(weights, tmp_path):
    path = write(weights, tmp_path / "w.safetensors")
    base = imagebind.load(imagebind.Config(size="tiny", weights=path, modalities=("imu", "audio")))
    assert set(base.towers) == {"audio", "imu"}
    assert {k.split(".")[1] for k in base.model.state_dict()} == {"audio", "imu"}
    partial = write({k: v for k, v in weights.items() if ".vision." not in k}, tmp_path / "p.safetensors")
    with pytest.raises(MienError, match=r"modality_trunks\.vision"):
        imagebind.load(imagebind.Config(size="tiny", weights=partial, modalities=("imu",)))


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_all_that_is_wrong_with_a_file_is_listed(weights, tmp_path, suffix):
    wrong = dict(weights)
    gone = ["modality_heads.imu.3.weight", "modality_trunks.text.blocks.1.mlp.fc2.bias"]
    for name in gone:
        del wrong[name]
    wrong["head.extra"] = torch.zeros(1)
    bent = "modality_preprocessors.audio.cls_token"
    wrong[bent] = torch.zeros(1, 1, 25)
    with pytest.raises(MienError, match="nothing was loaded") as caught:
        imagebind.load(imagebind.Config(size="tiny", weights=write(wrong, tmp_path / f"w{suffix}")))
    for name in (*gone, "head.extra", bent, "[1, 1, 25], not [1, 1, 24]"):
        assert name in str(caught.value)


class Code:
    def __reduce__(self):
        return (print, ("this must never run",))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda p: None, "no file"),
        (lambda p: p.write_bytes(b"PK nothing"), "no readable file"),
        (lambda p: p.write_bytes(b""), "no readable file"),
        (lambda p: torch.save({"model": {"a": torch.zeros(1)}}, p), "something else than tensors"),
        (lambda p: torch.save([torch.zeros(1)], p), "something else than tensors"),
        (lambda p: torch.save({"a": Code()}, p), "no readable file"),
    ],
)
def test_other_files_are_refused(tmp_path, make, says, capsys):
    make(tmp_path / "w.pth")
    with pytest.raises(MienError, match=says):
        imagebind.load(imagebind.Config(size="tiny", weights=str(tmp_path / "w.pth")))
    assert "this must never run" not in capsys.readouterr().out


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@given(at=st.floats(0, 1), byte=st.integers(0, 255), cut=st.booleans())
@settings(max_examples=60, deadline=None)
def test_a_damaged_file_is_an_error_that_names_it(tmp_path_factory, suffix, at, byte, cut):
    path = tmp_path_factory.mktemp("damaged") / f"w{suffix}"
    write({"a": torch.zeros(2, 3), "b": torch.ones(4)}, path)
    raw = bytearray(path.read_bytes())
    place = round(at * min(400, len(raw) - 1))
    path.write_bytes(raw[:place] if cut else bytes([*raw[:place], byte, *raw[place + 1 :]]))
    with pytest.raises(MienError, match="damaged"):
        imagebind.read(path, {"c": (1,)}, ["c"])


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        ({}, "do not come with Mien"),
        ({"size": "tiny", "modalities": []}, "at least one"),
        ({"size": "tiny", "modalities": ["vision", "smell"]}, "smell|modalities"),
        ({"size": "giant"}, "size"),
        ({"size": "tiny", "crops": 2}, "crops"),
    ],
)
def test_configurations_that_are_refused(raw, says):
    with pytest.raises(MienError, match=says):
        imagebind.load(config.parse(imagebind.Config, raw, "backbone imagebind"))


# --- inputs ---------------------------------------------------------------------------------------------------------


def sound(seconds=2.5, rate=16_000.0, channels=1, seed=0):
    values = np.random.default_rng(seed).normal(0, 0.1, (round(seconds * rate), channels))
    return Signal(values=values, rate_hz=rate, channels=tuple(f"c{i}" for i in range(channels)), unit="")


def moves(seconds=5.0, rate=50.0, channels=("ax", "ay", "az", "wx", "wy", "wz"), valid=None):
    values = np.random.default_rng(1).normal(0, 1, (round(seconds * rate), len(channels)))
    return Signal(values=values, rate_hz=rate, channels=channels, unit="", valid=valid)


def film(frames=12, height=40, width=64, rate=5.0, seed=1):
    pixels = np.random.default_rng(seed).integers(0, 256, (frames, height, width, 3), dtype=np.uint8)
    return SimpleNamespace(frames=pixels, rate_hz=rate)


def picture(height=50, width=70):
    return film(1, height, width).frames[0]


def utterance(*words):
    n = len(words)
    return Text(times_s=np.arange(n), ends_s=np.arange(n) + 1, text=words, speakers=("p",) * n, seconds=10)


@pytest.fixture(scope="module")
def tiny():
    return imagebind.load(imagebind.Config(size="tiny", video_clips=2, crops=1))


STREAMS = {
    "vision": [film(), film(seed=2, frames=3), film(seed=3, rate=1.0)], "text": [utterance("a dog"), "two cats", "rain"],
    "audio": [sound(), sound(0.7, 8000.0), sound(7.3, 44_100.0, 2)], "imu": [moves(), moves(2.0, 100.0), moves(11.0)],
    "depth": [np.random.default_rng(i).random((30, 40 + i)) for i in range(3)],
    "thermal": [np.random.default_rng(i).integers(0, 255, (30, 40 + i, 1), dtype=np.uint8) for i in range(3)],
}  # fmt: skip


@pytest.mark.parametrize("modality", imagebind.MODALITIES)
def test_every_window_is_embedded_by_itself(tiny, modality):
    """Of unit length; neither the others nor the padding of a shorter window move it."""
    tower = tiny.towers[modality]
    rows = [tower.prepare(s) for s in STREAMS[modality]]
    with torch.no_grad():
        together = tiny.embed(tiny.model, modality, collate(rows))
        alone = torch.cat([tiny.embed(tiny.model, modality, collate([r])) for r in rows])
    assert together.shape == (3, 16)
    assert torch.allclose(together.norm(dim=1), torch.ones(3), atol=1e-5)
    assert torch.allclose(together, alone, atol=1e-5)
    assert (together[0] - together[1]).abs().max() > 1e-4
    assert all(name in dict(tiny.model.named_modules()) for name in (tower.module, *tower.layers))


@pytest.mark.parametrize(
    ("modality", "stream", "says"),
    [
        ("vision", film(0), "zero frames"),
        ("vision", film(height=0), "0 x 64 pixels"),
        ("vision", film().frames, "rate_hz"),
        ("vision", picture()[..., :2], r"takes one picture"),
        ("vision", picture().astype(float), "uint8"),
        ("vision", sound(), "takes one picture"),
        ("depth", np.full((5, 5), 3.0), "disparity"),
        ("depth", np.full((5, 5), np.nan), "0 … 1"),
        ("thermal", np.full((5, 5, 3), 0.5), r"height, width"),
        ("audio", sound(channels=6), "6 channels.*ITU-R BS.775"),
        ("audio", sound(0.0), "empty"),
        ("audio", sound(0.01), "shorter than one frame"),
        ("audio", utterance("hello"), "takes a signal, not Text"),
        (
            "audio",
            Signal(values=np.full((9, 1), np.nan), rate_hz=9, channels=("c",), unit="", valid=np.zeros(9)),
            "empty",
        ),
        ("imu", moves(channels=("ax", "ay", "az")), "no channel for gyro x, gyro y, gyro z"),
        ("imu", moves(channels=("a", "b", "c", "d", "e", "f")), "no channel for acc x"),
        ("imu", moves(0.0), "empty"),
        ("imu", "text", "takes a signal"),
        ("text", utterance(), "no words"),
        ("text", "  \n", "no words"),
        ("text", moves(), "takes text"),
    ],
)
def test_streams_that_are_refused(tiny, modality, stream, says):
    with pytest.raises(MienError, match=says):
        tiny.towers[modality].prepare(stream)


@pytest.mark.parametrize("size", [(50, 70), (70, 50), (224, 224), (300, 301), (1, 5)])
def test_pictures_are_cut_as_torchvision_does(size):
    from PIL import Image

    transforms = pytest.importorskip("torchvision.transforms")
    published = transforms.Compose(
        [
            transforms.Resize(224, interpolation=transforms.InterpolationMode.BICUBIC), transforms.CenterCrop(224),
            transforms.ToTensor(), transforms.Normalize(imagebind._MEAN, imagebind._STD),
        ]
    )  # fmt: skip
    pixels = picture(*size)
    made = imagebind.prepare_vision(pixels)
    assert made["values"].shape == (1, 3, 1, 224, 224)
    assert np.abs(made["values"][0, :, 0] - published(Image.fromarray(pixels)).numpy()).max() < 1e-5
    assert np.array_equal(imagebind.prepare_vision(Image.fromarray(pixels))["values"], made["values"])


@pytest.mark.parametrize("name", RECORDED["films"])
def test_films_are_cut_as_the_reference_does(name):
    known = RECORDED["films"][name]
    frames = np.random.RandomState(1).randint(0, 256, (*known["frames"], 3)).astype(np.uint8)
    made = imagebind.prepare_vision(SimpleNamespace(frames=frames, rate_hz=known["rate_hz"]))["values"]
    assert made.shape == (15, 3, 2, 224, 224)
    assert np.abs(made.mean((1, 2, 3, 4)) - known["means"]).max() < 1e-5
    found = np.array([c[:, :, 17::97, 31::89].ravel()[:6] for c in made])
    assert np.abs(found - known["pixels"]).max() < 5e-5


def slow_fbank(wave):
    """Sum by sum, as Kaldi's documentation tells it."""
    wave = wave - wave.mean()
    spectrum = np.exp(-2j * np.pi * np.outer(np.arange(257), np.arange(512)) / 512)

    def mel(hz):
        return 1127.0 * math.log(1.0 + hz / 700.0)

    step = (mel(8000) - mel(20)) / 129
    rows = []
    for at in range(0, len(wave) - 400 + 1, 160):
        frame = wave[at : at + 400] - np.mean(wave[at : at + 400])
        emphasised = [frame[i] - 0.97 * frame[max(0, i - 1)] for i in range(400)]
        shown = [x * (0.5 - 0.5 * math.cos(2 * math.pi * i / 399)) for i, x in enumerate(emphasised)]
        power = np.abs(spectrum[:, :400] @ np.array(shown)) ** 2
        row = []
        for b in range(128):
            left, middle, right = (mel(20) + step * (b + k) for k in range(3))
            total = 0.0
            for k in range(256):
                m = mel(k * 16_000 / 512)
                if left < m < right:
                    total += power[k] * (
                        (m - left) / (middle - left) if m <= middle else (right - m) / (right - middle)
                    )
            row.append(math.log(max(total, 1.1920928955078125e-07)))
        rows.append(row)
    return np.array(rows)


@pytest.mark.parametrize("scale", [1.0, 1e-6, 0.0])
def test_mel_energies_are_kaldis(scale):
    wave = scale * sound(0.06).values[:, 0].astype(float)
    wave += scale * 0.3
    assert np.allclose(imagebind.fbank(wave), slow_fbank(wave), atol=1e-8)


@pytest.mark.filterwarnings("ignore:At least one mel filter")
def test_mel_energies_are_those_of_the_audio_spectrogram_transformer():
    from transformers import ASTFeatureExtractor

    wave = sound(2.0).values[:, 0]
    wave = wave - wave.mean()
    known = ASTFeatureExtractor(do_normalize=False, max_length=204)(wave, sampling_rate=16_000)["input_values"][0]
    found = imagebind.prepare_audio(sound(2.0))["values"][0, 0] * 9.138 - 4.268
    assert found.shape == (128, 204)
    assert np.abs(found.T - known).max() < 2e-3
    assert (
        np.abs(found[:, 198:]).max() < 1e-5
    )  # as published, what lies beyond the sound is 0 before it is standardised


@given(seconds=st.floats(0.03, 30), count=st.integers(1, 6), clip=st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_clips_lie_evenly_in_the_window(seconds, count, clip):
    found = imagebind.starts(seconds, clip, count)
    assert len(found) == count
    assert found[0] == 0
    assert found[-1] + clip <= max(seconds, clip) + 1e-9
    assert np.allclose(np.diff(found, 2), 0, atol=1e-9)


@pytest.mark.parametrize("rate", [8000.0, 11_025.0, 22_050.0, 44_100.0, 48_000.0])
def test_any_rate_gives_the_same_tone(rate):
    def tone(hz):
        at = np.arange(round(2 * hz)) / hz
        return Signal(values=0.5 * np.sin(2 * np.pi * 440 * at)[:, None], rate_hz=hz, channels=("c",), unit="")

    there, known = (imagebind.prepare_audio(tone(r))["values"][1, 0] for r in (rate, 16_000.0))
    loud = known > known.max() - 0.3
    assert np.abs(there - known)[loud].max() < 0.02


def test_slow_sound_is_said_to_be_slow_once():
    imagebind._say_once.cache_clear()
    with console.heard() as said:
        for seed in range(3):
            imagebind.prepare_audio(sound(rate=8000.0, seed=seed))
    assert len([s for s in said if "nothing above 4000 Hz" in s]) == 1


def test_two_channels_are_averaged_and_gaps_are_silent():
    both = sound(channels=2)
    one = Signal(values=both.values.mean(1, keepdims=True), rate_hz=16_000, channels=("c",), unit="")
    assert np.allclose(imagebind.prepare_audio(both)["values"], imagebind.prepare_audio(one)["values"], atol=1e-3)
    valid = np.ones(len(one.values), bool)
    valid[8000:16_000] = False
    spoilt, still = one.values.copy(), one.values.copy()
    spoilt[8000:16_000], still[8000:16_000] = np.nan, 0
    gap = Signal(values=spoilt, rate_hz=16_000, channels=("c",), unit="", valid=valid)
    silent = Signal(values=still, rate_hz=16_000, channels=("c",), unit="")
    assert np.array_equal(imagebind.prepare_audio(gap)["values"], imagebind.prepare_audio(silent)["values"])


@given(
    order=st.permutations(range(6)),
    style=st.sampled_from(["a{}/w{}", "acc_{}/gyro_{}", "Accel {}/Gyroscope {}", "imu_acc {}/wrist.rot-{}"]),
)
@settings(max_examples=30, deadline=None)
def test_axes_are_found_by_name(order, style):
    names = [style.split("/")[k].format(axis) for k in (0, 1) for axis in "xyz"]
    given_names = ["temperature", *(names[i] for i in order)]
    assert [given_names[i] for i in imagebind.imu_order(given_names)] == names


@pytest.mark.parametrize("rate", [25.0, 33.3, 100.0, 1000.0])
def test_movement_keeps_its_values_at_any_rate(rate):
    at = np.arange(round(5 * rate)) / rate
    values = np.stack([np.sin(2 * np.pi * f * at) for f in (0.3, 0.5, 0.7, 0.9, 1.1, 2.0)], 1)
    valid = np.ones(len(at), bool)
    valid[len(at) // 2] = False
    values[~valid] = np.nan
    names = ("ax", "ay", "az", "wx", "wy", "wz")
    made = imagebind.prepare_imu(Signal(values=values, rate_hz=rate, channels=names, unit="", valid=valid))["values"]
    assert made.shape == (1, 6, 2000)
    grid = np.arange(2000) / 400
    known = np.stack([np.sin(2 * np.pi * f * grid) for f in (0.3, 0.5, 0.7, 0.9, 1.1, 2.0)])
    assert np.abs(made[0] - known)[:, 100:1900].max() < 0.06


def test_sensors_that_are_held_apart_are_joined_in_si_units():
    six = moves(rate=100.0)
    acc = Signal(values=six.values[:, :3] / 9.80665, rate_hz=100, channels=("x", "y", "z"), unit="g")
    turn = Signal(values=np.degrees(six.values[::2, 3:]), rate_hz=50, channels=("x", "y", "z"), unit="deg/s")
    joint = imagebind.prepare_imu({"imu_gyro": turn, "imu_acc": acc})["values"]
    assert joint.shape == (1, 6, 2000)
    assert np.allclose(joint[:, :3], imagebind.prepare_imu(six)["values"][:, :3], atol=1e-4)
    half = Signal(values=six.values[::2], rate_hz=50, channels=six.channels, unit="")
    assert np.allclose(joint[:, 3:], imagebind.prepare_imu(half)["values"][:, 3:], atol=1e-4)
    with pytest.raises(MienError, match="no channel for gyro x"):
        imagebind.prepare_imu({"acc": acc})
    with pytest.raises(MienError, match="takes a signal"):
        imagebind.prepare_imu({"acc": acc, "gyro": "text"})


def test_distances_become_disparities():
    found = imagebind.disparity(np.array([[0.0, 0.01, 1.0, 2.0]]), focal_px=525)
    assert np.allclose(found, [[0, 1, 0.075 * 525 / 75, 0.075 * 525 / 150]])
    same = imagebind.prepare_map(np.full((30, 40), 0.0418), "depth")["values"]
    assert np.abs(same).max() < 1e-4  # standardised by Omnivore's mean


def test_a_short_movement_holds_its_last_value_and_a_long_one_has_three_clips():
    short, long = imagebind.prepare_imu(moves(2.0))["values"], imagebind.prepare_imu(moves(11.0))["values"]
    assert np.ptp(short[0, :, 801:], axis=1).max() == 0
    assert long.shape == (3, 6, 2000)


def test_words_are_the_references_tokens():
    pytest.importorskip("open_clip")
    for text, known in zip(RECORDED["texts"], RECORDED["tokens"], strict=True):
        ids = imagebind.prepare_text(text)["ids"]
        assert ids.shape == (77,)
        assert ids[: len(known)].tolist() == known
        assert not ids[len(known) :].any()
    assert np.array_equal(imagebind.prepare_text(utterance("a", "dog"))["ids"], imagebind.prepare_text("a dog")["ids"])


def test_a_folder_of_tokenizer_files_gives_the_same_tokens(tmp_path):
    clip = pytest.importorskip("open_clip.tokenizer").SimpleTokenizer()
    ids = {
        w.replace("<start_of_text>", "<|startoftext|>").replace("<end_of_text>", "<|endoftext|>"): i
        for w, i in clip.encoder.items()
    }
    (tmp_path / "vocab.json").write_text(json.dumps(ids))
    merges = sorted(clip.bpe_ranks, key=clip.bpe_ranks.get)
    (tmp_path / "merges.txt").write_text("#version: 0.2\n" + "\n".join(map(" ".join, merges)) + "\n")
    for text in ("a dog", "I did not sleep well", "word " * 100):
        assert np.array_equal(imagebind.prepare_text(text, str(tmp_path))["ids"], imagebind.prepare_text(text)["ids"])


def test_a_folder_that_is_no_clip_tokenizer(tmp_path):
    with pytest.raises(MienError, match="no CLIP tokenizer|numbers its tokens otherwise"):
        imagebind.prepare_text("a dog", str(tmp_path))


def test_two_streams_of_a_cohort_for_one_tower(home, tiny):
    spec = StreamSpec(channels=("x", "y", "z"), unit="g", rate_hz=50.0, range=(-4.0, 4.0))
    card = replace(CARD, streams={"acc": spec, "gyro": spec, "sound": replace(spec, channels=("c",), rate_hz=16_000.0)})
    six = moves(12.0)
    halves = {
        n: replace(six, values=six.values[:, at], channels=("x", "y", "z"), unit="g")
        for n, at in (("acc", slice(3)), ("gyro", slice(3, 6)))
    }
    recordings = [
        Recording(id="both", person="p00", streams=halves, labels={"activity": "walk"}),
        Recording(id="one", person="p01", streams={"acc": halves["acc"]}, labels={"activity": "rest"}),
    ]
    cohort = Cohort.build(recordings, card=card, consents={"p00": Consent(), "p01": Consent()})
    chosen = towers_of(card, tiny, {"acc": "imu", "gyro": "imu"})
    windows = encode(cohort, tiny, chosen, {}, seconds=5, stride_s=5, quiet=True)
    assert windows.recordings == ["both"]  # one sensor alone is a missing stream, not zeros
    assert [a["imu"]["values"].shape for a in windows.arrays] == [(1, 6, 2000)] * 2
    silent = replace(halves["gyro"], valid=np.arange(600) < 250)
    cohort = Cohort.build(
        [replace(recordings[0], streams={**halves, "gyro": silent})], card=card, consents={"p00": Consent()}
    )
    windows = encode(cohort, tiny, chosen, {}, seconds=5, stride_s=5, valid=0.0, quiet=True)
    assert len(windows) == 1  # in the second nothing was measured
    with pytest.raises(MienError, match="two streams for the tower 'audio'"):
        towers_of(card, tiny, {"acc": "audio", "sound": "audio"})
    with pytest.raises(MienError, match="no tower 'smell'"):
        towers_of(card, tiny, {"acc": "smell"})


# --- adapting -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("modality", ["vision", "audio", "imu", "text"])
def test_gradients_per_person_are_those_of_one_person_alone(modality):
    base = imagebind.load(imagebind.Config(size="tiny", modalities=(modality,), video_clips=2, crops=1, audio_clips=2))
    torch.manual_seed(3)
    model = adapted(base.model, base.lora_targets)
    assert sum("lora_A" in n for n, _ in model.named_parameters()) == 2 * 4
    batch = collate([base.towers[modality].prepare(s) for s in STREAMS[modality]])
    person, away = torch.tensor([0, 1, 0]), torch.randn(16, dtype=torch.float64)

    def losses(rows):
        found = base.embed(model, modality, {k: v[rows] for k, v in batch.items()})
        return torch.nn.functional.softplus(found @ away * 3)

    assert_the_same(model, losses, person)
