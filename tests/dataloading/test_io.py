"""Typed reading with one-sentence errors, atomic writing, file locks."""

import errno
import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataloading.errors import InputError
from dataloading.io import (
    locked,
    parse_json,
    read_bytes,
    read_csv,
    read_json,
    read_text,
    read_yaml,
    replacing,
    write_json,
)


@dataclass(frozen=True, slots=True)
class Point:
    x: float
    name: str = "point"

    def __post_init__(self):
        if self.x < 0:
            raise ValueError(f"x is {self.x}; expected 0 or more")


@dataclass(frozen=True)
class State:
    epoch: int
    points: tuple[Point, ...] = ()
    title: str | list[str] = ""
    split: Literal["train", "test"] | None = None
    by_name: dict[str, Point] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    epoch: int
    loss: float
    note: str | None = None


def test_a_json_file_becomes_a_value_of_its_type(tmp_path):
    path = tmp_path / "state.json"
    path.write_bytes(b'\xef\xbb\xbf{"epoch": 3, "points": [{"x": 1}], "by_name": {"a b": {"x": 0.5, "name": "q"}}}')
    assert read_json(path, State) == State(3, (Point(1.0),), by_name={"a b": Point(0.5, "q")})
    assert type(read_json(path, State).points[0].x) is float
    write_json(path, ["a", "b"])
    assert read_json(path, list[str]) == ["a", "b"]
    write_json(path, {"epoch": 1, "later": {"deep": []}})
    assert read_json(path, State, unknown="ignore") == State(1)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{}", "epoch: missing; expected a value"),
        ('{"epoch": 1, "points": [{"name": "a"}]}', "points[0].x: missing; expected a value"),
        ('{"epoch": 1.0}', "epoch: 1.0; expected a whole number"),
        ('{"epoch": true}', "epoch: True; expected a whole number"),
        ('{"epoch": "1"}', "epoch: '1'; expected a whole number"),
        ('{"epoch": 1, "epochs": 2}', "epochs: unknown field with the value 2; expected no such field"),
        ('{"epoch": 1, "points": 4}', "points: 4; expected a list"),
        ('{"epoch": 1, "points": [{"x": 1}, {"x": "1"}]}', "points[1].x: '1'; expected a number"),
        ('{"epoch": 1, "points": [{"x": -1}]}', "points[0]: x is -1.0; expected 0 or more"),
        ('{"epoch": 1, "title": 4}', "title: 4; expected text or a list"),
        ('{"epoch": 1, "split": "val"}', "split: 'val'; expected 'train' or 'test'"),
        ('{"epoch": 1, "by_name": {"a.mp4": {"x": null}}}', "by_name['a.mp4'].x: None; expected a number"),
        ('{"epoch": 1, "by_name": {"a": 1}}', "by_name.a: 1; expected an object"),
        ("[]", "[]; expected an object"),
        ('{"epoch": 1, "points": [{"x": NaN}]}', "points[0].x: nan; expected a finite number"),
        ('{"epoch": 1, "points": [{"x": 1e999}]}', "points[0].x: inf; expected a finite number"),
        ('{"epoch": 9223372036854775808}', "epoch: 9223372036854775808; expected a number of at most 64 bits"),
        ("", "not JSON (EOF while parsing a value at line 1 column 0); expected JSON"),
    ],
)
def test_what_does_not_fit_is_one_sentence_that_names_file_and_field(tmp_path, text, sentence):
    path = tmp_path / "state.json"
    path.write_text(text)
    with pytest.raises(InputError) as refused:
        read_json(path, State)
    assert str(refused.value) == f"{path}: {sentence}"


@pytest.mark.parametrize("kind", [State, Any, list[str], dict[str, Point]])
@pytest.mark.parametrize(
    "content",
    [
        b"[" * 100_000,
        b"[" * 1_000 + b"]" * 1_000,
        b'{"points": ' * 1_000 + b"1" + b"}" * 1_000,
        b'{"epoch": ' + b"9" * 5_000 + b"}",
        b'{"epoch": 1, "points": [{"x": ' + b"9" * 5_000 + b"}]}",
        b'{"epoch": 1, "title": "\\ud800"}',
        b'{"epoch": 1, "title": "\xed\xa0\x80"}',
        '{"epoch": 1}'.encode("utf-16"),
        b"\xff\xfe\x00",
        b"\0" * 100,
        b"\x1f\x8b\x08compressed",
    ],
    ids=lambda value: repr(value[:14]) if isinstance(value, bytes) else None,
)
def test_deep_huge_and_binary_content_is_one_short_sentence(tmp_path, content, kind):
    path = tmp_path / "state.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"^{path}: not (JSON|UTF-8 text) \(.*\); expected ") as refused:
        read_json(path, kind)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 400


