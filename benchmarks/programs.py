"""The programs that `make bench` times: each prepares, then runs and reports once per line of standard input.

:mod:`contest` runs each in its own process, also with version 0.1 of the package. Module-level code therefore uses only
what both versions provide.
"""

from __future__ import annotations

import ctypes
import json
import resource
import sys
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import moceir
from moceir import Restorer, load_pretrained

Run = Callable[[], object]


def picture(height: int, width: int) -> Tensor:
    """Return a picture of noise from a fixed seed, (1, 3, height, width) in [0, 1]."""
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0))


def keep_freed_memory() -> None:
    """Configure the allocator as the commands do."""
    if hasattr(moceir, "NAFNet"):
        from moceir.engine.allocator import keep_freed_memory
    else:
        from moceir.inference.allocator import keep_freed_memory
    keep_freed_memory()


def build(network: str) -> nn.Module:
    """Return ``published`` with the shipped weights, or ``second`` with random weights, in evaluation mode."""
    if not hasattr(moceir, "NAFNet"):  # version 0.1
        return load_pretrained()
    if network == "published":
        return load_pretrained("moce_ir_30g")
    torch.manual_seed(0)
    second = moceir.NAFNet().eval()
    nn.init.normal_(second.output.weight, std=0.02)
    return second


def restore(network: str, height: int, width: int) -> Run:
    """Restore 8-bit pixels to 8-bit pixels, including routing."""
    keep_freed_memory()
    restorer = Restorer(build(network), mac_budget=None)
    pixels = (picture(height, width)[0].permute(1, 2, 0).numpy() * 255).astype(np.uint8)
    return lambda: restorer.restore(pixels)


def forced(network: str, height: int, width: int, expert: int) -> Run:
    """Restore with every layer on one expert."""
    keep_freed_memory()
    engine = Restorer(build(network), mac_budget=None).engine
    layers = len(engine.route_costs.experts)
    route = torch.full((layers, 1, 1), expert)
    pixels = picture(height, width)
    return lambda: engine.restore_and_route(pixels, experts=route)


def whole(network: str, height: int, width: int) -> Run:
    """Run the network on whole maps with PyTorch's plain operations, channels last."""
    from unittest.mock import patch

    from moceir.networks import layers

    keep_freed_memory()
    model = build(network).to(memory_format=torch.channels_last)
    pixels = picture(height, width)

    def run() -> None:
        with torch.inference_mode(), patch.object(layers, "inferring_on_cpu", lambda _: False):
            model(pixels)

    return run


def plain(height: int, width: int) -> Run:
    """Run the published network as a straightforward port does, with the default allocator."""
    from plain import plain_form

    network = build("published")
    pixels = picture(height, width)

    def run() -> None:
        with torch.inference_mode(), plain_form():
            network(pixels)

    return run


def step(form: str, batch: int) -> Run:
    """Train the published network for a step on ``batch`` crops of 128×128, in ``plain`` or ``present`` form."""
    from plain import plain_form

    from moceir import MoCEIR

    keep_freed_memory()
    torch.manual_seed(0)
    degraded, clean = torch.rand(2, batch, 3, 128, 128)
    network = MoCEIR().train()
    nn.init.normal_(network.output.weight, std=0.02)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, foreach=True)

    def run() -> None:
        with plain_form() if form == "plain" else nullcontext():
            restoration = network.restore_and_route(degraded)
            loss = (restoration.restored - clean).abs().mean() + 0.05 * restoration.balance_loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return run


def product() -> Run:
    """Multiply two 4096×4096 matrices."""
    left, right = torch.rand(4096, 4096), torch.rand(4096, 4096)
    return lambda: left @ right


class _Mallinfo(ctypes.Structure):
    """The ``struct mallinfo2`` of glibc's malloc.h."""

    _fields_ = [
        *((name, ctypes.c_size_t) for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd")),
        *((name, ctypes.c_size_t) for name in ("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")),
    ]


def allocated() -> int:
    """Return the number of bytes that glibc has allocated."""
    mallinfo = ctypes.CDLL(None).mallinfo2
    mallinfo.restype = _Mallinfo
    now = mallinfo()
    return now.uordblks + now.hblkhd


def live_peak(run: Run) -> int:
    """Return the peak increase of allocated bytes during a run, sampled every millisecond."""
    before = peak = allocated()
    stop = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not stop.wait(0.001):
            peak = max(peak, allocated())

    watcher = threading.Thread(target=watch)
    watcher.start()
    run()
    stop.set()
    watcher.join()
    return peak - before


def live(network: str, height: int, width: int) -> dict[str, Any]:
    """Return the peak increase of allocated bytes during a second run, on the costliest expert."""
    run = forced(network, height, width, 3) if network == "published" else restore(network, height, width)
    run()
    return {"live": live_peak(run)}


def differences() -> dict[str, float]:
    """Return the largest errors: engine against whole maps at 720p, and maps computed twice against stored at 6 MP."""
    from moceir.engine import schedule

    network = build("published")
    engine = schedule.Engine(network)
    with torch.inference_mode():
        expected = network(picture(720, 1280))
    found = {"720p": float((engine.restore_and_route(picture(720, 1280)).restored - expected).abs().max())}
    kept = engine.restore_and_route(picture(2000, 3000)).restored
    schedule.LARGE, schedule.PART_OF_MEMORY = 0, 0
    computed_twice = engine.restore_and_route(picture(2000, 3000)).restored
    return {**found, "computed twice": float((computed_twice - kept).abs().max())}


def busy() -> None:
    """Loop forever."""
    while True:
        pass


def busy_torch() -> None:
    """Compute convolutions forever with torch's default number of threads."""
    x, layer = torch.rand(1, 64, 256, 256), nn.Conv2d(64, 64, 3, padding=1)
    with torch.inference_mode():
        while True:
            layer(x)


def main() -> None:
    """Prepare the program, then run it once per line."""
    name, *arguments = sys.argv[1:]
    prepared = globals()[name](*(int(argument) if argument.isdigit() else argument for argument in arguments))
    if isinstance(prepared, dict):
        print(json.dumps(prepared), flush=True)
        return
    for _ in sys.stdin:
        start = time.perf_counter()
        prepared()
        seconds = time.perf_counter() - start
        resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps({"seconds": seconds, "resident": resident}), flush=True)


if __name__ == "__main__":
    main()
