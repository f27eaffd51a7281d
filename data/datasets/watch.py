"""`watch`: real smart-watch recordings: ten persons, seven shoulder exercises, either arm (seglearn's sample).

Burns et al., "Shoulder physiotherapy exercise recognition", Physiological Measurement 39 (2018) 075007,
arXiv:1802.01489. 10 persons x 7 exercises x 2 arms = 140 recordings of 19-52 s at 50 Hz, in one object .npy inside the
package seglearn (BSD-3-Clause): `mien assets fetch watch`. It is read by a restricted unpickler in a limited process.

The file states no units. Accelerations are in g and hold gravity (the middle half of their norms lies at 0.96-1.26).
Rates are in rad/s: integrated, the busiest axis of a recording turns by some 40-150 degrees per repetition, as such
exercises do; were they degrees per second, it would turn by less than three.
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
from .. import pickles

VERSION = 1  # of the conversion below: a change of it makes a new cache entry
RATE_HZ = 50.0
EXERCISES = ("PEN", "ABD", "FEL", "IR", "ER", "TRAP", "ROW")
ARMS = {0: "arm-0", 1: "arm-1"}  # the file does not say which is left
CHANNELS = ["ax", "ay", "az", "wx", "wy", "wz"]
# Round full scales of such sensors, known before any recording: not computed from this data.
STREAMS = {
    "acc": StreamSpec(channels=("x", "y", "z"), unit="g", rate_hz=RATE_HZ, range=(-4.0, 4.0)),
    "gyro": StreamSpec(channels=("x", "y", "z"), unit="rad/s", rate_hz=RATE_HZ, range=(-10.0, 10.0)),
}


class Config(Section):
    """path: your own copy of watch_dataset.npy; None: the fetched asset."""

    path: str | None = None


def load(config: Config) -> Cohort:
    """Labels: exercise (7). Attributes: arm. Persons: watch-01 … watch-10."""
    if config.path is None:
        source, digest = assets.file("watch"), assets.verify("watch")
        origin = "{0.package}=={0.version}".format(assets.describe("watch"))
    else:
        source = Path(config.path).expanduser()
        if not source.is_file():
            raise MienError(f"no such file: {source}; leave `path` out to use the asset (`mien assets fetch watch`)")
        digest, origin = assets.sha256(source), "own copy"
    cache, key = cache_home() / "cohorts", f"watch-v{VERSION}-{digest[:16]}"
    if (Cohort.place(cache, key) / "cohort.json").exists():
        return Cohort.read(Cohort.place(cache, key))
    recordings = list(_recordings(source))
    card = CohortCard(
        name="watch",
        licence="BSD-3-Clause (seglearn)",
        consent="published by its authors with seglearn, for research; all purposes are assumed for every person",
        tasks={"exercise": EXERCISES},
        attributes=("arm",),
        streams=STREAMS,
        source=f"{origin} watch_dataset.npy sha256:{digest}",
    )
    consents = {r.person: Consent() for r in recordings}
    return Cohort.build(recordings, card=card, consents=consents, cache=cache, key=key)


def _recordings(source: Path) -> Iterator[Recording]:
    """The file's recordings, ordered by person, exercise and arm. Upstream's own order is a shuffle."""
    raw = pickles.read_npy_dict(source)
    needed = ("X", "X" + pickles.LENGTHS, "y", "subject", "side", "y_labels", "X_labels")
    missing = [k for k in needed if k not in raw]
    if missing:
        raise MienError(f"{source} is not seglearn's watch set: it has no {missing[0]!r}")
    if raw["X_labels"].tolist() != CHANNELS or raw["X"].ndim != 2 or raw["X"].shape[1] != len(CHANNELS):
        raise MienError(f"{source} is not seglearn's watch set: its channels are not {CHANNELS}")
    samples, n = pickles.split(raw, "X"), len(raw["X" + pickles.LENGTHS])
    names = raw["y_labels"].tolist()
    for key in ("y", "subject", "side"):
        if raw[key].shape != (n,):
            raise MienError(f"{source}: {key!r} has {len(raw[key])} entries for {n} recordings")
    for i in np.lexsort((raw["side"], raw["y"], raw["subject"])):
        side, label = int(raw["side"][i]), int(raw["y"][i])
        if side not in ARMS or not 0 <= label < len(names):
            raise MienError(f"{source}: recording {i} has side {side} and exercise {label}, which have no name")
        person, arm, exercise = f"watch-{int(raw['subject'][i]):02d}", ARMS[side], str(names[label])
        acc, gyro = samples[i][:, :3], samples[i][:, 3:]
        yield Recording(
            id=f"{person}-{exercise}-{arm}",
            person=person,
            streams={
                "acc": Signal(values=acc, rate_hz=RATE_HZ, channels=("x", "y", "z"), unit="g"),
                "gyro": Signal(values=gyro, rate_hz=RATE_HZ, channels=("x", "y", "z"), unit="rad/s"),
            },
            labels={"exercise": exercise},
            attributes={"arm": arm},
        )
