"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

from moceir.config import build
from moceir.data.sources import Source
from moceir.inference.weights import SHIPPED

Weights = Annotated[
    str,
    typer.Option(
        help=f"Weights shipped with moceir ({', '.join(SHIPPED)}), or a file: .safetensors, a training checkpoint or a "
        "published one."
    ),
]
PostFilter = Annotated[bool, typer.Option("--filter/--no-filter", help="The bilateral filter after the network.")]
Device = Annotated[str, typer.Option(help="Where to compute: cpu, cuda, cuda:1, mps; auto: cuda if available.")]
Threads = Annotated[
    int | None, typer.Option(min=1, help="CPU threads. Default: one for each core that the process may use.")
]
MacBudget = Annotated[float, typer.Option(help="GMACs a 1280×720 picture may cost; 0 for no limit.")]
TopK = Annotated[
    int | None,
    typer.Option(
        "--topk",
        help="Experts that a picture takes in a layer. Published checkpoints do not store it; their default is 1.",
    ),
]

Data = Annotated[str, typer.Option(help="Which datasets: the name of a file in conf/data.")]
Override = Annotated[
    list[str],
    typer.Option("--set", help="Change a value of the configuration, as in gopro_blur=blur_gamma; repeatable."),
]


def load_sources(data: str, overrides: list[str]) -> dict[str, Source]:
    """Load the datasets that a file in ``conf/data`` names.

    Raises:
        ValueError: when there is no such file, or an override does not fit.
    """
    return build("data.sets", [f"data={data}", *overrides])


def resolve_device(device: str) -> str:
    """Resolve ``--device``; ``auto`` is a CUDA device if there is one, else the CPU."""
    if device != "auto":
        return device
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
