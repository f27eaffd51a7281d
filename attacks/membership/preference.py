"""Who gave these preferences? PREMIA (arXiv 2407.06443): what DPO or PPO moved, against the reference model.

A row is a preference pair; its `person` is the rater or the recorded person, never the pair. `pair` is the DPO margin
over β; for a reward model give its rewards as log-likelihoods and zeros as the reference.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from ...core.config import Section
from ..signals import Signals

NEEDS = ("chosen", "rejected", "chosen_base", "rejected_base")


class Config(Section):
    """of: which likelihood ratio."""

    of: Literal["pair", "chosen", "rejected"] = "pair"


def score(signals: Signals, config: Config) -> np.ndarray:
    """float64[n]: log π/π_ref of the chosen answer, minus that of the rejected one (`pair`)."""
    signals.needs(NEEDS)
    chosen = signals.chosen - signals.chosen_base  # type: ignore[operator]
    rejected = signals.rejected - signals.rejected_base  # type: ignore[operator]
    return {"pair": chosen - rejected, "chosen": chosen, "rejected": -rejected}[config.of]
