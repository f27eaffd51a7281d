"""Result and Report: what a verb says, as JSON that explains itself."""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from .config import Section


class Baseline(Section):
    """A number the result must be read beside (majority, metadata only, blind, real-vs-real …)."""

    name: str
    value: float | None
    low: float | None = None
    high: float | None = None


class Result(Section):
    """One number with its 95 % interval over persons.

    value None means *not measured*; `note` then says why, and nothing may read it as a pass.
    n_persons: the persons the interval is over; unit: what was counted ("person", "recording", "window").
    """

    metric: str
    value: float | None
    low: float | None = None
    high: float | None = None
    n_persons: int = 0
    unit: str = "person"
    higher_is_better: bool = True
    baselines: tuple[Baseline, ...] = ()
    note: str = ""

    @field_validator("value", "low", "high")
    @classmethod
    def _finite(cls, v: float | None) -> float | None:
        if v is not None and not math.isfinite(v):
            raise ValueError("must be a finite number, or None for not measured")
        return v


class Report(Section):
    """What a run found, under which conditions. summary: what was done, in a sentence or two, without anybody in it;
    `not_measured` and `caveats` are sentences shown to the reader; restrictions: of the cohort (core/records.RESTRICTIONS),
    which bind what was made from it."""

    verb: str
    run: str
    study: str
    summary: str = ""
    config: dict[str, Any]
    inputs: dict[str, str] = Field(default_factory=dict)
    data_fingerprint: str
    results: tuple[Result, ...] = ()
    guarantee: str
    consent: dict[str, int] = Field(default_factory=dict)
    environment: dict[str, Any]
    not_measured: tuple[str, ...] = ()
    caveats: tuple[str, ...] = ()
    restrictions: tuple[str, ...] = ()
    status: Literal["finished", "partial"] = "finished"

    def write(self, path: Path) -> None:
        from .runs import write_text

        write_text(path, json.dumps(self.model_dump(mode="json"), indent=1, allow_nan=False))

    @staticmethod
    def read(path: Path) -> Report:
        from .config import parse

        return parse(Report, json.loads(Path(path).read_text()), str(path))


def environment(seed: int | None = None) -> dict[str, Any]:
    """Versions, machine and seed of this process: what somebody needs to get the same numbers again."""
    from .. import __version__

    packages: Mapping[str, str] = {
        name: importlib.metadata.version(name)
        for name in ("torch", "transformers", "peft", "accelerate", "datasets", "numpy", "scikit-learn")
        if _installed(name)
    }
    return {
        "mien": __version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "seed": seed,
        **packages,
    }


def _installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
