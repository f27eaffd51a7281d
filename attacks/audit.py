"""Everything that is attacked once the signals are there: which attacks a profile runs, and one list of results."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import numpy as np

from ..core import console, intervals, plugins, verbs
from ..core.config import Plugin, Section
from ..core.errors import MienError
from ..core.records import Cohort
from ..core.results import Report, Result, environment
from ..core.runs import Run
from ..core.scores import Scores
from ..data import splits
from ..data.features import WindowTable
from . import bounds, judge
from .releases import Release, served
from .signals import Signals, pool

Profile = Literal["quick", "standard", "full"]
Kind = Literal["membership", "dataset", "release", "identity", "attribute"]

_QUICK: dict[Kind, tuple[str, ...]] = {"membership": ("loss", "reference"), "identity": ("linkage",)}
_STANDARD: dict[Kind, tuple[str, ...]] = {
    "membership": (
        "bavaria", "user", "loss", "reference", "slope", "quantile", "zlib", "min_k", "min_k_plus", "ez", "votes",
        "max_renyi",
    ),
    "dataset": ("inference",),
    "release": ("nearest", "domias", "ngram", "singling_out", "linkability", "inference", "distance"),
    "identity": ("linkage",),
    "attribute": ("inference",),
}  # fmt: skip
PROFILES: dict[Profile, dict[Kind, tuple[str, ...]]] = {
    "quick": _QUICK,
    "standard": _STANDARD,
    "full": {
        **_STANDARD, "membership": (*_STANDARD["membership"], "lira", "rmia", "sequence_lira"),
        "dataset": ("inference", "fraction"),
    },
}  # fmt: skip
REPRESENTED = ("loss", "quantile", "encoder", "cosine", "augmented")
"""Membership attacks on a representation, which has no tokens, whatever the profile."""
AUTOENCODED = ("loss", "reference", "evidence", "reconstruction", "quantile", "encoder")
"""And on an autoencoder."""
_OPTIONS: dict[tuple[Kind, str], dict] = {
    ("attribute", "inference"): {"models": ["logistic"]}
}  # a forest takes minutes
COSTS: dict[Profile, str] = {
    "quick": "two forward passes over the recordings",
    "standard": "four forward passes, then minutes of arithmetic; no shadow models",
    "full": "as standard, and shadow models: as many trainings as the adapter's own, stacked",
}
SHADOWS: dict[Profile, int] = {"quick": 0, "standard": 0, "full": 16}


class Asked(Section):
    """profile: quick (losses only), standard (everything without shadow models) or full (16 shadow models too);
    membership, dataset, release, identity, attribute: which attacks, instead of the profile's."""

    profile: Profile = "standard"
    membership: tuple[Plugin, ...] | None = None
    dataset: tuple[Plugin, ...] | None = None
    release: tuple[Plugin, ...] | None = None
    identity: tuple[Plugin, ...] | None = None
    attribute: tuple[Plugin, ...] | None = None

    def named(self, kind: Kind) -> list[Plugin]:
        """The attacks of a kind: those a recipe names, or the profile's."""
        asked = getattr(self, kind)
        if asked is not None:
            return list(asked)
        return [Plugin(name=n, **_OPTIONS.get((kind, n), {})) for n in PROFILES[self.profile].get(kind, ())]


def of_representation(asked: Asked, autoencoder: bool) -> Asked:
    """What a recipe asks for, where it is a representation or an autoencoder that is attacked: the profile's attacks that need
    no tokens, unless it names others."""
    names = AUTOENCODED if autoencoder else REPRESENTED
    found = {} if asked.membership is not None else {"membership": tuple(Plugin(name=n) for n in names)}
    kept = tuple(s for s in asked.named("release") if s.name != "ngram")
    return asked.model_copy(update=found | ({"release": kept} if asked.release is None else {}))


def needs(attacks: Sequence[Plugin]) -> set[str]:
    """What membership attacks need of the signals."""
    return {n for section in attacks for n in plugins.load("attacks/membership", section.name).NEEDS}


def summary(members: int, held_out: int, cohort: str, profile: Profile) -> str:
    return (
        f"Attackers who hold recordings of {members} persons the adapter was trained on and of {held_out} it never saw"
        f" (cohort {cohort}) try to tell them apart. Profile: {profile}."
    )


def report(
    run: Run, recipe: Any, found: Audit, cohort: Cohort, split: splits.Splits, guarantee: str, left_out: Mapping[str, int],
    missing: Sequence[str],
) -> Report:  # fmt: skip
    """What an attack run says of itself. recipe: the Attack; cohort: of its persons; missing: what was not attacked."""
    n_in, n_out = len(split.train), len(split.holdout)
    return Report(
        verb="attack", run=run.name, study=recipe.study, config=verbs.public(recipe.model_dump(mode="json")),
        summary=summary(n_in, n_out, cohort.card.name, recipe.profile),
        inputs=dict(run.inputs), data_fingerprint=run.inputs["cohort"], results=tuple(found.results), guarantee=guarantee,
        consent=dict(left_out), environment=environment(recipe.seed), not_measured=tuple(missing),
        restrictions=cohort.card.restrictions,
        caveats=(
            f"With {n_in} + {n_out} persons no false positive rate below {100 / n_out:.3g} % can be"
            f" told from zero; certifying 1 % takes {intervals.certifiable(0.01)} held-out persons.",
            *splits.warnings(split), *judge.doubts(found.results),
            *(() if guarantee == verbs.PLAIN else (verbs.UNCOVERED,)),
        ),
    )  # fmt: skip


