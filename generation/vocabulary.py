"""The behaviour vocabulary: a fixed, versioned list of tokens appended to any language model's own.

Never built from recordings. New codecs are appended at the end of CODECS, so old ids keep their meaning.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from ..core import plugins

VERSION = 1
CODECS = ("transform",)
LABELS, STREAMS = 64, 16
PAD, BOS, EOS = 0, 1, 2
LABEL_0 = 3
STREAM_0 = LABEL_0 + LABELS


@dataclass(frozen=True)
class Vocabulary:
    """Local ids 0 … size-1: pad, bos, eos, labels, stream markers, then each codec's groups."""

    @cached_property
    def starts(self) -> dict[str, int]:
        """First local id of each codec."""
        out, at = {}, STREAM_0 + STREAMS
        for codec in CODECS:
            out[codec] = at
            at += sum(plugins.load("generation/codecs", codec).TOKENS.values())
        return out

    @cached_property
    def names(self) -> list[str]:
        """The token of each local id, as it is added to a tokenizer: `<transform.pair_17>`."""
        out = ["<behaviour.pad>", "<behaviour.bos>", "<behaviour.eos>"]
        out += [f"<label_{i}>" for i in range(LABELS)] + [f"<stream_{i}>" for i in range(STREAMS)]
        for codec in CODECS:
            for group, size in plugins.load("generation/codecs", codec).TOKENS.items():
                out += [f"<{codec}.{group}_{i}>" for i in range(size)]
        return out

    @property
    def size(self) -> int:
        return len(self.names)


VOCABULARY = Vocabulary()
