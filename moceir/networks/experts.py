"""The complexity experts: one computation at growing width and window (design document, section 3.2).

Expert i of n works at rank r_i = dim / 2^(n-1-i), at least 1, on windows of w_i×w_i pixels, lightest first.
How it mixes the pixels of a window is its kind: ``spectral``, as published, or ``window`` self-attention, as in
eq. 2 of the document.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from moceir.networks.layers import ChannelNorm, channels_last, depthwise, inferring_on_cpu, pointwise, times
from moceir.networks.strips import NO_HALO, Halo


def pad_to_windows(x: Float[Tensor, "b c h w"], window: int) -> Float[Tensor, "b c padded_h padded_w"]:
    """Zero-pad (B, C, H, W) right and bottom so that the window divides H and W."""
    height, width = x.shape[-2:]
    missing = (0, -width % window, 0, -height % window)
    return x if inferring_on_cpu(x) and not any(missing) else F.pad(x, missing)  # no decision of one size in a graph


def covered_pixels(height: int, width: int, window: int) -> int:
    """Count the pixels in the windows that cover a map, including those beyond its border."""
    return -(-height // window) * -(-width // window) * window**2


class WindowMixer(nn.Module, ABC):
    """The projections that every kind shares: q = dw3×3(1×1(z)), (k, v) = dw7×7(1×1(z)), and a last 1×1.

    A subclass is a kind of expert.

    Attributes:
        kind: its name in a configuration.
    """

    kind: str

    def __init__(self, *, rank: int, window: int) -> None:
        super().__init__()
        self.window = window
        self.query = pointwise(rank, rank, bias=False)
        self.query_mix = depthwise(rank, 3, bias=True)
        self.key_value = pointwise(rank, 2 * rank, bias=False)
        self.key_value_mix = depthwise(2 * rank, 7, bias=True)
        self.project = pointwise(rank, rank, bias=True)

    def forward(self, z: Float[Tensor, "b r h w"], halo: Halo = NO_HALO) -> Float[Tensor, "b r rows w"]:
        """Map (B, r, H, W) with a halo of three rows to the same without; every strip begins at a window's border."""
        query = self.query_mix(self.query(halo.crop(z, keep=1)), halo.less(1))
        key, value = self.key_value_mix(self.key_value(z), halo).chunk(2, dim=1)
        return self.project(channels_last(self.mix(query, key, value)))

    @staticmethod
    @abstractmethod
    def default_window(index: int) -> int:
        """Return the side of the windows of expert ``index`` in pixels, if the configuration gives none."""

    @abstractmethod
    def mix(
        self, query: Float[Tensor, "b r h w"], key: Float[Tensor, "b r h w"], value: Float[Tensor, "b r h w"]
    ) -> Float[Tensor, "b r h w"]:
        """Mix the pixels of each window."""

    def matmul_macs(self, height: int, width: int) -> int:
        """Return the multiply-adds of matrix products within the windows; transforms count nothing."""
        return 0

    def extra_repr(self) -> str:
        return f"window={self.window}"


class SpectralMixer(WindowMixer):
    """LN(q ⊛ k) ⊙ v, with ⊛ the circular convolution within each window, as a product of spectra."""

    kind = "spectral"

    def __init__(self, *, rank: int, window: int) -> None:
        super().__init__(rank=rank, window=window)
        self.norm = ChannelNorm(rank)

    @staticmethod
    def default_window(index: int) -> int:
        """Double the side from expert to expert: 4, 8, 16, …"""
        return 4 << index

    def mix(
        self, query: Float[Tensor, "b r h w"], key: Float[Tensor, "b r h w"], value: Float[Tensor, "b r h w"]
    ) -> Float[Tensor, "b r h w"]:
        height, width = value.shape[-2:]
        query, key = (
            rearrange(pad_to_windows(x, self.window), "b c (m y) (n x) -> b m y n x c", y=self.window, x=self.window)
            for x in (query, key)
        )
        spectrum = torch.fft.rfft2(query, dim=(2, 4)) * torch.fft.rfft2(key, dim=(2, 4))
        mixed = torch.fft.irfft2(spectrum, s=(self.window, self.window), dim=(2, 4))
        mixed = rearrange(mixed, "b m y n x c -> b c (m y) (n x)")[..., :height, :width]
        return times(self.norm(mixed), value)


class AttentionMixer(WindowMixer):
    """softmax(q kᵀ/√r) v among the w² pixels of each window; padding takes no part."""

    kind = "window"

    @staticmethod
    def default_window(index: int) -> int:
        """Grow slowly, 2, 4, 6, …, because the cost grows with the square of the side."""
        return 2 * (index + 1)

    def matmul_macs(self, height: int, width: int) -> int:
        """Return the multiply-adds of q kᵀ and its product with v, in windows that cover the map."""
        return 2 * self.window**2 * self.project.out_channels * covered_pixels(height, width, self.window)

    def mix(
        self, query: Float[Tensor, "b r h w"], key: Float[Tensor, "b r h w"], value: Float[Tensor, "b r h w"]
    ) -> Float[Tensor, "b r h w"]:
        batch, _, height, width = value.shape
        rows, columns = -(-height // self.window), -(-width // self.window)
        query, key, value = (
            rearrange(
                pad_to_windows(x, self.window),
                "b c (m y) (n x) -> (b m n) (y x) c",
                y=self.window,
                x=self.window,
            )
            for x in (query, key, value)
        )
        mixed = F.scaled_dot_product_attention(
            query, key, value, attn_mask=self._inside(batch, height, width, query.device)
        )
        mixed = rearrange(mixed, "(b m n) (y x) c -> b c (m y) (n x)", m=rows, n=columns, y=self.window, x=self.window)
        return mixed[..., :height, :width]

    def _inside(
        self, batch: int, height: int, width: int, device: torch.device
    ) -> Bool[Tensor, "windows 1 pixels"] | None:
        """Return which keys are pixels of the picture, (batch · windows, 1, w²), or None when all are."""
        if height % self.window == 0 and width % self.window == 0:
            return None
        inside = pad_to_windows(torch.ones(1, 1, height, width, device=device), self.window) > 0
        inside = rearrange(inside, "1 1 (m y) (n x) -> (m n) 1 (y x)", y=self.window, x=self.window)
        return inside.repeat(batch, 1, 1)


def expert_kinds() -> dict[str, type[WindowMixer]]:
    """Return the kinds of experts by their names; a kind is known once its class is imported."""
    return {mixer.kind: mixer for mixer in WindowMixer.__subclasses__()}


class Expert(nn.Module):
    """The term that an expert adds to its input: W3(Mix_w(W1 x) ⊙ SiLU(W2 s)), eqs. 1 and 2 of the design document."""

    def __init__(self, *, dim: int, rank: int, window: int, kind: str) -> None:
        super().__init__()
        self.window = window
        self.reduce = pointwise(dim, rank, bias=False)
        self.mixer = expert_kinds()[kind](rank=rank, window=window)
        self.modulate = pointwise(dim, rank, bias=False)
        self.expand = pointwise(rank, dim, bias=False)

    def forward(
        self, x: Float[Tensor, "b c h w"], shared: Float[Tensor, "b c rows w"], halo: Halo = NO_HALO
    ) -> Float[Tensor, "b c rows w"]:
        """Map ``x``, with a halo of three rows, and the shared expert's ``shared``, without one, to (B, C, H, W)."""
        return self.expand(times(self.mixer(self.reduce(x), halo), self.modulate(shared, activation="silu")))
