"""The ablations: rows that differ, that fit the demo's config, and that train."""

import json
import shutil
from functools import cache
from pathlib import Path

import pytest
import torch
from small_run import CFG, SMALL

from revit_video.build import build_device, revit_job
from revit_video.compare.ablations import ABLATIONS, PAPER
from revit_video.compare.rows import ADAPTIVE, LEVELS
from revit_video.compare.runs import Study, run_row
from revit_video.config import Config, config_to_dict
from revit_video.stages.job import RunFolder
from revit_video.train.checkpoint import load_checkpoint
from revit_video.train.revit import revit_step

pytest_plugins = ["run_fixtures"]
TINY = [*SMALL, "device=cpu", "solver.max_steps=2", "solver.batch_size=2", "model.options.depth=1"]
TINY += [
    "data.crop=64",
    "data.train_jitter=[64,72]",
    "data.test_short_side=64",
]  # early convolutions need 8 px
ROWS = [(name, row) for name, comparison in ABLATIONS.items() for row in comparison.rows]


@cache
def study(name: str, data: Path) -> Study:
    return Study.of(ABLATIONS[name], str(CFG), [*TINY, f"data.root={data}"], (0,), Path("nowhere"))


@cache
def config_of(name: str, row: str, data: Path) -> Config:
    return study(name, data).config(study(name, data).row(row), 0)


def settings(config: Config) -> dict[str, str]:
    """Dotted keys and values as text, but for where a run is."""
    groups = {key: value for key, value in config_to_dict(config).items() if isinstance(value, dict)}
    return {f"{group}.{key}": repr(value) for group, keys in groups.items() for key, value in keys.items()}


@pytest.mark.parametrize("name", ABLATIONS)
def test_rows_are_valid_settings_that_differ_from_each_other_in_what_they_are_about(name, demo_data):
    about = {
        "table2": ("model.token_lengths", "model.distill_token", "revit."),
        "table3": ("model.patch_embed", "model.positions", "model.norms"),
        "losses": ("revit.", "model.distill_token", "model.options"),
        "stems": ("model.patch_embed",),
        "labels": ("labels.", "assigner.soft_labels"),
    }[name]
    found = [settings(config_of(name, row.name, demo_data)) for row in ABLATIONS[name].rows]
    assert len({tuple(one.items()) for one in found}) == len(found) > 2
    for key in found[0]:
        assert len({one[key] for one in found}) == 1 or key.startswith(about), key


def test_rows_say_all_that_they_are_about_so_that_the_config_does_not_matter():
    for name in ("table3", "losses", "stems", "labels"):
        first, *others = [
            {text.partition("=")[0] for text in row.overrides} - {"model.options.class_token_only"}
            for row in ABLATIONS[name].rows
        ]
        assert first and all(keys == first for keys in others), name
    distillation = {key for key in settings(Config()) if key.startswith("revit.")}
    said = {text.partition("=")[0] for text in ABLATIONS["losses"].rows[0].overrides}
    assert distillation - said == {"revit.grow_share", "revit.patch_weight", "revit.true_class"}


def test_the_papers_numbers_are_said_to_be_the_papers():
    for comparison in ABLATIONS.values():
        for one in comparison.published:
            assert one.name.startswith(PAPER) and "ImageNet" in one.name and "arXiv" in one.source
            assert one.gmacs is None  # the tables give none
    found = {one.name.removeprefix(f"{PAPER}: "): one.top1 for one in ABLATIONS["table2"].published}
    assert found["tau .9, 14x14"] == 79.83 and found["tau .9, 7x7"] == 74.21 and len(found) == 12
    found = {one.name.removeprefix(f"{PAPER}: "): one.top1 for one in ABLATIONS["table3"].published}
    assert found["patch embedding shared, 14x14"] == 65.14  # the marks of the table are inverted


@pytest.mark.parametrize(
    ("name", "row"),
    [(name, row.name) for name, row in ROWS if row.reads == LEVELS],
    ids=[f"{name}-{row.name}" for name, row in ROWS if row.reads == LEVELS],
)
def test_every_row_trains(name, row, demo_data):
    """Growing and a step over all lengths, on noise: from the settings to model, losses and optimizer."""
    config = config_of(name, row, demo_data)
    job = revit_job(config, build_device(config))
    job.model.grow(job.model.num_levels - 1)
    before = {key: tensor.clone() for key, tensor in job.model.state_dict().items()}
    clips = torch.randn(
        2, 3, job.model.num_frames, *job.model.crop, generator=torch.Generator().manual_seed(1)
    )
    levels = range(job.model.num_levels)
    sums = revit_step(job.model, clips, torch.tensor([0, 3]), levels=levels, distillation=job.distillation)
    for optimizer in job.optimizers:
        optimizer.step()
    assert sums["loss"].isfinite()
    after = job.model.state_dict()
    assert not torch.equal(after["blocks.0.attn.qkv.weight"], before["blocks.0.attn.qkv.weight"])
    assert all(tensor.isfinite().all() for tensor in after.values())


def test_rows_with_other_labels_take_the_backbone_over_and_train_an_assigner_alone(
    small_run, demo_data, tmp_path
):
    given = [*SMALL, f"data.root={demo_data}"]
    whole = Study.of(ABLATIONS["labels"], str(CFG), given, (0,), tmp_path)
    first, row = whole.row("shortest_right"), whole.row("near_longest")
    assert first.train and not row.train and row.starts_from == first.name and row.reads == ADAPTIVE
    source = RunFolder(whole.path(first, 0)).revit
    source.parent.mkdir(parents=True)
    shutil.copy(small_run / "checkpoints/revit.pt", source)
    run_row(whole, row, 0)
    made = RunFolder(whole.path(row, 0))
    ours, theirs = (load_checkpoint(file, kind="revit")["model"] for file in (made.revit, source))
    assert all(torch.equal(ours[key], tensor) for key, tensor in theirs.items())
    assert made.recognizer.exists() and json.loads(made.labels.read_text())
    assert not made.log.exists() or '"stage": "revit"' not in made.log.read_text()
