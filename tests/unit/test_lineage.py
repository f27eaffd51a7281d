"""What a withdrawal touches."""

from __future__ import annotations

import json

import pytest

from mien.core.runs import Run, fingerprint
from mien.data.lineage import touched, touches_command


def test_touched_runs_and_their_descendants(home, capsys):
    with Run.start("adapt", "toy", {}, {"cohort": "c"}) as adapt:
        (adapt.private / "splits.json").write_text(json.dumps({"train": ["p1"], "validation": [], "holdout": ["p2"]}))
    with Run.start("generate", "toy", {}, {"adapter": fingerprint(adapt.folder)}) as generate:
        pass
    with Run.start("evaluate", "toy", {}, {"synthetic": fingerprint(generate.folder)}) as evaluate:
        pass
    with Run.start("generate", "other", {}, {"adapter": "unrelated"}):
        pass
    runs = home / "runs"
    assert dict(touched("p1", runs)) == {
        adapt.name: "trained on them",
        generate.name: f"made from {adapt.name}",
        evaluate.name: f"made from {generate.name}",
    }
    assert dict(touched("p2", runs)) == {adapt.name: "held them out"}
    assert touched("p3", runs) == []
    assert touches_command(["p1"]) == 0
    assert generate.name.rpartition("-")[0] in capsys.readouterr().out.replace("\n", "")


def test_a_run_that_failed_is_listed_as_such(home, capsys):
    with pytest.raises(ValueError, match="x"), Run.start("adapt", "toy", {}, {"cohort": "c"}) as adapt:
        (adapt.private / "splits.json").write_text(json.dumps({"train": ["p1"], "validation": [], "holdout": []}))
        raise ValueError("x")
    assert touches_command(["p1"]) == 0  # what it wrote before is still of that person
    (row,) = [line for line in capsys.readouterr().out.splitlines() if "trained on them" in line]
    assert "failed" in row
