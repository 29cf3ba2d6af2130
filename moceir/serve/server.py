"""Starts the server, and stops it on a signal."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from typing import Any, NoReturn

import uvicorn

from moceir.serve.app import Service, application
from moceir.serve.pool import Pool

LOG = logging.getLogger(__name__)


def run(
    settings: dict[str, Any],
    *,
    host: str,
    port: int,
    workers: int,
    waiting: int,
    timeout: float,
    max_bytes: int,
) -> None:
    """Serve until SIGTERM or SIGINT, then finish the requests at hand, and return.

    Args:
        settings: see :class:`moceir.serve.pool.Pool`.
        host: the address of this machine to listen on.
        port: the port to listen on; 0 for any that is free.
        workers, waiting, timeout: see :class:`moceir.serve.pool.Pool`.
        max_bytes: largest size of an upload.

    Raises:
        ValueError: when the address or the settings cannot be used.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family, backlog=128)
    except (OSError, OverflowError) as error:
        raise ValueError(f"{host}, port {port}: cannot be used ({error}); choose another with --port") from error

    def end(number: int, frame: object) -> NoReturn:
        raise SystemExit(0)

    # Uvicorn handles these signals while it runs, and raises them again when it has ended.
    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        with listener:
            asyncio.run(
                _serve(settings, listener, workers=workers, waiting=waiting, timeout=timeout, max_bytes=max_bytes)
            )
    except SystemExit:
        LOG.info("stopped")
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


async def _serve(
    settings: dict[str, Any], listener: socket.socket, *, workers: int, waiting: int, timeout: float, max_bytes: int
) -> None:
    pool = Pool(settings, workers=workers, waiting=waiting, timeout=timeout)
    try:
        await pool.start()
        app = application(Service(pool, max_bytes=max_bytes, timeout=timeout))
        config = uvicorn.Config(
            app,
            lifespan="off",
            ws="none",
            log_config=None,
            server_header=False,
            timeout_graceful_shutdown=round(2 * timeout) + 10,  # time for an upload that has begun, and its restoration
        )
        host, port = listener.getsockname()[:2]
        LOG.info("open http://%s:%d in a browser; Ctrl-C ends the server", f"[{host}]" if ":" in host else host, port)
        await uvicorn.Server(config).serve(sockets=[listener])
    finally:
        await pool.close()
