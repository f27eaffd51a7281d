"""What the readers of recorded interviews share: sessions' folders, turns of talk, tables on an even grid, PHQ-8 labels."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ..core import console
from ..core.errors import MienError
from ..core.records import Recording, Signal, Stream, StreamSpec, Text, Value
from . import sources
from .sources import LeftOut, Unreadable

ROLES = ("participant", "interviewer")
PARTS = ("train", "dev", "test")
DEPRESSED = 10  # of 24: the PHQ-8's usual cut
_LONGEST_S = 4 * 3600.0  # no interview lasts so long; a timestamp beyond it is damage, and would cost memory
_MUTED_S = 0.25  # of exact zeros: no microphone is that quiet, somebody cut it out
_NO_NUMBER = [x for t in ("", "nan", "NaN", "-nan", "NA", "-1.#IND", "1.#QNAN", "-1.#QNAN", "-nan(ind)") for x in (t, f" {t}")]  # fmt: skip
_SEX = {"0": "male", "m": "male", "male": "male", "1": "female", "f": "female", "female": "female"}


# --- folders ------------------------------------------------------------------------------------------------------
def sessions(root: Path, known: Container[int], packed: str, left: LeftOut) -> dict[int, dict[str, Path]]:
    """Session (300 …) -> its files, by name in lower case, from folders 300_P and their subfolders. Folders that are empty
    or of no known session, and archives (`packed`, their ending) without a folder, are counted in `left`.

    MienError: a session in two folders, a file twice in one, a link out of `root`.
    """
    out: dict[int, dict[str, Path]] = {}
    places: dict[int, Path] = {}
    for folder in sources.find(root, "*_P", depth=3):
        name = re.fullmatch(r"(\d+)_P", folder.name)
        if (
            name is None or not folder.is_dir() or folder.parent.name == folder.name
        ):  # unpacked into a folder of its name
            continue
        number = int(name[1])
        if number not in known:
            left.add("folder(s) of no session of the database", folder.name)
            continue
        files: dict[str, Path] = {}
        for file in sources.find(folder, f"{number}_*", depth=1):
            if not file.is_file():
                continue
            if (other := files.setdefault(file.name.lower(), file)) != file:
                raise MienError(f"{folder} holds one file twice, {other} and {file}; keep one")
        if not files:
            left.add("folder(s) without a file", folder.name)
        elif number in out:
            raise MienError(f"session {number} is in two folders, {places[number]} and {folder}; keep one")
        else:
            out[number], places[number] = files, folder
    for archive in sources.find(root, f"*_P{packed}", depth=2):
        if not re.fullmatch(r"\d+", number := archive.name.removesuffix(f"_P{packed}")) or int(number) not in out:
            left.add("archive(s) that are not unpacked", archive.name)
    return dict(sorted(out.items()))


# --- labels -------------------------------------------------------------------------------------------------------
@dataclass(kw_only=True)
class Person:
    """What the tables say of one participant. part: of the official split."""

    part: str
    labels: dict[str, Value] = field(default_factory=dict)
    attributes: dict[str, Value] = field(default_factory=dict)


def people(
    parts: Mapping[str, Sequence[Path]], known: Container[int], totals: Mapping[int, float] | None = None
) -> dict[int, Person]:
    """Participant -> labels and attributes, from the official split's tables (of one part, later files add to earlier).

    Labels: depression, recomputed from the score (yes: 10 or more), phq8, official_split, and ptsd and pcl_c where there are
    such columns; attributes: sex, age. Names of columns in any case, with or without the 8. totals: sums of the PHQ-8's
    items; they stand in for a score that is missing. Differences are told.

    MienError naming the file: no column Participant_ID, a number that is none, a participant twice or of no session.
    """
    out: dict[int, Person] = {}
    where: dict[int, Path] = {}
    differs, unequal, unsaid = [], [], 0
    for part, files in parts.items():
        for file in files:
            rows = [{k.lower().replace("phq8_", "phq_"): v for k, v in r.items()} for r in sources.table(file, ())]
            if rows and "participant_id" not in rows[0]:
                raise MienError(f"{file} has no column Participant_ID; it has {', '.join(rows[0])[:200]}")
            seen: set[int] = set()
            for row in rows:
                number = sources.number(row["participant_id"])
                if number is None or not number.is_integer() or int(number) not in known:
                    raise MienError(
                        f"{file}: {row['participant_id']!r} is no participant of the database; repair the row"
                    )
                who = int(number)
                if who in seen:
                    raise MienError(f"{file}: {who} has two rows; keep one")
                seen.add(who)
                if who in out and out[who].part != part:
                    raise MienError(f"{who} is in two parts of the split, {where[who]} and {file}; keep one")
                where[who] = file
                person = out.setdefault(who, Person(part=part, labels={"official_split": part}))
                score = _within(row.get("phq_score", ""), 24, f"{file}: the PHQ-8 score", who)
                said = _within(row.get("phq_binary", ""), 1, f"{file}: the depression label", who)
                total = (totals or {}).get(who)
                if score is not None and total is not None and score != total:
                    unequal.append(who)
                score = total if score is None else score
                if score is not None:
                    person.labels |= {"phq8": score, "depression": "yes" if score >= DEPRESSED else "no"}
                    if said is not None and said != (score >= DEPRESSED):
                        differs.append(who)
                elif said is not None:
                    person.labels["depression"] = "yes" if said else "no"
                    unsaid += 1
                if (ptsd := _within(row.get("pcl-c (ptsd)", ""), 1, f"{file}: the PTSD label", who)) is not None:
                    person.labels["ptsd"] = "yes" if ptsd else "no"
                if (pcl := _within(row.get("ptsd severity", ""), 85, f"{file}: the PCL-C score", who)) is not None:
                    person.labels["pcl_c"] = pcl
                if (age := _within(row.get("age", ""), 120, f"{file}: the age", who)) is not None:
                    person.attributes["age"] = age
                if sex := row.get("gender", "").lower():
                    if sex not in _SEX:
                        raise MienError(f"{file}: the gender {sex!r} of {who} is none of 0 (male), 1 (female)")
                    person.attributes["sex"] = _SEX[sex]
    if differs:
        who = ", ".join(map(str, differs))
        console.say(f"  depression recomputed from the PHQ-8 (10 or more), where the table says otherwise: {who}")
    if unequal:
        console.say(
            f"  PHQ-8 scores that are not the sum of their items, taken as they are: {', '.join(map(str, unequal))}"
        )
    if unsaid:
        console.say(
            f"  {unsaid} participant(s) with a depression label and no PHQ-8 score: the label is taken as it is"
        )
    return out


def _within(text: str, most: float, what: str, who: int) -> float | None:
    """A number from 0 to `most`; None for a blank cell."""
    if text.lower() in ("", "nan", "na"):
        return None
    value = sources.number(text)
    if value is None or not 0 <= value <= most:
        raise MienError(f"{what} of {who}, {text!r}, is not a number from 0 to {most:g}; repair the row")
    return value


# --- talk ---------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, kw_only=True)
class Talk:
    """An interview's turns in order of time, at least one of the participant: (start_s, stop_s, role, words); scrubbed:
    what was cut out of all files, for it named somebody."""

    turns: tuple[tuple[float, float, str, str], ...]
    scrubbed: tuple[tuple[float, float], ...] = ()

    @property
    def seconds(self) -> float:
        return max([t[1] for t in self.turns] + [s[1] for s in self.scrubbed])

    def spans(self, role: str) -> list[tuple[float, float]]:
        return [(a, b) for a, b, who, _ in self.turns if who == role]

    def text(self, roles: Sequence[str]) -> Text:
        """What these said."""
        mine = [t for t in self.turns if t[2] in roles]
        starts, stops, speakers, words = zip(*mine, strict=True)
        return Text(
            times_s=np.array(starts), ends_s=np.array(stops), text=words, speakers=speakers, seconds=self.seconds
        )  # fmt: skip

    def voice(self, signal: Signal) -> np.ndarray:
        """bool[T]: where a microphone of the room hears the participant or nobody, within the interview. Where the
        interviewer's turns are not written down, only the participant's own are certain."""
        mine, other = self.spans("participant"), self.spans("interviewer")
        if not other:
            return during(signal, mine, whole=True)
        bounds = [(min(t[0] for t in self.turns), max(t[1] for t in self.turns))]
        alone = during(signal, other) & ~during(signal, mine, whole=True)
        return during(signal, bounds, whole=True) & ~alone


def turns(
    rows: Iterator[tuple[str, str, str, str]], file: Path, left: LeftOut, *, shift_s: float = 0.0,
    cut: Sequence[tuple[float, float]] = (),
) -> Talk:  # fmt: skip
    """(start, stop, role, words) -> Talk. Lines without times, words or a known role, marks of synchronisation, and turns
    that begin in `cut` are counted in `left`. shift_s: added to every time. Unreadable when the participant has no turn."""
    kept, scrubbed = [], []
    for start, stop, role, words in rows:
        a, b = sources.number(start), sources.number(stop)
        if a is None or b is None or not 0 <= a <= b <= _LONGEST_S:
            left.add("line(s) of a transcript without a start before their stop", file.name)
            continue
        a, b = a + shift_s, b + shift_s
        if "scrubbed_entry" in words:
            scrubbed.append((a, b))
        elif re.match(r"[<\[]syn", words):
            left.add("line(s) of a transcript that only mark synchronisation", file.name)
        elif role not in ROLES or not words:
            left.add("line(s) of a transcript without words or a known speaker", file.name)
        elif any(x <= a < y for x, y in cut):
            left.add("line(s) of a transcript during an interruption", file.name)
        else:
            kept.append((a, b, role, words))
    if not any(role == "participant" for _, _, role, _ in kept):
        raise Unreadable("in which the participant says nothing")
    return Talk(turns=tuple(sorted(kept, key=lambda t: t[0])), scrubbed=tuple(scrubbed))


# --- signals ------------------------------------------------------------------------------------------------------
def numbers(file: Path, wanted: Sequence[str], *, mark: str = ",", names: Sequence[str] | None = None) -> np.ndarray:
    """float64[rows, len(wanted)] of a csv file of numbers, NaN where a cell is none. wanted: names in lower case, with
    alternatives ("tx|x"); spaces around the file's names do not matter. names: of a file without a header.
    Unreadable says what is wrong."""
    import pyarrow as pa
    import pyarrow.csv as pc

    if sources.is_stub(file):
        raise Unreadable("that are Git LFS pointers without their content: run `git lfs pull` in the copy")
    if file.stat().st_size > sources.LARGEST:
        raise Unreadable("over 2 GB, which no table of a session is")
    with open(file, "rb") as f:
        head = f.readline(1 << 16).decode("utf-8-sig", errors="replace").strip()
    if not head:
        raise Unreadable("that are empty")
    found = [c.strip().lower() for c in head.split(mark)] if names is None else list(names)
    at = []
    for name in wanted:
        hits = [i for i, c in enumerate(found) if c in name.split("|")]
        if len(hits) != 1:
            raise Unreadable(f"with {'two columns' if hits else 'no column'} {name.split('|')[0]}")
        at.append(str(hits[0]))
    try:
        table = pc.read_csv(
            file,
            read_options=pc.ReadOptions(
                column_names=[str(i) for i in range(len(found))], skip_rows=int(names is None), use_threads=False
            ),
            parse_options=pc.ParseOptions(delimiter=mark),
            convert_options=pc.ConvertOptions(
                column_types=dict.fromkeys(at, pa.float64()), include_columns=list(dict.fromkeys(at)),
                null_values=_NO_NUMBER,
            ),
        )  # fmt: skip
    except (pa.ArrowException, OSError):
        raise Unreadable("cut off or damaged") from None
    if not len(table):
        raise Unreadable("without a row")
    return np.column_stack([table.column(c).to_numpy() for c in at]).astype(np.float64)


def even(times: np.ndarray, values: np.ndarray, spec: StreamSpec, good: np.ndarray | None = None) -> Signal:
    """Rows at `times` (s, ascending) as a signal at the spec's rate: moments without a row, rows that are not `good`, and
    rows with a value that is no number are gaps."""
    at = np.rint(times * spec.rate_hz)
    if not np.isfinite(at).all() or (np.diff(at) <= 0).any() or at[0] < 0:
        raise Unreadable("whose times are not in order")
    if at[-1] > _LONGEST_S * spec.rate_hz:
        raise Unreadable("with times of over four hours")
    if len(at) > 1 and np.median(np.diff(at)) != 1:
        raise Unreadable(f"not at {spec.rate_hz:g} rows a second")
    at = at.astype(np.int64)
    made = np.full((at[-1] - at[0] + 1, len(spec.channels)), np.nan, np.float32)
    valid = np.zeros(len(made), bool)
    made[at - at[0]] = values
    valid[at - at[0]] = np.isfinite(values).all(1) & (True if good is None else good)
    return marked(
        Signal(values=made, rate_hz=spec.rate_hz, channels=spec.channels, unit=spec.unit, valid=valid,
               offset_s=float(at[0]) / spec.rate_hz),
        valid,
    )  # fmt: skip


def frames(file: Path, columns: Sequence[str], spec: StreamSpec, confidence: float) -> Signal:
    """A face tracker's table (CLNF, OpenFace): frames without success or below the confidence are gaps."""
    table = numbers(file, ("timestamp", "success", "confidence", *columns))
    return even(table[:, 0], table[:, 3:], spec, (table[:, 1] == 1) & (table[:, 2] >= confidence))


