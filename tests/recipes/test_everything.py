"""Wearables, voice, face, words and a phone's log in one sequence: its layout, and every verb on it (simulated_life/*_all.yaml)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from mien.backbones import tiny
from mien.core import config
from mien.core.config import Plugin
from mien.core.records import Cohort, CohortCard, Events, Signal, Text
from mien.core.results import Report
from mien.data.load import open_cohort
from mien.evaluation.report import samples
from mien.generation import sample
from mien.generation.grammar import START, constrain, node_of
from mien.generation.layout import Layout
from mien.generation.tokens import Documents, Written
from mien.generation.vocabulary import BOS, CONTEXT_0, EOS, MADE, PAD, STREAM_0

from .conftest import Lab

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
STUDY = "recipes/simulated_life/{}_all.yaml"


def shipped(brief: bool = False) -> Written:
    """brief: of fewer words and events in shorter windows, so that random strings end soon."""
    raw = config.read(STUDY.format("adapt"))
    for codec in raw["codecs"] if brief else ():
        codec |= {"text": {"most": 24, "utterances": 3}, "events": {"most": 5}}.get(codec["name"], {})
    raw |= {"seconds": 6, "stride_s": 6} if brief else {}
    return config.parse(Written, {k: v for k, v in raw.items() if k in Written.model_fields}, "adapt_all")


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    """The layout of the shipped recipe, four recordings, their documents, and a layout as `shipped(brief=True)`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MIEN_CACHE", str(tmp_path_factory.mktemp("everything")))
        recipe, few = shipped(), {"persons": 2, "sessions": 2, "seconds": 30}
        cohort, _ = open_cohort(Plugin(**{**recipe.cohort.model_dump(), **few, "missing": 0.0}), "training")
        layout = recipe.layout(cohort.card)
        kept = list(cohort)
        made = Documents.encode(
            cohort, layout, stride_s=recipe.stride_s, condition=recipe.condition, seed=recipe.seed, quiet=True
        )
        return layout, kept, [made[i] for i in range(len(made))], shipped(brief=True).layout(cohort.card)


def test_a_document_holds_every_modality_and_the_log_comes_back_exactly(everything):
    layout, recordings, documents, _ = everything
    assert [p.name for p in layout.parts][-3:] == ["head", "transcript", "phone"]
    assert len(documents) == 8
    assert all(layout.grammar.accepts(d) for d in documents)
    assert any(MADE in d for d in documents)  # conditioned on a recording
    whole = [set(layout.decode(d)[1]) for d in documents]
    assert set().union(*whole) == set(layout.streams)
    for r in recordings[:1]:
        window = {n: s for n, v in r.streams.items() if n in layout.streams and (s := v.cut(0, 15)) is not None}
        back = layout.round_trip(window, str(r.labels["stress"]))
        assert back.keys() == window.keys()
        log, was = back["phone"], window["phone"]
        assert isinstance(log, Events)
        assert isinstance(was, Events)
        for name in ("times_s", "durations_s", "codes"):
            assert np.array_equal(getattr(log, name), getattr(was, name)), name


def walked(layout: Layout, rng: np.random.Generator, all_parts: bool) -> np.ndarray:
    """A string of the grammar, any of the tokens that may come next being as likely, or with no part left out."""
    state, ids = START, []
    while not ids or ids[-1] != EOS:
        may = np.flatnonzero(layout.grammar.allowed(state))
        begins = may[(may >= STREAM_0) & (may < CONTEXT_0)]
        token = int(begins[0] if all_parts and len(begins) else rng.choice(may))
        token = BOS if not ids else token  # no padding in front
        ids.append(token)
        state = int(layout.grammar.step(np.array([state]), np.array([token]))[0])
        assert node_of(state) != 0
        assert len(ids) <= 2 * layout.length
    return np.array(ids, np.int32)


