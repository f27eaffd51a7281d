"""A binder's embeddings as soft tokens: which they are, whose they are, and what may be claimed of a model that was shown them."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent
from dp_accounting.pld import PLDAccountant
from safetensors.torch import load_file, save_file

from mien.adapters import embedded, lora, represented
from mien.adapters.lora import Lora
from mien.adapters.representation import Represent, attach
from mien.adapters.windows import encode
from mien.backbones import _behaviour, behaviour, llava, tiny
from mien.core import runs
from mien.core.config import Plugin
from mien.core.errors import MienError
from mien.core.records import Cohort, Signal, StreamSpec
from mien.core.results import Report
from mien.core.verbs import PLAIN
from mien.data.datasets import folder as folders
from mien.data.splits import Splits
from mien.generation import adapted, given
from mien.generation.layout import Layout
from mien.generation.tokens import Condition, Documents
from mien.privacy import guards
from mien.privacy.flat import Flat
from mien.privacy.gradients import PersonGradients
from mien.privacy.plan import Guarantee, PrivacySpec

from ..conftest import CARD, consents, recordings
from . import person_by_person, soft

SECONDS = 3
DIM = 8
SHAPE = behaviour.Shape(width=16, layers=1, heads=2, patches=3, dim=DIM)


@pytest.fixture(scope="module")
def layout():
    return Layout.of(CARD, seconds=float(SECONDS), task="activity", codec=Plugin(name="transform"))


@pytest.fixture(scope="module")
def towers(tmp_path_factory):
    """The behaviour towers of the invented cohort, in a folder."""
    made = tmp_path_factory.mktemp("towers")
    _behaviour.fresh(behaviour.shaped(CARD, SHAPE, SECONDS), 0).save_pretrained(made)
    return made


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """A language model of a few thousand parameters, which knows no behaviour token."""
    return soft.words(tmp_path_factory.mktemp("words"))


def of_base(towers, **more):
    return {"base": {"name": "behaviour", "weights": str(towers)}, **more}


def section(words, binder, **more):
    return Plugin(name="llava", model=str(words), binder=binder, **more)  # type: ignore[call-arg]


def opened(words, binder, layout, shown=True) -> Any:
    made = adapted.joined(section(words, binder), layout, CARD)
    eyes = embedded.of(made, CARD, layout.streams, layout.seconds)
    return adapted.open_base(made, layout, shown, eyes), eyes


def attached(made, layout):
    rows = [made.offset + r for r in layout.grammar.speaks.tolist()]
    model = lora.attach(made, Lora(rank=2), rows, 0)
    with torch.no_grad():
        for n, p in model.named_parameters():
            if "lora_B" in n:
                p.normal_(0, 0.1)
    return model


@pytest.fixture
def made(home, towers, words, layout):
    return opened(words, of_base(towers), layout)[0]


@pytest.fixture(scope="module")
def documents(layout):
    docs = layout.encode(soft.windows(SECONDS), ["rest", "rest", "walk", "walk"] * 3)
    short = layout.encode([{"eda": w["eda"]} for w in soft.windows(SECONDS)[:2]], ["rest", "walk"])
    return [*docs[:3], *short]


# --- which they are -----------------------------------------------------------------------------------------------
def by_hand(towers, window):
    """float32[towers, dim]: stream by stream, the tower alone."""
    binder = behaviour.load(behaviour.Config(weights=str(towers)))
    out = []
    for name in sorted(binder.towers):
        if name in window:
            arrays = binder.towers[name].prepare(window[name])
            inputs = {k: torch.as_tensor(v)[None] for k, v in arrays.items()}
            with torch.no_grad():
                out.append(binder.model.towers[name](**inputs)[0].numpy() * DIM**0.5)
        else:
            out.append(np.zeros(DIM, np.float32))
    return np.stack(out)


def test_soft_tokens_are_the_projector_of_the_embeddings(made, towers, layout, documents):
    model, seen = attached(made, layout).eval(), soft.windows(SECONDS)
    whole, lacking = seen[0], {"acc": seen[1]["acc"]}
    assert made.soft == 2
    packed = made.packed([whole, lacking, None])
    assert packed.shape == (3, 2, DIM)
    assert np.allclose(packed[0], by_hand(towers, whole), atol=1e-5)
    assert np.allclose(packed[1], by_hand(towers, lacking), atol=1e-5)
    assert (packed[1, 1] == 0).all()  # no skin conductance: zeros, as in a representation
    assert (packed[2] == 0).all()
    projector = model.get_base_model().model.multi_modal_projector
    with torch.no_grad():
        wanted = projector(torch.as_tensor(packed[:2]))
    assert torch.allclose(made.soften(model, [whole, lacking]), wanted, atol=1e-6)
    # and in the forward: the prompt's first places hold them, not the ids that stand there
    batch = made.batch(documents[:2], prompt=layout.prompt_length, persons=[0, 0], given=[whole, lacking])
    through = {k: v for k, v in made.inputs(batch).items() if k not in ("pixel_values", "soft")}
    with torch.no_grad():
        assert torch.allclose(
            model(**made.inputs(batch)).logits, model(**through, shown=wanted).logits, atol=1e-5
        )  # fmt: skip


def test_a_unit_sees_its_own_recording_and_no_other(made, layout, documents):
    model, seen = attached(made, layout).eval(), soft.windows(SECONDS)

    def losses(docs, shown):
        batch = made.batch(docs, prompt=layout.prompt_length, persons=[0] * len(docs), given=shown)
        with torch.no_grad():
            return made.losses(model, batch).numpy()

    mine = losses([documents[3]], [seen[0]])[0]
    for docs, shown in (
        (documents[:3], seen[1:4]), (documents[2::-1], [None, {"acc": seen[1]["acc"]}, seen[2]]), ([documents[4]], [None]),
    ):  # fmt: skip
        assert np.allclose(losses([documents[3], *docs], [seen[0], *shown])[0], mine, atol=2e-5)
    assert abs(losses([documents[3]], [seen[5]])[0] - mine) > 1e-4  # what is shown matters
    plain = made.batch([documents[3]], prompt=layout.prompt_length, persons=[0])
    with torch.no_grad():  # nothing shown, beside others that are: as without soft tokens
        alone = made.losses(model, plain)[0]
    assert np.allclose(losses([documents[3], documents[0]], [None, seen[0]])[0], alone, atol=2e-5)


def test_gradients_per_person_are_the_loops(made, layout, documents):
    """Every LoRA factor, the projector's among them, in float64; persons with several windows, one of them shown nothing."""
    model, seen = attached(made, layout).double(), soft.windows(SECONDS)
    rows = [i for i, (name, _) in enumerate(model.named_parameters()) if "projector" in name and "lora_" in name]
    assert rows
    shown, person = [seen[0], seen[1], {"acc": seen[2]["acc"]}, None, seen[4]], torch.tensor([0, 0, 1, 1, 2])

    def losses(which):
        docs = [documents[i] for i in which.tolist()]
        batch = made.batch(docs, prompt=layout.prompt_length, persons=[0] * len(docs), given=[shown[i] for i in which])
        logits = model(**made.inputs(batch)).logits  # `losses` is float32 at its end
        nll = torch.nn.functional.cross_entropy(logits[:, :-1].transpose(1, 2), batch.ids[:, 1:], reduction="none")
        counted = made._counted(batch)
        return (nll * counted).sum(1) / counted.sum(1)

    person_by_person.assert_the_same(model, losses, person)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_checks_of_a_private_run(made, layout, documents, checkpointing):
    model = attached(made, layout)
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()
    flat = Flat(model)
    gradients = PersonGradients(flat)
    assert {s.name.split(".lora_")[0].rsplit(".", 1)[-1] for s in flat.slots if "projector" in s.name} == {
        "linear_1", "linear_2",
    }  # fmt: skip
    probes = made.probes(documents[:4], prompt=layout.prompt_length, given=soft.windows(SECONDS)[:4])
    guards.check(model, made.losses, probes, flat, gradients)


