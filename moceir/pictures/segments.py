"""Stores a video's finished segments in a file beside the target, so that a killed run can continue after them."""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from moceir.pictures.files import lock
from moceir.pictures.picture import PictureError


class Packet(NamedTuple):
    """A compressed frame."""

    pts: int
    """The time at which it is shown, in the source's time base."""
    keyframe: bool
    data: bytes


class Segment(NamedTuple):
    """Frames that were compressed together, independently of all others."""

    about: dict[str, Any]
    """Plain values that describe the segment."""
    packets: list[tuple[int, bool, int]]
    """The packets in the order of decoding: time, whether it is a key frame, and number of bytes."""
    place: int
    """The position of the first packet in the file."""


class Segments:
    """A file that grows by whole segments: a record of a line of JSON, with a checksum, and the packets' bytes.

    A segment at which a run was killed is cut off. Without any segment, no file is left.

    Args:
        target: the video.
        settings: what determines the segments; segments with other settings are discarded.

    Raises:
        PictureError: when another run is writing the target.
    """

    def __init__(self, target: Path, settings: str) -> None:
        target = target.resolve()
        target.parent.mkdir(parents=True, exist_ok=True)
        name = hashlib.sha256(target.name.encode()).hexdigest()[:16]  # which may be as long as names can be
        self.path = target.with_name(f".moceir-{name}.segments")
        self._file = self.path.open("a+b")
        if not lock(self._file):
            self._file.close()
            raise PictureError(f"{target}: another run restores into it")
        self._file.seek(0)
        first = json.dumps(settings).encode() + b"\n"
        self.done: list[Segment] = []
        if self._file.readline() == first:
            while (segment := self._read()) is not None:
                self.done.append(segment)
        else:
            self._file.truncate(0)
            self._file.write(first)
            self._file.flush()
        self._file.truncate(self._end(len(first)))

    def _end(self, start: int) -> int:
        if not self.done:
            return start
        return self.done[-1].place + sum(size for _, _, size in self.done[-1].packets)

    def _read(self) -> Segment | None:
        """Read the next segment, if it is whole."""
        try:
            record = json.loads(self._file.readline())
            packets = [(int(pts), bool(keyframe), int(size)) for pts, keyframe, size in record["packets"]]
            place = self._file.tell()
            if zlib.crc32(self._file.read(sum(size for _, _, size in packets))) != record["crc"]:
                return None
            return Segment(record["about"], packets, place)
        except (ValueError, KeyError, TypeError):  # cut in the line
            return None

    @property
    def frames(self) -> int:
        """Return the number of frames that are done."""
        return sum(len(segment.packets) for segment in self.done)

    def add(self, packets: Sequence[Packet], about: dict[str, Any]) -> None:
        """Write a segment."""
        content = b"".join(packet.data for packet in packets)
        rows = [(packet.pts, packet.keyframe, len(packet.data)) for packet in packets]
        line = json.dumps({"about": about, "packets": rows, "crc": zlib.crc32(content)}).encode() + b"\n"
        self._file.seek(0, os.SEEK_END)
        self._file.write(line)
        place = self._file.tell()
        self._file.write(content)
        self._file.flush()
        self.done.append(Segment(about, rows, place))

    def packets(self) -> Iterator[Packet]:
        """Yield the packets of all segments, in the order of decoding."""
        for segment in self.done:
            self._file.seek(segment.place)
            for pts, keyframe, size in segment.packets:
                yield Packet(pts, keyframe, self._file.read(size))

    def __enter__(self) -> Segments:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None or not self.done:
            self.path.unlink(missing_ok=True)  # while it is locked
        self._file.close()
