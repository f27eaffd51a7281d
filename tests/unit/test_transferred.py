"""What a representation is worth elsewhere, on representations of which that is known; and splits that may not be."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mien.adapters import represented
from mien.core.config import Plugin
from mien.core.errors import MienError
from mien.core.intervals import over_persons
from mien.core.records import Cohort, Consent
from mien.data.datasets import simulated, simulated_rated
from mien.data.features import WindowTable
from mien.evaluation import transfer, transferred
from mien.evaluation.transferred import SAME, Other, Transfer

from ..conftest import CARD, recording
from .test_autoencoder import people, subject
from .test_transfer import cohort

PEOPLE, EACH = 14, 8
QUICK = Transfer(draws=100, folds=3, multimodal=False)


class Told:
    """As much of a cohort as labels and groups are taken from."""

    def __init__(self, name, rows, tasks, attributes=("sex",)):
        self.rows = rows  # (id, person, labels, attributes)
        self.card = SimpleNamespace(name=name, tasks=tasks, attributes=attributes, restrictions=())

    def column(self, name):
        return [r[("id", "person", "labels", "attributes").index(name)] for r in self.rows]


def world(name="P", people=PEOPLE, stress=("calm", "stress"), seed=0):
    """Recording i of a person is of one of four kinds: stress and moving independent of each other, a level that follows moving."""
    rng = np.random.default_rng(seed)
    rows, y, b, level = [], [], [], []
    for p in range(people):
        for i in range(EACH):
            y.append(i % 2), b.append((i // 2) % 2), level.append(b[-1] + 0.2 * rng.normal())
            labels = {"stress": stress[y[-1]], "moving": ("still", "active")[b[-1]], "level": level[-1]}
            rows.append((f"{name}-{p:02d}-{i}", f"{name}-{p:02d}", labels, {"sex": "fm"[p % 2]}))
    tasks = {"stress": stress, "moving": ("still", "active"), "level": ()}
    told = Told(name, rows, tasks)
    n = len(rows)
    noise = rng.normal(size=(n, 6))
    Z, bare = noise.copy(), rng.normal(size=(n, 6))
    Z[:, 0] += 3 * np.array(y)
    Z[:, 1] += 3 * np.array(b)
    person, recording = (np.array(told.column(c), object) for c in ("person", "id"))
    table = WindowTable(
        X=bare[:, :3], meta=np.zeros((n, 1)), label=np.array([r[2]["stress"] for r in rows], object), person=person,
        recording=recording, skipped={},
    )  # fmt: skip
    train = np.isin(person, sorted(set(person))[:4])
    return SimpleNamespace(
        cohort=told, task="stress", classes=stress, Z=Z, frozen=bare, table=table, y=np.array(y), train=train,
        made=SimpleNamespace(kinds={"stress": object()}, beside="frozen base"), left_out={},
        split=SimpleNamespace(train=tuple(sorted(set(person[train]))), validation=()),
        parts={"a": Z[:, :1], "b": Z[:, 1:3], "c": Z[:, 3:]}, windows=SimpleNamespace(start_s=np.tile(np.arange(EACH), people) * 60.0),
    )  # fmt: skip


def named(found):
    return {r.metric: r for r in found.results}


def test_nothing_asked_nothing_said():
    found = transferred.of(world(), None, None)
    assert (found.results, found.cohorts, transferred.inputs(None)) == ([], [], {})


def test_a_run_whose_only_task_is_a_number_is_judged_by_it(monkeypatch):
    o = world()
    level = np.array([labels["level"] for _, _, labels, _ in o.cohort.rows])
    vars(o).update(task="level", classes=(), y=level)
    o.made.kinds = {"level": SimpleNamespace(kind="continuous")}
    found = {r.metric: r for r in transferred.own(o, "window", None)}
    assert found["adapted: CCC"].value > 0.6
    assert [b.name for b in found["adapted: MAE"].baselines] == ["frozen base", SAME, "classical (forest)", "mean"]
    assert found["adapted: adapted − frozen base, MAE"].low > 0
    elsewhere = named(transferred.of(o, None, QUICK.model_copy(update={"multimodal": True, "k_shot": (4,)})))
    assert elsewhere["k-shot, level, k = 4: CCC"].value > 0.6
    assert "multimodal, level: all modalities − best single: MAE" in elsewhere
    for average, match in (("person", None), ("window", object())):
        with pytest.raises(MienError, match="'level' is a number: match and average are of classes"):
            transferred.own(o, average, match)
    asked = []
    monkeypatch.setattr(transferred.represented, "of", lambda *a: asked.append(a) or ["classes"])
    assert transferred.own(world(), "person", None, 3) == ["classes"]


def test_another_label_is_probed_on_persons_nobody_trained_on():
    found = named(transferred.of(world(), None, QUICK.model_copy(update={"across_tasks": ("moving", "level")})))
    for task, metric in (("moving", "macro-F1"), ("level", "CCC")):
        r = found[f"across tasks, stress → {task}: {metric}"]
        assert r.n_persons == PEOPLE - 4
        assert r.value > 0.65
        assert r.low < r.value < r.high
        trivial = "majority" if task == "moving" else "mean"
        assert [b.name for b in r.baselines] == ["frozen base", SAME, "classical (forest)", trivial]
        assert all(b.value < 0.6 for b in r.baselines)
    assert {m.split(": ", 1)[1] for m in found if "moving" in m} == {
        "macro-F1", "balanced accuracy", "AUROC", "ECE", "Brier", "macro-F1 of the worst person",
        "macro-F1 of the worst group by sex", "adapted − frozen base, macro-F1", f"adapted − {SAME}, macro-F1",
        "adapted − classical (forest), macro-F1",
    }  # fmt: skip
    assert {m.split(": ", 1)[1].split(" of ")[0] for m in found if "level" in m} >= {"CCC", "MAE", "RMSE"}
    gained = found["across tasks, stress → level: adapted − frozen base, MAE"]
    assert gained.low > 0  # less error is a gain
    assert "sign-flip p = 0.00" in gained.note
    worst = found["across tasks, stress → level: MAE of the worst person"]
    assert worst.value >= found["across tasks, stress → level: MAE"].value
    assert not worst.higher_is_better


def test_the_labels_of_other_heads_are_judged_by_what_training_persons_teach():
    o = world()
    o.Z[:, 1] += 3 * np.array([r[2]["level"] for r in o.cohort.rows])
    o.made.kinds = {
        "stress": object(),
        "level": SimpleNamespace(kind="continuous"),
        "moving": SimpleNamespace(kind="ordinal"),
    }
    found = named(transferred.of(o, None, QUICK))
    r = found["adapted to level too: CCC"]
    assert r.value > 0.8
    assert r.n_persons == PEOPLE - 4
    assert [b.name for b in r.baselines] == ["frozen base", SAME, "classical (forest)", "mean"]
    assert found["adapted to moving too: macro-F1"].value > 0.8
    assert found["adapted to moving too: adapted − frozen base, macro-F1"].low > 0


def test_an_attribute_counts_as_a_label_of_its_words():
    o = world()
    o.Z[:, 2] += [3 * (a["sex"] == "f") for a in o.cohort.column("attributes")]
    r = named(transferred.of(o, None, QUICK.model_copy(update={"across_tasks": ("sex",)})))[
        "across tasks, stress → sex: macro-F1"
    ]
    assert r.value > 0.8
    assert next(b for b in r.baselines if b.name == "frozen base").value < 0.7


@pytest.mark.parametrize("people", [PEOPLE, 26])
def test_the_interval_is_the_bootstrap_of_persons_where_these_are_many(people):
    """Of ten persons, percentiles of draws would be too short: the jackknife's."""
    o = world(people=people)
    data = transferred._sides(
        o, o.cohort, {"moving": transferred._labels(o.cohort, o.table.recording, "moving")}, (), "frozen base"
    )["adapted"].rows(~o.train)  # fmt: skip
    p = transfer.across_tasks(data, o.split.train, "moving", transfer.Probe(), 3)
    assert len(set(p.person)) == people - 4
    if people == PEOPLE:
        want = over_persons(p.metric("macro-F1"), p.person, p.y, p.given)
    else:
        want = transfer.bootstrap(p.metric("macro-F1"), p.person, p.y, p.given, draws=100)
    got = named(transferred.of(o, None, QUICK.model_copy(update={"across_tasks": ("moving",)})))
    r = got["across tasks, stress → moving: macro-F1"]
    assert (r.value, r.low, r.high) == (want.value, want.low, want.high)


