"""Fidelity metrics against oracles, and against corruptions that they claim to see: each must rise as the corruption does.

Nothing is generated here. "Synthetic" are windows of other simulated persons, which are then spoiled in one controlled way
(after STEB's corruptions); unspoiled they must look like real persons do to each other.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mien.core.records import Events, Signal, StreamSpec, cut, recording_windows
from mien.data.datasets import simulated
from mien.data.features import of_windows
from mien.evaluation import vitals
from mien.evaluation.fidelity import acf, adherence, dtw, events, frechet, marginals, mmd, physiology, prdc, predictive
from mien.evaluation.protocols import Inputs, Tables, Windows
from mien.evaluation.utility import tstr_groups

STREAMS = ("bvp", "resp", "eda", "temp")
RNG = np.random.default_rng(0)


def people(first: int, count: int, config: simulated.Config):
    return [simulated.record(s, config) for p in range(first, first + count) for s in simulated.sessions(config, p)]


@pytest.fixture(scope="module")
def sides(tmp_path_factory):
    """Windows of 30 s: of training, held-out and other persons, with their recordings."""
    config = simulated.Config(persons=75, sessions=2, seconds=30, seed=21, label_effect=3.0)
    card = simulated_card()
    out = []
    for first in (0, 25, 50):
        rows = []
        for r in people(first, 25, config):
            r = replace(r, streams={n: r.streams[n] for n in STREAMS})
            rows += [(r, w, cut(r, w)[0]) for w in recording_windows(r, 30.0, 30.0)]
        out.append(rows)
    return card, out


def simulated_card():
    card = simulated.load(simulated.Config(persons=2, sessions=2, seconds=30)).card
    return replace(card, streams={n: card.streams[n] for n in STREAMS})


def inputs(card, train, test, made, outliers=frozenset()) -> Inputs:
    real = of_windows(train + test, card, card, "stress")
    at = np.arange(len(real)) < len(train)
    tables = Tables(
        train=real.rows(at),
        test=real.rows(~at),
        synthetic=of_windows(made, card, card, "stress"),
        classes=("calm", "stress"),
    )
    strip = lambda rows: [s for *_, s in rows]  # noqa: E731
    shown = Windows(
        train=strip(train), test=strip(test), synthetic=strip(made), card=card, seconds=30.0, valid_sequences=1.0
    )
    return Inputs(tables=tables, windows=shown, outliers=outliers)


def changed(rows, how):
    """The rows with every signal `how(name, values, i)`."""
    out = []
    for i, (r, w, streams) in enumerate(rows):
        out.append((r, w, {n: replace(s, values=how(n, s.values, i)) for n, s in streams.items()}))
    return out


def noisy(rows, much):
    rng = np.random.default_rng(1)
    return changed(rows, lambda n, v, i: v + much * v.std() * rng.normal(size=v.shape) if much else v)


def dropped(rows, much):
    """A share of the windows replaced by one and the same."""
    keep = max(1, round(len(rows) * (1 - much)))
    return [(r, w, rows[i if i < keep else 0][2]) for i, (r, w, _) in enumerate(rows)]


def misaligned(rows, much):
    """The breath of a share of the windows comes from the next person."""
    k = round(len(rows) * much)
    return [
        (r, w, s | {"resp": rows[(i + 2) % len(rows)][2]["resp"]} if i < k else s) for i, (r, w, s) in enumerate(rows)
    ]


def scaled(rows, much):
    return changed(rows, lambda n, v, i: v.mean(0) + (v - v.mean(0)) * (1 + much))


def relabelled(rows, much):
    k = round(len(rows) * much)
    swap = {"calm": "stress", "stress": "calm"}
    return [
        (replace(r, labels={"stress": swap[str(r.labels["stress"])]}) if i < k else r, w, s)
        for i, (r, w, s) in enumerate(rows)
    ]


def shuffled(rows, much):
    """A share of each signal's samples change places: values stay, time does not."""
    rng = np.random.default_rng(2)

    def how(n, v, i):
        k = round(len(v) * much)
        at = rng.choice(len(v), size=k, replace=False)
        out = v.copy()
        out[at] = v[rng.permutation(at)]
        return out

    return changed(rows, how)


