"""Submit a training to a SLURM cluster; preempted or timed-out jobs go on from their last step.

    python tools/submit.py --cfg FILE --nodes 4 --gpus 8 --partition gpu --hours 48 data.root=/data/k400
    python tools/submit.py --cfg FILE --gpus 8 --slurm account=vision --slurm constraint=h100 data.root=...
    python tools/submit.py --cfg FILE --cluster local --gpus 0 --processes 2 --wait data.root=...

Starts a process for each GPU, as torchrun does, of tools/train_net.py with the config, the key=value settings
and resume=auto. Five minutes before its time is over, or when it is preempted, the job saves, and SLURM puts
it into the queue again. --dry-run submits nothing: it says what the run would be and whether it could start.
--cluster local runs the job here, in the background, or with --wait until it has ended.

Logs of the processes: --logs, by default `output_dir`/slurm. Needs submitit: pip install 'revit_video[slurm]'
Exit codes: 0 submitted (with --wait: done), 1 the job failed, 2 bad input, 75 stopped and saved (--wait).
"""

import sys

from revit_video import cli

if __name__ == "__main__":
    sys.exit(cli.submit(manual=__doc__))
