"""Studies of trained runs, each by one command.

    python tools/study.py shift output/demo_data /data/clips --checkpoint output/demo/recognizer.pt
    python tools/study.py extremes output/demo
    python tools/study.py payback output/demo
    python tools/study.py folds output/ut_0 output/ut_1 output/ut_2

shift: a recognizer on videos of another kind: every length, the router with the rule it has, random
assignment at the same shares and the oracle. A folder is a demo data set (its test list;
make_demo_data.py --shift makes other ones) or any folder of videos. The latter have no labels that the model
knows: what is called right is then what the longest length says, and the table tells only how lengths are
chosen and how well they agree with it. --videos N takes so many of each, evenly spaced; key=value changes
settings of the test.

extremes: only the easiest, only the hardest videos of a tested run, by the tags of its list: what the router
saves there and what it loses against the longest length.

payback: one network of the longest length, a ReViT (sequential, length-parallel) and a network for each
length: what training costs in multiply-adds, time and memory, and after how many clips the inference that
is saved has paid for it. Closed forms from the run's settings; seconds from its log and its timed test.

folds: runs that each left out another part of the videos (data.test_fold): means with intervals over folds.

--json FILE: the rows.
"""

import sys

from revit_video import cli

if __name__ == "__main__":
    sys.exit(cli.study(manual=__doc__))
