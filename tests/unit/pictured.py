"""Invented pictures and words, for towers that take them."""

from __future__ import annotations

import numpy as np

from mien.core.records import Video


def drawn(seed: int, height: int = 40, width: int = 56) -> Video:
    """Three frames of a coloured disc on a plain ground, moving."""
    rng = np.random.default_rng(seed)
    ground, colour = rng.integers(0, 256, (2, 3))
    y, x = np.mgrid[:height, :width]
    discs = [((y - 20) ** 2 + (x - 15 - 8 * t) ** 2 < 100)[..., None] for t in range(3)]
    return Video(frames=np.stack([np.where(d, colour, ground) for d in discs]).astype(np.uint8), rate_hz=2)


SHOWN = {
    "image": [drawn(i) for i in range(3)],
    "text": ["a red disc", "two people smile", "somebody looks away from us"],
}
