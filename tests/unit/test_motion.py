"""Simulated movement: both sensors see the same turning arm, and nothing comes from recordings."""

from __future__ import annotations

import numpy as np
import pytest

from mien.data.datasets import motion, watch

SMALL = motion.Config(persons=3, recordings_per_person=8, seconds=8)
STILL = {"range": 1.0, "tempo": 1.0, "mount": np.zeros(3), "lever": 0.2}


def test_a_cohort_like_the_watch_set(home):
    cohort = motion.load(SMALL)  # in an empty cache: the watch asset is not needed
    assert len(cohort) == 24
    assert dict(cohort.card.streams) == watch.STREAMS
    assert cohort.card.synthetic
    assert len({r.labels["movement"] for r in cohort}) == motion.FAMILIES
    for r in cohort:
        assert r.streams["acc"].values.shape == r.streams["gyro"].values.shape == (400, 3)
    assert motion.load(SMALL).fingerprint == cohort.fingerprint
    other = motion.load(SMALL.model_copy(update={"seed": 1}))
    assert other.fingerprint != cohort.fingerprint


def test_a_wearer_does_not_depend_on_the_others(home):
    few = motion.load(SMALL.model_copy(update={"persons": 1}))
    np.testing.assert_array_equal(few[5].streams["gyro"].values, motion.load(SMALL)[5].streams["gyro"].values)


@pytest.mark.parametrize("k", range(motion.FAMILIES))
def test_gyro_and_gravity_agree(k):
    """d(gravity)/dt = -omega x gravity in the sensor's frame, and gravity has length 1."""
    family = motion._family(np.random.default_rng([0, 0, k]))
    acc, gyro, gravity = motion.trajectory(family, STILL, 20, 50, np.random.default_rng(k))
    np.testing.assert_allclose(np.linalg.norm(gravity, axis=1), 1, atol=1e-6)
    seen = np.gradient(gravity, 1 / 50, axis=0)[2:-2]
    expected = -np.cross(gyro, gravity)[2:-2]
    assert np.corrcoef(seen.ravel(), expected.ravel())[0, 1] > 0.99
    assert (seen * expected).sum() / (expected**2).sum() == pytest.approx(1, abs=0.03)
    # a lever that is not there leaves gravity alone
    bare, _, down = motion.trajectory(family, {**STILL, "lever": 0.0}, 20, 50, np.random.default_rng(k))
    np.testing.assert_allclose(bare, down)
    assert np.linalg.norm(acc - gravity, axis=1).max() > 0


def test_plausible_sizes_and_repetitions(home):
    cohort = motion.load(motion.Config(persons=8, seconds=12))
    for name, spec in cohort.card.streams.items():
        values = np.concatenate([r.streams[name].values for r in cohort])
        assert np.isfinite(values).all()
        assert np.mean((values < spec.range[0]) | (values > spec.range[1])) < 0.01
    turned = [np.abs(r.streams["gyro"].values).max() for r in cohort]
    assert min(turned) > 0.1
    assert np.median(turned) > 0.5
