"""The loader: the same batches whatever reads them, and processes that die or hang with one clear line."""

import multiprocessing
import os
import random
import signal
import sys
import time
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from make_video import make_video
from torch.utils.data import Dataset

from revit_video.build.passes import pick_train_view
from revit_video.data import dataset as dataset_module
from revit_video.data import workers
from revit_video.data.dataset import VideoDataset
from revit_video.data.loader import StepSampler, eval_batches, rows_of_part, train_batches
from revit_video.data.sample_list import SampleList
from revit_video.data.workers import WorkerBatches
from revit_video.decode import open_video
from revit_video.evaluate.run import merge_scores, score_views
from revit_video.sample import FramePicker
from revit_video.stages.job import Device, EvalJob
from revit_video.train.log import RunLog
from revit_video.transform import EvalTransform, TrainTransform
from revit_video.transform.clip import resize_short_side
from revit_video.types import InputError, VideoSample, View

BROKEN = 3  # of the seven videos below


@pytest.fixture(scope="module")
def samples(tmp_path_factory) -> list[VideoSample]:
    folder = tmp_path_factory.mktemp("videos")
    made = []
    for number in range(7):
        frames = np.random.default_rng(number).integers(0, 255, (12, 40, 56, 3)).astype(np.uint8)
        made.append(VideoSample(make_video(folder / f"{number}.mp4", frames), number))
    (folder / f"{BROKEN}.mp4").write_bytes(b"no video")
    return made


def training_set(samples, **options) -> VideoDataset:
    transform = TrainTransform(24, jitter=(26, 34), flip=True, flip_labels={i: 100 + i for i in range(7)})
    pick = partial(pick_train_view, picker=FramePicker(3, 2))
    return VideoDataset(samples, pick_views=pick, transform=transform, seed=5, **options)


def evaluation_set(samples) -> VideoDataset:
    return VideoDataset(samples, pick_views=two_views, transform=EvalTransform(24))


def two_views(num_frames, rng, fps) -> list[View]:
    return [View((0, 4), 0, 1), View((6, 10), 1, 1)]


def stream(dataset, **options) -> list:
    return list(train_batches(dataset, **{"batch_size": 5, "total_steps": 4, "seed": 1} | options))


def same(one, other) -> bool:
    names = ("clips", "labels", "indices", "rows", "clip_labels")
    return one.unreadable == other.unreadable and all(
        torch.equal(getattr(one, name), getattr(other, name)) for name in names
    )


# --- batches ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_workers", [1, 3])
def test_the_number_of_workers_changes_no_pixel(samples, num_workers):
    alone = stream(training_set(samples, repeats=2))
    shared = stream(training_set(samples, repeats=2), num_workers=num_workers)
    assert len(alone) == len(shared) == 4 and all(map(same, alone, shared))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_stream_from_a_later_step_is_the_tail_of_the_whole(samples, num_workers):
    whole = stream(training_set(samples))
    tail = stream(training_set(samples), start_step=2, num_workers=num_workers)
    assert len(tail) == 2 and all(map(same, whole[2:], tail))


@pytest.mark.parametrize(("parts", "even"), [(2, False), (2, True), (3, False)])
def test_the_parts_of_several_processes_are_the_batch_of_one(samples, parts, even):
    whole = stream(training_set(samples), batch_size=7)
    split = [
        stream(training_set(samples), batch_size=7, part=part, parts=parts, even=even, num_workers=part)
        for part in range(parts)
    ]
    for batch, *pieces in zip(whole, *split, strict=True):
        for name in ("clips", "labels", "indices", "rows", "clip_labels"):
            assert torch.equal(getattr(batch, name), torch.cat([getattr(p, name) for p in pieces]))
        assert batch.unreadable == tuple(item for piece in pieces for item in piece.unreadable)


@pytest.mark.parametrize("part", [0, 1])
def test_rows_are_places_in_the_batch_of_all_processes(samples, part):
    keys = list(StepSampler(7, batch_size=7, total_steps=4, seed=1))
    seen = stream(training_set(samples), batch_size=7, part=part, parts=2)
    for asked, batch in zip(keys, seen, strict=True):
        assert batch.indices.tolist() == [asked[row][1] for row in batch.rows.tolist()]
    assert sum(len(batch.unreadable) for batch in seen) == sum(
        asked[row][1] == BROKEN for asked in keys for row in rows_of_part(7, part=part, parts=2)
    )


