"""Names of DVT (arXiv:2105.15075): a prefix for every exit, below it those of DeiT or T2T-ViT, and what an
exit reuses of the one before.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from revit_video.competitors.dvt import DVT
from revit_video.convert.families import unwrapped
from revit_video.convert.fit import fit
from revit_video.convert.rename import rename
from revit_video.convert.rules import first_keys, listed
from revit_video.types import InputError

EXITS = ("less_less_token", "less_token", "normal_token")  # as the exits run
REUSE = {  # theirs, below the exit -> ours; `resuse` is their spelling
    r"blocks\.(\d+)\.feature_resuse_mlp\.0\.(weight|bias)": r"features.\1.norm.\2",
    r"blocks\.(\d+)\.feature_resuse_mlp\.1\.(fc[12])\.(weight|bias)": r"features.\1.\2.\3",
    r"relation_reuse_conv\.0\.(weight|bias)": r"relations.fc1.\1",
    r"relation_reuse_conv\.2\.(weight|bias)": r"relations.fc2.\1",
}


def convert_dvt(
    state: Mapping[str, Tensor], target: DVT, *, new_head: bool = False, origin: str = "the state dict"
) -> tuple[dict[str, Tensor], list[dict]]:
    """An official state dict as one for `target.load_state_dict`, and the rows of the report.

    Raises:
        InputError: the exits, what they reuse or their backbones are others; the message names them.
    """
    state = unwrapped(state)
    names = [name for name in EXITS if any(key.startswith(f"{name}.") for key in state)]
    other = [key for key in state if key.split(".")[0] not in EXITS]
    if other or len(names) != target.num_exits:
        raise InputError(
            f"{origin} has the exits {', '.join(names) or 'none'} and {len(other)} other keys (first: "
            f"{first_keys(other)}), the model {target.num_exits} exits; expected DVT weights of as many"
        )
    made, rows = {}, []
    for i, (name, exit) in enumerate(zip(names, target.exits, strict=True)):
        own = {key.removeprefix(f"{name}."): t for key, t in state.items() if key.startswith(f"{name}.")}
        reused = {}
        for key in list(own):
            for theirs, ours in REUSE.items():
                if re.fullmatch(theirs, key):
                    tensor = own.pop(key)  # theirs are 1x1 convolutions
                    reused[re.sub(theirs, ours, key)] = tensor.flatten(1) if tensor.ndim == 4 else tensor
                    break
        wanted = {
            key: value.shape for key, value in exit.state_dict().items() if not key.startswith("backbone.")
        }
        wrong = [key for key in wanted.keys() | reused.keys() if key not in wanted or key not in reused]
        wrong += [key for key in wanted.keys() & reused.keys() if reused[key].shape != wanted[key]]
        if wrong:
            raise InputError(
                f"{origin} reuses other things at {name} than exit {i + 1} of the model: "
                f"{listed(sorted(wrong))}; "
                "set feature_reuse and relation_reuse as it was trained"
            )
        source = "t2t_vit" if any(key.startswith("tokens_to_token.") for key in own) else "timm_vit"
        renamed = rename(own, source, origin=f"{name} of {origin}")
        backbone, table = fit(renamed, exit.backbone, origin=f"{name} of {origin}", new_head=new_head)
        made |= {f"exits.{i}.backbone.{key}": value for key, value in backbone.items()}
        made |= {f"exits.{i}.{key}": value for key, value in reused.items()}
        rows += table
    return {key: made[key] for key in target.state_dict()}, rows
