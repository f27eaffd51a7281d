"""Protections beside differential privacy: what each does, what it does not, and that none of them claims more."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier

from mien.backbones.causal_lm import pooled
from mien.core import config, plugins
from mien.core.config import Section
from mien.core.errors import MienError
from mien.core.records import CohortCard, Recording, Signal, StreamSpec
from mien.privacy.flat import Flat
from mien.privacy.gradients import PersonGradients
from mien.privacy.mechanisms import adversary, leace, perturb

KIND = "privacy/mechanisms"


@pytest.mark.parametrize("name", plugins.names(KIND))
def test_every_protection_has_a_config_and_claims_nothing(name):
    module = plugins.load(KIND, name)
    assert issubclass(module.Config, Section)
    assert module.GUARANTEE.startswith("none: ")
    assert not re.search(r"\d|ε", module.GUARANTEE), "a protection without a proof states no number"


def test_the_three_protections_are_there():
    assert {"adversary", "leace", "perturb"} <= set(plugins.names(KIND))


# --- adversary ----------------------------------------------------------------------------------------------------


def grad(tensor: Any) -> Any:
    return tensor.grad


def sex(**more):
    return adversary.Config(attributes=("sex",), **{"hidden": 16, **more})


def test_reversal_is_the_identity_forwards_and_minus_the_weight_backwards():
    x = torch.randn(3, 4, requires_grad=True)
    y = adversary.reverse(x, 2.5)
    assert torch.equal(y, x)
    y.backward(g := torch.randn(3, 4))
    assert torch.equal(grad(x), -2.5 * g)


def test_the_weight_scales_what_flows_back_and_not_the_heads_own_gradient():
    x, codes = torch.randn(5, 4), torch.tensor([0, 1, 2, 1, 0])
    found = {}
    for weight in (1.0, 3.0):
        torch.manual_seed(0)
        head = adversary.head(4, 3, sex(weight=weight))
        pooled = x.clone().requires_grad_()
        adversary.loss(head, pooled, codes).sum().backward()
        found[weight] = grad(pooled), head.inner.weight.grad.clone()
    plain = x.clone().requires_grad_()
    logits = head.outer(torch.relu(head.inner(plain)))
    torch.nn.functional.cross_entropy(logits, codes, reduction="sum").backward()
    assert torch.allclose(found[1.0][0], -grad(plain))
    assert torch.allclose(found[3.0][0], -3 * grad(plain))
    assert torch.equal(found[1.0][1], found[3.0][1])


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 6), st.integers(0, 5))
def test_no_row_of_the_loss_depends_on_another(seed, rows, which):
    torch.manual_seed(seed)
    head, which = adversary.head(4, 3, sex()), which % rows
    x, codes = torch.randn(rows, 4), torch.randint(-1, 3, (rows,))
    alone = adversary.loss(head, x[which : which + 1], codes[which : which + 1])
    together = adversary.loss(head, x, codes)
    assert together.shape == (rows,)
    assert together.dtype == torch.float32
    assert torch.allclose(together[which], alone[0], atol=1e-6)
    x = x.requires_grad_()
    adversary.loss(head, x, codes)[which].backward()
    assert not grad(x)[torch.arange(rows) != which].any()


def test_a_missing_value_costs_nothing_and_teaches_nothing():
    head, x = adversary.head(4, 2, sex()), torch.randn(2, 4, requires_grad=True)
    loss = adversary.loss(head, x, torch.tensor([-1, -1]))
    loss.sum().backward()
    assert not loss.any()
    assert not grad(x).any()
    assert not any(p.grad.any() for p in head.parameters())


def test_every_trainable_tensor_has_a_per_person_gradient():
    """Through the engine of the private training: equal to one plain backward per person, head and adapter alike."""
    torch.manual_seed(0)
    model = torch.nn.ModuleDict({"adapter": torch.nn.Linear(5, 4), "head": adversary.head(4, 3, sex(weight=2.0))})
    assert {type(m) for m in model["head"].modules() if list(m.parameters(recurse=False))} == {torch.nn.Linear}
    x, codes, person = torch.randn(6, 5), torch.tensor([0, 1, 2, -1, 1, 0]), torch.tensor([0, 1, 0, 2, 1, 2])

    def losses(rows):
        return adversary.loss(model["head"], model["adapter"](x[rows]), codes[rows])

    slow = []
    for p in range(3):
        model.zero_grad()
        losses(person == p).sum().backward()
        slow.append(torch.cat([grad(q).reshape(-1) for q in model.parameters()]))
    flat = Flat(model)
    gradients = PersonGradients(flat)
    with gradients.collect(person, 3):
        losses(slice(None)).sum().backward()
    assert torch.allclose(gradients.buffer, torch.stack(slow), atol=1e-6)
    assert torch.stack(slow).norm(dim=1).min() > 1e-3


def test_pooled_is_the_mean_of_what_the_mask_keeps():
    hidden = torch.randn(4, 6, 3, dtype=torch.bfloat16)
    mask = torch.tensor([[1] * 6, [1, 1, 0, 0, 0, 0], [0, 1, 0, 1, 0, 1], [0] * 6])
    slow = [h[m.bool()].float().mean(0) if m.any() else torch.zeros(3) for h, m in zip(hidden, mask, strict=True)]
    assert torch.allclose(pooled(hidden, mask), torch.stack(slow), atol=1e-6)
    changed = hidden.clone()
    changed[1, 2:] = 100.0
    assert torch.equal(pooled(changed, mask)[1], pooled(hidden, mask)[1])


def test_targets_of_words_and_numbers():
    c = config.parse(
        adversary.Config,
        {
            "attributes": ["sex", "age", "income", "site"],
            "bins": 3,
            "ranges": {"age": [20, 80]},
            "edges": {"income": [10, 50.5]},
            "classes": {"site": ["north", "south", "east"]},
        },
        "adversary",
    )
    codes, classes = adversary.targets(["m", None, "f", "m", float("nan")], c, "sex")
    assert (codes.tolist(), classes) == ([1, -1, 0, 1, -1], ("f", "m"))
    codes, classes = adversary.targets([5, 20, 39.9, 40, 60, 99, None, float("nan")], c, "age")
    assert (codes.tolist(), classes) == ([0, 0, 0, 1, 2, 2, -1, -1], ("[-inf, 40)", "[40, 60)", "[60, inf)"))
    assert adversary.targets([9, 10, 51], c, "income")[0].tolist() == [0, 1, 2]
    codes, classes = adversary.targets(["south"], c, "site")
    assert (codes.tolist(), classes) == ([1], ("north", "south", "east"))
    assert adversary.targets([True, False], c, "sex")[0].tolist() == [1, 0]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.none() | st.floats(-1e6, 1e6), max_size=20), st.lists(st.floats(-1e3, 1e3), max_size=5))
def test_bins_do_not_depend_on_who_else_is_in_the_data(values, others):
    c = adversary.Config(attributes=("age",), ranges={"age": (18, 90)})
    codes, classes = adversary.targets(values, c, "age")
    more, same = adversary.targets([*values, *others], c, "age")
    assert classes == same
    assert codes.tolist() == more[: len(values)].tolist()
    assert all((v is None) == (k == -1) and k < len(classes) for v, k in zip(values, codes, strict=True))


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        ({"attributes": []}, "attributes"),
        ({"attributes": ["sex"], "weight": 0}, "weight"),
        ({"attributes": ["sex"], "edges": {"age": [1]}}, "not among the attributes"),
        ({"attributes": ["age"], "edges": {"age": [1]}, "ranges": {"age": [0, 1]}}, "described twice"),
        ({"attributes": ["age"], "ranges": {"age": [9, 1]}}, "must rise"),
        ({"attributes": ["age"], "edges": {"age": []}}, "must rise"),
        ({"attributes": ["sex"], "classes": {"sex": ["f", "f"]}}, "different values"),
        ({"attributes": ["sex"], "dropout": 0.1}, "unknown key"),
    ],
)
def test_a_wrong_adversary_section_is_one_line(raw, says):
    with pytest.raises(MienError, match=says) as error:
        config.parse(adversary.Config, raw, "adversary")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("values", "more", "says"),
    [
        ([31, 40], {}, "declare its `ranges`"),
        (["31"], {"edges": {"sex": (30,)}}, "declare its `classes`"),
        (["m", "x"], {"classes": {"sex": ("f", "m")}}, "'x' is not among"),
    ],
)
def test_wrong_targets_are_one_line(values, more, says):
    with pytest.raises(MienError, match=says):
        adversary.targets(values, sex(**more), "sex")


def test_an_attribute_of_one_class_needs_no_adversary():
    with pytest.raises(MienError, match="two classes"):
        adversary.head(4, 1, sex())


def toy(seed: int, n: int):
    """Eight features; label and attribute lie along two hidden directions, four standard deviations apart and more."""
    rng = np.random.default_rng(seed)
    label, attribute = rng.integers(2, size=(2, n))
    x = rng.standard_normal((n, 8))
    x[:, 0] += 4 * label - 2
    x[:, 1] += 8 * attribute - 4
    turn = np.linalg.qr(np.random.default_rng(99).standard_normal((8, 8)))[0]
    return torch.tensor(x @ turn, dtype=torch.float32), torch.tensor(label), torch.tensor(attribute)


def probes_after_training(width: int, weight: float | None) -> tuple[float, float]:
    """Fresh probes' accuracies on new rows: the best of a linear and a curved one for the attribute, and the label's."""
    torch.manual_seed(0)
    x, label, attribute = toy(0, 600)
    encoder, task = torch.nn.Linear(8, width), torch.nn.Linear(width, 2)
    head = adversary.head(width, 2, sex(weight=weight or 1.0))
    optimiser = torch.optim.Adam([*encoder.parameters(), *task.parameters(), *head.parameters()], lr=1e-2)
    for _ in range(300):
        r = encoder(x)
        loss = torch.nn.functional.cross_entropy(task(r), label, reduction="none")
        if weight:
            loss = loss + adversary.loss(head, r, attribute)
        optimiser.zero_grad()
        loss.mean().backward()
        optimiser.step()
    new, new_label, new_attribute = toy(1, 1000)
    with torch.no_grad():
        r, s = encoder(x).numpy(), encoder(new).numpy()
    r, s = r / r.std(0), s / r.std(0)
    linear, curved = LogisticRegression(max_iter=1000), MLPClassifier((16,), max_iter=1000, random_state=0)
    attribute_read = max(p.fit(r, attribute).score(s, new_attribute) for p in (linear, curved))
    return float(attribute_read), float(linear.fit(r, label).score(s, new_label))


def test_reversal_makes_a_narrow_representation_forget():
    before, _ = probes_after_training(2, None)
    after, label = probes_after_training(2, 1.0)
    assert before > 0.9
    assert after < 0.7
    assert label > 0.85


def test_a_wide_representation_misleads_the_head_and_remembers_all_the_same():
    """Why the guarantee is none: the same recipe with eight features instead of two."""
    after, _ = probes_after_training(8, 1.0)
    assert after > 0.85


# --- leace --------------------------------------------------------------------------------------------------------


def cross(x, z, w=None):
    """|cross-covariance| of every feature with every concept, by the definition."""
    w = np.full(len(x), 1 / len(x)) if w is None else w / w.sum()
    x, z = x - w @ x, z - w @ z
    return np.abs((w[:, None] * x).T @ z)


def mixed(seed, n=300, d=6, k=3, spread=0.0):
    rng = np.random.default_rng(seed)
    codes = rng.integers(k, size=n)
    x = (rng.standard_normal((n, d)) + rng.standard_normal((k, d))[codes]) @ rng.standard_normal((d, d))
    return x * np.logspace(0, -spread, d), codes


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31), n=st.integers(3, 80), d=st.integers(1, 40), k=st.integers(2, 5), weighted=st.booleans()
)  # fmt: skip
def test_after_erasure_no_concept_covaries_with_any_feature(seed, n, d, k, weighted):
    """Also with more features than rows, several attributes at once and missing values; and twice is once."""
    x, codes = mixed(seed, n, d, k)
    rng = np.random.default_rng(seed)
    second = rng.integers(-1, 2, size=n)
    z = leace.one_hot(codes, second)
    w = rng.random(n) + 0.01 if weighted else None
    eraser = leace.fit(x, z, w)
    y = eraser.apply(x)
    assert cross(y, z, w).max() < 1e-8
    assert np.allclose(eraser.apply(y), y, atol=1e-8 * np.abs(x).max())
    weights = np.ones(n) if w is None else w
    assert np.allclose(weights @ y, weights @ x, atol=1e-8 * np.abs(x).max() * weights.sum())


@pytest.mark.parametrize("spread", [4, 8, 12])
def test_features_of_very_different_size_are_erased_each_in_its_own_unit(spread):
    x, codes = mixed(0, n=2000, d=10, spread=spread)
    x += 1e3 * x.std(0)
    z = leace.one_hot(codes)
    before, after = cross(x, z) / x.std(0)[:, None], cross(leace.fit(x, z).apply(x), z) / x.std(0)[:, None]
    assert before.max() > 0.05
    assert after.max() < 1e-8


def test_a_nearly_singular_covariance():
    """A direction 1e-7 as wide as the rest carries the concept. The oracle erases in well-conditioned coordinates: the
    best eraser does not depend on the coordinates."""
    rng = np.random.default_rng(0)
    z = rng.integers(2, size=(3000, 1)).astype(float)
    own = rng.standard_normal((3000, 5))
    own[:, 4] += z[:, 0]
    to = np.eye(5)
    to[4] = [0, 0, 0, 0, 1e-7]
    to[0, 4] = 1
    y, slow = leace.fit(own @ to, z).apply(own @ to), leace.fit(own, z).apply(own)
    assert np.linalg.cond(to) > 1e7
    assert np.allclose(y @ np.linalg.inv(to), slow, atol=1e-5)
    assert np.abs(slow - own)[:, 4].mean() > 0.5, "there was something to erase"


def test_float32_in_float32_out():
    x, codes = mixed(1)
    x = x.astype(np.float32)
    y = leace.fit(x, leace.one_hot(codes)).apply(x)
    assert y.dtype == np.float32
    assert cross(y.astype(np.float64), leace.one_hot(codes)).max() < 1e-5


@pytest.mark.parametrize("gap", [1.0, 0.02])
def test_one_of_many_persons_is_erased_too(gap):
    """A rare class is weakly correlated with everything; a tolerance for small correlations would pass it over."""
    rng = np.random.default_rng(0)
    one = np.arange(20_000) < 100
    x = rng.standard_normal((20_000, 8))
    x[one] += gap + x[~one].mean(0) - x[one].mean(0)
    y = leace.fit(x, one[:, None].astype(float)).apply(x)
    assert abs(y[one].mean(0) - y[~one].mean(0)).max() < 1e-8


def test_a_linear_probe_is_at_chance_on_the_rows_it_was_fitted_on():
    x, codes = mixed(2, n=600, k=2)
    y = leace.fit(x, leace.one_hot(codes)).apply(x)
    chance = max(np.mean(codes), 1 - np.mean(codes))
    assert LogisticRegression(C=1e6, max_iter=2000).fit(x, codes).score(x, codes) > chance + 0.2
    assert LogisticRegression(C=1e6, max_iter=2000).fit(y, codes).score(y, codes) <= chance + 0.01


def test_new_rows_are_near_chance_and_keep_another_label():
    rng = np.random.default_rng(3)
    codes, label = rng.integers(2, size=(2, 6000))
    x = rng.standard_normal((6000, 8)) + 2 * np.outer(codes, np.eye(8)[0] + 0.5) + 2 * np.outer(label, np.eye(8)[1])
    old, new = slice(0, 3000), slice(3000, None)
    eraser = leace.fit(x[old], leace.one_hot(codes[old]))
    a, b = eraser.apply(x[old]), eraser.apply(x[new])
    probe = LogisticRegression(max_iter=1000)
    assert probe.fit(x[old], codes[old]).score(x[new], codes[new]) > 0.9
    assert probe.fit(b[:1500], codes[new][:1500]).score(b[1500:], codes[new][1500:]) < 0.57
    assert probe.fit(a, label[old]).score(b, label[new]) > 0.75


def test_it_is_the_least_change():
    """Against a numerical minimiser of the mean squared change over all maps that cut the covariance, and against the
    orthogonal projection off the same column space."""
    x, codes = mixed(4, n=200, d=3, k=2)
    z = leace.one_hot(codes)
    centred, zc = x - x.mean(0), z - z.mean(0)
    covariance, link = centred.T @ centred / len(x), (centred.T @ zc / len(x))[:, :1]
    for metric in (np.eye(3), np.diag([1.0, 5.0, 0.2])):

        def change(p, m=metric):
            step = p.reshape(3, 3) - np.eye(3)
            return float(np.trace(m @ step @ covariance @ step.T))

        start = np.eye(3) - link @ np.linalg.pinv(link)
        slow = optimize.minimize(
            change, start.ravel(), method="SLSQP", options={"maxiter": 500, "ftol": 1e-14},
            constraints={"type": "eq", "fun": lambda p: (p.reshape(3, 3) @ link).ravel() / np.linalg.norm(link)},
        )  # fmt: skip
        step = leace.fit(x, z).apply(x) - x
        ours = float(np.mean(np.einsum("ni,ij,nj->n", step, metric, step)))
        assert ours == pytest.approx(slow.fun, rel=1e-5)
        assert ours < change(start.ravel()) * (1 - 1e-3)


def test_the_formula_of_the_paper():
    """x - W^+ P W (x - mean), with W from an eigendecomposition."""
    x, codes = mixed(5)
    z = leace.one_hot(codes)
    values, vectors = np.linalg.eigh(np.cov(x.T))
    whiten, back = (vectors * values**p @ vectors.T for p in (-0.5, 0.5))
    link = whiten @ (x - x.mean(0)).T @ (z - z.mean(0))
    u = np.linalg.svd(link, full_matrices=False)[0][:, :2]
    slow = x - (x - x.mean(0)) @ (back @ u @ u.T @ whiten).T
    assert np.allclose(leace.fit(x, z).apply(x), slow, atol=1e-10)


def test_every_person_counts_once():
    """Weighted by `person_weights`, a person seen thrice erases like one seen once."""
    x, codes = mixed(6, n=40)
    z, again = leace.one_hot(codes), np.r_[np.arange(40), 7, 7]
    weights = leace.person_weights([f"p{i}" for i in again])
    assert weights.tolist() == [1.0] * 7 + [1 / 3] + [1.0] * 32 + [1 / 3] * 2
    fair, once = leace.fit(x[again], z[again], weights), leace.fit(x, z)
    assert np.allclose(fair.apply(x), once.apply(x))
    assert not np.allclose(leace.fit(x[again], z[again]).apply(x), once.apply(x))


def test_together_is_more_than_one_at_a_time():
    """Erasing a second attribute alone, afterwards, brings some of the first back in general; jointly it does not."""
    x, codes = mixed(7, k=2)
    other = (x[:, 0] + np.random.default_rng(7).standard_normal(len(x)) > 0).astype(int)
    first, second = leace.one_hot(codes), leace.one_hot(other)
    joint = leace.fit(x, np.hstack([first, second])).apply(x)
    assert cross(joint, first).max() < 1e-8
    assert cross(joint, second).max() < 1e-8
    assert np.array_equal(leace.one_hot(codes, other), np.hstack([first, second]))


@pytest.mark.parametrize("z", [np.ones((300, 1)), np.full((300, 2), 0.1), np.zeros((300, 1))])
def test_a_concept_that_does_not_vary_changes_nothing(z):
    x, _ = mixed(8)
    assert np.array_equal(leace.fit(x, z).apply(x), x)


def test_features_that_do_not_vary_stay():
    """And where a new row has another value there, that must not be blown up into the other features."""
    x, codes = mixed(9)
    x[:, 2] = 1e6 / 3
    eraser = leace.fit(x, leace.one_hot(codes), np.random.default_rng(9).random(len(x)))
    new = x + 1e4 * np.eye(6)[2]
    assert np.array_equal(eraser.apply(new)[:, 2], new[:, 2])
    assert np.allclose(np.delete(eraser.apply(new), 2, 1), np.delete(eraser.apply(x), 2, 1))
    flat = np.full((4, 2), 0.1)
    assert np.array_equal(leace.fit(flat, np.eye(4)).apply(flat), flat)


def test_more_classes_than_features_leave_nothing():
    x, _ = mixed(14, n=100, d=6)
    y = leace.fit(x, leace.one_hot(np.arange(100) % 7)).apply(x)
    assert np.allclose(y, x.mean(0), atol=1e-8)


def test_a_curved_probe_still_reads_what_is_not_linear():
    """XOR: the concept has no linear trace, so there is nothing to erase and everything left to find."""
    rng = np.random.default_rng(11)
    half = rng.uniform(-1, 1, (1000, 2))
    x = np.stack([half, -half], 1).reshape(2000, 2)  # so that the covariance is zero exactly, not but for chance
    codes = (x[:, 0] * x[:, 1] > 0).astype(int)
    y = leace.fit(x, leace.one_hot(codes)).apply(x)
    assert np.array_equal(y, x)
    curved = MLPClassifier((32,), max_iter=2000, random_state=0).fit(y[:1000], codes[:1000])
    assert LogisticRegression().fit(y[:1000], codes[:1000]).score(y[1000:], codes[1000:]) < 0.6
    assert curved.score(y[1000:], codes[1000:]) > 0.9


def test_an_eraser_comes_back_from_disk(tmp_path):
    x, codes = mixed(12)
    eraser = leace.fit(x, leace.one_hot(codes))
    eraser.save(tmp_path / "eraser.safetensors")
    assert [f.name for f in tmp_path.iterdir()] == ["eraser.safetensors"]
    back = leace.Eraser.load(tmp_path / "eraser.safetensors")
    assert np.array_equal(back.apply(x), eraser.apply(x))
    assert np.allclose(eraser.apply(x.reshape(30, 10, 6)), eraser.apply(x).reshape(30, 10, 6))
    replace(eraser, left=np.asfortranarray(eraser.left)).save(tmp_path / "turned.safetensors")
    assert np.array_equal(leace.Eraser.load(tmp_path / "turned.safetensors").left, eraser.left)
    nothing = leace.fit(x, np.ones((300, 1)))
    nothing.save(tmp_path / "nothing.safetensors")
    assert np.array_equal(leace.Eraser.load(tmp_path / "nothing.safetensors").apply(x), x)


def test_a_broken_eraser_file_is_one_line(tmp_path):
    from safetensors.numpy import save_file

    (tmp_path / "text").write_text("no")
    save_file({"left": np.ones(3)}, tmp_path / "half")
    save_file({"left": np.ones((3, 1)), "right": np.ones((1, 2)), "mean": np.ones(3)}, tmp_path / "shapes")
    for name in ("absent", "text", "half", "shapes"):
        with pytest.raises(MienError, match="holds no eraser") as error:
            leace.Eraser.load(tmp_path / name)
        assert "\n" not in str(error.value)


X, Z = np.arange(12.0).reshape(4, 3) ** 2, np.eye(4)[:, :2]


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: leace.fit(X, Z[:3]), "same n"),
        (lambda: leace.fit(X, Z[:, 0]), "same n"),
        (lambda: leace.fit(X[0], Z), "same n"),
        (lambda: leace.fit(X[:0], Z[:0]), "same n"),
        (lambda: leace.fit(X, Z[:, :0]), "same n"),
        (lambda: leace.fit(np.where(X == 4, np.nan, X), Z), "NaN"),
        (lambda: leace.fit(X, np.where(Z == 1, np.inf, Z)), "NaN"),
        (lambda: leace.fit(X, Z, np.ones(3)), "one number per row"),
        (lambda: leace.fit(X, Z, np.array([1, 1, -1, 1])), "negative"),
        (lambda: leace.fit(X, Z, np.zeros(4)), "all zero"),
        (lambda: leace.fit(X, Z).apply(X[:, :2]), "fitted on 3 features"),
        (lambda: config.parse(leace.Config, {"attributes": []}, "leace"), "attributes"),
    ],
)
def test_bad_input_to_erasure_is_one_line(call, says):
    with pytest.raises(MienError, match=says) as error:
        call()
    assert "\n" not in str(error.value)


# --- perturb ------------------------------------------------------------------------------------------------------

CARD = CohortCard(
    name="c", licence="x", consent="x",
    streams={
        "acc": StreamSpec(channels=("x", "y"), unit="g", rate_hz=10, range=(-4.0, 4.0)),
        "eda": StreamSpec(channels=("eda",), unit="uS", rate_hz=4),
    },
)  # fmt: skip


def recording(streams=("acc", "eda"), n=4000):
    rng = np.random.default_rng(0)
    made = {
        "acc": Signal(
            values=np.where(np.arange(n)[:, None] % 7 == 0, [np.nan, 99.0], rng.uniform(-1, 1, (n, 2))),
            rate_hz=10, channels=("x", "y"), unit="g", offset_s=1.0, valid=np.arange(n) % 7 != 0,
        ),
        "eda": Signal(values=rng.uniform(0, 9, (n, 1)), rate_hz=4, channels=("eda",), unit="uS"),
    }  # fmt: skip
    return Recording(
        id="r", person="p", session="s", start_s=3.0, labels={"task": "walk"}, attributes={"age": 40},
        streams={s: made[s] for s in streams},
    )  # fmt: skip


def noise(r, options, seed=0, card=CARD):
    return perturb.apply(r, perturb.Config(**options), card, np.random.default_rng(seed))


def test_noise_has_the_declared_size_and_touches_nothing_else():
    r = recording()
    out = noise(r, {"scale": 0.05, "streams": {"eda": 0.3}})
    assert replace(out, streams=r.streams) == r
    assert list(out.streams) == list(r.streams)
    for name, sd in (("acc", 0.05 * 8), ("eda", 0.3)):
        a, b = r.streams[name], out.streams[name]
        assert (b.rate_hz, b.channels, b.unit, b.offset_s) == (a.rate_hz, a.channels, a.unit, a.offset_s)
        good = slice(None) if a.valid is None else a.valid
        assert np.std(b.values[good] - a.values[good]) == pytest.approx(sd, rel=0.05)
        assert abs(np.mean(b.values[good] - a.values[good])) < 0.05 * sd * 2
    gap = np.arange(4000) % 7 == 0
    assert out.streams["acc"].valid is not None
    assert np.array_equal(out.streams["acc"].valid, ~gap)
    assert np.array_equal(out.streams["acc"].values[gap], r.streams["acc"].values[gap], equal_nan=True)
    assert out.streams["eda"].valid is None


def test_equal_generators_make_equal_noise_and_channels_differ():
    r = recording()
    options = {"scale": 0.05, "streams": {"eda": 0.3}}
    one, same, other = (noise(r, options, seed).streams["acc"].values for seed in (0, 0, 1))
    assert np.array_equal(one, same, equal_nan=True)
    assert not np.array_equal(one, other, equal_nan=True)
    turned = noise(recording(("eda", "acc")), options).streams["acc"].values
    assert np.array_equal(one, turned, equal_nan=True), (
        "the order the streams are listed in is no part of the recording"
    )
    step = (one - r.streams["acc"].values)[r.streams["acc"].valid]
    assert abs(np.corrcoef(step.T)[0, 1]) < 0.1


@settings(max_examples=20, deadline=None)
@given(st.floats(0, 100), st.integers(0, 1000))
def test_noise_stays_inside_the_sensors_range(scale, seed):
    out = noise(recording(("acc",), n=50), {"scale": scale}, seed).streams["acc"]
    good = out.values[np.arange(50) % 7 != 0]
    assert np.isfinite(good).all()
    assert good.min() >= -4
    assert good.max() <= 4


def test_no_noise_is_the_same_recording():
    r = recording(("acc",))
    assert np.array_equal(noise(r, {"scale": 0}).streams["acc"].values, r.streams["acc"].values, equal_nan=True)


def test_white_noise_on_a_slow_signal_is_largely_undone_by_smoothing():
    """Why the guarantee is none."""
    t = np.arange(20_000) / 100
    clean = np.sin(2 * np.pi * 0.1 * t).astype(np.float32)[:, None]
    card = replace(CARD, streams={"bvp": StreamSpec(channels=("b",), unit="1", rate_hz=100)})
    r = Recording(id="r", person="p", streams={"bvp": Signal(values=clean, rate_hz=100, channels=("b",), unit="1")})
    noisy = noise(r, {"scale": 0, "streams": {"bvp": 1.0}}, card=card).streams["bvp"].values[:, 0]
    smooth = np.convolve(noisy, np.ones(100) / 100, "same")
    assert np.corrcoef(noisy, clean[:, 0])[0, 1] < 0.65
    assert np.corrcoef(smooth, clean[:, 0])[0, 1] > 0.95


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: noise(recording(), {"scale": 0.1}), "perturb.streams.eda"),
        (lambda: noise(recording(("acc",)), {"scale": 0.1, "streams": {"ecg": 1}}), "no stream 'ecg'"),
        (lambda: noise(recording(), {"scale": 0.1}, card=replace(CARD, streams={})), "no stream"),
        (lambda: config.parse(perturb.Config, {"scale": -1}, "perturb"), "scale"),
        (lambda: config.parse(perturb.Config, {"scale": 1, "streams": {"acc": -1}}, "perturb"), "streams.acc"),
        (lambda: config.parse(perturb.Config, {}, "perturb"), "'scale' is missing"),
    ],
)
def test_bad_input_to_perturbation_is_one_line(call, says):
    with pytest.raises(MienError, match=says) as error:
        call()
    assert "\n" not in str(error.value)
