"""Settings: files, bases, overrides; every mistake is one line that names the key and what to do."""

import dataclasses
from pathlib import Path

import pytest

from revit_video.config import config_from_dict, config_keys, config_to_dict, load_config, save_config
from revit_video.settings import Config, DataConfig, ModelConfig, SolverConfig
from revit_video.types import InputError

ROOT = "data.root=/videos"


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def refusal(*overrides: str, path: Path | None = None) -> str:
    with pytest.raises(InputError) as caught:
        load_config(path, [ROOT, *overrides])
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_defaults_need_nothing_but_the_data_root():
    assert load_config(None, [ROOT]) == Config(data=DataConfig(root="/videos"))
    with pytest.raises(InputError, match=r"^data\.root is not given; .* data\.root=VALUE$"):
        load_config()


def test_a_file_stands_over_its_base_and_overrides_stand_over_both(tmp_path):
    (tmp_path / "deep").mkdir()
    write(tmp_path / "a.yaml", "seed: 1\nmodel: {token_lengths: [8, 4, 2], options: {dim: 96, depth: 2}}")
    write(tmp_path / "b.yaml", "base: a.yaml\nseed: 2\ndata: {root: /b, crop: 112, train_jitter: [128, 160]}")
    top = write(tmp_path / "deep/c.yaml", "base: ../b.yaml\nseed: 3\nmodel: {options: {dim: 64}}\nsolver:\n")
    config = load_config(top, ["solver.base_lr=1e-3", "model.token_lengths=[14,7]"])
    assert (config.seed, config.data.root, config.data.crop) == (3, "/b", 112)
    assert config.model == ModelConfig(token_lengths=[14, 7], options={"dim": 64, "depth": 2})
    assert config.solver == SolverConfig(base_lr=0.001)


def test_later_overrides_win_and_reach_into_the_options():
    config = load_config(None, [ROOT, "seed=1", "seed=2", "model.options.depth=3", "data.flip=false"])
    assert (config.seed, config.model.options, config.data.flip) == (2, {"depth": 3}, False)


@pytest.mark.parametrize("value", ["007", "1e3", "true", "null", "a: b", "#1", "*x", "[a", "", "x=y"])
def test_text_is_taken_as_typed_and_survives_a_file(tmp_path, value):
    config = load_config(None, [ROOT, f"data.path_prefix={value}"])
    assert config.data.path_prefix == value
    save_config(config, tmp_path / "saved.yaml")
    assert load_config(tmp_path / "saved.yaml").data.path_prefix == value


def test_quotes_around_an_override_are_no_part_of_the_text():
    assert load_config(None, ["data.root='/my videos'"]).data.root == "/my videos"


def test_saving_and_loading_gives_the_same_config(tmp_path):
    changes = [
        "solver.base_lr=1e-5",
        "model.options={dim: 96, deep: {a: [1, x]}}",
        "data.dataset=class_folders",
        "data.group_pattern=_(\\d+)_",
    ]
    config = load_config(None, [ROOT, "data.flip_labels=[[left, right]]", "solver.lrs=[1,.5,.25]", *changes])
    save_config(config, tmp_path / "saved.yaml")
    assert load_config(tmp_path / "saved.yaml") == config
    assert config_from_dict(config_to_dict(config)) == config


def test_a_config_is_plain_and_frozen():
    config = load_config(None, [ROOT, "model.options={a: {b: [1]}}"])
    assert type(config.model.token_lengths) is list and type(config.model.options["a"]["b"]) is list
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.solver.base_lr = 1.0


def test_the_keys_are_those_of_the_saved_config():
    def flat(values, prefix=""):
        for key, value in values.items():
            inner = isinstance(value, dict) and prefix + key != "model.options"
            yield from flat(value, f"{key}.") if inner else [prefix + key]

    assert list(config_keys()) == list(flat(config_to_dict(Config())))


