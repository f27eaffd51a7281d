"""Loss against how compressible the window is in itself (Carlini et al. 2021, arXiv 2012.07805)."""

from __future__ import annotations

import numpy as np

from ...core.config import Section
from ..signals import Signals

NEEDS = ("loss", "zlib")


class Config(Section):
    """No options."""


def score(signals: Signals, config: Config) -> np.ndarray:
    """float64[n_windows]: minus the summed loss (nats) per compressed byte; larger = member."""
    signals.needs(NEEDS)
    assert signals.loss is not None and signals.zlib is not None  # noqa: PT018
    return -signals.loss * signals.n_tokens / np.maximum(signals.zlib, 1)
