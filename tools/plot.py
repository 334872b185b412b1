"""Pictures of runs from the files they leave, and of what token lengths cost.

    python tools/plot.py training output/demo
    python tools/plot.py training output/a output/b --out both.png
    python tools/plot.py curve output/demo output/other --out curves.png
    python tools/plot.py throughput output/demo output/other --out speeds.png
    python tools/plot.py sheet output/demo report.sheet_clips=8 --out sheet.png
    python tools/plot.py lengths --model deit_small --token-lengths 14 10 7 4 --out lengths.png

training: losses, accuracies, agreement of student and teacher, learning rate and clips/s over the steps of
stage 1, from log.jsonl; a run that is still going can be drawn too. curve: accuracy against GMACs of tested
runs, from report.json. throughput: accuracy against measured clips/s, from report.json; only runs that were
timed on one machine in one way go together. Several runs are drawn over each other.

sheet: clips of the test list by the length that the router of one trained run sends them to; settings
follow as key=value (report.sheet_clips: how many of each).

lengths: multiply-adds of a training step and parameters over the number of token lengths, for ReViT on one
process and on one for each length, separate models and a DVT cascade, as a table too; closed forms.
--measure B times steps of B clips here besides.

--out: where it is not given, training.png, curve.png, accuracy_vs_throughput.png or sheet.png in the folder
of the first run, and MODEL_lengths.png here; an existing picture of that name is replaced.
"""

import sys

from revit_video import cli

if __name__ == "__main__":
    sys.exit(cli.plot(manual=__doc__))
