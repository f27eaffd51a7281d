"""`wesad`: stress and affect from wrist and chest sensors, 15 persons (Schmidt et al. 2018), from your own copy.

UCI 465 or uni-siegen.de (17 GB unpacked): `WESAD/S2/S2.pkl` … `S17/S17.pkl`, each with its `S2_readme.txt`. The pickles
are read by a restricted unpickler in a limited process. Licence: scientific, non-commercial; everything made from it
inherits that, and nothing of it may be shared.

Each uninterrupted stretch of one study condition becomes a recording, so no window crosses a boundary. Of the labels,
1 is baseline, 2 stress, 3 amusement, 4 meditation; 0 and 5 to 7 (transitions, not defined) are left out and counted.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

import numpy as np

from ...core import console
from ...core.config import Section
from ...core.errors import MienError
from ...core.paths import cache_home
from ...core.records import Cohort, CohortCard, Consent, Recording, Signal, StreamSpec
from .. import pickles

VERSION = 2  # of the conversion below: a change of it makes a new cache entry
LABEL_HZ = 700.0
CONDITIONS = {1: "baseline", 2: "stress", 3: "amusement", 4: "meditation"}
_SHORTEST_S = 5.0
# stream -> (key in the pickle, factor to the unit, spec). Ranges are the sensors' plausible spans, known beforehand. The
# chest's keys are `Temp` and `Resp`, the wrist's `TEMP`: the readme's spelling is not the file's.
WRIST = {
    "acc": ("ACC", 1 / 64, StreamSpec(channels=("x", "y", "z"), unit="g", rate_hz=32.0, range=(-2.0, 2.0))),
    "bvp": ("BVP", 1.0, StreamSpec(channels=("bvp",), unit="a.u.", rate_hz=64.0, range=(-500.0, 500.0))),
    "eda": ("EDA", 1.0, StreamSpec(channels=("eda",), unit="uS", rate_hz=4.0, range=(0.0, 40.0))),
    "temp": ("TEMP", 1.0, StreamSpec(channels=("temp",), unit="degC", rate_hz=4.0, range=(20.0, 45.0))),
}
CHEST = {
    "chest_acc": ("ACC", 1.0, StreamSpec(channels=("x", "y", "z"), unit="g", rate_hz=LABEL_HZ, range=(-4.0, 4.0))),
    "ecg": ("ECG", 1.0, StreamSpec(channels=("ecg",), unit="mV", rate_hz=LABEL_HZ, range=(-1.5, 1.5))),
    "emg": ("EMG", 1.0, StreamSpec(channels=("emg",), unit="mV", rate_hz=LABEL_HZ, range=(-1.5, 1.5))),
    "chest_eda": ("EDA", 1.0, StreamSpec(channels=("eda",), unit="uS", rate_hz=LABEL_HZ, range=(0.0, 25.0))),
    "chest_temp": ("Temp", 1.0, StreamSpec(channels=("temp",), unit="degC", rate_hz=LABEL_HZ, range=(20.0, 45.0))),
    "resp": ("Resp", 1.0, StreamSpec(channels=("resp",), unit="%", rate_hz=LABEL_HZ, range=(-50.0, 50.0))),
}
_FACTS = {  # line of the readme -> attribute
    "Age": "age", "Gender": "sex", "Height (cm)": "height_cm", "Weight (kg)": "weight_kg",
    "Dominant hand": "dominant_hand", "Do you smoke?": "smoker",
}  # fmt: skip


class Config(Section):
    """root: your copy (the folder WESAD, or one around it); device: which sensors; memory_mb, seconds: what reading one
    person's pickle may take."""

    root: str
    device: Literal["wrist", "chest", "both"] = "wrist"
    memory_mb: int = 6144
    seconds: float = 600


def load(config: Config) -> Cohort:
    """Labels: affect (four conditions), stress (yes: stress; no: baseline, amusement; absent in meditation). Attributes
    from the readmes, where they are. Persons: wesad-S2 …

    MienError naming the file: none found, a person twice, a link out of the folder, a hostile or damaged pickle.
    """
    files = _find(Path(config.root).expanduser())
    streams = {**(WRIST if config.device != "chest" else {}), **(CHEST if config.device != "wrist" else {})}
    stat = {p: [f.name, f.stat().st_size, f.stat().st_mtime_ns, _readme(f)] for p, f in files.items()}
    text = json.dumps([VERSION, config.device, stat], sort_keys=True)
    card = CohortCard(
        name="wesad",
        licence="WESAD: scientific, non-commercial use only; so is everything made from it",
        restrictions=("attribution", "non-commercial", "research-only", "no-redistribution"),
        consent="participants of Schmidt et al. 2018 consented to scientific use; all purposes are assumed for each",
        tasks={"affect": tuple(CONDITIONS.values()), "stress": ("no", "yes")},
        attributes=tuple(_FACTS.values()),
        streams={name: spec for name, (_, _, spec) in streams.items()},
        source="WESAD (UCI 465), own copy",
    )
    return Cohort.build(
        _recordings(files, streams, config), card=card, consents={f"wesad-{p}": Consent() for p in files},
        cache=cache_home() / "cohorts", key=f"wesad-{hashlib.sha256(text.encode()).hexdigest()[:16]}",
    )  # fmt: skip


