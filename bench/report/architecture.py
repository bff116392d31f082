"""Plot of the architecture: the rooms of each package on floors of imports, read from the source with `ast`.

A room is a folder or file at the top of a package; it stands above all rooms that it imports, also within functions.
Arrows that follow from others are left out. Writes docs/architecture.svg, the same for the same source.
"""

from __future__ import annotations

import argparse
import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from statistics import mean

ROOT = Path(__file__).resolve().parents[2]
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


def imports() -> dict[str, set[str]]:
    """Return by room, such as `istvt.model`, the other rooms that it imports."""
    found: dict[str, set[str]] = {}
    for module, others in modules().items():
        room, *imported = (".".join(name.split(".")[:2]) for name in (module, *others))
        found.setdefault(room, set()).update(x for x in imported if x != room and "." in x)
    return {room: others for room, others in found.items() if "." in room}


def _below(graph: dict[str, set[str]]) -> dict[str, set[str]]:
    """Return by room all that it imports, by way of others too."""
    below = {room: set(others) for room, others in graph.items()}
    for middle in graph:
        for others in below.values():
            others |= below[middle] if middle in others else set()
    return below


def circles() -> list[list[str]]:
    """Return the groups of rooms that import each other."""
    below = _below(imports())
    found = {frozenset(b for b in below if b in below[a] and a in below[b]) for a in below}
    return sorted(sorted(group) for group in found if group)


def floors(package: str) -> list[list[str]]:
    """Return the rooms of a package by floor, the lowest first: each stands above all that it imports."""
    graph = {room: below for room, below in _below(imports()).items() if room.startswith(f"{package}.")}
    found: list[list[str]] = []
    while graph:
        # A room that is in a circle does not wait for the others in it.
        found.append(sorted(a for a in graph if not any(b in graph and a not in graph[b] for b in graph[a])))
        graph = {room: below for room, below in graph.items() if room not in found[-1]}
    return found


def _lines(room: str) -> int:
    path = ROOT / room.replace(".", "/")
    files = path.rglob("*.py") if path.is_dir() else [path.with_suffix(".py")]
    return sum(len(file.read_text().splitlines()) for file in files)


def draw(path: Path) -> None:
    """Draw the packages above each other as SVG, with their rooms and the arrows that do not follow from others."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    graph, places, top, bottom = imports(), {}, 0.0, 0.0
    below = _below(graph)
    figure = Figure(figsize=(WIDTH, WIDTH), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.subplots()
    for package, color in COLORS.items():
        start, end = (WIDTH * x for x in STORIES.get(package, (0.0, 1.0)))
        bottom = top if not start else bottom
        for height, floor in enumerate(floors(package)):
            # Over what they import, as far as the floor has room for it: fewer arrows cross.
            floor.sort(key=lambda room: mean([places[x][0] for x in graph[room] if x in places] or [0]))
            for number, room in enumerate(floor):
                places[room] = (start + (end - start) * (number + 0.5) / len(floor), bottom + height + 0.5)
                box = {"boxstyle": "round,pad=0.35", "facecolor": "white", "edgecolor": color}
                label = f"{room.partition('.')[2]}\n{_lines(room):,}"
                axes.text(*places[room], label, ha="center", va="center", fontsize=9, bbox=box, zorder=3)
        top = max(top, bottom + len(floors(package)) + 0.6)
        others = sorted({x.partition(".")[0] for room in floor for x in below[room]} - {package})
        title = f"{package}, {_lines(package):,} lines" + (f", imports {', '.join(others)}" if others else "")
        axes.text(start + 0.15, top - 0.2, title, va="top", fontsize=11, color=color, weight="bold")
        axes.bar(start, top - bottom - 0.1, end - start - 0.1, bottom, align="edge", color=color, alpha=0.1, zorder=0)
    for room, others in graph.items():
        package = room.partition(".")[0]
        for other in sorted(others):
            if other.startswith(f"{package}.") and not any(other in below[x] for x in others - {other}):
                (x, y), (to_x, to_y) = places[room], places[other]
                arrow = {"arrowstyle": "-|>", "color": COLORS[package], "shrinkA": 0, "shrinkB": 0}
                axes.annotate("", (to_x, to_y + 0.37), (x, y - 0.3), arrowprops=arrow, zorder=1)
    axes.axis("off")
    with matplotlib.rc_context({"svg.hashsalt": "architecture", "svg.fonttype": "none"}):
        figure.savefig(path, metadata={"Date": None, "Creator": None})


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add where to write."""
    parser.add_argument("--output", type=Path, default=ROOT / "docs/architecture.svg", help="default: %(default)s")


def run(arguments: argparse.Namespace) -> int:
    """Draw; return 1 if rooms import each other, and print which."""
    draw(arguments.output)
    print(*(f"{' and '.join(circle)} import each other" for circle in circles()), arguments.output, sep="\n")
    return 1 if circles() else 0
