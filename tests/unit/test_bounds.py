# pyright: reportArgumentType=false, reportCallIssue=false
"""Lower bounds on ε: gold cases, slow oracles, and how often they claim too much."""

import json
from dataclasses import replace
from functools import cache, partial
from math import comb
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats

from mien.attacks import bounds
from mien.attacks.bounds import Policy
from mien.attacks.canaries import Coins, insert
from mien.core.errors import MienError
from mien.core.scores import Scores
from mien.data.datasets import motion

GOLD = {c["name"]: c for c in json.loads((Path(__file__).parent.parent / "reference" / "attacks.json").read_text())}
CASES = {
    "eps_lb_cp_perfect_attack_n1000": lambda i: (
        bounds.clopper_pearson(i["tp"], i["n_in"], i["fp"], i["n_out"], i["delta"], i["alpha"]).epsilon
    ),
    "eps_lb_cp_perfect_attack_n500_99": lambda i: (
        bounds.clopper_pearson(i["tp"], i["n_in"], i["fp"], i["n_out"], i["delta"], i["alpha"]).epsilon
    ),
    **{
        name: lambda i: bounds.one_run(i["m"], i["r"], i["v"], i["delta"], i["p"]).epsilon
        for name in GOLD
        if name.startswith("one_run_m")
    },
    "one_run_pvalue": lambda i: bounds.one_run_pvalue(i["m"], i["r"], i["v"], i["eps"], i["delta"]),
    "gdp_eps_at_delta_1e-5_mu1": lambda i: bounds.gdp_epsilon(i["mu"], i["delta"]),
    "gdp_tradeoff_curve_mu1": lambda i: bounds.gdp_tpr(i["mu"], np.array(i["fpr"])),
    "gdp_advantage": lambda i: bounds.gdp_advantage(i["mu"]),
    "gdp_composition": lambda i: bounds.gdp_compose(i["mus"]),
    "gdp_group_privacy_user_with_k_records": lambda i: bounds.gdp_group(i["mu"], i["k"]),
    "dpsgd_clt_mu": lambda i: bounds.clt_mu(i["sample_rate"], i["sigma"], i["steps"]),
    "eps_delta_tradeoff_function": lambda i: bounds.dp_fnr(i["eps"], i["delta"], i["alpha"]),
    "laplace_mechanism_auc": lambda i: bounds.laplace_auc(i["eps"]),
    "ppv_at_prior": lambda i: bounds.positive_predictive_value(i["tpr"], i["fpr"], i["prior"]),
    "lira_equal_variance_tpr": lambda i: bounds.gdp_tpr(i["d_prime"], np.array(i["fpr"])),
}


@pytest.mark.parametrize("name", CASES)
def test_gold(name):
    case = GOLD[name]
    assert np.asarray(CASES[name](case["inputs"])) == pytest.approx(np.asarray(case["expected"]), abs=case["tolerance"])


@pytest.mark.parametrize("name", [n for n in GOLD if n.startswith("one_run_fdp")])
def test_gold_f_dp_in_one_run(name):
    case = GOLD[name]
    i, want = case["inputs"], case["expected"]
    bound = bounds.one_run_gdp(i["m"], i["guesses"], i["correct"], i["delta"], i["p"])
    assert bound.epsilon == pytest.approx(want["eps_lb"], abs=case["tolerance"])
    assert "if the mechanism is Gaussian-DP" in str(bound)
    assert f"μ ≥ {want['mu_lb']:.3g}" in bound.note


def test_known_ceilings():
    assert bounds.clopper_pearson(520, 1000, 20, 1000, 1e-5).epsilon == pytest.approx(2.766434, abs=1e-6)
    assert "ε ≥ 3.49" in bounds.resolution(100)
    assert "ε ≥ 5.81" in bounds.resolution(1000)
    assert "2,995 non-members" in bounds.resolution(100)