def test_no_seven_videos_are_read_twice_by_two_processes(samples):
    parts = [list(eval_batches(evaluation_set(samples), videos_per_batch=2, part=p, parts=2)) for p in (0, 1)]
    read = [[i for batch in part for i in batch.indices.tolist()] for part in parts]
    assert read == [[0, 2, 4, 6], [1, 5]] and parts[1][0].unreadable[0].index == BROKEN
    none = eval_batches(evaluation_set(samples[:2]), videos_per_batch=2, part=2, parts=3, num_workers=2)
    assert list(none) == []


@pytest.mark.parametrize(
    ("batch_size", "parts", "even", "expected"),
    [
        (8, 2, False, [(0, 4), (4, 8)]),
        (7, 2, False, [(0, 3), (3, 7)]),
        (10, 3, False, [(0, 3), (3, 6), (6, 10)]),
        (10, 3, True, [(0, 2), (2, 6), (6, 10)]),
        (7, 2, True, [(0, 2), (2, 7)]),
        (8, 4, True, [(0, 2), (2, 4), (4, 6), (6, 8)]),
    ],
)
def test_rows_of_a_part_by_hand(batch_size, parts, even, expected):
    made = [rows_of_part(batch_size, part=part, parts=parts, even=even) for part in range(parts)]
    assert made == [range(*borders) for borders in expected]


def test_a_batch_too_small_for_its_processes_is_refused(samples):
    with pytest.raises(InputError, match="a batch of 2 does not give each of 3 processes a clip"):
        stream(training_set(samples), batch_size=2, parts=3)
    with pytest.raises(InputError, match="a batch of 5 does not give each of 3 processes a pair of clips"):
        stream(training_set(samples), batch_size=5, parts=3, even=True)
    with pytest.raises(InputError, match="process 2 of 2 does not exist"):
        stream(training_set(samples), part=2, parts=2)


# --- repeated augmentation --------------------------------------------------------------------------------


def test_repeats_are_clips_with_draws_of_their_own_from_one_decoding(samples, monkeypatch):
    opened = []
    real = dataset_module.open_video
    monkeypatch.setattr(
        dataset_module, "open_video", lambda path, **o: opened.append(path) or real(path, **o)
    )
    (item,) = [training_set(samples, repeats=8)[(0, 1)]]
    assert item.clips.shape == (8, 3, 3, 24, 24) and opened == [samples[1].path]
    assert len({clip.numpy().tobytes() for clip in item.clips}) == 8
    assert set(item.clip_labels) == {1, 101} and item.label == item.clip_labels[0]  # mirrored or not
    (batch,) = stream(training_set(samples, repeats=8), total_steps=1)
    assert batch.clip_labels.shape == (len(batch.labels), 8)
    assert torch.equal(batch.clip_labels[:, 0], batch.labels)
    mirrored = batch.clip_labels >= 100
    assert mirrored.any(dim=1).all() and not mirrored.all(dim=1).any()


@pytest.mark.parametrize("cache", [False, True])
def test_the_clips_of_a_repeated_video_are_those_that_were_drawn(samples, cache):
    """Every clip against its own decoding, with the draws in their documented order."""
    dataset = training_set(samples, repeats=3, cache=cache)
    item = dataset[(2, 4)]
    rng = random.Random("5/2/4")
    drawn = [(dataset.transform.short_side(rng), *dataset.pick_views(12, rng, 25.0)) for _ in range(3)]
    largest = dataset.transform.max_short_side if cache else max(side for side, _ in drawn)
    for (side, view), clip, label in zip(drawn, item.clips, item.clip_labels, strict=True):
        with open_video(samples[4].path) as video:
            frames = resize_short_side(video.frames(view.frames, short_side=largest), side)
        expected, expected_label = dataset.transform(frames, view, 4, rng)
        assert torch.equal(clip, expected) and label == expected_label
    assert len({side for side, _ in drawn}) > 1


def test_one_clip_of_a_video_is_the_item_it_was_without_repeats(samples):
    """The draws of one clip: short side, frames, crop, flip; decoded at the very size that was drawn."""
    dataset = training_set(samples)
    for epoch in range(3):
        item, rng = dataset[(epoch, 2)], random.Random(f"5/{epoch}/2")
        side = dataset.transform.short_side(rng)
        (view,) = dataset.pick_views(12, rng, 25.0)
        with open_video(samples[2].path) as video:
            frames = video.frames(view.frames, short_side=side)
        clip, label = dataset.transform(frames, view, 2, rng)
        assert torch.equal(item.clips[0], clip) and (item.label, item.clip_labels) == (label, (label,))