def tracked(intensities: tuple[str, ...], presences: tuple[str, ...], eyes: tuple[str, ...]) -> dict[str, StreamSpec]:
    """What a face tracker's streams are: action units' intensities and presences, gaze of both eyes, the head's place."""
    turn, span = math.pi / 2, {"intensity": (0.0, 5.0), "present": (0.0, 1.0), "unit vector": (-1.0, 1.0)}
    span |= {"rad": (-turn, turn), "mm": (-1000.0, 2000.0)}
    of = {
        "face": (intensities, "intensity"), "presence": (presences, "present"), "gaze": (eyes, "unit vector"),
        "pose": (("rx", "ry", "rz"), "rad"), "position": (("x", "y", "z"), "mm"),
    }  # fmt: skip
    return {n: StreamSpec(channels=c, unit=u, rate_hz=30.0, range=span[u]) for n, (c, u) in of.items()}


def during(signal: Signal, spans: Sequence[tuple[float, float]], *, whole: bool = False) -> np.ndarray:
    """bool[T]: which samples (each lasting 1 / rate) fall in one of the spans; whole: all of the sample, not a part."""
    out = np.zeros(len(signal.values), bool)
    for start, stop in spans:
        first, last = ((t - signal.offset_s) * signal.rate_hz for t in (start, stop))
        a, b = (math.ceil(first - 1e-6), math.floor(last + 1e-6)) if whole else (math.floor(first), math.ceil(last))
        out[max(a, 0) : max(b, 0)] = True
    return out


