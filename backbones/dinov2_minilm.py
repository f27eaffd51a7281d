"""`dinov2_minilm`: pictures and words with real weights out of registry packages: DINOv2 ViT-S/14 (Oquab et al., arXiv
2304.07193) and all-MiniLM-L6-v2 (Wang et al., arXiv 2002.10957; Reimers and Gurevych, 1908.10084).

The two never saw each other: each ends in a projection into the common space that starts as a random rotation (it keeps
all angles within a modality, and says nothing across). Binding them is what LoRA on projections and towers is for, so
there is no zero-shot figure to expect here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from ..core import assets
from ..core.config import Section
from ..core.errors import MienError
from ..core.records import Video
from ._binder import Arrays, Binder, Tower, still, words_of
from ._dinov2 import _MEAN as MEAN
from ._dinov2 import _STD as STD
from ._dinov2 import vision
from .causal_lm import weights_digest

KIND = "binder"
PARTS = ("dinov2-s", "minilm")


class Config(Section):
    """model: `dinov2-minilm`, or `tiny`, random and for tests; side: of the square that pictures are resized and cut to,
    pixels, a multiple of the patch (14); tokens: of a text, at most; frames: of a film, evenly spread, whose embeddings are
    averaged."""

    model: Literal["dinov2-minilm", "tiny"] = "dinov2-minilm"
    side: int = Field(default=224, ge=28)
    tokens: int = Field(default=64, ge=4, le=512)
    frames: int = Field(default=1, ge=1)


def load(config: Config) -> Binder:
    """The frozen towers. MienError when a part was not fetched or is damaged, and for a side no patch divides."""
    import torch

    if config.side % 14:
        raise MienError(f"backbone.side: {config.side} is no multiple of 14, the side of a patch")
    if config.model == "tiny":
        image, text, tokenizer = _tiny(config)
        identity, licence = "mien/dinov2-minilm-tiny", "Apache-2.0 (random weights)"
    else:
        for part in PARTS:
            assets.verify(part)
        image = vision(assets.file("dinov2-s"))
        text, tokenizer = sentences(assets.path("minilm"))
        identity = "mien-assets/dinov2-minilm"
        licence = "; ".join(f"{part}: {assets.describe(part).licence}" for part in PARTS)
    model = still(_joined(image, text).float().requires_grad_(False))
    tokenizer.enable_truncation(config.tokens)
    tokenizer.enable_padding(length=config.tokens)
    layers = {
        t: tuple(
            n
            for n, _ in model.named_modules()
            if n.startswith(f"{t}.") and n.rpartition(".")[0].endswith("encoder.layer")
        )
        for t in ("image", "text")
    }
    towers = {
        "image": Tower(
            kind="video", module="image", layers=layers["image"], embed=_image, early=_early, late=_late,
            prepare=partial(prepare_image, side=config.side, frames=config.frames),
        ),
        "text": Tower(
            kind="text", module="text", layers=layers["text"], embed=_text, early=_early_text, late=_late_text,
            prepare=partial(prepare_text, tokenizer=tokenizer),
        ),
    }  # fmt: skip
    return Binder(
        model=model, towers=towers, dim=image.config.hidden_size, identity=identity, revision=None,
        fingerprint=weights_digest(model), licence=licence,
        lora_targets=[n for n, m in model.named_modules() if type(m) is torch.nn.Linear],
    )  # fmt: skip


def sentences(folder: Path) -> tuple[Any, Any]:
    """(`BertModel`, its tokenizer) from a folder with model.safetensors, config.json and tokenizer.json. MienError for what
    does not fit."""
    from tokenizers import Tokenizer
    from transformers import BertModel

    try:
        made: Any = BertModel.from_pretrained(
            folder, add_pooling_layer=False, use_safetensors=True, trust_remote_code=False, output_loading_info=True
        )
        model, outcome = made
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:  # json, shapes and tokenizers each fail in their own way
        why = (str(error) or type(error).__name__).splitlines()[0]
        raise MienError(f"cannot load the text tower from {folder} ({why}); run `mien assets fetch minilm`") from None
    if lost := sorted(outcome["missing_keys"])[:3]:
        raise MienError(f"{folder / 'model.safetensors'} lacks {', '.join(lost)}; run `mien assets fetch minilm`")
    return model, tokenizer


def _joined(image: Any, text: Any) -> Any:
    """Towers as submodules `image` and `text`: an encoder each (`encoder`), and `join`, into the common space."""
    import torch
    from torch import nn

    class Side(nn.Module):
        def __init__(self, encoder: Any, dim: int) -> None:
            super().__init__()
            self.encoder, self.join = encoder, nn.Linear(encoder.config.hidden_size, dim, bias=False)
            with torch.no_grad():
                self.join.weight.copy_(rotation(dim, encoder.config.hidden_size))

    model = nn.Module()
    dim = image.config.hidden_size
    model.image, model.text = Side(image, dim), Side(text, dim)
    return model


def rotation(rows: int, columns: int) -> Any:
    """float64[rows, columns], orthogonal to 2e-6, the same bits everywhere: LAPACK's last ones depend on the number of threads,
    and with them would the fingerprint by which an adapter finds its base."""
    import torch

    made = torch.empty(rows, columns, dtype=torch.float64)
    torch.nn.init.orthogonal_(made, generator=torch.Generator().manual_seed(0))
    return (made * 2**20).round() / 2**20


def prepare_image(stream: Any, *, side: int, frames: int) -> Arrays:
    """values: float32[frames, 3, side, side], the shorter edge resized (to 8/7 of the side), its middle cut, normalised as
    ImageNet is."""
    from PIL import Image

    if not isinstance(stream, Video):
        raise MienError(f"image: this tower takes video (one frame is an image), not {type(stream).__name__}")
    n, edge, out = len(stream.frames), side * 8 // 7, []
    for i in ((np.arange(frames) + 0.5) * n / frames).astype(int):
        picture = Image.fromarray(stream.frames[i]).convert("RGB")
        short = min(picture.size)
        size = tuple(max(round(edge * s / short), side) for s in picture.size)
        left, top = ((s - side) // 2 for s in size)
        cut = picture.resize(size, Image.Resampling.BICUBIC).crop((left, top, left + side, top + side))  # type: ignore[arg-type]
        out.append((np.asarray(cut, np.float32) / 255 - MEAN) / STD)
    return {"values": np.stack(out).transpose(0, 3, 1, 2).astype(np.float32)}


def prepare_text(stream: Any, *, tokenizer: Any) -> Arrays:
    """ids: int64[tokens], there: int64[tokens], 1 where a token is. Absent where there are no words."""
    made = tokenizer.encode(words_of(stream))
    return {"ids": np.asarray(made.ids, np.int64), "there": np.asarray(made.attention_mask, np.int64)}


def _image(model: Any, inputs: Mapping[str, Any]) -> Any:
    values, encoder = inputs["values"], model.image.encoder
    # frame by frame, so that every layer has a window a row: whose each row is stays clear
    frames = (encoder.embeddings(values[:, i]) for i in range(values.shape[1]))
    return _ended(model, [_through(encoder, x, len(encoder.encoder.layer)) for x in frames])


def _early(model: Any, inputs: Mapping[str, Any], k: int) -> Any:
    """float32[B, frames, tokens, width] before the last k blocks."""
    values, encoder = inputs["values"], model.image.encoder
    x = encoder.embeddings(values.flatten(0, 1))
    for layer in encoder.encoder.layer[: len(encoder.encoder.layer) - k]:
        x = layer(x)
    return x.unflatten(0, values.shape[:2])


def _late(model: Any, x: Any, k: int) -> Any:
    return _ended(model, [_through(model.image.encoder, state, k) for state in x.unbind(1)])


def _through(encoder: Any, state: Any, k: int) -> Any:
    """float32[B, tokens, width] before the last k blocks -> float32[B, width], as DINOv2's pooled output."""
    layers = encoder.encoder.layer[len(encoder.encoder.layer) - k :] if k else []
    for layer in layers[:-1]:
        state = layer(state)
    return encoder.layernorm((_class_token(layers[-1], state) if k else state)[:, 0])


