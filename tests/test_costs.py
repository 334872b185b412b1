"""What a backbone costs: closed form, traced graph and torch's counter give one number for all of the zoo."""

import json
import sys

import pytest
import torch
from small_run import ROOT, run_tool
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from revit_video.backbones.costs import (
    closed_form_macs,
    cost_rows,
    level_gmacs,
    model_names,
    patch_embed_macs,
)
from revit_video.backbones.zoo import MODELS, create_model
from revit_video.layers.trajectory import TrajectoryBlock
from revit_video.report.mac_rules import MORE_FLOPS
from revit_video.report.macs import count_macs, count_macs_torch
from revit_video.types import InputError

SMALL = {"dim": 24, "depth": 2, "heads": 2, "num_classes": 5, "crop": 32, "token_lengths": (4, 3, 2)}
SIZES = {"dim", "depth", "heads", "crop", "num_frames", "token_lengths"}  # what SMALL replaces


def small_model(name, **changes):
    frames = {} if is_image(name) else {"num_frames": 4}
    return create_model(name, **{**SMALL, **frames, **changes}).eval()


def is_image(name):
    return name.startswith(("deit", "lvvit", "t2t"))


def architectures():
    """The first model of each kind: at a small size those that differ in size alone are the very same."""
    found = {}
    for name, build in MODELS.items():
        rest = {key: value for key, value in build.keywords.items() if key not in SIZES}
        found.setdefault(f"{build.func.__name__} {sorted(rest.items())}", name)
    return list(found.values())


def clip_of(model, device="cpu"):
    return torch.zeros(1, 3, model.num_frames, *model.crop, device=device)


def assert_counts_agree(model, *, traced_level):
    """Closed form and torch's counter at every length; fvcore, which takes half a second, at one."""
    clip = clip_of(model)
    for level in range(model.num_levels):
        assert count_macs_torch(model, clip, level=level) == closed_form_macs(model, level).total
    assert count_macs(model, clip, level=traced_level) == closed_form_macs(model, traced_level).total


@pytest.mark.parametrize("name", architectures())
def test_three_counts_of_a_model_are_one_number(name):
    assert_counts_agree(small_model(name), traced_level=1)


@pytest.mark.parametrize("name", architectures())
def test_so_they_are_without_distillation_token_and_with_the_last_block_the_other_way(name):
    default = small_model(name)
    other = not default.blocks[-1].prefix_only and default.aux_head is None
    model = small_model(name, distill_token=False, distilled=False, class_token_only=other)
    assert_counts_agree(model, traced_level=0)
    assert closed_form_macs(model, 1) != closed_form_macs(default, 1)


OPTIONS = {
    "fixed trajectories": ("motionformer_base", {"attention_options": {"mode": "fixed"}}),
    "landmarks": ("motionformer_base", {"attention_options": {"landmarks": 5}}),
    "more landmarks than tokens": ("motionformer_base", {"attention_options": {"landmarks": 500}}),
    "an oblong crop with patches beyond its border": ("deit_tiny", {"crop": (33, 50)}),
    "frames made smaller": ("motionformer_divided_base", {"patch_embed": "resize"}),
    "an auxiliary head over frames": ("timesformer_space_base", {"aux_head": True, "pre_logits": "gelu"}),
    "a stem on frames": ("timesformer_base", {"patch_embed": "t2t_transformer"}),
    "a wide stem": ("lvvit_tiny", {"patch_embed_options": {"width": 16}, "crop": (33, 31)}),
    "wide tokens": ("t2t_vit_7", {"patch_embed_options": {"token_dim": 16}, "crop": (32, 40)}),
    "one block": ("motionformer_base", {"depth": 1}),
}


@pytest.mark.parametrize("what", OPTIONS)
def test_three_counts_agree_on(what):
    name, changes = OPTIONS[what]
    assert_counts_agree(small_model(name, **changes), traced_level=1)


@pytest.mark.parametrize("name", MODELS)
def test_the_closed_form_holds_at_real_size(name):
    """With two blocks, the others being the same; torch counts on the meta device."""
    with torch.device("meta"):
        model = create_model(name, depth=2).eval()
    counted = count_macs_torch(model, clip_of(model, "meta"), level=2)
    assert counted == closed_form_macs(model, 2).total


@pytest.mark.parametrize(
    ("changes", "gmacs"),
    [
        ({"class_token_only": False}, 204.16),
        ({"class_token_only": False, "attention_options": {"mode": "fixed"}}, 216.53),
        ({}, 189.16),
    ],
)
def test_motionformer_costs_half_of_what_is_published(changes, gmacs):
    with torch.device("meta"):
        model = create_model("motionformer_base", token_lengths=(14,), **changes)
    assert level_gmacs(model) == [pytest.approx(gmacs, abs=0.005)]


