"""Decoded frames to model input: geometry and colours on uint8 frames per clip; normalisation and mixing per
batch, on the device.
"""

from revit_video.transform.clip import EvalTransform, ResizedCrop, TrainTransform, normalise
from revit_video.transform.colour import ColorJitter, Grayscale
from revit_video.transform.erase import RandomErasing
from revit_video.transform.mix import Mix
from revit_video.transform.mix_token import MixToken
from revit_video.transform.rand_augment import RandAugment

__all__ = [
    "ColorJitter",
    "EvalTransform",
    "Grayscale",
    "Mix",
    "MixToken",
    "RandAugment",
    "RandomErasing",
    "ResizedCrop",
    "TrainTransform",
    "normalise",
]
