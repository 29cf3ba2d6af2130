"""Photographs that need no data folder, because the scikit-image package ships them."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from moceir.extras import require

#: The colour photographs among scikit-image's sample pictures.
SAMPLE_PHOTOGRAPHS = ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg")


def sample_photographs() -> list[Path]:
    """Return the paths of :data:`SAMPLE_PHOTOGRAPHS`."""
    return [sample_photograph(name) for name in SAMPLE_PHOTOGRAPHS]


def sample_photograph(name: str) -> Path:
    """Return the path of one of scikit-image's sample pictures, given its file name.

    Raises:
        ValueError: when scikit-image is missing.
    """
    require(f"the photograph {name}", "demo", "skimage")
    return Path(str(resources.files("skimage"))) / "data" / name
