"""Window statistics that know nothing of any model: for utility baselines, two-sample tests and attackers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..core.errors import MienError
from ..core.records import Cohort, CohortCard, Recording, Signal, Window, cut, recording_windows

_STATISTICS = ("mean", "sd", "min", "q25", "q75", "max", "power_low", "power_mid", "power_high", "peak_hz")


@dataclass(frozen=True, kw_only=True)
class WindowTable:
    """Windows of a cohort as numbers, row by row.

    X: float64[n, d] statistics (NaN where a stream is missing); meta: float64[n, m] what is known without any
    signal (attributes as codes, recording length, start); label, person, recording: str[n]; skipped: why windows
    were left out, with counts.
    """

    X: np.ndarray
    meta: np.ndarray
    label: np.ndarray
    person: np.ndarray
    recording: np.ndarray
    skipped: dict[str, int]

    def __len__(self) -> int:
        return len(self.X)

    def rows(self, keep: np.ndarray) -> WindowTable:
        """The rows where the boolean (or index) array `keep` says so."""
        return WindowTable(
            X=self.X[keep],
            meta=self.meta[keep],
            label=self.label[keep],
            person=self.person[keep],
            recording=self.recording[keep],
            skipped=self.skipped,
        )


def names(card: CohortCard) -> list[str]:
    """Column names of `vector`, in order: ten statistics per channel, then correlations within each stream."""
    out = []
    for stream, spec in sorted(card.streams.items()):
        out += [f"{stream}.{c}.{s}" for c in spec.channels for s in _STATISTICS]
        k = len(spec.channels)
        out += [f"{stream}.{spec.channels[i]}~{spec.channels[j]}" for i in range(k) for j in range(i + 1, k)]
    return out


def vector(streams: Mapping[str, Signal], card: CohortCard) -> np.ndarray:
    """float64[d]: the statistics of one window; NaN for a missing stream.

    power_low / mid / high: mean squared deviation below 0.5 Hz, 0.5–2 Hz and above, from the window's
    periodogram; peak_hz: where it is highest.
    """
    parts = []
    for name, spec in sorted(card.streams.items()):
        k = len(spec.channels)
        if name not in streams:
            parts.append(np.full(len(_STATISTICS) * k + k * (k - 1) // 2, np.nan))
            continue
        v = streams[name].values.astype(np.float64)
        mean = v.mean(0)
        centred = v - mean
        power = np.abs(np.fft.rfft(centred, axis=0)) ** 2 * 2 / len(v) ** 2
        hz = np.fft.rfftfreq(len(v), 1 / streams[name].rate_hz)
        low, mid = hz < 0.5, (hz >= 0.5) & (hz < 2.0)
        q = np.quantile(v, (0.25, 0.75), axis=0)
        bands = [power[low].sum(0), power[mid].sum(0), power[~(low | mid)].sum(0), hz[power.argmax(0)]]
        parts.append(np.stack([mean, v.std(0), v.min(0), q[0], q[1], v.max(0), *bands], axis=1).ravel())
        sd = centred.std(0) + 1e-9
        corr = (centred / sd).T @ (centred / sd) / len(v)
        parts.append(corr[np.triu_indices(k, 1)])
    return np.concatenate(parts) if parts else np.zeros(0)


def tabulate(cohort: Cohort, *, seconds: float, stride_s: float, task: str, streams: Sequence[str] = ()) -> WindowTable:
    """Every usable window of a cohort; windows with gaps or without the task's label are skipped and counted.

    streams: whose statistics to take (default: all)."""
    skipped: dict[str, int] = {}

    def usable() -> Iterator[tuple[Recording, Window, Mapping[str, Signal]]]:
        for r in cohort:
            if task not in r.labels:
                skipped[f"no label {task!r}"] = skipped.get(f"no label {task!r}", 0) + 1
                continue
            for w in recording_windows(r, seconds, stride_s):
                streams, why = cut(r, w)
                if why:
                    skipped[why] = skipped.get(why, 0) + 1
                else:
                    yield r, w, streams

    kept = {n: s for n, s in cohort.card.streams.items() if not streams or n in streams}
    table = of_windows(usable(), replace(cohort.card, streams=kept), cohort.card, task)
    if not len(table):
        raise MienError(
            f"cohort {cohort.card.name!r} has no usable window of {seconds:g} s with the label {task!r}"
            + (f" (skipped: {skipped})" if skipped else "")
        )
    return replace(table, skipped=skipped)


def of_windows(
    windows: Iterable[tuple[Recording, Window, Mapping[str, Signal]]], card: CohortCard, source: CohortCard, task: str
) -> WindowTable:
    """Windows with their recordings -> a table. card: whose streams make the columns of X; source: whose attributes
    make those of meta (recording length, attributes, start)."""
    codes = _Codes()
    X, meta, label, person, recording = [], [], [], [], []
    for r, w, streams in windows:
        X.append(vector(streams, card))
        facts = [codes(a, r.attributes.get(a)) for a in sorted(source.attributes)]
        meta.append([r.seconds, *facts, r.start_s + w.start_s])
        label.append(str(r.labels[task]))
        person.append(r.person)
        recording.append(r.id)
    return WindowTable(
        X=np.array(X, dtype=np.float64).reshape(len(X), len(names(card))),
        meta=np.array(meta, dtype=np.float64).reshape(len(X), 2 + len(source.attributes)),
        label=np.array(label, dtype=object),
        person=np.array(person, dtype=object),
        recording=np.array(recording, dtype=object),
        skipped={},
    )


class _Codes:
    """Attribute values as numbers: numbers stay, words get a code, missing is NaN."""

    def __init__(self) -> None:
        self.seen: dict[tuple[str, str], int] = {}

    def __call__(self, name: str, value: object) -> float:
        if value is None:
            return float("nan")
        if isinstance(value, bool | int | float):
            return float(value)
        return float(self.seen.setdefault((name, str(value)), len(self.seen)))
