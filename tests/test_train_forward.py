"""How a training step runs the model: recomputed blocks, compiled lengths."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch._dynamo as dynamo
from torch._dynamo.utils import counters

from revit_video.backbones.core import ReViT
from revit_video.train.forward import TrainForward
from revit_video.train.losses import Distillation
from revit_video.train.revit import revit_step

LABELS = torch.tensor([0, 1, 2])
KINDS = {  # of blocks and embeddings
    "divided": {},
    "joint": {"attention": "joint"},
    "space_only": {"attention": "space_only"},
    "trajectory": {"attention": "trajectory", "num_frames": 4, "tubelet": 2},
    "mf_divided": {"attention": "mf_divided"},
}


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    dynamo.reset()
    counters.clear()
    yield
    dynamo.reset()


def gradients(model: ReViT, forward: TrainForward | ReViT, clips: torch.Tensor, **options) -> dict:
    """Of one step of all lengths, with the same draws of stochastic depth every time."""
    model.zero_grad()
    torch.manual_seed(7)
    options = {"distillation": Distillation(), "levels": [0, 1, 2]} | options
    revit_step(forward, clips, LABELS[: len(clips)], **options)
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def same(ours: dict, theirs: dict, *, tolerance: float = 0.0) -> None:
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=tolerance, atol=tolerance, msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_recomputed_blocks_have_the_same_gradients_also_with_stochastic_depth(tiny, clips, kind):
    model = tiny(drop_path=0.5, depth=3, **KINDS[kind]).train()
    batch = clips(3, model.num_frames)
    plain = gradients(model, model, batch)
    torch.manual_seed(8)
    other = gradients(model, model, batch)
    same(plain, other)  # the draws are the seed's
    same(gradients(model, TrainForward(model, recompute=True), batch), plain)


def test_recomputed_blocks_go_with_transfers_and_a_short_last_block(tiny, clips):
    transfers = Distillation(feature_weight=0.5, attention_weight=0.5)
    model = tiny(drop_path=0.5, depth=3).train()
    plain = gradients(model, model, clips(3), distillation=transfers)
    same(gradients(model, TrainForward(model, recompute=True), clips(3), distillation=transfers), plain)
    short = tiny(class_token_only=True, depth=3).train()
    same(gradients(short, TrainForward(short, recompute=True), clips(3)), gradients(short, short, clips(3)))


def kept_for_backward(forward: TrainForward, clips: torch.Tensor) -> int:
    """Bytes that the graph of a forward pass holds, the model's own left out."""
    own = {p.data_ptr() for p in forward.model.parameters()}
    seen: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.data_ptr() not in own:
            seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        out = forward(clips, 0)
    assert out.logits.requires_grad
    return sum(seen.values())


def test_recomputed_blocks_keep_little_for_the_backward_pass(tiny, clips):
    model = tiny(depth=6, dtype=torch.float32).train()
    batch = clips(3).float()
    plain, less = (kept_for_backward(TrainForward(model, recompute=on), batch) for on in (False, True))
    assert less < plain / 3


def test_the_model_counts_once_among_the_parameters(tiny):
    model = tiny()
    forward = TrainForward(model)
    assert [id(p) for p in forward.parameters()] == [id(p) for p in model.parameters()]
    assert len(forward.state_dict()) == len(model.state_dict())


def test_without_compilation_it_is_the_model(tiny, clips):
    model = tiny()
    forward = TrainForward(model)
    for level in range(3):
        wanted = model(clips(2), level, full_output=True, with_looks=True)
        ours = forward(clips(2), level, with_looks=True)
        assert torch.equal(ours.logits, wanted.logits) and torch.equal(ours.looks, wanted.looks)
        assert torch.equal(forward(clips(2), level, full_output=False), wanted.prediction())


@pytest.mark.parametrize("recompute", [False, True])
def test_every_length_is_compiled_once_and_never_again(tiny, clips, fresh_compiler, recompute):
    model = tiny(drop_path=0.3, dtype=torch.float32).train()
    forward = TrainForward(model, recompute=recompute)
    forward.compile_for({2}, backend="eager")
    for step in range(3):
        for level in range(3):
            forward(clips(2, seed=step).float(), level).logits.sum().backward()
        assert counters["stats"]["unique_graphs"] == 3  # one for each, all in the first step
    forward(clips(1).float(), 0)  # a batch with a broken video
    forward(clips(3).float(), 1)
    assert counters["stats"]["unique_graphs"] == 3
    assert not counters["graph_break"]


def test_two_sizes_of_more_lengths_than_torch_keeps_by_itself_are_compiled_all(tiny, clips, fresh_compiler):
    model = tiny(token_lengths=(6, 5, 4, 3, 2), depth=1, dtype=torch.float32)
    forward = TrainForward(model)
    forward.compile_for({1, 2}, backend="eager")
    for _ in range(2):
        for level in range(5):
            for size in (1, 2):
                forward(clips(size).float(), level)
        assert counters["stats"]["unique_graphs"] == 10


@pytest.mark.parametrize("kind", KINDS)
def test_no_kind_of_block_breaks_the_graph(tiny, clips, fresh_compiler, kind):
    model = tiny(drop_path=0.3, dtype=torch.float32, **KINDS[kind]).train()
    forward = TrainForward(model)
    forward.compile_for({2}, backend="eager")
    for level in (0, 1):
        forward(clips(2, model.num_frames).float(), level, with_looks=kind == "divided")
    assert not counters["graph_break"]
    assert counters["stats"]["unique_graphs"] == 2


def test_autocast_does_not_break_the_graph_either(tiny, clips, fresh_compiler):
    model = tiny(dtype=torch.float32).train()
    forward = TrainForward(model)
    forward.compile_for({2}, backend="eager")
    for _ in range(2):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            forward(clips(2).float(), 1).logits.sum().backward()
    assert not counters["graph_break"] and counters["stats"]["unique_graphs"] == 1


def test_compiled_lengths_have_the_same_gradients(tiny, clips, fresh_compiler):
    model = tiny().train()
    forward = TrainForward(model, recompute=True)
    forward.compile_for({2}, backend="aot_eager")
    same(gradients(model, forward, clips(2)), gradients(model, model, clips(2)), tolerance=1e-10)
    assert counters["stats"]["unique_graphs"] == 3


@pytest.mark.slow
def test_generated_code_has_the_same_gradients(tiny, clips, fresh_compiler):
    model = tiny().train()
    forward = TrainForward(model)
    forward.compile_for({2})
    same(gradients(model, forward, clips(2)), gradients(model, model, clips(2)), tolerance=1e-7)
