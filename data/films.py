"""Films of databases as pictures at a slow rate, through PyAV (ffmpeg's own decoders)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..core.errors import MienError
from ..core.records import Video
from .sources import LARGEST, Unreadable, is_stub

LONGEST_S = 3600.0


def needed() -> None:
    """MienError, with what to do, where PyAV is not installed."""
    try:
        import av  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise MienError("reading films needs PyAV; install mien[film], or leave film_hz out") from None


def film(file: Path, hz: float, side: int) -> Video:
    """The picture shown in the middle of each 1 / hz seconds, its middle square, resized to `side` pixels. Unreadable says what
    is wrong.

    The file is opened as MP4 and as nothing else: ffmpeg would follow a playlist under another name to other files.
    """
    import av  # pyright: ignore[reportMissingImports]

    if is_stub(file):
        raise Unreadable("Git LFS pointers without their content: run `git lfs pull` in the copy")
    if file.stat().st_size > LARGEST:
        raise Unreadable("over 2 GB, which no recording of the database is")
    pictures: list[np.ndarray] = []
    before, end = None, 0.0
    try:
        with av.open(str(file), format="mp4", metadata_errors="replace") as container:
            stream = container.streams.video[0]
            stream.thread_type = "NONE"
            step = float(1 / (stream.average_rate or 25))
            for frame in container.decode(stream):
                at = float(frame.time or 0.0)
                if at > LONGEST_S:
                    raise Unreadable("over an hour long")
                while before is not None and (len(pictures) + 0.5) / hz < at:
                    pictures.append(_square(before, side))
                before, end = frame, at + step
    except Unreadable:
        raise
    except Exception:  # whatever a decoder stumbles on, each codec in its own way
        raise Unreadable("damaged or not mp4") from None
    while before is not None and (len(pictures) + 1) / hz <= end + 1e-3:
        pictures.append(_square(before, side))
    if not pictures:
        raise Unreadable(f"shorter than one picture at {hz:g} Hz")
    return Video(frames=np.stack(pictures), rate_hz=hz)


def _square(frame: Any, side: int) -> np.ndarray:
    """uint8[side, side, 3]"""
    from PIL import Image

    picture = frame.to_image()
    short = min(picture.size)
    left, top = ((s - short) // 2 for s in picture.size)
    cut = picture.crop((left, top, left + short, top + short))
    return np.asarray(cut.resize((side, side), Image.Resampling.BICUBIC), np.uint8)
