"""Every injected effect is there at its size, and gone at size 0; the signals carry what the latents say."""

from __future__ import annotations

import numpy as np
import pytest

from mien.core import config as recipes
from mien.core.errors import MienError
from mien.data import features
from mien.data.datasets import simulated as sim

NONE = {"label_effect": 0.0, "person_effect": 0.0, "session_jitter": 0.0, "sex_effect": 0.0, "age_effect": 0.0,
        "date_confound": 0.0, "device_drift": 0.0}  # fmt: skip


def latents(persons: int = 300, **options) -> list[sim.Session]:
    config = sim.Config(persons=persons, **options)
    return [s for p in range(persons) for s in sim.sessions(config, p)]


def z(sessions: list[sim.Session], trait: str) -> np.ndarray:
    return np.array([s.z[trait] for s in sessions])


def made(sessions: list[sim.Session], **options) -> list:
    config = sim.Config(**options)
    return [sim.record(s, config) for s in sessions]


# --- the cohort -------------------------------------------------------------------------------------------------


def test_a_cohort(home):
    cohort = sim.load(sim.Config(persons=6, sessions=3, seconds=10, outliers=2))
    assert len(cohort) == 18
    assert dict(cohort.card.streams) == sim.STREAMS
    by_person: dict[str, set] = {}
    for r in cohort:
        by_person.setdefault(r.person, set()).add(r.labels["stress"])
        assert {k: len(s.values) for k, s in r.streams.items()} == {
            k: round(10 * spec.rate_hz) for k, spec in sim.STREAMS.items()
        }
    assert all(seen == {"calm", "stress"} for seen in by_person.values())
    assert len({r.person for r in cohort if r.attributes["outlier"]}) == 2
    assert sim.load(sim.Config(persons=6, sessions=3, seconds=10, outliers=2)).fingerprint == cohort.fingerprint
    assert len(cohort.for_purpose("training")[0]) == 18


def test_a_person_depends_on_the_seed_and_its_number_only(home):
    few = sim.load(sim.Config(persons=2, seconds=10))
    more = sim.load(sim.Config(persons=5, seconds=10))
    other = sim.load(sim.Config(persons=2, seconds=10, seed=1))
    for i in range(8):
        for k in sim.STREAMS:
            np.testing.assert_array_equal(few[i].streams[k].values, more[i].streams[k].values)
    assert not np.array_equal(few[0].streams["bvp"].values, other[0].streams["bvp"].values)


def test_a_wrong_key_is_named():
    with pytest.raises(MienError, match="did you mean 'label_effect'"):
        recipes.parse(sim.Config, {"label_efect": 1}, "cohort")


# --- the effects, in the latents --------------------------------------------------------------------------------


def test_all_effects_off_leaves_nothing():
    for name in sim.TRAITS:
        assert np.ptp(z(latents(20, **NONE), name)) == 0


@pytest.mark.parametrize("size", [0.5, 2.0])
def test_label_sex_and_age_at_their_size(size):
    """Regressing each trait on label, sex and age gives the weights back, within 4.5 standard errors."""
    on = latents(label_effect=size, sex_effect=size, age_effect=size)
    X = np.array([[1, s.stress, (s.sex == "f") - 0.5, (s.age - 45) / 20] for s in on], dtype=float)
    for name, trait in sim.TRAITS.items():
        y = z(on, name)
        found = np.linalg.lstsq(X, y, rcond=None)[0]
        # rows of a person share the person's effect: errors from persons, not from rows
        bread = np.linalg.inv(X.T @ X)
        scores = (X * (y - X @ found)[:, None]).reshape(300, 4, 4).sum(1)
        error = np.sqrt(np.diag(bread @ (scores.T @ scores) @ bread))
        wanted = np.array([0.0, size * trait.label, size * trait.sex, size * trait.age])
        assert (np.abs(found - wanted) < 4.5 * error + 1e-9).all(), name


@pytest.mark.parametrize("effect", ["label_effect", "sex_effect", "age_effect"])
def test_each_switch_moves_its_effect_alone(effect):
    on, off = latents(30, **{effect: 1.5}), latents(30, **{effect: 0.0})
    value = {
        "label_effect": lambda s, t: t.label * s.stress,
        "sex_effect": lambda s, t: t.sex * (0.5 if s.sex == "f" else -0.5),
        "age_effect": lambda s, t: t.age * (s.age - 45) / 20,
    }[effect]
    for a, b in zip(on, off, strict=True):
        for name, trait in sim.TRAITS.items():
            assert a.z[name] - b.z[name] == pytest.approx(1.5 * value(a, trait))


def test_person_and_session_spread():
    for person, jitter in [(1.0, 0.5), (2.0, 1.0), (0.0, 0.7)]:
        s = latents(**{**NONE, "person_effect": person, "session_jitter": jitter})
        x = z(s, "hr").reshape(300, 4)
        assert x.std(axis=1, ddof=1).mean() == pytest.approx(0.921 * jitter, rel=0.12)  # E of the SD of four
        assert x.mean(1).var(ddof=1) == pytest.approx(person**2 + jitter**2 / 4, rel=0.3)


def test_outliers_are_planted_at_their_distance():
    on, off = latents(50, outliers=5, outlier_sd=4.0), latents(50, outliers=0)
    assert len({s.person for s in on if s.outlier}) == 5
    for a, b in zip(on, off, strict=True):
        for name in sim.TRAITS:
            assert abs(a.z[name] - b.z[name]) == pytest.approx(4.0 if a.outlier else 0.0)