def _class_token(layer: Any, x: Any) -> Any:
    """A block's output for the class token alone, float32[B, 1, width]: nothing else of the last block is read."""
    from torch.nn.functional import scaled_dot_product_attention

    a = layer.attention
    if not hasattr(a, "q_proj"):  # an older transformers, whose blocks are made otherwise
        return layer(x)[:, :1]
    b, _, width = x.shape
    h = layer.norm1(x)
    q, k, v = (
        p.view(b, -1, a.num_attention_heads, a.head_dim).transpose(1, 2)
        for p in (a.q_proj(h[:, :1]), a.k_proj(h), a.v_proj(h))
    )
    mixed = scaled_dot_product_attention(q, k, v, scale=a.scaling).transpose(1, 2).reshape(b, 1, width)
    x = x[:, :1] + layer.layer_scale1(a.o_proj(mixed))
    return x + layer.layer_scale2(layer.mlp(layer.norm2(x)))


def _ended(model: Any, frames: Sequence[Any]) -> Any:
    """frames: float32[B, width] each -> float32[B, dim]"""
    import torch
    from torch.nn.functional import normalize

    return normalize(torch.stack([normalize(model.image.join(f), dim=-1) for f in frames], 1).mean(1), dim=-1)


def _text(model: Any, inputs: Mapping[str, Any]) -> Any:
    states = model.text.encoder(input_ids=inputs["ids"], attention_mask=inputs["there"]).last_hidden_state
    return _mean(model, states, inputs["there"])


