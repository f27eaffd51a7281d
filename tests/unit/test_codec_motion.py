"""The codec of movement: posture and movement come back within what is claimed, whatever comes in decodes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mien.core import assets
from mien.core.errors import MienError
from mien.core.records import Signal, StreamSpec, cut, recording_windows
from mien.data import features, splits
from mien.data.datasets import watch
from mien.generation.codecs import motion
from mien.generation.grammar import Grammar
from mien.generation.vocabulary import BOS, EOS, FIRST_CODEC, LABEL_0, STREAM_0

ACC = StreamSpec(channels=("x", "y", "z"), unit="g", rate_hz=50.0, range=(-8.0, 8.0))
GYRO = StreamSpec(channels=("x", "y", "z"), unit="rad/s", rate_hz=50.0)  # the unit's own range
REAL = assets._target("watch")  # looked up before a test moves the cache


def codec(seconds: float, spec: StreamSpec = ACC, **config) -> motion.Codec:
    return motion.Codec(motion.Config(**config), {"acc": spec}, seconds)


def snr(x: np.ndarray, y: np.ndarray, rate: float, below_hz: float = 5.0) -> np.ndarray:
    """dB per channel of [n, T, C], over frequencies in (0, below_hz) and the level's error, pooled over windows."""
    hz = np.fft.rfftfreq(x.shape[1], 1 / rate)
    a, b = np.fft.rfft(x, axis=1)[:, hz < below_hz], np.fft.rfft(y, axis=1)[:, hz < below_hz]
    return 10 * np.log10((np.abs(a[:, 1:]) ** 2).sum((0, 1)) / (np.abs(a - b) ** 2).sum((0, 1)))


def moving(rng: np.random.Generator, n: int, seconds: float, spec: StreamSpec, kind: str) -> np.ndarray:
    """Invented movement [n, T, C] about an invented posture."""
    t = np.arange(round(seconds * spec.rate_hz)) / spec.rate_hz
    out = []
    for _ in range(n):
        hz = rng.uniform(0.4, 2.2)
        v = np.zeros((len(t), 3))
        for harmonic in (1, 2, 3):
            phase, size = rng.uniform(0, 7, 3), rng.exponential(0.4 / harmonic, 3)
            v += size * np.sin(2 * np.pi * harmonic * hz * t[:, None] + phase)
        if kind == "burst":
            v *= np.exp(-(((t - seconds / 2) / (seconds / 8)) ** 2))[:, None]
        if kind == "turn":  # posture changes half-way
            v += rng.normal(0, 0.5, 3) * np.tanh((t - seconds / 2) / 0.4)[:, None]
        out.append(v + rng.normal(0, 0.6, 3) + 0.01 * rng.normal(size=v.shape))
    return np.array(out)


@pytest.mark.parametrize("seconds", [2.0, 4.0, 10.0, 60.0])
@pytest.mark.parametrize("kind", ["steady", "burst", "turn"])
def test_movement_below_5_hz_comes_back(seconds, kind):
    c = codec(seconds)
    x = moving(np.random.default_rng(3), 8, seconds, ACC, kind)
    y = np.concatenate([c.values(c.code(w[None])) for w in x])
    assert (snr(x, y, 50.0) > 15).all()
    assert np.abs((x - y).mean(1)).max() < 0.015  # posture, in g
    assert 2 * (1 + c.machine.length) <= 64 * seconds  # six channels are two such blocks with their markers


@pytest.mark.parametrize("rate", [32.0, 64.0, 128.0, 31.3])
def test_any_rate(rate):
    spec = StreamSpec(channels=ACC.channels, unit="g", rate_hz=rate, range=(-8.0, 8.0))
    c = codec(6.0, spec)
    x = moving(np.random.default_rng(4), 8, 6.0, spec, "steady")
    assert (snr(x, c.values(c.code(x)), rate) > 15).all()


