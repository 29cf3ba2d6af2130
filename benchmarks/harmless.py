"""Measures changes to pictures without degradation: flat colours, drawings with text, clean and grey photographs.

`make bench-harmless args="--weights FILE"` runs it.

``moceir.Restorer`` restores 8-bit pictures, as in ``moceir restore``. Training never draws the drawings used here,
because their numbers are higher.
"""

from __future__ import annotations

import argparse
from itertools import product

import cv2
import numpy as np
from rich.console import Console
from rich.table import Table

import moceir
from moceir.data.drawings import Drawing
from moceir.data.samples import sample_photographs
from moceir.inference.weights import SHIPPED, load_weights
from moceir.pictures.arrays import read_picture

SIDE = 192
FIRST_DRAWING = 1_000_000


def distance(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the absolute differences in 8-bit levels."""
    return np.abs(one.astype(int) - other.astype(int))


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    """Return the PSNR in dB; 100 for equal pictures."""
    error = np.square(distance(one, other)).mean()
    return 100.0 if error == 0 else float(10 * np.log10(255**2 / error))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", default=SHIPPED[0])
    parser.add_argument("--drawings", type=int, default=12)
    arguments = parser.parse_args()
    restorer = moceir.Restorer(load_weights(arguments.weights), mac_budget=None)

    flat = []
    for colour in product((0, 64, 128, 192, 255), repeat=3):
        picture = np.full((SIDE, SIDE, 3), colour, np.uint8)
        change = distance(restorer.restore(picture), picture)
        flat.append((int(change[16:-16, 16:-16].max()), int(change.max()), colour))
    drawn = []
    for number in range(arguments.drawings):
        picture = Drawing(FIRST_DRAWING + number, SIDE).open()
        drawn.append(psnr(restorer.restore(picture), picture))
    casts, clean = [], []
    for path in sample_photographs():
        photograph = read_picture(path)
        clean.append(psnr(restorer.restore(photograph), photograph))
        grey = np.repeat(cv2.cvtColor(photograph, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)
        restored = restorer.restore(grey).astype(int)
        casts.append(int((restored.max(axis=2) - restored.min(axis=2)).max()))

    table = Table(
        title=f"{arguments.weights}: changes to pictures without degradation", title_justify="left", title_style="bold"
    )
    for column in ("pictures", "count", "mean", "worst"):
        table.add_column(column, justify="left" if column == "pictures" else "right")
    inside, border, _ = zip(*flat, strict=True)
    table.add_row("flat colours, inside, levels", str(len(flat)), f"{np.mean(inside):.1f}", str(max(inside)))
    table.add_row(
        "flat colours, with borders, levels",
        str(len(flat)),
        f"{np.mean(border):.1f}",
        f"{max(border)} {max(flat, key=lambda entry: entry[1])[2]}",
    )
    table.add_row("drawings and text, dB", str(len(drawn)), f"{np.mean(drawn):.1f}", f"{min(drawn):.1f}")
    table.add_row("clean photographs, dB", str(len(clean)), f"{np.mean(clean):.1f}", f"{min(clean):.1f}")
    table.add_row("grey photographs, colour cast, levels", str(len(casts)), f"{np.mean(casts):.1f}", str(max(casts)))
    Console().print(table)


if __name__ == "__main__":
    main()