def headlines(results: Sequence[Result]) -> list[Result]:
    """What is worth a line in a terminal: no rate that was not measured (an AUC that was not measured stays)."""
    return [r for r in results if r.value is not None or ".tpr_" not in r.metric]


def narrow(width: float | None, seen: dict) -> bool:
    """Whether the 95 % interval of the person-level AUC is narrower than `width` already. seen: fields of Signals."""
    if width is None:
        return False
    signals = Signals(made_with="", **{k: v for k, v in seen.items() if k != "fresh"})
    module, options = plugins.resolve("attacks/membership", Plugin(name="user"))
    scores = pool(signals, module.score(signals, options), "person")
    found = intervals.auc_interval(scores.score, scores.member, scores.persons)
    return found.low is not None and found.high is not None and found.high - found.low < width


def lower_bounds(scores: Scores, attack: str, coins: bool, delta: float = 1e-5) -> list[Result]:
    """What ε the person-level scores certify at least; without a coin for each person nothing is claimed."""
    if not coins:
        why = "not run: persons were drawn as a fixed number; a bound needs a coin for each (split.coins: true)"
        return [Result(metric="epsilon_lower_bound", value=None, higher_is_better=False, note=why)]
    ways: tuple[tuple[bounds.Method, bounds.Policy], ...] = (
        ("one_run", bounds.DECLARED), ("one_run_gdp", bounds.FIXED),
    )  # fmt: skip
    out = []
    for method, policy in ways:
        b = bounds.audit(scores.score, scores.member, method=method, policy=policy, delta=delta)
        out.append(
            Result(
                metric="epsilon_lower_bound" + ("" if b.family == "any" else f", if {b.family}"), value=b.epsilon,
                n_persons=len(scores), unit="person", higher_is_better=False,
                note=f"{b}, from {attack}; {bounds.resolution(len(scores))}",
            )
        )  # fmt: skip
    return out


@dataclass(kw_only=True)
class Audit:
    """profile, whose cost is announced; results in the order they were found; curves: ROC corners of membership attacks;
    private: scores per person, and served, how well the release covers and serves each (attacks/releases.py)."""

    profile: Profile
    results: list[Result] = field(default_factory=list)
    curves: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    scores: dict[str, Scores] = field(default_factory=dict)
    served: dict[str, tuple[float, float]] = field(default_factory=dict)

    def model(
        self,
        asked: Asked,
        signals: Signals,
        table: WindowTable,
        attributes: Mapping[str, Mapping],
        seed: int,
        coins: bool,
    ) -> None:
        """Attacks on the model: membership, how exposed the most exposed persons are to the first attack that ran, the ε
        it certifies at least, the set as a whole, and what the model's outputs tell of persons beyond their recordings.

        attributes: person -> name -> value; coins: whether each person was in training by a coin of their own."""
        console.say("  membership, beside a blind attack that never sees the model")
        found = judge.membership(asked.named("membership"), signals.with_table(table), seed)
        self.results += found.results
        self.curves, self.scores, self.blind = found.curves, found.scores, found.blind
        main = next((n for n in ("user", "bavaria", "reconstruction", "reference", "loss") if n in found.scores), None)
        if main is not None:
            self.results += [judge.deciles(found.scores[main]), *lower_bounds(found.scores[main], main, coins)]
        for section in asked.named("dataset"):
            self._try("dataset", section, lambda module, options: module.run(signals, options))
        for section in asked.named("attribute"):
            for name in traits(attributes):
                self._try(
                    "attribute", section, partial(_infer, signals, table, attributes, name), f"{section.name}: {name}"
                )

    def release(self, asked: Asked, release: Release) -> None:
        """Attacks on the synthetic cohort alone."""
        self.served = served(release)
        for section in asked.named("release"):
            self._try("release", section, lambda module, options: module.run(release, options, blind=self.blind))
        for section in asked.named("identity"):
            self._try(
                "identity", section,
                lambda module, options: module.score(
                    release.synthetic, release.candidates, release.member, options
                ).results(),
            )  # fmt: skip

    def _try(self, kind: Kind, section: Plugin, act: Callable, label: str = "") -> None:
        """The attack's results, or one that says why it could not run."""
        module, options = plugins.resolve(f"attacks/{kind}", section)
        try:
            self.results += act(module, options)
        except MienError as error:
            self.results.append(judge.not_run(label or section.name, str(error)))
        console.say(f"  {kind}: {label or section.name}")


def traits(attributes: Mapping[str, Mapping]) -> list[str]:
    """Attributes worth inferring: words or yes/no, with two to eight values."""
    values: dict[str, set] = {}
    for own in attributes.values():
        for name, value in own.items():
            if value is not None:
                values.setdefault(name, set()).add(value)
    return sorted(n for n, v in values.items() if 2 <= len(v) <= 8 and all(isinstance(x, str | bool) for x in v))


def _infer(
    signals: Signals, table: WindowTable, attributes: Mapping[str, Mapping], name: str, module, options
) -> list[Result]:
    """One attribute from what the model says of windows, beside what the windows say by themselves."""
    secret = np.array([str(attributes[p].get(name)) for p in signals.person])
    columns = [
        signals.loss,
        signals.loss_base,
        signals.slope,
        *(() if signals.segments is None else signals.segments.T),
    ]
    facts = module.Facts(
        seen=np.column_stack([c for c in columns if c is not None]), secret=secret, person=signals.person, public=table.X,
        member=signals.member, name=name,
    )  # fmt: skip
    return [r.model_copy(update={"metric": f"{r.metric} ({name})"}) for r in module.predict(facts, options).results()]
