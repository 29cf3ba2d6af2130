"""Draws synthetic graphics: flat colours, gradients, shapes, lines, patterns, text and tables.

Networks that train only on photographs change flat colours and blur letters.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import resources
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

_FONTS = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSerif", "DejaVuSerif-Italic", "DejaVuSansMono")  # matplotlib's
_LETTERS = "eeeeettttaaaooiinnsshhrrddllucmfwypvbgkjxqzETAOINSHRDL"
_SIGNS = "0123456789.,:;-+%()=/$€"

Colour = tuple[int, int, int]


class Drawing(NamedTuple):
    """A square drawing of ``side`` pixels, determined by its number."""

    number: int
    side: int

    def __str__(self) -> str:
        return f"drawing {self.number}"

    def size(self) -> tuple[int, int]:
        return self.side, self.side

    def open(self) -> np.ndarray:
        return draw(self.side, np.random.default_rng((self.number, self.side)))


def draw(side: int, rng: np.random.Generator) -> np.ndarray:
    """Draw a random picture: uint8 (side, side, 3) RGB. One in six is grey."""
    image = np.empty((side, side, 3), np.uint8)
    (_gradient if rng.random() < 0.25 else _flat)(image, rng)
    for content in _CONTENTS[rng.integers(len(_CONTENTS))]:
        content(image, rng)
    if rng.random() < 1 / 6:
        image[:] = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None]
    return image


def _flat(image: np.ndarray, rng: np.random.Generator) -> None:
    image[:] = _colour(rng)


def _gradient(image: np.ndarray, rng: np.random.Generator) -> None:
    """Fill the picture with a linear or radial gradient between two colours."""
    height, width = image.shape[:2]
    y, x = np.mgrid[:height, :width].astype(np.float32)
    if rng.random() < 0.5:
        angle = rng.uniform(0, 2 * np.pi)
        way = np.cos(angle) * x + np.sin(angle) * y
    else:
        way = np.hypot(x - rng.uniform(0, width), y - rng.uniform(0, height))
    way = (way - way.min()) / np.ptp(way)
    start, end = np.array(_colour(rng), np.float32), np.array(_colour(rng), np.float32)
    image[:] = np.rint(start + way[..., None] * (end - start))


def _shapes(image: np.ndarray, rng: np.random.Generator) -> None:
    """Draw rectangles, ellipses and polygons, filled or outlined."""
    side = image.shape[0]
    for _ in range(rng.integers(1, 13)):
        colour, edge = _colour(rng), _edge(rng)
        thickness = -1 if rng.random() < 0.7 else int(rng.integers(1, 6))
        corner, extent = rng.integers(-side // 8, side, 2), rng.integers(3, side // 2, 2)
        kind = rng.integers(3)
        if kind == 0:
            cv2.rectangle(image, _point(corner), _point(corner + extent), colour, thickness, edge)
        elif kind == 1:
            axes = _point(extent // 2)
            cv2.ellipse(image, _point(corner), axes, rng.uniform(0, 360), 0, 360, colour, thickness, edge)
        else:
            corners = (corner + rng.uniform(-1, 1, (rng.integers(3, 8), 2)) * extent).astype(np.int32)
            if thickness < 0:
                cv2.fillPoly(image, [corners], colour, edge)
            else:
                cv2.polylines(image, [corners], True, colour, thickness, edge)


def _lines(image: np.ndarray, rng: np.random.Generator) -> None:
    """Draw straight lines and curves, as in plots and sketches."""
    side = image.shape[0]
    for _ in range(rng.integers(2, 25)):
        colour, edge, thickness = _colour(rng), _edge(rng), int(rng.integers(1, 4))
        if rng.random() < 0.5:
            one, other = rng.integers(0, side, (2, 2))
            cv2.line(image, _point(one), _point(other), colour, thickness, edge)
        else:
            x = np.linspace(0, side, 32)
            y = rng.uniform(0, side) + side / 6 * np.cumsum(rng.standard_normal(32)) / 3
            cv2.polylines(image, [np.stack([x, y], axis=1).astype(np.int32)], False, colour, thickness, edge)


def _patterns(image: np.ndarray, rng: np.random.Generator) -> None:
    """Draw rectangles of stripes and checks that are a few pixels wide."""
    side = image.shape[0]
    for _ in range(rng.integers(1, 5)):
        top, left = rng.integers(0, side * 3 // 4, 2)
        part = image[top : top + rng.integers(side // 4, side), left : left + rng.integers(side // 4, side)]
        period, axis = int(rng.integers(1, 12)), rng.integers(3)
        y, x = np.indices(part.shape[:2]) // period
        part[(y * (axis != 0) + x * (axis != 1)) % 2 == 0] = _colour(rng)


def _text(image: np.ndarray, rng: np.random.Generator) -> None:
    """Draw lines of meaningless words."""
    side = max(image.shape)
    pillow = Image.fromarray(image)
    canvas = ImageDraw.Draw(pillow)
    size = int(np.exp(rng.uniform(np.log(8), np.log(40))))
    font, colour = _font(_FONTS[rng.integers(len(_FONTS))], size), _contrast(image, rng)
    left, y = rng.integers(-size, side // 4), float(rng.integers(-size, side // 3))
    while y < side and rng.random() < 0.97:
        if rng.random() < 0.06:
            colour = _contrast(image, rng)
        canvas.text((left, y), " ".join(_word(rng) for _ in range(1 + 2 * side // (5 * size))), colour, font)
        y += size * 1.25
    image[:] = np.asarray(pillow)


def _table(image: np.ndarray, rng: np.random.Generator) -> None:
    """Draw a table with rules, shaded rows, and numbers or words in its cells."""
    side = image.shape[0]
    size = int(rng.integers(8, 17))
    row, column = size + int(rng.integers(2, 12)), int(rng.integers(3, 9)) * size
    if rng.random() < 0.5:
        shade = _colour(rng)
        for y in range(0, side, 2 * row):
            image[y : y + row] = shade
    ink = _contrast(image, rng)
    pillow = Image.fromarray(image)
    canvas, font = ImageDraw.Draw(pillow), _font(_FONTS[rng.integers(len(_FONTS))], size)
    for y in range(0, side, row):
        for x in range(0, side, column):
            if rng.random() < 0.8:
                sign = "".join(_SIGNS[i] for i in rng.integers(len(_SIGNS), size=rng.integers(1, 5)))
                canvas.text((x + 3, y + 1), sign if rng.random() < 0.7 else _word(rng)[: column // size], ink, font)
    image[:] = np.asarray(pillow)
    if rng.random() < 0.8:
        rule, width = _colour(rng), int(rng.integers(1, 3))
        for y in range(0, side, row):
            image[y : y + width] = rule
        for x in range(0, side, column):
            image[:, x : x + width] = rule


def _window(image: np.ndarray, rng: np.random.Generator) -> None:
    """Draw a screen of windows with title bars, buttons and text."""
    side = image.shape[0]
    for _ in range(rng.integers(1, 4)):
        (top, left), (height, width) = rng.integers(-side // 4, side // 2, 2), rng.integers(side // 3, side, 2)
        part = image[max(0, top) : top + height, max(0, left) : left + width]
        _flat(part, rng)
        if rng.random() < 0.6:
            _text(part, rng)
        bar = int(rng.integers(8, 24))
        part[:bar] = _colour(rng)
        for button in range(rng.integers(0, 4)):
            centre = part.shape[1] - (button + 1) * (bar + 2), bar // 2
            cv2.circle(part, centre, bar // 3, _colour(rng), -1, cv2.LINE_AA)
        part[[0, -1]] = part[:, [0, -1]] = _colour(rng)


def _colour(rng: np.random.Generator) -> Colour:
    """Draw black or white, a corner of the colour cube, a grey, or any colour."""
    kind = rng.choice(4, p=[0.3, 0.25, 0.15, 0.3])
    if kind == 0:
        red = green = blue = 255 * rng.integers(2)
    elif kind == 1:
        red, green, blue = 255 * rng.integers(2, size=3)
    elif kind == 2:
        red = green = blue = rng.integers(256)
    else:
        red, green, blue = rng.integers(256, size=3)
    return int(red), int(green), int(blue)


def _contrast(image: np.ndarray, rng: np.random.Generator) -> Colour:
    """Draw a colour that contrasts with the picture's mean colour."""
    behind = image.reshape(-1, 3).mean(axis=0)
    colours = [_colour(rng) for _ in range(4)]
    return max(colours, key=lambda colour: float(np.abs(behind - colour).sum()))


def _edge(rng: np.random.Generator) -> int:
    """Choose between anti-aliased and aliased edges."""
    return cv2.LINE_AA if rng.random() < 0.7 else cv2.LINE_8


def _word(rng: np.random.Generator) -> str:
    return "".join(_LETTERS[i] for i in rng.integers(len(_LETTERS), size=rng.integers(1, 10)))


def _point(place: np.ndarray) -> tuple[int, int]:
    return int(place[0]), int(place[1])


# The contents of a drawing, on top of its background; all are equally likely.
_CONTENTS: tuple[tuple[Callable[[np.ndarray, np.random.Generator], None], ...], ...] = (
    (),
    (_shapes,),
    (_shapes, _lines),
    (_lines,),
    (_patterns,),
    (_text,),
    (_shapes, _text),
    (_table,),
    (_window,),
)


@cache
def _font(name: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(resources.files("matplotlib") / "mpl-data" / "fonts" / "ttf" / f"{name}.ttf"), size)
