"""Speed and memory of restoring and training: `make bench`.

Prints tables and writes the same numbers as JSON. Times are the best of several, and stand beside the rate of a large
matrix product in the same run, because machines are shared. See docs/performance.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import torch
from plain import plain_form
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.profiler import profile

from moceir import MoCEIR, Restorer, load_pretrained
from moceir.data.samples import sample_photograph
from moceir.engine import schedule as engine_module
from moceir.engine.allocator import keep_freed_memory
from moceir.engine.regions import Region
from moceir.engine.schedule import Engine
from moceir.inference.postprocess import quantise
from moceir.pictures.arrays import read_image
from moceir.pictures.files import write_atomically

#: Height and width, and how often each is timed.
SIZES = {"0.25 MP": (400, 640, 9), "720p": (720, 1280, 7), "1080p": (1080, 1920, 5), "12 MP": (3000, 4000, 2)}
SIZES["24 MP"] = (4000, 6000, 2)
#: Floating-point operations of the document's 28.98 GMACs at 1280×720, a pixel.
OPERATIONS_PER_PIXEL = 2 * 28.98e9 / (720 * 1280)


def best(work: Callable[[], object], count: int) -> float:
    """Seconds of the fastest of several runs."""
    times = []
    for _ in range(count):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def matrix_product_rate() -> float:
    """Operations a second of a 4096³ product in float32."""
    left, right = torch.rand(4096, 4096), torch.rand(4096, 4096)
    return 2 * 4096**3 / best(lambda: left @ right, 4)


def restore(engine: Engine, picture: Tensor, experts: Tensor) -> None:
    """As :class:`moceir.Restorer` does, without the filter; (H, W, 3) uint8."""
    restored = torch.empty_like(picture)

    def read(region: Region) -> Tensor:
        part = picture[region.top : region.bottom, region.left : region.right]
        return part.permute(2, 0, 1)[None].float() / 255

    def write(region: Region, part: Tensor) -> None:
        target = restored[region.top : region.bottom, region.left : region.right]
        target.copy_(torch.from_numpy(quantise(part[0])))

    engine.run(read, write, *picture.shape[:2], experts=experts)


def live_peak(work: Callable[[], object]) -> int:
    """Bytes of tensors that live at once, of those made meanwhile."""
    work()
    with profile(profile_memory=True) as recorded:
        work()
    events = [e for e in recorded.profiler.kineto_results.events() if e.name() == "[memory]"]
    live = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak


def measure_size(height: int, width: int, count: int) -> dict[str, object]:
    """Times of all routes through one expert, and the most memory that was resident until then."""
    keep_freed_memory()
    torch.manual_seed(0)
    engine = Engine(load_pretrained())
    picture = torch.randint(0, 256, (height, width, 3), dtype=torch.uint8)
    routes = [torch.full((len(engine.route_costs.experts), 1, 1), expert) for expert in range(4)]
    seconds = [best(lambda route=route: restore(engine, picture, route), count) for route in routes]
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    live = live_peak(lambda: restore(engine, picture, routes[-1])) if height <= 1080 else None
    return {"seconds": seconds, "resident": resident, "live": live}


def measure_network() -> dict[str, float]:
    """The network itself and the engine at 720p, routing included, and how far they are apart."""
    keep_freed_memory()
    torch.manual_seed(0)
    network = load_pretrained()
    engine = Engine(network)
    noisy = torch.rand(1, 3, 720, 1280)
    restored: dict[str, Tensor] = {}

    def run(name: str, what: MoCEIR | Engine) -> Callable[[], None]:
        def work() -> None:
            with torch.inference_mode():
                restored[name] = what.restore_and_route(noisy).image

        return work

    def plain() -> None:
        with plain_form():
            run("plain", network)()

    seconds = {"plain": best(plain, 3), "network": best(run("network", network), 4)}
    seconds["engine"] = best(run("engine", engine), 4)
    return {**seconds, "difference": float((restored["network"] - restored["engine"]).abs().max())}


def measure_exactness() -> dict[str, float]:
    """How far results are from a whole picture's: with maps computed twice at 6 megapixels, and with tiles."""
    keep_freed_memory()
    torch.manual_seed(0)
    engine = Engine(load_pretrained())
    noisy = torch.rand(1, 3, 2000, 3000)
    kept = engine.restore_and_route(noisy).image
    engine_module.COMPUTE_TWICE_FROM = 0
    lean = engine.restore_and_route(noisy).image
    clean = read_image(sample_photograph("astronaut.png"))
    degraded = (clean + torch.randn(clean.shape).numpy() * 25).clip(0, 255).astype("uint8")
    tiled = {side: Restorer(load_pretrained(), tile=side).restore(degraded) for side in (None, 256)}
    whole, tiles = (torch.from_numpy(picture).float() for picture in tiled.values())

    def psnr(one: Tensor, other: Tensor) -> float:
        return float(10 * (255**2 / (one - other).square().mean()).log10())

    truth = torch.from_numpy(clean).float()
    return {
        "lean": float((lean - kept).abs().max()),
        "tiles_against_whole": psnr(tiles, whole),
        "whole_psnr": psnr(whole, truth),
        "tiles_psnr": psnr(tiles, truth),
    }


