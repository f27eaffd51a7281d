"""The types that flow: Signal, Events, Text, Video, Recording, Window, Consent, CohortCard, Cohort.

Everything is frozen and keyword-only. The person is the unit: no Recording exists without one.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from . import console
from .errors import MienError
from .paths import cache_home

if TYPE_CHECKING:
    import datasets

Value = str | int | float | bool
PURPOSES = ("training", "generation", "alignment", "audit", "evaluation", "sharing")
RESTRICTIONS = {  # what a licence or an agreement asks, of the recordings and of everything made from them
    "attribution": "its authors are to be cited",
    "share-alike": "what is made from it is passed on under its own terms",
    "non-commercial": "no commercial use",
    "research-only": "for research alone",
    "no-redistribution": "no recording of it may be passed on",
    "credentialed": "only for persons whom its holder has admitted, each by themselves",
}
RGB = ("r", "g", "b")  # the channels of a video
_FORMAT = 2


@dataclass(frozen=True, kw_only=True)
class Signal:
    """A regularly sampled stream of one sensor.

    values: float32[T, C] in `unit`; rate_hz: samples per second; channels: C names; offset_s: start relative
    to the recording's start; valid: bool[T], False inside gaps (None: all valid). Gaps are marked, never filled:
    what `values` holds where `valid` is False means nothing and may be NaN.
    """

    values: np.ndarray
    rate_hz: float
    channels: tuple[str, ...]
    unit: str
    offset_s: float = 0.0
    valid: np.ndarray | None = None

    def __post_init__(self) -> None:
        values = np.ascontiguousarray(self.values, dtype=np.float32)
        object.__setattr__(self, "values", values)
        object.__setattr__(self, "channels", tuple(self.channels))
        if values.ndim != 2 or values.shape[1] != len(self.channels):
            raise MienError(
                f"a signal with channels {list(self.channels)} needs values of shape [time, {len(self.channels)}],"
                f" got {list(values.shape)}"
            )
        if not (math.isfinite(self.rate_hz) and self.rate_hz > 0):
            raise MienError(f"a signal's rate must be a positive number of Hz, got {self.rate_hz!r}")
        if self.valid is not None:
            valid = np.ascontiguousarray(self.valid, dtype=bool)
            object.__setattr__(self, "valid", valid)
            if valid.shape != (len(values),):
                raise MienError(f"`valid` must have one flag per sample: {len(values)}, got {list(valid.shape)}")
        good = values if self.valid is None else values[self.valid]
        if not np.isfinite(good).all():
            raise MienError(
                "NaN or infinite samples that no `valid` mask covers; mark gaps with valid=False, or repair the source"
            )

    @property
    def seconds(self) -> float:
        return len(self.values) / self.rate_hz

    def cut(self, start_s: float, end_s: float) -> Signal | None:
        """The samples of [start_s, end_s) of the recording's clock; None when they are not all there."""
        first = round((start_s - self.offset_s) * self.rate_hz)
        count = round((end_s - start_s) * self.rate_hz)
        if first < 0 or first + count > len(self.values):
            return None
        part = slice(first, first + count)
        valid = None if self.valid is None else self.valid[part]
        return replace(self, values=self.values[part], valid=valid, offset_s=0.0)

    @property
    def complete(self) -> bool:
        return self.valid is None or bool(self.valid.all())


@dataclass(frozen=True, kw_only=True)
class Events:
    """Things that happen at moments: calls, messages, conversations, changes of state.

    times_s, durations_s: float64[N], start relative to the recording's start (ascending, >= offset_s) and length, 0 for
    an instant; codes: int32[N] into `kinds`; kinds: the possible kinds, all of them, in order; party: int32[N], with
    whom, as a number that means something within this recording's person only (-1: nobody or unknown): never a number, a
    name or a hash of one; seconds: how long was observed from offset_s on, for that nothing happened is an observation too.
    """

    times_s: np.ndarray
    durations_s: np.ndarray
    codes: np.ndarray
    kinds: tuple[str, ...]
    seconds: float
    party: np.ndarray | None = None
    offset_s: float = 0.0

    def __post_init__(self) -> None:
        for name, kind in (("times_s", np.float64), ("durations_s", np.float64), ("codes", np.int32)):
            object.__setattr__(self, name, np.ascontiguousarray(getattr(self, name), dtype=kind))
        party = np.full(len(self.times_s), -1) if self.party is None else self.party
        object.__setattr__(self, "party", np.ascontiguousarray(party, dtype=np.int32))
        object.__setattr__(self, "kinds", tuple(self.kinds))
        n = len(self.times_s)
        assert self.party is not None
        if any(a.shape != (n,) for a in (self.times_s, self.durations_s, self.codes, self.party)):
            raise MienError("events need times_s, durations_s, codes and party of one length")
        if not (math.isfinite(self.seconds) and self.seconds > 0 and math.isfinite(self.offset_s)):
            raise MienError(f"events were observed for a positive number of seconds, got {self.seconds!r}")
        if not (np.isfinite(self.times_s).all() and np.isfinite(self.durations_s).all()):
            raise MienError("an event's time or duration is not a number")
        if n and (self.durations_s.min() < 0 or (np.diff(self.times_s) < 0).any()):
            raise MienError("events must be in order of time and cannot last less than nothing")
        if n and not (self.offset_s <= self.times_s[0] and self.times_s[-1] <= self.offset_s + self.seconds):
            raise MienError("an event lies outside the time that was observed")
        if n and not (self.codes.min() >= 0 and self.codes.max() < len(self.kinds)):
            raise MienError(f"an event's code is none of the {len(self.kinds)} kinds {list(self.kinds)}")

    def cut(self, start_s: float, end_s: float) -> Events | None:
        """The events that begin in [start_s, end_s); None when that time was not observed whole. An event's duration
        stays what it was, though it may end later."""
        if start_s < self.offset_s - 1e-6 or end_s > self.offset_s + self.seconds + 1e-6:
            return None
        part = slice(*np.searchsorted(self.times_s, (start_s, end_s), side="left"))
        assert self.party is not None
        return replace(
            self, times_s=self.times_s[part] - start_s, durations_s=self.durations_s[part], codes=self.codes[part],
            party=self.party[part], seconds=end_s - start_s, offset_s=0.0,
        )  # fmt: skip

    @property
    def complete(self) -> bool:
        return True


