"""ImageBind's architecture (Girdhar et al., arXiv 2305.05665, section 3 and appendix B): six vision transformers, one space.

Written anew; tensors have the names and shapes of the released `imagebind_huge.pth`, so that its weights load. Two things
are left out, neither of which has weights: stochastic depth and the dropout before the IMU head, which were for training
towers from nothing; a private loss may not depend on random numbers dealt out by place.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ._binder import attention
from .imagebind import AUDIO_FRAMES, CONTEXT, IMU, IMU_STEPS, MELS, MODALITIES, SIDE

PATCH, FRAMES = 14, 2  # of a picture: the patch's side, and the frames it spans
COARSE, AUDIO_STRIDE = 16, 10  # the patch of depth, thermal and audio pictures; audio's overlap
WORDS = 49408  # CLIP's vocabulary
IMU_PATCH = 8
_SCALES = {"text": 1 / 0.07, "audio": 20.0, "depth": 5.0, "thermal": 10.0, "imu": 5.0}
_MOST = 100.0  # that a scale may reach


@dataclass(frozen=True)
class Size:
    """Of one tower's transformer."""

    width: int
    layers: int
    heads: int


@dataclass(frozen=True)
class Shape:
    """dim: of the common space; the rest is the same in every configuration, as published."""

    dim: int
    towers: Mapping[str, Size]


HUGE = Shape(
    1024,
    {
        "vision": Size(1280, 32, 16), "text": Size(1024, 24, 16), "audio": Size(768, 12, 12), "depth": Size(384, 12, 8),
        "thermal": Size(768, 12, 12), "imu": Size(512, 6, 8),
    },
)  # fmt: skip
TINY = Shape(
    16,
    {
        "vision": Size(32, 2, 4), "text": Size(24, 2, 2), "audio": Size(24, 2, 3), "depth": Size(16, 2, 2),
        "thermal": Size(24, 2, 2), "imu": Size(16, 2, 2),
    },
)  # fmt: skip


class Repeat(nn.Module):
    """A still picture is a film of one frame, shown FRAMES times."""

    def forward(self, x: Any) -> Any:
        return x.expand(-1, -1, FRAMES, -1, -1) if x.shape[2] == 1 else x


class Stem(nn.Module):
    """Patches as tokens: a strided convolution (or, of samples laid side by side, a linear layer), then a norm."""

    def __init__(self, proj: nn.Module, width: int, norm: bool):
        super().__init__()
        self.proj = proj
        if norm:
            self.norm_layer = nn.LayerNorm(width)

    def forward(self, x: Any) -> Any:
        x = self.proj(x)
        if x.ndim > 3:
            x = x.flatten(2).transpose(1, 2)
        return self.norm_layer(x) if hasattr(self, "norm_layer") else x


class Tokens(nn.Module):
    """[B, …] -> [B, 1 + count, width]: a class token, then the stem's, each with its learned place added. `stem` is what
    the release calls it; nested: whether it keeps the places in a submodule."""

    def __init__(self, stem: str, made: Stem, count: int, width: int, nested: bool = True):
        super().__init__()
        self.called = stem
        self.add_module(stem, made)
        self.cls_token = nn.Parameter(torch.randn(1, 1, width) * width**-0.5)
        places = nn.Parameter(torch.randn(1, 1 + count, width) * width**-0.5)
        if nested:
            self.pos_embedding_helper = nn.ParameterDict({"pos_embed": places})
        else:
            self.pos_embed = places

    def forward(self, x: Any) -> Any:
        tokens = self.get_submodule(self.called)(x)
        places = self.pos_embed if hasattr(self, "pos_embed") else self.pos_embedding_helper["pos_embed"]
        return torch.cat([self.cls_token.expand(len(x), -1, -1), tokens], 1) + places


class Samples(Tokens):
    """[B, 6, 2000]: IMU_PATCH samples of all channels, channel after channel, are a token."""

    def forward(self, x: Any) -> Any:
        x = x.unflatten(-1, (-1, IMU_PATCH)).transpose(1, 2)
        return super().forward(x.flatten(2))


class Words(nn.Module):
    """int64[B, 77] -> [B, 77, width]. `mask` looks back only, as CLIP's text tower does."""

    def __init__(self, width: int):
        super().__init__()
        self.token_embedding = nn.Embedding(WORDS, width)
        self.pos_embed = nn.Parameter(torch.randn(1, CONTEXT, width) * 0.01)
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        self.register_buffer("mask", torch.full((CONTEXT, CONTEXT), -math.inf).triu(1))

    def forward(self, ids: Any) -> Any:
        return self.token_embedding(ids) + self.pos_embed


class Block(nn.Module):
    """Norms come first; the feed-forward layer is four times as wide."""

    def __init__(self, size: Size, bias_kv: bool):
        super().__init__()
        d = size.width
        self.attn = attention(d, size.heads, bias_kv=bias_kv)
        self.norm_1, self.norm_2 = nn.LayerNorm(d, eps=1e-6), nn.LayerNorm(d, eps=1e-6)
        self.mlp = nn.Sequential(
            OrderedDict([("fc1", nn.Linear(d, 4 * d)), ("act", nn.GELU()), ("fc2", nn.Linear(4 * d, d))])
        )

    def forward(self, x: Any, mask: Any = None) -> Any:
        x = x + self.attn(self.norm_1(x), mask)
        return x + self.mlp(self.norm_2(x))


