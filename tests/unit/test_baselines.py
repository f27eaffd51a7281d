"""Learners on window statistics: nobody tests on themselves, private ones clip and add noise as they say."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mien.core.errors import MienError
from mien.core.records import Cohort, Signal, StreamSpec
from mien.data import features, splits
from mien.data.features import WindowTable
from mien.evaluation import leave_one_out as lo
from mien.privacy import logistic
from mien.privacy.plan import PrivacySpec

from ..conftest import CARD, recordings

CLASSES = ("no", "yes", "perhaps")


def table(persons=6, each=8, classes=2, effect=3.0, seed=0, d=4) -> WindowTable:
    """Windows whose first statistic tells the class, beside a person's own level."""
    rng = np.random.default_rng(seed)
    who = np.repeat([f"p{i}" for i in range(persons)], each).astype(object)
    y = np.tile(np.arange(each) % classes, persons)
    X = rng.normal(size=(len(y), d)) + np.repeat(rng.normal(size=(persons, 1)), each, 0)
    X[:, 0] += effect * y
    meta = np.stack([np.ones(len(y)), np.repeat(np.arange(persons), each) % 2.0, np.arange(len(y)) % each], axis=1)
    label = np.array([CLASSES[c] for c in y], dtype=object)
    return WindowTable(X=X, meta=meta, label=label, person=who, recording=who, skipped={})


def plan(n, epsilon=5.0, steps=12, clip=0.3, delta=1e-2):
    return PrivacySpec(epsilon=epsilon, delta=delta, batch=float(n), clip_norm=clip).plan(n=n, steps=steps)


# --- folds ---------------------------------------------------------------------------------------------------------


