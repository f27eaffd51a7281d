"""The codecs of wearables: how much of the physiology survives, what they do with what is broken."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mien.core.errors import MienError
from mien.core.records import Signal, StreamSpec
from mien.data import physiology as ph
from mien.data.datasets import simulated
from mien.generation import units
from mien.generation.codecs import activity, beats, bins, eda
from mien.generation.grammar import Grammar
from mien.generation.vocabulary import BOS, EOS, FIRST_CODEC, LABEL_0, STREAM_0

CONFIG = simulated.Config(persons=8, sessions=2, seconds=60, seed=12, label_effect=2.0)
SPECS = simulated.STREAMS
MINUTE = 60.0


@pytest.fixture(scope="module")
def made():
    return [simulated.record(s, CONFIG) for p in range(8) for s in simulated.sessions(CONFIG, p)]


def signal(name: str, values, valid=None) -> Signal:
    spec = SPECS[name]
    values = np.asarray(values, dtype=np.float32).reshape(-1, len(spec.channels))
    return Signal(values=values, rate_hz=spec.rate_hz, channels=spec.channels, unit=spec.unit, valid=valid)


def coded(codec, windows):
    blocks = codec.encode(windows)
    assert not any(isinstance(b, str) for b in blocks)
    return blocks, [codec.decode(b) for b in blocks]


def test_heart_and_breath_survive(made):
    codec = beats.Codec(beats.Config(), {n: SPECS[n] for n in ("bvp", "resp")}, MINUTE)
    blocks, back = coded(codec, [{n: r.streams[n] for n in ("bvp", "resp")} for r in made])
    off = {"hr": [], "rmssd": [], "coherence": [], "breath": []}
    for r, d in zip(made, back, strict=True):
        a, b = (ph.beats(s["bvp"].values[:, 0], 64) for s in (r.streams, d))
        one, two = ph.heart(a), ph.heart(b)
        off["hr"].append(abs(one["hr"] - two["hr"]))
        off["rmssd"].append(abs(one["rmssd"] - two["rmssd"]))
        x, y = (s["resp"].values[:, 0] for s in (r.streams, d))
        off["coherence"].append(abs(ph.coherence(a, x, 25) - ph.coherence(b, y, 25)))
        off["breath"].append(abs(ph.breathing_hz(x, 25) - ph.breathing_hz(y, 25)))
    assert np.mean(off["hr"]) <= 0.05  # beats/min
    assert np.mean(off["rmssd"]) <= 2  # ms
    assert np.mean(off["coherence"]) <= 0.02
    assert np.mean(off["breath"]) <= 0.01  # Hz
    assert max(map(len, blocks)) <= 360


def test_baseline_and_noise_come_back_as_much_as_they_were(made):
    from scipy.signal import butter, sosfiltfilt

    codec = beats.Codec(beats.Config(), {n: SPECS[n] for n in ("bvp", "resp")}, MINUTE)
    blocks, back = coded(codec, [{n: r.streams[n] for n in ("bvp", "resp")} for r in made])
    slow = butter(4, 0.5, fs=64.0, output="sos")
    ratios = {"baseline": [], "noise of bvp": [], "noise of resp": []}
    for r, d in zip(made, back, strict=True):
        one, two = (sosfiltfilt(slow, s["bvp"].values[:, 0]).std() for s in (r.streams, d))
        ratios["baseline"].append(two / one)
        for n in ("bvp", "resp"):
            x, y = (s[n].values[None].astype(float) for s in (r.streams, d))
            one, two = (units.noise_sd(v, np.ones(v.shape[:2], bool))[0, 0] for v in (x, y))
            ratios[f"noise of {n}"].append(two / one)
    for what, found in ratios.items():
        assert np.median(found) == pytest.approx(1, abs=0.1), what
        assert 0.5 < min(found) < max(found) < 1.6, what
    # an idle baseline and a silent sensor are nothing, and what is drawn follows from the tokens
    quiet = blocks[0].copy()
    for group in ("wander", "noise"):
        quiet[beats._HEAD.index(group)] = beats._AT[group]
    clean, again = (codec.decode(quiet)["bvp"].values[:, 0] for _ in range(2))
    assert np.array_equal(clean, again)
    assert units.noise_sd(clean[None, :, None].astype(float), np.ones((1, len(clean)), bool))[0, 0] < 1e-3
    assert sosfiltfilt(slow, clean).std() < 0.5 * sosfiltfilt(slow, back[0]["bvp"].values[:, 0]).std()


def test_minutes_of_all_five_streams_take_at_most_480_tokens(made):
    codecs = [
        beats.Codec(beats.Config(), {n: SPECS[n] for n in ("bvp", "resp")}, MINUTE),
        eda.Codec(eda.Config(), {"eda": SPECS["eda"]}, MINUTE),
        bins.Codec(bins.Config(hz=0.1), {"temp": SPECS["temp"]}, MINUTE),
        activity.Codec(activity.Config(), {"acc": SPECS["acc"]}, MINUTE),
    ]
    lengths = np.sum([[1 + len(b) for b in c.encode([r.streams for r in made])] for c in codecs], axis=0) + 3
    assert np.mean(lengths) < 400
    assert lengths.max() <= 480


def test_responses_survive_and_none_are_made_up(made):
    codec = eda.Codec(eda.Config(), {"eda": SPECS["eda"]}, MINUTE)
    _, back = coded(codec, [{"eda": r.streams["eda"]} for r in made])
    before = [len(ph.responses(r.streams["eda"].values[:, 0], 4)[0]) for r in made]
    after = [len(ph.responses(d["eda"].values[:, 0], 4)[0]) for d in back]
    assert abs(np.mean(after) - np.mean(before)) < 0.2 * np.mean(before)
    assert np.corrcoef(before, after)[0, 1] > 0.7
    flat = 4 + 0.005 * np.random.default_rng(0).normal(size=240)
    (block,), (quiet,) = coded(codec, [{"eda": signal("eda", flat)}])
    assert len(ph.responses(quiet["eda"].values[:, 0], 4)[0]) == 0
    assert abs(quiet["eda"].values.mean() - 4) < 0.1
    assert len(block) < 25


def test_nanosiemens_are_not_microsiemens():
    spec = StreamSpec(channels=("eda",), unit="nS", rate_hz=4.0, range=(0.0, 60000.0))
    nano = eda.Codec(eda.Config(), {"eda": spec}, MINUTE)
    micro = eda.Codec(eda.Config(), {"eda": SPECS["eda"]}, MINUTE)
    x = 4 + 0.3 * np.clip(np.sin(np.arange(240) / 9), 0, None)
    in_nano = Signal(values=1000 * x[:, None], rate_hz=4.0, channels=("eda",), unit="nS")
    a, b = nano.encode([{"eda": in_nano}])[0], micro.encode([{"eda": signal("eda", x)}])[0]
    assert np.array_equal(a, b)
    assert nano.decode(a)["eda"].values.mean() == pytest.approx(4000, rel=0.05)
    with pytest.raises(MienError, match="in 'uS', got"):
        micro.encode([{"eda": in_nano}])
    with pytest.raises(MienError, match="uS or nS"):
        eda.Codec(eda.Config(), {"bvp": SPECS["bvp"]}, MINUTE)


def test_gaps_come_back_as_gaps_and_nothing_is_made_of_them():
    codec = bins.Codec(bins.Config(hz=1.0), {"temp": SPECS["temp"]}, MINUTE)
    x = 33 + 0.5 * np.sin(np.arange(240) / 40)
    there = np.ones(240, bool)
    there[80:120] = False
    holed = x.copy()
    holed[~there] = np.nan
    (block,), (back,) = coded(codec, [{"temp": signal("temp", holed, there)}])
    assert back["temp"].valid is not None
    assert np.array_equal(back["temp"].valid, there)
    assert np.abs(back["temp"].values[there, 0] - x[there]).max() < 0.15
    # what hides inside a gap moves no token
    other = np.where(there, x, 20.0)
    assert np.array_equal(codec.encode([{"temp": signal("temp", other, there)}])[0], block)
    (nothing,) = codec.encode([{"temp": signal("temp", holed, np.zeros(240, bool))}])
    assert nothing == "no sample of temp"
    assert codec.decode(codec.encode([{"temp": signal("temp", x)}])[0])["temp"].valid is None


@pytest.mark.parametrize("module", [beats, eda])
def test_codecs_that_cannot_leave_a_gap_open_refuse_the_window(module, made):
    names = {beats: ("bvp", "resp"), eda: ("eda",)}[module]
    codec = module.Codec(module.Config(), {n: SPECS[n] for n in names}, MINUTE)
    s = made[0].streams[names[0]]
    there = np.ones(len(s.values), bool)
    there[50] = False
    window = {n: made[0].streams[n] for n in names} | {names[0]: signal(names[0], s.values, there)}
    whole = {n: made[1].streams[n] for n in names}
    first, second = codec.encode([window, whole])
    assert "a gap in" in first
    assert np.array_equal(second, codec.encode([whole])[0])


def test_a_breath_that_is_not_there_is_absent(made):
    codec = beats.Codec(beats.Config(), {n: SPECS[n] for n in ("bvp", "resp")}, MINUTE)
    (block,), (back,) = coded(codec, [{"bvp": made[0].streams["bvp"]}])
    assert set(back) == {"bvp"}
    assert beats._AT["alone"] in block
    with_breath = codec.decode(codec.encode([{n: made[0].streams[n] for n in ("bvp", "resp")}])[0])
    assert np.array_equal(with_breath["bvp"].values, back["bvp"].values)


@pytest.mark.parametrize(
    ("x", "says"),
    [
        (np.zeros(3840), "too few heartbeats"),
        (np.full(3840, 2.9), "too few heartbeats"),
        (np.r_[np.zeros(3839), 3], "too few heartbeats"),
    ],
)
def test_no_heart_is_refused(x, says):
    codec = beats.Codec(beats.Config(), {"bvp": SPECS["bvp"]}, MINUTE)
    assert says in codec.encode([{"bvp": signal("bvp", x)}])[0]


def test_an_ectopic_beat_and_a_dropout_can_be_said(made):
    codec = beats.Codec(beats.Config(), {"bvp": SPECS["bvp"]}, MINUTE)
    x = made[0].streams["bvp"].values[:, 0].copy()
    x[1000:1200] = 0.0  # three seconds of nothing
    (block,), (back,) = coded(codec, [{"bvp": signal("bvp", x)}])
    before = ph.heart(ph.beats(made[0].streams["bvp"].values[:, 0], 64))["hr"]
    assert abs(ph.heart(ph.beats(back["bvp"].values[:, 0], 64))["hr"] - before) < 2
    assert len(block) > 30


def test_movement_and_posture_survive(made):
    codec = activity.Codec(activity.Config(), {"acc": SPECS["acc"]}, MINUTE)
    blocks, back = coded(codec, [{"acc": r.streams["acc"]} for r in made])
    for r, d in zip(made, back, strict=True):
        x, y = r.streams["acc"].values, d["acc"].values
        assert np.abs(x.mean(0) - y.mean(0)).max() < 0.06
        assert 0.6 < y.std(0).mean() / x.std(0).mean() < 1.6
    again = codec.decode(blocks[0])["acc"].values
    assert np.array_equal(again, back[0]["acc"].values)  # whoever decodes


CODECS = {
    "beats": lambda s: beats.Codec(beats.Config(), {n: SPECS[n] for n in ("bvp", "resp")}, s),
    "ecg": lambda s: beats.Codec(
        beats.Config(), {"ecg": StreamSpec(channels=("ecg",), unit="mV", rate_hz=250.0, range=(-2.0, 2.0))}, s
    ),
    "eda": lambda s: eda.Codec(eda.Config(), {"eda": SPECS["eda"]}, s),
    "bins": lambda s: bins.Codec(bins.Config(), {"acc": SPECS["acc"]}, s),
    "activity": lambda s: activity.Codec(activity.Config(), {"acc": SPECS["acc"]}, s),
}


@pytest.mark.parametrize("name", CODECS)
@given(seed=st.integers(0, 2**20), seconds=st.sampled_from([4.0, 7.3, 20.0]))
@settings(max_examples=15, deadline=None)
def test_whatever_the_machine_accepts_can_be_read(name, seed, seconds):
    codec = CODECS[name](seconds)
    rng = np.random.default_rng(seed)
    tokens = 1 + max(last for _, _, last, _ in codec.machine.arcs)
    grammar = Grammar.of(classes=1, blocks=[(codec.machine, FIRST_CODEC)], size=FIRST_CODEC + tokens)
    state, block = grammar.states(np.array([[BOS, LABEL_0, STREAM_0]]))[:, -1], []
    extreme = rng.random() < 0.5  # an adversary who takes the lowest or the highest of what is allowed
    while EOS not in (allowed := np.flatnonzero(grammar.allowed(state[0]))):
        token = int(rng.choice([allowed[0], allowed[-1]] if extreme else allowed))
        state = grammar.step(state, np.array([token]))
        block.append(token - FIRST_CODEC)
    assert len(block) <= codec.machine.length
    for n, s in codec.decode(np.array(block, dtype=np.int32)).items():
        spec = (SPECS | {"ecg": StreamSpec(channels=("ecg",), unit="mV", rate_hz=250.0, range=(-2.0, 2.0))})[n]
        assert s.values.shape == (round(seconds * spec.rate_hz), len(spec.channels))
        assert spec.range is not None
        good = s.values if s.valid is None else s.values[s.valid]
        assert good.size == 0 or (spec.range[0] - 1e-4 <= good.min() and good.max() <= spec.range[1] + 1e-4)


def test_the_pulses_of_two_persons_share_a_small_family():
    # pulse shape tells who somebody is; the codec can say only so much of it
    codec = beats.Codec(beats.Config(), {"bvp": SPECS["bvp"]}, MINUTE)
    assert codec.family.shape == (128, 128)
    assert np.allclose(codec.family.mean(1), 0)
    assert np.allclose(codec.family.std(1), 1)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: beats.Codec(beats.Config(), {"acc": SPECS["acc"]}, MINUTE), "takes one"),
        (lambda: beats.Codec(beats.Config(), {"bvp": SPECS["bvp"]}, 2.0), "4 s and 16 Hz"),
        (lambda: bins.Codec(bins.Config(), {"temp": SPECS["temp"]}, 0.1), "has no sample"),
        (lambda: activity.Codec(activity.Config(every_s=0.05), {"acc": SPECS["acc"]}, MINUTE), "fewer than 4 samples"),
        (lambda: eda.Codec(eda.Config(), {"eda": SPECS["eda"]}, 1.0), "8 samples"),
    ],
)
def test_codecs_refuse_streams_that_do_not_suit(make, says):
    with pytest.raises(MienError, match=says):
        make()
