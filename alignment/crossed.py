"""Pairs of fresh samples, made block by block towards a linear reward and away from it: what DPO learns from on policy.

Some hundred answers teach a reward well and a generator badly: they say which of two documents is better, and not which of
their some hundred tokens made it so. The reward can say more. Each of its signs is read from one block of the document
(skin conductance, temperature, heart with breath), and blocks can be exchanged between documents of one label: the grammar takes any.
So a pair is chosen and rejected block by block, each block drawn from the fresh samples with a chance of
exp(± tilt * its share of the reward / the reward's standard deviation), which is what a policy optimal for the reward would
draw (Peters & Schaal 2007, ICML; pairs labelled by a reward: RSO, Liu et al. 2024, arXiv 2309.06657). The same number of
samples moves every block as far as the best of n moves the document, and no block is blamed for another. A block is the same on
both sides as often as the two chances allow: what the reward hardly looks at teaches nothing, and costs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..core.errors import MienError
from ..generation.layout import Layout
from ..generation.vocabulary import EOS, STREAM_0
from .decoded import Decoded
from .pairs import Pairs


def pairs(reward: Decoded, docs: Sequence[np.ndarray], n: int, tilt: float, seed: int) -> Pairs:
    """n pairs, labels in proportion to their documents. docs: int32[T] local ids of one layout, none with a recording given.
    tilt: by how many of its standard deviations the mean reward of what is chosen lies above, about, and of what is rejected
    below. A block that adds the same everywhere is the same on both sides. MienError where all documents of a label are alike."""
    layout = reward.signs.layout
    share, of = reward.by_block(docs)
    blocks = [split(d, layout) for d in docs]
    rng = np.random.default_rng([seed, 0xC205])
    chosen, rejected = [], []
    for label in sorted(set(of.tolist())):
        rows = np.flatnonzero(of == label)
        spread = float(share[rows].sum(1).std())
        if not spread > 0:
            raise MienError(
                f"all {len(rows)} fresh samples of {label!r} are worth the same: a reward that moves nothing"
            )
        m = round(n * len(rows) / len(docs))
        z = tilt * (share[rows] - share[rows].mean(0)) / spread
        sides = [[docs[rows[0]][: layout.prompt_length]] for _ in range(2 * m)]
        for i in range(len(layout.parts)):
            up, down = _draw(z[:, i], m, rng)
            for k, j in enumerate([*rows[up].tolist(), *rows[down].tolist()]):
                sides[k].append(blocks[j].get(i, np.empty(0, np.int32)))
        made = [np.concatenate([*s, [EOS]]).astype(np.int32) for s in sides]
        both = [(a, b) for a, b in zip(made[:m], made[m:], strict=True) if a.tobytes() != b.tobytes()]
        both = [p for p in both if all(layout.grammar.accepts(d.tolist()) for d in p)]  # a document needs a block
        chosen += [a for a, _ in both]
        rejected += [b for _, b in both]
    order = rng.permutation(len(chosen))
    text = np.array([""] * len(order), dtype=object)
    return Pairs(
        chosen=[chosen[i] for i in order], rejected=[rejected[i] for i in order],
        pair=np.array([f"fresh-{i}" for i in range(len(order))], dtype=object), rater=text, person=text,
        private=np.zeros(len(order), dtype=bool), weight=np.ones(len(order)),
    )  # fmt: skip


def split(doc: np.ndarray, layout: Layout) -> dict[int, np.ndarray]:
    """Part's index -> its block with the marker in front, as it stands in the document."""
    made = layout.made(doc)
    ends = np.flatnonzero((made >= STREAM_0) & (made < STREAM_0 + len(layout.parts)))
    return {int(b[0]) - STREAM_0: b for b in np.split(made, ends) if len(b)}


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


def _draw(z: np.ndarray, m: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """int64[m] each: draws with chances of exp(z) and of exp(-z), as often the same as these chances allow (the optimal coupling:
    Levin, Peres & Wilmer 2009, Markov Chains and Mixing Times, proposition 4.7). Each is what it would be alone, and so is the
    mean gradient at the reference; what both sides share is no noise in it."""
    up, down = (w / w.sum() for w in (np.exp(z - z.max()), np.exp(z.min() - z)))
    both = np.minimum(up, down)
    same = rng.random(m) < both.sum()
    one = rng.choice(len(z), size=m, p=both / both.sum())
    if same.all():
        return one, one
    left = (np.maximum(w - both, 0) for w in (up, down))
    apart = (rng.choice(len(z), size=m, p=w / w.sum()) for w in left)
    first, second = (np.where(same, one, other) for other in apart)
    return first, second
