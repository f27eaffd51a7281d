"""The state machine of a layout: registers and sums, contexts, recordings that are given; against their prose."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mien.backbones import tiny
from mien.core.config import Plugin
from mien.core.errors import MienError
from mien.core.records import Cohort
from mien.generation import sample
from mien.generation.grammar import DEAD, MASKED, Grammar, constrain, node_of, ungiven
from mien.generation.layout import Context, Given, Layout
from mien.generation.machine import ANY_OWN, OWN, Machine
from mien.generation.tokens import Condition, Documents
from mien.generation.vocabulary import BOS, EOS, FIRST_CODEC, LABEL_0, MADE, PAD, RELATION_0, STREAM_0, UNLABELLED

from ..conftest import CARD, recordings

SHAPE = tiny.Shape(hidden=32, layers=2, heads=2, feed_forward=48)
F = FIRST_CODEC
# A toy of beats: a token of 3 keeps a mean, one of 2 a spread, then intervals of 4 values until 20 have passed, then a
# closing token. Interval = mean + spread * value + 1.
MEANS, SPREADS = np.arange(3) + 1, np.arange(2)
STEPS = MEANS[:, None, None] + SPREADS[None, :, None] * np.arange(4)[None, None, :] + 1
BEATS = Machine(
    nodes=4, length=24, keep={0: 0, 1: 1}, add={2: STEPS}, gates={2: (20, 3)},
    arcs=[(0, 0, 3, 1), (1, 3, 5, 2), (2, 5, 9, 2), (3, 9, 10, 4)],
)  # fmt: skip
WORDS = Machine(
    nodes=2, length=6, add={0: np.ones(1)}, gates={0: (3, 1)}, arcs=[(0, ANY_OWN, 0, 0), (0, 0, 1, 2), (1, 0, 1, 2)]
)


def prose(block) -> bool:
    """Whether a toy block of beats is whole."""
    block = list(block)
    if len(block) < 3 or not 0 <= block[0] < 3 or not 3 <= block[1] < 5 or block[-1] != 9:
        return False
    passed = 0
    for token in block[2:-1]:
        if passed >= 20 or not 5 <= token < 9:
            return False
        passed += STEPS[block[0], block[1] - 3, token - 5]
    return passed >= 20


@given(seed=st.integers(0, 2**20), edit=st.booleans())
@settings(max_examples=150, deadline=None)
def test_registers_and_sum_equal_their_prose(seed, edit):
    rng = np.random.default_rng(seed)
    block = [int(rng.integers(3)), 3 + int(rng.integers(2))]
    passed = 0
    while passed < 20:
        token = int(rng.integers(4))
        passed += STEPS[block[0], block[1] - 3, token]
        block.append(5 + token)
    block.append(9)
    if edit:
        k = int(rng.integers(len(block)))
        block = block[:k] + ([] if rng.random() < 0.5 else [int(rng.integers(10))]) + block[k + 1 :]
    grammar = Grammar.of(classes=2, blocks=[(BEATS, F), (BEATS, F)], size=F + 10)
    once = [BOS, LABEL_0, STREAM_0, *(F + b for b in block), EOS]
    assert grammar.accepts(once) == prose(block)
    # a second block begins with registers and sum anew
    twice = [*once[:-1], STREAM_0 + 1, *(F + b for b in block), EOS]
    assert grammar.accepts(twice) == prose(block)
    both = grammar.states(np.array([once, [PAD, *once[:-1]]]))
    assert np.array_equal(both[0, :-1], both[1, 1:])  # padding in front moves nothing


def slowly(grammar: Grammar, state: tuple[int, int, int, int], token: int) -> tuple[int, int, int, int]:
    """One step as `Grammar`'s fields tell it: node, two registers and the sum as numbers of their own."""
    node, one, two, total = state
    size = grammar.next.shape[1] - 1
    if token >= OWN:
        to, chosen = int(grammar.next[node, size]), 0
    elif 0 <= token < size:
        to, chosen = int(grammar.next[node, token]), token - int(grammar.lowest[node])
    else:
        to, chosen = DEAD, 0
    if to == DEAD:
        return DEAD, 0, 0, 0
    if token < FIRST_CODEC:  # outside blocks nothing is remembered
        return to, 0, 0, 0
    if grammar.at[node] >= 0:
        place = grammar.at[node] + one * grammar.by0[node] + two * grammar.by1[node] + chosen
        total += int(grammar.amounts[place])
    registers = {1: (chosen, two), 2: (one, chosen)}.get(int(grammar.keep[node]), (one, two))
    if total >= grammar.limit[to]:
        to = int(grammar.other[to])
    return to, *registers, total


