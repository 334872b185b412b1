"""Train several methods on one data set with one recipe, and put them into one table.

    python tools/compare.py --cfg CFG methods=[longest,revit,evit_0.7,tome_r13] seeds=[0,1,2] \\
        output_dir=output/comparison data.root=/data/images
    python tools/compare.py --cfg CFG ablation=table2 output_dir=... data.root=...
    python tools/compare.py --cfg CFG methods=[...] output_dir=... data.root=... --dry-run

Every row and seed is an ordinary run in output_dir/ROW/seedN: what is finished is kept, and the same command
goes on with the rest. Leaves comparison.json, comparison.md and two pictures in output_dir. rows=[...] takes
some rows of an ablation, against=ROW (or 'ROW, POINT') says what accuracies are compared with, paired video
by video. Other key=value are settings of all rows. A row that fails is named at the end, and the exit code
is 1. Methods: docs/compare.md.
"""

import sys

from revit_video import cli

if __name__ == "__main__":
    sys.exit(cli.compare(manual=__doc__))