def test_few_labels_of_few_persons():
    o = world()
    config = QUICK.model_copy(update={"k_shot": (1,), "k_shot_persons": 2, "across_tasks": ("moving",)})
    found = named(transferred.of(o, None, config))
    for task in ("stress", "moving"):
        r = found[f"k-shot, {task}, k = 1: macro-F1"]
        assert r.value > 0.6
        assert "1 windows per class of 2 persons" in r.note


def test_recordings_without_a_clock_give_their_first_windows_if_asked():
    """As for persons' own adapters: the watch has no clock, and its first windows are those of the first recordings by id."""
    o = world()
    config = QUICK.model_copy(update={"k_shot": (1,)})
    known = named(transferred.of(o, None, config))
    o.config = {"seconds": 60.0}
    o.windows.start_s = np.zeros(len(o.y))  # every recording begins with its study
    with pytest.raises(MienError, match=r"transfer\.untimed: true"):
        transferred.of(o, None, config)
    found = named(transferred.of(o, None, config.model_copy(update={"untimed": True})))
    assert found == known


def test_all_streams_against_the_best_one():
    o = world()
    o.Z[:, 2] += o.y
    o.parts = {"a": o.Z[:, :1], "b": o.Z[:, 1:3], "c": o.Z[:, 3:]}
    r = named(transferred.of(o, None, QUICK.model_copy(update={"multimodal": True})))[
        "multimodal, stress: all modalities − best single: macro-F1"
    ]
    assert "the best single: a in 3 of 3 folds" in r.note
    assert r.value > -0.05
    assert r.n_persons == PEOPLE - 4


