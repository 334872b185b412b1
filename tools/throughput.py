"""How fast a recognizer runs, in every way it can run, on the same clips in one process.

    python tools/throughput.py --checkpoint output/demo/recognizer.pt
    python tools/throughput.py --checkpoint output/demo/recognizer.pt --decode router.budget=0.5
    python tools/throughput.py --model timesformer_base --cost 0.67 --json speed.json --plot speed.png

Rows, for batches of --batch-size and for one clip at a time: every fixed length, and the adaptive router in
the order of arrival (each batch regrouped by length) and bucketed (a queue for each length over all clips).
All ways take turns, with a warm-up, the same kernels and the same dtype; the assigner is inside.

`ms` is what a single clip takes from being asked for until its logits are there: its batch, or the queue it
waits in. `peak MB` is what the pass needs on top of weights and clips. Ratios are to the longest length in
batches of the same size; `of the promise` is the speed-up over what the GMACs promise.

--checkpoint: a trained recognizer on the first clips of its test list; key=value changes its settings
(dtype, device, data.root, router.*). With --decode the videos are decoded inside the time, by this process
alone, where a training has workers for it. --model: random weights on noise, with an assigner that works as
always and whose answers are forced, so that a clip costs --cost of the longest length on average.
--json: the rows with device, dtype, versions and date; --plot: a picture.
"""

import sys

from revit_video import cli

if __name__ == "__main__":
    sys.exit(cli.throughput(manual=__doc__))
