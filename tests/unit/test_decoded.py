"""A linear reward of documents: what it says of what they decode to, of what is missing, and to TRL."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from mien.alignment import credit, crossed, decoded, features
from mien.alignment.pairs import Pairs
from mien.core.config import Plugin
from mien.core.errors import MienError
from mien.core.records import CohortCard, Recording
from mien.data.datasets import simulated
from mien.data.vitals import VITALS
from mien.generation.grammar import DEAD, node_of
from mien.generation.layout import Layout
from mien.generation.machine import Machine
from mien.generation.vocabulary import CONTEXT_0, STREAM_0

CODECS = {"beats": ["bvp", "resp"], "eda": ["eda"], "bins": ["temp"], "activity": ["acc"]}
STREAMS = [n for mine in CODECS.values() for n in mine]


def compared(chosen, rejected, private=False):
    n = len(chosen)
    text = {k: np.array([""] * n, object) for k in ("pair", "rater", "person")}
    return Pairs(chosen=chosen, rejected=rejected, private=np.full(n, private), weight=np.ones(n), **text)


@pytest.fixture(scope="module")
def made():
    """(layout, documents of 24 simulated minutes by label, pairs in which the faster heart was preferred)."""
    card = CohortCard(
        name="s", licence="", consent="", tasks={"stress": ("calm", "stress")}, streams=simulated.STREAMS, attributes=()
    )
    codecs = [Plugin(name=n, streams=mine) for n, mine in CODECS.items()]
    layout = Layout.of(card, seconds=30, task="stress", codec=Plugin(name="transform"), streams=STREAMS, codecs=codecs)
    config = simulated.Config(persons=12, sessions=2, seconds=30, seed=3)
    some = [simulated.record(s, config) for p in range(12) for s in simulated.sessions(config, p)]
    docs = {}
    for label in layout.classes:
        mine = [r for r in some if r.labels["stress"] == label]
        docs[label] = layout.encode([r.streams for r in mine], [label] * len(mine))
    rate = decoded.Signs(layout=layout)
    chosen, rejected = [], []
    for mine in docs.values():
        order = np.argsort(rate(mine)[0][:, 0])
        rejected += [mine[i] for i in order[: len(order) // 2]]
        chosen += [mine[i] for i in order[-(len(order) // 2) :]]
    return layout, docs, compared(chosen, rejected)


def test_it_is_the_linear_model_of_what_a_document_decodes_to(made):
    layout, docs, data = made
    reward = decoded.Decoded.learn(data, layout, 1.0)
    for label, mine in docs.items():
        slow = []  # each decoded by itself, and the weights applied to its vector
        for d in mine:
            said, streams = layout.decode(d)
            record = Recording(id="r", person="r", streams=streams, labels={"stress": said})
            assert np.isfinite(features.signs(record)).all()
            slow.append(float(features.vector(record, label, layout.classes) @ reward.linear.w))
        found = reward(mine)
        assert np.allclose(np.diff(found), np.diff(slow))
    z, _ = reward.signs(docs["calm"])
    assert np.corrcoef(reward(docs["calm"]), z[:, 0])[0, 1] > 0.6  # it has learned that a fast heart is liked
    assert reward.accuracy(data).value > 0.9


def test_labels_have_no_level_of_their_own(made):
    layout, _, data = made
    reward = decoded.Decoded.learn(data, layout, 1.0)
    judged = [*data.chosen, *data.rejected]
    of = reward.signs(judged)[1]
    for label in layout.classes:
        assert abs(reward([d for d, k in zip(judged, of, strict=True) if k == label]).mean()) < 1e-9


def test_what_is_left_away_counts_as_the_worst_that_was_seen(made):
    layout, docs, data = made
    reward = decoded.Decoded.learn(data, layout, 1.0)
    label, whole = "stress", docs["stress"][0]
    _, streams = layout.decode(whole)
    (cut,) = layout.encode([{n: s for n, s in streams.items() if n != "eda"}], [label])
    part, _ = reward.parts([whole, cut])
    gone = ~np.isfinite(part[1])
    assert {n for n, g in zip(VITALS, gone, strict=True) if g} == {"SCR rate", "SCR rise", "tonic EDA", "EDA slope"}
    judged, _ = reward.parts([d for d in (*data.chosen, *data.rejected) if reward.signs([d])[1][0] == label])
    slow = part[1][~gone].sum() + judged.min(0)[gone].sum() - reward.centre[label]
    assert reward([cut])[0] == pytest.approx(slow)


def test_trl_reads_the_same(made):
    """Padded in front and behind, with ids that are the model's own."""
    trl = pytest.importorskip("trl.experimental.utils")
    layout, docs, data = made
    reward = decoded.Decoded.learn(data, layout, 1.0)
    offset, pad = 7, 7  # local 0 is padding

    class Backbone:
        def __init__(self):
            self.offset = offset

    some = [*docs["calm"][:3], *docs["stress"][:3]]
    ahead = [2, 0, 1, 0, 2, 1]
    width = max(len(d) + a for d, a in zip(some, ahead, strict=True)) + 2
    ids = np.full((len(some), width), pad)
    for row, d, a in zip(ids, some, ahead, strict=True):
        row[a : a + len(d)] = d + offset
    module = reward.module(Backbone()).to("cpu")
    assert not list(module.parameters())
    _, score, _ = trl.get_reward(module, torch.as_tensor(ids), pad, layout.prompt_length + 2)
    assert np.allclose(score.numpy(), reward(some), atol=1e-4)
    assert module.config.behaviour_vocabulary == layout.vocabulary.digest