def value(results, metric: str) -> float:
    (one,) = [r for r in results if r.metric == metric]
    assert one.value is not None, one.note
    return one.value


TRIED = {  # metric -> (module, options, name, sign: +1 when worse is larger)
    "coverage": (prdc, {}, "coverage", -1),
    "precision": (prdc, {}, "precision", -1),
    "mmd": (mmd, {}, "MMD²", 1),
    "frechet": (frechet, {}, "Fréchet distance", 1),
    "acf": (acf, {}, "autocorrelation difference resp", 1),
    "marginal": (marginals, {}, "marginal distance bvp", 1),
    "dtw": (dtw, {"most": 30}, "nearest DTW resp", 1),
    "predictive": (predictive, {}, "predictive error resp", 1),
    "coherence": (physiology, {}, "HR-breath coherence", -1),
    "ks": (physiology, {}, "KS RMSSD", 1),
    "adherence": (adherence, {"trees": 60}, "adherence macro-F1", -1),
    "groups": (tstr_groups, {"trees": 40, "streams": False}, "TSTR macro-F1 cardiorespiratory", -1),
}  # fmt: skip
SEEN = [  # (metric, corruption, strengths): what each metric claims to see
    ("coverage", noisy, (0, 0.5, 2)), ("coverage", dropped, (0, 0.7, 0.97)), ("precision", noisy, (0, 0.5, 2)),
    ("precision", scaled, (0, 1, 4)), ("mmd", noisy, (0, 0.3, 1)), ("mmd", scaled, (0, 1, 4)), ("mmd", dropped, (0, 0.5, 0.95)),
    ("frechet", noisy, (0, 0.3, 1)), ("frechet", dropped, (0, 0.5, 0.95)), ("acf", shuffled, (0, 0.3, 0.9)),
    ("acf", noisy, (0, 0.5, 2)), ("marginal", scaled, (0, 0.5, 2)), ("marginal", noisy, (0, 1, 3)),
    ("dtw", scaled, (0, 2, 6)), ("dtw", shuffled, (0, 0.3, 0.9)), ("predictive", shuffled, (0, 0.3, 0.9)),
    ("coherence", misaligned, (0, 0.5, 1)), ("ks", noisy, (0, 0.6, 1.5)), ("adherence", relabelled, (0, 0.3, 0.8)),
    ("groups", relabelled, (0, 0.5, 1)),
]  # fmt: skip
BLIND = [  # and what it must not see: else a number could not say what is wrong
    ("marginal", shuffled, 0.9, 0.02), ("marginal", misaligned, 1.0, 0.02), ("mmd", relabelled, 0.8, 1e-9),
    ("coherence", relabelled, 0.8, 1e-9), ("acf", scaled, 2.0, 1e-6),
]  # fmt: skip


def measured(sides, metric, corruption, much) -> float:
    card, (train, test, other) = sides
    module, options, name, sign = TRIED[metric]
    data = inputs(card, train, test, corruption(other, much))
    return sign * value(module.measure(data, module.Config(**options)), name)


@pytest.mark.parametrize(("metric", "corruption", "strengths"), SEEN, ids=lambda v: getattr(v, "__name__", str(v)))
def test_what_a_metric_claims_to_see_it_sees(sides, metric, corruption, strengths):
    found = [measured(sides, metric, corruption, much) for much in strengths]
    assert found == sorted(found), found
    assert found[-1] > found[0] + 1e-3, found