def test_what_is_saved_names_no_machine_and_no_weights(home, towers, words, layout):
    made = adapted.joined(section(words, of_base(towers)), layout, CARD)
    assert adapted.joined(section(words, of_base(towers)), layout, CARD) == made  # found again
    kept = json.loads((llava.Path(made.options["model"]) / "config.json").read_text())
    assert str(home) not in json.dumps(kept)
    assert str(towers) not in json.dumps(kept)
    tower = kept["vision_config"]
    assert (tower["model_type"], tower["tokens"], tower["hidden_size"]) == ("handed_embeddings", 2, DIM)
    binder = behaviour.load(behaviour.Config(weights=str(towers)))
    assert tower["binder"] not in ("", binder.fingerprint)  # under these runs' key
    assert made.options["adapt_projector"]
    other = adapted.joined(section(words, of_base(towers, streams={"eda": "eda"})), layout, CARD)
    assert other.options["model"] != made.options["model"]
    assert opened(words, of_base(towers, streams={"eda": "eda"}), layout)[0].soft == 1


def test_a_base_in_half_precision(home, towers, words, layout, documents):
    made = adapted.joined(section(words, of_base(towers), dtype="bfloat16"), layout, CARD)
    base = adapted.open_base(made, layout, True, embedded.of(made, CARD, layout.streams, layout.seconds))
    batch = base.batch(documents[:2], prompt=layout.prompt_length, persons=[0, 0], given=soft.windows(SECONDS)[:2])
    assert torch.isfinite(base.losses(attached(base, layout), batch)).all()


