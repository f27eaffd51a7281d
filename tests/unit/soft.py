"""What the tests of soft tokens have in common: recordings to be shown, and a language model to show them to."""

from __future__ import annotations

from pathlib import Path

from mien.backbones import tiny

from ..conftest import recordings


def words(folder: Path) -> Path:
    """A language model of a few thousand parameters, which knows no behaviour token."""
    tiny.fresh(tiny.Shape(hidden=32, layers=2, heads=2, feed_forward=48), 60, 0).save_pretrained(folder)
    return folder


def windows(seconds: int):
    """Two windows of each of the invented recordings, six in all."""
    return [{n: s.cut(at, at + seconds) for n, s in r.streams.items()} for r in recordings(3) for at in (0, 4)]
