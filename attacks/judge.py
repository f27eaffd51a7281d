"""From an attack's scores to results a reader can weigh. A helper for recipes, not a plug-in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from types import ModuleType

import numpy as np

from ..core import intervals, plugins
from ..core.config import Plugin
from ..core.errors import MienError
from ..core.intervals import Interval
from ..core.results import Baseline, Result
from ..core.scores import Scores
from .membership import blind as blind_attack
from .signals import Signals, Tokens, pool


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


@dataclass(frozen=True, kw_only=True)
class Found:
    """What the membership attacks found. results: one after the other; curves: (fpr, tpr) corners per recording; scores:
    per person, of every attack that ran; blind: the blind attack's AUC on the split."""

    results: list[Result]
    curves: dict[str, tuple[np.ndarray, np.ndarray]]
    scores: dict[str, Scores]
    blind: Interval


def membership(sections: Sequence[Plugin], signals: Signals, seed: int) -> Found:
    """Every membership attack a recipe names, per recording and per person.

    Each AUC stands beside chance, the blind attack on the same split, and two controls: the same attack on the base
    (adapter off: a model that saw nobody must tell nobody apart), and on planted members (persons drawn by a coin whose
    signals were moved: an attack that finds neither them nor the real ones proves nothing, and is withheld). An attack that lacks what it
    needs is a result without a value that says why. Where recordings were kept out of training (`signals.fresh`), an
    attacker who holds *other* recordings of a person is judged on these too.
    """
    fair = blind_attack.pairwise(signals, blind_attack.Config(seed=seed))
    found = Found(results=[], curves={}, scores={}, blind=fair)
    fresh = signals.fresh if signals.fresh is not None else np.zeros(len(signals), bool)
    plant = planted(signals, seed)
    for section in sections:
        module, options = plugins.resolve("attacks/membership", section)
        for knows, rows in (("", ~fresh), ("other recordings", fresh)):
            if not rows.any():
                continue
            label = f"{section.name} ({knows})" if knows else section.name
            sub = signals.rows(rows)
            try:
                values, control = (_scored(module, s, rows, options) for s in (signals, plant))
            except MienError as error:
                found.results.append(not_run(label, str(error)))
                continue
            null = _null(module, sub, options)
            for unit in ("person",) if knows else getattr(module, "UNITS", ("recording", "person")):
                scores = pool(sub, values, unit, attack=label)
                judged = judge(scores, blind=fair)
                if null is not None:
                    judged[0] = _beside(judged[0], "adapter off", pool(sub, null, unit))
                spotted = pool(plant.rows(rows), control, unit)
                judged = _controlled(judged, intervals.auc_interval(spotted.score, spotted.member, spotted.persons))
                found.results.extend(judged)
                if unit == "person":
                    found.scores[label] = scores
                elif not knows:
                    found.curves[label] = roc_points(scores)
    return found


def _scored(module: ModuleType, signals: Signals, rows: np.ndarray, options: object) -> np.ndarray:
    """The attack on these rows alone; token signals are read whole, and no row of theirs depends on another."""
    if "tokens" in module.NEEDS:
        values = module.score(signals, options)[rows]
    else:
        values = module.score(signals.rows(rows), options)
    if bad := int((~np.isfinite(values)).sum()):
        raise MienError(f"{bad} of {len(values)} scores are NaN or infinite")
    return values


def not_run(attack: str, why: str) -> Result:
    """An attack that did not run: no value, so that nothing can read it as a pass."""
    return Result(metric=f"{attack}.auc", value=None, higher_is_better=False, note=f"not run: {why}")


