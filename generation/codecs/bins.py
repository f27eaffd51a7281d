"""`bins`: slow channels (temperature, steps, heart rate by the minute, respiration alone) as bins at a low rate.

Per channel a header in physical units (level, scale and, where a frame has several samples, the sensor's own noise, which
decoding adds again), then frame by frame what differs from the level, in 49
companded bins of the scale; a frame that is not there has a token of its own, so that gaps come back as gaps. Samples of
one frame are averaged (that is the anti-alias filter), and decoding is a monotone curve through the frames' centres whose
tops and troughs alone are raised until their frames have their averages again. A spline that keeps every average (or any
curve that may swing) is nearer to a breath at 1 Hz, .16 against .24 of its standard deviation, but swings on the stairs that
bins make of a slope: fifteen skin conductance responses a minute where there are none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from pydantic import Field, PositiveFloat

from ...core.config import Section
from ...core.errors import MienError
from ...core.records import Signal, Stream, StreamSpec
from ..machine import Machine
from ..units import NOISES, Ladder, Noise, hiss, noise_sd, rng_of, span, stack

VERSION = 3
STREAMS = 1
KIND = "signal"
LEVELS, SCALES, BINS = 257, 32, 49
TOKENS = {"level": LEVELS, "scale": SCALES, "bin": BINS, "missing": 1, "noise": NOISES}
_SCALE, _BIN, _MISSING = LEVELS, LEVELS + SCALES, LEVELS + SCALES + BINS
_NOISE = _MISSING + 1
_SPAN, _POWER = (
    7.0,
    0.6,
)  # bins reach ±7 standard deviations (steps have long tails), finer near 0: .06 lost of a normal 1
_THERE = 0.5  # the share of a frame's samples without which it is a gap


class Config(Section):
    """hz: frames per second at most (0.1 for temperature, 1 for respiration); rates: other values for single streams. A
    stream slower than that keeps its own rate."""

    hz: float = Field(default=1.0, gt=0)
    rates: dict[str, PositiveFloat] = {}


class Codec:
    """One stream of any number of channels, one window length."""

    def __init__(self, config: Config, specs: Mapping[str, StreamSpec], seconds: float):
        ((self.name, self.spec),) = specs.items()
        low, high = span(self.name, self.spec)
        self.ladder = Ladder(low=low, high=high, levels=LEVELS, scales=SCALES)
        self.samples, self.channels = round(seconds * self.spec.rate_hz), len(self.spec.channels)
        if self.samples < 1:
            raise MienError(
                f"stream {self.name!r}: a window of {seconds:g} s at {self.spec.rate_hz:g} Hz has no sample"
            )
        hz = min(config.rates.get(self.name, config.hz), self.spec.rate_hz)
        self.frames = max(1, min(self.samples, round(seconds * hz)))
        self.edges = np.rint(np.linspace(0, self.samples, self.frames + 1)).astype(int)
        # a frame that is one sample has its noise in it already
        self.noise = Noise(low=low, high=high) if self.frames < self.samples else None
        self.head = 2 if self.noise is None else 3

    @property
    def machine(self) -> Machine:
        head = [(0, LEVELS), (_SCALE, _SCALE + SCALES), (_NOISE, _NOISE + NOISES)][: self.head] * self.channels
        return Machine.of([*head, *[(_BIN, _MISSING + 1)] * (self.frames * self.channels)])

    def encode(self, windows: Sequence[Mapping[str, Stream]]) -> list[np.ndarray | str]:
        """One block of local ids per window; none for a window of which no sample is there."""
        x, there = stack(windows, self.name, self.spec, self.samples)
        n = len(x)
        weight = np.add.reduceat(there.astype(float), self.edges[:-1], axis=1)
        total = np.add.reduceat(np.where(there[..., None], x, 0.0), self.edges[:-1], axis=1)
        known = weight >= _THERE * np.diff(self.edges)
        frames = total / np.maximum(weight, 1)[..., None]
        count = np.maximum(known.sum(1), 1)[:, None]
        mean = np.where(known[..., None], frames, 0).sum(1) / count
        sd = np.sqrt(np.where(known[..., None], (frames - mean[:, None]) ** 2, 0).sum(1) / count)
        level = self.ladder.level(mean)
        # a scale that no frame is out of reach of: a day of steps is zero but for some minutes
        most = np.where(known[..., None], np.abs(frames - self.ladder.value(level)[:, None]), 0).max(1)
        scale = self.ladder.scale(np.maximum(sd, most / _SPAN))
        scale = np.minimum(scale + (self.ladder.sd(scale) * _SPAN < most), SCALES - 1)
        z = (frames - self.ladder.value(level)[:, None]) / self.ladder.sd(scale)[:, None] / _SPAN
        half = (BINS - 1) // 2
        q = np.rint(np.sign(z) * np.minimum(np.abs(z), 1) ** _POWER * half).astype(int) + half
        body = np.where(known[..., None], _BIN + q, _MISSING).reshape(n, -1)
        head = [level, _SCALE + scale]
        if self.noise is not None:
            head.append(_NOISE + self.noise.token(noise_sd(x, there)))
        head = np.stack(head, axis=2).reshape(n, -1)
        ids = np.concatenate([head, body], axis=1).astype(np.int32)
        return [ids[i] if known[i].any() else f"no sample of {self.name}" for i in range(n)]

    def decode(self, ids: np.ndarray) -> dict[str, Stream]:
        ids, size = np.asarray(ids), np.diff(self.edges)
        head = ids[: self.head * self.channels].reshape(-1, self.head)
        body = ids[self.head * self.channels :].reshape(self.frames, self.channels)
        known = (body != _MISSING).all(1)  # a frame is there when all of its channels are
        level, sd = self.ladder.value(head[:, 0]), self.ladder.sd(head[:, 1] - _SCALE)
        half = (BINS - 1) // 2
        q = np.where(body == _MISSING, half, body - _BIN) - half
        frames = level + sd * _SPAN * np.sign(q) * (np.abs(q) / half) ** (1 / _POWER)
        frames = np.clip(frames, self.ladder.low, self.ladder.high)
        at = np.flatnonzero(known)
        if len(at):  # a curve goes through gaps too, so that it is smooth on either side
            frames = np.stack([np.interp(np.arange(self.frames), at, f[at]) for f in frames.T], 1)
        valid = np.repeat(known, size)
        x = self._curve(frames)
        if self.noise is not None:
            x = self._noisy(x, hiss(rng_of(ids), self.noise.sd(head[:, 2] - _NOISE), self.samples))
        return {
            self.name: Signal(
                values=np.clip(x, self.ladder.low, self.ladder.high), rate_hz=self.spec.rate_hz,
                channels=self.spec.channels, unit=self.spec.unit, valid=None if valid.all() else valid,
            )
        }  # fmt: skip

    def _noisy(self, x: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """float[samples, C]: the curve with noise on it, inside the range, each frame's mean as the curve has it. Noise at the
        edge of a range is cut off on one side: of steps, which sit on 0, it would leave thousands a day."""
        first, size = self.edges[:-1], np.diff(self.edges)
        low, high = self.ladder.low, self.ladder.high

        def mean(v: np.ndarray) -> np.ndarray:
            return np.add.reduceat(np.clip(v, low, high), first, axis=0) / size[:, None]

        wanted, y = mean(x), x + noise
        cut = np.logical_or.reduceat((y < low) | (y > high), first, axis=0)
        least, most = np.where(cut, low - high, 0.0), np.where(cut, high - low, 0.0)
        for _ in range(40):  # a frame's mean grows with what is added to it
            middle = (least + most) / 2
            above = mean(y + np.repeat(middle, size, axis=0)) > wanted
            least, most = np.where(above, least, middle), np.where(above, middle, most)
        return np.clip(y + np.repeat((least + most) / 2, size, axis=0), low, high)

    def _curve(self, frames: np.ndarray) -> np.ndarray:
        """float[frames, C] -> [samples, C]."""
        from scipy.interpolate import PchipInterpolator

        if self.frames == self.samples:
            return frames
        if self.frames == 1:
            return np.repeat(frames, self.samples, axis=0)
        first, size = self.edges[:-1], np.diff(self.edges)[:, None]
        centre = (self.edges[:-1] + self.edges[1:] - 1) / 2
        t = np.clip(np.arange(self.samples), centre[0], centre[-1])
        turns = np.zeros(frames.shape, bool)
        turns[1:-1] = np.diff(frames[:-1], axis=0) * np.diff(frames[1:], axis=0) < 0
        knots = frames
        for _ in range(2):
            x = np.asarray(PchipInterpolator(centre, knots)(t))
            knots = knots + np.where(turns, frames - np.add.reduceat(x, first, axis=0) / size, 0)
        return np.asarray(PchipInterpolator(centre, knots)(t))
