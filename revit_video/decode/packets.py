"""Which packet holds which frame: a table that makes seeking exact, for the files where it can be proved.

The number of a frame is its place in the decoder's output. In mp4, mov, Matroska and WebM with H.264, HEVC,
VP9 or AV1 that place follows from the packets alone, if one packet is one picture and the times are whole:
frames come out in the order of their times. Every other file, and every file with a doubt, has no table and
is decoded from its start.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import av

from revit_video.decode.h264 import H264Parser
from revit_video.decode.hevc import HEVCParser
from revit_video.decode.nal import NotOnePicture, Picture

# Elsewhere a packet may hold two pictures or none (B-frames packed into AVIs, hidden ones in VP8).
CODECS = {
    "mov,mp4,m4a,3gp,3g2,mj2": {"h264", "hevc", "vp9", "av1"},
    "matroska,webm": {"h264", "hevc", "vp9", "av1"},
}


@dataclass(frozen=True)
class PacketTable:
    """All packets of a stream, in the order of decoding. Packets are meant by their place in this order.

    Attributes:
        times: of each packet, as the container has them; no two are equal.
        numbers: of the frame in each packet; -1 where an edit list hides it.
        packets: of each frame.
        keys: packets with which decoding can begin, rising; the first is 0.
        spare: packets that no other one needs.
        depth: how many frames the decoder must hold back at most to give them out in order.
        ordered: the pictures themselves confirm the order of the times.
    """

    times: tuple[int, ...]
    numbers: tuple[int, ...]
    packets: tuple[int, ...]
    keys: tuple[int, ...]
    spare: frozenset[int]
    depth: int
    ordered: bool

    def key_for(self, number: int) -> int:
        """The last packet from which this frame can be decoded exactly."""
        packet = self.packets[number]
        place = bisect.bisect_right(self.keys, packet) - 1
        while self.times[self.keys[place]] > self.times[packet]:  # it is shown before the key: led in by it
            place -= 1
        return self.keys[place]

    def place(self, time: int | None) -> int:
        """The packet with this time; -1 if there is none."""
        return self._places.get(time, -1)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_places", {time: place for place, time in enumerate(self.times)})


def may_have_table(stream: av.VideoStream, container: str) -> bool:
    """Are packets frames for this codec in this container (FFmpeg's name)? Reads none of them."""
    return stream.codec_context.codec.canonical_name in CODECS.get(container, ())


def packet_table(stream: av.VideoStream, packets: Iterable[av.Packet]) -> PacketTable | None:
    """The table of a stream that may have one, from all its packets; None if they do not prove it."""
    codec, settings = stream.codec_context.codec.canonical_name, stream.codec_context.extradata or b""
    parsers = {"h264": H264Parser, "hevc": HEVCParser}
    try:
        read = parsers[codec](settings) if codec in parsers else _whole_picture
        table = _table(read, packets)
    except (NotOnePicture, IndexError):
        return None
    # A decoder that holds back fewer frames than needed may lose some, depending on where it began.
    return None if table.depth > stream.codec_context.reorder_depth else table


def _whole_picture(packet: memoryview) -> Picture:
    """VP9 and AV1: by the rules of their containers a packet has one shown picture, and no packet waits."""
    return Picture(begins=True, clean=True)


def _table(read: Callable[[memoryview], Picture], packets: Iterable[av.Packet]) -> PacketTable:
    times: list[int] = []
    pictures: list[Picture] = []
    hidden: list[bool] = []
    for packet in packets:
        if not packet.size:
            continue
        if packet.pts is None or packet.has_sidedata("new_extradata"):
            raise NotOnePicture("a packet without a time, or with new settings")
        picture = read(memoryview(packet))
        if picture.begins and not packet.is_keyframe:
            picture = replace(picture, begins=False)
        times.append(packet.pts)
        pictures.append(picture)
        hidden.append(packet.is_discard)
    by_time = sorted(range(len(times)), key=times.__getitem__)
    _refuse_disorder(times, pictures, by_time)
    numbers, shown = [-1] * len(times), [place for place in by_time if not hidden[place]]
    for number, place in enumerate(shown):
        numbers[place] = number
    return PacketTable(
        times=tuple(times),
        numbers=tuple(numbers),
        packets=tuple(shown),
        keys=tuple(place for place, picture in enumerate(pictures) if picture.begins),
        spare=frozenset(place for place, picture in enumerate(pictures) if picture.spare),
        depth=_depth(times),
        ordered=all(picture.order is not None for picture in pictures),
    )


def _depth(times: list[int]) -> int:
    """The most packets that come before another one and are shown after it."""
    so_far: list[int] = []
    depth = 0
    for time in times:
        bisect.insort(so_far, time)
        depth = max(depth, len(so_far) - bisect.bisect_right(so_far, time))
    return depth


def _refuse_disorder(times: list[int], pictures: list[Picture], by_time: list[int]) -> None:
    """What must hold so that times tell the order of the decoder's output."""
    if not times or not pictures[0].begins or by_time[0] != 0:
        raise NotOnePicture("the first packet is no key frame, or is led in by others")
    period, order = 0, -1  # the clean key frame that counts, and the last picture's place behind it
    latest = times[0]
    for place, (rank, time) in enumerate(zip(by_time, times, strict=True)):
        if place and times[by_time[place - 1]] == times[rank]:
            raise NotOnePicture("two packets of one time")
        if place and pictures[place].begins and time <= latest:
            raise NotOnePicture("a key frame is shown before what precedes it")
        if pictures[place].clean and rank != place:
            raise NotOnePicture("a frame is shown before the key frame that precedes it")
        latest = max(latest, time)
        picture = pictures[rank]
        if picture.clean:
            period = rank
        elif rank < period or (picture.order is not None and picture.order <= order):
            raise NotOnePicture("times and pictures disagree on the order")
        if picture.order is not None:
            order = picture.order
