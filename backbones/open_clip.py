"""`open_clip`: the image and text towers of any OpenCLIP model (Radford et al., arXiv 2103.00020; Cherti et al., 2212.07143).

torch's own attention is replaced by the same computation out of linear layers, for LoRA and per-person gradients see
linear layers only. Weights never ship; each tag has its own licence, which the recipe states.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from pydantic import Field

from ..core.config import Section
from ..core.errors import MienError
from ..core.records import Video
from ._binder import Arrays, Binder, Tower, from_torch, words_of
from .causal_lm import weights_digest

KIND = "binder"


class Config(Section):
    """model: OpenCLIP's name of an architecture, or `tiny`, random and for tests; pretrained: one of its tags, or a file of
    weights; licence: of these weights, as whoever published them states it; frames: of a film, evenly spread, whose
    embeddings are averaged."""

    model: str = "ViT-B-32"
    pretrained: str | None = None
    licence: str = "not stated by the recipe"
    frames: int = Field(default=1, ge=1)


def load(config: Config) -> Binder:
    """The frozen towers. MienError without OpenCLIP, for an architecture it does not know, and without readable weights."""
    import torch

    try:
        import open_clip
    except ImportError:
        raise MienError("the backbone open_clip needs OpenCLIP: pip install 'mien[clip]'") from None

    licence = config.licence
    if config.model == "tiny":
        torch.manual_seed(0)
        shown = open_clip.CLIPVisionCfg(layers=2, width=32, head_width=16, patch_size=8, image_size=32)
        said = open_clip.CLIPTextCfg(context_length=16, width=32, heads=2, layers=2)
        model, tokenizer = open_clip.CLIP(16, shown, said), open_clip.SimpleTokenizer(context_length=16)
        identity, licence = "mien/open-clip-tiny", "Apache-2.0 (random weights)"
    else:
        if config.model not in open_clip.list_models():
            raise MienError(
                f"backbone.model: OpenCLIP has no architecture {config.model!r}; see open_clip.list_models()"
            )
        if config.pretrained is None:
            known = ", ".join(open_clip.list_pretrained_tags_by_model(config.model)) or "none is published"
            raise MienError(f"backbone.pretrained: name a file of weights, or a tag of {config.model}: {known}")
        try:
            model = open_clip.create_model(config.model, config.pretrained, weights_only=True)
            tokenizer = open_clip.get_tokenizer(config.model)
        except Exception as error:  # hub, disk, pickle and shapes each fail in their own way
            why = (str(error) or type(error).__name__).splitlines()[0]
            raise MienError(
                f"cannot load {config.pretrained!r} for {config.model} ({why}); give a tag whose file you can reach, or a"
                " file of weights"
            ) from None
        tags = open_clip.list_pretrained_tags_by_model(config.model)
        identity = f"open_clip/{config.model}/{config.pretrained if config.pretrained in tags else 'local weights'}"
    model = linear_attention(model.float().eval().requires_grad_(False))
    how = open_clip.transform.PreprocessCfg(**open_clip.get_model_preprocess_cfg(model))
    pixels = open_clip.transform.image_transform_v2(how, is_train=False)
    blocks = [n for n, m in model.named_modules() if n.rpartition(".")[0].endswith("resblocks")]
    towers = {
        "image": Tower(
            kind="video", module="visual", layers=tuple(n for n in blocks if n.startswith("visual.")),
            prepare=partial(prepare_image, pixels=pixels, frames=config.frames), embed=_image,
        ),
        "text": Tower(
            kind="text", module="transformer" if hasattr(model, "transformer") else "text",
            layers=tuple(n for n in blocks if not n.startswith("visual.")),
            prepare=partial(prepare_text, tokenizer=tokenizer), embed=_text,
        ),
    }  # fmt: skip
    with torch.no_grad():
        dim = model.encode_text(torch.as_tensor(tokenizer(["a"]))).shape[1]
    return Binder(
        model=model, towers=towers, dim=dim, identity=identity, revision=None, fingerprint=weights_digest(model),
        lora_targets=[n for n, m in model.named_modules() if type(m) is torch.nn.Linear], licence=licence,
        logit_scale=min(float(model.logit_scale.exp()), 100.0),
    )  # fmt: skip


def linear_attention(model: Any) -> Any:
    """The same model, its blocks' self-attention out of linear layers. Attention between two sequences stays as it is."""
    import torch

    class SelfAttention(torch.nn.Module):
        def __init__(self, inner: Any) -> None:
            super().__init__()
            self.inner = inner

        def forward(
            self, q: Any, k: Any, v: Any, need_weights: bool = False, attn_mask: Any = None
        ) -> tuple[Any, None]:
            return self.inner(q, attn_mask), None

    for module in list(model.modules()):
        own = getattr(module, "attn", None)
        if type(own) is torch.nn.MultiheadAttention and hasattr(module, "ln_1") and not hasattr(module, "ln_1_kv"):
            if not own.batch_first:
                raise MienError(
                    "backbone.model: this architecture's attention has its batch second, which is not handled"
                )
            module.attn = SelfAttention(from_torch(own)).requires_grad_(False)
    return model


def prepare_image(stream: Any, *, pixels: Any, frames: int) -> Arrays:
    """values: float32[frames, 3, H, W], resized, cut and normalised as the model's own configuration says."""
    from PIL import Image

    if not isinstance(stream, Video):
        raise MienError(f"image: this tower takes video (one frame is an image), not {type(stream).__name__}")
    n = len(stream.frames)
    chosen = ((np.arange(frames) + 0.5) * n / frames).astype(int)
    return {"values": np.stack([np.asarray(pixels(Image.fromarray(stream.frames[i]))) for i in chosen])}


def prepare_text(stream: Any, *, tokenizer: Any) -> Arrays:
    """ids: int64[context]. stream: Text (its utterances, joined) or a string. Absent where there are no words."""
    return {"ids": np.asarray(tokenizer([words_of(stream)])[0], np.int64)}


def _image(model: Any, inputs: Mapping[str, Any]) -> Any:
    import torch

    values = inputs["values"]
    made = torch.stack([model.encode_image(values[:, i], normalize=True) for i in range(values.shape[1])], 1)
    return torch.nn.functional.normalize(made.mean(1), dim=-1)


def _text(model: Any, inputs: Mapping[str, Any]) -> Any:
    return model.encode_text(inputs["ids"], normalize=True)
