"""`daic_woz`: clinical interviews with PHQ-8 depression, 189 persons: words, face, voice (Gratch et al. 2014), your copy.

dcapswoz.ict.usc.edu, by a signed agreement: `300_P.zip` … unpacked to `300_P/300_TRANSCRIPT.csv`, `300_CLNF_AUs.txt`,
`300_AUDIO.wav` …, and the AVEC 2017 tables `train_split_Depression_AVEC2017.csv` …. Academic use, not to be shared.

The interviewer, Ellie, was played by a person, who chose what to ask by what had been said: from her turns alone models find
depression with an F1 of .90. Her turns are therefore not read, and moments at which she alone speaks are gaps of the
sound, unless `prompts` asks for them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from ...core import console
from ...core.config import Section
from ...core.errors import MienError
from ...core.paths import cache_home
from ...core.records import PURPOSES, Cohort, CohortCard, Consent, Signal, Stream, StreamSpec
from .. import interviews, sources

VERSION = 3  # of the conversion below: a change of it makes a new cache entry
SESSIONS = range(300, 493)
_EXCLUDED = (342, 394, 398, 460)  # by the authors; some copies hold them
_INTERRUPTED = {373: (352.0, 430.0), 444: (286.0, 387.0)}  # the documentation's times, 373 as late as others heard it
_LATE_S = {
    318: 34.319917,
    321: 3.8379167,
    341: 6.1892,
    362: 16.8582,
}  # transcripts behind their sound, by other readers
_BRACKETED = 363  # sessions after it write what Ellie said behind the name of the prompt: yeah3 (yeah)
_TABLES = {
    "train": ("train_split_Depression_AVEC2017.csv",), "dev": ("dev_split_Depression_AVEC2017.csv",),
    "test": ("test_split_Depression_AVEC2017.csv", "full_test_split.csv"),
}  # fmt: skip
Name = Literal["transcript", "face", "presence", "gaze", "pose", "position", "sound", "f0", "voice"]
_INTENSITIES = (
    "AU01",
    "AU02",
    "AU04",
    "AU05",
    "AU06",
    "AU09",
    "AU10",
    "AU12",
    "AU14",
    "AU15",
    "AU17",
    "AU20",
    "AU25",
    "AU26",
)
_PRESENCES = ("AU04", "AU12", "AU15", "AU23", "AU28", "AU45")
_EYES = ("x_0", "y_0", "z_0", "x_1", "y_1", "z_1")
SPECS = interviews.tracked(_INTENSITIES, _PRESENCES, _EYES)
_COLUMNS = {  # stream -> file, and its columns there, in lower case and in the order of the channels
    "face": ("clnf_aus", tuple(f"{a.lower()}_r" for a in _INTENSITIES)),
    "presence": ("clnf_aus", tuple(f"{a.lower()}_c" for a in _PRESENCES)),
    "gaze": ("clnf_gaze", _EYES), "pose": ("clnf_pose", ("rx", "ry", "rz")), "position": ("clnf_pose", ("tx|x", "ty|y", "tz|z")),
}  # fmt: skip
_QUALITIES = ("NAQ", "QOQ", "H1H2", "PSP", "MDQ", "peakSlope", "Rd", "Rd_conf")
# COVAREP's table has no header and 74 columns. The documentation names 73, so those behind the first ten are not read.
_COVAREP = ("f0", "vuv", *(q.lower() for q in _QUALITIES), *(f"other {i}" for i in range(64)))
SPECS |= {
    "sound": StreamSpec(channels=("sound",), unit="full scale", rate_hz=16000.0, range=(-1.0, 1.0)),
    "f0": StreamSpec(channels=("F0",), unit="Hz", rate_hz=100.0, range=(50.0, 500.0)),
    "voice": StreamSpec(channels=_QUALITIES, rate_hz=100.0),
}


class Config(Section):
    """root: your copy (the folder that holds 300_P …, or one around it); streams: which are read (f0 and voice, from
    COVAREP, only when asked for); prompts: also what the interviewer says; parts: of the official split;
    minimum_confidence: of the face tracker, below which a frame is a gap."""

    root: str
    streams: tuple[Name, ...] = Field(
        default=("transcript", "face", "presence", "gaze", "pose", "position", "sound"), min_length=1
    )
    prompts: bool = False
    parts: tuple[Literal["train", "dev", "test"], ...] = Field(default=interviews.PARTS, min_length=1)
    minimum_confidence: float = Field(default=0.7, ge=0, le=1)


def load(config: Config) -> Cohort:
    """One recording per session. Labels: depression (yes: a PHQ-8 of 10 or more), and, of no classes, phq8 and official_split
    (train, dev, test). Attribute: sex. Persons: daic-300 …, as in `e_daic`.

    MienError naming the file: no session, no table, a session in two folders or parts, a link out of the folder.
    """
    root = sources.home(config.root)
    left = sources.LeftOut()
    found = interviews.sessions(root, SESSIONS, ".zip", left)
    for number in _EXCLUDED:
        if found.pop(number, None) is not None:
            left.add("session(s) that the authors excluded", str(number))
    if not found:
        why = "; ".join(f"{n} {w}" for w, n in left.counts.items()) or "is it DAIC-WOZ, and unpacked?"
        raise MienError(f"{root} holds no folder 300_P, 301_P …: {why}")
    tables = {p: [f for n in names if (f := sources.one(root, n)) is not None] for p, names in _TABLES.items()}
    for part in interviews.PARTS:
        if not tables[part] and part in config.parts:
            console.say(f"  no {_TABLES[part][0]}: nobody of its part is read")
    if not any(tables[p] for p in config.parts):
        raise MienError(f"{root} holds no {_TABLES[config.parts[0]][0]}, where the labels and the split are; add it")
    persons = interviews.people(tables, SESSIONS)
    if config.prompts:
        console.say("  the interviewer's turns are read: a model may find depression by what she asks")
    spec = {n: _spec(n, config.prompts) for n in dict.fromkeys(config.streams)}
    card = CohortCard(
        name="daic_woz",
        restrictions=("research-only", "non-commercial", "no-redistribution", "credentialed"),
        licence="DAIC-WOZ: USC ICT's end-user licence, academic and non-commercial, not to be shared; so is everything made from it",
        consent="participants agreed to research under USC ICT's licence; all purposes but sharing are assumed for each",
        tasks={"depression": ("no", "yes")},
        attributes=("sex",),
        streams=spec,
        source="DAIC-WOZ (USC ICT), own copy; "
        + ("with the interviewer's turns" if config.prompts else "the interviewer's turns left out"),
    )
    used = [*(f for files in tables.values() for f in files), *(f for files in found.values() for f in files.values())]

    def streams(number: int, files: Mapping[str, Path], left: sources.LeftOut) -> dict[str, Stream]:
        return _session(number, files, left, spec, config)

    return Cohort.build(
        interviews.recordings("DAIC-WOZ", "daic-woz", found, persons, config.parts, streams, left), card=card,
        consents={f"daic-{n}": Consent(purposes=tuple(p for p in PURPOSES if p != "sharing")) for n in found},
        cache=cache_home() / "cohorts", key=sources.cache_key("daic_woz", VERSION, config.model_dump(), used),
    )  # fmt: skip


def _spec(name: str, prompts: bool) -> StreamSpec:
    if name == "transcript":
        return StreamSpec(channels=interviews.ROLES if prompts else interviews.ROLES[:1], kind="text")
    return SPECS[name]


def _session(
    number: int, files: Mapping[str, Path], left: sources.LeftOut, spec: Mapping[str, StreamSpec], config: Config
) -> dict[str, Stream]:
    """The streams of one session. What was scrubbed, or belongs to an interruption, is a gap in all of them."""
    cut = [_INTERRUPTED[number]] if number in _INTERRUPTED else []
    shift = _LATE_S.get(number, 0.0)
    talk = interviews.transcript(
        lambda file: interviews.turns(_lines(file, number > _BRACKETED), file, left, shift_s=shift, cut=cut),
        number, files.get(f"{number}_transcript.csv"), left,
    )  # fmt: skip
    if talk is not None and shift:
        left.notes.append(f"session {number}: its transcript is read {shift:.1f} s later, where its sound is")
    out: dict[str, Stream] = {}
    if talk is not None and "transcript" in spec:
        out["transcript"] = talk.text(spec["transcript"].channels)
    tracks = {n: _track(n, s, config) for n, s in spec.items() if n != "transcript"}
    gaps = [*cut, *(talk.scrubbed if talk else ())]
    return out | interviews.signals(number, files, tracks, talk, gaps, config.prompts, left)


def _track(name: str, spec: StreamSpec, config: Config) -> interviews.Track:
    if name == "sound":
        return interviews.Track(files=("audio.wav",), read=lambda file: sources.sound(file, spec), heard=True)
    if name in ("f0", "voice"):
        return interviews.Track(files=("covarep.csv",), read=lambda file: _covarep(file, spec), heard=True)
    stem, columns = _COLUMNS[name]
    return interviews.Track(
        files=(f"{stem}.txt", f"{stem}.csv"),  # the documentation says csv, the disk txt
        read=lambda file: interviews.frames(file, columns, spec, config.minimum_confidence),
    )


def _covarep(file: Path, spec: StreamSpec) -> Signal:
    """Rows without voicing (VUV = 0) are gaps: there is no pitch in them."""
    table = interviews.numbers(file, ("vuv", *(c.lower() for c in spec.channels)), names=_COVAREP)
    return interviews.even(np.arange(len(table)) / spec.rate_hz, table[:, 1:], spec, table[:, 0] == 1)


def _lines(file: Path, bracketed: bool) -> Iterator[tuple[str, str, str, str]]:
    """(start, stop, role, words) of a TAB-separated transcript. Quotes mean nothing in it."""
    if sources.is_stub(file):
        raise sources.Unreadable("that are Git LFS pointers without their content: run `git lfs pull` in the copy")
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise sources.Unreadable("that are not UTF-8") from None
    names = [n.strip().lower() for n in lines[0].split("\t")] if lines else []
    try:
        at = [names.index(n) for n in ("start_time", "stop_time", "speaker", "value")]
    except ValueError:
        raise sources.Unreadable("without TAB-separated start_time, stop_time, speaker and value") from None
    for line in lines[1:]:
        if not line.strip():
            continue
        cells = [c.strip() for c in line.split("\t")]
        start, stop, speaker, value = (cells[i] if i < len(cells) else "" for i in at)
        role = {"participant": "participant", "ellie": "interviewer"}.get(speaker.lower(), "")
        if bracketed and role == "interviewer" and (said := re.fullmatch(r"\S+\s*\((.*)\)", value)):
            value = said[1].strip()
        yield start, stop, role, value