@given(seed=st.integers(0, 2**20), conditioned=st.booleans(), own=st.booleans())
@settings(max_examples=100, deadline=None)
def test_steps_equal_the_fields_read_slowly(seed, conditioned, own):
    """Random walks, most of them along what is allowed, of tokens in and out of the vocabulary."""
    blocks = [(BEATS, F), (WORDS, F + 10) if own else (BEATS, F)]
    grammar = Grammar.of(classes=2, blocks=blocks, size=F + 11, conditioned=conditioned)
    rng, strange = np.random.default_rng(seed), [-1, F + 11, F + 12, OWN - 1, OWN, OWN + 7, 2**40]
    rows = np.zeros((5, 40), dtype=np.int64)
    for row in rows:
        state = (1, 0, 0, 0)
        for t in range(len(row)):
            fine = [*np.flatnonzero(grammar.next[state[0], :-1]), *([OWN + 3] if grammar.next[state[0], -1] else [])]
            row[t] = rng.choice(fine if fine and rng.random() < 0.97 else strange)
            state = slowly(grammar, state, int(row[t]))
    found = grammar.states(rows)
    for row, states in zip(rows, found, strict=True):
        state = (1, 0, 0, 0)
        for token, got in zip(row.tolist(), states.tolist(), strict=True):
            state = slowly(grammar, state, token)
            parts = (got & 0xFFFF, got >> 16 & 0xFFF, got >> 28 & 0xFFF, got >> 40)
            assert parts == state


def test_own_tokens_are_words_and_their_number_is_bounded():
    grammar = Grammar.of(classes=1, blocks=[(WORDS, F)], size=F + 1)
    head = [BOS, LABEL_0, STREAM_0]
    for n, fine in ((0, True), (3, True), (4, False)):
        assert grammar.accepts([*head, *range(OWN, OWN + n), F, EOS]) == fine
    assert grammar.own
    assert not Grammar.of(classes=1, blocks=[(BEATS, F)], size=F + 10).own


def test_sum_never_leaks_between_rows_of_a_batch():
    grammar = Grammar.of(classes=1, blocks=[(BEATS, F)], size=F + 10)
    rng = np.random.default_rng(0)
    rows = rng.integers(0, F + 10, size=(40, 30))
    rows[:, :4] = [BOS, LABEL_0, STREAM_0, F]
    together = grammar.states(rows)
    for row, found in zip(rows, together, strict=True):
        assert np.array_equal(grammar.states(row[None])[0], found)


@pytest.mark.parametrize(
    "kw",
    [
        {"nodes": 1, "arcs": [(0, 0, 0, 1)], "length": 1},
        {"nodes": 1, "arcs": [(0, 0, 1, 2)], "length": 1},
        {"nodes": 1, "arcs": [(1, 0, 1, 1)], "length": 1},
        {"nodes": 1, "arcs": [(0, 0, 1, 1)], "length": 1, "keep": {0: 0}, "add": {0: np.ones(1)}},
    ],
)
def test_impossible_machines_are_refused(kw):
    with pytest.raises(MienError):
        Machine(**kw)


# --- layouts ----------------------------------------------------------------------------------------------
def layout(**kw) -> Layout:
    contexts = {"sex": Context(classes=("f", "m")), "hour": Context(edges=(6, 12, 18))}
    given = {"seconds": 2.0, "task": "activity", "codec": Plugin(name="transform", hz=1.0), "contexts": contexts}
    return Layout.of(CARD, **(given | {"conditioned": True} | kw))


def windows(n: int = 3, seconds: float = 2.0):
    return [{k: s for k, v in r.streams.items() if (s := v.cut(0, seconds))} for r in recordings(n, 1)]


def test_contexts_are_said_and_unknown_is_a_value():
    lay = layout()
    full = lay.prompt("walk", {"sex": "m", "hour": 13.5})
    assert lay.prompt_length == len(full) == 4
    assert lay.prompt("walk", {"sex": "m", "hour": 18.0})[3] == full[3] + 1
    assert lay.prompt("walk", {"sex": "x"})[2] == lay.prompt("walk")[2] == lay.context_spans[0][1] - 1
    assert lay.prompt(None)[1] == UNLABELLED
    (document,) = lay.encode(windows(1), ["walk"], contexts=[{"sex": "f"}])
    assert lay.grammar.accepts(document)
    swapped = document.copy()
    swapped[2], swapped[3] = swapped[3], swapped[2]
    assert not lay.grammar.accepts(swapped)
    with pytest.raises(MienError, match="no context 'age'"):
        lay.prompt("walk", {"age": 3})
    for bad in (Context(), Context(classes=("a",), edges=(1.0,))):
        with pytest.raises(MienError, match="either"):
            layout(contexts={"sex": bad})
    with pytest.raises(MienError, match="room for 128"):
        layout(contexts={"x": Context(edges=tuple(range(200)))})


