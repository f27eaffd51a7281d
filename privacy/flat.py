"""All trainable tensors of a model as one vector, outside the module tree.

DDP, DeepSpeed and FSDP handle the gradients of registered parameters in hooks of their own, during backward: before
anything could be clipped. What is not registered they never see. So the trainable tensors leave the tree, and each
module keeps a view into one vector: one norm, one reduction, one optimiser step.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ..core.errors import MienError


@dataclass(frozen=True)
class Slot:
    """One trainable tensor: its place in the vector, and every (module name, module, attribute) that uses it."""

    name: str
    start: int
    stop: int
    shape: tuple[int, ...]
    uses: tuple[tuple[str, Any, str], ...]


class Flat:
    """The trainable tensors of `model`, moved into `vector`: float32[P] (float64 when one of them is).

    Tensors that several modules share have one slot. While a Flat holds them they are no parameters: neither
    `model.parameters()` nor `state_dict()` lists them; `registered()` puts them back for a while (to save them).
    MienError when nothing is trainable, or a trainable tensor shares its memory with a frozen one.
    """

    def __init__(self, model: Any):
        import torch

        self.model = model
        uses: dict[int, list[tuple[str, Any, str]]] = {}
        found: dict[int, tuple[str, Any]] = {}
        frozen: dict[int, str] = {}
        for prefix, module in model.named_modules():
            for attribute, p in module._parameters.items():
                if p is None:
                    continue
                full = f"{prefix}.{attribute}" if prefix else attribute
                if p.requires_grad:
                    found.setdefault(id(p), (full, p))
                    uses.setdefault(id(p), []).append((prefix, module, attribute))
                elif p.numel():
                    frozen.setdefault(p.data_ptr(), full)
        if not found:
            raise MienError("no parameter of the model requires a gradient; attach an adapter first")
        for full, p in found.values():
            if p.data_ptr() in frozen:
                raise MienError(
                    f"the trainable {full} shares its memory with the frozen {frozen[p.data_ptr()]}: training one would"
                    " move the other unseen. Untie them (tie_word_embeddings: false), or train neither"
                )
        tensors = [p for _, p in found.values()]
        double = any(p.dtype == torch.float64 for p in tensors)
        device = tensors[0].device
        self.vector = torch.empty(
            sum(p.numel() for p in tensors), dtype=torch.float64 if double else torch.float32, device=device
        )
        self.slots: list[Slot] = []
        at = 0
        for key, (full, p) in found.items():
            end = at + p.numel()
            with torch.no_grad():
                self.vector[at:end].copy_(p.detach().reshape(-1))
            self.slots.append(Slot(full, at, end, tuple(p.shape), tuple(uses[key])))
            at = end
        self.grad: Any = None
        self._place(lambda view: view)

    def _place(self, make: Any) -> None:
        import torch

        for slot in self.slots:
            value = make(self.vector[slot.start : slot.stop].view(slot.shape))
            for _, module, attribute in slot.uses:
                module._parameters.pop(attribute, None)
                module.__dict__.pop(attribute, None)
                if isinstance(value, torch.nn.Parameter):
                    module._parameters[attribute] = value
                else:
                    module.__dict__[attribute] = value

    def differentiable(self) -> None:
        """Make every tensor a leaf whose gradient autograd adds into `grad`, a vector like `vector`."""
        import torch

        self.grad = torch.zeros_like(self.vector)

        def leaf(view: Any) -> Any:
            return view.requires_grad_()

        self._place(leaf)
        for slot in self.slots:
            _, module, attribute = slot.uses[0]
            module.__dict__[attribute].grad = self.grad[slot.start : slot.stop].view(slot.shape)

    def constant(self) -> None:
        """Make every tensor a plain view without gradient (the state after construction)."""
        self.grad = None
        self._place(lambda view: view)

    @contextlib.contextmanager
    def registered(self) -> Iterator[None]:
        """The tensors as ordinary parameters of their modules again, copied, for saving."""
        import torch

        grad, was = self.grad is not None, self.vector
        self._place(lambda view: torch.nn.Parameter(view.detach().clone()))
        try:
            yield
        finally:
            self.vector = was
            self.differentiable() if grad else self.constant()

    def release(self) -> None:
        """Put the tensors back into the module tree for good."""
        import torch

        self._place(lambda view: torch.nn.Parameter(view.detach().clone()))

    def find(self, module: Any, attribute: str) -> Slot | None:
        for slot in self.slots:
            if any(m is module and a == attribute for _, m, a in slot.uses):
                return slot
        return None
