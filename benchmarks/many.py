"""Compares the files that several processes write with those of one, and estimates the cost of many pictures.

python benchmarks/many.py run --pictures 1000
python benchmarks/many.py plan --pictures 1e8 --core-hour 0.04 --thousand-reads 0.0004 --thousand-writes 0.005
"""

from __future__ import annotations

import argparse
import hashlib
import json
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil

from moceir.data.samples import sample_photographs
from moceir.inference.folder import Journal
from moceir.pictures.arrays import read_picture, write_picture

RESTORE = [sys.executable, "-m", "moceir", "restore"]
PREDICT = [sys.executable, "-m", "moceir.cli.predict", "trainer.accelerator=cpu"]


def write_crops(folder: Path, count: int, side: int) -> None:
    """Write noisy square crops of the sample photographs."""
    photographs = [read_picture(path) for path in sample_photographs()]
    rng = np.random.default_rng(0)
    for index in range(count):
        photograph = photographs[index % len(photographs)]
        top, left = (int(rng.integers(0, length - side)) for length in photograph.shape[:2])
        noisy = photograph[top : top + side, left : left + side] + rng.normal(0, 25, (side, side, 3))
        write_picture(folder / f"{index % 10}" / f"{index:06d}.png", noisy.clip(0, 255).round().astype(np.uint8))


def digests(folder: Path) -> dict[str, str]:
    """Return the relative path of each picture in a folder -> its SHA-256."""
    paths = sorted(folder.rglob("*.png"))
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def journal_entries(folder: Path) -> list[dict[str, object]]:
    """Return the entries for written pictures in the journals of a run's processes."""
    files = sorted(folder.glob(Journal.PARTS.format("*")))
    return [entry for file in files for entry in map(json.loads, file.read_text().splitlines()) if "sha256" in entry]


def report(name: str, begin: float, folder: Path, expected: dict[str, str]) -> None:
    """Print the seconds since ``begin`` and the number of files that equal the expected ones."""
    found = digests(folder)
    equal = sum(found.get(path) == digest for path, digest in expected.items())
    seconds = time.monotonic() - begin
    print(
        f"{name}: {seconds:.0f} s, {len(found)} pictures, {equal} of {len(expected)} equal those of one process",
        flush=True,
    )


def run(pictures: int, side: int) -> None:
    """Restore with one process, with shards, and with two of Lightning's processes, one of which is killed."""
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        source = root / "in"
        write_crops(source, pictures, side)
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}

        begin = time.monotonic()
        subprocess.run([*RESTORE, source, "-o", root / "one", "--threads", "1"], check=True, **quiet)
        one = digests(root / "one")
        report("one process", begin, root / "one", one)

        begin = time.monotonic()
        shards = [
            subprocess.Popen([*RESTORE, source, "-o", root / "shards", "--threads", "1", "--shards", f"{k}/2"], **quiet)
            for k in (1, 2)
        ]
        if [shard.wait() for shard in shards] != [0, 0]:
            raise RuntimeError("a shard failed")
        report("two shards", begin, root / "shards", one)
        print(f"    journal entries, one per picture: {len(journal_entries(root / 'shards'))}", flush=True)

        begin = time.monotonic()
        command = [*PREDICT, f"inputs=[{source}]", f"output={root / 'processes'}", "trainer.devices=2"]
        killed = subprocess.Popen(command, **quiet)
        while len(journal_entries(root / "processes")) < pictures // 2:
            if killed.poll() is not None:
                raise RuntimeError("the run ended before a process was killed")
            time.sleep(0.1)
        (other,) = psutil.Process(killed.pid).children()
        other.send_signal(signal.SIGKILL)
        status = killed.wait()
        done = len(digests(root / "processes"))
        print(f"two processes, one of them killed: status {status}, {done} pictures written", flush=True)
        rerun = subprocess.run(command, capture_output=True, text=True, check=False)
        if rerun.returncode:
            raise RuntimeError(f"the rerun exited with status {rerun.returncode}: {rerun.stdout}{rerun.stderr}")
        report("two processes, with the rerun", begin, root / "processes", one)
        print(f"    journal entries: {len(journal_entries(root / 'processes'))}", flush=True)


def plan(pictures: float, core_hour: float, thousand_reads: float, thousand_writes: float) -> None:
    """Print hours and cost, estimated from the latest line of the history."""
    latest = json.loads((Path(__file__).parent / "history.jsonl").read_text().splitlines()[-1])
    print(f"{pictures:.0e} pictures, estimated from the run of {latest['date']} on an {latest['processor']}")
    print("| network | size | core s per picture | core hours | machines of 64 cores for 30 days | computing cost |")
    print("| --- | --- | --- | --- | --- | --- |")
    for network in ("published", "second"):
        # One process per core is faster than one process with a thread per core; the ratio is known at 720p.
        gain = latest["cores"] / latest["ratios"][f"one core / all, {network}"]
        for size in ("720p", "12 MP", "24 MP"):
            seconds = latest["sizes"][network][size]["seconds"] * latest["cores"] / gain
            hours = pictures * seconds / 3600
            machines = hours / 64 / (30 * 24)
            print(f"| {network} | {size} | {seconds:.2f} | {hours:,.0f} | {machines:,.1f} | {hours * core_hour:,.0f} |")
    reads, writes = pictures / 1000 * thousand_reads, pictures / 1000 * thousand_writes
    print(f"object store: {pictures:.0e} reads {reads:,.0f}, {pictures:.0e} writes {writes:,.0f}")


def main() -> None:
    """Parse the command line, and run or plan."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    commands = parser.add_subparsers(dest="command", required=True)
    runs = commands.add_parser("run")
    runs.add_argument("--pictures", type=int, default=1000)
    runs.add_argument("--side", type=int, default=64)
    plans = commands.add_parser("plan")
    plans.add_argument("--pictures", type=float, default=1e8)
    plans.add_argument("--core-hour", type=float, default=0.04, help="price of one core for an hour")
    plans.add_argument("--thousand-reads", type=float, default=0.0004)
    plans.add_argument("--thousand-writes", type=float, default=0.005)
    arguments = vars(parser.parse_args())
    {"run": run, "plan": plan}[arguments.pop("command")](**arguments)


if __name__ == "__main__":
    main()