def test_private_answers_teach_no_reward_and_it_can_be_read(made, tmp_path):
    layout, _, data = made
    with pytest.raises(MienError, match="private"):
        decoded.Decoded.learn(dataclasses.replace(data, private=np.ones(len(data), bool)), layout, 1.0)
    reward = decoded.Decoded.learn(data, layout, 1.0)
    reward.save(tmp_path / "reward")
    said = json.loads((tmp_path / "reward" / "linear.json").read_text())
    assert list(said["weights"]) == features.names(layout.classes)
    assert np.allclose(list(said["weights"].values()), reward.linear.w)


def test_a_larger_ridge_believes_less(made):
    layout, _, data = made
    size = [np.abs(decoded.Decoded.learn(data, layout, l2).linear.w).sum() for l2 in (1.0, 10.0, 100.0)]
    assert size[0] > size[1] > size[2] > 0


def test_a_sign_belongs_to_the_block_with_which_it_is_known(made):
    layout, docs, data = made
    own = dict(zip(VITALS, decoded.owners(layout).tolist(), strict=True))
    assert (own["HR"], own["HR-breath correlation"], own["SCR rate"], own["skin temperature"], own["movement"]) == (
        0,
        0,
        1,
        2,
        3,
    )
    reward = decoded.Decoded.learn(data, layout, 1.0)
    share, of = reward.by_block([*docs["calm"], *docs["stress"]])
    assert np.allclose(share.sum(1) - [reward.centre[k] for k in of], reward([*docs["calm"], *docs["stress"]]))


def test_a_critic_knows_what_is_written_and_no_more(made):
    layout, docs, data = made
    reward = decoded.Decoded.learn(data, layout, 1.0)

    class Backbone:
        offset = 0

    critic = reward.critic(Backbone())

    def values(*some):
        ids = np.zeros((len(some), max(map(len, some)) + 3))
        for row, d in zip(ids, some, strict=True):
            row[: len(d)] = d
        ids = torch.as_tensor(ids).long()
        return critic.score(critic.body(input_ids=ids, attention_mask=ids != 0).hidden_states[-1])[..., 0].numpy()

    d, other = docs["stress"][:2]
    (value,) = values(d)
    (share,), _ = reward.by_block([d])
    blocks, at, known = credit.split(d, layout), layout.prompt_length, 0.0
    assert not value[:at].any()
    for i in range(len(layout.parts)):
        at += len(blocks[i])
        known += share[i] - reward.block_centre["stress"][i]
        assert value[at - 1] == pytest.approx(known, abs=1e-4)
        assert value[at - 2] != value[at - 1]
    assert value[len(d) - 1] == pytest.approx(reward([d])[0], abs=1e-4)
    # of the heart's pace, which these answers are about, the first token says nearly all; and a value is of its own past alone
    first = layout.prompt_length
    found = reward.expected["stress"][0]
    assert found.steps
    assert found.steps[0].k == 1
    by_hand = found.known(d[first:])[1][1] - reward.block_centre["stress"][0]
    assert value[first + 1] == pytest.approx(by_hand, abs=1e-4)
    swapped = crossed.splice(d, other, 1, layout)
    assert np.allclose(values(d, swapped)[:, : first + len(blocks[0])], values(d)[0, : first + len(blocks[0])])
    # a block that is left away is known to be where another one begins, or the document ends
    short = np.concatenate([d[:first], blocks[1], blocks[2], d[-1:]])
    (least,), _ = reward.by_block([short])
    gone = least - reward.block_centre["stress"]
    (value,) = values(short)
    inside = reward.expected["stress"][1].mean - reward.block_centre["stress"][1]
    assert value[first] == pytest.approx(gone[0] + inside, abs=1e-4)
    assert value[len(short) - 1] == pytest.approx(reward([short])[0], abs=1e-4)


