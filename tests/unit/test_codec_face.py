"""The codec of faces: intensities, gaze and pose come back smoothly, missing faces as gaps, any channels in any order."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mien.core.errors import MienError
from mien.core.records import Signal, StreamSpec
from mien.generation.codecs import face
from mien.generation.grammar import Grammar
from mien.generation.vocabulary import BOS, EOS, FIRST_CODEC, LABEL_0, STREAM_0

AUS = tuple(f"AU{i:02d}_r" for i in (1, 2, 4, 5, 6, 7, 9, 10, 12, 14, 15, 17, 20, 23, 25, 26, 45))
OPENFACE = (*AUS, "gaze_angle_x", "gaze_angle_y", "pose_Rx", "pose_Ry", "pose_Rz")
HZ = 30.0


def codec(channels=OPENFACE, seconds: float = 10.0, range=None, unit: str = "", **config) -> face.Codec:
    spec = StreamSpec(channels=channels, unit=unit, rate_hz=HZ, range=range)
    return face.Codec(face.Config(**config), {"face": spec}, seconds)


def signal(x: np.ndarray, channels=OPENFACE, valid=None) -> Signal:
    return Signal(values=x, rate_hz=HZ, channels=channels, unit="", valid=valid)


def expressions(seed: int, seconds: float = 10.0, channels=OPENFACE) -> np.ndarray:
    """Slow invented behaviour [T, C]: AUs rise and fall over seconds, head and gaze wander."""
    rng, t = np.random.default_rng(seed), np.arange(round(seconds * HZ)) / HZ
    columns = []
    for c in channels:
        if c.startswith("AU"):
            v = rng.uniform(0, 0.5) + sum(
                rng.exponential(1.0) * np.exp(-(((t - rng.uniform(0, seconds)) / rng.uniform(1.0, 2.0)) ** 2))
                for _ in range(2)
            )
            columns.append(np.clip(v, 0, 5))
        else:
            phase, hz = rng.uniform(0, 6), rng.uniform(0.05, 0.25)
            columns.append(rng.normal(0, 0.15) + rng.uniform(0.02, 0.2) * np.sin(2 * np.pi * hz * t + phase))
    return np.stack(columns, axis=1)


def accepts(c: face.Codec, block: np.ndarray) -> bool:
    size = FIRST_CODEC + sum(face.TOKENS.values())
    grammar = Grammar.of(classes=1, blocks=[(c.machine, FIRST_CODEC)], size=size)
    return grammar.accepts([BOS, LABEL_0, STREAM_0, *(block + FIRST_CODEC), EOS])


def back(c: face.Codec, x: np.ndarray, valid=None, channels=OPENFACE) -> Signal:
    (block,) = c.encode([{"face": signal(x, channels, valid)}])
    assert not isinstance(block, str), block
    assert accepts(c, block)
    out = c.decode(block)["face"]
    assert isinstance(out, Signal)
    return out


def test_expressions_come_back():
    c, errors, spread = codec(), [], []
    for seed in range(20):
        x = expressions(seed)
        errors.append(np.sqrt(((back(c, x).values - x) ** 2).mean(0)))
        spread.append(x.std(0))
    error, spread = np.mean(errors, 0), np.mean(spread, 0)
    assert error[:17].max() < 0.2  # intensities of 0-5; their spread is 0.5
    assert error[17:].max() < 0.02  # radians
    assert (error < 0.45 * spread).all()


def test_rate_of_tokens():
    c = codec()
    assert c.machine.length == 5 * 22 + 20 * 7  # 2 frames a second of 7 codes, and five tokens per channel
    assert codec(hz=5.0).machine.length == 5 * 22 + 50 * 7
    assert codec(hz=HZ).machine.length == 22 + 300 * 7  # nothing is faster than frames that are samples


def test_decoding_is_smooth_and_does_not_overshoot():
    c, x = codec(), expressions(1)
    y = back(c, x).values
    assert np.abs(np.diff(y, axis=0)).max() < 4 * np.abs(np.diff(x, axis=0)).max()
    step = np.where(np.arange(300)[:, None] < 150, 0.0, 1.0) * np.ones(22)
    y = back(c, step).values
    assert y.min() > -1e-6
    assert y[:, :17].max() < 1.25  # the step of the extent about 1
    lone = c._curve(np.repeat([[0.0], [1.0]], 10, axis=0), np.ones(20, bool))
    assert (np.diff(lone, axis=0) > -1e-6).all()  # rises once, and never swings back


def test_any_order_and_any_part_of_the_channels():
    """What frames say; the movement between them is drawn anew for each block."""
    x, rng = expressions(2), np.random.default_rng(0)
    whole = back(codec(hz=HZ), x).values
    for order in (rng.permutation(22), np.array([8]), np.array([21, 3, 17]), np.arange(17)):
        channels = tuple(OPENFACE[i] for i in order)
        part = back(codec(channels, hz=HZ), x[:, order], channels=channels)
        assert part.channels == channels
        assert np.allclose(part.values, whole[:, order], atol=1e-6)


def test_tokens_mean_the_same_whatever_else_is_there():
    x = np.tile([0.0, 4.0, 1.0], (300, 1)) + np.linspace(0, 1, 300)[:, None]
    few = codec(("AU06_r", "AU12_r"), hz=HZ)
    more = codec(("AU06_r", "AU10_r", "AU12_r"), hz=HZ)
    (a,) = few.encode([{"face": signal(x[:, [0, 2]], ("AU06_r", "AU12_r"))}])
    (b,) = more.encode([{"face": signal(x[:, [0, 1, 2]], ("AU06_r", "AU10_r", "AU12_r"))}])
    lip = face._AT["upper_lip"]
    assert np.array_equal((a[2::2] - face._AT["eyes"]) // 5 % 5, (b[3::2] - face._AT["eyes"]) // 5 % 5)
    assert np.array_equal((a[3::2] - lip) // 25 % 5, (b[4::2] - lip) // 25 % 5)


@pytest.mark.parametrize("hz", [1.0, 2.0])
def test_what_is_faster_than_frames_is_drawn_anew_at_its_size(hz):
    """Blinks and a speaking jaw, with a tracker's noise, are as many, as high and as wide as they were, and elsewhere."""
    channels, seconds, t = ("AU12_r", "AU25_r", "AU26_r", "AU45_r"), 15.0, np.arange(450) / HZ
    c, rng, before, after = codec(channels, seconds, hz=hz), np.random.default_rng(0), [], []
    for _ in range(12):
        shut = rng.uniform(0, seconds, size=5)
        mouth = np.abs(np.sin(np.pi * 4.5 * t)) * (np.sin(2 * np.pi * t / 6 + rng.uniform(0, 6)) > -0.3)
        x = np.stack([0.5 + 0 * t, 0.3 + 1.8 * mouth, 0.3 + 1.1 * mouth,
                      0.3 + 3 * np.exp(-((t[:, None] - shut) ** 2) / (2 * 0.06**2)).max(1)], axis=1)  # fmt: skip
        x += 0.03 * np.abs(rng.normal(size=x.shape))
        y = back(c, x, channels=channels).values
        assert np.abs(y - x)[:, 3].max() > 1  # other moments
        before.append(x)
        after.append(y)
    told = [
        np.array([[*x.std(0), *np.diff(x, axis=0).std(0), *x.max(0), *x.min(0)] for x in s]) for s in (before, after)
    ]
    ratio = (np.median(told[1], 0) / np.median(told[0], 0)).reshape(4, 4)
    assert ((ratio[0] > 0.8) & (ratio[0] < 1.25)).all()  # spread
    assert ((ratio[1] > 0.6) & (ratio[1] < 1.5)).all()  # speed
    assert ((ratio[2] > 0.85) & (ratio[2] < 1.15)).all()  # highest
    assert np.abs(np.median(told[1], 0) - np.median(told[0], 0))[12:].max() < 0.2  # lowest
    as_one = [np.median([np.corrcoef(x[:, 1], x[:, 2])[0, 1] for x in s]) for s in (before, after)]
    assert as_one[1] > as_one[0] - 0.1
    apart = np.median([abs(np.corrcoef(x[:, 2], x[:, 3])[0, 1]) for x in after])
    assert apart < 0.3


