"""Simulates noise as it appears in a camera's files: it arises on the sensor and is then developed with the picture.

Demosaicking, smoothing and sharpening spread the noise of one photosite over its neighbours and over the colours. So
the noise of photographs is coarse and coloured, whereas that of benchmarks is white. This module converts a picture
back to sensor values (Brooks et al., Unprocessing Pictures for Learned Raw Denoising, CVPR 2019), adds noise to them,
and develops the result.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Literal, NamedTuple, get_args

import cv2
import numpy as np

from moceir.data.degradations import checked_probability, checked_range, draw_sensor_noise

# XYZ (D65) -> camera. The matrices come from Adobe's DNG converter; the values are those in the paper's code.
_CAMERA_FROM_XYZ = np.array(
    [
        [[1.0234, -0.2969, -0.2266], [-0.5625, 1.6328, -0.0469], [-0.0703, 0.2188, 0.6406]],
        [[0.4913, -0.0541, -0.0202], [-0.6130, 1.3513, 0.2906], [-0.1564, 0.2151, 0.7183]],
        [[0.8380, -0.2630, -0.0639], [-0.2887, 1.0725, 0.2496], [-0.0627, 0.1427, 0.5438]],
        [[0.6596, -0.2079, -0.0562], [-0.4782, 1.3016, 0.1933], [-0.0970, 0.1581, 0.5181]],
    ]
)
_XYZ_FROM_SRGB = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)  # IEC 61966-2-1
_CONTRASTS = 8
_SATURATING = 0.95  # a photosite begins to saturate when all display values of its pixel exceed this
_LEVELS = 1 << 16
# The range of the sensor's values. Saturated colours may lie outside [0, 1] in another camera's colours, as may noise.
_LOWEST, _HIGHEST = -0.5, 1.5
Demosaicking = Literal["bilinear", "edges", "gradients"]
"""Bilinear interpolation, OpenCV's along edges, or bilinear corrected by the gradients of the photosite's own colour
(Malvar, He, Cutler, ICASSP 2004), which MATLAB and so the pictures of SIDD use."""
# The key is the position of red in a square of 2×2 photosites; blue is opposite.
_OPENCV = {
    (0, 0): (cv2.COLOR_BayerRGGB2RGB, cv2.COLOR_BayerRGGB2RGB_EA),
    (0, 1): (cv2.COLOR_BayerGRBG2RGB, cv2.COLOR_BayerGRBG2RGB_EA),
    (1, 0): (cv2.COLOR_BayerGBRG2RGB, cv2.COLOR_BayerGBRG2RGB_EA),
    (1, 1): (cv2.COLOR_BayerBGGR2RGB, cv2.COLOR_BayerBGGR2RGB_EA),
}
# Malvar, He, Cutler, figure 2: green at red and blue; red or blue at green, from the same row; the one at the other.
_GREEN, _ALONG, _OPPOSITE = (
    np.array(rows, np.float32) / 16
    for rows in (
        [[0, 0, -2, 0, 0], [0, 0, 4, 0, 0], [-2, 4, 8, 4, -2], [0, 0, 4, 0, 0], [0, 0, -2, 0, 0]],
        [[0, 0, 1, 0, 0], [0, -2, 0, -2, 0], [-2, 8, 10, 8, -2], [0, -2, 0, -2, 0], [0, 0, 1, 0, 0]],
        [[0, 0, -3, 0, 0], [0, 4, 0, 4, 0], [-3, 0, 12, 0, -3], [0, 4, 0, 4, 0], [0, 0, -3, 0, 0]],
    )
)


class Development(NamedTuple):
    """The settings by which a camera turns sensor values into a picture."""

    matrix: np.ndarray
    """(3, 3) linear sRGB -> the sensor's colours; white is (1, 1, 1) in both."""
    gains: tuple[float, float, float]
    """White balance and brightness: the factors for the sensor's red, green and blue."""
    contrast: float = 0.0
    """Contrast of the tone curve: 0 uses only sRGB's curve, 1 also applies the S curve 3y² − 2y³."""
    red: tuple[int, int] = (0, 0)
    """Row and column of red in each square of 2×2 photosites."""
    demosaicking: Demosaicking = "bilinear"
    chroma_blur: float = 0.0
    """Standard deviation in pixels of the Gaussian that smooths colour; 0 for none."""
    luma_smoothing: float = 0.0
    """Range σ of the 5×5 bilateral filter that smooths luma, in display values; 0 for none."""
    sharpening: float = 0.0
    """Amount of the unsharp mask, whose Gaussian has a σ of one pixel."""

    def expose(self, picture: np.ndarray) -> np.ndarray:
        """Convert display values, float32 (H, W, 3), to a Bayer mosaic of linear values, float32 (H, W)."""
        light = _curves(self.contrast)[0].take(_levels(picture))
        colours = cv2.transform(light, (self.matrix / np.reshape(self.gains, (3, 1))).astype(np.float32))
        mosaic = colours[..., 1].copy()
        (top, left), (bottom, right) = self.red, (1 - self.red[0], 1 - self.red[1])
        mosaic[top::2, left::2] = colours[top::2, left::2, 0]
        mosaic[bottom::2, right::2] = colours[bottom::2, right::2, 2]
        return mosaic

    def develop(self, mosaic: np.ndarray) -> np.ndarray:
        """Convert a mosaic, float32 (H, W), to the picture: float32 (H, W, 3) display values in [0, 1]."""
        steps = _levels((mosaic - _LOWEST) / (_HIGHEST - _LOWEST))
        if self.demosaicking == "gradients":
            colours = _by_gradients(steps.astype(np.float32), self.red)
        else:
            colours = cv2.demosaicing(steps, _OPENCV[self.red][self.demosaicking == "edges"])
        # One affine map converts levels to sensor values, balances white, and converts colours.
        to_srgb = np.linalg.inv(self.matrix) * self.gains
        scale, offset = (_HIGHEST - _LOWEST) / (_LEVELS - 1), _LOWEST * to_srgb.sum(axis=1, keepdims=True)
        light = cv2.transform(colours.astype(np.float32), np.hstack([to_srgb * scale, offset]).astype(np.float32))
        picture = _curves(self.contrast)[1].take(_levels(light))
        if self.chroma_blur or self.luma_smoothing:
            luma, *chroma = cv2.split(cv2.cvtColor(picture, cv2.COLOR_RGB2YCrCb))
            if self.chroma_blur:
                chroma = [cv2.GaussianBlur(plane, (0, 0), self.chroma_blur) for plane in chroma]
            if self.luma_smoothing:
                luma = cv2.bilateralFilter(luma, 5, self.luma_smoothing, 1.5)
            picture = cv2.cvtColor(cv2.merge([luma, *chroma]), cv2.COLOR_YCrCb2RGB)
        if self.sharpening:
            picture = picture + self.sharpening * (picture - cv2.GaussianBlur(picture, (0, 0), 1))
        return picture.clip(0, 1)


