"""Journal of a job: the results of its videos, one line each, from which it goes on and from which shards are merged.

A job is a list of videos and the settings that their results depend on. The first line of a journal says of which job
and which shard of it this is (`Header`); each further line is a video (`Line`), written as soon as it is done. The
journal of a shard is its result. That of a whole job is removed when the result is written.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from dataloading.errors import InputError, writing
from dataloading.io import locked, parse_json, read_bytes, replacing, shown

Result = TypeVar("Result")

MOST_SHARDS = 100_000
MAX_BYTES = 4 << 30  # of a journal
_NAMES = {"predict": "scores of files", "evaluate": "scores of an evaluation", "prepare": "face boxes of a data set"}
_NAMES |= {"crops": "crops of a data set", "robustness": "scores of perturbed videos"}


@dataclass(frozen=True, slots=True)
class Shard:
    """One of the parts of a job, counted from 1; 1 of 1 is the whole."""

    number: int = 1
    of: int = 1

    def __post_init__(self) -> None:
        if not (1 <= self.number <= self.of <= MOST_SHARDS):
            raise ValueError(f"shard is {self}; expected a number from 1 to {min(max(self.of, 1), MOST_SHARDS):,}")

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """Return the shard of `"3/16"`; InputError where it is none."""
        try:
            number, of = map(int, text.split("/"))
            return cls(number, of)
        except ValueError:
            expected = "expected NUMBER/OF such as 3/16, counted from 1"
            raise InputError(f"--shard is {text!r}; {expected}") from None

    def file(self, result: Path) -> Path:
        """Return where this shard of a result is written: `scores.json.shard-3-of-16`."""
        return result.with_name(f"{result.name}.shard-{self.number}-of-{self.of}")

    def positions(self, groups: Sequence[Hashable]) -> list[int]:
        """Return the positions of this shard's videos; those of a group (one for each video) are in one shard."""
        numbers = {group: number for number, group in enumerate(dict.fromkeys(groups))}
        return [at for at, group in enumerate(groups) if numbers[group] % self.of == self.number - 1]


def unfinished(result: Path) -> Path:
    """Return the place of the journal of a whole job: `scores.json.unfinished`."""
    return result.with_name(f"{result.name}.unfinished")


@dataclass(frozen=True, slots=True)
class Header:
    """First line of a journal.

    Attributes:
        command: That makes the results.
        settings: All that they depend on, beside the videos.
        videos: How many the whole job has.
        names: SHA-256 of their names, in order.
        own: How many this shard has.
        shard: Which part of the job.
    """

    command: Literal["predict", "evaluate", "prepare", "crops", "robustness"]
    settings: dict[str, Any]
    videos: int
    names: str
    own: int
    shard: Shard
    journal: Literal[1] = 1


@dataclass(frozen=True, slots=True)
class Line:
    """A video that is done.

    Attributes:
        position: In the list of the whole job, from 0.
        video: Its name in the job.
        version: Size and modification time in ns of its file.
        failed: There is no result but a reason; a job that goes on tries again.
        result: Of the command.
    """

    position: int
    video: str
    version: tuple[int, int] | None
    failed: bool
    result: dict[str, Any]


