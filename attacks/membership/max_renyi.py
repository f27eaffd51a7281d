"""MaxRényi-K %: members are predicted with less hesitation (VL-MIA, Li et al. 2024), for one part of a sequence.

Made for LLaVA-style models, where the image, the instruction and the description are attacked apart.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from ...core.config import Section
from ...core.errors import MienError
from ..signals import Signals
from ..tokenwise import each, entropies, max_renyi

NEEDS = ("tokens",)


class Config(Section):
    """order: of the entropy (0.5, 1, 2, inf); share: of the tokens, the most hesitant ones (0: the one); part: of the
    sequence, or all."""

    order: float | Literal["inf"] = 0.5
    share: float = Field(default=0.1, ge=0, le=1)
    part: str = "all"


def score(signals: Signals, config: Config) -> np.ndarray:
    """float64[n_windows]: minus the mean entropy, nats. MienError when a window has no token of that part."""
    signals.needs(NEEDS)
    if config.part != "all" and config.part not in signals.parts:
        raise MienError(f"max_renyi: no part {config.part!r}; there are all, {', '.join(signals.parts)}")
    column = entropies(float(config.order))
    part = -1 if config.part == "all" else signals.parts.index(config.part)

    def one(t, rows) -> float:
        values = t.entropy[rows, column].astype(np.float64)
        values = values if part < 0 else values[t.part[rows] == part]
        if not len(values):
            raise MienError(f"max_renyi: a window has no token of the part {config.part!r}; attack another part")
        return -max_renyi(values, config.share)

    assert signals.tokens is not None
    return each(signals.tokens, len(signals), one)
