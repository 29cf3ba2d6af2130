"""Times `degradation=real`, shows its results, and compares its noise with that of cameras.

`make bench-degradations args="--reference FOLDER"` runs it; FOLDER contains data/train/PolyU. Times are the processor
time of one thread.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean
from typing import NamedTuple

import cv2
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from moceir.config import build
from moceir.data.degradations import CameraNoise, Degradation
from moceir.data.drawings import Drawing
from moceir.data.pictures import Window
from moceir.data.samples import sample_photographs
from moceir.pictures.arrays import read_picture, write_picture

CROP = 128
LAGS = (1, 2, 3, 4)


class Noise(NamedTuple):
    """The strength of a picture's noise, and its correlations over distance and between colours."""

    deviation: float
    """Standard deviation, 0–255."""
    lag_1: float
    """Correlation at a distance of one pixel, averaged over both directions and all colours; the others are similar."""
    lag_2: float
    lag_3: float
    lag_4: float
    red_green: float
    green_blue: float
    red_blue: float


def measure_noise(clean: np.ndarray, noisy: np.ndarray) -> Noise:
    """Measure noise in the smoothest third of a picture; elsewhere, two photographs differ in more than noise.

    Args:
        clean: float32 (H, W, 3) in [0, 1].
        noisy: same shape and range.
    """
    grey = cv2.GaussianBlur(cv2.cvtColor(clean, cv2.COLOR_RGB2GRAY), (0, 0), 1.5)
    slope = cv2.GaussianBlur(np.abs(cv2.Sobel(grey, -1, 1, 0)) + np.abs(cv2.Sobel(grey, -1, 0, 1)), (0, 0), 3)
    smooth = (slope <= np.percentile(slope, 33)).astype(np.float32)[..., None]
    noise = noisy - clean
    noise = noise - cv2.GaussianBlur(noise, (0, 0), 12)  # a different exposure is not noise

    def mean_product(one: np.ndarray, other: np.ndarray, weight: np.ndarray) -> np.ndarray:
        return (one * other * weight).sum(axis=(0, 1)) / weight.sum()

    variance = mean_product(noise, noise, smooth)
    lags = []
    for lag in LAGS:
        across = mean_product(noise[:, lag:], noise[:, :-lag], smooth[:, lag:] * smooth[:, :-lag])
        down = mean_product(noise[lag:], noise[:-lag], smooth[lag:] * smooth[:-lag])
        lags.append(float(((across + down) / 2 / variance).mean()))
    colours = np.corrcoef(noise[smooth[..., 0] > 0].T)
    return Noise(255 * float(np.sqrt(variance.mean())), *lags, colours[0, 1], colours[1, 2], colours[0, 2])