def test_pairs_end_where_their_difference_does(made):
    layout, docs, data = made
    reward = decoded.Decoded.learn(data, layout, 1.0)
    some = [*docs["calm"], *docs["stress"]]
    pairs = crossed.pairs(reward, some, 400, 1.5, 0)
    assert 200 <= len(pairs) <= 410
    wholes = {b.tobytes() for d in some for b in credit.split(d, layout).values()}
    openings = {b[:k].tobytes() for d in some for b in credit.split(d, layout).values() for k in range(1, len(b))}
    heads = {d[:k].tobytes() for d in some for k in range(layout.prompt_length, len(d))}
    faster = []
    for a, b in zip(pairs.chosen, pairs.rejected, strict=True):
        assert a.tobytes() != b.tobytes()
        assert np.array_equal(a[: layout.prompt_length], b[: layout.prompt_length])
        for d in (a, b):
            assert node_of(layout.grammar.states(d[None].astype(np.int64))[0, -1]) != DEAD  # a beginning of a document
        marker = np.flatnonzero((a >= STREAM_0) & (a < CONTEXT_0))[-1]
        assert a[:marker].tobytes() in heads
        assert np.array_equal(a[:marker], b[:marker])
        assert all(d[marker:].tobytes() in wholes | openings for d in (a, b))
        if len(a) == len(b) == marker + 2 and a[marker] == STREAM_0:
            faster.append(float(a[-1]) < float(b[-1]))  # a shorter mean interval
    assert len(faster) > 30
    assert np.mean(faster) > 0.8
    again = crossed.pairs(reward, some, 400, 1.5, 0)
    assert all(np.array_equal(a, b) for a, b in zip(pairs.chosen, again.chosen, strict=True))
    with pytest.raises(MienError, match="worth the same"):
        crossed.pairs(reward, [docs["calm"][0]] * 4, 8, 1.5, 0)


@pytest.mark.parametrize("label", ["calm", "stress"])
def test_a_share_is_taken_apart_as_it_becomes_known(made, label):
    layout, docs, data = made
    reward = decoded.Decoded.learn(data, layout, 1.0)
    mine = docs[label]
    share = reward.by_block(mine)[0]
    blocks = [credit.split(d, layout) for d in mine]
    for i in range(len(layout.parts)):
        found, known = credit.learn([b[i] for b in blocks], share[:, i], layout.coders[i].machine)
        assert known.shape == (1 + len(found.steps), len(mine))
        assert np.allclose(known[0], share[:, i].mean())
        # each was expected by a ridge on the others, fitted anew
        steps = list(found.steps)
        for j in (0, len(mine) - 1):
            z = np.array([[(b[i][s.k] - s.centre) / s.scale for s in steps] for b in blocks])
            x = np.concatenate([np.ones((len(z), 1)), *(np.c_[c, c**2 - 1, np.abs(c)] for c in z.T)], axis=1)
            rest = np.arange(len(z)) != j
            penalty = np.diag([0.0, *np.ones(x.shape[1] - 1)])
            w = np.linalg.solve(x[rest].T @ x[rest] + penalty, x[rest].T @ share[rest, i])
            if steps:
                assert known[-1, j] == pytest.approx(x[j] @ w, abs=1e-6)
        # a piece is worth what it lets expect, and the whole block its share
        pieces = crossed.pieces(mine, share[:, i], i, layout)
        for p, v in zip(pieces, [*known[1:], share[:, i]], strict=True):
            assert np.allclose(p.value, v - v.mean())
        assert [len(p.tokens[0]) for p in pieces] == [*(s.k + 1 for s in steps), len(blocks[0][i])]


def test_a_block_that_some_leave_away_is_a_piece_of_its_own(made):
    layout, docs, data = made
    reward = decoded.Decoded.learn(data, layout, 1.0)
    whole, at = docs["calm"], layout.prompt_length
    without = [np.concatenate([d[:at], *list(credit.split(d, layout).values())[1:], d[-1:]]) for d in whole[:4]]
    some = [*without, *whole[4:]]
    share = reward.by_block(some)[0][:, 0]
    first = crossed.pieces(some, share, 0, layout)[0]
    assert {int(t[0]) for t in first.tokens} == {STREAM_0, STREAM_0 + 1}
    assert all(len(t) == 1 for t in first.tokens)
    assert np.allclose(first.value[:4], share[:4] - np.r_[share[:4], np.full(len(whole) - 4, share[4:].mean())].mean())
    gone = np.concatenate([d[:at] for d in whole[:1]] + [whole[0][-1:]])
    assert credit.begin(gone, 2, layout) == at  # where it would begin


