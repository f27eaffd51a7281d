"""Exact per-person gradients of LoRA layers, made inside the one backward pass that plain training makes too.

Each trainable layer runs through an `autograd.Function` that keeps its input with `save_for_backward` and multiplies
it with the output's gradient row by row: the same arithmetic as the summed gradient it replaces, only not summed over
rows. The rows of one person are added up before any norm is taken. What autograd saves it also recomputes, so both
kinds of gradient checkpointing are exact. The base model is not touched: it may be sharded, quantised or in bfloat16.

A hook on the layer would see nothing here under non-reentrant checkpointing, and ghost norms would cost a second
backward and a T x T product per layer, for a gradient that is small anyway.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

from ..core.errors import MienError
from .flat import Flat, Slot

Clipping = Literal["flat", "per_layer", "automatic", "adaptive"]
SLACK = 1e-6  # what rounding could add to a clipped norm is taken off beforehand
_AUTOMATIC = 0.01  # the stability constant of AUTO-S, arXiv 2206.07136, section 4


class PersonGradients:
    """Per-person gradients of the tensors in `flat`.

    While attached, `with gradients.collect(slots, n): loss_sum.backward()` adds to `buffer`: [n, P], where row i of
    the batch belongs to `buffer[slots[i]]`. MienError when a trainable tensor belongs to a layer without a rule,
    naming it and what to do.
    """

    def __init__(self, flat: Flat):
        import torch

        self.flat = flat
        self.buffer: Any = None
        self.touched: set[str] = set()
        self._slots: Any = None
        self._maps: dict[str, Any] = {}
        self._patched: list[tuple[Any, bool, Any]] = []
        # a layer over frozen embeddings has no differentiable input; without this its backward would never run
        self._anchor = torch.zeros((), requires_grad=True, device=flat.vector.device)
        _functions()
        self._attach()

    # -- attaching -----------------------------------------------------------------------------------------------------

    def _attach(self) -> None:
        import torch

        owners: dict[int, tuple[str, Any]] = {}
        for slot in self.flat.slots:
            for name, module, _ in slot.uses:
                owners.setdefault(id(module), (name, module))
        tokens = [(n, m) for n, m in _token_layers(self.flat.model) if self._adapter_of(m) is not None]
        try:
            for name, module in owners.values():
                if any(module is m.trainable_tokens_delta for _, m in tokens):
                    continue
                if type(module) is torch.nn.Linear:
                    self._patch(module, self._linear(name, module))
                elif type(module) is torch.nn.Embedding:
                    self._patch(module, self._embedding(name, module))
                else:
                    raise MienError(_no_rule(self.flat.model, name, module))
            for name, module in tokens:
                self._patch(module, self._tokens(name, module))
        except BaseException:
            self.detach()
            raise

    def _patch(self, module: Any, forward: Callable) -> None:
        self._patched.append((module, "forward" in module.__dict__, module.__dict__.get("forward")))
        module.__dict__["forward"] = forward

    def detach(self) -> None:
        """Give every layer its own forward back."""
        for module, had, forward in reversed(self._patched):
            if had:
                module.__dict__["forward"] = forward
            else:
                module.__dict__.pop("forward", None)
        self._patched = []

    # -- rules: one per kind of layer ------------------------------------------------------------------------------------

    def _linear(self, name: str, module: Any) -> Callable:
        weight, bias = self.flat.find(module, "weight"), self.flat.find(module, "bias")

        def forward(x: Any) -> Any:
            if self._slots is None:
                return _F().linear(x, module.weight.to(x.dtype), _as(module.bias, x.dtype))
            return _LINEAR.apply(
                x, module.weight.detach(), None if module.bias is None else module.bias.detach(),
                self._anchor, self, self._rows(name, x), weight, bias,
            )  # fmt: skip

        return forward

    def _embedding(self, name: str, module: Any) -> Callable:
        slot = self.flat.find(module, "weight")

        def forward(ids: Any) -> Any:
            out = _F().embedding(ids, module.weight.detach())
            if self._slots is None:
                return out
            if module.padding_idx is not None:
                ids = ids.masked_fill(ids == module.padding_idx, -1)
            return _TAKE.apply(out, ids, self._anchor, self, self._rows(name, ids), slot, 1.0)

        return forward

    def _tokens(self, name: str, module: Any) -> Callable:
        """PEFT's trainable token rows, in an embedding or in the output head tied to it: never a [V, d] gradient."""
        import torch

        adapter = self._adapter_of(module) or ""
        slot = self.flat.find(module.trainable_tokens_delta, adapter)
        base = module.get_base_layer()
        index = torch.as_tensor(module.token_indices[adapter], device=self.flat.vector.device)
        size = base.num_embeddings if hasattr(base, "num_embeddings") else base.out_features
        place = torch.full((size,), -1, dtype=torch.long, device=index.device)
        place[index] = torch.arange(len(index), device=index.device)
        scale = float(getattr(base, "embed_scale", 1.0))  # Gemma's embedding multiplies what it looks up

        def embed(ids: Any) -> Any:
            out = base(ids)
            delta = module.trainable_tokens_delta[adapter].detach() * scale
            at = place[ids]
            out = torch.where((at >= 0)[..., None], delta.to(out.dtype)[at.clamp(min=0)], out)
            if self._slots is None:
                return out
            return _TAKE.apply(out, at, self._anchor, self, self._rows(name, ids), slot, scale)

        def rows(x: Any) -> Any:
            delta = module.trainable_tokens_delta[adapter].detach()
            if self._slots is None:
                out = _F().linear(x, delta.to(x.dtype))
            else:
                out = _LINEAR.apply(x, delta, None, self._anchor, self, self._rows(name, x), slot, None)
            return out if getattr(base, "bias", None) is None else out + base.bias[index]

        if isinstance(base, torch.nn.Embedding):
            return embed
        return Rows(base, index, rows)

    def _adapter_of(self, module: Any) -> str | None:
        deltas = module.trainable_tokens_delta
        found = [k for k in deltas.keys() if self.flat.find(deltas, k) is not None]  # noqa: SIM118 - a ParameterDict
        return found[0] if found else None

    def _rows(self, name: str, x: Any) -> Any:
        """int64[x.shape[0]]: the buffer slot of each row of this layer's input."""
        slots = next((s for prefix, s in self._maps.items() if name.startswith(prefix)), self._slots)
        if x.shape[0] != len(slots):
            raise MienError(
                f"{name}: its input has {x.shape[0]} rows, the batch has {len(slots)}: it is not clear which row is"
                f" whose. Give the batch a row map for it (maps={{{name.split('.')[0]!r}: slots}}), or take the layer"
                " out of lora.targets"
            )
        return slots

    # -- collecting ----------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def collect(self, slots: Any, n: int, maps: Mapping[str, Any] | None = None) -> Iterator[Any]:
        """Forward and backward inside this block add to `buffer`[n, P], which is kept if it already has n rows.

        slots: int64[rows], where each row's gradient goes; maps: module-name prefix -> its own slots, for layers
        whose rows are not the batch's (images of a vision tower).
        """
        import torch

        vector = self.flat.vector
        if self.buffer is None or self.buffer.shape[0] < n:
            grown = torch.zeros(n, len(vector), dtype=vector.dtype, device=vector.device)
            if self.buffer is not None:
                grown[: self.buffer.shape[0]] = self.buffer
            self.buffer = grown
        self._slots, self._maps = slots.to(vector.device), dict(maps or {})
        try:
            yield self.buffer[:n]
        finally:
            self._slots, self._maps = None, {}

    def clear(self) -> None:
        if self.buffer is not None:
            self.buffer.zero_()

    def add(self, slot: Slot, rows: Any, gradient: Any) -> None:
        """gradient: [rows, …] of one tensor, one entry per row of the batch."""
        self.touched.add(slot.name)
        into = self.buffer[:, slot.start : slot.stop]
        gradient = gradient.reshape(len(rows), -1).to(self.buffer.dtype)
        if rows.is_cuda:
            into.index_add_(0, rows, gradient)
        else:  # the same sums in the same order; on a CPU index_add_ takes five times as long
            for row, g in zip(rows.tolist(), gradient, strict=True):
                into[row].add_(g)

    def add_indexed(self, slot: Slot, rows: Any, at: Any, gradient: Any) -> None:
        """Embedding rows: gradient [rows, T, d] goes to row `at`[rows, T] of the tensor, nowhere where at < 0."""
        self.touched.add(slot.name)
        width = slot.shape[1]
        count = slot.shape[0]
        keep = at.reshape(len(rows), -1) >= 0
        flat = (rows[:, None] * count + at.reshape(len(rows), -1))[keep]
        import torch

        into = torch.zeros(len(self.buffer) * count, width, dtype=self.buffer.dtype, device=self.buffer.device)
        into.index_add_(0, flat, gradient.reshape(len(rows), -1, width)[keep].to(self.buffer.dtype))
        self.buffer[:, slot.start : slot.stop] += into.view(len(self.buffer), -1)