def sound(streams, layout: Layout) -> bool:
    """Whether every stream is as its specification says, and finite."""
    for name, s in streams.items():
        spec = layout.streams[name]
        if isinstance(s, Signal):
            assert spec.range is not None
            assert np.isfinite(s.values).all(), name
            assert spec.range[0] - 1e-3 <= s.values.min() <= s.values.max() <= spec.range[1] + 1e-3, name
            assert len(s.values) == round(layout.seconds * spec.rate_hz)
        elif isinstance(s, Events):
            assert s.kinds == spec.channels
            assert (s.times_s < layout.seconds).all()
        else:
            assert isinstance(s, Text)
            assert set(s.speakers) <= set(spec.channels)
    return True


def test_every_string_of_the_grammar_decodes(everything):
    layout = everything[-1]
    rng = np.random.default_rng(0)
    for all_parts in (True, False, False, False):
        _, streams = layout.decode(walked(layout, rng, all_parts))
        assert sound(streams, layout)
        assert streams.keys() == layout.streams.keys() or not all_parts


def test_a_report_shows_the_timeline_the_player_the_face_and_the_words(everything):
    layout, recordings = everything[-1], everything[1]
    windows = [
        {n: s for n, v in recordings[0].streams.items() if n in layout.streams and (s := v.cut(0, 6)) is not None}
    ]
    card = CohortCard(name="x", licence="", consent="", streams=layout.streams)
    page = "".join(p.svg + p.players for p in samples.shown(windows, ["calm"], card, ""))
    for said in (
        "received</text>",
        "face (intensity)</text>",
        "AU01_r</text>",
        "participant</text>",
        "<audio controls",
    ):
        assert said in page, said


def test_a_model_that_knows_nothing_writes_valid_documents_alone(everything):
    """At random initialisation, from its labels."""
    layout = everything[-1]
    shape = tiny.Shape(hidden=16, layers=1, heads=2, feed_forward=16, context=4096)
    model = constrain(tiny.fresh(shape, layout.vocabulary.size, 0), layout.grammar, 0)
    prompts = [layout.prompt(c) for c in layout.classes]
    rows = sample.documents(model, layout, lambda ids: ids, prompts, temperature=1.0, seed=0)
    assert all(layout.grammar.accepts(d[d != PAD]) for d in rows)
    for r in sample.recordings([[d[d != PAD]] for d in rows], layout):
        assert sound(r.streams, layout)


# --- the loop ---------------------------------------------------------------------------------------------------

NAME = "simulated_life_all"
COHORT = {"persons": 8, "sessions": 2, "seconds": 20}
SMALL = [
    "seconds=10", "stride_s=10", *(f"cohort.{k}={v}" for k, v in COHORT.items()), "backbone.recipe=base.yaml", "train.threads=1",
    "lora.rank=4", "cohort.missing=0",
]  # fmt: skip
FEW = [
    "simulate={per_label: 12, pairs: 40, judge_again: 6}",
    "minimum_alpha=-1",
    "bounds={win_rate: null}",
    "threads=1",
]


def run_of(lab: Lab, verb: str, study: str) -> Path:
    (run,) = (lab.folder / "runs").glob(f"{verb}-{study}-*")
    return run


def report(lab: Lab, verb: str, study: str) -> Report:
    return Report.read(run_of(lab, verb, study) / "release" / "report.json")


def values(lab: Lab, verb: str, study: str) -> dict[str, float | None]:
    return {r.metric: r.value for r in report(lab, verb, study).results}


@pytest.fixture(scope="module")
def loop(tmp_path_factory):
    """A base of a few steps, and the adapter of a few persons; what is not small is as shipped."""
    lab = Lab(tmp_path_factory.mktemp("loop") / "everything")
    lab.folder.mkdir()
    base = {
        "extends": str(RECIPES / "simulated_life" / "pretrain_all.yaml"), "study": "everything_base", "seconds": 10, "stride_s": 10,
        "shape": {"hidden": 32, "layers": 2, "heads": 2, "feed_forward": 64}, "cohort": COHORT,
        "train": {"max_steps": 40, "batch": 8, "threads": 1},
    }  # fmt: skip
    (lab.folder / "base.yaml").write_text(yaml.safe_dump(base))
    lab.run("adapt", STUDY.format("adapt"), *SMALL, "train.max_steps=6")
    return lab