def measure_training(batch: int) -> dict[str, float]:
    """Samples a second of ``batch``×3×128×128, in plain form and as it is, in turns."""
    keep_freed_memory()
    torch.manual_seed(0)
    degraded, clean = torch.rand(2, batch, 3, 128, 128)
    forms = {}
    for name, form in {"plain": plain_form, "present": nullcontext}.items():
        network = MoCEIR().train()
        torch.nn.init.normal_(network.output.weight, std=0.02)
        forms[name] = form, network, torch.optim.AdamW(network.parameters(), lr=1e-4, foreach=True)
    seconds: dict[str, list[float]] = {name: [] for name in forms}
    for _ in range(8):
        for name, (form, network, optimizer) in forms.items():
            start = time.perf_counter()
            with form():
                restoration = network.restore_and_route(degraded)
                loss = (restoration.image - clean).abs().mean() + 0.05 * restoration.auxiliary_loss
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            seconds[name].append(time.perf_counter() - start)
    return {name: batch / min(times[1:]) for name, times in seconds.items()}


def in_processes(count: int, function: str, *arguments: int, threads: int) -> list[dict]:
    """Run a measurement in fresh processes at once, so that memory is their own."""
    command = [sys.executable, __file__, "--only", function, *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    with ThreadPoolExecutor(count) as pool:
        running = [
            pool.submit(subprocess.run, command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
            for _ in range(count)
        ]
        return [json.loads(process.result().stdout.splitlines()[-1]) for process in running]


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, default=Path("docs/performance.json"))
    parser.add_argument("--only", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        print(json.dumps(globals()[options.only[0]](*map(int, options.only[1:]))))
        return
    console = Console(width=112)
    costs = MoCEIR().route_costs
    cores = torch.get_num_threads()
    in_a_process = partial(in_processes, 1, threads=cores)
    report: dict[str, object] = {
        "processor": platform.processor() or platform.machine(),
        "cores": cores,
        "torch": torch.__version__,
        "gmacs_720p": {
            "network": [round((costs.base + sum(layer[e] for layer in costs.experts)) / 1e9, 3) for e in range(4)]
        },
    }
    title = "seconds, every layer on one expert (times the bound of matrix products)"
    table = Table(title=title, title_justify="left", box=box.SIMPLE)
    for column in ("picture", "bound", *(f"expert {expert}" for expert in range(4)), "µs/pixel", "live", "resident"):
        table.add_column(column, justify="right", no_wrap=True)
    sizes: dict[str, object] = {}
    for name, (height, width, count) in SIZES.items():
        bound = OPERATIONS_PER_PIXEL * height * width / matrix_product_rate()
        (measured,) = in_a_process("measure_size", height, width, count)
        sizes[name] = {"height": height, "width": width, "bound": bound, **measured}
        live, resident = measured["live"], measured["resident"]
        table.add_row(
            name,
            f"{bound:.2f}",
            *(f"{seconds:.2f} ({seconds / bound:.2f})" for seconds in measured["seconds"]),
            f"{sum(measured['seconds']) / 4 / height / width * 1e6:.2f}",
            "" if live is None else f"{live / 1e6:.0f} MB",
            f"{resident / 1e6:.0f} MB",
        )
    report["sizes"] = sizes
    (network_720p,) = in_a_process("measure_network")
    (exactness,) = in_a_process("measure_exactness")
    (training,) = in_a_process("measure_training", 8)
    each = in_processes(cores, "measure_training", max(1, 8 // cores), threads=1)
    training |= {f"{name}, a process per core": sum(rates[name] for rates in each) for name in training}
    report |= {"network_720p": network_720p, "exactness": exactness, "training_samples_per_second": training}
    console.print(table)
    console.print(
        f"720p with routing: plain form {network_720p['plain']:.2f} s, network {network_720p['network']:.2f} s, "
        f"engine {network_720p['engine']:.2f} s; largest difference {network_720p['difference']:.1e}"
    )
    console.print(
        f"maps computed twice: largest difference {exactness['lean']:.1e}; tiles of 256: "
        f"{exactness['tiles_against_whole']:.1f} dB from the whole picture's result, "
        f"{exactness['tiles_psnr']:.2f} instead of {exactness['whole_psnr']:.2f} dB from the truth"
    )
    console.print(
        f"training, 128×128 samples a second: plain form {training['plain']:.1f}, present {training['present']:.1f}; "
        f"one process per core: {training['plain, a process per core']:.1f}, "
        f"{training['present, a process per core']:.1f}"
    )
    write_atomically(options.json, json.dumps(report, indent=1).encode())


if __name__ == "__main__":
    main()