@dataclass(frozen=True, kw_only=True)
class Text:
    """What was said or written, utterance by utterance.

    times_s, ends_s: float64[N] relative to the recording's start, ascending starts; text: N strings (NFC);
    speakers: N names of roles ("participant", "interviewer"), never of people; seconds: how long was observed.
    """

    times_s: np.ndarray
    ends_s: np.ndarray
    text: tuple[str, ...]
    speakers: tuple[str, ...]
    seconds: float
    offset_s: float = 0.0

    def __post_init__(self) -> None:
        for name in ("times_s", "ends_s"):
            object.__setattr__(self, name, np.ascontiguousarray(getattr(self, name), dtype=np.float64))
        object.__setattr__(self, "text", tuple(unicodedata.normalize("NFC", t) for t in self.text))
        object.__setattr__(self, "speakers", tuple(self.speakers))
        n = len(self.text)
        if self.times_s.shape != (n,) or self.ends_s.shape != (n,) or len(self.speakers) != n:
            raise MienError("text needs times_s, ends_s and speakers of one length with its utterances")
        if not (math.isfinite(self.seconds) and self.seconds > 0 and math.isfinite(self.offset_s)):
            raise MienError(f"text was observed for a positive number of seconds, got {self.seconds!r}")
        if n and not (np.isfinite(self.times_s).all() and np.isfinite(self.ends_s).all()):
            raise MienError("an utterance's time is not a number")
        if n and ((np.diff(self.times_s) < 0).any() or (self.ends_s < self.times_s).any()):
            raise MienError("utterances must be in order of time and cannot end before they begin")
        if n and not (self.offset_s <= self.times_s[0] and self.times_s[-1] <= self.offset_s + self.seconds):
            raise MienError("an utterance lies outside the time that was observed")

    def cut(self, start_s: float, end_s: float) -> Text | None:
        """The utterances that begin in [start_s, end_s); None when that time was not observed whole."""
        if start_s < self.offset_s - 1e-6 or end_s > self.offset_s + self.seconds + 1e-6:
            return None
        part = slice(*np.searchsorted(self.times_s, (start_s, end_s), side="left"))
        return replace(
            self, times_s=self.times_s[part] - start_s, ends_s=self.ends_s[part] - start_s, text=self.text[part],
            speakers=self.speakers[part], seconds=end_s - start_s, offset_s=0.0,
        )  # fmt: skip

    @property
    def complete(self) -> bool:
        return True


@dataclass(frozen=True, kw_only=True)
class Video:
    """Pictures at a regular rate; an image is a video of one frame.

    frames: uint8[T, H, W, 3], RGB; rate_hz: frames a second; offset_s: start relative to the recording's start.
    """

    frames: np.ndarray
    rate_hz: float
    offset_s: float = 0.0

    def __post_init__(self) -> None:
        frames = np.asarray(self.frames)
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3:
            raise MienError(
                f"a video's frames are uint8[time, height, width, 3], not {frames.dtype}{list(frames.shape)}"
            )
        if not frames.size:
            raise MienError(f"a video without a picture (frames {list(frames.shape)}); leave the stream out instead")
        if not (math.isfinite(self.rate_hz) and self.rate_hz > 0):
            raise MienError(f"a video's rate must be a positive number of Hz, got {self.rate_hz!r}")
        if not math.isfinite(self.offset_s):
            raise MienError(f"a video begins at a number of seconds, not {self.offset_s!r}")
        object.__setattr__(self, "frames", np.ascontiguousarray(frames))

    @property
    def seconds(self) -> float:
        return len(self.frames) / self.rate_hz

    def cut(self, start_s: float, end_s: float) -> Video | None:
        """The frames of [start_s, end_s) of the recording's clock; None when they are not all there, or none falls in."""
        first = round((start_s - self.offset_s) * self.rate_hz)
        count = round((end_s - start_s) * self.rate_hz)
        if first < 0 or count < 1 or first + count > len(self.frames):
            return None
        return replace(self, frames=self.frames[first : first + count], offset_s=0.0)

    @property
    def complete(self) -> bool:
        return True


