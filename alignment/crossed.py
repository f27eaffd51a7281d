"""Pairs of fresh samples, made piece by piece towards a linear reward and away from it: what DPO learns from on policy.

Some hundred answers teach a reward well and a generator badly: they say which of two documents is better, and not which of
their some hundred tokens made it so. The reward can say more. Each of its signs is read from one block of the document
(skin conductance, temperature, heart with breath), most of it from the tokens that open the block (`credit.py`), and pieces can be
exchanged between documents of one label. So a pair is one fresh sample as far as a block, and then, chosen and
rejected, a piece of two others: the block's first tokens, or all of it. Each is drawn with a chance of exp(± tilt * what its tokens
let expect of the reward / the reward's standard deviation), which is what a policy optimal for the reward would draw (Peters & Schaal
2007, ICML; pairs labelled by a reward: RSO, Liu et al. 2024, arXiv 2309.06657). There the pair ends: no token is blamed for what
a later one said, the same beginning cancels out of DPO's loss, and a few tokens cost less than a document.

Of two such pieces, x was chosen and y rejected with odds of exp(2 (v(x) - v(y))), so that DPO is at rest where log p/p_ref =
2 v / beta (equation 4 of arXiv 2305.18290): with beta = 2 at what the chosen ones are drawn from, and no further. That holds of pieces
of every length at once, for a shorter one is worth what the longer ones that begin so are worth on average.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..core.errors import MienError
from ..generation.layout import Layout
from ..generation.vocabulary import EOS
from .credit import begin, learn, split
from .decoded import Decoded
from .pairs import Pairs

_LEAST = 0.05  # of the best piece's gain a token: what is worth less is mostly long, and every pair of a batch is padded to it


def pairs(reward: Decoded, docs: Sequence[np.ndarray], n: int, tilt: float, seed: int) -> Pairs:
    """About n pairs (where both sides are drawn alike there is none), labels in proportion to their documents; they are
    beginnings of documents, of one prompt each. docs: int32[T] local ids of one layout, none with a recording given. tilt: by how
    many of its standard deviations the mean reward of what is chosen would lie above, about, and of what is rejected below, were all
    of it taught; what only the rest of a long block says is not. MienError where all documents of a label are worth the same, and
    where no pair is left."""
    layout = reward.signs.layout
    share, of = reward.by_block(docs)
    rng = np.random.default_rng([seed, 0xC205])
    chosen, rejected = [], []
    for label in sorted(set(of.tolist())):
        whole, worth = [d for d, k in zip(docs, of.tolist(), strict=True) if k == label], share[of == label]
        spread = float(worth.sum(1).std())
        if not spread > 0:
            raise MienError(
                f"all {len(whole)} fresh samples of {label!r} are worth the same: a reward that moves nothing"
            )
        found = [p for i in range(len(layout.parts)) for p in pieces(whole, tilt * worth[:, i] / spread, i, layout)]
        wanted = np.array([p.gain for p in found])
        wanted[wanted < _LEAST * wanted.max()] = 0.0
        wanted *= n * len(whole) / len(docs) / wanted.sum()
        for p, m in zip(found, np.floor(wanted + rng.random(len(wanted))).astype(int).tolist(), strict=True):
            up, down = (rng.choice(len(v), size=m, p=_chances(v)) for v in (p.value, -p.value))
            for k, a, b in zip(rng.integers(len(whole), size=m).tolist(), up.tolist(), down.tolist(), strict=True):
                head = whole[k][: begin(whole[k], p.part, layout)]
                both = [np.concatenate([head, p.tokens[j]]) for j in (a, b)]
                ended = [d for d in both if d[-1] == EOS]  # a document needs a block
                if both[0].tobytes() != both[1].tobytes() and all(layout.grammar.accepts(d) for d in ended):
                    chosen.append(both[0])
                    rejected.append(both[1])
    if not chosen:
        raise MienError(f"no pair is left of {n} that were asked for: more fresh samples (dpo.fresh), steps or batch")
    order = rng.permutation(len(chosen))
    text = np.array([""] * len(order), dtype=object)
    return Pairs(
        chosen=[chosen[i] for i in order], rejected=[rejected[i] for i in order],
        pair=np.array([f"fresh-{i}" for i in range(len(order))], dtype=object), rater=text, person=text,
        private=np.zeros(len(order), dtype=bool), weight=np.ones(len(order)),
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Piece:
    """What may stand where part number `part` begins: tokens[n], and what each lets expect of the reward, value: float64[n] of
    mean 0."""

    part: int
    tokens: Sequence[np.ndarray]
    value: np.ndarray

    @property
    def gain(self) -> float:
        """By how much drawing with chances of exp(value) raises the mean value, a token: what hangs on few tokens is soonest
        learned, and most pairs are of it."""
        return float(_chances(self.value) @ self.value) / float(np.mean([len(t) for t in self.tokens]))


def _chances(value: np.ndarray) -> np.ndarray:
    """float64[n], of sum 1: in proportion to exp(value)."""
    w = np.exp(value - value.max())
    return w / w.sum()


def pieces(docs: Sequence[np.ndarray], share: np.ndarray, part: int, layout: Layout) -> list[Piece]:
    """What is to be expected of a part's share of the reward, float64[n], as it becomes known: with whether there is a block at all,
    with each token of its opening that says more of it, and with the rest of the block."""
    blocks = [split(d, layout).get(part) for d in docs]
    there = np.array([b is not None for b in blocks])
    mine = [b for b in blocks if b is not None]
    if not mine:
        return []
    out = []
    if not there.all():
        expected = np.where(there, share[there].mean(), share)
        ends = [d[begin(d, part, layout) :][:1] for d in docs]  # the marker, or what stands there without a block
        out.append(Piece(part=part, tokens=ends, value=expected - expected.mean()))
    found, known = learn(mine, share[there], layout.coders[part].machine)
    ends = [*(s.k + 1 for s in found.steps), max(map(len, mine))]
    worth = [*known[1:], share[there]]
    return [
        *out,
        *(Piece(part=part, tokens=[b[:k] for b in mine], value=v - v.mean()) for k, v in zip(ends, worth, strict=True)),
    ]


def splice(doc: np.ndarray, other: np.ndarray, part: int, layout: Layout) -> np.ndarray:
    """The document int32[T] with one part's block (its index) as it stands in another. MienError where that has none, or the
    grammar does not take it here."""
    blocks, theirs = split(doc, layout), split(other, layout)
    if part not in theirs:
        raise MienError(f"{layout.parts[part].name} cannot be written in tokens")
    blocks[part] = theirs[part]
    head = doc[: len(doc) - len(layout.made(doc)) - 1]
    made = np.concatenate([head, *(blocks[i] for i in sorted(blocks)), [EOS]]).astype(np.int32)
    if not layout.grammar.accepts(made.tolist()):
        raise MienError(f"{layout.parts[part].name}: another document's block does not fit into this one")
    return made
