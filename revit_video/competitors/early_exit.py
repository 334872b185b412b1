"""Leaving a cascade at the first sure answer: how sure an exit is, thresholds for a budget, and inference on
the pictures that are left (DVT, arXiv:2105.15075, sections 3.1 and 4).

Everything here knows a cascade by `num_exits`, `num_classes` and `step(exit, clips, passed)` alone, so it
serves competitors/dvt.py and competitors/adaptive_depth.py alike. Exits count from 0, the cheapest.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from revit_video.types import InputError

CRITERIA = ("confidence", "entropy", "random")
NEVER, ALWAYS = 1e8, -1e8  # thresholds that nobody and everybody reaches
STEPS = range(1, 60)  # p = step / 20 of the quantile rule
AT_ONCE = 1 << 26  # numbers that are compared in one piece


class Passed(Protocol):
    """What an exit hands to the next one."""

    def rows(self, index: Tensor) -> Passed: ...


def surety(
    logits: Tensor, criterion: str = "confidence", *, generator: torch.Generator | None = None
) -> Tensor:
    """How sure each row of logits (B, K) is, (B,), larger is surer.

    confidence: the largest probability. entropy: 1 - entropy / log K, so in 0..1 too. random: a lot, of
    `generator` or torch's own; what an exit says then plays no part.
    """
    if criterion not in CRITERIA:
        raise InputError(f"criterion is {criterion!r}, but must be one of: {', '.join(CRITERIA)}")
    if criterion == "random":
        return torch.rand(len(logits), generator=generator).to(logits.device)
    probabilities = logits.float().softmax(dim=-1)
    if criterion == "confidence":
        return probabilities.amax(dim=-1)
    return 1 - torch.special.entr(probabilities).sum(dim=-1) / math.log(logits.shape[1])


# Thresholds. `sure` is (E, N): how sure each of E exits is of N samples of the training data.


def quantile_thresholds(sure: Tensor, shares: Sequence[float] | Tensor) -> Tensor:
    """Thresholds (E,) with which about `shares` (E,) of the samples leave at each exit.

    Exit by exit, among the samples that are left: the surety of the one in place floor(N * share), counted
    from the surest. NEVER where that is no place; the last exit takes all.
    """
    left = torch.ones_like(sure[0], dtype=torch.bool)
    thresholds = torch.full((len(sure),), NEVER, dtype=sure.dtype)
    for exit, share in enumerate(shares[:-1]):
        number = math.floor(sure.shape[1] * share)
        if 0 < number <= int(left.sum()):
            thresholds[exit] = sure[exit][left].sort(descending=True).values[number - 1]
        left &= sure[exit] < thresholds[exit]
    thresholds[-1] = ALWAYS
    return thresholds


def quantile_shares(p: float, exits: int) -> Tensor:
    """Shares of the exits in proportion to p, p^2, ..., in float32: (E,)."""
    powers = torch.exp(torch.log(torch.tensor([p], dtype=torch.float32)) * torch.arange(1.0, exits + 1))
    return powers / powers.sum()


def exits_taken(sure: Tensor, thresholds: Tensor | Sequence[float]) -> Tensor:
    """The first exit that is sure enough, of each sample: (N,)."""
    reached = sure >= torch.as_tensor(thresholds, dtype=sure.dtype)[:, None]
    return reached.to(torch.uint8).argmax(dim=0)


def worth(
    sure: Tensor, right: Tensor, thresholds: Tensor | Sequence[float], costs: Sequence[float]
) -> tuple[float, float]:
    """Accuracy in percent and mean cost, with right (E, N) bool and cumulative costs (E,) of the exits."""
    taken = exits_taken(sure, thresholds)
    accuracy = 100.0 * right.gather(0, taken[None]).double().mean().item()
    return accuracy, torch.tensor(costs, dtype=torch.float64)[taken].mean().item()


def solve_thresholds(
    sure: Tensor,
    right: Tensor,
    costs: Sequence[float],
    budget: float,
    *,
    method: str = "evolution",
    seed: int = 0,
) -> Tensor:
    """Thresholds (E,) of the best accuracy whose mean cost is within the budget, both on these samples.

    method: `quantile` tries the shares of `quantile_shares` for p = 0.05 to 2.95; `evolution` starts there
        and goes on by differential evolution over all thresholds (the paper's genetic algorithm), which is
        never worse.

    Raises:
        InputError: the budget is below what the first exit costs, or no such method.
    """
    costs = tuple(float(cost) for cost in costs)
    if method not in ("quantile", "evolution"):
        raise InputError(f"method is {method!r}, but must be one of: quantile, evolution")
    if len(costs) != len(sure) or any(a >= b for a, b in pairwise(costs)):
        raise InputError(f"costs are {list(costs)} for {len(sure)} exits; expected one for each, rising")
    if budget < costs[0]:
        raise InputError(f"the budget is {budget:g}, but the first exit alone costs {costs[0]:g}; give more")
    everyone_first = torch.full((len(sure),), ALWAYS, dtype=sure.dtype)
    tried = [quantile_thresholds(sure, quantile_shares(step / 20, len(sure))) for step in STEPS]
    # The grid has no end: all at the first exit, and all at the last.
    everyone_last = torch.tensor([NEVER] * (len(sure) - 1) + [ALWAYS], dtype=sure.dtype)
    best, found = -1.0, everyone_first
    for thresholds in (everyone_first, everyone_last, *tried):
        accuracy, cost = worth(sure, right, thresholds, costs)
        if cost <= budget and accuracy > best:
            best, found = accuracy, thresholds
    return found if method == "quantile" else _evolve(sure, right, costs, budget, start=found, seed=seed)


def _evolve(
    sure: Tensor, right: Tensor, costs: tuple[float, ...], budget: float, *, start: Tensor, seed: int
) -> Tensor:
    """Differential evolution over the place of every threshold among the sureties of its exit."""
    refuse_missing_scipy()
    from scipy.optimize import differential_evolution

    samples, prices = sure.shape[1], torch.tensor(costs, dtype=torch.float64)
    never = sure.new_full((len(sure) - 1, 1), NEVER)
    rising = torch.cat([sure[:-1].sort(dim=1).values, never], dim=1)  # (E - 1, N + 1)

    def thresholds_at(places) -> Tensor:
        """(P, E), of places (E - 1, P) in 0..1: 0 lets everybody leave, 1 nobody."""
        values = rising.gather(1, (torch.as_tensor(places) * samples).round().long())
        return torch.cat([values.T, sure.new_full((values.shape[1], 1), ALWAYS)], dim=1)

    def losses(places):
        """(P,), of all candidates at once."""
        found = []
        for part in thresholds_at(places).split(max(1, AT_ONCE // sure.numel())):
            taken = (sure >= part[:, :, None]).to(torch.uint8).argmax(dim=1)  # (P, N)
            accuracy = 100.0 * right.T.gather(1, taken.T).double().mean(dim=0)
            cost = prices[taken].mean(dim=1)
            over = 100.0 + (cost - budget) / costs[-1]  # any cost within beats any beyond
            found.append(torch.where(cost <= budget, -accuracy, over))
        return torch.cat(found).numpy()

    first = [
        (row < threshold).sum().item() / samples for row, threshold in zip(sure[:-1], start[:-1], strict=True)
    ]
    result = differential_evolution(
        losses,
        [(0.0, 1.0)] * len(rising),
        x0=first,
        seed=seed,
        popsize=20,
        maxiter=60,
        polish=False,
        tol=1e-6,
        updating="deferred",
        vectorized=True,
    )
    solved = thresholds_at(result.x[:, None])[0]
    return solved if -result.fun >= worth(sure, right, start, costs)[0] else start


def refuse_missing_scipy() -> None:
    if importlib.util.find_spec("scipy") is None:
        raise InputError(
            "solving thresholds by evolution needs scipy, which is not installed; try "
            "pip install 'revit_video[rivals]', or method='quantile'"
        )


@dataclass(frozen=True)
class Thresholds:
    """When to leave, of each exit but the last: a surety of at least `values[exit]`.

    checkpoint: `weights_digest` of the model they were solved for; they mean nothing for another one.
    budget: mean cost they were solved for, in GMACs.
    """

    values: tuple[float, ...]
    checkpoint: str
    criterion: str = "confidence"
    budget: float = 0.0

    def save(self, path: str | Path) -> None:
        Path(path).write_text(json.dumps(asdict(self), indent=2) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> Thresholds:
        try:
            content = json.loads(Path(path).read_text())
            return cls(**{**content, "values": tuple(content["values"])})
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise InputError(
                f"{path} holds no thresholds ({error}); expected what Thresholds.save wrote"
            ) from None


def weights_digest(model: nn.Module) -> str:
    """SHA-256 of all names, sizes and numbers of a model's weights, as they are in float32."""
    return tensors_digest(model.state_dict())


def tensors_digest(state: Mapping[str, Tensor]) -> str:
    """`weights_digest` of a state dict."""
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().to("cpu", torch.float32).contiguous().numpy().tobytes())
    return digest.hexdigest()


