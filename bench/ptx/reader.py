"""Read the PTX text of one kernel: parameters, threads, instructions with their places in Python, labels."""

from __future__ import annotations

import re
from dataclasses import dataclass, field


class Unsupported(Exception):
    """An instruction, operand or directive that the executor does not know; the message names it."""


@dataclass(frozen=True)
class Instruction:
    """One instruction as it is written.

    Attributes:
        opcode: `ld.global.v4.b32`.
        operands: as written, groups in braces and addresses in brackets whole.
        guard: the predicate register it depends on and whether that is negated; None without one.
        text: the whole instruction.
        where: file and line of the Python source.
    """

    opcode: str
    operands: list[str]
    guard: tuple[str, bool] | None
    text: str
    where: str


@dataclass
class Entry:
    """A kernel as it is written: `parameters` are types, `labels` the number of the instruction behind each."""

    name: str
    parameters: list[str]
    threads: int
    instructions: list[Instruction] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)


_IGNORED = (".reg", ".section", ".file", ".pragma")
_GUARD = re.compile(r"@(!?)(%p\d+)\s+")


def read(ptx: str) -> Entry:
    """Read the kernel of a module.

    Raises:
        Unsupported: a directive that is not known, or no kernel.
    """
    entry = re.search(r"\.entry\s+([\w$]+)\s*\((.*?)\)", ptx, re.S)
    threads = re.search(r"\.reqntid\s+(\d+)", ptx)
    if not entry or not threads:
        raise Unsupported("no .entry with .reqntid in the PTX")
    parameters = re.findall(r"\.param\s+\.(\w+)[^,]*", entry[2])
    found = Entry(entry[1], parameters, int(threads[1]))
    where = ""
    for line in ptx[ptx.index("{", entry.end()) + 1 :].splitlines():
        line = line.strip()
        if line.startswith(".loc"):
            _, _, comment = line.partition("//")
            where = comment.strip() or line
            continue
        line = line.split("//")[0].strip()
        if line == "}":
            break
        if line and not line.startswith(_IGNORED):
            _read_line(found, line, where)
    if not found.instructions or found.instructions[-1].opcode != "ret":
        raise Unsupported(f"{found.name}: does not end with ret")
    return found


def _read_line(entry: Entry, line: str, where: str) -> None:
    if label := re.fullmatch(r"([$\w]+):", line):
        entry.labels[label[1]] = len(entry.instructions)
        return
    if line.startswith((".", "{")) or not line.endswith(";"):
        raise Unsupported(f"{entry.name}: directive {line!r}")
    for text in filter(None, map(str.strip, line.split(";"))):
        guard = _GUARD.match(text)
        opcode, _, operands = text[guard.end() if guard else 0 :].replace("\t", " ").partition(" ")
        condition = (guard[2], bool(guard[1])) if guard else None
        entry.instructions.append(Instruction(opcode, split_operands(operands), condition, text, where))


def split_operands(text: str) -> list[str]:
    """Split at commas outside of braces and brackets."""
    return [part.strip() for part in re.split(r",(?![^{\[]*[}\]])", text) if part.strip()]
