"""Folders of small pictures, their label maps, and a small LV-ViT that was trained on them, once per session.

A test module asks for them by `pytest_plugins = ["image_fixtures"]`.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_run import PLAIN, ROOT

from revit_video import cli

CLASSES = {"blue": (40, 60, 200), "green": (50, 190, 60), "red": (210, 60, 50)}
COUNTS = {"train": 12, "val": 4, "test": 4}  # of each class
MAP_SHAPE = (2, 2, 6, 6)  # two classes in each of 6 x 6 cells
SMALL = [
    *("device=cpu", "dtype=float32", "num_threads=1", "data.num_workers=0", "data.crop=32"),
    *("data.train_jitter=[32,40]", "data.test_short_side=36", "model.token_lengths=[8,4,2]"),
    *("model.options.dim=16", "model.options.depth=2", "model.options.heads=2", "router.budget=0.99"),
    *("solver.batch_size=6", "solver.base_lr=0.003", "solver.lr_per_clips=0", "solver.eval_period=0"),
    *("assigner.epochs=1", "assigner.batch_size=4", "assigner.image_size=32"),
    *("assigner.width=0.1", "assigner.depth=0.3", *PLAIN),
]


def picture(colour: tuple[int, int, int], rng: np.random.Generator) -> Image.Image:
    height, width = rng.integers(36, 56, size=2)
    noise = rng.normal(0, 30, (height, width, 3))
    return Image.fromarray((np.array(colour) + noise).clip(0, 255).astype(np.uint8))


def train_images(recipe: str, data: Path, out: Path, *overrides: str) -> int:
    """Exit code of a recipe of configs/imagenet at a very small size."""
    settings = [f"data.root={data}", f"output_dir={out}", *SMALL, *overrides]
    if "lvvit" in recipe:
        settings.insert(0, "model.options.patch_embed_options={width: 4}")
    if "lvvit" in recipe and not any(setting.startswith("data.label_maps=") for setting in overrides):
        settings.append(f"data.label_maps={data.parent / 'maps'}")
    return cli.train(["--cfg", str(ROOT / f"configs/imagenet/{recipe}.yaml"), *settings])


@pytest.fixture(scope="session")
def image_data(tmp_path_factory) -> Path:
    """Pictures as SPLIT/CLASS/NAME.png; label maps of the training list beside them, in maps/."""
    root, rng = tmp_path_factory.mktemp("images") / "pictures", np.random.default_rng(0)
    for split, count in COUNTS.items():
        for label, (name, colour) in enumerate(CLASSES.items()):
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                picture(colour, rng).save(root / split / name / f"{name}_{number}.png")
            if split == "train":
                write_maps(root.parent / "maps" / name, [f"{name}_{n}" for n in range(count)], label, rng)
    return root


def write_maps(folder: Path, names: list[str], label: int, rng: np.random.Generator) -> None:
    """Of each image a map whose every cell knows the class, and takes another one for half as likely."""
    folder.mkdir(parents=True)
    for name in names:
        values = rng.normal((4.0, 2.0), 0.3, (*MAP_SHAPE[2:], 2)).transpose(2, 0, 1)
        classes = np.stack(
            [np.full(MAP_SHAPE[2:], label), np.full(MAP_SHAPE[2:], (label + 1) % len(CLASSES))]
        )
        torch.save(torch.from_numpy(np.stack([values, classes])).half(), folder / f"{name}.pt")


@pytest.fixture(scope="session")
def image_run(tmp_path_factory, image_data) -> Path:
    """A finished run of ReViT-LV-ViT with token labels and MixToken: all four stages."""
    out = tmp_path_factory.mktemp("image_run") / "run"
    options = ["solver.max_steps=8", "solver.ema=0", "data.test_split=test"]
    assert train_images("revit_lvvit_s_224", image_data, out, *options) == 0
    return out