Stream = Signal | Events | Text | Video


@dataclass(frozen=True, kw_only=True)
class Recording:
    """What one person's sensors gave in one session. `attributes` are private, `labels` are what a task predicts.

    start_s: seconds since the session's (or the study's) start. A missing stream is absent, never zeros.
    """

    id: str
    person: str
    streams: Mapping[str, Stream]
    session: str = ""
    start_s: float = 0.0
    labels: Mapping[str, Value] = field(default_factory=dict)
    attributes: Mapping[str, Value] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.id:
            raise MienError("a recording without an id")
        if not isinstance(self.person, str) or not self.person.strip():
            raise MienError(f"recording {self.id!r} has no person; every recording belongs to one pseudonymous person")
        if not unicodedata.is_normalized("NFC", self.person):
            raise MienError(
                f"recording {self.id!r}: its person's id is not in Unicode's NFC form; two spellings of one id would be"
                " two persons. Normalise the ids"
            )

    @property
    def seconds(self) -> float:
        return max((s.offset_s + s.seconds for s in self.streams.values()), default=0.0)

    @property
    def signals(self) -> dict[str, Signal]:
        """The regularly sampled streams alone."""
        return {n: s for n, s in self.streams.items() if isinstance(s, Signal)}


@dataclass(frozen=True, kw_only=True)
class Window:
    """A stretch [start_s, end_s) of one recording: what models see."""

    recording: str
    person: str
    start_s: float
    end_s: float

    @property
    def key(self) -> str:
        return f"{self.recording}@{self.start_s:g}"


@dataclass(frozen=True, kw_only=True)
class StreamSpec:
    """The public description of one stream. `range` is the sensor's plausible span in `unit`, known beforehand:
    it must never be computed from the recordings, for then one person's extremes would shape everybody's tokens.

    kind: what the stream is. Of events, `channels` are the kinds in order; of text, the speakers' roles; both have no
    range, and their unit and rate say nothing ("" and 0). A video has channels r, g, b and its rate.
    """

    channels: tuple[str, ...]
    unit: str = ""
    rate_hz: float = 0.0
    range: tuple[float, float] | None = None
    kind: Literal["signal", "events", "text", "video"] = "signal"


@dataclass(frozen=True, kw_only=True)
class Consent:
    """What one person agreed to. purposes: subset of PURPOSES; expires / withdrawn: dates, None = not."""

    purposes: tuple[str, ...] = PURPOSES
    expires: date | None = None
    withdrawn: date | None = None

    def __post_init__(self) -> None:
        unknown = [p for p in self.purposes if p not in PURPOSES]
        if unknown:
            raise MienError(f"unknown consent purpose {unknown[0]!r}; the purposes are {', '.join(PURPOSES)}")

    def refusal(self, purpose: str, today: date) -> str | None:
        """Why this person may not be used for `purpose` today, or None if they may."""
        if self.withdrawn is not None and self.withdrawn <= today:
            return "withdrawn"
        if self.expires is not None and self.expires < today:
            return "expired"
        return None if purpose in self.purposes else f"not agreed to {purpose}"


