"""Exports models with 16-bit weights or 8-bit convolutions, and measures what that costs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnxruntime import quantization

#: dB that a task may lose unless more is allowed.
MOST_LOST = 0.05


def with_bfloat16_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """Round a model's weights to bfloat16, which halves its size; it computes in single precision."""
    model = onnx.ModelProto.FromString(model.SerializeToString())
    _round(model.graph, count())
    return model


def _round(graph: onnx.GraphProto, numbers: Iterator[int]) -> None:
    casts = []
    for weight in graph.initializer:
        if weight.data_type != TensorProto.FLOAT or np.prod(weight.dims) < 16:
            continue
        values = numpy_helper.to_array(weight).astype(np.float32).view(np.uint32)
        # To the nearest, and to the even one of two.
        halves = ((values + 0x7FFF + ((values >> 16) & 1)) >> 16).astype(np.uint16)
        name = f"bfloat16_{next(numbers)}"
        casts.append(helper.make_node("Cast", [name], [weight.name], to=TensorProto.FLOAT))
        weight.CopyFrom(helper.make_tensor(name, TensorProto.BFLOAT16, weight.dims, halves.tobytes(), raw=True))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _round(attribute.g, numbers)


def with_int8_convolutions(model: onnx.ModelProto, pictures: Iterable[np.ndarray]) -> onnx.ModelProto:
    """Convert convolutions to 8 bits in QDQ form, with a scale for each weight channel.

    Convolutions within branches, which are the experts of a routed model, stay as they are.

    Args:
        model: of fixed experts, or routed.
        pictures: (1, 3, H, W) float32 in [0, 1], of a size that the model takes; they decide the ranges.
    """

    class Reader:  # what has get_next is a CalibrationDataReader to onnxruntime
        rest = iter([{"image": picture} for picture in pictures])

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.rest, None)

    level = logging.root.level
    logging.root.setLevel(logging.ERROR)  # it advises to run a step that wants shapes to be known
    try:
        with TemporaryDirectory() as folder:
            before, after = Path(folder, "before.onnx"), Path(folder, "after.onnx")
            onnx.save(model, before)
            quantization.quantize_static(
                before,
                after,
                Reader(),
                quant_format=quantization.QuantFormat.QDQ,
                op_types_to_quantize=["Conv"],
                per_channel=True,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
            )
            return onnx.load(after)
    finally:
        logging.root.setLevel(level)


class Loss(NamedTuple):
    """The quality that a task loses."""

    task: str
    psnr: float
    """The mean dB over pictures of the model in single precision."""
    lost: float
    """dB."""


def measure(
    model: onnx.ModelProto, other: onnx.ModelProto, samples: Iterable[tuple[np.ndarray, np.ndarray, str]]
) -> list[Loss]:
    """Measure by how much a model is worse than another, task by task.

    Args:
        model: the model in single precision.
        other: the model to measure.
        samples: degraded and clean pictures, (1, 3, H, W) float32 in [0, 1], and the task.
    """
    runs = [_runner(one) for one in (model, other)]
    found: dict[str, list[list[float]]] = {}
    for degraded, clean, task in samples:
        scores = [_psnr(run(degraded), clean) for run in runs]
        found.setdefault(task, []).append(scores)
    means = {task: np.mean(scores, axis=0) for task, scores in found.items()}
    return [Loss(task, float(before), float(before - after)) for task, (before, after) in means.items()]


def _runner(model: onnx.ModelProto) -> Callable[[np.ndarray], np.ndarray]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return lambda picture: session.run(None, {"image": picture})[0]


def _psnr(picture: np.ndarray, clean: np.ndarray) -> float:
    error = np.square(picture.clip(0, 1) - clean, dtype=np.float64).mean()
    return float(-10 * np.log10(max(error, 1e-12)))


def check(losses: Iterable[Loss], precision: str, most: float = MOST_LOST) -> None:
    """Raise ValueError when a task loses more than a limit in dB; the message names every such task."""
    over = [f"{loss.task} {loss.lost:.3f} dB" for loss in losses if loss.lost > most]
    if over:
        raise ValueError(
            f"{precision} loses more than {most:g} dB: {', '.join(over)}; keep float32, or raise --max-loss"
        )