def slow(c: motion.Codec, x: np.ndarray) -> list[int]:
    """The block of one window [T, C] as prose: cosines one by one, tokens one by one."""
    t = (np.arange(len(x)) + 0.5) / len(x)
    level = [int(c.ladder.level(np.array(v.mean()))) for v in x.T]
    rest = [v - float(c.ladder.value(np.array(m))) for v, m in zip(x.T, level, strict=True)]
    size = [[2 / len(x) * (v @ np.cos(np.pi * k * t)) for k in range(c.kept)] for v in rest]
    for s in size:
        s[0] /= np.sqrt(2)
    edges = [0.0, *motion.EDGES_HZ, np.inf]
    band = [next(b for b in range(4) if edges[b] <= k / (2 * c.seconds) < edges[b + 1]) for k in range(c.kept)]
    ladder = c.ladder.sd(np.arange(motion.SWINGS))
    up = np.sqrt(ladder[1] / ladder[0])
    head, units = [], []
    for m, s in zip(level, size, strict=True):
        swing = [
            int(c.ladder.scale(np.array(up * max(abs(a) for k, a in enumerate(s) if k and band[k] == b))))
            for b in sorted(set(band))
        ]
        head += [m] + [129 + w for w in swing]
        here, below, above = (float(c.ladder.value(np.array(m + d))) for d in (0, -1, 1))
        units.append([*(ladder[w] for w in swing), max(above - here, here - below) / np.sqrt(2)])

    def value(channel: int, k: int, values: int) -> int:
        a = size[channel][k] / units[channel][band[k] if k else -1]
        return round((np.sign(a) * min(abs(a), 1) ** 0.6 + 1) / 2 * (values - 1))

    body = []
    for k in range(0, c.paired, 2):
        body += [177 + 17 * value(i, k, 17) + value(i, k + 1, 17) for i in range(c.channels)]
    for k in range(c.paired, c.kept, 3):
        body += [466 + 81 * value(i, k, 9) + 9 * value(i, k + 1, 9) + value(i, k + 2, 9) for i in range(c.channels)]
    return head + body


@pytest.mark.parametrize("seed", range(5))
def test_the_block_equals_its_prose(seed):
    c = codec(2.5)
    (x,) = moving(np.random.default_rng(seed), 1, 2.5, ACC, "turn")
    assert c.code(x[None])[0].tolist() == slow(c, x)


def test_no_seam_shows():
    """Away from the window's ends no moment's error jumps more than another's, as the edges of blocks would."""
    c = codec(20.0)
    x = moving(np.random.default_rng(5), 60, 20.0, ACC, "steady")
    error = (c.values(c.code(x)) - x)[:, 25:-25]
    jump = np.diff(error, axis=1) ** 2
    jump = (jump / jump.mean(1, keepdims=True)).mean((0, 2))
    assert jump.max() < 2


@given(
    seed=st.integers(0, 2**16),
    kind=st.sampled_from(["noise", "constant", "clipped", "huge", "tiny", "step", "spike"]),
    low=st.floats(-1e4, 1e4),
    width=st.floats(1e-2, 1e5),
)
@settings(max_examples=60, deadline=None)
def test_total_and_within_range(seed, kind, low, width):
    rng = np.random.default_rng(seed)
    spec = StreamSpec(channels=("a", "b"), unit="?", rate_hz=25.0, range=(low, low + width))
    c = motion.Codec(motion.Config(), {"s": spec}, 3.0)
    x = low + width * rng.random((75, 2))
    x = {"constant": x[:1].repeat(75, 0), "clipped": np.clip(x, low, low + width / 2), "huge": x * 1e6,
         "tiny": low + 1e-9 * x, "step": np.where(np.arange(75)[:, None] < 25, low, low + width) + 0 * x,
         "spike": low + width * (np.arange(75)[:, None] == 40) + 0 * x}.get(kind, x)  # fmt: skip
    (block,) = c.encode([{"s": Signal(values=x, rate_hz=25.0, channels=("a", "b"), unit="?")}])
    assert not isinstance(block, str)
    for ids in (block, np.array([rng.integers(a, b) for _, a, b, _ in c.machine.arcs])):
        y = c.decode(ids)["s"].values
        assert y.shape == x.shape
        assert np.isfinite(y).all()
        assert low - 1e-3 * width <= y.min() <= y.max() <= low + width + 1e-3 * width
    grammar = Grammar.of(classes=1, blocks=[(c.machine, FIRST_CODEC)], size=FIRST_CODEC + sum(motion.TOKENS.values()))
    assert grammar.accepts([BOS, LABEL_0, STREAM_0, *(block + FIRST_CODEC), EOS])