def other(stress=("no", "yes"), name="Q", turn=False):
    """`elsewhere` of a cohort with the same signals, called otherwise."""
    made = world(name, stress=stress, seed=1)
    if turn:
        made.Z[:, 0] *= -1
    return lambda o, section, task, where: SimpleNamespace(
        cohort=made.cohort,
        left_out={"withdrawn": 2},
        task=task,
        Z=made.Z,
        frozen=made.frozen,
        table=made.table,
        windows=made.windows,
    )


def test_other_persons_and_other_names_of_the_classes():
    there = Other(cohort=Plugin(name="x"), classes={"no": "calm", "yes": "stress"})
    config = QUICK.model_copy(update={"across_cohorts": (there,)})
    found = transferred.of(world(), other(), config)
    r = named(found)["across cohorts, P → Q: macro-F1"]
    assert r.n_persons == PEOPLE  # everybody there
    assert r.value > 0.8
    assert [b.name for b in r.baselines] == ["frozen base", SAME, "classical (forest)", "learnt there", "majority"]
    assert found.left_out == {"withdrawn": 2}
    turned = named(transferred.of(world(), other(turn=True), config))["across cohorts, P → Q: macro-F1"]
    assert turned.value < 0.5  # the probe is the run's, not one learnt there
    assert next(b.value for b in turned.baselines if b.name == "learnt there") > 0.8


def test_windows_of_a_class_that_is_not_named_are_left_out():
    there = Other(cohort=Plugin(name="x"), classes={"no": "calm", "yes": "stress"})
    make = other(("no", "yes"))
    made = make(None, None, "stress", "")
    made.cohort.card.tasks["stress"] = ("no", "yes", "unsure")
    for i, row in enumerate(made.cohort.rows):
        if i % 4 == 3:
            row[2]["stress"] = "unsure"
    found = named(
        transferred.of(
            world(), lambda o, s, t, w: made, QUICK.model_copy(update={"across_cohorts": (there,), "draws": 100})
        )
    )
    assert found["across cohorts, P → Q: macro-F1"].value > 0.8


