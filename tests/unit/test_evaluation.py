"""Metrics: perfect copies, shuffled labels, shifted signals; controls; bad input; the same bits from the same seed."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from mien.core import plugins
from mien.core.errors import MienError
from mien.core.records import Cohort, Signal
from mien.data import features
from mien.data.features import WindowTable
from mien.data.splits import Splits
from mien.evaluation.fidelity import adherence, c2st, frechet, spectra, validity
from mien.evaluation.protocols import Inputs, Tables, Windows, gather
from mien.evaluation.utility import tstr

from ..conftest import CARD, recordings


def table(persons: range, seed: int, shift: float = 0.0, each: int = 24, prefix: str = "p", d: int = 5) -> WindowTable:
    """Two classes three SD apart, persons a little different."""
    rng = np.random.default_rng(seed)
    rows = [(p, c) for p in persons for c in ("rest", "walk") for _ in range(each // 2)]
    offset = {p: 0.3 * np.random.default_rng([7, p]).normal(size=d) for p in persons}
    X = np.array([rng.normal(size=d) + (3 if c == "walk" else 0) * np.eye(d)[0] + offset[p] + shift for p, c in rows])
    return WindowTable(
        X=X,
        meta=rng.normal(size=(len(rows), 2)),
        label=np.array([c for _, c in rows], dtype=object),
        person=np.array([f"{prefix}{p}" for p, _ in rows], dtype=object),
        recording=np.array([f"{prefix}{p}-{i % each}" for i, (p, _) in enumerate(rows)], dtype=object),
        skipped={},
    )


def windows(seed: int, noise: float = 0.0, persons: int = 4) -> list[dict[str, Signal]]:
    rng, out = np.random.default_rng(seed), []
    for r in recordings(persons, 4, seed=seed, seconds=4.0):
        out.append(
            {
                n: replace(
                    s, values=np.clip(s.values + noise * rng.normal(size=s.values.shape), *CARD.streams[n].range)
                )
                for n, s in r.streams.items()
            }
        )
    return out


def inputs(synthetic: WindowTable, noise: float = 0.0, **kw) -> Inputs:
    tables = Tables(
        train=table(range(0, 5), 0), test=table(range(5, 10), 1), synthetic=synthetic, classes=("rest", "walk"),
        codec=table(range(0, 5), 0),
    )  # fmt: skip
    tables = replace(tables, **kw)
    some = {name: windows(i, noise * (i == 2)) for i, name in enumerate(("train", "test", "synthetic"))}
    rows = {name: [w[i % len(w)] for i in range(len(getattr(tables, name)))] for name, w in some.items()}
    return Inputs(tables=tables, windows=Windows(**rows, card=CARD, seconds=4.0, valid_sequences=1.0))


def value(results, metric: str):
    """A result, or a baseline of the TSTR row ("TRTR accuracy")."""
    found = next((r for r in results if r.metric == metric), None)
    name, _, kind = metric.rpartition(" ")
    return found or next(b for b in value(results, f"TSTR {kind}").baselines if b.name == name)


@pytest.mark.parametrize("kind", ["utility", "fidelity"])
def test_every_metric_conforms(kind):
    d = len(features.names(CARD))
    data = inputs(
        table(range(20, 25), 2, prefix="s", d=d),
        train=table(range(0, 5), 0, d=d),
        test=table(range(5, 10), 1, d=d),
        codec=table(range(0, 5), 0, d=d),
    )
    for name in plugins.names(f"evaluation/{kind}"):
        module = plugins.load(f"evaluation/{kind}", name)
        assert isinstance(module.HIGHER_IS_BETTER, bool)
        first, again = (module.measure(data, module.Config()) for _ in range(2))
        assert first == again, f"{name} is not deterministic"
        for r in first:
            assert r.value is None or r.low is None or r.low - 1e-9 <= r.value <= r.high + 1e-9


def test_tstr_of_a_copy_is_trtr_and_of_shuffled_labels_is_chance():
    train = table(range(0, 5), 0)
    found = tstr.measure(inputs(train), tstr.Config(trees=50))
    assert value(found, "TSTR accuracy").value == value(found, "TRTR accuracy").value > 0.8
    gap = value(found, "TSTR − TRTR accuracy")
    assert gap.value == 0
    shuffled = replace(train, label=np.random.default_rng(0).permutation(train.label))
    found = tstr.measure(inputs(shuffled), tstr.Config(trees=50))
    assert abs(value(found, "TSTR accuracy").value - 0.5) < 0.15
    gap = value(found, "TSTR − TRTR accuracy")
    assert gap.high < 0
    assert abs(value(found, "metadata only accuracy").value - 0.5) < 0.15
    assert value(found, "majority accuracy").value == 0.5
    assert value(found, "majority macro-F1").value == pytest.approx(1 / 3)
    assert {b.name for b in value(found, "TSTR accuracy").baselines} == {
        "TRTR", "TRTR n-matched", "codec", "metadata only", "majority",
    }  # fmt: skip


def test_macro_f1_equals_scikit_learn():
    from sklearn.metrics import f1_score

    rng = np.random.default_rng(0)
    for _ in range(20):
        truth = rng.choice(["a", "b", "c"], 40).astype(object)
        predicted = rng.choice(["a", "b", "c"], 40).astype(object)
        wanted = f1_score(truth, predicted, labels=sorted(set(truth)), average="macro", zero_division=0)
        assert tstr.macro_f1(truth, predicted) == pytest.approx(wanted)


def test_a_class_without_synthetic_recordings_counts_as_wrong():
    synthetic = table(range(20, 25), 2)
    half = synthetic.rows(synthetic.label == "rest")
    found = value(tstr.measure(inputs(half), tstr.Config(trees=20)), "TSTR accuracy")
    assert found.value == 0.5
    assert "no synthetic recording of walk" in found.note


def test_a_class_missing_in_real_training_is_refused():
    train = table(range(0, 5), 0)
    with pytest.raises(MienError, match="no training window has the label 'walk'"):
        inputs(train, train=train.rows(train.label == "rest"))


def test_c2st_control_near_chance_and_shift_found():
    same = c2st.measure(inputs(table(range(20, 40), 3, prefix="s", each=6)), c2st.Config(trees=50))[0]
    assert same.baselines[0].value < 0.8  # other persons, who differ a little
    shifted = c2st.measure(inputs(table(range(20, 40), 3, 5.0, prefix="s", each=6)), c2st.Config(trees=50))[0]
    assert shifted.value > 0.97
    assert shifted.value > same.value


def test_c2st_says_when_nobody_can_be_kept_apart():
    synthetic = table(range(20, 40), 3, 5.0, prefix="s", each=6)
    one = table(range(5, 6), 1)
    found = c2st.measure(inputs(synthetic, test=one), c2st.Config(trees=20))[0]
    assert found.value > 0.97
    assert found.baselines[0].value is None  # never "indistinguishable" because nothing was judged
    found = c2st.measure(inputs(synthetic, train=one), c2st.Config(trees=20))[0]
    assert found.value is None
    assert "fewer than two persons" in found.note
    with pytest.raises(ValueError, match="greater than or equal to 2"):
        c2st.Config(folds=1)


def test_c2st_and_its_control_judge_as_many_windows(monkeypatch):
    seen, real = [], c2st._told_apart
    monkeypatch.setattr(c2st, "_told_apart", lambda a, b, n, *x, **k: seen.append(n) or real(a, b, n, *x, **k))
    c2st.measure(inputs(table(range(20, 25), 3, prefix="s", each=6)), c2st.Config(trees=5))
    assert seen == [{"rest": 15, "walk": 15}] * 2


def mixed(persons: range, prefix: str, rest: int, walk: int) -> WindowTable:
    """So many windows of each label of every person, and the persons alike."""
    rng = np.random.default_rng([persons.start, rest, walk])
    label = np.array((["rest"] * rest + ["walk"] * walk) * len(persons), dtype=object)
    person = np.repeat(np.array([f"{prefix}{p}" for p in persons], dtype=object), rest + walk)
    X = rng.normal(size=(len(label), 3)) + np.where(label == "walk", 1.5, 0)[:, None]
    return WindowTable(X=X, meta=np.zeros((len(X), 2)), label=label, person=person, recording=person, skipped={})


@pytest.fixture
def unlike_mixes() -> Inputs:
    """Real windows at nine to one, and as faithful synthetic ones at one to one, whose movement hangs on the label."""
    tables = Tables(
        train=mixed(range(0, 12), "p", 27, 3), test=mixed(range(12, 24), "p", 27, 3), classes=("rest", "walk"),
        synthetic=mixed(range(24, 44), "s", 9, 9),
    )  # fmt: skip
    rng = np.random.default_rng(0)

    def moving(label: str) -> dict[str, Signal]:
        shake = (1.0 if label == "walk" else 0.05) * rng.normal(size=(80, 3))
        return {"acc": Signal(values=shake, rate_hz=20.0, channels=("x", "y", "z"), unit="g")}

    rows = {side: [moving(c) for c in getattr(tables, side).label] for side in ("train", "test", "synthetic")}
    return Inputs(tables=tables, windows=Windows(**rows, card=CARD, seconds=4.0, valid_sequences=1.0))


@pytest.mark.parametrize(
    ("metric", "name", "room"),
    [
        (spectra, "log-spectrum distance acc", 0.15),
        (c2st, "C2ST accuracy", 0.12),
        (adherence, "adherence balanced accuracy", 0.08),
        (adherence, "adherence recall rest", 0.05),
        (adherence, "adherence recall walk", 0.15),
    ],
)
def test_how_many_of_each_label_were_asked_for_moves_no_metric(unlike_mixes, metric, name, room):
    found = value(metric.measure(unlike_mixes, metric.Config(**{} if metric is spectra else {"trees": 60})), name)
    assert abs(found.value - found.baselines[0].value) < room


def test_c2st_sees_a_label_that_nobody_was_given():
    synthetic = table(range(20, 40), 3, prefix="s", each=6)
    one, both = (synthetic.rows(synthetic.label == "rest"), synthetic)
    assert c2st._counts((one, table(range(5), 0)), 600) == {"rest": 60, "walk": 60}
    found = [c2st.measure(inputs(x), c2st.Config(trees=30))[0].value for x in (one, both)]
    assert found[0] > found[1]


@pytest.mark.parametrize(("persons", "others"), [(20, 5), (40, 4), (10, 10)])
def test_frechets_chance_level_is_that_of_as_many_windows(persons, others):
    """Dealt groups hold whole persons, and were as lopsided as the persons are; here nothing but chance tells them apart."""
    rng = np.random.default_rng(persons)

    def drawn(n: int, many: int, prefix: str) -> WindowTable:
        person = np.array([f"{prefix}{i % many:02d}" for i in range(n)], dtype=object)
        label = np.array([("rest", "walk")[i // many % 2] for i in range(n)], dtype=object)
        return WindowTable(
            X=rng.normal(size=(n, 20)), meta=np.zeros((n, 2)), label=label, person=person, recording=person, skipped={}
        )

    tables = Tables(
        train=drawn(400, persons, "t"), test=drawn(400, others, "h"), synthetic=drawn(400, 400, "s"), classes=("rest", "walk")
    )  # fmt: skip
    nothing = [{}] * 400
    data = Inputs(
        tables=tables, windows=Windows(train=nothing, test=nothing, synthetic=nothing, card=CARD, seconds=4.0, valid_sequences=1.0)
    )  # fmt: skip
    (found,) = frechet.measure(data, frechet.Config())
    n = int(re.search(r"of (\d+) windows a side", found.note)[1])
    draws = [frechet.frechet(rng.normal(size=(n, 20)), rng.normal(size=(n, 20))) for _ in range(200)]
    assert found.baselines[1].value == pytest.approx(np.quantile(draws, 0.95), rel=0.25)
    assert all(
        0.5 * np.median(draws) < x < 2 * np.quantile(draws, 0.95) for x in (found.value, found.baselines[0].value)
    )


def test_folds_part_groups_also_where_a_person_is_on_both_sides():
    groups = np.repeat(["a", "b", "c", "d", "b", "c", "e", "f"], 3)
    side = np.repeat([0, 1], 12)
    seen = np.zeros(len(groups), dtype=int)
    for out in c2st._folds(groups, side, 3, np.random.default_rng(0)):
        assert not set(groups[out]) & set(groups[~out])
        seen += out
    assert (seen == 1).all()


def test_no_synthetic_window_is_refused():
    train = table(range(0, 5), 0)
    with pytest.raises(MienError, match="no window"):
        inputs(train.rows(np.zeros(len(train), dtype=bool)))


def test_spectra_of_other_rates_or_absent_streams_are_not_compared():
    data = inputs(table(range(20, 25), 2))

    def with_acc(change):
        made = [{n: change(s) if n == "acc" else s for n, s in w.items()} for w in data.windows.synthetic]
        made = [{n: s for n, s in w.items() if s is not None} for w in made]
        changed = replace(data, windows=replace(data.windows, synthetic=made))
        return value(spectra.measure(changed, spectra.Config()), "log-spectrum distance acc")

    assert with_acc(lambda s: s).value is not None
    other = with_acc(lambda s: replace(s, rate_hz=s.rate_hz / 5))
    assert other.value is None
    assert "differ in rate" in other.note
    assert "no synthetic window has the stream" in with_acc(lambda s: None).note


def test_words_mean_the_same_number_in_train_and_test():
    """Else the confounder baseline is read with another code book than it was learned with, and looks harmless."""
    sexes = {"p00": "f", "p01": "m", "p02": "m", "p03": "f"}  # each side meets the other word first
    made = [replace(r, attributes={"sex": sexes[r.person]}) for r in recordings(4, 4, seconds=4.0)]
    cohort = Cohort.build(made, card=CARD)
    split = Splits(kind="person", train=("p00", "p01"), validation=(), holdout=("p02", "p03"), seed=0)
    data = gather(
        cohort, cohort, split, seconds=4.0, stride_s=4.0, task="activity",
        through=lambda streams, label: {"acc": streams["acc"]}, valid_sequences=1.0,
    )  # fmt: skip
    codes = {}
    for t in (data.tables.train, data.tables.test):
        for person, code in zip(t.person, t.meta[:, 1], strict=True):
            codes.setdefault(sexes[person], set()).add(code)
    assert codes["f"] != codes["m"]
    assert {len(c) for c in codes.values()} == {1}
    assert set(data.tables.train.person) == {"p00", "p01"}
    assert set(data.tables.test.person) == {"p02", "p03"}
    for real, coded in (("train", "codec"), ("test", "codec_test")):  # row by row the same windows
        one, two = (getattr(data.tables, side) for side in (real, coded))
        assert one.recording.tolist() == two.recording.tolist()
        mine = [c.startswith("acc.") for c in features.names(CARD)]
        assert np.array_equal(one.X[:, mine], two.X[:, mine])
        assert np.isnan(two.X[:, [not m for m in mine]]).all()
        assert [set(w) for w in getattr(data.windows, coded)] == [{"acc"}] * len(one)
    with pytest.raises(MienError, match="codec: 8 rows"):
        replace(data, windows=replace(data.windows, codec=data.windows.codec[:-1]))


def test_long_synthetic_recordings_are_cut_into_windows_like_the_real_ones():
    """Else a metric is handed a whole recording for each of its windows, and tells the generator's length as its fault."""
    real = Cohort.build(recordings(6, 4, seconds=4.0), card=CARD)
    long = [replace(r, id=f"s{i}", person=f"s{i}") for i, r in enumerate(recordings(6, 2, seed=1, seconds=13.0))]
    split = Splits(kind="person", train=("p00", "p01", "p02"), validation=(), holdout=("p03", "p04", "p05"), seed=0)
    data = gather(
        real, Cohort.build(long, card=CARD), split, seconds=4.0, stride_s=4.0, task="activity",
        through=lambda streams, label: dict(streams), valid_sequences=1.0,
    )  # fmt: skip
    made = data.windows.synthetic
    assert len(made) == 3 * len(long)
    assert all(w["acc"].values.shape == (80, 3) and w["eda"].values.shape == (16, 1) for w in made)
    assert np.array_equal(made[1]["acc"].values, long[0].streams["acc"].values[80:160])
    assert len(np.unique(data.tables.synthetic.X, axis=0)) == len(made)
    assert value(validity.measure(data, validity.Config()), "valid recordings").value == 1.0
    assert value(spectra.measure(data, spectra.Config()), "log-spectrum distance acc").value is not None


