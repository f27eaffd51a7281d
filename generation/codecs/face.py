"""`face`: facial action units, gaze and head pose, as OpenFace and its like give them, at a few codes per frame.

Channels are known by name (AU01_r, gaze_angle_x, pose_Rx …), in any order, all or some of them. A header of one token per
channel says in physical units between which two values it moves in this window; each frame then says where between them
every channel is, one token for each of seven fixed groups: brows, eyes, upper lip, lower lip, jaw, gaze, head. Channels
of other names have a token of their own in every frame. A frame without a face is one token, MISSING, and comes back as a
gap. Frames are means (that is the anti-alias filter) and decoding is a smooth curve through them, without overshoot.

What moves faster than frames (blinks, a jaw that speaks, eyes that stray, the tracker's noise) is not coded moment by moment:
four more tokens of the header say how much of it there is, and decoding draws it anew, so that no window is told from a
recording by its stillness. It is shot noise: bell-shaped pulses at random moments, few and high or many and low as the
skewness asks (Campbell's theorem: skewness .613 / sqrt(rate x width)), whose width follows from how much of it is fast.
Channels of one group that move as one (lips and jaw) are given the same pulses. What AUs mean is public (Ekman, Friesen
& Hager, Facial Action Coding System, 2002); groups and ranges are fixed by VERSION. Where a channel of a
group is absent its digit is 0, so that a token means the same in every cohort.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np
from pydantic import Field

from ...core.config import Section
from ...core.errors import MienError
from ...core.records import Signal, Stream, StreamSpec
from ..machine import Machine
from ..units import NOISES, Ladder, Noise, hiss, noise_sd, rng_of, squeeze, stack, stretch

VERSION = 2
STREAMS = 1
KIND = "signal"
# group -> its channels, and how many values a frame has for each of them between the header's two
GROUPS: dict[str, tuple[tuple[str, ...], int]] = {
    "brows": (("AU1", "AU2", "AU4"), 7),
    "eyes": (("AU5", "AU6", "AU7", "AU45"), 5),
    "upper_lip": (("AU9", "AU10", "AU12", "AU14"), 5),
    "lower_lip": (("AU15", "AU17", "AU20", "AU23"), 5),
    "jaw": (("AU25", "AU26"), 15),
    "gaze": (("gaze_angle_x", "gaze_angle_y"), 21),
    "head": (("pose_Rx", "pose_Ry", "pose_Rz"), 9),
}
OTHER = 33  # values of a channel that is in no group
ENDS = 25  # values of either end of a channel's extent, finer near zero; zero is one of them
SWINGS = 48  # standard deviation of what is faster than frames, in steps of 14 % from .001 of the range
SKEWS = (0.0, 0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0, 5.6, 8.0)
WIDTHS_S = (0.03, 0.04, 0.05, 0.06, 0.075, 0.1, 0.13, 0.18, 0.25, 0.4)  # of a pulse: the standard deviation of its bell
SHARED = (0.0, 0.7, 1.0)  # correlation with the first channel of the group
REACH = 33  # values of either end of what a channel reaches between its frames
_PAIRS, _REACHES = ([(low, high) for low in range(n) for high in range(low, n)] for n in (ENDS, REACH))
TOKENS = {"missing": 1, "extent": len(_PAIRS), **{g: n ** len(c) for g, (c, n) in GROUPS.items()}, "other": OTHER,
          "noise": NOISES, "swing": SWINGS * len(SKEWS), "pulse": len(WIDTHS_S) * len(SHARED),
          "reach": len(_REACHES)}  # fmt: skip
_AT = dict(zip(TOKENS, np.cumsum([0, *TOKENS.values()]).tolist(), strict=False))
_LOW, _HIGH = (np.array(end) for end in zip(*_PAIRS, strict=True))
_LOWEST, _HIGHEST = (np.array(end) for end in zip(*_REACHES, strict=True))
# Plausible spans by name, for channels whose stream has no range or a wider one: intensities 0-5, presence 0-1, angles in
# radians, parts of a unit vector, millimetres from the camera.
RANGES = {
    r"AU\d+_c|confidence|success": (0.0, 1.0),
    r"AU\d+": (0.0, 5.0),
    r"gaze_angle_[xy]": (-1.2, 1.2),
    r"gaze_[01]_[xyz]": (-1.0, 1.0),
    r"pose_R[xyz]": (-1.6, 1.6),
    r"pose_T[xyz]": (-3000.0, 3000.0),
}


class Config(Section):
    """hz: frames per second at most; a stream slower than that keeps its own rate."""

    hz: float = Field(default=2.0, gt=0)


class Codec:
    """One stream, one window length: an extent per channel, then frames."""

    def __init__(self, config: Config, specs: Mapping[str, StreamSpec], seconds: float):
        ((self.name, self.spec),) = specs.items()
        self.samples = round(seconds * self.spec.rate_hz)
        if self.samples < 1:
            raise MienError(
                f"stream {self.name!r}: a window of {seconds:g} s at {self.spec.rate_hz:g} Hz has no sample"
            )
        self.frames = max(1, min(self.samples, round(seconds * min(config.hz, self.spec.rate_hz))))
        self.edges = np.rint(np.linspace(0, self.samples, self.frames + 1)).astype(int)
        names = [_known(c) for c in self.spec.channels]
        twice = [c for c, k in zip(self.spec.channels, names, strict=True) if names.count(k) > 1]
        if twice:
            raise MienError(f"stream {self.name!r}: the channels {', '.join(twice)} are one and the same")
        spans = np.array([self._span(c, k) for c, k in zip(self.spec.channels, names, strict=True)])
        self.low, self.high = spans[:, 0], spans[:, 1]
        # slots of a frame: group, and (channel, weight of its digit, values) of what it says
        self.slots: list[tuple[str, list[tuple[int, int, int]]]] = []
        for group, (members, values) in GROUPS.items():
            here = [(names.index(m), values**i, values) for i, m in enumerate(members) if m in names]
            if here:
                self.slots.append((group, here))
        grouped = {c for _, said in self.slots for c, _, _ in said}
        self.slots += [("other", [(c, 1, OTHER)]) for c in range(len(names)) if c not in grouped]
        # which channel's pulses each may share; a stream that is as slow as its frames has nothing faster than they
        self.leader = np.arange(len(names))
        for _, said in self.slots:
            self.leader[[c for c, _, _ in said]] = said[0][0]
        self.quick = self.frames < self.samples
        self.noises = [Noise(low=a, high=b) for a, b in spans.tolist()]
        self.swings = [Ladder(low=a, high=b, levels=2, scales=SWINGS, floor=1e-3) for a, b in spans.tolist()]

    def _span(self, channel: str, known: str) -> tuple[float, float]:
        """The range of one channel: the stream's, within what its name allows."""
        usual = next((r for pattern, r in RANGES.items() if re.fullmatch(pattern, known)), None)
        if usual and known.startswith(("gaze_angle", "pose_R")) and self.spec.unit in ("deg", "°"):
            usual = (float(np.rad2deg(usual[0])), float(np.rad2deg(usual[1])))
        given = self.spec.range
        if usual is None and given is None:
            raise MienError(
                f"stream {self.name!r}: {channel!r} is no channel the face codec knows, so it needs a range: give the"
                " stream's plausible span in the cohort's card (`range: [low, high]`), or leave the channel out"
            )
        low = max(r[0] for r in (usual, given) if r)
        high = min(r[1] for r in (usual, given) if r)
        if not low < high:
            raise MienError(
                f"stream {self.name!r}: the range {given} has nothing of {channel!r}, which lies in {usual}"
            )
        return low, high

    @cached_property
    def machine(self) -> Machine:
        """Extents, and what is faster than frames, per channel; then each frame either MISSING or its groups."""
        channels, each = len(self.spec.channels), len(self.slots)
        head = [*["extent"] * channels, *(["noise", "swing", "pulse", "reach"] * channels if self.quick else [])]
        heads, arcs = len(head), [(i, _AT[g], _AT[g] + TOKENS[g], i + 1) for i, g in enumerate(head)]
        for start in range(heads, heads + self.frames * each, each):
            arcs.append((start, _AT["missing"], _AT["missing"] + 1, start + each))
            for i, (group, _) in enumerate(self.slots):
                arcs.append((start + i, _AT[group], _AT[group] + TOKENS[group], start + i + 1))
        nodes = heads + self.frames * each
        return Machine(nodes=nodes, arcs=arcs, length=nodes)

    def encode(self, windows: Sequence[Mapping[str, Stream]]) -> list[np.ndarray | str]:
        """One block per window; none for a window in which no frame has a face for half of its time."""
        x, there = stack(windows, self.name, self.spec, self.samples)
        return [self._block(v, t) for v, t in zip(x, there, strict=True)]

    def _block(self, x: np.ndarray, there: np.ndarray) -> np.ndarray | str:
        first, length = self.edges[:-1], np.diff(self.edges)
        count = np.add.reduceat(there.astype(int), first)
        found = 2 * count >= length
        if not found.any():
            return f"no face to be found in {self.name}"
        total = np.add.reduceat(np.where(there[:, None], np.clip(x, self.low, self.high), 0.0), first, axis=0)
        mean = total[found] / count[found, None]  # [frames there, C]
        ends = [self._squeeze(m) * (ENDS - 1) for m in (mean.min(0), mean.max(0))]
        low = np.clip(np.floor(ends[0] + 1e-6), 0, ENDS - 1).astype(int)
        high = np.clip(np.ceil(ends[1] - 1e-6), low, ENDS - 1).astype(int)
        extent = _pair(low, high, ENDS)
        a, b = self._ends(extent)
        share = np.clip((mean - a) / np.where(b > a, b - a, 1), 0, 1)
        frames = np.empty((len(mean), len(self.slots)), dtype=int)
        for i, (group, said) in enumerate(self.slots):
            frames[:, i] = _AT[group] + sum(np.rint(share[:, c] * (n - 1)).astype(int) * w for c, w, n in said)
        rows = iter(frames)
        body = [next(rows) if f else [_AT["missing"]] for f in found]
        head = [_AT["extent"] + extent]
        if self.quick:
            head.append(self._texture(x, there, self._curve(mean, found), found))
        return np.concatenate([*head, *body]).astype(np.int32)

    def _texture(self, x: np.ndarray, there: np.ndarray, curve: np.ndarray, found: np.ndarray) -> np.ndarray:
        """int[4 C]: of each channel the tokens of the noise, of the size and skewness of what else is faster than frames, of
        its width and whether its group shares it, and of the lowest and highest value."""
        here = there & np.repeat(found, np.diff(self.edges))
        x = np.clip(x, self.low, self.high)
        noise = noise_sd(np.where(here[:, None], x, 0.0)[None], here[None])[0]
        left = np.where(here[:, None], x - curve, 0.0)
        left[here] -= left[here].mean(0)
        count, hz = max(1, here.sum()), np.fft.rfftfreq(self.samples, 1 / self.spec.rate_hz)
        power = np.abs(np.fft.rfft(left, axis=0)) ** 2 * 2 / self.samples / count
        total = (left**2).sum(0) / count
        swing = np.sqrt(np.maximum(total - noise**2, 0))
        fast = power[hz >= self._fast_hz].sum(0) - noise**2 * (hz >= self._fast_hz).mean()
        share = np.clip(fast, 0, None) / np.maximum(total - noise**2, 1e-12)
        skew = (left**3).sum(0) / count / np.maximum(swing, 1e-9) ** 3
        among = (left * left[:, self.leader]).sum(0) / count / np.maximum(swing * swing[self.leader], 1e-12)
        among[self.leader == np.arange(len(among))] = 0
        low, high = (np.rint(self._squeeze(v) * (REACH - 1)).astype(int) for v in (x[here].min(0), x[here].max(0)))
        reach = _pair(low, high, REACH)
        out = []
        for c, (n, s) in enumerate(zip(self.noises, self.swings, strict=True)):
            large = int(s.scale(swing[c])) if total[c] > 1.1 * noise[c] ** 2 else 0  # else it is all noise, or nothing
            width = int(np.abs(self._shares - share[c]).argmin())
            out += [
                _AT["noise"] + int(n.token(noise[c])),
                _AT["swing"] + large * len(SKEWS) + int(np.abs(np.sqrt(SKEWS) - np.sqrt(max(skew[c], 0))).argmin()),
                _AT["pulse"] + width * len(SHARED) + int(np.abs(np.array(SHARED) - among[c]).argmin()),
                _AT["reach"] + int(reach[c]),
            ]
        return np.array(out)

    @property
    def _fast_hz(self) -> float:
        """Above which a width is told from another: twice the rate of frames."""
        return min(2 * self.frames / self.samples, 0.25) * self.spec.rate_hz

    @cached_property
    def _shares(self) -> np.ndarray:
        """float[widths]: of pulses so wide, how much of what frames cannot say is fast."""
        from scipy.special import erfc

        slowest = self._fast_hz / 4
        return np.array([erfc(2 * np.pi * w * self._fast_hz) / erfc(2 * np.pi * w * slowest) for w in WIDTHS_S])

    def _drawn(
        self, tokens: np.ndarray, found: np.ndarray, curve: np.ndarray, low: np.ndarray, rng: np.random.Generator
    ) -> np.ndarray:
        """The tokens of `_texture` and the frames' curve, float[T, C] -> the curve with such movement, none of which frames
        say. low: the curve's lowest values. Pulses are where they raise a frame's mean, and where it is low there are none."""
        noise, swing, pulse, reach = (tokens.reshape(-1, 4) - [_AT[g] for g in ("noise", "swing", "pulse", "reach")]).T
        above = np.clip(self._frames(curve) - low, 0, None) * found[:, None]
        above **= 2  # the many that lie a little above it have none either
        above = np.repeat(above, np.diff(self.edges), axis=0)
        own = np.stack([self._pulses(SKEWS[s % len(SKEWS)], WIDTHS_S[p // len(SHARED)], found, high, rng)
                        for s, p, high in zip(swing, pulse, above.T, strict=True)], axis=1)  # fmt: skip
        shared = np.array(SHARED)[pulse % len(SHARED)] * (self.leader != np.arange(len(noise)))
        sizes = np.array([s.sd(n // len(SKEWS)) if n >= len(SKEWS) else 0.0
                          for s, n in zip(self.swings, swing, strict=True)])  # fmt: skip
        sds = np.array([n.sd(t) for n, t in zip(self.noises, noise, strict=True)])
        white = hiss(rng, np.ones(len(sds)), self.samples)  # shared too: a sharp edge is taken for noise
        mine, theirs = np.sqrt(1 - shared**2), self.leader
        more = sizes * (shared * own[:, theirs] + mine * own) + sds * (shared * white[:, theirs] + mine * white)
        ends = [self._stretch(e[reach] / (REACH - 1)) for e in (_LOWEST, _HIGHEST)]
        lowest, highest = np.minimum(ends[0], curve.min(0)), np.maximum(ends[1], curve.max(0))
        for _ in range(4):  # what is beyond the ends moves inside, and the movement grows to its size again
            more = np.clip(curve + more, lowest, highest) - curve
            more -= self._curve(self._frames(more)[found], found)
            more *= np.minimum(np.sqrt(sizes**2 + sds**2) / np.maximum(more.std(0), 1e-9), 2.0)
        return np.clip(curve + more, lowest, highest)

    def _pulses(
        self, skew: float, width_s: float, found: np.ndarray, above: np.ndarray, rng: np.random.Generator
    ) -> np.ndarray:
        """float[T] of standard deviation 1 with means of 0 in all frames: bells, or their limit of very many."""
        n, width = self.samples, width_s * self.spec.rate_hz
        count = round(0.376 / skew**2 / width * n) if skew else n
        if count < n:
            so_far = np.cumsum(above) if above.any() else np.arange(1.0, n + 1)
            part = (np.arange(max(1, count)) + rng.uniform(size=max(1, count))) / max(1, count)
            at = np.interp(part * so_far[-1], so_far, np.arange(n))
            x = np.exp(-((np.arange(n)[:, None] - at) ** 2) / (2 * width**2)).sum(1)
        else:
            reach = np.arange(-int(4 * width) - 1, int(4 * width) + 2)
            x = np.convolve(rng.standard_normal(n + len(reach) - 1), np.exp(-(reach**2) / (2 * width**2)), "valid")
        x = (x - self._curve(self._frames(x[:, None])[found], found)[:, 0]) if found.any() else x
        return (x - x.mean()) / max(x.std(), 1e-9)

    def _frames(self, x: np.ndarray) -> np.ndarray:
        return np.add.reduceat(x, self.edges[:-1], axis=0) / np.diff(self.edges)[:, None]

    def decode(self, ids: np.ndarray) -> dict[str, Stream]:
        """The reverse; total on every block that `machine` allows. A block of missing frames alone is one long gap."""
        ids, channels = np.asarray(ids, dtype=int), len(self.spec.channels)
        a, b = self._ends(ids[:channels] - _AT["extent"])
        heads = channels * (5 if self.quick else 1)
        body, missing = ids[heads:], ids[heads:] == _AT["missing"]
        begins = missing | (_since(missing) % len(self.slots) == 0)  # MISSING stands where a frame begins
        found = ~missing[begins]
        x = self._curve(self._means(body[~missing].reshape(-1, len(self.slots)), a, b), found)
        if not found.any():
            x = np.repeat(a[None], self.samples, axis=0)
        elif self.quick:
            x = self._drawn(ids[channels:heads], found, x, a, rng_of(ids))
        valid = None if found.all() else np.repeat(found, np.diff(self.edges))
        x = np.clip(x, self.low, self.high)
        made = Signal(
            values=x, rate_hz=self.spec.rate_hz, channels=self.spec.channels, unit=self.spec.unit, valid=valid
        )
        return {self.name: made}

    def _means(self, frames: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Tokens int[frames, slots] -> float[frames, C]: what they say, between the ends of the extents."""
        share = np.zeros((len(frames), len(a)))
        for i, (group, said) in enumerate(self.slots):
            for c, w, n in said:
                share[:, c] = (frames[:, i] - _AT[group]) // w % n / (n - 1)
        return a + share * (b - a)

    def _curve(self, mean: np.ndarray, found: np.ndarray) -> np.ndarray:
        """float[frames that are there, C] -> float[T, C]."""
        from scipy.interpolate import PchipInterpolator

        at = ((self.edges[:-1] + self.edges[1:] - 1) / 2)[found]
        if len(at) < 2:
            return np.repeat(mean if len(at) else np.zeros((1, mean.shape[1])), self.samples, axis=0)
        t, knots = np.clip(np.arange(self.samples), at[0], at[-1]), mean
        turns = np.zeros(mean.shape, bool)
        turns[1:-1] = np.diff(mean[:-1], axis=0) * np.diff(mean[1:], axis=0) < 0
        with np.errstate(over="ignore"):  # scipy divides by slopes that are next to nothing
            for _ in range(2):  # tops and troughs alone are raised until their frames have their means again
                lack = mean - self._frames(np.asarray(PchipInterpolator(at, knots, axis=0)(t)))[found]
                knots = knots + np.where(turns, lack, 0)
            return np.asarray(PchipInterpolator(at, knots, axis=0)(t))

    def _ends(self, extent: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Tokens of the header -> between which values each channel moves."""
        return self._stretch(_LOW[extent] / (ENDS - 1)), self._stretch(_HIGH[extent] / (ENDS - 1))

    def _stretch(self, share: np.ndarray) -> np.ndarray:
        return np.array([stretch(u, p, q) for u, p, q in zip(share, self.low, self.high, strict=True)])

    def _squeeze(self, x: np.ndarray) -> np.ndarray:
        return np.array([squeeze(v, p, q) for v, p, q in zip(x, self.low, self.high, strict=True)])


def _known(channel: str) -> str:
    """The name a channel goes by here: AU01_r and AU1 are one."""
    au = re.fullmatch(r"AU0*(\d+)(?:_r)?", channel.strip(), re.IGNORECASE)
    return f"AU{au[1]}" if au else channel.strip()


def _pair(low: np.ndarray, high: np.ndarray, n: int) -> np.ndarray:
    """The place of (low, high) among all pairs of 0 … n - 1 with low <= high, in order."""
    return low * n - low * (low - 1) // 2 + high - low


def _since(missing: np.ndarray) -> np.ndarray:
    """How many tokens ago the last MISSING stood (0: it is the token before), or the start."""
    at = np.arange(len(missing))
    last = np.maximum.accumulate(np.where(missing, at, -1))
    return at - np.r_[-1, last[:-1]] - 1
