"""`transform`: any waveform as product-coded DCT coefficients of the whole window.

Per channel a header of two tokens (level, scale) in physical units, then a body of coefficient pairs, lowest
frequency first and channels interleaved: what matters most comes first, and an undertrained model still decodes to
a signal of the right level and size. One transform spans the whole window, so no block edges can show.

Constants are fixed by this file's VERSION and by the sensor's public range; nothing is learned from recordings, so
the tokens of one recording cannot depend on another. (FAST, arXiv 2501.09747, codes DCT coefficients too, but with a
byte-pair vocabulary learned on data.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from pydantic import Field, PositiveFloat

from ...core.config import Section
from ...core.errors import MienError
from ...core.records import Signal, Stream, StreamSpec
from ..machine import Machine
from ..units import Ladder, span, stack, whole

VERSION = 1
STREAMS = 1  # how many streams a codec of this file takes, at most
KIND = "signal"
LEVELS = 129  # header: the window's mean
SCALES = 32  # header: the window's standard deviation, logarithmic
STEPS = 17  # body: values of one coefficient
TOKENS = {"level": LEVELS, "scale": SCALES, "pair": STEPS * STEPS}
_POWER = 0.6  # coefficients are companded by |c|^0.6: small ones are the many


class Config(Section):
    """hz: bandwidth that is kept; everything above is lost. bandwidth: other values for single streams."""

    hz: float = Field(default=3.0, gt=0)
    bandwidth: dict[str, PositiveFloat] = {}


class Codec:
    """One stream, one window length: level | scale | pair tokens, in that order."""

    def __init__(self, config: Config, specs: Mapping[str, StreamSpec], seconds: float):
        ((name, spec),) = specs.items()
        low, high = span(name, spec)
        self.name, self.spec = name, spec
        self.ladder = Ladder(low=low, high=high, levels=LEVELS, scales=SCALES)
        self.samples = round(seconds * spec.rate_hz)
        self.channels = len(spec.channels)
        hz = min(config.bandwidth.get(name, config.hz), spec.rate_hz / 2)
        kept = min(int(2 * hz * seconds), self.samples - 1)
        self.kept = max(2, kept - kept % 2)
        if self.samples < 4:
            raise MienError(
                f"stream {name!r}: a window of {seconds:g} s at {spec.rate_hz:g} Hz has {self.samples} samples;"
                " the transform codec needs at least 4"
            )

    # --- grammar ----------------------------------------------------------------------------------------
    @property
    def slots(self) -> list[str]:
        """The token group of each position: level, scale per channel, then `kept / 2` pairs per channel."""
        return ["level", "scale"] * self.channels + ["pair"] * (self.kept // 2 * self.channels)

    @staticmethod
    def offset(group: str) -> int:
        """Where a group starts among this codec's local token ids."""
        return {"level": 0, "scale": LEVELS, "pair": LEVELS + SCALES}[group]

    @property
    def machine(self) -> Machine:
        return Machine.of([(self.offset(g), self.offset(g) + TOKENS[g]) for g in self.slots])

    # --- both ways --------------------------------------------------------------------------------------
    def encode(self, windows: Sequence[Mapping[str, Stream]]) -> list[np.ndarray | str]:
        """One block of local ids per window, or why it has none: a gap, which a transform cannot leave open."""
        x, why = whole(*stack(windows, self.name, self.spec, self.samples), self.name)
        rows = iter(self.code(x))
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

        mean = x.mean(1)
        level, scale = self.ladder.level(mean), self.ladder.scale((x - mean[:, None]).std(1))
        unit = self.ladder.sd(scale)[:, None] * np.sqrt(self.samples)
        c = np.asarray(dct(x - mean[:, None], axis=1, norm="ortho"))[:, 1 : self.kept + 1] / unit
        half = (STEPS - 1) // 2
        q = np.rint(np.sign(c) * np.minimum(np.abs(c), 1) ** _POWER * half) + half
        pair = q[:, 0::2] * STEPS + q[:, 1::2]
        head = np.stack([level, self.offset("scale") + scale], axis=2).reshape(len(x), 2 * self.channels)
        body = self.offset("pair") + pair.reshape(len(x), self.kept // 2 * self.channels)
        return np.concatenate([head, body], axis=1).astype(np.int32)

    def values(self, ids: np.ndarray) -> np.ndarray:
        """int[n, L] -> float32[n, T, C]."""
        from scipy.fft import idct

        n, heads = len(ids), 2 * self.channels
        head = ids[:, :heads].reshape(n, self.channels, 2)
        mean, sd = self.ladder.value(head[..., 0]), self.ladder.sd(head[..., 1] - self.offset("scale"))
        pair = (ids[:, heads:] - self.offset("pair")).reshape(n, self.kept // 2, self.channels)
        half = (STEPS - 1) // 2
        q = np.stack([pair // STEPS, pair % STEPS], axis=2).reshape(n, self.kept, self.channels) - half
        c = np.sign(q) * (np.abs(q) / half) ** (1 / _POWER)
        full = np.zeros((n, self.samples, self.channels))
        full[:, 1 : self.kept + 1] = c * sd[:, None] * np.sqrt(self.samples)
        x = idct(full, axis=1, norm="ortho") + mean[:, None]
        return np.clip(x, self.ladder.low, self.ladder.high).astype(np.float32)
