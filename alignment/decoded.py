"""A reward of documents, read from what they decode to: the linear Bradley–Terry model (`linear.py`) that the answers teach.

Some hundred answers are too few for a network over tokens to hold for new samples, and enough for the weights of vital signs. Answers
compare recordings of one label only, so that a label's own level is arbitrary: rewards are told from the mean of its
judged samples.

What cannot be found in a recording says nothing there; to a generator that is rewarded it would be a way out (leave a stream
away, and be without fault). So a sign that is missing counts as the worst that any judged sample of the label had of it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from ..backbones.causal_lm import OWN, CausalBackbone
from ..core.intervals import Interval
from ..core.records import CohortCard
from ..core.runs import whole_folder
from ..data.vitals import VITALS, needs, roles
from ..generation import sample
from ..generation.layout import Layout
from ..generation.vocabulary import EOS, MADE, STREAM_0
from . import credit, features, linear
from .dpo import refuse_private
from .pairs import Pairs
from .reward import share


@dataclass(kw_only=True)
class Signs:
    """Vital signs of documents, each decoded once."""

    layout: Layout
    known: dict[bytes, tuple[np.ndarray, str]] = field(default_factory=dict)

    def __call__(self, docs: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """(float64[n, len(VITALS)] of `features.signs`, NaN for what is missing; [n] labels)."""
        new = list({d.tobytes(): d for d in docs if d.tobytes() not in self.known}.values())
        for d, r in zip(new, sample.recordings([[d] for d in new], self.layout, None), strict=True):
            self.known[d.tobytes()] = features.signs(r), str(r.labels.get(self.layout.task, ""))
        found = [self.known[d.tobytes()] for d in docs]
        return np.array([z for z, _ in found]).reshape(-1, len(VITALS)), np.array([label for _, label in found])


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """linear: the weights of `features.names`; centre: label -> the mean reward of its judged samples; least: label ->
    float64[len(VITALS)], the worst share of the reward that a sign had in them; for the critic, of the documents that it is `watching`:
    block_centre: label -> float64[parts], the mean of `by_block`; expected: label -> part's index -> what its first tokens say
    of its share (`credit.py`)."""

    signs: Signs
    linear: linear.Linear
    centre: Mapping[str, float]
    least: Mapping[str, np.ndarray]
    block_centre: Mapping[str, np.ndarray] = field(default_factory=dict)
    expected: Mapping[str, Mapping[int, credit.Expected]] = field(default_factory=dict)

    @staticmethod
    def learn(data: Pairs, layout: Layout, l2: float) -> Decoded:
        """The reward of these answers; l2: its ridge. MienError for private preferences: the weights follow from the answers, and
        whatever learns from such a reward follows from them too."""
        refuse_private(data, "linear reward")
        signs, classes = Signs(layout=layout), layout.classes

        def x(docs: Sequence[np.ndarray]) -> np.ndarray:
            z, of = signs(docs)
            return np.array(
                [features.columns(v, k, classes) for v, k in zip(np.nan_to_num(z, nan=0.0), of, strict=True)]
            )

        weights = linear.fit(
            x(data.chosen) - x(data.rejected),
            np.ones(len(data)),
            names=features.names(classes),
            weight=data.weight,
            l2=l2,
        )
        judged = list({d.tobytes(): d for d in (*data.chosen, *data.rejected)}.values())
        made = Decoded(signs=signs, linear=weights, centre={}, least={})
        part, of = made.parts(judged)
        least = {k: _least(part[of == k]) for k in sorted(set(of.tolist()))}
        made = Decoded(signs=signs, linear=weights, centre={}, least=least)
        whole = made(judged)
        return replace(made, centre={k: float(whole[of == k].mean()) for k in least}).watching(judged)

    def watching(self, docs: Sequence[np.ndarray]) -> Decoded:
        """The same reward, whose critic learned from these documents what tokens let expect of it. That asks nobody, so that samples which
        nobody judged will do: among a hundred, half of what an opening says is lost in noise."""
        block, of = self.by_block(docs)
        blocks, coders = [credit.split(d, self.signs.layout) for d in docs], self.signs.layout.coders
        expected: dict[str, dict[int, credit.Expected]] = {}
        for k in sorted(set(of.tolist())):
            there = {i: [j for j, b in enumerate(blocks) if of[j] == k and i in b] for i in range(len(coders))}
            expected[k] = {
                i: credit.learn([blocks[j][i] for j in rows], block[rows, i], coders[i].machine)[0]
                for i, rows in there.items() if rows
            }  # fmt: skip
        return replace(self, block_centre={k: block[of == k].mean(0) for k in expected}, expected=expected)

    def parts(self, docs: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """(float64[n, len(VITALS)]: what each sign adds to the reward, NaN where it is missing; [n] labels)."""
        z, of = self.signs(docs)
        wide = np.array([features.columns(v, k, self.signs.layout.classes) for v, k in zip(z, of, strict=True)])
        return (wide * self.linear.w).reshape(len(z), -1, len(VITALS)).sum(1), of

    def filled(self, docs: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """`parts`, with the worst for what is missing."""
        part, of = self.parts(docs)
        worst = np.array([self.least.get(k, np.zeros(len(VITALS))) for k in of.tolist()]).reshape(part.shape)
        return np.where(np.isfinite(part), part, worst), of

    def __call__(self, docs: Sequence[np.ndarray]) -> np.ndarray:
        """float64[n]: the reward of each document, in logits of being preferred."""
        part, of = self.filled(docs)
        return part.sum(1) - np.array([self.centre.get(k, 0.0) for k in of.tolist()])

    def by_block(self, docs: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """(float64[n, len(layout.parts)]: what each part of the layout adds to the reward, by the signs that are known once it is
        written and were not before; [n] labels)."""
        part, of = self.filled(docs)
        where = owners(self.signs.layout)
        return np.stack([part[:, where == i].sum(1) for i in range(len(self.signs.layout.parts))], 1), of

    def accuracy(self, data: Pairs) -> Interval:
        """The share of pairs ordered as the raters did, ½ for equal rewards, with `share`'s interval."""
        difference = self(data.chosen) - self(data.rejected)
        return share((difference > 0) + 0.5 * (difference == 0), data)

    def module(self, backbone: CausalBackbone) -> Any:
        """The same as what TRL's PPO takes for a reward model: a body that gives every place its document's reward, and a head that
        passes it on."""
        return self._read(backbone, lambda docs: [np.full(len(d), r) for d, r in zip(docs, self(docs), strict=True)])

    def critic(self, backbone: CausalBackbone) -> Any:
        """What TRL's PPO takes for a value model, and nothing to learn: at every place, what the tokens until then let expect of the
        reward, from the mean of what it is `watching`: blocks that are written, and the opening of the one that is being
        written. So a token is blamed for what it changes, and no more for what stood there before."""
        starts = STREAM_0 + np.arange(len(self.signs.layout.parts))

        def values(docs: Sequence[np.ndarray]) -> list[np.ndarray]:
            share, of = self.by_block(docs)
            out = []
            for d, mine, k in zip(docs, share, of.tolist(), strict=True):
                added = mine - self.block_centre.get(k, np.zeros(len(mine)))
                given = np.cumsum(d[::-1] == MADE)[::-1] > 0  # blocks that the document opens with are not made
                ends = np.flatnonzero((np.isin(d, starts) & ~given) | (d == EOS)).tolist()
                parts = [int(d[at]) - STREAM_0 if d[at] != EOS else len(mine) for at in ends]
                known = np.zeros(len(d))
                for first, last, i, left in zip(ends, [*ends[1:], len(d)], parts, [-1, *parts], strict=False):
                    known[first:] = before = known[first - 1] + added[left + 1 : i].sum()  # what was left away
                    if i < len(mine):
                        found = self.expected.get(k, {}).get(i)
                        for at, value in found.known(d[first:last]) if found is not None else ():
                            known[first + at :] = before + value - (mine[i] - added[i])
                        known[last - 1 :] = before + added[i]
                out.append(known)
            return out

        return self._read(backbone, values)

    def _read(self, backbone: CausalBackbone, read: Callable[[list[np.ndarray]], list[np.ndarray]]) -> Any:
        """A body and a head that give each place what `read` says of its document: float64[T] each."""
        import torch

        offset, vocabulary = backbone.offset, self.signs.layout.vocabulary.digest

        class Body(torch.nn.Module):
            def forward(self, input_ids: Any, attention_mask: Any, **_: Any) -> Any:
                ids, there = input_ids.cpu().numpy(), attention_mask.cpu().numpy().astype(bool)
                local = np.where(ids >= offset, ids - offset, ids + OWN).astype(np.int32)
                out = np.zeros(ids.shape, dtype=np.float32)
                for i, found in enumerate(read([d[m] for d, m in zip(local, there, strict=True)])):
                    out[i, there[i]] = found
                return SimpleNamespace(hidden_states=(torch.as_tensor(out, device=input_ids.device)[..., None],))

        class Reads(torch.nn.Module):
            base_model_prefix = "body"

            def __init__(self) -> None:
                super().__init__()
                self.body, self.score = Body(), torch.nn.Identity()
                self.config = SimpleNamespace(behaviour_vocabulary=vocabulary)

        return Reads()

    def save(self, folder: Path) -> None:
        """Its weights by name, to be read: what the experts look for."""
        said = {
            "weights": dict(zip(self.linear.names, self.linear.w.tolist(), strict=True)), "centre": dict(self.centre),
            "least": {k: dict(zip(VITALS, v.tolist(), strict=True)) for k, v in self.least.items()},
        }  # fmt: skip
        with whole_folder(folder) as part:
            (part / "linear.json").write_text(json.dumps(said, indent=1))


def owners(layout: Layout) -> np.ndarray:
    """int64[len(VITALS)]: the part of the layout with which each sign is known, the last that it needs or may be read from; -1
    for none."""
    card = CohortCard(name="", licence="", consent="", streams=layout.streams)
    where = roles(card)
    out = []
    for name in VITALS:
        groups = [[layout.of_stream(where[r]) for r in group if r in where] for group in needs(name)]
        out.append(max(max(g) for g in groups) if all(groups) else -1)
    return np.array(out)


def _least(part: np.ndarray) -> np.ndarray:
    """The smallest of each column, 0 where nothing of it is found."""
    out = np.where(np.isfinite(part), part, np.inf).min(0, initial=np.inf)
    return np.where(np.isfinite(out), out, 0.0)
