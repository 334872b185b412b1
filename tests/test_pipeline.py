"""The main job end to end on generated videos, at a very small size: what it leaves, and how it goes on."""

import json
import pickle
import random
import shutil
from pathlib import Path

import pytest
import torch
from small_run import PLAIN, ROOT, VIDEOS, contents, report_of, train

from revit_video import build
from revit_video.build.passes import eval_job, train_dataset
from revit_video.config import load_config
from revit_video.data.demo import demo_split
from revit_video.evaluate.adaptive import Stored
from revit_video.recognizer import Recognizer
from revit_video.routing.budget import biased_levels
from revit_video.routing.rule import assigner_rule
from revit_video.stages import assigner as assigner_stage
from revit_video.stages import revit as revit_stage
from revit_video.stages.job import EvalJob, RunFolder, all_levels
from revit_video.train.log import RunLog
from revit_video.train.losses import Distillation
from revit_video.train.optim import build_optimizers
from revit_video.train.progress import ProgressFolder
from revit_video.train.revit import revit_step

pytest_plugins = ["run_fixtures"]

SMALL_CONFIGS = sorted(
    path for name in ("demo", "trashnet") for path in (ROOT / "configs" / name).glob("*.yaml")
)
LENGTHS = (8, 5, 3)
FILES = {
    "config.yaml",
    "labels.json",
    "recognizer.pt",
    "report.json",
    "report.md",
    "accuracy_vs_gmacs.png",
    "accuracy_vs_time.png",
    "lengths.png",
    "log.jsonl",
    "checkpoints/revit.pt",
    "checkpoints/assigner.pt",
}


def numbers(run: Path) -> dict:
    """The report without what differs from run to run: times, date, command, and commit."""
    report = report_of(run)
    report.pop("throughput", None)
    points = [row for rows in report["curve"].values() for row in rows]
    for row in [*report["per_length"], report["adaptive"], *points]:
        for key in ("clips_per_s", "ms", "over_pure_in_time"):
            row.pop(key, None)
    for key in ("date", "command", "commit"):
        report["protocol"].pop(key)
    return report


def weights(run: Path) -> dict[str, torch.Tensor]:
    return torch.load(run / "checkpoints/revit.pt", weights_only=True)["model"]


def same_weights(a: Path, b: Path) -> bool:
    ours, theirs = weights(a), weights(b)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def copy(run: Path, to: Path, *without: str) -> Path:
    shutil.copytree(run, to)
    for name in without:
        (to / name).unlink()
    return to


