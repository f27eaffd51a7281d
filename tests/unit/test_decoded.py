"""A linear reward of documents: what it says of what they decode to, of what is missing, and to TRL."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch

from mien.alignment import crossed, decoded, features
from mien.alignment.pairs import Pairs
from mien.core.config import Plugin
from mien.core.errors import MienError
from mien.core.records import CohortCard, Recording
from mien.data.datasets import simulated
from mien.data.vitals import VITALS
from mien.generation.layout import Layout

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
    d, pad = docs["stress"][0], 0
    ids = torch.as_tensor(np.concatenate([d, [pad] * 3])[None]).long()

    class Backbone:
        offset = 0

    critic = reward.critic(Backbone())
    value = critic.score(critic.body(input_ids=ids, attention_mask=ids != pad).hidden_states[-1])[0, :, 0].numpy()
    (share,), _ = reward.by_block([d])
    blocks, at = crossed.split(d, layout), layout.prompt_length
    assert not value[: at + len(blocks[0]) - 1].any()  # nothing is known inside the first block
    known = 0.0
    for i in range(len(layout.parts)):
        at += len(blocks[i])
        known += share[i] - reward.block_centre["stress"][i]
        assert value[at - 1] == pytest.approx(known, abs=1e-4)
        assert value[at - 2] != value[at - 1]
    assert value[len(d) - 1] == pytest.approx(reward([d])[0], abs=1e-4)


def test_pairs_are_crossed_block_by_block_towards_the_reward(made):
    layout, docs, data = made
    reward = decoded.Decoded.learn(data, layout, 1.0)
    some = [*docs["calm"], *docs["stress"]]
    pairs = crossed.pairs(reward, some, 60, 3.0, 0)
    assert 50 <= len(pairs) <= 60  # a pair may be of one document
    assert all(layout.grammar.accepts(d.tolist()) for d in (*pairs.chosen, *pairs.rejected))
    own = {b.tobytes() for d in some for b in crossed.split(d, layout).values()}
    assert {b.tobytes() for d in pairs.chosen for b in crossed.split(d, layout).values()} <= own
    labels = reward.signs(pairs.chosen)[1]
    assert np.array_equal(labels, reward.signs(pairs.rejected)[1])
    share, of = reward.by_block(some)
    for label in layout.classes:
        mine = share[of == label]
        up, down = (reward.by_block([d for d, k in zip(side, labels, strict=True) if k == label])[0]
                    for side in (pairs.chosen, pairs.rejected))  # fmt: skip
        spread = mine.sum(1).std()
        assert (up.sum(1).mean() - mine.sum(1).mean()) / spread > 0.5
        assert (mine.sum(1).mean() - down.sum(1).mean()) / spread > 0.5
        # a block's own samples are drawn by its own share: exponential weights, by hand
        w = np.exp(3.0 * mine[:, 0] / spread)
        assert up[:, 0].mean() == pytest.approx(w @ mine[:, 0] / w.sum(), abs=0.5 * mine[:, 0].std())
    again = crossed.pairs(reward, some, 60, 3.0, 0)
    assert all(np.array_equal(a, b) for a, b in zip(pairs.chosen, again.chosen, strict=True))
    with pytest.raises(MienError, match="worth the same"):
        crossed.pairs(reward, [docs["calm"][0]] * 4, 8, 1.5, 0)


@pytest.mark.parametrize("z", [[0.0, 0.0, 0.0], [-1.0, 0.2, 0.9, 0.0], [3.0, -3.0]])
def test_both_sides_are_drawn_as_alone_and_are_the_same_as_often_as_can_be(z):
    z, n = np.array(z), 40_000
    up, down = crossed._draw(z, n, np.random.default_rng(0))
    wanted = [np.exp(s * z) / np.exp(s * z).sum() for s in (1, -1)]
    for drawn, p in zip((up, down), wanted, strict=True):
        assert np.allclose(np.bincount(drawn, minlength=len(z)) / n, p, atol=0.01)
    assert np.mean(up == down) == pytest.approx(np.minimum(*wanted).sum(), abs=0.01)
