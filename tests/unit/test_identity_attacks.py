# pyright: reportArgumentType=false, reportOptionalMemberAccess=false, reportOptionalSubscript=false
# pyright: reportOperatorIssue=false, reportOptionalOperand=false, reportCallIssue=false
import itertools
import json
import sys
import types
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats
from sklearn.isotonic import IsotonicRegression

from mien.attacks import verification as v
from mien.attacks import voices
from mien.attacks.attribute import inference, inversion
from mien.attacks.identity import cross_modal, reidentify
from mien.attacks.identity.cross_modal import Pair
from mien.attacks.identity.reidentify import Sides, Views
from mien.core.config import Section
from mien.core.errors import MienError
from mien.core.results import Result

CASES = json.loads((Path(__file__).parent.parent / "reference" / "attacks.json").read_text())
GOLD = {c["name"]: c for c in CASES}
STATISTICS = (v.eer, v.min_cllr, v.d_sys, v.zebra)
SCORES = st.lists(st.integers(-8, 8), min_size=1, max_size=25)


def comparison(seed=0, persons=12, probes=3, noise=1.0, columns=8):
    """Cosine scores of noisy vectors around persons' own, against one entry each."""
    rng = np.random.default_rng(seed)
    centre = rng.standard_normal((persons, columns))
    names = np.array([f"p{i:02d}" for i in range(persons)])
    x = np.repeat(centre, probes, 0) + noise * rng.standard_normal((persons * probes, columns))
    g = centre + noise * rng.standard_normal(centre.shape)
    x, g = (z / np.linalg.norm(z, axis=1, keepdims=True) for z in (x, g))
    return v.Comparison(score=x @ g.T, probe=np.repeat(names, probes), entry=names)


# --- statistics of scores -------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("eer_two_gaussians", "eer"),
        ("linkability_dsys_two_gaussians", "d_sys"),
        ("zebra_expected_disclosure_gauss", "zebra"),
    ],
)
def test_gold_two_gaussians(name, key):
    case = GOLD[name]
    got = [v.two_gaussians(d)[key] for d in case["inputs"]["d_prime"]]
    assert got == pytest.approx(case["expected"], abs=case["tolerance"])


def test_gold_a_perfect_attacker_learns_all_there_is():
    case = GOLD["zebra_max_disclosure"]
    assert v.zebra([2.0, 3.0], [0.0, 1.0]) == pytest.approx(case["expected"], abs=case["tolerance"])
    assert (v.eer([1], [0]), v.min_cllr([1], [0]), v.d_sys([1], [0])) == (0, 0, 1)


@pytest.mark.parametrize("d_prime", [0.0, 1.0, 3.0])
def test_gaussian_persons_meet_their_analytic_values(d_prime):
    rng = np.random.default_rng(int(d_prime))
    mated, other = rng.standard_normal(100_000) + d_prime, rng.standard_normal(100_000)
    want = v.two_gaussians(d_prime)
    for f in STATISTICS:
        assert f(mated, other) == pytest.approx(want[f.__name__], abs=0.006), f.__name__
    llr = [d_prime * x - d_prime**2 / 2 for x in (mated, other)]
    assert v.cllr(*llr) == pytest.approx(want["min_cllr"], abs=0.006)  # true ratios cannot be calibrated further


def slow_eer(mated, other):
    """Every threshold, and a coin between neighbours."""
    rates = []
    for t in sorted({*mated, *other, np.inf}):
        rates.append((np.mean([m < t for m in mated]), np.mean([n >= t for n in other])))
    for (a, b), (c, d) in itertools.pairwise(rates):
        if a <= b and c >= d:
            return a if a == b else a + (b - a) / ((c - a) + (b - d)) * (c - a)
    raise AssertionError


def slow_ratios(mated, other):
    """PAV log-likelihood ratios by scikit-learn's isotonic regression, both classes weighing the same."""
    s, y = np.r_[mated, other].astype(float), np.r_[np.ones(len(mated)), np.zeros(len(other))]
    w = np.where(y == 1, 1 / len(mated), 1 / len(other))
    p = IsotonicRegression(y_min=0, y_max=1).fit(s, y, sample_weight=w).predict(s)
    with np.errstate(divide="ignore"):
        llr = np.log(p) - np.log1p(-p)
    return llr[: len(mated)], llr[len(mated) :]


def slow_zebra(mated, other):
    """The area between the entropy of the prior and the empirical cross-entropy, by quadrature."""
    m, n = slow_ratios(mated, other)

    def gap(prior):
        odds = np.log(prior / (1 - prior))
        cost = prior * np.logaddexp(0, -m - odds).mean() + (1 - prior) * np.logaddexp(0, n + odds).mean()
        return (-prior * np.log(prior) - (1 - prior) * np.log(1 - prior) - cost) / np.log(2)

    return integrate.quad(gap, 0, 1, epsabs=1e-8, limit=200)[0]


@settings(max_examples=40, deadline=None)
@given(SCORES, SCORES)
def test_fast_statistics_equal_slow_ones(mated, other):
    m, n = slow_ratios(mated, other)
    assert v.eer(mated, other) == pytest.approx(slow_eer(mated, other), abs=1e-9)
    assert v.min_cllr(mated, other) == pytest.approx(
        (np.logaddexp(0, -m).mean() + np.logaddexp(0, n).mean()) / np.log(4), abs=1e-9
    )
    assert v.d_sys(mated, other) == pytest.approx(np.maximum(0, np.tanh(m / 2)).mean(), abs=1e-9)
    assert v.zebra(mated, other) == pytest.approx(slow_zebra(mated, other), abs=1e-5)


