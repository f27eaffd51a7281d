"""K adapters over one frozen base, trained in one forward: shadow models for attacks, nearly free.

Each adapter sees its own rows, from its own persons. The base's matrix products then run once over all rows instead of
K times over few, which is what small adapters spend their time on; the sum of the adapters' losses has exactly the
gradients that K separate runs would have. Where the lower layers hold nothing trainable, what they make of a document
is computed once for all adapters and steps (`Prefix`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from ..core import console
from ..core.errors import MienError
from ..privacy import noise, sampling
from ..privacy.flat import Flat, Slot
from ..privacy.gradients import Rows, factors
from ..privacy.plan import PrivacyPlan
from .optimizer import Adam
from .training import Train, draw, hash_seed, rate


def inclusion(persons: int, adapters: int, share: float, seed: int) -> np.ndarray:
    """bool[adapters, persons]: who is in which shadow's training data, drawn by person.

    Each shadow has round(share * persons) of them, and each person is in as many shadows as any other (give or take
    one). For half of an even number of persons and a power of two of shadows, persons come in pairs with opposite rows
    of a Hadamard matrix: any two shadows then share half of their persons, as nearly as can be.
    """
    from scipy.linalg import hadamard

    if adapters < 1 or persons < 2 or not 0 < share < 1:
        raise MienError(
            f"{adapters} shadows of a share of {share:g} of {persons} persons: there must be some in and some out"
        )
    rng = np.random.default_rng([seed, 0x5AD0])
    size = min(max(1, round(share * persons)), persons - 1)
    order = rng.permutation(persons)
    if 2 * size == persons and adapters >= 2 and adapters & (adapters - 1) == 0:
        rows = hadamard(adapters)[1:] > 0
        codes = np.concatenate([rng.permutation(len(rows)) for _ in range(-(-persons // 2 // len(rows)))])[
            : persons // 2
        ]
        out = np.empty((adapters, persons), dtype=bool)
        for pair, code in enumerate(codes):
            first = rows[code] ^ (rng.random() < 0.5)
            out[:, order[2 * pair]], out[:, order[2 * pair + 1]] = first, ~first
        return out
    out, count = np.zeros((adapters, persons), dtype=bool), np.zeros(persons)
    for k in range(adapters):
        chosen = np.lexsort((rng.random(persons), count))[:size]
        out[k, chosen] = True
        count[chosen] += 1
    return out


class Stack:
    """K copies of the adapter that `model` (a PeftModel) carries, all starting from it.

    `tensors[slot.name]`: float[K, *slot.shape]. Inside `with stack:` the model takes batches of K x B rows, adapter
    by adapter. `select(k)` makes the model adapter k; `release()` gives the model its ordinary parameters back.
    MienError for layers other than linear ones and PEFT's token rows.
    """

    def __init__(self, model: Any, adapters: int):
        import torch

        self.model, self.adapters = model, adapters
        self.flat = Flat(model)
        self.vector = torch.cat([self.flat.vector[s.start : s.stop].repeat(adapters) for s in self.flat.slots])
        self.grad = torch.zeros_like(self.vector)
        self.tensors: dict[str, Any] = {}
        for slot in self.flat.slots:
            place = slice(slot.start * adapters, slot.stop * adapters)
            leaf = self.vector[place].view(adapters, *slot.shape).requires_grad_()
            leaf.grad = self.grad[place].view(adapters, *slot.shape)
            self.tensors[slot.name] = leaf
        # per-person gradients of private shadows: buffer[units, P], and the unit of each row while they are collected
        self.buffer: Any = None
        self.rows: Any = None
        self._forwards = self._rules()
        self._patched: list[tuple[Any, bool, Any]] = []

    def __enter__(self) -> Stack:
        for module, forward in self._forwards:
            self._patched.append((module, "forward" in module.__dict__, module.__dict__.get("forward")))
            module.__dict__["forward"] = forward
        return self

    def __exit__(self, *_: object) -> None:
        for module, had, forward in reversed(self._patched):
            if had:
                module.__dict__["forward"] = forward
            else:
                module.__dict__.pop("forward", None)
        self._patched = []

    def select(self, k: int) -> None:
        """Copy adapter k into the model."""
        import torch

        with torch.no_grad():
            for slot in self.flat.slots:
                self.flat.vector[slot.start : slot.stop].copy_(self.tensors[slot.name][k].reshape(-1))

    def restart(self, seeds: Sequence[int]) -> None:
        """Fresh LoRA factors A for each adapter (uniform within 1/sqrt(inputs), as PEFT draws them)."""
        import torch

        with torch.no_grad():
            for k, seed in enumerate(seeds):
                generator = torch.Generator().manual_seed(int(seed))
                for slot in self.flat.slots:
                    if ".lora_A." in slot.name:
                        bound = slot.shape[-1] ** -0.5
                        fresh = torch.rand(slot.shape, generator=generator) * 2 * bound - bound
                        self.tensors[slot.name][k].copy_(fresh)

    def release(self) -> None:
        self.flat.release()

    # -- rules: one per kind of layer ------------------------------------------------------------------------------------

    def _rules(self) -> list[tuple[Any, Callable]]:
        import torch

        found: list[tuple[Any, Callable]] = []
        tokens = [m for m in self.model.modules() if type(m).__name__ == "TrainableTokensLayer"]
        for slot in self.flat.slots:
            for name, module, attribute in slot.uses:
                if type(module) is torch.nn.Linear and attribute == "weight" and module.bias is None:
                    found.append((module, self._linear(slot)))
                elif not any(module is m.trainable_tokens_delta for m in tokens):
                    raise MienError(
                        f"{name}.{attribute}: adapters can be stacked where they train LoRA factors and token rows only;"
                        " train these shadows one by one"
                    )
        for module in tokens:
            slot = next(
                (s for k in module.trainable_tokens_delta if (s := self.flat.find(module.trainable_tokens_delta, k))),
                None,
            )
            if slot is not None:
                found.append((module, self._tokens(slot, module)))
        return found

    def _linear(self, slot: Slot) -> Callable:
        return lambda x: _product().apply(x, self.tensors[slot.name], self, slot)

    def _tokens(self, slot: Slot, module: Any) -> Callable:
        import torch

        base = module.get_base_layer()
        (adapter,) = module.token_indices
        index = torch.as_tensor(module.token_indices[adapter], device=self.vector.device)
        embedding = isinstance(base, torch.nn.Embedding)
        place = torch.full((base.num_embeddings if embedding else base.out_features,), -1, device=index.device)
        place[index] = torch.arange(len(index), device=index.device)
        scale = float(getattr(base, "embed_scale", 1.0))

        def embed(ids: Any) -> Any:
            return _lookup().apply(base(ids).detach(), place[ids], self.tensors[slot.name], self, slot, scale)

        def rows(x: Any) -> Any:
            out = _product().apply(x, self.tensors[slot.name], self, slot)
            return out if base.bias is None else out + base.bias[index]

        return embed if embedding else Rows(base, index, rows)

    # -- gradients -------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def collecting(self, rows: Any, units: int) -> Iterator[Any]:
        """Backward inside the block fills `buffer`: float[units, P], row i of the batch adding to buffer[rows[i]]."""
        import torch

        self.rows = rows
        self.buffer = torch.zeros(units, len(self.flat.vector), dtype=self.vector.dtype, device=self.vector.device)
        try:
            yield self.buffer
        finally:
            self.rows = None

    def norms(self) -> Any:
        """float64[K]: norm of each adapter's gradient."""
        import torch

        parts = [
            torch.linalg.vector_norm(self.tensors[s.name].grad.reshape(self.adapters, -1), dim=1, dtype=torch.float64)
            for s in self.flat.slots
        ]
        return torch.linalg.vector_norm(torch.stack(parts, 1), dim=1)

    def scale(self, factor: Any) -> None:
        """Multiply each adapter's gradient; factor: float[K]."""
        for slot in self.flat.slots:
            gradient = self.tensors[slot.name].grad.view(self.adapters, -1)
            gradient.mul_(factor.to(gradient.dtype)[:, None])

    def set_gradient(self, total: Any) -> None:
        """total: float[K, P]."""
        for slot in self.flat.slots:
            self.tensors[slot.name].grad.view(self.adapters, -1).copy_(total[:, slot.start : slot.stop])


