"""`ravdess`: acted emotion in speech and song, 24 actors, two sentences (Livingstone & Russo 2018), from your own copy.

Zenodo 1188976: `Audio_Speech_Actors_01-24.zip` and `Audio_Song_Actors_01-24.zip`, unpacked; `Actor_01/03-01-06-01-02-01-12
.wav` …, the seven numbers being modality, channel, emotion, intensity, statement, repetition, actor. With `film_hz` the
pictures of `Video_Speech_Actor_01.zip` … are read too: `02-01-06-….mp4` (or `01-…`, which is the same with sound).
Licence CC BY-NC-SA 4.0: non-commercial; everything made from it inherits that.

Some copies hold a second, nested `audio_speech_actors_01-24/`: equal files are taken once, and it is said.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

from pydantic import Field

from ...core import console
from ...core.config import Section
from ...core.errors import MienError
from ...core.paths import cache_home
from ...core.records import RGB, Cohort, CohortCard, Consent, Recording, Stream, StreamSpec
from .. import films, sources

VERSION = 3  # of the conversion below: a change of it makes a new cache entry
CHANNELS = ("speech", "song")
EMOTIONS = ("neutral", "calm", "happiness", "sadness", "anger", "fear", "disgust", "surprise")
INTENSITIES = ("normal", "strong")
STATEMENTS = ("kids", "dogs")
AUDIO = StreamSpec(channels=("voice",), unit="full scale", rate_hz=48000.0, range=(-1.0, 1.0))
_NAME = re.compile(r"0[123]-(0[12])-(0[1-8])-(0[12])-(0[12])-(0[12])-(0[1-9]|1\d|2[0-4])")


class Config(Section):
    """root: your copy (the folder that holds Actor_01 …, or one around it); channel: speech, song or both; film_hz: pictures a
    second (None: sound alone); side: of the pictures, pixels, of which the middle square is kept."""

    root: str
    channel: Literal["speech", "song", "both"] = "speech"
    film_hz: float | None = Field(default=None, gt=0, le=30)
    side: int = Field(default=128, ge=32, le=720)


def load(config: Config) -> Cohort:
    """Labels: emotion (eight), intensity, statement, channel. Attribute: sex. Persons: ravdess-01 …

    MienError naming the file: none found, a clip in another actor's folder, two different clips of one name, a link out
    of the folder.
    """
    root = sources.home(config.root)
    if config.film_hz is not None:
        films.needed()
    files = _find(root, config.film_hz is not None)
    if config.channel != "both":
        want = f"0{CHANNELS.index(config.channel) + 1}"
        files = {stem: f for stem, f in files.items() if stem.split("-")[1] == want}
    kinds = {f.suffix for f in files.values()}
    if not kinds or (config.film_hz is not None and ".mp4" not in kinds):
        lost = "03-01-….wav" if not kinds else "02-01-….mp4"
        zips = "audio" if not kinds else "video"
        raise MienError(
            f"{root} holds no Actor_01/{lost} of {config.channel}: is it RAVDESS, with its {zips} zips unpacked?"
        )
    card = CohortCard(
        name="ravdess",
        licence="RAVDESS: CC BY-NC-SA 4.0, non-commercial and share alike; so is everything made from it",
        restrictions=("attribution", "share-alike", "non-commercial"),
        consent="actors of Livingstone & Russo 2018 agreed to publication; all purposes are assumed for each",
        tasks={"emotion": EMOTIONS, "intensity": INTENSITIES, "statement": STATEMENTS, "channel": CHANNELS},
        attributes=("sex",),
        streams=_streams(config),
        source="RAVDESS (Zenodo 1188976), own copy",
    )
    persons = sorted({stem[-2:] for stem in files})
    return Cohort.build(
        _recordings(files, config), card=card, consents={f"ravdess-{p}": Consent() for p in persons},
        cache=cache_home() / "cohorts", key=sources.cache_key("ravdess", VERSION, config.model_dump(), files.values()),
    )  # fmt: skip


def _streams(config: Config) -> dict[str, StreamSpec]:
    film = StreamSpec(channels=RGB, rate_hz=config.film_hz or 0.0, kind="video")
    return {"audio": AUDIO, **({"film": film} if config.film_hz is not None else {})}


def _find(root: Path, filmed: bool) -> dict[str, Path]:
    """Clip's name -> file, in order: of a clip filmed with and without its sound, the one without."""
    found: dict[str, Path] = {}
    double = 0
    for suffix in (".wav", ".mp4") if filmed else (".wav",):
        for file in sources.find(root, f"Actor_*/*{suffix}", depth=3):
            name = _NAME.fullmatch(file.stem)
            if name is None or (suffix == ".wav") != file.stem.startswith("03"):
                continue  # not RAVDESS's, or a film's sound
            if file.parent.name != f"Actor_{name[6]}":
                raise MienError(f"{file}: its name says actor {name[6]}, its folder another; put it where it belongs")
            if file.stem not in found:
                found[file.stem] = file
            elif file.read_bytes() == found[file.stem].read_bytes():
                double += 1
            else:
                raise MienError(f"{found[file.stem]} and {file} have one name and differ; keep the right one")
    if double:
        console.say(f"  {double} clip(s) are there twice, byte for byte: each is taken once")
    return {s: f for s, f in sorted(found.items()) if s[:2] != "01" or f"02{s[2:]}" not in found}