@dataclass(frozen=True, kw_only=True)
class CohortCard:
    """What a reader of any artefact made from this cohort may know. Holds nothing about a single person.

    tasks: label name -> its classes; attributes: names only; streams: name -> StreamSpec;
    consent: the basis in words; synthetic: made by a generator; guarantee: under what protection it was made;
    restrictions: what the licence asks, of RESTRICTIONS: they bind every artefact made from the cohort too.
    """

    name: str
    licence: str
    consent: str
    tasks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    attributes: tuple[str, ...] = ()
    streams: Mapping[str, StreamSpec] = field(default_factory=dict)
    source: str = ""
    synthetic: bool = False
    guarantee: str = ""
    lineage: tuple[str, ...] = ()
    restrictions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        unknown = [r for r in self.restrictions if r not in RESTRICTIONS]
        if unknown:
            raise MienError(f"unknown restriction {unknown[0]!r}; there are {', '.join(RESTRICTIONS)}")
        object.__setattr__(self, "restrictions", tuple(r for r in RESTRICTIONS if r in self.restrictions))

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "licence": self.licence,
            "consent": self.consent,
            "tasks": {k: list(v) for k, v in self.tasks.items()},
            "attributes": list(self.attributes),
            "streams": {
                k: {
                    "channels": list(s.channels),
                    "unit": s.unit,
                    "rate_hz": s.rate_hz,
                    "range": None if s.range is None else list(s.range),
                    **({} if s.kind == "signal" else {"kind": s.kind}),
                }
                for k, s in self.streams.items()
            },
            "source": self.source,
            "synthetic": self.synthetic,
            "guarantee": self.guarantee,
            "lineage": list(self.lineage),
            **({"restrictions": list(self.restrictions)} if self.restrictions else {}),
        }

    @staticmethod
    def from_json(raw: Mapping[str, Any]) -> CohortCard:
        streams = {
            k: StreamSpec(
                channels=tuple(s["channels"]),
                unit=s["unit"],
                rate_hz=float(s["rate_hz"]),
                range=None if s.get("range") is None else (float(s["range"][0]), float(s["range"][1])),
                kind=s.get("kind", "signal"),
            )
            for k, s in raw["streams"].items()
        }
        return CohortCard(
            name=raw["name"],
            licence=raw["licence"],
            consent=raw["consent"],
            tasks={k: tuple(v) for k, v in raw.get("tasks", {}).items()},
            attributes=tuple(raw.get("attributes", ())),
            streams=streams,
            source=raw.get("source", ""),
            synthetic=bool(raw.get("synthetic", False)),
            guarantee=raw.get("guarantee", ""),
            lineage=tuple(raw.get("lineage", ())),
            restrictions=tuple(raw.get("restrictions", ())),
        )


def _row(r: Recording) -> dict[str, Any]:
    return {
        "id": r.id,
        "person": r.person,
        "session": r.session,
        "start_s": float(r.start_s),
        "labels": json.dumps(dict(r.labels), sort_keys=True),
        "attributes": json.dumps(dict(r.attributes), sort_keys=True),
        "streams": [_stream_row(name, s) for name, s in r.streams.items()],
    }


_EMPTY = np.empty(0, np.float32)


def _stream_row(name: str, s: Stream) -> dict[str, Any]:
    row: dict[str, Any] = {
        "name": name, "kind": "signal", "rate_hz": 0.0, "offset_s": float(s.offset_s), "unit": "", "channels": [],
        "values": _EMPTY, "valid": None, "seconds": float(s.seconds), "times": None, "ends": None, "codes": None,
        "party": None, "text": None, "frames": None, "shape": None,
    }  # fmt: skip
    if isinstance(s, Video):
        return row | {
            "kind": "video", "rate_hz": float(s.rate_hz), "channels": list(RGB), "frames": s.frames.tobytes(),
            "shape": list(s.frames.shape),
        }  # fmt: skip
    if isinstance(s, Signal):
        return row | {
            "rate_hz": float(s.rate_hz), "unit": s.unit, "channels": list(s.channels), "values": s.values.ravel(),
            "valid": None if s.valid is None else s.valid,
        }  # fmt: skip
    if isinstance(s, Events):
        return row | {
            "kind": "events", "channels": list(s.kinds), "times": s.times_s, "ends": s.durations_s, "codes": s.codes,
            "party": s.party,
        }  # fmt: skip
    roles = sorted(set(s.speakers))
    return row | {
        "kind": "text", "channels": roles, "times": s.times_s, "ends": s.ends_s, "text": list(s.text),
        "codes": np.array([roles.index(x) for x in s.speakers], np.int32),
    }  # fmt: skip


def _stream(s: Mapping[str, Any]) -> Stream:
    if s["kind"] == "events":
        return Events(
            times_s=s["times"], durations_s=s["ends"], codes=s["codes"], party=s["party"], kinds=tuple(s["channels"]),
            seconds=s["seconds"], offset_s=s["offset_s"],
        )  # fmt: skip
    if s["kind"] == "text":
        return Text(
            times_s=s["times"], ends_s=s["ends"], text=tuple(s["text"]), seconds=s["seconds"], offset_s=s["offset_s"],
            speakers=tuple(s["channels"][c] for c in np.asarray(s["codes"]).tolist()),
        )  # fmt: skip
    if s["kind"] == "video":
        frames = np.frombuffer(s["frames"], dtype=np.uint8).reshape(s["shape"])
        return Video(frames=frames, rate_hz=s["rate_hz"], offset_s=s["offset_s"])
    return Signal(
        values=np.asarray(s["values"], dtype=np.float32).reshape(-1, len(s["channels"])), rate_hz=s["rate_hz"],
        channels=tuple(s["channels"]), unit=s["unit"], offset_s=s["offset_s"],
        valid=None if s["valid"] is None else np.asarray(s["valid"], dtype=bool),
    )  # fmt: skip


def _recording(row: Mapping[str, Any]) -> Recording:
    try:
        return Recording(
            id=row["id"],
            person=row["person"],
            session=row["session"],
            start_s=row["start_s"],
            streams={s["name"]: _stream(s) for s in row["streams"]},
            labels=json.loads(row["labels"]),
            attributes=json.loads(row["attributes"]),
        )
    except MienError as error:
        raise MienError(f"recording {row.get('id')!r}: {error}") from None


