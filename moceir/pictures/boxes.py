"""Boxes, of which JPEG 2000 and JPEG XL files are made (ISO 15444-1, annex I)."""

from __future__ import annotations

import struct
from collections.abc import Iterator


def boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield each box's kind and content."""
    place = 0
    while place + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, place)
        head = 8
        if length == 1 and place + 16 <= len(data):
            (length,), head = struct.unpack_from(">Q", data, place + 8), 16
        end = place + length if length else len(data)
        if end < place + head:
            raise ValueError("a broken box")
        yield kind, data[place + head : end]
        place = end


def box(kind: bytes, content: bytes) -> bytes:
    """Build a box."""
    return struct.pack(">I4s", len(content) + 8, kind) + content
