"""Plot of the architecture: the rooms of each package on floors of imports, read from the source with `ast`.

A room is a folder or file at the top of a package; it stands above all rooms that it imports, also within functions.
Arrows that follow from others are left out. Writes docs/architecture.svg, the same for the same source.
"""

import argparse
import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from statistics import mean

import matplotlib
import networkx as nx  # torch brings it
from matplotlib.figure import Figure

ROOT = Path(__file__).resolve().parents[2]
DRAWN = ROOT / "docs/architecture.svg"
COLORS = {"kernels": "#0072B2", "dataloading": "#009E73", "istvt": "#D55E00", "bench": "#666666"}
WIDTH = 12.0
STORIES = {"kernels": (0.0, 0.5), "dataloading": (0.5, 1.0)}  # left and right edge; the others are as wide as all


@cache
def modules() -> dict[str, set[str]]:
    """Return the modules of the packages by dotted name, each with those that it imports."""
    files = [path for package in COLORS for path in (ROOT / package).rglob("*.py") if path.name != "__main__.py"]
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in files]
    found = {name: set(_imported(ast.parse(path.read_text()))) for name, path in zip(names, files, strict=True)}
    return {name: imported & found.keys() for name, imported in sorted(found.items())}


def _imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imports() -> nx.DiGraph:
    """Return the rooms, such as `istvt.model`, each with an edge to every other room that it imports."""
    graph = nx.DiGraph()
    for module, others in modules().items():
        room, *imported = (".".join(name.split(".")[:2]) for name in (module, *sorted(others)))
        graph.add_node(room)
        graph.add_edges_from((room, other) for other in imported if other != room)
    graph.remove_nodes_from(COLORS)
    return graph


def circles() -> list[list[str]]:
    """Return the groups of rooms that import each other."""
    return sorted(sorted(group) for group in nx.strongly_connected_components(imports()) if len(group) > 1)


def floors(package: str) -> list[list[str]]:
    """Return the rooms of a package by floor, the lowest first: each stands above all that it imports.

    Raises:
        networkx.NetworkXUnfeasible: some import each other.
    """
    graph = imports()
    own = graph.subgraph(room for room in graph if room.startswith(f"{package}."))
    return [sorted(floor) for floor in nx.topological_generations(own.reverse())]


def _lines(room: str) -> int:
    path = ROOT / room.replace(".", "/")
    files = path.rglob("*.py") if path.is_dir() else [path.with_suffix(".py")]
    return sum(len(file.read_text().splitlines()) for file in files)


def draw(path: Path) -> None:
    """Draw the packages above each other as SVG, with their rooms and the arrows that do not follow from others."""
    graph, places, top, bottom = imports(), {}, 0.0, 0.0
    figure = Figure(figsize=(WIDTH, WIDTH), layout="constrained")
    axes = figure.subplots()
    for package, color in COLORS.items():
        start, end = (WIDTH * x for x in STORIES.get(package, (0.0, 1.0)))
        bottom, stories, others = top if not start else bottom, floors(package), set()
        for height, floor in enumerate(stories, 1):
            # Over what they import, as far as the floor has room for it: fewer arrows cross.
            floor.sort(key=lambda room: mean([places[x][0] for x in graph[room] if x in places] or [0]))
            for number, room in enumerate(floor):
                others |= {x.partition(".")[0] for x in graph[room]} - {package}
                places[room] = (start + (end - start) * (number + 0.5) / len(floor), bottom + height - 0.5)
                box = {"boxstyle": "round,pad=0.35", "facecolor": "white", "edgecolor": color}
                label = f"{room.partition('.')[2]}\n{_lines(room):,}"
                axes.text(*places[room], label, ha="center", va="center", fontsize=9, bbox=box, zorder=3)
        top = max(top, bottom + len(stories) + 0.6)
        title = f"{package}, {_lines(package):,} lines" + (f", imports {', '.join(sorted(others))}" if others else "")
        axes.text(start + 0.15, top - 0.2, title, va="top", fontsize=11, color=color, weight="bold")
        axes.bar(start, top - bottom - 0.1, end - start - 0.1, bottom, align="edge", color=color, alpha=0.1, zorder=0)
    for room, other in nx.transitive_reduction(graph).edges:
        package = room.partition(".")[0]
        if other.startswith(f"{package}."):
            (x, y), (to_x, to_y) = places[room], places[other]
            arrow = {"arrowstyle": "-|>", "color": COLORS[package], "shrinkA": 0, "shrinkB": 0}
            axes.annotate("", (to_x, to_y + 0.37), (x, y - 0.3), arrowprops=arrow, zorder=1)
    axes.axis("off")
    with matplotlib.rc_context({"svg.hashsalt": "architecture", "svg.fonttype": "none"}):
        figure.savefig(path, metadata={"Date": None, "Creator": None})


def run(_: argparse.Namespace) -> int:
    """Draw; where rooms import each other there are no floors to draw: print which, and return 1."""
    if found := circles():
        print(*(f"{' and '.join(circle)} import each other" for circle in found), sep="\n")
        return 1
    draw(DRAWN)
    print(DRAWN)
    return 0