def test_a_missing_face_comes_back_as_a_gap():
    c, x = codec(), expressions(3)
    valid = np.ones(300, bool)
    valid[61:140] = False
    valid[200] = False  # one lost sample of a frame is no gap
    x[~valid] = np.nan
    out = back(c, x, valid)
    expected = np.ones(300, bool)
    expected[60:135] = False  # frames of 15 samples: those with a face for half of the time are there
    expected[135:150] = True
    assert out.valid is not None
    assert np.array_equal(out.valid, expected)
    error = (out.values - expressions(3))[out.valid]
    assert np.sqrt((error[:, :17] ** 2).mean()) < 0.15  # what lies beside the gap is not drawn into it
    assert np.sqrt((error[:, 17:] ** 2).mean()) < 0.02
    (told,) = c.encode([{"face": signal(x, valid=np.zeros(300, bool))}])
    assert told == "no face to be found in face"


@given(seed=st.integers(0, 2**20), kind=st.integers(0, 4))
@settings(max_examples=60, deadline=None)
def test_whatever_the_machine_allows_decodes(seed, kind):
    """Random walks: frames without a face among others, layouts of one slot, of several unknown channels, of one frame."""
    channels, seconds, span = [
        (OPENFACE, 4.0, None), (("AU12_r",), 2.0, None), (("smile", "frown"), 3.0, (-1.0, 2.0)),
        (("AU01_r", "AU01_c", "pose_Tx"), 5.0, None), (OPENFACE, 0.1, None),
    ][kind]  # fmt: skip
    c, rng = codec(channels, seconds, span), np.random.default_rng(seed)
    node, ids = 0, []
    lost = rng.random() ** 2
    while node < c.machine.nodes:
        arcs = [a for a in c.machine.arcs if a[0] == node]
        arc = arcs[0] if len(arcs) == 1 or rng.random() < lost else arcs[1]
        ids.append(int(rng.integers(arc[1], arc[2])))
        node = arc[3]
    out = c.decode(np.array(ids))["face"]
    assert isinstance(out, Signal)
    assert out.values.shape == (round(seconds * HZ), len(channels))
    assert np.isfinite(out.values).all()
    assert ((out.values >= c.low - 1e-5) & (out.values <= c.high + 1e-5)).all()
    gaps = 0 if out.valid is None else int((~out.valid).sum())
    assert bool(gaps) == (face._AT["missing"] in ids)


