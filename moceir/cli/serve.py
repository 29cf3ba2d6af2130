"""``moceir serve``: a page for people and a service for programs, on one port."""

from __future__ import annotations

from typing import Annotated

import typer

from moceir.cli.options import Device, MacBudget, Threads, TopK, Weights, resolve_device
from moceir.extras import require
from moceir.inference.weights import SHIPPED

_MB = 1_000_000


def serve(
    host: Annotated[str, typer.Option(help="The address to listen at; 0.0.0.0 for everybody.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 for any that is free.")] = 8000,
    weights: Weights = SHIPPED[0],
    topk: TopK = None,
    mac_budget: MacBudget = 30.0,
    device: Device = "auto",
    workers: Annotated[int, typer.Option("--workers", "-w", min=1, help="Pictures at once.")] = 1,
    threads: Threads = None,
    queue: Annotated[int, typer.Option(min=0, help="Requests that may wait; more are refused.")] = 8,
    timeout: Annotated[
        float, typer.Option(min=0.1, max=86400, help="Seconds for an upload, and for the work on one picture.")
    ] = 120.0,
    max_upload: Annotated[int, typer.Option(min=1, help="MB of an upload.")] = 200,
    max_pixels: Annotated[int, typer.Option(min=0, help="Refuse pictures of more; 0 for any number.")] = 50_000_000,
) -> None:
    """Open a page in the browser to restore pictures and compare, and serve POST /restore to programs.

    It needs pip install 'moceir[demo]', and no internet.
    """
    require("moceir serve", "demo", "starlette", "uvicorn", "skimage")
    from moceir.cores import available_cores
    from moceir.serve.server import run

    run(
        {
            "weights": weights,
            "topk": topk,
            "device": resolve_device(device),
            "threads": threads or max(1, available_cores() // workers),
            "mac_budget": mac_budget,
            "max_pixels": max_pixels,
        },
        host=host,
        port=port,
        workers=workers,
        waiting=queue,
        timeout=timeout,
        max_bytes=max_upload * _MB,
    )
