"""Pitch, voicing and band energies of sound: what prosody is made of, without any model.

Pitch follows Boersma ("Accurate short-term analysis of the fundamental frequency", IFA Proceedings 17, 1993): the windowed
signal's autocorrelation over the window's own, its maxima as candidates, and the cheapest path through them. Everything
here looks at one stretch of sound alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

LOWEST_HZ, HIGHEST_HZ = 60.0, 500.0  # speaking voices
_WINDOW_S = 3 / LOWEST_HZ  # three periods of the lowest voice
_UP_TO_HZ = 4000.0  # pitch is sought below
_CANDIDATES = 6
_VOICED, _SILENT, _OCTAVE = 0.45, 0.03, 0.01  # Boersma's thresholds and costs, per 10 ms step
_JUMP, _SWITCH = 0.35, 0.14


@dataclass(frozen=True, kw_only=True)
class Track:
    """hz: float[n], 0 where there is no voice; power: float[n, bands], mean squares in each band."""

    hz: np.ndarray
    power: np.ndarray


def track(x: np.ndarray, rate_hz: float, steps: int, edges_hz: tuple[float, ...]) -> Track:
    """Sound [T] at `steps` equally spaced moments (the middles of as many equal parts), with the bands between edges."""
    from scipy.fft import irfft, next_fast_len, rfft

    w = max(8, round(_WINDOW_S * rate_hz))
    least, most = int(np.ceil(rate_hz / HIGHEST_HZ)), int(rate_hz / LOWEST_HZ)
    n = int(next_fast_len(w + most + 2, real=True) or 0)
    window = np.hanning(w + 2)[1:-1]
    at = np.rint((np.arange(steps) + 0.5) * len(x) / steps).astype(int)
    padded = np.pad(x, (w // 2, w))
    frames = padded[at[:, None] + np.arange(w)]
    frames = (frames - frames.mean(1, keepdims=True)) * window
    spectrum = np.abs(np.asarray(rfft(frames, n, axis=1))) ** 2
    hz = np.arange(spectrum.shape[1]) * rate_hz / n
    cuts = np.searchsorted(hz, edges_hz)
    bands = np.stack([spectrum[:, a:b].sum(1) for a, b in pairwise(cuts)], axis=1)
    bands *= 2 / n / (window @ window)
    # autocorrelation up to the longest period, of signal and window
    lags = slice(0, most + 2)
    r = np.asarray(irfft(np.where(hz < _UP_TO_HZ, spectrum, 0), n, axis=1))[:, lags]
    own = np.asarray(irfft(np.abs(np.asarray(rfft(window, n))) ** 2, n))[lags]
    r = r / np.maximum(r[:, :1], 1e-20) / (own / own[0])
    loud = np.abs(frames).max(1) / max(float(np.abs(frames).max()), 1e-20)
    return Track(hz=_path(*_candidates(r, least, most, rate_hz), loud, len(x) / rate_hz / steps), power=bands)


def _candidates(r: np.ndarray, least: int, most: int, rate_hz: float) -> tuple[np.ndarray, np.ndarray]:
    """float[n, k] Hz and strengths (-inf: none): the strongest maxima of each row, between samples by a parabola."""
    a, b, c = r[:, least - 1 : most], r[:, least : most + 1], r[:, least + 1 : most + 2]
    peak = (b > a) & (b >= c) & (b > 0)
    curve = np.minimum(a - 2 * b + c, -1e-12)
    shift = np.clip(0.5 * (a - c) / curve, -0.5, 0.5)
    lag = least + np.arange(b.shape[1]) + shift
    height = np.minimum(b - 0.25 * (a - c) * shift, 1.0)
    strength = np.where(peak, height - _OCTAVE * np.log2(LOWEST_HZ * lag / rate_hz), -np.inf)
    k = min(_CANDIDATES, strength.shape[1])
    best = np.sort(np.argpartition(-strength, k - 1, axis=1)[:, :k], axis=1)
    return rate_hz / np.take_along_axis(lag, best, 1), np.take_along_axis(strength, best, 1)


def _path(hz: np.ndarray, strength: np.ndarray, loud: np.ndarray, step_s: float) -> np.ndarray:
    """float[n]: the best path (Viterbi) through the candidates and the state without voice."""
    silent = _VOICED + np.maximum(0, 2 - loud / (_SILENT / (1 + _VOICED)))
    gain = np.concatenate([silent[:, None], strength], axis=1)
    octave = np.log2(np.concatenate([np.ones((len(hz), 1)), hz], axis=1))
    scale = 0.01 / step_s
    best, back = gain[0], np.zeros(gain.shape, dtype=int)
    for i in range(1, len(gain)):
        cost = _JUMP * np.abs(octave[i][None, :] - octave[i - 1][:, None])
        cost[0, :] = cost[:, 0] = _SWITCH
        cost[0, 0] = 0.0
        total = best[:, None] - scale * cost
        back[i] = total.argmax(0)
        best = total.max(0) + gain[i]
    out, state = np.zeros(len(hz)), int(best.argmax())
    for i in range(len(gain) - 1, -1, -1):
        out[i] = hz[i, state - 1] if state else 0.0
        state = int(back[i, state])
    return out


def loudness(x: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """float[n] dB re full scale (a square wave of 1 is 0 dB) of the samples between n + 1 edges; -120 for silence."""
    power = np.add.reduceat(x**2, edges[:-1]) / np.diff(edges)
    return 10 * np.log10(np.maximum(power, 1e-12))