def polyu_pairs(reference: Path, *, every: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield mean and noisy pictures of PolyU's training scenes, float32 (256, 256, 3) in [0, 1]."""
    source = build("data.sets", ["data=polyu"])["PolyU"]
    pairs = source.split(source.find(reference / "data" / "train" / "PolyU").pairs)["train"]
    middle = Window(128, 128, 256, 256)
    for pair in pairs[::every]:
        clean, noisy = (middle.of(picture).astype(np.float32) / 255 for picture in pair.open() if picture is not None)
        yield clean, noisy


def photograph_noise() -> Degradation:
    """Return the part of `degradation=real` that adds a photograph's noise."""
    return build("data.degradation", ["degradation=real"]).choices[2].degradation.choices[1]


def compare_noise(
    pairs: Sequence[tuple[np.ndarray, np.ndarray]], degradation: Degradation, *, rounds: int
) -> tuple[list[Noise], list[Noise]]:
    """Measure real noise, and modelled noise of the same pictures if its strength is in the range of real noise."""
    real = [measure_noise(*pair) for pair in pairs]
    weakest, strongest = min(real).deviation, max(real).deviation
    rng, modelled = np.random.default_rng(0), []
    for _ in range(rounds):
        for clean, _ in pairs:
            noisy = degradation(clean.transpose(2, 0, 1), rng)[0].transpose(1, 2, 0)
            noise = measure_noise(clean, np.ascontiguousarray(noisy))
            if weakest <= noise.deviation <= strongest:
                modelled.append(noise)
    return real, modelled


def draw_noise(real: Sequence[Noise], modelled: Sequence[Noise], white: Sequence[Noise], figure: Path) -> None:
    """Plot the ranges of each correlation side by side."""
    import matplotlib.pyplot as plt

    names = ["lag_1", "lag_2", "lag_3", "lag_4", "red_green", "green_blue", "red_blue"]
    plt.figure(figsize=(9, 3.2))
    kinds = (("PolyU's cameras", real, "black"), ("modelled", modelled, "tab:blue"), ("CameraNoise", white, "tab:red"))
    for index, (label, noises, colour) in enumerate(kinds):
        correlations = [[getattr(noise, name) for noise in noises] for name in names]
        boxes = plt.boxplot(
            correlations,
            positions=np.arange(len(names)) + 0.25 * (index - 1),
            widths=0.2,
            whis=(0, 100),
            patch_artist=True,
        )
        for part in boxes.values():
            plt.setp(part, color=colour)
        plt.setp(boxes["boxes"], facecolor="white", label="")
        plt.plot([], [], color=colour, label=label)
    labels = [f"{lag} pixel{'s' * (lag > 1)} away" for lag in LAGS] + ["red, green", "green, blue", "red, blue"]
    plt.xticks(range(len(names)), labels, fontsize=8)
    plt.ylabel("correlation of the noise")
    plt.axhline(0, color="grey", linewidth=0.5)
    plt.legend(fontsize=8, loc="lower right")
    plt.tight_layout()
    figure.parent.mkdir(parents=True, exist_ok=True)
    plt.savefig(figure, dpi=120)


def speed(degradation: Degradation, crops: int) -> None:
    """Print a table of the processor time per crop for each task."""
    side = CROP + 2 * degradation.margin
    pictures = [read_picture(path) for path in sample_photographs()]
    pictures = [picture[-side:, -side:].transpose(2, 0, 1).astype(np.float32) / 255 for picture in pictures]
    rng, spent = np.random.default_rng(0), defaultdict(list)
    for number in range(crops):
        start = time.process_time()
        _, task = degradation(pictures[number % len(pictures)], rng)
        spent[task].append(1000 * (time.process_time() - start))
    spent["all"] = [milliseconds for times in spent.values() for milliseconds in times]
    table = Table(title=f"crops of {CROP}×{CROP} with a margin of {degradation.margin} pixels", title_justify="left")
    for column in ("task", "share", "mean ms", "longest ms"):
        table.add_column(column, justify="left" if column == "task" else "right")
    for task, times in sorted(spent.items(), key=lambda item: len(item[1])):
        table.add_row(task, f"{len(times) / crops:.1%}", f"{mean(times):.2f}", f"{max(times):.1f}")
    Console().print(table)


def contact_sheet(degradation: Degradation, path: Path) -> None:
    """Write a picture with rows of training crops, labelled with their tasks, and rows of drawings."""
    rng, rows = np.random.default_rng(2), []
    side = CROP + 2 * degradation.margin
    for picture in [read_picture(path) for path in sample_photographs()[:3]]:
        row = []
        for _ in range(8):
            top, left = (int(rng.integers(length - side + 1)) for length in picture.shape[:2])
            crop = picture[top : top + side, left : left + side].transpose(2, 0, 1).astype(np.float32) / 255
            degraded, task = degradation(crop, rng)
            inner = degraded[:, degradation.margin :, degradation.margin :][:, :CROP, :CROP]
            shown = np.ascontiguousarray((inner.clip(0, 1) * 255).round().astype(np.uint8).transpose(1, 2, 0))
            cv2.rectangle(shown, (0, 0), (6 * len(task) + 6, 14), (0, 0, 0), -1)
            cv2.putText(shown, task, (3, 11), cv2.FONT_HERSHEY_SIMPLEX, 0.35, (255, 255, 255), 1, cv2.LINE_AA)
            row.append(shown)
        rows.append(row)
    rows += [[Drawing(number, CROP).open() for number in range(first, first + 8)] for first in (0, 8)]
    framed = [[np.pad(tile, ((0, 3), (0, 3), (0, 0)), constant_values=255) for tile in row] for row in rows]
    write_picture(path, np.vstack([np.hstack(row) for row in framed]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reference", type=Path, help="folder with data/train/PolyU, for the noise figure")
    parser.add_argument("--crops", type=int, default=4000, help="number of crops to time")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"))
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    mixture: Degradation = build("data.degradation", ["degradation=real"])
    contact_sheet(mixture, arguments.output / "degradations.jpg")
    speed(mixture, arguments.crops)
    if arguments.reference:
        pairs = list(polyu_pairs(arguments.reference, every=1))
        real, modelled = compare_noise(pairs, photograph_noise(), rounds=3)
        _, white = compare_noise(pairs, CameraNoise(), rounds=1)
        draw_noise(real, modelled, white, arguments.output / "camera_noise.png")
        table = Table(title="noise: minimum, median, maximum", title_justify="left")
        for column in ("", f"PolyU, {len(real)} pictures", f"modelled, {len(modelled)}", "CameraNoise"):
            table.add_column(column)
        for name in Noise._fields:
            ranges = [
                np.percentile([getattr(noise, name) for noise in noises], [0, 50, 100])
                for noises in (real, modelled, white)
            ]
            table.add_row(name, *("{:.2f}  {:.2f}  {:.2f}".format(*percentiles) for percentiles in ranges))
        Console().print(table)


if __name__ == "__main__":
    main()