@given(persons=st.integers(2, 9), k=st.integers(2, 9), seed=st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_everybody_is_tested_once_and_never_on_themselves(persons, k, seed):
    t = table(persons, each=3)
    made = lo.folds(t, CLASSES[:2], None if k > persons else k, seed=seed)
    assert sorted(lo.tested(made)) == list(range(len(t)))
    assert len(made) == (persons if k > persons else k)
    for f in made:
        assert not set(t.person[f.train]) & set(t.person[f.test])
        assert len(f.train) + len(f.test) == len(t)


@pytest.mark.parametrize(
    ("made", "options", "says"),
    [
        (table(1), {}, "1 person has"),
        (table(4), {"k": 5}, "5 of 4 persons"),
        (table(4, classes=3), {}, "not among"),
        (table(2, each=1), {"split": splits.Splits(kind="person", train=("p0",), validation=(), holdout=("p9",), seed=0)}, "0 to test"),
        (table(4), {"split": splits.Splits(kind="random_window", train=("p0",), validation=(), holdout=("p0",), seed=0)}, "same persons"),
    ],
)  # fmt: skip
def test_folds_that_cannot_be_are_refused(made, options, says):
    with pytest.raises(MienError, match=says):
        lo.folds(made, CLASSES[:2], **options)


def test_a_class_of_one_person_is_named():
    t = table(3, each=1, classes=1)
    t.label[0] = "yes"
    with pytest.raises(MienError, match="class 'yes'"):
        lo.folds(t, CLASSES[:2])


def test_a_given_split_is_one_fold():
    t = table(4)
    s = splits.Splits(kind="official", train=("p0",), validation=("p2",), holdout=("p1",), seed=0)
    (fold,) = lo.folds(t, CLASSES[:2], split=s)
    assert set(t.person[fold.train]) == {"p0", "p2"}
    assert set(t.person[fold.test]) == {"p1"}


# --- learners and metrics ------------------------------------------------------------------------------------------

LEARNERS = {
    "random forest": (lo.forest(20), 2), "logistic regression": (lo.logistic, 1), "majority": (lo.majority, 1),
    "metadata only": (lo.forest(20, lambda t: t.meta), 2), "attributes only": (lo.forest(20, lambda t: t.meta[:, 1:-1]), 1),
    "nothing": (lo.forest(5, lambda t: t.meta[:, :0]), 1),
}  # fmt: skip


@pytest.mark.parametrize("average", ["person", "window"])
def test_what_signals_tell_is_found_and_what_they_do_not_tell_is_not(average):
    t = table()
    made = lo.folds(t, CLASSES[:2])
    found = lo.predict(made, LEARNERS)
    results = {r.metric: r for r in lo.results(made, found, average, "random forest", ("majority", "metadata only"))}
    top = results["random forest macro-F1"]
    beside = {b.name: b.value for b in top.baselines}
    assert top.value > 0.75
    assert beside["logistic regression"] > 0.75
    assert beside["majority"] == beside["nothing"] == pytest.approx(1 / 3)  # one class always: F1 of 2/3 and 0
    lead = results["random forest − majority macro-F1"]
    assert lead.value == pytest.approx(top.value - 1 / 3)
    assert lead.low > 0
    assert results["random forest AUROC"].value > 0.85
    assert ("random forest sensitivity at 95 % specificity" in results) == (average == "window")
    for graded in ("Brier", "ECE"):
        assert results[f"random forest {graded}"].higher_is_better is False
    assert ("random forest macro-F1 of the worst person" in results) == (average == "person")
    assert all(r.n_persons == 6 for r in results.values())


def test_metadata_that_tell_everything_are_seen_to():
    t = table(effect=0.0)
    t.meta[:, 2] = t.label == "yes"
    made = lo.folds(t, CLASSES[:2])
    found = lo.results(made, lo.predict(made, LEARNERS), "window", "random forest", ("metadata only",))
    results = {r.metric: r for r in found}
    assert results["random forest − metadata only macro-F1"].high < 0


def test_three_classes_have_no_area_and_balanced_accuracy_is_mean_recall():
    from sklearn.metrics import balanced_accuracy_score, f1_score

    t = table(classes=3, each=9, effect=1.0)
    made = lo.folds(t, CLASSES, 3)
    found = lo.predict(made, {"random forest": (lo.forest(10), 1)})
    results = {r.metric: r.value for r in lo.results(made, found, "window", "random forest", ())}
    assert "random forest AUROC" not in results
    truth, given_ = made[0].y[lo.tested(made)], found["random forest"][:, 0].argmax(1)
    assert results["random forest balanced accuracy"] == pytest.approx(balanced_accuracy_score(truth, given_))
    assert results["random forest macro-F1"] == pytest.approx(f1_score(truth, given_, average="macro"))


@given(n=st.integers(4, 60), seed=st.integers(0, 999), grid=st.sampled_from([4, 10**6]))
@settings(max_examples=60, deadline=None)
def test_metrics_of_two_classes_are_scikit_learns(n, seed, grid):
    from sklearn.metrics import brier_score_loss, f1_score, roc_auc_score, roc_curve

    rng = np.random.default_rng(seed)
    y = np.r_[0, 1, rng.integers(0, 2, n - 2)]
    p = np.round((0.3 * y + rng.uniform(0, 0.7, n)) * grid) / grid  # many ties, or none
    given = np.stack([1 - p, p], 1)
    assert lo.positive_f1(y, given) == pytest.approx(f1_score(y, given.argmax(1), zero_division=0))
    assert lo.OF_TWO["AUROC"](y, given) == pytest.approx(roc_auc_score(y, p))
    false, true, _ = roc_curve(y, p, drop_intermediate=False)
    assert lo.sensitivity(y, given) == pytest.approx(true[false <= 0.05 + 1e-12].max())
    assert lo.brier(y, given) == pytest.approx(2 * brier_score_loss(y, p))
    assert np.isnan(lo.sensitivity(np.ones(3, int), given[:3]))
    assert np.isnan(lo.positive_f1(np.zeros(3, int), given[:3]))


def test_means_of_persons_are_means_of_persons():
    y, person = np.array([0, 1, 0, 1, 0, 1]), np.array(["a", "a", "b", "b", "c", "c"], dtype=object)
    scores = np.array([[0.9, 0.1], [0.2, 0.8], [0.4, 0.6], [0.3, 0.7], [0.8, 0.2], [0.1, 0.9]])[:, None, :]
    assert lo.measure("accuracy", y, person, scores, "person").value == pytest.approx((1 + 0.5 + 1) / 3)
    assert lo.measure("AUROC", y, person, scores, "person").value == 1.0
    with pytest.raises(MienError, match="one class only"):
        t = table(3, each=1)
        t.label[:] = ["no", "yes", "no"]
        t.label[0] = "yes"
        fold = lo.Fold(table=t, train=np.arange(3), test=np.arange(3), y=np.array([1, 1, 0]), classes=2)
        lo.results([fold], {}, "person", "x", ())


def test_own_scaling_looks_at_nobody_else():
    t = table(d=3)
    t.X[t.person == "p0", 1] = np.nan
    t.X[3, 2] = np.nan
    made = lo.standardised(t)
    assert np.isnan(made.X[t.person == "p0", 1]).all()
    assert np.allclose(np.nanmean(made.X[t.person == "p0"][:, [0, 2]], 0), 0)
    alone = lo.standardised(t.rows(t.person == "p3"))
    assert np.array_equal(alone.X, made.X[t.person == "p3"])
    assert not np.array_equal(t.X, made.X)  # the table itself is untouched


# --- the private one -----------------------------------------------------------------------------------------------


def slow_sum(rows, wrong, who, clip):
    """Person by person, window by window."""
    total = np.zeros((rows.shape[1], wrong.shape[1]))
    for p in sorted(set(who)):
        gradient = np.zeros_like(total)
        for i in range(len(rows)):
            if who[i] == p:
                for a in range(rows.shape[1]):
                    for b in range(wrong.shape[1]):
                        gradient[a, b] += rows[i, a] * wrong[i, b]
        norm = math.sqrt(sum(float(v) ** 2 for v in gradient.ravel()))
        total += gradient * min(1.0, clip / norm) if norm > 0 else 0.0
    return total


class Silent:
    """A generator without noise, that remembers what was asked of it."""

    def normal(self, scale, size):
        self.scale = scale
        return np.zeros(size)


@given(seed=st.integers(0, 999), persons=st.integers(2, 5), k=st.sampled_from([1, 3]), clip=st.floats(0.01, 5))
@settings(max_examples=30, deadline=None)
def test_a_persons_gradient_is_summed_then_clipped_then_all_are_summed(seed, persons, k, clip):
    rng = np.random.default_rng(seed)
    who = np.concatenate([np.arange(persons), rng.integers(0, persons, 7)])
    rows, wrong = rng.normal(size=(len(who), 4)), rng.normal(size=(len(who), k)) * rng.choice([0.0, 0.1, 3.0])
    p, silent = plan(persons, clip=clip), Silent()
    got = logistic.noisy_sum(rows, wrong, who, p, silent)
    assert np.allclose(got, slow_sum(rows, wrong, who, clip), atol=1e-10)
    assert silent.scale == p.noise_multiplier * clip
    without = who != persons - 1  # a person's leaving moves the sum by the clip at most
    moved = np.linalg.norm(got - logistic.noisy_sum(rows[without], wrong[without], who[without], p, silent))
    assert moved <= clip * (1 + 1e-9)


def test_the_noise_is_as_large_as_the_plan_says():
    p, rng = plan(5), np.random.default_rng(0)
    rows, wrong, who = np.zeros((5, 40)), np.zeros((5, 2)), np.arange(5)
    drawn = np.concatenate([logistic.noisy_sum(rows, wrong, who, p, rng).ravel() for _ in range(250)])
    assert np.std(drawn) == pytest.approx(p.noise_multiplier * p.clip_norm, rel=0.02)
    assert abs(np.mean(drawn)) < 4 * np.std(drawn) / math.sqrt(len(drawn))


def test_full_batches_cost_what_one_gaussian_of_all_steps_costs():
    """T steps of noise σ are one of σ/√T (Dong, Roth & Su, arXiv 1905.02383, corollary 3.3): δ(ε) in closed form."""
    from scipy.stats import norm

    p = logistic.Logistic(delta=1e-2, steps=40).plan(3.0, 14)
    mu = math.sqrt(p.steps) / p.noise_multiplier
    delta = norm.cdf(-3 / mu + mu / 2) - math.exp(3) * norm.cdf(-3 / mu - mu / 2)
    assert delta <= 1e-2
    assert delta == pytest.approx(1e-2, rel=0.03)
    assert p.not_a_claim  # δ this loose is nothing to advertise
    assert not logistic.Logistic().plan(3.0, 14).not_a_claim


@given(seed=st.integers(0, 99))
@settings(max_examples=10, deadline=None)
def test_what_a_window_counts_for_depends_on_its_own_person_alone(seed):
    rng = np.random.default_rng(seed)
    who, y = rng.integers(0, 4, 30), rng.integers(0, 3, 30)
    who = np.unique(who, return_inverse=True)[1]
    share = logistic.shares(y, who, 3)
    for p in set(who):
        mine = who == p
        assert share[mine].sum() == pytest.approx(1)
        assert np.array_equal(share[mine], logistic.shares(y[mine], np.zeros(mine.sum(), int), 3))
        sums = {share[mine & (y == c)].sum() for c in set(y[mine])}
        assert max(sums) - min(sums) < 1e-12


@pytest.mark.parametrize("classes", [2, 3])
def test_little_noise_learns_and_much_noise_does_not(classes):
    t = table(24, each=9, classes=classes, effect=4.0)
    t = lo.standardised(t)
    config = logistic.Logistic(steps=60, delta=1e-2)
    columns, made = np.ones(4, bool), lo.folds(t, CLASSES[:classes], 6)
    found = {}
    for e in (0.01, 500.0):
        learner = logistic.learner(config.plan(e, 20), config, CLASSES[:classes], columns, (0.0, 1.0))
        out = lo.predict(made, {"x": (learner, 2)})["x"]
        assert np.allclose(out.sum(2), 1)
        assert not np.array_equal(out[:, 0], out[:, 1])  # another seed, other noise
        found[e] = lo.measure(
            "balanced accuracy", made[0].y[lo.tested(made)], t.person[lo.tested(made)], out, "window"
        ).value
    assert found[500.0] > 0.8
    assert found[0.01] < 1 / classes + 0.15


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"class_weights": {"maybe": 0.5}}, "no class 'maybe'"),
        ({"class_weights": {"yes": 2.0}}, "at most at 1"),
        ({"class_weights": {"yes": 0.0}}, "above 0"),
        ({"columns": ("nothing",)}, "no statistic"),
        ({"delta": 0.2}, "privacy.delta"),
        ({"clip_norm": 0.1}, "its own clip_norm"),
    ],
)  # fmt: skip
def test_settings_that_cannot_be_are_refused(options, says):
    config, t = logistic.Logistic(**options), table()
    with pytest.raises(MienError, match=says):
        columns = config.chosen(["a.mean", "a.sd"])
        p = config.plan(1.0, 5) if "clip_norm" not in options else logistic.Logistic().plan(1.0, 5)
        learner = logistic.learner(p, config, CLASSES[:2], columns, (0.0, 1.0))
        logistic.fit(t.X, np.zeros(len(t), int), t.person, 2, p, config, np.random.default_rng(0))
        learner(lo.folds(t, CLASSES[:2])[0], 0)


