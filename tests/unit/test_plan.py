"""Plans, sampling and noise: what is claimed, who is drawn, what is refused."""

from __future__ import annotations

import itertools
import math
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from mien.core.errors import MienError
from mien.privacy import sampling
from mien.privacy.accounting import Event, epsilon
from mien.privacy.noise import Secret, noised
from mien.privacy.plan import Guarantee, PrivacySpec, loosest_delta, up


def plan(persons=500, steps=100, **spec):
    return PrivacySpec(**{"epsilon": 8.0, "batch": 50, **spec}).plan(n=persons, steps=steps)


def test_a_target_is_met_and_not_passed():
    made = plan()
    assert made.sample_rate == 0.1
    assert made.expected_batch == pytest.approx(50)
    assert made.delta == loosest_delta(500) == 1e-5
    told = made.guarantee()
    assert 7.8 < told.epsilon <= 8.0
    assert told.epsilon <= told.epsilon_rdp
    assert told.person_epsilon == told.epsilon
    half = made.guarantee(50)
    assert half.epsilon < told.epsilon
    assert half.steps == 50
    assert plan(noise_multiplier=made.noise_multiplier, epsilon=None).guarantee().epsilon == told.epsilon


def test_the_sentence_says_all_that_a_claim_needs():
    text = plan().guarantee().sentence()
    for part in ("for each person", "add or remove one person", "Poisson over persons", "100 steps", "PLD", "1e-05"):
        assert part in text
    assert "NOT A CLAIM" not in text
    loose = plan(delta=1e-3).guarantee()
    assert loose.not_a_claim
    assert "NOT A CLAIM: δ = 0.001 is looser than 1e-05" in loose.sentence()


def test_recording_level_shows_the_price_of_a_person():
    told = plan(2000, unit="recording", batch=100, max_recordings_per_person=4).guarantee()
    assert told.unit == "recording"
    assert told.epsilon <= 8 < told.person_epsilon
    assert "for a whole person ε = " in told.sentence()
    assert told.person_epsilon == epsilon([Event.from_json(e) for e in told.events], told.delta)
    assert told.events[0]["units_per_person"] == 4


def test_no_attack_gets_past_the_stated_risk():
    """The best attacker on one Gaussian release, against the curve the guarantee states."""
    told = PrivacySpec(noise_multiplier=2.0, batch=100).plan(n=100, steps=1).guarantee()  # everybody, once
    assert stats.norm.sf(stats.norm.isf(0.01) - 1 / 2.0) == pytest.approx(told.tpr_at_fpr_001, rel=0.01)
    assert 2 * stats.norm.cdf(1 / 4) - 1 == pytest.approx(told.advantage, rel=0.01)


def test_bounds_are_never_rounded_down():
    for value in (6.7721, 0.13351, 7.999, 8.0, 1e-5, 12345.6, 0.9999):
        assert float(up(value)) >= value
        assert float(up(value)) <= value * 1.01
    assert up(6.7721) == "6.78"


def test_guarantee_file_round_trip(tmp_path):
    told = plan().guarantee(ledger_seq=3, ledger_head="ab")
    told.write(tmp_path / "guarantee.json")
    assert Guarantee.read(tmp_path / "guarantee.json") == told


def test_adaptive_clipping_pays_for_its_count():
    """Gradient and count are one Gaussian release: in units of each one's noise, their squared sensitivities add up
    to what the accountant was told."""
    made = plan(clipping="adaptive")
    assert made.gradient_noise > made.noise_multiplier
    combined = made.gradient_noise**-2 + (0.5 / made.count_noise) ** 2
    assert combined == pytest.approx(made.noise_multiplier**-2)
    with pytest.raises(MienError, match="quantile_noise"):
        plan(clipping="adaptive", quantile_noise=0.001)


def test_fingerprint_covers_everything():
    base = plan()
    others = [plan(rows=4), plan(clip_norm=2), plan(clipping="automatic"), plan(epsilon=7), plan(steps=99), plan(n=501)]
    assert len({base.fingerprint, *(o.fingerprint for o in others)}) == 7
    assert plan().fingerprint == base.fingerprint


@pytest.mark.parametrize(
    ("spec", "n", "says"),
    [
        ({"epsilon": 0}, 500, r"privacy.epsilon: 0 is not above 0"),
        ({"epsilon": -1}, 500, r"privacy.epsilon: -1"),
        ({"epsilon": None, "noise_multiplier": 0}, 500, r"without noise there is no guarantee"),
        ({"epsilon": None, "noise_multiplier": -2}, 500, r"privacy.noise_multiplier"),
        ({"epsilon": None}, 500, "either epsilon or noise_multiplier"),
        ({"noise_multiplier": 1.0}, 500, "either epsilon or noise_multiplier"),
        ({"delta": 1 / 500}, 500, r"privacy.delta: 0.002 for n = 500.*publishing a whole person"),
        ({"delta": 0}, 500, "privacy.delta"),
        ({"batch": 501}, 500, r"privacy.batch: 501 persons per step of n = 500"),
        ({"batch": 0}, 500, "privacy.batch"),
        ({}, 1, r"1 person: with fewer than two there is nobody to hide among"),
        ({"n": 1}, 500, "fewer than two"),
        ({"unit": "recording"}, 500, "max_recordings_per_person"),
        ({"epsilon": 1e-6}, 500, "privacy.epsilon"),
        ({"epsilon": None, "noise_multiplier": 1e-3}, 500, "privacy.noise_multiplier"),
        *(({"sampling": s}, 500, rf"privacy.sampling: '{s}' cannot be accounted") for s in [*sampling.REFUSED, "other"]),
    ],
)  # fmt: skip
def test_what_cannot_be_claimed_is_refused(spec, n, says):
    with pytest.raises(MienError, match=says):
        plan(n, **spec)


