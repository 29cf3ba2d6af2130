"""Runs functions of a test in separate processes, which the test may kill."""

from __future__ import annotations

import gc
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path


def start(function: Callable[[], object], output: Path | None = None) -> int:
    """Fork a process that runs a function, and return its id.

    The exit status is 0, or that of a SystemExit. After another exception, the process prints one line, and the status
    is 1. The process is forked, so that it need not import anything again.

    Args:
        function: the function to run.
        output: file for the process's output.
    """
    process = os.fork()
    if process:
        return process
    status = 1
    # Never collect garbage from earlier tests: the threads of an inference session do not survive a fork, so its
    # collection would hang or crash.
    gc.freeze()
    try:
        if output is not None:
            with output.open("wb") as file:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
            sys.stdout = os.fdopen(1, "w", buffering=1)
            sys.stderr = os.fdopen(2, "w", buffering=1)
        function()
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    except BaseException as error:
        print(repr(error), file=sys.stderr)
    finally:
        os._exit(status)


def wait(process: int) -> int:
    """Wait for a process and return its exit status, or minus the number of the signal that killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def forked(function: Callable[[], object], output: Path | None = None) -> int:
    """Run a function in a new process and return the exit status."""
    return wait(start(function, output))


def train_command(*arguments: object) -> None:
    """Run ``python -m moceir.cli.train`` with the given arguments, in a process from :func:`start`."""
    import logging

    from hydra.core.global_hydra import GlobalHydra

    from moceir.cli.train import main

    # Lightning's handlers keep the output stream of the test that imported it, which may be closed.
    for logger in (logging.getLogger(), *map(logging.getLogger, list(logging.root.manager.loggerDict))):
        logger.handlers.clear()
    GlobalHydra.instance().clear()
    sys.argv = ["train.py", *map(str, arguments)]
    main()


def wait_for(condition: Callable[[], bool], process: int, seconds: float = 60) -> None:
    """Wait until a condition holds. Raise TimeoutError after the given seconds, or when the process ends before."""
    end = time.monotonic() + seconds
    while not condition():
        ended = os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if ended or time.monotonic() > end:
            raise TimeoutError(f"not within {seconds} s, or the process has ended")
        time.sleep(0.02)
