"""The arithmetic of the attacks, against gold cases, slow oracles and worlds whose answer is known."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from mien.attacks import contrast, likelihood, tokenwise
from mien.attacks.dataset import fraction, inference
from mien.attacks.membership import bavaria, ez, lira, max_renyi, rmia, sequence_lira, user
from mien.attacks.signals import Signals
from mien.core.errors import MienError
from mien.core.intervals import auc

from .test_attacks import everything

GOLD = {c["name"]: c for c in json.loads((Path(__file__).parent.parent / "reference" / "attacks.json").read_text())}


def gold(name):
    case = GOLD[name]
    return case["inputs"], case["expected"], case["tolerance"]


def near(name, got, expected=None):
    _, want, tolerance = gold(name)
    assert np.asarray(got) == pytest.approx(
        np.asarray(want if expected is None else expected), abs=max(tolerance, 1e-15)
    )


# --- gold ---------------------------------------------------------------------------------------------------------------
def test_gold_likelihood_ratios():
    i, _, _ = gold("lira_online_score")
    phi = np.log(i["target_conf"] / (1 - i["target_conf"]))
    near("lira_online_score", likelihood.gaussian_llr(phi, i["mu_in"], i["sd_in"], i["mu_out"], i["sd_out"]))
    i, _, _ = gold("lira_offline_score")
    near("lira_offline_score", likelihood.offline_score(phi, i["mu_out"], i["sd_out"]))
    i, _, _ = gold("lira_stable_logit_from_logits")
    near("lira_stable_logit_from_logits", likelihood.stable_logit(np.array(i["logits"]), np.array(i["label"]))[0])
    assert likelihood.stable_logit(np.array([[900.0, 0.0]]), np.array([0]))[0] == 900.0  # a softmax would say 1
    i, _, _ = gold("gaussian_mean_exact_llr")
    near("gaussian_mean_exact_llr", likelihood.tracing_llr(i["q"], i["y"], i["n"]))
    i, want, _ = gold("rmia_online_px")
    p = likelihood.rmia_probability(i["p_in_mean"], i["p_out_mean"])
    near("rmia_online_px", [p, i["p_target"] / p], [want["p_x"], want["ratio"]])
    i, want, _ = gold("linreg_exact_leave_one_out")
    found = likelihood.leave_one_out_residuals(np.array(i["X"], float), np.array(i["y"], float))
    near("linreg_exact_leave_one_out", found, [want["in_residual"], want["loo_residual"]])


def test_gold_mean_tracing():
    i, want, _ = gold("gaussian_mean_tracing_fixed_target")
    near("gaussian_mean_tracing_fixed_target", likelihood.tracing_auc(i["target_norm"], i["n"]), want["auc"])
    i, _, _ = gold("gaussian_mean_tracing_random_target_avg_auc")
    norms = np.linspace(0, 30, 20001)
    average = np.trapezoid(stats.chi.pdf(norms, i["d"]) * likelihood.tracing_auc(norms, i["n"]), norms)
    near("gaussian_mean_tracing_random_target_avg_auc", average)


def test_gold_unequal_variances_need_the_ratio_not_the_signal():
    i, want, _ = gold("lira_unequal_variance_tpr")
    rng = np.random.default_rng(0)
    inside = rng.normal(i["mu_in"], i["sd_in"], 400_000)
    outside = rng.normal(i["mu_out"], i["sd_out"], 4_000_000)
    scores = [likelihood.gaussian_llr(v, i["mu_in"], i["sd_in"], i["mu_out"], i["sd_out"]) for v in (inside, outside)]
    for fpr, tpr in zip(i["fpr"], want, strict=True):
        assert np.mean(scores[0] > np.quantile(scores[1], 1 - fpr)) == pytest.approx(tpr, abs=0.004)
    assert np.mean(inside > np.quantile(outside, 0.999)) < 0.6 * want[0]


def test_gold_people_with_many_recordings():
    i, want, _ = gold("user_level_iid_aggregation")
    d = [likelihood.correlated_d_prime(i["record_d_prime"], k, 0.0) for k in i["k"]]
    near("user_level_iid_aggregation", stats.norm.cdf(np.array(d) / 2**0.5))
    assert stats.norm.cdf(likelihood.correlated_d_prime(0.2, 100, 0.3) / 2**0.5) == pytest.approx(0.600730, abs=1e-6)
    assert want[-1] == pytest.approx(0.92135, abs=1e-5)


def test_gold_token_scores():
    i, _, _ = gold("min_k_prob")
    near("min_k_prob", tokenwise.min_k(np.array(i["token_logp"]), i["k"]))
    i, want, _ = gold("ez_score")
    rises, falls, score = tokenwise.ez(
        i["target_correct_lp"], i["ref_correct_lp"], np.array(i["target_top1_is_correct"])
    )
    near("ez_score", [rises, falls, rises / falls], [want["pos_sum"], want["neg_sum"], want["ratio"]])
    assert score == pytest.approx(np.log(want["ratio"]), abs=0.01)
    i, want, _ = gold("clip_infonce_loss")
    near("clip_infonce_loss", contrast.infonce_loss(np.array(i["sim"]), i["temperature"]))


def test_gold_preferences():
    i, want, _ = gold("dpo_preference_mia")
    from mien.attacks.membership import preference

    s = Signals(
        recording=["a", "b"], person=["u", "v"], member=np.array([True, False]), label=["x"] * 2, n_tokens=[1] * 2,
        made_with="m", chosen=[i["logp_policy_chosen"], 0], rejected=[i["logp_policy_rejected"], 0],
        chosen_base=[i["logp_ref_chosen"], 0], rejected_base=[i["logp_ref_rejected"], 0],
    )  # fmt: skip
    got = {of: preference.score(s, preference.Config(of=of))[0] for of in ("pair", "chosen", "rejected")}
    near("dpo_preference_mia", got["pair"], want["premia_pair_score"])
    near("dpo_preference_mia", got["chosen"], want["premia_chosen"])
    near("dpo_preference_mia", -got["rejected"], want["premia_rejected"])  # larger must mean member


# --- oracles ------------------------------------------------------------------------------------------------------------
def test_the_normal_inverse_gamma_is_the_textbook_integral():
    values = np.array([0.3, -1.2, 2.0])
    prior = (0.5, 0.7, 3.0, 2.0)
    mean, k, a, b = likelihood.normal_inverse_gamma(values, *prior)
    grid_m, grid_v = np.linspace(-12, 12, 1201), np.geomspace(0.02, 400, 1500)
    m, v = np.meshgrid(grid_m, grid_v, indexing="ij")

    def density(m0, k0, a0, b0):
        return stats.invgamma.pdf(v, a0, scale=b0) * stats.norm.pdf(m, m0, np.sqrt(v / k0))

    weight = density(*prior) * np.prod([stats.norm.pdf(x, m, np.sqrt(v)) for x in values], axis=0)
    total = np.trapezoid(np.trapezoid(weight, grid_v, axis=1), grid_m)
    for phi in (-2.0, 0.4, 3.0):
        joint = np.trapezoid(np.trapezoid(weight * stats.norm.pdf(phi, m, np.sqrt(v)), grid_v, axis=1), grid_m)
        assert likelihood.student_logpdf(phi, mean, k, a, b) == pytest.approx(np.log(joint / total), abs=2e-3)


def test_bavaria_is_bayesian_linear_regression():
    """The closed form against solving each row's normal equations."""
    rng = np.random.default_rng(3)
    n, k = 40, 6
    inside = rng.random((k, n)) < 0.5
    shadow = rng.standard_normal(n) * 2 + np.where(inside, 1.0, 0.0) + rng.standard_normal((k, n))
    phi = rng.standard_normal(n)
    p = likelihood.prior(phi, shadow, inside, 4.0)
    got = likelihood.bavaria(phi, shadow, inside, 4.0)
    for x in range(n):
        design = np.column_stack([np.ones(k), inside[:, x]])
        noise = np.where(inside[:, x], p.ratio, 1.0)
        before = np.diag([1 / p.level_spread, 1 / p.shift_spread])
        centre = np.array([p.level, p.shift])
        after = before + design.T @ (design / noise[:, None])
        mean = np.linalg.solve(after, before @ centre + design.T @ (shadow[:, x] / noise))
        left = shadow[:, x] - design @ mean
        b = p.variance * (p.a - 1) + 0.5 * ((left**2 / noise).sum() + (mean - centre) @ before @ (mean - centre))
        a = p.a + k / 2
        cover = np.linalg.inv(after)

        def log_t(direction, extra, a=a, b=b, mean=mean, cover=cover, x=x):
            scale = np.sqrt(b / a * (extra + direction @ cover @ direction))
            return stats.t.logpdf(phi[x], 2 * a, loc=direction @ mean, scale=scale)

        assert got[x] == pytest.approx(
            log_t(np.array([1.0, 1.0]), p.ratio) - log_t(np.array([1.0, 0.0]), 1.0), abs=1e-8
        )