# -- sampling ----------------------------------------------------------------------------------------------------------


def test_poisson_sampling_is_poisson():
    units = sampling.Units.of(np.repeat(np.arange(40), 3))
    secret, rounds, rate = Secret(), 4000, 0.1
    drawn = [sampling.draw(units, rate, 2, secret) for _ in range(rounds)]
    sizes = np.array([len(d) for d in drawn])
    expected = stats.binom.pmf(np.arange(41), 40, rate) * rounds
    keep = expected > 5
    seen = np.bincount(sizes, minlength=41)
    counts = np.append(seen[keep], seen[~keep].sum())
    wanted = np.append(expected[keep], expected[~keep].sum())
    assert stats.chisquare(counts, wanted * counts.sum() / wanted.sum()).pvalue > 1e-4
    assert (sizes == 0).any()  # an empty batch is an outcome
    who = np.bincount([int(r[0]) // 3 for d in drawn for r in d], minlength=40)
    assert stats.chisquare(who).pvalue > 1e-4
    rows = np.bincount(np.concatenate([r for d in drawn for r in d]), minlength=120)
    assert stats.chisquare(rows).pvalue > 1e-4  # and within a person every row alike
    assert all(len(r) == 2 and len(set(r)) == 2 for d in drawn for r in d)


def test_everybody_at_rate_one():
    units = sampling.Units.of(np.array([2, 0, 0, 1]))
    assert [r.tolist() for r in sampling.draw(units, 1.0, 9, Secret())] == [[1, 2], [3], [0]]


@settings(max_examples=200, deadline=None)
@given(sizes=st.lists(st.integers(1, 9), max_size=12), size=st.integers(1, 7), world=st.integers(1, 4))
def test_cutting_loses_and_mixes_nothing(sizes, size, world):
    """However a batch is dealt and cut, each unit is completed once, with its own rows, on one process."""
    cuts = np.cumsum([0, *sizes])
    batch = [np.arange(a, b) for a, b in itertools.pairwise(cuts)]
    shares = [sampling.share(batch, r, world) for r in range(world)]
    assert sorted(tuple(u) for s in shares for u in s) == sorted(tuple(u) for u in batch)
    finished = []
    for mine in shares:
        open_rows: list[list[int]] = []
        for micro in sampling.micro_batches(mine, size):
            assert len(micro.rows) <= size
            while len(open_rows) < micro.open:
                open_rows.append([])
            for row, slot in zip(micro.rows.tolist(), micro.slot.tolist(), strict=True):
                open_rows[slot].append(row)
            finished += [tuple(u) for u in open_rows[: micro.closes]]
            open_rows = open_rows[micro.closes :]
            assert len(open_rows) <= 1
        assert not open_rows
    assert sorted(finished) == sorted(tuple(u.tolist()) for u in batch)


# -- noise -------------------------------------------------------------------------------------------------------------


def test_normals_are_normal_and_never_twice_the_same():
    a, b = (Secret().normal(200_001).numpy() for _ in range(2))
    assert stats.kstest(a, "norm").pvalue > 1e-4
    assert abs(np.corrcoef(a, b)[0, 1]) < 5 / math.sqrt(len(a))
    half = len(a) // 2
    assert abs(np.corrcoef(a[:half] ** 2, a[half : 2 * half] ** 2)[0, 1]) < 5 / math.sqrt(half)  # Box-Muller's pairs
    assert np.abs(a).max() > 4  # tails are there
    secret = Secret()
    assert not np.array_equal(secret.bits(8), secret.bits(8))


def test_noise_has_the_size_the_plan_says():
    import torch

    out = noised(torch.full((100_000,), 3.0, dtype=torch.float64), 1.5, 0.2, Secret())
    assert out.dtype == torch.float64
    assert float(out.std()) == pytest.approx(0.3, rel=0.02)
    assert float(out.mean()) == pytest.approx(3.0, abs=0.01)


def test_secrets_are_not_written():
    secret = Secret()
    with pytest.raises(TypeError, match="never written"):
        pickle.dumps(secret)
    assert repr(secret) == "Secret()"


def test_uniforms_and_choices():
    secret = Secret()
    u = secret.uniform(100_000)
    assert u.min() > 0
    assert u.max() <= 1
    assert stats.kstest(u, "uniform").pvalue > 1e-4
    assert secret.choose(3, 5).tolist() == [0, 1, 2]
    counts = np.bincount(np.concatenate([secret.choose(6, 2) for _ in range(3000)]))
    assert stats.chisquare(counts).pvalue > 1e-4
