"""The U-Net that every network is, described once by its parts in the order they run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from moceir.networks.config import NetworkConfig
from moceir.networks.costs import padded_size, route_costs
from moceir.networks.interface import Restoration, check_pictures
from moceir.networks.layers import channels_last
from moceir.networks.routes import RouteCosts, Run, check_budget


class Part(NamedTuple):
    """A part of a network."""

    name: str
    """The name of the module in the network."""
    kind: Literal["embed", "block", "down", "up", "fuse", "output"]
    """The place in the U-Net: ``embed`` takes the picture; a ``block`` keeps a map's size, or, before ``embed``, looks
    at the picture and leaves it; ``down`` goes a level deeper and leaves its input as a skip; ``up`` returns; ``fuse``
    takes the map and the last skip; the result of ``output`` is added to the picture."""
    level: int
    """The level of its input, which has 1/2^level of the resolution."""
    module: nn.Module


class UNet(nn.Module):
    """Runs whatever a subclass puts into its levels.

    A subclass sets, in its constructor: ``embed``; for each level but the last, the finest first, ``encoder`` (blocks)
    and ``down``; ``latent`` (blocks); for each level but the last, the coarsest first, ``up``, ``fuse`` and ``decoder``
    (blocks); ``refinement`` (blocks at full resolution); and ``output``. Blocks are
    :class:`~moceir.networks.strips.Block`. The rest need no sums: they take a map and its halo, of as many rows as they
    say with ``reach``, and give their result without, as :class:`~moceir.networks.layers.Convolution` does; ``fuse``
    takes two maps without halo.

    Attributes:
        settings: what the network is built from; a subclass without has a ``config`` of its own.
        num_layers, num_experts, topk: of routed layers; 0 without.
    """

    settings: NetworkConfig
    embed: nn.Module
    encoder: nn.ModuleList
    down: nn.ModuleList
    latent: nn.ModuleList | nn.Sequential
    up: nn.ModuleList
    fuse: nn.ModuleList
    decoder: nn.ModuleList
    refinement: nn.ModuleList | nn.Sequential
    output: nn.Module
    num_layers: int = 0
    num_experts: int = 0
    topk: int = 0
    _mac_budget: float | None = None

    @property
    def config(self) -> dict[str, Any]:
        """The arguments that rebuild this network, as plain values that JSON and YAML can hold."""
        return {**self.settings.plain(), "mac_budget": self.mac_budget}

    def parts(self) -> Iterator[Part]:
        """Yield every part in the order they run. Nothing else knows the topology."""
        latent = len(self.down)

        def blocks(name: str, level: int) -> Iterator[Part]:
            for child, block in self.get_submodule(name).named_children():
                yield Part(f"{name}.{child}", "block", level, block)

        yield Part("embed", "embed", 0, self.embed)
        for level, down in enumerate(self.down):
            yield from blocks(f"encoder.{level}", level)
            yield Part(f"down.{level}", "down", level, down)
        yield from blocks("latent", latent)
        yield from self.watchers()
        for step, (up, fuse) in enumerate(zip(self.up, self.fuse, strict=True)):
            level = latent - 1 - step
            yield Part(f"up.{step}", "up", level + 1, up)
            yield Part(f"fuse.{step}", "fuse", level, fuse)
            yield from blocks(f"decoder.{step}", level)
        yield from blocks("refinement", 0)
        yield Part("output", "output", 0, self.output)

    def watchers(self) -> Iterable[Part]:
        """Return blocks between encoder and decoder that read the map for later ones and don't change it."""
        return ()

    @cached_property
    def route_costs(self) -> RouteCosts:
        """The multiply-adds at 1280×720 of the network, its experts, and the post-filter."""
        return route_costs(self.parts(), len(self.down))

    @property
    def mac_budget(self) -> float | None:
        """GMACs at 1280×720 that no picture's route may exceed, post-filter included; None for no limit.

        Raises:
            ValueError: on setting, when even the cheapest route costs more, or the number is not finite.
        """
        return self._mac_budget

    @mac_budget.setter
    def mac_budget(self, gmacs: float | None) -> None:
        check_budget(self.route_costs, gmacs, self.topk)
        self._mac_budget = gmacs

    def start_from(self, trained: UNet) -> None:
        """Take the weights of another network.

        Raises:
            ValueError: when they do not fit.
        """
        try:
            self.load_state_dict(trained.state_dict())
        except RuntimeError as error:
            raise ValueError(f"its network, {trained.config}, is another than this one, {self.config}") from error

    def begin(
        self, noise: Float[Tensor, "layers b n"] | None = None, experts: Int[Tensor, "layers b k"] | None = None
    ) -> Run:
        """Return what the parts share for a batch; the arguments are those of :meth:`restore_and_route`."""
        return Run(self.route_costs, self.mac_budget, self.topk, noise, experts)

    def forward(self, x: Float[Tensor, "b 3 h w"], **routing: Tensor | None) -> Float[Tensor, "b 3 h w"]:
        """Restore a batch of RGB in [0, 1] and any size; the result is not clamped.

        Keyword arguments are those of :meth:`restore_and_route`.
        """
        return self.restore_and_route(x, **routing).restored

    def restore_and_route(
        self,
        x: Float[Tensor, "b 3 h w"],
        *,
        noise: Float[Tensor, "layers b n"] | None = None,
        experts: Int[Tensor, "layers b k"] | None = None,
    ) -> Restoration:
        """Like :meth:`forward`, and return how each layer routed each picture.

        Args:
            x: RGB in [0, 1].
            noise: standard normal noise on the routers' logits (eq. 4, scaled there by 1/n). None
                draws it in training and uses none in evaluation, which is deterministic.
            experts: the experts to take; None lets the routers choose.

        Raises:
            ValueError: when ``x`` is not a floating-point (B, 3, H, W) tensor, or empty.
        """
        check_pictures(x)
        if noise is None and self.training and self.num_layers:
            noise = torch.randn(self.num_layers, len(x), self.num_experts, device=x.device)
        run = self.begin(noise, experts)
        height, width = x.shape[-2:]
        padded_height, padded_width = padded_size(len(self.down), (height, width))
        x = channels_last(F.pad(x, (0, padded_width - width, 0, padded_height - height), mode="replicate"))
        features = x
        skips: list[Tensor] = []
        for part in self.parts():
            if part.kind == "block":
                features = part.module(features, run)
            elif part.kind == "fuse":
                features = part.module(features, skips.pop())
            else:
                if part.kind == "down":
                    skips.append(features)
                features = part.module(features)
        return Restoration((features + x)[..., :height, :width], tuple(run.routings))
