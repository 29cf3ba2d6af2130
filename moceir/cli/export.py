"""``moceir export``: a network as a file for other runtimes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer
from rich.console import Console
from rich.markup import escape

from moceir.cli.options import MacBudget, TopK, Weights
from moceir.extras import require
from moceir.inference.weights import SHIPPED, load_weights
from moceir.pictures.files import find_pictures, write_atomically

if TYPE_CHECKING:
    import onnx

#: Side in pixels of the pictures that a model for any size is measured with.
_SIDE = 256


class Precision(StrEnum):
    """The number format of a model's weights or convolutions."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    int8 = "int8"


class Kind(StrEnum):
    """The file formats of models."""

    onnx = "onnx"
    openvino = "openvino"


Output = Annotated[Path, typer.Option("--output", "-o", help="The file to write.")]
Route = Annotated[
    str,
    typer.Option(help="routed: the model chooses experts; cheapest, or experts as in 0,1,0,…: it holds only these."),
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
    precision: Annotated[
        Precision, typer.Option(help="bfloat16: weights in half the size. int8: convolutions of 8 bits; wants --size.")
    ] = Precision.float32,
    clean: Annotated[
        Path | None, typer.Option(help="Clean pictures to measure with what that costs. Default: scikit-image's.")
    ] = None,
    max_loss: Annotated[float, typer.Option(help="dB that it may cost in any task, else nothing is written.")] = 0.05,
) -> None:
    """Write a network as a file for other runtimes.

    The file is an ONNX model (opset 18), or OpenVINO's intermediate representation: an .xml with a .bin beside it.
    With another precision, the command first measures the loss of quality in each task, and writes nothing if a task
    loses more than --max-loss.
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
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    if precision is not Precision.float32:
        model = _reduced(model, precision, clean, _size(size), max_loss, console)
    if kind is Kind.onnx:
        write_atomically(output, model.SerializeToString())
    else:
        from moceir.export.openvino import save_openvino, to_openvino

        save_openvino(to_openvino(model), output)
    about = ", ".join(f"{entry.key} {entry.value}" for entry in model.metadata_props if entry.key != "config")
    console.print(escape(f"wrote {output}: {about}"))


def _reduced(
    model: onnx.ModelProto,
    precision: Precision,
    clean: Path | None,
    size: tuple[int, int] | None,
    max_loss: float,
    console: Console,
) -> onnx.ModelProto:
    """Convert the model to another precision; raise ValueError when a task loses more than ``max_loss`` dB."""
    require(f"--precision {precision}", "export", "onnxruntime")
    require(f"measuring --precision {precision}", "train", "hydra")
    from moceir.export.precision import check, measure, with_bfloat16_weights, with_int8_convolutions

    if precision is Precision.int8 and size is None:
        raise ValueError("--precision int8 needs --size: ranges are found at the size that will be run")
    height, width = size or (_SIDE, _SIDE)
    samples = list(_samples(clean, height, width))
    if precision is Precision.bfloat16:
        reduced = with_bfloat16_weights(model)
    else:  # every third picture calibrates the ranges
        reduced = with_int8_convolutions(model, (degraded for degraded, _, _ in samples[::3]))
    losses = measure(model, reduced, samples)
    for loss in losses:
        console.print(f"{loss.task}: {loss.psnr:.2f} dB, loses {loss.lost:.3f} dB")
    check(losses, str(precision), max_loss)
    return reduced


def _samples(clean: Path | None, height: int, width: int) -> Iterator[tuple[np.ndarray, np.ndarray, str]]:
    """Yield (degraded, clean, task) for the middle of each picture."""
    from moceir.config import build
    from moceir.data.datasets import PairSet, WholePictures
    from moceir.data.pairs import Pair
    from moceir.data.pictures import PictureFile, Window
    from moceir.data.samples import sample_photographs

    pairs = []
    for path in sample_photographs() if clean is None else find_pictures(clean):
        rows, columns = PictureFile(str(path)).size()
        if rows >= height and columns >= width:
            window = Window((rows - height) // 2, (columns - width) // 2, height, width)
            pairs.append(Pair(PictureFile(str(path)), None, path.stem, path.stem, window=window))
    if not pairs:
        raise ValueError(f"--clean {clean}: no picture of at least {height}×{width}")
    degradations = build("data.validation_degradations", ["degradation=benchmark"])
    parts = WholePictures(sets=[PairSet("clean", pairs, "")], degradations=degradations, seed=0)
    for degraded, whole, task, _ in (parts[index] for index in range(len(parts))):
        yield degraded[None].numpy(), whole[None].numpy(), task


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if match is None:
        raise ValueError(f"--size {text}: give height and width as in 720x1280")
    return int(match[1]), int(match[2])