def test_windows_do_not_depend_on_company_and_gaps_are_told():
    c = codec(2.0)
    x = moving(np.random.default_rng(6), 5, 2.0, ACC, "burst")
    windows = [{"acc": Signal(values=v, rate_hz=50.0, channels=ACC.channels, unit="g")} for v in x]
    gap = np.arange(100) != 30
    windows[2] = {"acc": Signal(values=x[2], rate_hz=50.0, channels=ACC.channels, unit="g", valid=gap)}
    made = c.encode(windows)
    assert made[2] == "a gap in acc, which its codec cannot say"
    for i in (0, 1, 3, 4):
        assert np.array_equal(made[i], c.encode([windows[i]])[0])


@pytest.mark.parametrize(
    ("spec", "seconds", "says"),
    [
        (StreamSpec(channels=("a",), unit="furlong", rate_hz=50), 2.0, "no range"),
        (StreamSpec(channels=("a",), unit="g", rate_hz=50, range=(2, 1)), 2.0, "low < high"),
        (StreamSpec(channels=("a",), unit="g", rate_hz=1), 2.0, "2 samples"),
        (StreamSpec(channels=("a",), unit="g", rate_hz=50), 0.02, "1 samples"),
    ],
)
def test_streams_that_do_not_suit_are_refused(spec, seconds, says):
    with pytest.raises(MienError, match=says):
        motion.Codec(motion.Config(), {"s": spec}, seconds)


@pytest.mark.parametrize("wrong", ["unit", "samples"])
def test_windows_that_do_not_suit_are_refused(wrong):
    values = np.zeros((100 if wrong == "unit" else 103, 3))  # a rate off by three percent
    s = Signal(values=values, rate_hz=50.0, channels=ACC.channels, unit="m/s2" if wrong == "unit" else "g")
    with pytest.raises(MienError, match="expected windows of"):
        codec(2.0).encode([{"acc": s}])


def test_real_movement_is_still_recognised():
    """The watch set, ten persons: a forest trained on raw windows of five persons, asked about five others, raw and decoded."""
    if not REAL.exists():
        pytest.skip("needs `mien assets fetch watch`")
    from sklearn.ensemble import RandomForestClassifier

    seconds = 4.0
    cohort = watch.load(watch.Config(path=str(REAL / "watch_dataset.npy" if REAL.is_dir() else REAL)))
    coders = {n: motion.Codec(motion.Config(), {n: s}, seconds) for n, s in watch.STREAMS.items()}
    rows: list[tuple] = []
    for r in cohort:
        for w in recording_windows(r, seconds, 4.0):
            raw, why = cut(r, w)
            if not why:
                back = {n: c.decode(np.asarray(c.encode([raw])[0]))[n] for n, c in coders.items()}
                rows.append((raw, back, r.labels["exercise"], r.person))
    for n in watch.STREAMS:
        x, y = (np.stack([row[i][n].values for row in rows]).astype(float) for i in (0, 1))
        assert (snr(x, y, watch.RATE_HZ) > 15).all()
    raw, back = (np.array([features.vector(row[i], cohort.card) for row in rows]) for i in (0, 1))
    label, person = np.array([row[2] for row in rows]), np.array([row[3] for row in rows])
    held = np.isin(person, splits.draw(cohort, holdout=0.5, seed=0).holdout)
    forest = RandomForestClassifier(200, random_state=0, n_jobs=1).fit(raw[~held], label[~held])
    before, after = ((forest.predict(x[held]) == label[held]).mean() for x in (raw, back))
    assert after > before - 0.02