def muted(signal: Signal) -> np.ndarray:
    """bool[T]: runs of exact zeros that last a quarter of a second or more."""
    zero = np.concatenate([[False], (signal.values == 0).all(1), [False]]).astype(np.int8)
    edges = np.flatnonzero(np.diff(zero))
    out = np.zeros(len(signal.values), bool)
    for a, b in zip(edges[::2], edges[1::2], strict=True):
        if b - a >= _MUTED_S * signal.rate_hz:
            out[a:b] = True
    return out


def marked(signal: Signal, keep: np.ndarray) -> Signal:
    """The signal with all but `keep` marked as gaps. Unreadable when nothing is left."""
    valid = keep if signal.valid is None else signal.valid & keep
    if not valid.any():
        raise Unreadable("without a usable moment")
    return replace(signal, valid=None if valid.all() else valid)


# --- reading ------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, kw_only=True)
class Track:
    """A stream that is a signal. files: endings of its file's name in lower case, of which the first there is counts; read:
    how; heard: by a microphone of the room, whoever speaks."""

    files: tuple[str, ...]
    read: Callable[[Path], Signal]
    heard: bool = False


def transcript(rows: Callable[[Path], Talk], number: int, file: Path | None, left: LeftOut) -> Talk | None:
    """A session's talk; why there is none is counted."""
    if file is None:
        left.add("session(s) without a transcript", str(number))
        return None
    try:
        return rows(file)
    except Unreadable as why:
        left.add(f"transcript(s) {why}", file.name)
        return None


