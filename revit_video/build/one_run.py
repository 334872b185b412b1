"""Which settings make a run the run it is, and which may change while it is interrupted."""

from __future__ import annotations

from typing import Any

import torch

from revit_video.config import Config, config_to_dict

SAME = ("data", "augment", "model", "solver", "revit")  # groups that all stages of a run must agree on
# but for these, which say how fast a run goes and what is written down of it, not what is learnt
FREE = {
    "data.decoder",
    "data.num_workers",
    "data.prefetch",
    "data.cache",
    "data.max_unreadable",
    "solver.log_period",
    "solver.checkpoint_period",
    "solver.keep_checkpoints",
    "solver.eval_period",
    "solver.micro_batch_size",
    "solver.activation_checkpointing",
    "solver.compile",
    "solver.max_skipped_steps",
}
ROUNDED = (  # what may change, but not without changing the last bits of the weights
    "data.decoder",
    "solver.micro_batch_size",
    "solver.activation_checkpointing",
    "solver.compile",
    "distributed.strategy",
    "distributed.lengths",
)


def settings_that_stay(config: Config) -> dict[str, Any]:
    """Dotted keys and values of what one run is: its seed, data, model and training."""
    groups = config_to_dict(config)
    keys = {f"{group}.{key}": value for group in SAME for key, value in groups[group].items()}
    return {"seed": groups["seed"]} | {key: value for key, value in keys.items() if key not in FREE}


def circumstances(config: Config, dtype: torch.dtype) -> dict[str, Any]:
    """What a resumed run must have in common with the one before to give its weights bit for bit."""
    groups = config_to_dict(config)
    keys = {key: groups[key.partition(".")[0]][key.partition(".")[2]] for key in ROUNDED}
    return {"dtype": str(dtype).removeprefix("torch."), "threads": torch.get_num_threads(), **keys}
