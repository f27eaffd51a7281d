"""Stacked shadow adapters against the loop they replace."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mien.adapters import lora, stacked, training, world
from mien.adapters.lora import Lora
from mien.backbones import tiny
from mien.backbones.causal_lm import CausalBackbone, linear_names
from mien.core.errors import MienError
from mien.generation.vocabulary import Vocabulary
from mien.privacy.flat import Flat
from mien.privacy.gradients import ClippedSum, PersonGradients
from mien.privacy.plan import PrivacySpec
from mien.privacy.sampling import Units

VOCABULARY = Vocabulary(("transform",))

torch = pytest.importorskip("torch")
ROWS = (10, 11, 12)
TRAIN = training.Train(max_steps=6, batch=4, lr=1e-2, clip_norm=0.3, threads=1)
RNG = np.random.default_rng(0)
DOCUMENTS = [np.r_[1, RNG.integers(3, 120, RNG.integers(6, 14))].astype(np.int32) for _ in range(24)]
PERSON = np.arange(24) // 3


def base(layers=3, double=False):
    model = tiny.fresh(tiny.Shape(hidden=32, layers=layers, heads=2, feed_forward=48), VOCABULARY.size, 0)
    model = model.double() if double else model
    model.requires_grad_(False)
    return CausalBackbone(
        model=model, identity="", revision=None, fingerprint="", offset=0, lora_targets=linear_names(model),
        speaks_behaviour=True,
    )  # fmt: skip


def batch(backbone, rows):
    return backbone.batch([DOCUMENTS[i] for i in rows], prompt=2, persons=PERSON[rows])


def made(adapters=3, settings_=None, **kw):
    backbone = base(**kw)
    model = lora.attach(backbone, settings_ or Lora(rank=3, alpha=6), ROWS, 0)
    return backbone, model, stacked.Stack(model, adapters)


def halves(k):
    return [np.sort(np.random.default_rng(i).permutation(24)[:12]) for i in range(k)]


@pytest.mark.parametrize(
    "options",
    [Lora(rank=3, alpha=6), Lora(rank=2, alpha=2, freeze_a=True), Lora(rank=2, alpha=4, layers=1, rows=False)],
)
@pytest.mark.parametrize("micro", [None, 3])
def test_a_stack_ends_where_the_loop_ends(options, micro, tmp_path):
    train = TRAIN.model_copy(update={"micro_batch": micro})
    backbone, _, stack = made(3, options)
    stacked.fit(stack, backbone.losses, lambda r: batch(backbone, r), halves(3), train, seeds=[4, 5, 6])
    for k, rows in enumerate(halves(3)):
        alone = base()
        model = lora.attach(alone, options, ROWS, 0)
        training.fit(
            model, alone.losses, lambda r, rows=rows, alone=alone: batch(alone, rows[r]), len(rows), train, seed=4 + k,
            folder=tmp_path / str(k), accelerator=world.accelerator(1),
        )  # fmt: skip
        stack.select(k)
        assert (Flat(model).vector - stack.flat.vector).abs().max() < 2e-5
    distances = [(stack.tensors[s.name][0] - stack.tensors[s.name][1]).abs().max() for s in stack.flat.slots]
    assert max(distances) > 1e-3  # each learned from its own rows


@pytest.mark.parametrize(("double", "tolerance"), [(True, 1e-11), (False, 4e-6)])
def test_gradients_equal_one_adapter_at_a_time(double, tolerance):
    """With adapters that differ, to rounding: the sum of the losses separates."""
    backbone, model, stack = made(4, double=double)
    with torch.no_grad():
        stack.vector += 0.3 * torch.randn(stack.vector.shape, generator=torch.Generator().manual_seed(0))
    rows = np.stack([np.random.default_rng(k).permutation(24)[:5] for k in range(4)])

    def loss(rows):  # in the model's own precision; the backbone's loss is float32
        b = batch(backbone, rows)
        logp = torch.log_softmax(model(input_ids=b.ids, attention_mask=b.mask).logits[:, :-1], -1)
        return -(logp.gather(-1, b.ids[:, 1:, None])[..., 0] * b.mask[:, 1:]).clamp(min=-50).sum()

    with stack:
        loss(rows.reshape(-1)).backward()
    got = torch.cat([stack.tensors[s.name].grad.reshape(4, -1) for s in stack.flat.slots], 1)
    for k in range(4):
        stack.select(k)
        stack.flat.differentiable()
        loss(rows[k]).backward()
        want = torch.cat([stack.flat.grad[s.start : s.stop] for s in stack.flat.slots])
        assert torch.linalg.vector_norm(got[k] - want) < tolerance * torch.linalg.vector_norm(want)
        stack.flat.constant()


def test_private_gradients_are_those_of_the_engine():
    """Per person and adapter, clipped and summed: the same as privacy/gradients.py on each adapter alone."""
    backbone, model, stack = made(2)
    with torch.no_grad():
        stack.vector += 0.2 * torch.randn(stack.vector.shape, generator=torch.Generator().manual_seed(0))
    rows = np.array([[0, 1, 2, 6, 7, 8], [3, 4, 5, 9, 10, 11]])
    slot = np.array([[0, 0, 0, 1, 1, 1], [2, 2, 2, 3, 3, 3]])
    with stack, stack.collecting(torch.as_tensor(slot.reshape(-1)), 4) as buffer:
        backbone.losses(model, batch(backbone, rows.reshape(-1))).sum().backward()
    for k in range(2):
        stack.select(k)
        engine = PersonGradients(stack.flat)
        with engine.collect(torch.as_tensor([0, 0, 0, 1, 1, 1]), 2) as want:
            backbone.losses(model, batch(backbone, rows[k])).sum().backward()
        assert (buffer[2 * k : 2 * k + 2] - want).abs().max() < 2e-6
        engine.detach()


def test_private_shadows_step_like_the_private_loop(monkeypatch):
    """Everybody sampled and no noise: one step equals the mean of clipped person gradients; and noise has its size."""
    plan = PrivacySpec(epsilon=4, batch=4, rows=2, clip_norm=0.05, delta=1e-3).plan(n=8, steps=1)
    train = TRAIN.model_copy(update={"max_steps": 1, "micro_batch": 4})
    units = [Units.of(PERSON)] * 2
    drawn = []

    def everybody(units, rate, at_most, secret):
        drawn.append([rows[:at_most] for rows in units.rows])
        return drawn[-1]

    monkeypatch.setattr(stacked.sampling, "draw", everybody)
    monkeypatch.setattr(stacked.noise, "noised", lambda total, *_: total)
    backbone, model, stack = made(2)
    before = stack.vector.clone()
    with stack:
        variance = stacked._private(stack, backbone.losses, lambda r: batch(backbone, r), train, plan, units, None)
    assert variance == pytest.approx((plan.gradient_noise * plan.clip_norm / plan.expected_batch) ** 2)
    assert (stack.vector == before).all()
    stack.select(0)
    engine, total = PersonGradients(stack.flat), ClippedSum(stack.flat, plan.clip_norm, "flat")
    total.reset(plan.clip_norm)
    for rows in drawn[0]:  # one person at a time
        engine.clear()
        with engine.collect(torch.zeros(len(rows), dtype=torch.long), 1) as buffer:
            backbone.losses(model, batch(backbone, rows)).mean().backward()
        total.add(buffer)
    engine.detach()
    want = total.total / plan.expected_batch
    for k in range(2):
        got = torch.cat([stack.tensors[s.name].grad[k].reshape(-1) for s in stack.flat.slots])
        assert (got - want).abs().max() < 1e-6


def test_private_shadows_train_with_noise():
    plan = PrivacySpec(epsilon=4, batch=4, rows=2, delta=1e-3).plan(n=8, steps=5)
    train = TRAIN.model_copy(update={"max_steps": 5})
    backbone, _, stack = made(2)
    start = stack.vector.clone()
    units = [Units.of(PERSON)] * 2
    stacked.fit(
        stack, backbone.losses, lambda r: batch(backbone, r), halves(2), train, seeds=[0, 0], private=(plan, units)
    )
    first, second = (torch.cat([stack.tensors[s.name][k].reshape(-1) for s in stack.flat.slots]) for k in (0, 1))
    assert (first - second).abs().max() > 1e-4  # noise of their own
    assert torch.isfinite(stack.vector).all()
    assert (stack.vector - start).abs().max() > 0


def test_a_cached_prefix_changes_nothing():
    options = Lora(rank=2, alpha=4, layers=1, rows=False)
    found = []
    for cached in (False, True):
        backbone, model, _ = base(), None, None
        model = lora.attach(backbone, options, ROWS, 0)
        made_of = lambda r, b=backbone: batch(b, r)  # noqa: E731
        if cached:
            with stacked.Prefix(model, 2, made_of, 24, 5) as prefix:
                stack = stacked.Stack(model, 2)
                stacked.fit(stack, backbone.losses, prefix.batch_of, halves(2), TRAIN, seeds=[1, 2])
                stack.select(1)
                inside = backbone.losses(model, prefix.batch_of(np.arange(6)))
                stack.release()
            assert inside == pytest.approx(backbone.losses(model, made_of(np.arange(6))).detach().numpy(), abs=1e-5)
        else:
            stack = stacked.Stack(model, 2)
            stacked.fit(stack, backbone.losses, made_of, halves(2), TRAIN, seeds=[1, 2])
        found.append(stack.vector.detach().clone())
    assert (found[0] - found[1]).abs().max() < 1e-6


def test_the_model_is_its_own_again_outside_the_stack():
    backbone, model, stack = made(2)
    reference = backbone.losses(model, batch(backbone, np.arange(4)))
    with stack:
        both = backbone.losses(model, batch(backbone, np.r_[0:4, 0:4]))
    assert both.detach().numpy() == pytest.approx(np.tile(reference.detach().numpy(), 2), abs=1e-6)
    assert (backbone.losses(model, batch(backbone, np.arange(4))) == reference).all()
    stack.restart([1, 2])
    stack.select(1)
    stack.release()
    names = {n for n, p in model.named_parameters() if p.requires_grad}
    assert any("lora_A" in n for n in names)
    assert any("trainable_tokens" in n for n in names)


# --- who is in which shadow ---------------------------------------------------------------------------------------------
@settings(max_examples=60, deadline=None)
@given(st.integers(2, 60), st.integers(1, 20), st.floats(0.1, 0.9), st.integers(0, 5))
def test_shadows_are_balanced(persons, adapters, share, seed):
    inside = stacked.inclusion(persons, adapters, share, seed)
    sizes, times = inside.sum(1), inside.sum(0)
    assert len(set(sizes)) == 1
    assert 1 <= sizes[0] <= persons - 1
    assert times.max() - times.min() <= 1


def test_halves_of_an_even_cohort_are_nearly_orthogonal():
    inside = stacked.inclusion(60, 16, 0.5, 0)
    signs = np.where(inside, 1, -1)
    assert (inside.sum(0) == 8).all()
    assert np.abs(signs @ signs.T - 60 * np.eye(16)).max() <= 60 / 15
    assert (inside.sum(1) == 30).all()
    assert (inside != stacked.inclusion(60, 16, 0.5, 1)).any()


# --- bad input ----------------------------------------------------------------------------------------------------------
def _fit(**changes):
    backbone, _, stack = made(2)
    arguments = dict(rows=halves(2), train=TRAIN, seeds=[0, 1])
    arguments |= changes
    rows, train = arguments.pop("rows"), arguments.pop("train")
    stacked.fit(stack, backbone.losses, lambda r: batch(backbone, r), rows, train, **arguments)


def _prefix(first, options=None):
    backbone = base()
    model = lora.attach(backbone, options or Lora(rank=2, alpha=2, layers=1, rows=False), ROWS, 0)
    stacked.Prefix(model, first, lambda r: batch(backbone, r), 4)


def _bias():
    model = torch.nn.Sequential(torch.nn.Linear(3, 3))
    stacked.Stack(model, 2)


@pytest.mark.parametrize(
    ("act", "says"),
    [
        (lambda: stacked.inclusion(1, 4, 0.5, 0), "some in and some out"),
        (lambda: stacked.inclusion(9, 4, 1.0, 0), "some in and some out"),
        (lambda: _fit(seeds=[1]), "as many sets of rows and seeds"),
        (lambda: _fit(rows=[np.arange(3), np.arange(0)]), "no row to train on"),
        (lambda: _fit(train=TRAIN.model_copy(update={"lr": 1e30})), "lower train.lr"),
        (lambda: _prefix(3), "1 to 2"),
        (lambda: _prefix(1, Lora(rank=2, alpha=2)), "something below layer 1 is trained"),
        (lambda: _bias(), "one by one"),
        (lambda: lora.attach(base(), Lora(layers=9), ROWS, 0), "lora.layers: 9"),
        (lambda: lora.attach(replace(base(), speaks_behaviour=False), Lora(rows=False), ROWS, 0), "lora.rows: false"),
    ],
)
def test_bad_input_is_refused(act, says):
    with pytest.raises(MienError, match=says) as error:
        act()
    assert "\n" not in str(error.value)
