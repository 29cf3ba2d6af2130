"""``moceir demo``: a real photograph, made noisy and restored."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import typer
from rich.console import Console
from rich.markup import escape

from moceir.data.samples import sample_photograph
from moceir.inference.restore import Restorer
from moceir.inference.weights import load_pretrained
from moceir.pictures.arrays import read_picture, write_picture
from moceir.pictures.compare import side_by_side


def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="A folder for the pictures.")] = Path("demo"),
    photograph: Annotated[Path | None, typer.Option(help="A clean photograph. Default: scikit-image's cat.")] = None,
    sigma: Annotated[float, typer.Option(help="Gaussian noise to add, 0–255 scale.")] = 25.0,
) -> None:
    """Add noise to a photograph, restore it, and show both."""
    source = photograph or sample_photograph("chelsea.png")
    clean = read_picture(source)
    noise = np.random.default_rng(0).normal(0, sigma, clean.shape)
    noisy = (clean + noise).clip(0, 255).round().astype(np.uint8)
    restored = Restorer(load_pretrained()).restore(noisy)

    panels = {
        f"noisy {cv2.PSNR(noisy, clean):.2f} dB": noisy,
        f"restored {cv2.PSNR(restored, clean):.2f} dB": restored,
        "clean": clean,
    }
    for name, picture in {"noisy": noisy, "restored": restored, "comparison": side_by_side(panels)}.items():
        write_picture(output / f"{name}.png", picture)
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"{escape(source.name)}, Gaussian noise of σ = {sigma:g}, clipped and rounded to 8 bits")
    console.print(f"PSNR {cv2.PSNR(noisy, clean):.2f} dB -> [bold]{cv2.PSNR(restored, clean):.2f} dB[/]")
    console.print(f"look at {escape(str(output / 'comparison.png'))}")