class Trunk(nn.Module):
    """The blocks; vision's have a norm before them, and all but vision's and text's attend to one learned token more."""

    def __init__(self, modality: str, size: Size):
        super().__init__()
        first = [nn.LayerNorm(size.width, eps=1e-6)] if modality == "vision" else []
        self.pre_transformer_layer = nn.Sequential(*first)
        self.blocks = nn.ModuleList(Block(size, modality not in ("vision", "text")) for _ in range(size.layers))

    def forward(self, x: Any, mask: Any = None) -> Any:
        x = self.pre_transformer_layer(x)
        for block in self.blocks:
            x = block(x, mask)
        return x


class Scale(nn.Module):
    """By how much a modality's unit vectors were multiplied when it was bound to pictures; only text's was learned."""

    def __init__(self, modality: str):
        super().__init__()
        value = torch.tensor(math.log(_SCALES[modality]))
        if modality == "text":
            self.log_logit_scale = nn.Parameter(value)
        else:
            self.register_buffer("log_logit_scale", value)

    def forward(self, x: Any) -> Any:
        return x * self.log_logit_scale.to(x.dtype).exp().clamp(max=_MOST)


class ImageBind(nn.Module):
    """The towers of some modalities."""

    def __init__(self, shape: Shape, modalities: Sequence[str] = MODALITIES):
        super().__init__()
        sizes = {m: shape.towers[m] for m in modalities}
        self.modality_preprocessors = nn.ModuleDict({m: _inputs(m, s.width) for m, s in sizes.items()})
        self.modality_trunks = nn.ModuleDict({m: Trunk(m, s) for m, s in sizes.items()})
        self.modality_heads = nn.ModuleDict({m: _head(m, s.width, shape.dim) for m, s in sizes.items()})
        # the release counts its normalisation, which has no weights, as number 0
        self.modality_postprocessors = nn.ModuleDict(
            {m: nn.ModuleDict({"1": Scale(m)}) for m in modalities if m in _SCALES}
        )

    def forward(self, modality: str, x: Any) -> Any:
        """float32[B, dim], as published: of unit length, times the modality's scale.

        x: vision float[B, 3, T, 224, 224], T = 1 or 2; text int64[B, 77]; audio float[B, 1, 128, 204]; depth and thermal
        float[B, 1, 224, 224]; imu float[B, 6, 2000].
        """
        inputs: Any = self.modality_preprocessors[modality]
        head: Any = self.modality_heads[modality]
        after: Any = self.modality_postprocessors
        if modality == "text":  # the end's id is the largest there is
            end, mask = x.argmax(-1), inputs.mask
            states = self.modality_trunks[modality](inputs(x), mask.to(inputs.pos_embed.dtype))
            out = head["proj"](states[torch.arange(len(x), device=x.device), end])
        else:
            out = head(self.modality_trunks[modality](inputs(x.to(inputs.cls_token.dtype)))[:, 0])
        out = nn.functional.normalize(out.to(torch.promote_types(out.dtype, torch.float32)), dim=-1)
        return after[modality]["1"](out) if modality in _SCALES else out

    def clips(self, modality: str, x: Any, there: Any) -> Any:
        """float32[B, dim]: the mean over a window's clips, as published. x: [B, S, …]; there: bool[B, S], which ones there
        are. Clip by clip, so that the rows of every layer are the batch's, for per-person gradients."""
        each = torch.stack([self(modality, x[:, s]) for s in range(x.shape[1])], 1)
        weight = there.to(each.dtype)
        return (each * weight[..., None]).sum(1) / weight.sum(1, keepdim=True)


def _inputs(modality: str, width: int) -> nn.Module:
    if modality == "text":
        return Words(width)
    if modality == "vision":
        kernel = (FRAMES, PATCH, PATCH)
        conv = nn.Conv3d(3, width, kernel, stride=kernel, bias=False)
        return Tokens("rgbt_stem", Stem(nn.Sequential(Repeat(), conv), width, False), (SIDE // PATCH) ** 2, width)
    if modality == "audio":
        rows, columns = (1 + (n - COARSE) // AUDIO_STRIDE for n in (MELS, AUDIO_FRAMES))
        conv = nn.Conv2d(1, width, COARSE, stride=AUDIO_STRIDE, bias=False)
        return Tokens("rgbt_stem", Stem(conv, width, True), rows * columns, width)
    if modality == "imu":
        stem = Stem(nn.Linear(len(IMU) * IMU_PATCH, width, bias=False), width, True)
        return Samples("imu_stem", stem, IMU_STEPS // IMU_PATCH, width, nested=False)
    conv = nn.Conv2d(1, width, COARSE, stride=COARSE, bias=False)
    name = "depth_stem" if modality == "depth" else "rgbt_stem"
    return Tokens(name, Stem(conv, width, True), (SIDE // COARSE) ** 2, width)


def _head(modality: str, width: int, dim: int) -> nn.Module:
    """A norm and a projection, at the numbers they have in the release, which also counts steps without weights."""
    norm, out = nn.LayerNorm(width, eps=1e-6), nn.Linear(width, dim, bias=False)
    if modality == "text":
        return nn.ModuleDict({"proj": nn.Sequential(norm, out)})
    return nn.Sequential(norm, *[nn.Identity()] * (2 if modality == "imu" else 1), out)


def expected(shape: Shape, modalities: Sequence[str] = MODALITIES) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor, as the release has them; no memory is used for them."""
    with torch.device("meta"):
        return {k: tuple(v.shape) for k, v in ImageBind(shape, modalities).state_dict().items()}