def test_no_repeats_at_all_are_refused(samples):
    with pytest.raises(InputError, match="repeats is 0"):
        training_set(samples, repeats=0)


# --- scores of several processes --------------------------------------------------------------------------


def scores(samples, part=0, parts=1):
    batches = eval_batches(evaluation_set(samples), videos_per_batch=2, part=part, parts=parts)
    return score_views(
        lambda clips: {"grey": clips.mean(dim=(1, 2, 3, 4)), "wide": clips[:, :, 0].mean(dim=-1)},
        batches,
        to_clips=lambda clips: clips.float().transpose(1, 2),
        views_per_forward=3,
    )


@pytest.mark.parametrize("parts", [1, 2, 3, 9])  # with nine processes two have no video
def test_the_scores_of_several_processes_are_those_of_one(samples, parts):
    one = merge_scores([scores(samples)])
    merged = merge_scores([scores(samples, part, parts) for part in reversed(range(parts))])
    assert merged.indices.tolist() == one.indices.tolist() == [0, 1, 2, 4, 5, 6]
    assert torch.equal(merged.labels, one.labels) and merged.unreadable == one.unreadable
    assert list(merged.unreadable) == [BROKEN]
    for name in ("grey", "wide"):
        torch.testing.assert_close(merged.values[name], one.values[name])


def test_only_the_whole_list_must_hold_a_readable_video(samples):
    broken = [samples[BROKEN], replace(samples[BROKEN], label=0)]
    parts = [scores(broken, part, 3) for part in range(3)]
    assert [len(part.indices) for part in parts] == [0, 0, 0]
    with pytest.raises(InputError, match=rf"none of the 2 videos .* first: .*{BROKEN}\.mp4"):
        merge_scores(parts)
    with pytest.raises(InputError, match="the list is empty"):
        merge_scores([scores([])])


def test_an_evaluation_in_parts_gathers_and_counts_what_no_process_could_read(samples):
    run = Device(torch.device("cpu"), torch.float32, nullcontext, mean_free)
    predict = partial(named_mean)
    alone = EvalJob(evaluation_set(samples), run, 2, 3).score(predict, RunLog(), title="test")
    theirs = scores_of(samples, run, part=1)

    def gather(ours):
        return [ours, theirs]

    job = EvalJob(evaluation_set(samples), run, 2, 3, part=0, parts=2, gather=gather)
    merged = job.score(predict, RunLog(), title="test")
    assert torch.equal(merged.indices, alone.indices)
    torch.testing.assert_close(merged.values["grey"], alone.values["grey"])
    strict = EvalJob(evaluation_set(samples), run, 2, 3, part=0, parts=2, gather=gather, max_unreadable=0.1)
    with pytest.raises(InputError, match="1 of 7 videos cannot be read"):  # of the other process
        strict.score(predict, RunLog(), title="test")


def mean_free(clips, dtype):
    return clips.to(dtype).transpose(1, 2)


def named_mean(clips):
    return {"grey": clips.mean(dim=(1, 2, 3, 4))}


def scores_of(samples, run, part):
    batches = eval_batches(evaluation_set(samples), videos_per_batch=2, part=part, parts=2)
    return score_views(
        named_mean, batches, to_clips=partial(run.to_clips, dtype=run.dtype), views_per_forward=3
    )


# --- processes --------------------------------------------------------------------------------------------


class Odd(VideoDataset):
    """A data set that does something on the way to the second video."""

    doing = staticmethod(lambda: None)

    def read(self, sample, rng):
        if sample.label == 1:
            self.doing()
        return super().read(sample, rng)


def odd_batches(samples, doing, **options):
    dataset = Odd(samples, pick_views=two_views, transform=EvalTransform(24))
    dataset.doing = doing
    return eval_batches(dataset, **{"videos_per_batch": 1, "num_workers": 2} | options)


