"""The published network: a U-Net of channel-attention blocks with routed experts in the decoder (figure 2)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from moceir.networks.blocks import DecoderBlock, EncoderBlock
from moceir.networks.config import NetworkConfig
from moceir.networks.experts import expert_kinds
from moceir.networks.layers import Convolution, Downsample, Upsample
from moceir.networks.routing import FrequencyEmbedding
from moceir.networks.unet import Part, UNet

GATINGS = ("published", "straight_through")


@dataclass(frozen=True, kw_only=True)
class MoCEIRConfig(NetworkConfig):
    """The arguments of :class:`MoCEIR`, which says what each one means."""

    dim: int = 8
    num_blocks: Sequence[int] = (2, 2, 4, 4)
    num_decoder_blocks: Sequence[int] = (1, 2, 4)
    num_heads: Sequence[int] = (1, 2, 4, 8)
    num_refinement_blocks: int = 2
    num_experts: int = 4
    topk: int = 1
    expert_kind: str = "spectral"
    window_sizes: Sequence[int] | None = None
    gating: str = "published"
    freeze_high_pass: bool = False

    @property
    def windows(self) -> Sequence[int]:
        """The window sizes, or their defaults."""
        if self.window_sizes is not None:
            return self.window_sizes
        kind = expert_kinds()[self.expert_kind]
        return [kind.default_window(index) for index in range(self.num_experts)]

    def plain(self) -> dict[str, Any]:
        """Return the arguments with the window sizes in use."""
        return {**super().plain(), "window_sizes": list(self.windows)}

    def check(self) -> None:
        """Raise ValueError when an argument is out of range."""
        levels = len(self.num_blocks)
        if levels < 2:
            raise ValueError(f"num_blocks needs at least two levels, got {list(self.num_blocks)}")
        for name, length in {"num_decoder_blocks": levels - 1, "num_heads": levels}.items():
            numbers = list(getattr(self, name))
            if len(numbers) != length:
                raise ValueError(f"{name} needs {length} numbers for {levels} levels of num_blocks, got {numbers}")
        if self.dim < 2 or self.dim % 2:
            raise ValueError(f"dim must be even and at least 2, got {self.dim}")
        for level, heads in enumerate(self.num_heads):
            if heads < 1 or (self.dim << level) % heads:
                raise ValueError(
                    f"num_heads[{level}] must divide the level's {self.dim << level} channels, got {heads}"
                )
        if min(*self.num_blocks, *self.num_decoder_blocks, self.num_refinement_blocks) < 0:
            raise ValueError("num_blocks, num_decoder_blocks and num_refinement_blocks must not be negative")
        if not sum(self.num_decoder_blocks):
            raise ValueError("num_decoder_blocks needs at least one block: there are the experts")
        if not 2 <= self.num_experts <= 6:
            raise ValueError(f"num_experts must be 2 to 6, got {self.num_experts}")
        if not 1 <= self.topk <= self.num_experts:
            raise ValueError(f"topk must be 1 to num_experts = {self.num_experts}, got {self.topk}")
        for name, accepted in {"expert_kind": expert_kinds(), "gating": GATINGS}.items():
            if getattr(self, name) not in accepted:
                raise ValueError(f"{name} must be one of {', '.join(accepted)}, got {getattr(self, name)!r}")
        if len(self.windows) != self.num_experts or min(self.windows) < 1:
            raise ValueError(
                f"window_sizes needs a positive size for each of {self.num_experts} experts, got {list(self.windows)}"
            )


class Fuse(Convolution):
    """A 1×1 on a map and the skip of its level."""

    def __init__(self, *, dim: int) -> None:
        super().__init__(2 * dim, dim, kernel_size=1, bias=False)

    def forward(  # type: ignore[override]  # it takes two maps
        self, x: Float[Tensor, "b c h w"], skip: Float[Tensor, "b c h w"]
    ) -> Float[Tensor, "b c h w"]:
        """Return the fused map."""
        return super().forward(torch.cat([x, skip], dim=1))


class MoCEIR(UNet):
    """Mixture-of-complexity-experts network for all-in-one image restoration.

    Zamfir et al., "Complexity Experts are Task-Discriminative Learners for Any Image Restoration" (CVPR 2025,
    arXiv 2411.18466). Without arguments it is the document's 30 G configuration: 571,001 parameters. Level l works
    at 1/2^l of the resolution with ``dim`` · 2^l channels. The output convolution starts at zero, so an untrained
    network returns its input. It computes in float32, or under autocast.

    Args:
        dim: channels C at full resolution, even.
        num_blocks: encoder blocks of each level; the last level is the latent.
        num_decoder_blocks: decoder blocks of each level but the latent, full resolution first.
        num_heads: attention heads of each level, encoder and decoder alike.
        num_refinement_blocks: encoder blocks at full resolution after the decoder.
        num_experts: n, 2 to 6.
        topk: experts a picture takes in each MoCE layer.
        expert_kind: ``"spectral"`` (published), ``"window"`` (self-attention, eq. 2), or another of
            :func:`~moceir.networks.experts.expert_kinds`.
        window_sizes: side of each expert's windows in pixels; None for the kind's own.
        gating: ``"published"``, where the restoration loss gives a top-1 router no gradient, or
            ``"straight_through"``, where it does; the forward pass is the same.
        freeze_high_pass: keep the high-pass filter before the routers as it is (published: trainable).
        mac_budget: GMACs at 1280×720 that no picture's route may exceed, the post-filter's 0.27 included; None for
            no limit. It is also an attribute that can be set at any time.

    Raises:
        ValueError: when an argument is out of range; the message names it.
    """

    def __init__(self, *, mac_budget: float | None = None, **arguments: Any) -> None:
        super().__init__()
        self.settings = settings = MoCEIRConfig(**arguments)
        dim, num_heads, num_experts = settings.dim, settings.num_heads, settings.num_experts
        num_blocks, num_decoder_blocks = settings.num_blocks, settings.num_decoder_blocks
        levels = len(num_blocks)
        dims = [dim << level for level in range(levels)]
        decoder_levels = list(reversed(range(levels - 1)))

        def encoder_blocks(level: int, count: int) -> nn.Sequential:
            return nn.Sequential(*(EncoderBlock(dim=dims[level], num_heads=num_heads[level]) for _ in range(count)))

        def decoder_block(level: int) -> DecoderBlock:
            return DecoderBlock(
                dim=dims[level],
                num_heads=num_heads[level],
                frequency_dim=dims[-1],
                windows=settings.windows,
                topk=settings.topk,
                expert_kind=settings.expert_kind,
                gating=settings.gating,
            )

        self.embed = Convolution(3, dim, kernel_size=3, padding=1, bias=False)
        self.encoder = nn.ModuleList(encoder_blocks(level, num_blocks[level]) for level in range(levels - 1))
        self.down = nn.ModuleList(Downsample(dim=dims[level]) for level in range(levels - 1))
        self.latent = encoder_blocks(levels - 1, num_blocks[-1])
        self.frequency = FrequencyEmbedding(dim=dims[-1], freeze_high_pass=settings.freeze_high_pass)
        self.up = nn.ModuleList(Upsample(dim=dims[level + 1]) for level in decoder_levels)
        self.fuse = nn.ModuleList(Fuse(dim=dims[level]) for level in decoder_levels)
        self.decoder = nn.ModuleList(
            nn.ModuleList(decoder_block(level) for _ in range(num_decoder_blocks[level])) for level in decoder_levels
        )
        self.refinement = encoder_blocks(0, settings.num_refinement_blocks)
        self.output = Convolution(dim, 3, kernel_size=3, padding=1, bias=False)
        nn.init.zeros_(self.output.weight)
        self.num_experts = num_experts
        self.topk = settings.topk
        self.num_layers = sum(num_decoder_blocks)
        self.mac_budget = mac_budget

    def watchers(self) -> Iterable[Part]:
        """The frequency embedding of the latent map."""
        return [Part("frequency", "block", len(self.down), self.frequency)]
