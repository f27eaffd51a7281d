"""What a withdrawal touches."""

from __future__ import annotations

import json

import pytest

from mien.core.runs import Run, fingerprint
from mien.data.lineage import PERSONS, touched, touches_command


def test_touched_runs_and_their_descendants(home, capsys):
    of = {"cohort": {"name": "folder", "root": "my-study"}}
    with Run.start("adapt", "toy", of, {"cohort": "c"}) as adapt:
        (adapt.private / "splits.json").write_text(json.dumps({"train": ["p1"], "validation": [], "holdout": ["p2"]}))
    with Run.start("generate", "toy", {}, {"adapter": fingerprint(adapt.folder)}) as generate:
        pass
    with Run.start("evaluate", "toy", {}, {"synthetic": fingerprint(generate.folder)}) as evaluate:
        pass
    with Run.start("attack", "toy", {}, {"adapter": fingerprint(adapt.folder)}) as attack:
        pass
    with Run.start("generate", "other", {}, {"adapter": "unrelated"}):
        pass
    with Run.start("baseline", "toy", {"cohort": {"name": "watch"}}, {"cohort": "d"}) as baseline:
        (baseline.private / PERSONS).write_text(json.dumps(["p2", "p4"]))
    runs = home / "runs"
    assert {name: why for name, _, why in touched("p1", runs)} == {
        adapt.name: "trained on them",
        generate.name: f"made from {adapt.name}",
        evaluate.name: f"made from {generate.name}",
        attack.name: f"made from {adapt.name}",
    }
    assert {name: (cohort, why) for name, cohort, why in touched("p2", runs)} == {
        adapt.name: ("folder my-study", "held them out"),
        attack.name: ("folder my-study", f"its figures are of them, as {adapt.name} held them out"),
        evaluate.name: ("folder my-study", f"its figures are of them, as {generate.name} held them out"),
        baseline.name: ("watch", "its figures are of them"),
    }
    assert [(name, why) for name, _, why in touched("p4", runs)] == [(baseline.name, "its figures are of them")]
    assert touched("p3", runs) == []
    assert touches_command(["p1"]) == 0
    said = capsys.readouterr().out
    assert "several persons" not in said
    assert generate.name.rpartition("-")[0] in said.replace("\n", "")
    assert touches_command(["p2"]) == 0
    assert "several persons" in capsys.readouterr().out


def test_a_run_that_failed_is_listed_as_such(home, capsys):
    with pytest.raises(ValueError, match="x"), Run.start("adapt", "toy", {}, {"cohort": "c"}) as adapt:
        (adapt.private / "splits.json").write_text(json.dumps({"train": ["p1"], "validation": [], "holdout": []}))
        raise ValueError("x")
    assert touches_command(["p1"]) == 0  # what it wrote before is still of that person
    (row,) = [line for line in capsys.readouterr().out.splitlines() if "trained on them" in line]
    assert "failed" in row
