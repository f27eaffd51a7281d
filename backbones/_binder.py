"""What every binder shares: towers that put one modality each into a space common to all (ImageBind, CLIP, CLAP …).

A binder's module exposes `KIND = "binder"`, `Config` and `load(config) -> Binder`. Its model is frozen; LoRA adapts the
linear layers `lora_targets` names. Towers take what their `prepare` makes of one window's stream, so that batches are
plain tensors and the loss of a window never depends on another window's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..core.errors import MienError
from ..core.records import StreamSpec, Text

Arrays = Mapping[str, np.ndarray]


class Absent(MienError):
    """A window in which a stream holds nothing for its tower (nobody spoke): as if the stream were missing there."""


@dataclass(frozen=True, kw_only=True)
class Tower:
    """One modality's encoder.

    kind: the stream kind it takes ("signal", "events", "text", "video"); module: dotted name of its submodule in the
    binder's model; layers: dotted names of its blocks, from input to output (late ones can be adapted alone);
    prepare(stream) -> named arrays of one window, without the model and without a batch axis; MienError where the stream
    is none it can take, naming what is wrong, `Absent` where this window of it is empty; embed(model, inputs: dict of
    Tensor[B, ...]) -> float32[B, dim], of unit length, each row from its own inputs alone; joins: whether `prepare` also
    takes several streams at once, by name (a sensor whose axes a cohort holds apart); early(model, inputs, k) -> float32[B, ...],
    what enters the last k blocks, and late(model, that, k) -> as `embed`: a tower that can be cut, so that its frozen
    beginning is computed once (`adapters/cached.py`); fit(spec) -> (what turns a stream of a cohort's card into what `prepare`
    takes, and that in words), MienError where none does: a tower that knows units.
    """

    kind: str
    module: str
    layers: tuple[str, ...]
    prepare: Callable[[Any], Arrays]
    embed: Callable[[Any, Mapping[str, Any]], Any]
    joins: bool = False
    early: Callable[[Any, Mapping[str, Any], int], Any] | None = None
    late: Callable[[Any, Any, int], Any] | None = None
    fit: Callable[[StreamSpec], tuple[Callable[[Any], Any], str]] | None = None


@dataclass(kw_only=True)
class Binder:
    """towers: by modality ("image", "text", "audio", "imu" …); dim: of the common space; identity: what a published
    adapter names as its base (a hub id or asset name, never a local path); fingerprint: of the frozen weights;
    lora_targets: names of linear layers, as PEFT's `target_modules` (the last parts of dotted names suffice); licence,
    restrictions (of core/records.RESTRICTIONS): of the weights; they bind every adapter and every figure made with them;
    logit_scale: the temperature's inverse at which the base was bound; negatives: a safetensors file, modality ->
    float32[K, dim], of public recordings' embeddings to tell one's own apart from, where the base has some.
    """

    model: Any
    towers: Mapping[str, Tower]
    dim: int
    identity: str
    revision: str | None
    fingerprint: str
    lora_targets: Sequence[str]
    licence: str
    restrictions: tuple[str, ...] = ()
    logit_scale: float = 1 / 0.07
    negatives: Path | None = None

    def embed(self, model: Any, modality: str, inputs: Mapping[str, Any]) -> Any:
        """float32[B, dim], of unit length. model: the binder's own, or the same inside a `PeftModel`."""
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        return self.towers[modality].embed(base, inputs)


def words_of(stream: Any) -> str:
    """The words of a Text (its utterances, joined) or of a string. MienError for others; Absent where there are none."""
    words = " ".join(stream.text) if isinstance(stream, Text) else stream
    if not isinstance(words, str):
        raise MienError(f"text: this tower takes text, not {type(stream).__name__}")
    if not words.strip():
        raise Absent("text: there are no words in this window")
    return words


