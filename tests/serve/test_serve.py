"""Tests ``moceir serve`` as programs use it: its responses, the requests that it rejects, and its robustness."""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image
from serving import Server

from moceir import Restorer, load_pretrained
from moceir.pictures.picture import Picture
from moceir.serve.degrade import degrade, psnr
from moceir.serve.options import DEGRADING, RESTORING, read_query

sys.path.append(str(Path(__file__).parents[1] / "pictures"))
from cases import exif, pillow, refused_cases


@pytest.fixture(scope="module")
def server_weights() -> str:
    """Return weights with experts, because some options choose them."""
    return "moce_ir_30g"


@pytest.fixture
def client(server: Server) -> Iterator[httpx.Client]:
    with server.client() as client:
        yield client


def report_of(answer: httpx.Response) -> dict:
    assert answer.status_code == 200, answer.text
    return json.loads(answer.headers["moceir-report"])


def wait_until(condition: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "not in time"
        time.sleep(0.02)


def test_restored_pictures_are_those_of_the_command(client: httpx.Client, file: Path, photograph: np.ndarray) -> None:
    answer = client.post("/restore", content=file.read_bytes())
    report = report_of(answer)
    assert answer.headers["content-type"] == "image/png"
    expected = Restorer(load_pretrained("moce_ir_30g")).restore(photograph)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(answer.content))), expected)
    assert (report["height"], report["width"], report["format"], report["depth"]) == (60, 80, "png", "uint8")
    assert len(report["experts"]) == 7
    assert report["gmacs"] <= 30
    assert "psnr" not in report


def test_metadata_is_kept(client: httpx.Client, photograph: np.ndarray) -> None:
    data = pillow(Image.fromarray(photograph), "JPEG", exif=b"Exif\0\0" + exif(), icc_profile=None)
    answer = client.post("/restore", content=data)
    assert answer.headers["content-type"] == "image/jpeg"
    about = Image.open(io.BytesIO(answer.content)).getexif()
    assert about[0x010F] == "Camera & Co"
    assert about.get_ifd(0x8825)[1] == "N"


def test_options_are_followed(client: httpx.Client, file: Path, photograph: np.ndarray) -> None:
    data = file.read_bytes()
    unchanged = client.post("/restore?strength=0&format=tiff", content=data)
    assert unchanged.headers["content-type"] == "image/tiff"
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(unchanged.content))), photograph)
    forced = report_of(client.post("/restore?expert=3", content=data))
    assert forced["experts"] == [[3]] * 7
    assert forced["gmacs"] > 33
    cheap = report_of(client.post("/restore?mac_budget=29.1", content=data))
    assert cheap["gmacs"] <= 29.1
    worse = report_of(client.post("/restore?noise=50", content=data))
    assert worse["psnr"]["restored"] > worse["psnr"]["degraded"] + 1
    plain = client.post("/restore?mac_budget=0", content=data)
    filtered = client.post("/restore?mac_budget=0&filter=1&texture=0.5", content=data)
    assert plain.content != filtered.content


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("strength=2", "strength=2: give a number from 0 to 1"),
        ("strength=nan", "give a number"),
        ("jpeg=50.5", "jpeg=50.5: give a whole number from 1 to 100"),
        ("noise=5&noise=6", "noise is given twice"),
        ("path=/etc/passwd", "no option 'path'"),
        ("format=../../etc", "format=../../etc: give what comes behind the dot"),
        ("suffix=/etc/passwd", "suffix=/etc/passwd: give"),
        ("format=svg", "format=svg: use one of PNG"),
        ("filter=perhaps", "give 0 or 1"),
        ("mac_budget=5", "the cheapest route costs"),
        ("expert=7", "of 4 in each layer"),
    ],
)
def test_options_that_make_no_sense(client: httpx.Client, file: Path, query: str, message: str) -> None:
    answer = client.post(f"/restore?{query}", content=file.read_bytes())
    assert answer.status_code == 400
    assert message in answer.json()["error"]


def test_degraded_pictures(client: httpx.Client, file: Path, photograph: np.ndarray) -> None:
    same = client.post("/degrade", content=file.read_bytes())
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(same.content))), photograph)
    first, again = (client.post("/degrade?noise=25&blur=2&jpeg=30", content=file.read_bytes()) for _ in range(2))
    assert first.content == again.content != same.content
    assert client.post("/degrade?strength=0", content=file.read_bytes()).status_code == 400