@settings(max_examples=60, deadline=None)
@given(SCORES, SCORES)
def test_rising_transforms_change_nothing(mated, other):
    m, n = np.array(mated) / 4, np.array(other) / 4
    for f in STATISTICS:
        for rise in (np.exp, np.arctan, lambda x: x**3 + x):
            assert f(rise(m), rise(n)) == pytest.approx(f(m, n), abs=1e-12)
    assert v.eer(-m, -n) == pytest.approx(1 - v.eer(m, n), abs=1e-9)
    assert v.min_cllr(m, n) <= min(1.0, v.cllr(m, n)) + 1e-9  # the scores themselves taken for ratios
    assert 0 <= v.d_sys(m, n) <= 1
    assert -1e-12 <= v.zebra(m, n) <= v.BITS + 1e-12


def test_ties_everywhere_tell_nothing():
    assert [f([3] * 4, [3] * 9) for f in STATISTICS] == [0.5, 1.0, 0.0, 0.0]
    c = v.Comparison(score=np.zeros((6, 6)), probe=list("abcdef"), entry=list("abcdef"))
    found = v.verification(c, np.zeros((6, 6)))
    assert {k: i.value for k, i in found.items()} == {"eer": 0.5, "min_cllr": 1, "d_sys": 0, "zebra": 0, "cllr": 1}
    assert not found["eer"].excludes(0.5)
    assert v.rank(c, 2).value == pytest.approx(2 / 6)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"score": np.full((3, 3), np.nan)}, "9 of 9 comparison scores are NaN"),
        ({"score": np.zeros((3, 2))}, r"scores \[3, 2\] for 3 probes"),
        ({"entry": ["x", "y", "z"]}, "0 mated and 9 non-mated"),
        ({"probe": ["a"] * 3, "entry": ["a"] * 3}, "9 mated and 0 non-mated"),
        ({"probe_person": ["a"] * 3, "entry_person": ["a"] * 3}, "within one person"),
    ],
)
def test_bad_comparisons_are_refused(changes, says):
    fields = {"score": np.eye(3), "probe": ["a", "b", "c"], "entry": ["a", "b", "c"]}
    with pytest.raises(MienError, match=says) as error:
        v.Comparison(**{**fields, **changes})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("f", [*STATISTICS, v.cllr])
@pytest.mark.parametrize(("mated", "other"), [([], [1]), ([1], []), ([np.nan], [1]), ([1], [np.inf])])
def test_bad_scores_are_refused(f, mated, other):
    with pytest.raises(MienError, match="both are needed|NaN or infinite"):
        f(mated, other)


# --- over persons ---------------------------------------------------------------------------------------
def test_an_interval_leaves_a_person_out_of_both_sides():
    c = comparison(persons=9)
    llr = 3 * c.score
    left = {k: [] for k in ("eer", "min_cllr", "d_sys", "zebra", "cllr")}
    cut = c.score[c.mated], c.score[~c.mated]
    threshold = next(t for t in np.sort(c.score.ravel()) if np.mean(cut[0] < t) >= np.mean(cut[1] >= t))
    for p in c.entry:
        keep = np.ix_(c.probe != p, c.entry != p)
        mated = c.mated[keep]
        m, n = c.score[keep][mated], c.score[keep][~mated]
        for f in (v.min_cllr, v.d_sys, v.zebra):
            left[f.__name__].append(f(m, n))
        left["cllr"].append(v.cllr(llr[keep][mated], llr[keep][~mated]))
        left["eer"].append((np.mean(m < threshold) + np.mean(n >= threshold)) / 2)
    found = v.verification(c, llr)
    t = stats.t.ppf(0.975, 8)
    for f in (v.min_cllr, v.d_sys, v.zebra):  # less the jackknife's estimate of the bias
        got, parts = found[f.__name__], np.array(left[f.__name__])
        want = 9 * f(*cut) - 8 * parts.mean()
        se = np.sqrt(8 / 9 * ((parts - parts.mean()) ** 2).sum())
        top = v.BITS if f is v.zebra else 1.0
        assert [got.value, got.low, got.high] == pytest.approx(np.clip([want, want - t * se, want + t * se], 0, top))
        assert got.n_persons == 9
    parts = np.array(left["cllr"])
    assert found["cllr"].value == pytest.approx(v.cllr(llr[c.mated], llr[~c.mated]))
    width = t * np.sqrt(8 / 9 * ((parts - parts.mean()) ** 2).sum())
    assert found["cllr"].high - found["cllr"].value == pytest.approx(width)
    assert found["eer"].value == pytest.approx(v.eer(*cut))
    spread = np.sqrt(8 / 9 * ((np.array(left["eer"]) - np.mean(left["eer"])) ** 2).sum())
    logit = np.diff(
        np.log(np.array([found["eer"].low, found["eer"].high]) / (1 - np.array([found["eer"].low, found["eer"].high])))
    )
    e = found["eer"].value
    assert 0.4 < logit[0] / (2 * t * spread / (e * (1 - e))) < 2.5  # the slope's weight is not exactly one half


