"""Times programs alternately, each in its own process. Machines are shared, so only ratios within minutes count."""

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
    """One of :mod:`programs`, prepared and waiting.

    Args:
        name, arguments: which, and what it gets.
        threads: of OpenMP.
        cores: which it may use; None for all.
        package: the folder that holds the package.
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
        """Ask for one run."""
        assert self.process.stdin
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def report(self) -> dict[str, Any]:
        """What the run that was asked for reports."""
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.process.args} ended with status {self.process.wait()}")
        return json.loads(line)

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()


@contextmanager
def neighbours(name: str, count: int) -> Iterator[None]:
    """So many endless programs run as long as this lasts."""
    with ExitStack() as stack:
        for _ in range(count):
            stack.enter_context(Program(name))
        yield


def by_turns(programs: Mapping[str, Program | list[Program]], rounds: int) -> dict[str, dict[str, Any]]:
    """Least seconds and most resident bytes of each; the programs of a list run at once, and the slowest counts.

    Every program runs once before it counts, and is ended afterwards.
    """
    together = {name: [entry] if isinstance(entry, Program) else entry for name, entry in programs.items()}
    found: dict[str, list[list[dict[str, Any]]]] = {name: [] for name in programs}
    with ExitStack() as stack:
        for each in together.values():
            for program in each:
                stack.enter_context(program)
        for _ in range(rounds + 1):
            for name, each in together.items():
                for program in each:
                    program.start()
                found[name].append([program.report() for program in each])
    return {
        name: {
            "seconds": min(max(report["seconds"] for report in reports) for reports in runs[1:]),
            "resident": max(report["resident"] for reports in runs for report in reports),
        }
        for name, runs in found.items()
    }


def once(name: str, *arguments: object) -> dict[str, Any]:
    """What a program that reports by itself finds."""
    with Program(name, *arguments) as program:
        return program.report()
