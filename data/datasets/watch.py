"""`watch`: real smart-watch recordings inside the seglearn package (BSD-3-Clause).

Ten persons, seven shoulder exercises of physiotherapy, both arms: 140 recordings of 19 to 52 s at 50 Hz. Streams: acc (g, gravity included) and gyro (rad/s). The file states
neither rate nor units: the rate is the package's documentation's; the median norm of acc is 1.07, so it is in g.
Small: for plumbing and utility, not for claims about rare persons.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ...core import assets
from ...core.config import Section
from ...core.errors import MienError
from ...core.paths import cache_home
from ...core.records import Cohort, CohortCard, Consent, Recording, Signal, StreamSpec
from ..pickles import read_npy_dict

VERSION = 1
RATE_HZ = 50.0
AXES = ("x", "y", "z")
# full scales of common wrist sensors (8 g, 2000 deg/s), not what these ten persons happened to reach
STREAMS = {
    "acc": StreamSpec(channels=AXES, unit="g", rate_hz=RATE_HZ, range=(-8.0, 8.0)),
    "gyro": StreamSpec(channels=AXES, unit="rad/s", rate_hz=RATE_HZ, range=(-35.0, 35.0)),
}


class Config(Section):
    """path: an own copy of watch_dataset.npy (default: the fetched asset)."""

    path: str | None = None


def load(config: Config) -> Cohort:
    """The cohort; converted once, then memory-mapped. MienError with the fetch command when it is not here."""
    file = Path(config.path).expanduser() if config.path else assets.path("watch")
    if not file.is_file():
        raise MienError(f"no such file: {file}")
    key = assets.digest(file)[:16]
    folder = cache_home() / "cohorts" / f"watch-{VERSION}-{key}"
    if (folder / "cohort.json").exists():
        return Cohort.read(folder)
    raw = read_npy_dict(file)
    missing = [k for k in ("X", "X.lengths", "y", "subject", "side", "y_labels") if k not in raw]
    if missing or raw["X"].shape[1:] != (6,):
        raise MienError(f"{file} is not the watch set: {f'it lacks {missing[0]}' if missing else 'X is not [time, 6]'}")
    classes = tuple(str(v) for v in raw["y_labels"])
    card = CohortCard(
        name="watch",
        licence="BSD-3-Clause (published inside the seglearn package)",
        consent="published by its authors for research; purposes are taken as given for every person",
        tasks={"exercise": classes},
        attributes=("arm",),
        streams=STREAMS,
        source=f"seglearn watch_dataset.npy sha256:{key}",
    )
    persons = {f"watch-{int(s):02d}": Consent() for s in np.unique(raw["subject"])}
    return Cohort.build(
        _recordings(raw, classes), card=card, consents=persons, cache=folder.parent, key=folder.name
    )


def _recordings(raw: dict[str, np.ndarray], classes: tuple[str, ...]) -> Iterator[Recording]:
    ends = np.cumsum(raw["X.lengths"])
    for i, end in enumerate(ends):
        values = raw["X"][end - raw["X.lengths"][i] : end]
        person, exercise = f"watch-{int(raw['subject'][i]):02d}", classes[int(raw["y"][i])]
        arm = f"arm {int(raw['side'][i])}"  # the file does not say which is left
        parts = {"acc": values[:, :3], "gyro": values[:, 3:]}
        yield Recording(
            id=f"{person}-{i:03d}",
            person=person,
            streams={n: Signal(values=v, rate_hz=RATE_HZ, channels=AXES, unit=STREAMS[n].unit) for n, v in parts.items()},
            labels={"exercise": exercise},
            attributes={"arm": arm},
        )
