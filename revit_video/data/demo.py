"""The demo data set on disk: real H.264 files with the lists of Kinetics and of Something-Something V2.

    ROOT/videos/{train,val,test}/00000.mp4
    ROOT/{train,val,test}.csv                    Kinetics: "videos/train/00000.mp4 3", path and label
    ROOT/something-something-v2-labels.json      {"Moving something left": "0", ...}
    ROOT/something-something-v2-{train,validation,test}.json
                                                 [{"id": "train/00000", "template": ..., "label": ...}, ...]
                                                 and the file of an id is ROOT/videos/{id}.mp4
    ROOT/classes.txt                             one name per line, in the order of the labels
    ROOT/tags.csv                                path,tag,num_frames,fps,width,height of every video
    ROOT/demo.json                               settings; written last, so its presence means "complete"

What the clips show is in `demo_render.py`. Video i of a split depends on (seed, split, i) alone.
"""

from __future__ import annotations

import csv
import json
import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from fractions import Fraction
from functools import partial
from pathlib import Path

import av
import numpy as np

from revit_video.data.demo_render import CLASS_NAMES, SHIFTS, VERSION, DemoClip, render_clip
from revit_video.types import InputError, Split, VideoSample

SPLITS = ("train", "val", "test")  # the position is the number of the random stream
SSV2_SPLITS = {"train": "train", "val": "validation", "test": "test"}
SSV2 = "something-something-v2-"
TEMPLATES = (
    "Moving [something] left",
    "Moving [something] right",
    "Moving [something] up",
    "Moving [something] down",
    "Moving [something] towards the camera",
    "Moving [something] away from the camera",
    "Swaying [something] from side to side",
    "Bobbing [something] up and down",
    "Holding [something] still",
    "Making [something] pulse",
)
COMPLETE, STARTED = "demo.json", "demo.json.partial"
TAG_FIELDS = ("path", "tag", "num_frames", "fps", "width", "height")


