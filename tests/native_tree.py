"""Makes miniatures of the eight datasets, in their native layouts, from the photographs that scikit-image ships."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from moceir.data.samples import sample_photograph
from moceir.pictures.arrays import read_picture, write_picture


def make_native_tree(root: Path) -> None:
    """Write the miniature datasets into a folder."""
    photograph = read_picture(sample_photograph("astronaut.png"))  # 512×512
    rng = np.random.default_rng(0)

    def save(path: str, picture: np.ndarray) -> None:
        if not (root / path).exists():
            write_picture(root / path, picture)

    def clean(height: int = 80, width: int = 96) -> np.ndarray:
        top, left = rng.integers(0, 512 - height + 1), rng.integers(0, 512 - width + 1)
        return photograph[top : top + height, left : left + width]

    def noisy(picture: np.ndarray) -> np.ndarray:
        return (picture + rng.normal(0, 20, picture.shape)).clip(0, 255).astype(np.uint8)

    def blurred(picture: np.ndarray) -> np.ndarray:
        return (picture / 2 + np.roll(picture, 3, axis=1) / 2).astype(np.uint8)

    for number in range(4):
        save(f"BSD400/{number}.jpg", clean())
        save(f"WED/{number:05d}.bmp", clean())
    large = np.tile(photograph, (2, 2, 1))[:520, :1000]
    for scene in ("0001_001_S6_00100_00060_3200_L", "0002_001_S6_00100_00020_3200_N"):
        for shot in ("010", "011"):
            # The last two pairs are small, so that the tree stays small.
            picture = large if scene.startswith("0001") and shot == "010" else clean()
            save(f"SIDD_Medium_Srgb/Data/{scene}/{scene[:4]}_GT_SRGB_{shot}.PNG", picture)
            save(f"SIDD_Medium_Srgb/Data/{scene}/{scene[:4]}_NOISY_SRGB_{shot}.PNG", noisy(picture))
    series = {"droid": ("200", "200_2", "800", "H1"), "banana": ("400", "6400-2"), "fan": ("200", "H2")}
    for scene, values in series.items():
        picture = clean()
        for value in values:
            save(f"NIND/{scene}/NIND_{scene}_ISO{value}.{'png' if scene == 'fan' else 'jpg'}", noisy(picture))
    for scene in ("Canon5D2_5_160_3200_toy", "NikonD800_6-3_125_5000_plant", "Sony_4_200_3200_door"):
        for crop in ("1", "12"):
            picture = clean()
            # The original dataset has one name with a stray underscore.
            name = f"{scene}_" if scene.endswith("plant") and crop == "12" else scene
            save(f"PolyU/CroppedImages/{name}_{crop}_mean.JPG", picture)
            save(f"PolyU/CroppedImages/{name}_{crop}_real.JPG", noisy(picture))
    for part, sequences in {"train": ("GOPR0372_07_00", "GOPR0374_11_00"), "test": ("GOPR0384_11_00",)}.items():
        for sequence in sequences:
            for frame in ("000047", "000048"):
                picture = clean()
                save(f"GOPRO_Large/{part}/{sequence}/sharp/{frame}.png", picture)
                save(f"GOPRO_Large/{part}/{sequence}/blur/{frame}.png", blurred(picture))
                save(f"GOPRO_Large/{part}/{sequence}/blur_gamma/{frame}.png", noisy(blurred(picture)))
    for sequence in ("000", "001", "002"):
        for frame in ("00000000", "00000001"):
            picture = clean()
            save(f"REDS/train_sharp/{sequence}/{frame}.png", picture)
            save(f"REDS/train_blur/{sequence}/{frame}.png", blurred(picture))
            save(f"REDS/train_blur_jpeg/{sequence}/{frame}.jpg", blurred(picture))
