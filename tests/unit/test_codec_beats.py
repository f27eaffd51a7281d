"""The beats codec against what was put in, against neurokit2, and against what is no heart."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mien.core.records import Signal, StreamSpec
from mien.data import physiology as ph
from mien.data.datasets import simulated
from mien.generation.codecs import beats
from mien.generation.grammar import Grammar
from mien.generation.vocabulary import BOS, EOS, FIRST_CODEC, LABEL_0, STREAM_0

BVP, RESP = simulated.STREAMS["bvp"], simulated.STREAMS["resp"]
ECG = StreamSpec(channels=("ecg",), unit="mV", rate_hz=250.0, range=(-5.0, 5.0))


def signal(spec: StreamSpec, x, valid=None) -> Signal:
    return Signal(
        values=np.asarray(x)[:, None], rate_hz=spec.rate_hz, channels=spec.channels, unit=spec.unit, valid=valid
    )


def codec(seconds=60.0, **specs) -> beats.Codec:
    return beats.Codec(beats.Config(), specs or {"bvp": BVP}, seconds)


def pulse(times, seconds=60.0, rate=64.0, size=0.5) -> np.ndarray:
    """A pulse whose tops are at `times`; flat where there is no beat on either side."""
    from scipy.interpolate import PchipInterpolator

    t = np.arange(round(seconds * rate)) / rate
    phase = PchipInterpolator(times, np.arange(len(times)))(np.clip(t, times[0], times[-1]))
    angle = 2 * np.pi * (phase % 1)
    wave = np.exp(3.5 * (np.cos(angle) - 1)) + 0.3 * np.exp(3 * (np.cos(angle - 2.1) - 1)) - 0.4
    return size * np.where((t < times[0]) | (t > times[-1]), 0.0, wave)


def regular(rng, seconds=60.0, mean=0.85, swing=0.04, first=0.4) -> np.ndarray:
    """Beat times with respiratory sinus arrhythmia at 0.25 Hz and some jitter."""
    times = [first - mean, first]
    while times[-1] < seconds + 2:
        times.append(times[-1] + mean + swing * np.sin(2 * np.pi * 0.25 * times[-1]) + 0.01 * rng.normal())
    return np.array(times)


def said(c: beats.Codec, ids) -> np.ndarray:
    """The beat times [s] that a block of tokens says, read token by token."""
    at = beats._AT
    mean, spread, first = ids[0], ids[1] - at["spread"], ids[2] - at["first"]
    now = beats._FIRST_MS[mean, first]
    times = [now]
    for token in ids[6:]:
        if at["interval"] <= token < at["interval"] + beats.TOKENS["interval"]:
            now = now + beats._INTERVALS_MS[mean, spread, token - at["interval"]]
            times.append(now)
    return np.array(times) / 1000


@given(seed=st.integers(0, 2**20), seconds=st.sampled_from([8.0, 20.0, 60.0]), mean=st.floats(0.45, 1.5))
@settings(max_examples=25, deadline=None)
def test_beats_fill_their_window_and_their_grammar(seed, seconds, mean):
    rng = np.random.default_rng(seed)
    truth = regular(rng, seconds, mean, swing=rng.uniform(0, 0.06), first=rng.uniform(0.1, 0.9) * mean)
    c = codec(seconds)
    (ids,) = c.encode([{"bvp": signal(BVP, pulse(truth, seconds))}])
    assert not isinstance(ids, str), ids
    times = said(c, ids)
    assert times[-2] < seconds <= times[-1]
    within = truth[(truth > 0.5) & (truth < seconds - 1.5 * mean)]
    assert np.abs(times[:, None] - within).min(0).max() < 0.04
    grammar = Grammar.of(classes=1, blocks=[(c.machine, FIRST_CODEC)], size=FIRST_CODEC + sum(beats.TOKENS.values()))
    assert grammar.accepts([BOS, LABEL_0, STREAM_0, *(ids + FIRST_CODEC), EOS])
    # one beat fewer, and the window would not be full
    assert not grammar.accepts([BOS, LABEL_0, STREAM_0, *(ids[:-2] + FIRST_CODEC), EOS])


def test_what_rounding_costs_does_not_add_up_to_a_drift():
    c, off = codec(), []
    for seed in range(8):
        x = pulse(regular(np.random.default_rng(seed), swing=0.06))
        times, found = said(c, c.encode([{"bvp": signal(BVP, x)}])[0]), ph.beats(x, 64)
        off.append(np.abs(times[:, None] - found).min(0).max())
    assert np.mean(off) < 0.015  # s, the worst beat of a minute; .025 to .054 where each interval is rounded by itself


def test_a_decoded_heart_varies_as_its_tokens_say():
    # a cardiac phase with a kink at each beat takes 2 ms of it away: its filtered tops lean to the longer interval
    c, off = codec(), []
    for seed in range(8):
        truth = regular(np.random.default_rng(seed), swing=0.06)
        (ids,) = c.encode([{"bvp": signal(BVP, pulse(truth))}])
        times = said(c, ids)
        found = ph.beats(c.decode(ids)["bvp"].values[:, 0], 64)
        off.append(ph.heart(found)["rmssd"] - ph.heart(times[times < 60])["rmssd"])
    assert abs(np.mean(off)) < 1.0


@pytest.mark.parametrize("flip", [1, -1])
def test_ecgs_come_back_either_way_up_as_neurokit_sees_them(flip):
    nk = pytest.importorskip("neurokit2")
    c = codec(ecg=ECG)
    for seed, rate in ((1, 55), (2, 75), (3, 110)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            x = np.asarray(
                nk.ecg_simulate(duration=60, sampling_rate=250, heart_rate=rate, noise=0.02, random_state=seed)
            )
        (ids,) = c.encode([{"ecg": signal(ECG, flip * x)}])
        back = c.decode(ids)["ecg"].values[:, 0]
        assert np.corrcoef(flip * x, back)[0, 1] > 0.75
        assert back.std() == pytest.approx(x.std(), rel=0.3)
        one, two = (
            ph.heart(nk.ecg_peaks(nk.ecg_clean(v, sampling_rate=250), sampling_rate=250)[1]["ECG_R_Peaks"] / 250)
            for v in (x, flip * back)
        )
        assert abs(one["hr"] - two["hr"]) < 0.2
        assert abs(one["rmssd"] - two["rmssd"]) < 3


def test_pulses_come_back_as_neurokit_sees_them():
    nk = pytest.importorskip("neurokit2")
    config = simulated.Config(persons=8, sessions=2, seconds=60, seed=41)
    windows = [simulated.record(simulated.sessions(config, p)[0], config).streams for p in range(8)]
    c, off = codec(bvp=BVP, resp=RESP), []
    for w, ids in zip(windows, c.encode(windows), strict=True):
        pair = (w["bvp"].values[:, 0], c.decode(ids)["bvp"].values[:, 0])
        found = [nk.ppg_findpeaks(nk.ppg_clean(x, sampling_rate=64), sampling_rate=64)["PPG_Peaks"] / 64 for x in pair]
        one, two = (ph.heart(f) for f in found)
        off.append((abs(one["hr"] - two["hr"]), abs(one["rmssd"] - two["rmssd"])))
    assert (np.median(off, axis=0) < (0.05, 2.0)).all()  # the mean is that of single movement artefacts


RNG = np.random.default_rng(0)
TRUTH = regular(RNG)
PULSE = pulse(TRUTH)
CLOCK = np.arange(3840) / 64


@pytest.mark.parametrize(
    ("x", "says"),
    [
        (RNG.normal(size=3840), "not alike"),
        (np.cumsum(RNG.normal(size=3840)) / 30, "not alike"),
        (np.where((CLOCK > 20) & (CLOCK < 30), 0.0, PULSE), "more than 5 s"),
        (np.where(CLOCK < 9, 0.0, PULSE), "more than 5 s"),
        (np.where(CLOCK > 50, 0.0, PULSE), "more than 5 s"),
        (np.where(CLOCK > 15, 0.0, PULSE), "too few"),
    ],
)
def test_what_is_no_heart_is_refused_by_name(x, says):
    c = codec()
    bad, good = c.encode([{"bvp": signal(BVP, x)}, {"bvp": signal(BVP, PULSE)}])
    assert isinstance(bad, str)
    assert says in bad
    assert "bvp" in bad
    assert np.array_equal(good, c.encode([{"bvp": signal(BVP, PULSE)}])[0])  # its neighbour does not mind


@pytest.mark.parametrize(
    "x",
    [
        0.5 * PULSE + 2.5, 1e-6 * PULSE, 1e6 * PULSE, -PULSE, np.clip(PULSE, -9, 0.25), PULSE + 0.15 * RNG.normal(size=3840),
        np.where(np.arange(3840) == 700, 1e9, PULSE), pulse(-0.5 + np.cumsum(RNG.uniform(0.5, 1.1, 100))),
    ],
    ids=["offset", "tiny", "beyond the sensor", "upside down", "clipped", "noisy", "one spike", "fibrillation"],
)  # fmt: skip
def test_odd_pulses_are_coded_or_refused_and_stay_in_range(x):
    c = codec()
    (ids,) = c.encode([{"bvp": signal(BVP, x)}])
    if isinstance(ids, str):
        assert "bvp" in ids
        return
    back = c.decode(ids)["bvp"].values
    assert back.shape == (3840, 1)
    assert np.isfinite(back).all()
    assert back.min() >= -3
    assert back.max() <= 3


@pytest.mark.parametrize(("sd", "coded"), [(2, True), (4, True), (10, False), (20, False)])
def test_a_pulse_far_out_of_its_range_is_refused_by_name(sd, coded):
    """Its tops would be cut off, and heart rate variability made up: in a.u. without a range, which is usually ±10."""
    usual = StreamSpec(channels=("bvp",), unit="a.u.", rate_hz=64.0)
    x = sd * (PULSE - PULSE.mean()) / PULSE.std()
    (ids,) = codec(bvp=usual).encode([{"bvp": signal(usual, x)}])
    if coded:
        assert not isinstance(ids, str)
        return
    assert "more than 5 % of bvp outside of -10 to 10 a.u." in ids
    assert "`range` in the cohort's card" in ids
    given = replace(usual, range=(-100.0, 100.0))
    assert not isinstance(codec(bvp=given).encode([{"bvp": signal(given, x)}])[0], str)


def test_respiration_far_out_of_its_range_is_refused_by_name():
    c = codec(bvp=BVP, resp=RESP)
    window = {"bvp": signal(BVP, PULSE), "resp": signal(RESP, 20 * np.sin(np.arange(1500) / 25))}
    (says,) = c.encode([window])
    assert "more than 5 % of resp outside of -3 to 3" in says


def test_a_saturated_sensor_within_its_range_is_coded():
    wrist = StreamSpec(channels=("bvp",), unit="a.u.", rate_hz=64.0, range=(-500.0, 500.0))
    x = 400 * (PULSE - PULSE.mean()) / PULSE.std()
    x = np.clip(x, -505, 505)  # a sensor's own end, next to what its card says
    assert (np.abs(x) >= 500).mean() > 0.05
    assert not isinstance(codec(bvp=wrist).encode([{"bvp": signal(wrist, x)}])[0], str)


def test_a_first_beat_that_comes_late_moves_no_other():
    # flat for three seconds: more than the two intervals that its token reaches
    x = np.where(CLOCK < 3.2, 0.0, PULSE)
    c = codec()
    (ids,) = c.encode([{"bvp": signal(BVP, x)}])
    times, within = said(c, ids), TRUTH[(TRUTH > 6) & (TRUTH < 58)]
    assert np.abs(times[:, None] - within).min(0).max() < 0.04


def test_a_premature_beat_leaves_the_others_where_they_were():
    early = TRUTH.copy()
    early[20] -= 0.3
    c = codec()
    (ids,) = c.encode([{"bvp": signal(BVP, pulse(early))}])
    times, others = said(c, ids), np.delete(TRUTH, [19, 20, 21])
    others = others[(others > 1) & (others < 58)]
    assert np.abs(times[:, None] - others).min(0).max() < 0.06


@pytest.mark.parametrize(
    ("spoil", "truth_at"),
    [("extra", 30), ("missed", 30), ("two missed", 30), ("displaced after a pause", 30)],
)
def test_mending_chooses_the_beat_that_does_not_fit(spoil, truth_at):
    times = 0.4 + 0.8 * np.arange(60)
    i = truth_at
    given = {
        "extra": np.sort(np.r_[times, times[i] + 0.3]),
        "missed": np.delete(times, i),
        "two missed": np.delete(times, [i, i + 1]),
        # two missed, and noise just before the next: the noise goes, not the beat
        "displaced after a pause": np.sort(np.r_[np.delete(times, [i, i + 1]), times[i + 2] - 0.35]),
    }[spoil]
    assert np.allclose(ph.mended(given), times)


def test_breath_with_a_gap_is_left_out_and_the_heart_stays():
    c = codec(bvp=BVP, resp=RESP)
    breath = np.sin(2 * np.pi * 0.25 * np.arange(1500) / 25)
    there = np.ones(1500, bool)
    there[300:400] = False
    ids = c.encode([{"bvp": signal(BVP, PULSE), "resp": signal(RESP, breath, there)}])[0]
    assert set(c.decode(ids)) == {"bvp"}
    whole = c.decode(c.encode([{"bvp": signal(BVP, PULSE), "resp": signal(RESP, breath)}])[0])
    assert np.corrcoef(whole["resp"].values[:, 0], breath)[0, 1] > 0.97


def test_what_the_first_stream_is_follows_from_its_name_or_the_option():
    assert codec(ecg=ECG).wave == "ecg"
    assert codec().wave == "pulse"
    assert beats.Codec(beats.Config(wave="ecg"), {"bvp": BVP}, 60.0).wave == "ecg"
    # upside down is an ECG's alone: pulses are found at their tops, and a pulse's grammar has no other
    shapes = [max(last for node, _, last, _ in c.machine.arcs if node == 5) for c in (codec(), codec(ecg=ECG))]
    assert shapes[1] - shapes[0] == len(codec().family)


@pytest.mark.parametrize(("bpm", "coded"), [(40, True), (190, True), (205, False), (210, False), (230, False)])
def test_a_pace_that_no_heart_has_is_refused_by_name(bpm, coded):
    said = codec().encode([{"bvp": signal(BVP, pulse(np.arange(0, 61, 60 / bpm)))}])[0]
    if coded:
        assert not isinstance(said, str), said
    else:
        assert said == f"{bpm} beats a minute in bvp, which is no heart's pace"
