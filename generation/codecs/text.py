"""`text`: what was said or written, utterance by utterance, in the base model's own tokens or in bytes.

Per utterance the tenths of a second since the one before began, the speaker's role, how long it lasted in tenths, its
words, and an end; then the block ends. With `tokenizer` the words are the base model's own tokens, which it knows how to
speak; without (a base that knows no words) they are UTF-8 bytes, and the machine accepts nothing that is not UTF-8.

Numbers, mail addresses and links are replaced before they are coded (`scrub`). Names in free text are not found by
patterns: see `generation/scrub.py`.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from pydantic import Field

from ...core.config import Section
from ...core.errors import MienError
from ...core.records import Stream, StreamSpec, Text
from ..machine import ANY_OWN, OWN, Machine
from ..numbers import BASE, LEADS, Numbers
from ..scrub import scrub

VERSION = 1
STREAMS = 1
KIND = "text"
PLACE = "tokenizer"
ROLES = 8
TOKENS = {"end": 1, "said": 1, "role": ROLES, "lead": LEADS, "digit": BASE, "byte": 256}
_END, _SAID, _ROLE = 0, 1, 2
_LEAD = _ROLE + ROLES
_DIGIT = _LEAD + LEADS
_BYTE = _DIGIT + BASE
_TENTHS = 10
_LONGEST = 60 * 60 * _TENTHS  # of one utterance
# UTF-8 (RFC 3629, section 4): lead bytes -> how many continuation bytes follow, and what the first of them may be
_LEADS = (
    (0xC2, 0xE0, 1, 0x80, 0xC0), (0xE0, 0xE1, 2, 0xA0, 0xC0), (0xE1, 0xED, 2, 0x80, 0xC0), (0xED, 0xEE, 2, 0x80, 0xA0),
    (0xEE, 0xF0, 2, 0x80, 0xC0), (0xF0, 0xF1, 3, 0x90, 0xC0), (0xF1, 0xF4, 3, 0x80, 0xC0), (0xF4, 0xF5, 3, 0x80, 0x90),
)  # fmt: skip


class Config(Section):
    """tokenizer: of the base model (hub id, local folder or asset), whose tokens the words are, or null: bytes; most: tokens
    (bytes: characters) of all words of a window together, less one; utterances: of a window; windows with more are refused, and
    counted; scrub: replace numbers, mail addresses and links."""

    tokenizer: str | None = None
    revision: str | None = None
    most: int = Field(default=512, ge=1, le=4096)
    utterances: int = Field(default=32, ge=1, le=256)
    scrub: bool = True


class Codec:
    """One transcript, one window length."""

    def __init__(self, config: Config, specs: Mapping[str, StreamSpec], seconds: float):
        ((self.name, self.spec),) = specs.items()
        self.config, self.seconds = config, seconds
        if not 1 <= len(self.spec.channels) <= ROLES:
            raise MienError(
                f"stream {self.name!r} has {len(self.spec.channels)} speakers; the text codec has room for {ROLES}"
            )
        if not 1 <= seconds <= 86400:
            raise MienError(f"stream {self.name!r}: the text codec takes windows of 1 s to a day, not {seconds:g} s")
        self.gap = Numbers(int(np.ceil(seconds * _TENTHS)), _LEAD, _DIGIT)
        self.length = Numbers(_LONGEST, _LEAD, _DIGIT)

    @cached_property
    def tokenizer(self) -> Any:
        """The base model's, or None."""
        if self.config.tokenizer is None:
            return None
        from transformers import AutoTokenizer

        from ...backbones import causal_lm

        source, _ = causal_lm.source(causal_lm.Config(model=self.config.tokenizer))
        try:
            return AutoTokenizer.from_pretrained(source, revision=self.config.revision, trust_remote_code=False)
        except (OSError, ValueError) as error:
            raise MienError(
                f"cannot load the tokenizer of {self.config.tokenizer!r}: {str(error).splitlines()[0]} – the text codec needs"
                " the backbone's own; leave it out for bytes"
            ) from None

    @cached_property
    def never(self) -> tuple[int, ...]:
        """Own ids that are no words: special tokens, and whatever lies between the tokenizer's last and the model's."""
        if self.tokenizer is None:
            return ()
        return tuple(sorted({*self.tokenizer.all_special_ids, *self.tokenizer.added_tokens_decoder}))

    @property
    def machine(self) -> Machine:
        """A copy of an utterance's nodes for each there may be. The sum counts words, and when it is full the utterance
        and then the block end."""
        size = self.gap.nodes + 1 + self.length.nodes + 1 + (7 if self.config.tokenizer is None else 0)
        full = self.config.utterances * size  # an utterance may end and nothing else
        over = full + 1  # the block may
        nodes = over + 1
        arcs, add, gates = [(full, _SAID, _SAID + 1, over), (over, _END, _END + 1, nodes)], {}, {}
        for i in range(self.config.utterances):
            gap = i * size
            role, length = gap + self.gap.nodes, gap + self.gap.nodes + 1
            words = length + self.length.nodes
            arcs += [(gap, _END, _END + 1, nodes), *self.gap.arcs(gap, role)]
            arcs += [(role, _ROLE, _ROLE + len(self.spec.channels), length), *self.length.arcs(length, words)]
            arcs.append((words, _SAID, _SAID + 1, gap + size if i + 1 < self.config.utterances else over))
            gates[words] = (self.config.most, full)
            if self.config.tokenizer is not None:
                arcs.append((words, ANY_OWN, 0, words))
                add[words] = np.array([1])
                continue
            arcs += _utf8(words)
            count = np.zeros(_BYTE - _SAID + 256, dtype=np.int64)
            count[_BYTE - _SAID :] = 1  # from the node's lowest token, _SAID, on; continuation bytes are of other nodes
            add[words] = count
        each = self.gap.places + 1 + self.length.places + 1
        bytes_each = 1 if self.config.tokenizer is not None else 4
        return Machine(
            nodes=nodes, arcs=arcs, add=add, gates=gates,
            length=self.config.utterances * each + bytes_each * self.config.most + self.gap.places + 1,
        )  # fmt: skip

    def encode(self, windows: Sequence[Mapping[str, Stream]]) -> list[np.ndarray | str]:
        return [self._block(w[self.name]) for w in windows]

    def _block(self, s: Stream) -> np.ndarray | str:
        if not isinstance(s, Text) or not set(s.speakers) <= set(self.spec.channels):
            raise MienError(f"stream {self.name!r}: expected text of the speakers {list(self.spec.channels)}")
        if len(s.text) > self.config.utterances:
            return f"more than {self.config.utterances} utterances in {self.name} (codec option `utterances`)"
        ids: list[int] = []
        before = words = 0
        for start, end, text, role in zip(s.times_s.tolist(), s.ends_s.tolist(), s.text, s.speakers, strict=True):
            at = int(round(start * _TENTHS, 6))
            length = round((end - start) * _TENTHS)
            if length > _LONGEST:
                return f"an utterance of more than an hour in {self.name}, which its codec cannot say"
            text = scrub(text) if self.config.scrub else text
            said = self._words(text)
            words += len(said) if self.config.tokenizer is not None else len(text)
            ids += [*self.gap.encode(at - before), _ROLE + self.spec.channels.index(role), *self.length.encode(length)]
            ids += [*said, _SAID]
            before = at
        if words >= self.config.most:
            return f"{self.config.most} or more words' tokens in {self.name} (codec option `most`)"
        return np.array([*ids, _END], dtype=np.int32)

    def _words(self, text: str) -> list[int]:
        if self.tokenizer is None:
            return [_BYTE + b for b in text.encode("utf-8", errors="replace")]
        return [OWN + i for i in self.tokenizer.encode(text, add_special_tokens=False) if i not in self.never]

    def decode(self, ids: np.ndarray) -> dict[str, Stream]:
        times, ends, texts, roles = [], [], [], []
        at = now = 0
        while ids[at] != _END:
            gap, at = self.gap.read(ids, at)
            now += gap
            role = self.spec.channels[int(ids[at]) - _ROLE]
            length, at = self.length.read(ids, at + 1)
            last = at + int(np.argmax(np.asarray(ids[at:]) == _SAID))
            said = np.asarray(ids[at:last])
            at = last + 1
            if now < self.seconds * _TENTHS:  # what would begin after the window's end is not in it
                times.append(now / _TENTHS)
                ends.append((now + min(length, _LONGEST)) / _TENTHS)
                texts.append(unicodedata.normalize("NFC", self._text(said)))
                roles.append(role)
        return {
            self.name: Text(
                times_s=np.array(times, float), ends_s=np.array(ends, float), text=tuple(texts), speakers=tuple(roles),
                seconds=self.seconds,
            )
        }  # fmt: skip

    def _text(self, said: np.ndarray) -> str:
        if self.tokenizer is None:
            return bytes((said - _BYTE).tolist()).decode("utf-8", errors="replace")
        return self.tokenizer.decode((said - OWN).tolist(), clean_up_tokenization_spaces=False)


def _utf8(words: int) -> list[tuple[int, int, int, int]]:
    """Arcs from `words` over well-formed characters back to `words`, through the seven nodes after it: one, two, three
    bytes to go, and the four restricted second bytes."""
    one, two = words + 1, words + 2
    arcs = [
        (words, _BYTE, _BYTE + 0x80, words),
        (one, _BYTE + 0x80, _BYTE + 0xC0, words),
        (two, _BYTE + 0x80, _BYTE + 0xC0, one),
    ]
    three = words + 3
    arcs.append((three, _BYTE + 0x80, _BYTE + 0xC0, two))
    restricted = words + 4
    for first, last, more, low, high in _LEADS:
        to = {1: one, 2: two, 3: three}[more]
        if (low, high) != (0x80, 0xC0):
            then = one if more == 2 else two
            arcs.append((restricted, _BYTE + low, _BYTE + high, then))
            to, restricted = restricted, restricted + 1
        arcs.append((words, _BYTE + first, _BYTE + last, to))
    return arcs
