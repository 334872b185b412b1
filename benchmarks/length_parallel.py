"""What length-parallel training gains over one process, as a share of what its split of the lengths allows.

    python benchmarks/length_parallel.py            # 3 processes of one thread each, some minutes
    python benchmarks/length_parallel.py --quick

The processes train one TimeSformer together, as `distributed.lengths=parallel` does, with the lengths parted
by GMACs, then by the measured time of each length. Ideal: the time of all lengths over that of the slowest
group. Gained: the time of the step in one process over that of the step of all.

A machine with fewer cores than processes cannot run them at once. So what counts is processor time, which
stands still while a process waits: of every process up to each message that it sends or waits for, replayed
as if each had a core of its own, with the waiting for the teacher's logits and for the slowest process.
Messages themselves are taken to need no time on their way. The step of one process is measured in turns with
it, by all processes at once, so that both share the machine's memory and clock in the same way.
"""

import multiprocessing
import os
import socket
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import torch

from revit_video import command_line
from revit_video.backbones.core import ReViT
from revit_video.backbones.costs import level_gmacs
from revit_video.data.dataset import Batch
from revit_video.report.provenance import provenance
from revit_video.report.tables import console_table
from revit_video.train.losses import Distillation
from revit_video.train.parallel import Exchange, build_exchange
from revit_video.train.revit import Together, revit_step
from revit_video.train.team import Team, roll_call, split_levels
from revit_video.train.world import World, start_world

SIZES = {  # of the model and the step; what is quick proves only that it runs
    True: {"dim": 48, "depth": 2, "heads": 2, "num_frames": 2, "crop": 64, "token_lengths": (8, 5, 3)},
    False: {"dim": 192, "depth": 4, "heads": 3, "num_frames": 4, "crop": 224, "token_lengths": (14, 10, 7)},
}
CLASSES = 10
COLUMNS = {
    "split": ("lengths parted by", ""),
    "groups": ("who runs what", ""),
    "ideal": ("ideal speed-up", ".2f"),
    "gained": ("gained", ".2f"),
    "share": ("of the ideal", ".0%"),
}


class Recorded:
    """A `Teaching` that notes the processor time at which this process sends, and at which it has to wait."""

    def __init__(self, teaching, events: list) -> None:
        self.teaching, self.events = teaching, events
        self.pieces, self.is_pupil, self.close = teaching.pieces, teaching.is_pupil, teaching.close

    def send(self, number: int, logits: torch.Tensor) -> None:
        self.teaching.send(number, logits)
        self.events.append((time.process_time(), "send", [number]))

    def receive(self, number: int, device: torch.device) -> torch.Tensor:
        turns = sorted({self.teaching.turns[clip] for clip in self.teaching.clips[number]})
        self.events.append((time.process_time(), "wait", turns))
        return self.teaching.receive(number, device)


def batch_of(rows: range, size: int, config: dict) -> Batch:
    side, frames = config["crop"], config["num_frames"]
    clips = torch.randn(len(rows), 1, 3, frames, side, side)
    numbers, labels = torch.tensor(list(rows)), torch.arange(len(rows)) % CLASSES
    return Batch(clips, labels, numbers, numbers, labels[:, None])


def run_step(
    world: World, team: Team, exchange: Exchange, optimizer: torch.optim.Optimizer, batch: Batch, micro: int
) -> list:
    """One step; its events, (processor seconds since its beginning, kind, messages), the last is its end."""
    events: list = []
    begin = time.process_time()
    optimizer.zero_grad(set_to_none=True)
    present = roll_call(world, team, batch, at="a step")
    together = Together.of(world, team, present, exchange, views=1, num_classes=CLASSES, micro_batch=micro)
    if together.teaching is not None:
        together = Together(together.levels, 0, Recorded(together.teaching, events), together.complete)
    revit_step(
        exchange,
        batch.clips.flatten(0, 1),
        batch.labels,
        levels=team.shares[world.rank].levels,
        distillation=Distillation(),
        micro_batch=micro,
        weight=present.weight,
        together=together,
    )
    optimizer.step()
    events.append((time.process_time(), "end", []))
    return [(at - begin, kind, turns) for at, kind, turns in events]


def replay(events_of: list[list]) -> float:
    """Seconds of a step whose processes have a core each: events of every rank, as of `run_step`."""
    sent: dict[tuple[int, int], float] = {}
    ends = []
    waiting = [any(kind == "wait" for _, kind, _ in events) for events in events_of]
    for rank in sorted(range(len(events_of)), key=lambda rank: waiting[rank]):  # teachers first
        now = before = 0.0
        for at, kind, turns in events_of[rank]:
            now, before = now + at - before, at
            if kind == "send":
                sent[turns[0], rank] = now
            elif kind == "wait":
                now = max(now, *(sent[tuple(turn)] for turn in turns))
        ends.append(now)
    return max(ends)


