"""What the words on the command line mean: files, folders of them, pictures, live streams."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from revit_video.data.class_folders import VIDEO_ENDINGS
from revit_video.decode.picture_reader import ENDINGS, is_pictures
from revit_video.stream.live import is_live
from revit_video.types import InputError

STREAM_ENDINGS = (".m2ts", ".mts", ".ts")


@dataclass(frozen=True)
class Input:
    """One video or stream. `name` stands for it in the names of files that are written for it alone."""

    address: str
    name: str
    live: bool = False


def find_inputs(words: Sequence[str]) -> list[Input]:
    """All inputs in their order. A folder with videos in it, at whatever depth, stands for these, in the
    order of their paths; one without stands for itself, as a video whose frames are its pictures.

    Raises:
        InputError: a live stream is not alone: it would keep the others waiting.
    """
    found: list[Input] = []
    for word in words:
        if is_live(word):
            found.append(Input(word, safe_name(word), live=True))
        elif os.path.isdir(word):
            videos = videos_in(word)
            found += [Input(str(path), name_of(path.relative_to(word))) for path in videos]
            if not videos:
                found.append(Input(word, Path(word).name))
        else:
            found.append(Input(word, Path(word).stem))
    live = [given.address for given in found if given.live]
    if live and len(found) > 1:
        raise InputError(
            f"{len(found)} inputs are given and one of them is live, which may never end; "
            "give each live stream a process of its own"
        )
    return found


def each_picture(inputs: Sequence[Input]) -> list[Input]:
    """For a model of single pictures: a folder of them, at whatever depth, stands for each of them, in the
    order of their paths, and not for the frames of one video.
    """
    found: list[Input] = []
    for given in inputs:
        pictures = [] if given.live or not os.path.isdir(given.address) else pictures_in(given.address)
        root = Path(given.address)
        found += [Input(str(path), name_of(path.relative_to(root))) for path in pictures] or [given]
    return found


def videos_in(folder: str) -> list[Path]:
    return files_in(folder, (*VIDEO_ENDINGS, *STREAM_ENDINGS))


def pictures_in(folder: str) -> list[Path]:
    return files_in(folder, tuple(ENDINGS))


def files_in(folder: str, endings: tuple[str, ...]) -> list[Path]:
    """Files below a folder that end so, in the order of their paths; hidden ones are left out."""
    found = []
    for place, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [
            Path(place) / name
            for name in files
            if name.lower().endswith(endings) and not name.startswith(".")
        ]
    return sorted(found)


def name_of(path: Path) -> str:
    """day1/cam2.mp4 -> day1_cam2"""
    return "_".join(path.with_suffix("").parts)


def safe_name(address: str) -> str:
    """An address as a part of a file's name: rtsp://host:554/cam -> host_554_cam"""
    rest = address.partition("://")[2].rpartition("@")[2] or Path(address).name
    return "".join(letter if letter.isalnum() or letter in "-." else "_" for letter in rest)


def is_still(given: Input) -> bool:
    return not given.live and is_pictures(given.address)
