"""How well metadata alone predicts a label of persons it was not learnt on: the number any result has to be read beside."""

from __future__ import annotations

import re
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np

from ..core import intervals

_TELLING = 0.3  # of the way from chance to certainty (AUROC .65): what metadata has to reach to be told of


def columns(values: Mapping[str, Sequence[Any]]) -> dict[str, np.ndarray]:
    """What may tell a label, coded: columns that say the same are one, and so are three and more of one prefix (symptom_)."""
    prefixes = Counter(k.split("_")[0] for k in values if "_" in k)
    groups: dict[str, list[np.ndarray]] = defaultdict(list)
    names: dict[bytes, list[str]] = defaultdict(list)
    for name, cells in values.items():
        x = coded(cells)
        prefix = name.split("_")[0]
        if x.shape[1] < 2:
            continue
        if "_" in name and prefixes[prefix] >= 3:
            groups[f"{prefix}_…"].append(x)
        else:
            names[x.tobytes()].append(name)
            groups[name].append(x)
    kept = {same[0]: " or ".join(same) for same in names.values()}
    return {kept.get(k, k): np.hstack(v) for k, v in groups.items() if k in kept or k.endswith("_…")}


@dataclass(frozen=True, kw_only=True)
class Clue:
    """How well one piece of metadata predicts a label of persons it was not learnt on."""

    name: str
    value: float
    chance: float
    kind: str
    statistic: Callable[..., float]
    data: tuple[np.ndarray, ...]
    person: np.ndarray

    @staticmethod
    def measured(name: str, x: np.ndarray, y: np.ndarray, person: np.ndarray) -> Clue:
        from sklearn.linear_model import LogisticRegression
        from sklearn.model_selection import StratifiedGroupKFold

        classes = np.array(sorted(set(y)), dtype=object)
        scores, fold = np.zeros((len(y), len(classes))), np.zeros(len(y), dtype=np.int64)
        parts = min(5, min(len({*person[y == c]}) for c in classes))
        division = StratifiedGroupKFold(parts, shuffle=True, random_state=0)
        for i, (train, test) in enumerate(division.split(x, y, person)):
            fold[test] = i
            if len({*y[train]}) < 2:
                continue
            model = LogisticRegression(class_weight="balanced", max_iter=300)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that it has not converged to the last digit: no matter here
                model.fit(x[train], y[train].astype(str))
            scores[np.ix_(test, np.searchsorted(classes.astype(str), model.classes_))] = model.predict_proba(x[test])
        if len(classes) == 2:
            kind, statistic, data = "AUROC", _auc_in_folds, (scores[:, 1], y == classes[1], fold)
        else:
            kind, statistic, data = "balanced accuracy", _balanced, (classes[scores.argmax(1)] == y, y)
        return Clue(
            name=name, value=statistic(*data), chance=1 / len(classes), kind=kind, statistic=statistic, data=data, person=person
        )  # fmt: skip

    @property
    def telling(self) -> bool:
        return (self.value - self.chance) / (1 - self.chance) >= _TELLING

    def text(self) -> str:
        """With an interval over persons; of more than 200, over 200 groups of them, which is as wide and quicker."""
        _, group = np.unique(self.person.astype(str), return_inverse=True)
        found = intervals.over_persons(self.statistic, group % 200, *self.data)
        span = "" if found.low is None or found.high is None else f" [{short(found.low)}, {short(found.high)}]"
        return f"{self.name} {self.kind} {short(self.value)}{span}"


def _auc_in_folds(scores: np.ndarray, truth: np.ndarray, fold: np.ndarray) -> float:
    """Only scores of one model are compared: those of five, pooled, differ by how their test persons do, which would
    count against the clue."""
    won = pairs = 0.0
    for i in np.unique(fold):
        a, b = scores[(fold == i) & truth], scores[(fold == i) & ~truth]
        if len(a) and len(b):
            won += intervals.auc(a, b) * len(a) * len(b)
            pairs += len(a) * len(b)
    return won / pairs if pairs else 0.5


def _balanced(right: np.ndarray, y: np.ndarray) -> float:
    return float(np.mean([right[y == c].mean() for c in sorted(set(y))]))


def short(share: float) -> str:
    return f"{share:.2f}".lstrip("0") if share < 1 else f"{share:.2f}"


def coded(values: Sequence[Any]) -> np.ndarray:
    """float[n, k] of zeros and ones: ten to fifty quantiles of a number or date (the more, the more values there are), the
    thirty commonest words; absent is one of its own."""
    there = [v for v in values if v is not None and v != ""]
    numbers: list[float | None] = []
    for v in values:
        numbers.append(None if v is None or v == "" else number(v))
    if there and all(x is not None for v, x in zip(values, numbers, strict=True) if v is not None and v != ""):
        known = np.array([x for x in numbers if x is not None])
        levels = np.unique(known)
        parts = min(50, max(10, len(values) // 50))
        edges = levels[1:] if len(levels) <= parts else np.unique(np.quantile(known, np.arange(1, parts) / parts))
        bins: list[Any] = [None if x is None else int(np.searchsorted(edges, x, side="right")) for x in numbers]
    else:
        common = {v for v, _ in Counter(map(str, there)).most_common(30)}
        bins = [None if v is None or v == "" else str(v) if str(v) in common else "other" for v in values]
    names = list(dict.fromkeys(bins))
    return np.array([[b == n for n in names] for b in bins], dtype=np.float64)


def number(value: Any) -> float | None:
    """A number or a date as a number; None for words."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return float(value)
    text = str(value)
    if re.fullmatch(r"\d{4}-\d{2}-\d{2}|(19|20)\d{6}", text):
        digits = text.replace("-", "")
        try:
            return float(date(int(digits[:4]), int(digits[4:6]), int(digits[6:])).toordinal())
        except ValueError:
            return None
    return None
