"""More pairs than experts were asked about: fresh samples, ordered by the reward that their answers taught.

Two hundred pairs are fewer than a generator has ways to tell them apart: DPO learns these pairs, and not what raters look for.
A linear Bradley–Terry reward (`linear.py`) has some fifty weights and does hold for new samples. So it labels many samples of
the adapter as it is, and what learns from pairs learns from these: reward-labelled pairs of the policy's own samples
(statistical rejection sampling optimisation, Liu et al. 2024, ICLR, arXiv 2309.06657, section 3.2), here by rank, the upper
part of a class against its lower, rather than by rejection sampling. What the features do not show (`features.py`) is learned
from the experts' own answers alone, where these are kept.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import Field, model_validator

from ..core.config import Section
from ..core.errors import MienError
from ..core.records import Recording
from ..generation import sample
from ..generation.layout import Layout
from . import features, linear
from .pairs import Pairs

RATER = "linear-reward"


class Augment(Section):
    """per_label: fresh samples of each class, 0 for none; pairs: made of them; share: the best and the worst share of a class that
    are set against each other; answers: the experts' own answers are learned from too."""

    per_label: int = Field(default=0, ge=0)
    pairs: int = Field(default=1000, ge=1)
    share: float = Field(default=0.5, gt=0, le=0.5)
    answers: bool = True

    @model_validator(mode="after")
    def _enough(self) -> Augment:
        if self.per_label and not int(self.share * self.per_label):
            raise ValueError(f"per_label: {self.share:g} of {self.per_label} samples of a class is none; take more")
        return self


class Vitals:
    """Features of documents, each computed once."""

    def __init__(self, layout: Layout):
        self.layout, self.known = layout, dict[bytes, np.ndarray]()

    def __call__(self, docs: Sequence[np.ndarray]) -> np.ndarray:
        """float64[n, d]."""
        new = list({d.tobytes(): d for d in docs if d.tobytes() not in self.known}.values())
        self.note(new, list(sample.recordings([[d] for d in new], self.layout, None)))
        return np.array([self.known[d.tobytes()] for d in docs])

    def note(self, docs: Sequence[np.ndarray], recordings: Sequence[Recording]) -> None:
        """Documents whose recordings are at hand."""
        task, classes = self.layout.task, self.layout.classes
        for d, r in zip(docs, recordings, strict=True):
            self.known[d.tobytes()] = features.vector(r, str(r.labels.get(task, "")), classes)

    def difference(self, data: Pairs) -> np.ndarray:
        """float64[n, d]: chosen less rejected."""
        return self(data.chosen) - self(data.rejected)


def reward(train: Pairs, of: Vitals) -> linear.Linear:
    """The linear reward of these answers."""
    return linear.fit(of.difference(train), np.ones(len(train)), weight=train.weight)


def score(of: linear.Linear, x: np.ndarray) -> np.ndarray:
    """float64[n]: the reward of features float64[n, d]. A sample without any vital sign has only zeros, the usual values, and would
    be among the best: it is put below all others, as experts would."""
    found = of.reward(x)
    return np.where(x.any(1), found, found.min(initial=0.0) - 1)


def labelled(
    docs: Sequence[np.ndarray], labels: Sequence[str], score: np.ndarray, asked: Augment, private: bool, seed: int
) -> Pairs:
    """asked.pairs pairs of documents of one label, of the best share against the worst, each as often as any other of its label
    (but for one). score: float64[n]. private: whether the answers that taught the reward are. MienError where the scores order
    nothing."""
    rng, of = np.random.default_rng([seed, 0xA06]), np.asarray(labels)
    kinds = sorted(set(of.tolist()))
    chosen, rejected = [], []
    for k, kind in enumerate(kinds):
        mine = np.flatnonzero(of == kind)
        size = int(asked.share * len(mine))
        order = mine[np.argsort(-score[mine], kind="stable")]
        best, worst = order[:size], order[len(order) - size :]
        if not size or not score[best].min() >= score[worst].max() or not score[best].mean() > score[worst].mean():
            raise MienError(
                f"augment: the linear reward finds nothing in {len(mine)} samples of {kind} to order them by; the raters' answers"
                " say nothing of vital signs. Leave `augment` out"
            )
        want = asked.pairs // len(kinds) + (k < asked.pairs % len(kinds))
        times = -(-want // size)
        chosen += np.concatenate([rng.permutation(best) for _ in range(times)])[:want].tolist()
        rejected += np.concatenate([rng.permutation(worst) for _ in range(times)])[:want].tolist()
    n = len(chosen)
    return Pairs(
        chosen=[docs[i] for i in chosen], rejected=[docs[i] for i in rejected],
        pair=np.array([f"labelled-{i:05d}" for i in range(n)], dtype=object),
        rater=np.array([RATER] * n, dtype=object), person=np.array([""] * n, dtype=object),
        private=np.full(n, private), weight=np.ones(n),
    )  # fmt: skip
