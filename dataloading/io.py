"""Typed reading of JSON, YAML and CSV files, atomic writing, and the lock that lets one process write at a time.

A file that is read back is declared as a frozen dataclass of the standard library, and read in one place::

    @dataclass(frozen=True, slots=True)
    class RunState:
        epoch: int
        learning_rates: tuple[float, ...]   # a JSON list
        metrics: dict[str, float]
        note: str | None = None             # may be left out

    state = read_json(run / "state.json", RunState)

Any annotation that pydantic knows will do, also `list[RunState]`, `dict[str, float]`, `Literal["train", "test"]` or a
pydantic `BaseModel`; a dataclass needs no import of pydantic, which is imported at the first read. Every model is
strict (`"1"` and `1.0` are no `int`; an `int` is a `float`) and knows its fields: others are refused, unless `unknown`
is `"ignore"`. What a type cannot say, `__post_init__` checks: it raises a ValueError that says what the value is, and
what was expected.

Whatever is wrong with a file is one InputError, `PATH: FIELD.path: what it is; expected what it should be`: no such
file, no regular file, too large, no UTF-8 text, not JSON, nested too deeply, a number that is not finite or has too
many digits, a field that is missing, unknown or of another type.
"""

import contextlib
import csv
import errno
import io
import json
import os
import re
import reprlib
import stat
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from dataloading.errors import InputError, writing

if TYPE_CHECKING:
    from pydantic_core import SchemaValidator

T = TypeVar("T")
Unknown = Literal["forbid", "ignore"]

MAX_BYTES = 4 << 20  # of a file, unless its reader gives another limit
LARGEST_INT = 2**63 - 1  # largest integer of NumPy and torch
MAX_YAML_BYTES = 256 << 10  # PyYAML reads 30 KB a second at worst
MAX_YAML_NODES = 100_000  # aliases counted as the nodes they stand for
MAX_YAML_DEPTH = 100

# Only where one of these stands in a file, all digits being 0 and E being e, need its numbers be looked at one by one.
_UNUSUAL_NUMBERS = (b"0" * 19, b"e000", b"e+000", b"NaN", b"Infinity")
_DIGITS = bytes.maketrans(b"123456789E", b"000000000e")
_NAME = re.compile(r"\w[\w-]*")
# pydantic's other messages say what they expect: "Input should be greater than 0".
_EXPECTED = {"bool": "true or false", "int": "a whole number", "float": "a number", "string": "text"}
_EXPECTED |= dict.fromkeys(("list", "tuple"), "a list") | dict.fromkeys(("dict", "model", "dataclass"), "an object")
_EXPECTED |= {"missing": "a value"}
_UNKNOWN_FIELD = ("extra_forbidden", "unexpected_keyword_argument")


def read_json(path: str | Path, model: type[T], *, unknown: Unknown = "forbid", max_bytes: int = MAX_BYTES) -> T:
    """Read a JSON file as a value of the type `model`.

    Args:
        path: The file.
        model: A dataclass, or any other annotation that pydantic knows.
        unknown: Whether fields that the model does not have are refused or ignored.
        max_bytes: Largest size of the file.

    Raises:
        InputError: The file cannot be read, or holds something else.
    """
    return parse_json(read_bytes(path, max_bytes), model, str(path), unknown=unknown)


def parse_json(data: bytes, model: type[T], where: str, *, unknown: Unknown = "forbid") -> T:
    """Return JSON text in UTF-8 as a value of the type `model`; `where` begins the sentence of an InputError."""
    from pydantic_core import ValidationError, from_json

    digits = data.translate(_DIGITS)
    if any(mark in digits for mark in _UNUSUAL_NUMBERS):
        try:
            tree = from_json(data)
        except ValueError:
            tree = None  # not JSON: validation says where
        _check_numbers(tree, where)
    try:
        return _validator(model).validate_json(data, strict=True, extra=unknown)
    except ValidationError as error:
        errors = error.errors(include_url=False)
        if errors[0]["type"] == "json_invalid":
            _decoded(data, where)
            raise InputError(f"{where}: not JSON ({errors[0]['ctx']['error']}); expected JSON") from None
        raise InputError(_sentence(where, errors, from_json(data))) from None


def read_yaml(path: str | Path, model: type[T], *, unknown: Unknown = "forbid", max_bytes: int = MAX_YAML_BYTES) -> T:
    """Read a YAML file as a value of the type `model`; see `read_json`.

    Raises:
        InputError: The file cannot be read, holds something else, or holds a key twice (YAML would take the second).
    """
    return parse_json(_json_of_yaml(read_text(path, max_bytes), str(path)), model, str(path), unknown=unknown)


def parse_yaml(text: str, where: str) -> Any:
    """Return the value of YAML text, of JSON's types; `where` begins the sentence of an InputError."""
    return json.loads(_json_of_yaml(text, where))