def test_rmia_equals_counting():
    rng = np.random.default_rng(0)
    phi, log_p, group = rng.standard_normal(30), rng.standard_normal(30), np.repeat(np.arange(10), 3)
    got = likelihood.rmia(phi, log_p, group, 2.0)
    ratio = np.exp(phi - log_p)
    for x in range(30):
        others = [z for z in range(30) if group[z] != group[x]]
        want = np.mean([ratio[x] / ratio[z] >= 2.0 for z in others])
        assert 0 <= got[x] - want < 1 / len(others)


def test_intraclass_correlation_finds_what_was_put_in():
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(300), 4)
    for rho in (0.0, 0.3, 0.8):
        values = np.sqrt(rho) * rng.standard_normal((5, 300))[:, group] + np.sqrt(1 - rho) * rng.standard_normal(
            (5, 1200)
        )
        assert likelihood.intraclass_correlation(values, group) == pytest.approx(rho, abs=0.03)
    assert likelihood.intraclass_correlation(np.ones(3), np.arange(3)) == 0.0


def test_entropies_and_their_limits():
    p = np.array([0.5, 0.3, 0.2])
    assert tokenwise.renyi_entropy(p, 1) == pytest.approx(-(p * np.log(p)).sum())
    assert tokenwise.renyi_entropy(p, 1.00001) == pytest.approx(tokenwise.renyi_entropy(p, 1), abs=1e-4)
    assert tokenwise.renyi_entropy(p, np.inf) == pytest.approx(-np.log(0.5))
    assert tokenwise.renyi_entropy(p, 2) == pytest.approx(-np.log((p**2).sum()))
    assert tokenwise.max_renyi(np.array([1.0, 5.0, 2.0, 4.0]), 0) == 5.0
    assert tokenwise.max_renyi(np.array([1.0, 5.0, 2.0, 4.0]), 0.5) == 4.5
    logits = np.random.default_rng(0).standard_normal((4, 9))
    mean, sd = tokenwise.vocabulary_moments(logits)
    q = np.exp(logits[0]) / np.exp(logits[0]).sum()
    assert mean[0] == pytest.approx((q * np.log(q)).sum())
    assert sd[0] == pytest.approx(np.sqrt((q * (np.log(q) - mean[0]) ** 2).sum()))
    assert tokenwise.exposure(1, 1024) == 10
    with pytest.raises(MienError, match="rank"):
        tokenwise.exposure(0, 10)


