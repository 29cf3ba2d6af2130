"""Complexity-aware routing: which expert a picture takes, and the loss that spreads pictures over experts.

Section 3.3 of the design document. One decision per picture and layer, so cost does not depend on content
within a picture, and a route is a short tuple of expert indices.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from moceir.networks.layers import depthwise
from moceir.networks.routes import Routing, RoutingRules, Run, select_experts
from moceir.networks.strips import Block, Strip, Sums, pixels, sum_over_pixels


def importance_and_load(
    logits: Float[Tensor, "b n"], noisy_logits: Float[Tensor, "b n"], complexity: Float[Tensor, " n"], topk: int
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Return the importance and the load of each expert over a batch, eqs. 5 to 8.

    Importance weighs an expert's mean probability by its size, so that equal importance means that smaller
    experts are taken more often; load is the mean probability that a fresh draw of the noise would pick the
    expert. Means instead of the document's sum and product: the variation of eq. 9 does not see the scale.

    Args:
        logits: without noise.
        noisy_logits: those the decision was taken on.
        complexity: parameters of each expert over those of the largest.
        topk: how many experts a picture takes.
    """
    importance = complexity * logits.softmax(dim=1).mean(dim=0)
    threshold = noisy_logits.topk(topk, dim=1).values[:, -1:]
    noise_std = 1 / logits.shape[1]
    return importance, torch.special.ndtr((logits - threshold) / noise_std).mean(dim=0)


def balance_loss(importance: Float[Tensor, "*layers n"], load: Float[Tensor, "*layers n"]) -> Float[Tensor, "*layers"]:
    """½ CV(Importance)² + ½ CV(Load)², eq. 9, for each layer."""
    return 0.5 * _squared_variation(importance) + 0.5 * _squared_variation(load)


def _squared_variation(x: Float[Tensor, "*layers n"]) -> Float[Tensor, "*layers"]:
    """Return the squared coefficient of variation, with the unbiased standard deviation."""
    return (x.std(dim=-1) / (x.mean(dim=-1) + 1e-8)) ** 2


class FrequencyEmbedding(Block):
    """A vector that tells the routers how much high-frequency content a picture has.

    Depth-wise 3×3 high-pass -> GELU -> mean over the picture -> two linear layers. The design document calls the
    filter Sobel; centre 8 and rest -1 is a Laplacian. In the published weights it is trainable.
    """

    reaches = (1, 0)
    rewrites = False

    def __init__(self, *, dim: int, freeze_high_pass: bool) -> None:
        super().__init__()
        self.high_pass = depthwise(dim, 3, bias=False)
        with torch.no_grad():
            self.high_pass.weight.fill_(-1.0)[:, :, 1, 1] = 8.0
        self.high_pass.weight.requires_grad_(not freeze_high_pass)
        self.mlp = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))

    def summarise(self, strip: Strip, known: list[Any]) -> tuple[Sums, None]:
        """Return the sums of high-pass responses, and their number."""
        high = F.gelu(self.high_pass(strip.x, strip.halo))
        return Sums((sum_over_pixels(high), pixels(high))), None

    def conclude(self, sums: Sums, known: list[Any], run: Run) -> None:
        """Return the embedding for the routers, (B, d)."""
        total, count = sums
        run.frequency = self.mlp((total / count).to(self.high_pass.weight.dtype))

    def update(self, strip: Strip, known: list[Any]) -> Float[Tensor, "b c h w"]:
        """Return the map unchanged."""
        return strip.halo.crop(strip.x)