def test_a_given_recording_opens_the_document_and_is_not_decoded():
    lay = layout()
    one, two = windows(2)
    given = [Given(relation="extend", streams=two), Given(relation="translate", streams={"acc": one["acc"]})]
    made = [one, {"eda": one["eda"]}]
    documents = lay.encode(made, ["walk", "rest"], given=given)
    for document, streams in zip(documents, made, strict=True):
        assert document is not None
        assert lay.grammar.accepts(document)
        back = lay.decode(document)[1]
        assert set(back) == set(streams)
        alone = lay.round_trip(streams, "walk")
        assert all(np.array_equal(back[n].values, alone[n].values) for n in streams)
    ids = list(documents[0])
    assert ids[lay.prompt_length] == RELATION_0 + 1
    for wrong in (ids[: ids.index(MADE)], [i for i in ids if i != MADE], [*ids[:4], MADE, *ids[4:]]):
        assert not lay.grammar.accepts([*wrong, EOS])
    twice = [*ids[: ids.index(MADE) + 1], RELATION_0, *ids[ids.index(MADE) + 1 :]]
    assert not lay.grammar.accepts(twice)
    plain = layout(conditioned=False)
    assert not plain.grammar.accepts(ids)
    with pytest.raises(MienError, match="knows no given"):
        plain.encode(made, ["walk", "rest"], given=given)


def test_layouts_come_back_from_disk(tmp_path):
    lay = layout(codecs=[Plugin(name="transform", streams=["eda"], hz=0.5)])
    assert [p.name for p in lay.parts] == ["eda", "acc"]  # parts the recipe names come first
    lay.write(tmp_path / "layout.json")
    again = Layout.read(tmp_path / "layout.json")
    assert again == lay
    assert again.vocabulary.digest == lay.vocabulary.digest
    assert np.array_equal(again.grammar.next, lay.grammar.next)


@pytest.mark.parametrize(
    ("kw", "says"),
    [
        ({"codecs": [Plugin(name="transform")]}, "needs `streams"),
        ({"codecs": [Plugin(name="transform", streams=["ecg"])]}, "no stream 'ecg'"),
        ({"codecs": [Plugin(name="transform", streams=["acc", "eda"])]}, "at most 1 stream"),
        ({"codecs": [Plugin(name="transform", streams=["acc"])] * 2}, "named twice"),
        ({"codecs": [Plugin(name="transform", streams=["acc"])], "streams": ("eda",)}, "not among the streams"),
    ],
)
def test_layouts_refuse(kw, says):
    with pytest.raises(MienError, match=says):
        layout(**kw)


# --- documents that are conditioned -----------------------------------------------------------------------
def test_conditions_are_drawn_per_recording_and_all_shares_occur(home):
    made = recordings(persons=6, each=2)
    lay = layout()
    condition = Condition(translate=0.3, extend=0.3, vary=0.3, unlabelled=0.2)
    documents = Documents.encode(
        Cohort.build(made, card=CARD), lay, stride_s=1.0, condition=condition, seed=5, quiet=True
    )
    assert all(lay.grammar.accepts(d) for d in documents)
    first = [int(d[lay.prompt_length]) for d in documents]
    counts = [sum(f == RELATION_0 + i for f in first) / len(first) for i in range(3)]
    assert all(0.1 < c < 0.45 for c in counts), counts
    assert 0 < np.mean([d[1] == UNLABELLED for d in documents]) < 0.5
    # one recording's documents do not depend on who else is there
    fewer = Documents.encode(
        Cohort.build(made[:3], card=CARD), lay, stride_s=1.0, condition=condition, seed=5, quiet=True
    )
    for i in range(len(fewer)):
        assert np.array_equal(fewer[i], documents[i])
    with pytest.raises(ValueError, match="at most 1"):
        Condition(translate=0.6, vary=0.6)


# --- models -----------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def masked():
    lay = layout()
    return lay, constrain(tiny.fresh(SHAPE, lay.vocabulary.size, 0), lay.grammar, 0)