def _arrow_rows(table: Any) -> list[dict[str, Any]]:
    """Rows of an Arrow table in `_row`'s shape; samples stay numpy, never Python floats (some 50 times faster)."""
    plain = table.drop_columns(["streams"]).to_pylist()
    column = table.column("streams")
    for i, row in enumerate(plain):
        parts = column[i].values
        row["streams"] = []
        for j in range(len(parts)):
            part = parts[j]
            stream = {
                k: part[k].as_py() for k in ("name", "kind", "rate_hz", "offset_s", "unit", "channels", "seconds")
            }
            if stream["kind"] == "video":
                stream |= {"frames": part["frames"].as_py(), "shape": part["shape"].as_py()}
                row["streams"].append(stream)
                continue
            for k in ("values", "valid") if stream["kind"] == "signal" else ("times", "ends", "codes", "party"):
                array = part[k].values
                stream[k] = None if array is None else array.to_numpy(zero_copy_only=False)
            if stream["kind"] == "text":
                stream["text"] = part["text"].as_py()
            row["streams"].append(stream)
    return plain


def arrow_schema() -> Any:
    """The parquet schema of a cohort's shards (see `Cohort.write`)."""
    import pyarrow as pa

    stream = pa.struct(
        [
            ("name", pa.string()),
            ("rate_hz", pa.float64()),
            ("offset_s", pa.float64()),
            ("unit", pa.string()),
            ("channels", pa.list_(pa.string())),
            ("values", pa.list_(pa.float32())),
            ("valid", pa.list_(pa.bool_())),
            ("kind", pa.string()),
            ("seconds", pa.float64()),
            ("times", pa.list_(pa.float64())),
            ("ends", pa.list_(pa.float64())),  # of events: durations
            ("codes", pa.list_(pa.int32())),  # of events: kinds; of text: speakers
            ("party", pa.list_(pa.int32())),
            ("text", pa.list_(pa.string())),
            ("frames", pa.large_binary()),
            ("shape", pa.list_(pa.int32())),
        ]
    )
    return pa.schema(
        [
            ("id", pa.string()),
            ("person", pa.string()),
            ("session", pa.string()),
            ("start_s", pa.float64()),
            ("labels", pa.string()),
            ("attributes", pa.string()),
            ("streams", pa.list_(stream)),
        ]
    )