@pytest.mark.parametrize("strength", [-0.5, 0.0, 0.3, 0.8, 1.0])
def test_the_date_confounder(strength):
    s = latents(date_confound=strength)
    found = np.corrcoef([x.date for x in s], [x.stress for x in s])[0, 1]
    assert found == pytest.approx(strength, abs=4 * (1 - strength**2) / np.sqrt(len(s)) + 1e-9)
    recording = made(s[:1], seconds=10)[0]
    assert recording.start_s == round(max(0, 30 + 10 * s[0].date) * sim.DAY_S)


def test_the_device_drifts_with_the_date():
    s = latents(5)
    for x, a, b in zip(s, made(s, seconds=10, device_drift=0.0), made(s, seconds=10, device_drift=1.0), strict=True):
        gain = np.log(b.streams["eda"].values.mean() / a.streams["eda"].values.mean())
        assert gain == pytest.approx(sim.TRAITS["tonic"].unit * x.date, abs=0.01)
        shift = (b.streams["temp"].values - a.streams["temp"].values).mean()
        assert shift == pytest.approx(sim.TRAITS["temp"].unit * x.date, abs=1e-3)
        np.testing.assert_array_equal(a.streams["bvp"].values, b.streams["bvp"].values)


# --- the signals carry the latents ------------------------------------------------------------------------------


def rate(values: np.ndarray, hz: float, low: float, high: float) -> float:
    """The strongest frequency between `low` and `high`, per minute."""
    power = np.abs(np.fft.rfft(values - values.mean(), 8 * len(values))) ** 2
    f = np.fft.rfftfreq(8 * len(values), 1 / hz)
    inside = (f >= low) & (f <= high)
    return 60 * f[inside][power[inside].argmax()]


def test_measured_effects_of_the_label():
    """Each stream shows the label's effect at its size, in physical units, within 4 standard errors over persons."""
    s = latents(40)
    recordings = made(s, device_drift=0.0)
    measures = {
        "hr": lambda r: rate(r.streams["bvp"].values[:, 0], 64, 0.6, 3.0),
        "breathing": lambda r: rate(r.streams["resp"].values[:, 0], 25, 0.1, 0.7),
        "temp": lambda r: r.streams["temp"].values.mean(),
    }
    stress = np.array([x.stress for x in s]).reshape(40, 4)
    for name, measure in measures.items():
        got = np.array([measure(r) for r in recordings]).reshape(40, 4)
        trait = sim.TRAITS[name]
        difference = np.array([g[k].mean() - g[~k].mean() for g, k in zip(got, stress, strict=True)])
        error = difference.std(ddof=1) / np.sqrt(40)
        assert abs(difference.mean() - trait.unit * trait.label) < 4 * error, name
        assert difference.mean() * trait.label > 2 * error * abs(trait.label), name
        assert np.corrcoef(got.ravel(), [x.trait(name) for x in s])[0, 1] > 0.9, name


def test_eda_level_responses_and_movement():
    s = latents(40)
    r = made(s, device_drift=0.0)
    eda = [x.streams["eda"].values for x in r]
    floor = np.log([np.quantile(x, 0.05) for x in eda])
    assert np.corrcoef(floor, np.log([x.trait("tonic") for x in s]))[0, 1] > 0.9
    rough = np.array([np.clip(np.diff(x[:, 0]), 0, None).sum() for x in eda])
    assert np.corrcoef(rough, [x.trait("scr") for x in s])[0, 1] > 0.5
    shaking = np.log([np.diff(x.streams["acc"].values, axis=0).std() for x in r])
    assert np.corrcoef(shaking, np.log([x.trait("movement") for x in s]))[0, 1] > 0.7
    assert np.median([np.linalg.norm(x.streams["acc"].values, axis=1).mean() for x in r]) == pytest.approx(1, abs=0.02)


def test_beats_follow_breathing_as_an_independent_tool_sees_it():
    neurokit = pytest.importorskip("neurokit2")
    s = latents(8)
    found, swing = [], []
    for r in made(s):
        bvp, resp = r.streams["bvp"].values[:, 0], r.streams["resp"].values[:, 0]
        beats = neurokit.ppg_findpeaks(neurokit.ppg_clean(bvp, 64), 64)["PPG_Peaks"] / 64
        interval = np.diff(beats)
        found.append(60 / interval.mean())
        breath = np.interp((beats[1:] + beats[:-1]) / 2, np.arange(len(resp)) / 25, resp)
        breath -= breath.mean()
        swing.append((interval * breath).sum() / (breath**2).sum())
    assert np.abs(np.array(found) - [x.trait("hr") for x in s]).max() < 2
    assert np.corrcoef(swing, [x.trait("rsa") for x in s])[0, 1] > 0.8
    assert np.mean(swing) == pytest.approx(np.mean([x.trait("rsa") for x in s]), rel=0.25)


def accuracy(**options) -> tuple[float, int]:
    """Stress in unseen persons, from window statistics; and the number of persons judged on."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    s = latents(120, **options)
    recordings = made(s, seconds=20, device_drift=options.get("device_drift", 0.2))
    card = type("Card", (), {"streams": sim.STREAMS})
    X = np.array([features.vector(r.streams, card) for r in recordings])
    y = np.array([x.stress for x in s])
    train = np.arange(len(s)) < len(s) // 2
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.05, max_iter=500)).fit(X[train], y[train])
    return float(model.score(X[~train], y[~train])), 60


def test_a_classifier_finds_the_label_only_where_it_was_put():
    chance, n = accuracy(label_effect=0.0, date_confound=0.0)
    assert abs(chance - 0.5) < 3.5 * 0.5 / np.sqrt(4 * n)
    assert accuracy(label_effect=1.0, date_confound=0.0)[0] > 0.63
    # the confounder alone, through the device, is enough to look like a result
    assert accuracy(label_effect=0.0, date_confound=0.9, device_drift=3.0)[0] > 0.7
