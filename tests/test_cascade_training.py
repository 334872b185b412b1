"""Training of the rivals: EViT's falling keep rate, the exits of a cascade, heads, what is refused."""

import io
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from class_images import IMAGE_SETTINGS, make_images
from conftest import randomize
from rich.console import Console

from revit_video.backbones.costs import level_gmacs
from revit_video.build import build_device, revit_job
from revit_video.build.networks import start_from
from revit_video.competitors.cascade import is_head
from revit_video.competitors.evit import EViT, KeepWarmup, keep_rate_at
from revit_video.competitors.zoo import create_model
from revit_video.config import load_config
from revit_video.stages.job import RunFolder
from revit_video.stages.revit import train_revit
from revit_video.train.cascade import cascade_step
from revit_video.train.checkpoint import load_checkpoint, save_checkpoint
from revit_video.train.forward import TrainForward
from revit_video.train.log import RunLog
from revit_video.train.losses import Distillation, class_loss
from revit_video.train.optim import build_optimizers
from revit_video.train.revit import revit_step
from revit_video.types import InputError

SMALL = {"num_classes": 5, "crop": 32, "dim": 16, "depth": 3, "heads": 2}
CASCADES = {"dvt": {"token_lengths": (4, 2)}, "depth": {"token_lengths": (4,)}}
EVIT = ["model.token_lengths=[8]", "model.options.reducer={name: evit, keep: 0.5}"]
FALLING = [*EVIT, "model.reducer_warmup_epochs=1", "model.reducer_shrink_epochs=2"]
CASCADE = ["model.name=dvt", "model.options.backbone=deit_tiny"]


def cascade(name: str):
    model = create_model(name, backbone="deit_tiny", **SMALL, **CASCADES[name])
    return randomize(model, seed=0).double().train()