class Cohort:
    """Recordings of several persons, on Arrow through `datasets` (memory-mapped), with a card and consents.

    Iterating reads one recording at a time, so a cohort may be larger than memory. On disk: `cohort.json`,
    `consent.json` (per person; absent for synthetic cohorts) and `data-*.parquet`.
    """

    def __init__(
        self, *, card: CohortCard, rows: datasets.Dataset, consents: Mapping[str, Consent], fingerprint: str,
        folder: Path | None = None,
    ):  # fmt: skip
        self.card, self.rows, self.consents, self.fingerprint = card, rows, dict(consents), fingerprint
        self.folder = folder  # where it was read from; None: in memory, or a part of another

    @property
    def told(self) -> tuple[str, ...]:
        """What its reader said when it was converted: what was left out, and why."""
        file = self.folder and self.folder / "told.txt"
        return tuple(file.read_text(encoding="utf-8").splitlines()) if file and file.is_file() else ()

    # --- making -----------------------------------------------------------------------------------------
    @staticmethod
    def build(
        recordings: Iterable[Recording],
        *,
        card: CohortCard,
        consents: Mapping[str, Consent] | None = None,
        cache: Path | None = None,
        key: str | None = None,
    ) -> Cohort:
        """Check recordings against the card and put them on Arrow.

        With `cache` and `key` the Arrow file is kept there (directory mode 0700) and reused when the key is seen
        again; without, it lives in memory. Raises MienError naming the recording that does not fit the card.
        """
        import datasets

        if cache is not None and key is not None:
            folder = Cohort.place(cache, key)
            if not (folder / "cohort.json").exists():
                with console.heard() as told:
                    Cohort.store(recordings, folder, card=card, consents=consents)
                if told:
                    (folder / "told.txt").write_text("\n".join(told) + "\n", encoding="utf-8")
            return Cohort.read(folder)
        features = datasets.Features.from_arrow_schema(arrow_schema())
        data = datasets.Dataset.from_list(list(_checked(recordings, card)), features=features)
        return Cohort(card=card, rows=data, consents=consents or {}, fingerprint=_fingerprint(card, data))

    @staticmethod
    def place(cache: Path, key: str) -> Path:
        """Where `build` keeps a cohort: another format of the files on disk is another folder."""
        return cache / f"{key}-{_FORMAT}"

    @staticmethod
    def store(
        recordings: Iterable[Recording],
        folder: Path,
        *,
        card: CohortCard,
        consents: Mapping[str, Consent] | None = None,
    ) -> None:
        """Recordings -> `cohort.json`, `consent.json` and parquet shards, a few megabytes in memory at a time.

        The folder appears whole or not at all. Raises MienError naming the recording that does not fit the card.
        """
        _stream_to_parquet(_checked(recordings, card), folder, card, consents or {})

    def write(self, folder: Path) -> None:
        """`store` this cohort."""
        Cohort.store(self, folder, card=self.card, consents=self.consents)

    @staticmethod
    def read(folder: Path) -> Cohort:
        """Open a cohort written by `write`; memory-mapped, nothing is loaded until it is asked for."""

        folder = Path(folder)
        try:
            raw = json.loads((folder / "cohort.json").read_text())
        except FileNotFoundError:
            raise MienError(f"no cohort at {folder}: cohort.json is missing") from None
        except json.JSONDecodeError as error:
            raise MienError(
                f"{folder / 'cohort.json'} is not valid JSON ({error}); restore it from its source"
            ) from None
        if raw.get("format") != _FORMAT:
            raise MienError(f"{folder / 'cohort.json'} has format {raw.get('format')!r}; this Mien reads {_FORMAT}")
        files = sorted(folder.glob("data-*.parquet"))
        if len(files) != raw["shards"]:
            raise MienError(f"{folder} should hold {raw['shards']} data-*.parquet files and holds {len(files)}")
        for file in files:
            check_parquet(file)
        consents = {}
        if (folder / "consent.json").exists():
            for person, c in json.loads((folder / "consent.json").read_text()).items():
                consents[person] = Consent(
                    purposes=tuple(c["purposes"]),
                    expires=c["expires"] and date.fromisoformat(c["expires"]),
                    withdrawn=c["withdrawn"] and date.fromisoformat(c["withdrawn"]),
                )
        data = _memory_map(files, raw["fingerprint"])
        return Cohort(
            card=CohortCard.from_json(raw["card"]),
            rows=data,
            consents=consents,
            fingerprint=raw["fingerprint"],
            folder=folder,
        )

    # --- reading ----------------------------------------------------------------------------------------
    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Recording]:
        arrow = self.rows.with_format("arrow")
        for table in arrow.iter(batch_size=16):
            for row in _arrow_rows(table):
                yield _recording(row)

    def __getitem__(self, index: int) -> Recording:
        return _recording(_arrow_rows(self.rows.with_format("arrow")[int(index)])[0])

    def column(self, name: str) -> list[Any]:
        """One of id, person, session, start_s (as stored) or labels, attributes (parsed), for every recording."""
        values = list(self.rows[name])
        return [json.loads(v) for v in values] if name in ("labels", "attributes") else values

    @property
    def persons(self) -> list[str]:
        return sorted(set(self.column("person")))

    def select(self, keep: Callable[[str], bool] | Sequence[int]) -> Cohort:
        """The recordings at these positions, or of the persons for which `keep(person)` holds."""
        if callable(keep):
            keep = [i for i, p in enumerate(self.column("person")) if keep(p)]
        data = self.rows.select(list(keep))
        digest = hashlib.sha256((self.fingerprint + ":" + ",".join(map(str, keep))).encode()).hexdigest()
        return Cohort(card=self.card, rows=data, consents=self.consents, fingerprint=digest)

    def for_purpose(self, purpose: str, today: date | None = None) -> tuple[Cohort, dict[str, int]]:
        """Leave out whoever has not agreed to `purpose`. Returns the rest and {reason: number of persons left out}.

        A person without a consent entry has not agreed. Synthetic cohorts pass whole.
        """
        if purpose not in PURPOSES:
            raise MienError(f"unknown purpose {purpose!r}; the purposes are {', '.join(PURPOSES)}")
        if self.card.synthetic:
            return self, {}
        today = today or date.today()
        refusals: dict[str, str] = {}
        for person in self.persons:
            consent = self.consents.get(person)
            reason = "no consent recorded" if consent is None else consent.refusal(purpose, today)
            if reason:
                refusals[person] = reason
        counts: dict[str, int] = {}
        for reason in refusals.values():
            counts[reason] = counts.get(reason, 0) + 1
        if not refusals:
            return self, counts
        if len(refusals) == len(self.persons):
            raise MienError(
                f"nobody in cohort {self.card.name!r} has agreed to {purpose} ({counts}); see the card's consent entry"
            )
        return self.select(lambda p: p not in refusals), counts

    def windows(self, seconds: float, stride_s: float) -> Iterator[Window]:
        """Windows of `seconds`, every `stride_s`, over each recording in order."""
        for r in self:
            yield from recording_windows(r, seconds, stride_s)


def recording_windows(r: Recording, seconds: float, stride_s: float) -> Iterator[Window]:
    """The windows of one recording; a tail shorter than `seconds` is left out."""
    count = int(math.floor((r.seconds - seconds) / stride_s + 1e-6)) + 1
    for i in range(max(0, count)):
        start = round(i * stride_s, 6)
        yield Window(recording=r.id, person=r.person, start_s=start, end_s=start + seconds)


