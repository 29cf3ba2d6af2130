"""Video files, by PyAV (FFmpeg): frames are changed one by one, everything else is copied."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO, Protocol

import numpy as np

from moceir.extras import remedy
from moceir.pictures.picture import PictureError
from moceir.pictures.segments import Packet, Segments

#: Suffixes of containers that hold any number of streams, with the name of FFmpeg's writer for each.
CONTAINERS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm"}
_ENCODERS = {"h264": "libx264", "hevc": "libx265", "vp8": "libvpx-vp9", "vp9": "libvpx-vp9", "av1": "libsvtav1"}
#: Constant rate factors at which a difference is hard to see.
_QUALITY = {"libx264": 16, "libx265": 18, "libvpx-vp9": 20, "libsvtav1": 20}
_COPIED = ("audio", "subtitle")
#: Frames that are compressed together: a killed run loses at most these. Encoders set a key frame every 250 anyway.
SEGMENT = 120


def is_video(path: Path) -> bool:
    """Return whether a file has the name of a video."""
    return path.suffix.lower() in CONTAINERS


class Change(Protocol):
    """Changes frames in order."""

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """Take a frame, (H, W, 3) RGB, uint8 or, of more than 8 bits, uint16, and return one like it."""

    def state(self) -> Any:
        """Return, in plain values, what the next frame's change depends on apart from the last frame."""

    def go_on(self, state: Any, last: np.ndarray) -> None:
        """Continue after a frame, with the state after it."""


def rewrite(
    source: Path, target: BinaryIO, suffix: str, segments: Segments, change: Change, seen: Callable[[float], None]
) -> tuple[int, int, int]:
    """Change each frame of a video; keep its times, and all packets of sound and subtitles.

    Memory holds one frame at a time, the encoder's look-ahead, and the compressed frames of a segment.

    Args:
        source: the video.
        target: a file to write into, open for reading and writing.
        suffix: the target's suffix, which decides the container.
        segments: the finished segments; this adds the others.
        change: changes the frames.
        seen: called with the fraction of the video that is done, 0 to 1.

    Returns:
        Height, width, and the number of frames.

    Raises:
        PictureError: when PyAV is not installed, or the source is not a readable video.
    """
    if not find_spec("av"):
        raise PictureError(remedy(f"{source}: video", "PyAV", "video"))
    import av

    container = CONTAINERS[suffix.lower()]
    try:
        with av.open(str(source)) as reader:
            if not reader.streams.video or reader.streams.video[0].time_base is None:
                raise PictureError(f"{source}: holds no video")
            ticks = reader.streams.video[0].time_base.denominator
            _check_copies(av, reader, container)
            _restore(av, reader, container, segments, change, seen)
        if not segments.done:
            raise PictureError(f"{source}: holds no frames")
        with av.open(str(source)) as reader:
            # In thousandths of a second, as it would be, the begin of the first frame is not exact.
            scale = {"movie_timescale": str(ticks)}
            with av.open(target, "w", format=container, options=scale if container in ("mp4", "mov") else {}) as writer:
                _join(av, reader, writer, segments)
    except av.FFmpegError as error:
        raise PictureError(f"{source}: not a readable video ({error.strerror})") from error
    height, width = segments.done[0].about["size"]
    return height, width, segments.frames


def _check_copies(av: ModuleType, reader: Any, container: str) -> None:
    """Check before anything is computed that the target can hold the copied streams."""
    with av.open(BytesIO(), "w", format=container) as writer:
        for stream in reader.streams:
            try:
                if stream.type in _COPIED:
                    writer.add_stream_from_template(stream)
            except ValueError as error:
                raise PictureError(f"{reader.name}: {error}, and sound and subtitles are copied; use .mkv") from error


