"""The network: an asymmetric U-Net of channel-attention blocks with routed experts in the decoder (figure 2)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moceir.network.blocks import DecoderBlock, EncoderBlock
from moceir.network.budget import check_budget, layer_budget, padded_size, route_costs
from moceir.network.layers import Downsample, Upsample, pointwise
from moceir.network.routing import FrequencyEmbedding, Routing, RoutingRules, auxiliary_loss

EXPERT_KINDS = ("spectral", "window")
GATINGS = ("published", "straight_through")


class Restoration(NamedTuple):
    """A restored batch and how it was routed."""

    image: Tensor
    """(B, 3, H, W)."""
    routings: tuple[Routing, ...]
    """One per MoCE layer, in the order they run: deepest level first."""

    @property
    def auxiliary_loss(self) -> Tensor:
        """Scalar: the layers' mean auxiliary loss, L_aux of eq. 16."""
        return auxiliary_loss(*self.expert_statistics).mean()

    @property
    def expert_statistics(self) -> tuple[Tensor, Tensor]:
        """Importance and load of each layer's experts over the batch, (layers, n) each."""
        importance = torch.stack([routing.importance for routing in self.routings])
        return importance, torch.stack([routing.load for routing in self.routings])


class MoCEIR(nn.Module):
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
        topk: experts an image takes in each MoCE layer.
        expert_kind: ``"spectral"`` (published) or ``"window"`` (self-attention, eq. 2).
        window_sizes: side of each expert's windows in pixels; None for 4, 8, 16, … (spectral) or 2, 4, 6, …
            (window, whose cost grows with the square of the side).
        gating: ``"published"``, where the restoration loss gives a top-1 router no gradient, or
            ``"straight_through"``, where it does; the forward pass is the same.
        freeze_high_pass: keep the high-pass filter before the routers as it is (published: trainable).
        mac_budget: GMACs at 1280×720 that no image's route may exceed, the post-filter's 0.27 included; None for
            no limit. It is also an attribute that can be set at any time.

    Raises:
        ValueError: when an argument is out of range; the message names it.
    """

    def __init__(
        self,
        *,
        dim: int = 8,
        num_blocks: Sequence[int] = (2, 2, 4, 4),
        num_decoder_blocks: Sequence[int] = (1, 2, 4),
        num_heads: Sequence[int] = (1, 2, 4, 8),
        num_refinement_blocks: int = 2,
        num_experts: int = 4,
        topk: int = 1,
        expert_kind: str = "spectral",
        window_sizes: Sequence[int] | None = None,
        gating: str = "published",
        freeze_high_pass: bool = False,
        mac_budget: float | None = None,
    ) -> None:
        super().__init__()
        if window_sizes is None:
            spectral = expert_kind == "spectral"
            window_sizes = [4 << i if spectral else 2 * (i + 1) for i in range(num_experts)]
        self._config: dict[str, Any] = {
            "dim": dim,
            "num_blocks": list(num_blocks),
            "num_decoder_blocks": list(num_decoder_blocks),
            "num_heads": list(num_heads),
            "num_refinement_blocks": num_refinement_blocks,
            "num_experts": num_experts,
            "topk": topk,
            "expert_kind": expert_kind,
            "window_sizes": list(window_sizes),
            "gating": gating,
            "freeze_high_pass": freeze_high_pass,
        }
        _check(self._config)
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
                windows=window_sizes,
                topk=topk,
                expert_kind=expert_kind,
                gating=gating,
            )

        self.embed = nn.Conv2d(3, dim, kernel_size=3, padding=1, bias=False)
        self.encoder = nn.ModuleList(encoder_blocks(level, num_blocks[level]) for level in range(levels - 1))
        self.down = nn.ModuleList(Downsample(dim=dims[level]) for level in range(levels - 1))
        self.latent = encoder_blocks(levels - 1, num_blocks[-1])
        self.frequency = FrequencyEmbedding(dim=dims[-1], freeze_high_pass=freeze_high_pass)
        self.up = nn.ModuleList(Upsample(dim=dims[level + 1]) for level in decoder_levels)
        self.fuse = nn.ModuleList(pointwise(dims[level + 1], dims[level], bias=False) for level in decoder_levels)
        self.decoder = nn.ModuleList(
            nn.ModuleList(decoder_block(level) for _ in range(num_decoder_blocks[level])) for level in decoder_levels
        )
        self.refinement = encoder_blocks(0, num_refinement_blocks)
        self.output = nn.Conv2d(dim, 3, kernel_size=3, padding=1, bias=False)
        nn.init.zeros_(self.output.weight)
        #: Multiply-adds at 1280×720 of the network, its experts and the post-filter.
        self.route_costs = route_costs(self)
        self.mac_budget = mac_budget

    @property
    def config(self) -> dict[str, Any]:
        """The arguments that rebuild this network, as plain values that JSON and YAML can hold."""
        return {**self._config, "mac_budget": self.mac_budget}

    @property
    def topk(self) -> int:
        """Experts an image takes in each MoCE layer."""
        return self._config["topk"]

    @property
    def num_experts(self) -> int:
        """Experts of each MoCE layer."""
        return self._config["num_experts"]

    @property
    def num_layers(self) -> int:
        """How many MoCE layers there are."""
        return len(self.route_costs.experts)

    @property
    def mac_budget(self) -> float | None:
        """GMACs at 1280×720 that no image's route may exceed, post-filter included; None for no limit.

        Raises:
            ValueError: on setting, when even the cheapest route costs more, or the number is not finite.
        """
        return self._mac_budget

    @mac_budget.setter
    def mac_budget(self, gmacs: float | None) -> None:
        check_budget(self.route_costs, gmacs, self.topk)
        self._mac_budget = gmacs

    def forward(self, x: Tensor, **routing: Tensor | None) -> Tensor:
        """Restore a batch: (B, 3, H, W), RGB in [0, 1], any H and W -> the same, not clamped.

        Keyword arguments are those of :meth:`restore_and_route`.
        """
        return self.restore_and_route(x, **routing).image

    def restore_and_route(
        self, x: Tensor, *, noise: Tensor | None = None, experts: Tensor | None = None
    ) -> Restoration:
        """Like :meth:`forward`, and return how each layer routed each image.

        Args:
            x: (B, 3, H, W), RGB in [0, 1].
            noise: (layers, B, n), standard normal noise on the routers' logits (eq. 4, scaled there by 1/n). None
                draws it in training and goes without in evaluation, which is thus deterministic.
            experts: (layers, B, k) int64, the experts to take; None lets the routers choose.

        Raises:
            ValueError: when ``x`` is not a floating-point (B, 3, H, W) tensor, or empty.
        """
        check_pictures(x)
        if noise is None and self.training:
            noise = torch.randn(self.num_layers, len(x), self.num_experts, device=x.device)
        height, width = x.shape[-2:]
        padded_height, padded_width = padded_size(len(self.down), (height, width))
        x = F.pad(x, (0, padded_width - width, 0, padded_height - height), mode="replicate")
        x = x.contiguous(memory_format=torch.channels_last)

        features = self.embed(x)
        skips = []
        for blocks, down in zip(self.encoder, self.down, strict=True):
            features = blocks(features)
            skips.append(features)
            features = down(features)
        features = self.latent(features)
        frequency = self.frequency(features)

        routings: list[Routing] = []
        spent = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        for up, fuse, decoder_blocks in zip(self.up, self.fuse, self.decoder, strict=True):
            features = fuse(torch.cat([up(features), skips.pop()], dim=1))
            for block in cast("Iterable[DecoderBlock]", decoder_blocks):
                layer = len(routings)
                rules = RoutingRules(
                    noise=None if noise is None else noise[layer],
                    budget=layer_budget(self.route_costs, self._mac_budget, topk=self.topk, layer=layer, spent=spent),
                    experts=None if experts is None else experts[layer],
                )
                features, routing = block(features, frequency, rules)
                routings.append(routing)
                if rules.budget is not None:
                    spent = spent + rules.budget.costs[routing.experts].sum(dim=1)
        restored = self.output(self.refinement(features)) + x
        return Restoration(restored[..., :height, :width], tuple(routings))


def check_pictures(x: Tensor) -> None:
    """Raise ValueError when ``x`` is not a floating-point (B, 3, H, W) tensor, or empty."""
    if x.ndim != 4 or x.shape[1] != 3 or not x.numel() or not x.is_floating_point():
        raise ValueError(
            "expected a floating-point (B, 3, H, W) tensor of RGB in [0, 1], B, H and W at least 1, "
            f"got {x.dtype} {tuple(x.shape)}"
        )


def _check(config: dict[str, Any]) -> None:
    """Raise ValueError for an impossible configuration, naming the argument."""
    levels = len(config["num_blocks"])
    if levels < 2:
        raise ValueError(f"num_blocks needs at least two levels, got {config['num_blocks']}")
    for name, length in {"num_decoder_blocks": levels - 1, "num_heads": levels}.items():
        if len(config[name]) != length:
            raise ValueError(f"{name} needs {length} numbers for {levels} levels of num_blocks, got {config[name]}")
    if config["dim"] < 2 or config["dim"] % 2:
        raise ValueError(f"dim must be even and at least 2, got {config['dim']}")
    for level, heads in enumerate(config["num_heads"]):
        if heads < 1 or (config["dim"] << level) % heads:
            raise ValueError(
                f"num_heads[{level}] must divide the level's {config['dim'] << level} channels, got {heads}"
            )
    if min(config["num_blocks"] + config["num_decoder_blocks"] + [config["num_refinement_blocks"]]) < 0:
        raise ValueError("num_blocks, num_decoder_blocks and num_refinement_blocks must not be negative")
    if not sum(config["num_decoder_blocks"]):
        raise ValueError("num_decoder_blocks needs at least one block: there are the experts")
    if not 2 <= config["num_experts"] <= 6:
        raise ValueError(f"num_experts must be 2 to 6, got {config['num_experts']}")
    if not 1 <= config["topk"] <= config["num_experts"]:
        raise ValueError(f"topk must be 1 to num_experts = {config['num_experts']}, got {config['topk']}")
    for name, accepted in {"expert_kind": EXPERT_KINDS, "gating": GATINGS}.items():
        if config[name] not in accepted:
            raise ValueError(f"{name} must be one of {', '.join(accepted)}, got {config[name]!r}")
    windows = config["window_sizes"]
    if len(windows) != config["num_experts"] or min(windows) < 1:
        raise ValueError(
            f"window_sizes needs a positive size for each of {config['num_experts']} experts, got {windows}"
        )