def _json_of_yaml(text: str, where: str) -> bytes:
    import yaml
    from pydantic_core import to_json

    try:
        loader = yaml.SafeLoader(text)
        root = loader.get_single_node()
        if root is not None:
            _check_nodes(root, where)
        values = None if root is None else loader.construct_document(root)
        return to_json(values, inf_nan_mode="constants")
    except (InputError, MemoryError):
        raise
    except RecursionError:
        raise InputError(f"{where}: nested too deeply; expected a few levels") from None
    except (yaml.YAMLError, ValueError) as error:  # a ValueError where a date or a number is none
        raise InputError(f"{where}: not YAML ({' '.join(str(error).split())}); expected YAML") from None
    except Exception:  # PyYAML's constructors raise KeyError, AttributeError and more where text does not fit its tag
        raise InputError(f"{where}: not YAML (a value does not fit its tag); expected YAML") from None


def read_csv(path: str | Path, row: type[T], *, unknown: Unknown = "forbid", max_bytes: int = MAX_BYTES) -> list[T]:
    """Read a CSV file with a header as values of the type `row`, one a line; see `read_json`.

    Text is turned into what the fields are. A cell that is empty is a field that is not given.

    Raises:
        InputError: The file cannot be read, or a line does not fit; it names the line.
    """
    from pydantic_core import ValidationError

    validator, rows = _validator(row), []
    reader = csv.DictReader(io.StringIO(read_text(path, max_bytes), newline=""))
    try:
        for cells in reader:
            where = f"{path}: line {reader.line_num}"
            if None in cells or None in cells.values():
                raise InputError(f"{where}: not as many cells as the header; expected {len(reader.fieldnames)}")
            cells = {name: cell for name, cell in cells.items() if cell}
            try:
                rows.append(validator.validate_strings(cells, extra=unknown))
            except ValidationError as error:
                raise InputError(_sentence(where, error.errors(include_url=False), cells)) from None
            _check_numbers({name: getattr(rows[-1], name, None) for name in cells}, where)
    except csv.Error as error:
        raise InputError(f"{path}: line {reader.line_num}: not CSV ({error}); expected CSV") from None
    return rows


def read_text(path: str | Path, max_bytes: int = MAX_BYTES) -> str:
    """Return the text of a regular file in UTF-8, with or without a byte order mark; see `read_bytes`."""
    return _decoded(read_bytes(path, max_bytes), str(path))


def read_bytes(path: str | Path, max_bytes: int = MAX_BYTES) -> bytes:
    """Return the content of a regular file, without the byte order mark of UTF-8.

    Raises:
        InputError: It cannot be read, is a directory or a device, or is larger than `max_bytes`.
    """
    try:
        # O_NONBLOCK: opening a pipe would wait for its other end.
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise InputError(f"{path}: a directory or a device; expected a regular file")
            # Not read(max_bytes + 1), which takes that much memory before it reads a single byte.
            data = file.read() if status.st_size <= max_bytes else b""
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); expected a readable file") from error
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{str(path)!r}: not a file name ({error}); expected a path") from None
    if max(len(data), status.st_size) > max_bytes:
        raise InputError(f"{path}: larger than {max_bytes:,} bytes; expected a smaller file")
    return data.removeprefix(b"\xef\xbb\xbf")


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Give the temporary path under which to write a file; after the context it stands at `path`.

    The temporary file is hidden and beside the place: of a set's videos it is none, and a killed run's is overwritten.
    Where `path` is a link, the file that it names is replaced. Where the context ends in an error, the temporary file
    is removed and what was at `path` stays.

    Raises:
        OSError: the file cannot be written; it names `path`.
    """
    path = Path(path)
    final = path.resolve()
    temporary = final.with_name(f".{final.name}.partial")
    try:
        with writing(path):
            yield temporary
            os.replace(temporary, final)
    except OSError as error:
        if error.filename == str(temporary):
            error.filename = str(path)
        raise
    finally:
        with contextlib.suppress(OSError):  # the error of the context says more
            temporary.unlink(missing_ok=True)


def write_json(path: str | Path, values: Any) -> None:
    """Write values as indented JSON in UTF-8, whole or not at all; a number that is not finite is a ValueError."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(values, indent=2, allow_nan=False) + "\n", encoding="utf-8")


