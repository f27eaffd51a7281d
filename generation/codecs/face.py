"""`face`: facial action units, gaze and head pose, as OpenFace and its like give them, at a few codes per frame.

Channels are known by name (AU01_r, gaze_angle_x, pose_Rx …), in any order, all or some of them. A header of one token per
channel says in physical units between which two values it moves in this window; each frame then says where between them
every channel is, one token for each of seven fixed groups: brows, eyes, upper lip, lower lip, jaw, gaze, head. Channels
of other names have a token of their own in every frame. A frame without a face is one token, MISSING, and comes back as a
gap. Frames are means (that is the anti-alias filter) and decoding is a smooth curve through them, without overshoot.

At 2 frames a second the single blink (AU45) is lost and its rate is kept, as a mean. What AUs mean is public (Ekman, Friesen
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
from ..units import squeeze, stack, stretch

VERSION = 1
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
_PAIRS = [(low, high) for low in range(ENDS) for high in range(low, ENDS)]
TOKENS = {"missing": 1, "extent": len(_PAIRS), **{g: n ** len(c) for g, (c, n) in GROUPS.items()}, "other": OTHER}
_AT = dict(zip(TOKENS, np.cumsum([0, *TOKENS.values()]).tolist(), strict=False))
_LOW, _HIGH = (np.array(end) for end in zip(*_PAIRS, strict=True))
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
        """Extents; then each frame either MISSING or its groups."""
        heads, each = len(self.spec.channels), len(self.slots)
        arcs = [(i, _AT["extent"], _AT["extent"] + TOKENS["extent"], i + 1) for i in range(heads)]
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
        extent = low * ENDS - low * (low - 1) // 2 + high - low
        a, b = self._ends(extent)
        share = np.clip((mean - a) / np.where(b > a, b - a, 1), 0, 1)
        frames = np.empty((len(mean), len(self.slots)), dtype=int)
        for i, (group, said) in enumerate(self.slots):
            frames[:, i] = _AT[group] + sum(np.rint(share[:, c] * (n - 1)).astype(int) * w for c, w, n in said)
        rows = iter(frames)
        body = [next(rows) if f else [_AT["missing"]] for f in found]
        return np.concatenate([_AT["extent"] + extent, *body]).astype(np.int32)

    def decode(self, ids: np.ndarray) -> dict[str, Stream]:
        """The reverse; total on every block that `machine` allows. A block of missing frames alone is one long gap."""
        from scipy.interpolate import PchipInterpolator

        ids, heads = np.asarray(ids, dtype=int), len(self.spec.channels)
        a, b = self._ends(ids[:heads] - _AT["extent"])
        body, missing = ids[heads:], ids[heads:] == _AT["missing"]
        begins = missing | (_since(missing) % len(self.slots) == 0)  # MISSING stands where a frame begins
        found = ~missing[begins]
        frames = body[~missing].reshape(-1, len(self.slots))
        share = np.zeros((len(frames), heads))
        for i, (group, said) in enumerate(self.slots):
            for c, w, n in said:
                share[:, c] = (frames[:, i] - _AT[group]) // w % n / (n - 1)
        mean = a + share * (b - a)
        at = ((self.edges[:-1] + self.edges[1:] - 1) / 2)[found]
        t = np.arange(self.samples)
        if len(at) > 1:
            x = PchipInterpolator(at, mean, axis=0)(np.clip(t, at[0], at[-1]))
        else:
            x = np.repeat(mean if len(at) else a[None], self.samples, axis=0)
        valid = None if found.all() else np.repeat(found, np.diff(self.edges))
        x = np.clip(x, self.low, self.high)
        made = Signal(
            values=x, rate_hz=self.spec.rate_hz, channels=self.spec.channels, unit=self.spec.unit, valid=valid
        )
        return {self.name: made}

    def _ends(self, extent: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Tokens of the header -> between which values each channel moves."""
        a, b = ([stretch(u, p, q) for u, p, q in zip(end[extent] / (ENDS - 1), self.low, self.high, strict=True)]
                for end in (_LOW, _HIGH))  # fmt: skip
        return np.array(a), np.array(b)

    def _squeeze(self, x: np.ndarray) -> np.ndarray:
        return np.array([squeeze(v, p, q) for v, p, q in zip(x, self.low, self.high, strict=True)])


def _known(channel: str) -> str:
    """The name a channel goes by here: AU01_r and AU1 are one."""
    au = re.fullmatch(r"AU0*(\d+)(?:_r)?", channel.strip(), re.IGNORECASE)
    return f"AU{au[1]}" if au else channel.strip()


def _since(missing: np.ndarray) -> np.ndarray:
    """How many tokens ago the last MISSING stood (0: it is the token before), or the start."""
    at = np.arange(len(missing))
    last = np.maximum.accumulate(np.where(missing, at, -1))
    return at - np.r_[-1, last[:-1]] - 1
