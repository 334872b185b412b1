"""Pictures of runs from the files they leave.

    python tools/plot.py training output/demo
    python tools/plot.py training output/a output/b --out both.png
    python tools/plot.py curve output/demo output/other --out curves.png

training: losses, accuracies, agreement of student and teacher, learning rate and clips/s over the steps of
stage 1, from log.jsonl; a run that is still going can be drawn too. curve: accuracy against GMACs of tested
runs, from report.json. Several runs are drawn over each other. --out: training.png or curve.png in the folder
of the first run, where it is not given; an existing picture of that name is replaced.
"""

import sys

from revit_video import cli

if __name__ == "__main__":
    sys.exit(cli.plot(manual=__doc__))
