"""Video files, by PyAV (FFmpeg): frames are changed one by one, everything else is copied."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

import numpy as np

from moceir.pictures.picture import ImageError

#: Of files that can hold any number of streams, and the name of FFmpeg's writer for each.
CONTAINERS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm"}
_ENCODERS = {"h264": "libx264", "hevc": "libx265", "vp8": "libvpx-vp9", "vp9": "libvpx-vp9", "av1": "libsvtav1"}
#: Constant rate factors at which a difference is hard to see.
_QUALITY = {"libx264": 16, "libx265": 18, "libvpx-vp9": 20, "libsvtav1": 20}
_COPIED = ("audio", "subtitle")


def is_video(path: Path) -> bool:
    """Whether a file is one, by its name."""
    return path.suffix.lower() in CONTAINERS


def rewrite(
    source: Path,
    target: BinaryIO,
    suffix: str,
    change: Callable[[np.ndarray], np.ndarray],
    seen: Callable[[float], None],
) -> tuple[int, int, int]:
    """Change each frame of a video; its times, and all packets of sound and subtitles, stay as they are.

    One frame is in memory at a time, and as many as the encoder looks ahead.

    Args:
        source: the video.
        target: a file to write into, open for reading and writing.
        suffix: of the target, which decides the container.
        change: takes a frame, (H, W, 3) RGB, uint8 or, of more than 8 bits, uint16, and returns one like it.
        seen: is told which share of the video is done, 0 to 1.

    Returns:
        Height, width, and the number of frames.

    Raises:
        ImageError: when PyAV is not installed, or the source is no readable video.
    """
    if not find_spec("av"):
        raise ImageError(f"{source}: video needs PyAV: pip install 'moceir[video]'")
    import av

    try:
        with av.open(str(source)) as reader:
            if not reader.streams.video:
                raise ImageError(f"{source}: holds no video")
            container = CONTAINERS[suffix.lower()]
            # In thousandths of a second, as it would be, the begin of the first frame is not exact.
            scale = {"movie_timescale": str(reader.streams.video[0].time_base.denominator)}
            with av.open(target, "w", format=container, options=scale if container in ("mp4", "mov") else {}) as writer:
                return _copy(av, reader, writer, change, seen)
    except av.FFmpegError as error:
        raise ImageError(f"{source}: not a readable video ({error.strerror})") from error


def _copy(
    av: ModuleType,
    reader: Any,
    writer: Any,
    change: Callable[[np.ndarray], np.ndarray],
    seen: Callable[[float], None],
) -> tuple[int, int, int]:
    video = reader.streams.video[0]
    video.thread_type = "AUTO"
    kept = [stream for stream in reader.streams if stream.type in _COPIED]
    copies = {stream.index: writer.add_stream_from_template(stream) for stream in kept}
    writer.metadata.update(reader.metadata)
    encoder, frames, size = None, 0, (0, 0)
    early: list = []  # the file's header, which comes first, needs the encoder, which needs a frame
    for packet in reader.demux([video, *kept]):
        if packet.stream is not video:
            if packet.dts is not None:
                packet.stream = copies[packet.stream.index]
                if encoder is None:
                    early.append(packet)
                else:
                    writer.mux(packet)
            continue
        for frame in packet.decode():
            deep = frame.format.components[0].bits > 8
            pixels = frame.to_ndarray(format="rgb48le" if deep else "rgb24")
            changed = np.ascontiguousarray(np.rot90(change(pixels), frame.rotation // 90))
            size = changed.shape[:2]
            if encoder is None:
                encoder = _encoder(writer, video, size, deep=deep)
                writer.mux(early)
            new = av.VideoFrame.from_ndarray(changed, format="rgb48le" if deep else "rgb24")
            new = new.reformat(
                format=encoder.pix_fmt, dst_colorspace=frame.colorspace, dst_color_range=frame.color_range or None
            )
            new.pts, new.time_base = frame.pts, frame.time_base
            writer.mux(encoder.encode(new))
            frames += 1
            if reader.duration and frame.time is not None:
                seen(min(1.0, (frame.time * av.time_base - (reader.start_time or 0)) / reader.duration))
    if encoder is None:
        raise ImageError("holds no frames")
    writer.mux(encoder.encode())
    return size[0], size[1], frames


def _encoder(writer: Any, video: Any, size: tuple[int, ...], *, deep: bool) -> Any:
    """A stream to write the frames of a video into, in its own codec if that can be."""
    name = _ENCODERS.get(video.codec_context.name, "libvpx-vp9" if writer.format.name == "webm" else "libx264")
    options = {"crf": str(_QUALITY[name])}
    if name == "libx265":
        options["x265-params"] = "log-level=error"
    encoder = writer.add_stream(name, rate=video.average_rate, options=options)
    encoder.height, encoder.width = size
    encoder.pix_fmt = "yuv420p10le" if deep else "yuv420p"
    encoder.time_base = encoder.codec_context.time_base = video.time_base
    for name in ("color_primaries", "color_trc", "colorspace", "color_range"):
        setattr(encoder.codec_context, name, getattr(video.codec_context, name))
    return encoder