# --- faults of published code -------------------------------------------------------------------------------------------
def test_ez_does_not_score_the_surest_members_lowest():
    rises = tokenwise.ez(np.array([-1.0, -1.0]), np.array([-2.0, -2.0]), np.array([False, False]))
    mixed = tokenwise.ez(np.array([-1.0, -2.5]), np.array([-2.0, -2.0]), np.array([False, False]))
    assert rises[1] == 0.0
    assert rises[2] > mixed[2] > 0


def test_lira_takes_each_sides_own_variance():
    rng = np.random.default_rng(0)
    inside = np.tile(np.arange(40) % 2 == 0, (400, 1)).T
    shadow = np.where(inside, rng.normal(2, 0.5, (40, 400)), rng.normal(0, 2.0, (40, 400)))
    got = likelihood.lira(np.full(400, 1.0), shadow, inside)
    want = likelihood.gaussian_llr(1.0, 2.0, 0.5, 0.0, 2.0)
    assert np.median(got) == pytest.approx(want, abs=0.3)


# --- worlds with a known answer -----------------------------------------------------------------------------------------
def world(rng, n, k, level=3.0, shift=1.0, shift_spread=0.0, odd=0.0):
    """phi of n records under a target and k shadows; each record is in half of the shadows."""
    u, d = rng.normal(0, level, n), shift + shift_spread * rng.standard_normal(n)
    sd = np.exp(odd * rng.standard_normal(n))
    if k == 1:
        inside = rng.random((1, n)) < 0.5
    else:
        inside = np.argsort(rng.random((k, n)), axis=0) < k // 2
    shadow = u + np.where(inside, d, 0) + sd * rng.standard_normal((k, n))
    member = rng.random(n) < 0.5
    return u + np.where(member, d, 0) + sd * rng.standard_normal(n), shadow, inside, member


def as_signals(phi, shadow, inside, member):
    names = [str(i) for i in range(len(phi))]
    return Signals(
        recording=names, person=names, member=member, label=["x"] * len(phi), n_tokens=[1] * len(phi), made_with="m",
        loss=-phi, shadow_loss=-shadow, shadow_in=inside,
    )  # fmt: skip