def cut(r: Recording, window: Window, valid: float = 1.0) -> tuple[dict[str, Stream], str | None]:
    """The streams of one window. Second value: why the window cannot be used (a gap), or None.

    valid: the share of a signal's samples that must be there. At 1 one gap refuses the window; below, a stream with
    too little is left out of its window, and what is kept carries its gaps as marks.
    """
    parts: dict[str, Stream] = {}
    for name, signal in r.streams.items():
        part = signal.cut(window.start_s, window.end_s)
        if part is None:
            continue
        if isinstance(part, Signal) and not part.complete:
            if valid >= 1:
                return {}, f"a gap in {name}"
            assert part.valid is not None
            if part.valid.mean() < valid:
                continue
        parts[name] = part
    return (parts, None) if parts else ({}, "no stream covers it")


def _checked(recordings: Iterable[Recording], card: CohortCard) -> Iterator[dict[str, Any]]:
    seen: set[str] = set()
    for r in recordings:
        _check(r, card)
        if r.id in seen:
            raise MienError(f"two recordings are called {r.id!r}; ids must be unique in a cohort")
        seen.add(r.id)
        yield _row(r)
    if not seen:
        raise MienError(f"cohort {card.name!r} is empty: no recording was left to read")


def _check(r: Recording, card: CohortCard) -> None:
    for name, s in r.streams.items():
        spec = card.streams.get(name)
        if spec is None:
            raise MienError(f"recording {r.id!r} has a stream {name!r} that the cohort's card does not declare")
        if isinstance(s, Events | Text):
            _check_marks(r, name, s, spec)
            continue
        if isinstance(s, Video):
            if (spec.kind, spec.channels) != ("video", RGB) or abs(s.rate_hz - spec.rate_hz) > 1e-6 * spec.rate_hz:
                raise MienError(
                    f"recording {r.id!r}: stream {name!r} is a video (channels {', '.join(RGB)}) of {s.rate_hz:g} Hz, the"
                    f" cohort declares {spec.kind} ({', '.join(spec.channels)}) of {spec.rate_hz:g} Hz"
                )
            continue
        if spec.kind != "signal":
            raise MienError(f"recording {r.id!r}: stream {name!r} is a signal, the cohort declares {spec.kind}")
        if abs(s.rate_hz - spec.rate_hz) > 1e-6 * spec.rate_hz:
            raise MienError(
                f"recording {r.id!r}: stream {name!r} is at {s.rate_hz:g} Hz, the cohort declares {spec.rate_hz:g} Hz;"
                " one stream has one rate: resample it, or name it differently"
            )
        if s.unit != spec.unit or s.channels != spec.channels:
            raise MienError(
                f"recording {r.id!r}: stream {name!r} has channels {list(s.channels)} in {s.unit!r}, the cohort"
                f" declares {list(spec.channels)} in {spec.unit!r}"
            )
    if not r.streams:
        raise MienError(f"recording {r.id!r} has no stream")
    for task, classes in card.tasks.items():
        if task in r.labels and classes and str(r.labels[task]) not in classes:
            raise MienError(
                f"recording {r.id!r}: label {task}={r.labels[task]!r} is not one of the declared {list(classes)}"
            )


def _check_marks(r: Recording, name: str, s: Events | Text, spec: StreamSpec) -> None:
    kind = "events" if isinstance(s, Events) else "text"
    if spec.kind != kind:
        raise MienError(f"recording {r.id!r}: stream {name!r} holds {kind}, the cohort declares {spec.kind}")
    if isinstance(s, Events) and s.kinds != spec.channels:
        raise MienError(
            f"recording {r.id!r}: stream {name!r} has the kinds {list(s.kinds)}, the cohort declares {list(spec.channels)}"
        )
    strange = set(s.speakers) - set(spec.channels) if isinstance(s, Text) else set()
    if strange:
        raise MienError(
            f"recording {r.id!r}: {min(strange)!r} speaks in {name!r}, the cohort declares {list(spec.channels)}"
        )


def _fingerprint(card: CohortCard, rows: Any) -> str:
    digest = hashlib.sha256(json.dumps(card.to_json(), sort_keys=True).encode())
    for row in rows:
        _digest_row(digest, row)
    return digest.hexdigest()


def _digest_row(digest: Any, row: Mapping[str, Any]) -> None:
    head = [row["id"], row["person"], row["session"], row["start_s"], row["labels"], row["attributes"]]
    digest.update(json.dumps(head).encode())
    for s in row["streams"]:
        digest.update(json.dumps([s["name"], s["rate_hz"], s["offset_s"], s["unit"], list(s["channels"])]).encode())
        digest.update(np.asarray(s["values"], dtype="<f4").tobytes())
        digest.update(b"" if s["valid"] is None else np.asarray(s["valid"], dtype=bool).tobytes())
        if s["kind"] == "video":
            digest.update(json.dumps(["video", s["offset_s"], list(s["shape"])], default=int).encode() + s["frames"])
        elif s["kind"] != "signal":
            plain = [
                s["kind"],
                s["seconds"],
                *(None if s[k] is None else list(s[k]) for k in ("codes", "party", "text")),
            ]
            digest.update(json.dumps(plain, default=int).encode())
            digest.update(b"".join(np.asarray(s[k], dtype="<f8").tobytes() for k in ("times", "ends")))