def test_a_base_that_speaks_behaviour_goes_on_speaking(home, towers, layout, documents, tmp_path):
    """A tiny base, joined, says what it said; only the rows that open documents are trained."""
    base = tiny.fresh(tiny.Shape(hidden=32, layers=2, heads=2, feed_forward=48), layout.vocabulary.size, 0)
    base.config.behaviour_vocabulary = layout.vocabulary.digest
    base.save_pretrained(tmp_path / "base")
    made, _ = opened(tmp_path / "base", of_base(towers), layout)
    assert made.speaks_behaviour
    assert made.offset == 0
    alone = tiny.load(tiny.Config(weights=str(tmp_path / "base")), layout.vocabulary.size)
    adapted.constrain(alone.model, layout.grammar, 0, ())
    plain = {"prompt": layout.prompt_length, "persons": [0, 0]}
    with torch.no_grad():
        mine, theirs = (b.losses(b.model, b.batch(documents[:2], **plain)) for b in (made, alone))
    assert torch.allclose(mine, theirs, atol=1e-5)
    assert max(adapted.rows_to_train(layout, made)) < layout.vocabulary.size
    base.config.behaviour_vocabulary = "another"
    base.save_pretrained(tmp_path / "other")
    with pytest.raises(MienError, match="pretrained on other behaviour tokens"):
        opened(tmp_path / "other", of_base(towers), layout)


def test_another_cohorts_units_are_turned_into_the_towers(home, towers, words, layout):
    """The same movement in mg and another order of axes has the same embedding."""
    streams = {**CARD.streams, "acc": StreamSpec(channels=("z", "x", "y"), unit="mg", rate_hz=20.0, range=(-4e3, 4e3))}
    there = replace(CARD, streams=streams)
    window = soft.windows(SECONDS)[0]
    acc = window["acc"]
    turned = Signal(values=acc.values[:, [2, 0, 1]] * 1000, rate_hz=20.0, channels=("z", "x", "y"), unit="mg")
    made = section(words, of_base(towers))
    one, other = (embedded.of(made, card, layout.streams, float(SECONDS)) for card in (CARD, there))
    assert np.allclose(one.pack([window]), other.pack([{**window, "acc": turned}]), atol=1e-4)
    assert any("mg turned into g" in s for s in other.said)


