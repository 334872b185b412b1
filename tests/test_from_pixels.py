"""Lengths with pixels of their own (`patch_embed=resize`): what is resized, moved and computed, and that
every way to run a model gives one number.
"""

import runpy
from functools import partial

import pytest
import torch
from small_run import ROOT, report_of, run_tool, train

from revit_video import build
from revit_video.build.networks import as_decoded
from revit_video.recognizer import Recognizer
from revit_video.routing.assigner import Assigner
from revit_video.routing.buckets import run_bucketed
from revit_video.routing.from_pixels import AssignerFromPixels, BackboneFromPixels, resized
from revit_video.routing.router import Router, run_at_levels
from revit_video.routing.rule import assigner_rule, cascade_rule
from revit_video.stages.job import all_levels
from revit_video.train.log import RunLog
from revit_video.transform import normalise
from revit_video.types import InputError

pytest_plugins = ["run_fixtures"]

COSTS = (1.0, 0.45, 0.2)
LOOKS = {"mean": (0.45, 0.45, 0.45), "std": (0.25, 0.2, 0.25)}


@pytest.fixture
def moved():
    """Shapes of what went to the device."""
    return []


@pytest.fixture
def networks(tiny, moved):
    """A backbone that resizes and an assigner, as they are and from pixels."""
    torch.manual_seed(0)
    backbone = tiny(patch_embed="resize").float().eval()
    assigner = Assigner(3, width=0.1, depth=0.3, image_size=16).eval()

    def to_clips(clips):
        moved.append(tuple(clips.shape))
        return normalise(clips, **LOOKS)

    return backbone, assigner, BackboneFromPixels(backbone, to_clips), AssignerFromPixels(assigner, to_clips)


def pixels(backbone, count):
    """Smooth pictures with edges: uint8 (count, T, 3, H, W)."""
    generator = torch.Generator().manual_seed(1)
    coarse = torch.randint(0, 256, (count * backbone.num_frames, 3, 6, 6), generator=generator).float()
    frames = torch.nn.functional.interpolate(coarse, size=backbone.crop, mode="bicubic").clamp(0, 255)
    frames[:, :, 5:11, 3:14] = 255
    return frames.round().byte().unflatten(0, (count, backbone.num_frames))


def test_pixels_are_resized_as_the_embedding_does_it_within_one_of_255(networks):
    backbone, clips = networks[0], pixels(networks[0], 2)
    for level in (1, 2):
        embed = backbone.patch_embeds[level]
        assert embed.size != backbone.crop
        floats = embed.resize(clips.double().transpose(1, 2)).transpose(1, 2)
        ours = resized(clips, embed.size)
        assert ours.dtype == torch.uint8 and ours.shape[-2:] == embed.size
        assert (ours - floats).abs().max() <= 1.0
    assert resized(clips, backbone.crop) is clips


@torch.inference_mode()
def test_the_longest_length_has_the_logits_of_the_whole_frame_bit_for_bit(networks):
    backbone, _, from_pixels, _ = networks
    clips = pixels(backbone, 3)
    assert torch.equal(from_pixels(clips, 0), backbone(normalise(clips, **LOOKS), 0))


def test_a_clip_of_the_size_of_another_length_is_refused_with_both_sizes_that_fit(networks):
    backbone = networks[0]
    wrong, own = backbone.patch_embeds[2].size, backbone.patch_embeds[1].size
    clips = torch.zeros(1, 3, backbone.num_frames, *wrong)
    crop, fits = "x".join(map(str, backbone.crop)), "x".join(map(str, own))
    with pytest.raises(InputError, match=rf"of {crop}, or of {fits} at this length"):
        backbone(clips, 1)


@torch.inference_mode()
def test_the_assigner_sees_the_same_whether_all_frames_were_moved_or_its_own(networks, moved):
    backbone, _, _, _ = networks
    clips = pixels(backbone, 3)
    for frames in (1, 3):
        moved.clear()
        assigner = Assigner(3, width=0.1, depth=0.3, image_size=16, frames=frames).eval()
        looking = AssignerFromPixels(assigner, networks[3].to_clips)
        torch.testing.assert_close(looking(clips), assigner(normalise(clips, **LOOKS)))
        assert moved == [(3, frames, 3, *backbone.crop)]


