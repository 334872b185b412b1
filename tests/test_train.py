"""The loop, the optimizers, the schedules and the order of the videos."""

import io
import json
import math
import random
import re
from collections import Counter

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import nn

from revit_video.backbones.zoo import create_model
from revit_video.data.loader import StepSampler, train_batches
from revit_video.train.log import RunLog
from revit_video.train.loop import fit, loss_backward
from revit_video.train.losses import Distillation
from revit_video.train.optim import (
    build_optimizers,
    build_schedules,
    cosine_factor,
    grow_moments,
    layer_of,
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

    scaler = options.get("scaler")

    def step(number: int, x: float) -> dict[str, float]:
        loss = (x * model.weight).sum()
        loss_backward(scaler)(loss)
        return {"clips": 1.0, "loss": loss.item()}

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
    model = fit_line(
        log,
        [1.0, bad, 4.0],
        factor=lambda step: 10.0**-step,
        name_batch=lambda x: f"of {[1.0, bad].index(x)}",
    )
    assert model.weight.item() == pytest.approx(-0.1 * (1.0 + 0.01 * 4.0))
    seen = re.search(
        r"step 1: the loss is (\S+), the step is skipped \(1 so far\); its videos: of 1\n", text_of(log)
    )
    assert seen and not math.isfinite(float(seen[1]))


def test_a_run_that_diverges_is_stopped_with_what_to_try(log):
    bad = [math.nan] * 10
    fit_line(log, [*bad, 1.0])
    with pytest.raises(
        InputError,
        match=r"11 steps with a loss or gradient .*_steps=10 allows; lower solver\.base_lr",
    ):
        fit_line(log, [*bad, 1.0, math.nan])


def test_a_limit_of_none_stops_at_the_first_one(log):
    with pytest.raises(InputError, match=r"1 steps .* more than solver\.max_skipped_steps=0 allows"):
        fit_line(log, [math.inf], max_skipped=0)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_shows_in_every_gradient_it_reaches(bad):
    w, other = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    backward = loss_backward()
    backward((3 * other).sum())
    backward((w * 2).sum() + bad)  # whose gradient would be 2, as if nothing had happened
    backward((w * 5).sum())  # of another length
    assert w.grad.isnan().all() and other.grad.eq(3).all()


def test_the_backward_of_a_finite_loss_is_bit_for_bit_its_own():
    x = torch.randn(50)
    grads = []
    for backward in (torch.Tensor.backward, loss_backward()):
        w = nn.Parameter(torch.linspace(-1, 1, 50))
        backward((w * x).sin().sum() * 0.3)
        grads.append(w.grad)
    assert torch.equal(*grads)


def fit_norms(log: RunLog, *, loss_of, steps: int = 3, **options) -> nn.Module:
    """Steps of a network with batch normalisation; `loss_of(number, output)`."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))

    def step(number: int, x: torch.Tensor) -> dict:
        loss = loss_of(number, model(x).sum())
        loss_backward()(loss)
        return {"clips": 1.0, "loss": loss.detach()}

    torch.manual_seed(1)
    batches = [torch.randn(4, 3) for _ in range(steps)]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    batches = options.pop("change", lambda them: them)(batches)
    fit(model, batches, step, optimizers=[optimizer], schedules=[], total_steps=steps, log=log, stage="x")
    return model


def test_a_skipped_step_leaves_the_running_statistics_of_batch_normalisation_alone(log):
    def last_is_lost(number, out):
        return out * (math.inf if number == 1 else 1.0)

    def spoil(batches):
        return [batches[0], batches[1] * math.nan]

    kept = fit_norms(log, loss_of=lambda n, out: out, steps=1, change=lambda them: them[:1])
    for model in (
        fit_norms(log, loss_of=last_is_lost, steps=2),
        fit_norms(log, loss_of=lambda n, out: out, steps=2, change=spoil),
    ):
        for name, tensor in kept.state_dict().items():
            assert torch.equal(model.state_dict()[name], tensor), name
    assert kept[1].num_batches_tracked == 1


def test_a_scale_that_is_too_large_is_halved_and_is_no_divergence(tmp_path):
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127, growth_interval=2)
    with RunLog(tmp_path, console=Console(file=io.StringIO())) as log:
        model = fit_line(log, [8.0] * 6, lr=0.01, scaler=scaler, max_skipped=0, log_period=1)
        assert "skipped" not in text_of(log)
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    scales = [math.log2(row["loss_scale"]) for row in rows]
    assert scales == [126, 125, 124, 124, 125, 124]  # 8 * 2^124 is the first below 2^128; it grows after two
    assert [row["skipped_steps"] for row in rows] == [0] * 6
    assert model.weight.item() == pytest.approx(-0.01 * 8 * 2)


def test_a_loss_that_is_not_finite_is_no_fault_of_the_scale(log):
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    with pytest.raises(InputError, match=r"3 steps"):
        fit_line(log, [math.nan] * 3, scaler=scaler, max_skipped=2)
    assert scaler.get_scale() == 4.0
    fit_line(log, [1.0, 2.0], scaler=scaler)  # it can go on


def test_a_gradient_that_no_scale_mends_is_counted(log):
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    model = nn.Linear(1, 1, bias=False)

    def step(number: int, batch: int) -> dict:
        scaler.scale(model.weight.sum()).backward()
        model.weight.grad.fill_(math.inf)
        return {"clips": 1.0, "loss": 0.5}

    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    options = {"optimizers": [optimizer], "schedules": [], "total_steps": 9, "log": log, "stage": "x"}
    with pytest.raises(InputError, match=r"2 steps"):
        fit(model, range(9), step, scaler=scaler, max_skipped=1, **options)
    assert text_of(log).count("the gradient is ") == 2 and "step 2: " in text_of(log)  # 4 -> 2 -> 1


def test_clipping_sees_gradients_as_they_are_without_the_scale(log):
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    assert fit_line(log, [8.0, 0.25], clip_grad=0.5, scaler=scaler).weight.item() == pytest.approx(-0.075)


def test_a_step_without_any_gradient_moves_nothing_also_with_a_scale(log):
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    model = nn.Linear(1, 1)
    before = model.weight.item()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    fit(
        model,
        range(3),
        lambda number, batch: {"clips": 0.0},
        optimizers=[optimizer],
        schedules=[],
        total_steps=3,
        log=log,
        stage="x",
        scaler=scaler,
    )
    assert model.weight.item() == before and scaler.get_scale() == 4.0


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


def test_the_ends_of_a_cosine_are_those_of_the_official_recipes():
    """SlowFast's lr_policy at 5e-4 over 30 epochs of 10 steps, 5 of warm-up from 1e-6, down to 1e-5."""
    peak, low, end, total, warmup = 5e-4, 1e-6, 1e-5, 300, 50

    def official(step: int) -> float:
        epoch = step / 10
        if epoch < 5:
            return epoch * (peak - low) / 5 + low
        return end + (peak - end) * (math.cos(math.pi * (epoch - 5) / (30 - 5)) + 1) * 0.5

    for step in range(total):
        ours = peak * cosine_factor(step, total, warmup=warmup, start=low / peak, end=end / peak)
        assert ours == pytest.approx(official(step), rel=1e-12), step


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


@pytest.mark.parametrize(
    "name", ["timesformer_tiny", "motionformer_divided_base", "lvvit_tiny", "t2t_vit_7", "t2t_vit_t_14"]
)
def test_matrices_and_kernels_alone_decay_in_every_family(name):
    model = create_model(name, num_classes=3, depth=1, dim=48, heads=3)
    for key, parameter in model.named_parameters():
        owner, last = key.rpartition(".")[::2]
        layer = model.get_submodule(owner)
        is_kernel = isinstance(layer, (nn.Linear, nn.modules.conv._ConvNd)) and last == "weight"
        assert no_decay(key, parameter) != is_kernel, key


@pytest.mark.parametrize("kind", ["sgd", "adamw", "muon"])
def test_every_layer_learns_slower_than_the_next_one_by_the_same_factor(tiny, kind):
    model = tiny(depth=3)
    optimizers = build_optimizers(
        model, kind, lr=0.1, weight_decay=0.3, muon_lr=0.2, layer_decay=0.5, momentum=0.0
    )
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    rates = {id(p): (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    expected = {"patch_embeds": 0, "pos_tables": 0, "time_table": 0, "class_token": 0, "distill_tokens": 0}
    expected |= {"blocks.0": 1, "blocks.1": 2, "blocks.2": 3, "norm": 4, "head": 4, "head_distill": 4}
    for name, parameter in model.named_parameters():
        part = name.partition(".")[0]
        part = ".".join(name.split(".")[:2]) if part == "blocks" else part
        assert layer_of(name, depth=3) == expected[part], name
        matrix = kind == "muon" and part.startswith("blocks") and name.endswith("weight")
        rate, decay = rates[id(parameter)]
        assert rate == pytest.approx((0.2 if matrix else 0.1) * 0.5 ** (4 - expected[part])), name
        assert decay == (0.0 if no_decay(name, parameter) else 0.3)


def test_the_log_says_the_rate_of_the_heads_under_layer_decay(tiny):
    groups = build_optimizers(tiny(), "adamw", lr=0.1, weight_decay=0.3, layer_decay=0.5)[0].param_groups
    assert max(group["lr"] for group in groups) == 0.1


def test_rows_that_grow_take_the_moments_of_their_source(tiny, clips):
    model = tiny(dtype=torch.float32)
    optimizers = build_optimizers(model, "adamw", lr=0.01, weight_decay=0.0)

    def step(levels: list[int]) -> None:
        model.zero_grad(set_to_none=True)
        revit_step(model, clips().float(), torch.tensor([0, 1]), levels=levels, distillation=Distillation())
        optimizers[0].step()

    for _ in range(5):
        step([2])
    state = optimizers[0].state
    before = {p: {k: v.clone() for k, v in moments.items()} for p, moments in state.items()}
    model.grow(2)
    grow_moments(optimizers, model, 2)
    scale = model.blocks[0].norm1.scale
    assert before[scale]["exp_avg"][:2].eq(0).all() and before[scale]["exp_avg"][2].ne(0).any()
    for name in ("exp_avg", "exp_avg_sq"):
        for level in range(3):
            assert torch.equal(state[scale][name][level], before[scale][name][2])
        assert torch.equal(state[model.distill_tokens][name][0], before[model.distill_tokens][name][1])
        assert torch.equal(state[model.head.weight][name], before[model.head.weight][name])
    assert model.pos_tables[0] not in state and model.patch_embeds[0].proj.weight not in state
    step([0, 1, 2])
    assert float(state[model.pos_tables[0]]["step"]) == 1  # of its own


def test_an_average_of_grown_weights_is_the_average_grown(tiny):
    first, second, mean = tiny(seed=1), tiny(seed=2), tiny(seed=3)
    for ours, a, b in zip(mean.parameters(), first.parameters(), second.parameters(), strict=True):
        ours.data = 0.25 * a.data + 0.75 * b.data
    for model in (first, second, mean):
        model.grow(2)
    for ours, a, b in zip(mean.parameters(), first.parameters(), second.parameters(), strict=True):
        torch.testing.assert_close(ours, 0.25 * a + 0.75 * b, rtol=1e-5, atol=1e-5)  # resampling is float32


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
