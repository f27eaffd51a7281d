"""Fidelity metrics against oracles, and against corruptions that they claim to see: each must rise as the corruption does.

Nothing is generated here. "Synthetic" are windows of other simulated persons, which are then spoiled in one controlled way
(after STEB's corruptions); unspoiled they must look like real persons do to each other.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mien.core import plugins
from mien.core.intervals import Interval
from mien.core.records import Events, Recording, Signal, StreamSpec, cut, recording_windows
from mien.data import vitals
from mien.data.datasets import simulated
from mien.data.features import of_windows
from mien.evaluation import comparisons
from mien.evaluation.fidelity import (
    acf,
    adherence,
    c2st,
    dtw,
    events,
    frechet,
    marginals,
    mmd,
    physiology,
    prdc,
    predictive,
    spectra,
)  # fmt: skip
from mien.evaluation.protocols import Inputs, Tables, Windows
from mien.evaluation.utility import tstr_groups

STREAMS = ("bvp", "resp", "eda", "temp")


def people(first: int, count: int, config: simulated.Config):
    return [simulated.record(s, config) for p in range(first, first + count) for s in simulated.sessions(config, p)]


@pytest.fixture(scope="module")
def sides(tmp_path_factory):
    """Windows of 30 s: of training, held-out and other persons, with their recordings."""
    config = simulated.Config(persons=60, sessions=2, seconds=30, seed=21, label_effect=3.0)
    card = simulated_card()
    out = []
    for first in (0, 20, 40):
        rows = []
        for r in people(first, 20, config):
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
    """White noise, in standard deviations of each signal."""
    rng = np.random.default_rng(1)
    return changed(rows, lambda n, v, i: v + much * v.std() * rng.normal(size=v.shape))


def collapsed(rows, much):
    """A share of the windows replaced by one and the same of their label."""
    keep = max(1, round(len(rows) * (1 - much)))
    first = {r.labels["stress"]: s for r, _, s in reversed(rows)}
    return [(r, w, s if i < keep else first[r.labels["stress"]]) for i, (r, w, s) in enumerate(rows)]


def misaligned(rows, much):
    """The breath of a share of the windows comes from the next person."""
    k = round(len(rows) * much)
    return [
        (r, w, s | {"resp": rows[(i + 2) % len(rows)][2]["resp"]} if i < k else s) for i, (r, w, s) in enumerate(rows)
    ]


def delayed(rows, much):
    """The breath comes so many seconds late, and its end first."""
    return changed(rows, lambda n, v, i: np.roll(v, round(much * 25), axis=0) if n == "resp" else v)


def scaled(rows, much):
    """Amplitudes about each window's mean grow."""
    return changed(rows, lambda n, v, i: v.mean(0) + (v - v.mean(0)) * (1 + much))


def offset(rows, much):
    """Levels rise, in standard deviations of each signal."""
    return changed(rows, lambda n, v, i: v + much * v.std())


def relabelled(rows, much):
    """A share of the labels of each class is wrong."""
    swap, out = {"calm": "stress", "stress": "calm"}, list(rows)
    for c in swap:
        mine = [i for i, (r, *_) in enumerate(rows) if r.labels["stress"] == c]
        for i in mine[: round(len(rows) / 2 * much)]:
            r, w, s = rows[i]
            out[i] = (replace(r, labels={"stress": swap[c]}), w, s)
    return out


def shuffled(rows, much):
    """A share of each signal's samples change places: values stay, time does not."""
    rng = np.random.default_rng(2)

    def how(n, v, i):
        at = rng.choice(len(v), size=round(len(v) * much), replace=False)
        out = v.copy()
        out[at] = v[rng.permutation(at)]
        return out

    return changed(rows, how)


def shifted(rows, much):
    """All streams of a window begin so many seconds later, what was first comes last: nothing anybody would mind."""
    return changed(rows, lambda n, v, i: np.roll(v, round(much * len(v) / 30), axis=0))