# --- oracles ------------------------------------------------------------------------------------------------------------
def exact_pvalue(m, guesses, correct, epsilon, delta):
    q = np.exp(epsilon) / (1 + np.exp(epsilon))
    pmf = [comb(guesses, k) * q**k * (1 - q) ** (guesses - k) for k in range(guesses + 1)]
    tail = sum(pmf[correct:])
    worst = max((sum(pmf[correct - i : correct]) / i for i in range(1, correct + 1)), default=0.0)
    return min(1.0, tail + 2 * m * delta * worst)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_one_run_is_the_inverse_of_an_exact_sum(data):
    guesses = data.draw(st.integers(1, 40))
    m = data.draw(st.integers(guesses, 80))
    correct = data.draw(st.integers(0, guesses))
    delta = data.draw(st.sampled_from([0.0, 1e-5, 1e-3]))
    bound = bounds.one_run(m, guesses, correct, delta).epsilon
    if correct:
        assert bounds.one_run_pvalue(m, guesses, correct, 1.0, delta) == pytest.approx(
            exact_pvalue(m, guesses, correct, 1.0, delta), abs=1e-9
        )
    if bound > 0:
        below = [bounds.one_run_pvalue(m, guesses, correct, e, delta) for e in np.linspace(0, bound, 9)]
        assert max(below) <= 0.05 + 1e-6  # the first ε that is not refuted, not a later one
        assert exact_pvalue(m, guesses, correct, bound, delta) == pytest.approx(0.05, abs=1e-6)
    else:
        assert correct == 0 or exact_pvalue(m, guesses, correct, 0.0, delta) >= 0.05 - 1e-9


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 60),
    st.integers(0, 59),
    st.floats(0.001, 0.3),
    st.sampled_from(["one_run", "one_run_gdp", "order_statistics"]),
)
def test_bounds_rise_with_what_was_achieved(guesses, correct, alpha, method):
    correct = min(correct, guesses - 1)
    function = partial(getattr(bounds, method), 60, guesses, delta=1e-5)
    here = function(correct, alpha=alpha).epsilon
    assert function(correct + 1, alpha=alpha).epsilon >= here - 1e-9
    assert function(correct, alpha=min(0.9, 2 * alpha)).epsilon >= here - 1e-9
    if method == "one_run":
        assert bounds.one_run(60, guesses, correct, 1e-2, alpha).epsilon <= here + 1e-9
    assert bounds.clopper_pearson(correct + 1, 60, 5, 60).epsilon >= bounds.clopper_pearson(correct, 60, 5, 60).epsilon


@settings(max_examples=30, deadline=None)
@given(st.floats(0.05, 4), st.sampled_from([1e-7, 1e-5, 1e-2]))
def test_gdp_epsilon_inverts_its_curve(mu, delta):
    epsilon = bounds.gdp_epsilon(mu, delta)
    if epsilon > 0:
        assert bounds.gdp_delta(mu, epsilon) == pytest.approx(delta, rel=1e-5)
    else:
        assert bounds.gdp_delta(mu, 0.0) <= delta


def test_order_statistics_is_the_chance_of_so_many_right_guesses():
    """By simulation: of m Gaussian pairs, the r surest guesses; and it is tighter than the trade-off recursion."""
    m, r, mu, rng = 200, 40, 1.0, np.random.default_rng(0)
    x = mu / 2 + rng.standard_normal((40_000, m))
    top = np.take_along_axis(x, np.argsort(-np.abs(x), axis=1)[:, :r], axis=1)
    right = (top > 0).sum(1)
    for correct in (34, 36, 38):
        p = float((right >= correct).mean())
        bound = bounds.order_statistics(m, r, correct, 1e-5, alpha=p)
        assert bound.epsilon == pytest.approx(bounds.gdp_epsilon(mu, 1e-5), rel=0.03), correct
    assert bounds.order_statistics(m, r, 38, 1e-5).epsilon > bounds.one_run_gdp(m, r, 38, 1e-5).epsilon
    assert bounds.order_statistics(m, m, m, 1e-5).epsilon > 0


# --- how often do they claim too much? ------------------------------------------------------------------------------------
def mechanisms(rng, m):
    """name -> (scores, member, true ε at δ = 1e-5), one canary each by its own coin."""
    member = rng.random(m) < 0.5
    noise = rng.standard_normal(m)
    flip = rng.random(m) < 1 / (1 + np.e)
    return {
        "nothing": (noise, member, 0.0),
        "response": ((member ^ flip) + 1e-9 * noise, member, 1.0),
        "laplace": (member + rng.laplace(size=m), member, 1.0),
        "gaussian": (member + noise, member, 4.377),
    }


POLICIES = {
    "fixed": Policy(kind="fixed", choices=(0.1,)),
    "bonferroni": Policy(kind="bonferroni", choices=bounds.GRID),
    "split": Policy(kind="split", choices=bounds.GRID),
}
# thresholds on the score itself, chosen before any trial
CUTS = {
    "fixed": Policy(kind="fixed", choices=(1.0,)),
    "bonferroni": Policy(kind="bonferroni", choices=(-0.5, 0.0, 0.5, 1.0, 1.5, 2.0)),
    "split": Policy(kind="split", choices=(-0.5, 0.0, 0.5, 1.0, 1.5, 2.0)),
}


