"""What a representation gives away, to attackers trained from scratch on it: who it is, what somebody is like, who trained.

Re-identification is judged on persons the adapter has not seen, with galleries and probes of different recordings, after
projecting every representation to one dimension (principal components of the *training* persons' rows), for an attacker does
better in more dimensions whatever they hold.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..core.errors import MienError
from ..core.intervals import over_persons
from ..core.records import Cohort
from ..core.results import Baseline, Result
from ..core.scores import Scores
from .attribute import inference
from .identity import reidentify
from .judge import judge


def all_of(
    views: Mapping[str, np.ndarray], person: np.ndarray, recording: np.ndarray, train: np.ndarray, cohort: Cohort, *,
    loss: np.ndarray, session: np.ndarray | None = None, dimension: int = 16, seed: int = 0,
) -> list[Result]:  # fmt: skip
    """Every attack here. views: name -> float[n, d], the last one unprotected; person, recording, session: str[n]; train:
    bool[n], of persons the adapter learned from; loss: float64[n]."""
    known = constant(cohort.column("person"), cohort.column("attributes"), cohort.card.attributes)
    two = {n: v for i, (n, v) in enumerate(views.items()) if i in (0, len(views) - 1)}
    return [
        *recognised(views, person, recording, train, dimension=dimension, seed=seed),
        *identity(views, person, recording, train, session=session, dimension=dimension, seed=seed),
        *attributes(two, person, known, train, seed),
        membership(loss, person, train),
    ]


def of(o: Any, dimension: int = 16, seed: int = 0) -> list[Result]:
    """`all_of` an opened run (`adapters/represented.Opened`)."""
    return all_of(
        o.views, o.table.person, o.table.recording, o.train, o.cohort, loss=o.loss, session=o.session, dimension=dimension,
        seed=seed,
    )  # fmt: skip


def identity(
    views: Mapping[str, np.ndarray], person: np.ndarray, recording: np.ndarray, train: np.ndarray, *,
    session: np.ndarray | None = None, dimension: int = 16, seed: int = 0,
) -> list[Result]:  # fmt: skip
    """EER and rank 1 of the attacker who has the adapter too, for each of `views` (name -> float[n, d]); the last is the
    unprotected one that the attack is checked on. What cannot be run says why."""
    *_, plain = views
    people, each = np.unique(person[~train], return_inverse=False), {}
    for p in people:
        mine = np.unique(recording[person == p])
        if len(mine) >= 2:
            each[p] = np.random.default_rng([seed, len(each)]).permutation(mine)
    gallery = (
        np.isin(recording, np.concatenate([r[: len(r) // 2] for r in each.values()])) if each else np.zeros(0, bool)
    )
    probes = (
        np.isin(recording, np.concatenate([r[len(r) // 2 :] for r in each.values()])) if each else np.zeros(0, bool)
    )
    if len(each) < 2:
        why = f"{len(each)} held-out person(s) with two recordings; a gallery takes two persons at least"
        return [not_run(f"identity.{n}.rank_1", why) for n in views]
    same = session is not None and _shared(person, session, gallery, probes)
    config = reidentify.Config(ranks=(1,), seed=seed, allow_same_session=True)
    k = min(dimension, *(v.shape[1] for v in views.values()), int(train.sum()) - 1)
    out = []
    for name, X in views.items():
        try:
            one, other = (
                _sides(_projected(v, train, k), person, recording, gallery, probes, train) for v in (X, views[plain])
            )
            found = reidentify.score(one, other, config).results()
        except MienError as error:
            out.append(not_run(f"identity.{name}.rank_1", str(error)))
            continue
        kept = {r.metric.rsplit(".", 1)[-1]: r for r in found if r.metric.startswith("reidentify.semi_informed")}
        extra = f"{k} dimensions; persons unseen in training, other recordings" + ("; same sessions" if same else "")
        for metric in ("rank_1", "eer"):
            if metric in kept:
                r = kept[metric]
                base = tuple(b for b in r.baselines if b.name == "chance")
                out.append(
                    r.model_copy(
                        update={
                            "metric": f"identity.{name}.{metric}", "note": f"{extra}; {r.note}", "baselines": base,
                            "higher_is_better": metric == "eer",
                        }
                    )
                )  # fmt: skip
    return out


def recognised(
    views: Mapping[str, np.ndarray], person: np.ndarray, recording: np.ndarray, train: np.ndarray, *, dimension: int = 16,
    trees: int = 200, seed: int = 0,
) -> list[Result]:  # fmt: skip
    """Share of held-out persons' windows given to the right one of them, by the attackers of `recognised_each`, as the mean of
    persons, for each of `views`; then how much more the first gives away than each other, paired by person."""
    several = [p for p in np.unique(person[~train]) if len(np.unique(recording[person == p])) >= 2]
    if len(several) < 2:
        why = f"{len(several)} held-out person(s) with two recordings; recognising takes two persons at least"
        return [not_run(f"identity.{n}.recognised", why) for n in views]
    k = min(dimension, *(v.shape[1] for v in views.values()), int(train.sum()) - 1)
    out: list[Result] = []
    found_of: dict[str, dict[str, dict[str, float]]] = {}
    for name, X in views.items():
        try:
            attackers = recognised_each(X, person, recording, train, dimension=k, trees=trees, seed=seed)
        except MienError as error:
            out.append(not_run(f"identity.{name}.recognised", str(error)))
            continue
        found_of[name] = attackers
        for kind, each in attackers.items():
            found = over_persons(lambda v: float(v.mean()), np.array(list(each)), np.array(list(each.values())))
            out.append(
                Result(
                    metric=f"identity.{name}.recognised ({kind})", value=found.value, low=found.low, high=found.high,
                    n_persons=found.n_persons, unit="window", higher_is_better=False,
                    baselines=(Baseline(name="chance", value=1 / len(several)),),
                    note=f"{len(several)} persons unseen in training; enrolled by other recordings; {k} dimensions",
                )
            )  # fmt: skip
    first = next(iter(views))
    for name in [n for n in found_of if n != first and first in found_of]:
        for kind, each in found_of[name].items():
            gaps = np.array([found_of[first][kind][p] - v for p, v in each.items()])
            gap = over_persons(lambda v: float(v.mean()), np.array(list(each)), gaps, bounds=(-1.0, 1.0))
            out.append(
                Result(
                    metric=f"identity.{first} − {name}.recognised ({kind})", value=gap.value, low=gap.low, high=gap.high,
                    n_persons=gap.n_persons, unit="window", higher_is_better=False, note="paired by person",
                    baselines=(Baseline(name="no difference", value=0.0),),
                )
            )  # fmt: skip
    return out


def recognised_each(
    X: np.ndarray, person: np.ndarray, recording: np.ndarray, train: np.ndarray, *, dimension: int = 16, trees: int = 200,
    seed: int = 0,
) -> dict[str, dict[str, float]]:  # fmt: skip
    """Attacker -> held-out person -> share of their windows given to them, by attackers fitted on other recordings of the same
    persons: linear (ridge logistic) and not (a forest, a network), from scratch. Half of everybody's recordings enrol, the other
    half is judged, and the other way round. X: float[n, d]; who has one recording takes no part."""
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.neural_network import MLPClassifier

    rng, half = np.random.default_rng([seed, 0x1D]), np.full(len(person), -1)
    for p in np.unique(person[~train]):
        mine = rng.permutation(np.unique(recording[person == p]))
        if len(mine) >= 2:
            half[np.isin(recording, mine[: len(mine) // 2])], half[np.isin(recording, mine[len(mine) // 2 :])] = 0, 1
    rows = np.flatnonzero(half >= 0)
    names, who, count = np.unique(person[rows], return_inverse=True, return_counts=True)
    makers = {
        "linear": lambda: LogisticRegression(C=1.0, class_weight="balanced", max_iter=1000),
        "forest": lambda: RandomForestClassifier(trees, class_weight="balanced", random_state=seed, n_jobs=1),
        "network": lambda: MLPClassifier((64,), alpha=0.01, learning_rate_init=0.01, max_iter=500, random_state=seed),
    }
    Z, out = _projected(X, train, min(dimension, X.shape[1], int(train.sum()) - 1))[rows], {}
    for kind, make in makers.items():
        right = np.zeros(len(rows))
        for side in (0, 1):
            fit, test = half[rows] == side, half[rows] != side
            with warnings.catch_warnings():  # an attacker who stops early is a weaker one, not an error
                warnings.simplefilter("ignore", ConvergenceWarning)
                right[test] = make().fit(Z[fit], who[fit]).predict(Z[test]) == who[test]
        out[kind] = dict(zip(names.tolist(), (np.bincount(who, right) / count).tolist(), strict=True))
    return out


def attributes(
    views: Mapping[str, np.ndarray],
    person: np.ndarray,
    values: Mapping[str, Mapping[str, Any]],
    train: np.ndarray,
    seed: int,
) -> list[Result]:
    """Balanced accuracy of guessing each attribute of persons whom neither adapter nor guesser has seen: the guesser learns on
    other held-out persons, for what an adversary hid in training it may have hidden of those alone whom it saw. values: attribute ->
    person -> value; only attributes of words that do not change within a person can be guessed here."""
    out = []
    for name, of in values.items():
        for view, X in views.items():
            metric = f"attribute.{name}.{view}"
            rows, who = _pooled(X[~train], person[~train])
            known = np.array([of.get(p) is not None for p in who], dtype=bool)
            try:
                facts = inference.Facts(
                    seen=rows[known], secret=np.array([str(of[p]) for p in who[known]]), person=who[known], name=name
                )
                found = inference.predict(facts, inference.Config(seed=seed)).results()
            except MienError as error:
                out.append(not_run(metric, str(error)))
                continue
            r = next(r for r in found if r.metric == "attribute.balanced_accuracy")
            note = f"persons unseen in training; {r.note}"
            out.append(r.model_copy(update={"metric": metric, "higher_is_better": False, "note": note}))
    return out


def membership(loss: np.ndarray, person: np.ndarray, train: np.ndarray) -> Result:
    """AUC of each person's mean loss (lower for members): the simplest attack, and no more than a lower bound."""
    rows, who = _pooled(loss[:, None], person)
    member = np.array([bool(train[person == p][0]) for p in who])
    scores = Scores(ids=who, persons=who, member=member, score=-rows[:, 0], attack="loss", unit="person")
    found = judge(scores, fprs=())[0]
    return found.model_copy(
        update={
            "metric": "membership.loss.auc", "higher_is_better": False, "baselines": (Baseline(name="chance", value=0.5),),
            "note": f"{found.note}; loss of the heads: the weakest attacker, never a proof of privacy",
        }
    )  # fmt: skip


