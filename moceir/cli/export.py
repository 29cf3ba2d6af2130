"""``moceir export``: a network as a file for other runtimes."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from moceir.cli.options import MacBudget, TopK, Weights
from moceir.extras import require
from moceir.inference.weights import SHIPPED, load_weights
from moceir.pictures.files import write_atomically


class Kind(StrEnum):
    """Of models."""

    onnx = "onnx"
    openvino = "openvino"


Output = Annotated[Path, typer.Option("--output", "-o", help="The file to write.")]
Route = Annotated[
    str,
    typer.Option(
        help="routed: the model chooses experts; cheapest, or experts as in 0,1,0,…: it has these alone, and no choice."
    ),
]
PictureSize = Annotated[
    str | None, typer.Option("--size", help="HEIGHTxWIDTH, for pictures of one size alone. Default: any.")
]


def export(
    kind: Kind,
    output: Output,
    weights: Weights = SHIPPED[0],
    topk: TopK = None,
    route: Route = "routed",
    size: PictureSize = None,
    mac_budget: MacBudget = 30.0,
) -> None:
    """Write a network as a file for other runtimes.

    An ONNX model (opset 18), or OpenVINO's intermediate representation: an .xml, and a .bin beside it.
    """
    require("moceir export", "export", "onnx", *(["openvino"] if kind is Kind.openvino else []))
    suffix = {Kind.onnx: ".onnx", Kind.openvino: ".xml"}[kind]
    if output.suffix != suffix:
        raise ValueError(f"--output {output}: a model for {kind} is a file {suffix}")
    from moceir.export.onnx import to_onnx

    network = load_weights(weights, topk=topk)
    network.mac_budget = mac_budget or None
    output.parent.mkdir(parents=True, exist_ok=True)
    model = to_onnx(network, route=route, size=_size(size))
    if kind is Kind.onnx:
        write_atomically(output, model.SerializeToString())
    else:
        from moceir.export.openvino import save_openvino, to_openvino

        save_openvino(to_openvino(model), output)
    about = ", ".join(f"{entry.key} {entry.value}" for entry in model.metadata_props if entry.key != "config")
    Console(stderr=True, soft_wrap=True, highlight=False).print(escape(f"wrote {output}: {about}"))


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if match is None:
        raise ValueError(f"--size {text}: give height and width as in 720x1280")
    return int(match[1]), int(match[2])