def still(model: Any) -> Any:
    """The same module, whose frozen layers stay in evaluation mode whatever `train()` says: dropout would draw by place, and
    batch normalisation would let rows see each other. LoRA's own dropout listens as usual."""
    kind = type(model)

    def train(self: Any, mode: bool = True) -> Any:
        kind.train(self, mode)
        for name, module in self.named_modules():
            if "lora_" not in name:
                module.training = False
        return self

    model.__class__ = type(kind.__name__, (kind,), {"train": train})
    return model.eval()


def collate(rows: Sequence[Arrays], device: Any = "cpu") -> dict[str, Any]:
    """Prepared windows -> named tensors with a batch axis, shorter ones padded with zeros at the end of axis 0 (a tower
    whose arrays differ in length brings a mask among them)."""
    import torch

    out = {}
    for name in rows[0]:
        arrays = [np.asarray(r[name]) for r in rows]
        if arrays[0].ndim and len({len(a) for a in arrays}) > 1:
            width = max(map(len, arrays))
            arrays = [np.pad(a, [(0, width - len(a)), *[(0, 0)] * (a.ndim - 1)]) for a in arrays]
        out[name] = torch.as_tensor(np.stack(arrays), device=device)
    return out


def attention(width: int, heads: int, *, bias: bool = True, bias_kv: bool = False, dropout: float = 0.0) -> Any:
    """Multi-head attention as `torch.nn.MultiheadAttention` computes it, batch first, out of two linear layers.

    PEFT and per-person gradients know linear layers only; torch's own module holds its input projection as a bare tensor
    and never calls its output projection. State dicts are read and written under torch's names (`in_proj_weight` …), as
    released weights have them. forward(x: [B, T, width], mask: None, or float/bool broadcastable to [B, heads, T, T (+1
    with bias_kv)], additive or True = may look) -> [B, T, width].
    """
    import torch
    from torch import nn
    from torch.nn import functional as F

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.heads, self.dropout = heads, dropout
            self.in_proj = nn.Linear(width, 3 * width, bias=bias)
            self.out_proj = nn.Linear(width, width, bias=bias)
            if bias_kv:
                self.bias_k = nn.Parameter(torch.zeros(1, 1, width))
                self.bias_v = nn.Parameter(torch.zeros(1, 1, width))
            nn.init.xavier_uniform_(self.in_proj.weight)
            self.register_state_dict_post_hook(_torch_names)
            self.register_load_state_dict_pre_hook(_own_names)

        def forward(self, x: Any, mask: Any = None) -> Any:
            b, t, _ = x.shape
            q, k, v = self.in_proj(x).chunk(3, -1)
            if bias_kv:
                k = torch.cat([k, self.bias_k.to(k.dtype).expand(b, 1, -1)], 1)
                v = torch.cat([v, self.bias_v.to(v.dtype).expand(b, 1, -1)], 1)
            q, k, v = (a.view(b, a.shape[1], self.heads, -1).transpose(1, 2) for a in (q, k, v))
            out = F.scaled_dot_product_attention(
                q, k, v, attn_mask=mask, dropout_p=self.dropout if self.training else 0.0
            )
            return self.out_proj(out.transpose(1, 2).reshape(b, t, -1))

    return Attention()


_NAMES = {"in_proj.weight": "in_proj_weight", "in_proj.bias": "in_proj_bias"}


def _torch_names(module: Any, state: Any, prefix: str, local: Any) -> None:
    for own, torchs in _NAMES.items():
        if prefix + own in state:
            state[prefix + torchs] = state.pop(prefix + own)


def _own_names(module: Any, state: Any, prefix: str, *rest: Any) -> None:
    for own, torchs in _NAMES.items():
        if prefix + torchs in state:
            state[prefix + own] = state.pop(prefix + torchs)


def from_torch(module: Any) -> Any:
    """The same computation as a `torch.nn.MultiheadAttention`, as an `attention` with its weights (batch first)."""
    made = attention(
        module.embed_dim, module.num_heads, bias=module.in_proj_bias is not None, bias_kv=module.bias_k is not None,
        dropout=module.dropout,
    )  # fmt: skip
    made.load_state_dict(module.state_dict())
    return made.to(next(module.parameters()).device).train(module.training)
