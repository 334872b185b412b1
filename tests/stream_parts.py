"""What the tests of streams share: a checkpoint of random weights, videos, and servers that drop."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from make_video import make_video, numbered_frames

from revit_video.build.networks import build_model
from revit_video.config import config_to_dict, load_config
from revit_video.train.checkpoint import save_checkpoint

FPS = 10
CLASSES = ("walk", "run", "jump", "sit", "wave")


def random_checkpoint(path: Path, *overrides: str, names: Sequence[str] = CLASSES, heads=()) -> Path:
    """A backbone of random weights, 4 frames x stride 2 (0.8 s at 10 fps) at 32 px; lengths 4, 3, 2."""
    options = ["data.root=x", "data.num_frames=4", "data.sampling_rate=2", "data.crop=32", "num_threads=1"]
    options += ["data.train_jitter=[32,32]", "model.name=timesformer_tiny", "model.token_lengths=[4,3,2]"]
    options += ["model.options={dim: 16, depth: 2, heads: 2}", "test.num_spatial_crops=1", "dtype=float32"]
    config = load_config(None, [*options, *overrides])
    torch.manual_seed(0)
    model = build_model(config, len(names))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    state = {"kind": "revit", "model": model.state_dict(), "step": 1, "config": config_to_dict(config)}
    save_checkpoint({**state, "class_names": tuple(names), "heads": tuple(heads)}, path)
    return path


def long_video(path: Path, num_frames: int, *, size=(64, 48), **options) -> str:
    """Numbers that repeat after 256 frames, at 10 frames per second."""
    frames = numbered_frames(256, size)[[i % 256 for i in range(num_frames)]]
    return make_video(path, frames, FPS, **options)


@contextmanager
def server(*connections: bytes, pause_s: float = 0.0, chunk: int = 1 << 14) -> Iterator[str]:
    """A TCP address that serves each connection its own bytes and then drops it; after the last there is
    nobody any more.
    """
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(20)
    address = f"tcp://127.0.0.1:{listener.getsockname()[1]}"

    def serve() -> None:
        with listener, suppress(OSError):
            for content in connections:
                peer, _ = listener.accept()
                with peer, suppress(OSError):
                    for place in range(0, len(content), chunk):
                        peer.sendall(content[place : place + chunk])
                        time.sleep(pause_s)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield address
    finally:
        listener.close()
        thread.join(timeout=5)
