"""What the tests of soft tokens have in common: recordings to be shown, and language models to show them to."""

from __future__ import annotations

from pathlib import Path

import transformers as t

from mien.backbones import tiny

from ..conftest import recordings

TEXT = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 300, "max_position_embeddings": 512,
}  # fmt: skip
TOWER = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "image_size": 28,
    "patch_size": 14,
}  # fmt: skip
MROPE = {**TEXT, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}}
VISUAL = {
    "depth": 3, "hidden_size": 32, "intermediate_size": 48, "num_heads": 4, "out_hidden_size": 32, "patch_size": 14,
}  # fmt: skip
IDS = {"image_token_id": 299, "video_token_id": 298, "vision_start_token_id": 297, "vision_end_token_id": 296}
AUDIO = {
    "d_model": 32, "encoder_layers": 2, "encoder_attention_heads": 4, "encoder_ffn_dim": 48, "output_dim": 32,
    "num_mel_bins": 16,
}  # fmt: skip


def _llava(vision):
    config = t.LlavaConfig(vision_config=vision, text_config=t.LlamaConfig(**TEXT), image_token_index=299)
    return t.LlavaForConditionalGeneration(config)


MAKE = {
    "llava": lambda: _llava(t.CLIPVisionConfig(**TOWER)),
    "llava_onevision": lambda: t.LlavaOnevisionForConditionalGeneration(
        t.LlavaOnevisionConfig(
            vision_config=t.SiglipVisionConfig(**TOWER), text_config=t.Qwen2Config(**TEXT), image_token_index=299,
            video_token_index=298, image_grid_pinpoints=[[28, 28]],
        )
    ),
    "qwen2_vl": lambda: t.Qwen2VLForConditionalGeneration(
        t.Qwen2VLConfig(
            text_config=MROPE, vision_config={"depth": 2, "embed_dim": 32, "hidden_size": 32, "num_heads": 4, "patch_size": 14},
            **IDS,
        )
    ),
    "qwen2_5_vl": lambda: t.Qwen2_5_VLForConditionalGeneration(
        t.Qwen2_5_VLConfig(text_config=MROPE, vision_config=VISUAL, **IDS)
    ),
    "qwen3_vl": lambda: t.Qwen3VLForConditionalGeneration(
        t.Qwen3VLConfig(
            text_config={**MROPE, "head_dim": 8}, vision_config={**VISUAL, "deepstack_visual_indexes": [0, 1]}, **IDS
        )
    ),
    "qwen2_5_omni_thinker": lambda: t.Qwen2_5OmniThinkerForConditionalGeneration(
        t.Qwen2_5OmniThinkerConfig(text_config=MROPE, vision_config=VISUAL, audio_config=AUDIO, audio_token_id=295, **IDS)
    ),
}  # fmt: skip


def words(folder: Path) -> Path:
    """A language model of a few thousand parameters, which knows no behaviour token."""
    tiny.fresh(tiny.Shape(hidden=32, layers=2, heads=2, feed_forward=48), 60, 0).save_pretrained(folder)
    return folder


def windows(seconds: int):
    """Two windows of each of the invented recordings, six in all."""
    return [{n: s.cut(at, at + seconds) for n, s in r.streams.items()} for r in recordings(3) for at in (0, 4)]
