"""`beats`: a pulse wave or an ECG as heartbeats, with respiration sampled at them.

A header says in physical units what the whole window is like (mean interval, spread of intervals, level, size and shape
of the wave, how far its baseline wanders and how noisy the sensor is; level, size and noise of respiration), then each
beat adds what it has of its own: its interval as a residual to mean and spread, its size, and respiration at the beat and
half-way to the next one. A model that has learnt little more than which tokens are frequent still decodes to a plausible
heart, which block transforms do not give (their phases jump at every block's edge).

The machine adds up the intervals, so that every document fills its window exactly. The wave's own shape comes from a small
public family (a pulse of two bumps; P, QRS and T of an ECG), and what lies between the family and the recording is lost, on
purpose: pulse shape tells who somebody is. Baseline and noise come back as much as they were, not as they were: they are
drawn anew from the tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, Literal

import numpy as np

from ...core.config import Section
from ...core.errors import MienError
from ...core.records import Signal, Stream, StreamSpec
from ...data import physiology
from ..machine import Machine
from ..units import NOISES, Ladder, Noise, hiss, noise_sd, outside, rng_of, span, stack

VERSION = 2
STREAMS = 2
KIND = "signal"
_MEANS_MS = np.rint(np.geomspace(320, 1900, 90)).astype(int)  # mean interval
_SPREADS_MS = np.geomspace(4, 320, 24)  # standard deviation of intervals
_STEP, _HALF = 0.18, 24  # residuals: multiples of 0.18 standard deviations, to ±4.3
_OWED = 0.25  # the share of what rounding has cost so far that the next interval makes up: beats do not drift
_FIRST = 96  # when the first beat comes, in 48ths of the mean interval
_SIZES = np.exp(np.linspace(-0.7, 0.7, 15))  # a beat's size relative to the window's
_WIDTHS, _NOTCHES = np.exp(np.linspace(-0.6, 0.6, 16)), np.linspace(0.0, 0.7, 8)  # of the wave's family
_BREATH = 17  # values of one respiration residual; two of them are a token
_BREATH_SD = 2.6  # their span, in standard deviations of respiration
LEVELS, SCALES = 129, 32
TOKENS = {
    "mean": len(_MEANS_MS), "spread": len(_SPREADS_MS), "first": _FIRST, "level": LEVELS, "scale": SCALES,
    "shape": 2 * len(_WIDTHS) * len(_NOTCHES), "interval": 2 * _HALF + 1, "size": len(_SIZES), "breath": _BREATH**2, "alone": 1,
    "wander": SCALES, "noise": NOISES,
}  # fmt: skip
_AT = dict(zip(TOKENS, np.cumsum([0, *TOKENS.values()]).tolist(), strict=False))
_INTERVALS_MS = np.clip(  # [mean, spread, residual]
    np.rint(_MEANS_MS[:, None, None] + _SPREADS_MS[None, :, None] * (_STEP * np.arange(-_HALF, _HALF + 1))), 250, 2600
).astype(int)
_FIRST_MS = np.rint(_MEANS_MS[:, None] * np.arange(_FIRST) / 48).astype(int)
_HEAD = ("mean", "spread", "first", "level", "scale", "shape", "wander", "noise")
_WANDER_HZ, _WANDER_S = (
    4.0,
    1.25,
)  # the rate that a wandering baseline is drawn at, and how slow it is (a Gaussian's width)
_PHASES = 128
_PAUSE_S = 5.0  # longer without a beat is a dropout: what would be put there is made up
_OUTSIDE = 0.05  # of the samples: of a pulse that is cut off for longer, more and more intervals are made up
_ALIKE = 0.6  # beats' correlation with their mean: .98 and more in pulses and ECGs, .58 and less in noise and drift


class Config(Section):
    """wave: what the first stream is; auto: an ECG when the stream or its channel is named so, else a pulse."""

    wave: Literal["auto", "pulse", "ecg"] = "auto"


class Codec:
    """A cardiac stream of one channel, and optionally respiration; one window length."""

    def __init__(self, config: Config, specs: Mapping[str, StreamSpec], seconds: float):
        self.names = list(specs)
        self.name, self.spec = self.names[0], specs[self.names[0]]
        self.breath = specs[self.names[1]] if len(specs) > 1 else None
        self.seconds, self.limit_ms = seconds, round(seconds * 1000)
        for name, spec in specs.items():
            if len(spec.channels) != 1:
                raise MienError(
                    f"stream {name!r} has {len(spec.channels)} channels; the beats codec takes one of each stream"
                )
        if seconds < 4 or self.spec.rate_hz < 16:
            raise MienError(
                f"stream {self.name!r}: the beats codec needs windows of 4 s and 16 Hz at least, not {seconds:g} s at"
                f" {self.spec.rate_hz:g} Hz"
            )
        called = f"{self.name} {self.spec.channels[0]}".lower()
        self.wave: Literal["pulse", "ecg"]
        self.wave = ("ecg" if "ecg" in called else "pulse") if config.wave == "auto" else config.wave
        self.samples = round(seconds * self.spec.rate_hz)
        self.ladder, self.noise = _ladder(self.name, self.spec), _noise(self.name, self.spec)
        self.breath_ladder = self.breath_noise = None
        if self.breath is not None:
            self.breath_ladder, self.breath_noise = (
                _ladder(self.names[1], self.breath),
                _noise(self.names[1], self.breath),
            )

    # --- grammar --------------------------------------------------------------------------------------------
    @cached_property
    def machine(self) -> Machine:
        """Header, then `alone` or respiration's header, then beats until the window is full."""
        arcs, n = [], len(_HEAD)
        for i, group in enumerate(_HEAD):
            arcs.append(self._arc(i, group, i + 1))
        alone, level, noise, beat = n, n + 1, n + 2, n + 3  # nodes: after the header; respiration's; a beat alone
        size, both, both_size, both_breath = n + 4, n + 5, n + 6, n + 7
        end = n + 8
        arcs += [self._arc(alone, "alone", beat), self._arc(beat, "interval", size), self._arc(size, "size", beat)]
        if self.breath is not None:
            arcs += [
                self._arc(alone, "level", level),
                self._arc(level, "scale", noise),
                self._arc(noise, "noise", both),
            ]
            arcs += [self._arc(both, "interval", both_size), self._arc(both_size, "size", both_breath)]
            arcs.append(self._arc(both_breath, "breath", both))
        most = int(np.ceil(self.limit_ms / _INTERVALS_MS.min())) + 1
        return Machine(
            nodes=end, arcs=arcs, keep={0: 0, 1: 1}, add={2: _FIRST_MS, beat: _INTERVALS_MS, both: _INTERVALS_MS},
            gates={beat: (self.limit_ms, end), both: (self.limit_ms, end)},
            length=n + 3 + most * (3 if self.breath is not None else 2),
        )  # fmt: skip

    def _arc(self, node: int, group: str, to: int) -> tuple[int, int, int, int]:
        count = len(self.family) if group == "shape" else TOKENS[group]
        return node, _AT[group], _AT[group] + count, to

    # --- writing --------------------------------------------------------------------------------------------
    def encode(self, windows: Sequence[Mapping[str, Stream]]) -> list[np.ndarray | str]:
        """One block per window, or why it has none: a gap or a pause, or nothing in it that is a heart's."""
        x, there = stack(windows, self.name, self.spec, self.samples)
        return [self._block(x[i, :, 0], bool(there[i].all()), windows[i]) for i in range(len(windows))]

    def _block(self, x: np.ndarray, whole: bool, window: Mapping[str, Stream]) -> np.ndarray | str:
        if not whole:
            return f"a gap in {self.name}, which its codec cannot say"
        for name, ladder in zip(self.names, (self.ladder, self.breath_ladder), strict=False):
            s = window.get(name)
            if isinstance(s, Signal) and ladder is not None and outside(s, ladder.low, ladder.high).max() > _OUTSIDE:
                return (
                    f"more than {100 * _OUTSIDE:g} % of {name} outside of {ladder.low:g} to {ladder.high:g} {s.unit}, where it"
                    " would be cut off: give the stream its `range` in the cohort's card, or rescale it"
                )
        x = np.clip(x, self.ladder.low, self.ladder.high)  # what lies beyond the sensor is no wave
        found = physiology.beats(x, self.spec.rate_hz, self.wave)
        if len(found) < 1 + max(3, self.seconds / 3):
            return f"too few heartbeats to be found in {self.name}"
        if np.diff(np.r_[0, found, self.seconds]).max() > _PAUSE_S:
            return f"no heartbeat for more than {_PAUSE_S:g} s in {self.name}"
        times = physiology.mended(found)
        usual = float(np.median(np.diff(times)))
        if not 0.99 * physiology.SHORTEST_S <= usual <= physiology.LONGEST_S:
            return f"{60 / usual:.0f} beats a minute in {self.name}, which is no heart's pace"
        before = max(0, round(times[0] / usual - 0.5))  # a first token reaches no further than two intervals
        times = np.r_[times[0] - usual * np.arange(before, 0, -1), times]
        rr = np.diff(times)
        mean = int(np.abs(_MEANS_MS - 1000 * rr.mean()).argmin())
        spread = int(np.abs(np.log(_SPREADS_MS / max(1.0, 1000 * rr.std()))).argmin())
        first = int(np.clip(np.rint(48 * 1000 * times[0] / _MEANS_MS[mean]), 0, _FIRST - 1))
        tops, size, shape, level, wander, alike = self._wave(x, times)
        if alike < _ALIKE:
            return f"no heartbeats in {self.name}: what was found is not alike from beat to beat"
        ids = [
            mean,
            _AT["spread"] + spread,
            _AT["first"] + first,
            _AT["level"] + int(self.ladder.level(np.array(level))),
        ]
        ids += [_AT["scale"] + int(self.ladder.scale(np.array(size))), _AT["shape"] + shape]
        ids += [_AT["wander"] + int(self.ladder.scale(np.array(wander))), _AT["noise"] + self._hiss(x, self.noise)]
        breath = self._breath(window, times)
        if breath is None:
            ids.append(_AT["alone"])
        else:
            head, pairs = breath
            ids += head
        grid = _INTERVALS_MS[mean, spread]
        now, i, owed = int(_FIRST_MS[mean, first]), 0, 1000 * times[0] - _FIRST_MS[mean, first]
        while now < self.limit_ms:
            # beyond the last beat that was found the heart goes on at its mean
            wanted = 1000 * rr[i] if i < len(rr) else _MEANS_MS[mean]
            k = int(np.abs(grid - wanted - _OWED * owed).argmin())
            owed += wanted - grid[k]
            j = min(i, len(tops) - 1)
            ids += [_AT["interval"] + k, _AT["size"] + int(np.abs(np.log(_SIZES * size / tops[j])).argmin())]
            if breath is not None:
                ids.append(_AT["breath"] + int(pairs[min(i, len(pairs) - 1)]))
            now, i = now + int(grid[k]), i + 1
        return np.array(ids, dtype=np.int32)

    @staticmethod
    def _hiss(x: np.ndarray, noise: Noise) -> int:
        """The noise of x float[T], as a step of `noise`."""
        return int(noise.token(noise_sd(x[None, :, None], np.ones((1, len(x)), bool)))[0, 0])

    def _wave(self, x: np.ndarray, times: np.ndarray) -> tuple[np.ndarray, float, int, float, float, float]:
        """(each beat's size, the window's, its shape's number, its level, how far the level wanders from beat to beat, how
        alike the beats are): the mean beat over cardiac phase, laid against the family. Alike: the median of the beats'
        correlations with it."""
        rate, phases = self.spec.rate_hz, np.arange(_PHASES) / _PHASES
        at = (times[:-1, None] + np.diff(times)[:, None] * phases).ravel() * rate
        beat = np.interp(at, np.arange(len(x)), x).reshape(-1, _PHASES)
        middle = np.median(beat, axis=0)
        centred = middle - middle.mean()
        family = self.family
        shape = int((family @ centred / np.linalg.norm(family, axis=1)).argmax())
        mine = family[shape]
        own = beat - beat.mean(1, keepdims=True)
        norms = np.linalg.norm(own, axis=1) * np.linalg.norm(centred)
        alike = float(np.median(own @ centred / np.maximum(norms, 1e-12)))
        sizes = own @ mine / (mine @ mine)
        size = max(float(np.median(sizes)), 1e-9)
        return np.clip(sizes, 0.3 * size, 3 * size), size, shape, float(x.mean()), float(beat.mean(1).std()), alike

    @cached_property
    def family(self) -> np.ndarray:
        """float64[shapes, _PHASES]: waves over cardiac phase from one beat's peak to the next, mean 0, variance 1; ECGs
        upside down as well (leads are swapped, and R waves point down in some), for pulses are found at their tops."""
        phase = 2 * np.pi * np.arange(_PHASES) / _PHASES
        out = []
        for width in _WIDTHS:
            for notch in _NOTCHES:
                if self.wave == "pulse":
                    wave = _bump(phase, 3.5 / width**2) + notch * _bump(phase - 2.1 * width, 3.0 / width**2)
                else:  # R at 0; S just after, Q just before; T and P as shares of the cycle
                    wave = _bump(phase, 260 / width**2) - 0.2 * (_bump(phase - 0.16, 300) + _bump(phase + 0.16, 300))
                    wave = wave + notch * _bump(phase - 1.9, 8.0) + 0.12 * _bump(phase + 1.0, 30.0)
                out.append((wave - wave.mean()) / wave.std())
        return np.array(out if self.wave == "pulse" else out + [-w for w in out])

    def _breath(self, window: Mapping[str, Stream], times: np.ndarray) -> tuple[list[int], np.ndarray] | None:
        """Respiration's header and its pairs at each beat; None where the window has none, or gaps in it."""
        if (
            self.breath is None
            or self.breath_ladder is None
            or self.breath_noise is None
            or self.names[1] not in window
        ):
            return None
        x, there = stack([window], self.names[1], self.breath, round(self.seconds * self.breath.rate_hz))
        if not there.all():
            return None
        x = x[0, :, 0]
        level, scale = self.breath_ladder.level(x.mean()), self.breath_ladder.scale(np.asarray(x.std()))
        head = [_AT["level"] + int(level), _AT["scale"] + int(scale), _AT["noise"] + self._hiss(x, self.breath_noise)]
        low = _smooth(x, self.breath.rate_hz, float(np.median(np.diff(times))) / 2)
        half = times[:-1] + np.diff(times) / 2
        clock = np.arange(len(x)) / self.breath.rate_hz
        z = np.stack([np.interp(times, clock, low), np.interp(np.r_[half, times[-1]], clock, low)], 1)
        z = (z - float(self.breath_ladder.value(level))) / float(self.breath_ladder.sd(scale))
        q = np.rint((np.clip(z / _BREATH_SD, -1, 1) + 1) / 2 * (_BREATH - 1)).astype(int)
        return head, q[:, 0] * _BREATH + q[:, 1]

    # --- reading --------------------------------------------------------------------------------------------
    def decode(self, ids: np.ndarray) -> dict[str, Stream]:
        return self.join([ids])

    def join(self, blocks: Sequence[np.ndarray]) -> dict[str, Stream]:
        """Blocks of windows that follow one another -> one stream of all their time: the heart of each goes on where the
        one before stopped, so no beat is cut in two. Respiration has gaps where a block is of the heart alone."""
        from scipy.interpolate import CubicSpline, PchipInterpolator

        read = [self._read(np.asarray(b)) for b in blocks]
        beat = np.concatenate([[read[0]["first"]], *(r["steps"] for r in read)]).cumsum()
        per_beat = {
            k: np.concatenate([np.full(len(r["steps"]), r[k]) for r in read])
            for k in ("level", "scale", "shape", "wander")
        }
        sizes = np.concatenate([r["sizes"] for r in read])
        # one more beat before the first, and on to the end: every sample lies between two beats
        mean, last = read[0]["mean"], read[-1]["mean"]
        seconds = self.seconds * len(blocks)
        lead = np.arange(np.ceil(beat[0] / mean) + 1, 0, -1) * mean
        tail = beat[-1] + last * np.arange(1, max(1, np.ceil((seconds - beat[-1]) / last) + 1))
        times = np.r_[beat[0] - lead, beat, tail]
        n = len(times) - 1

        def spread(values: np.ndarray) -> np.ndarray:
            """One value per interval, the first and last again for what was put before and behind."""
            return np.r_[np.full(len(lead), values[0]), values, np.full(n - len(lead) - len(values), values[-1])]

        t = np.arange(self.samples * len(blocks)) / self.spec.rate_hz
        # smooth and monotone: a kink at a beat would draw its filtered peak towards the longer of its two intervals
        place = np.asarray(PchipInterpolator(times, np.arange(n + 1.0))(t))
        k = np.minimum(place.astype(int), n - 1)
        phase = (place - k) * _PHASES
        low = phase.astype(int)
        shapes = self.family[spread(per_beat["shape"]).astype(int)[k]]
        rows = np.arange(len(t))
        wave = shapes[rows, low % _PHASES] * (1 - (phase - low)) + shapes[rows, (low + 1) % _PHASES] * (phase - low)
        middle = np.arange(n) + 0.5
        size = np.interp(place, middle, spread(sizes * per_beat["scale"]))
        x = wave * size + np.interp(place, middle, spread(per_beat["level"]))
        x = x + _wander(np.concatenate([r["own"] for r in read]), t) * np.interp(
            place, middle, spread(per_beat["wander"])
        )
        x = x + np.concatenate([hiss(rng_of(r["own"]), r["noise"], self.samples)[:, 0] for r in read])
        out: dict[str, Stream] = {self.name: _signal(x, self.spec, self.ladder)}
        if self.breath is not None and self.breath_ladder is not None and any("breath" in r for r in read):
            said = np.array(["breath" in r for r in read])
            z = np.concatenate([r.get("breath", np.full((len(r["steps"]), 2), np.nan)) for r in read])
            known = np.isfinite(z.ravel())
            # something has to lie in the gaps for a curve to pass; it is taken out again
            z = np.interp(np.arange(z.size), np.flatnonzero(known), z.ravel()[known]).reshape(-1, 2)
            knots = np.stack([beat[:-1], beat[:-1] + np.diff(beat) / 2], 1).ravel()
            tr = np.arange(round(self.seconds * self.breath.rate_hz) * len(blocks)) / self.breath.rate_hz
            inside = np.clip(tr, knots[0], knots[-1]) if len(knots) else tr
            curve = CubicSpline(knots, z.ravel(), bc_type="natural")(inside) if len(knots) > 1 else 0 * tr
            curve = np.clip(curve, z.min(initial=0) * 1.2, z.max(initial=0) * 1.2)
            each = len(tr) // len(read)
            own = [
                hiss(rng_of(np.asarray(b)), r.get("breath_noise", np.zeros(1)), each)[:, 0]
                for b, r in zip(blocks, read, strict=True)
            ]
            made = _signal(curve + np.concatenate(own), self.breath, self.breath_ladder)
            if not said.all():
                there = np.repeat(said, each)
                made = replace(made, values=np.where(there[:, None], made.values, np.nan), valid=there)
            out[self.names[1]] = made
        return out

    def _read(self, ids: np.ndarray) -> dict[str, Any]:
        """A block in physical units: mean, first [s], steps [s] and sizes of its beats, level and scale of the wave, its
        shape's number, how far it wanders, its noise float64[1], and of respiration, if it has any, breath float64[beats, 2]
        and breath_noise float64[1]; own: its tokens without respiration's, which no waveform of the heart may hang on."""
        mean, spread, first, level, scale, shape, wander, noise = (
            int(t) - _AT[g] for t, g in zip(ids, _HEAD, strict=False)
        )
        with_breath = int(ids[len(_HEAD)]) != _AT["alone"]
        body = ids[len(_HEAD) + (3 if with_breath else 1) :].reshape(-1, 3 if with_breath else 2)
        out: dict[str, Any] = {
            "mean": _MEANS_MS[mean] / 1000, "first": _FIRST_MS[mean, first] / 1000, "shape": shape,
            "steps": _INTERVALS_MS[mean, spread, body[:, 0] - _AT["interval"]] / 1000,
            "sizes": _SIZES[body[:, 1] - _AT["size"]],
            "level": float(self.ladder.value(np.asarray(level))), "scale": float(self.ladder.sd(np.asarray(scale))),
            "wander": float(self.ladder.sd(np.asarray(wander))) if wander > 0 else 0.0,
            "noise": self.noise.sd(np.array([noise])), "own": np.r_[ids[: len(_HEAD)], body[:, :2].ravel()],
        }  # fmt: skip
        if not len(body):  # the first beat comes after the window's end: one interval of the mean goes before it
            out["steps"], out["sizes"] = np.array([out["mean"]]), np.ones(1)
        if with_breath and self.breath_ladder is not None and self.breath_noise is not None:
            low, sd, noise = (int(ids[len(_HEAD) + i]) - _AT[g] for i, g in enumerate(("level", "scale", "noise")))
            out["breath_noise"] = self.breath_noise.sd(np.array([noise]))
            q = body[:, 2] - _AT["breath"]
            z = (np.stack([q // _BREATH, q % _BREATH], 1) / (_BREATH - 1) * 2 - 1) * _BREATH_SD
            z = z if len(body) else np.zeros((1, 2))
            out["breath"] = float(self.breath_ladder.value(np.asarray(low))) + z * float(
                self.breath_ladder.sd(np.asarray(sd))
            )
        return out


def _ladder(name: str, spec: StreamSpec) -> Ladder:
    low, high = span(name, spec)
    return Ladder(low=low, high=high, levels=LEVELS, scales=SCALES, floor=1e-3)


def _noise(name: str, spec: StreamSpec) -> Noise:
    low, high = span(name, spec)
    return Noise(low=low, high=high)


def _wander(ids: np.ndarray, t: np.ndarray) -> np.ndarray:
    """A slow random curve of mean 0 and variance 1 at the times t [s], drawn from the tokens."""
    from scipy.interpolate import CubicSpline
    from scipy.ndimage import gaussian_filter1d

    grid = np.arange(4 + int(np.ceil(t[-1] * _WANDER_HZ)))
    slow = gaussian_filter1d(rng_of(ids).standard_normal(len(grid)), _WANDER_S * _WANDER_HZ, mode="nearest")
    x = np.asarray(CubicSpline(grid / _WANDER_HZ, slow)(t))
    return (x - x.mean()) / max(float(x.std()), 1e-12)


def _signal(x: np.ndarray, spec: StreamSpec, ladder: Ladder) -> Signal:
    values = np.clip(x, ladder.low, ladder.high)[:, None]
    return Signal(values=values, rate_hz=spec.rate_hz, channels=spec.channels, unit=spec.unit)


def _smooth(x: np.ndarray, rate_hz: float, every_s: float) -> np.ndarray:
    """Respiration below the Nyquist frequency of values every `every_s` seconds, or what lies above would be folded in;
    what lies below stays as it is."""
    from scipy.signal import butter, sosfiltfilt

    sos = butter(4, min(0.9 / (2 * every_s), 0.45 * rate_hz), fs=rate_hz, output="sos")
    return sosfiltfilt(sos, x, padlen=min(len(x) - 1, round(2 * rate_hz)))


def _bump(angle: np.ndarray, sharpness: float) -> np.ndarray:
    """A periodic bump of height 1 at angle 0."""
    return np.exp(sharpness * (np.cos(angle) - 1))
