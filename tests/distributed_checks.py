"""What test_distributed.py runs inside several processes. Every check compares with one process alone."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from pathlib import Path

import torch
from conftest import TINY, randomize
from rich.console import Console
from torch import Tensor, nn

from revit_video.backbones.core import ReViT
from revit_video.competitors.dvt import DVT
from revit_video.data.dataset import Batch, Item
from revit_video.stages.job import Device, EvalJob
from revit_video.train.cascade import cascade_step
from revit_video.train.forward import TrainForward
from revit_video.train.lengths import pieces_of
from revit_video.train.log import RunLog
from revit_video.train.losses import Distillation
from revit_video.train.parallel import Exchange, build_exchange, cut, shard, whole
from revit_video.train.progress import cut_moments
from revit_video.train.revit import Together, revit_step
from revit_video.train.team import Present, Team, roll_call, split_levels
from revit_video.train.world import World
from revit_video.transform.mix import Mix

CLIPS = 7  # of a step
LEVELS = (0, 1, 2)
BROKEN = 3  # the row that no process can read


def model_of(seed: int = 0, dtype: torch.dtype = torch.float32, **changes) -> ReViT:
    return randomize(ReViT(**{**TINY, **changes}), seed=seed).to(dtype).train()


def batch_of(
    rows, step: int = 0, *, views: int = 1, broken: tuple[int, ...] = (), dtype=torch.float32
) -> Batch:
    """Rows of the step's batch of seeded noise."""
    generator = torch.Generator().manual_seed(100 + step)
    clips = torch.randn(CLIPS, views, 3, 3, 32, 32, generator=generator, dtype=torch.float64).to(dtype)
    labels = torch.randint(5, (CLIPS, views), generator=generator)
    kept = [row for row in rows if row not in broken]
    items = tuple(Item(row, 0, None, f"row{row}.mp4: broken") for row in rows if row in broken)
    some = torch.tensor(kept, dtype=torch.long)
    return Batch(clips[some], labels[some, 0], some, some, labels[some], items)


def run_step(
    world: World,
    team: Team,
    exchange,
    *,
    step: int = 0,
    micro_batch: int = 0,
    mix: Mix | None = None,
    views: int = 1,
    broken: dict[int, tuple[int, ...]] | tuple[int, ...] = (),
    dtype: torch.dtype = torch.float32,
    distillation: Distillation | None = None,
    smoothing: float = 0.1,
) -> tuple[dict[str, Tensor], Present]:
    """One step as stage 1 does it; `broken` may differ by rank."""
    lost = broken.get(world.rank, ()) if isinstance(broken, dict) else broken
    batch = batch_of(team.rows(world.rank), step, views=views, broken=lost, dtype=dtype)
    present = roll_call(world, team, batch, at=f"step {step}")
    if not present.rows:
        return {"clips": torch.tensor(0.0)}, present
    batch, levels = present.batch, team.shares[world.rank].levels
    clips, labels, targets = batch.clips.flatten(0, 1), batch.clip_labels.flatten(), None
    if mix is not None:
        clips, targets = mix(clips, labels, step=step, rows=batch.rows)
    together = Together.of(
        world, team, present, exchange, views=views, num_classes=5, micro_batch=micro_batch
    )
    sums = revit_step(
        exchange,
        clips,
        labels,
        levels=levels,
        distillation=distillation or Distillation(weight=0.4, temperature=2.0),
        targets=targets,
        smoothing=smoothing,
        micro_batch=micro_batch,
        weight=present.weight,
        together=together,
    )
    return sums, present


def compare(
    ours: nn.Module, alone: nn.Module, *, tolerance: float = 1e-5, without_effect: str = "none"
) -> None:
    """Gradients, each relative to its own largest number; none where there is none. Parameters whose names
    end with `without_effect` have gradients that are nothing but rounding.
    """
    largest = max(float(p.grad.abs().max()) for p in alone.parameters() if p.grad is not None)
    for (name, a), b in zip(ours.named_parameters(), alone.parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None), f"{name}: {a.grad is None}, alone {b.grad is None}"
        if name.endswith(without_effect):
            assert max(float(p.grad.abs().max()) for p in (a, b)) < 1e-6 * largest, name
        elif b.grad is not None:
            off = float((a.grad - b.grad).abs().max() / b.grad.abs().max().clamp_min(1e-30))
            assert off < tolerance, f"{name} is off by {off:.2g}"


def teams(world: World, *, even: bool = False) -> dict[str, Team]:
    kind = {"batch_size": CLIPS, "even": even}
    return {
        "sequential": Team.of_all(LEVELS, world, **kind),
        "parallel": Team.of_groups(split_levels((4, 2, 1), world.size), **kind),
        "growing": Team.of_all((2,), world, **kind),
    }


