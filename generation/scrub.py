"""Take what looks like a number, an address or a link out of free text, before a model can learn it.

Patterns find the shapes of such things only. They do NOT find names, places or what else tells who somebody is: text that
holds these must be redacted by people, or not be used.
"""

from __future__ import annotations

import re

_SHAPES = (
    (re.compile(r"\b[\w.+-]+@[\w-]+(?:\.[\w-]+)+\b"), "[mail]"),
    (re.compile(r"\b(?:https?://|www\.)\S+", re.IGNORECASE), "[link]"),
    (
        re.compile(r"(?<!\w)[+(]?\d(?:[\s()./-]{0,3}\d){4,}(?!\w)"),
        "[number]",
    ),  # five digits and more, however they are grouped
)


def scrub(text: str) -> str:
    """The text with mail addresses, links and runs of five digits and more replaced by [mail], [link], [number]."""
    for shape, mark in _SHAPES:
        text = shape.sub(mark, text)
    return text