@pytest.mark.parametrize(
    ("metric", "corruption", "much", "tolerance"), BLIND, ids=lambda v: getattr(v, "__name__", str(v))
)
def test_what_it_cannot_see_does_not_move_it(sides, metric, corruption, much, tolerance):
    assert abs(measured(sides, metric, corruption, much) - measured(sides, metric, corruption, 0)) <= tolerance


def test_other_persons_look_as_real_persons_do_to_each_other(sides):
    card, (train, test, other) = sides
    data = inputs(card, train, test, other)
    for module in (prdc, mmd, frechet, acf, marginals, dtw, predictive, physiology):
        for r in module.measure(data, module.Config()):
            control = r.baselines[0].value
            if any(w in r.metric for w in ("tenth of persons", "skewness", "kurtosis")):  # of two persons, of extremes
                continue
            assert r.value is not None
            assert control is not None
            assert abs(r.value - control) < 0.25 * max(1.0, abs(control)), (r.metric, r.value, control)


# --- oracles ----------------------------------------------------------------------------------------------
def test_prdc_equals_its_definition():
    rng = np.random.default_rng(3)
    real, made, k = rng.normal(size=(30, 3)), 0.7 * rng.normal(size=(22, 3)) + 0.3, 4
    found = prdc.prdc(real, made, k)
    gap = lambda a, b: float(np.linalg.norm(a - b))  # noqa: E731
    radius = [sorted(gap(a, b) for b in real)[k] for a in real]
    reach = [sorted(gap(a, b) for b in made)[k] for a in made]
    precision = np.mean([any(gap(r, m) < q for r, q in zip(real, radius, strict=True)) for m in made])
    density = np.mean([sum(gap(r, m) < q for r, q in zip(real, radius, strict=True)) / k for m in made])
    recall = np.mean([any(gap(r, m) < q for m, q in zip(made, reach, strict=True)) for r in real])
    coverage = np.mean([any(gap(r, m) < q for m in made) for r, q in zip(real, radius, strict=True)])
    for name, truth in (("precision", precision), ("density", density), ("recall", recall), ("coverage", coverage)):
        assert found[name].mean() == pytest.approx(truth), name


def test_mmd_frechet_and_dtw_equal_their_definitions():
    rng = np.random.default_rng(4)
    a, b = rng.normal(size=(9, 2)), rng.normal(size=(7, 2)) + 1
    kernel = lambda x, y: np.exp(-((x - y) ** 2).sum() / (2 * 1.5**2))  # noqa: E731
    slow = (
        np.mean([kernel(a[i], a[j]) for i in range(9) for j in range(9) if i != j])
        + np.mean([kernel(b[i], b[j]) for i in range(7) for j in range(7) if i != j])
        - 2 * np.mean([kernel(x, y) for x in a for y in b])
    )
    assert mmd.mmd(a, b, 1.5) == pytest.approx(slow)
    one, two = rng.normal(size=(50000, 2)), rng.normal(size=(50000, 2)) * 2 + [1, 0]
    # two Gaussians with spreads 1 and 2 that lie 1 apart: 1 + 2 (1 - 2)^2, over two statistics
    assert frechet.frechet(one, two) == pytest.approx((1 + 2) / 2, rel=0.03)
    x, y = rng.normal(size=(1, 12, 1)), rng.normal(size=(1, 12, 1))
    cost = np.abs(x[0, :, None, 0] - y[0, None, :, 0])
    total = np.full((13, 13), np.inf)
    total[0, 0] = 0
    for i in range(12):
        for j in range(max(0, i - 1), min(12, i + 2)):
            total[i + 1, j + 1] = cost[i, j] + min(total[i, j], total[i, j + 1], total[i + 1, j])
    assert dtw.dtw(x, y)[0, 0] == pytest.approx(total[12, 12] / 12)
    assert dtw.dtw(x, x)[0, 0] == 0


