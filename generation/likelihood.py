"""How likely an adapted model, and its frozen base, find recordings: the raw material of every attack."""

from __future__ import annotations

import numpy as np

from ..core import console
from .adapted import Adapted
from .tokens import Documents


def losses(adapted: Adapted, documents: Documents, batch: int = 64) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(tokens int64[n], loss float64[n], loss_base float64[n]) of every document.

    loss: mean negative log-likelihood per predicted token in nats with the adapter on; loss_base: with it off.
    Documents of like length share a batch, and order does not matter: no row's loss depends on another.
    """
    import torch

    n, backbone, model = len(documents), adapted.backbone, adapted.model
    tokens, loss, base = np.zeros(n, dtype=np.int64), np.zeros(n), np.zeros(n)
    order = np.argsort(documents.lengths, kind="stable")
    model.eval()
    with torch.inference_mode(), console.progress("likelihoods, adapter on and off", n) as bar:
        for first in range(0, n, batch):
            rows = order[first : first + batch]
            made = backbone.batch(
                [documents[i] for i in rows],
                prompt=documents.layout.prompt_length,
                persons=documents.person[rows],
                device=model.device,
            )
            nll, counted = backbone.token_losses(model, made)
            tokens[rows] = counted.sum(1).cpu().numpy()
            loss[rows] = (nll.sum(1) / counted.sum(1)).double().cpu().numpy()
            with model.disable_adapter():
                nll, counted = backbone.token_losses(model, made)
            base[rows] = (nll.sum(1) / counted.sum(1)).double().cpu().numpy()
            bar.step(len(rows))
    return tokens, loss, base