@pytest.mark.parametrize("name", ["timesformer_base", "timesformer_joint_base", "motionformer_divided_base"])
def test_the_share_of_attention_is_that_of_the_products_without_weights(name):
    model = small_model(name)
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=MORE_FLOPS) as counter:
        model(clip_of(model), 1)
    flops = {str(op): count for op, count in counter.get_flop_counts()["Global"].items()}
    weightless = sum(count for op, count in flops.items() if "bmm" in op or "attention" in op)
    macs = closed_form_macs(model, 1)
    assert (weightless // 2, sum(flops.values()) // 2) == (macs.attention, macs.total)


@pytest.mark.parametrize("kind", ["block", "patch embedding"])
def test_what_has_no_closed_form_is_refused_by_name(kind):
    class Reduced(TrajectoryBlock):
        pass

    class OtherStem(nn.Module):
        pass

    model = small_model("motionformer_base")
    if kind == "block":
        model.blocks[0].__class__ = Reduced
    else:
        model.patch_embeds[1] = OtherStem()
    with pytest.raises(InputError, match=r"(Reduced|OtherStem) has no closed form of its cost"):
        closed_form_macs(model, 1)


def test_the_cost_table_names_what_a_plain_model_of_that_grid_has_not():
    small = {**SMALL, "num_frames": 2, "token_lengths": (4, 3)}
    rows = list(cost_rows(["timesformer_base"], clips=2, crops=3, **small))
    plain = small_model("timesformer_base", **small, patch_embed="resize", distill_token=False)
    for level, (row, grid, patch) in enumerate(zip(rows, (4, 3), (8, 12), strict=True)):
        assert row["patch_embed_gmacs"] * 1e9 == pytest.approx(2 * grid**2 * 3 * patch**2 * 24)
        bare = closed_form_macs(plain, level).total - patch_embed_macs(plain, level).total
        own = row["patch_embed_gmacs"] + row["distill_token_gmacs"]
        assert row["gmacs"] - own == pytest.approx(bare / 1e9)
        assert (row["length"], row["tokens"], row["views"]) == (grid, 2 * grid**2, "2x3")
        assert row["total_gmacs"] == pytest.approx(6 * row["gmacs"])
        assert row["params"] == sum(p.numel() for p in create_model("timesformer_base", **small).parameters())
    assert rows[0]["distill_token_gmacs"] == 0 < rows[1]["distill_token_gmacs"]


def test_a_longest_length_that_is_distilled_pays_for_its_token():
    for row in cost_rows(["deit_tiny_distilled"], **SMALL):
        assert row["distill_token_gmacs"] > 0


def test_timesformer_base_costs_what_is_published_but_for_its_patches_and_distillation_token():
    rows = list(cost_rows(["timesformer_base"]))
    tokens = (0, 0.313, 0.298)
    for row, grid, published, token in zip(rows, (14, 10, 7), (195.83, 98.64, 48.11), tokens, strict=True):
        small_patches = 8 * grid**2 * 3 * 16**2 * 768 / 1e9  # of a frame resized to 16 px per token
        bare = row["gmacs"] - row["patch_embed_gmacs"] - row["distill_token_gmacs"]
        assert bare + small_patches == pytest.approx(published, abs=0.005)
        assert row["distill_token_gmacs"] == pytest.approx(token, abs=5e-4)


def test_all_stands_for_the_zoo():
    assert model_names(["all"]) == list(MODELS)
    assert model_names(["deit_tiny", "deit_small"]) == ["deit_tiny", "deit_small"]


def test_flops_takes_several_models_and_the_views_of_a_video(tmp_path, capsys):
    out = tmp_path / "costs.json"
    small = ["--token-lengths", 4, 2, "--num-classes", 5, "--views", "4x3", "--json", out]
    assert run_tool("flops.py", "--model", "timesformer_tiny", "deit_tiny", *small) == 0
    rows = json.loads(out.read_text())
    models = ["timesformer_tiny", "timesformer_tiny", "deit_tiny", "deit_tiny"]
    assert [row["model"] for row in rows] == models
    shown = capsys.readouterr().out
    for row in rows:
        assert row["total_gmacs"] == pytest.approx(12 * row["gmacs"])
        assert 0 < row["attention_share"] < 0.05
        assert f"{row['attention_share']:.1%}" in shown and f"{row['params']:,}" in shown


@pytest.mark.parametrize("views", ["3", "1x3x2", "0x3", "1x-3", "axb"])
def test_flops_refuses_views_that_are_none(views, tmp_path, capfd):
    assert run_tool("flops.py", "--model", "timesformer_tiny", "--views", views) == 2
    assert f"--views is '{views}', but must be CLIPSxCROPS" in capfd.readouterr().err


# docs/costs.md and its generator


@pytest.fixture
def costs(monkeypatch):
    """benchmarks/costs.py as a module."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    monkeypatch.delitem(sys.modules, "costs", raising=False)
    import costs

    return costs


def written_rows() -> list[dict[str, str]]:
    """The rows of all tables of the page, cells by header."""
    rows, header = [], None
    for line in (ROOT / "docs/costs.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("|"):
            header = None
        elif header is None:
            header = cells
        elif not line.startswith("| -"):
            rows.append(dict(zip(header, cells, strict=True)))
    return rows


@pytest.mark.parametrize(("kind", "digits"), [("VIDEO", 2), ("IMAGE", 3)])
def test_the_page_has_the_closed_forms_and_they_are_the_authors_costs(costs, kind, digits):
    """The columns that take no run; the others are made by the command alone."""
    written = {row["model"]: row for row in written_rows()}
    for row in getattr(costs, kind):
        plain = {"token_lengths": (14,), "distill_token": False, "class_token_only": False, **row.changes}
        model = costs.build(row.name, **plain)
        official = costs.official_gmacs(model)
        cells = written[row.label]
        assert cells["as published"] == f"{official:.{digits}f}"
        assert cells.get("here", cells["as published"]) == f"{costs.gmacs(model):.{digits}f}"
        assert float(cells["their code"]) == row.authors_code
        assert official == pytest.approx(row.authors_code, abs=0.006 if kind == "VIDEO" else 0.04)  # norms


def test_the_authors_image_models_cost_what_fvcore_says_once_norms_are_added(costs):
    for row in [row for row in costs.IMAGE if row.name in ("deit_small", "t2t_vit_7", "lvvit_tiny")]:
        assert costs.model_row(row)["with_norms"] == pytest.approx(row.authors_code, abs=6e-4)


def test_the_page_has_the_closed_forms_of_the_rivals(costs):
    written = {row["model"]: row for row in written_rows()}
    for row in costs.RIVALS:
        model = costs.build(row.name, **row.changes)
        assert written[row.label]["GMACs"] == f"{costs.gmacs(model, row.level):.3f}"
        assert float(written[row.label]["with norms"]) == pytest.approx(row.authors_code, rel=5e-3)


def test_the_page_has_every_row(costs):
    labels = [row.label for row in (*costs.VIDEO, *costs.IMAGE)]
    lengths = {**costs.VIDEO_LENGTHS, **costs.IMAGE_LENGTHS}
    labels += [name for name, column in lengths.items() for _ in column]
    labels += [row["model"] for row in costs.embedding_rows(costs.build)]
    labels += [row["model"] for row in costs.parameter_rows(costs.build)]
    labels += [row.label for row in costs.RIVALS]
    assert [row["model"] for row in written_rows()] == [*labels, *(row.label for row in costs.BASELINES)]


@pytest.mark.slow
def test_the_page_is_what_its_command_writes(costs):
    pytest.importorskip("pytorchvideo")
    assert costs.page() == (ROOT / "docs/costs.md").read_text()


class Paths(nn.Module):
    """SlowFast takes a list, into which it writes."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, clip):
        return self.model([clip[:, :, ::4], clip])


MVIT = {"spatial_size": 32, "temporal_size": 4, "depth": 4, "pool_kv_stride_adaptive": [1, 4, 4]}
MVIT |= {"embed_dim_mul": [[1, 2.0]], "atten_head_mul": [[1, 2.0]], "pool_q_stride_size": [[1, 1, 2, 2]]}
BASELINES = {
    "slowfast_r50": {"head_pool_kernel_sizes": ((1, 1, 1), (4, 1, 1))},
    "x3d_xs": {"inner_act": nn.SiLU},  # its own Swish is an operation written in Python
    "mvit_base_16x4": MVIT,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", BASELINES)
def test_two_counters_agree_on_the_baselines(costs, name):
    pytest.importorskip("pytorchvideo")
    model = costs.build_baseline(name, **BASELINES[name])
    side = 160 if name == "x3d_xs" else 32
    model = (Paths(model) if name == "slowfast_r50" else model).eval()
    clip = torch.zeros(1, 3, 4, side, side)
    assert count_macs(model, clip) == count_macs_torch(model, clip) > 0


def test_x3d_costs_what_is_published_with_norms_and_without(costs):
    pytest.importorskip("pytorchvideo")
    rows = [costs.baseline_row(row) for row in costs.BASELINES if row.label == "X3D-M"]
    assert [row["deviation"] for row in rows] == [pytest.approx(0, abs=1e-3)] * 2


def test_without_pytorchvideo_the_page_says_what_to_install(costs, monkeypatch):
    monkeypatch.setitem(sys.modules, "pytorchvideo", None)
    monkeypatch.delitem(sys.modules, "pytorchvideo.models", raising=False)
    with pytest.raises(InputError, match=r"pip install 'revit_video\[baselines\]'"):
        costs.build_baseline("x3d_xs")
