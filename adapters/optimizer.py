"""AdamW on one vector, with the correction for noise of known variance."""

from __future__ import annotations

from typing import Any

FLOOR = 0.05  # of the noise variance: what is left of a second moment that the correction would make negative


class Adam:
    """AdamW (arXiv 1711.05101) as torch.optim.AdamW computes it, on a flat vector.

    `variance` is the noise's own variance per coordinate of the gradient; it is subtracted from the bias-corrected
    second moment, so that a step is scaled by the signal and not by the noise (DP-AdamBC, arXiv 2312.14334,
    algorithm 1), never below FLOOR x variance.
    """

    def __init__(
        self, vector: Any, *, weight_decay: float = 0.0, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8
    ):
        import torch

        self.exp_avg, self.exp_avg_sq = torch.zeros_like(vector), torch.zeros_like(vector)
        self.steps, self.weight_decay, self.betas, self.eps = 0, weight_decay, betas, eps

    def step(self, vector: Any, gradient: Any, lr: float, variance: float = 0.0) -> None:
        """One update of `vector`, in place."""
        import torch

        first, second = self.betas
        self.steps += 1
        with torch.no_grad():
            vector.mul_(1 - lr * self.weight_decay)
            self.exp_avg.lerp_(gradient, 1 - first)
            self.exp_avg_sq.mul_(second).addcmul_(gradient, gradient, value=1 - second)
            spread = self.exp_avg_sq / (1 - second**self.steps)
            if variance > 0:
                spread.sub_(variance).clamp_(min=FLOOR * variance)
            vector.addcdiv_(self.exp_avg, spread.sqrt_().add_(self.eps), value=-lr / (1 - first**self.steps))
