"""Quantile regression: is the loss lower than this window's content lets expect? No shadow model.

Bertran et al. 2023 (arXiv 2307.03694) fit the quantiles of the signal on strangers. Here everybody is left out in turn
(whole persons, members and others alike, and no membership is used): whoever is judged was not fitted on, and both
classes are judged by models of the same kind. What the content is: window statistics and the base's own loss.
"""

from __future__ import annotations

import numpy as np
from pydantic import Field
from sklearn.ensemble import HistGradientBoostingRegressor

from ...core.config import Section
from ...core.errors import MienError
from ..signals import Signals

NEEDS = ("loss", "features")


class Config(Section):
    """quantile: of minus the loss; folds: of persons; trees, depth: of the regression; seed: who shares a fold."""

    quantile: float = Field(default=0.9, gt=0, lt=1)
    folds: int = Field(default=5, ge=2)
    trees: int = Field(default=60, ge=1)
    depth: int = Field(default=3, ge=1)
    seed: int = 0


def score(signals: Signals, config: Config) -> np.ndarray:
    """float64[n_windows]: minus the loss, less its expected quantile (nats per token)."""
    signals.needs(NEEDS)
    assert signals.loss is not None and signals.features is not None  # noqa: PT018
    X = signals.features if signals.loss_base is None else np.column_stack([signals.features, signals.loss_base])
    people, who = np.unique(signals.person, return_inverse=True)
    if len(people) < 2 * config.folds:
        raise MienError(f"quantile: {len(people)} persons in {config.folds} folds; two persons a fold at least")
    fold = (np.random.default_rng(config.seed).permutation(len(people)) % config.folds)[who]
    out = np.empty(len(signals))
    for f in range(config.folds):
        held = fold == f
        model = HistGradientBoostingRegressor(
            loss="quantile", quantile=config.quantile, max_iter=config.trees, max_depth=config.depth,
            random_state=config.seed,
        )  # fmt: skip
        out[held] = -signals.loss[held] - model.fit(X[~held], -signals.loss[~held]).predict(X[held])
    return out
