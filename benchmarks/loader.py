"""How many clips a second does the loader give, beside a plain one, and from shards beside loose files?

    python benchmarks/loader.py
    python benchmarks/loader.py --files 16 --clips 128 --repeats 5 --workers 0 4 8
    python benchmarks/loader.py --quick                      a few seconds, to see that it runs

Generated files like those of Kinetics: 10 s of 340x256 at 30 frames per second, H.264. A clip is 8 frames
spread over the file, at short side 224, the middle 224x224 of them, uint8. "ours" is this project's loader,
"packed" the same files in one tar shard, "whole file" torch's DataLoader over a data set that decodes a file
whole with PyAV and takes 8 of its frames, "pytorchvideo" the same with its EncodedVideo and transforms (where
it is installed). All take turns in this process; clips/s are medians, counted from the first batch on. MiB
are what a worker process has to itself when a batch arrives, at most. Without workers the table has the
milliseconds of processor time of a clip, too, which other work on the machine hardly disturbs.
"""

from __future__ import annotations

import json
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import decode
import torch
from torch.utils.data import DataLoader, Dataset

from revit_video import command_line
from revit_video.data.dataset import VideoDataset
from revit_video.data.loader import train_batches
from revit_video.data.packed import pack, packed_split
from revit_video.report.provenance import provenance
from revit_video.report.tables import console_table
from revit_video.transform import EvalTransform
from revit_video.types import InputError, Split, VideoSample, View

BATCH, SIDE = 4, decode.SHORT_SIDE
COLUMNS = {
    "workers": ("workers", ""),
    "way": ("way", ""),
    "clips_per_s": ("clips/s", ".1f"),
    "slower": ("ours / it", ".2f"),
    "busy_ms": ("CPU ms per clip", ".1f"),
    "mib": ("MiB per worker", ".0f"),
}


def spread_view(num_frames: int, rng: object, fps: float) -> list[View]:
    return [View(tuple(decode.spread(num_frames)), 0, 1)]


def our_loader(samples: tuple[VideoSample, ...], clips: int, workers: int) -> Iterable:
    dataset = VideoDataset(samples, pick_views=spread_view, transform=EvalTransform(SIDE))
    steps = clips // BATCH
    return train_batches(dataset, batch_size=BATCH, total_steps=steps, seed=0, num_workers=workers)


class WholeFiles(Dataset):
    """Each item decodes its file whole: `clip` of a path gives 8 frames at short side 224, floats."""

    def __init__(self, paths: list[str], clip: Callable[[str], torch.Tensor]) -> None:
        self.paths, self.clip = paths, clip

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> torch.Tensor:
        clip = self.clip(self.paths[index])  # (.., H, W)
        top, left = ((side - SIDE) // 2 for side in clip.shape[-2:])
        return clip[..., top : top + SIDE, left : left + SIDE]


def plain_loader(paths: list[str], clip: Callable, clips: int, workers: int) -> Iterable:
    dataset = WholeFiles([paths[i % len(paths)] for i in range(clips)], clip)
    return DataLoader(dataset, batch_size=BATCH, shuffle=True, drop_last=True, num_workers=workers)


def timed(batches: Iterable) -> tuple[float, float]:
    """Clips per second, and milliseconds of this process per clip, from the first batch to the last."""
    arrivals = [(time.perf_counter(), time.process_time()) for _ in batches]
    clips = BATCH * (len(arrivals) - 1)
    seconds, busy = (end - begin for begin, end in zip(arrivals[0], arrivals[-1], strict=True))
    return clips / seconds, 1000 * busy / clips


def mebibytes_per_worker(batches: Iterable) -> float | None:
    """The most that a worker process has to itself while the batches are made; None without processes.

    Processes that were there before belong to somebody else.
    """
    others = {child.pid for child in multiprocessing.active_children()}
    most = []
    for _ in batches:
        own = {child.pid for child in multiprocessing.active_children()} - others
        most += map(private_mebibytes, own)
    return max(most, default=None)


def private_mebibytes(pid: int) -> float:
    """Memory that the process shares with no other; 0 if it has just ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1024


def measure(folder: Path, *, files: int, clips: int, repeats: int, workers: list[int]) -> list[dict]:
    """A row per number of workers and way."""
    first = decode.write_like_kinetics(folder / "0.mp4", gop=250)
    paths = [first, *(str(folder / f"{number}.mp4") for number in range(1, files))]
    for path in paths[1:]:
        Path(path).write_bytes(Path(first).read_bytes())
    loose = Split(tuple(VideoSample(path, 0) for path in paths), ("a class",))
    pack(loose, folder / "packed", "train", dataset="kinetics", shard_bytes=1 << 30, class_name=str)
    packed = packed_split(folder / "packed", "train")
    ways: dict[str, Callable[[int], Iterable]] = {
        "ours": partial(our_loader, loose.samples, clips),
        "ours, packed": partial(our_loader, packed.samples, clips),
    }
    peers = {"whole file": decode.whole_file_and_resize, "pytorchvideo": decode.pytorchvideo_clip}
    fewer = max(2 * BATCH, clips // 4 // BATCH * BATCH)  # they are slow
    installed = decode.competitors()
    for name, clip in peers.items():
        if name == "whole file" or name in installed:
            ways[name] = partial(plain_loader, paths, clip, fewer)
    rows = []
    for count in workers:
        mib = {name: mebibytes_per_worker(way(count)) for name, way in ways.items()}  # warms up, too
        seen = [{name: timed(way(count)) for name, way in ways.items()} for _ in range(repeats)]
        for name in ways:
            row = {"workers": count, "way": name, "mib": mib[name]}
            row["clips_per_s"] = statistics.median(turn[name][0] for turn in seen)
            row["slower"] = statistics.median(turn["ours"][0] / turn[name][0] for turn in seen)
            row["busy_ms"] = None if count else statistics.median(turn[name][1] for turn in seen)
            rows.append(row)
    return rows


def main() -> int:
    made = command_line.parser(__doc__)
    made.add_argument("--files", type=int, default=8, metavar="N", help="generated files (8)")
    made.add_argument("--clips", type=int, default=64, metavar="N", help="clips of a turn (64)")
    made.add_argument("--repeats", type=int, default=3, metavar="N", help="turns that count (3)")
    made.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2], metavar="N", help="(0 1 2)")
    made.add_argument("--quick", action="store_true", help="2 files, 8 clips, one turn, 0 and 1 workers")

    def command(args) -> None:
        options = {"files": args.files, "clips": args.clips, "repeats": args.repeats, "workers": args.workers}
        if args.quick:
            options = {"files": 2, "clips": 8, "repeats": 1, "workers": [0, 1]}
        if options["files"] < 1 or options["repeats"] < 1 or options["clips"] < 2 * BATCH:
            raise InputError(f"got {options}; expected a file and a turn at least, and {2 * BATCH} clips")
        torch.set_num_threads(1)
        with tempfile.TemporaryDirectory() as folder:
            console_table(measure(Path(folder), **options), COLUMNS)
        print(json.dumps(provenance(device="cpu", dtype="uint8", seed=0)))

    return command_line.run(command, made)


if __name__ == "__main__":
    sys.exit(main())