def test_spectra_are_zero_for_the_same_and_grow_with_noise():
    real = windows(0)
    assert spectra._distance(*[spectra.spectrum(real, "acc", 1e-4)] * 2) == 0
    seen = [
        value(
            spectra.measure(inputs(table(range(20, 25), 2), noise), spectra.Config()), "log-spectrum distance acc"
        ).value
        for noise in (0.0, 0.1, 0.4, 1.5)
    ]
    assert seen == sorted(seen)
    assert seen[-1] > 2 * seen[0]
    assert spectra.spectrum(real, "ecg", 1e-4) is None


@pytest.mark.parametrize(
    "spoil",
    [
        lambda s: replace(s, values=s.values * 100),
        lambda s: replace(s, values=s.values[:-3]),
        lambda s: replace(s, rate_hz=7.0),
        lambda s: replace(s, valid=np.zeros(len(s.values), bool)),
    ],
)
def test_validity_sees(spoil):
    data = inputs(table(range(20, 25), 2))
    good = validity.measure(data, validity.Config())[1].value
    assert good == 1.0
    bad = [dict(w) for w in data.windows.synthetic]
    bad[0]["acc"] = spoil(bad[0]["acc"])
    worse = replace(data, windows=replace(data.windows, synthetic=bad))
    assert validity.measure(worse, validity.Config())[1].value == pytest.approx(1 - 1 / len(bad))


