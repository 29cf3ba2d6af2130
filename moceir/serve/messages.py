"""Messages between the server and its workers: JSON followed by bytes, through a worker's stdin and stdout."""

from __future__ import annotations

import asyncio
import json
import struct
from typing import Any, BinaryIO

#: The lengths of the JSON and of the bytes.
_LENGTHS = struct.Struct(">IQ")

Message = tuple[dict[str, Any], bytes]


def packed(about: dict[str, Any], data: bytes = b"") -> list[bytes]:
    """Pack a message into parts to write one after the other, so that large data is not copied."""
    text = json.dumps(about).encode()
    return [_LENGTHS.pack(len(text), len(data)) + text, data]


def read_message(stream: BinaryIO) -> Message:
    """Read the next message.

    Raises:
        EOFError: when the other side is gone.
    """
    length, size = _LENGTHS.unpack(_exactly(stream, _LENGTHS.size))
    about = json.loads(_exactly(stream, length))
    return about, _exactly(stream, size)


async def next_message(stream: asyncio.StreamReader) -> Message:
    """Read the next message.

    Raises:
        EOFError: when the other side is gone.
    """
    length, size = _LENGTHS.unpack(await stream.readexactly(_LENGTHS.size))
    about = json.loads(await stream.readexactly(length))
    return about, await stream.readexactly(size)


def _exactly(stream: BinaryIO, size: int) -> bytes:
    data = stream.read(size)
    if len(data) < size:
        raise EOFError
    return data
