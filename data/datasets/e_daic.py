"""`e_daic`: clinical interviews with PHQ-8 depression and PTSD, 275 persons: words, face, voice (AVEC 2019), your copy.

dcapswoz.ict.usc.edu, by a signed agreement: `data/300_P/300_Transcript.csv`, `300_AUDIO.wav`, `features/
300_OpenFace2.1.0_Pose_gaze_AUs.csv` …, and `labels/train_split.csv` …. Academic use, not to be shared.

Sessions 300 to 492 are DAIC-WOZ's, with a person behind the interviewer; in 600 to 718 she acts on her own, and the test part is
of these alone. Transcripts are of the participant only, by a machine: the sound holds her voice too, and where it is hers
nothing says. Without `prompts` the sound is valid in the participant's own utterances only, and all else is a gap.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

from pydantic import Field

from ...core import console
from ...core.config import Section
from ...core.errors import MienError
from ...core.paths import cache_home
from ...core.records import PURPOSES, Cohort, CohortCard, Consent, Signal, Stream, StreamSpec
from .. import interviews, sources

VERSION = 3  # of the conversion below: a change of it makes a new cache entry
SESSIONS = (*range(300, 493), *range(600, 719))
Name = Literal["transcript", "face", "presence", "gaze", "pose", "position", "sound", "egemaps", "mfcc"]
_INTENSITIES = (
    "AU01", "AU02", "AU04", "AU05", "AU06", "AU07", "AU09", "AU10", "AU12", "AU14", "AU15", "AU17", "AU20", "AU23", "AU25",
    "AU26", "AU45",
)  # fmt: skip
_PRESENCES = (*_INTENSITIES[:-1], "AU28", "AU45")
_EYES = tuple(f"gaze_{eye}_{axis}" for eye in (0, 1) for axis in "xyz")
_OPENFACE = "openface2.1.0_pose_gaze_aus.csv"
SPECS = interviews.tracked(_INTENSITIES, _PRESENCES, _EYES)
_COLUMNS = {  # stream -> OpenFace's columns, in lower case and in the order of the channels
    "face": tuple(f"{a.lower()}_r" for a in _INTENSITIES), "presence": tuple(f"{a.lower()}_c" for a in _PRESENCES),
    "gaze": _EYES, "pose": ("pose_rx", "pose_ry", "pose_rz"), "position": ("pose_tx", "pose_ty", "pose_tz"),
}  # fmt: skip
_EGEMAPS = (
    "Loudness_sma3", "alphaRatio_sma3", "hammarbergIndex_sma3", "slope0-500_sma3", "slope500-1500_sma3",
    "spectralFlux_sma3", "mfcc1_sma3", "mfcc2_sma3", "mfcc3_sma3", "mfcc4_sma3", "F0semitoneFrom27.5Hz_sma3nz",
    "jitterLocal_sma3nz", "shimmerLocaldB_sma3nz", "HNRdBACF_sma3nz", "logRelF0-H1-H2_sma3nz", "logRelF0-H1-A3_sma3nz",
    "F1frequency_sma3nz", "F1bandwidth_sma3nz", "F1amplitudeLogRelF0_sma3nz", "F2frequency_sma3nz",
    "F2amplitudeLogRelF0_sma3nz", "F3frequency_sma3nz", "F3amplitudeLogRelF0_sma3nz",
)  # fmt: skip
_MFCC = tuple(f"mfcc[{i}]" for i in range(13))
SPECS |= {
    "sound": StreamSpec(channels=("sound",), unit="full scale", rate_hz=16000.0, range=(-1.0, 1.0)),
    "egemaps": StreamSpec(channels=_EGEMAPS, rate_hz=100.0),
    "mfcc": StreamSpec(channels=_MFCC, rate_hz=100.0),
}


class Config(Section):
    """root: your copy (the folder that holds data and labels, or one around it); streams: which are read (egemaps and mfcc
    only when asked for); prompts: also the sound outside the participant's utterances; parts: of the official split;
    minimum_confidence: of the face tracker, below which a frame is a gap."""

    root: str
    streams: tuple[Name, ...] = Field(
        default=("transcript", "face", "presence", "gaze", "pose", "position", "sound"), min_length=1
    )
    prompts: bool = False
    parts: tuple[Literal["train", "dev", "test"], ...] = Field(default=interviews.PARTS, min_length=1)
    minimum_confidence: float = Field(default=0.7, ge=0, le=1)


def load(config: Config) -> Cohort:
    """One recording per session. Labels: depression (yes: a PHQ-8 of 10 or more), ptsd, and, of no classes, phq8, pcl_c and
    official_split (train, dev, test). Attributes: sex, age, where they are told. Persons: daic-300 …, as in `daic_woz`.

    MienError naming the file: no session, no table, a session in two folders or parts, a link out of the folder.
    """
    root = sources.home(config.root)
    left = sources.LeftOut()
    found = interviews.sessions(root, SESSIONS, ".tar.gz", left)
    if not found:
        why = "; ".join(f"{n} {w}" for w, n in left.counts.items()) or "is it E-DAIC, and unpacked?"
        raise MienError(f"{root} holds no folder 300_P, 301_P …: {why}")
    tables = {p: [f] if (f := sources.one(root, f"{p}_split.csv")) is not None else [] for p in interviews.PARTS}
    for part in config.parts:
        if not tables[part]:
            console.say(f"  no {part}_split.csv: nobody of its part is read")
    if not any(tables[p] for p in config.parts):
        raise MienError(
            f"{root} holds no labels/{config.parts[0]}_split.csv, where the labels and the split are; add it"
        )
    items = sources.one(root, "Detailed_PHQ8_Labels.csv")
    persons = interviews.people(tables, SESSIONS, _totals(items) if items is not None else None)
    if config.prompts:
        console.say(
            "  the sound is read whole, the interviewer's voice with it: a model may find depression by what she asks"
        )
    spec = {n: _spec(n) for n in dict.fromkeys(config.streams)}
    card = CohortCard(
        name="e_daic",
        restrictions=("research-only", "non-commercial", "no-redistribution", "credentialed"),
        licence="E-DAIC: USC ICT's end-user licence, academic and non-commercial, not to be shared; so is everything made from it",
        consent="participants agreed to research under USC ICT's licence; all purposes but sharing are assumed for each",
        tasks={"depression": ("no", "yes"), "ptsd": ("no", "yes")},
        attributes=("sex", "age"),
        streams=spec,
        source="E-DAIC (USC ICT), own copy; "
        + ("with the interviewer's voice" if config.prompts else "the sound of the participant's utterances alone"),
    )
    used = [*(f for files in tables.values() for f in files), *(f for files in found.values() for f in files.values())]

    def streams(number: int, files: Mapping[str, Path], left: sources.LeftOut) -> dict[str, Stream]:
        return _session(number, files, left, spec, config)

    return Cohort.build(
        interviews.recordings("E-DAIC", "e-daic", found, persons, config.parts, streams, left), card=card,
        consents={f"daic-{n}": Consent(purposes=tuple(p for p in PURPOSES if p != "sharing")) for n in found},
        cache=cache_home() / "cohorts",
        key=sources.cache_key("e_daic", VERSION, config.model_dump(), [*used, *([items] if items else [])]),
    )  # fmt: skip


def _spec(name: str) -> StreamSpec:
    if name == "transcript":
        return StreamSpec(channels=interviews.ROLES[:1], kind="text")
    return SPECS[name]


def _totals(file: Path) -> dict[int, float]:
    """Participant -> the sum of the PHQ-8's items."""
    out: dict[int, float] = {}
    for row in sources.table(file, ("Participant_ID", "PHQ_8Total")):
        who, total = sources.number(row["Participant_ID"]), sources.number(row["PHQ_8Total"])
        if who is None or int(who) in out or (total is not None and not 0 <= total <= 24):
            raise MienError(
                f"{file}: {row['Participant_ID']!r}, {row['PHQ_8Total']!r} is not a participant of one row with 0 to 24"
            )
        if total is not None:
            out[int(who)] = total
    return out


