"""LEACE: least-squares concept erasure in closed form (Belrose et al. 2023, arXiv 2306.03819, section 4).

x -> x - W^+ P W (x - mean), where W whitens x and P projects on the column space of W cov(x, concept). Afterwards no
linear predictor of the concept does better than a constant on the representation it was fitted on, and no affine map
that achieves this changes x less. It removes *linear* information about the concept from *that* representation, and
nothing else: a curved probe may still read it, and so may any probe of another layer or another model. On new rows
it is as good as the covariances are known: with 50 features that gave a two-class concept away to .95, a linear probe
fitted anew on erased new rows was right in .73, .62, .55 and .52 after fitting on 100, 400, 2,000 and 10,000 rows.

Every class beyond the first costs one direction, whether or not it can be told: to erase the identity of more persons
than there are features is to erase everything.

The eraser is itself made of private data: its mean and directions are averages over the persons it was fitted on.
Handing it out, or training on what it has erased, lies outside any differential privacy accounting of the training.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import Field

from ...core.config import Section
from ...core.errors import MienError

GUARANTEE = "none: linear information about the named attributes is removed from one representation; no epsilon follows"
_EPS = float(np.finfo(np.float64).eps)


class Config(Section):
    """attributes: what to erase, all at once."""

    attributes: tuple[str, ...] = Field(min_length=1)


@dataclass(frozen=True, kw_only=True)
class Eraser:
    """x -> x - left right (x - mean). left: float64[d, r], right: float64[r, d], mean: float64[d], r <= concepts."""

    left: np.ndarray
    right: np.ndarray
    mean: np.ndarray

    def apply(self, x: np.ndarray) -> np.ndarray:
        """float[..., d] -> the same shape; float32 stays float32 (computed in float64). MienError for another d."""
        x = np.asarray(x)
        if x.shape[-1:] != self.mean.shape:
            raise MienError(f"this eraser was fitted on {len(self.mean)} features, got an array of shape {x.shape}")
        out = x - ((x - self.mean) @ self.right.T) @ self.left.T
        return out.astype(np.float32) if x.dtype == np.float32 else out

    def save(self, path: Path) -> None:
        """Write a safetensors file, whole or not at all. It holds statistics of private data: keep it private."""
        from safetensors.numpy import save_file

        path = Path(path)
        part = path.with_name(f".{path.name}.{os.getpid()}.partial")
        tensors = {"left": self.left, "right": self.right, "mean": self.mean}
        try:
            # safetensors writes the memory as it lies: a transposed view would come back scrambled
            save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, part)
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)

    @staticmethod
    def load(path: Path) -> Eraser:
        """What `save` wrote. MienError if the file is missing, truncated or something else."""
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            found = load_file(path)
            left, right, mean = found["left"], found["right"], found["mean"]
        except (OSError, SafetensorError, KeyError) as error:
            raise MienError(f"{path} holds no eraser ({error}); fit it again") from None
        if mean.ndim != 1 or left.shape != right.T.shape or left.shape[:1] != mean.shape:
            raise MienError(f"{path} holds no eraser: shapes {left.shape}, {right.shape}, {mean.shape}; fit it again")
        return Eraser(left=left, right=right, mean=mean)


def one_hot(*codes: Sequence[int] | np.ndarray) -> np.ndarray:
    """Codes of one or several attributes, each int[n] -> float64[n, k], their one-hots side by side.

    A missing value (-1) is a row of zeros, so whether a value is missing is erased too.
    """
    blocks = [np.asarray(c) for c in codes]
    return np.hstack([(c[:, None] == np.arange(c.max(initial=-1) + 1)).astype(np.float64) for c in blocks])


def person_weights(persons: Sequence[str] | np.ndarray) -> np.ndarray:
    """float64[n]: one over the person's number of rows, so that every person counts once."""
    _, who, count = np.unique(np.asarray(persons), return_inverse=True, return_counts=True)
    return 1.0 / count[who]


def fit(x: np.ndarray, concepts: np.ndarray, weights: np.ndarray | None = None) -> Eraser:
    """The eraser of `concepts` from `x`, in float64.

    x: float[n, d]; concepts: float[n, k], one-hots (or numbers such as an age in years), several attributes side by
    side; weights: float[n] >= 0, see `person_weights`. A concept that does not vary changes nothing.
    MienError for shapes that do not fit, NaN, and weights that are negative or all zero.
    """
    x, z = np.asarray(x, dtype=np.float64), np.asarray(concepts, dtype=np.float64)
    if x.ndim != 2 or z.ndim != 2 or len(x) != len(z) or 0 in (*x.shape, z.shape[1]):
        raise MienError(f"erasure needs features [n, d] and concepts [n, k] of the same n, got {x.shape} and {z.shape}")
    w = np.ones(len(x)) if weights is None else np.asarray(weights, dtype=np.float64)
    if w.shape != (len(x),):
        raise MienError(f"weights need one number per row: {len(x)}, got shape {w.shape}")
    if not all(np.isfinite(a).all() for a in (x, z, w)):
        raise MienError("NaN or infinite features, concepts or weights; leave those rows out before erasing")
    if (w < 0).any() or not w.any():
        raise MienError("weights must not be negative, nor all zero")
    root = np.sqrt(w / w.sum())[:, None]
    mean = (root**2 * x).sum(0)
    a, b = root * (x - mean), root * (z - (root**2 * z).sum(0))
    b = b / np.maximum(np.linalg.norm(root * z, axis=0), np.finfo(np.float64).tiny)
    # The best eraser is the same in any scale of the features; with unit spreads, small features are not rounded away.
    spread = np.linalg.norm(a, axis=0)
    alive = spread > 1e-12 * np.abs(x).max(0)
    scale = np.where(alive, spread, 1.0)
    # the covariance itself is never formed: that would square its condition number
    rows, s, axes = np.linalg.svd(a * alive / scale, full_matrices=False)
    keep = s > s[0] * max(a.shape) * _EPS
    rows, s, axes = rows[:, keep], s[keep], axes[keep]
    u, size, _ = np.linalg.svd(rows.T @ b, full_matrices=False)  # rows.T @ b is W cov(x, concept), seen from the axes
    u = u[:, size > max(a.shape) * _EPS]
    return Eraser(left=scale[:, None] * (axes.T @ (s[:, None] * u)), right=((u.T / s) @ axes) / scale, mean=mean)
