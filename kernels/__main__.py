"""Print the API of `kernels` from its docstrings, in Markdown: `python -m kernels > docs/kernels.md`."""

from __future__ import annotations

import inspect
import re
from types import ModuleType

import kernels
from kernels import frame_difference, layer_norm, relevance, spatial, temporal
from kernels.common import capture

MODULES = (frame_difference, layer_norm, temporal, spatial, capture, relevance)


def page() -> str:
    """Return the page: how to use the package, then every public name by module."""
    note = "<!-- Written by `python -m kernels > docs/kernels.md`; edit the docstrings. -->"
    return "\n\n".join([note, "# kernels", markdown(kernels), *map(section, MODULES)]) + "\n"


def section(module: ModuleType) -> str:
    """Return the docstring of a module, its first sentence as the title, and those of its public functions."""
    title, _, text = markdown(module).partition("\n\n")
    parts = [f"## {title.rstrip('.')}", text]
    public = getattr(module, "__all__", kernels.__all__)
    for name, thing in vars(module).items():
        if name in public and callable(thing) and thing.__module__.startswith(module.__name__):
            path = f"kernels.{name}" if name in kernels.__all__ else f"{module.__name__}.{name}"
            parts += [f"### `{path}`", f"```python\n{signature(thing)}\n```", markdown(thing)]
    return "\n\n".join(part for part in parts if part)


def signature(thing: object) -> str:
    """Return a call with types and defaults, one parameter a line."""
    found = inspect.signature(thing)
    lines = []
    for x in found.parameters.values():
        if x.kind is x.KEYWORD_ONLY and "    *," not in lines:
            lines.append("    *,")
        lines.append(f"    {x.name}: {x.annotation}" + ("," if x.default is x.empty else f" = {x.default!r},"))
    arguments = "\n".join(["", *lines, ""]) if lines else ""
    return f"{thing.__name__}({arguments})" + ("" if inspect.isclass(thing) else f" -> {found.return_annotation}")


def markdown(thing: object) -> str:
    """Return a docstring whose sections `Args:`, `Returns:`, `Raises:` and `Attributes:` are lists."""
    lines, inside = [], False
    for line in inspect.getdoc(thing).splitlines():
        entry = re.fullmatch(r"    (\w[\w, ]*): (.*)", line) if inside else None
        if re.fullmatch(r"(Args|Returns|Raises|Attributes):", line):
            lines += [f"**{line}**", ""]
            inside = True
        elif entry:
            lines.append(f"- `{entry[1]}`: {entry[2]}")
        else:
            lines.append(line.removeprefix("    ").replace("    ", "  ", 1) if inside else line)
    return "\n".join(lines)


if __name__ == "__main__":
    print(page(), end="")
