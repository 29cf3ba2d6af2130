"""The process that decodes, restores and encodes. If a picture crashes it, the server starts another.

It reads jobs from stdin and answers on stdout, see :mod:`moceir.serve.messages`. It exits when stdin closes, so that
no worker outlives the server. It ignores signals: the server ends it after its last answer.
"""

from __future__ import annotations

import logging
import os
import queue
import signal
import sys
import warnings
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from threading import Event, Thread
from typing import Any, BinaryIO

import torch

from moceir.engine.allocator import keep_freed_memory
from moceir.inference.restore import Restorer, Stopped
from moceir.inference.weights import load_weights
from moceir.networks.unet import UNet
from moceir.pictures.formats import (
    AVIF,
    BMP,
    BY_SUFFIX,
    FORMATS,
    GIF,
    HEIC,
    JPEG,
    JPEG2000,
    JPEGXL,
    PNG,
    TIFF,
    WEBP,
    decode,
    encode,
    fit,
    format_for,
    format_of,
    names,
)
from moceir.pictures.picture import Picture, PictureError
from moceir.serve.degrade import degrade, psnr
from moceir.serve.messages import Message, packed, read_message

LOG = logging.getLogger(__name__)

MEDIA_TYPES = {
    PNG: "image/png",
    JPEG: "image/jpeg",
    WEBP: "image/webp",
    GIF: "image/gif",
    BMP: "image/bmp",
    TIFF: "image/tiff",
    AVIF: "image/avif",
    JPEG2000: "image/jp2",
    HEIC: "image/heic",
    JPEGXL: "image/jxl",
}


class Worker:
    """Does jobs one at a time.

    Args:
        network: the network that restores.
        device: see :class:`moceir.Restorer`.
        threads: see :class:`moceir.Restorer`.
        mac_budget: GMACs for requests that do not set a budget; 0 for no limit.
        max_pixels: see :func:`moceir.pictures.formats.decode`; 0 for any number.

    Raises:
        ValueError: when the device cannot be used, or the budget is too small.
    """

    def __init__(self, network: UNet, *, device: str, threads: int | None, mac_budget: float, max_pixels: int) -> None:
        self.mac_budget, self.max_pixels = mac_budget, max_pixels or None
        self.restorer = Restorer(network, mac_budget=mac_budget or None, device=device, threads=threads)
        self.stop = Event()

    @property
    def about(self) -> dict[str, Any]:
        """The data that the page needs to offer choices and to draw routes."""
        costs = self.restorer.engine.route_costs
        return {
            "mac_budget": self.mac_budget,
            "base_gmacs": costs.base / 1e9,
            "experts_gmacs": [[cost / 1e9 for cost in layer] for layer in costs.experts],
            "cheapest_gmacs": costs.cheapest(self.restorer.engine.network.topk) / 1e9,
            "max_pixels": self.max_pixels or 0,
            "reads": sorted(suffix for format in FORMATS if format.available for suffix in format.suffixes),
            "writes": [
                format.suffixes[0].removeprefix(".") for format in FORMATS if format.available and format.written
            ],
        }

    def answer(self, job: str, options: dict[str, Any], data: bytes) -> Message:
        """Do a job, ``restore`` or ``degrade``; answer errors, too, rather than raise them."""
        try:
            return getattr(self, f"_{job}")(data, **options)
        except Stopped:
            return {"status": 499, "error": "nobody waits for this any more"}, b""
        except PictureError as error:
            return {"status": 422, "error": str(error)}, b""
        except ValueError as error:
            return {"status": 400, "error": str(error)}, b""
        except Exception:
            LOG.exception("a %s request failed", job)
            return {"status": 500, "error": "an internal error, which the server's log has"}, b""

    def _degrade(self, data: bytes, *, suffix: str = "", **amounts: Any) -> Message:
        """Degrade the first picture and answer it as a PNG, which every browser shows."""
        picture = degrade(decode(data, f"picture{suffix}", max_pixels=self.max_pixels)[0], **amounts)
        content, _ = encode([fit(picture, PNG)], Path("picture.png"))
        height, width = picture.size
        return {"status": 200, "type": MEDIA_TYPES[PNG], "report": {"height": height, "width": width}}, content

    def _restore(
        self,
        data: bytes,
        *,
        suffix: str = "",
        blur: float = 0,
        noise: float = 0,
        jpeg: int | None = None,
        strength: float = 1.0,
        texture: float = 0.0,
        filter: bool = False,
        mac_budget: float | None = None,
        expert: int | None = None,
        format: str | None = None,
        quality: int | None = None,
    ) -> Message:
        name = f"picture{suffix}"
        target = self._target(data, name, format)
        self.restorer.strength, self.restorer.texture, self.restorer.post_filter = strength, texture, filter
        # The engine refuses a budget below the cheapest route's cost.
        self.restorer.engine.mac_budget = (self.mac_budget if mac_budget is None else mac_budget) or None
        experts = None if expert is None else self._everywhere(expert)
        pictures: Sequence[Picture] = decode(data, name, max_pixels=self.max_pixels)
        clean = pictures[0]
        pictures = [degrade(picture, blur=blur, noise=noise, jpeg=jpeg) for picture in pictures]
        content, report = self.restorer.restore_decoded(
            pictures, name, target, quality=quality, experts=experts, stop=self.stop
        )
        about: dict[str, Any] = report._asdict()
        if pictures[0] is not clean:
            restored = decode(content, target.name, max_pixels=None)[0]
            about["psnr"] = {"degraded": psnr(clean, pictures[0]), "restored": psnr(clean, restored)}
        kind = format_for(target)
        about["format"] = kind.suffixes[0].removeprefix(".")
        return {"status": 200, "type": MEDIA_TYPES[kind], "report": about}, content

    def _target(self, data: bytes, name: str, format: str | None) -> Path:
        """Name the restored picture; its suffix is the requested format, the picture's own, or TIFF."""
        if format is None:
            own = format_of(data, name)
            return Path("restored").with_suffix((own if own is not None and own.written else TIFF).suffixes[0])
        if not (format in BY_SUFFIX and BY_SUFFIX[format].written):
            raise ValueError(f"format={format.removeprefix('.')}: use one of {names(written=True)}")
        return Path("restored").with_suffix(format)

    def _everywhere(self, expert: int) -> torch.Tensor:
        """Return the route that takes one expert in every layer."""
        network = self.restorer.engine.network
        if not network.num_layers:
            raise ValueError(f"expert={expert}: the network has no experts; leave it out")
        if network.topk != 1 or expert >= network.num_experts:
            raise ValueError(
                f"expert={expert}: of {network.num_experts} in each layer, from 0 on, the network takes {network.topk}"
            )
        return torch.full((network.num_layers, 1, 1), expert)


