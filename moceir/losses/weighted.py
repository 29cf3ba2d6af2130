"""The weighted sum of all terms."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from moceir.losses.balance import balance_over_processes
from moceir.networks.interface import Restoration

Term = Callable[[Tensor, Tensor], Tensor]
"""A loss of restored and clean pictures, (B, 3, H, W) in [0, 1] each, which is a scalar."""

BALANCE = "balance"
"""The weight of the experts' balance, which is a loss of routes rather than of pictures."""


class WeightedLoss(nn.Module):
    """The weighted sum of losses of pictures, and of the balance of a network's experts; eq. 16.

    Every term that has a weight is tried once on grey pictures, so that what a term lacks, such as the weights of
    VGG-19, is known before training begins. A term of weight zero is neither tried nor computed.

    Args:
        weights: of each term and of ``balance``, zero or more. A network without experts has no balance, whatever its
            weight.
        terms: name -> loss.

    Raises:
        ValueError: when a weight is missing, unknown, negative or not finite, or all are zero.
    """

    def __init__(self, *, weights: Mapping[str, float], terms: Mapping[str, Term]) -> None:
        super().__init__()
        names = [*terms, BALANCE]
        if set(weights) != set(names) or not all(0 <= weight < math.inf for weight in weights.values()):
            raise ValueError(f"loss.weights={dict(weights)}: give each of {', '.join(names)} a weight, zero for none")
        self.weights = {name: float(weight) for name, weight in weights.items() if weight}
        if not self.weights:
            raise ValueError("loss.weights: all are zero, so there is nothing to train")
        self.terms = {name: term for name, term in terms.items() if name in self.weights}
        # Registered, so that they move to a device with the module.
        self.modules_of_terms = nn.ModuleList(term for term in self.terms.values() if isinstance(term, nn.Module))
        grey = torch.full((1, 3, 32, 32), 0.5)
        for term in self.terms.values():
            term(grey, grey)

    def forward(
        self, restoration: Restoration, clean: Float[Tensor, "b 3 h w"]
    ) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
        """Return the loss of a batch and its unweighted terms, computed in float32.

        Args:
            restoration: of the degraded pictures.
            clean: in [0, 1].
        """
        with torch.autocast(clean.device.type, enabled=False):
            restored, clean = restoration.restored.float(), clean.float()
            losses = {name: term(restored, clean) for name, term in self.terms.items()}
            if BALANCE in self.weights and restoration.routings:
                losses[BALANCE] = balance_over_processes(restoration)
        return torch.stack([self.weights[name] * value for name, value in losses.items()]).sum(), losses
