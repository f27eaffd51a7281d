"""Recipes: unknown keys, wrong types, extends, overrides."""

from __future__ import annotations

from pathlib import Path

import pytest

from mien.alignment import rounds
from mien.core import config, plugins
from mien.core.errors import MienError


class Inner(config.Section):
    max_steps: int = 3
    lr: float = 0.1


class Model(config.Section):
    study: str
    train: Inner = Inner()
    cohort: config.Plugin | None = None
    streams: tuple[str, ...] = ()
    utility: tuple[config.Plugin, ...] = ()


def write(folder: Path, name: str, text: str) -> Path:
    (folder / name).write_text(text)
    return folder / name


def test_extends_and_overrides(tmp_path):
    write(tmp_path, "a.yaml", "study: a\ntrain: {max_steps: 5, lr: 0.5}\ncohort: {name: watch, path: x}\n")
    b = write(tmp_path, "b.yaml", "extends: a.yaml\nstudy: b\ncohort: {name: simulated}\n")
    got = config.load(b, Model, ["train.max_steps=7"])
    assert (got.study, got.train.max_steps, got.train.lr) == ("b", 7, 0.5)
    assert got.cohort is not None
    assert got.cohort.options == {}  # another plug-in's keys do not leak into this one


@pytest.mark.parametrize(
    ("overrides", "options"),
    [
        (["cohort.name=simulated"], {}),
        (["cohort.name=watch"], {"path": "x"}),
        (["cohort.name=simulated", "cohort.persons=3"], {"persons": 3}),
        (["cohort.persons=3", "cohort.name=simulated"], {"persons": 3}),
        (["cohort={name: simulated, persons: 3}"], {"persons": 3}),
        (["cohort.persons=3"], {"path": "x", "persons": 3}),
    ],
)
def test_naming_another_plugin_drops_the_old_ones_keys(tmp_path, overrides, options):
    got = config.load(write(tmp_path, "a.yaml", "study: a\ncohort: {name: watch, path: x}\n"), Model, overrides)
    assert got.cohort is not None
    assert got.cohort.options == options


@pytest.mark.parametrize(
    ("text", "overrides", "says"),
    [
        ("study: a\ntrain: {max_step: 5}\n", [], r"unknown key 'train.max_step'; did you mean 'max_steps'\?"),
        ("study: a\nzzz: 1\n", [], "unknown key 'zzz'; the keys here are cohort, streams, study, train, utility"),
        (
            "study: a\ntrain: {max_steps: many}\n",
            [],
            "train.max_steps: input should be a valid integer.*'many'",
        ),
        ("train: {}\n", [], "'study' is missing"),
        ("stdy: a\n", [], r"unknown key 'stdy'; did you mean 'study'\? \(and 1 more\)"),
        ("study: a\n", ["streams=acc"], r"streams: a list is needed here, such as streams='\[acc\]', got 'acc'"),
        ("study: a\n", ["streams=null"], r"streams: a list is needed here, such as streams='\[…\]', got null"),
        (
            "study: a\n",
            ["utility=[tstrr]"],
            "utility.0: a section of keys is needed here, such as {name: tstrr}, got 'tstrr'",
        ),
        (
            "study: a\n",
            ["cohort=watch"],
            "cohort: a section of keys is needed here, such as {name: watch}, got 'watch'",
        ),
        ("study: a\n", ["train=3"], r"train: a section of keys is needed here \(max_steps, lr\), got 3"),
        ("study: a\n", ["train=null"], r"\(max_steps, lr\); leave the key out for the defaults, got null"),
        ("study: [\n", [], "line 2: not valid YAML"),
        ("- 1\n", [], "holds a list"),
        ("study: a\n", ["train.lr"], "key=value"),
        ("study: a\n", ["train.lr=[1"], "not valid YAML"),
        ("study: a\n", ["train.rl=1"], "did you mean 'lr'"),
        ("extends: none.yaml\nstudy: a\n", [], "a.yaml extends none.yaml: no such file in .* and no shipped recipe"),
        ("extends: recipes/watch/adap.yaml\n", [], r"a.yaml extends .*did you mean recipes/watch/adapt.yaml\?"),
        (
            "extends: watch/adapt_private.yaml\n",
            [],
            "one hop is allowed: write `extends: recipes/watch/adapt.yaml` instead",
        ),
        ("study: !!python/object/apply:os.system ['true']\n", [], "not valid YAML"),
    ],
)
def test_bad_recipes(tmp_path, text, overrides, says):
    file = write(tmp_path, "a.yaml", text)
    with pytest.raises(MienError, match=says) as e:
        config.load(file, Model, overrides)
    assert "a.yaml" in str(e.value) or "none.yaml" in str(e.value) or "override" in str(e.value)
    assert "\n" not in str(e.value)


def test_only_one_hop(tmp_path):
    write(tmp_path, "a.yaml", "study: a\n")
    write(tmp_path, "b.yaml", "extends: a.yaml\n")
    with pytest.raises(MienError, match="one hop"):
        config.read(write(tmp_path, "c.yaml", "extends: b.yaml\n"))


def test_missing_recipe_names_the_nearest(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MienError, match=r"did you mean recipes/watch/adapt.yaml"):
        config.read("recipes/watch/adap.yaml")
    assert config.read("recipes/watch/adapt.yaml")["study"] == "watch"  # shipped ones are found from anywhere


@pytest.mark.parametrize("named", ["recipes/watch/adapt.yaml", "watch/adapt.yaml"])
def test_own_recipes_extend_shipped_ones(tmp_path, monkeypatch, named):
    monkeypatch.chdir(write(tmp_path, "mine.yaml", f"extends: {named}\nstudy: mine\n").parent)
    got = config.read("mine.yaml")
    assert got == {**config.read("recipes/watch/adapt.yaml"), "study": "mine"}
    (tmp_path / named).parent.mkdir(parents=True)
    write(tmp_path, named, "study: theirs\n")  # one beside it comes first
    assert config.read("mine.yaml") == {"study": "mine"}


def test_plugins_are_files():
    assert "transform" in plugins.names("generation/codecs")
    with pytest.raises(MienError, match="did you mean 'transform'"):
        plugins.load("generation/codecs", "transfrom")
    assert plugins.load("generation/codecs", "mien.generation.codecs.transform").TOKENS
    with pytest.raises(MienError, match="cannot be imported"):
        plugins.load("generation/codecs", "no.such.module")


def test_a_file_may_lie_at_home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    asked = rounds.Asked(preferences="~/answers.jsonl", bounds={})
    with pytest.raises(MienError, match=f"cannot read the preferences {tmp_path}/answers.jsonl"):
        asked.inputs({})
    assert rounds.Asked(preferences="answers.jsonl").preferences == "answers.jsonl"
