"""`coswara`: COVID-19 from breathing, cough, counting and vowels, 2,746 persons (Bhattacharya et al. 2023), from your copy.

github.com/iiscleap/Coswara-Data or Zenodo 7188627, with its `extract_data.py` run: `Extracted_data/20200413/<id>/cough-heavy
.wav` …, `combined_data.csv`, `annotations/cough-heavy_labels.csv` …. CC BY 4.0.

Recording date alone tells who was positive (AUROC .94 in five folds), symptoms nearly so (.88): a result from sound that is
not beside these says nothing. They are read as attributes, and a blank symptom is not reported, which is not "no".
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from pydantic import Field

from ...core import console
from ...core.config import Section
from ...core.errors import MienError
from ...core.paths import cache_home
from ...core.records import Cohort, CohortCard, Consent, Recording, Stream, StreamSpec, Value
from .. import sources

VERSION = 3  # of the conversion below: a change of it makes a new cache entry
SOUNDS = (
    "breathing-deep", "breathing-shallow", "cough-heavy", "cough-shallow", "counting-fast", "counting-normal", "vowel-a",
    "vowel-e", "vowel-o",
)  # fmt: skip
STATUS = {  # covid_status -> the task's class, None: neither
    "healthy": "no", "no_resp_illness_exposed": "no", "resp_illness_not_identified": "no", "positive_mild": "yes",
    "positive_moderate": "yes", "positive_asymp": "yes", "recovered_full": None,
}  # fmt: skip
_FACTS = {  # column -> attribute
    "a": "age", "g": "sex", "l_c": "country", "l_s": "state", "l_l": "locality", "record_date": "record_date",
    "ep": "english_proficient", "rU": "returning_user", "um": "wears_mask", "vacc": "vaccinated",
    "test_status": "test_status", "testType": "test_type", "smoker": "smoker",
}  # fmt: skip
SYMPTOMS = (
    "cold", "cough", "fever", "diarrhoea", "loss_of_smell", "mp", "bd", "ftg", "st", "pneumonia", "asthma", "cld",
    "diabetes", "ht", "ihd", "others_resp", "others_preexist",
)  # fmt: skip
_ADULT = 18


class Config(Section):
    """root: your copy (the folder that holds combined_data.csv); rate_hz: to which sounds are resampled (they come at 48
    or 44.1 kHz); minimum_quality: of the annotators (0 bad, 1 good, 2 excellent; unrated sounds stay); minors: also
    persons under 18, who could not consent alone."""

    root: str
    rate_hz: int = Field(default=16000, ge=4000, le=48000)
    minimum_quality: int = Field(default=1, ge=0, le=2)
    minors: bool = False


def load(config: Config) -> Cohort:
    """One recording per person with up to nine sounds. Labels: covid (yes: positive; no: healthy, exposed, other illness;
    absent: recovered), status. Attributes: age, sex, place, date, symptoms, test and more, where they were given.

    MienError naming the file: no table, archives not unpacked, a person in two folders, a link out of the folder.
    """
    root = sources.home(config.root)
    file = sources.one(root, "combined_data.csv")
    if file is None:
        raise MienError(f"{root} holds no combined_data.csv: is it Coswara-Data?")
    rows: dict[str, dict[str, str]] = {}
    for row in sources.table(file, ("id", "a", "g", "covid_status")):
        if row["id"] in rows:
            raise MienError(f"{file}: the id {row['id']} has two rows; keep one")
        rows[row["id"]] = row
    folders = _folders(root)
    if not folders:
        packed = next(sources.find(root, "20??????/*.tar.gz.aa"), None)
        told = (
            f"{packed} is not unpacked; run the copy's extract_data.py" if packed else "is it Coswara-Data, unpacked?"
        )
        raise MienError(f"{root} holds no folder Extracted_data/20200413/<id> …: {told}")
    ratings = [f for s in SOUNDS if (f := sources.one(root, f"{s}_labels.csv")) is not None]
    sounds = [f for folder in folders.values() for f in _sounds(folder).values()]
    declared = StreamSpec(channels=("sound",), unit="full scale", rate_hz=float(config.rate_hz), range=(-1.0, 1.0))
    spec = dict.fromkeys(map(_stream, SOUNDS), declared)
    card = CohortCard(
        name="coswara",
        licence="Coswara: CC BY 4.0, with attribution",
        restrictions=("attribution",),
        consent="persons agreed to public release when they recorded; all purposes are assumed for each",
        tasks={"covid": ("no", "yes"), "status": tuple(STATUS)},
        attributes=(*_FACTS.values(), *(f"symptom_{s}" for s in SYMPTOMS)),
        streams=spec,
        source="Coswara (GitHub), own copy",
    )
    quality = _quality(ratings)
    return Cohort.build(
        _recordings(folders, rows, quality, spec, config), card=card,
        consents={f"coswara-{p}": Consent() for p in folders}, cache=cache_home() / "cohorts",
        key=sources.cache_key("coswara", VERSION, config.model_dump(), [file, *ratings, *sounds]),
    )  # fmt: skip


def _stream(sound: str) -> str:
    return sound.replace("-", "_")


def _folders(root: Path) -> dict[str, Path]:
    """Person's id -> folder of sounds."""
    found: dict[str, Path] = {}
    for folder in sources.find(root, "20??????/*", depth=3):
        if not folder.is_dir() or not re.fullmatch(r"\d{8}", folder.parent.name):
            continue
        if folder.name in found:
            raise MienError(f"one id is in two folders, {found[folder.name]} and {folder}; keep one")
        found[folder.name] = folder
    return found