class Camera:
    """Adds the noise of a developed raw file: shot and read noise in a Bayer mosaic, after the camera's processing.

    The picture has already been developed once, so it is not softened or sharpened again. Instead, the difference
    between two developments, with noise and without, is added to it. The result is clipped.

    Args:
        shot: range of the sensor's noise, see :class:`moceir.data.degradations.CameraNoise`.
        red_gain: range of the red channel's white balance gain.
        blue_gain: range of the blue channel's white balance gain.
        read: range of factors of the read noise that follows from the shot noise; drawn log-uniformly.
        demosaicking: kinds to draw from, see :data:`Demosaicking`.
        plain_tone: probability of sRGB's curve alone. Otherwise, contrast lies between 0 and 1.
        chroma_blur: range of σ, in pixels, of the Gaussian that smooths chroma; drawn log-uniformly.
        chroma_blur_probability: probability of smoothing chroma.
        luma_smoothing: range of the bilateral filter's range σ, in standard deviations of the luma's noise.
        luma_smoothing_probability: probability of smoothing luma.
        sharpening: range of the amount of sharpening.
        sharpening_probability: probability of sharpening.
    """

    margin = 4
    """Demosaicking needs two photosites, the bilateral filter two pixels. Gaussians have a larger radius, but they only
    filter noise, which is reflected at the border."""

    def __init__(
        self,
        *,
        shot: Sequence[float] = (1e-4, 0.012),
        red_gain: Sequence[float] = (1.9, 2.4),
        blue_gain: Sequence[float] = (1.5, 1.9),
        read: Sequence[float] = (0.5, 4),
        demosaicking: Sequence[Demosaicking] = get_args(Demosaicking),
        plain_tone: float = 0.3,
        chroma_blur: Sequence[float] = (1.5, 6),
        chroma_blur_probability: float = 0.7,
        luma_smoothing: Sequence[float] = (1, 4),
        luma_smoothing_probability: float = 0.5,
        sharpening: Sequence[float] = (0.2, 1.2),
        sharpening_probability: float = 0.3,
    ) -> None:
        self.shot = checked_range("shot", shot, least=1e-9)
        self.red_gain = checked_range("red_gain", red_gain, least=0.1)
        self.blue_gain = checked_range("blue_gain", blue_gain, least=0.1)
        self.chroma_blur = checked_range("chroma_blur", chroma_blur, least=0.1)
        self.luma_smoothing = checked_range("luma_smoothing", luma_smoothing)
        self.sharpening = checked_range("sharpening", sharpening)
        self.read = checked_range("read", read, least=1e-9)
        if not demosaicking or not set(demosaicking) <= set(get_args(Demosaicking)):
            raise ValueError(f"demosaicking={demosaicking}: give a list of {', '.join(get_args(Demosaicking))}")
        self.demosaicking = tuple(demosaicking)
        self.plain_tone = checked_probability("plain_tone", plain_tone)
        self.chroma_blur_probability = checked_probability("chroma_blur_probability", chroma_blur_probability)
        self.luma_smoothing_probability = checked_probability("luma_smoothing_probability", luma_smoothing_probability)
        self.sharpening_probability = checked_probability("sharpening_probability", sharpening_probability)

    def __call__(self, clean: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, str]:
        picture = np.ascontiguousarray(clean.transpose(1, 2, 0))
        development = self._draw(rng)
        shot, read = draw_sensor_noise(self.shot, rng)
        read *= np.exp(rng.uniform(*np.log(self.read)))
        mosaic = development.expose(picture)
        deviation = np.sqrt(np.float32(shot) * np.maximum(mosaic, 0) + np.float32(read))
        # A saturated photosite always gives the same value, so white has no noise. The paper instead exempts highlights
        # from the inverse gains, after which developing them does not return the original values.
        deviation *= 1 - ((clean.min(axis=0) - _SATURATING) / (1 - _SATURATING)).clip(0, 1)
        noisy = mosaic + deviation * rng.standard_normal(mosaic.shape, dtype=np.float32)
        if rng.random() < self.luma_smoothing_probability:
            plain = development._replace(chroma_blur=0, sharpening=0)
            luma = cv2.cvtColor(plain.develop(noisy) - plain.develop(mosaic), cv2.COLOR_RGB2GRAY)
            reach = rng.uniform(*self.luma_smoothing) * luma.std()
            development = development._replace(luma_smoothing=float(reach))
        degraded = picture + (development.develop(noisy) - development.develop(mosaic))
        return np.ascontiguousarray(degraded.clip(0, 1).transpose(2, 0, 1)), "camera"

    def _draw(self, rng: np.random.Generator) -> Development:
        """Draw all settings except the smoothing of luma, which depends on the noise."""
        cameras = rng.dirichlet(np.ones(len(_CAMERA_FROM_XYZ)))
        matrix = np.einsum("n,nij->ij", cameras, _CAMERA_FROM_XYZ) @ _XYZ_FROM_SRGB
        brightness = 1 / rng.normal(0.8, 0.1)  # as in the paper's code
        return Development(
            matrix=matrix / matrix.sum(axis=1, keepdims=True),
            gains=(brightness * rng.uniform(*self.red_gain), brightness, brightness * rng.uniform(*self.blue_gain)),
            contrast=0 if rng.random() < self.plain_tone else int(rng.integers(_CONTRASTS + 1)) / _CONTRASTS,
            red=(int(rng.integers(2)), int(rng.integers(2))),
            demosaicking=self.demosaicking[rng.integers(len(self.demosaicking))],
            chroma_blur=float(np.exp(rng.uniform(*np.log(self.chroma_blur))))
            if rng.random() < self.chroma_blur_probability
            else 0,
            sharpening=rng.uniform(*self.sharpening) if rng.random() < self.sharpening_probability else 0,
        )