METHODS = ("one_run", "one_run_gdp", "order_statistics", "clopper_pearson", "gdp")
REMEMBERED = {name: cache(getattr(bounds, name)) for name in METHODS}


@pytest.fixture
def remembered(monkeypatch):
    """A bound follows from its counts, and the same counts come again and again."""
    for name, function in REMEMBERED.items():
        monkeypatch.setattr(bounds, name, function)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("method", METHODS)
def test_few_false_claims(method, policy, remembered):
    """At most 5 % + 3 standard errors of 150 trials, within the family the bound declares."""
    trials, m, wrong = 150, 200, {}
    for t in range(trials):
        rng = np.random.default_rng([t, 77])
        for name, (scores, member, truth) in mechanisms(rng, m).items():
            if method in ("gdp", "one_run_gdp", "order_statistics") and name not in ("nothing", "gaussian"):
                continue
            chosen = (CUTS if method in ("clopper_pearson", "gdp") else POLICIES)[policy]
            bound = bounds.audit(scores, member, method=method, policy=chosen, delta=1e-5, seed=t)
            wrong[name] = wrong.get(name, 0) + (bound.epsilon > truth + 1e-3)
    limit = 0.05 + 3 * np.sqrt(0.05 * 0.95 / trials)
    assert {n: c / trials for n, c in wrong.items() if c / trials > limit} == {}


def test_outside_its_family_a_bound_overclaims_and_says_if():
    """Randomised response is no Gaussian mechanism: the bound passes the truth, and carries its condition."""
    claims = []
    for t in range(10):
        scores, member, truth = mechanisms(np.random.default_rng(t), 1000)["response"]
        bound = bounds.audit(scores, member, method="one_run_gdp", delta=1e-5)
        claims.append(bound.epsilon > truth)
        assert "if the mechanism is Gaussian-DP" in str(bound)
    assert np.mean(claims) > 0.5
    assert "if" not in str(bounds.one_run(100, 20, 19))


def together(rng, member, mu):
    """x_i ~ N(±mu/2, 1) for each canary, all of the same size |x|: given it, each sign is right on its own with
    probability 1 / (1 + e^(-mu |x|)). Exactly mu-GDP in each canary, and sure of all canaries or of none."""
    size = abs(rng.normal(mu / 2))
    right = rng.random(len(member)) < special.expit(mu * size)
    return size * np.where(member == right, 1, -1) + 1e-9 * rng.standard_normal(len(member))


def test_the_mechanism_that_is_sure_of_all_or_none_is_gaussian_in_each_canary():
    rng = np.random.default_rng(3)
    inside = np.array([together(rng, np.ones(1, bool), 1.0)[0] for _ in range(20_000)])
    assert stats.kstest(inside, stats.norm(0.5, 1).cdf).pvalue > 1e-3


@pytest.mark.parametrize(("share", "mu"), [(0.1, 0.5), (0.5, 0.5), (0.1, 1.0), (0.5, 1.0)])
def test_bounds_for_gaussian_dp_hold_where_canaries_hang_together(share, mu, remembered):
    """What is claimed of every μ-GDP mechanism holds for this one; order statistics claim less than that, and must."""
    trials, m, truth = 200, 200, bounds.gdp_epsilon(mu, 1e-5)
    wrong = dict.fromkeys(("one_run", "one_run_gdp", "order_statistics"), 0)
    for t in range(trials):
        rng = np.random.default_rng([t, 5])
        member = rng.random(m) < 0.5
        scores = together(rng, member, mu)
        for method in wrong:
            policy = Policy(kind="fixed", choices=(share,))
            bound = bounds.audit(scores, member, method=method, policy=policy, delta=1e-5, seed=t)
            wrong[method] += bound.epsilon > truth + 1e-3
            assert ("independent canaries" in str(bound)) == (method == "order_statistics")
    limit = 0.05 + 3 * np.sqrt(0.05 * 0.95 / trials)
    assert max(wrong["one_run"], wrong["one_run_gdp"]) / trials <= limit
    if share == 0.5:
        assert wrong["order_statistics"] / trials > 0.15