@contextlib.contextmanager
def locked(file: Path, doing: str) -> Iterator[None]:
    """Hold an exclusive file lock for as long as the context lasts.

    The lock is the system's, on an open file: however this process ends, the lock ends with it. The file stays.

    Args:
        file: The file of the lock, in a directory that is there.
        doing: What the lock protects, as in `writing to PATH`; part of the error in other processes.

    Raises:
        InputError: Another process has the lock.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(file, fallback_to_soft=False)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        process = file.read_text().strip() or "unknown"
        raise InputError(f"another run (process {process}) is {doing}") from error
    except OSError as error:
        # A file system without locks: one run works there, and a second one is not detected.
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
            raise
    try:
        if lock.is_locked:
            file.write_text(f"{os.getpid()}\n")
        yield
    finally:
        lock.release()


@lru_cache
def _validator(model: Any) -> "SchemaValidator":
    """Return the validator of a type; of a list it names the first wrong item only, however many there are."""
    from pydantic import TypeAdapter
    from pydantic_core import SchemaValidator

    schema = TypeAdapter(model).core_schema
    parts: list[Any] = [schema]
    while parts:
        part = parts.pop()
        if isinstance(part, dict):
            parts += part.values()
            if part.get("type") in ("list", "tuple", "set", "frozenset", "dict"):
                part["fail_fast"] = True
        elif isinstance(part, list):
            parts += part
    return SchemaValidator(schema)


def _decoded(data: bytes, where: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: not UTF-8 text (byte {error.start}); expected UTF-8") from None


def _check_nodes(root: Any, where: str) -> None:
    """Raise InputError where a mapping of a YAML tree holds a key twice, or the tree has too many nodes."""
    nodes, seen = [("", root, 0)], 0
    while nodes:
        name, node, depth = nodes.pop()
        seen += 1
        if depth > MAX_YAML_DEPTH:
            raise InputError(f"{where}: nested too deeply; expected a few levels")
        if seen > MAX_YAML_NODES:
            raise InputError(f"{where}: more than {MAX_YAML_NODES:,} values; expected fewer")
        if node.id == "sequence":
            nodes += [(f"{name}[{number}]", item, depth + 1) for number, item in enumerate(node.value)]
        if node.id != "mapping":
            continue
        lines: dict[str, int] = {}
        for key, value in node.value:
            if key.id != "scalar":
                continue  # no key that Python has; it is refused where the mapping is made
            field, line = f"{name}.{key.value}".lstrip("."), key.start_mark.line + 1
            if field in lines:
                first = lines[field]
                raise InputError(f"{where}: {field}: given in line {first} and again in line {line}; expected it once")
            lines[field] = line
            nodes.append((field, value, depth + 1))


def _check_numbers(tree: Any, where: str) -> None:
    """Raise InputError where a number in a tree of lists and dicts is not finite, or an integer has over 63 bits."""
    places: list[tuple[tuple[str | int, ...], Any]] = [((), tree)]
    while places:
        loc, value = places.pop()
        if isinstance(value, dict):
            places += [((*loc, key), item) for key, item in value.items()]
        elif isinstance(value, list):
            places += [((*loc, number), item) for number, item in enumerate(value)]
        elif isinstance(value, float) and not abs(value) < float("inf"):
            raise InputError(f"{where}: {_field(loc)}{value}; expected a finite number")
        elif isinstance(value, int) and abs(value) > LARGEST_INT:
            raise InputError(f"{where}: {_field(loc)}{shown(value)}; expected a number of at most 64 bits")


def _sentence(where: str, errors: list[Any], tree: Any) -> str:
    """Return the sentence that says what is wrong with the innermost field that pydantic complains of."""
    first = max(errors, key=lambda error: len(_location(error, tree)))
    loc, kind, found = _location(first, tree), first["type"], shown(first["input"])
    if kind in ("value_error", "assertion_error"):
        return f"{where}: {_field(loc)}{first['ctx']['error']}"
    if kind in _UNKNOWN_FIELD:
        return f"{where}: {_field(loc)}unknown field with the value {found}; expected no such field"
    expected = {}  # an ordered set: a union complains once for each of its types
    for error in errors:
        if _location(error, tree) == loc:
            message = error["msg"].removeprefix("Input should ").removeprefix("be ")
            name = error["type"].removesuffix("_type").removesuffix("_parsing")
            expected[_EXPECTED.get(name, message[:1].lower() + message[1:])] = True
    return f"{where}: {_field(loc)}{'missing' if kind == 'missing' else found}; expected {' or '.join(expected)}"


def _location(error: Any, tree: Any) -> tuple[str | int, ...]:
    """Return the keys and positions that lead to what is wrong; without the types of unions, which pydantic adds."""
    *steps, last = error["loc"] or [None]
    loc: list[str | int] = []
    for step in (*steps, last):
        try:
            tree = tree[step]
        except (KeyError, IndexError, TypeError):
            continue
        loc.append(step)
    return (*loc, last) if error["type"] == "missing" else tuple(loc)


def _field(loc: tuple[str | int, ...]) -> str:
    """Return a location in words, with the colon after it: `boxes.frame[3]: `."""
    text = ""
    for step in loc:
        if isinstance(step, int):
            text += f"[{step}]"
        elif _NAME.fullmatch(step):
            text += f".{shown(step)[1:-1]}"
        else:
            text += f"[{shown(step)}]"
    return f"{text.lstrip('.')}: " if text else ""


def shown(value: Any) -> str:
    """Return a value as a few words of Python, however large it is."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = short.maxlong = 60
    short.maxlevel = 3
    return short.repr(value)