def _stream_to_parquet(
    rows: Iterable[Mapping[str, Any]], folder: Path, card: CohortCard, consents: Mapping[str, Consent]
) -> None:
    """Rows -> `folder`, a few megabytes in memory at a time, renamed into place when complete."""
    import shutil

    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = Path(folder)
    if folder.exists():
        raise MienError(f"{folder} exists already; choose another folder or remove it first")
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = folder.parent / f".{folder.name}.{os.getpid()}.partial"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(mode=0o700)
    schema, digest = arrow_schema(), hashlib.sha256(json.dumps(card.to_json(), sort_keys=True).encode())
    shard, shards, count, written = None, 0, 0, 0
    batch: list[Mapping[str, Any]] = []
    size = 0

    def flush() -> None:
        nonlocal batch, size, shard, shards, written
        if not batch:
            return
        if shard is None:
            # samples hardly repeat: a dictionary of them took fifty times as long and four times the memory
            shard = pq.ParquetWriter(
                staging / f"data-{shards:05d}.parquet", schema, compression="zstd", use_dictionary=False
            )
            shards += 1
        shard.write_table(pa.Table.from_pylist(batch, schema=schema))
        pa.default_memory_pool().release_unused()  # or freed pages pile up: memory would grow with the cohort
        written += size
        batch, size = [], 0
        if written > 256 << 20:
            shard.close()
            shard, written = None, 0

    try:
        for row in rows:
            _digest_row(digest, row)
            batch.append(row)
            size += sum(
                4 * len(s["values"]) + 40 * len(() if s["times"] is None else s["times"]) + len(s["frames"] or b"")
                for s in row["streams"]
            )
            count += 1
            if size > 8 << 20 or len(batch) >= 1000:
                flush()
        flush()
        if shard is not None:
            shard.close()
        if consents:
            table = {
                p: {
                    "purposes": list(c.purposes),
                    "expires": c.expires and c.expires.isoformat(),
                    "withdrawn": c.withdrawn and c.withdrawn.isoformat(),
                }
                for p, c in sorted(consents.items())
            }
            (staging / "consent.json").write_text(json.dumps(table, indent=1))
        head = {
            "format": _FORMAT,
            "fingerprint": digest.hexdigest(),
            "recordings": count,
            "shards": shards,
            "card": card.to_json(),
        }
        (staging / "cohort.json").write_text(json.dumps(head, indent=1))
        os.replace(staging, folder)
    except BaseException:
        if shard is not None:
            with suppress(Exception):
                shard.close()
        shutil.rmtree(staging, ignore_errors=True)
        raise


def check_parquet(file: Path) -> None:
    """Raise MienError if a parquet file is truncated, unreadable or has another schema than a cohort's shard."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        found = pq.read_schema(file)
    except (pa.ArrowInvalid, OSError) as error:
        raise MienError(f"{file} is truncated or not parquet ({str(error).splitlines()[0]}); restore it") from None
    missing = [n for n in arrow_schema().names if n not in found.names]
    if missing:
        raise MienError(f"{file} has no column {missing[0]!r}: it was not written as a cohort's shard")


def _memory_map(files: Sequence[Path], fingerprint: str) -> Any:
    """Parquet shards as one memory-mapped `datasets.Dataset`.

    Mapping needs the rows uncompressed: they are copied once, a row group at a time, into Mien's own cache, which
    only its owner can read; never into the shared hub cache and never beside the shards (a released cohort must
    hold no extra files).
    """
    import datasets
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = arrow_schema()
    if not files:
        return datasets.Dataset.from_list([], features=datasets.Features.from_arrow_schema(schema))
    place = cache_home() / "arrow"
    place.mkdir(exist_ok=True, mode=0o700)
    target = place / f"{fingerprint[:32]}-{_FORMAT}.arrow"
    if not target.exists():
        part = target.with_name(f".{target.name}.{os.getpid()}.partial")
        try:
            with open(part, "wb", opener=private_file) as sink, pa.ipc.new_stream(sink, schema) as writer:
                for file in files:
                    with pq.ParquetFile(file, memory_map=True) as source:
                        for group in range(source.num_row_groups):
                            writer.write_table(source.read_row_group(group, use_threads=False).cast(schema))
                            pa.default_memory_pool().release_unused()
            os.replace(part, target)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError) as error:
            raise MienError(f"{files[0].parent}: a shard cannot be read ({str(error).splitlines()[0]})") from None
        finally:
            part.unlink(missing_ok=True)
    return datasets.Dataset.from_file(str(target))


def private_file(path: str, flags: int) -> int:
    """An `open` opener for files only their owner may read."""
    return os.open(path, flags, 0o600)
