"""Tables, plots, timings and provenance say what was measured, and nothing about the machine's folders."""

import io
import json
import subprocess
import sys
import time

import numpy as np
import pytest
from matplotlib.image import imread

import revit_video
from revit_video.report import provenance as provenance_module
from revit_video.report.plots import plot_accuracy_vs_cost, plot_length_sheet, spread
from revit_video.report.provenance import provenance
from revit_video.report.tables import console_table, markdown_table
from revit_video.report.throughput import interleave, time_model
from revit_video.types import InputError

ROWS = [{"name": "14x14", "gmacs": 195.83, "top1": 0.7534}, {"name": "7x7", "gmacs": 48.1, "top1": None}]
COLUMNS = {"name": ("tokens", ""), "gmacs": ("GMACs", ".1f"), "top1": ("top-1", ".1%")}


def test_a_markdown_table_is_aligned_and_marks_what_was_not_measured():
    assert markdown_table(ROWS, COLUMNS).splitlines() == [
        "| tokens | GMACs | top-1 |",
        "| ------ | ----: | ----: |",
        "| 14x14  | 195.8 | 75.3% |",
        "| 7x7    |  48.1 |     - |",
    ]


def test_a_bar_in_a_cell_does_not_split_it():
    assert markdown_table([{"a": "x|y"}], {"a": ("h", "")}).splitlines()[-1] == r"| x\|y |"


def test_a_table_without_rows_is_its_header():
    assert markdown_table([], COLUMNS).splitlines()[0] == "| tokens | GMACs | top-1 |"


def test_a_pipe_gets_the_markdown_text_however_wide():
    file, wide = io.StringIO(), [{"name": "x" * 300}]
    console_table(wide, {"name": ("tokens", "")}, title="Cost", file=file)
    assert file.getvalue() == "Cost\n\n" + markdown_table(wide, {"name": ("tokens", "")}) + "\n"


