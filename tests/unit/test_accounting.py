# pyright: reportArgumentType=false, reportOperatorIssue=false, reportIndexIssue=false, reportCallIssue=false
"""The accountant against closed forms, a slow convolution of its own, and numbers that Opacus' accountant gave."""

from __future__ import annotations

import json
import math
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, special, stats

from mien.core.errors import MienError
from mien.core.paths import cache_home
from mien.privacy import accounting
from mien.privacy.accounting import Event

CASES = json.loads((Path(__file__).parent.parent / "reference" / "accounting.json").read_text())
GOLD = {c["name"]: c for c in CASES}
PRV = [c for c in CASES if c["name"].startswith("prv_")]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MIEN_CACHE", str(tmp_path / "cache"))


def event(q=0.01, sigma=1.0, steps=1000, units=1):
    return Event(sample_rate=q, noise_multiplier=sigma, steps=steps, units_per_person=units)


def gaussian_delta(mu, eps):
    """Balle & Wang 2018, Theorem 8."""
    return stats.norm.cdf(mu / 2 - eps / mu) - math.exp(eps) * stats.norm.cdf(-mu / 2 - eps / mu)


def gaussian_epsilon(mu, delta):
    return optimize.brentq(lambda e: gaussian_delta(mu, e) - delta, 0, 700, xtol=1e-12)


def mixture(q, sigma, units):
    """Cells of the output of one step: their probability with the person (P) and without (Q)."""
    edges = np.linspace(-12 * sigma, units + 12 * sigma, 200_001)
    middle, width = (edges[1:] + edges[:-1]) / 2, edges[1] - edges[0]
    weights = stats.binom.pmf(np.arange(units + 1), units, q)
    p, without = (
        sum(w * stats.norm.pdf(middle, j, sigma) * width for j, w in enumerate(ws)) for ws in (weights, [1.0])
    )
    loss = special.logsumexp([(2 * j * middle - j * j) / (2 * sigma**2) for j in range(units + 1)], axis=0,
                             b=weights[:, None])  # fmt: skip
    return p, without, loss


