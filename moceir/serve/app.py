"""The web server: it passes requests to the workers and returns their answers. It decodes nothing and opens no file
that a request names.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from importlib import metadata, resources
from typing import Any

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from moceir.data.samples import sample_photographs
from moceir.serve.metrics import Metrics
from moceir.serve.options import DEGRADING, RESTORING, Kind, read_query
from moceir.serve.pool import Busy, Died, Pool, TookTooLong

#: The header of a restored picture's response that reports what was done, as one line of JSON.
REPORT_HEADER = "Moceir-Report"

_PAGE = {
    "index.html": "text/html; charset=utf-8",
    "page.css": "text/css; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
    "compare.js": "text/javascript; charset=utf-8",
    "route.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
_SAMPLE_TYPES = {".png": "image/png", ".jpg": "image/jpeg"}

_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
        b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
)


class Refused(Exception):
    """A request that is answered with an error."""

    def __init__(self, status: int, message: str, *, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.answer = JSONResponse({"error": message}, status, headers)


class Service:
    """The handlers of the routes.

    Args:
        pool: the workers.
        max_bytes: largest size of an upload.
        timeout: seconds that an upload may take.
    """

    def __init__(self, pool: Pool, *, max_bytes: int, timeout: float) -> None:
        self.pool, self.max_bytes, self.timeout = pool, max_bytes, timeout
        self.metrics = Metrics()

    async def restore(self, request: Request) -> Response:
        """Restore the picture in the request's body."""
        return await self._work(request, "restore", RESTORING)

    async def degrade(self, request: Request) -> Response:
        """Degrade the picture in the request's body and return it as a PNG."""
        return await self._work(request, "degrade", DEGRADING)

    async def health(self, request: Request) -> Response:
        """Answer 200 while a worker is ready, else 503."""
        version = metadata.version("moceir")
        if not self.pool.pids:
            return JSONResponse({"status": "no worker is ready", "version": version}, 503)
        return JSONResponse({"status": "ok", "version": version})

    async def tell_metrics(self, request: Request) -> Response:
        """Answer with the metrics in Prometheus' text format."""
        pids = self.pool.pids
        waiting = max(0, self.pool.inside - self.pool.workers)
        text = self.metrics.text(inside=self.pool.inside, waiting=waiting, starts=self.pool.starts, pids=pids)
        return PlainTextResponse(text, media_type="text/plain; version=0.0.4")

    async def settings(self, request: Request) -> Response:
        """Answer with the settings that the page needs."""
        samples = [path.name for path in sample_photographs()]
        about = {"version": metadata.version("moceir"), "max_bytes": self.max_bytes, "samples": samples}
        return JSONResponse({**about, **self.pool.about})

    async def _work(self, request: Request, job: str, kinds: Mapping[str, Kind]) -> Response:
        body = _Body(request)
        try:
            # Browsers tell when another site's page sends the request; refuse those.
            if request.headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
                raise Refused(403, "this is for the server's own page, and for programs")
            try:
                options = read_query(request.query_params.multi_items(), kinds)
            except ValueError as error:
                raise Refused(400, str(error)) from None
            try:
                with self.pool.place():
                    data = await self._upload(request, body)
                    about, content = await self._unless_gone(request, self.pool.run(job, options, data))
            except Busy:
                seconds = max(1, min(60, round(self.metrics.mean(request.url.path))))
                wait = {"Retry-After": str(seconds)}
                raise Refused(429, "too many requests at once; try again later", headers=wait) from None
            except TookTooLong:
                raise Refused(504, f"not done after {self.pool.timeout:g} s, which is the limit") from None
            except Died:
                raise Refused(
                    500, "the process that worked on this picture ended, perhaps for lack of memory; others continue"
                ) from None
        except Refused as refusal:
            await self._discard(request, body)
            return refusal.answer
        except ClientDisconnect:
            return Response(status_code=499)  # nobody reads it, but the metrics count it
        if "error" in about:
            return JSONResponse({"error": about["error"]}, about["status"])
        report = about["report"]
        if job == "restore":
            self.metrics.pixels += report["height"] * report["width"] * report["frames"]
        headers = {REPORT_HEADER: json.dumps(report)}
        return Response(content, about["status"], headers, about["type"])

    async def _upload(self, request: Request, body: _Body) -> bytes:
        """Read the request's body.

        Raises:
            Refused: when it is too large or arrives too slowly.
        """
        too_large = Refused(413, f"more than {self.max_bytes:,} bytes, which is the limit")
        if _declared(request) > self.max_bytes:
            raise too_large
        data = bytearray()

        async def read() -> None:
            async for chunk in body:
                data.extend(chunk)
                if len(data) > self.max_bytes:
                    raise too_large

        try:
            await asyncio.wait_for(read(), self.timeout)
        except TimeoutError:
            raise Refused(408, f"the upload took more than {self.timeout:g} s") from None
        return bytes(data)

    async def _unless_gone(self, request: Request, answer: Awaitable[tuple[dict[str, Any], bytes]]) -> Any:
        """Wait for an answer, but no longer than the client is connected."""
        working = asyncio.ensure_future(answer)
        leaving = asyncio.ensure_future(_left(request))
        try:
            await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                raise ClientDisconnect
            return working.result()
        finally:
            for task in (working, leaving):
                task.cancel()

    async def _discard(self, request: Request, body: _Body) -> None:
        """Read the rest of a refused upload, because clients that are still sending do not read answers.

        Skip this for clients that wait for permission to send, and for uploads of more than four times the limit.
        """
        if "expect" in request.headers or _declared(request) > 4 * self.max_bytes:
            return

        async def read() -> None:
            left = 4 * self.max_bytes
            async for chunk in body:
                left -= len(chunk)
                if left < 0:
                    return

        with suppress(asyncio.TimeoutError, ClientDisconnect):
            await asyncio.wait_for(read(), self.timeout)


