"""What codecs of signals share: physical ranges, levels and scales as tokens, a sensor's noise, windows side by side."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..core.errors import MienError
from ..core.records import Signal, Stream, StreamSpec
from ..core.units import reach

_NEARLY, _OFFSET = 0.9, 0.01  # of the values; of the range


def span(name: str, spec: StreamSpec) -> tuple[float, float]:
    """The physical range a codec covers: the card's, or the usual one of the unit."""
    found = reach(spec.range, spec.unit)
    if found is None:
        raise MienError(
            f"stream {name!r} in {spec.unit!r} has no range: give the sensor's plausible span in the cohort's card"
            " (`range: [low, high]`; public knowledge, never the recordings' own minimum and maximum)"
        )
    if not found[0] < found[1]:
        raise MienError(f"stream {name!r}: range {list(found)} must be [low, high] with low < high")
    return found


def beyond(s: Stream, spec: StreamSpec) -> bool:
    """Whether some channel of a signal lies nearly always outside of what its codec covers, and by more than a sensor's
    offset: it is in another unit than it says, and would be written as its range's edge."""
    found = reach(spec.range, spec.unit)
    if not isinstance(s, Signal) or found is None:
        return False
    return bool((outside(s, *found) > _NEARLY).any())


def outside(s: Signal, low: float, high: float) -> np.ndarray:
    """The share of each channel's samples that lies outside [low, high] by more than a sensor's offset: float64[C]."""
    x, room = s.values if s.valid is None else s.values[s.valid], _OFFSET * (high - low)
    return ((x < low - room) | (x > high + room)).sum(axis=0) / max(1, len(x))


@dataclass(frozen=True, kw_only=True)
class Ladder:
    """Levels and scales of one sensor as token numbers, over its range [low, high].

    level: a value in `levels` steps, finer near zero (signed square root) when the range holds zero; scale: a standard
    deviation in `scales` logarithmic steps from `floor` (a share of the range) to half the range.
    """

    low: float
    high: float
    levels: int
    scales: int
    floor: float = 1e-4

    def level(self, value: np.ndarray) -> np.ndarray:
        return np.rint(squeeze(np.clip(value, self.low, self.high), self.low, self.high) * (self.levels - 1)).astype(
            int
        )

    def value(self, level: np.ndarray) -> np.ndarray:
        return stretch(np.asarray(level) / (self.levels - 1), self.low, self.high)

    def scale(self, sd: np.ndarray) -> np.ndarray:
        top, floor = (self.high - self.low) / 2, (self.high - self.low) * self.floor
        u = (np.log(np.maximum(sd, floor)) - np.log(floor)) / (np.log(top) - np.log(floor))
        return np.rint(np.clip(u, 0, 1) * (self.scales - 1)).astype(int)

    def sd(self, scale: np.ndarray) -> np.ndarray:
        top, floor = (self.high - self.low) / 2, (self.high - self.low) * self.floor
        return np.exp(np.asarray(scale) / (self.scales - 1) * (np.log(top) - np.log(floor)) + np.log(floor))


def squeeze(x: np.ndarray, low: float, high: float) -> np.ndarray:
    """Physical value -> [0, 1], finer near zero (signed square root) when the range holds zero."""
    if not low <= 0 <= high:
        return (x - low) / (high - low)
    u, a, b = (np.sign(v) * np.sqrt(np.abs(v)) for v in (x, np.float64(low), np.float64(high)))
    return (u - a) / (b - a)


def stretch(u: np.ndarray, low: float, high: float) -> np.ndarray:
    """The reverse of `squeeze`."""
    if not low <= 0 <= high:
        return low + u * (high - low)
    a, b = (np.sign(v) * np.sqrt(np.abs(v)) for v in (np.float64(low), np.float64(high)))
    root = a + u * (b - a)
    return np.sign(root) * root**2


NOISES, _LEAST = 161, 1e-5  # steps of 7 %; the least noise that is said, as a share of the range
_STRETCHES, _STRETCH = 16, 14  # at most so many of a window, of at least so many samples


