"""N-gram: do the released tokens make this window's tokens likelier than other tokens do?

The data-only attack of "The Canary's Echo" (arXiv 2502.14921): a small language model is fitted on the release, and
its mean log-probability per token is compared with that of the same model fitted on other people's windows, or on
average on shadow releases that were made without the person.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from pydantic import Field

from ...core.config import Section
from ...core.errors import MienError
from ...core.intervals import Interval
from ...core.results import Result
from ...data.features import WindowTable
from ..releases import Release, judged

NEEDS = ("synthetic_tokens", "candidate_tokens")


class Config(Section):
    """order: tokens in an n-gram; against: what the release is compared with, fixed before looking."""

    order: int = Field(default=3, ge=1, le=8)
    against: Literal["reference", "shadows"] = "reference"


def score(release: Release, config: Config) -> np.ndarray:
    """float64[n_windows]: nats per token, larger = member. MienError without the tokens to compare with."""
    release.needs(NEEDS)
    assert release.synthetic_tokens is not None and release.candidate_tokens is not None  # noqa: PT018
    shadows = [(made, who) for made, who in release.shadows or () if not isinstance(made, WindowTable)]
    if config.against == "reference":
        release.needs(("reference_tokens",))
        others = [list(release.reference_tokens or ())]
    else:
        others = [list(made) for made, _ in shadows]
        if not others:
            raise MienError("no shadow release has tokens to compare with")
    candidates = release.candidate_tokens
    corpora = [list(release.synthetic_tokens), *others]
    vocabulary = len(np.unique(np.concatenate([t for corpus in (*corpora, candidates) for t in corpus])))
    own, *rest = (log_probability(c, candidates, config.order, vocabulary) for c in corpora)
    if config.against == "reference":
        return own - rest[0]
    without = np.array([[p not in who for p in release.candidates.person] for _, who in shadows])
    if not without.any(0).all():
        n = len(set(release.candidates.person[~without.any(0)]))
        raise MienError(f"{n} candidates are in every shadow release; make more, each from half of the candidates")
    return own - np.where(without, np.stack(rest), 0.0).sum(0) / without.sum(0)


def run(release: Release, config: Config, *, blind: Interval | None = None) -> list[Result]:
    """AUC and TPR per recording and per person, judged beside the blind attack's AUC on the same split."""
    return judged(release, score(release, config), "ngram", blind)


def log_probability(
    corpus: Sequence[np.ndarray], sequences: Sequence[np.ndarray], order: int, vocabulary: int
) -> np.ndarray:
    """float64[n]: mean log p per token of each sequence, under an n-gram model of the corpus.

    Interpolated down to 1 / vocabulary by Witten & Bell (1991): p(w | h) = (count(h w) + kinds(h) p(w | h')) /
    (count(h) + kinds(h)), kinds(h) being how many different tokens follow h, and h' is h without its first token. The
    beginning of a sequence is part of the history. vocabulary: how many tokens there are, at least as many as occur.
    """
    every = [np.asarray(t) for t in (*corpus, *sequences)]
    length = np.array([len(t) for t in every])
    start = np.cumsum(length) - length
    names, token = np.unique(np.concatenate(every), return_inverse=True)
    seen = np.arange(len(token)) < length[: len(corpus)].sum()
    context, p = np.zeros(len(token), dtype=np.int64), np.full(len(token), 1 / vocabulary)
    for _ in range(order):
        _, first, gram = np.unique(context * len(names) + token, return_index=True, return_inverse=True)
        count = np.bincount(gram[seen], minlength=len(first))
        n = int(context.max()) + 1
        total = np.bincount(context[seen], minlength=n)[context]
        kinds = np.bincount(context[first][count > 0], minlength=n)[context]
        p = np.where(total > 0, (count[gram] + kinds * p) / np.maximum(total + kinds, 1), p)
        context = np.roll(gram, 1) + 1
        context[start] = 0
    return (np.add.reduceat(np.log(p), start) / length)[len(corpus) :]
