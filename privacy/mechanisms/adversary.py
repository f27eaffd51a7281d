"""A gradient-reversal adversary (Ganin et al., "Domain-Adversarial Training of Neural Networks", JMLR 17, 2016).

A head tries to tell a private attribute from the pooled hidden state. Its own weights learn to; what flows back through
the reversal has the opposite sign, so the adapter learns to hide the attribute from this head. Another probe may find
it all the same: in the toy of the tests two features forget, eight mislead the head while a fresh probe still reads the
attribute. Train a fresh probe on the finished representation before believing anything.

Under differential privacy the head must be part of the model: its tensors are clipped, noised and stepped together
with the adapter's, from the same per-person gradients, and start from a seed. A head trained plainly on private data
would carry what it learnt of all persons into each person's gradient of the adapter: the sum's sensitivity would then
no longer be the clipping norm, and the accountant would not know. The same holds for the number of classes and the
bin edges, which shape the head: take them from a questionnaire, never from the recordings.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
from pydantic import Field, model_validator

from ...core.config import Section
from ...core.errors import MienError

GUARANTEE = "none: one adversary was misled during training, another may not be; no epsilon follows"


class Config(Section):
    """attributes: what to hide (identity, sex, age, location, ...); weight: of the reversed gradient, the head's own is
    not scaled; hidden: the head's width; bins: how many equal bins a numeric attribute's `ranges` entry [low, high] is
    cut into; edges: inner bin edges instead; classes: the public list of a categorical attribute's values.
    """

    attributes: tuple[str, ...] = Field(min_length=1)
    weight: float = Field(default=1.0, gt=0)
    hidden: int = Field(default=64, ge=1)
    bins: int = Field(default=4, ge=2)
    ranges: Mapping[str, tuple[float, float]] = Field(default_factory=dict)
    edges: Mapping[str, tuple[float, ...]] = Field(default_factory=dict)
    classes: Mapping[str, tuple[str, ...]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _one_description_each(self) -> Config:
        described = [*self.ranges, *self.edges, *self.classes]
        for name in described:
            if name not in self.attributes:
                raise ValueError(f"{name!r} is described in ranges, edges or classes but is not among the attributes")
            if described.count(name) > 1:
                raise ValueError(f"{name!r} is described twice; keep one of ranges, edges and classes")
        for name, cuts in [*self.ranges.items(), *self.edges.items()]:
            if not cuts or any(a >= b for a, b in pairwise(cuts)):
                raise ValueError(f"{name!r}: the numbers must rise, got {list(cuts)}")
        for name, values in self.classes.items():
            if len(values) < 2 or len(set(values)) < len(values):
                raise ValueError(f"{name!r}: classes must be two or more different values, got {list(values)}")
        return self

    def bin_edges(self, attribute: str) -> tuple[float, ...] | None:
        """The inner bin edges of a numeric attribute, or None when neither edges nor a range is declared."""
        if attribute in self.ranges:
            return tuple(float(x) for x in np.linspace(*self.ranges[attribute], self.bins + 1)[1:-1])
        return self.edges.get(attribute)


def targets(values: Sequence[Any], config: Config, attribute: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """One attribute's values, one a row -> codes int64[n], and the names of the classes. Missing (None, NaN): -1.

    Numbers fall into the declared bins (an edge belongs to the bin above it; what lies outside the range goes to the
    first or last bin). Words take the declared classes, or else the sorted values present: then the head's shape
    depends on who is in the data. MienError for a number without bins and a word that is not declared.
    """
    missing = [v is None or (isinstance(v, float) and math.isnan(v)) for v in values]
    edges, classes = config.bin_edges(attribute), config.classes.get(attribute)
    if edges is not None:
        words = [v for v, gone in zip(values, missing, strict=True) if not gone and not _number(v)]
        if words:
            raise MienError(f"{attribute} has numeric bins and the value {words[0]!r}; declare its `classes` instead")
        numbers = np.array([np.nan if gone else float(v) for v, gone in zip(values, missing, strict=True)])
        codes = np.where(missing, -1, np.digitize(numbers, edges))
        ends = ["-inf", *(f"{e:g}" for e in edges), "inf"]
        return codes.astype(np.int64), tuple(f"[{a}, {b})" for a, b in pairwise(ends))
    if classes is None:
        for v, gone in zip(values, missing, strict=True):
            if _number(v) and not gone:
                raise MienError(
                    f"{attribute} is a number ({v!r}): declare its `ranges` [low, high] or its bin `edges`;"
                    " bins taken from the data would depend on who is in it"
                )
        classes = tuple(sorted({str(v) for v, gone in zip(values, missing, strict=True) if not gone}))
    place = {name: i for i, name in enumerate(classes)}
    for v, gone in zip(values, missing, strict=True):
        if not gone and str(v) not in place:
            raise MienError(f"{attribute}: {v!r} is not among its declared classes {list(classes)}; add it there")
    return np.array([-1 if gone else place[str(v)] for v, gone in zip(values, missing, strict=True)], np.int64), classes


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def head(width: int, classes: int, config: Config) -> Any:
    """A fresh adversary for one attribute: reversal, then Linear, ReLU, Linear. [B, width] -> logits [B, classes].

    Plain linear layers only, so that every trainable tensor has a per-person gradient. `torch.manual_seed` beforehand
    makes it repeatable.
    """
    if classes < 2:
        raise MienError(f"an adversary needs an attribute with at least two classes, got {classes}; leave it out")
    return _parts()[1](width, classes, config.hidden, config.weight)


def loss(head: Any, pooled_hidden: Any, codes: Any) -> Any:
    """Cross-entropy in nats, float32[B]; 0 for a missing value. No row depends on another.

    Add it, unscaled, to the loss of the unit each row belongs to: the weight acts on the reversed gradient alone.
    """
    import torch

    logits = head(pooled_hidden).float()
    return torch.nn.functional.cross_entropy(logits, codes, ignore_index=-1, reduction="none")


def reverse(x: Any, weight: float) -> Any:
    """x as it is; its gradient times -weight."""
    return _parts()[0].apply(x, weight)


@cache
def _parts() -> tuple[Any, Any]:
    """The autograd function and the module, defined late because torch is imported late."""
    import torch

    class Reverse(torch.autograd.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(x: Any, weight: float) -> Any:  # type: ignore[override]
            return x.view_as(x)

        @staticmethod
        def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
            ctx.weight = inputs[1]

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:  # type: ignore[override]
            return -ctx.weight * g, None

    class Head(torch.nn.Module):
        def __init__(self, width: int, classes: int, hidden: int, weight: float):
            super().__init__()
            self.reversal = weight
            self.inner = torch.nn.Linear(width, hidden)
            self.outer = torch.nn.Linear(hidden, classes)

        def forward(self, x: Any) -> Any:
            return self.outer(torch.relu(self.inner(Reverse.apply(x, self.reversal))))

    return Reverse, Head
