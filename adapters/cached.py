"""Late layers from cached features: what a tower's frozen beginning makes of a window is computed once, not in every step.

With LoRA on the last k blocks alone (`lora.layers: k`) everything before them is a constant of the weights and the window.
It is kept in a memory-mapped file and given to the rest of the tower as that tower's input: loss, batches and per-person
gradients are made by the same code from the same rows, so clipping per person is what it is without a cache. Nothing is
pooled or normalised over windows.

Features of people's recordings are recordings of people: the folder belongs into a run's private half.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..backbones._binder import Binder, Tower, collate
from ..core import console
from ..core.errors import MienError
from ..core.runs import write_text
from .windows import Windows

FROZEN = "frozen"


def cached(
    binder: Binder, windows: Windows, modality: str, layers: int, folder: Path, *, size: int = 16
) -> tuple[Binder, Windows]:
    """(The binder with that tower's late part for a tower, the windows with features for its inputs). layers: the last
    blocks that stay; folder: private, 0700; size: windows at a time. The model is shared, not copied.

    A file there is used again if it was made by the same weights from the same windows (sha256 of both), and replaced if
    not. MienError for a tower that cannot be cut, and when the model has an adapter already (features would hold it).
    """
    import torch

    tower = binder.towers.get(modality)
    if tower is None or tower.early is None or tower.late is None:
        can = ", ".join(m for m, t in binder.towers.items() if t.early is not None) or "none"
        raise MienError(f"lora.layers: the tower {modality!r} cannot be cut for a cache; towers that can: {can}")
    if not 0 <= layers <= len(tower.layers):
        raise MienError(f"lora.layers: {layers}, and the tower {modality!r} has {len(tower.layers)}")
    if any("lora_" in n for n, _ in binder.model.named_parameters()):
        raise MienError("features are cached before an adapter is attached: they would hold what it has learned")
    there = [i for i in range(len(windows)) if modality in windows.arrays[i]]
    if not there:
        raise MienError(f"no window has a stream for the tower {modality!r}: nothing to cache")
    wanted = {
        "weights": binder.fingerprint, "windows": _digest(windows, modality, there), "modality": modality, "layers": layers
    }  # fmt: skip
    file, record = folder / f"{modality}.npy", folder / f"{modality}.json"
    if not (file.exists() and record.exists() and json.loads(record.read_text()) == wanted):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        record.unlink(missing_ok=True)  # a file without a record is a half-written one
        device = next(binder.model.parameters()).device
        was, out = binder.model.training, None
        binder.model.eval()
        with (
            torch.no_grad(),
            console.progress(f"caching {modality} before its last {layers} blocks", len(there)) as bar,
        ):
            for at in range(0, len(there), size):
                rows = [windows.arrays[i][modality] for i in there[at : at + size]]
                made = tower.early(binder.model, collate(rows, device), layers).float().cpu().numpy()
                if out is None:
                    os.close(os.open(file, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600))
                    out = np.lib.format.open_memmap(file, "w+", np.float32, (len(there), *made.shape[1:]))
                out[at : at + len(made)] = made
                bar.step(len(rows))
        binder.model.train(was)
        if out is not None:
            out.flush()
        write_text(record, json.dumps(wanted))
    features = np.load(file, mmap_mode="r")
    arrays = [dict(a) for a in windows.arrays]
    for place, i in enumerate(there):
        arrays[i][modality] = {FROZEN: features[place]}
    late = tower.late

    def embed(model: Any, inputs: Mapping[str, Any]) -> Any:
        return late(model, inputs[FROZEN], layers)

    def prepare(_: Any) -> Any:
        raise MienError(f"the tower {modality!r} takes cached features here; prepare windows with the whole binder")

    rest: Tower = replace(
        tower, embed=embed, prepare=prepare, early=None, late=None, layers=tower.layers[len(tower.layers) - layers :]
    )
    whole = windows.rows(np.arange(len(windows)))
    whole.arrays = arrays
    return replace(binder, towers={**binder.towers, modality: rest}), whole


def _digest(windows: Windows, modality: str, there: list[int]) -> str:
    """sha256 over the inputs of every window that has some, in order."""
    digest = hashlib.sha256()
    for i in there:
        for name, values in sorted(windows.arrays[i][modality].items()):
            array = np.ascontiguousarray(values)
            digest.update(f"{name}{array.dtype}{array.shape}".encode())
            digest.update(array.tobytes())
    return digest.hexdigest()
