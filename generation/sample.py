"""Sampling documents and turning them into synthetic recordings in physical units at the original rates."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from pydantic import Field

from ..core.config import Section
from ..core.records import Recording
from .grammar import MASKED, START
from .layout import Layout
from .vocabulary import EOS, PAD


class Sampling(Section):
    """per_label: synthetic recordings per class (a public number, never a count of real ones); temperature; batch:
    sequences sampled at once."""

    per_label: int = Field(default=60, ge=1)
    temperature: float = Field(default=1.0, gt=0)
    batch: int = Field(default=60, ge=1)


def documents(
    model: Any, layout: Layout, offset: int, labels: Sequence[str], *, temperature: float, seed: int
) -> np.ndarray:
    """Sample one document per label: int32[n, layout.length] local ids, padded after <eos>.

    The grammar inside the model leaves only valid tokens, so every row is a whole document. Same seed, same bits.
    """
    import torch
    from transformers import DynamicCache

    device = model.get_input_embeddings().weight.device
    generator = torch.Generator().manual_seed(seed)
    prompt = torch.tensor([layout.prompt(v) for v in labels], device=device)
    out = torch.full((len(labels), layout.length), PAD, dtype=torch.long, device=device)
    out[:, : prompt.shape[1]] = prompt
    cache = DynamicCache()
    fed, state = prompt + offset, torch.full((len(labels),), START, dtype=torch.long, device=device)
    size = (
        model.get_base_model()._grammar_next.shape[1]
        if hasattr(model, "get_base_model")
        else model._grammar_next.shape[1]
    )
    model.eval()
    with torch.inference_mode():
        for t in range(prompt.shape[1], layout.length):
            made = model(input_ids=fed, past_key_values=cache, use_cache=True, grammar_state=state, logits_to_keep=1)
            state = made.grammar_state
            # the model's own distribution, in float64 on the CPU: the draw is then the same on every device
            logits = made.logits[:, -1, offset : offset + size].double().cpu()
            # at a high temperature even the grammar's mask would melt: forbidden stays forbidden
            logits = logits.masked_fill(logits <= MASKED / 2, -torch.inf) / temperature
            p = torch.softmax(logits, dim=-1)
            token = torch.multinomial(p, 1, generator=generator).to(device)
            out[:, t] = token[:, 0]
            fed = token + offset
            if bool(((out[:, t] == EOS) | (out[:, t] == PAD)).all()):
                break
    return out.cpu().numpy().astype(np.int32)


def recordings(rows: np.ndarray, layout: Layout) -> Iterator[Recording]:
    """Documents -> Recordings. Each is its own synthetic person: the generator claims no identity."""
    for i, row in enumerate(rows):
        label, streams = layout.decode(row)
        name = f"synthetic-{i:06d}"
        yield Recording(id=name, person=name, streams=streams, labels={layout.task: label})
