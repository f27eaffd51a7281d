"""`activity`: an accelerometer as posture and how much it moves, two seconds at a time; a stand-in for its waveform.

The header says which way is down (the mean of each axis and how far it wanders, in physical units) with a knot every
ten seconds, then a token for every two seconds says how much the axes move around it (around a straight line: turning
slowly is posture), or that nothing was measured. What is decoded has that posture and that much movement, as noise between
0.3 and 5 Hz that follows from the tokens themselves; the recording's own waveform is lost, on purpose. For the waveform:
`motion`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from pydantic import Field

from ...core.config import Section
from ...core.errors import MienError
from ...core.records import Signal, Stream, StreamSpec
from ..machine import Machine
from ..units import Ladder, rng_of, span, stack

VERSION = 1
STREAMS = 1
KIND = "signal"
LEVELS, MOVES, KNOTS = 129, 32, 17
TOKENS = {"level": LEVELS, "moves": MOVES, "missing": 1, "knot": KNOTS}
_KNOT_S, _SPAN = 10.0, 2.0
_MISSING, _KNOT = LEVELS + MOVES, LEVELS + MOVES + 1
_THERE = 0.5  # the share of a frame's samples without which it is a gap


class Config(Section):
    """every_s: seconds that one token tells the movement of."""

    every_s: float = Field(default=2.0, gt=0)


class Codec:
    """One stream of any number of axes, one window length."""

    def __init__(self, config: Config, specs: Mapping[str, StreamSpec], seconds: float):
        ((self.name, self.spec),) = specs.items()
        low, high = span(self.name, self.spec)
        self.ladder = Ladder(low=low, high=high, levels=LEVELS, scales=MOVES, floor=5e-4)
        self.samples, self.axes = round(seconds * self.spec.rate_hz), len(self.spec.channels)
        self.frames = max(1, round(seconds / config.every_s))
        if self.samples < 4 * self.frames:
            raise MienError(
                f"stream {self.name!r}: {config.every_s:g} s at {self.spec.rate_hz:g} Hz are fewer than 4 samples: no movement"
                " can be told from them"
            )
        self.edges = np.rint(np.linspace(0, self.samples, self.frames + 1)).astype(int)
        self.knots = 1 + int(np.ceil(seconds / _KNOT_S))
        self.posts = np.linspace(0, self.samples - 1, self.knots)  # where they are, in samples

    @property
    def machine(self) -> Machine:
        """Per axis its level and how far it wanders, then its knots, then the movements."""
        head = [(0, LEVELS), (LEVELS, LEVELS + MOVES)] * self.axes
        knots = [(_KNOT, _KNOT + KNOTS)] * (self.axes * self.knots)
        return Machine.of([*head, *knots, *[(LEVELS, _MISSING + 1)] * self.frames])

    def encode(self, windows: Sequence[Mapping[str, Stream]]) -> list[np.ndarray | str]:
        """One block per window; none for a window in which no two seconds were measured."""
        x, there = stack(windows, self.name, self.spec, self.samples)
        n, first = len(x), self.edges[:-1]
        count = np.add.reduceat(there.astype(float), first, axis=1)
        known = count >= _THERE * np.diff(self.edges)
        total = np.add.reduceat(np.where(there[..., None], x, 0.0), first, axis=1)
        mean = total / np.maximum(count, 1)[..., None]
        # what is missing within a frame is its mean, which does not move
        x = np.where(there[..., None], x, np.repeat(mean, np.diff(self.edges), axis=1))
        moving = self.movement(x) * np.sqrt(np.diff(self.edges) / np.maximum(count, 1))[..., None]
        moves = np.where(known, LEVELS + self.ladder.scale(np.sqrt((moving**2).mean(2))), _MISSING)
        # a knot is the mean of the frames around it, weighted by how near they are
        near = np.clip(
            1 - np.abs(self.posts[:, None] - self._centres) / (0.5 * _KNOT_S * self.spec.rate_hz), 1e-6, None
        )
        weight = near * (known[:, None] + 1e-12)
        knots = np.einsum("nkf,nfa->nka", weight / weight.sum(2, keepdims=True), mean)
        level, scale = self.ladder.level(knots.mean(1)), self.ladder.scale(knots.std(1))
        z = (knots - self.ladder.value(level)[:, None]) / self.ladder.sd(scale)[:, None] / _SPAN
        q = _KNOT + np.rint((np.clip(z, -1, 1) + 1) / 2 * (KNOTS - 1)).astype(int)
        head = np.stack([level, LEVELS + scale], axis=2).reshape(n, -1)
        ids = np.concatenate([head, q.reshape(n, -1), moves], axis=1).astype(np.int32)
        some = np.asarray(known.any(1)).tolist()
        return [row if ok else f"no sample of {self.name}" for row, ok in zip(ids, some, strict=True)]

    def movement(self, x: np.ndarray) -> np.ndarray:
        """float[n, T, axes] -> [n, frames, axes]: standard deviation in each frame around its straight line."""
        first, size = self.edges[:-1], np.diff(self.edges)[:, None]
        since = (np.arange(self.samples) - np.repeat(self._centres, size[:, 0]))[:, None]
        length = np.add.reduceat(since**2, first, axis=0)
        mean = np.add.reduceat(x, first, axis=1) / size
        x = x - np.repeat(mean, size[:, 0], axis=1)
        along = np.add.reduceat(since * x, first, axis=1)
        return np.sqrt(np.clip((np.add.reduceat(x**2, first, axis=1) - along**2 / length) / size, 0, None))

    @property
    def _centres(self) -> np.ndarray:
        return (self.edges[:-1] + self.edges[1:] - 1) / 2

    def decode(self, ids: np.ndarray) -> dict[str, Stream]:
        from scipy.interpolate import PchipInterpolator
        from scipy.signal import butter, sosfiltfilt

        ids = np.asarray(ids)
        head = ids[: 2 * self.axes].reshape(-1, 2)
        at = 2 * self.axes + self.axes * self.knots
        z = ((ids[2 * self.axes : at].reshape(self.knots, self.axes) - _KNOT) / (KNOTS - 1) * 2 - 1) * _SPAN
        knots = self.ladder.value(head[:, 0]) + z * self.ladder.sd(head[:, 1] - LEVELS)
        posture = np.asarray(PchipInterpolator(self.posts, knots)(np.arange(self.samples)))
        known = ids[at:] != _MISSING
        moves = self.ladder.sd(np.where(known, ids[at:] - LEVELS, 0))
        noise = rng_of(ids).standard_normal((self.samples, self.axes))
        rate = self.spec.rate_hz
        sos = butter(2, [min(0.3, 0.1 * rate), min(5.0, 0.45 * rate)], btype="band", fs=rate, output="sos")
        noise = sosfiltfilt(sos, noise, axis=0, padlen=min(self.samples - 1, round(3 * rate)))
        noise = noise / (noise.std(0) + 1e-12)
        # as much movement in each frame as its token says, whatever the noise happened to do there
        gain = moves / np.maximum(np.sqrt((self.movement(noise[None])[0] ** 2).mean(1)), 0.3)
        much = np.exp(np.interp(np.arange(self.samples), self._centres, np.log(gain)))
        valid = np.repeat(known, np.diff(self.edges))
        return {
            self.name: Signal(
                values=np.clip(posture + noise * much[:, None], self.ladder.low, self.ladder.high), rate_hz=rate,
                channels=self.spec.channels, unit=self.spec.unit, valid=None if valid.all() else valid,
            )
        }  # fmt: skip