def generate_demo(
    root: str | os.PathLike,
    *,
    num_train: int = 3000,
    num_val: int = 1000,
    num_test: int = 1200,
    seed: int = 0,
    shift: str = "",
    processes: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> bool:
    """Write the data set; True if it was written, False if the same one is there already.

    shift: a name in SHIFTS: the same clips in another look, "" as they are.

    A data set that an interrupted run left half-written is replaced; one run at a time may write a folder.
    With `processes` above 1 new interpreters are started, so a script that calls this needs
    `if __name__ == "__main__":`. `progress` is called with (done, total).

    Raises:
        InputError: the folder holds anything else, or a number makes no sense.
    """
    if shift not in SHIFTS:
        raise InputError(f"shift is {shift!r}, but must be one of {', '.join(filter(None, SHIFTS))}")
    root, counts = Path(root), dict(zip(SPLITS, (num_train, num_val, num_test), strict=True))
    return write_data_set(
        root,
        {"version": VERSION, "seed": seed, **numbers(counts), **({"shift": shift} if shift else {})},
        folders=[f"videos/{split}" for split in SPLITS],
        jobs=[(split, index) for split in SPLITS for index in range(counts[split])],
        write=partial(_write_video, root, seed, shift),
        write_lists=partial(_write_lists, root),
        processes=processes,
        progress=progress,
    )


def numbers(counts: Mapping[str, int]) -> dict[str, int]:
    """How many files each split has, as the settings say it."""
    return {f"num_{split}": number for split, number in counts.items()}


def write_data_set(
    root: Path,
    settings: dict,
    *,
    folders: Sequence[str],
    jobs: Sequence[tuple[str, int]],
    write: Callable[[tuple[str, int]], tuple[str, dict]],
    write_lists: Callable[[dict[str, list[dict]]], None],
    processes: int,
    progress: Callable[[int, int], None] | None,
) -> bool:
    """Do all jobs (split, index) and then the lists; False if a data set of these settings is there already.

    folders: below the root, made first. write: does a job and gives its split and what the lists say of it;
    with several processes it runs in others. write_lists: takes these entries by split, in order.
    """
    _check_numbers(settings, processes)
    if not _prepare(root, settings, folders):
        return False
    entries: dict[str, list[dict]] = {split: [] for split in SPLITS}
    for done, (split, entry) in enumerate(_run(write, jobs, processes), start=1):
        entries[split].append(entry)
        if progress:
            progress(done, len(jobs))
    write_lists(entries)
    os.replace(root / STARTED, root / COMPLETE)
    return True


def demo_split(root: str | os.PathLike, split: str) -> Split:
    """The videos of "train", "val" or "test", with the difficulty ("easy", "medium", "hard") as the tag."""
    root = Path(root)
    if split not in SPLITS:
        raise InputError(f"no demo split named {split!r}; the splits are {', '.join(SPLITS)}")
    if not (root / COMPLETE).exists():
        raise InputError(
            f"{root} holds no complete demo data set; run: python tools/make_demo_data.py {root}"
        )
    with open(root / "tags.csv", newline="") as file:
        tags = {row["path"]: row["tag"] for row in csv.DictReader(file)}
    rows = [line.rsplit(" ", 1) for line in (root / f"{split}.csv").read_text().splitlines()]
    samples = tuple(VideoSample(str(root / path), int(label), tags[path]) for path, label in rows)
    return Split(samples, tuple((root / "classes.txt").read_text().splitlines()))


def write_video(path: Path, frames: np.ndarray, *, fps: str, crf: int) -> None:
    """Encode uint8 (T, H, W, 3) RGB as H.264, 4:2:0, on one thread."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=Fraction(fps))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.thread_count = 1
        # with mbtree x264 gives the same frames other bytes, depending on what the process encoded before
        stream.options = {"preset": "veryfast", "crf": str(crf), "x264-params": "mbtree=0"}
        for frame in frames:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        file.mux(stream.encode())


def _write_video(root: Path, seed: int, shift: str, job: tuple[str, int]) -> tuple[str, dict]:
    """Render and encode one video; gives its split and what the lists say of it. Runs in the workers."""
    split, index = job
    stream = SPLITS.index(split)
    clip = render_clip(seed, stream, index, SHIFTS[shift])
    crf = int(np.random.default_rng([seed, stream, index, 4]).integers(20, 30))
    video_id = f"{split}/{index:05d}"
    write_video(root / "videos" / f"{video_id}.mp4", clip.frames, fps=clip.fps, crf=crf)
    return split, _entry(video_id, clip)


def _entry(video_id: str, clip: DemoClip) -> dict:
    num_frames, height, width, _ = clip.frames.shape
    return {
        "id": video_id,
        "path": f"videos/{video_id}.mp4",
        "class": clip.label,
        "thing": f"a {clip.shape}",
        "tag": clip.tag,
        "num_frames": num_frames,
        "fps": float(Fraction(clip.fps)),
        "width": width,
        "height": height,
    }


def _run(job: Callable, items: Sequence, processes: int) -> Iterator:
    """`map`, in order, by this process or by `processes` others."""
    if processes == 1:
        yield from map(job, items)
        return
    context = multiprocessing.get_context("spawn")  # fork would copy the threads of torch and FFmpeg
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        try:
            yield from pool.map(job, items, chunksize=16)
        finally:
            pool.shutdown(cancel_futures=True)


def _write_lists(root: Path, entries: dict[str, list[dict]]) -> None:
    (root / "classes.txt").write_text("".join(f"{name}\n" for name in CLASS_NAMES))
    labels = {_plain(template): str(label) for label, template in enumerate(TEMPLATES)}
    (root / f"{SSV2}labels.json").write_text(json.dumps(labels, indent=1) + "\n")
    for split, rows in entries.items():
        (root / f"{split}.csv").write_text("".join(f"{row['path']} {row['class']}\n" for row in rows))
        text = ",\n".join(json.dumps(_ssv2_row(row)) for row in rows)
        (root / f"{SSV2}{SSV2_SPLITS[split]}.json").write_text(f"[\n{text}\n]\n")
    with open(root / "tags.csv", "w", newline="") as file:
        table = csv.DictWriter(file, TAG_FIELDS, extrasaction="ignore", lineterminator="\n")
        table.writeheader()
        table.writerows(row for split in SPLITS for row in entries[split])


def _ssv2_row(row: dict) -> dict:
    template = TEMPLATES[row["class"]]
    label = template.replace("[something]", row["thing"]).lower()
    return {"id": row["id"], "label": label, "template": template, "placeholders": [row["thing"]]}


def _plain(template: str) -> str:
    return template.replace("[", "").replace("]", "")


def _check_numbers(settings: dict[str, int], processes: int) -> None:
    for name, least in (("seed", 0), *((f"num_{split}", 1) for split in SPLITS)):
        if settings[name] < least:
            raise InputError(f"{name} is {settings[name]}, but must be at least {least}")
    if processes < 1:
        raise InputError(f"processes is {processes}, but must be at least 1")


def _prepare(root: Path, settings: dict, folders: Sequence[str]) -> bool:
    """Make an empty data set of these settings, marked as started; False if the complete one is there."""
    wanted = json.dumps(settings)
    if (root / COMPLETE).exists():
        found = (root / COMPLETE).read_text().strip()
        if found == wanted:
            return False
        raise InputError(f"{root} holds a data set with {found[:200]!r}, not {wanted!r}; give another folder")
    if (root / STARTED).exists():
        for folder in folders:  # the lists are written over
            shutil.rmtree(root / folder, ignore_errors=True)
    elif root.is_dir() and any(root.iterdir()):
        raise InputError(f"{root} is not empty and holds no demo data set; give a new or an empty folder")
    try:
        root.mkdir(parents=True, exist_ok=True)
        (root / STARTED).write_text(wanted)
    except OSError as error:
        raise InputError(f"cannot write to the folder {root} ({error.strerror}); give another one") from error
    for folder in folders:
        (root / folder).mkdir(parents=True)
    return True
