"""Costs that others published, row by row, for benchmarks/costs.py. GMACs per view ("FLOPs" in most papers).

`authors_code` is what a counter says of the authors' own code: torch's FlopCounterMode / 2 on meta tensors
for the video models, fvcore 0.1.5 for the image models, whose figures therefore contain norms.
"""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Row:
    """A model of the zoo at one token length, as its authors built it.

    `norms`: the published figure counts norms as fvcore does.
    """

    label: str
    name: str  # of the zoo
    authors_code: float
    published: float | None = None
    source: str = ""
    changes: dict = field(default_factory=dict)
    norms: bool = True


@dataclass(frozen=True)
class Rival:
    """A model of competitors.zoo at one of its levels, at 224 px unless `changes` say otherwise."""

    label: str
    name: str
    authors_code: float
    published: float | None = None
    source: str = ""
    changes: dict = field(default_factory=dict)
    level: int = 0


@dataclass(frozen=True)
class Baseline:
    """A model of pytorchvideo.models.hub; SlowFast's slow path sees every `alpha`-th frame."""

    label: str
    name: str
    frames: int
    crop: int
    published: float
    source: str
    alpha: int = 0
    norms: bool = True


TIMESFORMER = "TimeSformer, arXiv:2102.05095: TFLOPs of 3 views / 3"
MMACTION = "mmaction2's model zoo"
REVIT = "ReViT, arXiv:2307.02092, table"
MOTIONFORMER = "Motionformer, arXiv:2106.05392"
DEIT = "DeiT, arXiv:2012.12877"
T2T = "T2T-ViT, arXiv:2101.11986"
LV = "LV-ViT, arXiv:2104.10858"
PYTORCHVIDEO = "pytorchvideo's model zoo"
PYSLOWFAST = "PySlowFast's model zoo"

TOKENS_28 = {"token_lengths": (28,)}
VIDEO = [
    Row("TimeSformer 8x224", "timesformer_base", 195.83, 196, MMACTION),
    Row(
        "TimeSformer-HR 16x448", "timesformer_hr", 1702.69, 1703, TIMESFORMER, {"token_lengths": (28,)}, False
    ),
    Row("TimeSformer-L 96x224", "timesformer_large", 2379.86, 2380, TIMESFORMER, norms=False),
    Row("TimeSformer 64x224", "timesformer_large", 1579.19, changes={"num_frames": 64}),
    Row("TimeSformer ViT-L 64x224", "timesformer_vit_large", 5544.61, 5549, REVIT),
    Row("TimeSformer joint 8x224", "timesformer_joint_base", 179.56, 180, MMACTION),
    Row("TimeSformer space only 8x224", "timesformer_space_base", 140.50, 141, MMACTION),
    Row("Motionformer 16x224", "motionformer_base", 369.36, 369.5, MOTIONFORMER),
    Row("Motionformer-HR 16x336", "motionformer_hr", 958.40, 958.8, MOTIONFORMER, {"token_lengths": (21,)}),
    Row("Motionformer-L 32x224", "motionformer_large", 1184.87, 1185.1, MOTIONFORMER),
    Row(
        "Motionformer 32x448",
        "motionformer_large",
        6914.45,
        changes={"crop": 448, "token_lengths": (28,)},
    ),
    Row(
        "Motionformer ViT-L 32x224",
        "motionformer_large",
        4042.64,
        changes={"dim": 1024, "depth": 24, "heads": 16},
    ),
    Row("Motionformer joint 16x224", "motionformer_joint_base", 180.49),
    Row("Motionformer divided 16x224", "motionformer_divided_base", 185.55),
]

IMAGE = [
    Row("DeiT-Ti", "deit_tiny", 1.258, 1.3, DEIT),
    Row("DeiT-S", "deit_small", 4.608, 4.6, DEIT),
    Row("DeiT-B", "deit_base", 17.58, 17.6, DEIT),
    Row("DeiT-S distilled", "deit_small_distilled", 4.634, 4.6, DEIT),
    Row("T2T-ViT-7", "t2t_vit_7", 1.156, 1.1, T2T),
    Row("T2T-ViT-10", "t2t_vit_10", 1.527, 1.5, T2T),
    Row("T2T-ViT-12", "t2t_vit_12", 1.775, 1.8, T2T),
    Row("T2T-ViT-14", "t2t_vit_14", 4.800, 4.8, T2T),
    Row("T2T-ViT-19", "t2t_vit_19", 8.503, 8.5, T2T),
    Row("T2T-ViT-24", "t2t_vit_24", 13.692, 13.8, T2T),
    Row("T2T-ViT_t-14", "t2t_vit_t_14", 6.106, 6.1, T2T),
    Row("LV-ViT-T", "lvvit_tiny", 2.879, 2.9, LV),
    Row("LV-ViT-S", "lvvit_small", 6.569, 6.6, LV),
    Row("LV-ViT-M", "lvvit_medium", 12.70, 12.7, LV),
]

