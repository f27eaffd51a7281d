"""What there is to see of a representation or an autoencoder, for attacks: the numbers behind attacks/signals.py, as arrays.

As `generation/observed.py` is for models that write.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..core.records import Cohort
from ..data.features import WindowTable, tabulate
from .autoencoder import Autoencoder, normal
from .representation import Representer
from .represented import Opened, vectors
from .windows import Windows

DRAWS = (
    64  # from each window's posterior; the same normal numbers for every window, so that no window depends on another
)
VIEWS, NOISE = 4, 0.1  # noisy copies of each window; the noise, in standard deviations of what a tower is given of it


@dataclass(frozen=True, kw_only=True)
class Sight:
    """An opened run as an attacker has it. rows: bool[n], its windows of the persons in question."""

    o: Opened
    rows: np.ndarray

    @staticmethod
    def of(o: Opened, persons: Sequence[str]) -> Sight:
        return Sight(o=o, rows=np.isin(o.table.person, list(persons)))

    @property
    def table(self) -> WindowTable:
        """Statistics of the windows."""
        return self.o.table.rows(self.rows)

    def both(self, cohort: Cohort) -> tuple[WindowTable, None]:
        """A cohort's windows as the attacker on a release has them: statistics of the streams that are written, and no tokens."""
        c, made = self.o.config, self.o.made
        streams = tuple(made.written if isinstance(made, Autoencoder) else self.o.streams)
        return tabulate(
            cohort, seconds=c["seconds"], stride_s=c["stride_s"], task=c["task"], streams=streams, valid=c["valid"]
        ), None

    def observe(self, seed: int = 0) -> dict[str, Any]:
        """By field of Signals: recording, person, label, member, fresh where recordings were kept out of training, and

        - of an autoencoder: loss, the training objective without its noise; loss_base, the same of a network of this shape
          that nobody trained; evidence and reconstruction (`likelihoods`); n_tokens, the window's known numbers;
        - of any other representation: loss, of its heads; n_tokens, 1;
        - of both: views, and of what binds streams cosine (`similarities`).
        """
        o, table, n = self.o, self.table, int(self.rows.sum())
        fresh = np.isin(table.recording.astype(str), o.split.fresh) if o.split.fresh else np.zeros(n, bool)
        out: dict[str, Any] = {
            "recording": table.recording, "person": table.person, "label": table.label, "member": o.train[self.rows],
            "loss": o.loss[self.rows], "n_tokens": np.ones(n, np.int64), **({"fresh": fresh} if fresh.any() else {}),
        }  # fmt: skip
        windows = o.windows.rows(np.flatnonzero(self.rows))
        out |= similarities(o.made, windows, seed)
        if isinstance(o.made, Autoencoder):
            out |= likelihoods(o.made, windows, seed)
            out["loss_base"] = likelihoods(o.made.untrained(seed), windows, seed)["loss"]
        return out


def similarities(made: Representer, windows: Windows, seed: int = 0, count: int = VIEWS) -> dict[str, Any]:
    """For attacks on encoders (Liu et al., arXiv 2108.11023; Ko et al., arXiv 2310.00108), each window as it is and `count`
    times with noise (`noisy`): views, float64[n, 1 + count, width], its representations; and where the run bound streams to
    each other, and every window has two, cosine, float64[n, 1 + count]: how near they lie, the mean over its pairs."""
    each = [windows, *(noisy(windows, seed + k) for k in range(1, count + 1))]
    found = np.stack([vectors(made, w) for w in each], 1).astype(np.float64)
    out: dict[str, Any] = {"views": found}
    together = windows.present.astype(np.float64)
    if not isinstance(made, Autoencoder) and made.options.bind != "none" and (together.sum(1) >= 2).all():
        parts = np.stack([found[..., s] for s in made.slices.values()], 2)  # [n, 1 + count, M, dim]
        parts /= np.maximum(np.linalg.norm(parts, axis=-1, keepdims=True), 1e-12)
        size = together.sum(1)[:, None]
        # absent streams are zeros, and what is left is of unit length: the squared sum holds each pair twice
        out["cosine"] = ((parts.sum(2) ** 2).sum(-1) - size) / (size * (size - 1))
    return out


def noisy(windows: Windows, seed: int) -> Windows:
    """The same windows with normal noise of NOISE standard deviations on the numbers their towers are given (each array's own,
    of this window), whatever is 0 (nothing measured) and words as they are. The same draws for every window."""

    def moved(array: np.ndarray) -> np.ndarray:
        if array.dtype.kind != "f" or not array.any():
            return array
        draws = np.random.default_rng([seed, array.size]).standard_normal(array.shape)
        return np.where(array != 0, array + NOISE * array[array != 0].std() * draws, 0).astype(array.dtype)

    out = windows.rows(np.arange(len(windows)))
    out.arrays = [
        {m: {k: v if k == "there" else moved(v) for k, v in a.items()} for m, a in row.items()}
        for row in windows.arrays
    ]
    return out


def likelihoods(
    made: Autoencoder, windows: Windows, seed: int = 0, draws: int = DRAWS, size: int = 256
) -> dict[str, Any]:
    """float64[n] each, a window's from all its streams:

    loss: the training objective, every expectation at the posterior's mean; evidence: log p of its known numbers, by
    importance weighting with `draws` draws from its posterior (Burda et al., arXiv 1509.00519, equation 8), in nats per
    number; reconstruction: mean log p of the numbers given these draws, likewise; n_tokens: how many numbers."""
    import torch

    model = made.model
    device = next(model.parameters()).device
    noise = torch.randn((draws, made.width), generator=torch.Generator().manual_seed(seed)).to(device)
    was, parts = model.training, []
    model.eval()
    with torch.no_grad():
        for at in range(0, len(windows), size):
            batch = made.batch(windows, np.arange(at, min(at + size, len(windows))), device)
            mean, precision = made.posterior(made.embeddings(model, batch), batch.present[:, None])
            z = mean + noise / precision.sqrt()  # [B, draws, latent]
            known, count = made.likelihood(model, batch, z)
            prior = normal(z, made.centre(model, batch)[:, None], torch.zeros((), device=device)).sum(-1)
            own = normal(z, mean, -0.5 * precision.log()).sum(-1)
            evidence = torch.logsumexp(known + prior - own, 1) - float(np.log(draws))
            each = count.clamp(min=1)
            found = made.losses(model, batch), evidence / each, known.mean(1) / each, count
            parts.append([v.double().cpu().numpy() for v in found])
    model.train(was)
    loss, evidence, again, count = (np.concatenate(v) for v in zip(*parts, strict=True))
    return {"loss": loss, "evidence": evidence, "reconstruction": again, "n_tokens": count.astype(np.int64)}
