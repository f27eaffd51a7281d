"""What is asked of an adapter, a layout or a base that cannot do it is refused by name, before anything is computed."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

from mien.alignment import experts
from mien.alignment.rounds import Asked
from mien.backbones import tiny
from mien.core import config, verbs
from mien.core.config import Plugin
from mien.core.errors import MienError
from mien.core.records import Cohort, CohortCard, Signal, StreamSpec
from mien.generation import sample
from mien.generation.given import From, require
from mien.generation.layout import Layout
from mien.generation.sample import Sampling
from mien.generation.tokens import Condition, Written
from mien.recipes.adapt import Adapt
from mien.recipes.align import Align
from mien.recipes.feedback import Feedback
from mien.recipes.generate import Generate
from mien.recipes.pretrain import Speaking

from ..conftest import CARD, recordings

TRAINED = {
    "seconds": 20, "condition": Condition(vary=0.3).model_dump(mode="json"),
    "contexts": {"age": {"edges": [30, 50]}, "device": {"classes": ["wrist", "chest"]}},
}  # fmt: skip
VARY, GIVEN = {"relation": "vary"}, {"batch": 5}


@pytest.mark.parametrize(
    ("sampling", "given", "says"),
    [
        ({"seconds": 50}, None, "sampling.seconds: .*condition: {extend: 0.3}"),
        ({"guidance": 3}, None, "sampling.guidance: .*condition: {unlabelled: 0.1}"),
        (GIVEN, {"relation": "extend"}, "given.relation: .*condition: {extend: 0.3}"),
        (GIVEN, {"relation": "translate", "streams": ["bvp"]}, "given.relation: .*condition: {translate: 0.3}"),
        ({"contexts": {"device": "wrsit"}}, None, "sampling.contexts.device: 'wrsit' is none of wrist, chest"),
        ({"contexts": {"age": "35"}}, None, "'35' is none of < 30, 30 to 50, >= 50 .*without quotes"),
        ({"per_label": 9}, VARY, "sampling.per_label means nothing beside `given`"),
        ({"counts": {"calm": 9}}, VARY, "sampling.counts means nothing"),
        ({"contexts": {"age": 35}}, VARY, "sampling.contexts means nothing"),
    ],
)
def test_what_an_adapter_cannot_do_is_refused(sampling, given, says):
    with pytest.raises(MienError, match=says):
        require(TRAINED, Sampling(**sampling), From(**given) if given else None)


@pytest.mark.parametrize(
    ("sampling", "given"),
    [
        ({}, None),
        ({"seconds": 20}, None),
        ({"seconds": 5, "per_label": 3}, None),
        ({"contexts": {"age": 35, "device": "chest"}}, None),
        ({"contexts": {"age": "30 to 50"}}, None),
        (GIVEN, VARY),
    ],
)
def test_what_an_adapter_can_do_is_not(sampling, given):
    require(TRAINED, Sampling(**sampling), From(**given) if given else None)


def test_no_shipped_recipe_asks_for_what_its_adapter_cannot_do():
    adapts = [
        config.parse(Adapt, config.read(file), str(file)) for file in sorted(config.RECIPES.glob("*/adapt*.yaml"))
    ]
    trained = {f"adapt-{a.study}": a.model_dump(mode="json") for a in adapts}
    for file in sorted(f for method in ("dpo", "ppo") for f in config.RECIPES.glob(f"*/{method}*.yaml")):
        align = config.parse(Align, config.read(file), str(file))
        trained[f"align-{align.study}"] = trained[align.adapter]  # what it could do it still can
    files = [f for f in sorted(config.RECIPES.glob("*/generate*.yaml")) if "autoencoder" not in f.name]
    assert files
    for file in files:
        lines = [line for line in file.read_text().splitlines() if line.startswith("#   mien generate")]
        for line in [str(file), *lines]:
            overrides = shlex.split(line.partition(".yaml")[2])
            made = config.parse(Generate, config.read(file, overrides), str(file))
            require(trained[made.adapter], made.sampling, made.given)


def test_so_many_of_each_label_by_their_option(tmp_path):
    (tmp_path / "generate.yaml").write_text("study: toy\nadapter: adapt-toy\nsampling: {batch: 4}\n")
    recipe, _ = verbs.arguments("generate", "", Generate, [str(tmp_path / "generate.yaml"), "--num-per-label", "7"])
    assert (recipe.sampling.per_label, recipe.sampling.batch) == (7, 4)


@pytest.mark.parametrize(
    ("verb", "model", "raw", "option", "key", "value"),
    [
        ("align", Align, {"adapter": "adapt-toy"}, ["--rounds", "3"], "rounds", 3),
        ("feedback", Feedback, {"synthetic": "generate-toy"}, ["--simulate"], "simulate", experts.Config()),
    ],
)
def test_keys_that_are_asked_for_as_options(tmp_path, capsys, verb, model, raw, option, key, value):
    (tmp_path / "toy.yaml").write_text(yaml.safe_dump({"study": "toy", **raw}))
    recipe, _ = verbs.arguments(verb, "", model, [str(tmp_path / "toy.yaml"), *option])
    assert getattr(recipe, key) == value
    assert getattr(verbs.arguments(verb, "", model, [str(tmp_path / "toy.yaml")])[0], key) != value
    with pytest.raises(SystemExit):
        verbs.arguments(verb, "", model, ["--help"])
    assert option[0] in capsys.readouterr().out


def test_a_private_cohort_is_said_to_be_private_on_purpose(tmp_path):
    (tmp_path / "private" / "cohort").mkdir(parents=True)
    with pytest.raises(MienError, match=r"private on purpose.*given\.protect"):
        sample.cohort_of(tmp_path)


@pytest.mark.parametrize(("seconds", "stride_s", "good"), [(4, 2, True), (4, 4, True), (4, 3, False), (4, 1.3, False)])
def test_windows_that_extend_one_another_have_to_meet(seconds, stride_s, good):
    raw = {"study": "toy", "cohort": {"name": "motion"}, "task": "movement", "seconds": seconds, "stride_s": stride_s}
    config.parse(Written, raw, "toy.yaml")
    extending = raw | {"condition": {"extend": 0.5}}
    if good:
        config.parse(Written, extending, "toy.yaml")
    else:
        with pytest.raises(MienError, match=f"stride_s = {stride_s:g} no window of 4 s ends so"):
            config.parse(Written, extending, "toy.yaml")


@pytest.mark.parametrize("context", [24, 1024])
def test_documents_longer_than_the_base_are_refused(home, context):
    cohort = Cohort.build(recordings(), card=CARD)
    recipe = Written(study="toy", cohort=Plugin(name="x"), task="activity", seconds=2, stride_s=2)
    shape = tiny.Shape(hidden=32, layers=1, heads=2, feed_forward=48, context=context)
    asked = SimpleNamespace(**{**dict(recipe), "layout": recipe.layout, "shape": shape})
    if context == 1024:
        made = Speaking(asked, cohort)
        with pytest.raises(MienError, match="a document has 1025 tokens and the base .* 1024 positions"):
            made.base.batch([np.ones(1025, np.int32)], prompt=2, persons=[0])
    else:
        with pytest.raises(MienError, match=r"24 positions: take shorter .*shape\.context"):
            Speaking(asked, cohort)


def _card(*streams: str) -> CohortCard:
    specs = {
        "acc": StreamSpec(channels=("x", "y", "z"), unit="g", rate_hz=20.0, range=(-4.0, 4.0)),
        "eda": StreamSpec(channels=("eda",), unit="uS", rate_hz=4.0, range=(0.0, 60.0)),
        "bvp": StreamSpec(channels=("bvp",), unit="a.u.", rate_hz=32.0, range=(-5.0, 5.0)),
    }
    return CohortCard(
        name="one", licence="", consent="", tasks={"activity": ("rest", "walk")}, attributes=("sex",),
        streams={n: specs[n] for n in streams},
    )  # fmt: skip


def _layout(stream: str, codec: str, seconds: float) -> Layout:
    return Layout.of(_card(stream), seconds=seconds, task="activity", codec=Plugin(name=codec))


def test_beats_of_windows_that_cannot_be_added_up_are_refused():
    assert _layout("bvp", "beats", 7200).length
    with pytest.raises(MienError, match="stream 'bvp': windows of 9000 s are longer than the beats codec can add up"):
        _layout("bvp", "beats", 9000)


@pytest.mark.parametrize(
    ("stream", "codec", "factor", "level", "coded"),
    [
        ("eda", "eda", 1, 5, True),
        ("eda", "eda", 1000, 5, False),  # in nS
        ("eda", "eda", 1, -0.2, True),  # a sensor's offset
        ("acc", "motion", 1, 1, True),
        ("acc", "motion", 1000, 1, False),  # in mg
        ("acc", "transform", 1000, 1, False),
    ],
)
def test_a_stream_in_another_unit_than_it_says_is_refused_and_counted(stream, codec, factor, level, coded):
    lay, spec = _layout(stream, codec, 20), _card(stream).streams[stream]
    rng = np.random.default_rng(0)
    values = factor * (level + 0.1 * rng.normal(size=(round(20 * spec.rate_hz), len(spec.channels))))
    signal = Signal(values=values, rate_hz=spec.rate_hz, channels=spec.channels, unit=spec.unit)
    refused: Counter[str] = Counter()
    (document,) = lay.encode([{stream: signal}], ["rest"], refused=refused)
    assert (document is not None) == coded
    said = {f"nearly no value of {stream} within its range: is it in another unit than {spec.unit}?": 1}
    assert refused == ({} if coded else said)


def world(kind: str, processes: int, zero: int = 2):
    plugin = SimpleNamespace(zero_stage=zero)
    return SimpleNamespace(
        distributed_type=SimpleNamespace(value=kind),
        num_processes=processes,
        state=SimpleNamespace(deepspeed_plugin=plugin),
    )


@pytest.mark.parametrize(
    ("asked", "where", "says"),
    [
        ({}, world("FSDP", 2), "not under FSDP"),
        ({}, world("DEEPSPEED", 2, 3), "ZeRO-1 or 2"),
        ({"dpo": {"batch": 9}}, world("MULTI_CPU", 2), "dpo.batch: 9 must be a multiple of the 2"),
        ({"dpo": {"batch": 12, "micro_batch": 4}}, world("MULTI_CPU", 2), "4 does not divide the 6"),
        ({"method": "ppo"}, world("DEEPSPEED", 2), "use launch/ddp.yaml"),
        ({"method": "ppo", "ppo": {"batch": 6, "minibatches": 2}}, world("MULTI_CPU", 2), "2 does not divide the 3"),
        ({"method": "ppo", "reward": {"batch": 5}}, world("MULTI_CPU", 2), "reward.batch: 5"),
        ({"method": "reward", "reward": {"batch": 5}}, world("MULTI_CPU", 2), "reward.batch: 5"),
        ({"method": "reward"}, world("FSDP", 2), "not under FSDP"),
    ],
)
def test_a_launch_that_cannot_work_is_refused_at_once(asked, where, says):
    with pytest.raises(MienError, match=re.escape(says)):
        config.parse(Asked, asked, "align").fits(where)


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"method": "dpo"}, "is for `method: ppo`"),
        ({"method": "reward"}, "is for `method: ppo`"),
        ({"method": "ppo", "reward": {"run": "align-x", "kind": "linear"}}, "`reward.kind: neural`"),
        ({"method": "ppo", "rounds": 2}, "nobody is asked again"),
        ({"method": "ppo", "preferences": "pairs.jsonl"}, "nobody is asked again"),
        ({"method": "ppo", "weigh": True}, "nobody is asked again"),
    ],
)
def test_a_reward_that_is_there_already_is_for_ppo_alone(asked, says):
    with pytest.raises(MienError, match=re.escape(says)):
        config.parse(Asked, {"reward": {"run": "align-x"}, **asked}, "align").inputs({})


@pytest.mark.parametrize(
    ("asked", "where"),
    [
        ({"dpo": {"batch": 4, "micro_batch": 16}}, world("MULTI_CPU", 2)),  # at most sixteen at a time
        ({}, world("DEEPSPEED", 2)),
        (
            {"method": "ppo", "reward": {"kind": "linear", "batch": 5}},
            world("MULTI_CPU", 2),
        ),  # no reward model to train
        ({"privacy": {"noise_multiplier": 1.0, "batch": 3}, "dpo": {"batch": 9}}, world("FSDP", 2)),  # Mien's own loop
    ],
)
def test_a_launch_that_works_is_taken(asked, where):
    config.parse(Asked, asked, "align").fits(where)