@pytest.mark.parametrize(
    "wrong, right",
    [
        ("solver.baselr", "solver.base_lr"),
        ("slover.momentum", "solver.momentum"),
        ("SOLVER.BASE_LR", "solver.base_lr"),
        ("base_lr", "solver.base_lr"),
        ("data.num_frame", "data.num_frames"),
        ("outputdir", "output_dir"),
        ("train.num_workers", "data.num_workers"),
    ],
)
def test_a_misspelt_key_is_named_with_the_right_one(tmp_path, wrong, right):
    text = f"unknown config key {wrong} in {{}}. Did you mean {right}?"
    assert refusal(f"{wrong}=1") == text.format(f"the override '{wrong}=1'")
    *groups, last = wrong.split(".")
    path = write(tmp_path / "x.yaml", "".join(f"{group}: " for group in groups) + f"{{{last}: 1}}")
    if groups:
        assert refusal(path=path) == text.format(path)


def test_a_key_like_no_other_gets_the_list_of_its_group():
    assert refusal("report.zzz=1").endswith("in the override 'report.zzz=1'; there are sheet_clips, plots")


def test_an_unknown_key_in_a_base_names_the_base(tmp_path):
    base = write(tmp_path / "base.yaml", "data: {num_frame: 3}")
    path = write(tmp_path / "top.yaml", "base: base.yaml")
    assert str(base) in refusal(path=path)


@pytest.mark.parametrize(
    "override, said",
    [
        ("data.num_frames=abc", "data.num_frames is 'abc' in {}, but must be a whole number"),
        ("data.num_frames=1.5", "data.num_frames is 1.5 in {}, but must be a whole number"),
        ("data.num_frames=", "data.num_frames is None in {}, but must be a whole number"),
        ("data.num_frames=true", "data.num_frames is True in {}, but must be a whole number"),
        ("data.num_frames.x=1", "data.num_frames is {'x': 1} in {}, but must be a whole number"),
        ("solver.base_lr=fast", "solver.base_lr is 'fast' in {}, but must be a number"),
        ("data.flip=maybe", "data.flip is 'maybe' in {}, but must be true or false"),
        ("model.token_lengths=7", "model.token_lengths is 7 in {}, but must be a list of whole numbers"),
        ("model.token_lengths=[14,x]", "model.token_lengths is [14, 'x'] in {}, but must be a list of whole"),
        (
            "data.flip_labels=[left, right]",
            "data.flip_labels is ['left', 'right'] in {}, but must be a list of pairs",
        ),
        ("model.options=3", "model.options is 3 in {}, but must be keys with values"),
        ("data=3", "data is 3 in {}, but is a group of keys (dataset, root, path_prefix, ...)"),
    ],
)
def test_a_wrong_type_names_key_value_place_and_type(override, said):
    assert refusal(override).startswith(said.replace("{}", f"the override {override!r}"))


