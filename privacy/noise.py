"""Secret randomness: uniform and normal numbers from AES in counter mode, under a key from the operating system.

The key is made here, held in memory only, never logged, never saved, and never the same twice: after a resume all
draws are new. Nothing else (dropout, initial weights) draws from it.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np


def _key() -> bytes:
    return os.urandom(48)


class Secret:
    """A stream of secret random numbers. It cannot be pickled, copied or seeded."""

    def __init__(self) -> None:
        from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

        made = _key()
        self._stream = Cipher(algorithms.AES(made[:32]), modes.CTR(made[32:])).encryptor()

    def __reduce__(self) -> Any:
        raise TypeError("secret randomness is never written anywhere")

    def __repr__(self) -> str:
        return "Secret()"

    def bits(self, n: int) -> np.ndarray:
        """uint64[n]"""
        return np.frombuffer(self._stream.update(bytes(8 * n)), dtype=np.uint64)

    def uniform(self, n: int) -> np.ndarray:
        """float64[n] in (0, 1]: multiples of 2^-53."""
        return ((self.bits(n) >> np.uint64(11)) + 1) * 2.0**-53

    def below(self, n: int, probability: float) -> np.ndarray:
        """bool[n]: independent events of this probability (exact to 2^-53)."""
        return self.uniform(n) <= probability

    def places(self, n: int, k: int) -> np.ndarray:
        """int64[n]: independent, uniform over range(k)."""
        return np.minimum((self.uniform(n) * k).astype(np.int64), k - 1)

    def choose(self, n: int, k: int) -> np.ndarray:
        """int64[min(n, k)]: a uniform subset of range(n), in increasing order."""
        if k >= n:
            return np.arange(n)
        return np.sort(np.argpartition(self.uniform(n), k)[:k])

    def normal(self, n: int, device: Any = "cpu") -> Any:
        """float64[n] standard normal on a torch device (Box & Muller 1958), in one pass per 2^22 numbers."""
        import math

        import torch

        out = torch.empty(n, dtype=torch.float64, device=device)
        for at in range(0, n, 1 << 22):
            some = min(1 << 22, n - at)
            half = (some + 1) // 2
            u = torch.from_numpy(self.uniform(2 * half)).to(device)
            radius = torch.sqrt(-2 * torch.log(u[:half]))
            angle = u[half:] * (2 * math.pi)
            both = torch.cat([radius * torch.cos(angle), radius * torch.sin(angle)])
            out[at : at + some] = both[:some]
        return out


def noised(total: Any, noise_multiplier: float, clip_norm: float, secret: Secret) -> Any:
    """`total` (float64[P], a sum of vectors of norm at most clip_norm) plus N(0, (noise_multiplier x clip_norm)^2).

    Sum and noise are float64; the optimiser sees the result rounded to float32. That rounding is post-processing, and
    it is 2^29 times coarser than the gaps of a float64 Gaussian, which an attacker of float noise would look for
    (arXiv 2112.05307).
    """
    return total + secret.normal(len(total), total.device) * (noise_multiplier * clip_norm)
