"""Weights of other projects into a ReViT, and back.

model = create_model("timesformer_base", weights="TimeSformer_divST_8x32_224_K400.pyth")
state, rows = convert_state_dict(theirs, target=model)
theirs = to_official(model, "timesformer")
"""

from revit_video.convert.convert import convert_state_dict
from revit_video.convert.families import FAMILIES, detect_source
from revit_video.convert.official import to_official
from revit_video.convert.pretrained import create_model
from revit_video.convert.read import read_weights
from revit_video.convert.report import report_text

__all__ = [
    "FAMILIES",
    "convert_state_dict",
    "create_model",
    "detect_source",
    "read_weights",
    "report_text",
    "to_official",
]
