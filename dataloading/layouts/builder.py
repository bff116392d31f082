"""From the files that a layout recognized to a `Dataset`: splits where there are none, names, sources."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dataloading.dataset import ORIGINAL, Dataset, LeftOut, Summary, Video
from dataloading.errors import InputError
from dataloading.layouts.identity_split import STRADDLES, split_by_identity


@dataclass(frozen=True, slots=True)
class Candidate:
    """A video file that a layout recognized.

    Attributes:
        path: The file.
        label: 0 for real, 1 for fake.
        people: Who is in it, first the one whose body and scene are shown.
        people_known: Whether `people` are people; where the data set does not say who is in a video, they stand for
            the video itself or for its original.
        manipulation: As `Video.manipulation`.
        split: The official split, or None where none is given.
        identity: As `Video.identity`; by default the first of `people`.
        original: The file of the original that a fake was made from.
        mask: The mask video.
        root: What the name is relative to, where that is not the root of the data set.
    """

    path: Path
    label: int
    people: tuple[str, ...]
    manipulation: str = ORIGINAL
    split: str | None = None
    identity: str | None = None
    original: Path | None = None
    mask: Path | None = None
    root: Path | None = None
    people_known: bool = True


def with_made_split(
    candidates: Sequence[Candidate], shares: Mapping[str, float], left_out: list[LeftOut]
) -> list[Candidate]:
    """Splits candidates by identity; those whose people are in two splits are added to `left_out`."""
    if not candidates:
        return []
    places = split_by_identity([c.people for c in candidates], [c.label for c in candidates], shares)
    kept = []
    for candidate, (identity, split) in zip(candidates, places, strict=True):
        if split is None:
            left_out.append(LeftOut(candidate.path, STRADDLES))
        else:
            kept.append(replace(candidate, split=split, identity=identity))
    return kept


def describe(what: str, shares: Mapping[str, float], candidates: Sequence[Candidate], by: str = "file name") -> str:
    """The sentence that says that a split was made, for `Dataset.notes`.

    Args:
        what: Its beginning: why it was made.
        shares: Those of the splits.
        candidates: What is split.
        by: What keeps videos together where nobody is named.
    """
    unknown = sum(not candidate.people_known for candidate in candidates)
    kept_apart = "no named person in two splits"
    if unknown == len(candidates):
        kept_apart = "who is in them is not known, so a person may be in two splits"
    elif unknown:
        kept_apart += f", but who is in {unknown} of {len(candidates)} videos is not known"
    by = by if unknown == len(candidates) else "identity"
    parts = ", ".join(f"{share:.0%} {split}" for split, share in shares.items())
    return f"{what}: made here by {by} ({parts}; {kept_apart}; the same on every machine)."


def to_dataset(
    root: Path,
    layout: str,
    candidates: Sequence[Candidate],
    left_out: list[LeftOut],
    notes: list[str],
    expected: str,
) -> Dataset:
    """Names the candidates and links fakes to their originals.

    Raises:
        InputError: There is not a single video; the sentence says what was `expected`.
    """
    if not candidates:
        ignored = f" ({len(left_out)} files were left out, the first because: {left_out[0].reason})" if left_out else ""
        raise InputError(f"{root} has no usable video for the layout {layout}; expected {expected}{ignored}.")
    name_of: dict[Path, str] = {}
    taken: set[str] = set()
    for candidate in sorted(candidates, key=lambda c: c.path):
        relative = candidate.path.relative_to(candidate.root or root)
        name = relative.with_suffix("").as_posix()
        # a.mp4 and a.avi in one directory: the second keeps its suffix.
        name_of[candidate.path] = name if name not in taken else relative.as_posix()
        taken.add(name_of[candidate.path])
    videos = [
        Video(
            path=candidate.path,
            label=candidate.label,
            manipulation=candidate.manipulation,
            split=candidate.split,
            name=name_of[candidate.path],
            identity=candidate.identity or candidate.people[0],
            source=name_of.get(candidate.original) if candidate.original else None,
            mask=candidate.mask,
        )
        for candidate in candidates
    ]
    left_out.sort(key=lambda item: (item.reason, item.path))
    return Dataset(root, layout, sorted(videos, key=lambda video: video.name), left_out, notes)


def format_summary(summary: Summary) -> str:
    """What was found and what was left out, as a few lines and a table of videos by manipulation and split."""
    classes = ", ".join(f"{count} {name}" for name, count in summary.classes.items())
    lines = [f"{summary.root}: layout {summary.layout}, {summary.videos} videos ({classes})", ""]
    columns = list(summary.splits)
    rows = [["", *columns, "all"]]
    for manipulation, counts in summary.table.items():
        rows.append([manipulation, *(str(counts.get(split, 0)) for split in columns), str(sum(counts.values()))])
    rows.append(["all", *(str(summary.splits[split]) for split in columns), str(summary.videos)])
    widths = [max(len(row[column]) for row in rows) for column in range(len(columns) + 2)]
    for first, *others in rows:
        lines.append(
            "  ".join([first.ljust(widths[0]), *(o.rjust(w) for o, w in zip(others, widths[1:], strict=True))])
        )
    if summary.notes:
        lines += ["", *summary.notes]
    total = sum(summary.left_out.values())
    lines += ["", f"Left out: {total}" if total else "Nothing was left out."]
    lines += [f"  {count}  {reason}" for reason, count in summary.left_out.items()]
    return "\n".join(lines)
