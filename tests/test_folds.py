"""Parts of a list: cross-labelling by models that have not seen a video, and leaving groups out in turn."""

import json
import shutil

import pytest
from small_run import PLAIN, contents, report_of, train

from revit_video import build
from revit_video.build.lists import build_split
from revit_video.config import load_config
from revit_video.data.folds import fold_of
from revit_video.dry_run import dry_run
from revit_video.routing.labels import LengthLabels
from revit_video.stages import labels as labels_stage
from revit_video.train.checkpoint import file_digest
from revit_video.types import InputError, VideoSample

pytest_plugins = ["run_fixtures"]

FOLDS = 2
CROSSED = ["labels.split=train", f"labels.folds={FOLDS}", "solver.max_steps=2", "revit.grow_share=0"]


@pytest.fixture(scope="module")
def crossed_run(tmp_path_factory, demo_data):
    out = tmp_path_factory.mktemp("crossed") / "run"
    assert train(out, demo_data, *CROSSED, *PLAIN) == 0
    return out


def labels_of(run) -> dict:
    return json.loads((run / "labels.json").read_text())


def test_each_video_is_labelled_by_the_model_that_was_trained_without_it(crossed_run):
    labels, config = labels_of(crossed_run), load_config(crossed_run / "config.yaml")
    samples = build_split(config, "train").samples
    assert labels["indices"] == list(range(len(samples)))
    assert labels["folds"] == [fold_of(sample, FOLDS) for sample in samples]
    assert set(labels["folds"]) == set(range(FOLDS))
    assert labels["checkpoint_sha256"] == file_digest(crossed_run / "checkpoints/revit.pt")
    run = build.build_device(config)
    job = build.labels_job(config, build_folder(crossed_run), run)
    for part, fold in zip(build.fold_configs(config), job.folds, strict=True):
        trained_on = {sample.path for sample in build_split(part, "train").samples}
        labelled = {samples[row].path for row in fold.rows}
        assert not trained_on & labelled and len(trained_on | labelled) == len(samples)
        assert labels["fold_sha256"][str(fold.number)] == file_digest(fold.checkpoint)
        model = fold.model()
        for row in fold.rows[:2]:
            item = job.evaluation.dataset[(0, row)]
            logits = model(run.to_clips(item.clips), 0)[0]
            assert bool(logits.argmax() == item.label) == labels["correct"][row][0]
            loss = -logits.log_softmax(-1)[item.label].item()
            assert labels["losses"][row][0] == pytest.approx(loss, abs=2e-4)
    assert len(set(labels["fold_sha256"].values())) == FOLDS
    assert report_of(crossed_run)["adaptive"]["gmacs"] > 0


def build_folder(run):
    from revit_video.stages.job import RunFolder

    return RunFolder(run)


def test_a_finished_part_is_kept_and_a_missing_one_is_made_again_the_same(crossed_run, demo_data, tmp_path):
    run = shutil.copytree(crossed_run, tmp_path / "run")
    before = contents(run / "folds/0_of_2")
    for name in ("labels.json", "folds/1_of_2/checkpoints/revit.pt"):
        (run / name).unlink()
    assert train(run, demo_data, "stage=labels", "resume=auto", *CROSSED) == 0
    kept = contents(run / "folds/0_of_2")
    assert {name: kept[name] for name in before if "revit.pt" in name or "log" in name} == {
        name: before[name] for name in before if "revit.pt" in name or "log" in name
    }
    ours, theirs = labels_of(run), labels_of(crossed_run)
    for name in ("correct", "losses", "confidences", "folds"):
        assert ours[name] == theirs[name]