def factors(gradients: Any, clip_norm: float, clipping: Clipping, groups: list[tuple[int, int]]) -> tuple[Any, Any]:
    """What each person's gradient is multiplied by: (float[n, groups], norms float64[n]).

    gradients: [n, P]; groups: the column ranges that are clipped apart (one, unless `per_layer`). Afterwards every
    row's norm is at most clip_norm, whatever the row held: a row with a NaN or an infinity gets factor 0 (its caller
    must also zero it, for 0 x NaN is NaN). per_layer gives each group clip_norm / sqrt(groups), so the whole row
    keeps the same bound. automatic: AUTO-S, arXiv 2206.07136, equation 4.2.
    """
    import torch

    # tensor by tensor whatever the clipping: a float64 copy of all of them would take twice their memory
    norms = torch.stack(
        [torch.linalg.vector_norm(gradients[:, a:b], dim=1, dtype=torch.float64) for a, b in groups], dim=1
    )
    whole = torch.linalg.vector_norm(norms, dim=1)
    if clipping != "per_layer":
        norms = whole[:, None]
    limit = clip_norm * (1 - SLACK) / norms.shape[1] ** 0.5
    scale = limit / (norms + _AUTOMATIC) if clipping == "automatic" else (limit / norms.clamp(min=limit))
    scale = torch.where(torch.isfinite(norms), scale, 0.0)
    scale = torch.where(torch.isfinite(whole)[:, None], scale, 0.0)
    return scale, whole


