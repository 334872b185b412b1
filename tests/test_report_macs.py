"""Multiply-adds: three counters that share no code agree exactly, and nothing is counted as 0 by mistake."""

import subprocess
import sys
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from revit_video.report.closed_forms import Tokens, divided, joint, patch_stem, transformer
from revit_video.report.macs import count_macs, count_macs_torch
from revit_video.types import InputError


class Calls(nn.Module):
    """A function as a module."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *inputs):
        return self.function(*inputs)


class Attention(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.heads, self.qkv, self.proj = heads, nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x, queries=None):
        q, k, v = self.qkv.weight.chunk(3)
        q, k, v = F.linear(x[..., :queries, :], q), F.linear(x, k), F.linear(x, v)
        q, k, v = (y.unflatten(-1, (self.heads, -1)).transpose(-3, -2) for y in (q, k, v))
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(-3, -2).flatten(-2))


class Reference(nn.Module):
    """Divided space-time attention (frames > 1) or a plain image ViT, as short as it can be written."""

    def __init__(self, dim, depth, heads, frames, patch, classes, prefix, prefix_only):
        super().__init__()
        self.frames, self.prefix, self.prefix_only, self.dim = frames, prefix, prefix_only, dim
        self.embed = nn.Conv2d(3, dim, patch, patch)
        make = {"time": lambda: Attention(dim, heads), "space": lambda: Attention(dim, heads)}
        make |= {"fc": lambda: nn.Linear(dim, dim), "norm": lambda: nn.LayerNorm(dim)}
        make |= {"mlp": lambda: nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))}
        self.blocks = nn.ModuleList(nn.ModuleDict({k: f() for k, f in make.items()}) for _ in range(depth))
        self.heads = nn.ModuleList(nn.Linear(dim, classes) for _ in range(prefix))

    def forward(self, clips):
        x = self.embed(clips.transpose(1, 2).flatten(0, 1)).flatten(2).transpose(1, 2)
        x = x.unflatten(0, (-1, self.frames))  # (B, T, S, D)
        head = x.new_zeros(len(x), self.prefix, self.dim)
        for i, block in enumerate(self.blocks):
            only = self.prefix_only and i == len(self.blocks) - 1
            if self.frames > 1:
                x = x + block["fc"](block["time"](block["norm"](x).transpose(1, 2)).transpose(1, 2))
            tokens = torch.cat([head[:, None].expand(-1, self.frames, -1, -1), x], dim=2)
            seen = block["space"](block["norm"](tokens), self.prefix if only else None)
            head = head + seen[:, :, : self.prefix].mean(1)
            rest = x[:, :0].flatten(1, 2) if only else (x + seen[:, :, self.prefix :]).flatten(1, 2)
            y = torch.cat([head, rest], dim=1)
            y = y + block["mlp"](block["norm"](y))
            head, x = y[:, : self.prefix], x if only else y[:, self.prefix :].unflatten(1, (self.frames, -1))
        return sum(linear(head[:, i]) for i, linear in enumerate(self.heads))


@pytest.mark.parametrize("prefix_only", [False, True])
@pytest.mark.parametrize("prefix", [1, 2])
@pytest.mark.parametrize("frames", [1, 3])
def test_both_counters_and_the_closed_form_give_the_same_number(frames, prefix, prefix_only):
    model = Reference(24, 3, 2, frames, 8, 5, prefix, prefix_only)
    clips = torch.randn(1, 3, frames, 32, 40)
    n = Tokens(dim=24, heads=2, hidden=96, frames=frames, patches=4 * 5, prefix=prefix)
    size = {"depth": 3, "num_classes": 5, "stem": patch_stem(n, patch=(8, 8)), "prefix_only": prefix_only}
    closed = transformer(joint if frames == 1 else divided, n, **size).total
    assert count_macs(model, clips) == count_macs_torch(model, clips) == closed


PRODUCTS = {
    "matmul broadcasts its left side": (torch.matmul, [(4, 5), (7, 5, 6)], 7 * 4 * 5 * 6),
    "matrix times vector": (torch.matmul, [(4, 5), (5,)], 20),
    "vector times matrix": (torch.matmul, [(5,), (5, 6)], 30),
    "vector times vector": (torch.matmul, [(5,), (5,)], 5),
    "addmm": (torch.addmm, [(6,), (4, 5), (5, 6)], 120),
    "baddbmm": (torch.baddbmm, [(7, 4, 6), (7, 4, 5), (7, 5, 6)], 840),
    "addmv": (torch.addmv, [(4,), (4, 5), (5,)], 20),
    "einsum": (
        partial(torch.einsum, "b i a d, b j a d -> b a i j"),
        [(2, 41, 3, 101), (2, 43, 3, 101)],
        1068378,
    ),
    "einsum of dots": (
        partial(torch.einsum, "...nd,...md->...nm"),
        [(2, 3, 41, 5), (3, 43, 5)],
        2 * 3 * 41 * 43 * 5,
    ),
    "einsum of a broadcast": (partial(torch.einsum, "bnd,bmd->bnm"), [(2, 3, 4), (1, 5, 4)], 2 * 3 * 5 * 4),
    "einsum of one": (partial(torch.einsum, "bnd->nbd"), [(2, 3, 4)], 0),
    "attention": (
        F.scaled_dot_product_attention,
        [(2, 3, 4, 8), (2, 3, 9, 8), (2, 3, 9, 16)],
        2 * 3 * 4 * 9 * 24,
    ),
    "linear": (F.linear, [(2, 3, 5), (7, 5)], 210),
    "convolution in groups": (partial(F.conv2d, groups=2), [(3, 4, 9, 9), (6, 2, 3, 3)], 3 * 6 * 2 * 9 * 49),
    "convolution that keeps the size": (
        partial(F.conv2d, padding="same"),
        [(1, 2, 9, 9), (6, 2, 3, 3)],
        6 * 2 * 9 * 81,
    ),
    "convolution without padding": (
        partial(F.conv2d, padding="valid"),
        [(1, 2, 9, 9), (6, 2, 3, 3)],
        108 * 49,
    ),
    "convolution of a clip": (
        partial(F.conv3d, stride=(2, 4, 4)),
        [(1, 3, 4, 8, 8), (5, 3, 2, 4, 4)],
        5 * 96 * 8,
    ),
    "transposed convolution": (
        partial(F.conv_transpose2d, stride=2),
        [(1, 4, 5, 5), (4, 3, 2, 2)],
        4 * 3 * 4 * 25,
    ),
    "a sum of products, term by term": (torch.addcmul, [(4, 5), (4, 1), (4, 5)], 20),
    "norms, softmax, resizing": (
        lambda x: F.interpolate(F.layer_norm(x, (8,)).softmax(-1), 16),
        [(2, 3, 8)],
        0,
    ),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_each_operation_costs_what_its_shapes_say(name):
    function, shapes, macs = PRODUCTS[name]
    inputs = [torch.randn(shape) for shape in shapes]
    assert count_macs(Calls(function), *inputs) == count_macs_torch(Calls(function), *inputs) == macs


def test_attention_kernels_called_by_name_are_counted_too():
    q, k, v = torch.randn(2, 3, 4, 8), torch.randn(2, 3, 9, 8), torch.randn(2, 3, 9, 8)
    flash = Calls(lambda q, k, v: torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v)[0])
    assert count_macs(flash, q, k, v) == 2 * 3 * 4 * 9 * 16


def test_torchs_encoder_layer_hides_nothing_behind_its_one_kernel():
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    macs = 5 * (4 * 16**2 + 2 * 16 * 32) + 2 * 5 * 5 * 16
    assert count_macs(layer, torch.randn(1, 5, 16)) == count_macs_torch(layer, torch.randn(1, 5, 16)) == macs


@pytest.mark.parametrize(
    ("function", "operation"),
    [
        (torch.cdist, "aten::cdist"),
        (lambda a, b: a.clone().addmm_(a, b), "aten::addmm_"),
        (torch.outer, "aten::outer"),
    ],
)
def test_an_operation_without_a_rule_is_an_error_that_names_it(function, operation):
    shape = (4,) if function is torch.outer else (4, 4)
    with pytest.raises(InputError, match=rf"cannot count the multiply-adds of {operation} in Calls"):
        count_macs(Calls(function), torch.randn(shape), torch.randn(shape))


def test_an_operation_written_in_python_is_an_error_too():
    class Square(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x @ x

        @staticmethod
        def backward(ctx, grad):
            raise NotImplementedError

    with pytest.raises(InputError, match=r"Square"):
        count_macs(Calls(Square.apply), torch.randn(4, 4))


def test_a_product_of_three_in_one_einsum_is_refused():
    three = Calls(partial(torch.einsum, "ab,bc,cd->ad"))
    with pytest.raises(InputError, match="one or two operands"):
        count_macs(three, *(torch.randn(3, 3) for _ in range(3)))


@pytest.mark.parametrize("frozen", [True, False])
def test_a_result_that_only_steers_python_is_counted(frozen):
    class Router(nn.Module):
        def __init__(self):
            super().__init__()
            self.assigner = nn.Linear(4, 3)
            self.experts = nn.ModuleList([nn.Linear(4, 8) for _ in range(3)])

        def forward(self, x):
            logits = self.assigner(x)
            level = (logits.detach() if frozen else logits).argmax(dim=-1).tolist()[0]
            return {"logits": self.experts[level](x), "level": level, "none": None}

    x = torch.randn(1, 4)
    assert count_macs(Router(), x) == count_macs_torch(Router(), x) == 12 + 32


def test_a_module_without_a_result_is_counted():
    def decide(x):
        assert (x @ x).sum() < 1e9

    assert count_macs(Calls(decide), torch.randn(4, 4)) == 64


def test_keyword_arguments_reach_the_module():
    class Levels(nn.ModuleList):
        def forward(self, x, level=0):
            return self[level](x)

    model = Levels([nn.Linear(4, 8), nn.Linear(4, 2)])
    assert [count_macs(model, torch.randn(1, 4), level=level) for level in (0, 1)] == [32, 8]
    assert count_macs_torch(model, torch.randn(1, 4), level=1) == 8


@pytest.mark.parametrize("count", [count_macs, count_macs_torch])
def test_counting_leaves_modes_statistics_and_gradients_as_they_were(count):
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3), nn.Dropout(0.5))
    model[1].eval()  # a frozen part of a model in training
    before = {key: value.clone() for key, value in model.state_dict().items()}
    x = torch.randn(2, 3, 8, 8, requires_grad=True)
    count(model, x)
    assert [part.training for part in model] == [True, False, True]
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert model(x).requires_grad and torch.is_grad_enabled()
    assert not model[0]._forward_hooks and not model[0]._forward_pre_hooks


SILENT = """
import torch
from torch import nn
from revit_video.report.macs import count_macs
class Model(nn.Sequential):
    def forward(self, x):
        return self[0](x) if x.sum() > -99 else x  # tracing warns of a branch, fvcore of an uncalled self[1]
count_macs(Model(nn.Linear(4, 4), nn.Linear(4, 4)), torch.randn(2, 4))
"""


def test_counting_is_silent_from_the_first_import():
    run = subprocess.run([sys.executable, "-c", SILENT], capture_output=True, text=True)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


def test_the_batch_multiplies_the_count():
    model = nn.Linear(4, 8)
    assert count_macs(model, torch.randn(5, 4)) == 5 * count_macs(model, torch.randn(1, 4))


def test_heads_must_divide_the_width():
    with pytest.raises(InputError, match="dim=10 cannot be split over heads=3"):
        Tokens(dim=10, heads=3, hidden=40, frames=1, patches=16)