def value(results, metric: str) -> float:
    (one,) = [r for r in results if r.metric == metric]
    assert one.value is not None, one.note
    return one.value


USUAL = {  # rising strengths, the least above what two groups of twenty persons differ by anyway
    noisy: (1.0, 2.0, 4.0), collapsed: (0.5, 0.8, 0.96), misaligned: (0.3, 0.6, 1.0), delayed: (3.0, 6.0, 12.0),
    scaled: (1.0, 2.0, 5.0), offset: (1.0, 2.0, 4.0), relabelled: (0.3, 0.6, 0.9), shuffled: (0.3, 0.5, 0.9), shifted: (2.0, 5.0, 11.0),
}  # fmt: skip
# What looks at window statistics sees corruptions that samples drown among persons, and is saturated by those they show.
FINE = {
    noisy: (0.1, 0.2, 0.5), scaled: (0.1, 0.3, 1.0), offset: (0.3, 1.0, 2.0), collapsed: (0.5, 0.8, 0.96), shuffled: (0.01, 0.03, 0.2),
}  # fmt: skip
PHYSIOLOGY = (physiology, {"streams": {}})


def usual(*corruptions):
    return {c: USUAL[c] for c in corruptions}


def fine(*corruptions):
    return {c: FINE[c] for c in corruptions}


CLAIMS = {  # what: ((module, options, metric, +1 when worse is larger), what it must see, what it must not: how much at most)
    "c2st": ((c2st, {"trees": 40}, "C2ST accuracy", 1), fine(noisy, scaled, shuffled), {relabelled: 0.1}),
    "spectra": ((spectra, {}, "log-spectrum distance resp", 1), usual(noisy, scaled, shuffled), {offset: 1e-5, relabelled: 1e-9}),
    "coverage": ((prdc, {}, "coverage", -1), fine(noisy, collapsed, scaled, offset), {relabelled: 1e-9}),
    "precision": ((prdc, {}, "precision", -1), fine(noisy, scaled, offset), {relabelled: 1e-9}),
    "density": ((prdc, {}, "density", -1), fine(noisy, scaled, offset), {relabelled: 1e-9}),
    "mmd": ((mmd, {}, "MMD²", 1), fine(noisy, collapsed, scaled, offset, shuffled), {relabelled: 1e-9, shifted: 0.01}),
    "frechet": ((frechet, {}, "Fréchet distance", 1), fine(noisy, collapsed, scaled, offset, shuffled), {relabelled: 1e-9}),
    "acf": ((acf, {}, "autocorrelation difference resp", 1), usual(noisy, shuffled), {scaled: 1e-6, offset: 1e-4, shifted: 0.02}),
    "marginal": (
        (marginals, {}, "marginal distance bvp", 1), usual(noisy, scaled, offset), {shuffled: 0.03, misaligned: 1e-9, shifted: 0.03},
    ),
    "marginal KS": ((marginals, {}, "marginal KS bvp", 1), usual(noisy, scaled, offset), {shuffled: 0.03, misaligned: 1e-9}),
    "skewness": ((marginals, {}, "skewness difference bvp", 1), usual(noisy), {relabelled: 1e-9}),
    "dtw": ((dtw, {"most": 30}, "nearest DTW resp", 1), usual(noisy, scaled, shuffled, offset), {shifted: 0.15}),
    "predictive": ((predictive, {}, "predictive error resp", 1), usual(noisy, shuffled), {scaled: 0.02, offset: 1e-4, misaligned: 0.02}),
    "possible": ((*PHYSIOLOGY, "possible physiology", -1), usual(shuffled), {scaled: 1e-9, offset: 1e-9, relabelled: 1e-9}),
    "RMSSD": ((*PHYSIOLOGY, "KS RMSSD", 1), usual(shuffled), {scaled: 0.05, misaligned: 1e-9}),
    "tonic": ((*PHYSIOLOGY, "Wasserstein tonic EDA", 1), {offset: (20.0, 40.0, 80.0)}, {misaligned: 1e-9}),
    "HR by label": ((*PHYSIOLOGY, "KS HR | calm", 1), usual(relabelled), {offset: 0.05}),
    "coherence": ((*PHYSIOLOGY, "mean HR-breath coherence", -1), usual(misaligned, delayed), {relabelled: 1e-9, scaled: 0.01}),
    "correlation": ((*PHYSIOLOGY, "mean HR-breath correlation", -1), usual(misaligned, delayed), {relabelled: 1e-9, scaled: 0.01}),
    "adherence": ((adherence, {"trees": 60}, "adherence balanced accuracy", -1), usual(relabelled), {shifted: 0.1}),
    "TSTR": ((tstr_groups, {"trees": 40, "streams": False}, "TSTR macro-F1 cardiorespiratory", -1), usual(relabelled), {}),
}  # fmt: skip