class ClippedSum:
    """The running sum of clipped gradients of one logical step: float64[P], so that order hardly matters."""

    def __init__(self, flat: Flat, clip_norm: float, clipping: Clipping):
        import torch

        self.clipping: Clipping = clipping
        self.clip_norm = clip_norm
        self.groups = [(s.start, s.stop) for s in flat.slots]
        self.total = torch.zeros(len(flat.vector), dtype=torch.float64, device=flat.vector.device)
        self.norms: list[float] = []
        self.not_finite = 0
        self.below = 0

    def reset(self, clip_norm: float) -> None:
        self.clip_norm, self.norms, self.not_finite, self.below = clip_norm, [], 0, 0
        self.total.zero_()

    def add(self, gradients: Any) -> None:
        """gradients: [persons, P], one whole person per row; consumed."""
        import torch

        scale, norms = factors(gradients, self.clip_norm, self.clipping, self.groups)
        bad = ~torch.isfinite(norms)
        if bool(bad.any()):
            self.not_finite += int(bad.sum())
            gradients[bad] = 0
        self.below += int((norms[~bad] <= self.clip_norm).sum())
        self.norms += norms[~bad].tolist()
        sizes = torch.tensor([b - a for a, b in self.groups], device=scale.device)
        flat = scale[:, 0].tolist()
        for i in range(len(gradients)):  # float64 products: what rounding adds stays far below SLACK
            if self.clipping == "per_layer":
                self.total.addcmul_(gradients[i].double(), torch.repeat_interleave(scale[i], sizes))
            else:
                self.total.add_(gradients[i], alpha=flat[i])


class Rows:
    """The forward of an output layer some of whose logits others give. base: the layer; index: their ids, in the order in which
    others: [..., d] -> [..., rows] gives them. Whoever needs few logits asks these alone (generation/narrow.py)."""

    def __init__(self, base: Any, index: Any, others: Callable[[Any], Any]):
        self.base, self.others, self._index, self.index = base, others, index, index.cpu().numpy()

    def __call__(self, x: Any) -> Any:
        out = self.base(x)
        return out.index_copy(-1, self._index, self.others(x).to(out.dtype))


