"""Shared fixtures: private caches and run folders, invented cohorts, a base of a few thousand parameters."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings

from mien.core.records import Cohort, CohortCard, Consent, Recording, Signal, StreamSpec

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

# `make test` says the same of the same commit every time; `make test-all` goes looking for new counterexamples.
settings.register_profile("same", derandomize=True)
settings.load_profile("same")


def fetched(*names: str) -> bool:
    """Whether these assets are here and whole (`mien assets fetch …`; `make test-all` does)."""
    from mien.core import assets
    from mien.core.errors import MienError

    try:
        return all(assets.file(name) for name in names)
    except MienError:
        return False


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own for caches and runs."""
    monkeypatch.setenv("MIEN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MIEN_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("MIEN_LEDGER", str(tmp_path / "ledger" / "ledger.sqlite"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


CARD = CohortCard(
    name="invented",
    licence="none needed: invented in a test",
    consent="invented persons",
    tasks={"activity": ("rest", "walk")},
    attributes=("sex",),
    streams={
        "acc": StreamSpec(channels=("x", "y", "z"), unit="g", rate_hz=20.0, range=(-4.0, 4.0)),
        "eda": StreamSpec(channels=("eda",), unit="uS", rate_hz=4.0, range=(0.0, 40.0)),
    },
)


def recording(person: int, index: int, label: str, rng: np.random.Generator, seconds: float = 12.0) -> Recording:
    """One invented recording: walking shakes, rest does not; persons differ in posture."""
    t = np.arange(round(seconds * 20)) / 20
    shake = 0.8 if label == "walk" else 0.05
    acc = np.stack([shake * np.sin(2 * np.pi * (1 + 0.1 * c) * t + person) for c in range(3)], axis=1)
    acc[:, 2] += 1 + 0.02 * person
    acc += 0.02 * rng.normal(size=acc.shape)
    eda = 3 + person * 0.2 + 0.1 * rng.normal(size=(round(seconds * 4), 1)).cumsum(0)
    return Recording(
        id=f"p{person:02d}-{index}",
        person=f"p{person:02d}",
        streams={
            "acc": Signal(values=acc, rate_hz=20.0, channels=("x", "y", "z"), unit="g"),
            "eda": Signal(values=np.clip(eda, 0, 40), rate_hz=4.0, channels=("eda",), unit="uS"),
        },
        labels={"activity": label},
        attributes={"sex": "f" if person % 2 else "m"},
    )


def recordings(persons: int = 4, each: int = 2, seed: int = 0, seconds: float = 12.0) -> list[Recording]:
    rng = np.random.default_rng(seed)
    return [recording(p, i, ("rest", "walk")[i % 2], rng, seconds) for p in range(persons) for i in range(each)]


def consents(persons: int = 4) -> dict[str, Consent]:
    return {f"p{p:02d}": Consent() for p in range(persons)}


@pytest.fixture
def cohort(home: Path) -> Cohort:
    return Cohort.build(recordings(), card=CARD, consents=consents())


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium: the system's, the one on PATH, or Playwright's own; without any the tests are skipped."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
    with sync_api.sync_playwright() as p:
        found = [x for x in ("/usr/bin/chromium", shutil.which("chromium"), shutil.which("google-chrome")) if x]
        found = [x for x in found if Path(x).exists()] or [p.chromium.executable_path]
        if not Path(found[0]).exists():
            pytest.skip("no Chromium found: install it, or run `playwright install chromium`")
        made = p.chromium.launch(
            executable_path=found[0], args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        )
        yield made
        made.close()