def _session(
    number: int, files: Mapping[str, Path], left: sources.LeftOut, spec: Mapping[str, StreamSpec], config: Config
) -> dict[str, Stream]:
    """The streams of one session. What was scrubbed is a gap in all of them."""
    talk = interviews.transcript(
        lambda file: interviews.turns(_lines(file), file, left), number, files.get(f"{number}_transcript.csv"), left
    )
    out: dict[str, Stream] = {}
    if talk is not None and "transcript" in spec:
        out["transcript"] = talk.text(interviews.ROLES[:1])
    tracks = {n: _track(n, s, config) for n, s in spec.items() if n != "transcript"}
    return out | interviews.signals(number, files, tracks, talk, talk.scrubbed if talk else (), config.prompts, left)


def _track(name: str, spec: StreamSpec, config: Config) -> interviews.Track:
    if name == "sound":
        return interviews.Track(files=("audio.wav",), read=lambda file: sources.sound(file, spec), heard=True)
    if name in ("egemaps", "mfcc"):
        return interviews.Track(
            files=(f"opensmile2.3.0_{name}.csv",), read=lambda file: _opensmile(file, spec), heard=True
        )
    columns = _COLUMNS[name]
    return interviews.Track(
        files=(_OPENFACE,), read=lambda file: interviews.frames(file, columns, spec, config.minimum_confidence)
    )


def _opensmile(file: Path, spec: StreamSpec) -> Signal:
    """A table `name;frameTime;…`, semicolons between; mfcc[0] is pcm_fftMag_mfcc[0] there."""
    wanted = ("frametime", *(f"{c.lower()}|pcm_fftmag_{c.lower()}" for c in spec.channels))
    table = interviews.numbers(file, wanted, mark=";")
    return interviews.even(table[:, 0], table[:, 1:], spec)


def _lines(file: Path) -> Iterator[tuple[str, str, str, str]]:
    """(start, stop, role, words) of a comma-separated transcript."""
    try:
        for start, stop, words in sources.columns(file, ("Start_Time", "End_Time", "Text")):
            yield start, stop, "participant", words
    except MienError:
        raise sources.Unreadable("that are not UTF-8 tables of Start_Time, End_Time and Text") from None
