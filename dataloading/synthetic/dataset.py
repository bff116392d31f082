"""The synthetic set's directory tree, in the layout of FaceForensics++: its splits, its files, and writing them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from dataloading.dataset import ORIGINAL, SPLITS, SYNTHETIC_SETTINGS
from dataloading.errors import InputError
from dataloading.faces.boxes_file import FACES
from dataloading.io import locked, read_json, shown, write_json
from dataloading.synthetic.edited import draw_edited_video
from dataloading.synthetic.forgery import PARTS, WHOLE, Extent, draw_extent
from dataloading.synthetic.rendering import (
    ALL_MANIPULATIONS,
    MANIPULATIONS,
    VideoPlan,
    face_rows,
    forged_frames,
    render,
    write_video,
)
from dataloading.video.processes import MOST_WORKERS, Workers, alive

GENERATOR_VERSION = 6
COMPRESSION = "c23"
# Smallest and largest values, checked before anything is written or memory is taken.
_LIMITS = {
    "identities": (2, 100_000),
    "videos_per_identity": (1, 1000),
    "frames": (8, 100_000),
    "size": (32, 4096),
    "fps": (1, 1000),
}
FORGERIES = "forgeries.json"  # in the root: where and when each fake is forged
EDITED = "edited/two_people.mp4"
LOCK = f".{SYNTHETIC_SETTINGS}.lock"


@dataclass(frozen=True)
class SyntheticSummary:
    """Result of `synthesize`: the directory, and how many of its videos this run wrote."""

    directory: Path
    written: int
    already_there: int


@dataclass(frozen=True, kw_only=True)
class _Settings:
    """Settings that determine every file of a set, as stored in `synthetic.json`; see `synthesize`."""

    generator: str = "istvt synthetic set"
    version: int = GENERATOR_VERSION
    identities: int
    videos_per_identity: int
    frames: int
    size: int
    fps: int
    seed: int
    splits: tuple[float, ...]
    varied: bool = False
    manipulations: tuple[str, ...] = MANIPULATIONS

    def stored(self) -> dict[str, Any]:
        """Return what `synthetic.json` holds: in a set of the usual kinds, the fields that it has always had."""
        values = asdict(self)
        if self.manipulations == MANIPULATIONS:
            del values["manipulations"]
        return values


@dataclass(frozen=True, kw_only=True)
class Forgery:
    """Where and when one fake is forged, as stored in `forgeries.json`.

    Attributes:
        original: name of the video that it was made from, frame by frame (`dataloading.dataset.Video.name`).
        region: `whole` inner face, or its `left`, `right`, `upper` or `lower` half as seen in the picture; `mouth` or
            `eyes` of these manipulations.
        frames: the forged frames; the others are those of the original, with other sensor noise.
    """

    original: str
    region: str
    frames: tuple[int, ...]


@dataclass(frozen=True)
class _Task:
    plan: VideoPlan
    path: Path
    mask: Path | None
    fps: int


def synthesize(
    directory: str | os.PathLike[str],
    *,
    identities: int = 48,
    videos_per_identity: int = 1,
    frames: int = 24,
    size: int = 128,
    fps: int = 25,
    seed: int = 0,
    workers: int = 2,
    splits: tuple[float, float, float] = (0.5, 0.25, 0.25),
    varied: bool = False,
    edited: bool = False,
    manipulations: Sequence[str] = MANIPULATIONS,
    progress: bool = True,
) -> SyntheticSummary:
    """Write the synthetic set into `directory`, keeping the videos that are already there.

    Args:
        directory: root of the tree; made if missing.
        identities: people, an even number: they are paired, and each pair makes fakes of one another.
        videos_per_identity: real videos of each person; each gives one fake of every manipulation.
        frames: frames a video.
        size: side of the square frames in pixels, even.
        fps: frames a second.
        seed: with the other settings, determines every file.
        workers: processes; 1 draws in this one. More are spawned, so a script that calls this needs the usual
            `if __name__ == "__main__":`.
        splits: shares of the pairs that go to train, val and test; a share above 0 gets at least one pair.
        varied: half of the fakes are forged in only one or two of each six consecutive frames, and half of `blend` and
            `both` in only one half of the face: explanations then have to find where and when. Otherwise every fake is
            forged in the whole inner face and in all frames. `forgeries` reads which is which.
        edited: also write `EDITED`, an edited video of two of the people, of whom one is forged in one shot, with
            what it shows in a JSON file beside it (`dataloading.synthetic.edited`). It belongs to no split.
        manipulations: kinds of fakes that are drawn of each real video, of `ALL_MANIPULATIONS`. The videos of a kind do
            not depend on which others there are.
        progress: show a progress bar.

    Returns:
        How many videos this run wrote, and how many were there.

    Raises:
        InputError: for settings that make no set, for a directory that holds something else or a set of other settings,
            or one that another run is writing to.
    """
    root = Path(directory)
    settings = _Settings(
        identities=identities,
        videos_per_identity=videos_per_identity,
        frames=frames,
        size=size,
        fps=fps,
        seed=seed,
        splits=tuple(map(float, splits)),
        varied=varied,
        manipulations=tuple(manipulations),
    )
    _check(settings, workers)
    pairs = _pairs_by_split(settings)
    _check_place(root, settings)
    root.mkdir(parents=True, exist_ok=True)
    with locked(root / LOCK, f"writing to {root}; wait for it, or choose another directory"):
        _check_place(root, settings)  # again: another run may have been here since
        if not (root / SYNTHETIC_SETTINGS).exists():
            write_json(root / SYNTHETIC_SETTINGS, settings.stored())
        (root / "splits").mkdir(exist_ok=True)
        for name, members in pairs.items():
            write_json(root / "splits" / f"{name}.json", [[f"{a:03d}", f"{b:03d}"] for a, b in members])
        tasks = list(_tasks(root, pairs, settings))
        write_json(root / FORGERIES, _forgeries(root, tasks))
        rows = {task.path.relative_to(root).as_posix(): face_rows(task.plan).round(2).tolist() for task in tasks}
        write_json(root / FACES, rows)
        missing = [task for task in tasks if not (task.path.exists() and (task.mask is None or task.mask.exists()))]
        _write_all(missing, workers, progress)
        if edited and not (root / EDITED).exists():
            (root / EDITED).parent.mkdir(exist_ok=True)
            draw_edited_video(root / EDITED, seed=seed, frames=frames, size=size, fps=fps)
    return SyntheticSummary(root, written=len(missing), already_there=len(tasks) - len(missing))


def forgeries(root: str | os.PathLike[str]) -> dict[str, Forgery]:
    """Return where and when each fake of a synthetic set is forged, by its name (`dataloading.dataset.Video.name`).

    Raises:
        InputError: there is no `forgeries.json` in `root`, or it is damaged.
    """
    return read_json(Path(root) / FORGERIES, dict[str, Forgery])


def _check(settings: _Settings, workers: int) -> None:
    for name, (least, most) in _LIMITS.items():
        value = getattr(settings, name)
        if value < least:
            raise InputError(f"{name} is {value}; the synthetic set needs at least {least}.")
        if value > most:
            raise InputError(f"{name} is {value}; the synthetic set takes at most {most:,}.")
    kinds = settings.manipulations
    if not kinds or len(set(kinds)) < len(kinds) or not set(kinds) <= set(ALL_MANIPULATIONS):
        raise InputError(
            f"manipulations is {', '.join(kinds) or 'empty'}; expected one or more of {', '.join(ALL_MANIPULATIONS)}, "
            "each once."
        )
    for name in ("identities", "size"):
        if getattr(settings, name) % 2:
            raise InputError(f"{name} is {getattr(settings, name)}; the synthetic set needs an even number.")
    if not 1 <= workers <= MOST_WORKERS:
        raise InputError(f"workers is {workers}; 1 to {MOST_WORKERS:,} are possible.")
    if settings.seed < 0:
        raise InputError(f"seed is {settings.seed}; it must not be negative.")
    shares = settings.splits
    if len(shares) != 3 or min(shares) < 0 or sum(shares) <= 0:
        raise InputError(
            f"splits is {list(shares)}; three shares for train, val and test are needed, none of them negative."
        )
    wanted = sum(share > 0 for share in shares)
    if settings.identities < 2 * wanted:
        raise InputError(
            f"identities is {settings.identities}; expected at least {2 * wanted}: {wanted} splits need a pair of "
            "people each."
        )


def _pairs_by_split(settings: _Settings) -> dict[str, list[tuple[int, int]]]:
    """Return pairs of video numbers by split. Video `v` shows person `v // videos_per_identity`."""
    people, each, total = settings.identities // 2, settings.videos_per_identity, sum(settings.splits)
    exact = [share / total * people for share in settings.splits]
    counts = [max(int(count), int(share > 0)) for count, share in zip(exact, settings.splits, strict=True)]
    while sum(counts) > people:
        counts[counts.index(max(counts))] -= 1
    while sum(counts) < people:
        short = [count - have for count, have in zip(exact, counts, strict=True)]
        counts[short.index(max(short))] += 1
    pairs, first = {}, 0
    for name, count in zip(SPLITS, counts, strict=True):
        pairs[name] = [
            (2 * pair * each + take, (2 * pair + 1) * each + take)
            for pair in range(first, first + count)
            for take in range(each)
        ]
        first += count
    return pairs


def _check_place(root: Path, settings: _Settings) -> None:
    """Raise InputError where `root` is no home of a set of these settings."""
    path = root / SYNTHETIC_SETTINGS
    if root.exists() and not root.is_dir():
        raise InputError(f"{root} is a file; a directory for the synthetic set is needed.")
    if path.exists():
        found, now = asdict(read_json(path, _Settings)), asdict(settings)
        differing = [f"{name} {shown(found[name])} (now {now[name]})" for name in now if found[name] != now[name]]
        if differing:
            raise InputError(
                f"{root} holds a synthetic set made with {', '.join(differing)}; choose another directory or remove it."
            )
    elif root.exists() and any(not child.name.startswith(f".{SYNTHETIC_SETTINGS}.") for child in root.iterdir()):
        raise InputError(f"{root} holds files that are not a synthetic set; choose an empty or a new directory.")


def _tasks(root: Path, pairs: dict[str, list[tuple[int, int]]], settings: _Settings) -> Iterator[_Task]:
    each, fps = settings.videos_per_identity, settings.fps

    def plan(target: int, source: int, manipulation: str) -> VideoPlan:
        people = target // each, source // each
        extent = Extent(region=manipulation if manipulation in PARTS else WHOLE)
        if settings.varied and manipulation != ORIGINAL:
            rng = np.random.default_rng((settings.seed, target, 30 + ALL_MANIPULATIONS.index(manipulation)))
            extent = draw_extent(rng, manipulation, settings.frames)
        return VideoPlan(
            settings.seed, target, people[0], source, people[1], manipulation, settings.frames, settings.size, extent
        )

    originals = root / "original_sequences" / "youtube" / COMPRESSION / "videos"
    for pair in (pair for members in pairs.values() for pair in members):
        for target, source in (pair, pair[::-1]):
            yield _Task(plan(target, source, ORIGINAL), originals / f"{target:03d}.mp4", None, fps)
            for manipulation in settings.manipulations:
                folder, name = root / "manipulated_sequences" / manipulation, f"{target:03d}_{source:03d}.mp4"
                path, mask = folder / COMPRESSION / "videos" / name, folder / "masks" / "videos" / name
                yield _Task(plan(target, source, manipulation), path, mask, fps)


def _forgeries(root: Path, tasks: list[_Task]) -> dict[str, dict[str, Any]]:
    """Return what `forgeries.json` holds."""

    def name(path: Path) -> str:
        return path.relative_to(root).with_suffix("").as_posix()

    original = {task.plan.video: name(task.path) for task in tasks if task.mask is None}
    return {
        name(task.path): asdict(
            Forgery(
                original=original[task.plan.video],
                region=task.plan.extent.region,
                frames=forged_frames(task.plan),
            )
        )
        for task in tasks
        if task.mask is not None
    }


def _write_all(tasks: list[_Task], workers: int, progress: bool) -> None:
    for folder in {path.parent for task in tasks for path in (task.path, task.mask) if path is not None}:
        folder.mkdir(parents=True, exist_ok=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, disable=not progress) as bar, Workers() as processes:
        shown = bar.add_task("Drawing synthetic videos", total=len(tasks))
        # Videos of a pair share what is drawn once.
        of_pair = 2 * (1 + len({task.plan.manipulation for task in tasks} - {ORIGINAL}))
        jobs = [tasks[first : first + of_pair] for first in range(0, len(tasks), of_pair)]
        done = processes.run_all(write_videos, jobs, workers, lambda job: job[0].path, blame="the encoder")
        for job, failure in done:
            if failure is not None:
                raise failure
            bar.advance(shown, len(job))


def write_videos(tasks: list[_Task]) -> None:
    """Draw and write videos and their masks; called in a worker process."""
    cv2.setNumThreads(1)  # the processes are the parallelism
    for task in tasks:
        pictures, masks = zip(*alive(render(task.plan)), strict=True)
        if task.mask is not None:
            write_video(task.mask, alive(masks), task.fps)
        write_video(task.path, alive(pictures), task.fps)
