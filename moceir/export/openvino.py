"""Exports a network as OpenVINO's intermediate representation, through its ONNX model."""

from __future__ import annotations

from pathlib import Path

import onnx
import openvino

#: Height and width of the largest pictures for models of any size; without a limit OpenVINO's plugin for CPUs counts
#: how much memory a map may take until its numbers overflow.
LARGEST = 16384


def to_openvino(model: onnx.ModelProto) -> openvino.Model:
    """Convert the model for OpenVINO, with its metadata below ``moceir``."""
    converted = openvino.Core().read_model(model.SerializeToString())
    if converted.is_dynamic():
        side = openvino.Dimension(1, LARGEST)
        converted.reshape(openvino.PartialShape([1, 3, side, side]))
    for entry in model.metadata_props:
        converted.set_rt_info(entry.value, ["moceir", entry.key])
    return converted


def save_openvino(model: openvino.Model, path: Path) -> None:
    """Write ``path``, an ``.xml``, and the weights beside it, a ``.bin``, in single precision."""
    openvino.save_model(model, path, compress_to_fp16=False)
