"""One cohort's streams as another's towers, probes and statistics know them: units converted, channels in order, or a refusal."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from .errors import MienError
from .records import Cohort, CohortCard, Events, Recording, Signal, Stream, StreamSpec

# unit -> (what it measures, times, plus): a value in it times `times` plus `plus` is in the first unit of its kind
_UNITS = {
    "m/s2": ("acceleration", 1.0, 0.0), "m/s^2": ("acceleration", 1.0, 0.0), "m/s²": ("acceleration", 1.0, 0.0),
    "g": ("acceleration", 9.80665, 0.0), "mg": ("acceleration", 9.80665e-3, 0.0),
    "rad/s": ("turning", 1.0, 0.0), "deg/s": ("turning", np.pi / 180, 0.0), "rad": ("angle", 1.0, 0.0),
    "deg": ("angle", np.pi / 180, 0.0), "°": ("angle", np.pi / 180, 0.0),
    "uS": ("conductance", 1.0, 0.0), "µS": ("conductance", 1.0, 0.0), "nS": ("conductance", 1e-3, 0.0),
    "degC": ("temperature", 1.0, 0.0), "°C": ("temperature", 1.0, 0.0), "K": ("temperature", 1.0, -273.15),
    "mV": ("voltage", 1.0, 0.0), "uV": ("voltage", 1e-3, 0.0), "µV": ("voltage", 1e-3, 0.0), "V": ("voltage", 1e3, 0.0),
    "bpm": ("rate", 1.0, 0.0), "1/min": ("rate", 1.0, 0.0), "Hz": ("rate", 60.0, 0.0),
}  # fmt: skip
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
ARBITRARY = ("", "a.u.", "au", "arbitrary", "counts", "count", "digits")  # units that no two sensors share


def reach(declared: tuple[float, float] | None, unit: str) -> tuple[float, float] | None:
    """The physical range that a stream of this unit is written in: the card's, or else the unit's usual one, if it has one."""
    return declared or RANGES.get(unit)


def conversion(
    theirs: StreamSpec, ours: StreamSpec, what: str, *, renamed: bool = False
) -> tuple[Callable[[Stream], Stream], str]:
    """(stream in `theirs` -> the same in `ours`, what was done in words, "" where nothing was).

    Physical units are converted; an arbitrary unit is scaled from the one public range to the other, which cards declare;
    channels and kinds of event of the same names are put in order. renamed: names that differ are taken by their place, and
    that is said. MienError, opening with `what`, for another kind, number of channels, names or a unit that does not convert.
    """
    if theirs.kind != ours.kind or len(theirs.channels) != len(ours.channels):
        raise MienError(
            f"{what}: {theirs.kind} of {len(theirs.channels)} ({', '.join(theirs.channels)}), and {ours.kind} of"
            f" {len(ours.channels)} ({', '.join(ours.channels)}) is wanted"
        )
    said: list[str] = []
    n, order = len(ours.channels), list(range(len(ours.channels)))
    if theirs.kind in ("signal", "events") and n > 1 and theirs.channels != ours.channels:
        if set(theirs.channels) == set(ours.channels):
            order = [theirs.channels.index(c) for c in ours.channels]
            said.append(f"{', '.join(theirs.channels)} put in the order {', '.join(ours.channels)}")
        elif renamed:
            said.append(f"{', '.join(theirs.channels)} taken as {', '.join(ours.channels)}, by place")
        else:
            raise MienError(
                f"{what}: {', '.join(theirs.channels)} there, and {', '.join(ours.channels)} is wanted; name them alike in its card"
            )
    times, plus = 1.0, 0.0
    if theirs.kind == "signal":
        times, plus = _scaled(theirs, ours, what)
        if (times, plus) != (1.0, 0.0):
            said.append(f"{theirs.unit or 'no unit'} turned into {ours.unit or 'no unit'}")
    if not said:
        return lambda s: s, ""

    def turned(s: Stream) -> Stream:
        if isinstance(s, Signal):
            values = (s.values[:, order].astype(np.float64) * times + plus).astype(np.float32)
            return replace(s, values=values, channels=ours.channels, unit=ours.unit)
        if isinstance(s, Events):
            place = np.argsort(order)
            return replace(s, kinds=ours.channels, codes=place[s.codes].astype(s.codes.dtype))
        return s

    return turned, f"{what}: {'; '.join(said)}"


def _scaled(theirs: StreamSpec, ours: StreamSpec, what: str) -> tuple[float, float]:
    """(times, plus) that turn a value of theirs into one of ours."""
    if ours.unit in ARBITRARY:
        if theirs.range is None or ours.range is None:
            raise MienError(
                f"{what}: declares no range, without which {theirs.unit or 'no unit'} cannot be scaled publicly"
            )
        (a, b), (low, high) = theirs.range, ours.range
        if (a, b) == (low, high):
            return 1.0, 0.0
        times = (high - low) / (b - a)
        return times, low - a * times
    if theirs.unit == ours.unit:
        return 1.0, 0.0
    one, other = _UNITS.get(theirs.unit), _UNITS.get(ours.unit)
    if one is None or other is None or one[0] != other[0]:
        raise MienError(
            f"{what}: is in {theirs.unit or 'no unit'!r}, and {ours.unit!r} is wanted; give it in {ours.unit!r} (its card's"
            " `unit` says what it is in), or pretrain or adapt to streams of this unit"
        )
    if one[1:] == other[1:]:
        return 1.0, 0.0
    return one[1] / other[1], (one[2] - other[2]) / other[1]


class Alike(Cohort):
    """A cohort whose recordings are read with these streams turned: nothing is copied. turns: stream -> as `conversion` gives
    it; card: with what the streams then are."""

    def __init__(self, cohort: Cohort, turns: Mapping[str, Callable[[Stream], Stream]], card: CohortCard):
        super().__init__(
            card=card, rows=cohort.rows, consents=cohort.consents, fingerprint=cohort.fingerprint, folder=cohort.folder
        )
        self.turns = dict(turns)

    def __iter__(self) -> Iterator[Recording]:
        return map(self._turned, super().__iter__())

    def __getitem__(self, index: int) -> Recording:
        return self._turned(super().__getitem__(index))

    def select(self, keep: Callable[[str], bool] | Sequence[int]) -> Cohort:
        return Alike(super().select(keep), self.turns, self.card)

    def _turned(self, r: Recording) -> Recording:
        return replace(r, streams={n: self.turns[n](s) if n in self.turns else s for n, s in r.streams.items()})


def alike(cohort: Cohort, card: CohortCard, streams: tuple[str, ...], what: str) -> tuple[Cohort, list[str]]:
    """The cohort with these streams as `card` has them (rates stay), and what was done. MienError, opening with `what`, where
    a stream is missing or does not convert."""
    turns, specs, said = {}, dict(cohort.card.streams), []
    for name in streams:
        theirs, ours = cohort.card.streams.get(name), card.streams[name]
        if theirs is None:
            raise MienError(f"{what}: there is no stream {name!r}; adapt to the streams that both have (streams: […])")
        turns[name], done = conversion(theirs, ours, f"{what}: stream {name!r}")
        said += [done] if done else []
        specs[name] = replace(ours, rate_hz=theirs.rate_hz)
    return Alike(cohort, turns, replace(cohort.card, streams=specs)), said
