"""What happens in these video files, or what do these pictures show?

    python tools/predict.py a.mp4 b.avi --checkpoint output/demo/recognizer.pt
    python tools/predict.py *.mp4 --checkpoint output/demo/recognizer.pt --length 14 --json

    python tools/predict.py FOLDER --checkpoint output/demo/recognizer.pt --stride 1 --out 'out/{name}.srt'
    python tools/predict.py PICTURES cat.jpg --checkpoint output/imagenet/recognizer.pt
    python tools/predict.py rtsp://camera/stream --checkpoint output/demo/recognizer.pt --out seen.jsonl

The assigner picks the token length of every clip, or --length fixes one. A file that cannot be read is named
on stderr, the others go on, and the exit code is 2. A model of single pictures takes every picture of a
folder; another one takes a folder of pictures for the frames of a video. With any option about windows, and
for live streams, a window slides over the video and gives a result each time (docs/streams.md).
"""

import sys

from revit_video import cli

if __name__ == "__main__":
    sys.exit(cli.predict(manual=__doc__))
