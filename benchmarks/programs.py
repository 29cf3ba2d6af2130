"""What `make bench` times: each program prepares, then runs and reports once for every line it reads.

Run by :mod:`contest`, each in a process of its own, also with version 0.1 of the package; so only what both versions
have is used outside the functions that need more.
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
    """One and the same noise, (1, 3, height, width) in [0, 1]."""
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0))


def keep_freed_memory() -> None:
    """As the command-line programs do."""
    if hasattr(moceir, "NAFNet"):
        from moceir.engine.allocator import keep_freed_memory
    else:
        from moceir.inference.allocator import keep_freed_memory
    keep_freed_memory()


def make(network: str) -> nn.Module:
    """``published``, with the shipped weights, or ``second``, with random ones, for evaluation."""
    if not hasattr(moceir, "NAFNet"):  # version 0.1
        return load_pretrained()
    if network == "published":
        return load_pretrained("moce_ir_30g")
    torch.manual_seed(0)
    second = moceir.NAFNet().eval()
    nn.init.normal_(second.output.weight, std=0.02)
    return second


def restore(network: str, height: int, width: int) -> Run:
    """From 8-bit pixels to 8-bit pixels, routing included."""
    keep_freed_memory()
    restorer = Restorer(make(network), mac_budget=None)
    pixels = (picture(height, width)[0].permute(1, 2, 0).numpy() * 255).astype(np.uint8)
    return lambda: restorer.restore(pixels)


def forced(network: str, height: int, width: int, expert: int) -> Run:
    """Every layer on one expert."""
    keep_freed_memory()
    engine = Restorer(make(network), mac_budget=None).engine
    layers = len(engine.route_costs.experts)
    route = torch.full((layers, 1, 1), expert)
    pixels = picture(height, width)
    return lambda: engine.restore_and_route(pixels, experts=route)


def whole(network: str, height: int, width: int) -> Run:
    """The network on a whole map, in PyTorch's plain operations, channels last."""
    from unittest.mock import patch

    from moceir.networks import layers

    keep_freed_memory()
    model = make(network).to(memory_format=torch.channels_last)
    pixels = picture(height, width)

    def run() -> None:
        with torch.inference_mode(), patch.object(layers, "inferring_on_cpu", lambda _: False):
            model(pixels)

    return run


def plain(height: int, width: int) -> Run:
    """The published network as a straightforward port has it, with the allocator as it is."""
    from plain import plain_form

    network = make("published")
    pixels = picture(height, width)

    def run() -> None:
        with torch.inference_mode(), plain_form():
            network(pixels)

    return run


def step(form: str, batch: int) -> Run:
    """A step of training the published network on ``batch`` crops of 128×128, in ``plain`` or ``present`` form."""
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
    """A 4096³ matrix product."""
    left, right = torch.rand(4096, 4096), torch.rand(4096, 4096)
    return lambda: left @ right


class _Mallinfo(ctypes.Structure):
    """``struct mallinfo2`` of glibc's malloc.h."""

    _fields_ = [
        *((name, ctypes.c_size_t) for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd")),
        *((name, ctypes.c_size_t) for name in ("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")),
    ]


def allocated() -> int:
    """Bytes that glibc has given out."""
    mallinfo = ctypes.CDLL(None).mallinfo2
    mallinfo.restype = _Mallinfo
    now = mallinfo()
    return now.uordblks + now.hblkhd


def live_peak(run: Run) -> int:
    """Return the peak of the bytes that a run adds to those in use before it, sampled every millisecond."""
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
    """Return the peak of the bytes in use in a second run, on the costliest expert."""
    run = forced(network, height, width, 3) if network == "published" else restore(network, height, width)
    run()
    return {"live": live_peak(run)}


def differences() -> dict[str, float]:
    """How far results of the engine are from the whole map's: at 720p, and with a map computed twice at 6 MP."""
    from moceir.engine import schedule

    network = make("published")
    engine = schedule.Engine(network)
    with torch.inference_mode():
        expected = network(picture(720, 1280))
    found = {"720p": float((engine.restore_and_route(picture(720, 1280)).restored - expected).abs().max())}
    kept = engine.restore_and_route(picture(2000, 3000)).restored
    schedule.COMPUTE_TWICE_FROM = 0
    lean = engine.restore_and_route(picture(2000, 3000)).restored
    return {**found, "computed twice": float((lean - kept).abs().max())}


def busy() -> None:
    """Nothing, for ever."""
    while True:
        pass


def busy_torch() -> None:
    """Convolutions with as many threads as torch takes, for ever, as another program might."""
    x, layer = torch.rand(1, 64, 256, 256), nn.Conv2d(64, 64, 3, padding=1)
    with torch.inference_mode():
        while True:
            layer(x)


def main() -> None:
    """Prepare, and run once for every line."""
    name, *arguments = sys.argv[1:]
    prepared = globals()[name](*(int(one) if one.isdigit() else one for one in arguments))
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