def signals(
    number: int, files: Mapping[str, Path], tracks: Mapping[str, Track], talk: Talk | None,
    gaps: Sequence[tuple[float, float]], prompts: bool, left: LeftOut,
) -> dict[str, Stream]:  # fmt: skip
    """The signals of one session, with `gaps` marked in all of them and, without `prompts`, the moments that are not the
    participant's voice in what is heard. What cannot be read is counted."""
    out: dict[str, Stream] = {}
    for name, track in tracks.items():
        file = next((files[f] for end in track.files if (f := f"{number}_{end}") in files), None)
        if file is None:
            left.add(f"session(s) without {name}", str(number))
            continue
        if track.heard and talk is None and not prompts:
            left.add(f"{name} stream(s) of whose voices no transcript tells (prompts=true reads them)", str(number))
            continue
        try:
            signal = track.read(file)
            keep = ~during(signal, gaps)
            if name == "sound":
                keep &= ~muted(signal)
            if track.heard and talk is not None and not prompts:
                keep &= talk.voice(signal)
            out[name] = marked(signal, keep)
        except Unreadable as why:
            left.add(f"{name} stream(s) {why}", file.name)
    return out


Reader = Callable[[int, Mapping[str, Path], LeftOut], dict[str, Stream]]


def recordings(
    title: str, prefix: str, found: Mapping[int, Mapping[str, Path]], persons: Mapping[int, Person], parts: Container[str],
    streams: Reader, left: LeftOut,
) -> Iterator[Recording]:  # fmt: skip
    """Two sessions in memory at a time. A person is `daic-300` in both databases, for E-DAIC holds DAIC-WOZ's sessions again."""
    made = unlabelled = 0
    wanted = []
    for number in found:
        if number not in persons:
            left.add("session(s) that no table of the split names", str(number))
        elif persons[number].part in parts:
            wanted.append(number)

    def read(number: int) -> tuple[dict[str, Stream], LeftOut]:
        own = LeftOut()
        return streams(number, found[number], own), own

    for number, session in sources.ahead(f"reading {title}", wanted, read, at_once=2):
        (made_of, own), person = session, persons[number]
        left.merge(own)
        if not made_of:
            left.add("session(s) without a usable stream", str(number))
            continue
        made += 1
        unlabelled += "depression" not in person.labels
        yield Recording(
            id=f"{prefix}-{number}", person=f"daic-{number}", session=str(number), streams=made_of,
            labels=person.labels, attributes=person.attributes,
        )  # fmt: skip
    left.tell()
    absent = sum(n not in found for n, p in persons.items() if p.part in parts)
    if absent:
        console.say(f"  {absent} participant(s) of the split have no folder")
    if unlabelled:
        console.say(f"  {unlabelled} recording(s) without a depression label")
    if not made:
        why = "; ".join(f"{n} {w}" for w, n in left.counts.items()) or "nobody in these parts of the split has a folder"
        raise MienError(f"no session of {title} could be read: {why}")
