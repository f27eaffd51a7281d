"""The slow way to gradients per person: one row after the other. What the fast way is held against, tower by tower."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from peft import LoraConfig, get_peft_model

from mien.privacy.flat import Flat
from mien.privacy.gradients import PersonGradients


def adapted(model: Any, targets: Sequence[str]) -> Any:
    """float64, with a LoRA whose two factors both have gradients."""
    made = get_peft_model(model, LoraConfig(r=2, target_modules=list(targets)))
    for name, p in made.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(p, std=0.1)
    return made.double()


def assert_the_same(model: Any, losses: Callable[[torch.Tensor], torch.Tensor], person: torch.Tensor) -> None:
    """losses: rows int64[k] -> float64[k]; person: int64[n], whose each row is, from 0."""
    flat, n = Flat(model), int(person.max()) + 1
    flat.differentiable()
    known = []
    for p in range(n):
        flat.grad.zero_()
        for row in (person == p).nonzero()[:, 0]:
            losses(row[None]).sum().backward()
        known.append(flat.grad.clone())
    flat.constant()
    gradients = PersonGradients(flat)
    with gradients.collect(person, n) as buffer:
        losses(torch.arange(len(person))).sum().backward()
    assert gradients.touched == {s.name for s in flat.slots}
    slow = torch.stack(known)
    assert slow.abs().max() > 1e-6
    torch.testing.assert_close(buffer, slow, atol=1e-9, rtol=1e-7)
    gradients.detach()