def _expected(actors: Iterable[str], channel: str) -> list[str]:
    """The names of an actor's clips: 60 of speech; 44 of song, which has no disgust and no surprise; neutral is never strong.
    Actor 18 did not sing."""
    return [
        f"03-0{c}-0{e}-0{i}-0{s}-0{r}-{actor}"
        for actor in sorted(actors)
        for c, last in ((1, 8), (2, 6))
        if channel in ("both", CHANNELS[c - 1]) and (c, actor) != (2, "18")
        for e in range(1, last + 1)
        for i in ((1,) if e == 1 else (1, 2))
        for s in (1, 2)
        for r in (1, 2)
    ]


def _recordings(files: dict[str, Path], config: Config) -> Iterator[Recording]:
    """A few clips in memory at a time: each its sound and, where asked for, its film."""
    left, made, clips = sources.LeftOut(), 0, {}
    for name, file in files.items():
        clips.setdefault(f"03{name[2:]}", []).append(file)

    def read(stem: str) -> tuple[dict[str, Stream], sources.LeftOut]:
        streams, own = {}, sources.LeftOut()
        for file in clips[stem]:
            try:
                if file.suffix == ".wav":
                    streams["audio"] = sources.sound(file, AUDIO)
                else:
                    streams["film"] = films.film(file, config.film_hz or 1.0, config.side)
            except sources.Unreadable as why:
                own.add(str(why), file.name)
        return streams, own

    for stem, (streams, own) in sources.ahead("reading RAVDESS", sorted(clips), read):
        left.merge(own)
        if not streams:
            continue
        _, way, emotion, intensity, statement, _, actor = stem.split("-")
        made += 1
        yield Recording(
            id=f"ravdess-{stem}", person=f"ravdess-{actor}", session=CHANNELS[int(way) - 1], streams=streams,
            labels={
                "emotion": EMOTIONS[int(emotion) - 1], "intensity": INTENSITIES[int(intensity) - 1],
                "statement": STATEMENTS[int(statement) - 1], "channel": CHANNELS[int(way) - 1],
            },
            attributes={"sex": "male" if int(actor) % 2 else "female"},
        )  # fmt: skip
    left.tell()
    if absent := [n for n in _expected({stem[-2:] for stem in files}, config.channel) if n not in clips]:
        console.say(f"  {len(absent)} clip(s) that these actors recorded are not there (such as {absent[0]})")
    if not made:
        why = "; ".join(f"{n} {reason}" for reason, n in left.counts.items())
        raise MienError(f"no clip of RAVDESS could be read: {why}")
