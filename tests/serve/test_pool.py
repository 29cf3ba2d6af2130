"""Tests workers that die, hang and are replaced, and the jobs that wait for them."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from moceir.serve import messages
from moceir.serve import pool as module
from moceir.serve.pool import Busy, Died, Pool, TookTooLong

COMMAND = (sys.executable, str(Path(__file__).with_name("fake_worker.py")), messages.__file__)


def with_pool(test: Callable[[Pool], Awaitable[None]], **arguments: Any) -> None:
    chosen = {"workers": 1, "waiting": 4, "timeout": 20.0, **arguments}
    settings = chosen.pop("settings", {})

    async def run() -> None:
        pool = Pool(settings, command=COMMAND, **chosen)
        try:
            await pool.start()
            await test(pool)
        finally:
            await pool.close()
        assert pool.pids == []

    asyncio.run(run())


def test_jobs_run_in_the_order_of_their_arrival() -> None:
    async def test(pool: Pool) -> None:
        assert pool.about == {"settings": {"a": 1}}
        large = bytes(range(256)) * 20_000
        about, data = await pool.run("restore", {}, large)
        assert data == large[::-1]
        assert about["job"] == "restore"
        done: list[int] = []

        async def one(number: int) -> None:
            await pool.run("restore", {"sleep": 0.01}, b"")
            done.append(number)

        await asyncio.gather(*map(one, range(8)))
        assert done == list(range(8))

    with_pool(test, settings={"a": 1})


def test_all_workers_work() -> None:
    async def test(pool: Pool) -> None:
        while pool.starts < 2:
            await asyncio.sleep(0.01)
        answers = await asyncio.gather(*(pool.run("restore", {"sleep": 0.2}, b"") for _ in range(4)))
        assert {about["pid"] for about, _ in answers} == set(pool.pids)

    with_pool(test, workers=2)


def test_a_worker_that_dies_takes_one_job_with_it() -> None:
    async def test(pool: Pool) -> None:
        first = pool.pids
        outcomes = await asyncio.gather(
            *(pool.run("restore", options, b"") for options in ({"sleep": 0.01}, {"die": True}, {}, {})),
            return_exceptions=True,
        )
        assert [type(outcome) for outcome in outcomes] == [tuple, Died, tuple, tuple]
        assert pool.pids != first
        assert pool.starts == 2

    with_pool(test)


def test_an_idle_worker_that_dies_is_replaced() -> None:
    async def test(pool: Pool) -> None:
        first = pool.processes[0]
        first.kill()
        while first.alive:
            await asyncio.sleep(0.01)
        about, _ = await pool.run("restore", {}, b"")
        assert about["pid"] == pool.pids[0]

    with_pool(test)


def test_a_job_that_takes_too_long_is_stopped_and_the_worker_continues() -> None:
    async def test(pool: Pool) -> None:
        with pytest.raises(TookTooLong):
            await pool.run("restore", {"sleep": 30}, b"")
        await pool.run("restore", {}, b"")
        assert pool.starts == 1

    with_pool(test, timeout=0.2)


def test_a_worker_that_does_not_stop_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_GRACE", 0.2)

    async def test(pool: Pool) -> None:
        first = pool.pids
        with pytest.raises(TookTooLong):
            await pool.run("restore", {"deaf": True}, b"")
        about, _ = await pool.run("restore", {}, b"")
        assert about["pid"] not in first

    with_pool(test, timeout=1.0)


def test_a_cancelled_job_is_stopped() -> None:
    async def test(pool: Pool) -> None:
        job = asyncio.create_task(pool.run("restore", {"sleep": 30}, b""))
        waiting = asyncio.create_task(pool.run("restore", {"sleep": 30}, b""))
        await asyncio.sleep(0.1)
        for task in (waiting, job):
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        await asyncio.wait_for(pool.run("restore", {}, b""), 10)
        assert pool.starts == 1

    with_pool(test)


def test_places_are_counted() -> None:
    async def test(pool: Pool) -> None:
        with pool.place(), pool.place():
            with pytest.raises(Busy), pool.place():
                pass
            assert pool.inside == 2
        with pytest.raises(KeyError), pool.place():
            raise KeyError
        assert pool.inside == 0

    with_pool(test, waiting=1)


@pytest.mark.parametrize(("settings", "message"), [({"broken": 1}, "broken settings"), ({"silent": 1}, "ended while")])
def test_settings_that_no_worker_can_use(settings: dict, message: str) -> None:
    async def test(pool: Pool) -> None:
        raise AssertionError

    with pytest.raises(ValueError, match=message):
        with_pool(test, settings=settings)