def test_tokens_that_say_nothing_are_no_steps():
    """A greedy search over sixty tokens finds some that seem to help: by two standard errors hardly any does."""
    machine, steps, right = Machine.of([(0, 64)] * 60), [], []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        blocks = rng.integers(0, 64, (100, 61))
        noise = rng.standard_normal(100)
        steps.append(len(credit.learn(list(blocks), noise, machine)[0].steps))
        found = credit.learn(list(blocks), blocks[:, 7] / 18 + noise, machine)[0]
        right.append([s.k for s in found.steps])
    assert np.mean(steps) < 0.7
    assert all(7 in ks for ks in right)


def test_dpo_on_pieces_of_every_length_rests_at_what_it_is_to_learn():
    """Two binary tokens worth v each, all pairs as often as they are drawn, and DPO's loss minimised by Newton's method over the four
    log-ratios: at 2 v / beta, however many pairs are of one token and how many of both."""
    v, beta = 0.7, 1.0
    one = np.array([-v, v])
    both = (one[:, None] + one[None]).ravel()  # of tokens (a, b), reference even

    def loss(x, share):
        ratio = np.array([0.0, *x])  # log p/p_ref of (0,0), (0,1), (1,0), (1,1), up to a constant
        first = np.array([np.logaddexp(*ratio[:2]), np.logaddexp(*ratio[2:])])
        total = 0.0
        for worth, r, weight in ((one, first, 1 - share), (both, ratio, share)):
            up, down = crossed._chances(worth), crossed._chances(-worth)
            margin = beta * (r[:, None] - r[None])
            total += weight * float((up[:, None] * down[None] * np.logaddexp(0, -margin)).sum())
        return total

    for share in (0.2, 0.5):
        x = minimize(loss, np.zeros(3), args=(share,), tol=1e-12).x
        assert x == pytest.approx(
            [4 * v / beta, 4 * v / beta, 8 * v / beta], abs=2e-2
        )  # 2 / beta times differences of 2 v
        ratio = np.array([0.0, *x])
        assert np.logaddexp(*ratio[2:]) - np.logaddexp(*ratio[:2]) == pytest.approx(4 * v / beta, abs=2e-2)


def test_a_tilt_beyond_measure_is_no_overflow_and_few_pairs_are_no_crash(made):
    layout, docs, data = made
    reward = decoded.Decoded.learn(data, layout, 1.0)
    some = [*docs["calm"], *docs["stress"]]
    assert len(crossed.pairs(reward, some, 50, 1e4, 0))
    with pytest.raises(MienError, match="no pair is left"):
        crossed.pairs(reward, some, 0, 1.5, 0)
    # where each document has one block, a document without any is none
    alone = [np.concatenate([d[: layout.prompt_length], list(credit.split(d, layout).values())[k % 2], d[-1:]])
             for k, d in enumerate(docs["calm"])]  # fmt: skip
    for d in (d for p in [crossed.pairs(reward, alone, 80, 1.5, 0)] for d in (*p.chosen, *p.rejected)):
        assert node_of(layout.grammar.states(d[None].astype(np.int64))[0, -1]) != DEAD


def test_an_opening_is_what_every_block_says_in_its_place():
    machine = Machine(
        nodes=4, arcs=[(0, 0, 5, 1), (1, 5, 9, 2), (2, 9, 12, 2), (2, 12, 13, 3), (3, 13, 14, 4)], length=9
    )
    assert credit.opening(machine) == 2  # node 2 comes again
    assert credit.opening(Machine.of([(0, 4), (4, 8), (0, 4)])) == 3
    assert credit.opening(Machine(nodes=2, arcs=[(0, 0, 3, 1), (0, 3, 4, 2), (1, 0, 2, 2)], length=2)) == 1


def test_a_critic_learns_from_what_nobody_judged(made):
    layout, docs, data = made
    few = decoded.Decoded.learn(data.rows(np.arange(len(data)) < 4), layout, 1.0)
    every = [d for mine in docs.values() for d in mine]
    more = few.watching(every)
    assert np.array_equal(more(every), few(every))
    assert (more.linear is few.linear, more.least, more.centre) == (True, few.least, few.centre)
    block, of = few.by_block(every)
    for k in docs:
        assert more.block_centre[k] == pytest.approx(block[of == k].mean(0))
        assert {i: e.mean for i, e in more.expected[k].items()} == pytest.approx(
            dict(enumerate(block[of == k].mean(0)))
        )
    assert more.block_centre.keys() == more.expected.keys() == docs.keys()
