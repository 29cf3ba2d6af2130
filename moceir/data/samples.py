"""Real photographs that are there without any data: those that the scikit-image package ships."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from moceir.extras import require

#: Colour photographs among them.
SAMPLE_PHOTOGRAPHS = ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg")


def sample_photographs() -> list[Path]:
    """The files of :data:`SAMPLE_PHOTOGRAPHS`."""
    return [sample_photograph(name) for name in SAMPLE_PHOTOGRAPHS]


def sample_photograph(name: str) -> Path:
    """One of them by its file name.

    Raises:
        ValueError: when scikit-image is missing.
    """
    require(f"the photograph {name}", "demo", "skimage")
    return Path(str(resources.files("skimage"))) / "data" / name
