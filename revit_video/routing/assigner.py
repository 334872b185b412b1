"""The token-length assigner (TLA): a shrunken EfficientNet that looks at one small frame of a clip
(arXiv:2307.02092, sec. 3.4).
"""

from functools import partial
from itertools import pairwise

import torch
import torch.nn.functional as F
from timm.layers import BatchNormAct2d
from timm.models import EfficientNet
from timm.models._efficientnet_builder import decode_arch_def, round_channels
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

# EfficientNet-B0 (Tan and Le, arXiv:1905.11946, table 1) in timm's notation: repeats, kernel, stride,
# expansion, channels, squeeze.
B0_STAGES = [
    ["ds_r1_k3_s1_e1_c16_se0.25"],
    ["ir_r2_k3_s2_e6_c24_se0.25"],
    ["ir_r2_k5_s2_e6_c40_se0.25"],
    ["ir_r3_k3_s2_e6_c80_se0.25"],
    ["ir_r3_k5_s1_e6_c112_se0.25"],
    ["ir_r4_k5_s2_e6_c192_se0.25"],
    ["ir_r1_k3_s1_e6_c320_se0.25"],
]


def looked_at(num_frames: int, frames: int) -> tuple[int, ...]:
    """Which of a clip's frames an assigner of so many `frames` sees: the middle one, or with it the first and
    the last. Of a clip of just these frames it sees all:  looked_at(3, 3) -> (0, 1, 2)
    """
    middle = num_frames // 2
    return (middle,) if frames == 1 else (0, middle, num_frames - 1)


class Assigner(nn.Module):
    """Clips (B, C, T, H, W) to logits over token lengths (B, L), from the middle frame alone (the paper's),
    or with `frames=3` from what moves, too.

    Args:
        num_levels: L.
        width, depth: multipliers of EfficientNet-B0's channels and repeats.
        image_size: side in pixels to which a frame is made smaller.
        frames: 1, or 3 (ours): beside the middle frame two channels that say how the first frame differs from
            it and how it differs from the last, in grey.
    """

    def __init__(
        self,
        num_levels: int,
        *,
        width: float = 0.35,
        depth: float = 0.5,
        image_size: int = 96,
        frames: int = 1,
    ) -> None:
        super().__init__()
        self.image_size, self.frames = image_size, frames
        round_width = partial(round_channels, multiplier=width)
        self.net = EfficientNet(
            block_args=decode_arch_def(B0_STAGES, depth_multiplier=depth),
            num_classes=num_levels,
            in_chans=3 if frames == 1 else 5,
            num_features=round_width(1280),
            stem_size=32,
            round_chs_fn=round_width,
            act_layer=nn.SiLU,
        ).to(memory_format=torch.channels_last)  # depthwise convolutions run 1.3 to 1.7 times faster so

    def forward(self, clips: Tensor) -> Tensor:
        return self.net(self.look(clips))

    def look(self, clips: Tensor) -> Tensor:
        """What is looked at: (B, 3, image_size, image_size), with three frames (B, 5, ...)."""
        seen = clips[:, :, list(looked_at(clips.shape[2], self.frames))].to(self.net.conv_stem.weight.dtype)
        frame = seen[:, :, self.frames // 2]
        if self.frames > 1:  # differences before resizing: linear, so it is the same, and one call
            frame = torch.cat([frame, (seen[:, :, 1:] - seen[:, :, :-1]).mean(dim=1)], dim=1)
        if frame.shape[-2:] != (self.image_size, self.image_size):
            frame = F.interpolate(
                frame, size=(self.image_size,) * 2, mode="bilinear", antialias=True, align_corners=False
            )
        return frame.contiguous(memory_format=torch.channels_last)

    @torch.no_grad()
    def fold_norms(self) -> "Assigner":
        """Evaluation only, and for good: every BatchNorm becomes part of the convolution in front of it.

        Same logits to rounding, in 0.6 of the time on a CPU (docs/performance.md).
        """
        self.eval()
        for module in self.modules():
            for (name, conv), (after, norm) in pairwise(list(module.named_children())):
                if isinstance(conv, nn.Conv2d) and isinstance(norm, BatchNormAct2d):
                    setattr(module, name, fuse_conv_bn_eval(conv, norm))
                    setattr(module, after, norm.act)
        self.net.to(memory_format=torch.channels_last)
        return self