def test_a_killed_labels_stage_goes_on_with_the_part_that_is_missing(
    run, small_run, demo_data, monkeypatch, capfd
):
    for name in ("labels.json", "recognizer.pt", "checkpoints/assigner.pt", "report.json"):
        (run / name).unlink()
    seen, label_part = [], labels_stage.label_part

    def noting(job, fold, rows, *args, **options):
        if len(seen) == 2 and not (run / "again").exists():
            raise KeyboardInterrupt
        seen.append(list(rows))
        return label_part(job, fold, rows, *args, **options)

    monkeypatch.setattr(labels_stage, "PART", 5)
    monkeypatch.setattr(labels_stage, "label_part", noting)
    assert train(run, demo_data, "stage=labels", "resume=true") == 130
    assert not (run / "labels.json").exists() and (run / "labels_so_far.json").exists()
    (run / "again").touch()
    assert train(run, demo_data, "stage=labels", "resume=true") == 0
    assert "labels: going on after 10 videos" in capfd.readouterr().out
    assert seen == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9], [10, 11, 12, 13]]
    ours, theirs = labels_of(run), labels_of(small_run)
    assert {**ours, "losses": 0, "confidences": 0} == {**theirs, "losses": 0, "confidences": 0}
    for name in ("losses", "confidences"):  # batches of other sizes round otherwise
        for row, other in zip(ours[name], theirs[name], strict=True):
            assert row == pytest.approx(other, rel=1e-4)
    assert not (run / "labels_so_far.json").exists()


def test_labels_that_were_not_crossed_are_refused_where_crossed_ones_are_asked_for(crossed_run):
    file, labels = crossed_run / "labels.json", labels_of(crossed_run)
    same = {name: labels[name] for name in ("checkpoint_sha256", "split_sha256")}
    assert LengthLabels.load(file, **same, crossed=True).folds == tuple(labels["folds"])
    with pytest.raises(InputError, match=r"was made with labels\.folds; give labels\.folds as it was"):
        LengthLabels.load(file, **same)


def test_cross_labelling_a_list_that_is_not_trained_on_is_refused(demo_data, tmp_path, refusal):
    line = refusal(train(tmp_path / "run", demo_data, "labels.split=val", "labels.folds=3"))
    assert "labels.folds is 3, but must be 0 with labels.split=val" in line
    line = refusal(train(tmp_path / "run", demo_data, *CROSSED, "data.leave_out=0/2"))
    assert "labels.folds=2 leaves out parts of the training list by itself" in line
    assert not (tmp_path / "run").exists()


def test_the_dry_run_says_what_the_parts_cost(crossed_run, tmp_path):
    config = load_config(crossed_run / "config.yaml", [f"output_dir={tmp_path / 'new'}", "resume=false"])
    said: list[str] = []
    assert dry_run(config, say=said.append) == 0
    assert [line for line in said if line.startswith("labels.folds: part ")] == [
        f"labels.folds: part {k}/2 is left out: {len(build_split(part, 'train').samples)} videos, 2 steps"
        for k, part in enumerate(build.fold_configs(config))
    ]
    assert any("these trainings cost 2.00 times that of the run's own backbone" in line for line in said)


@pytest.mark.parametrize("pattern", ["", r"_(\d+)_"])
def test_a_group_is_in_one_part_wherever_it_lies_and_parts_are_about_equal(pattern):
    samples = [VideoSample(f"/data/c{i % 3}/set_{i % 60}_{i}.avi", i % 3) for i in range(600)]
    moved = [VideoSample(sample.path.replace("/data", "/mnt/x"), 0) for sample in samples]
    parts = [fold_of(sample, 3, group_pattern=pattern) for sample in samples]
    assert parts == [fold_of(sample, 3, group_pattern=pattern) for sample in moved]
    if pattern:
        assert all(parts[i] == parts[i % 60] for i in range(600))
    assert all(100 < parts.count(part) < 300 for part in range(3))
    assert fold_of(VideoSample("long.mp4", 0, begin=0, end=9), 7) == fold_of(
        VideoSample("long.mp4", 1, begin=9, end=20), 7
    )


def test_a_part_of_nothing_or_of_everything_is_refused(demo_data):
    config = load_config(None, ["data.dataset=demo", "data.flip=false", f"data.root={demo_data}"])
    whole = build_split(config, "train").samples
    everything = max(range(5000), key=lambda k: fold_of(whole[0], 5000) == k)
    for number in (everything, (everything + 1) % 5000):
        left = [
            f"data.leave_out={number}/5000",
            "data.dataset=demo",
            "data.flip=false",
            f"data.root={demo_data}",
        ]
        if number == everything:
            assert len(build_split(load_config(None, left), "train").samples) == len(whole) - 1
        else:
            with pytest.raises(InputError, match=r"part \d+ of 5000 holds 0 of the 16 videos"):
                build_split(load_config(None, left), "train")
    assert len(build_split(load_config(None, left), "test").samples) == 10  # the training list alone