class Journal(Generic[Result]):
    """Results of a job by position, kept in a file as they are made. Made by `keeping`.

    Attributes:
        path: Its file; None where there is none.
        positions: Of the videos of this shard, in order.
        results: By position, of those that are done.
        todo: Positions of this shard that were not done when the journal was opened, in order.
    """

    def __init__(
        self,
        path: Path | None,
        header: Header,
        videos: Sequence[tuple[str, Path]],
        positions: Sequence[int],
        to_dict: Callable[[Result], dict[str, Any]],
        failed: Callable[[Result], bool],
    ) -> None:
        self.path, self.header, self.positions = path, header, list(positions)
        self._videos = videos
        self._to_dict, self._failed = to_dict, failed
        self.results: dict[int, Result] = {}
        self.todo = list(positions)

    def add(self, position: int, result: Result) -> None:
        """Keep a result."""
        self.results[position] = result
        if self.path is not None:
            with writing(self.path), self.path.open("a", encoding="utf-8") as file:
                file.write(self._line(position))

    def in_order(self) -> list[Result]:
        """Return the results of this shard in the order of the job's videos."""
        return [self.results[position] for position in self.positions]

    def rewrite(self) -> None:
        """Leave the header and one line a video, in the order of the job's videos, in place of the file."""
        with replacing(self.path) as temporary:
            lines = (self._line(position) for position in self.positions if position in self.results)
            temporary.write_text("".join((_json(asdict(self.header)), *lines)), encoding="utf-8")

    def read(self, parse: Callable[[bytes, str], Result]) -> None:
        """Take over what is in the file of videos that have not changed, but for failures."""
        header, lines = _read(self.path)
        if difference := _difference(self.header, header):
            done = sum(not line.failed for line in lines)
            raise InputError(
                f"{self.path} holds {done} of {header.own} {_unit(header)} of another job ({difference}); give the "
                "settings that it was made with to go on, or delete it"
            )
        own = set(self.positions)
        for line in lines:
            if not line.failed and line.position in own and line.version == _version(self._videos[line.position][1]):
                where = f"{self.path}: {line.video}"
                self.results[line.position] = parse(json.dumps(line.result).encode(), where)
        self.todo = [position for position in self.positions if position not in self.results]

    def _line(self, position: int) -> str:
        name, path = self._videos[position]
        result = self.results[position]
        return _json(asdict(Line(position, name, _version(path), self._failed(result), self._to_dict(result))))


@contextlib.contextmanager
def keeping(
    path: Path | None,
    command: str,
    settings: dict[str, Any],
    videos: Sequence[tuple[str, Path]],
    shard: Shard,
    *,
    groups: Sequence[Hashable] | None = None,
    to_dict: Callable[[Result], dict[str, Any]],
    parse: Callable[[bytes, str], Result],
    failed: Callable[[Result], bool],
    renew: bool = False,
) -> Iterator[Journal[Result]]:
    """Open the journal of a shard of a job, with what an earlier run of it has done, and lock it.

    Args:
        path: Its file; None keeps the results in memory alone.
        command, settings: See `Header`; settings are of JSON's types.
        videos: (name, file) of all videos of the whole job, in order.
        shard: The part that is done here.
        groups: A value for each video; those with the same one are in one shard. None: each by itself.
        to_dict, parse: Between results and JSON.
        failed: Whether a result is a failure, which is tried again.
        renew: Begin anew where the file is of another job, which is refused otherwise.

    Raises:
        InputError: The file is of another job, or another process is writing to it.
        OSError: It cannot be written.
    """
    names = [name for name, _ in videos]
    positions = shard.positions(names if groups is None else groups)
    digest = hashlib.sha256("\n".join(names).encode(errors="backslashreplace")).hexdigest()
    header = Header(command, json.loads(json.dumps(settings)), len(videos), digest, len(positions), shard)
    journal = Journal(path, header, videos, positions, to_dict, failed)
    if path is None:
        yield journal
        return
    lock = path.with_name(f".{path.name}.lock")
    if not path.parent.is_dir():
        raise InputError(f"{path}: there is no directory {path.parent}; expected a file in one")
    with locked(lock, f"writing {path}; wait for it"):
        if path.exists():
            try:
                journal.read(parse)
            except InputError:
                if not renew:
                    raise
                journal.results, journal.todo = {}, list(positions)
        journal.rewrite()
        try:
            yield journal
        finally:
            lock.unlink(missing_ok=True)


def typed(values: dict[str, Any], model: type[Result], where: str) -> Result:
    """Return the settings of a header, or the result of a line, as a value of the type `model`; see `parse_json`."""
    return parse_json(json.dumps(values).encode(), model, where)