def test_intervals_cover_and_strangers_are_not_linked():
    truth = np.mean([v.eer(c.score[c.mated], c.score[~c.mated]) for c in (comparison(s, 80) for s in range(900, 920))])
    found = [v.verification(comparison(s, 12))["eer"] for s in range(60)]
    assert np.mean([i.low <= truth <= i.high for i in found]) >= 0.88
    null = [comparison(s, 12, noise=1e3) for s in range(60)]
    judged = [v.verification(c) for c in null]
    for name, chance in (("eer", 0.5), ("min_cllr", 1.0), ("zebra", 0.0)):
        assert np.mean([j[name].excludes(chance) for j in judged]) <= 0.12, name
    assert np.mean([v.rank(c, 1).excludes(1 / 12) for c in null]) <= 0.12
    assert np.mean([j["d_sys"].value for j in judged]) < 0.1


def test_a_talkative_person_does_not_outweigh_others():
    c = comparison(persons=6, probes=1)
    many = np.r_[np.zeros(40, int), np.arange(1, 6)]
    loud = v.Comparison(score=c.score[many], probe=c.probe[many], entry=c.entry)
    for k, found in v.verification(c).items():
        assert v.verification(loud)[k].value == pytest.approx(found.value), k
    assert v.rank(loud, 1).value == pytest.approx(v.rank(c, 1).value)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 4))
def test_rank_equals_plain_loops(seed, k):
    rng = np.random.default_rng(seed)
    score = rng.integers(0, 4, (7, 5)).astype(float)
    probe = [*"abcde", "a", "stranger"]
    got = v.rank(v.Comparison(score=score, probe=probe, entry=list("abcde")), k).value
    per = {}
    for row, p in zip(score, probe, strict=True):
        if p == "stranger":
            continue
        own = row["abcde".index(p)]
        places = [sorted(rng.permutation(5), key=lambda j, r=row: -r[j]).index("abcde".index(p)) for _ in range(1)]
        above, tied = sum(x > own for x in row), sum(x == own for x in row)
        assert above <= places[0] < above + tied
        per.setdefault(p, []).append(np.mean([above + i < k for i in range(tied)]))
    assert got == pytest.approx(np.mean([np.mean(x) for x in per.values()]))


def test_rank_refuses_what_says_nothing():
    c = comparison(persons=4)
    with pytest.raises(MienError, match="rank 4 in a gallery of 4"):
        v.rank(c, 4)
    with pytest.raises(MienError, match="1 identities are enrolled twice"):
        v.rank(v.Comparison(score=np.eye(3), probe=["a", "a", "b"], entry=["a", "a", "b"]), 1)


def test_open_set_keeps_its_alarm_rate():
    rng = np.random.default_rng(0)
    names = [f"p{i}" for i in range(10)]
    probe = [*names, *(f"s{i}" for i in range(20))]
    score = rng.standard_normal((30, 10)) + 3 * (np.array(probe)[:, None] == np.array(names))
    c = v.Comparison(score=score, probe=probe, entry=names)
    found, note = v.open_set(c, 0.1)
    threshold = np.sort(score[10:].max(1))[-3]  # two of twenty may be above
    want = np.mean([row.argmax() == i and row.max() > threshold for i, row in enumerate(score[:10])])
    assert found.value == pytest.approx(want)
    assert "20 persons without an entry, where 10 % of probes" in note
    assert v.open_set(c, 0.01) == (None, "not resolvable: 20 persons without an entry, needs 100 or more")


# --- re-identification ----------------------------------------------------------------------------------
BACK, JUDGED = [f"b{i}" for i in range(12)], [f"j{i}" for i in range(8)]


