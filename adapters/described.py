"""A window of a stream as a few numbers, and numbers back as a signal: what the autoencoder reads and writes.

A signal of any rate is, per channel, a slow trend (its first cosine coefficients) and the logarithm of its power in bands of
rising width; both can be turned back. The window statistics of data/features.py, which cannot, follow. Events and text are
their statistics alone.

Turning back gives a signal of that trend and those powers at random phases: level, drift and roughness of the stream, no
beats and no gestures. That is all a decoder of these numbers can know.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from ..backbones._binder import Absent
from ..core.errors import MienError
from ..core.records import CohortCard, Signal, Stream, StreamSpec
from ..data import features

TREND, BANDS = 6, 16
_FLOOR = 1e-8  # of a band's power, in squared eighths of the range
_TOP = 2.0  # of its decimal logarithm, when turned back


@dataclass(frozen=True, kw_only=True)
class Described:
    """One stream's numbers for windows of `seconds`. card: the cohort's, with this stream alone."""

    name: str
    spec: StreamSpec
    seconds: float
    card: CohortCard

    @property
    def samples(self) -> int:
        return round(self.seconds * self.spec.rate_hz)

    @property
    def edges(self) -> np.ndarray:
        """int[bands + 1]: the first bin of the window's spectrum in each band, and one past the last."""
        return np.unique(np.geomspace(1, self.samples // 2 + 1, BANDS + 1).round().astype(int))

    @property
    def back(self) -> int:
        """How many numbers, the first ones, can be turned back into a signal: 0 of other kinds."""
        return len(self.spec.channels) * (TREND + len(self.edges) - 1) if self.spec.kind == "signal" else 0

    @property
    def width(self) -> int:
        return self.back + len(features.names(self.card))

    @property
    def names(self) -> tuple[str, ...]:
        """str[width]: what each number is, the stream's own name left out."""
        edges, stream = self.edges / self.seconds, f"{self.name}."
        slow = [f"trend {k}" for k in range(TREND)]
        rough = [f"{a:.3g}–{b:.3g} Hz" for a, b in pairwise(edges)]
        both = [f"{c} {n}" for c in self.spec.channels for n in (*slow, *rough)] if self.back else []
        return (*both, *(n.removeprefix(stream) for n in features.names(self.card)))

    def numbers(self, stream: Stream) -> np.ndarray:
        """float32[width]; NaN where a statistic is not known (spectra of windows with gaps). `Absent` where not one sample
        is valid."""
        both = self._of_signal(stream) if isinstance(stream, Signal) else np.zeros(0)
        return np.concatenate([both, features.vector({self.name: stream}, self.card)]).astype(np.float32)

    def _of_signal(self, s: Signal) -> np.ndarray:
        from scipy.fft import dct, idct

        centre, unit = self._scale
        u = (_filled(s) - centre) / unit
        n = len(u)
        trend = np.asarray(dct(u, axis=0, norm="ortho"))[:TREND]
        rest = u - np.asarray(idct(trend, n=n, axis=0, norm="ortho"))
        edges = self.edges
        summed = np.add.reduceat(_power(rest), edges[:-1] - 1, axis=0)  # [bands, C]; the first bin is number 1
        return np.concatenate([trend / np.sqrt(n), np.log10(summed + _FLOOR)]).T.ravel()

    def signal(self, numbers: np.ndarray, rng: np.random.Generator) -> Signal:
        """A signal of `seconds` in physical units, inside its declared range. numbers: float[back or more]."""
        from scipy.fft import dct, idct

        assert self.spec.range is not None
        centre, unit = self._scale
        n, channels, edges = self.samples, len(self.spec.channels), self.edges
        each = np.asarray(numbers[: self.back], np.float64).reshape(channels, -1).T  # [TREND + bands, C]
        trend, power = each[:TREND] * np.sqrt(n), (10 ** each[TREND:].clip(-8, _TOP) - _FLOOR).clip(0)
        per_bin = np.repeat(power / np.diff(edges)[:, None], np.diff(edges), axis=0)
        phase = rng.standard_normal((n // 2, channels)) + 1j * rng.standard_normal((n // 2, channels))
        spectrum = np.concatenate([np.zeros((1, channels)), phase * n / 2 * np.sqrt(per_bin)])
        if n % 2 == 0:
            spectrum[-1] = 2 * spectrum[-1].real  # the bin at half the rate has no mirror image
        rough = np.fft.irfft(spectrum, n, axis=0)
        # the trend is as it says, whatever was drawn
        drift = trend - np.asarray(dct(rough, axis=0, norm="ortho"))[:TREND]
        values = (rough + np.asarray(idct(drift, n=n, axis=0, norm="ortho"))) * unit + centre
        values = values.clip(*self.spec.range).astype(np.float32)
        return Signal(values=values, rate_hz=self.spec.rate_hz, channels=self.spec.channels, unit=self.spec.unit)

    @property
    def _scale(self) -> tuple[float, float]:
        """(centre, unit): the middle of the declared range, and an eighth of it."""
        assert self.spec.range is not None
        low, high = self.spec.range
        return (low + high) / 2, (high - low) / 8


def described(card: CohortCard, seconds: float, streams: Sequence[str] = ()) -> dict[str, Described]:
    """Stream -> its numbers. streams: which (default: all). MienError for one that is not there, video, a signal without a
    range, and one with too few samples in a window."""
    if unknown := sorted(set(streams) - set(card.streams)):
        raise MienError(
            f"streams: cohort {card.name!r} has no stream {unknown[0]!r}; it has {', '.join(sorted(card.streams))}"
        )
    made = {}
    for name, spec in sorted(features.only(card, streams).streams.items()):
        one = Described(name=name, spec=spec, seconds=seconds, card=features.only(card, [name]))
        if spec.kind == "video":
            raise MienError(
                f"stream {name!r} is video, of which an autoencoder has no numbers; leave it out of `streams`"
            )
        if spec.kind == "signal" and spec.range is None:
            raise MienError(f"stream {name!r} declares no range, which what is generated must stay inside; declare it")
        if spec.kind == "signal" and one.samples < 2 * TREND:
            raise MienError(
                f"stream {name!r} has {one.samples} samples in {seconds:g} s; an autoencoder takes {2 * TREND} at least"
            )
        made[name] = one
    if not made:
        raise MienError(f"cohort {card.name!r} has no stream to encode")
    return made


def _power(u: np.ndarray) -> np.ndarray:
    """float64[n // 2, C]: mean square of each of the bins 1 …"""
    n = len(u)
    power = np.abs(np.fft.rfft(u, axis=0)[1:]) ** 2 * 2 / n**2
    if n % 2 == 0:
        power[-1] /= 2
    return power


def _filled(s: Signal) -> np.ndarray:
    """float64[T, C] with straight lines across gaps: only for numbers, never kept."""
    v = s.values.astype(np.float64)
    if s.complete:
        return v
    assert s.valid is not None
    there = np.flatnonzero(s.valid)
    if not len(there):
        raise Absent("no sample of this window is valid")
    return np.stack([np.interp(np.arange(len(v)), there, v[there, c]) for c in range(v.shape[1])], axis=1)
