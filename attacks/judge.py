"""From an attack's scores to results a reader can weigh. A helper for recipes, not a plug-in."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..core import intervals, plugins
from ..core.config import Plugin
from ..core.errors import MienError
from ..core.intervals import Interval
from ..core.results import Baseline, Result
from ..core.scores import Scores
from .membership import blind as blind_attack
from .signals import Signals, pool


def judge(scores: Scores, *, fprs: Sequence[float] = (0.001, 0.01, 0.1), blind: Interval | None = None) -> list[Result]:
    """AUC and TPR at each FPR, with intervals over persons and what this many persons can support.

    blind: the blind attack's AUC on the same split (`membership.blind.pairwise`). When its interval excludes
    ½, the split gives members away without any model, and every headline is withheld: value None, with the
    reason.

    A TPR is given only when there are 1/FPR non-member *persons*: a thousand windows of five persons tell how
    these five behave, not one person in a thousand. Its threshold is set on the non-members it is reported
    at; its interval is over member persons at that threshold, and the note says how far the FPR itself is
    known.
    """
    if any(not 0 < f < 1 for f in fprs):
        raise MienError(f"false positive rates lie between 0 and 1, got {list(fprs)}")
    n_in, n_out = scores.n_member_persons, scores.n_nonmember_persons
    support = f"{n_in} + {n_out} persons: no rate below {100 / n_out:.3g} % can be resolved"
    if scores.allow_shared_persons:
        support += "; the split is random by window, so this says nothing about whether a person took part"
    if blind is None:
        support += "; no blind attack was run on this split"
    elif blind.low is None:
        support += "; the blind attack has no interval, so the split is not shown to be fair"
    withheld = ""
    if blind is not None and blind.excludes(0.5):
        withheld = (
            f"withheld: the blind attack, which never sees the model, has AUC {blind.value:.2f}"
            f" ({blind.low:.2f}-{blind.high:.2f}), so the split itself gives members away; draw"
            f" membership at random"
        )
    control = Baseline(
        name="blind",
        value=None if blind is None else blind.value,
        low=None if blind is None else blind.low,
        high=None if blind is None else blind.high,
    )
    chance = Baseline(name="chance", value=0.5)

    def result(metric: str, found: Interval | None, baselines: tuple[Baseline, ...], note: str) -> Result:
        shown = None if withheld else found
        return Result(
            metric=f"{scores.attack}.{metric}",
            value=None if shown is None else shown.value,
            low=None if shown is None else shown.low,
            high=None if shown is None else shown.high,
            n_persons=len(set(scores.persons)),
            unit=scores.unit,
            higher_is_better=False,
            baselines=baselines,
            note=withheld or note,
        )

    area = intervals.auc_interval(scores.score, scores.member, scores.persons)
    note = support if area.low is not None else f"{support}; one person in a class supports no interval"
    out = [result("auc", area, (chance, control), note)]
    for fpr in fprs:
        found, note = _tpr(scores, fpr, n_out)
        out.append(result(f"tpr_at_fpr_{fpr:g}", found, (Baseline(name="chance", value=fpr),), f"{support}; {note}"))
    return out


def membership(
    sections: Sequence[Plugin], signals: Signals, seed: int
) -> tuple[list[Result], dict[str, tuple[np.ndarray, np.ndarray]]]:
    """Every membership attack a recipe names, per recording and per person, and their ROC corners per recording.

    Each AUC stands beside chance, the blind attack on the same split, and the same judgement of the base's own loss
    ("adapter off"): a model that saw nobody must tell nobody apart.
    """
    fair = blind_attack.pairwise(signals, blind_attack.Config(seed=seed))
    results: list[Result] = []
    curves = {}
    for section in sections:
        module, options = plugins.resolve("attacks/membership", section)
        values = module.score(signals, options)
        for unit in ("recording", "person"):
            scores = pool(signals, values, unit, attack=section.name)
            found = judge(scores, blind=fair)
            if signals.loss_base is not None:
                null = pool(signals, -signals.loss_base, unit, attack="adapter off")
                off = intervals.auc_interval(null.score, null.member, null.persons)
                control = Baseline(name="adapter off", value=off.value, low=off.low, high=off.high)
                found[0] = found[0].model_copy(update={"baselines": (*found[0].baselines, control)})
            results += found
            if unit == "recording":
                curves[section.name] = roc_points(scores)
    return results, curves


def doubts(results: Sequence[Result]) -> list[str]:
    """What a reader must be told about the blind attack beside these results."""
    blind = next((b for r in results for b in r.baselines if b.name == "blind"), None)
    if blind is None or blind.low is None or blind.high is None or blind.value is None:
        return []
    if blind.high - blind.low < 0.4 or not blind.low <= 0.5 <= blind.high:
        return []
    return [
        f"The blind attack, which never sees the model, has AUC {blind.value:.2f} with an interval from {blind.low:.2f} to"
        f" {blind.high:.2f}: too wide to show that the split is fair. With this few persons part of what an attack finds"
        " may be how the persons happened to be drawn."
    ]


def roc_points(scores: Scores) -> tuple[np.ndarray, np.ndarray]:
    """(fpr, tpr) corners for the picture; draw them as steps, on log axes."""
    return intervals.roc(scores.score, scores.member)


def _tpr(scores: Scores, fpr: float, n_out: int) -> tuple[Interval | None, str]:
    least = int(np.ceil(1 / fpr - 1e-9))
    if not intervals.resolvable(fpr, n_out):
        return None, f"not resolvable: {n_out} non-member persons, needs {least} or more"
    threshold = intervals.threshold_at_fpr(scores.score, scores.member, fpr)
    flagged = (scores.score >= threshold).astype(np.float64)
    inside = scores.member
    found = intervals.over_persons(np.mean, scores.persons[inside], flagged[inside])
    false = intervals.over_persons(np.mean, scores.persons[~inside], flagged[~inside])
    upper = "unknown" if false.high is None else f"{100 * false.high:.2g} %"
    need = intervals.certifiable(fpr)
    note = "threshold set on these non-members, where its FPR is "
    note += f"{100 * false.value:.2g} % (95 % upper limit {upper})"
    if n_out < need:
        note += f"; certifying an FPR of {100 * fpr:g} % takes {need} non-member persons without a false positive"
    return found, note
