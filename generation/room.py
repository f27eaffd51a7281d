"""A key/value cache with room to grow: transformers' own copies all that it holds at every token (torch.cat), which took half
of the time of sampling some hundred tokens a document."""

from __future__ import annotations

from typing import Any


def roomy() -> Any:
    """A fresh cache for a model, of any number of layers; what it returns is what `DynamicCache` returns."""
    from transformers.cache_utils import Cache, DynamicLayer

    class Room(DynamicLayer):
        """keys, values: views of buffers that double when they are full."""

        held: tuple[Any, ...] = ()

        def update(self, key_states: Any, value_states: Any, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
            if not self.is_initialized:
                self.lazy_initialization(key_states, value_states)
            before = self.get_seq_length()
            now = before + key_states.shape[-2]
            if not self.held or self.held[0].shape[-2] < now:
                old = (self.keys, self.values) if before else ()
                self.held = tuple(
                    x.new_empty(*x.shape[:-2], max(64, 2 * now), x.shape[-1]) for x in (key_states, value_states)
                )
                for room, kept in zip(self.held, old, strict=False):
                    room[..., :before, :] = kept
            for room, new in zip(self.held, (key_states, value_states), strict=True):
                room[..., before:now, :] = new
            self.keys, self.values = (room[..., :now, :] for room in self.held)
            return self.keys, self.values

    return Cache(layer_class_to_replicate=Room)
