"""A face as a drawing: ellipses and lines that action units, gaze and head move. Nobody's picture was used.

Behind `datasets/simulated_film.py`, which says where the numbers come from. Action units are those of the Facial Action
Coding System as OpenFace names and scales them (0 … 5); an intensity x moves a line by 1 - exp(-x / 1.5) of the most it can,
so that weak expressions show. The same numbers always give the same pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .behaviour import AUS

_FINER = 3  # drawn so much larger, then averaged: lines have no steps
_MIDDLE = np.array([0.5, 0.47])
_LIGHT, _DARK = np.array([244.0, 214.0, 190.0]), np.array([92.0, 58.0, 38.0])
_FAIR, _BLACK = np.array([214.0, 196.0, 168.0]), np.array([28.0, 22.0, 20.0])


def film(
    units: np.ndarray, gaze: np.ndarray, head: np.ndarray, look: Mapping[str, float], wall: Sequence[float], side: int
) -> np.ndarray:
    """uint8[T, side, side, 3], RGB, a picture a row. units: float[T, 17], of behaviour.AUS; gaze: rad[T, 2], right and up; head:
    rad[T, 3], nod, turn, tilt; look: of simulated_film.LOOKS; wall: RGB of what is behind, 0 … 255."""
    return np.stack([_picture(u, g, h, look, wall, side) for u, g, h in zip(units, gaze, head, strict=True)])


def _picture(
    units: np.ndarray, gaze: np.ndarray, head: np.ndarray, look: Mapping[str, float], wall: Sequence[float], side: int
) -> np.ndarray:
    from PIL import Image, ImageDraw

    au = dict(zip(AUS, 1 - np.exp(-np.asarray(units, float) / 1.5), strict=True))
    nod, turn, tilt = (float(v) for v in head)
    w, h = look["width"], look["height"]
    size = side * _FINER
    canvas = Image.new("RGB", (size, size), _rgb(wall))
    pen = ImageDraw.Draw(canvas)
    turned = np.array([[np.cos(tilt), -np.sin(tilt)], [np.sin(tilt), np.cos(tilt)]])
    slide = np.array([0.6 * w * np.sin(turn), 0.6 * h * np.sin(nod)])  # what is on the face moves over it

    def at(points: Any, depth: float = 1.0) -> list[tuple[float, float]]:
        placed = (np.atleast_2d(np.asarray(points, float)) + depth * slide) @ turned.T + _MIDDLE
        return [(float(x), float(y)) for x, y in placed * size]

    def line(points: Any, colour: Any, thick: float) -> None:
        pen.line(at(points), fill=_rgb(colour), width=max(1, round(thick * size)), joint="curve")

    def oval(x: float, y: float, rx: float, ry: float, colour: Any, depth: float = 1.0, to: float = 2 * np.pi) -> None:
        a = np.linspace(0, to, 48)
        pen.polygon(at(np.stack([x + rx * np.cos(a), y + ry * np.sin(a)], 1), depth), fill=_rgb(colour))

    skin = _LIGHT + look["skin"] * (_DARK - _LIGHT)
    hair = _FAIR + look["hair"] * (_BLACK - _FAIR)
    shade, dark = skin * 0.8, skin * 0.45
    oval(0, 0.72, 0.42, 0.28, 255 - np.asarray(wall, float), depth=0)  # shoulders
    pen.polygon(at([(-0.1, 0.2), (0.1, 0.2), (0.13, 0.55), (-0.13, 0.55)], 0), fill=_rgb(shade))
    oval(0, -0.04, w * 1.14, h * 1.02, hair, depth=0.2)
    fall = -0.3 * h + 1.3 * h * look["length"]
    beside = [(-w * 1.14, -0.1), (w * 1.14, -0.1), (w * 1.12, max(fall, -0.1)), (-w * 1.12, max(fall, -0.1))]
    pen.polygon(at(beside, 0.2), fill=_rgb(hair))
    oval(0, 0.012 * au["26"], w, h * (1 + 0.05 * au["26"]), skin, depth=0.2)
    a = np.linspace(np.pi * 1.12, np.pi * 1.88, 32)  # the hair's edge over the brow
    pen.polygon(at(np.stack([w * 1.04 * np.cos(a), h * 1.02 * np.sin(a)], 1), 0.2), fill=_rgb(hair))

    open_ = float(np.clip(0.75 + 0.4 * au["05"] - 0.25 * au["06"] - 0.35 * au["07"] - 0.9 * au["45"], 0, 1.1))
    for s in (-1.0, 1.0):
        x, y = s * look["eyes"], -0.07
        if open_ > 0.12:
            oval(x, y, 0.05, 0.034 * open_, (250, 250, 248))
            look_x, look_y = 0.045 * np.sin(gaze[0]), -0.03 * np.sin(gaze[1])
            oval(x + look_x, y + look_y, 0.019, min(0.019, 0.032 * open_), (45, 40, 48))
        line([(x - 0.052, y), (x, y - 0.036 * open_), (x + 0.052, y)], dark, 0.01)
        if au["06"] > 0.1:  # cheeks push up a fold
            fold = [(x - 0.04, y + 0.055), (x, y + 0.065 - 0.012 * au["06"]), (x + 0.045, y + 0.05)]
            line(fold, skin * (1 - 0.3 * au["06"]), 0.008)
        inner = (x - s * (0.045 + 0.014 * au["04"]), y - 0.065 - 0.04 * au["01"] + 0.055 * au["04"])
        middle = (x, y - 0.08 - 0.02 * (au["01"] + au["02"]) + 0.03 * au["04"])
        outer = (x + s * 0.06, y - 0.06 - 0.04 * au["02"] + 0.012 * au["04"])
        line([inner, middle, outer], hair * 0.6, look["brows"])
    if au["04"] > 0.1:  # furrows between the brows
        for s in (-1.0, 1.0):
            line([(s * 0.012, -0.15), (s * 0.016, -0.11)], skin * (1 - 0.5 * au["04"]), 0.008)

    tip = -0.05 + look["nose"]
    line([(-0.012, -0.04), (-0.02, tip), (0.0, tip + 0.012), (0.02, tip)], dark, 0.009)
    if au["09"] > 0.1:
        for s in (-1.0, 1.0):
            line([(s * 0.02, -0.03), (s * 0.035, -0.015)], skin * (1 - 0.5 * au["09"]), 0.008)
    half = look["mouth"] * (1 + 0.3 * au["20"] + 0.25 * au["12"] - 0.35 * au["23"])
    gap = 0.05 * au["25"] + 0.06 * au["26"]
    corner = 0.17 - 0.05 * au["12"] + 0.045 * au["15"]
    u = np.linspace(-1, 1, 24)
    bow = 1 - u**2
    upper = corner + (0.17 - corner - 0.016 * au["10"] - 0.25 * gap) * bow
    lower = corner + (0.17 - corner - 0.014 * au["17"] + 0.75 * gap) * bow
    lips = np.concatenate(
        [np.stack([u * half, upper - 0.016 * bow], 1), np.stack([u * half, lower + 0.02 * bow], 1)[::-1]]
    )
    pen.polygon(at(lips), fill=_rgb(0.6 * skin + 0.4 * np.array([170.0, 40.0, 60.0])))
    pen.polygon(
        at(np.concatenate([np.stack([u * half, upper], 1), np.stack([u * half, lower], 1)[::-1]])), fill=(60, 20, 24)
    )
    line(np.stack([u * half, (upper + lower) / 2], 1), (60, 20, 24), 0.006)
    for s in (-1.0, 1.0):
        if au["14"] > 0.1:
            oval(s * (half + 0.02), corner, 0.007, 0.016 * au["14"], shade)
        if au["12"] > 0.1:  # the fold from nose to mouth
            line([(s * 0.05, tip), (s * (half + 0.03), corner - 0.01)], skin * (1 - 0.25 * au["12"]), 0.007)
    if au["17"] > 0.1:
        line([(-0.03, 0.265), (0.0, 0.258), (0.03, 0.265)], skin * (1 - 0.4 * au["17"]), 0.008)
    return np.asarray(canvas.reduce(_FINER), np.uint8)


def _rgb(colour: Any) -> tuple[int, int, int]:
    r, g, b = (int(np.clip(round(float(c)), 0, 255)) for c in colour)
    return r, g, b