def fit(
    stack: Stack,
    losses: Callable[[Any, Any], Any],
    batch_of: Callable[[np.ndarray], Any],
    rows: Sequence[np.ndarray],
    train: Train,
    *,
    seeds: Sequence[int],
    private: tuple[PrivacyPlan, Sequence[sampling.Units]] | None = None,
    label: str = "training shadow adapters",
) -> list[float]:
    """Train all adapters with one recipe, each on its own rows; returns each one's last loss.

    losses, batch_of: as for `training.fit`; rows[k]: what adapter k draws from; seeds[k]: of its draws. Adapter k ends
    where `training.fit` on rows[k] with seeds[k] would. private: the target's plan, and the units of each adapter;
    shadows then train as the target did, with clipping and noise of their own. They are the attacker's, stay in this
    process, and no guarantee is claimed for them.

    MienError when a loss or gradient is not finite.
    """
    import torch

    k = stack.adapters
    if not len(rows) == len(seeds) == k:
        raise MienError(f"{k} adapters need as many sets of rows and seeds, got {len(rows)} and {len(seeds)}")
    if min(len(r) for r in rows) == 0:
        raise MienError("a shadow adapter has no row to train on; draw larger shadows")
    optimizer = Adam(stack.vector, weight_decay=train.weight_decay)
    last = [0.0] * k
    stack.model.train()
    secret = noise.Secret()
    with stack, console.progress(label, train.max_steps) as bar:
        for step in range(train.max_steps):
            stack.grad.zero_()
            torch.manual_seed(hash_seed(*map(int, seeds), step))  # dropout
            variance = 0.0
            if private is None:
                last = _plain(stack, losses, batch_of, rows, train, seeds, step)
            else:
                variance = _private(stack, losses, batch_of, train, *private, secret)
            optimizer.step(stack.vector, stack.grad, rate(step, train), variance)
            if not bool(stack.vector.isfinite().all()):
                raise MienError(
                    f"a shadow adapter is no longer finite after step {step + 1}; lower train.lr ({train.lr:g})"
                )
            if (step + 1) % train.log_every == 0 or step + 1 == train.max_steps:
                bar.step(step + 1 - bar.done, f"loss {np.mean(last):.3f}" if private is None else "")
    stack.model.eval()
    return last


