"""Input perturbation: white Gaussian noise on the samples, in each stream's own unit.

This is obfuscation, not differential privacy. That would need a bound (clipping) on how far one person can move the
input, and an account of what all samples of all that person's recordings give away together; neither is made here. White
noise on a slow signal is largely undone by smoothing: judge it with the attacks, never by its scale.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated

import numpy as np
from pydantic import Field

from ...core.config import Section
from ...core.errors import MienError
from ...core.records import CohortCard, Recording, Signal

GUARANTEE = "none: noise obscures the samples, and filtering can take part of it away again; no epsilon follows"


class Config(Section):
    """scale: the noise's standard deviation as a share of a stream's declared range; streams: its standard deviation in
    the stream's own unit instead, for the streams named."""

    scale: float = Field(ge=0)
    streams: Mapping[str, Annotated[float, Field(ge=0)]] = Field(default_factory=dict)


def apply(recording: Recording, config: Config, card: CohortCard, rng: np.random.Generator) -> Recording:
    """The recording with noise on every valid sample, clipped to the declared range where there is one.

    Gaps keep what they held; ids, labels and attributes stay. Equal `rng` state, equal noise: whoever can guess the
    seed can subtract it. Do it once per recording, before windows are cut: fresh noise on each overlapping window
    averages out. MienError for a stream without a range or an absolute value, for one that
    is no signal, and for a name the card lacks.
    """
    for name in [*config.streams, *recording.streams]:
        if name not in card.streams:
            raise MienError(
                f"perturb: the cohort {card.name!r} declares no stream {name!r}; it has {list(card.streams)}"
            )
    out = {}
    for name in sorted(recording.streams):
        signal, span = recording.streams[name], card.streams[name].range
        if not isinstance(signal, Signal):
            raise MienError(
                f"perturb adds noise to signals; stream {name!r} holds {card.streams[name].kind}, which would stay as it is:"
                " leave it out of the study (streams: …) or protect it otherwise"
            )
        if name in config.streams:
            sd = config.streams[name]
        elif span is not None:
            sd = config.scale * (span[1] - span[0])
        else:
            raise MienError(
                f"stream {name!r} declares no range: give its noise in {signal.unit}, under perturb.streams.{name}"
            )
        noisy = signal.values + sd * rng.standard_normal(signal.values.shape)
        if span is not None:
            noisy = noisy.clip(*span)
        valid = True if signal.valid is None else signal.valid[:, None]
        out[name] = replace(signal, values=np.where(valid, noisy, signal.values))
    return replace(recording, streams={name: out[name] for name in recording.streams})