CASES = {
    "whole": {},
    "micro": {"micro_batch": 2},
    "broken": {"micro_batch": 2, "broken": (BROKEN,)},
    "views": {"micro_batch": 3, "views": 2, "broken": (0,)},
    "no token": {"model": {"distill_token": False}, "micro_batch": 2},
    "hard": {"distillation": Distillation(hard=True), "smoothing": 0.0},
}


def check_gradients(world: World, folder: Path) -> None:
    for case, options in CASES.items():
        options = dict(options)
        changes = options.pop("model", {})
        for kind, team in teams(world).items():
            alone, ours = model_of(**changes), model_of(**changes)
            one = Team.of_all(team.levels, World(), batch_size=CLIPS)
            wanted, _ = run_step(World(), one, build_exchange(alone, World()), **options)
            seen, _ = run_step(world, team, build_exchange(ours, world), **options)
            try:
                compare(ours, alone)
                totals: dict[str, float] = {}
                for part in world.gather({name: float(value) for name, value in seen.items()}):
                    for name, value in part.items():
                        totals[name] = totals.get(name, 0.0) + value
                assert totals.keys() == wanted.keys()
                for name, value in wanted.items():
                    assert abs(totals[name] - float(value)) <= 1e-4 * max(1, abs(float(value))), name
            except AssertionError as error:
                raise AssertionError(f"{case}, {kind}: {error}") from None


def check_cascades(world: World, folder: Path) -> None:
    """All exits at once, whole, in pieces, and where the last process has no picture."""
    team = Team.of_all((0, 1), world, batch_size=CLIPS)
    one = Team.of_all((0, 1), World(), batch_size=CLIPS)
    for micro_batch, broken in ((0, ()), (2, ()), (2, tuple(team.rows(world.size - 1)))):
        alone, ours = cascade_of(), cascade_of()
        cascade_run(World(), one, build_exchange(alone, World()), micro_batch=micro_batch, broken=broken)
        cascade_run(world, team, build_exchange(ours, world), micro_batch=micro_batch, broken=broken)
        # That bias adds the same to all scores of a head, which its softmax does not see.
        compare(ours, alone, without_effect="relations.fc2.bias")


def cascade_of() -> DVT:
    sizes = {"num_classes": 5, "token_lengths": (4, 2), "crop": 32, "dim": 16, "depth": 2, "heads": 2}
    return randomize(DVT("deit_tiny", **sizes), seed=0).float().train()


def cascade_run(
    world: World, team: Team, exchange: Exchange, *, micro_batch: int, broken: tuple[int, ...]
) -> None:
    present = roll_call(world, team, batch_of(team.rows(world.rank), broken=broken), at="step 0")
    batch = present.batch
    cascade_step(
        exchange,
        batch.clips.flatten(0, 1)[:, :, :1],
        batch.clip_labels.flatten(),
        levels=(0, 1),
        micro_batch=micro_batch,
        weight=present.weight,
        together=Together.of(world, team, present, exchange, views=1, num_classes=5, micro_batch=micro_batch),
    )


def check_compiled_lengths_leave_the_same_gradients(world: World, folder: Path) -> None:
    """In the second step a process misses a clip: its last pass is of a size that is not compiled."""
    team, one = teams(world)["sequential"], Team.of_all(LEVELS, World(), batch_size=CLIPS)
    alone, ours = model_of(), model_of()
    forward = TrainForward(ours)
    sizes = {len(piece) for piece in pieces_of(team.rows(world.rank), 2)}
    forward.compile_for(sizes - {1}, backend="eager")
    exchange = build_exchange(ours, world, forward=forward)
    for step in range(2):
        for model in (alone, ours):
            model.zero_grad()
        kind = {"step": step, "micro_batch": 2, "broken": tuple(team.rows(1)[:1]) if step else ()}
        run_step(World(), one, build_exchange(alone, World()), **kind)
        run_step(world, team, exchange, **kind)
        compare(ours, alone)
    counted = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert counted >= len(LEVELS), f"only {counted} graphs were compiled"


def check_gradients_where_a_process_has_no_clip(world: World, folder: Path) -> None:
    """All that one process should read is broken; it takes part all the same."""
    for kind, team in teams(world).items():
        lost = tuple(team.rows(0))
        if len(lost) == CLIPS:
            continue  # rank 0 has the whole batch: nothing would be left
        alone, ours = model_of(), model_of()
        run_step(
            World(),
            Team.of_all(team.levels, World(), batch_size=CLIPS),
            build_exchange(alone, World()),
            broken=lost,
        )
        exchange = build_exchange(ours, world)
        run_step(world, team, exchange, broken=lost)
        try:
            compare(ours, alone)
            for model in (alone, ours):
                model.zero_grad()
            one = Team.of_all(team.levels, World(), batch_size=CLIPS)
            run_step(World(), one, build_exchange(alone, World()), step=1)
            run_step(world, team, exchange, step=1)
            compare(ours, alone)
        except AssertionError as error:
            raise AssertionError(f"{kind}: {error}") from None


