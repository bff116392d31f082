"""Seeded mutations of files: bytes of any file, fields of JSON, YAML and CSV, names.

Every function takes a `random.Random`: the same seed gives the same input.
"""

from __future__ import annotations

import csv
import io
import json
from random import Random
from typing import Any

Path = tuple[str | int, ...]

# Text that stands for a value of JSON: also what json.dumps would never write.
JSON_VALUES = (
    "null", "true", "false", "-1", "0", "1", "2", "0.5", "1.0", "-0.0", "1e30", "-1e30", "1e400", "5e-324", "NaN",
    "Infinity", "-Infinity", "2147483648", "9223372036854775807", "9223372036854775808", "1000000000000000000",
    "-9223372036854775809", "9" * 400, "9" * 5_000, "0." + "3" * 5_000, '""', '"x"', '"1"', '"NaN"', '"\\ud800"',
    '"\\u0000"', '"\\u001b[31m"', '"../../../../etc/passwd"', '"[/red]"', '"/dev/zero"', '"/"',
    '"' + "long " * 50_000 + '"', "[]", "{}", "[[]]", '[1, "a", null, 0.5]', '{"a": 1}', '{"": {}}', "[" * 5_000,
    "[" * 200 + "]" * 200, '{"a": ' * 200 + "1" + "}" * 200, "[" + "0, " * 100_000 + "0]", "[NaN]", "[1e30]", "[-1]",
    "[1000000000000000000]",
)  # fmt: skip
# The same by the type of the value that they replace: what a check of types lets through.
NUMBERS = (
    "-1", "0", "1", "2", "3", "7", "13", "100", "1000", "65535", "1000000", "2147483648", "1000000000000",
    "9223372036854775807", "-9223372036854775808", "0.5", "-0.5", "1e-300", "1e30", "-1e30", "1.7976931348623157e308",
)  # fmt: skip
TEXTS = (
    '""', '"x"', '"/"', '"."', '".."', '"/dev/zero"', '"/dev/stdin"', '"/proc/self/mem"', '"a/b"', '"\\u0000"',
    '"\\u001b[31m"', '"[/red]"', '"auto"', '"none"', '"reference"', '"\\n"', '"' + "x" * 5_000 + '"', '"é\\u202e"',
    '"nan"', '"1e5"',
)  # fmt: skip
LISTS = (
    "[]", "[0]", "[0, 0]", "[1, 2]", "[2, 1]", "[-1, -1]", "[1000000000, 1000000000]", "[1, 1, 1, 1]", "[[0, 15]]",
    "[[5, 4]]", '[""]', '["x"]',
)  # fmt: skip
YAML_VALUES = (
    "!!int abc", "!!timestamp x", "!!float x", "!!binary ====", "!!set {a, b}",
    "!!python/object/apply:os.system [id]", "!unknown x", "&a [*a]", "{<<: {a: 1}}", "*nowhere", "? [a, b]",
    "2020-99-99", "12:30:45", "0x" + "f" * 400, "0o9", "1_000", "1__0", ".inf", ".nan", "~", "yes", "|", ">-\n", "'",
    '"\\xff"', "%", "@", "`", "- - - -", "{" * 3_000, "[" * 3_000, str(2**64), str(-(2**64)), "1e9", "1" * 5_000,
    "!!str 5", "!!null x", "!!bool 7", "=", "\t3", "a: b: c",
)  # fmt: skip
CELLS = (
    "", " ", "nan", "inf", "-1", "0.5", "1e30", "1e400", "9" * 400, "9" * 5_000, "x" * 200_000, '"', '""', "a,b",
    "a\nb", "\x00", "\x1b[31m", "é", "../../../../etc/passwd", "=1+1", "0-", "5-0", "0-1000000000", "-1-3", "0-5 0-5",
)  # fmt: skip
NAME_BYTES = (
    b"caf\xe9", b"\xff\xfe", b"\xed\xa0\x80", b"tab\there", b"line\nbreak", b"\x1b[31mred", b"\x07bell", b"[bold]",
    b"[/red]", b" ", b"-rf", b"--help", b"--config=x", b"%s%n", b"'", b'"', b"$(id)", b"a;b", b"a:b", b"a?b#c",
    b"\xe2\x80\xae\xe2\x80\xaegnp", b"\xf0\x9f\x98\x80", b"x" * 200, b"..mp4", b".hidden", b"NUL", b"file:",
    b"concat:a|b", b"http:", b"%d", b"*", b"{a}", b"\\", b"\xe2\x80\xa8",
    b"\xd8\xa7\xd9\x84\xd8\xb9\xd8\xb1\xd8\xa8\xd9\x8a\xd8\xa9", b"\xe0\xb8\x99\xe0\xb9\x89",
    b"a\xcc\x81\xcc\x81\xcc\x81", b"\x01\x02\x7f",
)  # fmt: skip