def _go_first() -> None:
    """Ask the kernel to kill this process rather than the server when the machine runs out of memory."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def _listen(stream: BinaryIO, jobs: queue.SimpleQueue[Message], stop: Event) -> None:
    """Queue jobs, and stop the current one on request; end the process when the server is gone."""
    with suppress(EOFError):
        while True:
            about, data = read_message(stream)
            if "stop" in about:
                stop.set()
            else:
                stop.clear()
                jobs.put((about, data))
    os._exit(0)


def main() -> None:
    """Serve one server until it closes stdin."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    # Redirect what libraries print, so that it does not mix with the answers.
    output = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    logging.basicConfig(format="%(levelname)s: worker: %(message)s", level=logging.INFO)
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # the answer says what is wrong with a picture
    warnings.filterwarnings("ignore", module="PIL")
    _go_first()
    keep_freed_memory()

    def send(about: dict[str, Any], data: bytes = b"") -> None:
        for part in packed(about, data):
            output.write(part)
        output.flush()

    settings, _ = read_message(sys.stdin.buffer)
    weights, topk = settings.pop("weights"), settings.pop("topk")
    try:
        worker = Worker(load_weights(weights, topk=topk), **settings)
    except (ValueError, OSError) as error:
        send({"error": str(error)})
        return
    send(worker.about)
    jobs: queue.SimpleQueue[Message] = queue.SimpleQueue()
    Thread(target=_listen, args=(sys.stdin.buffer, jobs, worker.stop), daemon=True).start()
    while True:
        about, data = jobs.get()
        answer = worker.answer(about["job"], about["options"], data)
        del data
        send(*answer)


if __name__ == "__main__":
    main()
