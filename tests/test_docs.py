"""The pages say what is there: every setting with its default, every folder, no file that does not exist."""

import re
from functools import reduce
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from revit_video.config import config_keys, config_to_dict
from revit_video.data.demo_images import CLUTTER
from revit_video.data.demo_render import DIFFICULTIES
from revit_video.settings import MISSING, Config, DataConfig

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
CODE = [path for folder in ("revit_video", "tools", "benchmarks") for path in (ROOT / folder).rglob("*.py")]
SETTING = re.compile(r"^\| `([\w.]+)` \| `([^`]+)` \|", re.MULTILINE)
FOLDERS = "revit_video|tools|configs|tests|docs|benchmarks"
FILE = re.compile(rf"(?<![\w/.-])(?:{FOLDERS})/[\w/.-]*\w")
LINK = re.compile(r"\[[^\]]+\]\(([^)#]+)\)")


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def documented() -> list[tuple[str, str]]:
    """(key, default as written) of every row of the page's tables."""
    return SETTING.findall((ROOT / "docs/config.md").read_text())


def default_of(key: str) -> object:
    values = config_to_dict(Config(data=DataConfig(root=MISSING)))
    return reduce(dict.__getitem__, key.split("."), values)


def test_every_setting_is_documented_once_and_in_order_and_no_other():
    assert [key for key, _ in documented()] == list(config_keys())


def test_documented_defaults_are_the_defaults():
    for key, text in documented():
        written = OmegaConf.to_container(OmegaConf.create(f"value: {text}"))["value"]
        assert (key, written) == (key, default_of(key))
        assert type(written) is type(default_of(key)), key  # 0 == 0.0 == False


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_to_files(page):
    links = [link for link in LINK.findall(page.read_text()) if "://" not in link]
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_files_that_a_page_names_exist(page):
    assert [file for file in FILE.findall(page.read_text()) if not (ROOT / file).exists()] == []


def test_pages_that_the_code_points_to_exist():
    others = [*(ROOT / "configs").rglob("*.yaml"), ROOT / "Makefile"]
    named = {page for path in [*CODE, *others] for page in re.findall(r"docs/\w+\.md", path.read_text())}
    assert named and [page for page in sorted(named) if not (ROOT / page).exists()] == []


def test_every_folder_and_module_of_the_package_has_its_row():
    text = (ROOT / "docs/architecture.md").read_text()
    package = [path for path in (ROOT / "revit_video").iterdir() if not path.name.startswith("__")]
    names = [f"{path.name}/" if path.is_dir() else path.name for path in package]
    assert [name for name in sorted(names) if f"`{name}`" not in text] == []


def test_the_demo_page_has_the_difficulties_as_they_are_drawn():
    def span(ends: tuple[float, float]) -> str:
        return f"{ends[0]:g} to {ends[1]:g}"

    total = sum(how.share for how in DIFFICULTIES.values())
    text = (ROOT / "docs/demo.md").read_text()
    for tag, how in DIFFICULTIES.items():
        cells = [tag, f"{how.share / total:.0%}", span(how.half_size), span(how.distractors)]
        cells += [span(how.contrast), f"in {how.occluded:.0%}", span(how.noise)]
        assert f"| {' | '.join(cells)} |" in text


def test_the_demo_page_has_the_clutter_of_the_pictures_as_it_is_drawn():
    total = sum(how.share for how in CLUTTER.values())
    text = (ROOT / "docs/demo.md").read_text()
    for tag, how in CLUTTER.items():
        spans = (how.half_size, how.plain, how.plain_size, how.contrast, how.noise)
        cells = [tag, f"{how.share / total:.0%}", *(f"{low:g} to {high:g}" for low, high in spans)]
        assert f"| {' | '.join(cells)} |" in text


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_fences_are_closed_and_of_a_known_kind(page):
    fences = re.findall(r"^```(.*)$", page.read_text(), re.MULTILINE)
    assert len(fences) % 2 == 0 and set(fences[::2]) <= {"bash", "python", "text", "yaml"}
    assert set(fences[1::2]) <= {""}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_bash_fences_hold_one_command_per_line(page):
    blocks = re.findall(r"^```bash\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    command = re.compile(r"(make \w|\.venv/bin/).*[^\\]$")
    assert [line for line in lines if not command.match(line)] == []