def views(seed=0, names=(*BACK, *JUDGED), recordings=4, columns=8, person=1.0, noise=0.4, session=0.0, per_session=1):
    """Persons with recordings of two windows; `session` is a device's offset, the same within a person's session."""
    rng = np.random.default_rng(seed)
    rows = [(i, r, w) for i in range(len(names)) for r in range(recordings) for w in range(2)]
    centre = person * rng.standard_normal((len(names), columns))
    offset = session * rng.standard_normal((len(names), recordings, columns))
    wobble = noise * rng.standard_normal((len(names), recordings, columns))
    X = [
        centre[i] + offset[i, r // per_session] + wobble[i, r] + noise * rng.standard_normal(columns)
        for i, r, _ in rows
    ]
    return Views(
        X=np.array(X),
        person=[names[i] for i, _, _ in rows],
        recording=[f"{names[i]}/{r}" for i, r, _ in rows],
        session=[f"day{r // per_session}" for _, r, _ in rows],
    )


def sides(all_views, probe=lambda r: r < 2):
    back = np.isin(all_views.person, BACK)
    first = np.array([probe(int(r.split("/")[1])) for r in all_views.recording])
    return Sides(
        probes=all_views.rows(~back & first),
        gallery=all_views.rows(~back & ~first),
        background=all_views.rows(back),
    )


def told(found):
    return {r.metric: r for r in found.results()}


@pytest.mark.parametrize("scoring", ["best", "cosine", "likelihood"])
def test_semi_informed_sees_through_what_stops_an_ignorant_attacker(scoring):
    plain = views()
    turn = np.linalg.qr(np.random.default_rng(1).standard_normal((8, 8)))[0]
    found = told(
        reidentify.score(sides(replace(plain, X=plain.X @ turn)), sides(plain), reidentify.Config(scoring=scoring))
    )
    assert found["reidentify.ignorant.eer"].high > 0.5
    assert found["reidentify.semi_informed.eer"].high < 0.35
    assert found["reidentify.semi_informed.rank_1"].low > 1 / 8
    assert found["reidentify.semi_informed.d_sys"].low > 0.3
    assert found["reidentify.semi_informed.cllr"].high < 1
    assert "never rank" in found["reidentify.ignorant.eer"].note
    assert "reidentify.ignorant.d_sys" not in found
    assert {b.name for b in found["reidentify.semi_informed.eer"].baselines} == {
        "chance", "unprotected", "ignorant", "lazy_informed",
    }  # fmt: skip
    assert "16 probes of 8 against a gallery of 8" in found["reidentify.semi_informed.rank_5"].note


def test_noise_is_believed_when_the_semi_informed_attacker_fails_too():
    values = []
    for seed in range(12):
        plain = views(seed)
        noise = np.random.default_rng([seed, 1]).standard_normal(plain.X.shape)
        found = told(reidentify.score(sides(replace(plain, X=noise)), sides(plain), reidentify.Config()))
        values.append(found["reidentify.semi_informed.eer"])
    assert np.mean([r.value for r in values]) == pytest.approx(0.5, abs=0.08)
    assert sum(not r.low <= 0.5 <= r.high for r in values) <= 2
    assert found["reidentify.semi_informed.min_cllr"].high == 1
    assert values[-1].higher_is_better
    assert not found["reidentify.semi_informed.zebra"].higher_is_better
    assert next(b for b in values[-1].baselines if b.name == "unprotected").high < 0.4


def test_an_attacker_who_recognises_nobody_proves_nothing():
    found = told(reidentify.score(sides(views(person=0.0)), sides(views(person=0.0)), reidentify.Config()))
    control = found.pop("reidentify.control.eer")
    assert control.value is not None
    assert all(r.value is None and r.low is None and "withheld" in r.note for r in found.values())


def test_sessions_that_identify_are_refused_or_flagged():
    worn = views(person=0.0, session=2.0, per_session=2)  # only how the device sat that day
    same = sides(worn, probe=lambda r: r % 2 == 0)
    with pytest.raises(MienError, match="16 sessions of a person are in probes and gallery"):
        reidentify.score(same, same, reidentify.Config())
    flagged = told(reidentify.score(same, same, reidentify.Config(allow_same_session=True)))
    assert flagged["reidentify.semi_informed.eer"].high < 0.4
    assert "the session (device, room, day) may be what identifies" in flagged["reidentify.semi_informed.eer"].note
    apart = told(reidentify.score(sides(worn), sides(worn), reidentify.Config()))
    assert apart["reidentify.semi_informed.eer"].value is None
    unknown = Sides(*(), **{k: replace(getattr(same, k), session=None) for k in ("probes", "gallery", "background")})
    assert (
        "sessions unknown"
        in told(reidentify.score(unknown, unknown, reidentify.Config()))["reidentify.control.eer"].note
    )


def test_the_likelihood_score_is_the_two_covariance_ratio():
    model = reidentify._Model(views().pooled("recording"))
    probes, gallery = (v.pooled("recording") for v in (sides(views(3)).probes, sides(views(3)).gallery))
    got = model.compare(probes, gallery, "likelihood")
    x, g = (model.ready(w.X) @ model.axes - model.centre for w in (probes, gallery))
    b = np.diag(model.between)
    for i, p in ((0, "j0"), (5, "j7")):
        rows = g[gallery.person == p]
        alone = np.kron(np.ones((len(rows), len(rows))), b) + np.eye(b.shape[0] * len(rows))
        k = len(rows) + 1
        joint = np.kron(np.ones((k, k)), b) + np.eye(b.shape[0] * k)
        want = stats.multivariate_normal.logpdf(np.r_[x[i], rows.ravel()], np.zeros(len(joint)), joint)
        want -= stats.multivariate_normal.logpdf(rows.ravel(), np.zeros(len(alone)), alone)
        want -= stats.multivariate_normal.logpdf(x[i], np.zeros(len(b)), b + np.eye(len(b)))
        assert got.score[i, list(got.entry).index(p)] == pytest.approx(want)


def test_missing_and_constant_statistics_are_no_obstacle():
    plain = views()
    X = np.c_[plain.X, np.ones(len(plain)), np.full(len(plain), np.nan)]
    X[::7, 0] = np.nan
    found = told(reidentify.score(sides(replace(plain, X=X)), sides(replace(plain, X=X)), reidentify.Config()))
    assert found["reidentify.semi_informed.eer"].high < 0.4


def test_other_columns_leave_the_uninformed_attackers_out():
    plain = views()
    found = told(reidentify.score(sides(replace(plain, X=plain.X[:, :6])), sides(plain), reidentify.Config()))
    assert found["reidentify.ignorant.eer"].value is None
    assert "not run: protected recordings have 6 columns" in found["reidentify.lazy_informed.eer"].note
    assert found["reidentify.semi_informed.eer"].high < 0.5


def test_persons_without_enrolment_make_it_an_open_set():
    plain = views(names=(*BACK, *JUDGED, *(f"s{i}" for i in range(10))))
    s = sides(plain)
    s = replace(s, gallery=s.gallery.rows(np.isin(s.gallery.person, JUDGED)))
    found = told(reidentify.score(s, s, reidentify.Config()))
    rate = found["reidentify.semi_informed.found_at_fpir_0.1"]
    assert rate.value > 0.3
    assert "10 persons without an entry" in rate.note
    assert "36 probes of 18 against a gallery of 8" in rate.note


def test_calibration_is_learnt_elsewhere_and_never_turns_the_order():
    rng = np.random.default_rng(0)
    llr = reidentify._calibration(rng.standard_normal(3000) + 2, rng.standard_normal(9000))
    mated, other = rng.standard_normal(5000) + 2, rng.standard_normal(5000)
    assert v.cllr(llr(mated), llr(other)) == pytest.approx(v.two_gaussians(2.0)["min_cllr"], abs=0.03)
    wrong = reidentify._calibration(rng.standard_normal(50), rng.standard_normal(50) + 2)
    assert (wrong(mated) == 0).all()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda s: replace(s, background=s.gallery), "8 background persons are judged too"),
        (lambda s: replace(s, gallery=s.probes), "16 recordings are probes and in the gallery"),
        (
            lambda s: replace(s, background=s.background.rows(np.isin(s.background.person, BACK[:3]))),
            "3 background persons have",
        ),
        (
            lambda s: replace(
                s, gallery=s.gallery.rows(s.gallery.person == "j0"), probes=s.probes.rows(s.probes.person == "j1")
            ),
            "none of the probes' persons",
        ),
        (
            lambda s: replace(
                s, gallery=s.gallery.rows(s.gallery.person == "j0"), probes=s.probes.rows(s.probes.person == "j0")
            ),
            "2 mated and 0 non-mated",
        ),
        (lambda s: replace(s, background=replace(s.background, X=np.ones((96, 8)))), "every column"),
        (lambda s: replace(s, background=replace(s.background, X=np.ones((96, 3)))), r"\[3, 8\] columns"),
    ],
)
def test_reidentify_refuses_bad_input(change, says):
    with pytest.raises(MienError, match=says) as error:
        s = change(sides(views()))
        reidentify.score(s, s, reidentify.Config())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"X": np.full((3, 2), np.inf)}, "infinite"),
        ({"X": [[np.nan, np.nan], [1, 2], [1, 2]]}, "1 of 3 rows hold no value"),
        ({"X": np.zeros((3, 0))}, r"shape \[3, 0\]"),
        ({"person": ["a", "b"]}, "2 persons"),
        ({"person": ["a", "b", "b"]}, "1 recordings have two persons"),
        ({"session": ["1", "2", "2"]}, "1 recordings have two sessions"),
    ],
)
def test_bad_views_are_refused(changes, says):
    fields = {"X": np.zeros((3, 2)), "person": ["a", "a", "b"], "recording": ["r", "r", "s"]}
    with pytest.raises(MienError, match=says):
        Views(**{**fields, **changes})


