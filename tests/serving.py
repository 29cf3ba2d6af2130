"""Starts ``moceir serve`` on a free port for tests."""

from __future__ import annotations

import logging
import os
import re
import signal
import sys
from pathlib import Path

import httpx
import processes
import psutil
import pytest

from moceir.cli.main import main

pytest.importorskip("starlette", reason="needs the extra demo")
pytest.importorskip("uvicorn", reason="needs the extra demo")


class Server:
    """A ``moceir serve`` with the given options. The constructor starts it; it is ready after :meth:`wait`."""

    def __init__(self, folder: Path, *options: object) -> None:
        self.log = folder / "log.txt"
        self.log.write_bytes(b"")
        self.temporary = folder / "temporary"
        self.temporary.mkdir(exist_ok=True)
        self.options = options
        self.process = processes.start(self._run, self.log)
        self.code: int | None = None

    def _run(self) -> None:
        os.chdir(self.temporary)
        os.environ["TMPDIR"] = str(self.temporary)
        logging.getLogger().handlers.clear()
        sys.argv = ["moceir", "serve", *map(str, self.options)]
        main()

    def wait(self) -> Server:
        """Wait until the server answers."""
        processes.wait_for(lambda: "Started server process" in self.log.read_text(), self.process)
        found = re.search(r"open (http://\S+) in", self.log.read_text())
        assert found
        self.url = found[1]
        self.port = int(self.url.rsplit(":", 1)[1])
        return self

    @property
    def workers(self) -> list[psutil.Process]:
        return psutil.Process(self.process).children()

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=60, trust_env=False)

    def status(self) -> int:
        """Wait until the server ends by itself, and return its exit status."""
        if self.code is None:
            self.code = processes.wait(self.process)
        return self.code

    def end(self) -> None:
        """Kill the server if it has not ended."""
        if self.code is None:
            os.kill(self.process, signal.SIGKILL)
            self.status()
