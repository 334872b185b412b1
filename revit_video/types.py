"""The nouns that travel between the folders. All are frozen; none knows torch, files or the config."""

from __future__ import annotations

from dataclasses import dataclass


class Stopped(Exception):
    """A run that was asked to end, and can go on later; the message says by what and how."""


class InputError(ValueError):
    """Something the user gave is wrong. The message is one line: what was got, what was expected, what to
    try.

    Tools print it without a traceback and exit with code 2; every other exception is a bug of ours.
    """


@dataclass(frozen=True)
class VideoSample:
    """One labelled video of a list. `tag` is free text for grouping results (the demo's difficulty).

    `begin` and `end` cut a part out of a long video: its frames begin, ..., end - 1. An `end` of 0 is the
    video's own.
    """

    path: str
    label: int
    tag: str = ""
    begin: int = 0
    end: int = 0


@dataclass(frozen=True)
class Split:
    """One list of videos with the names of its classes, in the order of the labels.

    With two class lists (verbs and nouns), `class_names` is both, one after the other, `heads` says how many
    names each has, and the label of a sample is the pair as one number: first * heads[1] + second.
    """

    samples: tuple[VideoSample, ...]
    class_names: tuple[str, ...]
    heads: tuple[int, ...] = ()


@dataclass(frozen=True)
class TokenGrid:
    """Where each token of a clip sits: `frames` planes of `height` x `width` patches."""

    frames: int
    height: int
    width: int
    level: int = 0  # index into the model's token lengths; 0 is the longest

    @property
    def per_frame(self) -> int:
        return self.height * self.width


@dataclass(frozen=True)
class View:
    """One (clip, crop) pair of a video: which frames, and which part of them."""

    frames: tuple[int, ...]  # frame numbers, may repeat
    clip: int  # temporal index of the view
    crop: int  # 0: left or top, 1: centre, 2: right or bottom


@dataclass(frozen=True)
class Ranking:
    """The most probable classes of one list, `kind` ("verb"). Probabilities fall."""

    kind: str
    class_names: tuple[str, ...]
    probabilities: tuple[float, ...]


@dataclass(frozen=True)
class Unreadable:
    """What stands in the place of a prediction where a file cannot be read."""

    path: str
    error: str


@dataclass(frozen=True)
class Prediction:
    """What the recognizer says of one file. Probabilities fall; lengths are one per clip of the file.

    With two lists of classes the names are actions ("take plate"), whose probability is the product of their
    parts', and `parts` are the best verbs and the best nouns.
    """

    path: str
    class_names: tuple[str, ...]
    probabilities: tuple[float, ...]
    token_lengths: tuple[int, ...]
    gmacs_per_view: float
    parts: tuple[Ranking, ...] = ()