def _by_gradients(mosaic: np.ndarray, red: tuple[int, int]) -> np.ndarray:
    """Demosaick float32 (H, W) to (H, W, 3) by Malvar, He, and Cutler's linear filters."""
    green, across, down, opposite = (
        cv2.filter2D(mosaic, -1, kernel, borderType=cv2.BORDER_REFLECT_101)
        for kernel in (_GREEN, _ALONG, _ALONG.T, _OPPOSITE)
    )
    colours = np.dstack([mosaic] * 3)
    for (row, column), own, other in ((red, 0, 2), ((1 - red[0], 1 - red[1]), 2, 0)):
        here = np.s_[row::2, column::2]
        colours[..., 1][here], colours[..., other][here] = green[here], opposite[here]
        beside, below = np.s_[row::2, 1 - column :: 2], np.s_[1 - row :: 2, column::2]  # the greens next to this colour
        colours[..., own][beside], colours[..., own][below] = across[beside], down[below]
    return colours


@cache  # there are only _CONTRASTS + 1 values of contrast
def _curves(contrast: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the tables display value -> light and light -> display value, float32, at 65,536 even steps in [0, 1]."""
    even = np.linspace(0, 1, _LEVELS)
    plain = np.where(even <= 0.0031308, 12.92 * even, 1.055 * even ** (1 / 2.4) - 0.055)
    display = (1 - contrast) * plain + contrast * plain**2 * (3 - 2 * plain)
    return np.interp(even, display, even).astype(np.float32), display.astype(np.float32)


def _levels(display: np.ndarray) -> np.ndarray:
    """Clip values to [0, 1] and quantise them to uint16, the levels of the tables and of the sensor."""
    return (display.clip(0, 1) * np.float32(_LEVELS - 1) + np.float32(0.5)).astype(np.uint16)