@pytest.fixture(scope="module")
def whole():
    """What was measured of samples that nothing was done to, which every corruption begins with."""
    return {}


@pytest.fixture
def values_alone(monkeypatch):
    """No intervals: a jackknife over twenty persons is most of what a metric takes, and nobody reads it here."""

    def no_interval(statistic, persons, *arrays, **_):
        return Interval(value=float(statistic(*arrays)), low=None, high=None, n_persons=len(np.unique(persons)))

    monkeypatch.setattr(comparisons, "over_persons", no_interval)


@pytest.mark.parametrize("corruption", USUAL, ids=lambda c: c.__name__)
def test_metrics_see_what_they_claim_to_see_and_nothing_else(sides, whole, values_alone, corruption):
    """What is claimed rises at every step of rising strength, and where blindness is claimed the strongest moves nothing."""
    card, (train, test, other) = sides
    wrong, made, measured = {}, {}, {}

    def at(much, module, options, name, sign):
        if much not in made:
            made[much] = inputs(card, train, test, corruption(other, much) if much else other)
        known, key = measured if much else whole, (much, module, str(options))
        if key not in known:
            known[key] = module.measure(made[much], module.Config(**options))
        return sign * value(known[key], name)

    for what, (metric, sees, blind) in CLAIMS.items():
        if corruption in sees:
            found = [at(much, *metric) for much in (0.0, *sees[corruption])]
            good = found == sorted(found) and found[-1] > found[0] + 0.02
        elif corruption in blind:
            found = [at(much, *metric) for much in (0.0, USUAL[corruption][-1])]
            good = abs(found[1] - found[0]) <= blind[corruption]
        else:
            continue
        if not good:
            wrong[what] = [round(x, 4) for x in found]
    assert not wrong, wrong


def test_every_metric_makes_a_claim_and_every_corruption_is_seen():
    claimed = {claim[0][0].__name__.rpartition(".")[2] for claim in CLAIMS.values() if claim[1]}
    assert set(plugins.names("evaluation/fidelity")) - claimed == {
        "validity",
        "events",
        "lips",
    }  # which have tests of their own
    seen = {c for claim in CLAIMS.values() for c in claim[1]}
    assert set(USUAL) - seen == {shifted}  # which nobody must mind


def test_other_persons_look_as_real_persons_do_to_each_other(sides):
    card, (train, test, other) = sides
    data = inputs(card, train, test, other)
    for module in (prdc, mmd, frechet, acf, marginals, dtw, predictive, physiology):
        for r in module.measure(data, module.Config()):
            if any(x in r.metric for x in ("tenth of persons", "skewness", "kurtosis", "Wasserstein", "|", "movement")):
                continue  # of two persons, of extremes, in units of their own, of half the windows; or there is none
            control = r.baselines[0].value
            assert r.value is not None
            assert control is not None
            assert abs(r.value - control) < 0.25 * max(1.0, abs(control)), (r.metric, r.value, control)
            if len(r.baselines) > 1 and "dealt anew" in r.baselines[1].name:
                assert r.value < 2 * r.baselines[1].value, (r.metric, r.value, r.baselines[1].value)