def test_pooling_takes_means_of_recordings():
    got = Views(X=[[0.0, 1], [2, np.nan], [7, 4]], person=["a"] * 3, recording=["r", "r", "s"]).pooled("person")
    assert got.X.tolist() == [[4.0, 2.5]]
    assert got.session is None


# --- cross-modal ----------------------------------------------------------------------------------------
MIXING = [np.random.default_rng(8).standard_normal((3, d)) for d in (7, 5)]


def pair(seed, n, strength, recordings=1, prefix="j", session=None):
    """Two sides that share three hidden numbers for each recording."""
    rng = np.random.default_rng(seed)
    hidden = strength * rng.standard_normal((n * recordings, 3))
    person = [f"{prefix}{i}" for i in range(n) for _ in range(recordings)]
    recording = [f"{p}/{k % recordings}" for k, p in enumerate(person)]
    made = [
        Views(X=hidden @ m + rng.standard_normal((len(person), m.shape[1])), person=person, recording=recording,
              session=None if session is None else [session] * len(person)) for m in MIXING
    ]  # fmt: skip
    return Pair(left=made[0], right=made[1])


@pytest.mark.parametrize(("link", "recordings"), [("person", 1), ("person", 2), ("recording", 3)])
def test_linked_sides_are_linked_and_others_are_not(link, recordings):
    back = pair(1, 25, 2.0, recordings, "b")
    config = cross_modal.Config(link=link)
    found = told(cross_modal.score(pair(2, 10, 2.0, recordings), back, config))
    assert found["cross_modal.eer"].high < 0.4
    assert found["cross_modal.rank_1"].low > found["cross_modal.rank_1"].baselines[0].value
    assert found["cross_modal.cllr"].high < 1
    assert found["cross_modal.planted_eer"].high < 0.4
    shuffled = next(b for b in found["cross_modal.eer"].baselines if b.name == "shuffled training pairs")
    assert shuffled.value == pytest.approx(0.5, abs=0.2)
    if link == "recording":
        assert {b.name: b.value for b in found["cross_modal.rank_1"].baselines}["knowing the person"] == pytest.approx(
            1 / 3
        )
    null = told(cross_modal.score(pair(3, 10, 0.0, recordings), pair(4, 25, 0.0, recordings, "b"), config))
    assert null["cross_modal.eer"].low < 0.5 < null["cross_modal.eer"].high