@pytest.mark.parametrize("kind", ["signs only", "some canaries weaker"])
def test_order_statistics_hold_for_weaker_independent_answers(kind, remembered):
    """Each canary's answer is made from N(±μ/2, 1), or a smaller μ, by itself: the case the proof covers."""
    trials, m, wrong = 150, 200, 0
    for t in range(trials):
        rng = np.random.default_rng([t, 6])
        member = rng.random(m) < 0.5
        mu = np.where(np.arange(m) % 2, 1.0, 0.3) if kind == "some canaries weaker" else 1.0
        x = np.where(member, 1, -1) * mu / 2 + rng.standard_normal(m)
        scores = np.sign(x) if kind == "signs only" else mu * x
        for share in (0.1, 0.5):
            policy = Policy(kind="fixed", choices=(share,))
            bound = bounds.audit(scores, member, method="order_statistics", policy=policy, delta=1e-5, seed=t)
            wrong += bound.epsilon > 4.378
    assert wrong / (2 * trials) <= 0.05


def test_the_best_of_many_thresholds_would_overclaim():
    """What is refused here, done by hand: the largest bound over guess counts, without paying for the choice."""
    shares = np.arange(1, 100) / 200
    claims = []
    for t in range(60):
        scores, member, _ = mechanisms(np.random.default_rng(t), 200)["nothing"]
        found = [bounds.audit(scores, member, policy=Policy(kind="fixed", choices=(s,))).epsilon for s in shares]
        claims.append(max(found) > 1e-3)
    assert np.mean(claims) > 0.2


def test_ties_do_not_know_the_order_of_the_rows():
    member = np.arange(400) < 200
    found = [bounds.audit(np.zeros(400), member, policy=POLICIES["fixed"], seed=s).epsilon for s in range(40)]
    assert np.mean(np.array(found) > 0) <= 0.15
    assert bounds.audit(member.astype(float), member, policy=POLICIES["fixed"]).epsilon > 3


def test_a_bound_says_for_whom_it_holds_and_how_it_was_made():
    member = np.arange(100) < 50
    said = {
        "one_run": "any mechanism",
        "clopper_pearson": "any mechanism",
        "gdp": "if the mechanism is Gaussian-DP",
        "one_run_gdp": "if the mechanism is Gaussian-DP",
        "order_statistics": "if the mechanism is Gaussian-DP with independent canaries",
    }
    for method, condition in said.items():
        for kind, choices in (("fixed", (0.4,)), ("bonferroni", (0.2, 0.4)), ("split", (0.2, 0.4))):
            bound = bounds.audit(member, member, method=method, policy=Policy(kind=kind, choices=choices), delta=1e-5)
            assert str(bound).endswith(f"(95 %, {condition})")
            assert (bound.policy, bound.alpha) == (kind, 0.05)
            assert bound.epsilon > 0
            assert ("independent trials" if method in ("gdp", "clopper_pearson") else "guesses right") in bound.note


@pytest.mark.parametrize("delta", [1e-300, 1e-16, 1e-12])
def test_a_delta_below_rounding_is_no_delta(delta):
    assert bounds.one_run(57, 51, 51, delta).epsilon == pytest.approx(bounds.one_run(57, 51, 51).epsilon, abs=1e-6)


# --- coins --------------------------------------------------------------------------------------------------------------
def test_coins_come_back_and_are_private(tmp_path):
    coins = Coins.toss([f"p{i}" for i in range(50)])
    coins.write(tmp_path / "coins.json")
    assert (tmp_path / "coins.json").stat().st_mode & 0o077 == 0
    assert Coins.read(tmp_path / "coins.json") == coins
    assert 5 < sum(coins.included.values()) < 45
    assert Coins.toss(["a", "b"], 1) == Coins.toss(["a", "b"], 1)
    persons = np.array(sorted(coins.included))
    member = np.array([coins.included[p] for p in persons])
    made = Scores(ids=persons, persons=persons, member=member, score=member + 0.0, attack="a", unit="person")
    scores, heads = coins.of(made)
    assert bounds.audit(scores, heads, policy=POLICIES["fixed"]).epsilon > 0


def test_a_coin_file_is_private_from_its_first_byte_and_whole_or_absent(tmp_path, monkeypatch):
    file = tmp_path / "coins.json"
    file.write_text("{}")
    file.chmod(0o644)
    Coins(included={"a": True}).write(file)
    assert file.stat().st_mode & 0o777 == 0o600

    def full(*_, **__):
        raise OSError("no space")

    monkeypatch.setattr(json, "dump", full)
    with pytest.raises(OSError, match="no space"):
        Coins(included={"a": False}).write(file)
    assert [f.name for f in tmp_path.iterdir()] == ["coins.json"]
    assert Coins.read(file).included == {"a": True}


