"""Lists of videos packed into tar shards, for storage where many small files are slow.

    OUT/train-000000.tar, OUT/train-000001.tar, ...    shards
    OUT/train.index.jsonl                              the list: class names, shards, a line per video

A shard is a plain tar of samples as webdataset has them: KEY.mp4 (the bytes of the file, unchanged, with its
own ending) and KEY.json (label, class name, path, tag, part of the video). The index says where the bytes of
every video are, so that one is opened by its place, without unpacking or looking through a shard. It is
written last: a list without its index is not finished.

Everything in these files may come from a stranger. They are text and numbers, which are checked; a shard is
opened by its name in the folder of the index and nowhere else, and nothing is ever written.
"""

from __future__ import annotations

import json
import math
import os
import re
import tarfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from revit_video.data.list_files import read_text, shorten
from revit_video.decode.member import BLOCK, Member
from revit_video.types import InputError, Split, VideoSample

FORMAT = "revit_video packed list 1"
END = tarfile.RECORDSIZE  # bytes; a tar is padded to multiples of it, two empty blocks at least
CHUNK = 1 << 20  # bytes that are copied at once
SAFE = re.compile(r"[0-9A-Za-z_][0-9A-Za-z_.-]*")  # names of lists and members


# --- reading ----------------------------------------------------------------------------------------------


def packed_split(root: Path, name: str) -> Split:
    """The list `name` of a folder of shards, in the order and with the classes of the list it was made of.

    Raises:
        InputError: no such list; the index is damaged; shards are missing or not whole: all are named.
    """
    source = index_file(root, name)
    lines = read_text(source).splitlines()
    header = _header(lines, source)
    shards = [str(Path(root) / shard) for shard, _ in header["shards"]]
    _refuse_damaged(shards, [size for _, size in header["shards"]], source)
    if len(lines) - 1 != header["videos"]:
        raise InputError(f"{source} has {len(lines) - 1} of {header['videos']} videos; copy it again")
    num_labels = math.prod(header["heads"]) if header["heads"] else len(header["class_names"])
    samples = []
    for number, line in enumerate(lines[1:], start=2):
        try:
            shard, member, begin, size, label, tag, first, end = json.loads(line)
            numbers_fit = all(type(n) is int and n >= 0 for n in (shard, begin, size, label, first, end))
            if not numbers_fit or label >= num_labels or begin + size > header["shards"][shard][1]:
                raise ValueError("a number is out of range")
            if not SAFE.fullmatch(member) or type(tag) is not str:
                raise ValueError("a name is out of order")
        except (ValueError, TypeError, LookupError) as error:
            raise InputError(f"{source}:{number}: {shorten(line)} is no line of an index: {error}") from None
        samples.append(VideoSample(Member(shards[shard], member, begin, size).path, label, tag, first, end))
    return Split(tuple(samples), tuple(header["class_names"]), tuple(header["heads"]))


def packed_kind(root: Path, name: str) -> str:
    """data.dataset of the list that was packed."""
    source = index_file(root, name)
    return _header(read_text(source).splitlines(), source)["dataset"]


def index_file(root: Path, name: str) -> Path:
    return Path(root) / f"{name}.index.jsonl"


def _header(lines: Sequence[str], source: Path) -> dict[str, Any]:
    try:
        header = json.loads(lines[0])
        fits = header["format"] == FORMAT and type(header["videos"]) is int
        fits &= all(type(text) is str for text in (header["dataset"], *header["class_names"]))
        fits &= all(type(number) is int and number > 0 for number in header["heads"])
        for shard, size in header["shards"]:
            fits &= SAFE.fullmatch(shard) is not None and shard.endswith(".tar") and type(size) is int
    except (ValueError, TypeError, LookupError):
        fits = False
    if not fits:
        raise InputError(
            f"{source} is no index of a packed list ({FORMAT}); make it with tools/pack_videos.py"
        )
    return header


def _refuse_damaged(shards: Sequence[str], sizes: Sequence[int], source: Path) -> None:
    wrong = []
    for shard, size in zip(shards, sizes, strict=True):
        there = os.path.getsize(shard) if os.path.isfile(shard) else None
        if there != size:
            wrong.append(f"{shard} ({'missing' if there is None else f'{there} of {size} bytes'})")
    if wrong:
        first = ", ".join(wrong[:3]) + (", ..." if len(wrong) > 3 else "")
        raise InputError(
            f"{len(wrong)} of the {len(shards)} shards of {source} are not whole: {first}; copy them"
        )


# --- writing ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Entry:
    """A file of a shard: its name there, its size, and where it comes from (a path, or its bytes)."""

    name: str
    size: int
    content: str | bytes

    @property
    def header(self) -> bytes:
        made = tarfile.TarInfo(self.name)
        made.size, made.mode = self.size, 0o644
        return made.tobuf(tarfile.GNU_FORMAT)

    @property
    def padding(self) -> int:
        return -self.size % BLOCK


@dataclass(frozen=True)
class Shard:
    """What a shard will hold, and where. `rows` of the list have their videos in it."""

    name: str
    entries: tuple[Entry, ...]
    begins: tuple[int, ...]
    size: int