def planted(signals: Signals, seed: int) -> Signals:
    """The same signals with members of our own: half of the persons, drawn by a coin that knows nothing of the real
    split, whose every signal is moved by three standard deviations; in shadow models likewise, for coins of their own.

    The deviation is that of one window over models where there are shadows, and over windows where there are none.
    """
    people, who = np.unique(signals.person, return_inverse=True)
    rng = np.random.default_rng([seed, 0x9A])

    def half(models: int) -> np.ndarray:
        order = rng.random((models, len(people))).argsort(1).argsort(1)
        return (order < len(people) // 2)[:, who]

    member = half(1)[0]
    changes: dict[str, object] = {"member": member}
    inside = None if signals.shadow_in is None else half(len(signals.shadow_in))
    if inside is not None:
        changes["shadow_in"] = inside

    def moved(name: str, sign: float, step: float | None = None) -> None:
        value, shadow = getattr(signals, name), getattr(signals, f"shadow_{name}", None)
        if value is None:
            return
        if step is None:
            step = 3 * float(np.std(value) if shadow is None or len(shadow) < 2 else np.std(shadow, axis=0).mean())
        at = member.reshape(-1, *[1] * (value.ndim - 1))
        changes[name] = value + sign * step * at
        if shadow is not None and inside is not None:
            changes[f"shadow_{name}"] = shadow + sign * step * inside.reshape(*inside.shape, *[1] * (value.ndim - 1))

    gain = 1.0
    if signals.loss is not None:
        spread = signals.loss if signals.loss_base is None else signals.loss - signals.loss_base
        gain = 3 * float(np.std(spread))
        moved("loss", -1, gain if signals.shadow_loss is None or len(signals.shadow_loss) < 2 else None)
    ups, downs = ("segments", "contrast", "cosine", "chosen", "evidence", "reconstruction"), ("slope", "rejected")
    for name in (*ups, *downs):
        moved(name, 1 if name in ups else -1)
    if signals.views is not None:
        middle = signals.views.mean(1, keepdims=True)
        changes["views"] = np.where(member[:, None, None], middle + (signals.views - middle) * 0.05, signals.views)
    if signals.tokens is not None:
        changes["tokens"] = _Planted(signals.tokens, member, 3 * gain)
    return replace(signals, **changes)  # type: ignore[arg-type]


class _Planted:
    """Token signals with those of the planted members likelier and surer."""

    def __init__(self, tokens: Iterable[Tokens], member: np.ndarray, by: float):
        self.tokens, self.member, self.by = tokens, member, by

    def __iter__(self) -> Iterator[Tokens]:
        for chunk in self.tokens:
            n = np.diff(chunk.offsets)
            inside = np.repeat(self.member[chunk.first : chunk.first + len(n)], n)
            lift = np.where(inside, self.by, 0.0)
            yield replace(
                chunk, logp=np.minimum(chunk.logp + lift, 0.0), mean=chunk.mean,
                entropy=np.where(inside[:, None], 0.1 * chunk.entropy, chunk.entropy),
            )  # fmt: skip


def _null(module: ModuleType, signals: Signals, options: object) -> np.ndarray | None:
    """The attack's scores when the target is the frozen base, where its needs let one ask."""
    if signals.loss_base is None or not set(module.NEEDS) <= {
        "loss",
        "loss_base",
        "features",
        "zlib",
        "shadow_loss",
        "shadow_in",
    }:
        return None
    return module.score(replace(signals, loss=signals.loss_base), options)


def _beside(result: Result, name: str, scores: Scores) -> Result:
    found = intervals.auc_interval(scores.score, scores.member, scores.persons)
    control = Baseline(name=name, value=found.value, low=found.low, high=found.high)
    return result.model_copy(update={"baselines": (*result.baselines, control)})


def _controlled(results: list[Result], control: Interval) -> list[Result]:
    """The results with the planted control beside the AUC; an attack that found neither planted nor real members says
    nothing and is withheld."""
    area = results[0]
    mark = Baseline(name="planted", value=control.value, low=control.low, high=control.high)
    area = area.model_copy(update={"baselines": (*area.baselines, mark)})
    strong = control.low is not None and control.low > 0.5
    if area.value is None or strong or (area.low is not None and area.low > 0.5):
        return [area, *results[1:]]
    why = (
        f"withheld: it found nothing, but neither did it find planted members (AUC {control.value:.2f}): too weak here to"
        " say anything"
    )
    return [area.model_copy(update={"value": None, "low": None, "high": None, "note": why})]


def exposure(scores: Scores) -> list[tuple[str, float]]:
    """For each member person, the share of held-out persons who score lower, most exposed first. Private: it names
    people."""
    outside = np.sort(scores.score[~scores.member])
    share = np.searchsorted(outside, scores.score[scores.member], "left") / len(outside)
    order = np.argsort(-scores.score[scores.member], kind="stable")
    return [(str(scores.ids[scores.member][i]), float(share[i])) for i in order]


def deciles(scores: Scores) -> Result:
    """How exposed the most exposed tenth of the member persons is: a number that names nobody, and so none for fewer than
    20 of them, of whom a tenth is one."""
    shares = np.array([v for _, v in exposure(scores)])
    if len(shares) < 20:
        why = f"{len(shares)} member persons: a tenth of them is one person, whose number stays in the private half"
        return not_run(scores.attack, why).model_copy(update={"metric": f"{scores.attack}.most_exposed_tenth"})
    worst = shares[: max(1, len(shares) // 10)]
    points = ", ".join(f"{v:.2f}" for v in np.quantile(shares, np.linspace(0, 1, 11)))
    return Result(
        metric=f"{scores.attack}.most_exposed_tenth", value=float(worst.mean()), n_persons=len(scores), unit="person",
        higher_is_better=False, baselines=(Baseline(name="chance", value=0.95),),
        note=f"share of held-out persons below them; deciles over member persons: {points}. Chance is what the highest"
        " tenth of strangers reaches",
    )  # fmt: skip


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
