"""Pack a data set into tar shards: few large files for network storage, where many small ones are slow.

    python tools/pack_videos.py --cfg configs/demo/timesformer_tiny_5x3.yaml --out output/demo_packed
    python tools/pack_videos.py --cfg mine.yaml data.dataset=ssv2 data.root=/data/ssv2 --out /net/ssv2
    --split train --split val --shard-mb 1024

Takes the lists that a training with this file and these settings reads. DIR gets, for a list called train,
train-000000.tar, ... and train.index.jsonl. The videos are copied byte for byte. The shards are plain tars
with a KEY.mp4 and a KEY.json per video, which the webdataset library reads too; training reads them with
data.dataset=packed data.root=DIR. A run that was stopped goes on when it is started again; a list that is
packed already is left as it is; another one of its name is refused (exit code 2). More: docs/data.md
"""

import sys

from revit_video import cli

if __name__ == "__main__":
    sys.exit(cli.pack(manual=__doc__))