def read_shards(paths: Sequence[Path]) -> tuple[Header, list[Line]]:
    """Return the job of shards that are whole, and its lines in the order of its videos.

    Raises:
        InputError: A file is no shard, is of another job than the first, is there twice, is unfinished or is missing.
    """
    by_number: dict[int, tuple[Path, Header]] = {}
    lines: dict[int, Line] = {}
    first: Header | None = None
    for path in paths:
        header, own = _read(path)
        first = first or header
        if difference := _difference(first, header, shards=False):
            raise InputError(f"{path} is no shard of the same job as {paths[0]} ({difference})")
        number = header.shard.number
        if number in by_number:
            raise InputError(f"{by_number[number][0]} and {path} are both shard {header.shard}; expected each once")
        by_number[number] = path, header
        own_lines = {line.position: line for line in own if 0 <= line.position < header.videos}
        if len(own_lines) < header.own:
            raise InputError(
                f"{path} is unfinished: it holds {len(own_lines)} of {header.own} {_unit(header)} of shard "
                f"{header.shard}; the command that it was made by goes on with it"
            )
        lines |= own_lines
    if first is None:
        raise InputError("no shards are given; expected all of one job")
    missing = [str(number) for number in range(1, first.shard.of + 1) if number not in by_number]
    if missing:
        some = ", ".join(missing[:10]) + ", ..." * (len(missing) > 10)
        what = f"shard {some} is" if len(missing) == 1 else f"shards {some} are"
        raise InputError(f"{what} missing; expected all {first.shard.of} of the job of {paths[0]}")
    if len(lines) != first.videos:
        raise InputError(
            f"the shards hold {len(lines)} of the {first.videos} {_unit(first)} of their job; make them again"
        )
    return first, [lines[position] for position in range(first.videos)]


def _read(path: Path) -> tuple[Header, list[Line]]:
    """Return header and lines of a journal; a line that a killed run left half is none."""
    head, _, body = read_bytes(path, MAX_BYTES).partition(b"\n")
    try:
        header = parse_json(head, Header, f"{path}: line 1")
    except InputError as error:
        raise InputError(
            f"{path} is no shard or unfinished job of istvt predict, evaluate or prepare ({error})"
        ) from error
    lines = body.split(b"\n")
    found = [parse_json(text, Line, f"{path}: line {at}") for at, text in enumerate(lines[:-1], start=2) if text]
    return header, found


def _difference(one: Header, other: Header, shards: bool = True) -> str | None:
    """Return in words the first thing in which `other` is another job (and shard); None where it is the same."""
    if one.command != other.command:
        return f"it holds {_NAMES[other.command]}, not {_NAMES[one.command]}"
    for name, here, there in _differing(one.settings, other.settings):
        return f"{name} is {shown(there)} in it, not {shown(here)}"
    if (one.videos, one.names) != (other.videos, other.names):
        return f"its {other.videos} {_unit(other)} are others than these {one.videos}"
    if one.shard.of != other.shard.of:
        return f"it is one of {other.shard.of} shards, not of {one.shard.of}"
    if shards and one.shard != other.shard:
        return f"it is shard {other.shard}, not {one.shard}"
    return None


def _differing(one: dict[str, Any], other: dict[str, Any], within: str = "") -> Iterator[tuple[str, Any, Any]]:
    for name in dict.fromkeys((*one, *other)):
        here, there = one.get(name), other.get(name)
        if isinstance(here, dict) and isinstance(there, dict):
            yield from _differing(here, there, f"{within}{name}.")
        elif here != there:
            yield f"{within}{name}", here, there


def _unit(header: Header) -> str:
    """Return what the lines of a journal are: of perturbed videos, each of which is read several times, no videos."""
    return "readings of videos" if header.command == "robustness" else "videos"


def _version(path: Path) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_size, status.st_mtime_ns


def _json(values: dict[str, Any]) -> str:
    return json.dumps(values, allow_nan=False) + "\n"