def test_the_link_comes_near_the_exact_ratio():
    rng = np.random.default_rng(5)

    def draw(n, prefix):
        x = rng.standard_normal(n)
        y = 0.9 * x + np.sqrt(1 - 0.81) * rng.standard_normal(n)
        names = [f"{prefix}{i}" for i in range(n)]
        return Pair(
            left=Views(X=np.c_[x, rng.standard_normal((n, 2))], person=names, recording=names),
            right=Views(X=np.c_[y, rng.standard_normal(n)], person=names, recording=names),
        )

    judged = draw(60, "j")
    found = cross_modal.score(judged, draw(80, "b"), cross_modal.Config())
    x, y = judged.left.X[:, :1], judged.right.X[:, 0]
    exact = (0.9 * x * y - 0.405 * (x**2 + y**2)) / 0.19
    best = v.eer(np.diag(exact), exact[~np.eye(60, dtype=bool)])
    got = found.comparison
    assert v.eer(got.score[got.mated], got.score[~got.mated]) == pytest.approx(best, abs=0.06)


def test_too_few_to_learn_from_is_no_privacy():
    config = cross_modal.Config(planted=0.01)
    found = told(cross_modal.score(pair(2, 10, 0.0), pair(1, 8, 0.0, prefix="b"), config))
    assert found["cross_modal.eer"].value is None
    assert "does not find a planted link" in found["cross_modal.rank_1"].note
    assert found["cross_modal.planted_eer"].value is not None


@pytest.mark.parametrize(("session", "says"), [(None, "sessions unknown"), ("monday", "the same sessions")])
def test_shared_sessions_are_told(session, says):
    found = cross_modal.score(pair(2, 8, 2.0, session=session), pair(1, 20, 2.0, prefix="b"), cross_modal.Config())
    assert says in found.results()[0].note


@pytest.mark.parametrize(
    ("judged", "back", "says"),
    [
        (pair(1, 8, 1.0), pair(2, 8, 1.0), "8 background persons are judged too"),
        (pair(1, 8, 1.0), pair(2, 5, 1.0, prefix="b"), "5 background persons are on both sides"),
        (
            Pair(left=pair(1, 8, 1.0).left, right=pair(1, 8, 1.0, prefix="k").right),
            pair(2, 9, 1.0, prefix="b"),
            "0 mated",
        ),
        (pair(1, 1, 1.0), pair(2, 9, 1.0, prefix="b"), "1 mated and 0 non-mated"),
    ],
)
def test_cross_modal_refuses_bad_input(judged, back, says):
    with pytest.raises(MienError, match=says):
        cross_modal.score(judged, back, cross_modal.Config())


# --- attribute inference --------------------------------------------------------------------------------
QUICK = inference.Config(models=("logistic",))


def facts(seed=0, n=40, rows=2, tells=0.0, known=0.0, leak=0.0, **changes):
    """A secret of two values; what is seen and what is public tell it by so many sd, `leak` that of members only."""
    rng = np.random.default_rng(seed)
    secret, member = (rng.permutation(np.arange(n) % 2) for _ in range(2))
    who = np.repeat(np.arange(n), rows)
    X = rng.standard_normal((n, 4))[who] * 0.5 + rng.standard_normal((n * rows, 4))
    X[:, 0] += tells * secret[who]
    X[:, 1] += leak * (member * (2 * secret - 1))[who]
    P = rng.standard_normal((n, 2))
    P[:, 0] += known * secret
    fields = {"seen": X, "public": P[who], "secret": np.where(secret[who], "f", "m"), "person": who,
              "member": member[who].astype(bool), "name": "sex"}  # fmt: skip
    return inference.Facts(**{**fields, **changes})


