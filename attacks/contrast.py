"""Scores of encoders that bind two modalities; embeddings are float[n, d] and need not be normalised."""

from __future__ import annotations

import numpy as np
from scipy import special

from ..core.errors import MienError


def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """float64[n]: similarity of each pair of rows. MienError when a row is zero."""
    return (_unit(a) * _unit(b)).sum(-1)


def infonce_loss(similarity: np.ndarray, temperature: float) -> float:
    """Symmetric InfoNCE of a square matrix of similarities, nats (CLIP, arXiv 2103.00020, figure 3)."""
    z = np.asarray(similarity, dtype=np.float64) / temperature
    rows, columns = special.log_softmax(z, axis=1), special.log_softmax(z, axis=0)
    return float(-(np.diag(rows).mean() + np.diag(columns).mean()) / 2)


def contrast(a: np.ndarray, b: np.ndarray, bank_a: np.ndarray, bank_b: np.ndarray, temperature: float) -> np.ndarray:
    """float64[n]: the log-odds of each pair among a *fixed* bank of negatives, averaged over both directions.

    s_ii/τ - logsumexp_j(s_ij/τ): the InfoNCE loss as a logit, with one bank for everybody, so that no other row of
    the audit moves a score. bank_a, bank_b: float[m, d], the other modality's negatives for b and a.
    """
    if not len(bank_a) or not len(bank_b):
        raise MienError("a contrast needs at least one negative in the bank")
    a, b, bank_a, bank_b = (_unit(v) for v in (a, b, bank_a, bank_b))
    mine = (a * b).sum(-1) / temperature
    forward = mine - special.logsumexp(a @ bank_b.T / temperature, axis=1)
    back = mine - special.logsumexp(b @ bank_a.T / temperature, axis=1)
    return (forward + back) / 2


def _unit(v: np.ndarray) -> np.ndarray:
    v = np.asarray(v, dtype=np.float64)
    norm = np.linalg.norm(v, axis=-1, keepdims=True)
    if not np.isfinite(v).all() or (norm == 0).any():
        raise MienError("an embedding is zero or not finite; check the encoder's output")
    return v / norm
