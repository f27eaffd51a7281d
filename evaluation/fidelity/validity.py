"""Validity: are the synthetic recordings whole, finite, at the declared rate and inside the sensor's range?"""

from __future__ import annotations

import numpy as np

from ...core.config import Section
from ...core.records import Signal
from ...core.results import Result
from ..protocols import Inputs

HIGHER_IS_BETTER = True


class Config(Section):
    """No options."""


def measure(inputs: Inputs, config: Config) -> list[Result]:
    """Share of valid token sequences (the grammar's) and of physically valid recordings."""
    w = inputs.windows
    good = [_valid(x, inputs) for x in w.synthetic]
    return [
        Result(metric="valid sequences", value=w.valid_sequences, unit="recording", note="accepted by the grammar"),
        Result(
            metric="valid recordings", value=float(np.mean(good)), unit="recording",
            note="finite, complete, in the declared range, rate and length",
        ),
    ]  # fmt: skip


def _valid(streams, inputs: Inputs) -> bool:
    for name, s in streams.items():
        spec = inputs.windows.card.streams.get(name)
        if spec is not None and not isinstance(s, Signal):  # their own types admit nothing broken
            if abs(s.seconds - inputs.windows.seconds) > 1e-6:
                return False
            continue
        if spec is None or s.rate_hz != spec.rate_hz or s.channels != spec.channels or not s.complete:
            return False
        if len(s.values) != round(inputs.windows.seconds * s.rate_hz) or not np.isfinite(s.values).all():
            return False
        if spec.range is not None and not (
            spec.range[0] - 1e-4 <= s.values.min() <= s.values.max() <= spec.range[1] + 1e-4
        ):
            return False
    return bool(streams)