def damaged(data: bytes, random: Random, donor: bytes = b"") -> tuple[bytes, str]:
    """Return a copy of a file with one kind of damage, and what was done; half of it near one of the two ends."""

    def place(length: int = 0) -> int:
        within = max(1, len(data) - length)
        near = min(within, 2_048)
        return random.choice((random.randrange(within), random.choice((0, within - near)) + random.randrange(near)))

    kind = random.choice(
        ("flip", "flip", "flips", "noise", "zeros", "cut", "delete", "repeat", "word", "splice", "head")
    )
    data = bytearray(data)
    at, length = place(), min(len(data), random.choice((1, 4, 16, 100, 1_000, 5_000)))
    if kind == "flip":
        data[at] ^= 1 << random.randrange(8)
    elif kind == "flips":
        for _ in range(random.randrange(2, 50)):
            data[place()] ^= 1 << random.randrange(8)
    elif kind == "noise":
        at = place(length)
        data[at : at + length] = random.randbytes(length)
    elif kind == "zeros":
        at = place(length)
        data[at : at + length] = bytes(length)
    elif kind == "cut":
        del data[at:]
    elif kind == "delete":
        del data[at : at + length]
    elif kind == "repeat":
        data[at:at] = data[at : at + length]
    elif kind == "word":
        word = random.choice((0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**16, 65_535 << 16))
        size = random.choice((1, 2, 4, 8))
        data[at : at + size] = (word & (256**size - 1)).to_bytes(size, random.choice(("big", "little")))
    elif kind == "splice":
        other = random.randrange(max(1, len(donor)))
        data[at:] = donor[other:]
    elif kind == "head":
        data[: min(at, 4_096)] = donor[: min(at, 4_096)]
    return bytes(data), f"{kind} at {at}"


def fields(tree: Any, longest_list: int = 2) -> list[Path]:
    """Return the paths of all values of a tree; of a list only the first items."""
    found: list[Path] = [()]
    inside = (
        tree.items() if isinstance(tree, dict) else enumerate(tree[:longest_list]) if isinstance(tree, list) else ()
    )
    for key, value in inside:
        found += [(key, *path) for path in fields(value, longest_list)]
    return found


def with_field(tree: Any, path: Path, text: str) -> str:
    """Return a tree as JSON in which the value at a path is other text, which need not be JSON."""
    mark = "the value that is replaced"
    if not path:
        return text
    tree = json.loads(json.dumps(tree))
    inner = tree
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = mark
    return json.dumps(tree).replace(json.dumps(mark), text)


def _alike(value: Any) -> tuple[str, ...]:
    """Return the replacements of a value's own type."""
    if isinstance(value, bool) or value is None:
        return ("true", "false", "null")
    if isinstance(value, int | float):
        return NUMBERS
    return TEXTS if isinstance(value, str) else LISTS if isinstance(value, list) else ("{}",)


def without_field(tree: Any, path: Path, random: Random) -> str:
    """Return a tree as JSON in which a value is missing, has another name, or is there twice."""
    tree = json.loads(json.dumps(tree))
    inner = tree
    for step in path[:-1]:
        inner = inner[step]
    value = inner[path[-1]]
    kind = random.choice(("missing", "renamed", "twice"))
    if kind == "missing" or isinstance(inner, list):
        del inner[path[-1]]
        return json.dumps(tree)
    if kind == "renamed":
        inner[f"{path[-1]}s"] = inner.pop(path[-1])
        return json.dumps(tree)
    inner["twice"] = value
    return json.dumps(tree).replace('"twice"', json.dumps(path[-1]))