class Router(nn.Module):
    """Noisy top-k gate on a picture's mean features and frequency embedding, eq. 4."""

    complexity: Float[Tensor, " n"]

    def __init__(self, *, dim: int, frequency_dim: int, topk: int, complexity: Float[Tensor, " n"]) -> None:
        super().__init__()
        num_experts = len(complexity)
        self.topk = topk
        self.features = nn.Linear(dim, num_experts, bias=False)
        self.frequency = nn.Linear(frequency_dim, num_experts, bias=False)
        self.register_buffer("complexity", complexity, persistent=False)

    def forward(self, x: Float[Tensor, "b c"], frequency: Float[Tensor, "b d"], rules: RoutingRules) -> Routing:
        """Route a batch.

        Args:
            x: mean of the features to route.
            frequency: the frequency embedding.
            rules: noise, budget or fixed choice.
        """
        logits = self.features(x) + self.frequency(frequency)
        noisy = logits if rules.noise is None else logits + rules.noise / logits.shape[1]
        experts = rules.experts
        if experts is None:
            experts = select_experts(noisy, self.topk, rules.budget)
        taken = torch.zeros_like(logits).scatter(1, experts.to(logits.device), 1.0)
        importance, load = importance_and_load(logits, noisy, self.complexity, self.topk)
        return Routing(
            logits=logits,
            # The floor keeps an expert that was forced or all the budget allows from vanishing in float32: with
            # one expert the gate cancels in the cross-attention, but not when it is zero.
            gates=noisy.softmax(dim=1).clamp_min(1e-6) * taken,
            experts=experts,
            importance=importance,
            load=load,
        )


class Standardise(nn.Module):
    """Subtracts ``centre`` from features and divides them by ``scale``; at first, it changes nothing."""

    centre: Float[Tensor, " features"]
    scale: Float[Tensor, " features"]

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("centre", torch.zeros(features))
        self.register_buffer("scale", torch.ones(features))

    def forward(self, x: Float[Tensor, "b features"]) -> Float[Tensor, "b features"]:
        """Return the standardised features."""
        return (x - self.centre) / self.scale


class PictureRouter(Block):
    """Chooses a picture's expert by what the blocks before it have found.

    It sees the means that the encoder's channel attention is computed from, what a :class:`~moceir.networks.grid.Grid`
    found, and the mean and the standard deviation of every channel of its map. None of them gets a gradient from it:
    the router learns from what the encoder finds for the restoration's sake.

    Args:
        dim: channels of the map.
        found: the number of what all blocks before it find.
        complexity: of each expert, its cost over that of the costliest expert.
        width: of its hidden layer.
    """

    reaches = (0, 0)
    rewrites = False
    complexity: Float[Tensor, " n"]

    def __init__(self, *, dim: int, found: int, complexity: Sequence[float], width: int) -> None:
        super().__init__()
        features = found + 2 * dim
        self.mlp = nn.Sequential(
            Standardise(features), nn.Linear(features, width), nn.GELU(), nn.Linear(width, len(complexity))
        )
        self.register_buffer("complexity", torch.tensor(complexity), persistent=False)

    def summarise(self, strip: Strip, known: list[Any]) -> tuple[Sums, None]:
        """Return the sums of values and of squares, and the number of pixels."""
        x = strip.x.detach()
        return Sums((sum_over_pixels(x), sum_over_pixels(x * x), pixels(x))), None

    def conclude(self, sums: Sums, known: list[Any], run: Run) -> None:
        """Return the routing for all blocks with experts."""
        total, squares, count = sums
        mean = total / count
        # The second term covers what single precision leaves of the difference where a map is flat.
        spread = ((squares / count - mean * mean).clamp_min(0) + 1e-4 * mean * mean).sqrt()
        found = [*(one.detach() for one in run.found), mean, spread]
        logits = self.mlp(torch.cat([one.to(self.complexity.dtype) for one in found], dim=1))
        rules = run.rules(len(logits), logits.device)
        noisy = logits if rules.noise is None else logits + rules.noise / logits.shape[1]
        experts = select_experts(noisy, 1, rules.budget) if rules.experts is None else rules.experts
        importance, load = importance_and_load(logits, noisy, self.complexity, 1)
        gates = noisy.softmax(dim=1) * torch.zeros_like(logits).scatter(1, experts.to(logits.device), 1.0)
        run.routings.append(Routing(logits, gates, experts, importance, load))

    def update(self, strip: Strip, known: list[Any]) -> Float[Tensor, "b c h w"]:
        """Return the map unchanged."""
        return strip.halo.crop(strip.x)
