"""Frames by number with as little decoding as possible: seek to key frames, leave out what nobody needs.

Every packet is sent to the decoder with its own place in the file for a time, so every frame says which
packet it came from. Whatever comes out other than the packet table foretells (another order, a frame too
few or too many, no key frame where one should be) raises Mismatch, and the reader decodes that file from
its start.
"""

from __future__ import annotations

from collections.abc import Iterator

import av

from revit_video.decode.packets import PacketTable
from revit_video.decode.pyav_source import Source

FEW_PACKETS = 4  # decoding so many for nothing costs no more than a seek


class Mismatch(Exception):
    """The decoder does not do what the packet table says."""


class Seeker:
    """Gives frames by number. An error leaves it as it was at the start.

    Attributes:
        number: of the frame that came out last; -1 before the first.
        frame: that frame, not converted.
        failed_at: the frame that should have come out when an error came.
    """

    def __init__(self, source: Source, table: PacketTable) -> None:
        self.source, self.table = source, table
        # Where the pictures confirm the order, the decoder can be emptied early, and packets that no other
        # needs can be left out. Otherwise its own order of output is the only proof: every frame has to
        # come out.
        self._sure = table.ordered
        self.failed_at = 0
        self._reads_on = False  # asked again for what comes next: do not empty the decoder between calls
        self.stop()

    def stop(self) -> None:
        """Forget where the decoder stands."""
        self.number, self.frame = -1, None
        self._packets: Iterator[av.Packet] | None = None  # from packet _next on; None: seek first
        self._next, self._inside = 0, set()  # _inside: numbers of the frames that the decoder holds
        self._key = 0  # the packet that decoding began with
        self._key_is_out = False
        self._found: av.Packet | None = None  # read, not yet sent

    def frames(self, wanted: list[int], *, go_on: bool = False) -> Iterator[tuple[int, av.VideoFrame]]:
        """(number, frame) of each wanted number; they rise. With `go_on` the next call reads what follows."""
        try:
            if wanted and self.frame is not None and wanted[0] == self.number:
                yield self.number, self.frame
                wanted = wanted[1:]
            runs = self._runs(wanted)
            for i, (key, numbers) in enumerate(runs):
                if not self._can_go_on(key, numbers):
                    self._begin(key)
                stays = i == len(runs) - 1 and (go_on or self._reads_on)
                yield from self._run(numbers, empty=self._sure and not stays)
        except BaseException:
            self.failed_at = min(self._inside, default=self.number + 1)
            self.stop()
            raise

    def _runs(self, wanted: list[int]) -> list[tuple[int, list[int]]]:
        """The numbers, cut where a seek saves something, each part with the key packet to begin with."""
        runs: list[tuple[int, list[int]]] = []
        furthest = 0
        for number in wanted:
            key, packet = self.table.key_for(number), self.table.packets[number]
            if not runs or key > furthest + FEW_PACKETS:
                runs.append((key, []))
                furthest = 0
            runs[-1][1].append(number)
            furthest = max(furthest, packet)
        return runs

    def _can_go_on(self, key: int, wanted: list[int]) -> bool:
        """Are all wanted frames still to come, with no key packet far ahead to jump to?"""
        if self._packets is None:  # emptied; if that was at this very place, it was too early
            self._reads_on |= self.frame is not None and self.number < wanted[0] and key < self._next
            return False
        if key > self._next + FEW_PACKETS:
            return False
        return all(self.table.packets[n] >= self._next or n in self._inside for n in wanted)

    def _begin(self, key: int) -> None:
        """Seeks to a key packet, or to one before it whose successors are then passed over."""
        self.stop()
        for packet in (key, max(key - 1, 0), 0):
            self.source.seek(self.table.times[packet])
            self._packets = self.source.packets()
            found = next((packet for packet in self._packets if packet.size), None)
            place = self.table.place(found.pts) if found else -1
            if 0 <= place <= key:
                break
        else:
            raise Mismatch("seeking leads elsewhere")
        self._next, self._key = place, key
        self._found = found

    def _run(self, wanted: list[int], *, empty: bool) -> Iterator[tuple[int, av.VideoFrame]]:
        """Decodes on to the last wanted frame; with `empty`, what the decoder holds then comes out."""
        left = set(wanted)
        furthest = max(self.table.packets[number] for number in wanted)
        while left:
            ends = empty and self._next > furthest
            for frame in self.source.decode(None) if ends else self._feed(left, furthest, drop_all=empty):
                self._check(frame)
                if self.number in left:
                    left.remove(self.number)
                    yield self.number, frame
            if (ends or self._packets is None) and (self._inside or left):
                raise Mismatch("the decoder keeps frames back")
            if ends:
                self._packets = None

    def _feed(self, wanted: set[int], furthest: int, *, drop_all: bool) -> list[av.VideoFrame]:
        """Sends the next packet, if anybody needs it. The end of the file empties the decoder."""
        packet, self._found = self._found or self._next_packet(), None
        if packet is None:
            self._packets = None
            return self.source.decode(None)
        place, table = self._next, self.table
        if table.place(packet.pts) != place:
            raise Mismatch("packets come in another order")
        self._next += 1
        number = table.numbers[place]
        if place < self._key or table.times[place] < table.times[self._key]:  # before it, or led in by it
            return []
        is_spare = self._sure and place in table.spare and place <= furthest and number not in wanted
        if is_spare and (drop_all or number < max(wanted)):
            return []
        if number >= 0:
            self._inside.add(number)
        packet.pts = place
        return self.source.decode(packet)

    def _next_packet(self) -> av.Packet | None:
        return next((packet for packet in self._packets if packet.size), None)

    def _check(self, frame: av.VideoFrame) -> None:
        """Is this the frame that had to come? Takes note of it."""
        place = -1 if frame.pts is None else frame.pts
        number = self.table.numbers[place] if 0 <= place < len(self.table.numbers) else -1
        if number not in self._inside or number != min(self._inside):
            raise Mismatch("frames come in another order")
        if self._key_is_out and not self._sure and number != self.number + 1:
            raise Mismatch("a frame is missing")
        is_first = not self._key_is_out and self.table.numbers[self._key] >= 0
        if is_first and (place != self._key or not frame.key_frame):
            raise Mismatch("the decoder does not begin with the key frame")
        self._key_is_out = True
        self._inside.remove(number)
        self.number, self.frame = number, frame
