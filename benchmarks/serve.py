"""``make bench-serve`` sends many requests to ``moceir serve``; none may be lost, and memory must not grow.

The benchmark starts a server on a free port. Clients with one connection each send large pictures one by one, then
small ones. For each size, it prints the answers, the requests sent again after 429, the latency, and the early and late
resident memory of the server and its workers.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import httpx
import numpy as np
import psutil

from moceir.data.samples import sample_photograph
from moceir.pictures.arrays import read_picture


def start(arguments: argparse.Namespace, log: Path) -> tuple[subprocess.Popen, str]:
    """Start a server, wait until it answers, and return it with its address."""
    options = ["--port", 0, "--workers", arguments.workers, "--queue", arguments.queue, "--timeout", 600]
    code = "from moceir.cli.main import main; main()"
    with log.open("wb") as file:
        command = [sys.executable, "-c", code, "serve", *map(str, options)]
        server = subprocess.Popen(command, stderr=file)
    while True:
        text = log.read_text()
        if found := re.search(r"open (http://\S+) in", text):
            try:
                httpx.get(f"{found[1]}/healthz", trust_env=False).raise_for_status()
                return server, found[1]
            except httpx.HTTPError:
                pass
        if server.poll() is not None:
            raise SystemExit(text)
        time.sleep(0.1)


def resident(server: subprocess.Popen) -> float:
    """Return the resident memory of the server and its workers in MiB."""
    process = psutil.Process(server.pid)
    return sum(member.memory_info().rss for member in (process, *process.children())) / 2**20


def load(server: subprocess.Popen, url: str, picture: bytes, *, count: int, clients: int) -> dict[str, object]:
    """Send a picture ``count`` times from several clients, and check that all answers are equal."""
    seconds: list[float] = []
    memory: list[float] = []
    answers, refused = set(), 0
    lock = threading.Lock()
    remaining = iter(range(count))

    def client(_: int) -> None:
        nonlocal refused
        with httpx.Client(base_url=url, timeout=None, trust_env=False) as connection:
            while True:
                with lock:
                    if next(remaining, None) is None:
                        return
                begun = time.perf_counter()
                while (answer := connection.post("/restore", content=picture)).status_code == 429:
                    with lock:
                        refused += 1
                    time.sleep(float(answer.headers["retry-after"]))
                answer.raise_for_status()
                with lock:
                    seconds.append(time.perf_counter() - begun)
                    memory.append(resident(server))
                    answers.add(answer.content)

    begun = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(client, range(clients)))
    elapsed = time.perf_counter() - begun
    if len(seconds) != count or len(answers) != 1:
        raise SystemExit(
            f"the server answered {len(seconds)} of {count} requests, with {len(answers)} different results"
        )
    fifth = max(1, count // 5)
    early, late = (float(np.median(part)) for part in (memory[fifth : 2 * fifth], memory[-fifth:]))
    if late > early + max(16, early / 20):
        raise SystemExit(f"resident memory grew from {early:.1f} to {late:.1f} MiB")
    p50, p95, p99 = np.percentile(seconds, [50, 95, 99])
    return {
        "requests": count, "clients": clients, "answered": len(seconds), "sent_again_after_429": refused,
        "per_second": round(count / elapsed, 2), "p50_s": round(p50, 3), "p95_s": round(p95, 3), "p99_s": round(p99, 3),
        "longest_s": round(max(seconds), 3), "resident_early_mib": round(early, 1), "resident_late_mib": round(late, 1),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--large", type=int, default=200, help="Number of requests with a large picture.")
    parser.add_argument("--size", type=int, nargs=2, default=(1280, 720), help="Width and height of the large picture.")
    parser.add_argument("--small", type=int, default=1000, help="Number of requests with a picture of 64×64.")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--queue", type=int, default=8)
    arguments = parser.parse_args()
    photograph = read_picture(sample_photograph("astronaut.png"))

    def picture(width: int, height: int) -> bytes:
        resized = cv2.resize(photograph, (width, height), interpolation=cv2.INTER_AREA)
        return cv2.imencode(".jpg", resized[..., ::-1])[1].tobytes()

    with tempfile.TemporaryDirectory() as folder:
        server, url = start(arguments, Path(folder) / "log.txt")
        try:
            runs = {
                "large": (picture(*arguments.size), arguments.large),
                "small": (picture(64, 64), arguments.small),
            }
            for name, (content, count) in runs.items():
                if count:
                    report = load(server, url, content, count=count, clients=arguments.clients)
                    print(json.dumps({name: report}), flush=True)
        finally:
            server.terminate()
            server.wait()
    if server.returncode:
        raise SystemExit(f"the server exited with status {server.returncode}")


if __name__ == "__main__":
    main()