def test_prompts_of_unequal_length_sample_as_they_do_alone(masked):
    lay, model = masked
    (given,) = lay.encode(windows(1), ["walk"], given=[Given(relation="vary", streams=windows(2)[1])])
    long = [int(i) for i in given[: list(given).index(MADE) + 1]]
    prompts = [long, lay.prompt("rest"), lay.prompt(None)]
    rows = sample.documents(model, lay, lambda ids: ids, prompts, temperature=1.0, seed=1)
    assert all(lay.grammar.accepts(r[r != PAD]) for r in rows)
    # the padded row's distribution is that of the row alone
    ids = torch.tensor([[PAD] * 3 + lay.prompt("rest")])
    padded = model(
        input_ids=ids, attention_mask=(ids != PAD).long(), position_ids=torch.tensor([[0, 0, 0, 0, 1, 2, 3]])
    ).logits[0, -1]
    alone = model(input_ids=torch.tensor([lay.prompt("rest")])).logits[0, -1]
    assert torch.allclose(padded, alone, atol=1e-4)


def test_where_nobody_gives_a_recording_none_can_open_a_document(masked):
    """By logits and by likelihoods alike; all else is what it was, normalised over what is left."""
    lay, model = masked
    prompt = torch.tensor([lay.prompt("rest")])
    before = model(input_ids=prompt).logits[0, -1]
    relations = slice(RELATION_0, RELATION_0 + 3)
    (doc,) = sample.documents(model, lay, lambda ids: ids, prompt.tolist(), temperature=1.0, seed=3)
    ids = torch.tensor(doc[None].astype(np.int64))
    scored = torch.ones_like(ids[:, 1:])
    was = model(input_ids=ids, scored=scored).nll[0]
    with ungiven(model):
        after, now = model(input_ids=prompt).logits[0, -1], model(input_ids=ids, scored=scored).nll[0]
    assert torch.equal(model(input_ids=prompt).logits[0, -1], before)
    assert (before[relations] > MASKED / 2).all()
    assert (after[relations] == MASKED).all()
    left = torch.ones(len(before), dtype=torch.bool)
    left[relations] = False
    assert torch.equal(after[left], before[left])
    at = lay.prompt_length - 1  # where a relation might have been said, the others are likelier by its share
    share = torch.softmax(before, 0)[relations].sum()
    assert torch.allclose(was[at] - now[at], -torch.log1p(-share), atol=1e-5)
    assert torch.allclose(torch.cat([was[:at], was[at + 1 :]]), torch.cat([now[:at], now[at + 1 :]]), atol=1e-5)


def test_guidance_is_the_formula(masked, monkeypatch):
    lay, model = masked
    seen = []
    real = torch.multinomial
    monkeypatch.setattr(torch, "multinomial", lambda p, *a, **k: seen.append(p) or real(p, *a, **k))
    sample.documents(model, lay, lambda ids: ids, [lay.prompt("walk")], temperature=1.0, seed=0, guidance=2.0)
    with torch.no_grad():
        one = model(input_ids=torch.tensor([lay.prompt("walk")])).logits[0, -1].double()
        free = model(input_ids=torch.tensor([lay.prompt(None)])).logits[0, -1].double()
    allowed = one > -1e3
    allowed[RELATION_0 : RELATION_0 + 3] = False  # a recording is given by the prompt or not at all
    mixed = torch.where(allowed, 3 * torch.log_softmax(one, -1) - 2 * torch.log_softmax(free, -1), -torch.inf)
    assert torch.allclose(seen[0][0], torch.softmax(mixed, -1), atol=1e-6)


def test_own_tokens_pass_the_mask_and_forbidden_ones_do_not():
    grammar = Grammar.of(classes=1, blocks=[(WORDS, F)], size=F + 1)
    model = constrain(tiny.fresh(SHAPE, 50 + F + 1, 0), grammar, 50, never=(7,))
    ids = torch.tensor([[50 + BOS, 50 + LABEL_0, 50 + STREAM_0, 3]])
    p = torch.softmax(model(input_ids=ids).logits[0, -1].double(), -1).detach().numpy()
    assert np.flatnonzero(p > 1e-12).tolist() == [i for i in range(50) if i != 7] + [50 + F]
    assert node_of(grammar.states(np.array([[BOS, LABEL_0, STREAM_0, F + 500]]))[0, -1]) == DEAD


def test_fused_losses_are_refused():
    lay = layout()

    def forward(*args, **kwargs):
        raise AssertionError

    forward.__module__ = "liger_kernel.transformers.model.llama"
    model = tiny.fresh(SHAPE, lay.vocabulary.size, 0)
    model.forward = forward
    with pytest.raises(MienError, match="takes the loss without logits"):
        constrain(model, lay.grammar, 0)