@pytest.mark.parametrize(
    ("doing", "expected"),
    [
        (
            lambda: os.kill(os.getpid(), signal.SIGKILL),
            r"killed, most likely as memory ran out .*\(SIGKILL\)",
        ),
        (
            lambda: os.kill(os.getpid(), signal.SIGBUS),
            r"no shared memory was left; .*--shm-size.* \(SIGBUS\)",
        ),
        (
            lambda: os.kill(os.getpid(), signal.SIGSEGV),
            r"ended unexpectedly; take the file off .*\(SIGSEGV\)",
        ),
        (lambda: os._exit(3), r"ended unexpectedly; .*\(exit code 3\)"),
    ],
)
def test_a_worker_that_dies_names_its_file_where_a_batch_is_waited_for(samples, doing, expected):
    batches = iter(odd_batches(samples, doing))
    got = []
    with pytest.raises(
        InputError, match=f"a worker process, reading {samples[1].path}, .*{expected}"
    ) as caught:
        for batch in batches:
            got.append(batch)
            time.sleep(0.3)  # the death falls into this: it must not show before the next batch is asked for
    assert len(got) <= 1 and "\n" not in str(caught.value) and samples[1].path in str(caught.value)


def test_a_worker_that_hangs_is_killed_and_names_its_file(samples, monkeypatch):
    monkeypatch.setattr(workers, "POLL_S", 0.1)
    start = time.monotonic()
    with pytest.raises(InputError, match=f"reading {samples[1].path}, gave nothing for 0.5 s and was killed"):
        list(odd_batches(samples, partial(time.sleep, 1000), patience=0.5))
    assert time.monotonic() - start < 30


def test_a_slow_batch_is_no_hang_while_its_videos_get_done(samples, monkeypatch):
    monkeypatch.setattr(workers, "POLL_S", 0.1)
    six = [replace(samples[0], label=1)] * 6  # 0.5 s each, in one batch
    slow = odd_batches(six, partial(time.sleep, 0.5), patience=2.5, videos_per_batch=6)
    assert sum(len(batch.labels) for batch in slow) == 6


def test_a_bug_in_a_worker_stays_a_bug(samples):
    def fail():
        raise RuntimeError("a bug of ours")

    with pytest.raises(RuntimeError, match="a bug of ours"):
        list(odd_batches(samples, fail))


class Curious(VideoDataset):
    """Says in its labels which process reads, and with how many threads."""

    def read(self, sample, rng):
        clips, _ = super().read(sample, rng)
        return clips, (os.getpid(), torch.get_num_threads())


def test_workers_live_as_long_as_the_stream_and_use_one_thread(samples):
    pick = partial(pick_train_view, picker=FramePicker(3, 2))
    dataset = Curious(samples, pick_views=pick, transform=EvalTransform(24))
    batches = train_batches(dataset, batch_size=2, total_steps=21, seed=0, num_workers=2)  # six epochs
    labels = torch.cat([batch.clip_labels for batch in batches])
    assert len(labels[:, 0].unique()) == 2 and os.getpid() not in labels[:, 0]
    assert set(labels[:, 1].tolist()) == {1}


def test_batches_read_ahead_are_bounded_by_prefetch(samples, tmp_path):
    class Counting(VideoDataset):
        def read(self, sample, rng):
            (tmp_path / str(sample.label)).touch()
            return super().read(sample, rng)

    many = [replace(samples[0], label=label) for label in range(30)]
    dataset = Counting(many, pick_views=two_views, transform=EvalTransform(24))
    for prefetch in (1, 3):
        batches = iter(eval_batches(dataset, videos_per_batch=1, num_workers=2, prefetch=prefetch))
        next(batches)
        wait_until(lambda bound=2 * prefetch + 1: len(list(tmp_path.iterdir())) >= bound)
        time.sleep(0.3)
        assert len(list(tmp_path.iterdir())) == 2 * prefetch + 1
        batches.close()
        for file in tmp_path.iterdir():
            file.unlink()


def wait_until(holds, seconds=120.0):
    end = time.monotonic() + seconds
    while not holds() and time.monotonic() < end:
        time.sleep(0.02)


# --- shared memory ----------------------------------------------------------------------------------------


