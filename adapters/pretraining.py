"""Pretraining the `behaviour` towers on simulated recordings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..backbones import behaviour
from ..core.records import Cohort
from .representation import Batch, Represent, Representer, bank_of
from .windows import encode


class Pretraining:
    """Fresh `behaviour` towers and the simulated windows they learn from: what `recipes/pretrain.py` trains.

    The streams of one window are pulled together against the other windows of the batch (nobody's recordings: nothing here
    needs to decompose), and from each embedding a linear layer gives the window's standardised statistics back, so that
    what no other stream knows of is kept too.
    """

    def __init__(self, recipe: Any, cohort: Cohort):
        import torch

        from ..backbones import _behaviour as inside

        inside.register()
        config = behaviour.shaped(cohort.card, recipe.represent, recipe.seconds, recipe.streams)
        self.model = inside.fresh(config, recipe.seed)
        self.base = behaviour.binder(self.model, "", "")
        chosen = {n: n for n in self.base.towers}
        self.windows = encode(
            cohort, self.base, chosen, {}, seconds=recipe.seconds, stride_s=recipe.stride_s, valid=recipe.valid
        )
        self.bare = Representer(
            binder=self.base, model=self.model, modalities=self.windows.modalities, heads=None,
            options=Represent(heads={}, bind="batch", bind_weight=1.0), kinds={}, classes={},
        )  # fmt: skip
        self.facts = inside.facts
        with torch.no_grad():
            batch = self.batch(np.arange(min(len(self.windows), 4096)))
            found = {m: self.facts(self.model, m, batch.inputs[m]) for m in self.windows.modalities}
        self.scales = {m: (v.mean(0), v.std(0) + 1e-3) for m, v in found.items()}
        decoders = {m: torch.nn.Linear(config.dim, v.shape[1]) for m, v in found.items()}
        self.trained = torch.nn.ModuleDict({"model": self.model, "decoders": torch.nn.ModuleDict(decoders)})

    def __len__(self) -> int:
        return len(self.windows)

    def batch(self, rows: np.ndarray, device: Any = "cpu") -> Batch:
        return self.bare.batch(self.windows, rows, device)

    def losses(self, trained: Any, batch: Batch) -> Any:
        """float32[B]"""
        found = self.bare.embeddings(trained["model"], batch)
        total = self.bare._bound(found, batch) if len(found) > 1 else 0.0
        for i, (m, e) in enumerate(found.items()):
            mean, sd = (v.to(e.device) for v in self.scales[m])
            wanted = (self.facts(trained["model"], m, batch.inputs[m]) - mean) / sd
            # an embedding has length 1; a decoder of ordinary weights reaches unit variance from sqrt(dim) times that
            given = trained["decoders"][m](e * e.shape[1] ** 0.5)
            total = total + (given - wanted).clamp(-5, 5).square().mean(1) * batch.present[:, i]
        return total

    def save(self, folder: Path) -> None:
        """The towers, and 256 windows' embeddings as public negatives."""
        from safetensors.torch import save_file

        self.model.save_pretrained(folder, safe_serialization=True)
        save_file(bank_of(self.base, self.model, self.windows), folder / behaviour.NEGATIVES)
