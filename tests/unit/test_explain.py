"""Explanations: Shapley's axioms against all orders, completeness, planted channels found, nothing left of random weights,
and people's own only in the private half."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mien.core.errors import MienError
from mien.evaluation import explain
from mien.evaluation.explain import Explained, Findings
from mien.evaluation.transfer import Probe

from .test_transfer import cohort

NAMES = ("acc", "eda", "bvp", "temp")


@st.composite
def games(draw):
    """(players, worth of every subset): any game of one to four."""
    players = NAMES[: draw(st.integers(1, 4))]
    every = [frozenset(p for i, p in enumerate(players) if code >> i & 1) for code in range(2 ** len(players))]
    worth = draw(st.lists(st.floats(-5, 5, width=16), min_size=len(every), max_size=len(every)))
    return players, dict(zip(every, worth, strict=True))


def oracle(players, worth) -> dict[str, float]:
    """The mean of what each adds, over all orders in which they may come."""
    found = dict.fromkeys(players, 0.0)
    orders = list(permutations(players))
    for order in orders:
        for i, p in enumerate(order):
            found[p] += (worth[frozenset(order[: i + 1])] - worth[frozenset(order[:i])]) / len(orders)
    return found


@settings(max_examples=80, deadline=None)
@given(games())
def test_shapley_is_the_mean_over_all_orders_and_efficient(game):
    players, worth = game
    found = explain.shapley(players, worth.__getitem__)
    assert found.exact
    assert found.evaluations == 2 ** len(players)
    for p, v in oracle(players, worth).items():
        assert found.phi[p][0] == pytest.approx(v, abs=1e-9)
    assert sum(v[0] for v in found.phi.values()) == pytest.approx(
        worth[frozenset(players)] - worth[frozenset()], abs=1e-9
    )


@settings(max_examples=40, deadline=None)
@given(games())
def test_a_player_who_adds_nothing_gets_nothing_and_equals_get_the_same(game):
    players, worth = game
    null = explain.shapley((*players, "null"), lambda s: worth[s - {"null"}])
    assert null.phi["null"][0] == pytest.approx(0, abs=1e-9)
    twins = explain.shapley(
        (*players, "twin"), lambda s: worth[(s - {"twin"}) | ({players[0]} if "twin" in s else set())]
    )
    assert twins.phi["twin"][0] == pytest.approx(twins.phi[players[0]][0], abs=1e-9)


@settings(max_examples=20, deadline=None)
@given(games(), st.integers(0, 9))
def test_sampled_orders_are_efficient_too_and_near(game, seed):
    players, worth = game
    found = explain.shapley(players, worth.__getitem__, draws=200, seed=seed)
    assert not found.exact
    assert sum(v[0] for v in found.phi.values()) == pytest.approx(
        worth[frozenset(players)] - worth[frozenset()], abs=1e-9
    )
    for p, v in oracle(players, worth).items():
        assert abs(found.phi[p][0] - v) <= 6 * found.error[p][0] + 1e-9


def test_the_standard_error_is_that_of_repetitions():
    """Over 40 seeds the spread of a sampled value is about what each said it would be."""
    rng = np.random.default_rng(0)
    worth = {frozenset(s): rng.normal() for n in range(5) for s in permutations(NAMES, n)}
    every = [explain.shapley(NAMES, worth.__getitem__, draws=20, seed=s) for s in range(40)]
    spread = np.std([f.phi["acc"][0] for f in every])
    assert spread == pytest.approx(np.mean([f.error["acc"][0] for f in every]), rel=0.4)


def test_values_of_many_persons_are_divided_at_once():
    rows = {0: np.zeros(3), 1: np.array([1.0, 2.0, 3.0])}
    found = explain.shapley(("a", "b"), lambda s: rows[int("a" in s)])
    assert found.phi["a"].tolist() == [1.0, 2.0, 3.0]
    assert found.phi["b"].tolist() == [0.0, 0.0, 0.0]
    assert found.intervals()["a"].value == 2.0


def test_the_modality_that_tells_gets_the_value():
    data = cohort(8, 20, a=3.0, b=0.0)
    each, nothing = explain.predicting("mood", Probe(), k=4), explain.unseen(data, "mood", k=4)
    assert set(nothing.values()) == {0.5}
    found = explain.shapley(list(data.X), explain.subsets(data, each, nothing))
    shown = found.intervals()
    assert shown["a"].value > 0.25
    assert abs(shown["b"].value) < 0.1
    assert sum(i.value for i in shown.values()) == pytest.approx(found.full.mean() - 0.5)


def test_what_nothing_tells_is_told_in_the_folds_of_the_seed():
    """Class shares are those of the persons who are not in one's fold, which another seed draws otherwise."""
    data = cohort(9, 10)
    y = data.truth("level").copy()
    y += 3 * (data.person <= "P-002")
    data = replace(data, labels={**data.labels, "level": y})
    found = [explain.unseen(data, "level", "MAE", k=3, seed=s) for s in (0, 1, 1)]
    assert found[0] != found[1]
    assert found[1] == found[2]