class _Body:
    """A request's body in chunks. Iteration can stop and continue; at the end, it stays at the end."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.more = True

    def __aiter__(self) -> _Body:
        return self

    async def __anext__(self) -> bytes:
        if not self.more:
            raise StopAsyncIteration
        message = await self.request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        self.more = message.get("more_body", False)
        return message.get("body", b"")


def _declared(request: Request) -> int:
    """Return the Content-Length that the client declares; 0 if there is none."""
    try:
        return int(request.headers.get("content-length", "0"))
    except ValueError:
        return 0


async def _left(request: Request) -> None:
    """Return when the client has disconnected; read its body first."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


class _Watch:
    """Middleware that counts and times requests, and adds security headers to every response."""

    def __init__(self, app: ASGIApp, metrics: Metrics, routes: frozenset[str]) -> None:
        self.app, self.metrics, self.routes = app, metrics, routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun, status = time.perf_counter(), 500

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), *_HEADERS]
            await send(message)

        try:
            await self.app(scope, receive, send_with_headers)
        finally:
            # A label for every path that clients make up would fill the memory.
            route = scope["path"] if scope["path"] in self.routes else "other"
            self.metrics.count(route, status, time.perf_counter() - begun)


def application(service: Service) -> ASGIApp:
    """Build the application.

    It reads the page's files now, so that no request opens a file.
    """

    def fixed(content: bytes, kind: str) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            return Response(content, media_type=kind)

        return answer

    folder = resources.files("moceir.serve") / "page"
    routes = [
        Route("/restore", service.restore, methods=["POST"]),
        Route("/degrade", service.degrade, methods=["POST"]),
        Route("/healthz", service.health),
        Route("/metrics", service.tell_metrics),
        Route("/settings", service.settings),
    ]
    for name, kind in _PAGE.items():
        path = "/" if name == "index.html" else f"/{name}"
        routes.append(Route(path, fixed((folder / name).read_bytes(), kind)))
    for photograph in sample_photographs():
        answer = fixed(photograph.read_bytes(), _SAMPLE_TYPES[photograph.suffix])
        routes.append(Route(f"/samples/{photograph.name}", answer))
    return _Watch(Starlette(routes=routes), service.metrics, frozenset(route.path for route in routes))