def _find(root: Path) -> dict[str, Path]:
    """Person -> pickle, in the order of their numbers."""
    if not root.is_dir():
        raise MienError(f"no such folder: {root}; unpack WESAD.zip and give the folder that holds S2, S3 …")
    found: dict[str, Path] = {}
    for depth in ("S*/S*.pkl", "*/S*/S*.pkl", "*/*/S*/S*.pkl"):
        for file in sorted(root.glob(depth)):
            person = file.stem
            if not re.fullmatch(r"S\d+", person) or file.parent.name != person:
                continue
            if not file.resolve().is_relative_to(root.resolve()):
                raise MienError(f"{file} is a link out of {root}; copy the file, or give the folder it lies in")
            if person in found:
                raise MienError(f"{person} is there twice, as {found[person]} and {file}; keep one copy")
            found[person] = file
    if not found:
        raise MienError(f"{root} holds no S2/S2.pkl, S3/S3.pkl …: is it WESAD's folder, and unpacked?")
    return dict(sorted(found.items(), key=lambda item: int(item[0][1:])))


def _recordings(files: Mapping[str, Path], streams: Mapping, config: Config) -> Iterator[Recording]:
    """One person in memory at a time."""
    left = {"without a defined condition": 0.0, f"in pieces under {_SHORTEST_S:g} s": 0.0}
    with console.progress("reading WESAD", len(files)) as bar:
        for person, file in files.items():
            yield from _person(person, file, streams, config, left)
            bar.step()
    for why, seconds in left.items():
        console.say(f"  left out: {console.duration(seconds)} {why}")


def _person(person: str, file: Path, streams: Mapping, config: Config, left: dict[str, float]) -> Iterator[Recording]:
    places = {n: f"signal/{'wrist' if n in WRIST else 'chest'}/{key}" for n, (key, _, _) in streams.items()}
    raw = pickles.read_npy_dict(
        file, memory_mb=config.memory_mb, seconds=config.seconds, keys=("label", "subject", *places.values())
    )
    missing = [k for k in ("label", *places.values()) if k not in raw]
    if missing:
        raise MienError(f"{file}: it has no {missing[0]!r}; is it WESAD's own file?")
    if "subject" in raw and str(raw["subject"].ravel()[0]) != person:
        raise MienError(f"{file} says it is of {raw['subject'].ravel()[0]}; every person has a file of their own")
    label = raw["label"].ravel()
    seconds = len(label) / LABEL_HZ
    values = {}
    for name, (_, factor, spec) in streams.items():
        v = np.asarray(raw[places[name]], dtype=np.float32)
        v = v.reshape(len(v), -1) * np.float32(factor)
        if v.shape[1] != len(spec.channels) or abs(len(v) / spec.rate_hz - seconds) > 1.0:
            raise MienError(
                f"{file}: {places[name]} has shape {list(v.shape)}, not about {seconds * spec.rate_hz:.0f} x"
                f" {len(spec.channels)} for {seconds:.0f} s of labels"
            )
        values[name] = v
    facts = _readme(file)
    cuts = np.flatnonzero(np.diff(label)) + 1
    for i, (a, b) in enumerate(zip([0, *cuts], [*cuts, len(label)], strict=True)):
        condition = CONDITIONS.get(int(label[a]))
        start, end = a / LABEL_HZ, b / LABEL_HZ
        if condition is None or end - start < _SHORTEST_S:
            left[list(left)[condition is not None]] += end - start
            continue
        labels = {"affect": condition}
        if condition != "meditation":
            labels["stress"] = "yes" if condition == "stress" else "no"
        made = {}
        for name, (_, _, spec) in streams.items():
            cut = values[name][round(start * spec.rate_hz) : round(end * spec.rate_hz)]
            if len(cut):
                valid = np.isfinite(cut).all(1)
                made[name] = Signal(
                    values=cut, rate_hz=spec.rate_hz, channels=spec.channels, unit=spec.unit,
                    valid=None if valid.all() else valid,
                )  # fmt: skip
        yield Recording(
            id=f"wesad-{person}-{i:02d}-{condition}", person=f"wesad-{person}", session=person, start_s=start,
            streams=made, labels=labels, attributes=facts,
        )  # fmt: skip


def _readme(file: Path) -> dict[str, str | float]:
    """What the person's readme says of them; what it does not say is absent."""
    path = file.with_name(f"{file.stem}_readme.txt")
    if not path.is_file():
        return {}
    out: dict[str, str | float] = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        key, colon, value = line.partition(":")
        key = key.strip() if colon else next((k for k in _FACTS if line.startswith(k)), "")
        value = value.strip() if colon else line[len(key) :].strip()
        if key in _FACTS and value:
            number = re.fullmatch(r"\d+(\.\d+)?", value)
            out[_FACTS[key]] = float(value) if number else value.lower()
    return out
