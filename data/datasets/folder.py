"""Your own recordings: a folder with `cohort.yaml`, a table and data files (see docs/bring-your-own.md).

`load` stops at the first fault; `mien data check` walks the same code and goes on, so the two always agree.
Nothing is executed from the folder (no pickles) and no file outside it is read.
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ...core import config as recipes
from ...core.config import Section
from ...core.errors import MienError
from ...core.paths import cache_home
from ...core.records import Cohort
from ...core.runs import whole_folder
from ..folders import Plan, plan, read_spec, recordings, to_signal
from ..schema import CohortFile, Problem
from ..tables import Samples, inside

VERSION = 1  # of this importer: a new number makes every folder be read again
DEFAULT_PURPOSES = ("training", "generation", "audit", "evaluation")


class Config(Section):
    """root: the folder that holds cohort.yaml."""

    root: str


def load(config: Config) -> Cohort:
    """The folder as a cohort. It is imported into Mien's cache once, and again when any of its files changes."""
    root = Path(config.root).expanduser()
    made = plan(root, read_spec(root))
    return Cohort.build(
        recordings(made),
        card=made.spec.card(),
        consents=made.consents,
        cache=cache_home() / "cohorts",
        key=_key(made),
    )


def _key(plan: Plan) -> str:
    """ "folder-<hash>" over the tables' bytes and every data file's name, size and time of change."""
    digest = hashlib.sha256(f"{VERSION} {plan.root.resolve()}".encode())
    for name in ("cohort.yaml", plan.spec.recordings, plan.spec.persons):
        digest.update(b"\0" if name is None else inside(plan.root, name, "cohort.yaml").read_bytes() + b"\1")
    places = {n: f"{r.where}, recording {r.id!r}" for r in plan.rows for n in r.files.values()}
    if plan.spec.table:
        places[plan.spec.table] = "cohort.yaml, table"
    for name, where in sorted(places.items()):
        stat = inside(plan.root, name, where).stat()
        digest.update(json.dumps([name, stat.st_size, stat.st_mtime_ns]).encode())
    return f"folder-{digest.hexdigest()[:24]}"


def write(
    root: str | Path,
    *,
    values: Sequence[np.ndarray] | np.ndarray,
    persons: Sequence[Any] | np.ndarray,
    labels: Sequence[Any] | np.ndarray,
    task: str,
    rate_hz: float,
    channels: Sequence[str],
    unit: str,
    name: str,
    licence: str,
    consent: str,
    purposes: Sequence[str] = DEFAULT_PURPOSES,
    stream: str = "signal",
    range: tuple[float, float] | None = None,
    gaps: str = "refuse",
    sessions: Sequence[Any] | np.ndarray | None = None,
    starts: Sequence[float] | np.ndarray | None = None,
    attributes: Mapping[str, Sequence[Any] | np.ndarray] | None = None,
    source: str = "",
) -> Path:
    """Arrays -> a folder that `load` reads: cohort.yaml, recordings.csv, data/*.npz. It appears whole or not at all.

    values: [N, T, C], or N arrays [T_i, C], in `unit`; persons, labels, sessions, starts (seconds) and each of
    `attributes`: N values. range: the sensor's plausible span, which only you can know. consent: its basis in words. source: the study
    that gave out the ids.
    """
    root = Path(root)
    columns: dict[str, Sequence[Any] | np.ndarray] = {"person": persons, task: labels, **(attributes or {})}
    if sessions is not None:
        columns["session"] = sessions
    if starts is not None:
        columns["start_s"] = starts
    for column, cells in columns.items():
        if len(cells) != len(values):
            raise MienError(f"{column!r} has {len(cells)} values for {len(values)} recordings; give one per recording")
    texts = {c: [_text(v, c, i) for i, v in enumerate(cells)] for c, cells in columns.items()}
    spec = {
        "name": name,
        **({"source": source} if source else {}),
        "licence": licence,
        "consent": {"basis": consent, "purposes": list(purposes)},
        "tasks": {task: sorted({t for t in texts[task] if t})},
        "attributes": list(attributes or {}),
        "streams": {
            stream: {
                "channels": list(channels),
                "unit": unit,
                "rate_hz": float(rate_hz),
                **({} if range is None else {"range": [float(r) for r in range]}),
                **({} if gaps == "refuse" else {"gaps": gaps}),
            }
        },
        "recordings": "recordings.csv",
    }
    checked = recipes.parse(CohortFile, spec, f"{root}/cohort.yaml")
    ids = [f"r{i:05d}" for i, _ in enumerate(values)]
    for i, (x, person) in enumerate(zip(values, texts["person"], strict=True)):
        where = f"recording {i} of `values`"
        if not person:
            raise Problem(where, "has no person", "give every recording a pseudonymous person")
        x = np.asarray(x)
        if x.ndim != 2 or x.shape[1] != len(channels) or x.dtype.kind not in "fiub":
            raise Problem(
                where,
                f"shape {list(x.shape)} of type {x.dtype}",
                f"numbers of shape [time, {len(channels)}] are needed",
            )
        to_signal(Samples(x.astype(np.float64), None, None), checked.streams[stream], where, 0.0)
    if root.exists():
        raise MienError(f"{root} exists already; choose another folder or remove it first")
    if not ids:
        raise MienError(f"{root}: `values` holds no recording, so there is nothing to write")
    with whole_folder(root) as staging:
        staging.chmod(0o700)  # recordings of people: for their owner only
        (staging / "data").mkdir(mode=0o700)
        (staging / "cohort.yaml").write_text(
            yaml.safe_dump(spec, sort_keys=False, allow_unicode=True, default_flow_style=None),
            encoding="utf-8",
        )
        with open(staging / "recordings.csv", "w", encoding="utf-8", newline="") as file:
            out = csv.writer(file)
            out.writerow(["recording", *texts, "file"])
            for i, r in enumerate(ids):
                out.writerow([r, *(t[i] for t in texts.values()), f"data/{r}.npz"])
        for r, x in zip(ids, values, strict=True):
            arrays: dict[str, Any] = {stream: np.asarray(x, dtype=np.float32)}
            np.savez(staging / "data" / f"{r}.npz", **arrays)
    return root


def _text(value: Any, column: str, i: int) -> str:
    """One cell; what the table would change on the way back (spaces around it) is refused."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    text = str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
    if text != text.strip() or "\0" in text:
        raise MienError(f"{column!r}, value {i}: {text!r} has spaces around it; strip them first")
    return text
