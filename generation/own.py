"""Recordings of one person, made by an adapter of their own beside the shared one: for that person's device, and nowhere else.

The shared adapter stays as it is, active and frozen; a small LoRA learns from the person's windows, samples, and is thrown away. What
it makes tells of that person like their recordings do: no guarantee covers it, it stays in the private half of a run that is marked
as personal (adapters/personal.py), is refused by whatever shares, and goes with `mien data forget PERSON`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from pydantic import Field

from ..adapters import lora
from ..adapters.personal import MARK, NAME, pseudonym
from ..adapters.training import draw
from ..core import console
from ..core.config import Plugin, Section
from ..core.errors import MienError
from ..core.runs import Run, keyed, write_text
from ..data import lineage
from ..data.load import open_cohort, require_consent
from .adapted import Adapted
from .tokens import Documents

GUARANTEE = (
    "none: made by a person's own adapter, from that person's recordings; treat them as recordings of that person, and keep them"
    " where they are"
)


class Own(Section):
    """person: whose, an id of the cohort that allows training and generation; rank, steps, batch, lr: of the personal LoRA."""

    person: str
    rank: int = Field(default=2, ge=1)
    steps: int = Field(default=60, ge=1)
    batch: int = Field(default=8, ge=1)
    lr: float = Field(default=5e-3, gt=0)


def possible(asked: Own | None, adapter: Mapping[str, Any], given: bool) -> None:
    """MienError where an adapter of one's own cannot be asked for. adapter: the recipe of the shared one; given: whether recordings
    are given too."""
    if asked and given:
        raise MienError("personal: it makes one person's recordings from labels alone; leave out `given`")
    if asked and adapter.get("autoencoder"):
        raise MienError("personal: an autoencoder is trained whole and has no LoRA to put a person's own on")


def fit(adapted: Adapted, asked: Own, run: Run, seed: int) -> None:
    """Put the person's adapter on the model, trained on all their windows of the adapt run's recipe, and mark the run as
    personal. MienError for a person who is not there, has not allowed it, or has no window."""
    import torch
    from peft import LoraConfig

    said, layout, backbone, model = adapted.config, adapted.layout, adapted.backbone, adapted.model
    section = Plugin(**said["cohort"])
    cohort, _ = open_cohort(section, "training")
    if asked.person not in cohort.persons:
        raise MienError(
            f"personal.person: the id given is not among the {len(cohort.persons)} persons of {section.name} who allow training;"
            " `mien data check` lists a cohort's persons"
        )
    require_consent(section, [asked.person], "generation")
    documents = Documents.encode(
        cohort.select(lambda p: p == asked.person), layout, stride_s=said["stride_s"], valid=said["valid"], quiet=True
    )
    if not len(documents):
        raise MienError("personal.person: no window of this person can be written in the adapter's layout")
    lineage.note(run.private, [asked.person])
    write_text(run.private / MARK, json.dumps({"who": pseudonym(asked.person)}))
    first = model.peft_config["default"]
    torch.manual_seed(seed)
    model.add_adapter(NAME, LoraConfig(
        r=asked.rank, lora_alpha=2 * asked.rank, target_modules=first.target_modules, exclude_modules=first.exclude_modules,
        layers_to_transform=first.layers_to_transform, task_type=first.task_type,
    ))  # fmt: skip
    device = model.get_input_embeddings().weight.device
    model.to(device)
    lora.switch(model, ("default", NAME))
    for name, p in model.named_parameters():
        p.requires_grad_(f".{NAME}." in name)
    mine = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(mine, lr=asked.lr, weight_decay=0.01)
    model.train()
    with console.progress("an adapter of one's own", asked.steps) as bar:
        for step in range(asked.steps):
            rows = np.unique(draw(step, seed=seed, batch=min(asked.batch, len(documents)), n=len(documents)))
            batch = backbone.batch(
                [documents[i] for i in rows.tolist()], prompt=layout.prompt_length, persons=documents.person[rows],
                device=device,
            )  # fmt: skip
            optimizer.zero_grad()
            backbone.losses(model, batch).mean().backward()
            torch.nn.utils.clip_grad_norm_(mine, 1.0)
            optimizer.step()
            bar.step()
    model.requires_grad_(False)
    model.eval()


def inputs(asked: Own | None) -> dict[str, str]:
    """Whose, under the key of these runs: a run is named after what it was asked, and ids are few enough to be guessed."""
    return {"person": keyed(asked.person)} if asked else {}


def public(config: dict[str, Any]) -> dict[str, Any]:
    """A recipe without the id of whom it is about."""
    return config | {"personal": {**config["personal"], "person": "…"}} if config.get("personal") else config
