"""What a withdrawal touches."""

from __future__ import annotations

import json

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