def _restore(
    av: ModuleType, reader: Any, container: str, segments: Segments, change: Change, seen: Callable[[float], None]
) -> None:
    """Add the segments that are missing."""
    video = reader.streams.video[0]
    video.thread_type = "AUTO"
    done = segments.frames
    packets: list[Packet] = []
    encoder, frames = None, 0

    def finish() -> None:
        nonlocal encoder
        assert encoder is not None
        packets.extend(_packets(encoder.encode()))
        segments.add(packets, {"size": (encoder.height, encoder.width), "deep": deep, "state": change.state()})
        packets.clear()
        encoder = None

    for frame in reader.decode(video):
        if frame.pts is None:
            raise PictureError(f"{reader.name}: holds frames without a time")
        deep = frame.format.components[0].bits > 8
        layout = "rgb48le" if deep else "rgb24"
        frames += 1
        if frames <= done:  # decoding costs little beside restoring, and is exact where seeking may not be
            if frames == done:
                change.go_on(segments.done[-1].about["state"], frame.to_ndarray(format=layout))
            continue
        changed = np.ascontiguousarray(np.rot90(change(frame.to_ndarray(format=layout)), frame.rotation // 90))
        if encoder is None:
            name = _encoder_name(video, container)
            encoder = av.CodecContext.create(name, "w")
            _set_up(encoder, name, video, changed.shape[:2], deep=deep)
            encoder.flags |= av.codec.context.Flags.global_header  # as the containers want it
        new = av.VideoFrame.from_ndarray(changed, format=layout)
        new = new.reformat(
            format=encoder.pix_fmt, dst_colorspace=frame.colorspace, dst_color_range=frame.color_range or None
        )
        new.pts, new.time_base = frame.pts, frame.time_base
        packets += _packets(encoder.encode(new))
        if (frames - done) % SEGMENT == 0:
            finish()
        if reader.duration and frame.time is not None:
            seen(min(1.0, (frame.time * av.time_base - (reader.start_time or 0)) / reader.duration))
    if encoder is not None:
        finish()


def _packets(encoded: Sequence[Any]) -> Iterator[Packet]:
    return (Packet(packet.pts, packet.is_keyframe, bytes(packet)) for packet in encoded)


def _join(av: ModuleType, reader: Any, writer: Any, segments: Segments) -> None:
    """Write the segments' frames, interleaved with the source's other streams."""
    video = reader.streams.video[0]
    kept = [stream for stream in reader.streams if stream.type in _COPIED]
    copies = {stream.index: writer.add_stream_from_template(stream) for stream in kept}
    writer.metadata.update(reader.metadata)
    about = segments.done[0].about
    name = _encoder_name(video, writer.format.name)
    stream = writer.add_stream(name, rate=video.average_rate)
    _set_up(stream.codec_context, name, video, about["size"], deep=about["deep"])
    stream.time_base = video.time_base

    def frames() -> Iterator[Any]:
        for packet, dts in zip(segments.packets(), _decoding_times(segments), strict=True):
            new = av.Packet(packet.data)
            new.stream, new.time_base, new.is_keyframe = stream, video.time_base, packet.keyframe
            new.pts, new.dts = packet.pts, dts
            yield new

    left = frames()
    frame = next(left, None)
    for packet in reader.demux(kept) if kept else ():
        if packet.dts is None:
            continue
        while frame is not None and frame.dts * frame.time_base <= packet.dts * packet.time_base:
            writer.mux(frame)
            frame = next(left, None)
        packet.stream = copies[packet.stream.index]
        writer.mux(packet)
    while frame is not None:
        writer.mux(frame)
        frame = next(left, None)


def _decoding_times(segments: Segments) -> list[int]:
    """Compute each frame's decoding time, which rises across segments and never exceeds the frame's display time."""
    shown = np.array([pts for segment in segments.done for pts, _, _ in segment.packets])
    in_order = np.sort(shown)
    ahead = int((np.arange(len(shown)) - np.searchsorted(in_order, shown)).max())
    step = int(in_order[1] - in_order[0]) if len(shown) > 1 else 1
    before = [int(in_order[0]) - step * (ahead - index) for index in range(ahead)]
    return before + in_order[: len(shown) - ahead].tolist()


def _encoder_name(video: Any, container: str) -> str:
    # Not the name of its decoder, which may be another's, such as libdav1d.
    return _ENCODERS.get(video.codec_context.codec.canonical_name, "libvpx-vp9" if container == "webm" else "libx264")


def _set_up(encoder: Any, name: str, video: Any, size: Sequence[int], *, deep: bool) -> None:
    """Set up an encoder for the frames of a video."""
    encoder.options = {"crf": str(_QUALITY[name])}
    if name == "libx265":
        encoder.options |= {"x265-params": "log-level=error"}
    encoder.height, encoder.width = size
    encoder.pix_fmt = "yuv420p10le" if deep else "yuv420p"
    encoder.framerate, encoder.time_base = video.average_rate, video.time_base
    for about in ("color_primaries", "color_trc", "colorspace", "color_range"):
        setattr(encoder, about, getattr(video.codec_context, about))
