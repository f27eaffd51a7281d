"""Per-person gradients against the slow way: one person at a time through ordinary autograd, and vmap(grad)."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from mien.core.errors import MienError
from mien.privacy.flat import Flat
from mien.privacy.gradients import SLACK, ClippedSum, PersonGradients, factors

VOCABULARY = 24


def llama(*, hidden=16, layers=2, heads=2, tied=True, dtype=torch.float64, seed=0, tokens=(3, 5, 9), **lora):
    torch.manual_seed(seed)
    base = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY, hidden_size=hidden, intermediate_size=2 * hidden, num_hidden_layers=layers,
            num_attention_heads=heads, num_key_value_heads=heads, tie_word_embeddings=tied, max_position_embeddings=64,
        )
    ).to(dtype)  # fmt: skip
    base.requires_grad_(False)
    options = {"r": 3, "target_modules": "all-linear", "trainable_token_indices": list(tokens) or None, **lora}
    model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", **options), autocast_adapter_dtype=False)
    for p in model.parameters():
        if p.requires_grad:
            torch.nn.init.normal_(p, std=0.2)
    return model.train()


def losses(model, ids, mask):
    logits = model(input_ids=ids, attention_mask=mask).logits
    nll = torch.nn.functional.cross_entropy(logits[:, :-1].transpose(1, 2), ids[:, 1:], reduction="none")
    counted = mask[:, 1:] * mask[:, :-1]
    return (nll * counted).sum(1) / counted.sum(1).clamp(min=1)


def data(rows, length, side="right", seed=0):
    g = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, VOCABULARY, (rows, length), generator=g)
    mask = torch.ones_like(ids)
    for r in range(rows):
        cut = int(torch.randint(0, max(1, length - 2), (1,), generator=g))
        if cut and side == "right":
            mask[r, -cut:] = 0
        elif cut:
            mask[r, :cut] = 0
    return ids * mask, mask


def one_at_a_time(model, ids, mask, person):
    """The oracle: ordinary PEFT forwards, one person's rows alone, autograd. [persons, P], in Flat's order."""
    flat = Flat(model)
    flat.differentiable()
    out = []
    for p in sorted(set(person.tolist())):
        flat.grad.zero_()
        for r in (person == p).nonzero()[:, 0]:
            losses(model, ids[r : r + 1], mask[r : r + 1]).sum().backward()
        out.append(flat.grad.clone())
    flat.release()
    return torch.stack(out)


def fast(model, ids, mask, person, *, micro=None, loss=losses):
    flat = Flat(model)
    gradients = PersonGradients(flat)
    n = int(person.max()) + 1
    for at in range(0, len(ids), micro or len(ids)):
        piece = slice(at, at + (micro or len(ids)))
        with gradients.collect(person[piece], n) as buffer:
            loss(model, ids[piece], mask[piece]).sum().backward()
    assert gradients.touched == {s.name for s in flat.slots}
    gradients.detach()
    flat.release()
    return buffer.clone()


def close(a, b, limit):
    assert (a - b).abs().max() <= limit * max(1.0, float(b.abs().max())), float((a - b).abs().max())


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    hidden=st.sampled_from([8, 16, 24]), layers=st.integers(1, 3), tied=st.booleans(), rows=st.integers(1, 6),
    length=st.integers(3, 12), side=st.sampled_from(["right", "left"]), persons=st.integers(1, 4),
    micro=st.sampled_from([None, 1, 2, 3]), bias=st.sampled_from(["none", "lora_only"]),
    checkpointing=st.sampled_from([None, False, True]), double=st.booleans(), seed=st.integers(0, 99),
)  # fmt: skip
def test_equal_to_one_person_at_a_time(
    hidden, layers, tied, rows, length, side, persons, micro, bias, checkpointing, double, seed
):
    extra = {"lora_bias": True} if bias == "lora_only" else {}
    dtype = torch.float64 if double else torch.float32
    model = llama(hidden=hidden, layers=layers, tied=tied, dtype=dtype, seed=seed, **extra)
    ids, mask = data(rows, length, side, seed)
    person = torch.randint(0, persons, (rows,), generator=torch.Generator().manual_seed(seed))
    person = torch.unique(person, return_inverse=True)[1]
    expected = one_at_a_time(model, ids, mask, person)
    if checkpointing is not None:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": checkpointing})
        model.enable_input_require_grads()
    close(fast(model, ids, mask, person, micro=micro), expected, 1e-12 if double else 1e-5)


def unmasked(model, ids, mask):
    logits = model(input_ids=ids).logits
    return torch.nn.functional.cross_entropy(logits[:, :-1].transpose(1, 2), ids[:, 1:], reduction="none").mean(1)


def test_equal_to_vmap_of_grad():
    model = llama(tokens=())
    ids = data(5, 9)[0].clamp(min=1)
    trainable = {n: p for n, p in model.named_parameters() if p.requires_grad}
    rest = {n: p for n, p in model.named_parameters() if not p.requires_grad}

    def one(params, i):
        def call(input_ids):
            return torch.func.functional_call(model, {**params, **rest}, kwargs={"input_ids": input_ids})

        return unmasked(call, i[None], None)[0]

    grads = torch.func.vmap(torch.func.grad(one), in_dims=(None, 0))(trainable, ids)
    expected = torch.cat([grads[n].flatten(1) for n in trainable], dim=1)
    close(fast(model, ids, ids, torch.arange(5), loss=unmasked), expected, 1e-12)


def test_a_module_used_twice_in_one_forward():
    """Two views of one window through the same adapter (a contrastive or preference loss): uses are summed first."""

    def twice(model, ids, mask):
        return losses(model, ids, mask) * losses(model, ids.flip(1).contiguous(), mask.flip(1).contiguous())

    model = llama()
    ids, mask = data(4, 8)
    person = torch.tensor([0, 1, 0, 2])
    flat = Flat(model)
    flat.differentiable()
    expected = []
    for p in range(3):
        flat.grad.zero_()
        for r in (person == p).nonzero()[:, 0]:
            twice(model, ids[r : r + 1], mask[r : r + 1]).sum().backward()
        expected.append(flat.grad.clone())
    flat.release()
    close(fast(model, ids, mask, person, loss=twice), torch.stack(expected), 1e-12)


def test_rows_of_a_tower_that_are_not_the_batch():
    """Three images per recording run through a tower of their own; the batch says whose each is."""

    class Two(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.tower, self.head = torch.nn.Linear(4, 3), torch.nn.Linear(3, 1)

        def forward(self, images):
            return self.head(self.tower(images.flatten(0, 1)).view(*images.shape[:2], -1).mean(1))

    torch.manual_seed(0)
    model, images = Two().double(), torch.randn(2, 3, 4, dtype=torch.float64)
    flat = Flat(model)
    flat.differentiable()
    expected = []
    for i in range(2):
        flat.grad.zero_()
        model(images[i : i + 1]).square().sum().backward()
        expected.append(flat.grad.clone())
    flat.constant()
    gradients = PersonGradients(flat)
    rows = torch.arange(2)
    with pytest.raises(MienError, match=r"tower: its input has 6 rows, the batch has 2"), gradients.collect(rows, 2):
        model(images)
    with gradients.collect(rows, 2, maps={"tower": rows.repeat_interleave(3)}) as buffer:
        model(images).square().sum().backward()
    close(buffer, torch.stack(expected), 1e-12)


def test_dropout_is_the_one_that_was_drawn():
    model = llama(lora_dropout=0.4)
    ids, mask = data(4, 8)
    flat = Flat(model)
    flat.differentiable()
    torch.manual_seed(7)
    losses(model, ids, mask).sum().backward()
    summed = flat.grad.clone()
    flat.release()

    def seeded(model, ids, mask):
        torch.manual_seed(7)
        return losses(model, ids, mask)

    for reentrant in (None, False, True):
        if reentrant is not None:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
            model.enable_input_require_grads()
        close(fast(model, ids, mask, torch.arange(4), loss=seeded).sum(0), summed, 1e-12)


def test_bfloat16_autocast_accumulates_in_float32():
    model = llama(dtype=torch.float32)
    ids, mask = data(6, 12)
    person = torch.tensor([0, 0, 0, 1, 1, 2])
    exact = one_at_a_time(model, ids, mask, person)

    def half(model, ids, mask):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return losses(model, ids, mask)

    got = fast(model, ids, mask, person, loss=half)
    assert got.dtype == torch.float32
    for a, b in zip(got, exact, strict=True):
        assert torch.nn.functional.cosine_similarity(a, b, dim=0) > 0.999
    # and what is kept is not rounded to bfloat16's 8 bits
    assert (got != got.to(torch.bfloat16).float()).float().mean() > 0.9


@pytest.mark.parametrize("bits", [4, 8])
def test_quantised_bases(bits, tmp_path):
    pytest.importorskip("bitsandbytes")
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    torch.manual_seed(0)
    LlamaForCausalLM(
        LlamaConfig(vocab_size=VOCABULARY, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2)
    ).save_pretrained(tmp_path)  # fmt: skip
    config = BitsAndBytesConfig(
        load_in_4bit=bits == 4, load_in_8bit=bits == 8, bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=torch.float32, llm_int8_threshold=0.0,
    )  # fmt: skip
    base = AutoModelForCausalLM.from_pretrained(tmp_path, quantization_config=config, device_map={"": "cpu"})
    model = get_peft_model(base, LoraConfig(r=3, target_modules="all-linear", task_type="CAUSAL_LM")).train()
    for p in model.parameters():
        if p.requires_grad:
            torch.nn.init.normal_(p, std=0.2)
    ids, mask = data(4, 10)
    person = torch.tensor([0, 1, 1, 2])
    # Quantised weights are unpacked to float32 by kernels whose rounding differs by batch shape and by machine (1.2e-5
    # seen on one, 4e-6 on another); a wrong rule errs by tenths.
    close(fast(model, ids, mask, person), one_at_a_time(model, ids, mask, person), 1e-4)


# -- clipping ------------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 5), size=st.integers(2, 30), scale=st.floats(1e-8, 1e8), clip=st.floats(1e-3, 1e3),
    clipping=st.sampled_from(["flat", "per_layer", "automatic", "adaptive"]), seed=st.integers(0, 999),
    broken=st.sampled_from([None, float("nan"), float("inf")]),
)  # fmt: skip
def test_no_person_moves_the_sum_by_more_than_the_clip(n, size, scale, clip, clipping, seed, broken):
    g = torch.randn(n, size, generator=torch.Generator().manual_seed(seed)) * scale
    if broken is not None:
        g[0, 0] = broken
    layers = [(0, size // 2), (size // 2, size)]

    def total(rows):
        made = object.__new__(ClippedSum)
        made.clipping, made.groups = clipping, layers
        made.total = torch.zeros(size, dtype=torch.float64)
        made.reset(clip)
        if len(rows):
            made.add(rows.clone())
        return made

    everybody, without = total(g), total(g[1:])
    moved = float(torch.linalg.vector_norm(everybody.total - without.total))
    assert moved <= clip  # not a bit more: the slack pays for rounding
    assert torch.isfinite(everybody.total).all()
    assert everybody.not_finite == (broken is not None)


def test_what_clipping_does_to_small_and_large():
    g = torch.tensor([[3.0, 4.0], [0.03, 0.04]])
    scale, norms = factors(g, 1.0, "flat", [(0, 1), (1, 2)])
    assert norms.tolist() == pytest.approx([5.0, 0.05])
    assert scale[:, 0].tolist() == pytest.approx([0.2 * (1 - SLACK), 1.0])
    scale, _ = factors(g, 1.0, "per_layer", [(0, 1), (1, 2)])
    assert (scale * g).abs()[0].tolist() == pytest.approx([0.5**0.5] * 2, rel=1e-5)
    scale, _ = factors(g, 1.0, "automatic", [(0, 2)])
    assert (scale[:, :1] * g).norm(dim=1).tolist() == pytest.approx([5 / 5.01, 0.05 / 0.06], rel=1e-5)


# -- refusals ------------------------------------------------------------------------------------------------------------


class Frozen(torch.nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner


def tied_to_frozen():
    shared = torch.nn.Parameter(torch.randn(4, 4))
    model = torch.nn.ModuleDict({"a": torch.nn.Linear(4, 4, bias=False), "b": torch.nn.Linear(4, 4, bias=False)})
    model.a.weight = shared
    model.b.weight = torch.nn.Parameter(shared.data, requires_grad=False)
    return model


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Frozen(torch.nn.Conv1d(2, 2, 3)), r"inner \(Conv1d in Frozen\).*target linear layers only"),
        (lambda: Frozen(torch.nn.LayerNorm(3)), r"inner \(LayerNorm.*freeze it"),
        (lambda: llama(use_dora=True), r"DoraLinearLayer.*leave use_dora off"),
        (
            lambda: llama(target_modules=["embed_tokens"], tokens=(), trainable_token_indices=None),
            r"ParameterDict.*linear layers only",
        ),
        (lambda: Frozen(torch.nn.Linear(2, 2)).requires_grad_(False), "no parameter of the model requires a gradient"),
        (tied_to_frozen, r"a.weight shares its memory with the frozen b.weight"),
    ],
)
def test_modules_without_a_rule_are_named(make, says):
    with pytest.raises(MienError, match=says):
        PersonGradients(Flat(make()))


def test_flat_leaves_the_tree_and_comes_back():
    model = llama()
    before = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}
    flat = Flat(model)
    assert not [p for p in model.parameters() if p.requires_grad]
    assert not set(before) & set(model.state_dict())
    flat.vector += 1
    with flat.registered():
        now = dict(model.named_parameters())
        assert all(torch.equal(now[n], before[n] + 1) for n in before)
    assert not [p for p in model.parameters() if p.requires_grad]
    flat.release()
    assert all(torch.equal(dict(model.named_parameters())[n], before[n] + 1) for n in before)