def _token_layers(model: Any) -> list[tuple[str, Any]]:
    """PEFT layers that train single rows of an embedding or head, and are used in a forward."""
    return [(n, m) for n, m in model.named_modules() if type(m).__name__ == "TrainableTokensLayer"]


def _no_rule(model: Any, name: str, module: Any) -> str:
    kind = type(module).__name__
    parent = name.rpartition(".")[0]
    owner = type(dict(model.named_modules()).get(parent, module)).__name__
    way = {
        "DoraLinearLayer": "leave use_dora off",
        "ParameterDict": "target linear layers only (a LoRA on an embedding has no rule; use trainable token rows)",
        "Conv1d": "target linear layers only",
        "Conv2d": "target linear layers only",
        "Conv3d": "target linear layers only",
    }.get(kind, "freeze it, or train it without a privacy guarantee")
    return (
        f"{name} ({kind} in {owner}) has trainable parameters, and there is no rule for its per-person gradient:"
        f" {way}. Rules exist for linear layers, embeddings and PEFT's trainable tokens"
    )


def _as(tensor: Any, dtype: Any) -> Any:
    return None if tensor is None else tensor.to(dtype)


def _F() -> Any:
    import torch

    return torch.nn.functional


_LINEAR: Any = None
_TAKE: Any = None


def _functions() -> None:
    """Define the two autograd functions once (torch is imported late)."""
    global _LINEAR, _TAKE
    if _LINEAR is not None:
        return
    import torch

    class Linear(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, weight, bias, anchor, tape, rows, to_weight, to_bias):  # type: ignore[override]
            kind = x.device.type
            dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
            ctx.tape, ctx.rows, ctx.to_weight, ctx.to_bias, ctx.of = tape, rows, to_weight, to_bias, x.dtype
            x, weight = x.to(dtype), weight.to(dtype)
            ctx.save_for_backward(x, weight)
            return torch.nn.functional.linear(x, weight, _as(bias, dtype))

        @staticmethod
        def backward(ctx, g):  # type: ignore[override]
            x, weight = ctx.saved_tensors
            n = len(ctx.rows)
            a, b = g.reshape(n, -1, g.shape[-1]), x.reshape(n, -1, x.shape[-1])
            if ctx.to_weight is not None:
                ctx.tape.add(ctx.to_weight, ctx.rows, _product(a, b))
            if ctx.to_bias is not None:
                ctx.tape.add(ctx.to_bias, ctx.rows, a.sum(1, dtype=_wide(a)))
            down = (g @ weight).to(ctx.of) if ctx.needs_input_grad[0] else None
            return down, None, None, None, None, None, None, None

    class Take(torch.autograd.Function):
        """Identity on an embedding's output; its gradient is added to the rows that were looked up."""

        @staticmethod
        def forward(ctx, out, at, anchor, tape, rows, slot, scale):  # type: ignore[override]
            ctx.tape, ctx.rows, ctx.slot, ctx.scale = tape, rows, slot, scale
            ctx.save_for_backward(at)
            return out.view_as(out)

        @staticmethod
        def backward(ctx, g):  # type: ignore[override]
            (at,) = ctx.saved_tensors
            ctx.tape.add_indexed(ctx.slot, ctx.rows, at, g.to(_wide(g)) * ctx.scale)
            return (g if ctx.needs_input_grad[0] else None), None, None, None, None, None, None

    _LINEAR, _TAKE = Linear, Take


def _wide(tensor: Any) -> Any:
    import torch

    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def _product(g: Any, x: Any) -> Any:
    """[n, out, in] = sum over positions of g[n, t, out] x[n, t, in], accumulated in float32 or wider."""
    import torch

    if g.dtype == _wide(g):
        return torch.bmm(g.transpose(1, 2), x)
    if g.is_cuda:
        return torch.bmm(g.transpose(1, 2), x, out_dtype=torch.float32)
    return torch.bmm(g.transpose(1, 2).float(), x.float())
