"""The house: which packages and folders import which, how many floors, rooms and files there are."""

import re
from pathlib import Path

import networkx as nx
import pytest

from bench.report.architecture import COLORS, ROOT, circles, draw, floors, imports, modules

# What a package may import of the others.
BELOW = {"kernels": set(), "dataloading": set(), "istvt": {"kernels", "dataloading"}, "bench": set(COLORS) - {"bench"}}
# Folders with more than nine files, and why.
LARGER = {
    "bench/experiments": "one file an experiment",
    "istvt/cli": "one file a command",
    "istvt/model/baselines": "one file a detector",
    "dataloading/layouts": "one file a layout",
}


def test_imports_between_packages_go_down_only():
    for module, others in modules().items():
        package = module.partition(".")[0]
        above = {other for other in others if other.partition(".")[0] not in BELOW[package] | {package}}
        assert not above, f"{module} imports {above}"


def test_no_folders_import_each_other():
    assert circles() == []


def test_no_files_import_each_other():
    """The trainer's logging named the trainer in a type hint, and the trainer called it."""
    graph = nx.DiGraph([(module, other) for module, others in modules().items() for other in others])
    # A package's face hands on names of its own files; an arrow from a file to its face closes no circle of its own.
    graph.remove_nodes_from([name for name in list(graph) if (ROOT / name.replace(".", "/")).is_dir()])
    assert [group for group in nx.strongly_connected_components(graph) if len(group) > 1] == []


def test_istvt_has_at_most_eight_floors_and_twelve_rooms():
    found = floors("istvt")
    assert len(found) <= 8, found
    assert sum(map(len, found)) <= 12, found


@pytest.mark.parametrize("package", COLORS)
def test_a_room_stands_above_all_that_it_imports(package):
    found = floors(package)
    height = {room: number for number, floor in enumerate(found) for room in floor}
    for room, others in imports().adjacency():
        assert all(height[other] < height[room] for other in others if room in height and other in height)


@pytest.mark.parametrize("package", COLORS)
def test_a_folder_has_at_most_nine_files(package):
    for folder in [ROOT / package, *(path for path in (ROOT / package).rglob("*") if path.is_dir())]:
        files = [path for path in folder.glob("*.py") if not path.name.startswith("__")]
        if folder.relative_to(ROOT).as_posix() not in LARGER:
            assert len(files) <= 9, f"{folder}: {len(files)} files"


@pytest.mark.parametrize(
    ("module", "package"),
    [
        ("istvt.evaluation", "istvt.explain"),
        ("istvt.config", "dataloading"),
        *((f"istvt.model.{name}", "dataloading") for name in ("istvt", "block", "attention", "xception", "flops")),
    ],
)
def test_what_stands_apart_does_not_import(module, package):
    """Networks and settings are usable without the reader of data sets."""
    for name, others in modules().items():
        if f"{name}.".startswith(f"{module}."):
            assert not {other for other in others if f"{other}.".startswith(f"{package}.")}, name


def test_the_plot_shows_every_room_and_is_the_same_for_the_same_source(tmp_path):
    for name in ("a.svg", "b.svg"):
        draw(tmp_path / name)
    text = Path(tmp_path / "a.svg").read_text()
    assert text == (tmp_path / "b.svg").read_text()
    shown = set(re.findall(r">(\w+)<", text))
    assert {room.partition(".")[2] for room in imports()} <= shown


def test_the_page_names_functions_that_are_there_at_most_ten_a_path():
    page = (ROOT / "docs/architecture.md").read_text()
    paths = re.findall(r"^## (?:A|A video|A logit) .*?(?=^## )", page, re.MULTILINE | re.DOTALL)
    assert len(paths) == 3
    for path in paths:
        stations = re.findall(r"^\d+\. `([\w.]+)`, `([\w/]+\.py)`", path, re.MULTILINE)
        assert 5 <= len(stations) <= 10, path
        for name, file in stations:
            *owner, function = name.split(".")
            text = (ROOT / file).read_text()
            text = text[text.index(f"class {owner[0]}") :] if owner else text
            assert re.search(rf"^{'    ' if owner else ''}def {function}\(", text, re.MULTILINE), f"{name} in {file}"
