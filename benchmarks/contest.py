"""Times programs alternately, each in its own process. On shared machines, only ratios within minutes count."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


class Program:
    """A process that prepares a function of :mod:`programs` and runs it on request.

    Args:
        name, arguments: the function and its arguments.
        threads: number of OpenMP threads.
        cores: numbers of the cores that the process may use; None for all.
        package: folder that contains the package.
    """

    def __init__(
        self,
        name: str,
        *arguments: object,
        threads: int | None = None,
        cores: set[int] | None = None,
        package: Path = HERE.parent,
    ) -> None:
        environment = {**os.environ, "PYTHONPATH": str(package)}
        environment.pop("OMP_NUM_THREADS", None)
        if threads is not None:
            environment["OMP_NUM_THREADS"] = str(threads)
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "programs.py"), name, *map(str, arguments)],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=None if cores is None else lambda: os.sched_setaffinity(0, cores),
        )

    def start(self) -> None:
        """Request one run."""
        assert self.process.stdin
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def report(self) -> dict[str, Any]:
        """Return the report of the requested run."""
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.process.args} exited with status {self.process.wait()}")
        return json.loads(line)

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()


@contextmanager
def neighbours(name: str, count: int) -> Iterator[None]:
    """Run ``count`` endless programs inside the ``with`` block."""
    with ExitStack() as stack:
        for _ in range(count):
            stack.enter_context(Program(name))
        yield


def time_alternately(programs: Mapping[str, Program | list[Program]], rounds: int) -> dict[str, dict[str, Any]]:
    """Return the shortest time in seconds and the peak resident memory in bytes of each entry.

    The programs of a list run at the same time, and the slowest counts. Every program runs once before the timing and
    is terminated afterwards.
    """
    groups = {name: [entry] if isinstance(entry, Program) else entry for name, entry in programs.items()}
    reports: dict[str, list[list[dict[str, Any]]]] = {name: [] for name in programs}
    with ExitStack() as stack:
        for group in groups.values():
            for program in group:
                stack.enter_context(program)
        for _ in range(rounds + 1):
            for name, group in groups.items():
                for program in group:
                    program.start()
                reports[name].append([program.report() for program in group])
    return {
        name: {
            "seconds": min(max(report["seconds"] for report in run) for run in runs[1:]),
            "resident": max(report["resident"] for run in runs for report in run),
        }
        for name, runs in reports.items()
    }


def run_once(name: str, *arguments: object) -> dict[str, Any]:
    """Return the report of a program that measures itself."""
    with Program(name, *arguments) as program:
        return program.report()
