"""Decoded frames to model input: geometry on uint8 frames per clip, normalisation on the device per batch."""

from revit_video.transform.clip import EvalTransform, TrainTransform, normalise

__all__ = ["EvalTransform", "TrainTransform", "normalise"]
