"""Weights of another project as a checkpoint of this one: for predict.py, and to start training from.

    python tools/convert_weights.py TimeSformer_divST_8x32_224_K400.pyth --to timesformer_k400.pt
    python tools/convert_weights.py ssv2_motionformer_224_16x4.pyth --to mf.pt --dataset ssv2
    --token-lengths 14 10 7 --class-names something-something-v2-labels.json

Reads official TimeSformer and Motionformer, Hugging Face TimeSformer, timm ViT and DeiT, LV-ViT and T2T-ViT;
which one is told by the keys, or by --source. Prints what was used, resized, newly initialised and dropped.
Any setting of revit_video/settings/ can follow as key=value. OUT must not exist. More: docs/weights.md
"""

import sys

from revit_video import cli

if __name__ == "__main__":
    sys.exit(cli.convert(manual=__doc__))