def pack(
    split: Split,
    out: Path,
    name: str,
    *,
    dataset: str,
    shard_bytes: int,
    class_name: Callable[[int], str],
    advance: Callable[[int], None] = lambda videos: None,
) -> tuple[int, int]:
    """Write a list and its videos as shards: (shards written now, shards that were there).

    What is written follows from the list and the sizes of the files alone. So a run that was stopped goes on:
    shards that are there already, with the very headers, sizes and labels, stay. A file or shard appears
    under its name when it is whole.

    Args:
        name: of the list; the shards are called after it.
        dataset: data.dataset of the list, which the index keeps.
        shard_bytes: that a shard may have, unless one video has more.
        class_name: of a label.
        advance: told the number of videos that are done.

    Raises:
        InputError: a video is a folder, or has changed while it was read; `out` holds another list of that
            name.
    """
    if not SAFE.fullmatch(name):
        raise InputError(
            f"a list called {name!r} cannot be packed: names of shards have letters, digits, _ . -"
        )
    out.mkdir(parents=True, exist_ok=True)
    shards = list(_plan(split, name, shard_bytes=shard_bytes, class_name=class_name))
    text = _index(split, shards, dataset=dataset)
    index = index_file(out, name)
    if index.exists() and index.read_text(encoding="utf-8") != text:
        raise InputError(
            f"{index} is there already and of another list or other settings; give another --out"
        )
    written = 0
    for shard in shards:
        if not _is_there(out / shard.name, shard):
            with _appearing(out / shard.name) as file:
                _write(shard, file)
            written += 1
        advance(len(shard.entries) // 2)
    if not index.exists():
        with _appearing(index) as file:
            file.write(text.encode())
    return written, len(shards) - written


def _plan(split: Split, name: str, *, shard_bytes: int, class_name: Callable[[int], str]) -> Iterator[Shard]:
    """The shards of a list. A file that several rows cut parts out of is in them once."""
    rows: dict[str, list[int]] = {}
    for row, sample in enumerate(split.samples):
        rows.setdefault(sample.path, []).append(row)
    number, entries = 0, []
    for path, places in rows.items():
        pair = _pair(path, places[0], [split.samples[row] for row in places], class_name)
        if entries and _end(entries + pair) > shard_bytes:
            yield _laid_out(f"{name}-{number:06d}.tar", entries)
            number, entries = number + 1, []
        entries += pair
    if entries:
        yield _laid_out(f"{name}-{number:06d}.tar", entries)


def _pair(
    path: str, row: int, samples: Sequence[VideoSample], class_name: Callable[[int], str]
) -> list[Entry]:
    """A video and what the list says of it; `others` are the rows of further parts of the same file."""
    if os.path.isdir(path):
        raise InputError(f"{path} is a folder of frames; only files can be packed")
    suffix = Path(path).suffix.lower()
    suffix = suffix if re.fullmatch(r"\.[0-9a-z]{1,8}", suffix) and suffix != ".json" else ".video"
    first, *others = (
        {
            "label": sample.label,
            "class_name": class_name(sample.label),
            "tag": sample.tag,
            "begin": sample.begin,
            "end": sample.end,
        }
        for sample in samples
    )
    about = json.dumps({**first, "path": path} | ({"others": others} if others else {})).encode()
    key = f"{row:09d}"
    return [Entry(key + suffix, os.path.getsize(path), path), Entry(f"{key}.json", len(about), about)]


def _end(entries: Sequence[Entry]) -> int:
    """Size of a tar of these entries."""
    used = sum(BLOCK + entry.size + entry.padding for entry in entries)
    return -(-(used + 2 * BLOCK) // END) * END


def _laid_out(name: str, entries: Sequence[Entry]) -> Shard:
    begins, place = [], 0
    for entry in entries:
        begins.append(place + BLOCK)
        place = begins[-1] + entry.size + entry.padding
    return Shard(name, tuple(entries), tuple(begins), _end(entries))


def _index(split: Split, shards: Sequence[Shard], *, dataset: str) -> str:
    header = {
        "format": FORMAT,
        "dataset": dataset,
        "videos": len(split.samples),
        "class_names": split.class_names,
        "heads": split.heads,
        "shards": [(shard.name, shard.size) for shard in shards],
    }
    places = {
        entry.content: (number, entry.name, begin, entry.size)
        for number, shard in enumerate(shards)
        for entry, begin in zip(shard.entries, shard.begins, strict=True)
    }
    rows = ((*places[s.path], s.label, s.tag, s.begin, s.end) for s in split.samples)
    return "".join(json.dumps(line) + "\n" for line in (header, *rows))


def _write(shard: Shard, file: BinaryIO) -> None:
    for entry in shard.entries:
        file.write(entry.header)
        if isinstance(entry.content, bytes):
            file.write(entry.content)
        else:
            _copy(entry, file)
        file.write(bytes(entry.padding))
    file.write(bytes(shard.size - file.tell()))


def _copy(entry: Entry, file: BinaryIO) -> None:
    """The bytes of a video. Should it have another size than before, the headers would lie."""
    left = entry.size
    with open(entry.content, "rb") as source:
        while chunk := source.read(min(CHUNK, left + 1)):
            left -= len(chunk)
            if left < 0:
                break
            file.write(chunk)
    if left:
        raise InputError(f"{entry.content} has changed while it was packed; start again")


def _is_there(path: Path, shard: Shard) -> bool:
    """Whether this very shard has been written before; an InputError where another one has its name."""
    if not path.exists():
        return False
    same = path.stat().st_size == shard.size
    with open(path, "rb") as file:
        for entry, begin in zip(shard.entries, shard.begins, strict=True):
            file.seek(begin - BLOCK)
            same = same and file.read(BLOCK) == entry.header
            if isinstance(entry.content, bytes):
                same = same and file.read(entry.size) == entry.content
    if not same:
        raise InputError(f"{path} is there already and holds something else; give another --out")
    return True


@contextmanager
def _appearing(path: Path) -> Iterator[BinaryIO]:
    """A file to write to, which gets its name when all is written and on the disk."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(part, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
