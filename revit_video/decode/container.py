"""Does a file end before its container says it does? Read from the outermost headers only, without a decoder.

A frame count in a header proves nothing (AVIs over-count, skipped frames are counted too), and decoders end
quietly where the bytes end. But the three containers that nearly all data sets use state their length.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import BinaryIO

from revit_video.decode.member import Member

MP4_BOXES = frozenset(
    b"ftyp styp moov moof mdat free skip wide sidx ssix mfra meta uuid udta prft emsg pdin".split()
)
MATROSKA_MAGIC, MATROSKA_SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"


def missing_bytes(path: str) -> int:
    """How many bytes the file lacks at its end: 0 for a whole file, and where the container does not tell."""
    member = Member.of(path)
    with member.open() if member else open(path, "rb") as file:
        head = file.read(12)
        end: Callable[[BinaryIO, int], int]
        if head[:4] == b"RIFF":
            end = _end_of_avi
        elif head[:4] == MATROSKA_MAGIC:
            end = _end_of_matroska
        elif head[4:8] in MP4_BOXES:
            end = _end_of_mp4
        else:
            return 0
        size = file.seek(0, os.SEEK_END)
        return max(end(file, size) - size, 0)


def _end_of_avi(file: BinaryIO, size: int) -> int:
    """RIFF chunks in a row: b"RIFF", length (4 bytes, little endian), content. Long files have several."""
    position = 0
    while position < size:
        file.seek(position)
        head = file.read(8)
        length = int.from_bytes(head[4:], "little")
        if head[:4] != b"RIFF" or length in (0, 0xFFFFFFFF):  # other things follow, or written as a stream
            return size
        position += 8 + length
    return position


def _end_of_mp4(file: BinaryIO, size: int) -> int:
    """Boxes in a row: length (4 bytes, big endian, includes these 8), kind, content."""
    position = 0
    while position < size:
        file.seek(position)
        head = file.read(16)
        length, kind = int.from_bytes(head[:4], "big"), head[4:8]
        if length == 1:  # the length follows, in 8 bytes
            length = int.from_bytes(head[8:16], "big")
        if kind not in MP4_BOXES or length < 8:  # other things follow; a length of 0 means "to the end"
            return size
        position += length
    return position


def _end_of_matroska(file: BinaryIO, size: int) -> int:
    """One segment holds all: its mark, length in 1 to 8 bytes (leading 0 bits say how many), content."""
    file.seek(0)
    head = file.read(4096)
    start = head.find(MATROSKA_SEGMENT) + len(MATROSKA_SEGMENT)
    if start < len(MATROSKA_SEGMENT) or start >= len(head) or not head[start]:
        return size
    num_bytes = 9 - head[start].bit_length()
    value = int.from_bytes(head[start : start + num_bytes], "big") & ((1 << 7 * num_bytes) - 1)
    if value == (1 << 7 * num_bytes) - 1:  # written as a stream
        return size
    return start + num_bytes + value