@pytest.mark.parametrize(
    "override, said",
    [
        (
            "stage=revvit",
            "stage is 'revvit', but must be one of all, revit, labels, assigner, test. Did you mean revit?",
        ),
        ("device=gpu", "device is 'gpu', but must be auto, cpu, cuda or cuda:N"),
        ("seed=-1", "seed is -1, but must be at least 0"),
        ("solver.base_lr=0", "solver.base_lr is 0.0, but must be a number above 0"),
        ("solver.base_lr=nan", "solver.base_lr is nan, but must be a number above 0"),
        ("solver.weight_decay=inf", "solver.weight_decay is inf, but must be at least 0"),
        ("solver.max_epoch=0", "solver.max_epoch is 0, but must be at least 1"),
        (
            "solver.steps=[0,9]",
            "solver.lrs is [1.0, 0.1, 0.01], but must be a number above 0 for each of solver.st",
        ),
        ("solver.steps=[1,2,3]", "solver.steps is [1, 2, 3], but must be rising epochs that start with 0"),
        ("revit.distill_weight=1.1", "revit.distill_weight is 1.1, but must be from 0 to 1"),
        ("router.budget=0", "router.budget is 0.0, but must be above 0 and at most 1"),
        ("test.num_spatial_crops=2", "test.num_spatial_crops is 2, but must be 1 or 3"),
        ("data.mean=[0.5]", "data.mean is [0.5], but must be three numbers"),
        ("data.std=[1,1,0]", "data.std is [1.0, 1.0, 0.0], but must be three numbers above 0"),
        (
            "data.crop=300",
            "data.train_jitter is [256, 320], but must be [shortest, longest] with both at least",
        ),
        ("data.test_short_side=200", "data.test_short_side is 200, but must be 0 or at least data.crop=224"),
        ("data.split_shares=[0.5,0.5]", "data.split_shares is [0.5, 0.5], but must be three shares"),
        (
            "data.split_shares=[0.8,0.3,-0.1]",
            "data.split_shares is [0.8, 0.3, -0.1], but must be three shares",
        ),
        (
            "data.group_pattern=_\\d+",
            "data.group_pattern is '_\\\\d+', but must be a regex with exactly one (group)",
        ),
        ("data.group_pattern=(", "data.group_pattern is '(', but must be a regex"),
        (
            "data.flip_labels=[[a, b], [b, c]]",
            "data.flip_labels is [['a', 'b'], ['b', 'c']], but must be a list",
        ),
        (
            "data.dataset=ssv2",
            "data.flip is True, but must be false for ssv2, whose classes tell left from right",
        ),
        (
            "model.token_lengths=[7,14]",
            "model.token_lengths is [7, 14], but must be falling, each length once: [14, 7]",
        ),
        (
            "model.token_lengths=[7,7]",
            "model.token_lengths is [7, 7], but must be falling, each length once: [7]",
        ),
        ("model.token_lengths=[]", "model.token_lengths is [], but must be one or more lengths"),
        (
            "model.token_lengths=[7,0]",
            "model.token_lengths is [7, 0], but must be one or more lengths, each at least 1",
        ),
        (
            "model.token_lengths=[57]",
            "model.token_lengths starts with 57, but data.crop=224 allows at most 56",
        ),
    ],
)
def test_a_value_out_of_range_names_key_value_and_range(override, said):
    assert refusal(override).startswith(said)


def test_a_base_out_of_range_may_be_put_right_above_it(tmp_path):
    write(tmp_path / "base.yaml", "data: {crop: 448}")
    path = write(tmp_path / "top.yaml", "base: base.yaml\ndata: {train_jitter: [448, 512]}")
    assert load_config(path, [ROOT]).data.crop == 448


@pytest.mark.parametrize(
    "override", ["solver.base_lr", "=3", "data..crop=3", "data.mean=[", "data.mean=[1,\n"]
)
def test_a_malformed_override_is_quoted(override):
    assert repr(override) in refusal(override)


def test_configs_that_name_each_other_are_refused(tmp_path):
    write(tmp_path / "a.yaml", "base: b.yaml")
    path = write(tmp_path / "b.yaml", "base: a.yaml")
    assert refusal(path=path).endswith(f"{path} -> {tmp_path / 'a.yaml'} -> {path}")


def test_a_missing_file_or_base_is_named_with_its_neighbours(tmp_path):
    path = write(tmp_path / "k400_8x32.yaml", "base: defaults.yaml")
    said = refusal(path=tmp_path / "k400_8x16.yaml")
    assert said.startswith(
        f"no config file {tmp_path / 'k400_8x16.yaml'}; in its folder there are k400_8x32.yaml"
    )
    assert f"no config file {tmp_path / 'defaults.yaml'}, the base of {path}" in refusal(path=path)
    assert "no config file" in refusal(path=tmp_path)


@pytest.mark.parametrize(
    "text, said",
    [
        ("seed: 1\nmodel: }", "x.yaml:2 is no valid YAML"),
        ("seed: 1\nseed: 2", "x.yaml:2 is no valid YAML"),
        ("- 1", "x.yaml holds no keys with values"),
        ("base: [a.yaml, b.yaml]", "base is ['a.yaml', 'b.yaml'] in "),
        ("output_dir: ${nothing}", "output_dir: "),
    ],
)
def test_a_broken_file_is_refused_with_its_name_and_line(tmp_path, text, said):
    assert said in refusal(path=write(tmp_path / "x.yaml", text))


def test_settings_of_a_checkpoint_are_checked_too():
    with pytest.raises(
        InputError, match=r"unknown config key data\.rot in old\.pt\. Did you mean data\.root\?"
    ):
        config_from_dict({"data": {"rot": "x"}}, source="old.pt")