def test_public_spans_have_a_number_for_every_statistic(home):
    cohort = Cohort.build(recordings(), card=CARD)
    t = features.tabulate(cohort, seconds=4, stride_s=4, task="activity")
    centre, half = features.spans(cohort.card)
    assert len(centre) == len(half) == len(features.names(cohort.card)) == t.X.shape[1]
    assert (half > 0).all()
    assert np.median(np.abs((t.X - centre) / half)) < 3  # of the order of 1, whoever was recorded
    spoken = {
        "call": StreamSpec(channels=("in", "out"), kind="events"),
        "said": StreamSpec(channels=("a",), kind="text"),
    }
    card = replace(CARD, streams=spoken)
    assert len(features.spans(card)[0]) == len(features.names(card))
    with pytest.raises(MienError, match="declares no range"):
        features.spans(replace(CARD, streams={"x": StreamSpec(channels=("x",), unit="g", rate_hz=4.0)}))


def test_a_tone_is_loudest_in_the_mel_band_around_it(home):
    card = replace(
        CARD, streams={"v": StreamSpec(channels=("v",), unit="full scale", rate_hz=16000.0, range=(-1.0, 1.0))}
    )
    names = features.names(card)
    middles = 700 * (10 ** (np.linspace(*(2595 * np.log10(1 + np.array([60, 8000]) / 700)), 26)[1:-1] / 2595) - 1)
    t = np.arange(8000) / 16000
    for hz in (300.0, 1200.0, 5000.0):
        tone = Signal(
            values=0.5 * np.sin(2 * np.pi * hz * t)[:, None], rate_hz=16000.0, channels=("v",), unit="full scale"
        )
        found = dict(zip(names, features.vector({"v": tone}, card), strict=True))
        bands = np.array([found[f"v.v.mel{b:02d}.mean"] for b in range(24)])
        assert abs(middles - hz)[bands.argmax()] == abs(middles - hz).min()
        assert all(found[f"v.v.mel{b:02d}.sd"] < 0.5 for b in (bands.argmax(),))
        quiet = replace(tone, values=tone.values / 10)
        soft = dict(zip(names, features.vector({"v": quiet}, card), strict=True))
        b = f"v.v.mel{bands.argmax():02d}.mean"
        assert found[b] - soft[b] == pytest.approx(2, abs=0.01)  # a tenth of the amplitude: two orders in energy
    gone = replace(tone, values=np.full((8000, 1), np.nan), valid=np.zeros(8000, bool))
    assert np.isnan(features.vector({"v": gone}, card)).all()
    assert len(features.spans(card)[0]) == len(names)
