"""Length labels: for each video, the shortest length at which the trained ReViT is right (arXiv:2307.02092,
sec. 3.4).

The file keeps the whole correctness bit-vector and the losses, so that the rule can change without running
the model again.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from revit_video.types import InputError

DROP = -1  # label of a video that the assigner's training leaves out
RULES = ("shortest_right", "near_longest")


@dataclass(frozen=True)
class LengthLabels:
    """What a ReViT made of each video of a list at each length. Lists run over videos, inner lists over
    levels.
    """

    token_lengths: tuple[int, ...]
    checkpoint_sha256: str
    split_sha256: str
    protocol: str  # in words: split, views, crop, dtype
    indices: tuple[int, ...]  # positions in the list; videos that could not be read are missing
    correct: tuple[tuple[bool, ...], ...]
    losses: tuple[tuple[float, ...], ...]
    confidences: tuple[tuple[float, ...], ...]  # largest softmax probability
    folds: tuple[int, ...] = ()  # of cross-labelling: the part of the list that each video is in
    fold_sha256: dict[str, str] = field(default_factory=dict)  # part -> checkpoint that has not seen it

    def save(self, path: str | Path) -> None:
        partial = Path(f"{path}.partial")
        partial.write_text(json.dumps(asdict(self)))
        os.replace(partial, path)

    @classmethod
    def load(
        cls, path: str | Path, *, checkpoint_sha256: str, split_sha256: str, crossed: bool = False
    ) -> "LengthLabels":
        """Read labels and refuse those of another model or another list; crossed: made by models that have
        not seen the videos.
        """
        if not Path(path).is_file():
            raise InputError(f"no length labels at {path}; run stage=labels first")
        try:
            fields = json.loads(Path(path).read_text())
            labels = cls(**{name: _as_tuples(value) for name, value in fields.items()})
        except (ValueError, TypeError, AttributeError) as error:
            raise InputError(
                f"{path} is no file of length labels ({error}); run stage=labels again"
            ) from None
        for what, ours, theirs in (
            ("checkpoint", checkpoint_sha256, labels.checkpoint_sha256),
            ("video list", split_sha256, labels.split_sha256),
        ):
            if ours != theirs:
                raise InputError(
                    f"{path} was made with another {what} ({theirs[:12]}, not {ours[:12]}); "
                    "run stage=labels again"
                )
        if crossed != bool(labels.fold_sha256):
            made = "with" if labels.fold_sha256 else "without"
            raise InputError(
                f"{path} was made {made} labels.folds; give labels.folds as it was, or remove the file and "
                "run stage=labels again"
            )
        return labels


def _as_tuples(value: object) -> object:
    """Lists, which JSON made of tuples, as tuples again."""
    return tuple(map(_as_tuples, value)) if isinstance(value, list) else value


def split_digest(paths: Sequence[str], labels: Sequence[int]) -> str:
    """SHA-256 over file names and labels of a list; folders are left out, so that moving a data set changes
    nothing.
    """
    text = "\n".join(f"{Path(path).name} {label}" for path, label in zip(paths, labels, strict=True))
    return hashlib.sha256(text.encode()).hexdigest()


def expected_label(losses: Tensor) -> Tensor:
    """How probable each level is to be the shortest right one, (N, L), from the losses (N, L) at every level.

    exp(-loss) is the probability that the backbone gave to the true class; a level counts with that times the
    chance that every shorter one was wrong, and the longest takes what is left. The label of
    `shortest_right` where the backbone is sure, and elsewhere how close the others came: from a few hundred
    videos an assigner learns to rank clips far better so (docs/results.md).
    """
    right = torch.exp(-losses)
    labels = torch.zeros_like(right)
    still_wrong = torch.ones_like(right[:, 0])
    for level in range(losses.shape[1] - 1, 0, -1):
        labels[:, level] = still_wrong * right[:, level]
        still_wrong = still_wrong * (1 - right[:, level])
    labels[:, 0] = still_wrong
    return labels


@dataclass(frozen=True)
class LabelRule:
    """How a video's length label follows from what the backbone made of it at every length."""

    name: str = "shortest_right"  # one of RULES
    none_right: str = "longest"  # of shortest_right
    epsilon: float = 0.1  # of near_longest, in nats

    def labels(self, correct: Tensor, losses: Tensor) -> Tensor:
        """Labels (N,) from correctness and losses (N, L) at levels from the longest to the shortest."""
        if self.name == "shortest_right":
            return shortest_right(correct, none_right=self.none_right)
        if self.name == "near_longest":
            return near_longest(losses, epsilon=self.epsilon)
        raise InputError(f"labels.rule is {self.name!r}, but must be one of: {', '.join(RULES)}")


def near_longest(losses: Tensor, *, epsilon: float) -> Tensor:
    """The shortest level (N,) whose loss is at most `epsilon` nats above the longest's; losses are (N, L).

    It asks for more than the right class: a short length that is right by luck, far less sure than the
    longest, does not get the video.
    """
    near = losses <= losses[:, :1] + epsilon
    return losses.shape[1] - 1 - near.flip(1).to(torch.uint8).argmax(dim=1)


def histogram(labels: Tensor, token_lengths: Sequence[int]) -> str:
    """Labels (N,) in words: "14: 3.2%, 10: 4.0%, 7: 92.8%"."""
    counts = torch.bincount(labels[labels != DROP], minlength=len(token_lengths)).tolist()
    said = [f"{n}: {100 * k / max(1, len(labels)):.1f}%" for n, k in zip(token_lengths, counts, strict=True)]
    left_out = int((labels == DROP).sum())
    return ", ".join(said) + (f", left out: {100 * left_out / len(labels):.1f}%" if left_out else "")


def shortest_right(correct: Tensor, *, none_right: str = "longest") -> Tensor:
    """Labels (N,) from correctness (N, L), levels running from the longest to the shortest.

    The shortest right length counts even where a longer one is wrong:  right wrong right -> 2.
    `none_right` says what to do with videos that no length gets right: `longest`, `shortest` or `drop`.
    """
    last = correct.shape[1] - 1
    labels = last - correct.flip(1).to(torch.uint8).argmax(dim=1)
    fallback = {"longest": 0, "shortest": last, "drop": DROP}
    if none_right not in fallback:
        raise InputError(f"labels.none_right is {none_right!r}, but must be one of: {', '.join(fallback)}")
    return torch.where(correct.any(dim=1), labels, torch.full_like(labels, fallback[none_right]))