def _plain(stack, losses, batch_of, rows, train, seeds, step) -> list[float]:
    import torch

    k = stack.adapters
    drawn = np.stack(
        [r[draw(step, seed=int(s), batch=train.batch, n=len(r))] for r, s in zip(rows, seeds, strict=True)]
    )
    size = train.micro_batch or train.batch
    total = torch.zeros(k, dtype=torch.float64)
    for at in range(0, train.batch, size):
        loss = losses(stack.model, batch_of(drawn[:, at : at + size].reshape(-1))).view(k, -1).sum(1) / train.batch
        loss.sum().backward()
        total += loss.detach().double().cpu()
    norm = stack.norms()
    if not bool(torch.isfinite(norm).all()):
        raise MienError(
            f"the gradient of a shadow adapter is not finite at step {step + 1}; lower train.lr ({train.lr:g})"
        )
    stack.scale((train.clip_norm / (norm + 1e-6)).clamp(max=1.0))
    return total.tolist()


def _private(stack, losses, batch_of, train, plan, units, secret) -> float:
    """One step of `adapters/private.py` for every adapter; returns the noise's variance for the optimiser."""
    import torch

    if plan.clipping not in ("flat", "automatic"):
        raise MienError(f"private shadows clip flat or automatic, the target's plan says {plan.clipping}")
    k, device = stack.adapters, stack.vector.device
    batches = [sampling.draw(u, plan.sample_rate, plan.rows, secret) for u in units]
    total = torch.zeros(k, len(stack.flat.vector), dtype=torch.float64, device=device)
    each = max(1, (train.micro_batch or 16) // plan.rows)  # persons of each adapter at a time
    for at in range(0, max(map(len, batches)), each):
        parts = [b[at : at + each] for b in batches]
        width = max(1, max(sum(map(len, p)) for p in parts))
        rows, slot = np.zeros((k, width), dtype=np.int64), np.full((k, width), k * each)  # the last slot is thrown away
        weight = np.zeros((k, width))
        for i, part in enumerate(parts):
            first = 0
            for j, of in enumerate(part):
                here = slice(first, first + len(of))
                rows[i, here], slot[i, here], weight[i, here] = of, i * each + j, 1 / len(of)
                first += len(of)
        with stack.collecting(torch.as_tensor(slot.reshape(-1), device=device), k * each + 1) as buffer:
            loss = losses(stack.model, batch_of(rows.reshape(-1)))
            (loss * torch.as_tensor(weight.reshape(-1), dtype=loss.dtype, device=device)).sum().backward()
        gradients = buffer[:-1]
        scale, norm = factors(gradients, plan.clip_norm, plan.clipping, [(s.start, s.stop) for s in stack.flat.slots])
        gradients[~torch.isfinite(norm)] = 0
        total += (gradients.double() * scale).view(k, each, -1).sum(1)
    for i in range(k):
        total[i] = noise.noised(total[i], plan.gradient_noise, plan.clip_norm, secret)
    stack.set_gradient(total / plan.expected_batch)
    return (plan.gradient_noise * plan.clip_norm / plan.expected_batch) ** 2 if plan.adam_correction else 0.0


class Prefix:
    """What the frozen layers below `first` make of each document, computed once.

    Inside `with prefix:` the model begins at layer `first`, and `prefix.batch_of(rows)` must make its batches.
    MienError when something below is trainable, or the model is not laid out like a Llama.
    Memory: 4 bytes x hidden size for each token of the documents.
    """

    def __init__(self, model: Any, first: int, batch_of: Callable[[np.ndarray], Any], documents: int, batch: int = 64):
        import torch

        decoder = (model.get_base_model() if hasattr(model, "get_base_model") else model).get_decoder()
        layers = getattr(decoder, "layers", None)
        if decoder is None or not isinstance(layers, torch.nn.ModuleList) or not hasattr(decoder, "embed_tokens"):
            raise MienError("a cached prefix needs a decoder with `embed_tokens` and `layers`, as Llama's family has")
        if not 0 < first < len(layers):
            raise MienError(f"the prefix ends below layer {first} of {len(layers)}; give 1 to {len(layers) - 1}")
        below = [decoder.embed_tokens, *layers[:first]]
        if any(p.requires_grad for m in below for p in m.parameters()):
            raise MienError(
                f"something below layer {first} is trained; train the last layers only (lora.layers, lora.rows)"
            )
        self.decoder, self.layers, self.first, self._made = decoder, layers, first, batch_of
        self.embed, self.feed = decoder.embed_tokens, _Feed()
        kept: dict[str, Any] = {}
        hook = layers[first].register_forward_pre_hook(
            lambda _, args, kwargs: kept.update(x=args[0] if args else kwargs["hidden_states"]), with_kwargs=True
        )
        self.states: list[Any] = []
        model.eval()
        with torch.no_grad():
            for at in range(0, documents, batch):
                made = batch_of(np.arange(at, min(at + batch, documents)))
                decoder(input_ids=made.ids, attention_mask=made.mask, use_cache=False)
                for x, length in zip(kept["x"], made.mask.sum(1).tolist(), strict=True):
                    self.states.append(x[:length].clone())
        hook.remove()

    def batch_of(self, rows: np.ndarray) -> Any:
        import torch

        batch = self._made(rows)
        self.feed.states = torch.nn.utils.rnn.pad_sequence([self.states[r] for r in rows.tolist()], batch_first=True)
        return batch

    def __enter__(self) -> Prefix:
        import torch

        config = self.decoder.config
        self.before = config.num_hidden_layers, config.use_cache
        self.decoder.embed_tokens, self.decoder.layers = self.feed, torch.nn.ModuleList(self.layers[self.first :])
        config.num_hidden_layers, config.use_cache = len(self.decoder.layers), False  # layers keep their cache index
        return self

    def __exit__(self, *_: object) -> None:
        self.decoder.embed_tokens, self.decoder.layers = self.embed, self.layers
        self.decoder.config.num_hidden_layers, self.decoder.config.use_cache = self.before


def _Feed() -> Any:
    import torch

    class Feed(torch.nn.Module):
        states: Any = None

        def forward(self, ids: Any) -> Any:
            if self.states is None or self.states.shape[:2] != ids.shape:
                raise MienError("inside a prefix, batches come from prefix.batch_of")
            return self.states

    return Feed()


_PRODUCT: Any = None
_LOOKUP: Any = None


def _product() -> Any:
    """y[k, b] = x[k, b] W[k]^T as one autograd function that sums W's gradient per adapter, or keeps it per person."""
    global _PRODUCT
    if _PRODUCT is None:
        import torch

        class Product(torch.autograd.Function):
            @staticmethod
            def forward(ctx, x, weight, stack, slot):  # type: ignore[override]
                ctx.save_for_backward(x, weight)
                ctx.stack, ctx.slot = stack, slot
                k = len(weight)
                if x.shape[0] % k:
                    raise MienError(f"a stack of {k} adapters needs a multiple of {k} rows, got {x.shape[0]}")
                y = torch.bmm(x.reshape(k, -1, x.shape[-1]), weight.to(x.dtype).transpose(1, 2))
                return y.view(*x.shape[:-1], weight.shape[1])

            @staticmethod
            def backward(ctx, *outputs):  # type: ignore[override]
                (g,), (x, weight) = outputs, ctx.saved_tensors
                k, stack, slot = len(weight), ctx.stack, ctx.slot
                flat_g, flat_x = g.reshape(k, -1, g.shape[-1]), x.reshape(k, -1, x.shape[-1])
                to_x = torch.bmm(flat_g, weight.to(g.dtype)).view(x.shape) if ctx.needs_input_grad[0] else None
                if stack.rows is None:
                    return to_x, torch.bmm(flat_g.transpose(1, 2), flat_x).to(weight.dtype), None, None
                n = x.shape[0]
                own = torch.bmm(g.reshape(n, -1, g.shape[-1]).transpose(1, 2), x.reshape(n, -1, x.shape[-1]))
                stack.buffer[:, slot.start : slot.stop].index_add_(
                    0, stack.rows, own.view(n, -1).to(stack.buffer.dtype)
                )
                return to_x, None, None, None

        _PRODUCT = Product
    return _PRODUCT


def _lookup() -> Any:
    """Trained token rows over frozen embeddings, one set of rows per adapter."""
    global _LOOKUP
    if _LOOKUP is None:
        import torch

        class Lookup(torch.autograd.Function):
            @staticmethod
            def forward(ctx, frozen, at, weight, stack, slot, scale):  # type: ignore[override]
                k, count, width = weight.shape
                adapter = torch.arange(k, device=at.device).repeat_interleave(at.shape[0] // k)
                index = adapter.view(-1, *[1] * (at.ndim - 1)) * count + at.clamp(min=0)
                ctx.save_for_backward(at, index)
                ctx.stack, ctx.slot, ctx.scale, ctx.of = stack, slot, scale, weight
                rows = (weight.reshape(-1, width)[index] * scale).to(frozen.dtype)
                return torch.where((at >= 0)[..., None], rows, frozen)

            @staticmethod
            def backward(ctx, *outputs):  # type: ignore[override]
                (g,), (at, index) = outputs, ctx.saved_tensors
                stack, slot, weight = ctx.stack, ctx.slot, ctx.of
                keep, width = at >= 0, weight.shape[2]
                if stack.rows is None:
                    out = torch.zeros(weight.shape[0] * weight.shape[1], width, dtype=weight.dtype, device=g.device)
                    out.index_add_(0, index[keep], (g[keep] * ctx.scale).to(out.dtype))
                    return None, None, out.view(weight.shape), None, None, None
                count, units = weight.shape[1], len(stack.buffer)
                of = (stack.rows.view(-1, *[1] * (at.ndim - 1)) * count + at.clamp(min=0))[keep]
                out = torch.zeros(units * count, width, dtype=stack.buffer.dtype, device=g.device)
                out.index_add_(0, of, (g[keep] * ctx.scale).to(out.dtype))
                stack.buffer[:, slot.start : slot.stop] += out.view(units, -1)
                return (None,) * 6

        _LOOKUP = Lookup
    return _LOOKUP