@pytest.mark.parametrize("kind", ["constant", "beyond", "step", "noise"])
def test_absurd_values_are_coded(kind):
    rng = np.random.default_rng(0)
    x = {"constant": np.full((300, 22), 0.7), "beyond": np.full((300, 22), 1e6) * rng.choice([-1, 1], (300, 22)),
         "step": np.where(np.arange(300)[:, None] < 7, -9.0, 9.0) + np.zeros(22), "noise": rng.normal(0, 3, (300, 22))}[kind]  # fmt: skip
    c = codec()
    y = back(c, x).values
    assert ((y >= c.low - 1e-5) & (y <= c.high + 1e-5)).all()
    if kind == "constant":
        assert np.abs(y - 0.7).max() < 0.15
        assert np.ptp(y, axis=0).max() == 0


def test_windows_do_not_depend_on_company():
    c = codec()
    windows = [{"face": signal(expressions(s))} for s in range(4)]
    for w, block in zip(windows, c.encode(windows), strict=True):
        assert np.array_equal(block, c.encode([w])[0])


def test_angles_in_degrees():
    c = codec(("gaze_angle_x",), unit="deg")
    assert c.high[0] == pytest.approx(np.rad2deg(1.2))


@pytest.mark.parametrize(
    ("channels", "seconds", "range", "says"),
    [
        (("smile",), 10.0, None, "'smile' is no channel the face codec knows"),
        (("AU01_r",), 10.0, (6.0, 9.0), "has nothing of 'AU01_r'"),
        (("AU01_r", "AU1"), 10.0, None, "AU01_r, AU1 are one and the same"),
        (("AU01_r",), 0.01, None, "has no sample"),
    ],
)
def test_streams_that_do_not_suit_are_refused(channels, seconds, range, says):
    with pytest.raises(MienError, match=says):
        codec(channels, seconds, range)


def test_a_window_that_does_not_suit_is_refused():
    with pytest.raises(MienError, match="expected windows of"):
        codec().encode([{"face": signal(expressions(0, 9.8))}])