@pytest.mark.parametrize("k", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("kind", [{}, {"shift_spread": 0.5, "odd": 0.6}, {"level": 0.3}, {"shift": 0.4, "level": 5.0}])
def test_bavaria_is_not_worse_than_the_better_of_lira_and_rmia(k, kind):
    """Paired over worlds: its AUC less the better one's, minus two standard errors, is at most .01 below."""
    gaps = []
    for seed in range(8):
        phi, shadow, inside, member = world(np.random.default_rng([seed, k]), 800, k, **kind)
        s = as_signals(phi, shadow, inside, member)
        found = [auc(v[member], v[~member]) for v in (m.score(s, m.Config()) for m in (bavaria, lira, rmia))]
        gaps.append(found[0] - max(found[1:]))
    assert np.mean(gaps) + 2 * np.std(gaps, ddof=1) / 8**0.5 > -0.01


def test_many_shadows_reach_the_analytic_auc_of_mean_tracing():
    i, want, _ = gold("gaussian_mean_tracing_fixed_target")
    rng = np.random.default_rng(0)
    n, s = i["n"], i["target_norm"]

    # <released mean, target>: OUT N(0, s²/n), IN N(s²/n, s²(n-1)/n²), for 4,000 targets and 200 shadows
    def draw(shape, inside):
        sd = np.where(inside, want["in_sd"], want["out_sd"])
        return np.where(inside, want["in_mean"], 0.0) + sd * rng.standard_normal(shape)

    inside = np.argsort(rng.random((200, 4000)), axis=0) < 100
    shadow, member = draw((200, 4000), inside), rng.random(4000) < 0.5
    phi = draw(4000, member)
    assert want["in_mean"] == pytest.approx(s**2 / n)
    for attack in (likelihood.bavaria, likelihood.lira):
        got = attack(phi, shadow, inside)
        assert auc(got[member], got[~member]) == pytest.approx(want["auc"], abs=0.015)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.floats(-50, 50))
def test_shadow_attacks_ignore_an_offset_common_to_a_record(seed, offset):
    phi, shadow, inside, _ = world(np.random.default_rng(seed), 60, 4)
    moved = offset * np.random.default_rng(seed).standard_normal(60)
    assert likelihood.lira(phi + moved, shadow + moved, inside) == pytest.approx(
        likelihood.lira(phi, shadow, inside), abs=1e-6
    )


def test_correlated_segments_are_not_counted_twice():
    """Three copies of one segment and an independent one: the copies together weigh as much as the other."""
    rng = np.random.default_rng(0)
    inside = np.argsort(rng.random((16, 500)), axis=0) < 8
    copied = np.where(inside, 1.0, 0.0) + rng.standard_normal((16, 500))
    other = np.where(inside, 1.0, 0.0) + rng.standard_normal((16, 500))
    shadow = np.stack([copied, copied + 1e-3 * rng.standard_normal((16, 500)), copied, other], axis=2)
    weight = sequence_lira.weights(shadow, inside, 0.01)
    assert weight[:3].sum() == pytest.approx(weight[3], rel=0.1)
    assert (sequence_lira.weights(shadow[:1], inside[:1], 0.1) == 0.25).all()


