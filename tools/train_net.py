"""Train a ReViT, label lengths, train the assigner and test: one run, from one YAML file.

    python tools/train_net.py --cfg configs/demo/timesformer_tiny_5x3.yaml
    python tools/train_net.py --cfg FILE stage=revit data.root=/data/k400 solver.base_lr=0.01
    python tools/train_net.py --cfg FILE data.root=/data/k400 --dry-run --processes 64

stage: all (default) | revit | labels | assigner | test. A stage needs what the ones before it left in
`output_dir`. Any setting of revit_video/settings/ can follow as key=value. A folder that holds a run is
refused, unless resume=true says to go on where it stopped (resume=auto: or to start, where there is none).

SIGTERM and SIGUSR1 end stage 1 after the step that runs, with a checkpoint; a second one, more than 5 s
later, ends it at once. Exit codes: 0 done, 2 something is wrong with the input, 75 ended by such a signal
(the same command with resume=auto goes on), 130 Ctrl-C.

Leaves config.yaml, checkpoints/, labels.json,
recognizer.pt, report.json, report.md, accuracy_vs_gmacs.png, lengths.png, log.jsonl and tensorboard/ in
`output_dir`.
"""

import sys

from revit_video import cli

if __name__ == "__main__":
    sys.exit(cli.train(manual=__doc__))
