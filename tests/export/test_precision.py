"""Tests models of other precisions: their content, their loss of quality, and the limit on that loss."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from conftest import pictures, randomise
from typer.testing import CliRunner

import moceir
from moceir.cli.main import app
from moceir.export.onnx import to_onnx
from moceir.export.openvino import to_openvino
from moceir.export.precision import Loss, check, measure, with_bfloat16_weights, with_int8_convolutions
from moceir.pictures.arrays import write_picture

SMALL = {"dim": 4, "num_blocks": (1, 1), "num_decoder_blocks": (1,), "num_heads": (1, 2), "num_refinement_blocks": 0}


def weights(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Return all nodes, including those of branches."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from weights(attribute.g)


@pytest.fixture(scope="module")
def network() -> moceir.MoCEIR:
    return randomise(moceir.MoCEIR(**SMALL)).eval()  # type: ignore[arg-type]


def run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    return onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"image": x})[0]


def test_weights_are_rounded_to_bfloat16_and_nothing_else(network: moceir.MoCEIR) -> None:
    model = to_onnx(network, size=(33, 50))
    half = with_bfloat16_weights(model)
    onnx.checker.check_model(half)
    assert onnx.TensorProto.BFLOAT16 not in {weight.data_type for weight in weights(model.graph)}
    large = [weight for weight in weights(half.graph) if np.prod(weight.dims) >= 16]
    assert {weight.data_type for weight in large} <= {onnx.TensorProto.BFLOAT16, onnx.TensorProto.INT64}
    rounded = [weight for weight in large if weight.data_type == onnx.TensorProto.BFLOAT16]
    whole = {weight.name: onnx.numpy_helper.to_array(weight) for weight in model.graph.initializer}
    casts = {node.input[0]: node.output[0] for node in half.graph.node if node.op_type == "Cast"}
    for weight in rounded[:20]:
        if weight.name in casts and casts[weight.name] in whole:
            expected = torch.from_numpy(whole[casts[weight.name]].copy()).bfloat16().float().numpy()
            assert np.array_equal(onnx.numpy_helper.to_array(weight).astype(np.float32), expected)
    x = pictures(1, 33, 50).numpy()
    exact, close = run(model, x), run(half, x)
    assert 0 < np.abs(exact - close).max() < 0.05 * np.abs(exact).max()
    import openvino

    compiled = openvino.Core().compile_model(to_openvino(half), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    assert np.abs(compiled(x)[0] - close).max() < 1e-4 * np.abs(close).max()


def test_convolutions_of_8_bits(network: moceir.MoCEIR) -> None:
    model = to_onnx(network, route="0", size=(32, 32))
    eight = with_int8_convolutions(model, [pictures(1, 32, 32, seed).numpy() for seed in range(2)])
    assert onnx.TensorProto.INT8 in {weight.data_type for weight in weights(eight.graph)}
    x = pictures(1, 32, 32).numpy()
    assert np.abs(run(model, x) - run(eight, x)).max() > 0


def test_the_loss_is_measured_by_task(network: moceir.MoCEIR) -> None:
    model = to_onnx(network, route="0", size=(32, 32))
    clean = pictures(1, 32, 32).numpy()
    (same,) = measure(model, model, [(clean, clean, "a task")])
    assert (same.task, same.lost) == ("a task", 0.0)
    check([Loss("good", 30.0, 0.05), Loss("better", 30.0, -1.0)], "int8")
    with pytest.raises(ValueError, match=r"int8 loses more than 0\.05 dB: bad 0\.051 dB; keep float32"):
        check([Loss("good", 30.0, 0.05), Loss("bad", 30.0, 0.051)], "int8")


def test_the_command_refuses_what_loses_too_much(
    network: moceir.MoCEIR, tmp_path: Path, photograph: np.ndarray
) -> None:
    moceir.save_network(network, tmp_path / "small.safetensors")
    write_picture(tmp_path / "clean" / "a.png", photograph)
    base = ["export", "onnx", "--weights", str(tmp_path / "small.safetensors"), "--route", "0", "--size", "32x32"]
    base += ["--clean", str(tmp_path / "clean"), "-o", str(tmp_path / "model.onnx")]
    refused = CliRunner().invoke(app, [*base, "--precision", "bfloat16", "--max-loss", "-10"])
    assert "bfloat16 loses more than -10 dB" in str(refused.exception)
    assert "jpeg_20:" in refused.stderr
    assert not (tmp_path / "model.onnx").exists()
    done = CliRunner().invoke(app, [*base, "--precision", "int8", "--max-loss", "99"])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "model.onnx").exists()
    for arguments, message in (
        (["--precision", "int8", "--size", "500x500"], "no picture of at least"),
        (["--precision", "int8"], "needs --size"),
    ):
        command = [one for one in base if one not in ("--size", "32x32")]
        assert message in str(CliRunner().invoke(app, [*command, *arguments]).exception)
