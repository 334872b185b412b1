"""Multi-view test of a trained recognizer: every length, the adaptive choice and its baselines, each video
decoded once.

    python tools/test_net.py --checkpoint output/demo/recognizer.pt output_dir=output/demo_3crops
    test.num_spatial_crops=3

Settings are those the checkpoint was trained by; key=value changes them. Writes report.json, report.md and
the plots into `output_dir` (the checkpoint's folder unless given) and refuses to replace a report unless
resume=true says so.
"""

import sys

from revit_video import cli

if __name__ == "__main__":
    sys.exit(cli.test(manual=__doc__))