def each_recognised(data: Any) -> dict[str, float]:
    """Person -> share of their probe recordings whose nearest gallery entry is theirs, closed set, by the semi-informed attacker
    who learnt on half of the persons and recognises the others, then the other way round; gallery and probes are different
    recordings, every second one of a person. data: `evaluation/transfer.Represented`; what is missing in it is 0 to them."""
    X = np.nan_to_num(np.hstack(list(data.X.values())))
    turn = np.arange(len(data.persons)) % 2
    every = reidentify.Views(X=X, person=data.person, recording=data.recording).pooled("recording")
    place = np.zeros(len(every), int)
    for p in data.persons:
        mine = np.flatnonzero(every.person == p)
        place[mine] = np.arange(len(mine)) % 2
    out: dict[str, float] = {}
    for half in (0, 1):
        judged = np.isin(every.person, np.array(data.persons)[turn == half])
        sides = reidentify.Sides(
            probes=every.rows(judged & (place == 0)),
            gallery=every.rows(judged & (place == 1)),
            background=every.rows(~judged),
        )
        found = reidentify.score(sides, sides, reidentify.Config()).attackers["semi_informed"]
        assert isinstance(found, reidentify.Attacked)
        first = found.raw.entry[found.raw.score.argmax(1)] == found.raw.probe
        out |= {str(p): float(first[found.raw.probe == p].mean()) for p in set(found.raw.probe)}
    return dict(sorted(out.items()))


