"""Window statistics that know nothing of any model: for utility baselines, two-sample tests and attackers."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise

import numpy as np

from ..core.errors import MienError
from ..core.records import (
    Cohort,
    CohortCard,
    Events,
    Recording,
    Signal,
    Stream,
    StreamSpec,
    Text,
    Video,
    Window,
    cut,
    recording_windows,
)  # fmt: skip

_STATISTICS = ("mean", "sd", "min", "q25", "q75", "max", "power_low", "power_mid", "power_high", "peak_hz")
_EVENT = ("per_hour", "share", "mean_s", "parties")  # of each kind of event
_TEXT = ("utterances", "words_per_s", "words_per_utterance", "different", "share", "gap_s")  # of a transcript
_SOUND_HZ, _MELS = 4000.0, 24  # signals from this rate on are sound, and have mel bands too
_WORDS = 32  # buckets that words are hashed into
_GRID = 8  # of a picture, cells in either direction


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
    """Column names of `vector`, in order, stream by stream: of a signal ten statistics per channel, then correlations,
    then of sound (4 kHz and faster) mean and deviation over time of each mel band per channel; of events four per kind; of
    text six, then word frequencies in hashed buckets; of video the mean brightness of 8 x 8 cells, and how much each varies."""
    return [n for stream, spec in sorted(card.streams.items()) for n in _names(stream, spec)]


def _names(stream: str, spec: StreamSpec) -> list[str]:
    if spec.kind == "video":
        cells = [f"{stream}.{row}{column}" for row in range(_GRID) for column in range(_GRID)]
        return [f"{c}.{s}" for s in ("mean", "sd") for c in cells]
    if spec.kind == "events":
        return [f"{stream}.{c}.{s}" for c in spec.channels for s in _EVENT]
    if spec.kind == "text":
        return [f"{stream}.{s}" for s in _TEXT] + [f"{stream}.word_{i}" for i in range(_WORDS)]
    k = len(spec.channels)
    out = [f"{stream}.{c}.{s}" for c in spec.channels for s in _STATISTICS]
    out += [f"{stream}.{spec.channels[i]}~{spec.channels[j]}" for i in range(k) for j in range(i + 1, k)]
    mels = [f"mel{b:02d}.{s}" for s in ("mean", "sd") for b in range(_MELS)] if spec.rate_hz >= _SOUND_HZ else []
    return out + [f"{stream}.{c}.{m}" for c in spec.channels for m in mels]


def spans(card: CohortCard) -> tuple[np.ndarray, np.ndarray]:
    """(centre, half width), float64[d] each: about where `vector`'s columns lie, from the declared ranges alone, so that
    statistics can be scaled without a look at anybody's. MienError when a signal declares no range."""
    centre, half = [], []
    for stream, spec in sorted(card.streams.items()):
        n = len(spec.channels)
        if spec.kind == "video":
            made = [*[(0.5, 0.5)] * _GRID**2, *[(0.0, 0.25)] * _GRID**2]
        elif spec.kind == "events":
            made = [(0.0, 6.0), (0.0, 1.0), (0.0, 600.0), (0.0, 5.0)] * n
        elif spec.kind == "text":
            made = [(0.0, 10.0), (0.0, 3.0), (0.0, 20.0), (0.5, 0.5), (0.5, 0.5), (0.0, 10.0), *[(0.0, 0.1)] * _WORDS]
        elif spec.range is None:
            raise MienError(
                f"stream {stream!r} declares no range, without which its statistics cannot be scaled publicly"
            )
        else:
            low, high = spec.range
            width = (high - low) / 8  # what a window may plausibly vary by
            place, power = ((low + high) / 2, (high - low) / 2), (0.0, width**2)
            one = [place, (0.0, width), *[place] * 4, *[power] * 3, (0.0, spec.rate_hz / 2)]
            mels = [*[(-4.0, 3.0)] * _MELS, *[(0.0, 1.5)] * _MELS] if spec.rate_hz >= _SOUND_HZ else []
            made = [*one * n, *[(0.0, 1.0)] * (n * (n - 1) // 2), *mels * n]
        centre += [c for c, _ in made]
        half += [h for _, h in made]
    return np.array(centre), np.array(half)


def vector(streams: Mapping[str, Stream], card: CohortCard) -> np.ndarray:
    """float64[d]: the statistics of one window; NaN for a missing stream.

    Signals: power_low / mid / high are mean squared deviation below 0.5 Hz, 0.5–2 Hz and above, from the window's
    periodogram; peak_hz is where it is highest. Inside gaps nothing is counted, and of a window with gaps no spectrum is
    taken (NaN). Events: of each kind, how many per hour, the share of time they fill, their mean length [s], and with
    how many different parties. Text: how much and how varied, and relative frequencies of hashed words (CRC-32 modulo
    32, so that no dictionary is learned from anybody's words). Video: of 8 x 8 cells the mean over its pixels, colours and
    pictures, of full scale, and the deviation of that mean from picture to picture.
    """
    parts = []
    for name, spec in sorted(card.streams.items()):
        s = streams.get(name)
        if isinstance(s, Signal):
            parts.append(_of_signal(s))
        elif isinstance(s, Events):
            parts.append(_of_events(s))
        elif isinstance(s, Text):
            parts.append(_of_text(s))
        elif isinstance(s, Video):
            parts.append(_of_video(s))
        else:
            parts.append(np.full(len(_names(name, spec)), np.nan))
    return np.concatenate(parts) if parts else np.zeros(0)


def _of_signal(s: Signal) -> np.ndarray:
    v = s.values.astype(np.float64)
    k = v.shape[1]
    if not s.complete:
        v = v[s.valid]
        if not len(v):
            return np.full(len(_names("", StreamSpec(channels=s.channels, rate_hz=s.rate_hz))), np.nan)
    mean = v.mean(0)
    centred = v - mean
    if s.complete:
        power = np.abs(np.fft.rfft(centred, axis=0)) ** 2 * 2 / len(v) ** 2
        hz = np.fft.rfftfreq(len(v), 1 / s.rate_hz)
        low, mid = hz < 0.5, (hz >= 0.5) & (hz < 2.0)
        bands = [power[low].sum(0), power[mid].sum(0), power[~(low | mid)].sum(0), hz[power.argmax(0)]]
    else:
        bands = [np.full(k, np.nan)] * 4
    q = np.quantile(v, (0.25, 0.75), axis=0)
    statistics = np.stack([mean, v.std(0), v.min(0), q[0], q[1], v.max(0), *bands], axis=1).ravel()
    sd = centred.std(0) + 1e-9
    corr = (centred / sd).T @ (centred / sd) / len(v)
    out = np.concatenate([statistics, corr[np.triu_indices(k, 1)]])
    return np.concatenate([out, *(_mels(v[:, c], s.rate_hz) for c in range(k))]) if s.rate_hz >= _SOUND_HZ else out


def _mels(v: np.ndarray, rate_hz: float) -> np.ndarray:
    """float64[2 * 24]: mean and deviation over frames (25 ms, every 10 ms, Hann) of log10 of the energy in mel bands, from 60 Hz
    to 8 kHz or half the rate."""
    size, hop = round(0.025 * rate_hz), round(0.010 * rate_hz)
    if len(v) < size:
        return np.full(2 * _MELS, np.nan)
    frames = np.lib.stride_tricks.sliding_window_view(v, size)[::hop] * np.hanning(size)
    energy = np.abs(np.fft.rfft(frames, axis=1)) ** 2 / size
    bands = np.log10(energy @ _mel_bands(rate_hz, size).T + 1e-10)
    return np.concatenate([bands.mean(0), bands.std(0)])


@lru_cache(maxsize=8)
def _mel_bands(rate_hz: float, size: int) -> np.ndarray:
    """float64[24, size // 2 + 1]: triangles, each of sum 1, equally wide on the mel scale (O'Shaughnessy's formula)."""
    low, high = (2595 * np.log10(1 + f / 700) for f in (60.0, min(8000.0, rate_hz / 2)))
    edges = 700 * (10 ** (np.linspace(low, high, _MELS + 2) / 2595) - 1)
    hz = np.fft.rfftfreq(size, 1 / rate_hz)
    rise = (hz - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    fall = (edges[2:, None] - hz) / (edges[2:] - edges[1:-1])[:, None]
    bands = np.clip(np.minimum(rise, fall), 0, None)
    nearest = np.abs(hz - edges[1:-1, None]).argmin(1)
    bands[np.arange(_MELS), nearest] += 1e-9  # a band narrower than the frame's resolution has its nearest line
    return bands / bands.sum(1, keepdims=True)


def _of_events(s: Events) -> np.ndarray:
    out = np.zeros((len(s.kinds), len(_EVENT)))
    for i in range(len(s.kinds)):
        mine = s.codes == i
        seconds, party = s.durations_s[mine], s.party[mine] if s.party is not None else np.empty(0, np.int32)
        n = len(seconds)
        parties = len(np.unique(party[party >= 0]))
        out[i] = n * 3600 / s.seconds, seconds.sum() / s.seconds, seconds.mean() if n else 0.0, parties
    return out.ravel()


def _of_text(s: Text) -> np.ndarray:
    words = [w for t in s.text for w in re.findall(r"[^\W\d_]+(?:['’][^\W\d_]+)?", t.lower())]
    n, m = len(s.text), max(1, len(words))
    spoken = float((s.ends_s - s.times_s).sum())
    gaps = np.clip(s.times_s[1:] - s.ends_s[:-1], 0, None)
    head = [n, len(words) / s.seconds, len(words) / max(1, n), len(set(words)) / m, spoken / s.seconds]
    bucket = np.bincount([zlib.crc32(w.encode()) % _WORDS for w in words], minlength=_WORDS) / m
    return np.concatenate([head, [gaps.mean() if len(gaps) else 0.0], bucket])


def _of_video(s: Video) -> np.ndarray:
    grey = s.frames.mean(3) / 255  # [T, H, W]
    for axis in (1, 2):  # a picture of fewer pixels than cells shows some of them twice
        edges = np.linspace(0, grey.shape[axis], _GRID + 1).astype(int)
        slices = [np.arange(a, max(b, a + 1)) for a, b in pairwise(edges)]
        grey = np.stack([grey.take(part, axis).mean(axis) for part in slices], axis)
    cells = grey.reshape(len(grey), -1)
    return np.concatenate([cells.mean(0), cells.std(0)])


def only(card: CohortCard, streams: Sequence[str]) -> CohortCard:
    """The card with these streams (none named: all)."""
    return replace(card, streams={n: s for n, s in card.streams.items() if not streams or n in streams})


def tabulate(
    cohort: Cohort, *, seconds: float, stride_s: float, task: str, streams: Sequence[str] = (), valid: float = 1.0
) -> WindowTable:
    """Every usable window of a cohort; windows with gaps or without the task's label are skipped and counted.

    streams: whose statistics to take (default: all); valid: the share of samples that must be there (`records.cut`)."""
    skipped: dict[str, int] = {}

    def usable() -> Iterator[tuple[Recording, Window, Mapping[str, Stream]]]:
        for r in cohort:
            if task not in r.labels:
                skipped[f"no label {task!r}"] = skipped.get(f"no label {task!r}", 0) + 1
                continue
            for w in recording_windows(r, seconds, stride_s):
                parts, why = cut(r, w, valid)
                if why:
                    skipped[why] = skipped.get(why, 0) + 1
                else:
                    yield r, w, parts

    table = of_windows(usable(), only(cohort.card, streams), cohort.card, task)
    if not len(table):
        raise MienError(
            f"cohort {cohort.card.name!r} has no usable window of {seconds:g} s with the label {task!r}"
            + (f" (skipped: {skipped})" if skipped else "")
        )
    return replace(table, skipped=skipped)


def of_windows(
    windows: Iterable[tuple[Recording, Window, Mapping[str, Stream]]], card: CohortCard, source: CohortCard, task: str
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
