"""Names of attention kinds to block classes, in plain sight."""

import inspect
from collections.abc import Callable

from torch import nn

from revit_video.layers.block import DividedBlock, JointBlock, Trunk
from revit_video.layers.mf_divided import MotionformerDividedBlock
from revit_video.layers.trajectory import TrajectoryBlock
from revit_video.types import InputError

BLOCKS: dict[str, Callable[..., nn.Module]] = {
    "joint": JointBlock,
    "divided": DividedBlock,
    "space_only": JointBlock,  # the core hands it one frame at a time
    "trajectory": TrajectoryBlock,
    "mf_divided": MotionformerDividedBlock,
}


def build_block(
    attention: str, trunk: Trunk, *, drop_path_rate: float, prefix_only: bool, **options
) -> nn.Module:
    """A block of the kind `attention`, a key of BLOCKS; `options` are its own arguments."""
    if attention not in BLOCKS:
        raise InputError(f"attention is {attention!r}, but must be one of: {', '.join(BLOCKS)}")
    own = list(inspect.signature(BLOCKS[attention]).parameters)
    own = [name for name in own if name not in ("trunk", "drop_path_rate", "prefix_only")]
    for key in options.keys() - set(own):
        raise InputError(f"{attention} attention has no option {key!r}; it has: {', '.join(own) or 'none'}")
    return BLOCKS[attention](trunk, drop_path_rate=drop_path_rate, prefix_only=prefix_only, **options)