def pictures(count: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(count, 3, 1, 32, 32, generator=generator).double(), torch.arange(count) % 5


def gradients(model) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


# a cascade


@pytest.mark.parametrize("micro_batch", [0, 2])
@pytest.mark.parametrize("name", CASCADES)
def test_a_step_has_the_gradients_of_the_plain_sum_over_the_exits(name, micro_batch):
    model, (clips, labels) = cascade(name), pictures()
    targets = torch.softmax(torch.randn(5, 5, generator=torch.Generator().manual_seed(1)).double(), -1)
    each = [class_loss(logits, targets, smoothing=0.1) for logits in model(clips, all_exits=True)]
    sum(each).backward()
    wanted = gradients(model)
    model.zero_grad()
    sums = cascade_step(
        model,
        clips,
        labels,
        levels=range(model.num_levels),
        targets=targets,
        smoothing=0.1,
        micro_batch=micro_batch,
    )
    torch.testing.assert_close(gradients(model), wanted, rtol=1e-5, atol=1e-7)  # losses are float32
    assert float(sums["clips"]) == 5
    assert float(sums["loss"]) / 5 == pytest.approx(float(sum(each)), rel=1e-5)
    last = {level: float(sums[f"loss/level{level}"]) / 5 for level in range(model.num_levels)}
    assert [last[level] for level in reversed(last)] == pytest.approx([float(x) for x in each], rel=1e-5)


@pytest.mark.parametrize("name", CASCADES)
def test_the_heads_of_every_exit_are_found_and_nothing_else(name):
    sizes = {**SMALL, **CASCADES[name], "num_classes": 7}  # a number of rows that nothing else has
    model = create_model(name, backbone="deit_tiny", **sizes)
    found = [key for key in model.state_dict() if is_head(key)]
    assert len(found) == 2 * model.num_exits
    assert {key for key, value in model.state_dict().items() if len(value) == 7} == set(found)


def test_classes_in_another_order_move_the_rows_of_every_exit(tmp_path):
    before, now = cascade("dvt"), cascade("dvt")
    names = ("a", "b", "c", "d", "e")
    save_checkpoint(
        {"kind": "revit", "model": before.state_dict(), "class_names": list(names), "config": {}, "step": 0},
        tmp_path / "before.pt",
    )
    randomize(now, seed=7)
    start_from(now, str(tmp_path / "before.pt"), names[::-1])
    for key, value in now.state_dict().items():
        old = before.state_dict()[key]
        assert value.equal(old.flip(0) if is_head(key) else old), key
    start_from(now, str(tmp_path / "before.pt"), ("v", "w", "x", "y", "z"))  # others keep fresh rows
    assert now.state_dict()["exits.0.backbone.head.weight"].equal(
        before.exits[0].backbone.head.weight.flip(0)
    )


def test_muon_takes_the_matrices_of_the_blocks_of_every_exit():
    model = cascade("dvt")
    muon, _ = build_optimizers(model, "muon", lr=0.1, weight_decay=0.0)
    taken = {id(p) for group in muon.param_groups for p in group["params"]}
    named = {name for name, p in model.named_parameters() if id(p) in taken}
    for exit in (0, 1):
        assert f"exits.{exit}.backbone.blocks.2.attn.qkv.weight" in named
    assert not [name for name in named if ".blocks." not in name]


# the keep rate


def test_the_keep_rate_falls_by_the_step_alone_and_then_the_models_own_runs():
    warmup = KeepWarmup(EViT(0.5), depth=4, start=3, shrink=8)
    for step in range(11):
        rate = keep_rate_at(step, 0.5, steps_per_epoch=1, start_epoch=3, shrink_epochs=8)
        assert warmup(step).rates(4) == tuple(1.0 if i == 0 else rate for i in range(4))
    assert warmup(2).rates(4) == (1.0,) * 4 and warmup(7).rates(4)[1] == pytest.approx(0.75)
    assert warmup(11) is None


def test_a_step_runs_with_its_own_reducer_and_its_cost_is_of_it():
    own = {**SMALL, "token_lengths": (4,)}
    plain = randomize(create_model("deit_tiny", **own), seed=0).double().train()
    reduced = create_model("deit_tiny", reducer=EViT(0.5), **own).double().train()
    reduced.load_state_dict(plain.state_dict())
    clips, labels = pictures()
    told = {"levels": [0], "distillation": Distillation()}
    revit_step(plain, clips, labels, **told)
    all_patches = EViT(0.5).at_rate(1.0, 3)
    revit_step(TrainForward(reduced), clips, labels, reducer=all_patches, **told)
    torch.testing.assert_close(gradients(reduced), gradients(plain))
    reduced.zero_grad()
    revit_step(TrainForward(reduced), clips, labels, **told)
    assert not torch.allclose(reduced.head.weight.grad, plain.head.weight.grad)
    assert level_gmacs(reduced, all_patches) == level_gmacs(plain)
    assert level_gmacs(reduced)[0] < level_gmacs(plain)[0]


# runs


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    return make_images(tmp_path_factory.mktemp("images"), train=9, val=4, test=4)


def train(images: Path, out: Path, *overrides: str, kill_at: int | None = None) -> dict:
    """The weights after some steps; with `kill_at` the run dies inside that step (from 0)."""
    own = [f"data.root={images}", f"output_dir={out}", "solver.max_steps=5", "solver.checkpoint_period=2"]
    config = load_config(None, [*IMAGE_SETTINGS, *own, *overrides])
    run, steps = build_device(config), iter(range(100))

    def to_clips(clips, **options):
        if next(steps) == kill_at:
            raise KeyboardInterrupt
        return run.to_clips(clips, **options)

    with RunLog(None, console=Console(file=io.StringIO())) as log:
        train_revit(revit_job(config, replace(run, to_clips=to_clips)), RunFolder(out), log)
    return load_checkpoint(RunFolder(out).revit, kind="revit")["model"]


@pytest.mark.parametrize(
    "overrides",
    [FALLING, [*CASCADE, "augment.mixup=0.8", "solver.ema=0.9", "solver.micro_batch_size=3"]],
    ids=["evit, falling", "dvt, mixup, averaged"],
)
def test_a_killed_run_of_a_rival_ends_bit_for_bit_as_if_it_had_not_been(images, tmp_path, overrides):
    whole = train(images, tmp_path / "whole", *overrides)
    with pytest.raises(KeyboardInterrupt):
        train(images, tmp_path / "cut", *overrides, kill_at=3)
    torch.manual_seed(99)
    resumed = train(images, tmp_path / "cut", *overrides)
    assert all(resumed[name].equal(value) for name, value in whole.items())


@pytest.mark.parametrize("reducer", ["tome, r: 6", "random_drop, keep: 0.5"])
def test_other_reducers_train_as_they_are(images, tmp_path, reducer):
    changed = ["model.token_lengths=[8]", f"model.options.reducer={{name: {reducer}}}", "solver.max_steps=1"]
    weights = train(images, tmp_path, *changed)
    assert all(value.isfinite().all() for value in weights.values())


@pytest.mark.parametrize(
    "overrides, text",
    [
        ([*CASCADE, "revit.grow_share=0.5"], "dvt is a cascade and .*; set revit.grow_share=0$"),
        ([*CASCADE, "distributed.lengths=parallel"], "set distributed.lengths=sequential$"),
        ([*CASCADE, "solver.layer_decay=0.7"], "set solver.layer_decay=1$"),
        ([*CASCADE, "solver.compile=true"], "set solver.compile=false$"),
        (["model.reducer_shrink_epochs=2"], "are of the reducer evit; set both to 0"),
        (["model.reducer_shrink_epochs=-1"], "model.reducer_shrink_epochs is -1"),
    ],
)
def test_what_does_not_go_together_gets_one_line(images, overrides, text):
    with pytest.raises(InputError, match=text):
        config = load_config(None, [*IMAGE_SETTINGS, f"data.root={images}", *overrides])
        revit_job(config, build_device(config))
