"""The interface of a network, and the result of restoring a batch."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from moceir.networks.routes import RouteCosts, Routing, route_of
from moceir.networks.routing import balance_loss


class Restoration(NamedTuple):
    """A restored batch and how it was routed."""

    restored: Float[Tensor, "b 3 h w"]
    """Not clamped."""
    routings: tuple[Routing, ...] = ()
    """One per routed layer, in the order they run; none of a network without."""

    @property
    def balance_loss(self) -> Float[Tensor, ""]:
        """The layers' mean auxiliary loss, L_aux of eq. 16."""
        return balance_loss(*self.importance_and_load).mean()

    @property
    def importance_and_load(self) -> tuple[Float[Tensor, "layers n"], Float[Tensor, "layers n"]]:
        """The importance and the load of each layer's experts over the batch."""
        importance = torch.stack([routing.importance for routing in self.routings])
        return importance, torch.stack([routing.load for routing in self.routings])

    @property
    def route(self) -> Int[Tensor, "layers b k"]:
        """The experts taken."""
        return route_of(self.routings, len(self.restored))


@runtime_checkable
class Network(Protocol):
    """The interface that training, restoring, and evaluating use; a network is also an ``nn.Module``.

    A plain forward is enough for a network: :class:`moceir.networks.unet.UNet` gives the rest.
    """

    num_layers: int
    """Routed layers; 0 without routing."""
    num_experts: int
    """Experts of each; 0 without routing."""
    topk: int
    """Experts a picture takes in each; 0 without routing."""
    route_costs: RouteCosts
    mac_budget: float | None

    @property
    def config(self) -> dict[str, Any]:
        """The arguments that rebuild the network, as plain values that JSON and YAML can hold."""
        ...

    def restore_and_route(
        self,
        x: Float[Tensor, "b 3 h w"],
        *,
        noise: Float[Tensor, "layers b n"] | None = None,
        experts: Int[Tensor, "layers b k"] | None = None,
    ) -> Restoration:
        """Restore a batch of RGB in [0, 1] and any size."""
        ...


def check_pictures(x: Tensor) -> None:
    """Raise ValueError when ``x`` is not a floating-point (B, 3, H, W) tensor, or empty."""
    if x.ndim != 4 or x.shape[1] != 3 or not x.numel() or not x.is_floating_point():
        raise ValueError(
            "expected a floating-point (B, 3, H, W) tensor of RGB in [0, 1], B, H and W at least 1, "
            f"got {x.dtype} {tuple(x.shape)}"
        )
