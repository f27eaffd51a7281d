"""What `mien demo` will do for a study, without doing it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from mien.core.errors import MienError
from mien.recipes import demo

from ..unit.test_house import ROOT

BARE = ["pretrain", "adapt", "generate", "attack", "evaluate"]


def test_the_watch_study_has_a_round_of_feedback_before_its_private_twin():
    steps = {step: verb for step, verb, *_ in demo.planned(ROOT / "recipes" / "watch")}
    assert steps["dpo"] == "align"
    order = list(steps)
    assert order.index("evaluate") < order.index("dpo") < order.index("adapt_private")
    assert all(verb == step.partition("_")[0] for step, verb in steps.items() if step != "dpo")


def test_a_study_without_an_alignment_goes_without(tmp_path):
    assert [step for step, *_ in demo.planned(tmp_path)] == BARE
    (tmp_path / "dpo.yaml").touch()
    assert [step for step, *_ in demo.planned(tmp_path)] == [*BARE, "dpo"]


def test_every_step_is_called_by_its_verb_and_a_step_that_fails_stops_the_demo(monkeypatch, capsys):
    called = []

    def run(command, **_):
        called.append(command[3:])
        return SimpleNamespace(returncode=int(command[3] == "align"))

    monkeypatch.setattr(demo.subprocess, "run", run)
    monkeypatch.setattr(demo.assets, "fetch", lambda name: None)
    with pytest.raises(MienError, match="the step dpo did not finish"):
        demo.main(["--seed", "4"])
    assert [c[0] for c in called] == [*BARE, "align"]
    assert called[-1][1].endswith("recipes/watch/dpo.yaml")
    assert called[-1][2:] == ["--seed", "4"]
    assert "together about" in capsys.readouterr().out
