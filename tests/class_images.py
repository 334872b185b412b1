"""Small pictures of two classes in class folders, and settings under which tiny models train on them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

IMAGE_SETTINGS = [
    "device=cpu",
    "dtype=float32",
    "num_threads=1",
    "data.dataset=image_folders",
    "data.num_frames=1",
    "data.crop=32",
    "data.train_jitter=[32,36]",
    "data.num_workers=0",
    "model.name=deit_tiny",
    "model.token_lengths=[8,4,2]",
    "model.drop_path=0",
    "model.options={dim: 16, depth: 3, heads: 2, init_scale: 1.0}",
    "solver.optimizer=adamw",
    "solver.schedule=constant",
    "solver.max_steps=4",
    "solver.batch_size=6",
    "labels.split=val",
    "assigner.epochs=1",
    "assigner.batch_size=4",
    "assigner.image_size=32",
    "assigner.width=0.1",
    "assigner.depth=0.3",
    "test.num_ensemble_views=1",
    "test.num_spatial_crops=1",
    "test.batch_size=4",
    "router.budget=0.9",
    "report.plots=false",
]


def make_images(root: Path, **numbers: int) -> Path:
    """Stripes that lie or stand, in noise: `numbers` of each class in each split."""
    generator = np.random.default_rng(0)
    rows, columns = np.mgrid[:36, :40]
    for split, number in numbers.items():
        for name, along in (("lying", rows), ("standing", columns)):
            (root / split / name).mkdir(parents=True)
            for i in range(number):
                stripes = (along + generator.integers(8)) // 4 % 2 * 150
                noise = generator.integers(0, 100, (36, 40, 3))
                Image.fromarray((stripes[..., None] + noise).astype(np.uint8)).save(
                    root / split / name / f"{i}.png"
                )
    return root
