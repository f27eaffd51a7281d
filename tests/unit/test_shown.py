"""Recordings shown as soft tokens under a guarantee: the noise is what is claimed, and the ledger has it first."""

from __future__ import annotations

import re
from types import SimpleNamespace

import dp_accounting as dp
import numpy as np
import pytest
from dp_accounting.pld import PLDAccountant
from hypothesis import given as drawn
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from mien.adapters import shown
from mien.adapters.shown import Protect
from mien.core.errors import MienError
from mien.core.verbs import PLAIN, protection
from mien.privacy.ledger import BudgetExceeded, Ledger

PEOPLE = ["a", "b", "c"]


@pytest.fixture
def run(home, tmp_path):
    return SimpleNamespace(name="generate-x", private=tmp_path)


def entries():
    with Ledger.open() as ledger:
        return ledger.export()


@drawn(arrays.arrays(np.float64, (3, 5), elements=st.floats(-1e150, 1e150)), st.floats(1e-3, 1e3))
def test_no_vector_exceeds_the_clip_and_short_ones_stay(vectors, clip):
    got = shown.clipped(vectors, clip)
    assert (np.linalg.norm(got, axis=1) <= clip).all()
    for before, after in zip(vectors, got, strict=True):
        if np.linalg.norm(before) < clip * 0.999:
            assert np.array_equal(before, after)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_broken_vector_counts_as_nothing(bad):
    assert (shown.clipped(np.array([[bad, 1.0], [3.0, 4.0]]), 5.1) == [[0, 0], [3, 4]]).all()


@pytest.mark.parametrize(("epsilon", "delta", "each"), [(1.0, 1e-5, 1), (4.0, 1e-6, 3), (0.2, 1e-5, 10)])
def test_the_noise_is_what_is_claimed(epsilon, delta, each):
    event = Protect(epsilon=epsilon, delta=delta).event(each)
    # `each` Gaussian mechanisms of sensitivity 1 (of 2 C, in units of 2 C), by dp-accounting alone
    peer = PLDAccountant().compose(dp.GaussianDpEvent(event.noise_multiplier), each).get_epsilon(delta)
    assert 0.98 * epsilon < peer <= epsilon * 1.0001
    weaker = PLDAccountant().compose(dp.GaussianDpEvent(event.noise_multiplier * 0.98), each).get_epsilon(delta)
    assert weaker > epsilon


def test_the_noise_has_the_size_of_twice_the_clip():
    vectors = np.zeros((4, 50_000))
    vectors[0, 0] = 1e9  # clipped to 3
    got = shown.noisy(vectors, 1.5, 3.0)
    shrink = 1 / np.sqrt(1 + vectors.shape[1] * 9)
    assert got.dtype == np.float32
    assert np.allclose(got.std(1) / shrink, 2 * 3.0 * 1.5, rtol=0.02)
    assert abs(got[0, 0] / shrink - 3.0) < 6 * 9  # and not 1e9
    assert abs(np.corrcoef(got)[1, 2]) < 0.03
    assert not np.array_equal(got, shown.noisy(vectors, 1.5, 3.0))


def test_the_ledger_has_the_charge_before_anything_is_computed(run):
    seen = []

    def soften():
        seen.append(entries())
        assert not (run.private / "shown.npy").exists()
        return np.ones((5, 2, 4))

    protect = Protect(epsilon=2.0, clip=1.0)
    soft, sentence = shown.protected(run, "study", PEOPLE, 2, protect, soften)
    assert soft.shape == (5, 2, 4)
    (before,) = seen
    assert [e["kind"] for e in before][-1] == "reserve"
    assert [e["kind"] for e in entries()][-2:] == ["reserve", "settle"]
    with Ledger.open() as ledger:
        (spent,) = ledger.spent(source="study", persons=PEOPLE, delta=protect.delta)
    assert 1.9 < spent.epsilon_pld <= 2.0
    assert "sensitivity 2 C, 2 windows each" in sentence
    # a killed run that goes on shows the same, and pays no more
    again, same = shown.protected(run, "study", PEOPLE, 2, protect, lambda: pytest.fail("computed again"))
    assert np.array_equal(again, soft)
    assert same == sentence
    assert len(entries()) == len(before) + 1


def test_a_run_killed_after_its_charge_pays_once(run):
    def killed():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        shown.protected(run, "study", PEOPLE, 1, Protect(epsilon=1.0), killed)
    assert [e["kind"] for e in entries()][-1] == "reserve"  # stands: nobody knows what was computed
    shown.protected(run, "study", PEOPLE, 1, Protect(epsilon=1.0), lambda: np.zeros((3, 1, 2)))
    assert [e["kind"] for e in entries()].count("reserve") == 1


def test_a_cap_is_held_before_anything_is_computed(run):
    with pytest.raises(BudgetExceeded):
        shown.protected(
            run, "study", PEOPLE, 1, Protect(epsilon=3.0, cap=1.0), lambda: pytest.fail("computed though refused")
        )
    assert not (run.private / "shown.npy").exists()


def test_what_is_said():
    event = Protect(epsilon=1.0).event(1)
    text = shown.sentence(Protect(epsilon=1.0), event, 100)
    assert re.match(r"\((0\.99|1)\S*, 1e-05\)-differential privacy for each person whose recordings were shown", text)
    assert "NOT A CLAIM" in shown.sentence(Protect(epsilon=1.0, delta=1e-3), event, 100)
    # a plain adapter does not look protected in legends because of what it is shown
    assert protection(shown.together(PLAIN, text)) == "plain, ε = ∞"
    with pytest.raises(MienError):
        Protect(epsilon=1.0, delta=0.5).event(10_000_001)