def test_gold_advantage_is_over_the_best_blind_guess():
    case = GOLD["attribute_inference_advantage"]
    j = case["inputs"]["joint"]  # the secret is a, what is seen is y
    joint = np.array([[[j["a0_y0"], j["a1_y0"]], [j["a0_y1"], j["a1_y1"]]]])
    want = case["expected"]
    got = inference.best_accuracy(joint)
    assert got == pytest.approx((want["bayes_acc"], want["prior_acc"], want["advantage"]), abs=case["tolerance"])
    flat = joint.transpose(1, 0, 2)  # y is public: then nothing is gained by seeing it
    assert inference.best_accuracy(flat)[2] == 0
    rng = np.random.default_rng(0)
    cell = rng.choice(4, 400, p=joint.ravel())
    person = np.arange(400)
    drawn = inference.Facts(seen=(cell // 2)[:, None].astype(float), secret=cell % 2, person=person)
    got = told(inference.predict(drawn, QUICK))["attribute.advantage"]
    assert got.low < want["advantage"] < got.high
    with pytest.raises(MienError, match="sums to 1"):
        inference.best_accuracy(joint * 2)


@pytest.mark.parametrize("config", [QUICK, inference.Config(trees=10, folds=3, inner=2)])
def test_what_is_public_is_no_advantage(config):
    found = told(inference.predict(facts(known=6.0, tells=2.0), config))
    gain = found["attribute.advantage"]
    assert found["attribute.accuracy"].value > 0.9
    assert gain.value == pytest.approx(0, abs=0.05)
    assert gain.low <= 0


def test_what_only_was_seen_is_an_advantage_but_not_a_leak():
    found = told(inference.predict(facts(tells=3.0), QUICK))
    assert found["attribute.advantage"].low > 0.1
    assert found["attribute.balanced_advantage"].low > 0.1
    leak = found["attribute.leakage"]
    assert leak.low < 0 < leak.high
    assert {b.name for b in found["attribute.accuracy"].baselines} == {"model-free (public attributes)", "majority"}
    assert not any(r.higher_is_better for k, r in found.items() if k != "attribute.control")


def test_what_only_members_show_is_a_leak():
    found = told(inference.predict(facts(leak=4.0, n=60), QUICK))
    assert found["attribute.leakage"].low > 0.2
    alone = told(inference.predict(facts(leak=4.0, member=None), QUICK))
    assert alone["attribute.leakage"].value is None
    assert "no held-out persons" in alone["attribute.leakage"].note


def test_a_rare_value_hides_in_accuracy_and_not_in_balanced_accuracy():
    rng = np.random.default_rng(0)
    secret = (np.arange(100) < 10).astype(int)
    f = facts(
        n=100,
        rows=1,
        secret=secret,
        person=np.arange(100),
        public=None,
        seen=rng.standard_normal((100, 3)) + secret[:, None],
    )
    found = told(inference.predict(f, QUICK))
    assert found["attribute.advantage"].value < 0.06
    assert found["attribute.balanced_advantage"].low > 0
    assert found["attribute.accuracy"].baselines[1].value == pytest.approx(0.9)


def test_guesses_never_see_their_person():
    f = facts(n=12, rows=3)
    seen = []
    for fit, held in inference._folds(f.secret, f.person, 5, 0):
        assert not set(f.person[fit]) & set(f.person[held])
        seen += list(held)
    assert sorted(seen) == list(range(36))
    one_each = f.person.astype(float)[:, None] + np.zeros((36, 4))  # a name tells nothing of another person
    got = told(inference.predict(replace(f, seen=one_each, public=None), QUICK))["attribute.balanced_accuracy"]
    assert got.value < 0.9


def test_a_secret_that_cannot_be_learnt_is_withheld():
    f = facts(n=4, rows=1, public=None, member=None)
    found = told(inference.predict(f, QUICK))
    assert found["attribute.accuracy"].value is None
    assert "does not find a planted sex" in found["attribute.accuracy"].note


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"secret": np.full(80, "f")}, "everybody's sex is 'f'"),
        ({"secret": np.r_[["x"], np.full(79, "f")]}, "held by one person"),
        ({"seen": np.zeros((79, 2))}, r"shape \[79, 2\] for 80"),
        ({"seen": np.full((80, 2), np.inf)}, "infinite values in `seen`"),
        ({"member": np.ones(80)}, "true or false"),
        ({"member": np.ones(80, bool)}, "the same for all rows"),
        ({"member": np.arange(80) % 2 == 0}, "40 persons are member and not"),
        ({"secret": ["f", "m"]}, "2 secrets for 80 rows"),
    ],
)
def test_bad_facts_are_refused(changes, says):
    with pytest.raises(MienError, match=says):
        facts(**changes)


# --- inversion ------------------------------------------------------------------------------------------
def embedded(seed=0, n=10, recordings=3, windows=3, kind="linear", columns=6):
    rng = np.random.default_rng(seed)
    rows = [(p, r) for p in range(n) for r in range(recordings) for _ in range(windows)]
    X = (1.5 * rng.standard_normal((n, columns)))[[p for p, _ in rows]] + rng.standard_normal((len(rows), columns))
    Z = X @ rng.standard_normal((columns, 9)) + 0.3 * rng.standard_normal((len(rows), 9))
    if kind == "noise":
        Z = rng.standard_normal(Z.shape)
    v = Views(X=Z, person=[f"p{p}" for p, _ in rows], recording=[f"p{p}/{r}" for p, r in rows])
    return v, X


def test_a_linear_embedding_is_inverted():
    found = told(inversion.invert(*embedded(), inversion.Config()))
    assert found["inversion.r2"].low > 0.7
    assert found["inversion.rank"].value < 0.05
    assert found["inversion.rank"].high < 0.5
    assert found["inversion.found_first"].low > 0.4
    assert found["inversion.identity"].low > 0.2
    for r in found.values():
        beside = {b.name: b.value for b in r.baselines}
        assert beside["shuffled embeddings"] == pytest.approx(beside["chance"], abs=0.12), r.metric
        assert "90 windows of 10 persons" in r.note


def test_noise_cannot_be_inverted():
    found = told(inversion.invert(*embedded(kind="noise"), inversion.Config()))
    for name, chance in (("r2", 0.0), ("rank", 0.5)):
        r = found[f"inversion.{name}"]
        assert r.low <= chance + 0.01
        assert r.high >= chance - 0.01
    assert found["inversion.identity"].low < 0.1 < found["inversion.identity"].high


def test_retrieval_and_r2_equal_plain_loops():
    v_, X = embedded(n=4, windows=2)
    config = inversion.Config(folds=2, ridge=(1e-6,))
    found = inversion._attack(v_, X, np.zeros(len(X), bool), config)
    people = np.unique(v_.person)
    turn = dict(zip(people, np.random.default_rng(0).permutation(4) % 2, strict=True))
    ranks, lost, total = {}, 0.0, 0.0
    for f in (0, 1):
        fit = np.array([turn[p] != f for p in v_.person])
        z = (X - X[fit].mean(0)) / X[fit].std(0)
        a = np.c_[v_.X, np.ones(len(X))]
        made = a[~fit] @ np.linalg.lstsq(a[fit], z[fit], rcond=None)[0]
        lost, total = lost + ((made - z[~fit]) ** 2).sum(), total + (z[~fit] ** 2).sum()
        for i, row in enumerate(made):
            far = [np.linalg.norm(row - other) for other in z[~fit]]
            ranks.setdefault(v_.person[~fit][i], []).append(sum(x < far[i] for x in far) / (len(far) - 1))
    assert found.r2.value == pytest.approx(1 - lost / total, abs=1e-3)
    assert found.rank.value == pytest.approx(np.mean([np.mean(r) for r in ranks.values()]), abs=1e-3)


