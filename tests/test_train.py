"""The loop, the optimizers, the schedules and the order of the videos."""

import io
import json
import math
import random
from collections import Counter

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import nn

from revit_video.data.loader import StepSampler, train_batches
from revit_video.train.log import RunLog
from revit_video.train.loop import MAX_NONFINITE_STEPS, fit
from revit_video.train.losses import Distillation
from revit_video.train.optim import (
    build_optimizers,
    build_schedules,
    cosine_factor,
    no_decay,
    relative_factor,
)
from revit_video.train.revit import revit_step
from revit_video.transform.clip import TrainTransform, normalise, resize_short_side
from revit_video.types import InputError, View


@pytest.fixture
def log():
    with RunLog(None, console=Console(file=io.StringIO())) as log:
        yield log


def text_of(log: RunLog) -> str:
    return log.console.file.getvalue()


def fit_line(log: RunLog, batches: list[float], *, lr: float = 0.1, **options) -> nn.Module:
    """Fits w of loss = x * w, whose gradient is x, from w = 0."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)

    def step(number: int, x: float) -> dict[str, float]:
        loss = (x * model.weight).sum()
        loss.backward()
        return {"loss": loss.item()}

    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    factor = options.pop("factor", lambda step: 1.0)
    schedules = build_schedules([optimizer], factor)
    options = {"total_steps": len(batches), "stage": "revit"} | options
    fit(model, batches, step, optimizers=[optimizer], schedules=schedules, log=log, **options)
    return model


def test_every_batch_is_one_step_from_a_gradient_of_zero(log):
    assert fit_line(log, [1.0, 2.0, 4.0]).weight.item() == pytest.approx(-0.7)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_step_that_is_not_finite_is_skipped_named_and_scheduled(log, bad):
    model = fit_line(log, [1.0, bad, 4.0], factor=lambda step: 10.0**-step)
    assert model.weight.item() == pytest.approx(-0.1 * (1.0 + 0.01 * 4.0))
    assert f"step 1: the gradient is {bad}, the step is skipped (1 so far)" in text_of(log)


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler")
def test_a_run_that_diverges_is_stopped_with_what_to_try(log):
    bad = [math.nan] * MAX_NONFINITE_STEPS
    fit_line(log, [*bad, 1.0])
    with pytest.raises(
        InputError, match=r"11 steps with a gradient that is not finite; lower solver\.base_lr"
    ):
        fit_line(log, [*bad, 1.0, math.nan])


def test_the_norm_of_all_gradients_is_clipped_and_logged_as_it_was(tmp_path):
    with RunLog(tmp_path, console=Console(file=io.StringIO())) as log:
        assert fit_line(log, [8.0, 0.25], clip_grad=0.5, log_period=1).weight.item() == pytest.approx(-0.075)
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [row["grad_norm"] for row in rows] == [8.0, 0.25]


def test_the_log_says_the_learning_rate_that_its_step_used(tmp_path):
    with RunLog(tmp_path, console=Console(file=io.StringIO())) as log:
        fit_line(log, [1.0] * 6, factor=lambda step: 2.0**-step, log_period=2, start_step=10, total_steps=16)
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [(row["step"], row["lr"], row["stage"]) for row in rows] == [
        (10, 0.1, "revit"),
        (12, 0.1 / 4, "revit"),
        (14, 0.1 / 16, "revit"),
        (15, 0.1 / 32, "revit"),  # the last one is always there
    ]


def test_what_follows_a_step_is_told_how_many_are_done(log):
    done = []
    fit_line(log, [1.0, math.nan, 1.0], start_step=5, total_steps=8, after_step=done.append)
    assert done == [6, 7, 8]


def test_the_loop_trains_in_training_mode(log):
    model = nn.Dropout(0.5).eval()
    fit(
        nn.Sequential(model, nn.Linear(1, 1)),
        [1],
        lambda number, batch: {"loss": float(model.training)},
        optimizers=[torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1)],
        schedules=[],
        total_steps=1,
        log=log,
        stage="x",
    )
    assert model.training


def test_a_cosine_rises_over_its_warmup_and_falls_to_zero():
    table = [cosine_factor(step, 12, warmup=4) for step in range(13)]
    assert table[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert table[8] == pytest.approx(0.5)
    assert table[12] == pytest.approx(0.0)
    assert table[4:] == sorted(set(table[4:]), reverse=True)


def test_relative_steps_change_at_the_first_step_of_their_epoch():
    table = [relative_factor(step, 3, epochs=[0, 2, 3], factors=[1.0, 0.1, 0.01]) for step in range(11)]
    assert table == [1.0] * 6 + [0.1] * 3 + [0.01] * 2


def test_nothing_that_belongs_to_one_length_alone_decays_but_kernels(tiny):
    model = tiny()
    free = {name for name, p in model.named_parameters() if no_decay(name, p)}
    assert {"class_token", "time_table", "distill_tokens", "pos_tables.2", "norm.scale", "norm.shift"} <= free
    assert {
        "blocks.1.time.norm.scale",
        "blocks.0.norm2.shift",
        "head.bias",
        "patch_embeds.0.proj.bias",
    } <= free
    decayed = {name for name, _ in model.named_parameters()} - free
    assert all(name.endswith(".weight") for name in decayed) and "patch_embeds.2.proj.weight" in decayed
    for kind in ("sgd", "adamw", "muon"):
        groups = [g for o in build_optimizers(model, kind, lr=0.1, weight_decay=0.3) for g in o.param_groups]
        by_id = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
        assert len(by_id) == sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
        assert all(by_id[id(p)] == (0.0 if n in free else 0.3) for n, p in model.named_parameters())


@pytest.mark.parametrize("kind", ["sgd", "adamw", "muon"])
def test_lengths_that_did_not_run_stay_where_they_are(tiny, clips, kind):
    model = tiny(dtype=torch.float32)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    optimizers = build_optimizers(model, kind, lr=0.1, weight_decay=0.5)
    for _ in range(3):
        model.zero_grad()
        revit_step(model, clips().float(), torch.tensor([0, 1]), levels=[2], distillation=Distillation())
        for optimizer in optimizers:
            optimizer.step()
    after = model.state_dict()
    for name, tensor in after.items():
        if name.endswith((".scale", ".shift")):
            assert torch.equal(tensor[:2], before[name][:2]), name
            assert not torch.equal(tensor[2], before[name][2])
        elif name.startswith(("patch_embeds.", "pos_tables.")):
            assert torch.equal(tensor, before[name]) == (name.split(".")[1] != "2"), name
    assert torch.equal(after["distill_tokens"][0], before["distill_tokens"][0])


def test_muon_takes_the_matrices_of_the_blocks_and_adamw_the_rest(tiny):
    model = tiny()
    muon, adamw = build_optimizers(model, "muon", lr=0.1, weight_decay=0.0, muon_lr=0.02)
    names = {id(p): name for name, p in model.named_parameters()}
    taken = {names[id(p)] for group in muon.param_groups for p in group["params"]}
    layers = ("attn.qkv", "attn.proj", "time.attn.qkv", "time.attn.proj", "time.fc", "mlp.fc1", "mlp.fc2")
    assert taken == {f"blocks.{i}.{layer}.weight" for i in range(2) for layer in layers}
    assert {group["lr"] for group in muon.param_groups} == {0.02}
    assert {group["lr"] for group in adamw.param_groups} == {0.1}


def test_an_unknown_optimizer_is_refused():
    with pytest.raises(
        InputError, match=r"solver\.optimizer is 'adam', but must be one of: sgd, adamw, muon"
    ):
        build_optimizers(nn.Linear(2, 2), "adam", lr=0.1, weight_decay=0.0)


def stream(num_videos: int = 7, **options) -> list[list[tuple[int, int]]]:
    return list(StepSampler(num_videos, **{"batch_size": 3, "total_steps": 14, "seed": 1} | options))


def test_every_video_comes_once_per_epoch_in_batches_that_are_always_full():
    batches = stream()
    assert {len(batch) for batch in batches} == {3}
    keys = [key for batch in batches for key in batch]
    assert Counter(keys) == Counter((epoch, video) for epoch in range(6) for video in range(7))
    assert [epoch for epoch, _ in keys] == sorted(epoch for epoch, _ in keys)
    orders = {tuple(video for epoch, video in keys if epoch == e) for e in range(6)}
    assert len(orders) == 6


@pytest.mark.parametrize("start", [0, 1, 5, 13, 14])
def test_a_stream_that_starts_later_is_the_tail_of_the_whole(start):
    assert stream(start_step=start) == stream()[start:]
    assert len(StepSampler(7, batch_size=3, total_steps=14, seed=1, start_step=start)) == 14 - start


def test_a_batch_may_hold_several_epochs_of_a_short_list():
    keys = [key for batch in stream(num_videos=2, batch_size=5, total_steps=2) for key in batch]
    assert Counter(keys) == Counter((epoch, video) for epoch in range(5) for video in range(2))


def test_another_seed_gives_another_order():
    assert stream(seed=1) == stream(seed=1) != stream(seed=2)


def test_starting_a_loader_draws_no_random_number(monkeypatch):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    iter(train_batches([0] * 5, batch_size=2, total_steps=4, seed=0))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("side", [49, 98, 103, 196])  # of these 128 / side * side is 127.99999999999999
def test_a_square_video_is_resized_to_the_whole_short_side(side):
    assert resize_short_side(np.zeros((1, side, side, 3), np.uint8), 128).shape == (1, 128, 128, 3)


def test_resizing_rounds_the_long_side_down_and_leaves_what_fits_alone():
    frames = np.random.default_rng(0).integers(0, 255, (2, 30, 47, 3), dtype=np.uint8)
    assert resize_short_side(frames, 20).shape == (2, 20, 31, 3)
    assert resize_short_side(frames.swapaxes(1, 2), 20).shape == (2, 31, 20, 3)
    assert resize_short_side(frames, 30) is frames


def test_a_training_clip_is_one_window_of_all_its_frames_and_the_flip_swaps_labels():
    rows, columns = np.meshgrid(np.arange(20), np.arange(30), indexing="ij")
    picture = np.stack([rows, columns, 0 * rows], axis=-1).astype(np.uint8)
    frames = np.stack([picture, picture + np.uint8([0, 0, 1])])
    transform = TrainTransform(16, jitter=(20, 24), flip=True, flip_labels={1: 2, 2: 1})
    rng, places, flips = random.Random(0), set(), 0
    for _ in range(300):
        assert 20 <= transform.short_side(rng) <= 24
        clip, label = transform(frames, View((0, 1), 0, 1), 1, rng)
        assert clip.shape == (2, 3, 16, 16) and clip.dtype == torch.uint8
        first, second = clip
        assert torch.equal(first[:2], second[:2]) and second[2].eq(1).all()  # one draw for both frames
        flipped = first[1, 0, 0] > first[1, 0, 1]
        assert label == (2 if flipped else 1)
        flips += bool(flipped)
        places.add((int(first[0].min()), int(first[1].min())))
    assert places == {(top, left) for top in range(5) for left in range(15)}
    assert 110 < flips < 190


def test_clips_are_normalised_per_channel_and_turned_channels_first():
    clips = torch.randint(0, 256, (2, 4, 3, 5, 6), dtype=torch.uint8)
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.25, 0.125)
    out = normalise(clips, mean=mean, std=std)
    assert out.shape == (2, 3, 4, 5, 6)
    for channel in range(3):
        expected = (clips[:, :, channel].float() / 255 - mean[channel]) / std[channel]
        torch.testing.assert_close(out[:, channel], expected, rtol=1e-5, atol=1e-5)
    assert normalise(clips, mean=mean, std=std, dtype=torch.bfloat16).dtype == torch.bfloat16
