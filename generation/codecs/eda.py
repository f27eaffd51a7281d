"""`eda`: skin conductance as what it is made of: a slow tonic level and single responses.

Header and knots say the tonic level, a knot every ten seconds, in physical units; then one pair of tokens per skin
conductance response, how long after the one before it began and how high it rose. Responses have the usual shape (a
difference of two exponentials, Alexander et al. 2005, doi 10.1016/j.jneumeth.2005.02.001) whose decay is a header token.
Coded sample by sample, or once per heartbeat, an undertrained model makes four times too many responses out of jitter;
here their number is the number of tokens. The responses are found by non-negative least squares on that shape and a
smooth tonic level together. What is decoded goes through the knots by a monotone curve: a spline through rounded knots bulges
where the level changes steeply, by one response in a window of every 25.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np

from ...core.config import Section
from ...core.errors import MienError
from ...core.records import Signal, Stream, StreamSpec
from ..machine import Machine
from ..units import Ladder, rng_of, span, stack

VERSION = 2
STREAMS = 1
KIND = "signal"
LEVELS, SCALES, BINS = 257, 32, 65
_KNOT_S, _SPAN = 10.0, 2.5
_GRID_S, _BEFORE_S = 0.5, 8.0  # when responses may begin, and how long before the window
_GAPS = 40  # 0.5 s to 20 s; the last says "20 s, and no response yet"
_RISES = np.geomspace(0.02, 4.0, 24)  # [uS]
_DECAYS_S = (1.5, 2.0, 2.5, 3.0, 4.0, 5.5)
_RISE_S = 0.75
_LEAST_US = 0.03
TOKENS = {
    "level": LEVELS,
    "scale": SCALES,
    "knot": BINS,
    "decay": len(_DECAYS_S),
    "gap": _GAPS + 1,
    "rise": len(_RISES),
}
_AT = dict(zip(TOKENS, np.cumsum([0, *TOKENS.values()]).tolist(), strict=False))
_FACTOR = {"uS": 1.0, "nS": 1000.0}  # the stream's unit per microsiemens


class Config(Section):
    """No options."""


class Codec:
    """One stream of one channel in uS (or nS), one window length."""

    def __init__(self, config: Config, specs: Mapping[str, StreamSpec], seconds: float):
        ((self.name, self.spec),) = specs.items()
        if len(self.spec.channels) != 1 or self.spec.unit not in _FACTOR:
            raise MienError(
                f"stream {self.name!r}: the eda codec takes one channel in uS or nS, not {len(self.spec.channels)} in"
                f" {self.spec.unit!r}"
            )
        self.factor = _FACTOR[self.spec.unit]
        low, high = span(self.name, self.spec)
        self.ladder = Ladder(low=low / self.factor, high=high / self.factor, levels=LEVELS, scales=SCALES)
        self.seconds, self.samples = seconds, round(seconds * self.spec.rate_hz)
        if self.samples < 8 or self.spec.rate_hz < 1:
            raise MienError(f"stream {self.name!r}: the eda codec needs 1 Hz and 8 samples a window, at least")
        self.knots = 2 + int(np.ceil(seconds / _KNOT_S - 1e-9)) - 1
        self.onsets = np.arange(0, seconds + _BEFORE_S, _GRID_S) - _BEFORE_S

    @property
    def machine(self) -> Machine:
        n = 3 + self.knots  # level, scale, decay, knots
        head = [("level", 0), ("scale", 1), ("decay", 2), *(("knot", 3 + k) for k in range(self.knots))]
        arcs = [(i, _AT[g], _AT[g] + TOKENS[g], i + 1) for g, i in head]
        gap, rise, end = n, n + 1, n + 2
        arcs += [
            (gap, _AT["gap"], _AT["gap"] + _GAPS, rise),
            (gap, _AT["gap"] + _GAPS, _AT["gap"] + _GAPS + 1, gap),
            (rise, _AT["rise"], _AT["rise"] + len(_RISES), gap),
        ]
        # a response that would begin after the window ends the block in place of its size
        steps = np.r_[np.arange(1, _GAPS + 1), _GAPS]
        limit = len(self.onsets) + 1
        return Machine(
            nodes=end, arcs=arcs, add={gap: steps}, gates={rise: (limit, end), gap: (limit, end)},
            length=n + 2 * len(self.onsets) + 1,
        )  # fmt: skip

    @cached_property
    def tonic(self) -> np.ndarray:
        """float64[samples, knots]: the curve that each knot alone makes."""
        from scipy.interpolate import CubicSpline

        t = np.arange(self.samples) / self.spec.rate_hz
        return (
            np.asarray(CubicSpline(np.linspace(0, self.seconds, self.knots), np.eye(self.knots))(t))
            if self.knots > 2
            else (np.stack([1 - t / self.seconds, t / self.seconds], 1))
        )

    def response(self, decay_s: float, onsets: np.ndarray) -> np.ndarray:
        """float64[samples, len(onsets)]: responses of height 1 that begin at these times [s]."""
        since = np.arange(self.samples)[:, None] / self.spec.rate_hz - onsets
        rise, decay = _RISE_S, decay_s
        peak = (rise / decay) ** (rise / (decay - rise)) - (rise / decay) ** (decay / (decay - rise))
        since = np.clip(since, 0, None)
        return (np.exp(-since / decay) - np.exp(-since / rise)) / peak

    @cached_property
    def responses(self) -> list[np.ndarray]:
        return [self.response(d, self.onsets) for d in _DECAYS_S]

    def encode(self, windows: Sequence[Mapping[str, Stream]]) -> list[np.ndarray | str]:
        """One block per window, or why it has none: a gap."""
        x, there = stack(windows, self.name, self.spec, self.samples)
        return [
            self._block(x[i, :, 0] / self.factor)
            if there[i].all()
            else f"a gap in {self.name}, which its codec cannot say"
            for i in range(len(x))
        ]

    def _block(self, x: np.ndarray) -> np.ndarray:
        best = min((self._fit(x, d) for d in self._candidates), key=lambda f: f[0])
        _, decay, knots, heights = best
        level = self.ladder.level(np.array(knots.mean()))
        scale = self.ladder.scale(np.array(knots.std()))
        z = (knots - float(self.ladder.value(level))) / float(self.ladder.sd(scale)) / _SPAN
        q = np.rint((np.clip(z, -1, 1) + 1) / 2 * (BINS - 1)).astype(int)
        ids = [int(level), _AT["scale"] + int(scale), _AT["decay"] + decay, *(_AT["knot"] + k for k in q.tolist())]
        before = -1
        for at in np.flatnonzero(heights).tolist():
            while at - before > _GAPS:
                ids.append(_AT["gap"] + _GAPS)
                before += _GAPS
            ids += [_AT["gap"] + at - before - 1, _AT["rise"] + int(np.abs(np.log(_RISES / heights[at])).argmin())]
            before = at
        last = len(self.onsets) + 1
        while before + 1 < last:  # up to the window's end and past it
            ids.append(_AT["gap"] + _GAPS)
            before += _GAPS
        return np.array(ids, dtype=np.int32)

    @cached_property
    def _candidates(self) -> tuple[int, ...]:
        return tuple(range(0, len(_DECAYS_S), 2))

    def _fit(self, x: np.ndarray, decay: int) -> tuple[float, int, np.ndarray, np.ndarray]:
        """(squared error, decay's number, tonic knots [uS], height of the response at each beginning)."""
        from scipy.optimize import nnls

        shapes = self.responses[decay]
        # tonic curves may have either sign: their part is projected out, and found again afterwards
        q, r = np.linalg.qr(self.tonic)
        left = shapes - q @ (q.T @ shapes)
        target = x - q @ (q.T @ x)
        heights = _sparse(nnls, left, target)
        knots = np.linalg.lstsq(self.tonic, x - shapes @ heights, rcond=None)[0]
        error = float(((x - shapes @ heights - self.tonic @ knots) ** 2).sum())
        return error, decay, knots, heights

    def decode(self, ids: np.ndarray) -> dict[str, Stream]:
        from scipy.interpolate import PchipInterpolator

        ids = np.asarray(ids)
        level, scale, decay = (int(ids[i]) - _AT[g] for i, g in enumerate(("level", "scale", "decay")))
        q = ids[3 : 3 + self.knots] - _AT["knot"]
        z = (q / (BINS - 1) * 2 - 1) * _SPAN
        knots = float(self.ladder.value(np.array(level))) + z * float(self.ladder.sd(np.array(scale)))
        heights = np.zeros(len(self.onsets))
        at, i = -1, 3 + self.knots
        while i < len(ids):
            gap = int(ids[i]) - _AT["gap"]
            if gap == _GAPS:
                at, i = at + _GAPS, i + 1
                continue
            at += gap + 1
            if at >= len(heights) or i + 1 >= len(ids):
                break
            heights[at] += _RISES[int(ids[i + 1]) - _AT["rise"]]
            i += 2
        t, posts = np.arange(self.samples) / self.spec.rate_hz, np.linspace(0, self.seconds, self.knots)
        tonic = np.maximum(PchipInterpolator(posts, knots)(t), self.ladder.low)
        began = np.flatnonzero(heights)
        # anywhere in their cell of the grid: at its points alone they would all begin on every other sample at 4 Hz
        at_s = self.onsets[began] + _GRID_S * rng_of(ids).uniform(-0.5, 0.5, len(began))
        x = tonic + self.response(_DECAYS_S[decay], at_s) @ heights[began]
        values = np.clip(x, self.ladder.low, self.ladder.high) * self.factor
        return {
            self.name: Signal(
                values=values[:, None], rate_hz=self.spec.rate_hz, channels=self.spec.channels, unit=self.spec.unit
            )
        }


def _sparse(nnls, left: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Non-negative heights, with neighbours joined and what is below the least rise taken out and the rest fitted again."""
    heights = nnls(left, target, maxiter=20 * left.shape[1])[0]
    joined = np.zeros_like(heights)
    i = 0
    while i < len(heights):
        if heights[i] <= 0:
            i += 1
            continue
        j = i
        while j + 1 < len(heights) and heights[j + 1] > 0:
            j += 1
        mass = heights[i : j + 1]
        joined[round(float((mass * np.arange(i, j + 1)).sum() / mass.sum()))] = mass.sum()
        i = j + 1
    keep = np.flatnonzero(joined >= _LEAST_US)
    out = np.zeros_like(heights)
    if len(keep):
        again = nnls(left[:, keep], target, maxiter=20 * len(keep))[0]
        out[keep] = np.where(again >= _LEAST_US, again, 0)
    return out