def test_a_run_leaves_its_files_and_nothing_else(small_run):
    left = {name for name in contents(small_run) if not name.startswith("tensorboard/")}
    assert left == FILES
    assert list((small_run / "tensorboard").glob("*/events*"))
    rows = [json.loads(line) for line in (small_run / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if row["stage"] == "revit"] == [0, 10, 11]
    assert {row["stage"] for row in rows} == {"revit", "assigner"}
    assert load_config(small_run / "config.yaml").solver.max_steps == 12


def test_the_report_has_the_structure_that_readers_rely_on(small_run):
    report = report_of(small_run)
    assert [row["length"] for row in report["per_length"]] == list(LENGTHS)
    for row in [*report["per_length"], report["adaptive"]]:
        assert 0 <= row["top1_low"] <= row["top1"] <= row["top1_high"] <= 100
        assert row["gmacs"] > 0 and row["clips_per_s"] > 0
    assert list(report["adaptive"]["share"]) == ["8", "5", "3"]
    assert sum(report["adaptive"]["share"].values()) == pytest.approx(1)
    assert set(report["baselines"]) == {"random", "oracle", "cascade", "hybrid"}
    for row in report["baselines"].values():
        assert 0 <= row["top1"] <= 100 and row["gmacs"] > 0
    assert set(report["tags"]) <= {"easy", "medium", "hard"}
    protocol = report["protocol"]
    expected = {"views": "2x1", "num_videos": VIDEOS["test"], "num_unreadable": 0, "decoder": "pyav"}
    expected |= {"device": "cpu", "dtype": "float32", "seed": 0}
    assert {key: protocol[key] for key in expected} == expected
    assert protocol["commit"] and protocol["command"]


def test_the_adaptive_cost_is_the_mix_of_the_lengths_and_one_look_per_clip(small_run):
    report = report_of(small_run)
    adaptive, costs = report["adaptive"], [row["gmacs"] for row in report["per_length"]]
    mix = sum(share * cost for share, cost in zip(adaptive["share"].values(), costs, strict=True))
    assert adaptive["gmacs"] == pytest.approx(mix + adaptive["assigner_gmacs"])
    assert report["baselines"]["random"]["gmacs"] == pytest.approx(mix)
    assert costs == sorted(costs, reverse=True)


def test_a_second_run_into_the_same_folder_is_refused_and_changes_nothing(small_run, demo_data, capfd):
    before = contents(small_run)
    for stage in ("all", "revit", "labels", "assigner", "test"):
        assert train(small_run, demo_data, f"stage={stage}") == 2
        err = capfd.readouterr().err
        assert err.count("\n") == 1 and "already holds" in err and "resume=true" in err
    assert contents(small_run) == before


def test_resuming_keeps_what_is_there_and_makes_what_is_missing_again_the_same(
    small_run, demo_data, tmp_path
):
    run = copy(small_run, tmp_path / "run", "recognizer.pt", "checkpoints/assigner.pt", "report.json")
    before = contents(run)
    assert train(run, demo_data, "resume=true", *PLAIN) == 0
    after = contents(run)
    for name in ("checkpoints/revit.pt", "labels.json"):
        assert after[name] == before[name]
    assert numbers(run) == numbers(small_run)
    assert train(run, demo_data, "resume=true") == 0
    products = [name for name in after if not name.startswith(("tensorboard/", "config.yaml"))]
    assert all(contents(run)[name] == after[name] for name in products)


def test_resuming_where_there_is_no_run_is_refused_and_auto_starts_one(demo_data, tmp_path, capfd):
    assert train(tmp_path / "run", demo_data, "stage=revit", "resume=true") == 2
    assert capfd.readouterr().err == (
        f"error: {tmp_path / 'run'} holds no run to go on with; resume=auto starts one there\n"
    )
    assert not (tmp_path / "run").exists()
    options = ["stage=revit", "resume=auto", "solver.max_steps=2"]
    assert train(tmp_path / "run", demo_data, *options) == 0
    before = contents(tmp_path / "run/checkpoints")
    (tmp_path / "run/checkpoints/step_00000001.pt").touch()  # of a kill just after stage 1
    assert train(tmp_path / "run", demo_data, *options) == 0
    assert "nothing left to do" in capfd.readouterr().out
    assert contents(tmp_path / "run/checkpoints") == before


def test_resuming_with_other_settings_is_refused_but_for_those_that_teach_nothing(
    small_run, demo_data, tmp_path, capfd
):
    run = copy(small_run, tmp_path / "run", "report.json")
    before = contents(run)
    for override in ("seed=1", "data.sampling_rate=2", "solver.base_lr=0.1", "revit.temperature=2"):
        assert train(run, demo_data, "resume=true", "stage=test", override, *PLAIN) == 2
        key, value = override.split("=")
        assert f"was run with {key}=" in (err := capfd.readouterr().err) and f"now it is {value}" in err
        assert contents(run) == before
    assert (
        train(run, demo_data, "resume=true", "stage=test", "data.num_workers=1", "data.cache=none", *PLAIN)
        == 0
    )
    assert numbers(run) == numbers(small_run)


def test_the_stages_one_by_one_give_the_report_of_all_at_once(small_run, demo_data, tmp_path):
    for stage in ("revit", "labels", "assigner", "test"):
        assert train(tmp_path / "run", demo_data, f"stage={stage}", *PLAIN) == 0
    assert numbers(tmp_path / "run") == numbers(small_run)


def test_a_later_stage_in_an_empty_folder_is_told_where_to_start(demo_data, tmp_path, capfd):
    assert train(tmp_path / "run", demo_data, "stage=labels") == 2
    assert "holds no run yet; start with stage=revit or stage=all" in capfd.readouterr().err
    assert not (tmp_path / "run").exists()


def test_one_seed_gives_one_report_and_another_seed_another(small_run, demo_data, tmp_path):
    assert train(tmp_path / "same", demo_data, *PLAIN) == 0
    assert numbers(tmp_path / "same") == numbers(small_run)
    assert same_weights(tmp_path / "same", small_run)
    assert train(tmp_path / "other", demo_data, "stage=revit", "seed=1") == 0
    assert not same_weights(tmp_path / "other", small_run)


def test_one_seed_gives_one_report_in_bfloat16_too(small_run, demo_data, tmp_path):
    for name in ("a", "b"):
        assert train(tmp_path / name, demo_data, "dtype=bfloat16", *PLAIN) == 0
    assert numbers(tmp_path / "a") == numbers(tmp_path / "b")
    assert report_of(tmp_path / "a")["protocol"]["dtype"] == "bfloat16"
    assert not same_weights(tmp_path / "a", small_run)


def test_the_same_videos_listed_as_kinetics_train_the_same_weights(small_run, demo_data, tmp_path):
    assert train(tmp_path / "run", demo_data, "stage=revit", "data.dataset=kinetics") == 0
    assert same_weights(tmp_path / "run", small_run)


def test_a_killed_run_goes_on_to_the_weights_of_an_unbroken_one(demo_data, tmp_path, monkeypatch, capfd):
    options = ["stage=revit", "model.drop_path=0.3", "solver.checkpoint_period=5", "solver.ema=0.9"]
    assert train(tmp_path / "whole", demo_data, *options) == 0

    calls = iter(range(100))

    def interrupted(*args, **kwargs):
        if next(calls) == 8:
            raise KeyboardInterrupt
        return revit_step(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(revit_stage, "revit_step", interrupted)
        assert train(tmp_path / "killed", demo_data, *options) == 130
    folder = RunFolder(tmp_path / "killed")
    assert "resume=auto goes on from the last checkpoint" in capfd.readouterr().err
    assert list(ProgressFolder(folder.progress).files()) == [5] and not folder.revit.exists()
    before = contents(folder.path)
    assert train(folder.path, demo_data, *options) == 2
    assert contents(folder.path) == before

    capfd.readouterr()
    assert train(folder.path, demo_data, *options, "resume=true") == 0
    assert "going on from step 5" in capfd.readouterr().out
    assert same_weights(folder.path, tmp_path / "whole")
    assert not ProgressFolder(folder.progress).files()


def test_the_budget_is_solved_on_videos_that_the_assigner_is_not_trained_on(
    small_run, demo_data, tmp_path, monkeypatch
):
    seen = {}
    train_batches, score = assigner_stage.train_batches, EvalJob.score

    def noting_training(dataset, **options):
        seen["training"] = {sample.path for sample in dataset.samples}
        return train_batches(dataset, **options)

    def noting_holdout(self, *args, **options):
        seen["holdout"] = {sample.path for sample in self.dataset.samples}
        return score(self, *args, **options)

    monkeypatch.setattr(assigner_stage, "train_batches", noting_training)
    monkeypatch.setattr(EvalJob, "score", noting_holdout)
    run = copy(small_run, tmp_path / "run", "recognizer.pt", "checkpoints/assigner.pt")
    assert train(run, demo_data, "stage=assigner", "router.holdout_share=0.25") == 0
    assert not seen["training"] & seen["holdout"]
    labelled = {sample.path for sample in demo_split(demo_data, "val").samples}
    assert seen["training"] | seen["holdout"] == labelled
    assert len(seen["holdout"]) == round(0.25 * len(labelled))


def test_an_assigner_of_another_size_can_be_trained_on_the_same_backbone(small_run, demo_data, tmp_path):
    run = copy(small_run, tmp_path / "run", "recognizer.pt", "checkpoints/assigner.pt", "report.json")
    for stage in ("assigner", "test"):
        assert train(run, demo_data, f"stage={stage}", "assigner.width=0.15", *PLAIN) == 0
    ours, theirs = (report_of(folder)["adaptive"]["assigner_gmacs"] for folder in (run, small_run))
    assert ours > theirs


def test_the_recognizer_predicts_what_the_test_stage_scores(small_run, demo_data):
    config = build.checkpoint_config(small_run / "recognizer.pt", ["test.num_spatial_crops=3"])
    job = build.test_job(config, small_run / "recognizer.pt", build.build_device(config))
    scores = job.evaluation.score(all_levels(job.model, job.assigner), RunLog(), title="test")
    stored = Stored(scores.values["logits"].unflatten(1, (2, 3)), scores.labels, tuple(job.router["costs"]))
    wishes = scores.values["assigner"].unflatten(1, (2, 3))[:, :, 1]
    leads = (wishes[..., 0] - wishes[..., 2]).flatten().sort().values
    bias = leads[len(leads) // 2 - 1 :][:2].mean().item() / (1 - stored.costs[2] / stored.costs[0])
    levels = biased_levels(wishes, stored.costs, bias)
    assert len(levels.unique()) > 1
    adaptive = stored.video_scores(levels)

    recognizer = Recognizer.load(small_run / "recognizer.pt", dtype="float32")
    recognizer.config, recognizer.router.rule = config, assigner_rule(bias, 3)
    for row, sample in enumerate(job.evaluation.dataset.samples):
        told = recognizer.predict(sample.path, top=10)
        assert told.token_lengths == tuple(LENGTHS[level] for level in levels[row])
        torch.testing.assert_close(by_class(told, job.class_names), adaptive[row], rtol=1e-4, atol=1e-5)
        mix = sum(stored.costs[level] for level in levels[row]) / 2
        assert told.gmacs_per_view == pytest.approx(mix + job.router["assigner_cost"] / 3)
    for level, length in enumerate(LENGTHS):
        told = recognizer.predict(job.evaluation.dataset.samples[0].path, length=length, top=10)
        fixed = stored.video_scores(stored.fixed(level))[0]
        torch.testing.assert_close(by_class(told, job.class_names), fixed, rtol=1e-4, atol=1e-5)
        assert (told.token_lengths, told.gmacs_per_view) == ((length, length), stored.costs[level])


def by_class(told, class_names) -> torch.Tensor:
    """Probabilities in the order of the classes."""
    assert list(told.probabilities) == sorted(told.probabilities, reverse=True)
    named = dict(zip(told.class_names, told.probabilities, strict=True))
    return torch.tensor([named[name] for name in class_names])


def test_views_are_picked_by_functions_that_worker_processes_of_every_kind_can_receive(small_run):
    config = load_config(small_run / "config.yaml")
    for dataset in (
        train_dataset(config, [], one_frame=True),
        eval_job(config, [], None, clips=2, crops=3, one_frame=True).dataset,
    ):
        again = pickle.loads(pickle.dumps(dataset))
        assert again.pick_views(40, random.Random(0), 25.0) == dataset.pick_views(40, random.Random(0), 25.0)


@pytest.mark.parametrize("path", SMALL_CONFIGS, ids=lambda path: path.stem)
def test_a_small_config_builds_its_model_at_a_reduced_size_and_takes_a_step(path):
    reduced = [f"model.options.{key}" for key in ("dim=24", "depth=1", "heads=2")]
    config = load_config(path, ["data.root=none", *reduced])
    model = build.build_model(config, num_classes=3)
    optimizers = build_optimizers(
        model, config.solver.optimizer, lr=config.solver.base_lr, weight_decay=config.solver.weight_decay
    )
    before = [parameter.clone() for parameter in model.parameters()]
    report = revit_step(
        model,
        torch.randn(2, 3, config.data.num_frames, config.data.crop, config.data.crop),
        torch.tensor([0, 2]),
        levels=range(model.num_levels),
        distillation=Distillation(),
    )
    for optimizer in optimizers:
        optimizer.step()
    assert report["loss"] > 0
    assert not any(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert model.token_lengths == tuple(config.model.token_lengths)