# --- integrated gradients ------------------------------------------------------------------------------------------


class Towers(torch.nn.Module):
    """Two small towers and heads: `task` reads acc's channel 1; identity is in eda, by construction of the data."""

    def __init__(self, seed: int = 0):
        super().__init__()
        torch.manual_seed(seed)
        self.acc, self.eda = (torch.nn.Conv1d(c, 8, 3, padding=1) for c in (3, 2))
        self.head = torch.nn.Linear(16, 2)

    def embed(self, acc, eda):
        made = [torch.tanh(t(x.transpose(1, 2))).mean(2) for t, x in ((self.acc, acc), (self.eda, eda))]
        return torch.cat(made, dim=1)

    def forward(self, acc, eda):
        return self.head(self.embed(acc, eda))


PERSONS = 12


def windows(seed: int) -> tuple[dict[str, torch.Tensor], torch.Tensor, torch.Tensor]:
    """The class is in acc's channel 1, in the first half of the window; the person is in eda's channel 0, throughout. All
    channels have about unit variance: what is larger gets more of the attribution from any weights."""
    rng = np.random.default_rng(seed)
    person = np.repeat(np.arange(PERSONS), 8)
    y = np.tile([0, 1], len(person) // 2)
    acc, eda = rng.normal(size=(len(y), 16, 3)), rng.normal(size=(len(y), 8, 2))
    acc[:, :8, 1] = 0.6 * acc[:, :8, 1] + 1.0 * (2 * y[:, None] - 1)
    level = np.linspace(-1.6, 1.6, PERSONS)
    eda[:, :, 0] = 0.3 * eda[:, :, 0] + level[person][:, None]
    return (
        {"acc": torch.tensor(acc).float(), "eda": torch.tensor(eda).float()}, torch.tensor(y), torch.tensor(person)
    )  # fmt: skip


def trained() -> Towers:
    model = Towers()
    x, y, person = windows(0)
    names = torch.nn.Linear(16, PERSONS)
    step = torch.optim.Adam([*model.parameters(), *names.parameters()], 0.02)
    for _ in range(150):
        step.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(*x.values()), y)
        loss = loss + torch.nn.functional.cross_entropy(names(model.embed(*x.values())), person)
        loss.backward()
        step.step()
    return model.eval()


def both(model: Towers, seed: int | None = None, enrolled_names: tuple[str, ...] = ()) -> Explained:
    """Use and leakage of fresh windows; the gallery is of the first recordings. seed: of randomised weights and gallery."""
    model = model if seed is None else explain.randomised(model, seed)
    enrolled, _, person = windows(0)
    with torch.no_grad():
        of = model.embed(*enrolled.values())
        gallery = torch.stack([of[person == p].mean(0) for p in range(PERSONS)])
        gallery = gallery if seed is None else explain.permuted(gallery, seed)
    x, y, person = windows(1)
    ids = np.array([f"P-{p:03d}" for p in person], dtype=object)
    return explain.side_by_side(
        "mood", model, model.embed, gallery, x, y, person, channels={"acc": ("x", "y", "z"), "eda": ("tonic", "phasic")},
        person=ids, recording=np.array([f"{p}-second" for p in ids], dtype=object), seconds=4.0,
        enrolled_recordings=enrolled_names or [f"{p}-first" for p in ids],
    )  # fmt: skip


@pytest.fixture(scope="module")
def model() -> Towers:
    return trained()


@pytest.fixture(scope="module")
def explained(model) -> Explained:
    return both(model)