class EarlyExit(nn.Module):
    """A cascade whose pictures leave where they are sure; later exits see the rest of the batch alone.

    Raises:
        InputError: the thresholds are of other weights or another number of exits.
    """

    def __init__(self, model: nn.Module, thresholds: Thresholds) -> None:
        super().__init__()
        if thresholds.checkpoint != (digest := weights_digest(model)):
            raise InputError(
                f"the thresholds were solved for weights {thresholds.checkpoint[:12]}, but the model has "
                f"{digest[:12]}; solve them again for this checkpoint"
            )
        if len(thresholds.values) != model.num_exits:
            raise InputError(
                f"there are {len(thresholds.values)} thresholds for {model.num_exits} exits; expected "
                "one for each"
            )
        self.model, self.thresholds = model, thresholds

    def forward(self, clips: Tensor, *, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Logits (B, K) of clips (B, C, T, H, W), and the exit (B,) that each came from.

        generator: for the criterion `random`.
        """
        rows = torch.arange(len(clips), device=clips.device)
        taken, logits, passed = torch.zeros_like(rows), None, None
        for exit in range(self.model.num_exits):
            said, passed = self.model.step(exit, clips, passed)
            logits = said.new_empty(len(rows), said.shape[1]) if logits is None else logits
            logits[rows], taken[rows] = said, exit
            if exit + 1 == self.model.num_exits:
                break
            unsure = (
                surety(said, self.thresholds.criterion, generator=generator) < self.thresholds.values[exit]
            )
            stay = unsure.nonzero().squeeze(1)
            if not len(stay):
                break
            if len(stay) < len(rows):  # else nothing needs to be copied
                rows, clips, passed = rows[stay], clips[stay], passed.rows(stay)
        return logits, taken


@torch.inference_mode()
def measure_exits(
    model: nn.Module, batches: Sequence[tuple[Tensor, Tensor]], criterion: str = "confidence"
) -> tuple[Tensor, Tensor]:
    """How sure every exit is of every sample of (clips, labels), and whether it is right: (E, N) each."""
    sure, right = [], []
    for clips, labels in batches:
        every = model(clips, all_exits=True)
        sure.append(torch.stack([surety(logits, criterion).cpu() for logits in every]))
        right.append(torch.stack([(logits.argmax(dim=-1) == labels).cpu() for logits in every]))
    return torch.cat(sure, dim=1), torch.cat(right, dim=1)
