"""Can a damaged file crash, hang or fool the reader? Thousands of mutants, and thousands of opens in a row.

    python benchmarks/decode_fuzz.py                          2,000 mutated files, then 2,000 opens
    python benchmarks/decode_fuzz.py --files 100 --opens 0

Small files of several containers are written, then bits are flipped, bytes overwritten, taken out or put
in, ends cut off (fixed seed). Each mutant is read in a worker process under a time limit: 8 frames
anywhere, then all. It has to give an error of one line, or as many frames as a fresh decoder finds in it.
The opens alternate between whole and damaged files in this process; memory and open files are compared
after a tenth of them and at the end.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from fractions import Fraction
from multiprocessing.connection import Connection
from pathlib import Path

import av
import numpy as np

from revit_video import command_line
from revit_video.decode import DecodeError, Limits, open_video
from revit_video.types import InputError

SECONDS = 10.0  # for one mutant, after which its worker is killed
NUM_FRAMES = 30
KINDS = {  # file name: codec, options of the codec, options of the container
    "h264.mp4": ("libx264", {"g": "10", "bf": "3"}, {"movflags": "faststart"}),
    "h264.mkv": ("libx264", {"g": "10", "bf": "2"}, {}),
    "fragments.mp4": ("libx264", {"g": "10"}, {"movflags": "frag_keyframe+empty_moov"}),
    "mpeg4.avi": ("mpeg4", {"g": "10", "bf": "2"}, {}),
    "mjpeg.avi": ("mjpeg", {}, {}),
    "vp9.webm": ("libvpx-vp9", {"deadline": "realtime", "cpu-used": "8", "g": "10"}, {}),
    "h264.ts": ("libx264", {"g": "10", "bf": "2"}, {}),
}


def write_sources(folder: Path) -> list[Path]:
    """One small file of each kind that this FFmpeg can write."""
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 255, (NUM_FRAMES, 6, 8, 3), np.uint8).repeat(8, 1).repeat(8, 2)
    paths = []
    for name, (codec, options, container_options) in KINDS.items():
        if codec not in av.codecs_available:
            continue
        with av.open(str(folder / name), "w", options=container_options) as container:
            stream = container.add_stream(codec, rate=Fraction(25), options=options)
            stream.height, stream.width = frames.shape[1:3]
            stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
            for frame in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode(None))
        paths.append(folder / name)
    return paths


def mutants(sources: list[Path], num_files: int, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """(ending of the name, content) of damaged files, each kind of damage in turn."""
    contents = [(path.name, path.read_bytes()) for path in sources]
    for number in range(num_files):
        rng = random.Random(f"{seed}/{number}")
        name, content = contents[number % len(contents)]
        yield name, bytes(_damaged(bytearray(content), rng))


def _damaged(content: bytearray, rng: random.Random) -> bytearray:
    kind = rng.choice(("bits", "bits", "headers", "bytes", "cut", "gap", "more", "noise"))
    size = len(content)
    if kind in ("bits", "headers"):
        for _ in range(rng.choice((1, 3, 10, 100))):
            content[rng.randrange(min(size, 1500) if kind == "headers" else size)] ^= 1 << rng.randrange(8)
    elif kind == "bytes":
        begin, length = rng.randrange(size), rng.choice((1, 16, 500))
        content[begin : begin + length] = rng.randbytes(length)
    elif kind == "cut":
        del content[rng.randrange(size) :]
    elif kind == "gap":
        begin = rng.randrange(size)
        del content[begin : begin + rng.choice((1, 50, 2000))]
    elif kind == "more":
        begin = rng.randrange(size)
        content[begin:begin] = rng.randbytes(rng.choice((1, 50, 2000)))
    else:
        keep = rng.choice((4, 64, 800))
        content[keep:] = rng.randbytes(rng.choice((10, 5000)))
    return content


def verdict(path: str) -> str:
    """How the reader takes one file: "frames", "refused", or what is wrong with its answer."""
    try:
        with open_video(path, limits=Limits(seconds=SECONDS / 2)) as video:
            num_frames = video.num_frames
            rng = random.Random(0)
            video.frames([rng.randrange(num_frames) for _ in range(8)], short_side=32)
            frames = video.frames(range(num_frames), short_side=32)
            found = video.num_frames
    except DecodeError as error:
        return "refused" if "\n" not in str(error) else "an error of several lines"
    except InputError as error:
        return f"no DecodeError: {error}"
    expected = fresh_count(path)
    if found != expected or len(frames) != num_frames:
        return f"{found} frames where a fresh decoder finds {expected}"
    return "frames"


def fresh_count(path: str) -> int | str:
    """How many frames a decoder of its own gives."""
    number = 0
    try:
        with av.open(path, metadata_errors="ignore") as container:
            stream = container.streams.best("video")
            stream.codec_context.thread_count = 1
            for _ in container.decode(stream):
                number += 1
    except (av.FFmpegError, OSError, ValueError) as error:
        return f"{number}, then {type(error).__name__}"
    return number


def _work(wire: Connection) -> None:
    av.logging.set_level(av.logging.PANIC)
    while (path := wire.recv()) is not None:
        try:
            wire.send(verdict(path))
        except Exception as error:
            wire.send(f"{type(error).__name__}: {error}")


class Worker:
    """A process that gives verdicts; a new one takes the place of one that hangs or dies."""

    def __init__(self) -> None:
        self.process = None

    def judge(self, path: str) -> str:
        if self.process is None:
            self.wire, theirs = multiprocessing.Pipe()
            self.process = multiprocessing.get_context("spawn").Process(
                target=_work, args=(theirs,), daemon=True
            )
            self.process.start()
            theirs.close()
        self.wire.send(path)
        try:
            if self.wire.poll(SECONDS if self._warm else 60):
                self._warm = True
                return self.wire.recv()
            outcome = "hung"
        except (EOFError, OSError):
            outcome = "crashed"
        self.stop()
        return outcome

    _warm = False  # has it loaded its libraries?

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.join()
            self.wire.close()
        self.process, self._warm = None, False


def fuzz(folder: Path, num_files: int, seed: int = 0) -> dict[str, list[str]]:
    """Verdict -> names of the mutants that got it. Wrongly read ones stay in the folder."""
    outcomes: dict[str, list[str]] = {}
    worker = Worker()
    try:
        for number, (name, content) in enumerate(mutants(write_sources(folder), num_files, seed)):
            path = folder / f"{number}_{name}"
            path.write_bytes(content)
            outcome = worker.judge(str(path))
            outcomes.setdefault(outcome, []).append(path.name)
            if outcome in ("frames", "refused"):
                path.unlink()
    finally:
        worker.stop()
    return outcomes


def resident_bytes() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def opens(folder: Path, num_opens: int) -> tuple[int, int]:
    """(bytes, descriptors) by which this process grew over the last nine tenths of the opens."""
    sources = write_sources(folder)
    paths = list(sources)
    for number, (name, content) in enumerate(mutants(sources, 2 * len(sources))):
        paths.append(folder / f"bad{number}_{name}")
        paths[-1].write_bytes(content)
    for number in range(num_opens):
        if number == num_opens // 10:
            memory, files = resident_bytes(), len(os.listdir("/proc/self/fd"))
        try:
            with open_video(paths[number % len(paths)]) as video:
                video.frames([0, video.num_frames - 1], short_side=32)
        except DecodeError:
            pass
    return resident_bytes() - memory, len(os.listdir("/proc/self/fd")) - files


def main() -> int:
    made = command_line.parser(__doc__)
    made.add_argument("--files", type=int, default=2000, metavar="N", help="mutated files (2000)")
    made.add_argument("--opens", type=int, default=2000, metavar="N", help="opens in a row (2000)")
    made.add_argument("--seed", type=int, default=0)

    def command(args) -> int:
        av.logging.set_level(av.logging.PANIC)
        bad = 0
        with tempfile.TemporaryDirectory() as name:
            if args.files:
                outcomes = fuzz(Path(name), args.files, args.seed)
                counts = Counter({kind: len(files) for kind, files in outcomes.items()})
                print("\n".join(f"{count:6d}  {kind}" for kind, count in counts.most_common()))
                bad = sum(counts.values()) - counts["frames"] - counts["refused"]
            if args.opens:
                grown, files = opens(Path(name), args.opens)
                print(f"{args.opens} opens: memory grew by {grown / 2**20:.1f} MiB, open files by {files}")
                bad += grown > 20 << 20 or files > 0
        return int(bad > 0)

    return command_line.run(command, made)


if __name__ == "__main__":
    sys.exit(main())