@pytest.mark.parametrize(
    ("update", "says"),
    [
        ({"across_tasks": ("stress",)}, "the run was adapted to 'stress'"),
        ({"across_tasks": ("movng",)}, "no window has a label 'movng'.*did you mean 'moving'"),
        ({"across_tasks": ("word",)}, "'word' holds words"),
        ({"k_shot": (0,)}, "transfer.k_shot: 0"),
        ({"k_shot": (1,), "k_shot_persons": 99}, "99 of . persons to learn from"),
        ({"k_shot": (99,), "k_shot_persons": 1, "across_tasks": ("own",)}, "seldom have all classes of own"),
        ({"across_cohorts": (Other(cohort=Plugin(name="x")),)}, "nothing there is called 'calm'"),
        ({"across_cohorts": (Other(cohort=Plugin(name="x"), classes={"non": "calm"}),)}, "'non' is none of its classes"),
        ({"across_cohorts": (Other(cohort=Plugin(name="x"), classes={"no": "calmer"}),)}, "'calmer' is none of the run's"),
    ],
)  # fmt: skip
def test_what_cannot_be_asked(update, says):
    o = world()
    for i, (_, _, labels, _) in enumerate(o.cohort.rows):
        labels["word"] = "a"
        labels["own"] = ("x", "y")[(i // EACH) % 2]  # one class a person
    o.cohort.card.tasks["own"] = ("x", "y")
    with pytest.raises(MienError, match=says):
        transferred.of(o, other(), QUICK.model_copy(update=update))


def test_a_person_on_both_sides_is_refused_and_not_named():
    o = world()
    o.split = SimpleNamespace(train=("P-00", "P-09"), validation=())
    with pytest.raises(MienError, match="across tasks: 1 of 10 persons") as error:
        transferred.of(o, None, QUICK.model_copy(update={"across_tasks": ("moving",)}))
    assert "P-09" not in str(error.value)
    o.train[:] = True
    with pytest.raises(MienError, match="0 held-out person"):
        transferred.of(o, None, QUICK)


def test_a_draw_of_persons_holds_every_class_and_is_the_same_for_all():
    data = cohort(8, 4)
    half = data.labels["mood"].copy()
    half[data.person <= "P-005"] = "calm"  # six of eight persons have one class
    data = replace(data, labels={"mood": half})
    for seed in range(20):
        some = transfer.drawn(data, "mood", 2, seed)
        assert len(set(some)) == 2
        assert set(data.rows(np.isin(data.person, some)).labels["mood"]) == {"calm", "stress"}
        assert some == transfer.drawn(replace(data, X={"a": data.X["b"]}), "mood", 2, seed)


@pytest.fixture
def opened(home, monkeypatch):
    """An autoencoder of persons p00 … p05, and how to let it see the recordings of others."""
    first = people()
    made = subject(first, seed=1)
    o = SimpleNamespace(
        made=made.made, cohort=first, split=SimpleNamespace(train=("p00", "p01"), validation=("p02",)),
        streams={"acc": "acc", "eda": "eda"}, config={"seconds": 4.0, "stride_s": 4.0, "valid": 1.0},
    )  # fmt: skip

    def see(recordings, card=CARD, task="activity"):
        consents = {r.person: Consent() for r in recordings}
        there = Cohort.build(recordings, card=card, consents=consents)
        monkeypatch.setattr(represented, "open_cohort", lambda section, purpose: (there, {"withdrawn": 1}))
        return represented.elsewhere(o, Plugin(name="x"), task, "transfer.across_cohorts[0]")

    return o, see


def strangers(change=lambda r: r, number=20):
    rng = np.random.default_rng(5)
    return [change(recording(number + p, i, "walk" if i % 2 else "rest", rng)) for p in range(3) for i in range(2)]


def test_another_cohort_goes_through_the_same_adapter(opened):
    o, see = opened
    found = see(strangers())
    assert (len(found.table), found.left_out, found.task) == (18, {"withdrawn": 1}, "activity")
    assert [found.windows.recordings[i] for i in found.windows.recording] == found.table.recording.tolist()
    batch = o.made.batch(found.windows, [5])
    with torch.no_grad():
        alone = o.made.fused(o.made.embeddings(o.made.model, batch), batch.present[:, None])[0, 0].numpy()
    np.testing.assert_allclose(found.Z[5], alone, atol=1e-6)
    assert not np.allclose(found.Z, found.frozen)


def at(rate_hz):
    def change(r):
        acc = replace(r.streams["acc"], rate_hz=rate_hz, values=r.streams["acc"].values[: round(12 * rate_hz)])
        return replace(r, streams={**r.streams, "acc": acc})

    return change


def turned(r):
    acc = replace(r.streams["acc"], channels=("x", "y"), values=r.streams["acc"].values[:, :2])
    return replace(r, streams={**r.streams, "acc": acc})


def spec(**changes):
    return replace(CARD, streams={**CARD.streams, "acc": replace(CARD.streams["acc"], **changes)})


def test_the_same_recordings_of_another_device_are_the_same(opened):
    """In m/s2 with the axes the other way round: vectors and statistics are those in g."""

    def si(r):
        acc = r.streams["acc"]
        acc = replace(acc, unit="m/s2", channels=("z", "y", "x"), values=acc.values[:, ::-1] * np.float32(9.80665))
        return replace(r, streams={**r.streams, "acc": acc})

    first = opened[1](strangers())
    other = opened[1](strangers(si), spec(unit="m/s2", channels=("z", "y", "x"), range=(-40.0, 40.0)))
    np.testing.assert_allclose(other.Z, first.Z, atol=1e-3)
    np.testing.assert_allclose(other.table.X, first.table.X, atol=1e-3)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            {"recordings": strangers(number=0)},
            r"\[0\] \(x\): 3 of its 3 persons are among those the run was adapted to",
        ),
        ({"recordings": strangers(number=2)}, "1 of its 3 persons"),  # whom it was validated on
        ({"recordings": strangers(), "task": "mood"}, "has no label 'mood'; it has activity"),
        (
            {"recordings": strangers(turned), "card": spec(channels=("x", "y"))},
            "'acc': signal of 2 .x, y., and signal of 3 .x, y, z. is wanted",
        ),
        ({"recordings": strangers(at(10.0)), "card": spec(rate_hz=10.0)}, "'acc' has 10 Hz, and 20 Hz in the run's"),
    ],
)
def test_cohorts_that_are_no_other_place(opened, options, says):
    with pytest.raises(MienError, match=says) as error:
        opened[1](**options)
    assert "p02" not in str(error.value)


def test_rated_persons_are_the_simulated_ones_to_the_bit(home):
    options = {"persons": 6, "sessions": 4, "seconds": 10.0}
    plain = simulated.load(simulated.Config(**options))
    rated = simulated_rated.load(simulated_rated.Config(**options))
    assert rated.consents == {p: Consent() for p in plain.persons}
    arousal = []
    for a, b in zip(plain, rated, strict=True):
        assert (a.id, a.person, a.start_s, a.attributes) == (b.id, b.person, b.start_s, b.attributes)
        assert all(np.array_equal(a.streams[s].values, b.streams[s].values) for s in a.streams)
        assert b.labels["stress"] == a.labels["stress"]
        assert 1 <= b.labels["arousal"] <= 9
        arousal.append((b.labels["stress"] == "stress", b.labels["arousal"]))
    tired, calm = ([v for s, v in arousal if s is which] for which in (True, False))
    assert np.mean(tired) > np.mean(calm) + 0.5
    assert {r.labels["moving"] for r in rated} == {"still", "active"}
