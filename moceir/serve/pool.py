"""A pool of worker processes, and the requests that wait for them."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from moceir.serve.messages import Message, next_message, packed

LOG = logging.getLogger(__name__)

_GRACE = 3.0  # seconds that a worker has to stop its job, or to exit
_PAUSE = 1.0  # seconds before a worker that did not start is started again


class Busy(Exception):
    """The queue of waiting requests is full."""


class Died(Exception):
    """The worker ended before it answered."""


class TookTooLong(Exception):
    """The worker did not answer in time."""


class _Process:
    """One worker process."""

    def __init__(self, process: asyncio.subprocess.Process, about: dict[str, Any]) -> None:
        self.process, self.about = process, about

    @classmethod
    async def start(cls, command: Sequence[str], settings: dict[str, Any]) -> _Process:
        """Start a worker, and return when it is ready.

        Raises:
            ValueError: when it reports that it cannot work with these settings.
            Died: when it exited without an answer.
        """
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            # Import nothing from the folder that the server was started in.
            env={**os.environ, "PYTHONSAFEPATH": "1"},
            limit=1 << 20,
        )
        try:
            about, _ = await cls(process, {}).ask(settings)
        except BaseException:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            raise
        if "error" in about:
            await process.wait()
            raise ValueError(about["error"])
        return cls(process, about)

    @property
    def alive(self) -> bool:
        return self.process.returncode is None

    async def tell(self, about: dict[str, Any], data: bytes = b"") -> None:
        assert self.process.stdin is not None
        for part in packed(about, data):
            self.process.stdin.write(part)
        await self.process.stdin.drain()

    async def ask(self, about: dict[str, Any], data: bytes = b"") -> Message:
        """Send a job and wait for its answer.

        Raises:
            Died: when there is none.
        """
        assert self.process.stdout is not None
        try:
            await self.tell(about, data)
            return await next_message(self.process.stdout)
        except (EOFError, ConnectionError) as error:
            raise Died from error

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            self.process.kill()

    async def close(self) -> None:
        """Close the worker; kill it if it does not exit in time."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            await asyncio.wait_for(self.process.wait(), _GRACE)
        except TimeoutError:
            self.kill()
            await self.process.wait()


class Pool:
    """A fixed number of workers, restarted whenever one ends, and a bounded number of waiting requests.

    Args:
        settings: arguments of :class:`moceir.serve.worker.Worker`, and ``weights`` and ``topk`` of its network.
        workers: number of processes.
        waiting: requests that may wait while all workers are busy.
        timeout: seconds that a worker has for a job.
        command: the command that starts a worker.
    """

    def __init__(
        self,
        settings: dict[str, Any],
        *,
        workers: int,
        waiting: int,
        timeout: float,
        command: Sequence[str] = (sys.executable, "-m", "moceir.serve.worker"),
    ) -> None:
        self.command = command
        self.settings, self.workers, self.waiting, self.timeout = settings, workers, waiting, timeout
        self.inside = 0
        """Number of requests in progress or waiting."""
        self.starts = 0
        """The number of times that a worker was started."""
        self.processes: list[_Process] = []
        self._idle: asyncio.Queue[_Process] = asyncio.Queue()
        self._tasks: set[asyncio.Task[Any]] = set()

    @property
    def about(self) -> dict[str, Any]:
        """The description that a worker gives of itself, see :attr:`moceir.serve.worker.Worker.about`."""
        return self._about

    @property
    def pids(self) -> list[int]:
        """The process IDs of the live workers."""
        return [process.process.pid for process in self.processes if process.alive]

    async def start(self) -> None:
        """Return when a worker is ready; the others follow.

        Raises:
            ValueError: when the settings are no good.
        """
        try:
            first = await _Process.start(self.command, self.settings)
        except Died:
            raise ValueError("a worker ended while it started; what it wrote stands above") from None
        self._about = first.about
        self._welcome(first)
        self._spawn(self._keep(first))
        for _ in range(self.workers - 1):
            self._spawn(self._keep(None))

    def _welcome(self, worker: _Process) -> None:
        self.starts += 1
        self.processes.append(worker)
        self._idle.put_nowait(worker)
        LOG.info("worker %d is ready", worker.process.pid)

    @contextmanager
    def place(self) -> Iterator[None]:
        """Hold a place in the queue.

        Raises:
            Busy: when the queue is full.
        """
        if self.inside >= self.workers + self.waiting:
            raise Busy
        self.inside += 1
        try:
            yield
        finally:
            self.inside -= 1

    async def run(self, job: str, options: dict[str, Any], data: bytes) -> Message:
        """Run a job in a worker, in the order of the calls; on cancellation, stop the worker's job.

        Raises:
            Died: when the worker exited.
            TookTooLong: when the worker did not answer in time.
        """
        worker = await self._idle.get()
        while not worker.alive:
            worker = await self._idle.get()
        asking = asyncio.create_task(worker.ask({"job": job, "options": options}, data))
        try:
            done, _ = await asyncio.wait({asking}, timeout=self.timeout)
        except asyncio.CancelledError:
            self._spawn(self._settle(worker, asking))
            raise
        if not done:
            self._spawn(self._settle(worker, asking))
            raise TookTooLong
        answer = asking.result()
        self._idle.put_nowait(worker)
        return answer

    async def close(self) -> None:
        """End all workers."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(process.close() for process in self.processes))

    def _spawn(self, coroutine: Any) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _settle(self, worker: _Process, asking: asyncio.Task[Message]) -> None:
        """Stop a worker's job so that it can take the next; kill a worker that does not stop."""
        with suppress(ConnectionError):
            await asyncio.wait_for(worker.tell({"stop": True}), _GRACE)
        done, _ = await asyncio.wait({asking}, timeout=_GRACE)
        if done and asking.exception() is None:
            self._idle.put_nowait(worker)
        else:
            worker.kill()
            asking.cancel()

    async def _keep(self, worker: _Process | None) -> None:
        """Keep one worker running, this one first; replace it whenever it ends."""
        while True:
            if worker is None:
                try:
                    worker = await _Process.start(self.command, self.settings)
                except (ValueError, Died, OSError) as error:
                    LOG.error("a worker did not start: %s", error or "it ended without a word")
                    await asyncio.sleep(_PAUSE)
                    continue
                self._welcome(worker)
            status = await worker.process.wait()
            self.processes.remove(worker)
            LOG.warning("worker %d ended with status %d; another is started", worker.process.pid, status)
            worker = None
