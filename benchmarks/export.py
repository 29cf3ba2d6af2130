"""Times the engine, ONNX Runtime, and OpenVINO alternately on one picture, and compares their results.

python benchmarks/export.py --route 1,1,1,1,1,1,1 --rounds 5
python benchmarks/export.py --parity
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median

import numpy as np
import onnxruntime
import openvino
import torch

import moceir
from moceir.data.samples import sample_photographs
from moceir.engine.schedule import Engine
from moceir.export.onnx import parse_route, to_onnx
from moceir.export.openvino import to_openvino
from moceir.networks.unet import UNet
from moceir.pictures.arrays import read_picture


def runners(network: UNet, route: str, size: tuple[int, int], threads: int) -> dict[str, Callable[[], np.ndarray]]:
    """Return functions, by name, that restore the same picture and return (1, 3, H, W)."""
    x = np.random.default_rng(0).random((1, 3, *size), dtype=np.float32)
    experts = parse_route(route, network)
    choice = None if not experts else torch.tensor(experts)[:, None]
    engine = Engine(network, threads=threads)
    found: dict[str, Callable[[], np.ndarray]] = {
        "engine": lambda: engine.restore_and_route(torch.from_numpy(x), experts=choice).restored.numpy()
    }
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    model = to_onnx(network, route=route, size=size)
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    compiled = openvino.Core().compile_model(to_openvino(model), "CPU", settings)
    found["onnxruntime"] = lambda: session.run(None, {"image": x})[0]
    found["openvino"] = lambda: compiled(x)[0]
    return found


SIZES = ((1, 1), (37, 53), (128, 96), (200, 301), (256, 256))


def parity() -> None:
    """Print the largest difference from the network, for the routed model, each expert in all layers, and each size."""
    network = moceir.load_pretrained("moce_ir_30g")
    network.mac_budget = 30
    photographs = [read_picture(path) for path in sample_photographs()]
    rng = np.random.default_rng(0)
    for route in ("routed", *(",".join([str(expert)] * network.num_layers) for expert in range(network.num_experts))):
        experts = parse_route(route, network)
        choice = None if not experts else torch.tensor(experts)[:, None]
        model = to_onnx(network, route=route)
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        compiled = openvino.Core().compile_model(to_openvino(model), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        for height, width in SIZES:
            differences = []
            for photograph in photographs:
                top, left = (
                    (whole - side) // 2 for whole, side in zip(photograph.shape, (height, width), strict=False)
                )
                part = photograph[top : top + height, left : left + width] / 255
                x = np.float32(part + rng.normal(0, 0.1, part.shape)).transpose(2, 0, 1)[None]
                with torch.no_grad():
                    exact = network(torch.from_numpy(x), experts=choice).numpy()
                found = session.run(None, {"image": x})[0], compiled(x)[0]
                differences.append([float(np.abs(one - exact).max()) for one in found])
            of_onnx, of_openvino = np.max(differences, axis=0)
            print(f"{route}, {height}×{width}: ONNX Runtime {of_onnx:.1e}, OpenVINO {of_openvino:.1e}", flush=True)


def main() -> None:
    """Print median seconds, and the largest differences from the engine's results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--route", default="routed")
    parser.add_argument("--height", type=int, default=720)
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--parity", action="store_true", help="compare results on photographs instead")
    arguments = parser.parse_args()
    if arguments.parity:
        parity()
        return
    size = arguments.height, arguments.width
    network = moceir.load_pretrained("moce_ir_30g")
    network.mac_budget = 30
    plain = moceir.NAFNet().eval()
    contestants = {
        (name, threads): runners(one, route, size, threads)
        for name, one, route in (("MoCEIR", network, arguments.route), ("NAFNet", plain, "routed"))
        for threads in (1, 2)
    }
    for (name, threads), found in contestants.items():
        results = {runner: run() for runner, run in found.items()}  # warm-up
        times: dict[str, list[float]] = {runner: [] for runner in found}
        for _ in range(arguments.rounds):
            for runner, run in found.items():
                start = time.perf_counter()
                run()
                times[runner].append(time.perf_counter() - start)
        for runner in found:
            difference = np.abs(results[runner] - results["engine"]).max()
            seconds = median(times[runner])
            print(f"{name}, {threads} threads, {runner}: {seconds:.3f} s, differs by {difference:.1e}", flush=True)


if __name__ == "__main__":
    main()