def check_a_step_without_any_clip_moves_nothing(world: World, folder: Path) -> None:
    team, ours = teams(world)["sequential"], model_of()
    exchange = build_exchange(ours, world)
    _, present = run_step(world, team, exchange, broken=tuple(range(CLIPS)))
    assert present.rows == () and len(present.unreadable) == CLIPS
    assert all(parameter.grad is None for parameter in ours.parameters())


def check_a_video_that_one_group_cannot_read_is_left_out_by_all(world: World, folder: Path) -> None:
    team = teams(world)["parallel"]
    last, row = world.size - 1, 4
    assert row in team.rows(last)
    alone, ours = model_of(), model_of()
    one = Team.of_all(LEVELS, World(), batch_size=CLIPS)
    run_step(World(), one, build_exchange(alone, World()), broken=(row,), micro_batch=2)
    _, present = run_step(world, team, build_exchange(ours, world), broken={last: (row,)}, micro_batch=2)
    assert row not in present.rows and present.unreadable == {row: f"row{row}.mp4: broken"}
    compare(ours, alone)


def check_mixing(world: World, folder: Path) -> None:
    for mix in (Mix(0.8, 0.0, 5, seed=3), Mix(0.0, 1.0, 5, seed=3)):
        for kind, team in teams(world, even=True).items():
            alone, ours = model_of(), model_of()
            one = Team.of_all(team.levels, World(), batch_size=CLIPS, even=True)
            options = {"mix": mix, "micro_batch": 2, "broken": (BROKEN,)}
            run_step(World(), one, build_exchange(alone, World()), **options)
            run_step(world, team, build_exchange(ours, world), **options)
            try:
                compare(ours, alone)
            except AssertionError as error:
                raise AssertionError(f"{kind}: {error}") from None


def check_weights_after_growing_and_several_steps(world: World, folder: Path) -> None:
    """With weight decay and momentum: a parameter that nobody used must not move."""
    for kind in ("sequential", "parallel"):
        ours, _ = trained(world, kind, SGD)
        alone, _ = trained(World(), kind, SGD)
        for (key, a), b in zip(ours.named_parameters(), alone.parameters(), strict=True):
            off = float((a - b).detach().abs().max())  # the losses are float32
            assert off < 1e-5, f"{kind}: {key} is off by {off:.2g}"


def check_steps_are_counted_where_there_is_a_gradient(world: World, folder: Path) -> None:
    """AdamW corrects its moments by the number of a parameter's steps."""
    for kind in ("sequential", "parallel"):
        (_, ours), (_, alone) = (trained(here, kind, ADAMW) for here in (world, World()))
        steps = [
            {number: int(moments["step"]) for number, moments in optimizer.state_dict()["state"].items()}
            for optimizer in (ours, alone)
        ]
        assert steps[0] == steps[1] and len(set(steps[1].values())) == 2, steps


SGD = partial(torch.optim.SGD, lr=0.05, momentum=0.9, weight_decay=0.1)
ADAMW = partial(torch.optim.AdamW, lr=0.01, weight_decay=0.1)


def trained(world: World, kind: str, optimizer_of) -> tuple[ReViT, torch.optim.Optimizer]:
    """Three steps of the shortest length, three of all, some clips broken; float64 weights."""
    model = model_of(dtype=torch.float64)
    optimizer, exchange = optimizer_of(model.parameters()), build_exchange(model, world)
    for step in range(6):
        if step == 3:
            model.grow(2)
        team = teams(world)["growing" if step < 3 else kind if world.size > 1 else "sequential"]
        lost = tuple(range(4)) if step == 1 else ()
        optimizer.zero_grad(set_to_none=True)
        run_step(world, team, exchange, step=step, broken=lost, micro_batch=2, dtype=torch.float64)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return model, optimizer


def check_all_processes_end_with_the_same_weights(world: World, folder: Path) -> None:
    model = model_of()
    exchange, team = build_exchange(model, world), teams(world)["parallel"]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for step in range(3):
        optimizer.zero_grad(set_to_none=True)
        run_step(world, team, exchange, step=step)
        optimizer.step()
    ours = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for theirs in world.gather(ours):
        assert all(torch.equal(theirs[name], tensor) for name, tensor in ours.items())


