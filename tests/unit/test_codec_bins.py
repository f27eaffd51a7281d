"""bins and activity: gaps, slopes, long tails, movement; what must not appear out of nothing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mien.core.records import Signal, StreamSpec
from mien.data import physiology as ph
from mien.data.datasets import simulated
from mien.generation import units
from mien.generation.codecs import activity, bins, eda

S = simulated.STREAMS
STEPS = StreamSpec(channels=("steps",), unit="steps/min", rate_hz=1 / 60, range=(0.0, 300.0))
T = np.arange(240) / 4


def signal(spec: StreamSpec, x, valid=None) -> Signal:
    x = np.asarray(x, dtype=float).reshape(-1, len(spec.channels))
    return Signal(values=x, rate_hz=spec.rate_hz, channels=spec.channels, unit=spec.unit, valid=valid)


def through(codec, name: str, s: Signal) -> Signal:
    (ids,) = codec.encode([{name: s}])
    assert not isinstance(ids, str), ids
    back = codec.decode(ids)[name]
    assert isinstance(back, Signal)
    return back


# --- bins -----------------------------------------------------------------------------------------------
QUIET = {
    "flat": 4 + 0 * T,
    "up 4 uS": 4 + T / 15,
    "down 4 uS": 8 - T / 15,
    "decay": 4 + 3 * np.exp(-T / 15),
    "half a wave": 6 + 2 * np.cos(np.pi * T / 60),
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("codec", ["bins 1 Hz", "bins 0.5 Hz", "eda"])
@pytest.mark.parametrize("name", QUIET)
def test_slopes_and_noise_make_no_responses(codec, name, seed):
    # bins make stairs of a slope; a curve that swings on them shows fifteen responses a minute
    spec = {"eda": S["eda"]}
    made = {
        "bins 1 Hz": lambda: bins.Codec(bins.Config(hz=1.0), spec, 60.0),
        "bins 0.5 Hz": lambda: bins.Codec(bins.Config(hz=0.5), spec, 60.0),
        "eda": lambda: eda.Codec(eda.Config(), spec, 60.0),
    }[codec]()
    x = QUIET[name] + 0.005 * np.random.default_rng(seed).normal(size=240)
    assert len(ph.responses(x, 4)[0]) == 0
    back = through(made, "eda", signal(S["eda"], x)).values[:, 0]
    assert len(ph.responses(back, 4)[0]) == 0
    assert abs(back.mean() - x.mean()) < 0.05


def test_steep_tonic_levels_make_no_responses_between_their_knots():
    rng, codec = np.random.default_rng(3), eda.Codec(eda.Config(), {"eda": S["eda"]}, 60.0)
    judged = 0
    while judged < 60:
        wave = np.cos(np.pi * T / 60 * rng.uniform(0.3, 1.3) + rng.uniform(0, 2 * np.pi))
        x = 8 + rng.uniform(0.5, 5) * wave + rng.uniform(-2, 2) * T / 60 + 0.005 * rng.normal(size=240)
        if x.min() < 0.5 or len(ph.responses(x, 4)[0]):
            continue
        judged += 1
        assert len(ph.responses(through(codec, "eda", signal(S["eda"], x)).values[:, 0], 4)[0]) == 0


# --- a sensor's noise ---------------------------------------------------------------------------------------
def slow_noise_sd(x, there) -> float:
    """units.noise_sd of one channel, one stretch and one frequency at a time."""
    size = max(14, (len(x) - 2) // 16)
    found = []
    for k in range((len(x) - 2) // size):
        at = range(k * size, (k + 1) * size)
        if not all(there[i] and there[i + 1] and there[i + 2] for i in at):
            continue
        d = np.array([x[i + 2] - 2 * x[i + 1] + x[i] for i in at])
        power = []
        for f in np.arange(size // 2 + 1) / size:
            if f >= 0.25:
                turned = (d * np.exp(-2j * np.pi * f * np.arange(size))).sum()
                power.append(abs(turned / (np.exp(2j * np.pi * f) - 1) ** 2) ** 2 / size)
        found.append(np.mean(power))
    return float(np.sqrt(np.median(found) / (1 - 1 / (9 * len(power))) ** 3)) if found else 0.0


@pytest.mark.parametrize("samples", [8, 16, 30, 240, 1500])
@pytest.mark.parametrize("share", [1.0, 0.97])
def test_noise_is_what_the_slow_way_says(samples, share):
    rng = np.random.default_rng(samples)
    x, there = rng.normal(size=(3, samples, 2)).cumsum(1), rng.random((3, samples)) < share
    found = units.noise_sd(np.where(there[..., None], x, np.nan), there)
    wanted = [[slow_noise_sd(x[i, :, c], there[i]) for c in range(2)] for i in range(3)]
    assert found == pytest.approx(np.array(wanted))


def test_noise_is_told_from_slopes_waves_and_jumps():
    rng, n = np.random.default_rng(0), 240
    t = np.arange(n) / 4
    for clean in (0 * t, 5 * t, np.sin(2 * np.pi * 0.1 * t), np.where(t < 30, 0.0, 5.0)):
        x = clean + 0.01 * rng.normal(size=(200, n))
        found = units.noise_sd(x[..., None], np.ones((200, n), bool))[:, 0]
        assert np.median(found) == pytest.approx(0.01, rel=0.05)
        assert found.std() < 0.15 * 0.01
        assert units.noise_sd(clean[None, :, None], np.ones((1, n), bool))[0, 0] < 2e-3
    noise = units.Noise(low=20.0, high=42.0)
    assert noise.sd(noise.token(np.array([0.01, 0.0]))) == pytest.approx([0.01, 0.0], rel=0.04)


def test_a_sensors_noise_comes_back_as_much_and_not_as_it_was():
    rng, codec = np.random.default_rng(1), bins.Codec(bins.Config(hz=0.1), {"temp": S["temp"]}, 60.0)
    one, two = (33 + 0.01 * rng.normal(size=240) for _ in range(2))
    there = np.ones((1, 240), bool)
    back = [through(codec, "temp", signal(S["temp"], x)).values.astype(float) for x in (one, one, two, 33 + 0 * T)]
    assert np.array_equal(back[0], back[1])  # the same tokens, the same waveform
    for x, y in zip((one, two), (back[0], back[2]), strict=True):
        assert units.noise_sd(y[None], there)[0, 0] / units.noise_sd(x[None, :, None], there)[0, 0] == pytest.approx(
            1, abs=0.4
        )
        assert abs(np.corrcoef(x, y[:, 0])[0, 1]) < 0.3
    assert back[3].std() < 1e-3


def test_responses_survive_bins_at_one_hertz():
    config = simulated.Config(persons=20, sessions=2, seconds=60, seed=42)
    codec = bins.Codec(bins.Config(hz=1.0), {"eda": S["eda"]}, 60.0)
    counts = []
    for p in range(20):
        s = simulated.record(simulated.sessions(config, p)[0], config).streams["eda"]
        assert isinstance(s, Signal)
        counts.append([len(ph.responses(v.values[:, 0], 4)[0]) for v in (s, through(codec, "eda", s))])
    before, after = np.array(counts).T
    assert abs(after.mean() - before.mean()) < 0.2 * before.mean()
    assert np.abs(after - before).mean() < 1


@given(seed=st.integers(0, 2**20), hz=st.sampled_from([0.1, 0.5, 1.0, 4.0]))
@settings(max_examples=40, deadline=None)
def test_a_frame_is_there_when_half_of_its_samples_are(seed, hz):
    rng = np.random.default_rng(seed)
    codec = bins.Codec(bins.Config(hz=hz), {"temp": S["temp"]}, 60.0)
    there = np.repeat(rng.random(24) > 0.4, 10) ^ (rng.random(240) < 0.1)
    x = 33 + 0.3 * np.cumsum(rng.normal(size=240)) / 10
    one, two = (
        codec.encode([{"temp": signal(S["temp"], np.where(there, x, fill), there)}])[0] for fill in (np.nan, 41)
    )
    frames = there.reshape(-1, round(4 / hz)).mean(1) >= 0.5  # the slow way to say it
    if not frames.any():
        assert one == two == "no sample of temp"
        return
    assert np.array_equal(one, two)  # what a gap hides moves no token
    back = codec.decode(one)["temp"]
    valid = np.ones(240, bool) if back.valid is None else back.valid
    assert np.array_equal(valid, np.repeat(frames, round(4 / hz)))
    assert np.isfinite(back.values).all()


def test_bursts_of_steps_keep_their_height():
    x = np.zeros(1440)
    x[600:640], x[1000], x[1200:1203] = 110, 180, 90
    codec = bins.Codec(bins.Config(), {"steps": STEPS}, 86400.0)  # no faster than the stream's own minute
    back = through(codec, "steps", signal(STEPS, x)).values[:, 0]
    assert np.abs(back - x).max() < 18
    assert abs(back.sum() / x.sum() - 1) < 0.1
    assert back[x == 0].mean() < 1


@given(
    seed=st.integers(0, 2**20), busy=st.floats(0.02, 0.6), top=st.floats(40, 300), hours=st.sampled_from([0.5, 1, 3])
)
@settings(max_examples=30, deadline=None)
def test_noise_moves_no_frames_mean_at_the_edge_of_the_range(seed, busy, top, hours):
    """Steps are 0 but for bursts, which are taken for noise; clipped at 0, it added thousands of steps a day."""
    rng = np.random.default_rng(seed)
    awake = (np.arange(1440) >= 420) & (np.arange(1440) < 1380)
    x = np.where(awake & (rng.random(1440) < busy), rng.uniform(20, top, 1440), 0)
    codec = bins.Codec(bins.Config(hz=1 / (3600 * hours)), {"steps": STEPS}, 86400.0)
    (ids,) = codec.encode([{"steps": signal(STEPS, x)}])
    silent = ids.copy()
    silent[2] = bins._NOISE
    found, plain = (codec.decode(i)["steps"].values[:, 0].astype(float) for i in (ids, silent))
    frames = codec.edges[:-1]
    each = [np.add.reduceat(v, frames) / np.diff(codec.edges) for v in (found, plain)]
    edge = (np.minimum.reduceat(found, frames) <= 0) | (np.maximum.reduceat(found, frames) >= 300)
    assert edge.any()
    assert each[0][edge] == pytest.approx(each[1][edge], abs=1e-2)
    assert found.min() >= 0
    assert found.max() <= 300


def test_a_day_of_steps_keeps_its_sum():
    rng, days = np.random.default_rng(1), []
    codec = bins.Codec(bins.Config(hz=1 / 3600), {"steps": STEPS}, 86400.0)
    awake = (np.arange(1440) >= 420) & (np.arange(1440) < 1380)
    for _ in range(30):
        x = np.where(awake & (rng.random(1440) < 0.2), rng.integers(20, 120, 1440), 0)
        days.append([x.sum(), through(codec, "steps", signal(STEPS, x)).values.sum()])
    recorded, decoded = np.mean(days, 0)
    assert decoded / recorded == pytest.approx(1, abs=0.05)


def test_rates_are_each_streams_own():
    config = bins.Config(hz=1.0, rates={"temp": 0.1})
    assert len(bins.Codec(config, {"temp": S["temp"]}, 60.0).machine.arcs) == 3 + 6
    assert len(bins.Codec(config, {"eda": S["eda"]}, 60.0).machine.arcs) == 3 + 60
    assert len(bins.Codec(config, {"acc": S["acc"]}, 60.0).machine.arcs) == 9 + 180
    assert bins.Codec(bins.Config(hz=50), {"eda": S["eda"]}, 60.0).frames == 240


def test_breath_keeps_its_rate_and_its_depth():
    t = np.arange(1500) / 25
    x = np.sin(2 * np.pi * 0.27 * t)
    for hz, off, least in ((1.0, 0.3, 0.85), (2.0, 0.12, 0.95)):
        back = through(bins.Codec(bins.Config(hz=hz), {"resp": S["resp"]}, 60.0), "resp", signal(S["resp"], x))
        y = back.values[:, 0]
        assert ph.breathing_hz(y, 25) == pytest.approx(0.27, abs=0.005)
        assert np.std(y - x) / x.std() < off
        assert least < y.std() / x.std() < 1.05
        assert np.abs(np.diff(y)).max() < 2 * np.abs(np.diff(x)).max()  # no steps


@pytest.mark.parametrize("x", [np.full(240, 33.0), np.full(240, 99.0), np.where(T < 30, 22.0, 34.0), 33 + 0.001 * T])
def test_odd_temperatures_stay_in_range(x):
    back = through(bins.Codec(bins.Config(hz=0.1), {"temp": S["temp"]}, 60.0), "temp", signal(S["temp"], x)).values
    assert back.min() >= 20
    assert back.max() <= 42
    assert abs(back.mean() - np.clip(x, 20, 42).mean()) < 0.2


def test_a_single_sample_is_a_window():
    spec = StreamSpec(channels=("hr",), unit="bpm", rate_hz=1 / 60)
    codec = bins.Codec(bins.Config(), {"hr": spec}, 60.0)
    assert through(codec, "hr", signal(spec, [71.0])).values[0, 0] == pytest.approx(71, abs=1)


# --- activity -------------------------------------------------------------------------------------------
def acc(moves: np.ndarray, seed=0, turn=0.0) -> np.ndarray:
    """Gravity on z with band-limited movement of standard deviation moves[k] [g] in the k-th two seconds."""
    from scipy.signal import butter, sosfiltfilt

    rng = np.random.default_rng(seed)
    n = 64 * len(moves)
    noise = sosfiltfilt(butter(2, [0.5, 5.0], btype="band", fs=32, output="sos"), rng.normal(size=(n, 3)), axis=0)
    tilt = turn * np.arange(n) / n
    gravity = np.stack([np.sin(tilt), 0 * tilt, np.cos(tilt)], 1)
    return gravity + noise / noise.std(0) * np.repeat(moves, 64)[:, None]


def much(x: np.ndarray) -> np.ndarray:
    return np.diff(x.reshape(-1, 64, 3), axis=1).std(1).mean(1)


@pytest.fixture(scope="module")
def codec():
    return activity.Codec(activity.Config(), {"acc": S["acc"]}, 60.0)


def test_movement_comes_back_where_it_was(codec):
    moves = np.where((np.arange(30) // 5) % 2, 0.2, 0.01)
    x = acc(moves)
    y = through(codec, "acc", signal(S["acc"], x)).values
    assert np.corrcoef(np.log(much(x)), np.log(much(y)))[0, 1] > 0.95
    middle = np.arange(30) % 5 == 2  # frames with equals on either side
    ratio = codec.movement(y[None])[0].mean(1) / codec.movement(x[None])[0].mean(1)
    assert np.abs(np.log(ratio[middle])).max() < 0.25


def around_lines(x: np.ndarray) -> float:
    """The median standard deviation around a straight line fitted to each two seconds of each axis."""
    t, frames = np.arange(64), x.reshape(-1, 64, 3)
    return float(np.median([(f - np.polynomial.Polynomial.fit(t, f, 1)(t)).std() for w in frames for f in w.T]))


def test_turning_slowly_is_posture_and_no_movement(codec):
    x = acc(np.full(30, 0.01), turn=3.0)
    y = through(codec, "acc", signal(S["acc"], x)).values
    assert 0.7 < around_lines(y) / around_lines(x) < 1.4
    assert np.abs(y.reshape(30, 64, 3).mean(1) - x.reshape(30, 64, 3).mean(1)).max() < 0.3


def test_two_seconds_that_were_not_measured_come_back_as_a_gap(codec):
    x = acc(np.full(30, 0.05))
    there = np.ones(1920, bool)
    there[640:960] = False  # five frames
    there[100:110] = False  # a sixth of one
    one, two = (signal(S["acc"], np.where(there[:, None], x, fill), there) for fill in (np.nan, 2.0))
    ids, same = (codec.encode([{"acc": s}])[0] for s in (one, two))
    assert np.array_equal(ids, same)
    back = codec.decode(ids)["acc"]
    assert np.flatnonzero(~back.valid).tolist() == list(range(640, 960))
    assert np.isfinite(back.values).all()
    assert np.abs(back.values[back.valid].mean(0) - x[there].mean(0)).max() < 0.05
    assert codec.encode([{"acc": signal(S["acc"], x, np.zeros(1920, bool))}])[0] == "no sample of acc"


@pytest.mark.parametrize(
    "x", [np.zeros((1920, 3)), np.full((1920, 3), 9.0), np.where(np.arange(1920)[:, None] == 5, 2.0, np.zeros(3))]
)
def test_odd_movement_stays_in_range(codec, x):
    back = through(codec, "acc", signal(S["acc"], x)).values
    assert np.isfinite(back).all()
    assert np.abs(back).max() <= 2
