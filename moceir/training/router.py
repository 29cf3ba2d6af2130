"""Fits the router of a network whose experts are trained: pictures are restored by every expert once, not at each step.

What a router must learn is small, but its examples are dear: each is a picture that all experts restore. Kept features
and prices of some thousand pictures let it pass over them many times in seconds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, cast

import safetensors.torch
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from moceir.data.datasets import Batch
from moceir.networks.routing import PictureRouter, Standardise
from moceir.networks.unet import UNet
from moceir.pictures.files import write_atomically
from moceir.training.optim import cosine_schedule
from moceir.training.teaching import ByResult

TEMPERATURES = (0.05, 1.0, 3.0)
"""In dB. At each of them, an expert worse than the best by this much should be chosen with a probability lower by a
factor of e; the targets are the mean. The low one asks for the best expert, even if it is hardly better; unlike it
alone, the others say how much a choice matters."""


class Examples(NamedTuple):
    """What a router sees of N pictures, and what its choice costs."""

    features: Tensor
    """(N, d), not normalised."""
    prices: Tensor
    """(N, n) in dB, of each expert, see :meth:`ByResult.prices`."""
    tasks: Sequence[str]
    """The task of each picture."""

    def part(self, places: slice) -> Examples:
        """Return some of the examples."""
        return Examples(self.features[places], self.prices[places], self.tasks[places])

    @classmethod
    def joined(cls, parts: Sequence[Examples]) -> Examples:
        """Return the examples of all parts, in this order."""
        features, prices, tasks = zip(*parts, strict=True)
        return cls(torch.cat(features), torch.cat(prices), [task for part in tasks for task in part])

    def lost(self, chosen: Tensor) -> Tensor:
        """Return how much dearer each picture's choice (N,) is than the best one, (N,) in dB."""
        return self.prices.gather(1, chosen[:, None])[:, 0] - self.prices.min(dim=1).values


def router_of(network: UNet) -> PictureRouter:
    """Return the router of a network that has one for the whole picture.

    Raises:
        ValueError: when it has none.
    """
    for module in network.modules():
        if isinstance(module, PictureRouter):
            return module
    raise ValueError(f"{type(network).__name__} has no router that chooses once for a picture")


def collect_examples(network: UNet, batches: Iterable[Batch], *, teacher: ByResult) -> Examples:
    """Restore pictures with every expert.

    Args:
        network: the network, in evaluation mode.
        batches: pictures.
        teacher: sets the price of an expert.

    Raises:
        ValueError: when the network has no router that chooses once for a picture, or there is no picture.
    """
    seen: list[Tensor] = []
    features, prices = [], []
    tasks: list[str] = []
    handle = router_of(network).mlp.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    try:
        for batch in batches:
            prices.append(teacher.prices(network, batch.degraded, batch.clean))
            features.append(seen[-1])
            tasks.extend(batch.tasks)
    finally:
        handle.remove()
    if not tasks:
        raise ValueError("there are no pictures to fit the router to")
    return Examples(torch.cat(features), torch.cat(prices), tasks)


class ExamplesFile:
    """A file that keeps examples, so that a collection can be continued or added to.

    Args:
        path: the file, .safetensors.
        network: the network of the examples. Its router doesn't matter.
        teacher: what set the prices.
    """

    def __init__(self, path: Path, *, network: UNet, teacher: ByResult) -> None:
        self.path = path
        router = {id(tensor) for tensor in router_of(network).state_dict(keep_vars=True).values()}
        digest = hashlib.sha256(str(teacher.db_per_gmac).encode())
        for name, tensor in network.state_dict(keep_vars=True).items():
            if id(tensor) not in router:
                digest.update(name.encode() + tensor.detach().cpu().numpy().tobytes())
        self.origin = digest.hexdigest()

    def write(self, examples: Examples) -> None:
        """Write the file, whole or not at all."""
        tensors = {"features": examples.features, "prices": examples.prices}
        metadata = {"tasks": "\n".join(examples.tasks), "origin": self.origin}
        write_atomically(self.path, safetensors.torch.save(tensors, metadata))

    def read(self) -> Examples:
        """Read the file.

        Raises:
            ValueError: when it isn't such a file, or its examples are of another network or teacher.
        """
        try:
            with safe_open(self.path, "pt") as file:
                metadata = file.metadata() or {}
                features, prices, tasks = file.get_tensor("features"), file.get_tensor("prices"), metadata["tasks"]
        except (SafetensorError, KeyError) as error:
            raise ValueError(f"{self.path}: doesn't hold a router's examples ({error})") from error
        if metadata.get("origin") != self.origin:
            raise ValueError(f"{self.path}: was made with other weights or another price; use another folder")
        return Examples(features, prices, tasks.split("\n"))


def fit_router(
    network: UNet,
    examples: Examples,
    *,
    steps: int = 3000,
    batch_size: int = 256,
    lr: float = 2e-3,
    weight_decay: float = 1,
    seed: int = 0,
) -> None:
    """Replace what the router has learned by what the examples teach.

    Args:
        network: the network of the examples.
        examples: all of them are used.
        steps: of AdamW, with a learning rate that falls from ``lr`` to zero along a cosine.
        batch_size: examples of a step.
        lr: the learning rate.
        weight_decay: of AdamW. Without, the router learns some crops by heart.
        seed: of the first weights and of the order.
    """
    mlp = router_of(network).mlp
    features, prices, _ = examples
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for layer in mlp:
            if isinstance(layer, nn.Linear):
                layer.reset_parameters()
            elif isinstance(layer, Standardise):
                layer.centre.copy_(features.mean(dim=0))
                layer.scale.copy_(features.std(dim=0, correction=0).clamp_min(1e-6))
        batches = [torch.randint(len(features), (batch_size,)) for _ in range(steps)]
    targets = torch.stack([(-prices / one).softmax(dim=1) for one in TEMPERATURES]).mean(dim=0)
    optimizer = torch.optim.AdamW(mlp.parameters(), lr=lr, weight_decay=weight_decay)
    schedule = cosine_schedule(optimizer, total_steps=steps, warmup_steps=0, decay=1)
    for batch in batches:
        loss = F.cross_entropy(mlp(features[batch]), targets[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


@torch.no_grad()
def choices(network: UNet, examples: Examples) -> Tensor:
    """Return the experts that the router takes for the examples, (N,)."""
    return cast(Tensor, router_of(network).mlp(examples.features)).argmax(dim=1)
