"""tools/throughput.py and what it is made of: clips come out in order, times are of the clips they say."""

import json

import pytest
import torch
from small_run import run_tool

from revit_video.report import throughput
from revit_video.report.peak_memory import peak_bytes
from revit_video.report.throughput import flows

pytest_plugins = ["run_fixtures"]


class Clock:
    """A clock that stands still unless somebody waits."""

    now = 0.0

    def perf_counter(self) -> float:
        return self.now

    def wait(self, seconds: float) -> None:
        self.now += seconds


def test_the_time_of_an_item_is_from_asking_for_it_until_it_is_done(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(throughput, "time", clock)

    def items():
        for number in range(4):
            clock.wait(0.02)  # what it takes to get one
            yield number

    def singly(given):
        for _ in given:
            clock.wait(0.01)
            yield 1

    def together(given):
        clock.wait(0.01 * len(list(given)))
        yield 4

    seen = flows({"singly": singly, "together": together}, items, warmup=1, repeats=2)
    assert seen["singly"].ms_p50 == pytest.approx(30) and seen["singly"].ms_p95 == pytest.approx(30)
    assert seen["together"].ms_p50 == pytest.approx(80)  # they wait for 120, 100, 80 and 60 ms
    assert seen["together"].ms_p95 == pytest.approx(120)
    for flow in seen.values():
        assert flow.items_per_s == pytest.approx(4 / 0.12)


def test_a_way_that_loses_an_item_is_noticed():
    with pytest.raises(AssertionError, match="3 of 4 items came out"):
        flows({"way": lambda given: iter([len(list(given)) - 1])}, lambda: range(4), warmup=0, repeats=1)


@torch.inference_mode()
def test_peak_memory_counts_what_is_alive_at_once_and_no_view():
    x = torch.zeros(64, 128)

    def one_after_the_other():
        y = x + 1
        z = y.T + 1
        del y
        return z.T.contiguous()

    def all_at_once():
        y = x + 1
        z = y + 1
        return y.view(-1)[0] + (z + y).sum()

    cpu = torch.device("cpu")
    assert peak_bytes(one_after_the_other, cpu) == 2 * x.nbytes
    assert peak_bytes(all_at_once, cpu) in range(3 * x.nbytes, 3 * x.nbytes + 64)
    assert peak_bytes(lambda: x.view(-1).add_(1), cpu) == 0


WAYS = [
    *[(f"{n}x{n}", 4) for n in (8, 5, 3)],
    ("adaptive, in order of arrival", 4),
    ("adaptive, bucketed", 4),
    *[(f"{n}x{n}", 1) for n in (8, 5, 3)],
    ("adaptive, in order of arrival", 1),
]


@pytest.mark.parametrize("decode", [False, True])
def test_the_tool_times_every_way_of_a_trained_recognizer(small_run, demo_data, tmp_path, capfd, decode):
    out = [] if decode else ["--json", tmp_path / "speed.json", "--plot", tmp_path / "speed.png"]
    options = ["--clips", 7, "--batch-size", 4, "--repeats", 1, *["--decode"] * decode, *out]
    assert run_tool("throughput.py", "--checkpoint", small_run / "recognizer.pt", *options) == 0
    shown = capfd.readouterr().out
    assert "7 clips" in shown and all(way in shown for way, _ in WAYS)
    if decode:
        return
    seen = json.loads((tmp_path / "speed.json").read_text())
    assert (tmp_path / "speed.png").stat().st_size > 10_000
    assert (seen["num_clips"], seen["decode"], seen["dtype"], seen["device"]) == (7, False, "float32", "cpu")
    rows = {(row["what"], row["batch_size"]): row for row in seen["rows"]}
    assert list(rows) == WAYS
    report = json.loads((small_run / "report.json").read_text())
    costs = {f"{row['length']}x{row['length']}": row["gmacs"] for row in report["per_length"]}
    for (way, size), row in rows.items():
        longest = rows["8x8", size]
        assert 0 < row["ms_p50"] <= row["ms_p95"] and row["peak_mb"] > 0
        assert row["speed_up"] == pytest.approx(row["clips_per_s"] / longest["clips_per_s"])
        assert row["follows"] == pytest.approx(row["speed_up"] * row["gmacs"] / longest["gmacs"])
        if way in costs:
            assert row["gmacs"] == pytest.approx(costs[way])
        else:
            least = costs["3x3"] + report["adaptive"]["assigner_gmacs"]
            assert least <= row["gmacs"] * (1 + 1e-9) <= costs["8x8"] + report["adaptive"]["assigner_gmacs"]
    assert rows["8x8", 4]["peak_mb"] > rows["8x8", 1]["peak_mb"] > rows["3x3", 1]["peak_mb"]


def test_the_tool_takes_a_name_of_the_zoo_and_refuses_what_does_not_go_together(refusal, capfd):
    options = ["--token-lengths", 4, 3, 2, "--clips", 5, "--batch-size", 5, "--repeats", 1]
    name = ["--model", "timesformer_tiny"]
    assert run_tool("throughput.py", *name, *options, "--cost", 0.8, "device=cpu", "dtype=float32") == 0
    assert "timesformer_tiny: 5 clips" in capfd.readouterr().out
    for wrong, said in (
        ([*name, "--decode"], "--decode needs --checkpoint"),
        ([*name, "--checkpoint", "x.pt"], "give either --checkpoint"),
        ([], "give either --checkpoint"),
        ([*name, "--clips", 0], "--clips is 0, but must be at least 1"),
        ([*name, "data.root=x"], "--model takes device= and dtype= alone, not data.root"),
        (["--checkpoint", "x.pt", "--cost", 0.5], "--token-lengths and --cost go with --model"),
        ([*name, "--cost", 0.01, *options], "a mean cost of 0.01 of the longest length's is out of reach"),
    ):
        assert said in refusal(run_tool("throughput.py", *wrong))