def test_amounts_have_the_stated_strength(photograph: np.ndarray) -> None:
    grey = np.full((200, 300), 128, np.uint8)
    for pixels in (grey, np.dstack([grey] * 3), grey.astype(np.uint16) * 257, grey.astype(np.float32) / 255):
        clean = Picture(pixels=pixels, depth=pixels.dtype, bits=pixels.dtype.itemsize * 8)
        noisy = degrade(clean, noise=10)
        assert noisy.pixels.shape == pixels.shape
        assert noisy.pixels.dtype == pixels.dtype
        value = psnr(clean, noisy)
        assert value is not None
        assert 255 * 10 ** (-value / 20) == pytest.approx(10, rel=0.02)
        assert degrade(clean) is clean
        assert psnr(clean, clean) is None
    picture = Picture(pixels=photograph, depth=photograph.dtype, bits=8)
    blurred, compressed = degrade(picture, blur=3).pixels, degrade(picture, jpeg=5).pixels
    assert blurred.std() < photograph.std()
    assert not np.array_equal(compressed, photograph)


def test_queries_are_read_once_and_strictly() -> None:
    read = read_query([("noise", "2.5"), ("filter", "true"), ("format", ".JPG"), ("expert", "1")], RESTORING)
    assert read == {"noise": 2.5, "filter": True, "format": ".jpg", "expert": 1}
    assert read_query([], DEGRADING) == {}


def test_broken_and_hostile_files(client: httpx.Client, server: Server) -> None:
    """The service rejects every file that the readers reject, and every file that once broke a reader."""
    workers = [worker.pid for worker in server.workers]
    tried = 0
    for name, data, message in refused_cases():
        if len(data) > 1_000_000:
            continue
        answer = client.post("/restore", params={"suffix": name.rsplit(".", 1)[1]}, content=data)
        assert answer.status_code == 422, name
        error = answer.json()["error"]
        assert "\n" not in error
        assert message.split("--max-pixels")[0] in error, name
        tried += 1
    corpus = Path(__file__).parents[1] / "fuzz" / "corpus"
    for kept in sorted(path for path in corpus.rglob("*") if path.is_file()):
        assert client.post("/restore", content=kept.read_bytes()[:1_000_000]).status_code in (200, 422)
    assert tried >= 20
    assert [worker.pid for worker in server.workers] == workers


def test_too_large_an_upload(client: httpx.Client, server: Server) -> None:
    assert client.post("/restore", content=bytes(1_000_001)).status_code == 413
    chunks = (bytes(100_000) for _ in range(11))  # without a declared length
    assert client.post("/restore", content=chunks).status_code == 413
    assert client.post("/restore", content=b"").status_code == 422
    with socket.create_connection(("127.0.0.1", server.port)) as raw:  # like curl, it waits for 100 Continue
        raw.sendall(b"POST /restore HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 9999999999\r\n\r\n")
        assert raw.recv(99).startswith(b"HTTP/1.1 413")


def test_other_bad_requests_are_rejected(client: httpx.Client, file: Path) -> None:
    assert client.get("/restore").status_code == 405
    for path in (
        "/../pyproject.toml",
        "/samples/../../__init__.py",
        "/samples/%2e%2e/%2e%2e/__init__.py",
        "/etc/passwd",
    ):
        assert client.get(path).status_code == 404
    other = client.post("/restore", content=file.read_bytes(), headers={"Sec-Fetch-Site": "cross-site"})
    assert other.status_code == 403


def test_the_page_and_its_parts(client: httpx.Client) -> None:
    page = client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    for name in ("page.css", "page.js", "compare.js", "route.js", "icon.svg"):
        answer = client.get(f"/{name}")
        assert answer.status_code == 200
        assert b"http://" not in answer.content.replace(b"http://www.w3.org/2000/svg", b"")
        assert b"https://" not in answer.content
    settings = client.get("/settings").json()
    assert settings["max_bytes"] == settings["max_pixels"] == 1_000_000
    assert len(settings["experts_gmacs"]) == 7
    for name in settings["samples"]:
        assert client.get(f"/samples/{name}").headers["content-type"] in ("image/png", "image/jpeg")


