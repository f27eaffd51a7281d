"""The behaviour vocabulary: a fixed, versioned list of tokens appended to any language model's own.

Never built from recordings: it follows from the codecs that a layout names, in their order.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

from ..core import plugins

VERSION = 2
LABELS, STREAMS, CONTEXTS = 64, 16, 128
PAD, BOS, EOS = 0, 1, 2
LABEL_0 = 3
UNLABELLED = LABEL_0 + LABELS - 1  # in the label's place: no condition
STREAM_0 = LABEL_0 + LABELS
CONTEXT_0 = STREAM_0 + STREAMS
RELATIONS = ("translate", "extend", "vary")  # what the recording that follows is to the one that is to be made
RELATION_0 = CONTEXT_0 + CONTEXTS
MADE = RELATION_0 + len(RELATIONS)  # what follows is to be made
FIRST_CODEC = MADE + 1


@dataclass(frozen=True)
class Vocabulary:
    """Local ids 0 … size-1: pad, bos, eos, labels, stream markers, contexts, relations, then each codec's groups."""

    codecs: tuple[str, ...]

    @cached_property
    def starts(self) -> dict[str, int]:
        """First local id of each codec."""
        out, at = {}, FIRST_CODEC
        for codec in self.codecs:
            out[codec] = at
            at += sum(plugins.load("generation/codecs", codec).TOKENS.values())
        return out

    @cached_property
    def names(self) -> list[str]:
        """The token of each local id, as it is added to a tokenizer: `<transform.pair_17>`."""
        out = ["<behaviour.pad>", "<behaviour.bos>", "<behaviour.eos>"]
        out += (
            [f"<label_{i}>" for i in range(LABELS - 1)] + ["<unlabelled>"] + [f"<stream_{i}>" for i in range(STREAMS)]
        )
        out += [f"<context_{i}>" for i in range(CONTEXTS)] + [f"<{r}>" for r in RELATIONS] + ["<made>"]
        for codec in self.codecs:
            for group, size in plugins.load("generation/codecs", codec).TOKENS.items():
                out += [f"<{codec}.{group}_{i}>" for i in range(size)]
        return out

    @property
    def size(self) -> int:
        return len(self.names)

    @cached_property
    def digest(self) -> str:
        """Which list this is: two bases that know equally many tokens need not know the same."""
        return hashlib.sha256("\n".join(self.names).encode()).hexdigest()[:16]