def test_a_terminal_gets_colour_and_literal_brackets(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    file = io.StringIO()
    console_table([{"name": "[red]14"}], {"name": ("lengths", "")}, file=file)
    assert "\x1b[" in file.getvalue() and "[red]14" in file.getvalue()


def test_the_median_ignores_a_stalled_run_and_p90_shows_it(monkeypatch):
    seconds = iter([9.0] + [0.01] * 8 + [0.5, 0.7])  # one to warm up, ten that count
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def fn():
        now[0] += next(seconds)

    timing = time_model(fn, items=4, warmup=1, repeats=10)
    assert timing.ms_median == pytest.approx(10) and timing.ms_p90 == pytest.approx(500)
    assert timing.items_per_s == pytest.approx(400)


def test_functions_are_timed_in_turns():
    calls = []
    timings = interleave(
        {name: lambda name=name: calls.append(name) for name in "abc"}, items=1, warmup=1, repeats=2
    )
    assert "".join(calls) == "abc" * 3 and list(timings) == ["a", "b", "c"]


def test_timing_nothing_is_refused():
    with pytest.raises(InputError, match="repeats=0"):
        time_model(lambda: None, items=1, repeats=0)


FIXED = [{"length": 14, "top1": 97.0, "gmacs": 196.0}, {"length": 7, "top1": 90.0, "gmacs": 48.0}]
CURVE = [
    {"gmacs": g, "top1": 90 + g / 28, "top1_low": 89 + g / 28, "top1_high": 91 + g / 28}
    for g in (60, 100, 190)
]


def coloured(path, color, tolerance=0.03):
    """How many pixels of a picture have this colour."""
    return int((np.abs(imread(path)[..., :3] - np.array(color) / 255).max(axis=-1) < tolerance).sum())


def test_every_result_given_is_on_the_plot(tmp_path):
    curves = {"assigner": CURVE, "random": [{"gmacs": r["gmacs"], "top1": r["top1"] - 1} for r in CURVE]}
    oracle = {"oracle": {"gmacs": 66, "top1": 98.0}}
    blue, gold, black = (0x0F, 0x6C, 0xBD), (0xD9, 0x9A, 0x00), (0x1F, 0x24, 0x30)
    full, bare = tmp_path / "full.png", tmp_path / "bare.png"
    plot_accuracy_vs_cost(full, fixed=FIXED, curves=curves, points=oracle, title="made up")
    plot_accuracy_vs_cost(bare, fixed=[], curves={"random": curves["random"]}, title="made up")
    assert imread(full).shape[1] == 1200
    for color in (blue, gold):
        assert coloured(full, color) > 100 and coloured(bare, color) == 0
    assert coloured(full, black) > coloured(bare, black) + 200  # two squares of 52 points


def test_the_same_numbers_give_the_same_picture_in_any_order(tmp_path):
    for name, order in (("a", 1), ("b", -1)):
        plot_accuracy_vs_cost(
            tmp_path / f"{name}.png",
            fixed=FIXED[::order],
            curves={"cascade": CURVE[::order]},
            title="made up",
        )
    assert np.array_equal(imread(tmp_path / "a.png"), imread(tmp_path / "b.png"))


def test_labels_keep_their_distance_and_stay_where_there_is_room():
    heights = spread([0.1, 0.5, 0.52, 0.54, 0.9], gap=0.1)
    assert heights == pytest.approx([0.1, 0.42, 0.52, 0.62, 0.9])


def test_an_empty_plot_is_refused(tmp_path):
    with pytest.raises(InputError, match="nothing to plot"):
        plot_accuracy_vs_cost(tmp_path / "x.png", fixed=[], curves={"cascade": []}, title="")
    with pytest.raises(InputError, match="nothing to draw"):
        plot_length_sheet(tmp_path / "x.png", groups={"7x7": []})


def test_a_curve_without_points_is_left_out(tmp_path):
    for name, curves in (("with", {"cascade": CURVE, "assigner": []}), ("without", {"cascade": CURVE})):
        plot_accuracy_vs_cost(tmp_path / f"{name}.png", fixed=FIXED, curves=curves, title="made up")
    assert np.array_equal(imread(tmp_path / "with.png"), imread(tmp_path / "without.png"))


def test_the_sheet_shows_the_first_middle_and_last_frame_of_a_clip(tmp_path):
    colors = [(200, 0, 0), (9, 9, 9), (0, 200, 0), (0, 9, 9), (0, 0, 200)]  # frames 0, 2 and 4 are shown
    frames = np.stack([np.full((40, 60, 3), color, np.uint8) for color in colors])
    plot_length_sheet(tmp_path / "s.png", groups={"7x7": [{"frames": frames, "caption": "sway"}]})
    areas = [coloured(tmp_path / "s.png", color) for color in colors]
    assert min(areas[::2]) > 10_000 and max(areas[1::2]) < 100
    assert max(areas[::2]) < 1.05 * min(areas[::2])


def test_the_sheet_shows_the_one_frame_of_a_picture_once(tmp_path):
    frames = np.full((1, 40, 60, 3), (200, 0, 0), np.uint8)
    plot_length_sheet(tmp_path / "s.png", groups={"7x7": [{"frames": frames, "caption": "round"}]})
    assert coloured(tmp_path / "s.png", (200, 0, 0)) == pytest.approx((1.3 * 150) ** 2, rel=0.05)


def test_frames_of_another_kind_are_refused(tmp_path):
    with pytest.raises(
        InputError, match=r"frames are float32 \(2, 3, 8, 8\), but must be uint8 \(T, H, W, 3\)"
    ):
        clip = {"frames": np.zeros((2, 3, 8, 8), np.float32), "caption": ""}
        plot_length_sheet(tmp_path / "x.png", groups={"7x7": [clip]})


def test_plots_leave_pyplot_alone():
    code = "import sys, revit_video.report.plots; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_provenance_is_plain_json_with_every_surrounding(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["tools/test_net.py", "--cfg", "my runs/a.yaml"])
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)
    facts = provenance(device="cpu", dtype="bfloat16", seed=3, decoder="pyav")
    assert json.loads(json.dumps(facts)) == facts
    assert facts["command"] == "python tools/test_net.py --cfg 'my runs/a.yaml'"
    given = {
        "device": "cpu",
        "dtype": "bfloat16",
        "seed": 3,
        "decoder": "pyav",
        "revit_video": revit_video.__version__,
    }
    assert {key: facts[key] for key in given} == given
    assert facts["date"].endswith("+00:00") and facts["threads"] >= 1 and facts["device_name"]


@pytest.mark.parametrize(
    ("argv0", "command"),
    [
        ("/opt/env/bin/revit-video", "revit-video x"),
        ("/a/tools/plot.py", "python plot.py x"),
        ("t.py", "python t.py x"),
    ],
)
def test_the_command_names_no_folder_that_the_user_did_not_type(argv0, command, monkeypatch):
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)
    assert provenance_module._command([argv0, "x"]) == command


@pytest.fixture
def checkout(tmp_path):
    def git(*arguments):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", "-C", tmp_path, *identity, *arguments], check=True, capture_output=True)

    package = tmp_path / "package"
    package.mkdir()
    (package / "code.py").write_text("1")
    git("init")
    git("add", "package/code.py")
    git("commit", "-m", "first")
    return package


def test_the_commit_says_whether_tracked_files_were_edited(checkout):
    clean = provenance_module._commit(checkout)
    assert len(clean) == 12
    (checkout / "result.json").write_text("{}")
    assert provenance_module._commit(checkout) == clean
    (checkout / "code.py").write_text("2")
    assert provenance_module._commit(checkout) == clean + "+changes"


def test_an_installed_copy_takes_no_commit_from_a_checkout_around_it(checkout, tmp_path):
    (checkout / "site-packages").mkdir()
    assert provenance_module._commit(checkout / "site-packages") == "unknown"
    assert provenance_module._commit(tmp_path / "missing") == "unknown"
