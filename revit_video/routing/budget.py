"""A budget in place of an argmax: one number, solved on held-out clips, moves a trained router along its
accuracy-cost curve.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from revit_video.types import InputError

BISECTIONS = 60


def biased_levels(logits: Tensor, costs: Sequence[float], bias: float) -> Tensor:
    """Levels (N,) from assigner logits (N, L): argmax of log-probability minus bias times relative cost.

    With bias 0 this is the paper's argmax; a large bias takes the cheapest length, a very negative one the
    dearest.
    """
    relative = torch.tensor(costs, dtype=logits.dtype, device=logits.device) / costs[0]
    return (logits.log_softmax(dim=-1) - bias * relative).argmax(dim=-1)


def mean_cost(levels: Tensor, costs: Sequence[float]) -> float:
    """Mean of `costs[level]` over levels (N,)."""
    return torch.tensor(costs, dtype=torch.float64)[levels.cpu()].mean().item()


def solve_bias(logits: Tensor, costs: Sequence[float], *, budget: float) -> float:
    """The smallest bias whose mean cost over held-out logits (N, L) is at most `budget` (in the unit of
    `costs`).
    """
    return solve_biases(logits, costs, budgets=[budget])[0]


def solve_biases(logits: Tensor, costs: Sequence[float], *, budgets: Sequence[float]) -> list[float]:
    """`solve_bias` for each of several budgets, all bisected together."""
    if min(budgets) < costs[-1]:
        raise InputError(
            f"a budget of {min(budgets):.4g} GMACs cannot be met: the shortest length alone costs "
            f"{costs[-1]:.4g}; give one between that and {costs[0]:.4g}"
        )
    scores = logits.log_softmax(dim=-1)
    spread = (scores.amax(dim=-1) - scores.amin(dim=-1)).max().item()
    step = min(longer - shorter for longer, shorter in pairwise(costs)) / costs[0]
    reach = 1 + spread / step  # from here on the bias alone decides
    price = torch.tensor(costs, dtype=torch.float64, device=logits.device)
    relative = torch.tensor(costs, dtype=logits.dtype, device=logits.device) / costs[0]
    most = torch.tensor(budgets, dtype=torch.float64, device=logits.device)

    def fits(biases: Tensor) -> Tensor:  # (S,) each
        levels = (scores - biases.to(scores.dtype)[:, None, None] * relative).argmax(dim=-1)
        return price[levels].mean(dim=-1) <= most

    low, high = torch.full_like(most, -reach), torch.full_like(most, reach)
    all_fit = fits(low)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        enough = fits(middle)
        low, high = torch.where(enough, low, middle), torch.where(enough, middle, high)
    return torch.where(all_fit, -reach, high).tolist()


def cascade_levels(confidence: Tensor, threshold: float) -> Tensor:
    """Levels (N,) at which a cascade stops, from max-softmax confidences (N, L): shortest first, on while
    unsure (DVT's rule).
    """
    sure = confidence >= threshold
    sure[:, 0] = True  # nothing longer is left
    last = confidence.shape[1] - 1
    return last - sure.flip(1).to(torch.uint8).argmax(dim=1)


def cascade_costs(costs: Sequence[float]) -> list[float]:
    """What stopping at each level costs in all: its own pass and those of every shorter length before it."""
    return [sum(costs[level:]) for level in range(len(costs))]


def solve_threshold(confidence: Tensor, costs: Sequence[float], *, budget: float) -> float:
    """The largest threshold whose mean cascade cost over held-out confidences (N, L) is at most `budget`."""
    totals = cascade_costs(costs)
    if budget < totals[-1]:
        raise InputError(
            f"a budget of {budget:.4g} GMACs cannot be met: the cascade's first pass alone costs "
            f"{totals[-1]:.4g}; give one between that and {totals[0]:.4g}"
        )
    fits = lambda threshold: mean_cost(cascade_levels(confidence, threshold), totals) <= budget  # noqa: E731
    low, high = 0.0, 1.0001  # the first fits
    if fits(high):
        return high
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
