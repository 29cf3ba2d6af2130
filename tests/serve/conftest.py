"""A server of our own, on a free port, as ``moceir serve`` starts it."""

from __future__ import annotations

import logging
import os
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import processes
import psutil
import pytest

from moceir.cli.main import main
from moceir.pictures.arrays import write_image

pytest.importorskip("starlette", reason="needs the extra demo")
pytest.importorskip("uvicorn", reason="needs the extra demo")


class Server:
    """``moceir serve`` with these options; it is started at once, and ready after :meth:`wait`."""

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
        """Until it answers."""
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
        """Its exit status, for which it must end by itself."""
        if self.code is None:
            self.code = processes.wait(self.process)
        return self.code

    def end(self) -> None:
        """Kill it if it has not ended."""
        if self.code is None:
            os.kill(self.process, signal.SIGKILL)
            self.status()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One for the tests of a file, with narrow limits: a worker, one that waits, 1 MB, a megapixel."""
    options = ("--port", 0, "--queue", 1, "--max-upload", 1, "--max-pixels", 1_000_000, "--timeout", 40)
    server = Server(tmp_path_factory.mktemp("server"), *options)
    try:
        yield server.wait()
    finally:
        server.end()


@pytest.fixture
def file(tmp_path: Path, photograph: np.ndarray) -> Path:
    write_image(tmp_path / "picture.png", photograph)
    return tmp_path / "picture.png"
