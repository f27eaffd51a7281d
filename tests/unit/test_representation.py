"""Binders adapted to recordings: what a window's loss depends on, any subset of streams, heads, what is refused, what is kept."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mien.adapters import lora, representation, represented
from mien.adapters.representation import Head, Represent, contrast, head_loss
from mien.adapters.windows import Windows, encode, towers_of
from mien.backbones import _behaviour, behaviour
from mien.core.errors import MienError
from mien.core.records import Cohort, CohortCard, Consent, Events, Recording, Signal, StreamSpec
from mien.privacy.flat import Flat
from mien.privacy.gradients import PersonGradients

from ..conftest import CARD, recording

SHAPE = behaviour.Shape(width=16, layers=1, heads=2, patches=4, dim=8)
CALLS = StreamSpec(channels=("in", "out"), kind="events")
WITH_CALLS = dataclasses.replace(CARD, streams={**CARD.streams, "calls": CALLS}, name="called")


def called(r: Recording, rng: np.random.Generator) -> Recording:
    n = int(rng.integers(0, 6))
    calls = Events(
        times_s=np.sort(rng.uniform(0, 12, n)), durations_s=rng.uniform(1, 60, n), codes=rng.integers(0, 2, n),
        kinds=("in", "out"), seconds=12.0, party=rng.integers(-1, 3, n),
    )  # fmt: skip
    return dataclasses.replace(r, streams={**r.streams, "calls": calls})


@pytest.fixture
def people(tmp_path) -> Cohort:
    """Six persons, three streams; person 3 has no skin conductance."""
    rng = np.random.default_rng(0)
    made = [called(recording(p, i, "walk" if i % 2 else "rest", rng), rng) for p in range(6) for i in range(4)]
    made = [
        dataclasses.replace(r, streams={k: v for k, v in r.streams.items() if k != "eda"}) if r.person == "p03" else r
        for r in made
    ]
    consents = {r.person: Consent() for r in made}
    return Cohort.build(made, card=WITH_CALLS, consents=consents, cache=tmp_path, key="called")


def base(card: CohortCard = WITH_CALLS, seconds: float = 4.0):
    model = _behaviour.fresh(behaviour.shaped(card, SHAPE, seconds), 0)
    model.requires_grad_(False)
    return behaviour.binder(model, "test/behaviour", "f" * 64)


def made_of(people: Cohort, *, private: bool = False, seed: int = 0, task: str = "activity", **options):
    binder, represent = base(people.card), Represent(**options)
    chosen = towers_of(people.card, binder, represent.streams)
    made = representation.attach(binder, represent, lora.Lora(rank=2, alpha=4), task, people.card, chosen, seed)
    windows = encode(people, binder, chosen, made.classes, seconds=4.0, stride_s=4.0, quiet=True)
    made.bank = representation.bank_of(binder, binder.model, windows)
    for p in made.model.parameters():
        if p.requires_grad:
            torch.nn.init.normal_(p, std=0.1)
    return made, windows


@pytest.mark.parametrize("options", [{"bind": "public"}, {"bind": "public", "siglip": True}, {"bind": "none"}])
def test_a_windows_loss_depends_on_no_other_window(people, options):
    made, windows = made_of(people, **options)
    alone = made.losses(made.model, made.batch(windows, [5]))
    for others in ([5, 0, 1], [5, 40, 9, 22, 3]):
        assert torch.allclose(made.losses(made.model, made.batch(windows, others))[:1], alone, atol=1e-5)


def test_negatives_from_the_batch_mix_persons_and_are_refused_under_privacy(people):
    made, windows = made_of(people, bind="batch")
    alone = made.losses(made.model, made.batch(windows, [5]))
    assert not torch.allclose(made.losses(made.model, made.batch(windows, [5, 0, 1]))[:1], alone, atol=1e-3)
    with pytest.raises(MienError, match="no ε would follow"):
        representation.refuse(made.options, made.kinds, True)
    representation.refuse(made.options, made.kinds, False)


@pytest.mark.parametrize("options", [{"bind": "public"}, {"bind": "none", "heads": {}}])
def test_per_person_gradients_are_those_of_one_person_at_a_time(people, options):
    if not options.get("heads", True):
        options = {**options, "bind": "public"}
    made, windows = made_of(people, **options)
    rows, person = np.array([0, 1, 13, 25, 38, 39]), torch.tensor([0, 0, 1, 1, 2, 2])
    model = made.model.train()
    flat = Flat(model)
    flat.differentiable()
    slow = []
    for p in range(3):
        flat.grad.zero_()
        for r in rows[(person == p).numpy()]:
            made.losses(model, made.batch(windows, [r])).sum().backward()
        slow.append(flat.grad.clone())
    flat.release()
    flat = Flat(model)
    gradients = PersonGradients(flat)
    with gradients.collect(person, 3) as buffer:
        made.losses(model, made.batch(windows, rows)).sum().backward()
    assert gradients.touched == {s.name for s in flat.slots}
    assert (buffer - torch.stack(slow)).abs().max() < 1e-5 * max(1.0, float(torch.stack(slow).abs().max()))


def test_a_missing_stream_is_nothing_and_the_rest_is_scaled_up(people):
    made, windows = made_of(people)
    who = np.array(windows.persons)[windows.person]
    Z, d = represented.vectors(made, windows), made.binder.dim
    at = {m: slice(i * d, (i + 1) * d) for i, m in enumerate(made.modalities)}
    assert set(made.modalities) == {"acc", "eda", "calls"}
    assert (Z[who == "p03"][:, at["eda"]] == 0).all()
    assert np.allclose(np.linalg.norm(Z[who == "p03"][:, at["acc"]], axis=1), (3 / 2) ** 0.5, atol=1e-5)
    assert np.allclose(np.linalg.norm(Z[who != "p03"], axis=1), 3**0.5, atol=1e-5)
    # and nobody else's signal stands in for it
    blank = made.batch(windows, np.flatnonzero(who == "p03")[:2]).inputs["eda"]["values"]
    assert float(blank.abs().max()) == 0


def test_every_subset_of_streams_is_there_once(people):
    made, _ = made_of(people)
    rows = {tuple(r) for r in made.subsets.tolist()}
    assert len(rows) == len(made.subsets) == 7
    assert made.subsets[0].all()


def test_what_is_saved_is_what_comes_back(people, tmp_path):
    made, windows = made_of(people)
    chosen = {m: m for m in made.modalities}
    represented.save(made, tmp_path / "adapter", seconds=4.0, chosen=chosen)
    back, raw = represented.restore(base(), tmp_path / "adapter")
    assert np.allclose(represented.vectors(back, windows), represented.vectors(made, windows), atol=1e-6)
    batch = made.batch(windows, np.arange(9))
    assert raw["seconds"] == 4.0
    a, b = back.heads["activity"].weight, made.heads["activity"].weight
    assert torch.equal(a, b)
    assert not np.allclose(represented.frozen(back, windows), represented.vectors(back, windows), atol=1e-3)
    assert batch.unit.tolist() == list(range(9))


def test_plain_peft_loads_the_adapter(people, tmp_path):
    from peft import PeftModel

    made, windows = made_of(people)
    represented.save(made, tmp_path / "adapter", seconds=4.0, chosen={m: m for m in made.modalities})
    plain = PeftModel.from_pretrained(base().model, str(tmp_path / "adapter"))
    want = represented.vectors(made, windows)
    bare = dataclasses.replace(made, heads=None, kinds={}, binder=base())
    assert np.allclose(represented.vectors(bare, windows, model=plain), want, atol=1e-6)


# --- losses against slow ones -------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), rows=st.integers(1, 4), k=st.integers(1, 5), siglip=st.booleans())
def test_contrast_is_its_formula(seed, rows, k, siglip):
    rng = np.random.default_rng(seed)
    own, others = rng.uniform(-1, 1, rows), rng.uniform(-1, 1, (rows, k))
    apart = (rng.random((rows, k)) < 0.7).astype(float)
    got = contrast(*(torch.tensor(v) for v in (own, others, apart)), 5.0, siglip).numpy()
    for i in range(rows):
        left = [others[i, j] for j in range(k) if apart[i, j]]
        if siglip:
            want = np.log1p(np.exp(-5 * own[i])) + (np.mean([np.log1p(np.exp(5 * s)) for s in left]) if left else 0)
        else:
            want = -np.log(np.exp(5 * own[i]) / (np.exp(5 * own[i]) + sum(np.exp(5 * s) for s in left)))
        assert got[i] == pytest.approx(want, abs=1e-9)


def test_heads_are_their_formulas():
    out, target, there = (
        torch.randn(5, 2, 3, dtype=torch.float64),
        torch.tensor([0.0, 1, 2, 1, float("nan")]),
        torch.ones(5, 2),
    )
    wide = target[:, None].expand(5, 2)
    got = head_loss(Head(), out, wide, there)
    want = [[-float(torch.log_softmax(out[i, s], 0)[int(target[i])]) for s in range(2)] for i in range(4)]
    assert np.allclose(got[:4], want)
    assert (got[4] == 0).all()
    ordinal = head_loss(Head(kind="ordinal"), out, wide, there)
    for i in range(4):
        p = torch.sigmoid(out[i, 0])
        want = -sum(float(torch.log(p[k] if target[i] > k else 1 - p[k])) for k in range(3))
        assert float(ordinal[i, 0]) == pytest.approx(want)
    number = head_loss(Head(kind="continuous", range=(0, 2)), out[..., :1], wide, there)
    assert float(number[2, 1]) == pytest.approx((float(out[2, 1, 0]) - 1) ** 2)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(3, 12))
def test_the_concordance_is_lins(seed, n):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=n), rng.uniform(-1, 1, n)
    head = Head(kind="continuous", range=(-1, 1), loss="ccc")
    got = head_loss(head, torch.tensor(a)[:, None, None], torch.tensor(b)[:, None], torch.ones(n, 1))
    want = 1 - 2 * np.cov(a, b, bias=True)[0, 1] / (a.var() + b.var() + (a.mean() - b.mean()) ** 2)
    assert float(got[0, 0]) == pytest.approx(want, abs=1e-6)


# --- what is refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("streams", "says"),
    [
        ({"ecg": "acc"}, "no stream 'ecg'"),
        ({"acc": "thermal"}, "no tower 'thermal'"),
        ({"acc": "acc", "eda": "acc"}, "two streams for the tower"),
    ],
)
def test_streams_and_towers_that_do_not_meet(streams, says):
    with pytest.raises(MienError, match=says):
        towers_of(WITH_CALLS, base(), streams)


@pytest.mark.parametrize(
    ("heads", "says"),
    [
        ({"mood": {}}, "declares 0 classes"),
        ({"age": {"kind": "continuous"}}, "needs its public `range`"),
        ({"age": {"kind": "continuous", "range": [4, 1]}}, "needs its public `range`"),
    ],
)
def test_heads_that_cannot_be(heads, says):
    with pytest.raises(MienError, match=says):
        representation.heads_of(Represent(heads=heads), "activity", WITH_CALLS)


@pytest.mark.parametrize(
    ("options", "kinds", "groups", "says"),
    [
        ({"bind": "batch"}, {}, None, "no ε would follow"),
        ({"bind": "group"}, {}, None, "belong together"),
        ({"bind": "public"}, {}, 4, "belong together"),
        (
            {"bind": "none"},
            {"v": Head(kind="continuous", range=(0, 1), loss="ccc")},
            None,
            "statistic of the whole batch",
        ),
    ],
)
def test_losses_that_mix_persons_are_refused_under_privacy(options, kinds, groups, says):
    with pytest.raises(MienError, match=says):
        representation.refuse(Represent(**options), kinds, True, groups)


def test_a_label_outside_the_declared_ones(people):
    with pytest.raises(MienError, match="not among its declared classes"):
        encode(people, base(), {"acc": "acc"}, {"activity": ("rest", "run")}, seconds=4.0, stride_s=4.0, quiet=True)


def test_a_recording_whose_only_stream_is_missing_is_counted(people):
    binder = base()
    windows = encode(people, binder, {"eda": "eda"}, {}, seconds=4.0, stride_s=4.0, quiet=True)
    assert "p03" not in windows.persons
    assert windows.skipped["none of the chosen streams"] == 4 * 3
    with pytest.raises(MienError, match="was left"):
        encode(people.select(lambda p: p == "p03"), binder, {"eda": "eda"}, {}, seconds=4.0, stride_s=4.0, quiet=True)


def test_what_is_left_out_is_told(people, capsys):
    encode(people, base(), {"eda": "eda"}, {}, seconds=4.0, stride_s=4.0)
    assert "left out: 12 × none of the chosen streams" in capsys.readouterr().out


def test_negatives_never_come_from_people(people):
    with pytest.raises(MienError, match="holds recordings of people"):
        representation.negatives(
            base(), Represent(negatives={"name": "watch"}), {"acc": "acc", "eda": "eda"}, seconds=4.0
        )


@pytest.mark.parametrize(
    ("stream", "says"),
    [
        (Signal(values=np.zeros((80, 2)), rate_hz=20, channels=("x", "y"), unit="g"), "2 channels"),
        (Signal(values=np.zeros((40, 3)), rate_hz=20, channels=("x", "y", "z"), unit="g"), "a window of 2 s"),
        (Events(times_s=[], durations_s=[], codes=[], kinds=("in", "out"), seconds=4.0), "takes a signal, not events"),
    ],
)
def test_streams_a_tower_cannot_take(stream, says):
    with pytest.raises(MienError, match=says):
        base().towers["acc"].prepare(stream)


# --- the towers ---------------------------------------------------------------------------------------------------


def test_the_events_tower_knows_ranks_and_no_names():
    def log(party):
        return Events(
            times_s=[0.5, 1, 2], durations_s=[3, 4, 5], codes=[0, 1, 0], kinds=("in", "out"), seconds=4.0, party=party
        )

    tower = base().towers["calls"]
    one, other = tower.prepare(log([7, 2, 7])), tower.prepare(log([1, 99, 1]))
    assert all(np.array_equal(one[k], other[k]) for k in one)
    many = Events(
        times_s=np.linspace(0, 3.9, 200),
        durations_s=np.ones(200),
        codes=np.arange(200) % 2,
        kinds=("in", "out"),
        seconds=4.0,
    )
    assert tower.prepare(many)["there"].sum() == behaviour.EVENTS
    assert tower.prepare(many)["counts"][0] == pytest.approx(np.log1p(100) / 3)


def test_what_lies_in_a_gap_moves_nothing():
    binder = base()
    rng = np.random.default_rng(1)
    values, valid = rng.normal(size=(80, 3)).astype(np.float32), np.ones(80, bool)
    valid[30:55] = False
    one = Signal(values=values, rate_hz=20, channels=("x", "y", "z"), unit="g", valid=valid)
    wild = values.copy()
    wild[30:55] = 3.7
    other = dataclasses.replace(one, values=wild)
    from mien.backbones._binder import collate

    both = collate([binder.towers["acc"].prepare(s) for s in (one, other)])
    e = binder.embed(binder.model, "acc", both)
    assert torch.allclose(e[0], e[1], atol=1e-6)
    assert float(torch.linalg.vector_norm(e[0])) == pytest.approx(1, abs=1e-6)


def test_a_tower_takes_another_rate_of_the_same_movement():
    binder = base()
    from mien.backbones._binder import collate

    def moved(hz):
        t = np.arange(round(4 * hz)) / hz
        v = np.stack([np.sin(2 * np.pi * 0.7 * t), np.cos(2 * np.pi * 0.4 * t), 0 * t + 1], 1)
        return Signal(values=v, rate_hz=hz, channels=("x", "y", "z"), unit="g")

    e = binder.embed(
        binder.model, "acc", collate([binder.towers["acc"].prepare(moved(h)) for h in (20.0, 100.0, 50.0)])
    )
    assert float((e[0] * e[1]).sum()) > 0.98
    assert float((e[0] * e[2]).sum()) > 0.98


def test_windows_know_their_own(people):
    windows = encode(people, base(), {"acc": "acc"}, {}, seconds=4.0, stride_s=4.0, quiet=True)
    part = windows.rows(np.array([3, 1]))
    assert isinstance(part, Windows)
    assert part.arrays[0] is windows.arrays[3]
    assert part.start_s.tolist() == windows.start_s[[3, 1]].tolist()