def test_a_person_is_more_exposed_than_any_of_their_recordings():
    rng = np.random.default_rng(0)
    people, each, k = 300, 6, 8
    person = np.repeat(np.arange(people), each)
    inside = (np.argsort(rng.random((k, people)), axis=0) < k // 2)[:, person]
    member = (rng.random(people) < 0.5)[person]
    u = rng.normal(0, 3, people * each)

    def draw(inside):
        shared = np.sqrt(0.2) * rng.standard_normal((*inside.shape[:-1], people))[..., person]
        return u + 0.5 * inside + shared + np.sqrt(0.8) * rng.standard_normal(inside.shape)

    s = Signals(
        recording=[f"r{i}" for i in range(len(u))], person=[f"p{i:03}" for i in person], member=member,
        label=["x"] * len(u), n_tokens=[1] * len(u), made_with="m", loss=-draw(member), shadow_loss=-draw(inside),
        shadow_in=inside,
    )  # fmt: skip
    single = bavaria.score(s, bavaria.Config())
    whole = user.score(s, user.Config())[::each]
    first = member[::each]
    assert user.correlation(s, -s.shadow_loss, s.shadow_in) == pytest.approx(0.2, abs=0.06)
    assert auc(whole[first], whole[~first]) > auc(single[member], single[~member]) + 0.05
    best = stats.norm.cdf(likelihood.correlated_d_prime(0.5, each, 0.2) / 2**0.5)
    assert auc(whole[first], whole[~first]) <= best + 0.05


def test_dataset_inference_finds_a_set_and_accepts_an_innocent_one():
    rng = np.random.default_rng(0)
    found = {}
    for name, lift in (("used", 0.5), ("not", 0.0)):
        p = []
        for seed in range(12):
            member = np.arange(80) % 2 == 0
            base = 2 + rng.random(80)
            s = as_signals(np.zeros(80), np.zeros((1, 80)), (np.arange(80) < 40)[None], member)
            s = replace(s, loss=base - lift * member + 0.3 * rng.standard_normal(80), loss_base=base)
            p.append(inference.run(s, inference.Config(seed=seed))[0].value)
        found[name] = np.array(p)
    assert (found["used"] < 0.01).mean() > 0.8
    assert (found["not"] < 0.05).mean() <= 0.2
    assert inference.stouffer(np.array([0.5, 0.5])) == pytest.approx(0.5)
    assert inference.welch(np.ones(4), np.ones(4)) == 1.0


def test_usage_fraction_corrects_for_its_errors():
    rng = np.random.default_rng(0)
    phi, shadow, inside, member = world(rng, 600, 16, shift=1.5)
    results = {r.metric: r for r in fraction.run(as_signals(phi, shadow, inside, member), fraction.Config())}
    assert results["usage_fraction.members"].value == pytest.approx(1.0, abs=0.12)
    assert results["usage_fraction.held-out persons"].value == pytest.approx(0.0, abs=0.12)
    phi, shadow, inside, member = world(rng, 300, 8, shift=0.0)
    with pytest.raises(MienError, match="no share"):
        fraction.run(as_signals(phi, shadow, inside, member), fraction.Config())


def test_one_bank_of_negatives_for_everybody():
    rng = np.random.default_rng(0)
    a, b, bank = rng.standard_normal((6, 4)), rng.standard_normal((6, 4)), rng.standard_normal((20, 4))
    whole = contrast.contrast(a, b, bank, bank, 0.1)
    assert contrast.contrast(a[2:3], b[2:3], bank, bank, 0.1)[0] == pytest.approx(whole[2])  # nobody else's row matters
    mine = contrast.cosine(a, b) / 0.1
    unit = [v / np.linalg.norm(v, axis=1, keepdims=True) for v in (a, b, bank)]
    rows = [np.log(np.exp(u @ unit[2].T / 0.1).sum(1)) for u in unit[:2]]
    assert whole == pytest.approx(mine - np.mean(rows, axis=0))


# --- bad input ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("act", "says"),
    [
        (lambda: likelihood.sides(np.zeros((2, 3)), np.ones((2, 3), bool)), "everybody in"),
        (lambda: likelihood.sides(np.zeros((2, 3)), np.ones((2, 4), bool)), "must both be"),
        (lambda: likelihood.lira_offline(np.zeros(2), np.zeros((1, 2)), np.array([[True, False]])), "1 rows have no shadow"),
        (lambda: likelihood.rmia(np.zeros(3), np.zeros(3), np.zeros(3)), "there is one person"),
        (lambda: everything(shadow_in=np.random.default_rng(0).random((4, 96)) < 0.5), "person on both sides"),
        (lambda: everything(shadow_loss=np.full((4, 96), np.nan)), "384 of 384 values of 'shadow_loss'"),
        (lambda: everything(shadow_loss=np.zeros((3, 96))), "'shadow_loss' has shape"),
        (lambda: everything(slope=np.zeros(3)), "'slope' has shape"),
        (lambda: contrast.cosine(np.zeros((1, 3)), np.ones((1, 3))), "zero or not finite"),
        (lambda: contrast.contrast(np.ones((1, 2)), np.ones((1, 2)), np.ones((0, 2)), np.ones((1, 2)), 1), "one negative"),
        (lambda: max_renyi.score(everything(), max_renyi.Config(part="image")), "no part 'image'"),
        (lambda: max_renyi.score(everything(), max_renyi.Config(order=3)), "orders 0.5, 1, 2, inf"),
        (lambda: ez.score(replace(everything(), tokens=[]), ez.Config()), "of 0 windows for 96"),
        (lambda: inference.run(everything(n=2), inference.Config()), "four each"),
        (lambda: lira.score(everything(shadow_contrast=None), lira.Config(signal="contrast")), "needs 'shadow_contrast'"),
    ],
)  # fmt: skip
def test_bad_input_is_refused(act, says):
    with pytest.raises(MienError, match=says) as error:
        act()
    assert "\n" not in str(error.value)
