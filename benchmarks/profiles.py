"""Compares restoring pictures in a wide colour space with restoring them in sRGB.

    python benchmarks/profiles.py FOLDER

Crops of photographs are converted to AdobeRGB and ProPhoto RGB with noise: Gaussian in the file's values, Gaussian in
sRGB values, and a camera's (shot noise in its linear colours before white balance, with the matrix of a Canon EOS 5D
Mark III). Each crop is restored in its own space, and once more in sRGB and converted back. The benchmark prints the
PSNR in the file's values (dB) and the mean ΔE76 of the noisy and both restored pictures.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from skimage.color import xyz2lab

from moceir import Restorer, load_pretrained
from moceir.pictures.arrays import read_picture
from moceir.pictures.files import find_pictures

#: The matrix from RGB to XYZ at D50 (brucelindbloom.com, RGB/XYZ matrices), and the exponent of the tone curve.
SPACES = {
    "sRGB": (
        [[0.4360747, 0.3850649, 0.1430804], [0.2225045, 0.7168786, 0.0606169], [0.0139322, 0.0971045, 0.7141733]],
        0,
    ),
    "AdobeRGB": (
        [[0.6097559, 0.2052401, 0.1492240], [0.3111242, 0.6256560, 0.0632197], [0.0194811, 0.0608902, 0.7448387]],
        2.19921875,
    ),
    "ProPhoto": ([[0.7976749, 0.1351917, 0.0313534], [0.2880402, 0.7118741, 0.0000857], [0, 0, 0.8252100]], 1.8),
}
#: Matrices from XYZ at D65 to the camera's colours (Adobe's DNG ColorMatrix2), and from D50 to D65 (Bradford).
CAMERA = np.array([[0.6722, -0.0635, -0.0963], [-0.4287, 1.2460, 0.2028], [-0.0908, 0.2162, 0.5668]])
ADAPTATION = np.array(
    [[0.9555766, -0.0230393, 0.0631636], [-0.0282895, 1.0099416, 0.0210077], [0.0122982, -0.0204830, 1.3299098]]
)
D50 = np.array([0.9642, 1.0, 0.8249])


def to_xyz(space: str, colours: np.ndarray) -> np.ndarray:
    matrix, exponent = SPACES[space]
    if exponent:
        linear = np.sign(colours) * np.abs(colours) ** exponent
    else:
        linear = np.where(colours <= 0.04045, colours / 12.92, ((np.maximum(colours, 0) + 0.055) / 1.055) ** 2.4)
    return linear @ np.array(matrix).T


def from_xyz(space: str, xyz: np.ndarray) -> np.ndarray:
    matrix, exponent = SPACES[space]
    linear = xyz @ np.linalg.inv(np.array(matrix)).T
    if exponent:
        return np.sign(linear) * np.abs(linear) ** (1 / exponent)
    return np.where(linear <= 0.0031308, linear * 12.92, 1.055 * np.maximum(linear, 1e-9) ** (1 / 2.4) - 0.055)


def camera_noise(xyz: np.ndarray, gain: float, rng: np.random.Generator) -> np.ndarray:
    """Add a camera's shot noise and clipping to XYZ, in linear colours where white is 1."""
    matrix = CAMERA @ ADAPTATION
    white = matrix @ D50
    raw = xyz @ matrix.T
    noisy = raw + rng.normal(size=raw.shape) * np.sqrt(0.3 * gain * np.maximum(raw, 0) + (0.3 * gain) ** 2)
    return (noisy / white).clip(0, 1) * white @ np.linalg.inv(matrix).T


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    return float(-10 * np.log10(np.mean((one - other) ** 2)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pictures", type=int, default=7)
    arguments = parser.parse_args()
    found = find_pictures(arguments.folder)
    photographs = [read_picture(path)[:320, :320] / 255 for path in found[:: max(1, len(found) // arguments.pictures)]]
    restorer = Restorer(load_pretrained("moce_ir_30g"))
    for space in ("AdobeRGB", "ProPhoto"):
        for kind, amount in (("own", 10), ("own", 25), ("sRGB", 10), ("sRGB", 25), ("camera", 0.002), ("camera", 0.01)):
            rows = []
            for index, photograph in enumerate(photographs[: arguments.pictures]):
                rng = np.random.default_rng(index)
                xyz = to_xyz("sRGB", photograph)
                clean = from_xyz(space, xyz).clip(0, 1)
                if kind == "own":
                    noisy = clean + rng.normal(0, amount / 255, clean.shape)
                elif kind == "sRGB":
                    shifted = (photograph + rng.normal(0, amount / 255, clean.shape)).clip(0, 1)
                    noisy = from_xyz(space, to_xyz("sRGB", shifted))
                else:
                    noisy = from_xyz(space, camera_noise(xyz, amount, rng))
                noisy = np.round(noisy.clip(0, 1) * 65535) / 65535
                kept = restorer.restore(noisy)
                converted = from_xyz("sRGB", to_xyz(space, noisy)).clip(0, 1)
                back = from_xyz(space, to_xyz("sRGB", restorer.restore(converted))).clip(0, 1)
                clean_lab = xyz2lab(to_xyz(space, clean), illuminant="D50")
                row = [psnr(picture, clean) for picture in (noisy, kept, back)]
                for picture in (noisy, kept, back):
                    difference = xyz2lab(to_xyz(space, picture), illuminant="D50") - clean_lab
                    row.append(float(np.sqrt((difference**2).sum(axis=-1)).mean()))
                rows.append(row)
            means = np.mean(rows, axis=0)
            decibels = "  ".join(f"{mean:.2f}" for mean in means[:3])
            distances = "  ".join(f"{mean:.2f}" for mean in means[3:])
            print(f"{space} {kind} {amount:g}: PSNR noisy, in place, via sRGB {decibels}; ΔE {distances}", flush=True)


if __name__ == "__main__":
    main()