# --- features -------------------------------------------------------------------------------------------
def slow_features(streams, card) -> list[float]:
    out = []
    for name in sorted(card.streams):
        v = streams[name].values.astype(float)
        n, k = v.shape
        for c in range(k):
            x = v[:, c]
            out += [x.mean(), x.std(), x.min(), np.quantile(x, 0.25), np.quantile(x, 0.75), x.max()]
            bands = [0.0, 0.0, 0.0]
            for f, z in zip(np.fft.rfftfreq(n, 1 / streams[name].rate_hz), np.fft.rfft(x - x.mean()), strict=True):
                bands[0 if f < 0.5 else 1 if f < 2 else 2] += 2 * abs(z) ** 2 / n**2
            out += [*bands, np.fft.rfftfreq(n, 1 / streams[name].rate_hz)[np.argmax(abs(np.fft.rfft(x - x.mean())))]]
        for i in range(k):
            for j in range(i + 1, k):
                out.append(np.corrcoef(v[:, i], v[:, j])[0, 1])
    return out


def test_features_equal_their_slow_oracle(home):
    r = recordings(2)[1]
    assert np.allclose(features.vector(r.streams, CARD), slow_features(r.streams, CARD), atol=1e-6)
    assert len(features.names(CARD)) == len(features.vector(r.streams, CARD))
    absent = features.vector({"acc": r.streams["acc"]}, CARD)
    assert np.isnan(absent).sum() == 10  # the one-channel stream that is missing; never zeros


def test_tabulate_counts_what_it_skips(cohort):
    t = features.tabulate(cohort, seconds=4, stride_s=2, task="activity")
    assert len(t) == len(list(cohort.windows(4, 2)))
    with pytest.raises(MienError, match="no usable window"):
        features.tabulate(cohort, seconds=4, stride_s=2, task="mood")
