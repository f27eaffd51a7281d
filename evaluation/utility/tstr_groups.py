"""TSTR per group of signs: one trivially separable stream must not speak for all.

With all statistics at once a generator whose hearts are impossible can reach a perfect TSTR through a temperature slope. Here a
forest sees one stream's statistics at a time, those of a group of streams, or one group of vital signs (heart; heart with
breath; skin conductance; temperature; movement); TRTR and its n-matched twin stand beside each, and the codec: a forest on
training windows written as tokens and read back, the most that a model of those tokens can reach. What is lost between TRTR
and the codec is the codec's fault, what is lost between the codec and TSTR the model's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np
from pydantic import Field

from ...core.config import Section
from ...core.errors import MienError
from ...core.intervals import over_persons
from ...core.results import Result
from ...data import features
from ...data.vitals import GROUPS, VITALS, roles, table
from ..comparisons import baseline, not_measured, numbers
from ..protocols import Inputs
from .tstr import macro_f1, matched

HIGHER_IS_BETTER = True


class Config(Section):
    """groups: name -> streams whose statistics are looked at together, such as cardiorespiratory: [bvp, resp]; streams: each
    stream alone; vitals: groups of vital signs; trees: of each forest; seed."""

    groups: dict[str, tuple[str, ...]] = {}
    streams: bool = True
    vitals: bool = True
    trees: int = Field(default=100, ge=1)
    seed: int = 0


def measure(inputs: Inputs, config: Config) -> list[Result]:
    t, out = inputs.tables, []
    few = matched(t.train, t.synthetic, np.random.default_rng(config.seed))
    for name, (train, test, made, coded) in _groups(inputs, config):
        metric = f"TSTR macro-F1 {name}"
        known = ~np.isnan(train).all(0) & ~np.isnan(made).all(0) & ~np.isnan(test).all(0)
        if not known.any():
            out.append(not_measured(metric, "not there, or not found, on all three sides", higher_is_better=True))
            continue
        train, test, made = train[:, known], test[:, known], made[:, known]
        predictions = {
            "TSTR": _predict(made, t.synthetic.label, test, config), "TRTR": _predict(train, t.train.label, test, config),
            "TRTR n-matched": _predict(train[few], t.train.label[few], test, config),
        }  # fmt: skip
        if coded is not None and t.codec is not None:
            predictions["codec"] = _predict(coded[:, known], t.codec.label, test, config)
        predictions["majority"] = np.full(len(test), Counter(t.train.label).most_common(1)[0][0], dtype=object)
        found = {n: over_persons(macro_f1, t.test.person, t.test.label, p) for n, p in predictions.items()}
        main = found.pop("TSTR")
        beside, note = tuple(baseline(n, f) for n, f in found.items()), ""
        if "codec" in found:
            by_codec, by_model = found["TRTR"].value - found["codec"].value, found["codec"].value - main.value
            note = f"lost by the codec: {by_codec:+.3f}; by the model: {by_model:+.3f}"
        out.append(Result(metric=metric, **numbers(main), unit="window", baselines=beside, note=note))
    return out


Group = tuple[str, tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]]


def _groups(inputs: Inputs, config: Config) -> Iterator[Group]:
    """(group, values of training, test and synthetic windows, and of training windows through the codec where they are
    there). MienError for a group of a stream that is not there."""
    t, w = inputs.tables, inputs.windows
    wanted = {f"stream {s}": (s,) for s in w.card.streams} if config.streams else {}
    columns = features.names(w.card)
    for name, streams in (wanted | config.groups).items():
        unknown = [s for s in streams if s not in w.card.streams]
        if unknown or not streams:
            raise MienError(
                f"tstr_groups.groups: {name}: {', '.join(unknown) or 'no stream'}; the cohort's streams are"
                f" {', '.join(w.card.streams)}"
            )
        mine = [i for i, c in enumerate(columns) if c.startswith(tuple(f"{s}." for s in streams))]
        coded = None if t.codec is None else t.codec.X[:, mine]
        yield name, (t.train.X[:, mine], t.test.X[:, mine], t.synthetic.X[:, mine], coded)
    where = roles(w.card) if config.vitals else {}
    if where:
        sides = [table(x, where) for x in (w.train, w.test, w.synthetic, w.codec)]
        for group, signs in GROUPS.items():
            mine = [list(VITALS).index(s) for s in signs]
            if np.isfinite(sides[0][:, mine]).any():  # a sign that no real window has is not asked for
                train, test, made, coded = (x[:, mine] for x in sides)
                yield group, (train, test, made, coded if len(w.codec) else None)


def _predict(X: np.ndarray, y: np.ndarray, new: np.ndarray, config: Config) -> np.ndarray:
    from sklearn.ensemble import RandomForestClassifier

    forest = RandomForestClassifier(config.trees, random_state=config.seed, n_jobs=1)
    return forest.fit(X, y.astype(str)).predict(new).astype(object)
