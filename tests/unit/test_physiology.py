"""The detectors, judged by what was put in and by neurokit2."""

from __future__ import annotations

import numpy as np
import pytest

from mien.data import physiology as ph
from mien.data.datasets import simulated

CONFIG = simulated.Config(persons=6, sessions=2, seconds=60, seed=11, label_effect=2.0)


@pytest.fixture(scope="module")
def made():
    return [simulated.record(s, CONFIG) for p in range(6) for s in simulated.sessions(CONFIG, p)]


def test_pulse_beats_agree_with_neurokit(made):
    nk = pytest.importorskip("neurokit2")
    off = []
    for r in made:
        x = r.streams["bvp"].values[:, 0]
        mine = ph.heart(ph.beats(x, 64))["hr"]
        theirs = nk.ppg_findpeaks(nk.ppg_clean(x, sampling_rate=64), sampling_rate=64)["PPG_Peaks"]
        off.append(abs(mine - 60 * 64 / np.median(np.diff(theirs))))
    assert np.median(off) < 1.5


def test_r_peaks_of_a_made_ecg_are_where_they_were_put():
    rng = np.random.default_rng(0)
    truth = np.cumsum(rng.normal(0.8, 0.05, 70)) + 0.5
    t = np.arange(58 * 250) / 250
    truth = truth[truth < 57.5]
    ecg = sum(np.exp(-(((t - b) / 0.012) ** 2)) + 0.25 * np.exp(-(((t - b - 0.25) / 0.05) ** 2)) for b in truth)
    ecg = ecg + 0.02 * rng.normal(size=len(t)) + 0.3 * np.sin(2 * np.pi * 0.25 * t)
    found = ph.beats(ecg, 250, "ecg")
    assert len(found) == len(truth)
    assert np.abs(found - truth).max() < 0.008
    assert ph.heart(found)["rmssd"] == pytest.approx(ph.heart(truth)["rmssd"], abs=2)


def test_breath_responses_and_coherence_find_what_was_put_in(made):
    for r, s in zip(made, (s for p in range(6) for s in simulated.sessions(CONFIG, p)), strict=True):
        hz = ph.breathing_hz(r.streams["resp"].values[:, 0], 25)
        assert hz * 60 == pytest.approx(s.trait("breathing"), abs=3)
    pairs = [(ph.beats(r.streams["bvp"].values[:, 0], 64), r.streams["resp"].values[:, 0]) for r in made]
    own = [ph.coherence(b, x, 25) for b, x in pairs]
    others = [ph.coherence(pairs[i][0], pairs[i - 1][1], 25) for i in range(len(pairs))]
    assert np.mean(own) > 0.8
    assert np.mean(others) < np.mean(own) - 0.3  # somebody else's breath
    own = [ph.correlation(b, x, 25) for b, x in pairs]
    others = [ph.correlation(pairs[i][0], pairs[i - 1][1], 25) for i in range(len(pairs))]
    assert np.mean(others) < np.mean(own) - 0.2


def test_lagged_correlation_equals_its_definition_and_finds_the_lag():
    beats = np.cumsum(60 / (70 + 5 * np.sin(2 * np.pi * 0.2 * 0.85 * np.arange(70))))
    t = np.arange(60 * 25) / 25
    breath = np.interp(t - 2.0, (beats[:-1] + beats[1:]) / 2, 60 / np.diff(beats))  # follows the heart by two seconds
    pair = ph._rate_and_breath(beats, breath, 25)
    assert pair is not None
    a, b = pair
    slow = [np.corrcoef(a[k:], b[: len(b) - k])[0, 1] for k in range(21)]
    slow += [np.corrcoef(a[: len(a) - k], b[k:])[0, 1] for k in range(1, 21)]
    assert ph.correlation(beats, breath, 25) == pytest.approx(max(map(abs, slow)))
    assert ph.correlation(beats, breath, 25) > 0.95 > abs(slow[0])
    assert np.isnan(ph.correlation(beats[:5], breath, 25))
    assert ph.correlation(beats, np.zeros(1500), 25) == 0


def test_responses_are_counted_by_an_absolute_rise():
    t = np.arange(240) / 4
    starts = (5, 20, 38)

    def shape(s):
        return np.where(s > 0, np.exp(-np.clip(s, 0, None) / 3) - np.exp(-np.clip(s, 0, None) / 0.75), 0)

    eda = 4 + 0.01 * t + sum(0.4 * shape(t - s) for s in starts)
    times, rises = ph.responses(eda, 4)
    assert len(times) == 3
    assert (np.abs(times - np.array(starts)) < 3).all()
    noisy = eda + 0.005 * np.random.default_rng(0).normal(size=len(t))
    assert len(ph.responses(noisy, 4)[0]) == 3  # noise makes none
    assert len(ph.responses(4 + 0.005 * np.random.default_rng(1).normal(size=240), 4)[0]) == 0
    assert ph.slope(4 + 0.01 * t, 4) == pytest.approx(0.6)
    assert rises.min() > ph.SCR_US


def test_mending_puts_back_what_was_missed_and_takes_out_what_cannot_be():
    times = np.arange(20) * 0.8
    assert np.allclose(ph.mended(np.delete(times, 7)), times)
    assert np.allclose(ph.mended(np.sort(np.r_[times, 5.0])), times)
    assert np.array_equal(ph.mended(times[:2]), times[:2])


def pulse(bpm: float, seconds: float = 60, rate_hz: float = 64.0) -> np.ndarray:
    """A wave with a second bump, and a little noise."""
    phase = (np.arange(round(seconds * rate_hz)) / rate_hz * bpm / 60) % 1
    wave = np.exp(-(((phase - 0.3) / 0.12) ** 2)) + 0.35 * np.exp(-(((phase - 0.6) / 0.15) ** 2))
    return wave + 0.02 * np.random.default_rng(0).normal(size=len(wave))


@pytest.mark.parametrize("bpm", [30, 45, 60, 100, 150, 190, 199, 205, 210, 220, 230])
def test_no_pace_is_read_as_a_part_of_itself(bpm):
    """Beats nearer to each other than a heart's are found all the same: every second or third of them would look healthy."""
    assert 60 / np.median(np.diff(ph.beats(pulse(bpm), 64.0))) == pytest.approx(bpm, rel=0.01)


@pytest.mark.parametrize(
    "x", [np.zeros(4000), np.ones(4000), np.zeros(1), np.zeros(0), np.full(4000, np.nan), np.r_[np.zeros(3999), 1e9]]
)
def test_nothing_fails_on_absurd_input(x):
    for kind in ("pulse", "ecg"):
        assert ph.beats(x, 64, kind).ndim == 1
    assert np.isnan(ph.heart(np.empty(0))["hr"])
    assert not ph.breathing_hz(x, 25) < 0
    assert len(ph.responses(x, 4)[0]) <= 1
    assert np.isnan(ph.coherence(np.empty(0), x, 25))