@torch.inference_mode()
def test_a_length_moves_its_own_pixels_alone(networks, moved):
    backbone, _, from_pixels, _ = networks
    clips, levels = pixels(backbone, 5), torch.tensor([2, 0, 2, 1, 2])
    run_at_levels(from_pixels, clips, levels)
    frames, (height, width) = backbone.num_frames, backbone.crop
    grids = [backbone.grids[level] for level in range(3)]
    sides = [
        (height * grid.height // grids[0].height, width * grid.width // grids[0].width) for grid in grids
    ]
    assert moved == [(count, frames, 3, *side) for count, side in zip((1, 1, 3), sides, strict=True)]


@pytest.mark.parametrize("kind", ["assigner", "cascade"])
@torch.inference_mode()
def test_routed_pixels_get_the_logits_that_a_clip_gets_alone(networks, kind):
    backbone, _, from_pixels, looking = networks
    clips = pixels(backbone, 7)
    sure = from_pixels(clips, 2).softmax(-1).amax(-1).median().item()  # half of the clips stop there
    rule = assigner_rule(0.0, 3) if kind == "assigner" else cascade_rule(sure, 3)
    router = Router(from_pixels, looking, costs=COSTS, rule=rule, look=0.04)
    routed = router(clips, batch_size=3)
    assert len(routed.levels.unique()) > 1
    queued = list(run_bucketed(router, iter(clips[:, None]), batch_size=2))
    for row, level in enumerate(routed.levels.tolist()):
        alone = from_pixels(clips[row : row + 1], level)
        torch.testing.assert_close(routed.logits[row], alone[0], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(queued[row].logits[0, 0], alone[0], rtol=1e-5, atol=1e-6)
    assert [one.levels.item() for one in queued] == routed.levels.tolist()


def test_networks_whose_lengths_share_the_frame_are_left_as_they_are(tiny):
    parts = tiny(), Assigner(3, width=0.1, depth=0.3), "run"
    assert all(ours is theirs for ours, theirs in zip(as_decoded(*parts), parts, strict=True))


@pytest.fixture(scope="module")
def resizing_run(tmp_path_factory, demo_data):
    out = tmp_path_factory.mktemp("resizing") / "run"
    crossed = ["labels.split=train", "labels.folds=2", "solver.max_steps=4", "revit.grow_share=0"]
    assert train(out, demo_data, "model.patch_embed=resize", "test.fewer_frames=[3]", *crossed) == 0
    return out


def test_a_run_goes_through_all_stages(resizing_run):
    report = report_of(resizing_run)
    assert report["adaptive"]["clips_per_s"] > 0 and "3 of 5 frames" in report["baselines"]


def test_the_recognizer_predicts_what_the_test_scores(resizing_run):
    file = resizing_run / "recognizer.pt"
    config = build.checkpoint_config(file, [])
    job = build.test_job(config, file, build.build_device(config))
    scores = job.evaluation.score(all_levels(job.model, job.assigner), RunLog(), title="test")
    recognizer = Recognizer.load(file, dtype="float32")
    paths = [sample.path for sample in job.evaluation.dataset.samples]
    told = [partial(recognizer.predict, path, top=10) for path in paths[:3]]
    for row, predict in enumerate(told):
        for level, length in enumerate(job.model.token_lengths):
            expected = scores.values["logits"][row, :, level].softmax(-1).mean(0)
            torch.testing.assert_close(by_class(predict(length=length), job.class_names), expected)
    for path, one in zip(paths, recognizer.predict_all(paths, top=10), strict=True):
        alone = recognizer.predict(path, top=10)
        assert one.token_lengths == alone.token_lengths
        torch.testing.assert_close(by_class(one, job.class_names), by_class(alone, job.class_names))


def by_class(told, class_names) -> torch.Tensor:
    named = dict(zip(told.class_names, told.probabilities, strict=True))
    return torch.tensor([named[name] for name in class_names])


def test_streams_and_throughput_take_it(resizing_run, demo_data, tmp_path):
    checkpoint, video = resizing_run / "recognizer.pt", sorted(demo_data.rglob("*.mp4"))[0]
    windows = ("--stride", "0.5", "--out", tmp_path / "seen.jsonl")
    assert run_tool("predict.py", video, "--checkpoint", checkpoint, *windows) == 0
    assert run_tool("predict.py", video, "--checkpoint", checkpoint, *windows[:2], "--length", "5") == 0
    assert run_tool("throughput.py", "--checkpoint", checkpoint, "--decode", "--clips", "3") == 0


def test_the_benchmark_runs(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["pixels.py", "--clips", "1", "--repeats", "1", "--device", "cpu"])
    with pytest.raises(SystemExit, match="0"):
        runpy.run_path(str(ROOT / "benchmarks/pixels.py"), run_name="__main__")
    assert "0.25" in capsys.readouterr().out  # of the bytes at 7