def test_health_and_metrics(client: httpx.Client, file: Path) -> None:
    client.post("/restore", content=file.read_bytes())
    client.get("/a-path-that-somebody-thinks-of")
    assert client.get("/healthz").json()["status"] == "ok"
    text = client.get("/metrics").text
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert float(values['moceir_requests_total{route="/restore",status="200"}']) >= 1
    assert float(values['moceir_request_seconds_bucket{route="/restore",le="+Inf"}']) == float(
        values['moceir_request_seconds_count{route="/restore"}']
    )
    assert float(values["moceir_pixels_total"]) >= 60 * 80
    assert values["moceir_workers"] == "1"
    assert "somebody" not in text


def test_requests_beyond_the_queue_are_rejected(client: httpx.Client, server: Server, file: Path) -> None:
    (worker,) = server.workers
    worker.suspend()  # so that the first request lasts as long as this test
    data = file.read_bytes()
    with ThreadPoolExecutor(2) as threads:
        try:
            accepted = [threads.submit(client.post, "/restore", content=data) for _ in range(2)]
            wait_until(lambda: "moceir_requests_inside 2" in client.get("/metrics").text)
            refused = client.post("/restore", content=data)
            assert client.get("/healthz").status_code == 200
        finally:
            worker.resume()
        assert refused.status_code == 429
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        assert [future.result().status_code for future in accepted] == [200, 200]


def test_the_queue_does_not_wait_for_a_client_that_is_gone(client: httpx.Client, server: Server, file: Path) -> None:
    (worker,) = server.workers
    data = file.read_bytes()
    worker.suspend()
    try:
        with socket.create_connection(("127.0.0.1", server.port)) as raw:
            raw.sendall(f"POST /restore HTTP/1.1\r\nHost: a\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data)
            wait_until(lambda: "moceir_requests_inside 1" in client.get("/metrics").text)
        wait_until(lambda: "moceir_requests_inside 0" in client.get("/metrics").text)
    finally:
        worker.resume()
    assert client.post("/restore", content=data).status_code == 200
    assert 'route="/restore",status="499"' in client.get("/metrics").text
    assert server.workers == [worker]


def test_a_worker_that_is_killed_takes_one_picture_with_it(client: httpx.Client, server: Server, file: Path) -> None:
    (worker,) = server.workers
    score = Path(f"/proc/{worker.pid}/oom_score_adj")
    # When memory runs out, the kernel must kill a worker rather than the server.
    assert not score.exists() or score.read_text() == "1000\n"
    worker.suspend()
    with ThreadPoolExecutor(1) as threads:
        lost = threads.submit(client.post, "/restore", content=file.read_bytes())
        wait_until(lambda: "moceir_requests_inside 1" in client.get("/metrics").text)
        time.sleep(0.2)
        worker.kill()
        assert lost.result().status_code == 500
        assert "perhaps for lack of memory" in lost.result().json()["error"]
    assert client.get("/").status_code == 200
    assert client.post("/restore", content=file.read_bytes()).status_code == 200  # a new worker answers


def test_a_port_is_taken_once(tmp_path: Path, server: Server) -> None:
    second = Server(tmp_path, "--port", server.port)
    assert second.status() == 2
    assert f"port {server.port}: cannot be used" in second.log.read_text()


def test_a_request_to_end_is_followed_when_all_is_answered(tmp_path: Path, file: Path) -> None:
    server = Server(tmp_path, "--port", 0).wait()
    try:
        (worker,) = server.workers
        with server.client() as client, ThreadPoolExecutor(1) as threads:
            worker.suspend()
            last = threads.submit(client.post, "/restore", content=file.read_bytes())
            wait_until(lambda: "moceir_requests_inside 1" in httpx.get(f"{server.url}/metrics").text)
            for process in (server.process, worker.pid):  # as service managers do
                os.kill(process, signal.SIGTERM)
            wait_until(lambda: "Shutting down" in server.log.read_text())
            worker.resume()
            assert last.result().status_code == 200
        assert server.status() == 0
        assert not worker.is_running()
        assert "stopped" in server.log.read_text()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", server.port)).close()
    finally:
        server.end()


def test_nothing_is_left_of_a_server_that_is_killed(server: Server) -> None:
    """This is the last test. Neither the worker nor a file from earlier requests remains."""
    (worker,) = server.workers
    server.end()
    wait_until(lambda: not worker.is_running() or worker.status() == "zombie")
    assert list(server.temporary.iterdir()) == []
