"""Recordings shown to a model as soft tokens, under a guarantee of their own: clipped, noised, and charged to the ledger.

Training's guarantee says nothing of what a model is shown later. Here the soft tokens themselves are made private, as one
vector per shown window, and everything sampled under them is post-processing (Dwork & Roth 2014, proposition 2.1).

Adjacency: one person's recordings are replaced by anybody else's, or by none. How many persons there are, whose turn it is
and how many windows each has is public: a person who has too few is shown as nothing, noised like the rest. A vector of
norm at most C can so become any other: the sensitivity is 2 C (C alone where a person is only taken out), and the noise is
`noise_multiplier` x 2 C per coordinate. In the ledger a window is one step that everybody is in.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Callable, Sequence

import numpy as np
from pydantic import Field

from ..core import console
from ..core.config import Section
from ..core.runs import Run, write_text
from ..privacy.accounting import Event, epsilon, noise_for
from ..privacy.ledger import Ledger
from ..privacy.noise import Secret, noised
from ..privacy.plan import loosest_delta, up


class Protect(Section):
    """epsilon, delta: for each person whose recordings are shown, all their windows together; clip: the most that the soft
    tokens of one window may weigh (L2 norm over all of them), a public constant; cap: the most that the ledger may have
    charged any of these persons afterwards, in epsilon."""

    epsilon: float = Field(gt=0)
    delta: float = Field(default=1e-5, gt=0, lt=1)
    clip: float = Field(default=1.0, gt=0)
    cap: float | None = Field(default=None, gt=0)

    def event(self, each: int) -> Event:
        """What `each` shown windows of every person cost."""
        sigma = noise_for(self.epsilon, self.delta, sample_rate=1.0, steps=each)
        return Event(sample_rate=1.0, noise_multiplier=sigma, steps=each)


def clipped(vectors: np.ndarray, clip: float) -> np.ndarray:
    """float64[n, P] of norm at most `clip` each; a vector that is not finite counts as nothing."""
    out = np.where(np.isfinite(vectors).all(1, keepdims=True), vectors, 0.0).astype(np.float64)
    norm = np.linalg.norm(out, axis=1, keepdims=True)
    return out * np.minimum(1.0, clip * (1 - 1e-12) / np.maximum(norm, 1e-300))


def noisy(vectors: np.ndarray, sigma: float, clip: float) -> np.ndarray:
    """float32[n, P]: clipped, with N(0, (2 sigma clip)^2) added to every coordinate from the system's entropy, and shrunk,
    whatever the vectors are, to the norm that a full vector was expected to have without the noise."""
    import torch

    inside, secret = clipped(vectors, clip), Secret()
    out = np.stack([noised(torch.from_numpy(v), sigma, 2 * clip, secret).numpy() for v in inside])
    shrink = 1 / math.sqrt(1 + vectors.shape[1] * (2 * sigma) ** 2)
    return (out * shrink).astype(np.float32)


def protected(
    run: Run, source: str, persons: Sequence[str], each: int, protect: Protect, soften: Callable[[], np.ndarray]
) -> tuple[np.ndarray, str]:
    """float32[n, S, hidden] soft tokens to show, made once per run and charged first, and the sentence for cards.

    persons: everybody whose turn it is; each: windows of each, at most; soften: computes float[n, S, hidden] of the real
    recordings, called after the charge. BudgetExceeded when the cap would be passed. A killed run goes on with the noise
    it drew, or, before it drew any, with the charge it made.
    """
    event, kept, named = protect.event(each), run.private / "shown.npy", run.private / "ledger-id"
    if not named.exists():  # one id per attempt: a run begun anew (--fresh) is charged anew
        write_text(named, f"{run.name}-{uuid.uuid4().hex[:12]}")
    name = named.read_text().strip()
    with Ledger.open() as ledger:
        if not kept.exists():
            receipt = ledger.reserve(
                run=name, source=source, persons=persons, events=[event], delta=protect.delta, cap=protect.cap,
                note="recordings shown as soft tokens",
            )  # fmt: skip
            after = receipt.epsilon_after
            total = f"{after:.3g} at most" if math.isfinite(after) else "∞: a plain run has used some of them"
            console.say(f"  ledger entry {receipt.seq}: the shown persons' total is now ε = {total}")
            made = soften()
            soft = noisy(made.reshape(len(made), -1), event.noise_multiplier, protect.clip).reshape(made.shape)
            staged = run.private / ".shown.npy"
            with open(staged, "wb") as file:
                np.save(file, soft, allow_pickle=False)
            staged.rename(kept)
        ledger.settle(name, [event])
    return np.load(kept, allow_pickle=False), sentence(protect, event, len(set(persons)))


def sentence(protect: Protect, event: Event, n: int) -> str:
    """What may be said of recordings made under such soft tokens."""
    doubt = ""
    if protect.delta > loosest_delta(n):
        doubt = f"; NOT A CLAIM: δ = {protect.delta:g} is looser than {loosest_delta(n):g}"
    return (
        f"({up(epsilon([event], protect.delta))}, {protect.delta:.2g})-differential privacy for each person whose recordings"
        f" were shown as soft tokens (replace one person's recordings; sensitivity 2 C, {event.steps} windows each, noise"
        f" multiplier {event.noise_multiplier:.3g}, PLD){doubt}"
    )


def together(training: str, shown: str) -> str:
    """The guarantee of what an adapter made under protected soft tokens: training's first, for it covers other people."""
    return f"{training}; and {shown}. For a person who is in both, the two add up"
