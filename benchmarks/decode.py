"""How fast are videos read, and what does each reader make of real files?

    python benchmarks/decode.py                                speed, on generated files like those of
    Kinetics python benchmarks/decode.py --clips ../shared/clips --table    a row per file, a column per
    installed reader

Speed: 10 s of 340x256 at 30 frames per second, H.264 as x264 writes it, with key frames every 250 and every
12 frames. A clip is 8 frames spread over the file at short side 224. All readers take turns in this process
on one thread; the tables show milliseconds (median) and how many times the default reader is faster. Views:
10 clips of 8 frames, 3 crops each, against decoding all frames of the file once and against reading the
file for each clip. Memory is that of a new process that reads 50 clips, above what its imports need.

The table needs a folder with a reference.json: per file the number of frames and the mean colours of the
first, middle and last one. "equal": same count, size as displayed, colours within 2 of 255 per channel.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Callable
from functools import partial
from pathlib import Path

import av
import numpy as np
import torch

from revit_video import command_line
from revit_video.decode import DECODERS, DecodeError, Limits, open_video
from revit_video.report.provenance import provenance
from revit_video.report.tables import console_table
from revit_video.report.throughput import interleave
from revit_video.types import InputError

NUM_FRAMES, FPS, SIZE, SHORT_SIDE, CLIP = 300, 30, (256, 340), 224, 8
CUT_OFF = "error: is cut off"  # by choice: the reference reads the half that is left
CLOSE = 2.0  # of 255: how far mean colours may lie apart; conversions to RGB round differently
SECONDS = 10.0  # for one real file


def write_like_kinetics(path: Path, gop: int) -> str:
    """A textured square moves over a drifting texture under noise, about 250 kbit/s."""
    rng = np.random.default_rng(0)
    height, width = SIZE
    far, near = (_texture(rng, (2 * height, 2 * width)), _texture(rng, (96, 96)))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"crf": "23", "threads": "1"})
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        stream.codec_context.gop_size = gop
        for i in range(NUM_FRAMES):
            top, left = int(128 + 85 * np.sin(i / 40)), int(170 + 110 * np.cos(i / 31))
            picture = far[top : top + height, left : left + width].copy()
            top, left = int(80 + 80 * np.sin(i / 13)), int(122 + 122 * np.cos(i / 17))
            picture[top : top + 96, left : left + 96] = near
            picture = (picture + rng.normal(0, 3, picture.shape)).clip(0, 255).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return str(path)


def _texture(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """Squares of several sizes, 0 to 255."""
    layers = [
        np.sqrt(scale)
        * np.kron(rng.normal(size=(*[n // scale + 1 for n in size], 3)), np.ones((scale, scale, 1)))
        for scale in (4, 16, 64)
    ]
    total = sum(layer[: size[0], : size[1]] for layer in layers)
    return (total - total.min()) / np.ptp(total) * 255


def spread(num_frames: int) -> list[int]:
    return np.linspace(0, num_frames - 1, CLIP).round().astype(int).tolist()


def ours(path: str, decoder: str = "pyav") -> np.ndarray:
    with open_video(path, decoder, guarded=False) as video:
        return video.frames(spread(video.num_frames), short_side=SHORT_SIDE)


def decord_and_resize(path: str) -> torch.Tensor:
    import decord

    video = decord.VideoReader(path, num_threads=1)
    frames = torch.from_numpy(video.get_batch(spread(len(video))).asnumpy())
    return _resized(frames)


def whole_file_and_resize(path: str) -> torch.Tensor:
    """What pytorchvideo does, with PyAV alone: every frame to RGB, then a few of them scaled."""
    with av.open(path) as container:
        container.streams.video[0].codec_context.thread_count = 1
        frames = [frame.to_rgb().to_ndarray() for frame in container.decode(video=0)]
    return _resized(torch.from_numpy(np.stack(frames))[spread(len(frames))])


def pytorchvideo_clip(path: str) -> torch.Tensor:
    """EncodedVideo on PyAV, the whole clip, UniformTemporalSubsample, ShortSideScale."""
    from pytorchvideo.data.encoded_video import EncodedVideo
    from pytorchvideo.transforms import ShortSideScale, UniformTemporalSubsample

    video = EncodedVideo.from_path(path, decode_audio=False, decoder="pyav")
    frames = video.get_clip(0, float(video.duration))["video"]  # (C, T, H, W), float
    video.close()
    return ShortSideScale(SHORT_SIDE)(UniformTemporalSubsample(CLIP)(frames))


def _resized(frames: torch.Tensor) -> torch.Tensor:
    """(T, H, W, 3) to (T, 3, h, w), as the toolkits do it."""
    height, width = (n * SHORT_SIDE // min(frames.shape[1:3]) for n in frames.shape[1:3])
    frames = frames.permute(0, 3, 1, 2).float()
    return torch.nn.functional.interpolate(frames, (height, width), mode="bilinear", align_corners=False)


def decode_once(path: str) -> None:
    with av.open(path) as container:
        container.streams.video[0].codec_context.thread_count = 1
        for _ in container.decode(video=0):
            pass


def clip_frames(num_frames: int) -> list[list[int]]:
    """10 clips of 8 frames, every 8th, evenly over the file."""
    starts = np.linspace(0, num_frames - 1 - 8 * (CLIP - 1), 10).round().astype(int)
    return [[int(start) + 8 * i for i in range(CLIP)] for start in starts]


def views(path: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """Frames and places of 10 x 3 views from one reading; crops are cut out without copying."""
    with open_video(path) as video:
        clips = clip_frames(video.num_frames)
        wanted = sorted({number for clip in clips for number in clip})
        frames = video.frames(wanted, short_side=SHORT_SIDE)
    places = [np.searchsorted(wanted, clip) for clip in clips]
    lefts = [0, (frames.shape[2] - SHORT_SIDE) // 2, frames.shape[2] - SHORT_SIDE]
    return [(frames[:, :, left : left + SHORT_SIDE], place) for place in places for left in lefts]


def views_one_by_one(path: str) -> None:
    """The peers' way: a reading for every view."""
    for view in range(30):
        with open_video(path) as video:
            video.frames(clip_frames(video.num_frames)[view // 3], short_side=SHORT_SIDE)


def competitors() -> dict[str, Callable[[str], object]]:
    """What is installed here."""
    ways: dict[str, Callable[[str], object]] = {"pyav (ours)": ours}
    if importlib.util.find_spec("decord"):
        ways["decord + resize"] = decord_and_resize
    if importlib.util.find_spec("torchcodec"):
        ways["torchcodec (ours)"] = partial(ours, decoder="torchcodec")
    ways["whole file + resize"] = whole_file_and_resize
    if importlib.util.find_spec("pytorchvideo"):
        # Its last release imports a module that torchvision has renamed; nothing of it is used here.
        sys.modules.setdefault("torchvision.transforms.functional_tensor", types.ModuleType("renamed"))
        ways["pytorchvideo"] = pytorchvideo_clip
    return ways


def mebibytes(name: str, path: str) -> float:
    """Memory that 50 clips need in a new process, above its imports and one tiny clip."""
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import decode, torch\n"
        "torch.set_num_threads(1)\n"
        f"way = decode.competitors()[{name!r}]\n"
        "status = lambda key: int(open('/proc/self/status').read().split(key + ':')[1].split()[0]) / 1024\n"
        "before = status('VmRSS')\n"
        f"for _ in range(50): way({path!r})\n"
        "print(status('VmHWM') - before)"
    )
    return float(
        subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout
    )


def speed(repeats: int) -> None:
    torch.set_num_threads(1)
    rows, view_rows = [], []
    with tempfile.TemporaryDirectory() as folder:
        for gop in (250, 12):
            path = write_like_kinetics(Path(folder) / f"gop{gop}.mp4", gop)
            ways = competitors()
            took = interleave(
                {name: partial(way, path) for name, way in ways.items()}, items=1, repeats=repeats
            )
            for name, timing in took.items():
                faster = timing.ms_median / took["pyav (ours)"].ms_median
                row = {"gop": gop, "way": name, "ms": timing.ms_median, "clips_per_s": timing.items_per_s}
                rows.append(row | {"slower": faster, "mib": mebibytes(name, path)})
            ways = {"once": decode_once, "views": views, "each": views_one_by_one}
            took = interleave(
                {name: partial(way, path) for name, way in ways.items()}, items=1, repeats=repeats
            )
            once = took["once"].ms_median
            view_rows.append(
                {"gop": gop, "once": once} | {name: took[name].ms_median / once for name in ("views", "each")}
            )
    columns = {"gop": ("key frames every", ""), "way": ("way", ""), "ms": ("ms per clip", ".1f")}
    columns |= {
        "clips_per_s": ("clips/s per worker", ".1f"),
        "slower": ("time / ours", ".2f"),
        "mib": ("MiB", ".0f"),
    }
    console_table(rows, columns)
    columns = {"gop": ("key frames every", ""), "once": ("file once, ms", ".1f")}
    columns |= {"views": ("10x3 views / once", ".2f"), "each": ("30 readings / once", ".2f")}
    console_table(view_rows, columns)
    print(json.dumps(provenance(device="cpu", dtype="uint8", seed=0)))


def table(folder: Path) -> int:
    """Prints a Markdown table of all files and readers. Returns how many the default one gets wrong."""
    reference = json.loads((folder / "reference.json").read_text())
    decoders = [name for name in DECODERS if name == "pyav" or importlib.util.find_spec(name)]
    print(f"| file | frames | {' | '.join(decoders)} |\n|---|---|{'---|' * len(decoders)}")
    wrong = 0
    for decoder in decoders:  # loads its libraries
        judged(folder / next(iter(reference)), {"n": None}, decoder)
    for name, known in reference.items():
        cells = []
        for decoder in decoders:
            start = time.monotonic()
            cell = judged(folder / name, known, decoder)
            took = time.monotonic() - start
            cells.append(cell if took < SECONDS else f"{cell}, **{took:.0f} s**")
        failed = known["n"] is None or known["decode_error"] or cells[0] == CUT_OFF
        wrong += not cells[0].startswith("equal") and not (failed and cells[0].startswith("error"))
        print(f"| {name} | {'none' if known['n'] is None else known['n']} | {' | '.join(cells)} |")
    return wrong


def judged(path: Path, known: dict, decoder: str) -> str:
    """ "equal", how the frames differ from the reference, or the error."""
    try:
        with open_video(path, decoder, limits=Limits(seconds=SECONDS)) as video:
            if known["n"] is None or known["decode_error"]:
                video.frames([video.num_frames - 1])
                return f"{video.num_frames} frames"
            if video.num_frames != known["n"]:
                return f"{video.num_frames} frames" + last_frame(video)
            frames = video.frames([0, known["mid_index"], known["n"] - 1])
    except DecodeError as error:
        return f"error: {error.reason.partition(':')[0]}"
    except InputError as error:
        return f"does not load: {str(error)[:60]}"
    expected = [known["mean_rgb"][place] for place in ("0", "mid", "last")]
    apart = np.abs(frames.mean(axis=(1, 2)) - expected).max()
    if apart <= CLOSE:
        return "equal"
    return f"colours {apart:.1f} apart"


def last_frame(video) -> str:
    try:
        video.frames([video.num_frames - 1])
    except DecodeError:
        return ", the last is an error"
    return ""


def main() -> int:
    made = command_line.parser(__doc__)
    made.add_argument("--clips", metavar="FOLDER", help="real files with a reference.json")
    made.add_argument("--table", action="store_true", help="what each reader makes of them")
    made.add_argument("--repeats", type=int, default=10, metavar="N", help="rounds that count (10)")

    def command(args) -> int:
        av.logging.set_level(av.logging.PANIC)
        if args.table != bool(args.clips):
            raise InputError("--table and --clips FOLDER belong together")
        return int(table(Path(args.clips)) > 0) if args.table else speed(args.repeats)

    return command_line.run(command, made)


if __name__ == "__main__":
    sys.exit(main())
