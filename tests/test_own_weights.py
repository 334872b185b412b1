"""Weights of this project for other token lengths, frames and pixels."""

import pytest
import torch
from small_run import CFG, SMALL
from test_grow import FAMILIES, small

from revit_video import cli
from revit_video.backbones.core import ReViT
from revit_video.build.networks import build_model, start_from
from revit_video.config import config_to_dict, load_config
from revit_video.convert.own import nearest, refit
from revit_video.stages.job import RunFolder
from revit_video.train.checkpoint import load_checkpoint, load_weights, save_checkpoint
from revit_video.types import InputError

NOT_TOKENS = "distill_tokens"  # a length alone has none; they start as the class token
pytest_plugins = ["run_fixtures"]


def started(source: ReViT, target: ReViT) -> tuple[ReViT, str]:
    state, line = refit(source, target, origin="a.pt")
    target.load_state_dict(state)
    return target, line


def clips_of(model: ReViT) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(2, 3, model.num_frames, *model.crop, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_length_trained_alone_starts_a_revit_as_growing_does(name):
    source = small(name, token_lengths=(7,), distill_token=False)
    target, line = started(source, small(name, seed=2))
    clips = clips_of(source)
    assert line == "token lengths: 14 from 7, 10 from 7, 7 as it is"
    grown, _ = started(target, small(name, seed=3))  # the shortest length of which is now the source's
    grown.grow(2)
    for key, value in target.state_dict().items():
        computed = key.startswith("pos_tables") and target.pos_init == "sine_1d"
        if key != NOT_TOKENS and not computed:
            assert torch.allclose(value, grown.state_dict()[key], rtol=0, atol=1e-6), key
    if target.distill_tokens is None or target.first_distilled == 0:
        assert torch.equal(target(clips, 2), source(clips, 0))


@pytest.mark.parametrize("name", FAMILIES)
def test_a_length_of_a_revit_goes_on_alone_and_says_the_same(name):
    source = small(name)
    distilled = source.first_distilled == 0
    for level, length in enumerate((14, 10, 7)):
        alone, line = started(source, small(name, seed=2, token_lengths=(length,), distill_token=distilled))
        assert line == f"token lengths: {length} as it is"
        out, whole = alone(clips_of(source), 0), source(clips_of(source), level, full_output=True)
        if distilled or whole.distill_logits is None:
            assert torch.equal(out, whole.prediction())


def test_lengths_that_both_have_are_taken_as_they_are_and_others_from_the_nearest():
    source = small("timesformer_base", token_lengths=(14, 7))
    target, line = started(source, small("timesformer_base", seed=2))
    assert line == "token lengths: 14 as it is, 10 from 7, 7 as it is"
    clips = clips_of(source)
    assert torch.equal(target(clips, 0), source(clips, 0)) and torch.equal(target(clips, 2), source(clips, 1))
    assert torch.equal(target.distill_tokens[1], source.distill_tokens[0])
    assert torch.equal(target.norm.scale[1], source.norm.scale[1])
    assert [nearest((14, 7), length) for length in (16, 11, 10, 3)] == [0, 0, 1, 1]
    assert nearest((14, 10), 12) == 0  # of two the longer one


@pytest.mark.parametrize("shared", [{"positions": "shared"}, {"patch_embed": "shared"}, {"norms": "shared"}])
def test_what_lengths_share_is_parted_and_joined(shared):
    source = small("deit_tiny", **shared)
    clips = clips_of(source)
    apart, _ = started(source, small("deit_tiny", seed=2))
    for level in range(3):
        assert torch.allclose(apart(clips, level), source(clips, level), rtol=0, atol=1e-12)
    alone = small("deit_tiny", token_lengths=(7,), distill_token=False)
    joined, _ = started(alone, small("deit_tiny", seed=2, distill_token=False, **shared))
    assert torch.equal(joined(clips, 2), alone(clips, 0))


@pytest.mark.parametrize("shared", [{"positions": "shared"}, {"patch_embed": "shared"}, {"norms": "shared"}])
def test_what_lengths_share_on_both_sides_says_the_same_at_fewer_of_them(shared):
    source = small("deit_tiny", **shared)
    fewer, line = started(source, small("deit_tiny", seed=2, token_lengths=(14, 7), **shared))
    clips = clips_of(source)
    assert line == "token lengths: 14 as it is, 7 as it is"
    for level, before in ((0, 0), (1, 2)):
        assert torch.allclose(fewer(clips, level), source(clips, before), rtol=0, atol=1e-12)


def test_fewer_frames_and_other_pixels_resize_the_time_table_and_the_kernels():
    source = small("timesformer_base")
    target, line = started(source, small("timesformer_base", seed=2, num_frames=2, crop=224))
    assert line.endswith("7 as it is; 2 frames from 4; 224x224 px from 112x112")
    assert target.time_table.shape == (2, 24) and torch.equal(target.head.weight, source.head.weight)
    assert torch.equal(target.pos_tables[1], source.pos_tables[1])
    assert target(clips_of(target), 1).isfinite().all()


def test_another_architecture_is_one_line():
    for source, target, text in (
        (
            {},
            {"patch_embed": "conv_stem", "token_lengths": (14, 7)},
            "a.pt has a ConvPatchEmbed, the model a ConvStem; set model.patch",
        ),
        ({}, {"joint_positions": True}, "whether one position table is over space and time"),
    ):
        with pytest.raises(InputError, match=text):
            refit(small("timesformer_base", **source), small("timesformer_base", **target), origin="a.pt")
    state, _ = refit(small("deit_tiny"), small("deit_tiny", token_lengths=(7,)), origin="a.pt")
    with pytest.raises(InputError, match="does not fit this model"):
        load_weights(small("deit_tiny", depth=3, token_lengths=(7,)), state, source="a.pt")


def test_classes_still_go_by_their_names_and_later_draws_do_not_depend_on_the_start(tmp_path):
    options = ["data.root=x", "data.num_frames=3", "data.crop=32", "data.train_jitter=[32,32]"]
    options += ["model.name=timesformer_tiny", "model.options={dim: 16, depth: 2, heads: 2}"]
    before = load_config(None, [*options, "model.token_lengths=[2]", "model.distill_token=false"])
    now = load_config(None, [*options, "model.token_lengths=[4,2]"])
    trained = build_model(before, 3)
    torch.nn.init.normal_(trained.head.weight)
    path = tmp_path / "a.pt"
    state = {"kind": "revit", "model": trained.state_dict(), "step": 1, "config": config_to_dict(before)}
    save_checkpoint({**state, "class_names": ["a", "b", "c"]}, path)
    model = build_model(now, 3)
    torch.manual_seed(5)
    notes = start_from(model, str(path), ["c", "a", "b"])
    drawn = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(drawn, torch.rand(3))
    assert notes[0] == f"{path}: token lengths: 4 from 2, 2 as it is" and "order of the data" in notes[1]
    for head in (model.head, model.head_distill):
        assert torch.equal(head.weight, trained.head.weight[[2, 0, 1]])


def test_training_goes_on_from_the_shortest_length_alone(demo_data, tmp_path, capsys):
    settings = [*SMALL, f"data.root={demo_data}", "device=cpu", "revit.grow_share=0", "stage=revit"]
    alone = [
        *settings,
        "model.token_lengths=[3]",
        "model.distill_token=false",
        f"output_dir={tmp_path / 'a'}",
    ]
    assert cli.train(["--cfg", str(CFG), *alone]) == 0
    start = RunFolder(tmp_path / "a").revit
    go_on = [
        *settings,
        f"model.init_from={start}",
        f"output_dir={tmp_path / 'b'}",
        "model.token_lengths=[8,5,3]",
    ]
    assert cli.train(["--cfg", str(CFG), *go_on]) == 0
    assert f"{start}: token lengths: 8 from 3, 5 from 3, 3 as it is" in capsys.readouterr().out
    assert load_checkpoint(RunFolder(tmp_path / "b").revit, kind="revit")["model"]["norm.scale"].shape[0] == 3
