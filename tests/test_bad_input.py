"""Lists, settings and command lines that are wrong: one line on stderr, exit code 2, nothing overwritten."""

import pytest
import torch
from refusals import assert_says
from small_run import contents, run_tool, train

from revit_video import cli
from revit_video.types import InputError

pytest_plugins = ["run_fixtures"]


def edit_line(list_file, number: int, text: str) -> None:
    lines = list_file.read_text().splitlines()
    lines[number - 1] = text
    list_file.write_text("\n".join(lines) + "\n")


LIST_MISTAKES = {  # what happens to {split}.csv -> what is said of it
    "missing": (lambda path: path.unlink(), r"no file .*{split}\.csv; in its folder there are \w+\.csv"),
    "empty": (lambda path: path.write_text("\n"), r"{split}\.csv is empty; expected lines like"),
    "one field": (
        lambda path: edit_line(path, 3, "a.mp4"),
        r"{split}\.csv:3: expected a path, a space and a label",
    ),
    "no number": (lambda path: edit_line(path, 3, "a.mp4 left"), r"{split}\.csv:3: the label is 'left'"),
    "label too large": (
        lambda path: edit_line(path, 3, "a.mp4 10"),
        r"{split}\.csv:3: the label is 10, but there are 10 classes",
    ),
    "no such video": (
        lambda path: edit_line(path, 3, "videos/nowhere.mp4 1"),
        r"1 of the \d+ videos of .*{split}\.csv do not exist: .*nowhere\.mp4",
    ),
}


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("mistake", LIST_MISTAKES)
def test_a_mistake_in_any_list_shows_before_anything_is_written(mistake, split, data, tmp_path, refusal):
    make, message = LIST_MISTAKES[mistake]
    make(data / f"{split}.csv")
    before = contents(tmp_path)
    code = train(tmp_path / "run", data, "data.dataset=kinetics")
    assert_says(refusal(code), message.format(split=split))
    assert contents(tmp_path) == before and not (tmp_path / "run").exists()


SETTING_MISTAKES = {
    "solver.base_rl=0.1": r"unknown config key solver\.base_rl .*Did you mean solver\.base_lr\?",
    "solver.batch_size=many": r"solver\.batch_size is 'many' .* must be a whole number",
    "solver.batch_size=0": r"solver\.batch_size is 0, but must be at least 1",
    "router.budget=1.5": r"router\.budget is 1\.5, but must be above 0 and at most 1",
    "model.token_lengths=[3,8]": r"must be falling, each length once: \[8, 3\]",
    "model.token_lengths=[9,5]": r"starts with 9, but data\.crop=32 allows at most 8",
    "model.token_lengths=[8]": r"nothing to assign; give more lengths or stage=revit",
    "model.name=timesformer_tinny": r"no model named 'timesformer_tinny'\. Nearest: timesformer_tiny",
    "model.options.dimm=24": r"has no argument 'dimm'\. Nearest: dim",
    "model.options.heads=5": r"dim=24 is no multiple of heads=5",
    "model.init_from=nowhere.pt": r"set revit\.grow_share=0",
    "model.init_from=nowhere.pt revit.grow_share=0": r"no checkpoint at nowhere\.pt",
    "data.decoder=vlc": r"data\.decoder is 'vlc', but must be one of auto, pyav, decord",
    "data.root=nowhere": r"nowhere holds no complete demo data set; run: .*make_demo_data\.py nowhere",
    "data.flip_labels=[[left,rite]]": r"names the class 'rite', which the data does not have",
    "batch_size": r"cannot read the override 'batch_size'; write it like solver\.base_lr=0\.01",
}


@pytest.mark.parametrize("override", SETTING_MISTAKES)
def test_a_wrong_setting_is_named_before_anything_is_written(override, demo_data, tmp_path, refusal):
    line = refusal(train(tmp_path / "run", demo_data, *override.split()))
    assert_says(line, SETTING_MISTAKES[override])
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU to run on")
def test_a_gpu_that_is_not_there_is_refused(demo_data, tmp_path, refusal):
    assert "torch sees no GPU here; use device=cpu" in refusal(
        train(tmp_path / "run", demo_data, "device=cuda")
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"no config file .*mine\.yaml"),
        ("model: [", r"mine\.yaml:\d+ is no valid YAML"),
        ("- a\n- b\n", r"mine\.yaml holds no keys with values"),
        ("base: other.yaml", r"no config file .*other\.yaml, the base of .*mine\.yaml"),
    ],
)
def test_a_config_file_that_is_none_is_refused(text, message, tmp_path, refusal):
    if text is not None:
        (tmp_path / "mine.yaml").write_text(text)
    assert_says(refusal(run_tool("train_net.py", "--cfg", tmp_path / "mine.yaml")), message)


def test_debug_shows_where_an_error_arose(small_run, tmp_path):
    with pytest.raises(InputError, match="no config file"):
        cli.train(["--cfg", str(tmp_path / "none.yaml"), "--debug"])
    with pytest.raises(InputError, match="no such file"):
        cli.predict([str(tmp_path / "a.mp4"), "--checkpoint", str(small_run / "recognizer.pt"), "--debug"])


@pytest.mark.parametrize("arguments", [["--cfg"], ["--wrong"], []])
def test_a_wrong_command_line_ends_in_one_line_too(arguments, refusal):
    assert "train_net.py --help explains" in refusal(run_tool("train_net.py", *arguments))


def test_what_the_system_refuses_is_said_in_one_line(small_run, demo_data, tmp_path, refusal):
    (tmp_path / "file").write_text("")
    assert "file" in refusal(train(tmp_path / "file" / "run", demo_data))
    assert "file" in refusal(train(tmp_path / "file", demo_data))
    arguments = [
        "--model",
        "timesformer_tiny",
        "--token-lengths",
        2,
        "--json",
        tmp_path / "none" / "costs.json",
    ]
    assert "costs.json" in refusal(run_tool("flops.py", *arguments))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "timesformer_bass"], "Nearest: timesformer_base"),
        (
            ["--model", "timesformer_tiny", "--token-lengths", "7", "14"],
            r"\[7, 14\], but must be positive and fall",
        ),
        (["--model", "timesformer_tiny", "--token-lengths", "29"], "the crop allows lengths up to 28"),
        (["--model", "timesformer_tiny", "--token-lengths", "short"], "invalid int value: 'short'"),
    ],
)
def test_flops_refuses_what_no_model_can_be(arguments, message, tmp_path, refusal):
    assert_says(refusal(run_tool("flops.py", *arguments, "--json", tmp_path / "costs.json")), message)
    assert not (tmp_path / "costs.json").exists()