def not_run(metric: str, why: str) -> Result:
    return Result(metric=metric, value=None, higher_is_better=False, note=f"not run: {why}")


def constant(persons: Sequence[str], attributes: Sequence[Mapping[str, Any]], names: Sequence[str]) -> dict[str, dict]:
    """attribute -> person -> value, of those that are words and never change within a person."""
    out: dict[str, dict] = {}
    for name in names:
        said: dict[str, set] = {}
        for p, a in zip(persons, attributes, strict=True):
            if a.get(name) is not None:
                said.setdefault(p, set()).add(a[name])
        if said and all(len(v) == 1 for v in said.values()):
            one = {p: next(iter(v)) for p, v in said.items()}
            if all(isinstance(v, str | bool) for v in one.values()):
                out[name] = one
    return out


def _pooled(X: np.ndarray, person: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    who, code, n = np.unique(person, return_inverse=True, return_counts=True)
    total = np.zeros((len(who), X.shape[1]))
    np.add.at(total, code, np.nan_to_num(X))
    return total / n[:, None], who


def _projected(X: np.ndarray, train: np.ndarray, k: int) -> np.ndarray:
    """float[n, k]: principal components of the training rows, standardised; missing is average."""
    z = reidentify.ready(X[train])(X)
    _, _, axes = np.linalg.svd(z[train] - z[train].mean(0), full_matrices=False)
    return z @ axes[:k].T


def _sides(
    X: np.ndarray, person: np.ndarray, recording: np.ndarray, gallery: np.ndarray, probes: np.ndarray, train: np.ndarray
) -> reidentify.Sides:
    whole = reidentify.Views(X=X, person=person, recording=recording)
    return reidentify.Sides(
        probes=whole.rows(probes & ~train), gallery=whole.rows(gallery & ~train), background=whole.rows(train)
    )


def _shared(person: np.ndarray, session: np.ndarray, gallery: np.ndarray, probes: np.ndarray) -> bool:
    sides = [set(zip(person[m], session[m], strict=True)) for m in (gallery, probes)]
    return bool(sides[0] & sides[1])