def changed_json(tree: Any, random: Random, path: Path | None = None) -> tuple[bytes, str]:
    """Return a tree as JSON with one field of another value, or damaged text; and what was done."""
    path = random.choice(fields(tree)) if path is None else path
    draw = random.random()
    if draw < 0.75 or not path:
        inner = tree
        for step in path:
            inner = inner[step]
        value = random.choice(JSON_VALUES if random.random() < 0.4 else _alike(inner))
        return with_field(tree, path, value).encode(), f"{path} is {value[:40]}"
    if draw < 0.9:
        return without_field(tree, path, random).encode(), f"{path} missing, renamed or twice"
    return damaged_text(json.dumps(tree, indent=1), random)


def damaged_text(text: str, random: Random) -> tuple[bytes, str]:
    """Return text in another encoding, with control characters, or with damaged bytes; and what was done."""
    kind = random.choice(("utf-16", "utf-32", "latin-1", "bom", "nul", "bytes", "empty", "lines", "huge"))
    if kind in ("utf-16", "utf-32"):
        return text.encode(kind), kind
    if kind == "latin-1":
        return (text + "é").encode("latin-1"), kind
    if kind == "bom":
        return b"\xef\xbb\xbf" + text.encode(), kind
    if kind == "nul":
        at = random.randrange(len(text) + 1)
        return (text[:at] + "\0" + text[at:]).encode(), kind
    if kind == "empty":
        return b"", kind
    if kind == "lines":
        return (text + "\n").encode() * 3, kind
    if kind == "huge":
        return text.encode() + b" " * (6 << 20), kind
    return damaged(text.encode() or b"x", random)


def changed_yaml(names: list[str], random: Random) -> tuple[bytes, str]:
    """Return a settings file that gives one option, by its full name, another value; and what was done."""
    name = random.choice(names)
    value = random.choice(
        random.choice((YAML_VALUES, JSON_VALUES, NUMBERS, NUMBERS, TEXTS, LISTS, ("true", "false", "null")))
    )
    *groups, last = name.split(".")
    lines = [f"{'  ' * depth}{group}:" for depth, group in enumerate(groups)]
    text = "\n".join([*lines, f"{'  ' * len(groups)}{last}: {value}"]) + "\n"
    if random.random() < 0.1:
        return damaged_text(text, random)
    return text.encode(), f"{name}: {value[:40]}"


def changed_option(names: list[str], random: Random) -> tuple[str, str]:
    """Return an option by its full name, and a value for it."""
    kinds = (YAML_VALUES, JSON_VALUES, NUMBERS, NUMBERS, TEXTS, LISTS)
    value = random.choice(random.choice(kinds)).strip('"')
    # An argument of a process holds no zero byte, and at most 128 KiB.
    return random.choice(names), value.replace("\0", "")[:100_000]


def changed_csv(text: str, random: Random) -> tuple[bytes, str]:
    """Return a table with one cell of another value, or damaged text; and what was done."""
    if random.random() < 0.2:
        return damaged_text(text, random)
    rows = list(csv.reader(io.StringIO(text)))
    row = random.choice(rows)
    column = random.randrange(len(row))
    cell = random.choice(CELLS)
    kind = random.choice(("cell", "cell", "cell", "raw", "delete", "add"))
    if kind == "raw":  # without quotation marks
        row[column] = "RAW"
    elif kind == "delete":
        del row[column]
    elif kind == "add":
        row.insert(column, cell)
    else:
        row[column] = cell
    out = io.StringIO()
    csv.writer(out).writerows(rows)
    return out.getvalue().replace("RAW", cell).encode(), f"{kind} {column} of line {rows.index(row)}: {cell[:40]!r}"


def changed_lines(text: str, random: Random) -> tuple[bytes, str]:
    """Return a list with one line changed, or damaged text; and what was done."""
    if random.random() < 0.3:
        return damaged_text(text, random)
    lines = text.splitlines()
    at = random.randrange(len(lines))
    lines[at] = (
        random.choice(CELLS)
        if random.random() < 0.5
        else lines[at].replace(*random.choice((("/", ""), (" ", ""), ("0", "9"), (".", "/../"))))
    )
    return "\n".join(lines).encode(), f"line {at}: {lines[at][:40]!r}"


def odd_name(random: Random) -> bytes:
    """Return a file name without a suffix, of bytes that need not be text."""
    if random.random() < 0.3:
        name = bytes(random.choice([*range(1, 47), *range(48, 256)]) for _ in range(random.randrange(1, 40)))
    else:
        name = b"".join(random.choice(NAME_BYTES) for _ in range(random.randrange(1, 3)))
    return name[:230]
