"""`motion`: accelerometers and gyroscopes, with posture kept, at some 27 tokens per second and three axes.

Per channel a header in physical units: the level (of an accelerometer that is posture, for gravity lies in it) and the
largest swing within each of four bands (below 1, 2, 5 and `hz` Hz). Then a body of DCT coefficients as shares of their
band's largest: lowest frequency first, channels interleaved, in pairs of 17 values below 5 Hz and in threes of 9 above.
One transform spans the whole window, so no block edges can show.

A band is measured by its largest coefficient, not by its standard deviation, because steady walking is a line in the
spectrum: whatever the window's length, the line is coded and little else is there. The first coefficient says what the
header's step left of the level, as a share of that step. What a band loses is noise some 20 dB below its largest swing,
spread over the window: in a long window with one burst of movement the still part is not quite still.

Constants are fixed by VERSION and the sensor's public range; nothing is learned from recordings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np
from pydantic import Field

from ...core.config import Section
from ...core.errors import MienError
from ...core.records import Signal, Stream, StreamSpec
from ..machine import Machine
from ..units import Ladder, span, stack, whole

VERSION = 1
STREAMS = 1
KIND = "signal"
LEVELS = 129  # header: a channel's mean
SWINGS = 48  # header: amplitude of a band's largest coefficient, logarithmic
FINE, COARSE = 17, 9  # values of a coefficient: of the pairs, and of the threes above them
TOKENS = {"level": LEVELS, "swing": SWINGS, "pair": FINE**2, "three": COARSE**3}
EDGES_HZ = (1.0, 2.0, 5.0)  # between the bands; below the last, coefficients come in pairs
_AT = dict(zip(TOKENS, np.cumsum([0, *TOKENS.values()]).tolist(), strict=False))
_POWER = 0.6  # coefficients are companded by |c|^0.6: small ones are the many


class Config(Section):
    """hz: bandwidth that is kept; everything above is lost."""

    hz: float = Field(default=8.0, ge=1)


class Codec:
    """One stream, one window length: (level, swings) per channel, pairs, threes."""

    def __init__(self, config: Config, specs: Mapping[str, StreamSpec], seconds: float):
        ((name, spec),) = specs.items()
        low, high = span(name, spec)
        self.name, self.spec, self.seconds = name, spec, seconds
        self.channels, self.samples = len(spec.channels), round(seconds * spec.rate_hz)
        self.ladder = Ladder(low=low, high=high, levels=LEVELS, scales=SWINGS)
        most = min(self.samples, int(2 * seconds * config.hz + 1e-6))
        self.paired = min(most, int(2 * seconds * EDGES_HZ[-1] + 1e-6)) // 2 * 2
        self.kept = self.paired + (most - self.paired) // 3 * 3
        if self.paired < 4:
            raise MienError(
                f"stream {name!r}: a window of {seconds:g} s at {spec.rate_hz:g} Hz has {self.samples} samples; the motion"
                " codec needs two seconds of movement at 2 Hz and more"
            )

    @cached_property
    def bands(self) -> np.ndarray:
        """int[kept]: the band of each coefficient, numbered without the empty ones."""
        hz = np.arange(self.kept) / (2 * self.seconds)
        return np.unique(np.searchsorted(EDGES_HZ, hz, side="right"), return_inverse=True)[1]

    @property
    def heads(self) -> int:
        """Header tokens per channel."""
        return 2 + int(self.bands[-1])

    @cached_property
    def machine(self) -> Machine:
        groups = (["level"] + ["swing"] * (self.heads - 1)) * self.channels
        groups += ["pair"] * (self.paired // 2 * self.channels)
        groups += ["three"] * ((self.kept - self.paired) // 3 * self.channels)
        return Machine.of([(_AT[g], _AT[g] + TOKENS[g]) for g in groups])

    def encode(self, windows: Sequence[Mapping[str, Stream]]) -> list[np.ndarray | str]:
        """One block per window, or why it has none: a gap, which a transform cannot leave open."""
        x, why = whole(*stack(windows, self.name, self.spec, self.samples), self.name)
        rows = (self.code(w[None])[0] for w in x)  # one by one: not even rounding may depend on the company
        return [w or next(rows) for w in why]

    def decode(self, ids: np.ndarray) -> dict[str, Stream]:
        """The reverse for one block; total on every sequence that `machine` allows."""
        x = self.values(np.asarray(ids)[None])[0]
        return {
            self.name: Signal(values=x, rate_hz=self.spec.rate_hz, channels=self.spec.channels, unit=self.spec.unit)
        }

    def code(self, x: np.ndarray) -> np.ndarray:
        """float[n, T, C] in the stream's unit -> int32[n, L]."""
        from scipy.fft import dct

        x = np.clip(x, self.ladder.low, self.ladder.high)
        level = self.ladder.level(x.mean(1))
        c = np.asarray(dct(x - self.ladder.value(level)[:, None], axis=1, norm="ortho"))[:, : self.kept]
        c *= np.sqrt(2 / self.samples)  # amplitudes of cosines
        loud = np.abs(c)
        loud[:, 0] = 0  # what is left of the level is no swing
        peak = np.stack([loud[:, self.bands == b].max(1) for b in range(self.heads - 1)], axis=1)
        up = np.exp(self._step / 2)  # so that rounding to a step never cuts the largest by more than rounding does
        swing = self.ladder.scale(peak * up)
        unit = self._units(level, swing)
        u = np.sign(c) * np.minimum(np.abs(c) / unit, 1) ** _POWER
        fine = np.rint((u[:, : self.paired] + 1) / 2 * (FINE - 1)).astype(int)
        coarse = np.rint((u[:, self.paired :] + 1) / 2 * (COARSE - 1)).astype(int)
        head = np.concatenate([_AT["level"] + level[:, None], _AT["swing"] + swing], axis=1)
        pair = _AT["pair"] + fine[:, 0::2] * FINE + fine[:, 1::2]
        three = _AT["three"] + (coarse[:, 0::3] * COARSE + coarse[:, 1::3]) * COARSE + coarse[:, 2::3]
        parts = [head.transpose(0, 2, 1), pair, three]
        return np.concatenate([p.reshape(len(x), -1) for p in parts], axis=1).astype(np.int32)

    def values(self, ids: np.ndarray) -> np.ndarray:
        """int[n, L] -> float32[n, T, C]."""
        from scipy.fft import idct

        n, k = len(ids), self.channels
        cuts = np.cumsum([self.heads * k, self.paired // 2 * k])
        head, pair, three = np.split(np.asarray(ids), cuts, axis=1)
        head = head.reshape(n, k, self.heads).transpose(0, 2, 1)
        level = head[:, 0] - _AT["level"]
        unit = self._units(level, head[:, 1:] - _AT["swing"])
        pair, three = (pair - _AT["pair"]).reshape(n, -1, k), (three - _AT["three"]).reshape(n, -1, k)
        fine = np.stack([pair // FINE, pair % FINE], axis=2).reshape(n, -1, k)
        coarse = np.stack([three // COARSE**2, three // COARSE % COARSE, three % COARSE], axis=2).reshape(n, -1, k)
        u = np.concatenate([fine / (FINE - 1), coarse / (COARSE - 1)], axis=1) * 2 - 1
        full = np.zeros((n, self.samples, k))
        full[:, : self.kept] = np.sign(u) * np.abs(u) ** (1 / _POWER) * unit * np.sqrt(self.samples / 2)
        x = idct(full, axis=1, norm="ortho") + self.ladder.value(level)[:, None]
        return np.clip(x, self.ladder.low, self.ladder.high).astype(np.float32)

    def _units(self, level: np.ndarray, swing: np.ndarray) -> np.ndarray:
        """int[n, C] and int[n, bands, C] -> float[n, kept, C]: the amplitude of which each coefficient is a share. The
        first one's is half the wider of the steps about its level."""
        unit = self.ladder.sd(swing)[:, self.bands]
        steps = np.diff(self.ladder.value(np.arange(LEVELS)))
        unit[:, 0] = np.maximum(steps[np.maximum(level - 1, 0)], steps[np.minimum(level, LEVELS - 2)]) / np.sqrt(2)
        return unit

    @property
    def _step(self) -> float:
        """The logarithm of one step of swing."""
        return float(np.log(self.ladder.sd(np.array(1)) / self.ladder.sd(np.array(0))))
