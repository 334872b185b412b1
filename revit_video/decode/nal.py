"""What the packets of H.264 and HEVC say about themselves, without decoding.

A packet is a row of NAL units, each behind its length (ISO/IEC 14496-15). Their first bytes tell what exact
seeking needs: is this one whole picture, can decoding begin with it, does another picture need it, and
(H.264) where in the order of display it stands. h264.py and hevc.py say it for each codec.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Picture:
    """What a packet holds. The defaults are for a packet that cannot be taken apart: a damaged picture."""

    begins: bool = False  # decoding can begin here: all pictures shown after it are then exact
    clean: bool = False  # and nothing decoded after it is shown before it
    spare: bool = False  # no other picture is predicted from it
    order: int | None = (
        None  # place in the order of display, counted anew from each clean one; None: not told
    )


DAMAGED = Picture()


class NotOnePicture(Exception):
    """A packet is no picture, or more than one, or changes settings: packets are not frames in this file."""


class Bits:
    """Reads numbers from the payload of a NAL unit, bit by bit; past the end come zeros."""

    def __init__(self, data: bytes) -> None:
        if b"\0\0\3" in data:  # a third byte that keeps two zeros from looking like a start code
            data = data.replace(b"\0\0\3", b"\0\0")
        self._size = 8 * len(data) + 64
        self._value = int.from_bytes(data, "big") << 64
        self._at = 0

    def number(self, bits: int) -> int:
        self._at += bits
        return self._value >> max(self._size - self._at, 0) & ((1 << bits) - 1)

    def golomb(self) -> int:
        """ue(v): as many zeros as bits follow the first one."""
        left = self._value & ((1 << max(self._size - self._at, 0)) - 1)
        zeros = self._size - self._at - left.bit_length()
        if not 0 <= zeros <= 32:
            raise NotOnePicture("numbers without an end")
        self._at += zeros
        return self.number(zeros + 1) - 1


def units(packet: memoryview, length_bytes: int) -> Sequence[tuple[int, int]]:
    """(begin, end) of each NAL unit; none at all if the lengths do not fit, as in a damaged packet."""
    found, position, size = [], 0, len(packet)
    while position + length_bytes < size:
        begin = position + length_bytes
        position = begin + int.from_bytes(packet[position:begin], "big")
        if position > size or position < begin + 3:
            return ()
        found.append((begin, position))
    return found if position == size else ()
