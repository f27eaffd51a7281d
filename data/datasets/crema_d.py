"""`crema_d`: acted emotion in speech, 91 actors, twelve sentences (Cao et al. 2014), from your own copy.

github.com/CheyneyComputerScience/CREMA-D, cloned with Git LFS: `AudioWAV/1001_IEO_NEU_XX.wav` …, `VideoDemographics.csv`,
`processedResults/summaryTable.csv`. A zip from the site holds LFS pointers only; these are told apart. Open Database
Licence 1.0: what is made from it is shared under the same terms, with attribution.

The emotion is what the actor was asked for, or what raters perceived: a majority of them heard the intended one in 42 %
of clips only. There is no official split; EmoBox's folds have every actor on both sides. Mien splits by actor.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Literal

from ...core import console
from ...core.config import Section
from ...core.errors import MienError
from ...core.paths import cache_home
from ...core.records import Cohort, CohortCard, Consent, Recording, StreamSpec
from .. import sources

VERSION = 3  # of the conversion below: a change of it makes a new cache entry
EMOTIONS = {"ANG": "anger", "DIS": "disgust", "FEA": "fear", "HAP": "happiness", "NEU": "neutral", "SAD": "sadness"}
_VOTES = {e[0]: name for e, name in EMOTIONS.items()}
LEVELS = {"LO": "low", "MD": "medium", "HI": "high", "XX": "unspecified"}
SENTENCES = ("IEO", "TIE", "IOM", "IWW", "TAI", "MTI", "IWL", "ITH", "DFA", "ITS", "TSI", "WSI")
AUDIO = StreamSpec(channels=("voice",), unit="full scale", rate_hz=16000.0, range=(-1.0, 1.0))
_NAME = re.compile(rf"(1\d{{3}})_({'|'.join(SENTENCES)})_({'|'.join(EMOTIONS)})_({'|'.join(LEVELS)})")
_DAMAGED = ("1076_MTI_SAD_XX", "1064_TIE_SAD_XX", "1064_IEO_DIS_MD")  # no speech, no speech, a minute of several takes
_COLUMN = {"voice": "VoiceVote", "face": "FaceVote", "audiovisual": "MultiModalVote"}
_FACTS = {"Age": "age", "Sex": "sex", "Race": "race", "Ethnicity": "ethnicity"}


class Config(Section):
    """root: your copy (the folder that holds AudioWAV, or one around it); labels: the emotion asked of the actor
    (intended), or the one most raters of the voice, the face or both perceived; a tie is no label."""

    root: str
    labels: Literal["intended", "voice", "face", "audiovisual"] = "intended"


def load(config: Config) -> Cohort:
    """Labels: emotion (six; absent where raters tied), level, sentence. Attributes: age, sex, race, ethnicity, where
    VideoDemographics.csv is. Persons: crema-d-1001 …

    MienError naming the file: no AudioWAV, two of them, a link out of the folder, no vote table for perceived labels.
    """
    root = sources.home(config.root)
    place = sources.one(root, "AudioWAV")
    if place is None:
        raise MienError(f"{root} holds no folder AudioWAV: is it CREMA-D, cloned with Git LFS?")
    files = list(sources.find(place, "*.wav", depth=0))
    people = sources.one(root, "VideoDemographics.csv")
    votes = sources.one(root, "summaryTable.csv", depth=3) if config.labels != "intended" else None
    if config.labels != "intended" and votes is None:
        raise MienError(
            f"{root} holds no processedResults/summaryTable.csv, where the {config.labels} votes are; add it, or take"
            " labels=intended"
        )
    facts, heard = _facts(people), _votes(votes, config.labels)
    persons = sorted({m[1] for f in files if (m := _NAME.fullmatch(f.stem))})
    card = CohortCard(
        name="crema_d",
        licence="CREMA-D: Open Database Licence 1.0; a database made from it is shared alike, with attribution",
        restrictions=("attribution", "share-alike"),
        consent="actors of Cao et al. 2014 agreed to publication; all purposes are assumed for each",
        tasks={"emotion": tuple(EMOTIONS.values()), "level": tuple(LEVELS.values()), "sentence": SENTENCES},
        attributes=tuple(_FACTS.values()),
        streams={"audio": AUDIO},
        source=f"CREMA-D (GitHub), own copy; emotion as {config.labels}",
    )
    used = [*files, *(f for f in (people, votes) if f is not None)]
    return Cohort.build(
        _recordings(files, facts, heard), card=card, consents={f"crema-d-{p}": Consent() for p in persons},
        cache=cache_home() / "cohorts", key=sources.cache_key("crema_d", VERSION, config.model_dump(), used),
    )  # fmt: skip


def _recordings(
    files: list[Path], facts: Mapping[str, Mapping[str, str | float]], heard: Mapping[str, str | None] | None
) -> Iterator[Recording]:
    """A few clips in memory at a time."""
    left, ties, made = sources.LeftOut(), 0, 0
    clips = {}
    for file in files:
        if (name := _NAME.fullmatch(file.stem)) is None:
            left.add("whose name is not actor_sentence_emotion_level", file.name)
        elif file.stem in _DAMAGED:
            left.add("known to be damaged", file.name)
        else:
            clips[file] = name.groups()
    for file, audio in sources.ahead("reading CREMA-D", clips, lambda file: sources.tried(file, AUDIO)):
        if isinstance(audio, sources.Unreadable):
            left.add(str(audio), file.name)
            continue
        actor, sentence, emotion, level = clips[file]
        labels = {"level": LEVELS[level], "sentence": sentence}
        said = EMOTIONS[emotion] if heard is None else heard.get(file.stem)
        if said is None:
            ties += 1
        else:
            labels["emotion"] = said
        made += 1
        yield Recording(
            id=f"crema-d-{file.stem}", person=f"crema-d-{actor}", session=actor, streams={"audio": audio},
            labels=labels, attributes=facts.get(actor, {}),
        )  # fmt: skip
    left.tell()
    there = {file.stem for file in files}
    if absent := [n for n in _expected({actor for actor, *_ in clips.values()}) if n not in there]:
        console.say(
            f"  {len(absent)} clip(s) that these actors recorded are not there (such as {absent[0]}); the published set lacks 20"
        )
    if ties:
        console.say(f"  {ties} clip(s) without an emotion: the raters tied, or none rated them")
    if not made:
        why = "; ".join(f"{n} {reason}" for reason, n in left.counts.items()) or "AudioWAV is empty"
        raise MienError(f"no clip of CREMA-D could be read: {why}")


def _expected(actors: Iterable[str]) -> list[str]:
    """The names of 82 clips an actor: one sentence at three levels, neutral at none; the others at none."""
    return [
        f"{actor}_{sentence}_{emotion}_{level}"
        for actor in sorted(actors)
        for sentence in SENTENCES
        for emotion in EMOTIONS
        for level in (("LO", "MD", "HI") if sentence == "IEO" and emotion != "NEU" else ("XX",))
    ]


def _facts(file: Path | None) -> dict[str, dict[str, str | float]]:
    """Actor -> attributes; a cell that is empty is absent."""
    if file is None:
        console.say("  no VideoDemographics.csv: age, sex, race and ethnicity are unknown")
        return {}
    out: dict[str, dict[str, str | float]] = {}
    for row in sources.table(file, ("ActorID", *_FACTS)):
        actor = row["ActorID"]
        if actor in out:
            raise MienError(f"{file}: actor {actor} has two rows; keep one")
        out[actor] = {
            fact: n if fact == "age" and (n := sources.number(row[c])) is not None else row[c].lower()
            for c, fact in _FACTS.items() if row[c]
        }  # fmt: skip
    return out


def _votes(file: Path | None, kind: str) -> dict[str, str | None] | None:
    """Clip -> the emotion most raters chose, None for a tie (written A:D)."""
    if file is None:
        return None
    rows = sources.table(file, ("FileName", _COLUMN[kind]))
    unknown = [v for r in rows for v in r[_COLUMN[kind]].split(":") if v and v not in _VOTES]
    if unknown:
        raise MienError(f"{file}: the vote {unknown[0]!r} is none of {', '.join(_VOTES)}")
    return {r["FileName"]: _VOTES.get(r[_COLUMN[kind]]) for r in rows}
