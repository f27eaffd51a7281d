"""`mien feedback` on a small synthetic cohort: what one call leaves for the next."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from mien.alignment.store import Advice, Store
from mien.core import runs
from mien.core.records import Cohort, CohortCard
from mien.core.runs import Run
from mien.data.datasets import simulated
from mien.generation import sample
from mien.recipes import feedback

from . import invented

STREAMS = ("bvp", "eda")


class Studies:
    """Calls of the verb on one cohort of eight simulated recordings, and what they left."""

    def __init__(self, home: Path):
        self.home = home
        card = CohortCard(
            name="toy", licence="none", consent="invented", tasks={"stress": ("calm", "stress")},
            streams={n: simulated.STREAMS[n] for n in STREAMS},
        )  # fmt: skip
        many = [
            replace(
                r, id=sample.name(i), person=sample.name(i), attributes={}, streams={n: r.streams[n] for n in STREAMS}
            )
            for i, r in enumerate(invented.recordings("wrist", 8).values())
        ]
        with Run.start("generate", "toy", {}, {"adapter": "a" * 40}) as run:
            Cohort.store(many, run.release / "cohort", card=card)

    def call(self, *said: str, **keys: Any) -> Path:
        """The folder of the run that it was."""
        recipe = {"study": "toy", "synthetic": "generate-toy", "raters": ["ann"], "pairs": 6} | keys
        (self.home / "feedback.yaml").write_text(yaml.safe_dump(recipe))
        assert feedback.main(["feedback.yaml", *said]) == 0
        return runs.find(f"feedback-{recipe['study']}", "feedback")


def page(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text().split('id="data">')[1].split("</script>")[0])


def answers(folder: Path) -> Store:
    return Store.open(folder / "private" / "feedback.sqlite")


def report(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "release" / "report.json").read_text())


@pytest.fixture
def toy(home) -> Studies:
    return Studies(home)


def test_whom_one_study_recognised_no_other_of_the_cohort_shows(toy):
    checks = {"repeats": 0, "controls": 0}
    with answers(toy.call("export=page.html", checks=checks)) as store:
        mine = {"cohort": store.cohort, "model": store.model}
        gone = store.pairs()[0].a
        said = Advice(pair=store.pairs()[0].id, recording=gone, nonce="nonce-0000", kind="recognise")
        store.advise("ann", said, **mine)
    other = toy.call("export=page.html", checks=checks, pairs=5, study="other")
    with answers(other) as store:
        kept = [p.id for p in store.pairs() if gone not in (p.a, p.b)]
        assert 0 < len(kept) < len(store.pairs())
    assert sorted(p["pair"] for p in page(toy.home / "page.html")["pairs"]) == sorted(kept)
    assert "FLAGGED" in str(report(other)["caveats"])