def measured_costs(model: ReViT, batch: Batch, repeats: int) -> list[float]:
    """Processor seconds of forward and backward at each level."""
    took: list[list[float]] = [[] for _ in range(model.num_levels)]
    for _ in range(repeats + 1):
        for level, times in enumerate(took):
            begin = time.process_time()
            model(batch.clips.flatten(0, 1), level).square().mean().backward()
            times.append(time.process_time() - begin)
            model.zero_grad()
    return [median(times[1:]) for times in took]


def measure(rank: int, args: dict, settings: dict[str, str], file: str) -> None:
    """What each process does; rank 0 leaves the rows in `file`."""
    torch.set_num_threads(1)
    os.environ.update(settings, RANK=str(rank), LOCAL_RANK=str(rank))
    with start_world(device_type="cpu", timeout_s=600) as world:
        torch.manual_seed(0)
        config, size, micro = args["config"], args["batch"], args["micro"]
        models = [ReViT(num_classes=CLASSES, class_token_only=True, **config) for _ in range(2)]
        whole = batch_of(range(size), size, config)
        seen = measured_costs(models[0], batch_of(range(min(size, 4)), size, config), args["repeats"])
        measured = [cost / world.size for cost in world.sum(seen)]
        levels, rows = range(models[0].num_levels), []
        for name, costs in (("GMACs", level_gmacs(models[0])), ("measured time", measured)):
            groups = split_levels(costs, world.size)
            teams = [Team.of_all(levels, World(), batch_size=size), Team.of_groups(groups, batch_size=size)]
            worlds, batches = [World(), world], [whole, batch_of(teams[1].rows(rank), size, config)]
            exchanges = [build_exchange(model, here) for model, here in zip(models, worlds, strict=True)]
            optimizers = [torch.optim.SGD(model.parameters(), lr=1e-4) for model in models]
            took: list[list[float]] = [[], []]
            for _ in range(args["repeats"] + 1):  # the first round warms up
                for i in range(2):
                    events = run_step(worlds[i], teams[i], exchanges[i], optimizers[i], batches[i], micro)
                    together = world.gather(events)
                    if i == 0:
                        took[0].append(sum(theirs[-1][0] for theirs in together) / world.size)
                    else:
                        took[1].append(replay(together))
            one, many = (median(times[1:]) for times in took)
            ideal = sum(measured) / max(sum(measured[i] for i in g.levels) / g.ranks for g in groups)
            lengths = models[0].token_lengths
            listed = "; ".join(
                f"{', '.join(str(lengths[i]) for i in g.levels)}: {g.ranks} process{'es' * (g.ranks > 1)}"
                for g in groups
            )
            gained = one / many
            rows.append(
                {"split": name, "groups": listed, "ideal": ideal, "gained": gained, "share": gained / ideal}
            )
        if world.is_main:
            relative = [cost / measured[0] for cost in measured]
            torch.save({"rows": rows, "relative": relative}, file)


def main() -> int:
    made = command_line.parser(__doc__)
    made.add_argument("--quick", action="store_true", help="a very small model, for a test")
    made.add_argument("--processes", type=int, default=3, metavar="N")
    made.add_argument("--batch", type=int, default=12, metavar="B", help="clips of a step (12)")
    made.add_argument("--micro", type=int, default=2, metavar="M", help="clips of a pass (2)")
    made.add_argument("--repeats", type=int, default=5, metavar="N", help="rounds that count (5)")

    def command(args) -> None:
        given = {"config": SIZES[args.quick], "batch": args.batch, "micro": args.micro}
        given["repeats"] = 2 if args.quick else args.repeats
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        settings = {"WORLD_SIZE": str(args.processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["torch.distributed.fsdp", "revit_video.train.crew"])
        with tempfile.TemporaryDirectory() as folder:
            file = str(Path(folder) / "rows.pt")
            workers = [
                context.Process(target=measure, args=(rank, given, settings, file))
                for rank in range(args.processes)
            ]
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join()
            seen = torch.load(file)
        cores = len(os.sched_getaffinity(0))
        title = f"{args.processes} processes of one thread, replayed from processor time on {cores} cores"
        console_table(seen["rows"], COLUMNS, title=title)
        print("measured time of the lengths:", ", ".join(f"{cost:.3f}" for cost in seen["relative"]))
        for key, value in provenance(device="cpu", dtype="float32", seed=0).items():
            print(f"{key}: {value}")

    return command_line.run(command, made)


if __name__ == "__main__":
    sys.exit(main())
