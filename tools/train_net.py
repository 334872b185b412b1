"""Train a ReViT, label lengths, train the assigner and test: one run, from one YAML file.

    python tools/train_net.py --cfg configs/demo/timesformer_tiny_5x3.yaml
    python tools/train_net.py --cfg FILE stage=revit data.root=/data/k400 solver.base_lr=0.01

stage: all (default) | revit | labels | assigner | test. A stage needs what the ones before it left in
`output_dir`. Any setting of revit_video/settings/ can follow as key=value. A folder that holds a run is
refused, unless resume=true says to go on where it stopped. Leaves config.yaml, checkpoints/, labels.json,
recognizer.pt, report.json, report.md, accuracy_vs_gmacs.png, lengths.png, log.jsonl and tensorboard/ in
`output_dir`.
"""

import sys

from revit_video import cli

if __name__ == "__main__":
    sys.exit(cli.train(manual=__doc__))
