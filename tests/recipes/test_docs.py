"""The commands and code in docs/ are run as a reader would run them (with fewer training steps by default)."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mien.core.records import Cohort
from mien.core.results import Report

from .conftest import Lab, lab

DOCS = Path(__file__).resolve().parents[2] / "docs"
QUICK = {
    "mien adapt": " train.max_steps=10 train.threads=1 backbone.recipe=pretrain.yaml",
    "mien generate": " sampling.per_label=12",
}


def blocks(page: str, language: str) -> list[str]:
    text = (DOCS / page).read_text()
    return [b.replace("\\\n", " ") for b in re.findall(rf"^```{language}\n(.*?)^```", text, re.M | re.S)]


def environment(made: Lab) -> dict[str, str]:
    return {**made.env, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def through(made: Lab, quick: bool) -> None:
    """docs/bring-your-own.md from its numpy script to its report."""
    script = blocks("bring-your-own.md", "python")[0]
    (made.folder / re.match(r"# (\S+\.py)", script).group(1)).write_text(script)
    commands = [c for b in blocks("bring-your-own.md", "bash")[:2] for c in b.splitlines() if c.strip()]
    assert [c.split()[1] for c in commands if c.startswith("mien")] == [
        "data", "data", "adapt", "generate", "attack", "evaluate",
    ]  # fmt: skip
    for command in commands:
        more = next((v for k, v in QUICK.items() if command.startswith(k)), "") if quick else ""
        done = subprocess.run(
            command + more, shell=True, cwd=made.folder, env=environment(made), capture_output=True, text=True
        )
        assert done.returncode == 0, f"{command}\n{done.stdout[-1500:]}{done.stderr[-2500:]}"
        if command.startswith("mien data pack") and quick:
            with open(made.folder / "my-study" / "cohort.yaml", "a") as f:
                f.write("restrictions: [non-commercial, attribution]\n")
    (run,) = (made.folder / "runs").glob("evaluate-folder-*")
    page = (run / "release" / "report.html").read_text()
    assert "TSTR accuracy" in page
    assert not re.search(r"\bP[0-7]\b", page)  # the invented persons
    assert list((made.folder / "runs").glob("generate-folder-*/release/cohort/cohort.json"))
    assert list((made.folder / "runs").glob("adapt-folder-*/release/adapter/adapter_model.safetensors"))


def test_your_own_arrays_to_a_report(tmp_path):
    """And what the licence asks goes with everything made from the recordings."""
    made = lab(tmp_path / "quick")
    through(made, quick=True)
    runs, asked = made.folder / "runs", ("attribution", "non-commercial")
    for verb in ("adapt", "generate", "attack", "evaluate"):
        (run,) = runs.glob(f"{verb}-folder-*")
        assert Report.read(run / "release" / "report.json").restrictions == asked, verb
    (cohort,) = runs.glob("generate-folder-*/release/cohort")
    card = Cohort.read(cohort).card
    assert card.restrictions == asked
    assert "non-commercial" in card.licence
    (notes,) = runs.glob("adapt-folder-*/release/adapter/README.md")
    assert "**non-commercial**: no commercial use" in notes.read_text()
    (page,) = runs.glob("evaluate-folder-*/release/report.html")
    assert "Bound by the licence of the recordings" in page.read_text()


@pytest.mark.slow
def test_your_own_arrays_to_a_report_as_written(tmp_path):
    through(lab(tmp_path / "full"), quick=False)


def test_the_commands_on_feedback_are_of_recipes_and_keys_that_exist():
    """They take hours together; tests/recipes/test_align.py goes the same way on a toy."""
    from importlib import import_module

    from mien.core import verbs

    commands = [c.split() for b in blocks("feedback.md", "bash") for c in b.splitlines() if c.strip()]
    assert len(commands) > 5
    for mien, verb, *rest in commands:
        assert mien == "mien"
        module = import_module(f"mien.recipes.{verb}")
        recipe, _ = verbs.arguments(verb, "", getattr(module, verb.capitalize()), rest)
        assert recipe.study.startswith(("simulated", "watch"))


@pytest.mark.parametrize("name", ["two_moods", "per_token"])
def test_worked_plugins(home, tmp_path, monkeypatch, name):
    code = next(b for b in blocks("extending.md", "python") if b.startswith(f"# {name}.py"))
    package = tmp_path / f"lab_of_{name}"  # modules stay imported: one package a test
    package.mkdir()
    (package / "__init__.py").touch()
    (package / f"{name}.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    from mien.core.config import Plugin

    if name == "two_moods":
        from mien.data.load import open_cohort

        cohort, _ = open_cohort(Plugin(name="lab_of_two_moods.two_moods", persons=3), "training")  # type: ignore[call-arg]
        assert cohort.persons == ["p0", "p1", "p2"]
    else:
        import numpy as np

        from mien.attacks.signals import Signals
        from mien.core import plugins

        module, config = plugins.resolve("attacks/membership", Plugin(name="lab_of_per_token.per_token"))
        names = np.array(["a", "b"], dtype=object)
        signals = Signals(
            recording=names, person=names, label=names, member=np.array([True, False]), n_tokens=np.array([3, 3]),
            loss=np.array([1.0, 2.0]), loss_base=np.array([2.0, 2.0]), made_with="x",
        )  # fmt: skip
        assert module.score(signals, config).tolist() == [1.0, 0.0]


def test_links_between_pages_lead_somewhere():
    for page in [*DOCS.glob("*.md"), DOCS.parent / "README.md", DOCS.parent / "CONTRIBUTING.md"]:
        for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name} links to {target}"
