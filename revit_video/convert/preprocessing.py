"""How the pictures must look for weights of other projects: it was fixed when they were trained.

Channel means and deviations are of R, G, B in 0..1, whatever the order in which the model takes the channels.
"""

from __future__ import annotations

from dataclasses import dataclass

from revit_video.types import InputError

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
KINETICS = ((0.45,) * 3, (0.225,) * 3)
HALF = ((0.5,) * 3, (0.5,) * 3)
STATISTICS = {
    "timesformer": KINETICS,
    "motionformer": HALF,
    "hf_timesformer": KINETICS,
    "timm_vit": IMAGENET,  # DeiT's; timm's own ViTs mostly want .5/.5, which no name in the file tells
    "lvvit": IMAGENET,
    "t2t_vit": IMAGENET,
}
CROP_SHARE = {"timm_vit": 0.875, "lvvit": 0.9, "t2t_vit": 0.9}  # of the short side, in evaluation
DATASETS = ("kinetics400", "kinetics600", "ssv2", "howto100m", "epic", "imagenet")
STRIDES = {  # (source, frames) of dense sampling on Kinetics -> frames from one taken frame to the next
    ("timesformer", 8): 32,
    ("timesformer", 16): 16,
    ("timesformer", 96): 4,
    ("motionformer", 16): 4,
    ("motionformer", 32): 3,
}


@dataclass(frozen=True)
class Preprocessing:
    """What a clip goes through before these weights see it."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    channel_order: str  # rgb | bgr
    sampling: str  # dense | segments
    sampling_rate: int
    sampling_rule: str  # slowfast: the official code's, by which the published accuracies were measured
    short_side: int  # pixels in evaluation; 0: the crop
    flip: bool


def preprocessing_of(source: str, *, dataset: str, num_frames: int, crop: int) -> Preprocessing:
    """The preprocessing of published weights of a family, trained on `dataset` (one of DATASETS).

    The official TimeSformer read SSv2 with OpenCV and never swapped its channels, so these weights want BGR;
    so do Hugging Face's, which are the same numbers.
    """
    if dataset not in DATASETS:
        raise InputError(f"dataset is {dataset!r}, but must be one of: {', '.join(DATASETS)}")
    mean, std = STATISTICS[source]
    base = source.removeprefix("hf_")
    is_ssv2 = dataset == "ssv2"
    share = CROP_SHARE.get(source)
    rate = STRIDES.get((base, num_frames), 8 if base == "motionformer" and crop > 224 else 32)
    if base == "motionformer" and num_frames == 16 and crop == 336 and dataset.startswith("kinetics"):
        rate = 8  # the HR model's stride on Kinetics
    return Preprocessing(
        mean=mean,
        std=std,
        channel_order="bgr" if base == "timesformer" and is_ssv2 else "rgb",
        sampling="segments" if is_ssv2 else "dense",
        sampling_rate=rate,
        sampling_rule="slowfast" if base in ("timesformer", "motionformer") else "centred",
        short_side=int(crop / share) if share else 0,
        flip=not is_ssv2,
    )