@pytest.mark.parametrize("content", ["[" + "1," * 1_000_000 + "1]", json.dumps({str(i): 1 for i in range(100_000)})])
def test_a_million_wrong_items_are_one_short_sentence(content):
    for kind in (State, list[str], dict[str, Point]):
        with pytest.raises(InputError, match=r"^where: ") as refused:
            parse_json(content.encode(), kind, "where")
        assert len(str(refused.value)) < 400


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*State.__annotations__]), inner),
    max_leaves=8,
)


@given(values | st.fixed_dictionaries({"epoch": st.integers()}, optional={"points": values, "title": values}))
@settings(max_examples=200, deadline=None)
def test_any_json_is_a_value_of_the_type_or_one_sentence(value):
    try:
        assert isinstance(parse_json(json.dumps(value).encode(), State, "where"), State)
    except InputError as refused:
        assert str(refused).startswith("where: ")
        assert "; expected " in str(refused)


@given(content=st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_read_or_refused_in_a_sentence(content, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "any"
    path.write_bytes(content)
    for read, kind in ((read_json, State), (read_yaml, dict[str, Any]), (read_csv, Row)):
        try:
            read(path, kind)
        except InputError as refused:
            assert str(refused).startswith(f"{path}: ")
            assert "; expected " in str(refused)


def test_only_a_regular_file_of_a_bounded_size_is_read(tmp_path):
    (tmp_path / "large").write_bytes(b"1" * 1_001)
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    os.mkfifo(tmp_path / "pipe")
    for path, sentence in {
        tmp_path / "large": r"larger than 1,000 bytes; expected a smaller file",
        tmp_path: r"cannot be read \(Is a directory\); expected ",
        tmp_path / "loop": r"cannot be read \(Too many levels of symbolic links\); expected ",
        tmp_path / "pipe": r"a directory or a device; expected a regular file",
        Path("/dev/zero"): r"a directory or a device; expected a regular file",
        tmp_path / "nowhere": r"cannot be read \(No such file or directory\); expected ",
        tmp_path / ("n" * 5_000): r"cannot be read \(File name too long\); expected ",
    }.items():
        with pytest.raises(InputError, match=rf"^{path}: {sentence}"):
            read_bytes(path, max_bytes=1_000)
    with pytest.raises(InputError, match=r"not a file name \(embedded null byte\)"):
        read_bytes("a\0b")
    (tmp_path / "link").symlink_to(tmp_path / "large")
    assert len(read_bytes(tmp_path / "link", max_bytes=1_001)) == 1_001


def test_text_is_utf_8_with_or_without_a_byte_order_mark(tmp_path):
    path = tmp_path / "list.txt"
    for content in ("é".encode(), "é".encode("utf-8-sig")):
        path.write_bytes(content)
        assert read_text(path) == "é"
    path.write_bytes("é".encode("latin-1"))
    with pytest.raises(InputError, match=rf"^{path}: not UTF-8 text \(byte 0\); expected UTF-8$"):
        read_text(path)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("epoch: x", "epoch: 'x'; expected a whole number"),
        ("epoch: 1\nepoch: 2", "epoch: given in line 1 and again in line 2; expected it once"),
        ("epoch: 1\npoints:\n- x: 1\n  x: 2", "points[0].x: given in line 3 and again in line 4; expected it once"),
        ("", "None; expected an object"),
        ("epoch: [", "not YAML (while parsing a flow node"),
        ("epoch: 2020-99-99", "not YAML (month must be in 1..12); expected YAML"),
        ("epoch: " + "9" * 5_000, "not YAML (Exceeds the limit"),
        ("points: [{x: .inf}]\nepoch: 1", "points[0].x: inf; expected a finite number"),
        ("[" * 3_000, "nested too deeply; expected a few levels"),
        ("epoch: &a [*a]", "nested too deeply; expected a few levels"),
        ("epoch: " + "{a: " * 150 + "1" + "}" * 150, "nested too deeply; expected a few levels"),
        (
            "a: &a [1, 1, 1, 1, 1, 1, 1, 1]\n"
            + "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 8)}]\n" for a, b in zip("abcdefg", "bcdefgh", strict=True)),
            "more than 100,000 values; expected fewer",
        ),
        ("? [a, b]\n: 1", "not YAML ("),
        ("epoch: !!python/object:os.system 1", "not YAML (could not determine a constructor"),
        ("epoch: !!binary zzzz", "not YAML ("),
    ],
)
def test_yaml_that_does_not_fit_is_one_sentence(tmp_path, text, sentence):
    path = tmp_path / "settings.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as refused:
        read_yaml(path, State)
    assert str(refused.value).startswith(f"{path}: {sentence}")
    assert "\n" not in str(refused.value)