def test_integrated_gradients_are_complete(model):
    x, y, _ = windows(1)
    found = explain.gradients(model, x, y, steps=128)
    total = sum(a.sum((1, 2)) for a in found.values())
    with torch.no_grad():
        rows = torch.arange(len(y))
        moved = model(*x.values())[rows, y] - model(*(torch.zeros_like(v) for v in x.values()))[rows, y]
    assert np.allclose(total, moved.numpy(), atol=1e-2)
    with pytest.raises(MienError, match="take more steps"):
        explain.gradients(lambda a, e: 1e3 * torch.relu(model(a, e) - 0.37), x, y, steps=1, tolerance=1e-4)


def test_batches_change_nothing(model):
    x, y, _ = windows(1)
    mask = torch.ones(len(y), 1)
    whole, parts = (explain.gradients(lambda a, e, m: model(a, e) * m, x, y, extra=[mask], batch=b) for b in (200, 7))
    assert all(np.allclose(whole[m], parts[m], atol=1e-6) for m in x)


def test_of_a_linear_model_they_are_weight_times_input():
    x = {"acc": torch.randn(5, 4, 2)}
    w = torch.randn(8, 3)
    target = torch.tensor([0, 1, 2, 0, 1])
    found = explain.gradients(lambda a: a.flatten(1) @ w, x, target)
    assert np.allclose(found["acc"], (w[:, target].T.reshape(5, 4, 2) * x["acc"]).numpy(), atol=1e-5)
    started = explain.gradients(lambda a: a.flatten(1) @ w, x, target, baseline={"acc": x["acc"][:1]})
    assert np.allclose(started["acc"][0], 0)


def test_planted_channels_and_moments_are_found(explained):
    use, leakage = (explained.aggregated(s, channels=True) for s in ("use", "leakage"))
    assert max(use, key=lambda c: use[c].value) == "acc.y"
    assert max(leakage, key=lambda c: leakage[c].value) == "eda.tonic"
    assert explained.aggregated("use")["acc"].value > explained.aggregated("leakage")["acc"].value
    when = explained.map("use", "acc")[:, 1]
    assert when[:8].sum() > 1.2 * when[8:].sum()
    assert sum(i.value for i in use.values()) == pytest.approx(1.0)


def test_randomised_weights_destroy_the_explanation(model, explained):
    random = [both(model, seed) for seed in range(4)]
    for side in ("use", "leakage"):
        found = explain.sanity(explained, random, side)
        assert found.value is not None
        assert found.value < explain.ALIKE
        assert "destroyed" in found.note
    again = explain.sanity(explained, [both(model), both(model)], "use")
    assert again.value == pytest.approx(1.0)
    assert "NOT destroyed" in again.note
    assert sorted(model.head.weight.flatten().tolist()) == sorted(
        explain.randomised(model, 1).head.weight.flatten().tolist()
    )


def test_without_captum_the_error_names_the_extra(model, monkeypatch):
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    x, y, _ = windows(1)
    with pytest.raises(MienError, match=r"mien\[explain\]"):
        explain.gradients(model, x, y)


# --- advice --------------------------------------------------------------------------------------------------------


def leak(data) -> dict[str, float]:
    """As if modality a told persons apart: dropping it takes 0.6 of what is recognised."""
    return {p: 0.2 + 0.6 * ("a" in data.X) + 0.01 * i for i, p in enumerate(data.persons)} | {
        data.persons[0]: 0.3 + 0.4 * ("a" in data.X)
    }


def use(data) -> dict[str, float]:
    return {p: 0.8 - 0.001 * i * ("a" not in data.X) - 0.5 * ("b" not in data.X) for i, p in enumerate(data.persons)}


def test_the_remedy_that_takes_leakage_and_costs_little_is_advised():
    data = cohort(12)
    tried = {n: r for n, r in explain.remedies(data).items() if n.startswith("drop")}
    found = explain.advise(data, tried, use, leak)
    assert found.chosen == "drop a"
    assert "It costs 0.00" in found.sentence
    none = explain.advise(data, {"drop b": tried["drop b"]}, use, leak)
    assert none.chosen is None
    assert "Nothing can be recommended" in none.sentence