# --- what the codec loses, and what the model does -----------------------------------------------------------
def with_codec(data: Inputs, card, train, test) -> Inputs:
    """`data`, whose real windows came back from a codec as `train` and `test`."""
    coded = {"codec": train, "codec_test": test}
    return replace(
        data,
        tables=replace(data.tables, **{k: of_windows(rows, card, card, "stress") for k, rows in coded.items()}),
        windows=replace(data.windows, **{k: [s for *_, s in rows] for k, rows in coded.items()}),
    )


def beside(results, metric: str, name: str) -> float:
    r = next(r for r in results if r.metric == metric)
    return next(b.value for b in r.baselines if b.name == name)


def test_what_is_lost_is_told_to_be_the_codecs_or_the_models(sides):
    """A codec that confounds breath and heart, under a perfect model; a perfect codec, under a model that knows no labels."""
    card, (train, test, other) = sides
    options = tstr_groups.Config(trees=60, streams=False)
    metric = "TSTR macro-F1 cardiorespiratory"
    for coded, made, by in ((relabelled(train, 1.0), other, "codec"), (train, relabelled(other, 1.0), "model")):
        found = tstr_groups.measure(with_codec(inputs(card, train, test, made), card, coded, test), options)
        r = next(r for r in found if r.metric == metric)
        trtr, codec = beside(found, metric, "TRTR"), beside(found, metric, "codec")
        lost = {"codec": trtr - codec, "model": codec - r.value}
        assert lost[by] > 0.2
        assert r.note == f"lost by the codec: {lost['codec']:+.3f}; by the model: {lost['model']:+.3f}"
    without = tstr_groups.measure(inputs(card, train, test, other), options)
    assert all(b.name != "codec" for r in without for b in r.baselines)


def test_a_codec_that_drops_noise_is_found_out_by_name(sides):
    from scipy.ndimage import uniform_filter1d

    card, (train, test, other) = sides
    data = inputs(card, train, test, other)
    name = "coverage"
    same = prdc.measure(with_codec(data, card, train, test), prdc.Config())
    assert beside(same, name, prdc.CODEC) == beside(same, name, comparisons.REAL)
    assert value(same, "statistics out of the codec's reach") == 0
    dull = changed(test, lambda n, v, i: uniform_filter1d(v, 8, axis=0) if n == "temp" else v)
    found = prdc.measure(with_codec(data, card, train, dull), prdc.Config())
    assert beside(found, name, prdc.CODEC) < beside(found, name, comparisons.REAL) - 0.2
    assert beside(found, f"{name} (vital signs)", prdc.CODEC) == pytest.approx(
        beside(found, f"{name} (vital signs)", comparisons.REAL), abs=0.1
    )
    (r,) = (r for r in found if r.metric == "statistics out of the codec's reach")
    assert "temp.temp.power_high" in r.note
    assert "bvp" not in r.note
    # a window that could not be written is left out, and what cannot be written at all has no row
    lost = [(r, w, {} if i < 5 else s) for i, (r, w, s) in enumerate(test)]
    assert beside(prdc.measure(with_codec(data, card, train, lost), prdc.Config()), name, prdc.CODEC) > 0.5
    nothing = with_codec(data, card, train, [(r, w, {}) for r, w, _ in test])
    assert all(b.name != prdc.CODEC for r in prdc.measure(nothing, prdc.Config()) for b in r.baselines)


def test_intervals_are_over_real_persons_and_hold_the_value(sides):
    card, (train, test, other) = sides
    data = inputs(card, train, test, other)
    for module, with_one in (
        (acf, "resp"),
        (marginals, "bvp"),
        (predictive, "resp"),
        (physiology, "KS HR"),
        (prdc, "coverage"),
    ):
        r = next(r for r in module.measure(data, module.Config()) if with_one in r.metric)
        assert r.n_persons == 20
        assert r.low is not None
        assert r.high is not None
        assert 0 <= r.low <= r.value <= r.high
        assert r.baselines[0].low <= r.baselines[0].value <= r.baselines[0].high


