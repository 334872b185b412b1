"""A file inside a tar shard, read in place: its path is SHARD.tar/NAME[OFFSET+SIZE].

    /data/k400/train-000017.tar/00004711.mp4[1049088+412345]

Nothing is unpacked, and nothing looks for the file: the path says where its bytes are. What the shard says of
itself there (the header before the bytes) has to agree, or the shard is damaged or another one.
"""

from __future__ import annotations

import io
import os
import re
import tarfile
from dataclasses import dataclass

BLOCK = tarfile.BLOCKSIZE  # bytes; a header is one, and lies just before its file
PATTERN = re.compile(r"(.+\.tar)/([^/\[\]]+)\[([0-9]{1,18})\+([0-9]{1,18})\]", re.DOTALL)


class ShardError(OSError):
    """A shard does not hold the file that a path promises."""


@dataclass(frozen=True)
class Member:
    """`size` bytes from `begin` on in the file `shard`, called `name` there."""

    shard: str
    name: str
    begin: int
    size: int

    @classmethod
    def of(cls, path: str | os.PathLike[str]) -> Member | None:
        """What a path says; None of the path of an ordinary file."""
        found = PATTERN.fullmatch(os.fspath(path))
        return cls(found[1], found[2], int(found[3]), int(found[4])) if found else None

    @property
    def path(self) -> str:
        return f"{self.shard}/{self.name}[{self.begin}+{self.size}]"

    def open(self) -> MemberFile:
        """Its bytes as a file.

        Raises:
            ShardError: the shard ends too early, or holds something else at this place.
            OSError: it cannot be opened.
        """
        file = open(self.shard, "rb", buffering=0)  # noqa: SIM115 - MemberFile closes it
        try:
            self._check(file)
        except BaseException:
            file.close()
            raise
        return MemberFile(file, self)

    def _check(self, file: io.FileIO) -> None:
        length, end = file.seek(0, os.SEEK_END), self.begin + self.size
        if end > length:
            raise ShardError(f"the shard is cut off: it has {length} bytes, the file ends at {end}")
        file.seek(max(self.begin - BLOCK, 0))
        try:
            header = tarfile.TarInfo.frombuf(file.read(BLOCK), "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            raise ShardError(f"the shard is damaged before byte {self.begin}: {error}") from error
        if (header.name, header.size) != (self.name, self.size):
            other = f"{header.name} of {header.size} bytes"
            raise ShardError(f"the shard is another one, or damaged: it has {other} at byte {self.begin}")


class MemberFile(io.RawIOBase):
    """A member as a file that can be read and sought in; closing it closes the shard."""

    def __init__(self, file: io.FileIO, member: Member) -> None:
        self._file, self._member, self._place = file, member, 0
        self.name = member.name  # FFmpeg's guess of the container looks at the ending

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._member.size}[whence]
        if start + offset < 0:
            raise OSError(f"seek to {start + offset}, before the start of the file")
        self._place = start + offset
        return self._place

    def readinto(self, buffer) -> int:
        view = memoryview(buffer)[: max(self._member.size - self._place, 0)]
        if not len(view):
            return 0
        self._file.seek(self._member.begin + self._place)
        num_bytes = self._file.readinto(view)
        self._place += num_bytes
        return num_bytes

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()
