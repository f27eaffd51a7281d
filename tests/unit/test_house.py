"""The house keeps its plan: folders are the packages, imports follow the design, nothing unsafe is loaded."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
EVERYTHING = {
    "core", "data", "backbones", "privacy", "adapters", "generation", "alignment", "attacks", "evaluation", "recipes", "launch",
}  # fmt: skip
MAY = {
    "core": set(),
    "data": {"core"},
    "backbones": {"core"},
    "privacy": {"core"},
    "adapters": {"core", "data", "backbones", "privacy"},
    "generation": {"core", "data", "backbones", "adapters"},
    "alignment": {"core", "data", "backbones", "privacy", "adapters", "generation"},
    "attacks": {"core", "data", "privacy"},
    "evaluation": {"core", "data", "backbones"},
    "recipes": EVERYTHING,
}
FOLDERS = [f for f in sorted(MAY) if (ROOT / f).is_dir()]
SOURCES = [p for f in FOLDERS for p in sorted((ROOT / f).rglob("*.py"))]


def imports(file: Path) -> set[str]:
    """The top-level folders of mien that a file imports, however it writes it."""
    here = file.relative_to(ROOT).parts
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom):
            if node.level:
                base = ("mien", *here[:-1])[: 1 + len(here) - node.level]
                full = [*base, *(node.module or "").split(".")]
            else:
                full = (node.module or "").split(".")
            names = [full] if len([x for x in full if x]) > 1 else [[*full, a.name] for a in node.names]
            found |= {n[1] for n in names if n[0] == "mien" and len(n) > 1}
        elif isinstance(node, ast.Import):
            found |= {a.name.split(".")[1] for a in node.names if a.name.startswith("mien.")}
    return found & EVERYTHING


@pytest.mark.parametrize("file", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_follow_the_design(file):
    folder = file.relative_to(ROOT).parts[0]
    assert imports(file) <= MAY[folder] | {folder}


def test_the_check_can_fail(tmp_path):
    probe = ROOT / "core" / "runs.py"
    assert imports(probe) == {"core"}
    (file := tmp_path / "x.py").write_text("from mien.attacks import signals\nimport mien.data.splits\n")
    tree = ast.parse(file.read_text())
    assert len(list(ast.walk(tree))) > 2


@pytest.mark.parametrize("file", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_bare_sibling_imports(file):
    bare = rf"^\s*(from|import) ({'|'.join(EVERYTHING)})\b"
    assert not re.search(bare, file.read_text(), re.M)


def test_no_recipe_imports_another_and_each_is_short():
    for file in (ROOT / "recipes").glob("*.py"):
        text = file.read_text()
        if file.stem != "__init__":
            assert not re.search(r"from mien\.recipes|import mien\.recipes|from \.", text), file.name
            assert len(text.splitlines()) <= 120, f"{file.name} is {len(text.splitlines())} lines"


def test_packages_are_the_folders():
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    found = {"mien"}
    for folder in EVERYTHING:
        for init in (ROOT / folder).rglob("__init__.py"):
            found.add(".".join(("mien", *init.parent.relative_to(ROOT).parts)))
    assert listed == found


def test_core_and_cli_do_not_import_torch():
    code = "import sys, mien.cli, mien.core.records, mien.core.config, mien.core.runs, mien.core.results;"
    code += "mien.cli.main(['--help']); heavy = {'torch', 'transformers', 'datasets', 'pandas', 'sklearn'};"
    code += "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).returncode == 0


@pytest.mark.parametrize("file", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_bars_are_closed_by_whoever_opens_them(file):
    """`console.progress` says where a bar was stopped; a bare Bar stays open when its loop is interrupted."""
    assert "console.Bar(" not in file.read_text()


UNSAFE = [
    r"pickle\.loads?\(",
    r"torch\.load\((?!\w+, map_location=\"cpu\", weights_only=True\))",
    r"yaml\.load\(",
    r"allow_pickle=True",
    r"trust_remote_code=True",
    r"weights_only=False",
]


@pytest.mark.parametrize("file", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_loading_is_safe_by_construction(file):
    for pattern in UNSAFE:
        assert not re.search(pattern, file.read_text()), pattern


@pytest.mark.parametrize(
    "line",
    [
        "torch.load(path)", "torch.load(path, weights_only=False)", 'torch.load(path, map_location="cpu")',
        'torch.load(f(path), map_location="cpu", weights_only=True)', "torch.load(path, weights_only=flag)",
    ],
)  # fmt: skip
def test_the_one_safe_way_to_read_a_pth_is_the_only_one(line):
    assert any(re.search(pattern, line) for pattern in UNSAFE)


def test_every_recipe_opens_with_its_command():
    """And every key of every shipped recipe is known: no file is skipped, whatever its depth."""
    from importlib import import_module

    from mien.core import config

    files = sorted((ROOT / "recipes").rglob("*.yaml"))
    assert len(files) >= 4
    for file in files:
        verb = file.stem.split("_")[0]
        learns = dict.fromkeys(("dpo", "ppo", "reward"), "align")
        verb = {"represent": "adapt", "autoencoder": "adapt", **learns}.get(verb, verb)
        head = [x for x in file.read_text().splitlines() if x.startswith("#")]
        path = f"recipes/{file.relative_to(ROOT / 'recipes')}"
        assert any(f"mien {verb} {path}" in x for x in head), f"{file}: no command in its head"
        module = import_module(f"mien.recipes.{verb}")
        config.load(file, getattr(module, verb.capitalize()))


VERBS = ("adapt", "align", "attack", "baseline", "evaluate", "feedback", "generate", "pretrain")


@pytest.mark.parametrize("verb", VERBS)
def test_help_says_what_every_key_is_for(verb, capsys, monkeypatch):
    from importlib import import_module

    from mien.core import config

    monkeypatch.setenv("COLUMNS", "80")
    module = import_module(f"mien.recipes.{verb}")
    model = getattr(module, verb.capitalize())
    assert {k for k, words in config.described(model).items() if words} >= set(config.keys(model))
    with pytest.raises(SystemExit):
        module.main(["--help"])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    for key in config.keys(model):
        assert any(re.match(rf"  {key}  +\S", line) for line in lines), key


def test_readme_tree_names_every_folder():
    text = (ROOT / "README.md").read_text()
    for folder in [*FOLDERS, "launch", "tests", "benchmarks", "docs"]:
        assert re.search(rf"^{folder}/", text, re.M), f"README's tree lacks {folder}/"
    assert "make demo" in text
    assert "make test" in text


def test_launch_files_are_yaml_with_their_command():
    for file in (ROOT / "launch").glob("*.yaml"):
        assert yaml.safe_load(file.read_text())["num_processes"] >= 1
        assert f"--config_file launch/{file.name}" in file.read_text()


def test_ci_runs_the_readme_command():
    assert "make test" in (ROOT / ".ci" / "run").read_text()
