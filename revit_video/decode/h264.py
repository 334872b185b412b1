"""H.264 packets without decoding (ITU-T H.264: 7.3.2.1 parameter sets, 7.3.3 slice headers, 8.2.1 order)."""

from __future__ import annotations

from revit_video.decode.nal import DAMAGED, Bits, NotOnePicture, Picture, units

SLICE, IDR_SLICE, SEI, SEQUENCE, PARAMETERS, DELIMITER, FILLER = 1, 5, 6, 7, 8, 9, 12
HIGH_PROFILES = (100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135)


class H264Parser:
    """Tells the Picture of each packet of a stream, in decoding order.

    Args:
        extradata: the stream's settings, an AVCDecoderConfigurationRecord (ISO/IEC 14496-15, 5.3.3).

    Raises:
        NotOnePicture: if the settings are of another form, or allow what is not understood here.
    """

    def __init__(self, extradata: bytes) -> None:
        if len(extradata) < 12 or extradata[0] != 1 or extradata[5] & 31 != 1:
            raise NotOnePicture("the stream stores its settings in another form")
        self._settings, self._length_bytes = extradata, (extradata[4] & 3) + 1
        self._sequence(Bits(extradata[9 : 8 + int.from_bytes(extradata[6:8], "big")]))
        self._high, self._low = 0, 0  # of the order of the last picture that others need

    def __call__(self, packet: memoryview) -> Picture:
        found = units(packet, self._length_bytes)
        first, pictures, needed, kinds = 0, 0, False, set()
        for begin, end in found:
            kind = packet[begin] & 31
            if kind in (SLICE, IDR_SLICE):
                kinds.add(kind)
                needed |= packet[begin] & 0x60 > 0  # nal_ref_idc
                if packet[begin + 1] & 0x80:  # its first macroblock is number 0
                    pictures, first = pictures + 1, begin
            elif kind in (SEQUENCE, PARAMETERS):
                if bytes(packet[begin:end]) not in self._settings:
                    raise NotOnePicture("the stream changes its settings")
            elif kind not in (SEI, DELIMITER, FILLER):
                raise NotOnePicture(f"a unit of kind {kind}")
        if not kinds:  # the decoder takes it for an error
            return DAMAGED
        if pictures != 1 or len(kinds) != 1:
            raise NotOnePicture(f"{pictures} pictures in a packet")
        whole = kinds == {IDR_SLICE}
        order = self._order(Bits(bytes(packet[first + 1 : first + 25])), whole=whole, needed=needed)
        return Picture(begins=whole, clean=whole, spare=not needed, order=order)

    def _sequence(self, bits: Bits) -> None:
        """The part of a sequence parameter set that slice headers depend on."""
        profile = bits.number(8)
        bits.number(16)
        bits.golomb()
        self._planes = False
        if profile in HIGH_PROFILES:
            if bits.golomb() == 3:
                self._planes = bool(bits.number(1))
            bits.golomb(), bits.golomb(), bits.number(1)
            if bits.number(1):
                raise NotOnePicture("scaling lists, which are not read here")
        self._frame_bits = bits.golomb() + 4
        self._order_kind = bits.golomb()
        if self._order_kind == 1:
            raise NotOnePicture("an order of display that is not computed here")
        self._order_bits = bits.golomb() + 4 if self._order_kind == 0 else 0
        bits.golomb(), bits.number(1), bits.golomb(), bits.golomb()
        self._may_be_fields = not bits.number(1)

    def _order(self, bits: Bits, *, whole: bool, needed: bool) -> int:
        """Picture order count (8.2.1.1) of a slice."""
        bits.golomb(), bits.golomb(), bits.golomb()
        if self._planes:
            bits.number(2)
        bits.number(self._frame_bits)
        if self._may_be_fields and bits.number(1):
            raise NotOnePicture("half pictures")
        if self._order_kind == 2:  # shown as decoded
            self._low = 0 if whole else self._low + 1
            return self._low
        if whole:
            bits.golomb()
            self._high = self._low = 0
        low, high, period = bits.number(self._order_bits), self._high, 1 << self._order_bits
        if low < self._low and self._low - low >= period // 2:
            high += period
        elif low > self._low and low - self._low > period // 2:
            high -= period
        if needed:
            self._high, self._low = high, low
        return high + low
