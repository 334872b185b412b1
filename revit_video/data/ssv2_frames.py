"""The frame lists of Something-Something V2 as the SlowFast line of code uses them: `train.csv`, `val.csv`.

original_vido_id video_id frame_id path labels          (sic)
1 0 0 1/1_000001.jpg ""
1 0 1 1/1_000002.jpg ""

Text with a row per frame, 20 million for the training list: it is read line by line, and only the folder and
the number of frames of each video are kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from revit_video.data.list_files import shorten
from revit_video.types import InputError

COLUMNS = ("original_vido_id", "video_id", "frame_id", "path", "labels")
SPELLINGS = {"original_video_id": "original_vido_id"}  # some corrected theirs


@dataclass
class FrameFolder:
    """The frames of one video: the folder that they lie in, how many there are, and the last one's name."""

    path: str
    num_frames: int
    last: str


def is_frame_list(path: Path) -> bool:
    """Whether a file begins with the header of such a list (a Kinetics list has the same name)."""
    if not path.is_file():
        return False
    with open(path, encoding="utf-8-sig", errors="replace") as file:
        return _fields(file.readline())[:1] in ([COLUMNS[0]], ["original_video_id"])


def read_frame_list(path: Path, folder: Path) -> dict[str, FrameFolder]:
    """Video id -> its frames, in the order of the list; paths start from `folder`.

    The frames of a video must be the first files, by name, of one folder, in that order: so they are found
    by their number.

    Raises:
        InputError: with file and line, for all that is wrong in the list.
    """
    videos: dict[str, FrameFolder] = {}
    with open(path, encoding="utf-8-sig", errors="replace") as file:
        header = [SPELLINGS.get(name, name) for name in _fields(file.readline())]
        if tuple(header) != COLUMNS:
            raise InputError(f"{path}:1: the columns are {header}, but must be {' '.join(COLUMNS)}")
        for number, line in enumerate(file, start=2):
            if not line.strip():
                continue
            fields = _fields(line)
            if len(fields) != len(COLUMNS):
                raise InputError(
                    f"{path}:{number}: expected {len(COLUMNS)} fields ({' '.join(COLUMNS)}), "
                    f"got {shorten(line.strip())!r}"
                )
            _add(videos, name=fields[0], frame=fields[3], where=f"{path}:{number}")
    if not videos:
        raise InputError(f"{path} holds no frames, only its header")
    for video in videos.values():
        video.path = str(folder / video.path)
    return videos


def compare_ids(ids: list[str], videos: dict[str, FrameFolder], *, source: Path, frames: Path) -> None:
    """Refuse a frame list that has other videos than the JSON list it belongs to."""
    for lacking, what, other in (
        (set(ids) - videos.keys(), frames, source),
        (videos.keys() - set(ids), source, frames),
    ):
        if lacking:
            first = ", ".join(islice(sorted(lacking), 3)) + (", ..." if len(lacking) > 3 else "")
            raise InputError(f"{what} lacks {len(lacking)} of the videos of {other}: {first}")


def _add(videos: dict[str, FrameFolder], *, name: str, frame: str, where: str) -> None:
    folder, _, file = frame.rpartition("/")
    video = videos.get(name)
    if video is None:
        videos[name] = FrameFolder(folder, 1, file)
        return
    if folder != video.path:
        raise InputError(f"{where}: the frames of {name} lie in {video.path} and in {folder}; expected one")
    if (len(file), file) <= (len(video.last), video.last):
        raise InputError(f"{where}: {file} comes after {video.last}; expected the frames of {name} in order")
    video.num_frames, video.last = video.num_frames + 1, file


def _fields(line: str) -> list[str]:
    """Fields between spaces or tabs; a path with spaces stands in quotes."""
    fields = line.split()
    if '"' not in line or (len(fields) == len(COLUMNS) and '"' not in fields[3]):  # nearly all of them
        return fields
    fields, rest = [], line.strip()
    while rest:
        if rest[0] == '"':
            field, _, rest = rest[1:].partition('"')
        else:
            parts = rest.split(maxsplit=1)
            field, rest = parts[0], parts[1] if len(parts) > 1 else ""
        fields.append(field)
        rest = rest.lstrip()
    return fields
