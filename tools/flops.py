"""Multiply-adds and parameters of a model at each of its token lengths.

    python tools/flops.py --model timesformer_base
    python tools/flops.py --model timesformer_base --token-lengths 14 10 7 --json costs.json

Counts one multiply-add as one, as the papers do, for one view, fused attention included. The file is a list
of rows with model, length, frames, crop, tokens, patch_embed_gmacs, gmacs and params.
"""

import sys

from revit_video import cli

if __name__ == "__main__":
    sys.exit(cli.flops(manual=__doc__))
