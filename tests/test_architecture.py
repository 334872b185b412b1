"""The rules that keep the package readable: imports run downwards, and only build/ reads the settings."""

import ast
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from revit_video.config import config_keys

PACKAGE = Path(__file__).parents[1] / "revit_video"
TIERS = [  # a part may import its own tier and those above it in this list
    {"types", "settings", "config", "command_line"},
    {"decode", "sample", "transform", "layers", "evaluate", "report"},
    {"data", "backbones", "routing", "train"},
    {"competitors", "convert", "stages"},
    {"build"},
    {"recognizer", "pipeline", "dry_run", "stream", "studies", "compare", "figures"},
    {"cli", "demo", "submit"},
]
TIER = {part: number for number, parts in enumerate(TIERS) for part in parts}
CONFIG_READERS = {"build", "config", "settings"}  # parts
VIEWS = {"test.", "test.num_ensemble_views", "test.num_spatial_crops", "test.batch_size"}
ALSO_READ = {"recognizer": VIEWS}  # it keeps its checkpoint's config, for the views of a file
UNREAD: set[str] = set()


@cache
def modules() -> dict[str, ast.Module]:
    """Every file of the package by its dotted name below it: "train.loop"; folders by theirs: "train"."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(part for part in parts if part != "__init__")
        found[name] = ast.parse(path.read_text(encoding="utf-8"))
    return found


def imported(tree: ast.Module) -> Iterator[str]:
    """Dotted names below the package that a file imports anywhere in it, also inside functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if name.startswith("revit_video."):
                yield name.removeprefix("revit_video.")


def part_of(name: str) -> str:
    return name.split(".")[0]


def folder_imports() -> dict[str, set[str]]:
    """Which parts each part imports, itself left out."""
    graph: dict[str, set[str]] = {}
    for name, tree in modules().items():
        if name:
            uses = {part_of(other) for other in imported(tree)} - {"__version__"}
            graph.setdefault(part_of(name), set()).update(uses - {part_of(name)})
    return graph


def test_every_part_has_its_tier():
    assert folder_imports().keys() <= TIER.keys(), "a new file or folder: say in TIERS what it may import"


def test_imports_run_downwards():
    upward = [
        f"{part} imports {other}"
        for part, uses in folder_imports().items()
        for other in uses
        if TIER[other] > TIER[part]
    ]
    assert not upward


def test_no_two_parts_import_each_other_by_any_way():
    TopologicalSorter(folder_imports()).prepare()  # raises CycleError, which names the circle


def test_nothing_of_the_package_is_imported_by_its_own_front_door():
    assert not list(imported(modules()[""])), "importing revit_video loads nothing heavy"


def config_reads(tree: ast.Module) -> Iterator[str]:
    """Keys such as "data.crop" that are read from what is called `config`, also through local names."""
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef):
            yield from function_reads(function)


def function_reads(function: ast.FunctionDef) -> Iterator[str]:
    groups = {key.split(".")[0] for key in config_keys() if "." in key}
    names = {"config": ""}  # what a local name stands for
    arguments = [*function.args.args, *function.args.kwonlyargs]
    names |= {
        arg.arg: f"{arg.arg}." for arg in arguments if arg.arg in groups and "Config" in annotation(arg)
    }

    def key(node: ast.expr) -> str | None:
        """The dotted key of `config.data.crop`, `self.config.data.crop` or `data.crop`; None of all else."""
        if isinstance(node, ast.Name):
            return names.get(node.id)
        if isinstance(node, ast.Attribute):
            if node.attr == "config" and isinstance(node.value, ast.Name) and node.value.id == "self":
                return ""
            inner = key(node.value)
            if inner is not None:
                return f"{inner}{node.attr}" + ("." if inner == "" and node.attr in groups else "")
        return None

    for node in ast.walk(function):
        if isinstance(node, ast.Assign):
            for target, value in zip(flat(node.targets[0]), flat(node.value), strict=False):
                if isinstance(target, ast.Name) and key(value) and key(value).endswith("."):
                    names[target.id] = key(value)
    for node in ast.walk(function):
        if isinstance(node, ast.Attribute) and key(node):
            yield key(node)


def annotation(arg: ast.arg) -> str:
    return ast.unparse(arg.annotation) if arg.annotation else ""


def flat(node: ast.expr) -> list[ast.expr]:
    return list(node.elts) if isinstance(node, ast.Tuple) else [node]


def test_reads_are_seen_through_local_names():
    code = """
def f(config, data: DataConfig, other):
    solver, n = config.solver, config.seed
    return solver.base_lr, config.model.name, self.config.test.batch_size, data.crop, other.crop
"""
    keys = {
        "solver.",
        "seed",
        "solver.base_lr",
        "model.",
        "model.name",
        "test.",
        "test.batch_size",
        "data.crop",
    }
    assert set(config_reads(ast.parse(code))) == keys


def test_only_build_reads_the_settings():
    trees = {name: tree for name, tree in modules().items() if part_of(name) not in CONFIG_READERS}
    read = {name: set(config_reads(tree)) - ALSO_READ.get(name, set()) for name, tree in trees.items()}
    assert not {name: keys for name, keys in read.items() if keys}, "parts take plain arguments"


def test_every_setting_is_read():
    builders = [tree for name, tree in modules().items() if part_of(name) == "build"]
    unread = set(config_keys()) - {key for tree in builders for key in config_reads(tree)}
    assert unread == UNREAD


@pytest.mark.parametrize("word", ["utils", "misc", "helper", "helpers", "common"])
def test_no_file_is_called_after_nothing(word):
    assert not [name for name in modules() if word in name.split(".")]