@dataclass(frozen=True, kw_only=True)
class Noise:
    """What a sensor adds of its own, as a token: its standard deviation in logarithmic steps over the range [low, high],
    where 0 says none. It is white, it is nobody's, and without it every decoded window is told from a recording at once.
    """

    low: float
    high: float

    @property
    def _ladder(self) -> Ladder:
        return Ladder(low=self.low, high=self.high, levels=2, scales=NOISES, floor=_LEAST)

    def token(self, sd: np.ndarray) -> np.ndarray:
        return self._ladder.scale(sd)

    def sd(self, token: np.ndarray) -> np.ndarray:
        return np.where(np.asarray(token) > 0, self._ladder.sd(token), 0.0)


def noise_sd(x: np.ndarray, there: np.ndarray) -> np.ndarray:
    """float64[n, C]: the standard deviation of the white noise in x float64[n, T, C], of which bool[n, T] is there.

    Taken from the upper half of the spectrum, where slow signals have nothing else, of second differences, or a slope
    would leak into it; the median over stretches of the window, so that a jump or two do not count. 0 where no stretch
    is whole, or the window is too short to have one.
    """
    n, samples, channels = x.shape
    size = max(_STRETCH, (samples - 2) // _STRETCHES)
    count = (samples - 2) // size
    if count < 1:
        return np.zeros((n, channels))
    bends = np.diff(np.where(there[..., None], x, 0.0), n=2, axis=1)[:, : count * size]
    all_there = (there[:, :-2] & there[:, 1:-1] & there[:, 2:])[:, : count * size].reshape(n, count, size)
    whole = np.asarray(all_there.min(axis=2), dtype=bool)
    hz = np.fft.rfftfreq(size)
    upper = hz >= 0.25
    power = np.abs(np.fft.rfft(bends.reshape(n, count, size, channels), axis=2)[:, :, upper]) ** 2
    power = (power / (2 - 2 * np.cos(2 * np.pi * hz[upper]))[:, None] ** 2).mean(2) / size
    some, middle = np.flatnonzero(whole.sum(axis=1)), np.zeros((n, channels))
    middle[some] = np.nanmedian(np.where(whole[..., None], power, np.nan)[some], axis=1)
    free = 2.0 * upper.sum()  # a mean of so many squares has its median a little below its mean (Wilson and Hilferty)
    return np.sqrt(middle / (1 - 2 / (9 * free)) ** 3)


def rng_of(ids: np.ndarray) -> np.random.Generator:
    """The randomness of a block's decoding: the same tokens give the same waveform, whoever decodes them."""
    return np.random.default_rng(zlib.crc32(np.asarray(ids).astype("<i4").tobytes()))


def hiss(rng: np.random.Generator, sd: np.ndarray, samples: int) -> np.ndarray:
    """float64[samples, C]: white noise whose standard deviations are exactly sd float[C]."""
    z = rng.standard_normal((samples, len(sd)))
    return sd * (z - z.mean(0)) / np.maximum(z.std(0), 1e-12)


def stack(
    windows: Sequence[Mapping[str, Stream]], name: str, spec: StreamSpec, samples: int
) -> tuple[np.ndarray, np.ndarray]:
    """float64[n, samples, C] and bool[n, samples], which samples are there. MienError for another shape or unit."""
    x = np.empty((len(windows), samples, len(spec.channels)))
    there = np.ones((len(windows), samples), dtype=bool)
    for i, w in enumerate(windows):
        s = w[name]
        if not isinstance(s, Signal) or s.values.shape != x.shape[1:] or s.unit != spec.unit:
            told = f"{list(s.values.shape)} in {s.unit!r}" if isinstance(s, Signal) else "no signal"
            raise MienError(f"stream {name!r}: expected windows of {list(x.shape[1:])} in {spec.unit!r}, got {told}")
        x[i] = s.values
        if s.valid is not None:
            there[i] = s.valid
    return x, there


def whole(x: np.ndarray, there: np.ndarray, name: str) -> tuple[np.ndarray, list[str]]:
    """The rows of x without a gap, and per row why it cannot be coded ("" where it can)."""
    good = np.asarray(there.all(axis=1))
    return x[good], ["" if ok else f"a gap in {name}, which its codec cannot say" for ok in good]
