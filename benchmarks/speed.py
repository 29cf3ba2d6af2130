"""`make bench` measures speed and memory of restoring and training, in fifteen minutes on two cores.

The programs run alternately (:mod:`contest`). The benchmark prints tables and appends a line of JSON to
benchmarks/history.jsonl, which `make bench-history` plots. docs/performance.md explains the results.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

import cv2
import torch
from contest import Program, neighbours, run_once, time_alternately
from rich import box
from rich.console import Console
from rich.table import Table

from moceir.cores import available_cores
from moceir.data.samples import sample_photograph

ROOT = Path(__file__).parents[1]
HISTORY = Path(__file__).with_name("history.jsonl")
#: Commit of version 0.1.
BEFORE = "3bc4031"
HD = (720, 1280)
SIZES = {"0.25 MP": (400, 640), "720p": HD, "1080p": (1080, 1920), "12 MP": (3000, 4000), "24 MP": (4000, 6000)}
#: Floating-point operations of the 28.98 GMACs that the document states for 1280×720.
OPERATIONS = 2 * 28.98e9


@contextmanager
def checkout(commit: str) -> Iterator[Path]:
    """Yield a temporary folder with the repository's files at a commit."""
    with tempfile.TemporaryDirectory() as folder:
        files = subprocess.run(["git", "archive", commit], cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout
        subprocess.run(["tar", "-x", "-C", folder], input=files, check=True)
        yield Path(folder)


def networks(rounds: int) -> dict[str, Any]:
    """Time 720p with this version, version 0.1, and PyTorch's plain operations, on one core and on all."""
    cores = available_cores()
    with checkout(BEFORE) as before:
        found = time_alternately(
            {
                "published": Program("restore", "published", *HD),
                "published, version 0.1": Program("restore", "published", *HD, threads=cores, package=before),
                "published, one core": Program("restore", "published", *HD, cores={0}),
                "second": Program("restore", "second", *HD),
                "second, whole map": Program("whole", "second", *HD, threads=cores),
                "second, one core": Program("restore", "second", *HD, cores={0}),
                "matrix product": Program("product", threads=cores),
            },
            rounds,
        )
    found |= time_alternately(
        {"published, whole map": Program("whole", "published", *HD), "published, plain port": Program("plain", *HD)}, 2
    )
    seconds = {name: entry["seconds"] for name, entry in found.items()}
    seconds["bound"] = OPERATIONS / (2 * 4096**3 / seconds.pop("matrix product"))
    return seconds


def experts(rounds: int) -> dict[str, float]:
    """Time 720p with every layer on one expert."""
    found = time_alternately({str(expert): Program("forced", "published", *HD, expert) for expert in range(4)}, rounds)
    return {name: entry["seconds"] for name, entry in found.items()}


def sizes(network: str, rounds: int) -> dict[str, dict[str, Any]]:
    """Time pictures of increasing size."""
    small = {name: size for name, size in SIZES.items() if size[0] * size[1] < 4e6}
    found = time_alternately({name: Program("restore", network, *size) for name, size in small.items()}, rounds)
    for name in SIZES.keys() - small.keys():  # one at a time, because they need much memory
        found |= time_alternately({name: Program("restore", network, *SIZES[name])}, 1)
    return {name: {**found[name], "pixels": height * width} for name, (height, width) in SIZES.items()}


def beside(rounds: int) -> dict[str, float]:
    """Time 720p on an idle machine, beside one busy loop per core, and beside one multithreaded program per core."""
    cores = available_cores()
    found = {}
    for name, busy in {"idle": None, "loops": "busy", "torch": "busy_torch"}.items():
        with neighbours(busy or "", cores if busy else 0):
            found[name] = time_alternately({name: Program("restore", "published", *HD)}, rounds)[name]["seconds"]
    return found


def training(rounds: int) -> dict[str, float]:
    """Return training samples (128×128) per second: the plain form, this version, and one process per core."""
    cores, batch = available_cores(), 8
    found = time_alternately(
        {
            "plain": Program("step", "plain", batch, threads=cores),
            "one process": Program("step", "present", batch, threads=cores),
            "a process per core": [Program("step", "present", batch // cores, threads=1) for _ in range(cores)],
        },
        rounds,
    )
    return {name: (batch // cores * cores if "per" in name else batch) / one["seconds"] for name, one in found.items()}


def start_up(rounds: int) -> dict[str, float]:
    """Time the complete command on a 64×64 picture, alternately with this version and version 0.1."""
    with tempfile.TemporaryDirectory() as folder, checkout(BEFORE) as before:
        source = Path(folder) / "small.png"
        cv2.imwrite(str(source), cv2.imread(str(sample_photograph("astronaut.png")))[:64, :64])
        command = [sys.executable, "-m", "moceir.cli.main", "restore", str(source), "-o", str(Path(folder) / "out.png")]
        found: dict[str, list[float]] = {"present": [], "version 0.1": []}
        for _ in range(rounds):
            for name, package in {"present": ROOT, "version 0.1": before}.items():
                start = time.perf_counter()
                subprocess.run(command, env={**os.environ, "PYTHONPATH": str(package)}, check=True, capture_output=True)
                found[name].append(time.perf_counter() - start)
    return {name: min(seconds) for name, seconds in found.items()}


def processor() -> str:
    """Return the processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def tables(report: dict[str, Any]) -> Iterator[Table]:
    """Yield the report's tables."""
    times = report["720p"]

    def table(title: str, *columns: str) -> Table:
        empty = Table(title=title, title_justify="left", box=box.MARKDOWN)
        empty.add_column(columns[0], no_wrap=True)
        for column in columns[1:]:
            empty.add_column(column, justify="right", no_wrap=True)
        return empty

    restoring = table("Restoring 1280×720, from 8 bits to 8 bits", "", "seconds", "× bound")
    for name, seconds in times.items():
        restoring.add_row(name, f"{seconds:.2f}", f"{seconds / times['bound']:.2f}")
    for name, seconds in report["experts"].items():
        restoring.add_row(
            f"published, every layer on expert {name}", f"{seconds:.2f}", f"{seconds / times['bound']:.2f}"
        )
    yield restoring
    by_size = table("Sizes", "", "µs per pixel: published", "second", "resident MB: published", "second")
    for name in SIZES:
        cells = [report["sizes"][network][name] for network in ("published", "second")]
        by_size.add_row(
            name,
            *(f"{cell['seconds'] / cell['pixels'] * 1e6:.2f}" for cell in cells),
            *(f"{cell['resident'] / 1e6:.0f}" for cell in cells),
        )
    yield by_size
    comparisons = table("Ratios", "", "")
    for name, ratio in report["ratios"].items():
        comparisons.add_row(name, f"{ratio:.2f}")
    yield comparisons
    others = table("Other results", "", "")
    for name, size in report["live"].items():
        others.add_row(f"live at 720p, {name}", f"{size / 1e6:.0f} MB")
    for name, difference in report["differences"].items():
        others.add_row(f"largest difference, {name}", f"{difference:.1e}")
    for name, rate in report["training"].items():
        others.add_row(f"training, 128×128 per second, {name}", f"{rate:.1f}")
    for name, seconds in report["start-up"].items():
        others.add_row(f"`moceir restore` of 64×64, {name}", f"{seconds:.1f} s")
    yield others


def ratios(report: dict[str, Any]) -> dict[str, float]:
    """Return the ratios, which are comparable between machines."""
    times, rates, neighbour = report["720p"], report["training"], report["beside"]
    start = report["start-up"]
    found = {
        "version 0.1 / published": times["published, version 0.1"] / times["published"],
        "plain port / published": times["published, plain port"] / times["published"],
        "whole map / second": times["second, whole map"] / times["second"],
        "published / bound": times["published"] / times["bound"],
        "second / bound": times["second"] / times["bound"],
        "one core / all, published": times["published, one core"] / times["published"],
        "one core / all, second": times["second, one core"] / times["second"],
        "beside busy loops / idle": neighbour["loops"] / neighbour["idle"],
        "beside busy torch / idle": neighbour["torch"] / neighbour["idle"],
        "training / plain": rates["a process per core"] / rates["plain"],
        "start-up, version 0.1 / present": start["version 0.1"] / start["present"],
    }
    for network, of_sizes in report["sizes"].items():
        each = [entry["seconds"] / entry["pixels"] for entry in of_sizes.values()]
        found[f"dearest / cheapest pixel, {network}"] = max(each) / min(each)
    return found


def main() -> None:
    """Measure, print the tables, and append to the history."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="timed runs of each program; the fastest counts")
    parser.add_argument("--note", default="", help="text for the history, for example what else ran")
    options = parser.parse_args()
    rounds = options.rounds
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout
    report: dict[str, Any] = {
        "commit": commit.strip(),
        "date": date.today().isoformat(),
        "processor": processor(),
        "cores": available_cores(),
        "torch": torch.__version__,
        "note": options.note,
        "720p": networks(rounds),
        "experts": experts(rounds),
        "sizes": {network: sizes(network, rounds) for network in ("published", "second")},
        "beside": beside(rounds),
        "live": {network: run_once("live", network, *HD)["live"] for network in ("published", "second")},
        "differences": run_once("differences"),
        "training": training(rounds),
        "start-up": start_up(rounds),
    }
    report["ratios"] = ratios(report)
    with HISTORY.open("a", encoding="utf-8") as file:
        file.write(json.dumps(report) + "\n")
    console = Console(width=100)
    for table in tables(report):
        console.print(table)


if __name__ == "__main__":
    main()
