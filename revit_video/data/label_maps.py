"""Label maps of images, in the files of the TokenLabeling project (LV-ViT, arXiv:2104.10858, section 3.1).

    MAPS/n01440764/n01440764_10026.pt     of the image .../n01440764/n01440764_10026.JPEG

A file is one tensor (2, k, h, w), saved by torch.save: what a large network said in each of h x w cells of
the whole image. [0]: the k largest values of the cell, logits; [1]: their classes. The official ones, of
NFNet-F6 at 576 px, are float16 of (2, 5, 18, 18). Names end at their first dot there: `a.b.JPEG` has `a.pt`.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from revit_video.types import InputError, VideoSample

HALF_EXACT = 2048  # the largest whole number up to which float16 has all


class LabelMaps:
    """The maps of a list of images.

    Raises:
        InputError: no folder; images without a map, or two with one; the first map is not as it should be.
    """

    def __init__(self, root: str | Path, samples: Sequence[VideoSample], *, num_classes: int) -> None:
        self.root, self.num_classes = Path(root), num_classes
        if not self.root.is_dir():
            raise InputError(f"no folder {self.root} of label maps; expected CLASS/IMAGE.pt in it")
        self.shape: tuple[int, ...] | None = None
        self._refuse_missing(samples)
        self.shape = tuple(self.read(samples[0].path).shape)

    def path_of(self, image: str) -> Path:
        return self.root.joinpath(*place_of(image))

    def read(self, image: str) -> Tensor:
        """The map of an image, float32 (2, k, h, w): values and classes."""
        path = self.path_of(image)
        try:
            saved = torch.load(path, map_location="cpu", weights_only=True)
        except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise InputError(f"the label map {path} cannot be read: {reason}") from None
        wrong = self._wrong(saved)
        if wrong:
            raise InputError(f"the label map {path} {wrong}; make it again, or take the image off the list")
        return saved.float()

    def _wrong(self, saved: object) -> str:
        """What is wrong with a map; "" where nothing is."""
        if not isinstance(saved, Tensor) or saved.layout != torch.strided:
            return f"holds a {type(saved).__name__}, not one tensor"
        if saved.ndim != 4 or saved.shape[0] != 2 or not all(saved.shape):
            return f"is {list(saved.shape)}, but must be [2, k, h, w]: values and classes of each cell"
        if self.shape is not None and saved.shape != self.shape:
            return f"is {list(saved.shape)}, but the first one {list(self.shape)}"
        if not saved.dtype.is_floating_point or not torch.isfinite(saved).all():
            return "has values that are no finite floating-point numbers"
        classes = saved[1].double()
        if not (classes == classes.round()).all() or classes.min() < 0 or classes.max() >= self.num_classes:
            low, high = classes.min().item(), classes.max().item()
            return f"has classes from {low:g} to {high:g}, but the data has 0 to {self.num_classes - 1}"
        if saved.dtype == torch.float16 and self.num_classes > HALF_EXACT + 1:
            return (
                f"is float16, which has no whole numbers beyond {HALF_EXACT}, for {self.num_classes} classes"
            )
        if (classes.sort(dim=0).values.diff(dim=0) == 0).any():
            return "names a class twice in one cell"
        return ""

    def _refuse_missing(self, samples: Sequence[VideoSample]) -> None:
        """One look at each folder, in place of one at each file."""
        there: dict[str, set[str]] = {}
        taken: dict[tuple[str, str], str] = {}
        missing = []
        for sample in samples:
            folder, name = place_of(sample.path)
            if folder not in there:
                there[folder] = (
                    set(os.listdir(self.root / folder)) if (self.root / folder).is_dir() else set()
                )
            if name not in there[folder]:
                missing.append(self.root / folder / name)
            if taken.setdefault((folder, name), sample.path) != sample.path:
                other = taken[folder, name]
                raise InputError(f"{other} and {sample.path} have one label map, {folder}/{name}; rename one")
        if missing:
            first = ", ".join(map(str, missing[:3])) + ", ..." * (len(missing) > 3)
            raise InputError(
                f"{len(missing)} of {len(samples)} images have no label map: {first}; expected "
                f"{self.root}/CLASS/IMAGE.pt for every image of the training list"
            )


def place_of(image: str) -> tuple[str, str]:
    """Folder and name of an image's map."""
    folder, name = os.path.split(image)
    return os.path.basename(folder), name.split(".")[0] + ".pt"