def test_remedies_change_one_modality():
    data = cohort(4)
    rough = explain.coarsened("a", 2.0)(data)
    noisy = explain.noised("a", 1.0)(data)
    assert len(np.unique(rough.X["a"][:, 2])) < 8
    assert np.array_equal(rough.X["b"], data.X["b"])
    assert 1.2 < noisy.X["a"].std() / data.X["a"].std() < 1.6
    assert list(explain.dropped("a")(data).X) == ["b", "c"]


# --- halves --------------------------------------------------------------------------------------------------------


def findings(explained: Explained, n: int) -> Findings:
    rng = np.random.default_rng(0)
    values = {s: rng.normal(0.2, 0.05, n) for s in ("acc", "eda")}
    game = explain.shapley(("acc", "eda"), lambda s: sum((values[p] for p in s), np.zeros(n)))
    return Findings(
        persons=[f"P-{p:03d}" for p in range(n)], shapley={"mood": (game, game)}, explained=[explained],
        advice={"mood": explain.advise(cohort(n), {"drop a": explain.dropped("a")}, use, leak)},
    )  # fmt: skip


def test_persons_stay_in_the_private_half(explained, tmp_path):
    for half in ("private", "release"):
        (tmp_path / half).mkdir()
    explain.write(findings(explained, PERSONS), tmp_path / "private", tmp_path / "release")
    assert {f.name for f in (tmp_path / "release").iterdir()} == {"explanations.json", "use_and_leakage_0.svg"}
    for file in (tmp_path / "release").iterdir():
        assert "P-00" not in file.read_text()
    shown = json.loads((tmp_path / "release" / "explanations.json").read_text())
    assert shown["withheld"] == []
    assert shown["shapley"]["mood"]["use"]["acc"]["n_persons"] == PERSONS
    own = json.loads((tmp_path / "private" / "explanations.json").read_text())
    assert len(own["shapley"]["mood"]["use"]["acc"]) == PERSONS
    assert {"moments_0_acc.svg", "moments_0_eda.svg", "attributions_0.npz"} <= {
        f.name for f in (tmp_path / "private").iterdir()
    }
    assert "<svg" in (tmp_path / "private" / "moments_0_acc.svg").read_text()


def test_few_persons_release_nothing(explained, tmp_path):
    for half in ("private", "release"):
        (tmp_path / half).mkdir()
    few = replace(explained, **{
        k: v for k, v in {
            "use": {m: a[:32] for m, a in explained.use.items()}, "leakage": {m: a[:32] for m, a in explained.leakage.items()},
            "person": explained.person[:32], "recording": explained.recording[:32],
        }.items()
    })  # fmt: skip
    explain.write(findings(few, 4), tmp_path / "private", tmp_path / "release")
    shown = json.loads((tmp_path / "release" / "explanations.json").read_text())
    assert len(shown["withheld"]) == 3
    assert shown["shapley"] == shown["shares"] == shown["advice"] == {}
    assert [f.name for f in (tmp_path / "release").iterdir()] == ["explanations.json"]


BAD = {
    "say how many orders": lambda e: explain.shapley([str(i) for i in range(7)], lambda s: 0.0),
    "plays once": lambda e: explain.shapley(("a", "a"), lambda s: 0.0),
    "takes two at least": lambda e: explain.shapley(("a", "b"), lambda s: 0.0, draws=1),
    "no finite number": lambda e: explain.shapley(("a", "b"), lambda s: float("nan")),
    "no remedy": lambda e: explain.advise(cohort(4), {}, use, leak),
    "attributions of shape": lambda e: replace(e, seconds=1.0, channels={"acc": ("x",), "eda": ("tonic", "phasic")}),
    "two at least": lambda e: explain.sanity(e, [e], "use"),
    "1 recordings are enrolled and explained": lambda e: both(Towers(), enrolled_names=("P-001-second", "P-001-first")),
    "no float tensor": lambda e: explain.gradients(
        lambda a: a, {"text": torch.zeros(3, 2, dtype=torch.long)}, torch.zeros(3, dtype=torch.long)
    ),
    "some modalities only": lambda e: explain.shapley(
        ["a"], explain.subsets(cohort(4), lambda d: {"P-000": 1.0}, dict.fromkeys(cohort(4).persons, 0.0))
    ),
}  # fmt: skip


@pytest.mark.parametrize("message", list(BAD))
def test_bad_input(message, explained):
    with pytest.raises(MienError, match=message):
        BAD[message](explained)