@pytest.mark.parametrize("content", [None, b"{", b"\xff", b"[1]", b'{"a": 1}'])
def test_what_holds_no_coins_is_refused(tmp_path, content):
    if content is not None:
        (tmp_path / "coins.json").write_bytes(content)
    with pytest.raises(MienError, match=r"coins\.json") as error:
        Coins.read(tmp_path / "coins.json")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda s: replace(s, unit="recording"), "pool them first"),
        (lambda s: replace(s, ids=["p0", "p1", "x"], persons=["p0", "p1", "x"]), "no coin"),
        (lambda s: replace(s, member=~s.member), "not by their coin"),
        (
            lambda s: replace(s, ids=s.ids[:2], persons=s.persons[:2], member=s.member[:2], score=s.score[:2]),
            "no score",
        ),
    ],
)
def test_scores_that_do_not_fit_the_coins_are_refused(change, says):
    coins = Coins(included={"p0": True, "p1": False, "p2": True})
    ids = np.array(list(coins.included))
    fits = Scores(
        ids=ids, persons=ids, member=np.array([True, False, True]), score=np.zeros(3), attack="a", unit="person"
    )
    coins.of(fits)
    with pytest.raises(MienError, match=says):
        coins.of(change(fits))


def test_canaries_join_the_cohort_by_their_coin():
    cohort = motion.load(motion.Config(persons=3, recordings_per_person=2, seconds=4))
    others = motion.load(motion.Config(persons=3, recordings_per_person=2, seconds=4, seed=9))
    canaries = [replace(r, id=f"canary-{r.id}", person=f"canary-{r.person}") for r in others]
    names = sorted({r.person for r in canaries})
    coins = Coins(included=dict(zip(names, [True, False, True], strict=True)))
    made = insert(cohort, canaries, coins)
    assert set(made.persons) == {*cohort.persons, names[0], names[2]}
    with pytest.raises(MienError, match="persons of the cohort"):
        insert(cohort, list(cohort), coins)
    with pytest.raises(MienError, match="3 canary persons have no coin"):
        insert(cohort, canaries, Coins(included={}))


M = np.arange(10) < 5


@pytest.mark.parametrize(
    ("act", "says"),
    [
        (lambda: bounds.audit(np.zeros(10), M, policy="best"), "leaks that are not there; use Policy"),
        (lambda: bounds.audit(np.zeros(10), M, policy=None), "use Policy"),
        (lambda: Policy(kind="best", choices=(0.1,)), "not there"),
        (lambda: Policy(kind="fixed", choices=(0.1, 0.2)), "fixed has one"),
        (lambda: Policy(kind="bonferroni", choices=()), "0 choices"),
        (lambda: bounds.audit(np.full(10, np.nan), M), "10 of 10 scores"),
        (lambda: bounds.audit(np.full(10, np.inf), M), "10 of 10 scores"),
        (lambda: bounds.audit(np.zeros(10), M | True), "some in and some out"),
        (lambda: bounds.audit(np.zeros(9), M), "one each per canary"),
        (lambda: bounds.audit(np.zeros(10), M, policy=Policy(kind="fixed", choices=(0.9,))), "share of the canaries"),
        (lambda: bounds.audit(np.zeros(2), M[4:6], policy=Policy(kind="split", choices=(0.1,))), "too few to split"),
        (lambda: bounds.one_run(10, 20, 5), "correct ≤ guesses ≤ canaries"),
        (lambda: bounds.one_run(10, 5, 6), "correct ≤ guesses ≤ canaries"),
        (lambda: bounds.one_run(10, 5, 5, alpha=0.0), "alpha lies between"),
        (lambda: bounds.one_run_pvalue(10, 5, 5, -1.0), "epsilon is a finite number"),
        (lambda: bounds.one_run_pvalue(10, 5, 5, np.nan), "epsilon is a finite number"),
        (lambda: bounds.one_run(10, 5, 5, np.nan), "δ < 1"),
        (lambda: bounds.gdp(5, 5, 0, 5, 0.0), "no Gaussian mechanism has a finite ε"),
        (lambda: bounds.audit(np.arange(10.0), M, method="order_statistics"), "no Gaussian mechanism has a finite ε"),
        (lambda: bounds.clopper_pearson(5, 4, 0, 4), "hits ≤ trials"),
        (lambda: Coins.toss(["a", "a"]), "named twice"),
    ],
)
def test_bad_input_is_refused(act, says):
    with pytest.raises(MienError, match=says) as error:
        act()
    assert "\n" not in str(error.value)