@cache
def slow_losses(q, sigma, steps, units):
    """The privacy loss of `steps` steps, removing and adding the person: [(losses, probabilities)] by one FFT.

    Each cell's mass is split over two grid points so that its mean loss stays: neither rounded up nor down.
    """
    n, h = 2**19, 2e-4
    both = []
    p, q_mass, loss = mixture(q, sigma, units)
    for mass, value in ((p, loss), (q_mass, -loss)):
        at = np.clip(value / h, -n // 2 + 1, n // 2 - 2)
        low = np.floor(at).astype(int)
        grid = np.bincount(low % n, mass * (1 - (at - low)), n) + np.bincount((low + 1) % n, mass * (at - low), n)
        composed = np.fft.irfft(np.fft.rfft(grid) ** steps, n)
        both.append((np.fft.fftfreq(n, 1 / n) * h, composed))
    return both


def slow_delta(q, sigma, steps, units, eps):
    return max(
        float((pmf[x > eps] * -np.expm1(eps - x[x > eps])).sum()) for x, pmf in slow_losses(q, sigma, steps, units)
    )


def slow_epsilon(q, sigma, steps, units, delta):
    return optimize.brentq(lambda e: slow_delta(q, sigma, steps, units, e) - delta, 0, 50, xtol=1e-9)


# --- against what is known ---


@pytest.mark.parametrize("case", PRV, ids=lambda c: c["name"])
def test_epsilon_lies_where_opacus_says(case):
    x = case["inputs"]
    got = accounting.epsilon([event(x["sample_rate"], x["sigma"], x["steps"])], x["delta"])
    assert case["expected"]["low"] <= got <= case["expected"]["high"]


@pytest.mark.parametrize(
    ("q", "sigma", "steps", "units", "delta"),
    [
        (0.01, 1.0, 1000, 1, 1e-6),
        (0.001, 0.7, 5000, 1, 1e-6),
        (0.1, 2.0, 100, 1, 1e-5),
        (0.5, 4.0, 50, 1, 1e-6),
        (0.02, 1.5, 2000, 1, 1e-8),
        (0.05, 0.8, 200, 1, 1e-5),
        (0.9, 3.0, 20, 1, 1e-5),
        (0.3, 0.6, 1, 1, 1e-3),
        (0.01, 1.0, 100, 1, 1e-10),
        (0.2, 2.0, 1, 4, 1e-4),
        (0.05, 4.0, 200, 3, 1e-6),
        (0.01, 4.0, 1000, 8, 1e-6),
        (0.01, 8.0, 1000, 8, 1e-6),
    ],
)
def test_epsilon_equals_a_slow_convolution_and_is_not_below_it(q, sigma, steps, units, delta):
    slow = slow_epsilon(q, sigma, steps, units, delta)
    got = accounting.epsilon([event(q, sigma, steps, units)], delta)
    assert slow * (1 - 3e-4) <= got <= slow * 1.003
    assert got <= accounting.epsilon([event(q, sigma, steps, units)], delta, accountant="rdp") * (1 + 1e-3)


@pytest.mark.parametrize("delta", [1e-3, 1e-6, 1e-10, 1e-12])
@pytest.mark.parametrize(("sigmas", "steps"), [((1.0,), 1), ((2.0,), 10), ((30.0,), 2000), ((3.0, 5.0, 0.8), 4)])
def test_without_sampling_it_is_the_analytic_gaussian(sigmas, steps, delta):
    mu = math.sqrt(sum(steps / s**2 for s in sigmas))
    want = gaussian_epsilon(mu, delta)
    got = accounting.epsilon([event(1.0, s, steps) for s in sigmas], delta)
    assert want * (1 - 1e-6) <= got <= want * 1.003


def test_different_events_add_up():
    """Two kinds of steps against convolving the two slow losses."""
    a, b = slow_losses(0.02, 1.5, 300, 1), slow_losses(0.3, 6.0, 20, 2)
    deltas = []
    for (x, one), (_, two) in zip(a, b, strict=True):
        pmf = np.fft.irfft(np.fft.rfft(one) * np.fft.rfft(two), len(x))
        deltas.append(float((pmf[x > 1] * -np.expm1(1 - x[x > 1])).sum()))
    both = [event(0.02, 1.5, 100), event(0.3, 6.0, 20, 2), event(0.02, 1.5, 200), event(0.5, 1.0, 0)]
    assert accounting.delta_of(both, 1.0) == pytest.approx(max(deltas), rel=5e-3)
    assert accounting.epsilon(both, max(deltas)) == pytest.approx(1.0, rel=2e-3)
    assert accounting.epsilon(both, 1e-5) == accounting.epsilon(both[::-1], 1e-5)


def test_user_level_figures():
    """Charles et al. 2024 compare the two privacy units in this setting; these are our own earlier figures for it."""
    assert accounting.epsilon([event()], 1e-6) == pytest.approx(2.125, abs=2e-3)
    assert accounting.epsilon([event()], 1e-6, accountant="rdp") == pytest.approx(2.44, abs=5e-3)
    # Computed with a discretisation of 1e-2, which is up to 8 % too high at the weakest of them.
    for sigma, eps in ((1.0, 23.1), (2.0, 7.2), (4.0, 3.1), (8.0, 1.5)):
        assert eps * 0.91 <= accounting.epsilon([event(sigma=sigma, units=8)], 1e-6) <= eps * 1.005


@pytest.mark.parametrize(("q", "sigma", "units"), [(0.3, 1.0, 3), (0.05, 2.0, 8), (0.99, 5.0, 8), (1e-4, 1.0, 2)])
def test_one_step_of_many_units_by_integration(q, sigma, units):
    p, without, _ = mixture(q, sigma, units)
    for eps in (0.0, 0.01, 0.2, 1.0):
        want = max(np.maximum(p - math.exp(eps) * without, 0).sum(), np.maximum(without - math.exp(eps) * p, 0).sum())
        got = accounting.delta_of([event(q, sigma, 1, units)], eps)
        assert want * (1 - 1e-4) - 1e-13 <= got <= want * 1.02 + 1e-7 * q


@pytest.mark.parametrize(("q", "sigma", "steps", "units"), [(0.01, 4.0, 200, 4), (0.1, 6.0, 50, 2), (1.0, 9.0, 5, 3)])
def test_many_units_cost_no_more_than_group_privacy(q, sigma, steps, units):
    """(ε, δ) for one unit gives (Kε, δ·(e^{Kε} - 1)/(e^ε - 1)) for K (Vadhan 2017, Lemma 2.2)."""
    one = accounting.epsilon([event(q, sigma, steps)], 1e-8)
    delta = 1e-8 * math.expm1(units * one) / math.expm1(one)
    assert one < accounting.epsilon([event(q, sigma, steps, units)], delta) <= units * one


def test_one_unit_as_a_mixture_is_the_same():
    """dp-accounting has separate code for the two."""
    import dp_accounting as dp
    from dp_accounting.pld import PLDAccountant

    accountant = PLDAccountant(value_discretization_interval=accounting._interval((event(),)))
    step = dp.dp_event.MixtureOfGaussiansDpEvent(1.0, [0.0, 1.0], [0.99, 0.01])
    accountant.compose(dp.SelfComposedDpEvent(step, 1000))
    assert accounting.epsilon([event()], 1e-6) == pytest.approx(accountant.get_epsilon(1e-6), rel=1e-6)
    assert accounting.epsilon([event(1.0, 3.0, 4, 5)], 1e-6) == accounting.epsilon([event(1.0, 0.6, 4)], 1e-6)


@pytest.mark.parametrize(("q", "sigma", "units"), [(0.3, 1.0, 1), (0.01, 2.0, 1), (0.3, 3.0, 3), (0.02, 6.0, 8)])
def test_renyi_divergences_are_bounds(q, sigma, units):
    """Against the integral, in both directions; equal to it for one unit at whole orders."""
    p, without, loss = mixture(q, sigma, units)
    orders, values = accounting.rdp([event(q, sigma, 7, units)])
    assert orders == accounting.ORDERS
    for order, value in zip(orders, values, strict=True):
        if order <= 8:
            remove = 7 * special.logsumexp((order - 1) * loss, b=p) / (order - 1)
            add = 7 * special.logsumexp((1 - order) * loss, b=without) / (order - 1)
            assert max(remove, add) <= value * (1 + 1e-6) + 1e-12
            if units == 1 and order.is_integer():
                assert value == pytest.approx(remove, rel=1e-4)


def test_renyi_values_add_up():
    a, b = event(0.1, 2.0, 30), event(0.01, 5.0, 100, 4)
    together = accounting.rdp([a, b])[1]
    assert together == pytest.approx(np.add(accounting.rdp([a])[1], accounting.rdp([b])[1]))
    assert accounting.rdp([])[1] == (0.0,) * len(accounting.ORDERS)
    assert accounting.rdp_to_epsilon(*accounting.rdp([a, b]), 1e-5) == accounting.epsilon(
        [b, a], 1e-5, accountant="rdp"
    )


def test_renyi_to_epsilon_is_the_formula():
    want = 0.5 + math.log1p(-1 / 8) - math.log(1e-5 * 8) / 7
    assert accounting.rdp_to_epsilon([8.0], [0.5], 1e-5) == pytest.approx(want, rel=1e-12)
    assert accounting.rdp_to_epsilon([8.0], [math.inf], 1e-5) == math.inf
    assert accounting.rdp_to_epsilon([8.0], [0.0], 1e-5) == 0


# --- Gaussian DP and what an attacker can reach ---


def test_gold_gaussian_dp():
    case = GOLD["gdp_eps_at_delta_1e-5_mu1"]
    assert gaussian_epsilon(1.0, 1e-5) == pytest.approx(case["expected"], abs=1e-8)
    assert accounting.epsilon([event(1.0, 1.0, 1)], 1e-5) == pytest.approx(case["expected"], rel=1e-3)
    case = GOLD["gdp_composition"]
    together = [event(1.0, 1 / mu, 1) for mu in case["inputs"]["mus"]]
    assert accounting.epsilon(together, 1e-5) == pytest.approx(gaussian_epsilon(case["expected"], 1e-5), rel=2e-3)
    case = GOLD["gdp_group_privacy_user_with_k_records"]
    one = event(1.0, 1 / case["inputs"]["mu"], 1, case["inputs"]["k"])
    assert accounting.epsilon([one], 1e-5) == pytest.approx(gaussian_epsilon(case["expected"], 1e-5), rel=2e-3)
    case = GOLD["gdp_advantage"]
    for mu, want in zip(case["inputs"]["mu"], case["expected"], strict=True):
        assert want - 1e-9 <= accounting.risk([event(1.0, 1 / mu, 1)]).advantage <= want * 1.003


def test_gold_clt():
    case = GOLD["dpsgd_clt_mu"]
    assert accounting.gdp_mu([event()]) == pytest.approx(case["expected"], abs=case["tolerance"])
    assert accounting.gdp_mu([event(steps=90), event(sigma=2.0, steps=10)]) == pytest.approx(
        math.hypot(accounting.gdp_mu([event(steps=90)]), accounting.gdp_mu([event(sigma=2.0, steps=10)]))
    )
    assert accounting.gdp_mu([]) == 0
    assert accounting.gdp_mu([event(sigma=1e-3)]) == math.inf


@pytest.mark.parametrize("units", [1, 6])
def test_clt_is_near_for_many_weak_steps(units):
    weak = [event(0.01, 8.0, 20_000, units)]
    assert accounting.gdp_mu(weak) == pytest.approx(
        optimize.brentq(lambda mu: gaussian_delta(mu, 0.5) - accounting.delta_of(weak, 0.5), 0.01, 5), rel=0.03
    )


def test_gold_tradeoff(monkeypatch):
    case = GOLD["gdp_tradeoff_curve_mu1"]
    got = accounting.tradeoff([event(1.0, 1.0, 1)], np.array(case["inputs"]["fpr"]))
    assert (got >= np.array(case["expected"]) - 1e-9).all()
    assert got == pytest.approx(case["expected"], rel=2e-3)
    case = GOLD["eps_delta_tradeoff_function"]
    monkeypatch.setattr(accounting, "_curve", lambda _: ([case["inputs"]["eps"]], [case["inputs"]["delta"]]))
    got = accounting.tradeoff([event()], np.array(case["inputs"]["alpha"]))
    assert 1 - got == pytest.approx(case["expected"], abs=1e-12)


@pytest.mark.parametrize(("q", "sigma", "units"), [(0.3, 0.7, 1), (0.2, 2.0, 4)])
def test_tradeoff_of_one_step_is_the_best_threshold(q, sigma, units):
    """By Neyman and Pearson every best attack thresholds the output of the step, from above or from below."""
    p, without, _ = mixture(q, sigma, units)
    rates = np.array([1e-3, 1e-2, 0.1, 0.4, 0.9])
    above = np.interp(rates, np.cumsum(without[::-1]), np.cumsum(p[::-1]))
    below = np.interp(rates, np.cumsum(p), np.cumsum(without))
    got = accounting.tradeoff([event(q, sigma, 1, units)], rates)
    want = np.maximum(above, below)
    # The bound allows whatever both directions together allow, so it may be a mixture of the two attacks.
    assert (got >= want - 1e-6).all()
    assert got == pytest.approx(want, rel=0.03)
    total = np.abs(p - without).sum() / 2
    assert total - 1e-6 <= accounting.risk([event(q, sigma, 1, units)]).advantage <= total * 1.01


@settings(max_examples=8, deadline=None)
@given(st.floats(0.01, 1), st.floats(0.7, 6), st.integers(1, 200), st.integers(1, 4))
def test_tradeoff_is_a_rising_concave_curve_above_chance(q, sigma, steps, units):
    rates = np.linspace(0, 1, 101)
    found = accounting.tradeoff([event(q, sigma, steps, units)], rates)
    assert (found >= rates).all()
    assert (found <= 1).all()
    assert (np.diff(found) >= -1e-12).all()
    assert (np.diff(found, 2) <= 1e-9).all()
    risk = accounting.risk([event(q, sigma, steps, units)])
    assert (found - rates).max() <= risk.advantage + 1e-9
    assert 0.001 <= risk.tpr_at_0001 <= risk.tpr_at_001 <= 1


# --- invariants ---


@settings(max_examples=6, deadline=None)
@given(
    st.floats(0.01, 0.5),
    st.floats(2, 8),
    st.integers(1, 100),
    st.integers(1, 4),
    st.sampled_from([1e-8, 1e-5, 1e-3]),
)
def test_more_of_anything_costs_more(q, sigma, steps, units, delta):
    # Different grids may differ by their rounding, which is a bound's slack and not an error.
    base = accounting.epsilon([event(q, sigma, steps, units)], delta) * (1 - 3e-3) - 1e-6
    assert base <= accounting.epsilon([event(q, sigma, steps * 2, units)], delta)
    assert base <= accounting.epsilon([event(q * 1.5, sigma, steps, units)], delta)
    assert base <= accounting.epsilon([event(q, sigma / 1.3, steps, units)], delta)
    assert base <= accounting.epsilon([event(q, sigma, steps, units + 1)], delta)
    assert base <= accounting.epsilon([event(q, sigma, steps, units)], delta / 3)


@settings(max_examples=10, deadline=None)
@given(st.floats(0.001, 1), st.floats(0.6, 10), st.integers(1, 500), st.floats(0.05, 8))
def test_epsilon_and_delta_are_inverse(q, sigma, steps, eps):
    spent = [event(q, sigma, steps)]
    delta = accounting.delta_of(spent, eps)
    if 1e-12 <= delta < 1:
        assert accounting.epsilon(spent, delta) == pytest.approx(eps, rel=1e-3, abs=1e-5)


@settings(max_examples=50, deadline=None)
@given(st.floats(0, 1, exclude_min=True, allow_subnormal=False), st.floats(1e-6, 1e6), st.integers(0, 10**7),
       st.integers(1, 1000))  # fmt: skip
def test_events_survive_json(q, sigma, steps, units):
    one = event(q, sigma, steps, units)
    assert Event.from_json(json.loads(json.dumps(one.to_json()))) == one


@pytest.mark.parametrize(
    ("eps", "delta", "asked"),
    [
        (8.0, 1e-5, {"sample_rate": 0.1, "steps": 100}),
        (1.0, 1e-5, {"sample_rate": 0.2, "steps": 300}),
        (0.1, 1e-6, {"sample_rate": 1.0, "steps": 100}),
        (50.0, 1e-5, {"sample_rate": 0.5, "steps": 3}),
        (4.0, 1e-5, {"sample_rate": 0.05, "steps": 50, "units_per_person": 3}),
    ],
)
def test_noise_for_meets_its_target(eps, delta, asked):
    sigma = accounting.noise_for(eps, delta, **asked)

    def cost(noise):
        return accounting.epsilon([Event(noise_multiplier=noise, **asked)], delta)

    assert eps * 0.98 <= cost(sigma) <= eps
    assert cost(sigma * 0.998) > eps


def test_nothing_costs_nothing():
    for spent in ([], [event(steps=0)]):
        assert accounting.epsilon(spent, 1e-6) == 0
        assert accounting.epsilon(spent, 1e-6, accountant="rdp") == 0
        assert accounting.delta_of(spent, 0.0) == 0
        assert accounting.tradeoff(spent, np.array([0.0, 0.3, 1.0])).tolist() == [0.0, 0.3, 1.0]
        assert accounting.selection_epsilon(spent, 1e-6, mean_trials=10, distribution="poisson") == 0
        assert accounting.risk(spent).advantage == 0


def test_hardly_any_noise_protects_nobody():
    bare = [event(0.5, 1e-3, 1)]
    assert accounting.epsilon(bare, 1e-6) == math.inf
    assert accounting.delta_of(bare, 3.0) == 1
    assert accounting.tradeoff(bare, np.array([0.0, 0.5])).tolist() == [1.0, 1.0]
    loud = [event(1.0, 0.05, 2)]
    assert accounting.epsilon(loud, 1e-6) == pytest.approx(gaussian_epsilon_large(math.sqrt(2) / 0.05, 1e-6), rel=1e-3)


def gaussian_epsilon_large(mu, delta):
    """The same closed form, in logarithms."""

    def log_delta(eps):
        a, b = stats.norm.logcdf(mu / 2 - eps / mu), eps + stats.norm.logcdf(-mu / 2 - eps / mu)
        return a + math.log1p(-math.exp(b - a)) - math.log(delta)

    return optimize.brentq(log_delta, 0, 5000)


def test_choosing_the_best_of_many_trials():
    one = [event(0.05, 2.0, 100)]
    once = accounting.epsilon(one, 1e-6, accountant="rdp")
    few, many = (accounting.selection_epsilon(one, 1e-6, mean_trials=n, distribution="poisson") for n in (5, 50))
    assert once < few < many < math.inf
    # Theorem 2 by hand, with η = 1 and γ = 1 / the mean.
    orders, values = accounting.rdp(one)
    geometric = accounting.selection_epsilon(one, 1e-6, mean_trials=20, distribution="geometric")
    gamma = 1 / 20
    inner = min((1 - 1 / o) * v + math.log(1 / gamma) / o for o, v in zip(orders, values, strict=True))
    bounds = [v + 2 * inner + math.log(20) / (o - 1) for o, v in zip(orders, values, strict=True)]
    assert geometric == pytest.approx(accounting.rdp_to_epsilon(orders, bounds, 1e-6), rel=0.01)


# --- the remembered numbers ---


def test_a_remembered_number_is_used_and_a_broken_file_is_not(monkeypatch):
    spent = [event(0.1, 2.0, 50)]
    first = accounting.epsilon(spent, 1e-5)
    (file,) = (cache_home() / "accounting").glob("*.json")
    assert json.loads(file.read_text()) == [first]
    with monkeypatch.context() as without:
        without.setattr(accounting, "_pld", lambda _: pytest.fail("computed again"))
        assert accounting.epsilon(spent, 1e-5) == first
    for broken in ("", "[1.0", "[]", "[NaN]", "[-1.0]", '["1"]', "[true]", "{}", "[1.0, 2.0]", "\ud800"):
        file.write_bytes(broken.encode("utf-8", "surrogatepass"))
        assert accounting.epsilon(spent, 1e-5) == first
        assert json.loads(file.read_text()) == [first]
    accounting.epsilon(spent, 2e-5)
    assert len(list((cache_home() / "accounting").iterdir())) == 2


def test_a_cache_that_cannot_be_written_is_no_error(monkeypatch):
    (cache_home() / "accounting").write_text("a file where the folder should be")
    assert accounting.epsilon([event(0.1, 2.0, 50)], 1e-5) > 0


# --- bad input ---

GOOD = event().to_json()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"sample_rate": 0.0}, "sample_rate"),
        ({"sample_rate": 1.0000001}, "sample_rate"),
        ({"sample_rate": -0.1}, "sample_rate"),
        ({"sample_rate": 5e-324}, "sample_rate"),
        ({"sample_rate": True}, "sample_rate"),
        ({"sample_rate": "0.1"}, "sample_rate"),
        ({"sample_rate": math.nan}, "sample_rate"),
        ({"noise_multiplier": 0}, "noise_multiplier"),
        ({"noise_multiplier": -1.0}, "noise_multiplier"),
        ({"noise_multiplier": math.inf}, "noise_multiplier"),
        ({"noise_multiplier": math.nan}, "noise_multiplier"),
        ({"noise_multiplier": 1e-310}, "noise_multiplier"),
        ({"noise_multiplier": 10**400}, "noise_multiplier"),
        ({"noise_multiplier": None}, "noise_multiplier"),
        ({"steps": -1}, "steps"),
        ({"steps": 1.5}, "steps"),
        ({"steps": 10.0}, "steps"),
        ({"steps": True}, "steps"),
        ({"steps": 10**9}, "steps"),
        ({"units_per_person": 0}, "units_per_person"),
        ({"units_per_person": False}, "units_per_person"),
        ({"units_per_person": 5000}, "units_per_person"),
        ({"clip": 1.0}, "exactly the keys"),
    ],
)
def test_events_that_cannot_be(change, says):
    with pytest.raises(MienError, match=says) as error:
        Event.from_json({**GOOD, **change})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: Event.from_json([]), "found list"),
        (lambda: Event.from_json({"steps": 3}), "found steps"),
        (lambda: accounting.epsilon([event()], 0.0), "privacy.delta"),
        (lambda: accounting.epsilon([event()], 1.0), "privacy.delta"),
        (lambda: accounting.epsilon([event()], math.nan), "privacy.delta"),
        (lambda: accounting.epsilon([], 2.0), "privacy.delta"),
        (lambda: accounting.epsilon([event()], 1e-13), "finer than PLD arithmetic"),
        (lambda: accounting.epsilon([event()], 1e-5, accountant="zcdp"), "'pld' or 'rdp'"),
        (lambda: accounting.delta_of([event()], -0.1), "epsilon"),
        (lambda: accounting.delta_of([event()], math.inf), "epsilon"),
        (lambda: accounting.delta_of([event()], math.nan), "epsilon"),
        (lambda: accounting.tradeoff([event()], np.array([0.1, np.nan])), "false-positive"),
        (lambda: accounting.tradeoff([event()], np.array([1.1])), "false-positive"),
        (lambda: accounting.rdp_to_epsilon([2.0, 3.0], [1.0], 1e-5), "2 orders and 1 values"),
        (lambda: accounting.rdp_to_epsilon([], [], 1e-5), "0 orders"),
        (lambda: accounting.rdp_to_epsilon([2.0], [math.nan], 1e-5), "numbers >= 0"),
        (lambda: accounting.rdp_to_epsilon([1.0], [0.1], 1e-5), "above 1"),
        (lambda: accounting.noise_for(0, 1e-5, sample_rate=0.1, steps=10), "privacy.epsilon"),
        (lambda: accounting.noise_for(math.inf, 1e-5, sample_rate=0.1, steps=10), "privacy.epsilon"),
        (lambda: accounting.noise_for(1, 1e-20, sample_rate=0.1, steps=10), "privacy.delta"),
        (lambda: accounting.noise_for(1, 1e-5, sample_rate=0.1, steps=0), "train.max_steps"),
        (lambda: accounting.noise_for(1, 1e-5, sample_rate=0, steps=10), "sample_rate"),
        (
            lambda: accounting.noise_for(1e-5, 1e-9, sample_rate=1.0, steps=10**4),
            r"privacy\.epsilon.*train\.max_steps.*sample rate",
        ),
        (lambda: accounting.selection_epsilon([event()], 1e-5, mean_trials=0.5, distribution="poisson"), "mean_trials"),
        (lambda: accounting.selection_epsilon([event()], 1e-5, mean_trials=2, distribution="binomial"), "distribution"),
    ],
)
def test_bad_input_is_one_line(call, says):
    with pytest.raises(MienError, match=says) as error:
        call()
    assert "\n" not in str(error.value)