def test_ks_is_scipys():
    from scipy.stats import ks_2samp

    rng = np.random.default_rng(5)
    a, b = rng.normal(size=40), np.r_[rng.normal(size=30) + 0.5, np.nan]
    assert physiology.ks(a, b) == pytest.approx(ks_2samp(a, b[:-1]).statistic)
    assert np.isnan(physiology.ks(a, np.array([np.nan])))


def test_outliers_that_nobody_speaks_for_are_found_erased(sides):
    card, (train, test, other) = sides
    odd = {r.person for r, *_ in train[:6]}
    far = changed(train[:6], lambda n, v, i: v + 6 * v.std() * np.sign(i % 2 - 0.5)) + train[6:]
    data = inputs(card, far, test, other, frozenset(odd))
    found = {r.metric: r for r in prdc.measure(data, prdc.Config())}
    planted = found["coverage of planted outliers"]
    assert planted.n_persons == 3
    assert planted.value is not None
    assert planted.value < 0.5 * planted.baselines[0].value
    assert found["coverage of the least covered tenth of persons"].value < found["coverage"].value


# --- what is not there -------------------------------------------------------------------------------------
def test_absent_streams_are_not_measured_and_say_so(sides):
    card, (train, test, other) = sides
    none = [(r, w, {"temp": s["temp"]}) for r, w, s in other]
    data = inputs(card, train, test, none)
    for module in (acf, marginals, dtw, predictive):
        found = {r.metric: r for r in module.measure(data, module.Config())}
        assert next(r for m, r in found.items() if "bvp" in m).value is None
        assert next(r for m, r in found.items() if "temp" in m).value is not None
    names = {r.metric for r in physiology.measure(data, physiology.Config())}
    assert "KS HR" not in names
    assert "KS skin temperature" in names


def test_a_channel_that_never_varies_has_no_skewness(sides):
    """Missed calls may be 0 on all days of a few persons."""
    card, (train, test, other) = sides
    flat = changed(other, lambda n, v, i: v * 0 + 1 if n == "temp" else v)
    found = {r.metric: r for r in marginals.measure(inputs(card, train, test, flat), marginals.Config())}
    assert found["skewness difference temp"].value is None
    assert "no channel varies" in found["kurtosis difference temp"].note
    assert found["marginal distance temp"].value > 0
    assert found["skewness difference bvp"].value is not None


def test_event_logs_are_compared_per_kind(home):
    spec = {"calls": StreamSpec(channels=("in", "out"), kind="events")}
    card = replace(simulated_card(), streams=spec)

    def log(rate, seed):
        rng = np.random.default_rng(seed)
        t = np.sort(rng.uniform(0, 3600, rng.poisson(rate)))
        return Events(
            times_s=t,
            durations_s=rng.exponential(60, len(t)),
            codes=np.zeros(len(t)),
            kinds=("in", "out"),
            seconds=3600.0,
        )

    def rows(rate, seed):
        return [{"calls": log(rate, [seed, i])} for i in range(40)]

    found = []
    for rate in (10, 20, 60):
        shown = Windows(
            train=rows(10, 0), test=rows(10, 1), synthetic=rows(rate, 2), card=card, seconds=3600.0, valid_sequences=1
        )
        results = events.measure(Inputs(tables=None, windows=shown), events.Config())  # type: ignore[arg-type]
        found.append(value(results, "KS calls.in count"))
        assert next(r for r in results if "out gap" in r.metric).value is None
    assert found == sorted(found)
    assert found[0] < 0.4 < found[-1]


def test_vitals_know_streams_by_their_names():
    card = simulated_card()
    assert vitals.roles(card) == {"pulse": "bvp", "breath": "resp", "eda": "eda", "temp": "temp"}
    strange = replace(card, streams={"x": StreamSpec(channels=("x",), unit="g", rate_hz=10.0)})
    assert vitals.roles(strange) == {}
    s = Signal(values=np.zeros((100, 1)), rate_hz=10.0, channels=("x",), unit="g")
    assert np.isnan(vitals.table([{"x": s}], strange)).all()