def _sounds(folder: Path) -> dict[str, Path]:
    return {f.stem: f for f in sources.find(folder, "*.wav", depth=0) if f.stem in SOUNDS}


def _quality(files: list[Path]) -> dict[tuple[str, str], int]:
    """(id, sound) -> 0 bad, 1 good, 2 excellent. The header is `FILENAME, QUALITY`, with a space."""
    out: dict[tuple[str, str], int] = {}
    for file in files:
        for row in sources.table(file, ("FILENAME", "QUALITY")):
            person, mark, sound = row["FILENAME"].partition("_")
            if not mark or sound not in SOUNDS or row["QUALITY"] not in ("0", "1", "2"):
                raise MienError(f"{file}: {row['FILENAME']!r}, {row['QUALITY']!r} is not <id>_<sound> with 0, 1 or 2")
            out[person, sound] = int(row["QUALITY"])
    return out


def _recordings(
    folders: Mapping[str, Path], rows: Mapping[str, Mapping[str, str]], quality: Mapping[tuple[str, str], int],
    spec: Mapping[str, StreamSpec], config: Config,
) -> Iterator[Recording]:  # fmt: skip
    """A few persons in memory at a time."""
    persons, clips = sources.LeftOut(), sources.LeftOut()
    returning = made = 0
    ages: dict[str, float | None] = {}
    for person, folder in folders.items():
        row = rows.get(person)
        if row is None:
            persons.add("person(s) without a row in combined_data.csv", folder.name)
            continue
        age = sources.number(row["a"])
        if row["covid_status"] not in STATUS:
            persons.add(f"person(s) of status {row['covid_status'] or 'blank'!r}", folder.name)
        elif row["a"] and (age is None or not 0 < age <= 120):  # whether they are minors is then unknown
            persons.add("person(s) whose age is no number of years", folder.name)
        elif age is not None and age < _ADULT and not config.minors:
            persons.add("person(s) under 18 (minors=true reads them)", folder.name)
        else:
            ages[person] = age

    def read(person: str) -> tuple[dict[str, Stream], sources.LeftOut]:
        own, streams = sources.LeftOut(), {}
        for sound, file in _sounds(folders[person]).items():
            if quality.get((person, sound), 2) < config.minimum_quality:
                own.add("sound(s) below the minimum quality", file.name)
                continue
            try:
                streams[_stream(sound)] = sources.sound(file, spec[_stream(sound)], resample=True)
            except sources.Unreadable as why:
                own.add(f"sound(s) {why}", file.name)
        return streams, own

    for person, sounds in sources.ahead("reading Coswara", ages, read):
        (streams, own), folder, row = sounds, folders[person], rows[person]
        clips.merge(own)
        if not streams:
            persons.add("person(s) without a usable sound", folder.name)
            continue
        labels: dict[str, Value] = {"status": row["covid_status"]}
        answer = STATUS[row["covid_status"]]
        if answer is not None:
            labels["covid"] = answer
        returning += row.get("rU", "") == "y"
        made += 1
        yield Recording(
            id=f"coswara-{person}", person=f"coswara-{person}", session=folder.parent.name, streams=streams,
            labels=labels, attributes=_attributes(row, ages[person], folder.parent.name),
        )  # fmt: skip
    clips.tell()
    persons.tell()
    if unrated := [s for s in SOUNDS if s not in {sound for _, sound in quality}]:
        console.say(f"  no annotations of {', '.join(unrated)}: whether such a sound is bad is unknown")
    if strangers := sum(person not in folders for person, _ in quality):
        console.say(f"  {strangers} rating(s) are of persons without a folder of sounds")
    unheard = len(set(rows) - set(folders))
    if unheard:
        console.say(f"  {unheard} row(s) of combined_data.csv have no folder of sounds")
    if returning:
        console.say(
            f"  {returning} person(s) say they recorded before: perhaps under another id, on the split's other side"
        )
    if not made:
        raise MienError(
            "no person of Coswara could be read: " + "; ".join(f"{n} {w}" for w, n in persons.counts.items())
        )


def _attributes(row: Mapping[str, str], age: float | None, day: str) -> dict[str, Value]:
    """What was answered; a blank is absent. Older tables have no date: the folder's name is it."""
    out: dict[str, Value] = {"record_date": f"{day[:4]}-{day[4:6]}-{day[6:]}"}
    for column, fact in _FACTS.items():
        text = row.get(column, "")
        if fact == "age":
            if age is not None:
                out["age"] = age
        elif text:
            out[fact] = text
    out |= {f"symptom_{s}": "yes" for s in SYMPTOMS if row.get(s, "").lower() == "true"}
    return out
