"""Scores from what a language model says of each token; every function takes one sequence."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from scipy import special

from ..core.errors import MienError
from .signals import RENYI, TokenFile, Tokens

_SMALL = 1e-3  # nats: below it a shift of a token's log-probability says nothing


def min_k(logp: np.ndarray, share: float) -> float:
    """Mean of the lowest share of log-probabilities, at least one (Min-K %, arXiv 2310.16789)."""
    return float(np.sort(logp)[: max(1, int(share * len(logp)))].mean())


def min_k_plus(logp: np.ndarray, mean: np.ndarray, sd: np.ndarray, share: float) -> float:
    """The same over (log p - mean) / sd, both over the vocabulary at that position (Min-K++, arXiv 2404.02936).

    A position with a single possible token (sd 0) says nothing and counts 0.
    """
    z = np.where(sd > 1e-6, (logp - mean) / np.maximum(sd, 1e-6), 0.0)
    return min_k(z, share)


def vocabulary_moments(logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(mean, sd) of log p under p, over the vocabulary: float64[T] each from logits float[T, V]."""
    logp = special.log_softmax(np.asarray(logits, dtype=np.float64), axis=-1)
    p = np.exp(logp)
    mean = (p * np.where(p > 0, logp, 0)).sum(-1)
    return mean, np.sqrt(np.maximum((p * np.where(p > 0, (logp - mean[..., None]) ** 2, 0)).sum(-1), 0))


def ez(logp: np.ndarray, reference: np.ndarray, top: np.ndarray, floor: float = _SMALL) -> tuple[float, float, float]:
    """(rises, falls, score) where the target's likeliest token is wrong: sums of the log-probabilities' rises and
    falls against the reference, and log((rises + c) / (falls + c)) (EZ-MIA, arXiv 2601.12104).

    The published code gives 0 where nothing falls, the lowest score to the surest members; c removes that.
    """
    shift = (np.asarray(logp, np.float64) - np.asarray(reference, np.float64))[~np.asarray(top, dtype=bool)]
    rises, falls = float(shift[shift > 0].sum()), float(-shift[shift < 0].sum())
    return rises, falls, float(np.log((rises + floor) / (falls + floor)))


def windowed_votes(logp: np.ndarray, reference: np.ndarray, sizes: Sequence[int] = (1, 2, 4, 8, 16)) -> float:
    """Share of windows, of each size and averaged over sizes, in which the target is on average above the reference
    (WBC, arXiv 2601.02751)."""
    shift = np.asarray(logp, np.float64) - np.asarray(reference, np.float64)
    total = np.concatenate([[0.0], np.cumsum(shift)])
    votes = [float(np.mean(total[k:] - total[:-k] > 0)) for k in sizes if k <= len(shift)]
    return float(np.mean(votes))


def renyi_entropy(p: np.ndarray, order: float) -> np.ndarray:
    """H_order of distributions float[..., V] in nats; order 1 is Shannon's, inf the min-entropy."""
    p = np.asarray(p, dtype=np.float64)
    if order == 1:
        return special.entr(p).sum(-1)
    if np.isinf(order):
        return -np.log(p.max(-1))
    return np.log((p**order).sum(-1)) / (1 - order)


def max_renyi(entropy: np.ndarray, share: float) -> float:
    """Mean of the largest share of token entropies (0: the largest alone; 1: all), MaxRényi-K % (VL-MIA)."""
    count = max(1, int(round(share * len(entropy))))
    return float(np.sort(entropy)[::-1][:count].mean())


def exposure(rank: int, candidates: int) -> float:
    """log2(candidates) - log2(rank) of a canary among all it could have been (Carlini et al., arXiv 1802.08232)."""
    if not 1 <= rank <= candidates:
        raise MienError(f"a canary's rank lies in 1 to {candidates}, got {rank}")
    return float(np.log2(candidates) - np.log2(rank))


def entropies(order: float) -> int:
    """The column of Tokens.entropy that holds this order."""
    if order not in RENYI:
        raise MienError(f"Rényi entropies are kept for the orders {', '.join(f'{o:g}' for o in RENYI)}; got {order:g}")
    return RENYI.index(order)


def each(tokens: Iterable[Tokens] | TokenFile, n: int, function) -> np.ndarray:
    """function(tokens, rows) of every window: float64[n]; one part of the file in memory at a time."""
    out, seen = np.empty(n), 0
    for chunk in tokens:
        for i, rows in chunk.windows():
            if rows.stop == rows.start:
                raise MienError(f"window {i} has no predicted token; make the signals again")
            out[i] = function(chunk, rows)
            seen += 1
    if seen != n:
        raise MienError(f"token signals of {seen} windows for {n} windows; make the signals again")
    return out