def test_identity_needs_recordings_to_hold_out():
    found = told(inversion.invert(*embedded(recordings=1), inversion.Config()))
    assert found["inversion.identity"].value is None
    assert "not run" in found["inversion.identity"].note
    v_, X = embedded()
    probe = inversion._halves(v_)
    assert not set(v_.recording[probe]) & set(v_.recording[~probe])


def test_a_failed_control_withholds_what_was_not_found():
    v_, X = embedded(n=4, recordings=1, windows=2, kind="noise", columns=40)
    found = told(
        inversion.invert(v_, np.random.default_rng(0).standard_normal(X.shape), inversion.Config(ridge=(1e6,)))
    )
    assert found["inversion.r2"].value is None
    assert "withheld" in found["inversion.r2"].note


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda v, X: (v, X[:5]), "for 90 embeddings"),
        (lambda v, X: (v, X * np.inf), "infinite values"),
        (lambda v, X: (v, np.full_like(X, np.nan)), "rows without any"),
        (lambda v, X: (v, np.ones_like(X)), "constant"),
        (lambda v, X: (v.rows(np.arange(27)), X[:27]), "3 persons"),
    ],
)
def test_inversion_refuses_bad_input(change, says):
    with pytest.raises(MienError, match=says):
        inversion.invert(*change(*embedded()), inversion.Config())


# --- every attack, and voices ---------------------------------------------------------------------------
@pytest.mark.parametrize("module", [reidentify, cross_modal, inference, inversion])
def test_conformance(module):
    assert issubclass(module.Config, Section)
    module.Config()
    assert module.NEEDS
    assert module.__doc__
    assert "import torch" not in Path(module.__file__).read_text()
    found = {
        reidentify: lambda: reidentify.score(sides(views()), sides(views()), reidentify.Config()),
        cross_modal: lambda: cross_modal.score(pair(2, 8, 1.0), pair(1, 12, 1.0, prefix="b"), cross_modal.Config()),
        inference: lambda: inference.predict(facts(n=20), QUICK),
        inversion: lambda: inversion.invert(*embedded(n=6), inversion.Config()),
    }[module]().results()
    assert found
    assert all(isinstance(r, Result) and r.note for r in found)
    assert all(r.value is None or r.baselines for r in found)


def test_voices_say_how_to_get_the_encoder(monkeypatch):
    monkeypatch.setitem(sys.modules, "resemblyzer", None)
    voices._encoder.cache_clear()
    with pytest.raises(MienError, match="needs Resemblyzer .*pip install"):
        voices.embed(np.random.default_rng(0).standard_normal(16000) / 10, 16000)
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    with pytest.raises(MienError, match="unset it"):
        voices._encoder()
    monkeypatch.setitem(sys.modules, "dlib", None)
    with pytest.raises(MienError, match="needs dlib"):
        voices.faces(Path("nowhere.dat"))
    monkeypatch.setitem(sys.modules, "dlib", types.ModuleType("dlib"))
    with pytest.raises(MienError, match="no face weights at nowhere.dat"):
        voices.faces(Path("nowhere.dat"))


def test_other_weights_are_not_loaded(monkeypatch, tmp_path):
    fake = types.ModuleType("resemblyzer")
    fake.__file__ = str(tmp_path / "__init__.py")
    (tmp_path / "pretrained.pt").write_bytes(b"something else")
    monkeypatch.setitem(sys.modules, "resemblyzer", fake)
    voices._encoder.cache_clear()
    with pytest.raises(MienError, match="not the checkpoint"):
        voices._encoder()


def test_a_voice_arrives_at_16_khz_and_loud_enough(monkeypatch):
    heard = []

    class Encoder:
        def embed_utterance(self, wav):
            heard.append(wav)
            return np.ones(256) / 16

    monkeypatch.setattr(voices, "_encoder", Encoder)
    t = np.arange(8000) / 8000
    got = voices.embed(1e-4 * np.sin(2 * np.pi * 440 * t), 8000)
    assert (got.dtype, got.shape, heard[0].dtype, heard[0].shape) == (np.float32, (256,), np.float32, (16000,))
    assert 20 * np.log10(np.sqrt((heard[0] ** 2).mean())) == pytest.approx(-30, abs=0.2)
    assert np.abs(np.fft.rfft(heard[0])).argmax() == 440
    assert len(voices.embed(np.sin(2 * np.pi * 440 * np.arange(44100) / 44100), 44100)) == 256
    assert np.sqrt((heard[1] ** 2).mean()) == pytest.approx(np.sqrt(0.5), rel=0.02)


@pytest.mark.parametrize(
    ("audio", "rate"),
    [
        (np.zeros(16000), 16000),
        (np.full(16000, np.nan), 16000),
        (np.ones((2, 16000)), 16000),
        (np.ones(100), 16000),
        (np.ones(9), 0),
    ],
)
def test_bad_audio_is_refused(audio, rate):
    with pytest.raises(MienError, match="voice"):
        voices.embed(audio, rate)
