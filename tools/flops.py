"""Multiply-adds and parameters of models at each of their token lengths.

    python tools/flops.py --model timesformer_base
    python tools/flops.py --model timesformer_base motionformer_base --views 1x3 --json costs.json
    python tools/flops.py --model all
    python tools/flops.py --model deit_small --token-lengths 14 7
    python tools/flops.py --model deit_small --token-lengths 14 --reducer evit keep=0.7
    python tools/flops.py --model dvt_t2t_vit_12

Counts one multiply-add as one, as the papers do, attention included, norms and activations free. Nothing
is run: the closed form of the architecture, held against torch's counter on the meta device, so that the
largest model needs no memory either. docs/costs.md compares with published numbers.

A row has the model and the token length, what it costs per view and over all views of a video (clips x
crops), the parameters of all lengths together, and parts of the cost: the patch embedding, what the
distillation token adds, and the share of attention: its scores and sums of values, without its linear layers.

The file is a list of rows with model, length, frames, crop, tokens, params, patch_embed_gmacs,
distill_token_gmacs, attention_share, gmacs (per view), views, total_gmacs, and norm_gmacs: what fvcore and
most published figures count for norms on top. A row of a cascade (dvt_*) is the cost up to the exit of that
length. docs/rivals.md has the reducers.
"""

import sys

from revit_video import cli

if __name__ == "__main__":
    sys.exit(cli.flops(manual=__doc__))
