"""HEVC packets without decoding (ITU-T H.265: 7.3.1.2 unit headers, 7.3.2.3 picture parameter sets)."""

from __future__ import annotations

from collections.abc import Iterator

from revit_video.decode.nal import DAMAGED, Bits, NotOnePicture, Picture, units

IDR_SLICES, CRA_SLICE = (19, 20), 21
SETS, PICTURE_SET, OTHERS = (32, 33, 34), 34, (35, 38, 39, 40)  # the others: delimiters, filling, messages


class HEVCParser:
    """Tells the Picture of each packet of a stream.

    Args:
        extradata: the stream's settings, an HEVCDecoderConfigurationRecord (ISO/IEC 14496-15, 8.3.3).

    Raises:
        NotOnePicture: if the settings are of another form, or allow pictures that are never shown.
    """

    def __init__(self, extradata: bytes) -> None:
        if len(extradata) < 24 or extradata[0] != 1:
            raise NotOnePicture("the stream stores its settings in another form")
        self._settings, self._length_bytes = extradata, (extradata[21] & 3) + 1
        if any(map(_may_hide_pictures, self._picture_sets())):
            raise NotOnePicture("pictures may be hidden")

    def __call__(self, packet: memoryview) -> Picture:
        found, pictures, kinds = units(packet, self._length_bytes), 0, set()
        for begin, end in found:
            kind = packet[begin] >> 1 & 63
            if packet[begin] & 1 or packet[begin + 1] >> 3:
                raise NotOnePicture("several layers")
            if kind <= 9 or kind in IDR_SLICES or kind == CRA_SLICE:
                pictures += packet[begin + 2] >> 7
                kinds.add(kind)
            elif kind in SETS:
                if bytes(packet[begin:end]) not in self._settings:
                    raise NotOnePicture("the stream changes its settings")
            elif kind not in OTHERS:
                raise NotOnePicture(f"a unit of kind {kind}")
        if not found:
            return DAMAGED
        if pictures != 1 or len(kinds) != 1:
            raise NotOnePicture(f"{pictures} pictures in a packet")
        kind = kinds.pop()
        # What a CRA leads in is shown before it, and is never decoded from it. Of pictures that none of the
        # same temporal layer needs (odd or even kinds below 10), those of higher layers may need them: none
        # is spare.
        return Picture(begins=kind in (*IDR_SLICES, CRA_SLICE), clean=kind == IDR_SLICES[1])

    def _picture_sets(self) -> Iterator[bytes]:
        """The settings are arrays of NAL units: kind, number of units, then each behind its length."""
        record, position = self._settings, 23
        for _ in range(record[22]):
            kind, num_units = (
                record[position] & 63,
                int.from_bytes(record[position + 1 : position + 3], "big"),
            )
            position += 3
            for _ in range(num_units):
                end = position + 2 + int.from_bytes(record[position : position + 2], "big")
                if kind == PICTURE_SET:
                    yield record[position + 2 : end]
                position = end


def _may_hide_pictures(picture_set: bytes) -> bool:
    """output_flag_present_flag: after two numbers and one bit."""
    bits = Bits(picture_set[2:16])
    bits.golomb(), bits.golomb(), bits.number(1)
    return bool(bits.number(1))
