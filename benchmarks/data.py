"""`make bench-data` measures how fast training crops are read from files and packs, and whether memory stays constant.

One process with one thread reads crops of 128×128 from pairs of 512×512 pictures. Every round measures each format, so
that other load slows all formats equally. Rates are those of the best round; ratios are medians over rounds.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import cv2
import numpy as np
import psutil
import torch
from rich.console import Console
from rich.table import Table
from torch.utils.data import DataLoader

from moceir.cli.options import load_sources
from moceir.config import build
from moceir.data.datasets import EpochSampler, PairSet, TrainingCrops
from moceir.data.degradations import Chain, Degradation, GaussianNoise
from moceir.data.pack import find_packed, write_pack
from moceir.data.pairs import Pair
from moceir.data.samples import sample_photographs
from moceir.data.sources import MatchedFiles, SamplePhotographs
from moceir.pictures.arrays import read_picture, write_picture

PAIRS = 48
SIDE = 512
CROP = 128


def make_pairs(folder: Path) -> dict[str, list[Pair]]:
    """Write the same pairs of real photographs as PNG, as JPEG, and as a pack, and return each format's pairs."""
    rng = np.random.default_rng(0)
    photographs = [
        picture for picture in map(read_picture, sample_photographs()) if min(picture.shape[:2]) >= SIDE // 2
    ]
    for number in range(PAIRS):
        picture = photographs[number % len(photographs)]
        enlarged = cv2.resize(picture, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)
        top, left = (int(rng.integers(side - SIDE + 1)) for side in enlarged.shape[:2])
        clean = enlarged[top : top + SIDE, left : left + SIDE]
        noisy = (clean + rng.normal(0, 10, clean.shape)).clip(0, 255).astype(np.uint8)
        for suffix in ("png", "jpg"):
            write_picture(folder / suffix / "clean" / f"{number}.{suffix}", clean)
            write_picture(folder / suffix / "degraded" / f"{number}.{suffix}", noisy)
    source = MatchedFiles(folders=["."], degraded="degraded/{path}", clean="clean/{path}")
    formats = {suffix: source.find(folder / suffix).pairs for suffix in ("png", "jpg")}
    write_pack(formats["png"], folder / "pack", shard_mib=256, workers=2, description="packing")
    return formats | {"packed": [Pair(*entry) for entry in find_packed(folder / "pack")]}


def crops_per_second(pairs: list[Pair], degradation: Degradation | None, seconds: float) -> float:
    """Return the rate for pairs or, with a degradation, for their clean pictures, which it degrades."""
    if degradation:
        pairs = [pair._replace(degraded=None) for pair in pairs]
    crops = TrainingCrops(
        sets=[PairSet("bench", pairs, "noise")], crop=CROP, degradation=degradation or Chain(steps=[]), seed=0
    )
    count, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds:
        crops[0, count % len(pairs)]
        count += 1
    return count / elapsed


def speed(rounds: int, seconds: float) -> dict[str, float]:
    """Print and return crops per second and core, and their ratio to reading PNG."""
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    extended: Degradation = build("data.degradation", ["degradation=extended"])
    with tempfile.TemporaryDirectory() as folder:
        formats = make_pairs(Path(folder))
        cases: dict[str, Callable[[], float]] = {}
        for kind, degradation in {
            "pairs": None, "clean, Gaussian noise added": GaussianNoise(sigmas=[15, 25, 50]),
            "clean, degradation=extended": extended,
        }.items():  # fmt: skip
            for name, pairs in formats.items():
                cases[f"{kind}: {name}"] = lambda p=pairs, d=degradation: crops_per_second(p, d, seconds)
        measured: dict[str, list[float]] = {name: [] for name in cases}
        for case in cases.values():  # fills the page cache
            case()
        for _ in range(rounds):
            for name, case in cases.items():
                measured[name].append(case())
    table = Table(title=f"training crops of {CROP}×{CROP} per second and core", title_justify="left")
    table.add_column("from 512×512")
    table.add_column("crops/s", justify="right")
    table.add_column("times png", justify="right")
    result = {}
    for name, rates in measured.items():
        png = measured[f"{name.rpartition(': ')[0]}: png"]
        ratio = median(rate / of_png for rate, of_png in zip(rates, png, strict=True))
        table.add_row(name, f"{max(rates):,.0f}", f"{ratio:.1f}")
        result |= {name: max(rates), f"{name}, times png": ratio}
    Console().print(table)
    return result


def memory(root: Path | None, samples: int, epochs: int, workers: int, figure: Path) -> dict[str, float]:
    """Plot and return the anonymous memory of this process and its workers while they read crops."""
    import matplotlib.pyplot as plt

    if root is None:
        pairs, _ = SamplePhotographs(folders=["."]).list_files(Path())
    else:
        pairs = load_sources("photographs", [])["photographs"].find(root).pairs
    pairs = [pair for pair in pairs if min(pair.size()) >= CROP]
    repeat = -(-samples // len(pairs))
    crops = TrainingCrops(
        sets=[PairSet("bench", pairs, "", repeat)], crop=CROP, degradation=GaussianNoise(sigmas=[25]), seed=0
    )
    sampler = EpochSampler(length=samples, seed=0)
    loader = DataLoader(crops, batch_size=8, sampler=sampler, num_workers=workers, persistent_workers=True)
    samples_read, used = [], []
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        for number, _ in enumerate(loader):
            if number % 25 == 0:
                processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
                samples_read.append(epoch * samples + number * 8)
                used.append(sum(_anonymous_mib(process.pid) for process in processes))
    figure.parent.mkdir(parents=True, exist_ok=True)
    plt.figure(figsize=(7, 3))
    plt.plot(samples_read, used)
    plt.axvline(samples, color="grey", linewidth=0.5)
    plt.ylim(0, 1.2 * max(used))
    plt.xlabel(f"samples ({epochs} epochs of {samples:,}, {workers} workers, {len(pairs)} pictures)")
    plt.ylabel("anonymous memory, MiB")
    plt.tight_layout()
    plt.savefig(figure, dpi=120)
    quarter = len(used) // 4
    result = {
        "MiB in the second quarter": median(used[quarter : 2 * quarter]),
        "MiB in the last quarter": median(used[3 * quarter :]),
    }
    Console().print(f"memory: {json.dumps(result)}; figure in {figure}", highlight=False)
    return result


def _anonymous_mib(pid: int) -> float:
    """Return a process's share of anonymous memory; a mapped pack belongs to the page cache instead."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss_Anon")) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, help="photographs for the memory figure (default: those of scikit-image)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="seconds per case and round")
    parser.add_argument("--samples", type=int, default=10_000, help="samples per epoch of the memory figure")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"))
    arguments = parser.parse_args()
    result = speed(arguments.rounds, arguments.seconds)
    result |= memory(arguments.root, arguments.samples, 2, 2, arguments.output / "data_memory.png")
    (arguments.output / "data.json").write_text(json.dumps(result, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
