"""How likely an adapted model, and its frozen base, find recordings: the raw material of every attack."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ..backbones.causal_lm import Batch, CausalBackbone
from ..core import console
from .adapted import Adapted
from .tokens import Documents
from .vocabulary import STREAM_0, STREAMS

SEGMENTS = 8
ORDERS = (0.5, 1.0, 2.0, float("inf"))  # of the Rényi entropies kept per token
_STEP = 0.02  # of the adapter's scale, for the slope
LOGITS = 2**27  # numbers in one batch's logits at most, half a GB; what is made of them takes some six times as much


def measure(
    adapted: Adapted,
    documents: Documents,
    batch: int = 64,
    tokens: Callable[..., None] | None = None,
    slope: bool = True,
) -> dict[str, np.ndarray]:
    """What an attack sees of one model, per document: n_tokens int64[n]; loss, loss_base float64[n], mean negative
    log-likelihood per predicted token in nats with the adapter on and off; segments float64[n, SEGMENTS], mean log p of
    consecutive parts; slope float64[n], d loss / d (scale of the LoRA update) at 1; zlib int64[n], compressed bytes.

    tokens: called with `per_token` of each batch; slope: take it (two more forwards). Documents are
    taken in their own order; no row depends on another.
    """
    import torch

    n, backbone, model = len(documents), adapted.backbone, adapted.model
    out = {k: np.zeros(n) for k in ("loss", "loss_base", "slope")}
    out |= {"n_tokens": np.zeros(n, np.int64), "zlib": np.zeros(n, np.int64), "segments": np.zeros((n, SEGMENTS))}
    model.eval()
    with torch.inference_mode(), console.progress("likelihoods, adapter on and off", n) as bar:
        for rows, made in batches(backbone, documents, batch, model.device):
            if tokens is None:
                nll, counted = backbone.token_losses(model, made)
            else:
                logits = model(**backbone.inputs(made)).logits
                nll, counted = backbone._token_losses(logits, made)
            with model.disable_adapter():
                base, _ = backbone.token_losses(model, made)
            length = counted.sum(1)
            out["n_tokens"][rows] = length.cpu().numpy()
            out["loss"][rows] = (nll.sum(1) / length).double().cpu().numpy()
            out["loss_base"][rows] = (base.sum(1) / length).double().cpu().numpy()
            moved = []
            for step in (_STEP, -_STEP) if slope else ():
                _scale(model, 1 + step)
                moved.append((backbone.token_losses(model, made)[0].sum(1) / length).double().cpu().numpy())
                _scale(model, 1 / (1 + step))
            if slope:
                out["slope"][rows] = (moved[0] - moved[1]) / (2 * _STEP)
            out["segments"][rows] = segments(nll, counted)
            out["zlib"][rows] = [len(zlib.compress(documents[i].astype(np.int32).tobytes(), 9)) for i in rows.tolist()]
            if tokens is not None:
                tokens(**per_token(int(rows[0]), logits, made, nll, base, counted, backbone.offset))
            bar.step(len(rows))
    if not slope:
        del out["slope"]
    return out


def batches(
    backbone: CausalBackbone, documents: Documents, size: int, device: Any
) -> Iterator[tuple[np.ndarray, Batch]]:
    """(rows, batch) over all documents, in order: `size` of them, or as many as have LOGITS logits, but at least one."""
    lengths = np.array([len(documents[i]) for i in range(len(documents))], np.int64)
    vocabulary, first = backbone.model.get_output_embeddings().weight.shape[0], 0
    while first < len(documents):
        longest = np.maximum.accumulate(lengths[first : first + size])
        fits = int((np.arange(1, len(longest) + 1) * longest * vocabulary <= LOGITS).sum())
        rows = np.arange(first, first + max(1, fits))
        first = int(rows[-1]) + 1
        yield rows, backbone.batch(
            [documents[i] for i in rows.tolist()], prompt=documents.layout.prompt_length, persons=documents.person[rows],
            device=device,
        )  # fmt: skip


def segments(nll: Any, counted: Any) -> np.ndarray:
    """float64[B, SEGMENTS]: mean log p of consecutive parts of each row's predicted tokens (nll, counted: [B, T-1])."""
    out = np.zeros((len(nll), SEGMENTS))
    for i, (row, there) in enumerate(zip(nll.double().cpu().numpy(), counted.cpu().numpy() > 0, strict=True)):
        values = -row[there]
        cuts = np.linspace(0, len(values), SEGMENTS + 1).round().astype(int)
        total = np.concatenate([[0.0], np.cumsum(values)])
        out[i] = (total[cuts[1:]] - total[cuts[:-1]]) / np.maximum(np.diff(cuts), 1)
    return out


def per_token(first: int, logits: Any, made: Batch, nll: Any, base: Any, counted: Any, offset: int) -> dict[str, Any]:
    """Per predicted token of one batch, ragged (row i owns offsets[i] to offsets[i + 1]): logp, logp_base; mean and sd of
    log p over the vocabulary, in expectation under the model; top, whether the token was the likeliest; entropy
    [tokens, ORDERS]; part, the index of the stream it belongs to. logits: [B, T, V]; nll, base, counted: [B, T-1]."""
    import torch

    keep = counted.bool()
    picked = logits[:, :-1][keep].float()
    logp = torch.log_softmax(picked, -1)
    p = logp.exp()
    mean = (p * logp).sum(-1)
    sd = (p * (logp - mean[:, None]) ** 2).sum(-1).clamp(min=0).sqrt()
    entropy = [
        -mean if order == 1 else -logp.max(-1).values if order == float("inf")
        else torch.logsumexp(order * logp, -1) / (1 - order)
        for order in ORDERS
    ]  # fmt: skip
    ids = made.ids.cpu().numpy() - offset
    marker = (ids >= STREAM_0) & (ids < STREAM_0 + STREAMS)
    last = np.maximum.accumulate(np.where(marker, np.arange(ids.shape[1]), 0), axis=1)
    part = np.clip(np.take_along_axis(ids, last, axis=1) - STREAM_0, 0, STREAMS - 1)
    return {
        "first": first, "offsets": np.concatenate([[0], np.cumsum(counted.sum(1).cpu().numpy())]).astype(np.int64),
        "logp": -nll[keep].cpu().numpy(), "logp_base": -base[keep].cpu().numpy(), "mean": mean.cpu().numpy(),
        "sd": sd.cpu().numpy(), "top": (picked.argmax(-1) == made.ids[:, 1:][keep]).cpu().numpy(),
        "entropy": torch.stack(entropy, -1).cpu().numpy(), "part": part[:, 1:][keep.cpu().numpy()],
    }  # fmt: skip


def _scale(model: Any, factor: float) -> None:
    """Multiply the LoRA update by a factor."""
    for module in model.modules():
        if isinstance(getattr(module, "scaling", None), dict):
            for name in module.scaling:
                module.scaling[name] *= factor


def losses_of(
    forward: Callable[[Batch], tuple[Any, Any]], batch_of: Callable[[np.ndarray], Batch], n: int, size: int
) -> tuple[np.ndarray, np.ndarray]:
    """(loss float64[n], segments float64[n, SEGMENTS]) of any model; forward(batch) -> (nll, counted)."""
    import torch

    loss, parts = np.zeros(n), np.zeros((n, SEGMENTS))
    with torch.inference_mode():
        for first in range(0, n, size):
            rows = np.arange(first, min(first + size, n))
            nll, counted = forward(batch_of(rows))
            loss[rows] = (nll.sum(1) / counted.sum(1)).double().cpu().numpy()
            parts[rows] = segments(nll, counted)
    return loss, parts