def test_a_yaml_file_becomes_a_value_of_its_type(tmp_path):
    (tmp_path / "settings.yaml").write_text("epoch: 2\npoints:\n- {x: 1}\ntitle: [a, b]\n")
    assert read_yaml(tmp_path / "settings.yaml", State) == State(2, (Point(1.0),), ["a", "b"])


def test_a_csv_file_becomes_one_value_a_line_and_an_empty_cell_is_not_given(tmp_path):
    path = tmp_path / "history.csv"
    path.write_text('epoch,loss,note\n1,0.5,"a, b"\n2,1,\n')
    assert read_csv(path, Row) == [Row(1, 0.5, "a, b"), Row(2, 1.0)]
    path.write_text("")
    assert read_csv(path, Row) == []


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("epoch,loss\n1,2\nx,2\n", "line 3: epoch: 'x'; expected a whole number"),
        ("epoch,loss\n1,nan\n", "line 2: loss: nan; expected a finite number"),
        ("epoch,loss\n" + "9" * 30 + ",1\n", "line 2: epoch: " + "9" * 30 + "; expected a number of at most 64 bits"),
        ("epoch,loss\n1\n", "line 2: not as many cells as the header; expected 2"),
        ("epoch,loss\n1,2,3\n", "line 2: not as many cells as the header; expected 2"),
        ("epoch\n1\n", "line 2: loss: missing; expected a value"),
        ("epoch,loss,x\n1,2,3\n", "line 2: x: unknown field with the value '3'; expected no such field"),
        ('epoch,loss\n"' + "1" * 200_000 + '",1\n', "line 1: not CSV (field larger than field limit (131072)); "),
    ],
)
def test_a_csv_line_that_does_not_fit_is_named(tmp_path, text, sentence):
    path = tmp_path / "history.csv"
    path.write_text(text)
    with pytest.raises(InputError) as refused:
        read_csv(path, Row)
    assert str(refused.value).startswith(f"{path}: {sentence}")


def test_pydantic_is_imported_by_the_first_read_and_not_before():
    code = "import sys, dataloading.io; raise SystemExit(bool({'pydantic', 'yaml', 'filelock'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_lock_keeps_others_out_names_the_process_and_leaves_the_file(tmp_path):
    lock = tmp_path / ".lock"
    for _ in range(2):
        with locked(lock, "working; wait for it"):
            refusal = rf"^another run \(process {os.getpid()}\) is working; wait for it$"
            with pytest.raises(InputError, match=refusal), locked(lock, "working; wait for it"):
                pass
            assert lock.read_text() == f"{os.getpid()}\n"
    assert list(tmp_path.iterdir()) == [lock]


def test_a_file_system_without_locks_lets_a_run_work(tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", no_locks)
    with locked(tmp_path / ".lock", "working"):
        pass


def test_what_is_written_takes_the_place_of_what_was_there(tmp_path):
    path = tmp_path / "figures.json"
    for values in ({"accuracy": 0.5}, {"accuracy": 1.0}):
        write_json(path, values)
    assert path.read_text() == '{\n  "accuracy": 1.0\n}\n'
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, OSError])
def test_an_error_leaves_what_was_there_and_nothing_beside_it(tmp_path, error):
    path = tmp_path / "scores.csv"
    path.write_text("before")
    with pytest.raises(error), replacing(path) as temporary:
        temporary.write_text("half")
        raise error
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_number_that_is_not_finite_is_refused_before_the_file_is_touched(tmp_path):
    write_json(tmp_path / "figures.json", 1)
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "figures.json", float("nan"))
    assert (tmp_path / "figures.json").read_text() == "1\n"


def test_a_full_disk_and_a_directory_that_is_not_there_name_the_file(tmp_path):
    with pytest.raises(OSError, match="No space left") as full, replacing(tmp_path / "a.json"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert full.value.filename == str(tmp_path / "a.json")
    with pytest.raises(FileNotFoundError) as nowhere:
        write_json(tmp_path / "nowhere" / "a.json", 1)
    assert nowhere.value.filename == str(tmp_path / "nowhere" / "a.json")


def test_a_link_stays_one_and_what_it_names_is_replaced(tmp_path):
    (tmp_path / "there").mkdir()
    link = tmp_path / "figures.json"
    link.symlink_to(tmp_path / "there" / "figures.json")
    write_json(link, 1)
    assert link.is_symlink()
    assert (tmp_path / "there" / "figures.json").read_text() == "1\n"
