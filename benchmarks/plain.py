"""Defines the plain form of the network for comparison: NCHW memory, reshaping in norms, one picture at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import torch
from einops import rearrange
from torch import Tensor

from moceir.networks import blocks, layers
from moceir.networks.routes import Routing
from moceir.networks.strips import Halo


def normalise(norm: layers.ChannelNorm, x: Tensor) -> Tensor:
    """Normalise over the channels, on rows of pixels."""
    height = x.shape[2]
    rows = rearrange(x, "b c h w -> b (h w) c")
    centred = rows - rows.mean(dim=-1, keepdim=True)
    scale = torch.sqrt(rows.var(dim=-1, keepdim=True, correction=0) + norm.eps)
    return rearrange(centred / scale * norm.weight + norm.bias, "b (h w) c -> b c h w", h=height)


def mix(moce: blocks.MoCE, x: Tensor, shared: Tensor, routing: Routing, _: Halo) -> Tensor:
    """Run the experts on one picture after the other."""
    pictures = []
    for index, experts in enumerate(routing.experts.tolist()):
        row = slice(index, index + 1)
        outputs = [(x[row] + moce.experts[e](x[row], shared[row])) * routing.gates[index, e] for e in experts]
        pictures.append(torch.stack(outputs).sum(dim=0))
    return moce.project(torch.cat(pictures))


@contextmanager
def plain_form() -> Iterator[None]:
    """Run networks in plain form inside the ``with`` block."""
    with (
        patch.object(torch, "channels_last", torch.contiguous_format),
        patch.object(layers.ChannelNorm, "forward", normalise),
        patch.object(layers, "inferring_on_cpu", lambda _: False),
        patch.object(blocks.MoCE, "forward", mix),
    ):
        yield