# Token lengths, and the authors' code at them: video frames resized to 16 px per token, images at 224 px.
VIDEO_LENGTHS = {
    "timesformer_base": {14: 195.83, 10: 98.64, 7: 48.11, 4: 15.82},
    "timesformer_hr": {28: 1702.69, 20: 823.67, 14: 392.07, 8: 125.87},
    "motionformer_base": {14: 369.36, 10: 177.17, 7: 83.91, 4: 26.83},
    "motionformer_large": {14: 1184.87, 10: 559.27, 7: 262.29, 4: 83.21},
}
IMAGE_LENGTHS = {
    "deit_small": {14: 4.608, 10: 2.305, 7: 1.145},
    "t2t_vit_12": {14: 1.775, 10: 0.898, 7: 0.472},
    "t2t_vit_14": {14: 4.800, 10: 2.405, 7: 1.207},
}

EVIT = "EViT's repository"
DVT = "DVT, arXiv:2105.15075, up to this exit"
EXITS = {"token_lengths": (14, 10, 7)}


def evit(keep: float, crop: int = 224, **more) -> dict:
    reducer = {"name": "evit", "keep": keep, **more}
    return {"reducer": reducer, "crop": crop, "token_lengths": (crop // 16,)}


def tome(r: int) -> dict:
    return {"reducer": {"name": "tome", "r": r}, "token_lengths": (14,)}


RIVALS = [
    Rival("EViT-DeiT-S keep .9", "deit_small", 4.030, 4.0, EVIT, evit(0.9)),
    Rival("EViT-DeiT-S keep .8", "deit_small", 3.484, 3.5, EVIT, evit(0.8)),
    Rival("EViT-DeiT-S keep .7", "deit_small", 3.036, 3.0, EVIT, evit(0.7)),
    Rival("EViT-DeiT-S keep .6", "deit_small", 2.641, 2.6, EVIT, evit(0.6)),
    Rival("EViT-DeiT-S keep .5", "deit_small", 2.314, 2.3, EVIT, evit(0.5)),
    Rival("EViT-DeiT-S keep .7, not fused", "deit_small", 3.003, 3.0, EVIT, evit(0.7, fuse=False)),
    Rival("EViT-DeiT-S keep .5, 288 px", "deit_small", 3.950, changes=evit(0.5, 288)),
    Rival("EViT-DeiT-S keep .7, 272 px", "deit_small", 4.569, changes=evit(0.7, 272)),
    Rival("EViT-DeiT-B keep .7", "deit_base", 11.62, changes=evit(0.7)),
    Rival("ToMe-DeiT-S r 8", "deit_small", 3.428, changes=tome(8)),
    Rival("ToMe-DeiT-S r 13", "deit_small", 2.712, 2.7, "ToMe, arXiv:2210.09461", tome(13)),
    Rival("ToMe-DeiT-S r 16", "deit_small", 2.298, changes=tome(16)),
    Rival("DVT-T2T-ViT-12 7x7", "dvt_t2t_vit_12", 0.472, 0.47, DVT, EXITS, 2),
    Rival("DVT-T2T-ViT-12 10x10", "dvt_t2t_vit_12", 1.462, 1.46, DVT, EXITS, 1),
    Rival("DVT-T2T-ViT-12 14x14", "dvt_t2t_vit_12", 3.498, 3.50, DVT, EXITS, 0),
    Rival("DVT-T2T-ViT-14 7x7", "dvt_t2t_vit_14", 1.207, changes=EXITS, level=2),
    Rival("DVT-T2T-ViT-14 10x10", "dvt_t2t_vit_14", 3.841, changes=EXITS, level=1),
    Rival("DVT-T2T-ViT-14 14x14", "dvt_t2t_vit_14", 9.328, changes=EXITS, level=0),
    Rival("DVT-DeiT-S 7x7", "dvt_deit_small", 1.145, changes=EXITS, level=2),
    Rival("DVT-DeiT-S 10x10", "dvt_deit_small", 3.656, changes=EXITS, level=1),
    Rival("DVT-DeiT-S 14x14", "dvt_deit_small", 8.844, changes=EXITS, level=0),
]

BASELINES = [
    Baseline("SlowFast R50 8x8", "slowfast_r50", 32, 256, 65.71, PYTORCHVIDEO, alpha=4, norms=False),
    Baseline("SlowFast R101 8x8", "slowfast_r101", 32, 256, 127.20, PYTORCHVIDEO, alpha=4),
    Baseline("SlowFast R101 16x8", "slowfast_16x8_r101_50_50", 64, 256, 215.61, PYTORCHVIDEO, alpha=4),
    Baseline("X3D-XS", "x3d_xs", 4, 182, 0.91, PYTORCHVIDEO),
    Baseline("X3D-S", "x3d_s", 13, 182, 2.96, PYTORCHVIDEO),
    Baseline("X3D-M", "x3d_m", 16, 256, 6.72, PYTORCHVIDEO),
    Baseline("X3D-L", "x3d_l", 16, 356, 26.64, PYTORCHVIDEO),
    Baseline("X3D-XS", "x3d_xs", 4, 160, 0.60, PYSLOWFAST, norms=False),
    Baseline("X3D-S", "x3d_s", 13, 160, 1.96, PYSLOWFAST, norms=False),
    Baseline("X3D-M", "x3d_m", 16, 224, 4.73, PYSLOWFAST, norms=False),
    Baseline("X3D-L", "x3d_l", 16, 312, 18.37, PYSLOWFAST, norms=False),
    Baseline("MViT-B 16x4", "mvit_base_16x4", 16, 224, 70.80, PYTORCHVIDEO),
    Baseline("MViT-B 32x3", "mvit_base_32x3", 32, 224, 170.37, PYTORCHVIDEO),
]