def test_how_many_of_each_label_were_asked_for_is_no_infidelity(sides):
    """The same windows, those of stress left out but for a fifth: mixed as in the training windows before comparing."""
    card, (train, test, other) = sides
    calm = [x for x in other if x[0].labels["stress"] == "calm"]
    stress = [x for x in other if x[0].labels["stress"] == "stress"]
    lopsided = inputs(card, train, test, calm + stress[:4])
    found = value(mmd.measure(lopsided, mmd.Config()), "MMD²")
    one_sided = value(mmd.measure(inputs(card, train, test, calm), mmd.Config()), "MMD²")
    assert found < 0.7 * one_sided  # and a label that is missing is seen all the same
    rows = comparisons.alike(np.array(["a"] * 90 + ["b"] * 10), np.array(["a", "b"]), 1000, 0)
    assert len(rows) == 20
    assert (rows < 90).sum() == 10


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
    assert comparisons.ks(a, b) == pytest.approx(ks_2samp(a, b[:-1]).statistic)
    assert np.isnan(comparisons.ks(a, np.array([np.nan])))


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
    found = {r.metric: r for r in physiology.measure(data, physiology.Config())}
    assert found["KS HR"].value is None
    assert "found in 40 of 40 training and 0 of 40 synthetic windows" in found["KS HR"].note
    assert found["possible physiology"].value == 0  # a heart in which no beat is found is no possible heart
    assert "no stream for acc" in found["KS movement"].note
    assert found["KS skin temperature"].value is not None


def test_a_channel_that_never_varies_has_no_skewness(sides):
    """Missed calls may be 0 on all days of a few persons."""
    card, (train, test, other) = sides
    flat = changed(other, lambda n, v, i: v * 0 + 1 if n == "temp" else v)
    found = {r.metric: r for r in marginals.measure(inputs(card, train, test, flat), marginals.Config())}
    assert found["skewness difference temp"].value is None
    assert "not a number" in found["kurtosis difference temp"].note
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
        out = []
        for i in range(40):
            r = Recording(
                id=f"{seed}-{i}", person=f"{seed}-{i // 4}", streams={"calls": log(rate, [seed, i])}, 
                labels={"stress": ("calm", "stress")[i % 2]},
            )  # fmt: skip
            out.append((r, next(iter(recording_windows(r, 3600.0, 3600.0))), dict(r.streams)))
        return out

    found = []
    for rate in (10, 20, 60):
        data = inputs(card, rows(10, 0), rows(10, 1), rows(rate, 2))
        results = events.measure(data, events.Config())
        found.append(value(results, "KS calls.in rate"))
        assert next(r for r in results if "out gap" in r.metric).value is None
        assert next(r for r in results if "in gap" in r.metric).n_persons == 10
        for module in (acf, marginals, dtw, predictive):  # what takes signals says why not
            assert {r.note for r in module.measure(data, module.Config())} == {
                "not measured: calls holds events, no signal"
            }
    assert found == sorted(found)
    assert found[0] < 0.4 < found[-1]


def test_vitals_know_streams_by_their_names():
    card = simulated_card()
    assert vitals.roles(card) == {"pulse": "bvp", "breath": "resp", "eda": "eda", "temp": "temp"}
    strange = replace(card, streams={"x": StreamSpec(channels=("x",), unit="au", rate_hz=10.0)})
    assert vitals.roles(strange) == {}
    s = Signal(values=np.zeros((100, 1)), rate_hz=10.0, channels=("x",), unit="g")
    assert np.isnan(vitals.table([{"x": s}], vitals.roles(strange))).all()