def test_what_each_document_is_shown(home, towers, words, layout):
    made, eyes = opened(words, of_base(towers), layout)
    docs = Documents.encode(
        Cohort.build(recordings(2), card=CARD, consents=consents(2)),
        layout,
        stride_s=4.0,
        quiet=True,
        condition=Condition(soft=0.6),
        pack=made.pack,
    )
    shown = docs.beside(range(len(docs)))["given"]
    assert 0 < sum(g is None for g in shown) < len(shown)
    batch = made.batch(
        [docs[0]], prompt=layout.prompt_length, persons=[0], given=[next(g for g in shown if g is not None)]
    )
    assert batch.given.shape == (1, 2, DIM)


# --- whose they are -----------------------------------------------------------------------------------------------


def cohort_of(home, name, people="abcd", source="clinic"):
    """A cohort of people in a folder: one recording of 9 s each. Its recipe section."""
    rng = np.random.default_rng(0)
    folders.write(
        home / name, values=rng.normal(size=(len(people), 90, 1)), persons=list(people), labels=["x", "y"] * (len(people) // 2),
        name=name, source=source, task="t", rate_hz=10.0, channels=["v"], unit="g", licence="none", consent="invented",
        range=(-5.0, 5.0),
    )  # fmt: skip
    return Plugin(name="folder", root=str(home / name))  # type: ignore[call-arg]


def simulated_of(seed):
    return Plugin(name="motion", persons=2, recordings_per_person=1, seconds=6, seed=seed)  # type: ignore[call-arg]


def represent(home, people, train=("a", "b"), *, privacy=None, study="seen", seconds=float(SECONDS)):
    """A finished representation run, made by hand: no step was taken."""
    cohort = embedded.cohort_of(people)
    towers = home / f"towers-{study}"
    _behaviour.fresh(behaviour.shaped(cohort.card, SHAPE, seconds), 0).save_pretrained(towers)
    base = {"name": "behaviour", "weights": str(towers)}
    binder = represented.open_binder(Plugin(**base))
    chosen = {n: n for n in sorted(cohort.card.streams)}
    made = attach(binder, Represent(heads={}, bind="none"), Lora(rank=2), "t", cohort.card, chosen, 0)
    with torch.no_grad():
        for n, p in made.model.named_parameters():
            if "lora_B" in n:
                p.normal_(0, 0.3)
    asked = {"cohort": people.model_dump(), "backbone": base, "represent": {"bind": "none"}, "seconds": seconds}
    run = runs.Run.start("adapt", study, asked, {"base": binder.fingerprint})
    with run:
        holdout = tuple(p for p in sorted(set(cohort.column("person"))) if p not in train)
        Splits(kind="person", train=tuple(train), validation=(), holdout=holdout, seed=0).write(
            run.private / "splits.json"
        )
        represented.save(made, run.release / "adapter", seconds=seconds, chosen=chosen)
        guarantee = PLAIN
        if privacy is not None:
            plan = PrivacySpec(**{"noise_multiplier": 3.0, "batch": 2, "n": 100, **privacy}).plan(n=100, steps=5)
            told = plan.guarantee()
            told.write(run.release / "adapter" / "guarantee.json")
            guarantee = told.sentence()
        Report(
            verb="adapt", run=run.name, study=study, config={}, data_fingerprint="", guarantee=guarantee, environment={},
            restrictions=("non-commercial",),
        ).write(run.release / "report.json")  # fmt: skip
    return run.folder


def eyes_of(run, cohort, words) -> Any:
    """The run's binder as a recipe on that cohort opens it, its backbone section, and its layout."""
    card = embedded.cohort_of(cohort).card
    lay = Layout.of(card, seconds=float(SECONDS), task=next(iter(card.tasks)), codec=Plugin(name="transform"))
    made = adapted.joined(section(words, {"run": run.name}), lay, card)
    return embedded.of(made, card, lay.streams, lay.seconds), made, lay


def test_a_representations_embeddings_are_its_own(home, words):
    """Adapter and all: what later verbs compute from the run, tower by tower."""
    cohort = cohort_of(home, "study")
    run = represent(home, cohort)
    eyes, made, lay = eyes_of(run, cohort, words)
    binder = represented.open_binder(Plugin(**runs.asked(run)["config"]["backbone"]))
    restored, raw = represented.restore(binder, run / "release" / "adapter")
    seen = encode(embedded.cohort_of(cohort), binder, raw["streams"], {}, seconds=SECONDS, stride_s=SECONDS, quiet=True)
    wanted = represented.vectors(restored, seen)
    recording = next(iter(embedded.cohort_of(cohort)))
    got = eyes.pack([{"signal": recording.streams["signal"].cut(at, at + SECONDS)} for at in (0, 3, 6)])
    assert np.allclose(got[:, 0], wanted[:3] * DIM**0.5, atol=1e-5)
    assert not np.allclose(got[:, 0], represented.frozen(restored, seen)[:3] * DIM**0.5, atol=1e-3)
    assert made.options["binder"]["run"] == run.name
    assert eyes.inputs == {"binder": runs.fingerprint(run)}
    assert eyes.restrictions == ("non-commercial",)
    assert eyes.learned == ("a", "b")
    assert not any(p in json.dumps([made.model_dump(), eyes.fingerprint]) for p in ('"a"', '"b"'))


def test_a_run_is_known_by_what_it_holds(home, words):
    """The same name and another adapter, another base, or no run any more: refused by name."""
    cohort = cohort_of(home, "study")
    run = represent(home, cohort)
    eyes, made, lay = eyes_of(run, cohort, words)
    card = embedded.cohort_of(cohort).card
    base = adapted.open_base(made, lay, True, eyes)
    assert base.pack is not None
    file = run / "release" / "adapter" / "adapter_model.safetensors"
    kept = file.read_bytes()
    tensors = {k: v + 1 for k, v in load_file(file).items()}
    save_file(tensors, file)
    with pytest.raises(MienError, match=f"{run.name} is no longer what this model's soft tokens were made with"):
        adapted.open_base(made, lay, True, embedded.of(made, card, lay.streams, lay.seconds))
    file.write_bytes(kept)
    adapted.open_base(made, lay, True, embedded.of(made, card, lay.streams, lay.seconds))
    config = run / "release" / "adapter" / "adapter_config.json"
    config.write_text(config.read_text().replace('"lora_alpha": 32.0', '"lora_alpha": 16.0'))
    with pytest.raises(MienError, match="no longer what"):
        adapted.open_base(made, lay, True, embedded.of(made, card, lay.streams, lay.seconds))
    (run / "status.json").unlink()
    with pytest.raises(MienError, match=f"no finished run '{run.name}'"):
        embedded.of(made, card, lay.streams, lay.seconds)


@pytest.mark.parametrize(
    ("binder", "more", "says"),
    [
        ({}, {}, "name a representation `run`, or a binder's `base`"),
        ({"run": "adapt-seen", "base": {"name": "behaviour"}}, {}, "and not both"),
        ({"run": "adapt-seen", "streams": {"signal": "eda"}}, {}, "no tower 'eda'"),
        (
            {"run": "adapt-seen", "streams": {"acc": "signal"}},
            {},
            "is shown the stream 'acc', and cohort 'study' has signal",
        ),
        ({"run": "adapt-seen"}, {"signals": {"width": 16}}, "not from both"),
        ({"run": "adapt-seen"}, {"adapt_vision": True}, "a binder is frozen here"),
        ({"run": "adapt-long"}, {}, "represents windows of 4 s, and `seconds` is 3"),
        ({"run": "adapt-gone"}, {}, "no finished run 'adapt-gone'"),
        ({"run": "adapt-writes"}, {}, "whose recipe has a `represent:` section"),
        ({"base": {"name": "tiny", "weights": "x"}}, {}, "no towers to represent"),
        ({"rum": "adapt-seen"}, {}, "did you mean 'run'"),
    ],
)
def test_what_a_recipe_cannot_ask(home, words, binder, more, says):
    cohort = cohort_of(home, "study")
    represent(home, cohort)
    represent(home, cohort, study="long", seconds=4.0)
    with runs.Run.start("adapt", "writes", {"backbone": {"name": "tiny"}}, {}):
        pass
    card = embedded.cohort_of(cohort).card
    lay = Layout.of(card, seconds=float(SECONDS), task="t", codec=Plugin(name="transform"))
    with pytest.raises(MienError, match=says):
        adapted.joined(section(words, binder, **more), lay, card)


def test_windows_a_base_was_not_made_for(home, towers, words, layout):
    longer = replace(layout, seconds=4.0)
    eyes: Any = embedded.of(adapted.joined(section(words, of_base(towers)), longer, CARD), CARD, longer.streams, 4.0)
    with pytest.raises(MienError, match="acc: a window of 4 s, and its tower was made for 3 s"):
        eyes.pack([{"acc": recordings(1)[0].streams["acc"].cut(0, 4)}])
    card = embedded.cohort_of(simulated_of(0)).card
    other = Layout.of(card, seconds=3.0, task="movement", codec=Plugin(name="transform"))
    with pytest.raises(MienError, match="no tower 'gyro'"):
        adapted.joined(section(words, of_base(towers, streams={"gyro": "gyro"})), other, card)
    with pytest.raises(MienError, match="two streams for the tower 'acc'"):
        adapted.joined(section(words, of_base(towers, streams={"acc": "acc", "gyro": "acc"})), other, card)
    lone = replace(layout, streams={"pulse": layout.streams["eda"]})
    with pytest.raises(MienError, match="none of the streams that this recipe writes has a tower of its name"):
        adapted.joined(section(words, of_base(towers)), lone, CARD)


def test_a_stream_need_not_be_written_to_be_shown(home, towers, words, tmp_path):
    """Skin conductance is written, and movement shown beside it: in training, and wherever a recording is given."""
    lay = Layout.of(CARD, seconds=float(SECONDS), task="activity", streams=("eda",), codec=Plugin(name="transform"))
    made, _ = opened(words, of_base(towers), lay)
    assert made.soft == 1  # a base alone is shown what is written, unless the recipe says more
    made, eyes = opened(words, of_base(towers, streams={"acc": "acc", "eda": "eda"}), lay)
    assert made.soft == 2
    cohort = Cohort.build(recordings(3), card=CARD, consents=consents(3))
    encode_ = {"stride_s": 4.0, "quiet": True, "condition": Condition(soft=1.0), "pack": made.pack}
    (first, *_) = Documents.encode(cohort, lay, **encode_).beside([0])["given"]
    assert (np.abs(first).sum(1) > 0).all()
    split = Splits(kind="person", train=("p00",), validation=(), holdout=("p01", "p02"), seed=0)
    asked = given.From(relation="vary", soft=True, windows=3)
    for row in (
        [s.given.streams for s in given.sources(cohort, split, lay, asked, stride_s=4.0, valid=1.0)],
        given.slots(cohort, ["p01", "p02"], lay, asked, stride_s=4.0, valid=1.0),
    ):
        assert len(row) == 3
        assert all((np.abs(p).sum(1) > 0).all() for p in eyes.pack(row))


def test_a_model_that_is_shown_nothing_or_lost_its_binder(home, towers, words, layout, documents):
    with pytest.raises(MienError, match="no recording is given as soft tokens"):
        opened(words, of_base(towers), layout, shown=False)
    made = adapted.joined(section(words, of_base(towers)), layout, CARD)
    alone = Plugin(**{k: v for k, v in made.model_dump().items() if k != "binder"})
    base: Any = adapted.open_base(alone, layout, True)
    with pytest.raises(MienError, match="names no `binder`"):
        base.packed(soft.windows(SECONDS)[:1])


# --- what may be claimed ------------------------------------------------------------------------------------------
def test_beside_a_base_alone_nothing_is_added(home, towers, words, layout):
    eyes = opened(words, of_base(towers), layout)[1]
    for unit in ("person", "recording"):
        assert eyes.before(cohort_of(home, f"study-{unit}"), unit) is None
    assert eyes.beside(cohort_of(home, "study"), ["a"], False) == ""
    assert eyes.inputs == {}
    assert eyes.restrictions == ()


@pytest.mark.parametrize(
    ("name", "people", "source", "says"),
    [
        ("study", "abcd", "clinic", "on recordings of the persons this run is to protect"),
        ("renamed", "abcd", "clinic", "on recordings of the persons this run is to protect"),
        ("others", "wxyz", "elsewhere", "on recordings of people"),
    ],
)
def test_no_private_run_on_a_plain_representation_of_people(home, words, name, people, source, says):
    cohort, theirs = cohort_of(home, "mine"), cohort_of(home, name, people, source)
    eyes = eyes_of(represent(home, theirs, tuple(people[:2])), cohort, words)[0]
    with pytest.raises(MienError, match=says) as found:
        eyes.before(cohort, "person")
    assert "take the binder's base" in str(found.value)


@pytest.mark.parametrize(("seed", "refused"), [(0, True), (1, False)])
def test_simulated_persons_are_nobody_unless_they_are_the_same(home, words, seed, refused):
    theirs, ours = simulated_of(0), Plugin(name="motion", persons=3, recordings_per_person=2, seconds=6, seed=seed)  # type: ignore[call-arg]
    eyes = eyes_of(represent(home, theirs, ("motion-0000",)), ours, words)[0]
    if refused:
        with pytest.raises(MienError, match="the persons this run is to protect"):
            eyes.before(ours, "person")
    else:
        assert eyes.before(ours, "person") is None
        assert eyes.beside(ours, ["motion-0000"], False) == ""


def test_a_private_representation_is_counted_with_the_run(home, words):
    cohort = cohort_of(home, "study")
    eyes = eyes_of(represent(home, cohort, privacy={}), cohort, words)[0]
    before = eyes.before(cohort, "person")
    assert isinstance(before, Guarantee)
    spec = PrivacySpec(noise_multiplier=2.0, batch=2, n=50)
    alone = spec.plan(n=50, steps=7)
    both = alone.after(before)
    assert both.events() == alone.events()  # what the ledger is charged
    told = both.guarantee()
    assert told.composed == 1
    assert len(told.events) == 2
    assert max(alone.guarantee().epsilon, before.epsilon) < told.epsilon
    assert told.epsilon == composed_epsilon(told)
    assert both.spent()[-1][1] == told.epsilon
    assert "with the private training of the binder" in told.sentence()
    assert "with the private training" not in alone.guarantee().sentence()
    assert told.person_epsilon == told.epsilon
    with pytest.raises(MienError, match="for each person, and this run is to be for each recording"):
        eyes.before(cohort, "recording")


def composed_epsilon(told):
    """Of the two runs' events, composed by dp-accounting alone."""
    made = PLDAccountant()
    for e in told.events:
        step = PoissonSampledDpEvent(e["sample_rate"], GaussianDpEvent(e["noise_multiplier"]))
        made.compose(step, e["steps"])
    return pytest.approx(made.get_epsilon(told.delta), rel=1e-2)


def test_doubts_of_either_run_are_doubts_of_both(home):
    loose = PrivacySpec(noise_multiplier=3.0, batch=2, delta=1e-4).plan(n=100, steps=5).guarantee()
    tight = PrivacySpec(noise_multiplier=3.0, batch=2).plan(n=100, steps=5)
    assert any("1e-05" in d for d in tight.after(loose).not_a_claim)
    many = PrivacySpec(noise_multiplier=3.0, batch=2).plan(n=1_000_000, steps=5).guarantee()
    assert any("δ = 1e-05 is looser than 1e-07" in d for d in tight.after(many).not_a_claim)
    of_recordings = PrivacySpec(
        noise_multiplier=3.0, batch=2, unit="recording", max_recordings_per_person=2
    ).plan(n=100, steps=5)  # fmt: skip
    with pytest.raises(MienError, match="both must be for persons"):
        of_recordings.after(loose)


def test_protection_is_refused_where_the_binder_learned_from_who_is_shown(home, words):
    cohort = cohort_of(home, "study")
    eyes = eyes_of(represent(home, cohort, ("a", "b")), cohort, words)[0]
    with pytest.raises(
        MienError, match="without privacy on 1 of the 2 persons who are to be shown.*same_as: adapt-seen"
    ):
        eyes.beside(cohort, ["b", "c"], False)
    assert "without privacy on other persons" in eyes.beside(cohort, ["c", "d"], False)
    elsewhere = cohort_of(home, "others", source="elsewhere")
    for shown in (["a", "b"], ["c", "d"]):  # the same persons may go by these names there
        with pytest.raises(MienError, match="nobody can check that its persons are others"):
            eyes.beside(elsewhere, shown, False)


def test_what_is_protected_for_each_recording_adds_up_to_nothing_for_persons(home, words):
    cohort = cohort_of(home, "study")
    eyes = eyes_of(
        represent(home, cohort, ("a", "b"), privacy={"unit": "recording", "max_recordings_per_person": 2}),
        cohort,
        words,
    )[0]
    with pytest.raises(MienError, match="given.protect: .*privately for each recording"):
        eyes.beside(cohort, ["c", "d"], False)


def test_a_private_release_does_not_tell_who_was_where(home, words):
    cohort = cohort_of(home, "study")
    eyes = eyes_of(represent(home, cohort, ("a", "b")), cohort, words)[0]
    assert eyes.caveats(cohort, ["c", "d"]) == ()
    assert len(eyes.caveats(cohort, ["b", "c"])) == 1
    (said,) = eyes.caveats(cohort, None)
    assert "may have learned" in said


def test_protection_through_a_private_binder_says_so(home, words):
    cohort = cohort_of(home, "study")
    eyes = eyes_of(represent(home, cohort, ("a", "b"), privacy={}), cohort, words)[0]
    said = eyes.beside(cohort, ["a", "b"], False)
    assert "The binder they are shown through: (" in said
    assert "the two add up" in said
    assert eyes.beside(cohort, ["a", "b"], True) == ""  # the generator's own claim has it


def test_who_withdraws_from_the_representation_stops_what_is_made_with_it(home, words):
    cohort = cohort_of(home, "study")
    run = represent(home, cohort)
    eyes_of(run, cohort, words)
    (home / "study" / "persons.csv").write_text(
        "person,purposes,expires,withdrawn\n" + "".join(f"{p},default,,{'2020-01-01' * (p == 'b')}\n" for p in "abcd")
    )
    text = (home / "study" / "cohort.yaml").read_text()
    (home / "study" / "cohort.yaml").write_text(text + "persons: persons.csv\n")
    with pytest.raises(MienError, match="do not allow training"):
        eyes_of(run, cohort, words)
    writes = runs.Run.start(
        "adapt",
        "w",
        {"cohort": cohort_of(home, "other", "wx").model_dump(), "backbone": {"binder": {"run": run.name}}},
        {},
    )
    with writes:
        Splits(kind="person", train=("w",), validation=(), holdout=("x",), seed=0).write(writes.private / "splits.json")
    with pytest.raises(MienError, match="do not allow generation"):
        adapted.allowed(writes.folder, "generation")