def _mean(model: Any, states: Any, there: Any) -> Any:
    """float32[B, tokens, width], 0/1 [B, tokens] -> float32[B, dim], of the tokens that are there."""
    from torch.nn.functional import normalize

    mask = there[..., None].to(states.dtype)
    return normalize(model.text.join((states * mask).sum(1) / mask.sum(1).clamp(min=1)), dim=-1)


def _early_text(model: Any, inputs: Mapping[str, Any], k: int) -> Any:
    """float32[B, tokens, width + 1] before the last k blocks; the last column is 1 where a token is padding, so that an
    array of zeros (a window without words) is one that may be read."""
    import torch

    encoder, padding = model.text.encoder, 1 - inputs["there"]
    layers = encoder.encoder.layer
    x = _through_text(layers[: len(layers) - k], encoder.embeddings(input_ids=inputs["ids"]), padding)
    return torch.cat([x, padding[..., None].to(x.dtype)], -1)


def _late_text(model: Any, x: Any, k: int) -> Any:
    layers, padding = model.text.encoder.encoder.layer, x[..., -1]
    return _mean(model, _through_text(layers[len(layers) - k :], x[..., :-1], padding), 1 - padding)


def _through_text(layers: Any, x: Any, padding: Any) -> Any:
    import torch

    mask = padding[:, None, None].to(x.dtype) * torch.finfo(x.dtype).min  # additive, as transformers' own
    for layer in layers:
        x = layer(x, mask)
        x = x[0] if isinstance(x, tuple) else x  # an older transformers
    return x


def _tiny(config: Config) -> tuple[Any, Any, Any]:
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertModel, Dinov2Config, Dinov2Model

    torch.manual_seed(0)
    shape: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
    image = Dinov2Model(
        Dinov2Config(
            **shape, mlp_ratio=2, image_size=config.side, patch_size=14, use_mask_token=False, layerscale_value=0.5
        )
    )
    text = BertModel(BertConfig(**shape, intermediate_size=64, vocab_size=300), add_pooling_layer=False)
    letters = {"[PAD]": 0, "[UNK]": 1, **{c: i + 2 for i, c in enumerate("abcdefghijklmnopqrstuvwxyz")}}
    tokenizer = Tokenizer(models.WordLevel(letters, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")  # type: ignore[assignment]
    return image, text, tokenizer
