"""One process fails: all end, with one line that names it."""

import signal
import socket

import pytest
from distributed_failures import HANGING, TIMEOUT_S, fail
from processes import start

HOST = socket.gethostname()
LINES = {
    "hangs between steps": f"rank 1 ({HOST}) has not reached step 3 for {TIMEOUT_S:g} s "
    "(distributed.timeout_s); it was last at the exchange of gradients",
    "hangs in a pass": f"rank 1 ({HOST}) has not reached the exchange of gradients for {TIMEOUT_S:g} s "
    "(distributed.timeout_s); it was last at step 3",
    "killed": "the connection to another process broke at the exchange of gradients: it has ended; "
    f"rank 1 ({HOST}) was last at step 3",
    "mistake of one": f"rank 1 ({HOST}): two of three videos cannot be read",
    "system": f"rank 1 ({HOST}): [Errno 2] No such file or directory: '/no/such/file'",
    "rank 0 alone": f"rank 0 ({HOST}): [Errno 2] No such file or directory: ",
    "mistake of all": "a setting is wrong",
}

KILLED = ("killed", *HANGING)  # the latter by torchrun, here by `start`


def run(mode, folder):
    codes = start(fail, mode, folder, size=3, hanging=int(mode in HANGING))
    return codes, [(folder / f"err{rank}").read_text() for rank in range(3)]


@pytest.mark.parametrize("mode", LINES)
def test_one_line_says_who_failed_and_how(mode, tmp_path):
    codes, texts = run(mode, tmp_path)
    said = [line for text in texts for line in text.splitlines() if line.startswith("error: ")]
    assert len(said) == 1 and LINES[mode] in said[0], (said, texts)
    ended = -signal.SIGKILL if mode in KILLED else 2
    assert codes == [2, ended, 2]
    assert not any("Traceback" in text for text in texts)


def test_a_bug_shows_its_traceback_once(tmp_path):
    codes, texts = run("bug", tmp_path)
    assert codes == [2, 1, 2]
    assert "AssertionError: a bug" in texts[1] and not any("Traceback" in texts[rank] for rank in (0, 2))


def test_the_others_wait_for_rank_0_as_long_as_it_works(tmp_path):
    codes, _ = run("long work of rank 0", tmp_path)
    assert codes == [0, 0, 0]


def test_a_part_of_torchruns_environment_is_refused(monkeypatch):
    from revit_video.train.world import start_world
    from revit_video.types import InputError

    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    with (
        pytest.raises(
            InputError, match="WORLD_SIZE is 2, but LOCAL_RANK, MASTER_ADDR, MASTER_PORT is not set"
        ),
        start_world(device_type="cpu", timeout_s=1),
    ):
        pass