def check_sharded_gradients_and_states(world: World, folder: Path) -> None:
    """FSDP2: the gradients of one process, and a state that either form can read."""
    for case in ("whole", "micro", "broken", "no token"):
        options = dict(CASES[case])
        changes = options.pop("model", {})
        alone, ours = model_of(**changes), shard(model_of(**changes))
        team, one = teams(world)["sequential"], Team.of_all(LEVELS, World(), batch_size=CLIPS)
        optimizers = [SGD(model.parameters()) for model in (alone, ours)]
        for step in range(2):
            lost = tuple(team.rows(1)) if step else options.get("broken", ())
            kind = options | {"step": step, "broken": lost}
            for optimizer in optimizers:
                optimizer.zero_grad(set_to_none=True)
            run_step(World(), one, build_exchange(alone, World()), **kind)
            run_step(world, team, build_exchange(ours, world), **kind)
            for (name, a), b in zip(ours.named_parameters(), alone.parameters(), strict=True):
                assert (a.grad is None) == (b.grad is None), name
                if b.grad is not None:
                    off = float((whole(a.grad) - b.grad).abs().max() / b.grad.abs().max().clamp_min(1e-30))
                    assert off < 1e-5, f"{case}, step {step}: {name} is off by {off:.2g}"
            for optimizer in optimizers:
                optimizer.step()
        saved, weights = whole(optimizers[1].state_dict()), whole(ours.state_dict())
        for name, tensor in alone.state_dict().items():
            torch.testing.assert_close(weights[name], tensor, rtol=1e-3, atol=1e-5)
        again = shard(model_of(seed=5, **changes))
        optimizer = SGD(again.parameters())
        again.load_state_dict(cut(weights, again))
        optimizer.load_state_dict(cut_moments(saved, optimizer))
        for ours_now, then in ((whole(again.state_dict()), weights), (whole(optimizer.state_dict()), saved)):
            equal_states(ours_now, then)


def equal_states(ours, theirs) -> None:
    if isinstance(ours, dict):
        assert ours.keys() == theirs.keys()
        for key in ours:
            equal_states(ours[key], theirs[key])
    elif isinstance(ours, torch.Tensor):
        assert torch.equal(ours, theirs)
    else:
        assert ours == theirs


def check_evaluation(world: World, folder: Path) -> None:
    """Odd numbers of videos, fewer than processes, unreadable ones: every process gets what one would."""
    run = Device(torch.device("cpu"), torch.float32, nullcontext, lambda clips, dtype: clips.to(dtype))
    log, model = RunLog(None, console=Console(quiet=True)), model_of().eval()

    def predict(clips: Tensor) -> dict[str, Tensor]:
        return {"logits": model(clips.movedim(2, 1), 1)}

    for per_batch in (1, 3):
        kind = {"videos_per_batch": per_batch, "views_per_forward": 4}
        for count, broken in ((7, {2}), (5, set()), (1, set()), (4, {1, 3})):
            dataset = ListOfTensors(count, broken)
            alone = EvalJob(dataset, run, **kind).score(predict, log, title="test")
            shared = EvalJob(dataset, run, **kind, part=world.rank, parts=world.size, gather=world.gather)
            ours = shared.score(predict, log, title="test")
            assert torch.equal(ours.indices, alone.indices) and torch.equal(ours.labels, alone.labels)
            off = (ours.values["logits"] - alone.values["logits"]).abs().max()
            assert off <= (0 if per_batch == 1 else 1e-3), (
                off
            )  # a product may depend on the size of its batch
            assert ours.unreadable == alone.unreadable and len(ours.unreadable) == len(broken)


class ListOfTensors(torch.utils.data.Dataset):
    """As VideoDataset, without files."""

    def __init__(self, count: int, broken: set[int]) -> None:
        self.samples, self.broken = list(range(count)), broken

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: tuple[int, int]) -> Item:
        index = key[1]
        if index in self.broken:
            return Item(index, 0, None, f"{index}: broken")
        generator = torch.Generator().manual_seed(index)
        clips = torch.randint(0, 255, (2, 3, 3, 32, 32), generator=generator, dtype=torch.uint8)
        return Item(index, index % 5, clips, clip_labels=(index % 5,) * 2)


def check_only_rank_0_works_and_all_learn_of_it(world: World, folder: Path) -> None:
    file = folder / f"made{world.size}"

    def make() -> int:
        file.write_text("whole")
        return 42

    assert world.from_main(make) == 42 and file.read_text() == "whole"
    assert world.sum([1.0, float(world.rank)]) == [world.size, sum(range(world.size))]
    assert world.gather(world.rank) == list(range(world.size))
