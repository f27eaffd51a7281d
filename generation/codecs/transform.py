"""`transform`: any waveform as product-coded DCT coefficients of the whole window.

Per channel a header of two tokens (level, scale) in physical units, then a body of coefficient pairs, lowest
frequency first and channels interleaved: what matters most comes first, and an undertrained model still decodes to
a signal of the right level and size. One transform spans the whole window, so no block edges can show.

Constants are fixed by this file's VERSION and by the sensor's public range; nothing is learned from recordings, so
the tokens of one recording cannot depend on another. (FAST, arXiv 2501.09747, codes DCT coefficients too, but with a
byte-pair vocabulary learned on data.)
"""

from __future__ import annotations

import numpy as np
from pydantic import Field, PositiveFloat

from ...core.config import Section
from ...core.errors import MienError
from ...core.records import Signal, StreamSpec

VERSION = 1
LEVELS = 129  # header: the window's mean
SCALES = 32  # header: the window's standard deviation, logarithmic
STEPS = 17  # body: values of one coefficient
TOKENS = {"level": LEVELS, "scale": SCALES, "pair": STEPS * STEPS}
_POWER = 0.6  # coefficients are companded by |c|^0.6: small ones are the many
_FLOOR = 1e-4  # smallest scale, as a share of the sensor's range

# The plausible span of common units, for streams whose card names none. Public knowledge about sensors.
RANGES = {
    "g": (-8.0, 8.0),
    "m/s2": (-80.0, 80.0),
    "rad/s": (-35.0, 35.0),
    "deg/s": (-2000.0, 2000.0),
    "uS": (0.0, 60.0),
    "degC": (10.0, 45.0),
    "bpm": (20.0, 240.0),
    "mV": (-5.0, 5.0),
    "a.u.": (-10.0, 10.0),
}


class Config(Section):
    """hz: bandwidth that is kept; everything above is lost. bandwidth: other values for single streams."""

    hz: float = Field(default=3.0, gt=0)
    bandwidth: dict[str, PositiveFloat] = {}


class Codec:
    """One stream, one window length.

    encode: float32[n, T, C] in the stream's unit -> int32[n, L] local token ids (level | scale | pair, in that
    order); decode: the reverse, total on every sequence that `slots` allows.
    """

    def __init__(self, config: Config, name: str, spec: StreamSpec, seconds: float):
        low, high = span(name, spec)
        self.name, self.spec = name, spec
        self.samples = round(seconds * spec.rate_hz)
        self.channels = len(spec.channels)
        self.low, self.high = low, high
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

    # --- levels and scales ------------------------------------------------------------------------------
    def _level(self, mean: np.ndarray) -> np.ndarray:
        return np.rint(_squeeze(np.clip(mean, self.low, self.high), self.low, self.high) * (LEVELS - 1))

    def _mean(self, level: np.ndarray) -> np.ndarray:
        return _stretch(level / (LEVELS - 1), self.low, self.high)

    def _scale(self, sd: np.ndarray) -> np.ndarray:
        top, floor = (self.high - self.low) / 2, (self.high - self.low) * _FLOOR
        u = (np.log(np.maximum(sd, floor)) - np.log(floor)) / (np.log(top) - np.log(floor))
        return np.rint(np.clip(u, 0, 1) * (SCALES - 1))

    def _sd(self, scale: np.ndarray) -> np.ndarray:
        top, floor = (self.high - self.low) / 2, (self.high - self.low) * _FLOOR
        return np.exp(scale / (SCALES - 1) * (np.log(top) - np.log(floor)) + np.log(floor))

    # --- both ways --------------------------------------------------------------------------------------
    def encode(self, values: np.ndarray) -> np.ndarray:
        from scipy.fft import dct

        x = np.asarray(values, dtype=np.float64)
        if x.ndim != 3 or x.shape[1:] != (self.samples, self.channels):
            raise MienError(
                f"stream {self.name!r}: expected windows of [{self.samples}, {self.channels}], got {list(x.shape[1:])}"
            )
        mean = x.mean(1)
        level, scale = self._level(mean), self._scale((x - mean[:, None]).std(1))
        unit = self._sd(scale)[:, None] * np.sqrt(self.samples)
        c = np.asarray(dct(x - mean[:, None], axis=1, norm="ortho"))[:, 1 : self.kept + 1] / unit
        half = (STEPS - 1) // 2
        q = np.rint(np.sign(c) * np.minimum(np.abs(c), 1) ** _POWER * half) + half
        pair = q[:, 0::2] * STEPS + q[:, 1::2]
        head = np.stack([level, self.offset("scale") + scale], axis=2).reshape(len(x), -1)
        body = self.offset("pair") + pair.reshape(len(x), -1)
        return np.concatenate([head, body], axis=1).astype(np.int32)

    def decode(self, ids: np.ndarray) -> np.ndarray:
        from scipy.fft import idct

        ids = np.asarray(ids)
        n, heads = len(ids), 2 * self.channels
        head = ids[:, :heads].reshape(n, self.channels, 2)
        mean, sd = self._mean(head[..., 0]), self._sd(head[..., 1] - self.offset("scale"))
        pair = (ids[:, heads:] - self.offset("pair")).reshape(n, self.kept // 2, self.channels)
        half = (STEPS - 1) // 2
        q = np.stack([pair // STEPS, pair % STEPS], axis=2).reshape(n, self.kept, self.channels) - half
        c = np.sign(q) * (np.abs(q) / half) ** (1 / _POWER)
        full = np.zeros((n, self.samples, self.channels))
        full[:, 1 : self.kept + 1] = c * sd[:, None] * np.sqrt(self.samples)
        x = idct(full, axis=1, norm="ortho") + mean[:, None]
        return np.clip(x, self.low, self.high).astype(np.float32)

    def signal(self, values: np.ndarray) -> Signal:
        """One decoded window [T, C] as a Signal at the original rate."""
        return Signal(values=values, rate_hz=self.spec.rate_hz, channels=self.spec.channels, unit=self.spec.unit)


def span(name: str, spec: StreamSpec) -> tuple[float, float]:
    """The physical range the codec covers: the card's, or the usual one of the unit."""
    found = spec.range or RANGES.get(spec.unit)
    if found is None:
        raise MienError(
            f"stream {name!r} in {spec.unit!r} has no range: give the sensor's plausible span in the cohort's card"
            " (`range: [low, high]`; public knowledge, never the recordings' own minimum and maximum)"
        )
    if not found[0] < found[1]:
        raise MienError(f"stream {name!r}: range {list(found)} must be [low, high] with low < high")
    return found


def _squeeze(x: np.ndarray, low: float, high: float) -> np.ndarray:
    """Physical value -> [0, 1], finer near zero (signed square root) when the range holds zero."""
    if not low <= 0 <= high:
        return (x - low) / (high - low)
    u, a, b = (np.sign(v) * np.sqrt(np.abs(v)) for v in (x, np.float64(low), np.float64(high)))
    return (u - a) / (b - a)


def _stretch(u: np.ndarray, low: float, high: float) -> np.ndarray:
    if not low <= 0 <= high:
        return low + u * (high - low)
    a, b = (np.sign(v) * np.sqrt(np.abs(v)) for v in (np.float64(low), np.float64(high)))
    root = a + u * (b - a)
    return np.sign(root) * root**2