@pytest.mark.slow
def test_from_recordings_to_a_report_with_everything_in_it(loop):
    loop.run("generate", STUDY.format("generate"), "sampling.per_label=8", "sampling.batch=16")
    loop.run("attack", STUDY.format("attack"), "profile=quick")
    loop.run("evaluate", STUDY.format("evaluate"))
    assert values(loop, "generate", NAME)["valid sequences"] == 1.0
    made = Cohort.read(run_of(loop, "generate", NAME) / "release" / "cohort")
    assert {n for r in made for n in r.streams} == set(shipped().streams)
    found = values(loop, "evaluate", NAME)
    assert found["TSTR accuracy"] is not None
    assert found["TSTR macro-F1 stream phone"] is not None
    assert any(n.startswith("KS phone.") and v is not None for n, v in found.items())
    attacked = values(loop, "attack", NAME)
    assert attacked["reference.auc"] is not None
    assert attacked["linkage.auc"] is not None
    page = (run_of(loop, "evaluate", NAME) / "release" / "report.html").read_text()
    assert (
        "Synthetic recordings" in page
    )  # which of its streams they have is the model's draw: how each looks is tested above
    assert "</text>" in page


@pytest.mark.slow
def test_persons_protected_over_all_modalities_and_aligned_by_dpo(loop):
    """The guarantee is of a person with all their streams; it is charged once, and holds for what experts then preferred."""
    private = f"{NAME}_private"
    given = ["train.max_steps=2", "privacy.batch=2", "privacy.rows=2"]
    loop.run("adapt", "recipes/simulated_life/adapt_all_private.yaml", *SMALL, *given)
    guarantee = report(loop, "adapt", private).guarantee or ""
    assert "(8, 1e-05)-differential privacy for each person" in guarantee
    assert "2 steps" in guarantee
    assert "settled" in loop.run("ledger", "status").stdout
    dpo = ["dpo={fresh: 8, steps: 3, batch: 4, micro_batch: 4}", f"adapter=adapt-{private}", f"study={private}"]
    loop.run("align", STUDY.format("dpo"), *FEW, *dpo)
    for k, adapter in enumerate((f"adapt-{private}", f"align-{private}")):
        made = [f"study={private}{k}", f"adapter={adapter}", "sampling.per_label=4"]
        loop.run("generate", STUDY.format("generate"), *made)
        assert values(loop, "generate", f"{private}{k}")["valid sequences"] == 1.0
        assert report(loop, "generate", f"{private}{k}").guarantee == guarantee
    is_aligned(loop, private)
    loop.run(
        "attack",
        STUDY.format("attack"),
        f"study={private}",
        f"adapter=align-{private}",
        "synthetic=null",
        "profile=quick",
    )
    assert values(loop, "attack", private)["reference.auc"] is not None


@pytest.mark.slow
def test_ppo_on_an_adapter_that_is_conditioned_on_recordings(loop):
    assert shipped().condition.given
    loop.run("align", STUDY.format("ppo"), *FEW, "ppo={fresh: 4, episodes: 8, batch: 4, epochs: 1, minibatches: 1}")
    is_aligned(loop, f"{NAME}_ppo")
    again = ["given={relation: extend}", "sampling={batch: 4}", "study=extended", f"adapter=align-{NAME}_ppo"]
    loop.run("generate", STUDY.format("generate"), *again)  # a recording may be given to it as before
    assert values(loop, "generate", "extended")["valid sequences"] == 1.0


def is_aligned(lab: Lab, study: str) -> None:
    found = values(lab, "align", study)
    assert found["valid sequences"] == 1.0
    assert found["KL to the reference"] is not None
    assert found["reference attack AUC"] is not None
    linear = run_of(lab, "align", study) / "release" / "reward" / "linear.json"
    assert json.loads(linear.read_text())["weights"]
