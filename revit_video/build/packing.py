"""The lists of a config as tar shards."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from revit_video.build.lists import build_split
from revit_video.config import Config
from revit_video.data.classes import label_name
from revit_video.data.packed import index_file, pack
from revit_video.train.log import RunLog
from revit_video.types import InputError


def pack_lists(config: Config, splits: Sequence[str], out: Path, *, shard_bytes: int) -> None:
    """Write the lists of these splits (train, val, test), each under its own name, with their videos.

    All lists are read before the first is written. Two splits may be one list: it is packed once.
    """
    data = config.data
    if data.dataset == "packed":
        raise InputError("data.dataset is packed already; give the data set that the videos come from")
    called = {"train": data.train_split, "val": data.val_split, "test": data.test_split}
    lists = {called[split]: build_split(config, split) for split in splits}
    with RunLog(None) as log:
        for name, split in lists.items():
            files = len({sample.path for sample in split.samples})
            with log.progress(f"pack {name}", files, unit="video") as line:
                new, old = pack(
                    split,
                    out,
                    name,
                    dataset=data.dataset,
                    shard_bytes=shard_bytes,
                    class_name=partial(label_name, names=split.class_names, heads=split.heads),
                    advance=line.advance,
                )
            kept = f", {old} were there" if old else ""
            log.say(
                f"{name}: {len(split.samples)} videos, {new} shards written{kept}: {index_file(out, name)}"
            )
