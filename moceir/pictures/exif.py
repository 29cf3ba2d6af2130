"""Exif blocks: directories as in a TIFF file (Exif 3.0, section 4.6), read and written without understanding values."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from typing import Literal, NamedTuple

ORIENTATION, SUB_EXIF, SUB_GPS, SUB_INTEROPERABILITY = 0x0112, 0x8769, 0x8825, 0xA005
_PIXEL_DIMENSIONS = (0xA002, 0xA003)
_SUBDIRECTORIES = (SUB_EXIF, SUB_GPS, SUB_INTEROPERABILITY)
#: Bytes of one value of each type.
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 129: 1}
_SHORT, _LONG = 3, 4

ByteOrder = Literal["<", ">"]


class Entry(NamedTuple):
    """A tag's value, in the block's byte order."""

    type: int
    length: int
    """The number of values."""
    value: bytes


Directory = dict[int, "Entry | Directory"]
"""Tag -> value; the directories of Exif, GPS and interoperability are values, too."""


class _Place(NamedTuple):
    tag: int
    type: int
    length: int
    offset: int
    """The position of the value in the block."""
    size: int


def byte_order(block: bytes) -> ByteOrder:
    """Return the byte order of a block.

    Raises:
        ValueError: when the block states none.
    """
    if block[:4] not in (b"II*\0", b"MM\0*"):
        raise ValueError("not an Exif block")
    return "<" if block[:2] == b"II" else ">"


def parse(block: bytes) -> Directory:
    """The first directory of a block, with those below it; values that lie outside the block are left out.

    Raises:
        ValueError: when the block is not readable.
    """
    order = byte_order(block)
    try:
        return read_directory(block, struct.unpack_from(f"{order}I", block, 4)[0], order)
    except struct.error as error:
        raise ValueError("a broken Exif block") from error


def read_directory(block: bytes, offset: int, order: ByteOrder, *, depth: int = 0) -> Directory:
    """Read a directory at an offset of a TIFF structure, with those below it."""
    directory: Directory = {}
    for place in _places(block, offset, order):
        value = block[place.offset : place.offset + place.size]
        if place.tag in _SUBDIRECTORIES and place.type in (_LONG, 13) and place.length == 1 and depth < 3:
            below = read_directory(block, struct.unpack(f"{order}I", value)[0], order, depth=depth + 1)
            if below:
                directory[place.tag] = below
        else:
            directory[place.tag] = Entry(place.type, place.length, value)
    return directory


def _places(block: bytes, offset: int, order: ByteOrder) -> Iterator[_Place]:
    if offset + 2 > len(block):
        return
    (count,) = struct.unpack_from(f"{order}H", block, offset)
    for start in range(offset + 2, offset + 2 + 12 * count, 12):
        if start + 12 > len(block):
            return
        tag, kind, number = struct.unpack_from(f"{order}HHI", block, start)
        size = _SIZES.get(kind, 0) * number
        place = start + 8 if size <= 4 else struct.unpack_from(f"{order}I", block, start + 8)[0]
        if size and place + size <= len(block):
            yield _Place(tag, kind, number, place, size)


def write(directory: Directory, order: ByteOrder) -> bytes:
    """Build a block of a directory and those below it."""
    return (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8) + write_directory(directory, 8, order)


def write_directory(directory: Directory, offset: int, order: ByteOrder) -> bytes:
    """Encode a directory and those below it for an even offset of a TIFF structure."""
    rows, outside = b"", b""
    start = offset + 2 + 12 * len(directory) + 4
    for tag, entry in sorted(directory.items(), key=lambda item: item[0]):
        place = start + len(outside)
        if isinstance(entry, dict):
            outside += write_directory(entry, place, order)
            kind, count, field = _LONG, 1, struct.pack(f"{order}I", place)
        else:
            kind, count, field = entry
            if len(field) > 4:
                outside += field
                field = struct.pack(f"{order}I", place)
        outside += b"\0" * (len(outside) % 2)
        rows += struct.pack(f"{order}HHI", tag, kind, count) + field.ljust(4, b"\0")
    return struct.pack(f"{order}H", len(directory)) + rows + bytes(4) + outside


def orientation(block: bytes) -> int:
    """Return a block's orientation, 1 to 8; 1 (upright) if it has none or is broken."""
    try:
        order, entry = byte_order(block), parse(block).get(ORIENTATION)
    except ValueError:
        return 1
    if not isinstance(entry, Entry) or entry.type != _SHORT:
        return 1
    (value,) = struct.unpack_from(f"{order}H", entry.value)
    return value if 1 <= value <= 8 else 1


def upright(block: bytes, *, turned: bool) -> bytes:
    """Reset the orientation in a block after it has been applied to the picture; keep the rest in place.

    The thumbnail, which shows the picture as it was, is left out. A broken block is returned unchanged.

    Args:
        turned: whether width and height have been swapped.
    """
    try:
        order = byte_order(block)
        patched = bytearray(block)
        (first,) = struct.unpack_from(f"{order}I", block, 4)
        (count,) = struct.unpack_from(f"{order}H", block, first)
        struct.pack_into(f"{order}I", patched, first + 2 + 12 * count, 0)  # the next directory is the thumbnail's
        for place in _places(block, first, order):
            if place.tag == ORIENTATION and place.type == _SHORT:
                struct.pack_into(f"{order}H", patched, place.offset, 1)
            if place.tag == SUB_EXIF and turned:
                (below,) = struct.unpack_from(f"{order}I", block, place.offset)
                sides = [side for side in _places(block, below, order) if side.tag in _PIXEL_DIMENSIONS]
                if len(sides) == 2 and sides[0].type == sides[1].type:
                    for side, other in zip(sides, reversed(sides), strict=True):
                        patched[side.offset : side.offset + side.size] = block[other.offset : other.offset + other.size]
    except (ValueError, struct.error):
        return block
    return bytes(patched)


def upright_xmp(packet: bytes) -> bytes:
    """Set an XMP packet's ``tiff:Orientation``, if it has one, to 1."""
    return re.sub(rb"""(tiff:Orientation(?:\s*=\s*["']|>))[1-8](?=["'<])""", rb"\g<1>1", packet)