def free_memory(monkeypatch, num_bytes):
    fake = SimpleNamespace(f_bavail=num_bytes // 4096, f_frsize=4096)
    monkeypatch.setattr(workers.os, "statvfs", lambda mount: fake)


def test_shared_memory_that_cannot_hold_the_batches_is_refused_before_the_first(samples, monkeypatch):
    dataset = training_set(samples, repeats=2)
    item = 2 * 3 * 3 * 24 * 24  # clips, frames, colours, pixels
    assert dataset.item_bytes() == item == dataset[(0, 0)].clips.nbytes
    options = {"batch_size": 70, "total_steps": 100, "num_workers": 4, "prefetch": 5, "seed": 0}
    needed = (4 * 5 + 1) * 70 * item  # and one batch that is worked on
    free_memory(monkeypatch, needed + 4096)
    train_batches(dataset, **options)
    free_memory(monkeypatch, needed - 4096)
    mib = needed / 2**20
    with pytest.raises(
        InputError,
        match=rf"4 worker processes that read 5 batches ahead need {mib:.0f} MiB of shared memory, /dev/shm "
        rf"has {mib:.0f} MiB left; use fewer data.num_workers, a smaller data.prefetch .*--shm-size",
    ):
        train_batches(dataset, **options)
    train_batches(dataset, **options | {"total_steps": 20})  # no more batches than there are
    train_batches(dataset, **options | {"part": 1, "parts": 2})  # half of each batch
    train_batches(dataset, **options | {"num_workers": 0})


def test_a_system_without_shared_memory_is_told_so(samples, tmp_path):
    with pytest.raises(InputError, match=rf"{tmp_path}/none cannot be used .*data\.num_workers=0"):
        eval_batches(
            evaluation_set(samples),
            videos_per_batch=2,
            num_workers=1,
            shared_memory=str(tmp_path / "none"),
        )


def private_bytes() -> int:
    """Memory that this process shares with no other."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith("Private_"))


class Weighing(Dataset):
    """Looks at every video of its list; says how much memory that took."""

    def __init__(self, samples) -> None:
        self.samples = samples

    def __getitem__(self, key):
        before = private_bytes()
        assert sum(len(sample.path) for sample in self.samples) == 30_000 * 610
        return private_bytes() - before


@pytest.mark.skipif(
    not Path("/proc/self/smaps_rollup").exists(), reason="memory is measured as Linux tells it"
)
@pytest.mark.parametrize(("kind", "shares"), [(SampleList, True), (list, False)])
def test_workers_share_the_list_and_do_not_copy_it(kind, shares):
    """Each looks at all of 30,000 videos and grows by less than a sixth of the list; with a list of objects
    by more than all of it.
    """
    listed = SampleList(VideoSample(f"/data/{i:0600d}.mp4", i % 400) for i in range(30_000))
    size = sum(value.nbytes for value in vars(listed).values())
    batches = WorkerBatches(Weighing(kind(listed)), [[(0, i)] for i in range(3)], collate=list, num_workers=3)
    grown = [number for batch in batches for number in batch]
    assert len(grown) == 3 and size > 18e6
    assert max(grown) < size / 6 if shares else min(grown) > size, (size, grown)


# --- the benchmark ----------------------------------------------------------------------------------------


@pytest.fixture
def somebody_elses_process():
    """As the reader that another test has left waiting for work."""
    child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,), daemon=True)
    child.start()
    yield
    child.kill()
    child.join()


def test_the_benchmark_prints_a_row_per_way_and_number_of_workers(
    monkeypatch, capsys, somebody_elses_process
):
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
    decode, benchmark = import_module("decode"), import_module("loader")
    monkeypatch.setattr(decode, "NUM_FRAMES", 16)
    monkeypatch.setattr(decode, "competitors", lambda: {})  # pytorchvideo takes its time
    monkeypatch.setattr(sys, "argv", ["benchmarks/loader.py", "--quick"])
    assert benchmark.main() == 0
    header, _, *rows, provenance = capsys.readouterr().out.splitlines()
    assert "MiB per worker" in header and '"date"' in provenance
    cells = [[cell.strip() for cell in row.split("|")[1:-1]] for row in rows]
    ways = ["ours", "ours, packed", "whole file"]
    assert [row[:2] for row in cells] == [[workers, way] for workers in "01" for way in ways]
    assert all(float(row[2]) > 0 and float(row[3]) > 0 for row in cells)
    assert [row[4] == "-" for row in cells] == [False] * 3 + [True] * 3
    assert [row[5] == "-" for row in cells] == [True] * 3 + [False] * 3
    monkeypatch.setattr(sys, "argv", ["benchmarks/loader.py", "--clips", "7"])
    assert benchmark.main() == 2
