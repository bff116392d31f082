"""`DatasetBuilder`: a `Dataset` from the videos that a layout found, with made splits, names and links to originals."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dataloading import remote
from dataloading.dataset import ORIGINAL, Dataset, LeftOut, Summary, Video
from dataloading.errors import InputError
from dataloading.face_index import FILE_NAME as FACE_INDEX
from dataloading.layouts.files import NO_TEXT, VIDEO_SUFFIXES, is_text, is_video, walk
from dataloading.layouts.identity_split import IN_TWO_SPLITS, split_by_identity

LIST_BYTES = 256 << 20  # of a list of a published data set
NO_VALIDATION = "There is no official validation set; from the training people it is"
NOT_A_VIDEO = f"not a video file name (expected {', '.join(sorted(VIDEO_SUFFIXES))})"
UNKNOWN_PLACE = "in a directory that this layout does not have"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A video file that a layout recognized.

    Attributes:
        path: The file.
        label: 0 for real, 1 for fake.
        people: The people in it, first the one whose body and scene are shown.
        people_known: Whether `people` are people; where the data set does not name those of a video, they stand for
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


class DatasetBuilder:
    """Builder of a `Dataset` from the files that a layout finds below a root.

    Attributes:
        root, layout: As in `Dataset`.
        expected: The files of the layout, for the error of a root without videos.
        left_out, notes: As in `Dataset`; layouts add to them.
    """

    def __init__(self, root: Path, layout: str, expected: str):
        self.root, self.layout, self.expected = root, layout, expected
        self.left_out: list[LeftOut] = []
        self.notes: list[str] = []

    def leave_out(self, path: Path, reason: str) -> None:
        """List a file in `left_out`."""
        self.left_out.append(LeftOut(path, reason))

    def videos_in(self, directory: Path, *, recursive: bool = False) -> list[Path]:
        """Return the video files in a directory, sorted; none without it. Files with other names are left out."""
        found, inside = [], directory.iterdir() if directory.is_dir() else ()
        for path in sorted(walk(directory) if recursive else inside):
            if path.is_dir() or path.name.startswith(".") or path.name == FACE_INDEX:
                continue
            if is_video(path) and not is_text(path):
                self.leave_out(path, NO_TEXT)
            elif is_video(path):
                found.append(path)
            else:
                self.leave_out(path, NOT_A_VIDEO)
        return found

    def split(
        self, why: str, shares: Mapping[str, float], candidates: Sequence[Candidate], by: str = "file name"
    ) -> list[Candidate]:
        """Split candidates by identity, and say so in `notes`; those whose people are in two splits are left out.

        Args:
            why: The beginning of the note: why a split is made.
            shares: Those of the splits.
            candidates: What is split.
            by: What keeps videos together where the data set names no people.
        """
        if not candidates:
            return []
        unknown = sum(not candidate.people_known for candidate in candidates)
        kept_apart = "no named person in two splits"
        if unknown == len(candidates):
            kept_apart = "the people in them are not known, so a person may be in two splits"
        elif unknown:
            kept_apart += f", but the people in {unknown} of {len(candidates)} videos are not known"
        by = by if unknown == len(candidates) else "identity"
        parts = ", ".join(f"{share:.0%} {split}" for split, share in shares.items())
        self.notes.append(f"{why}: made here by {by} ({parts}; {kept_apart}; the same on every machine).")
        places = split_by_identity([c.people for c in candidates], [c.label for c in candidates], shares)
        kept = []
        for candidate, (identity, split) in zip(candidates, places, strict=True):
            if split is None:
                self.leave_out(candidate.path, IN_TWO_SPLITS)
            else:
                kept.append(replace(candidate, split=split, identity=identity))
        return kept

    def unknown_places(self, known: Iterable[Path]) -> list[Path]:
        """Return every video file below the root that is neither in `known` nor left out already."""
        seen = {*known, *(item.path for item in self.left_out)}
        # Directories of extracted frames may hold millions of files and never a video.
        files = walk(self.root, enter=lambda directory: directory.name not in ("images", "frames"))
        return [path for path in files if is_video(path) and path not in seen]

    def finish(self, videos: Sequence[Candidate], known: Iterable[Path] = ()) -> Dataset:
        """Name the videos and link fakes to their originals.

        Args:
            videos: The data set's.
            known: Further files that the layout knows; other video files below the root are left out.

        Raises:
            InputError: There is not a single video; the sentence says what was `expected`.
        """
        for path in self.unknown_places([*(candidate.path for candidate in videos), *known]):
            self.leave_out(path, UNKNOWN_PLACE)
        self.left_out.sort(key=lambda item: (item.reason, item.path))
        if not videos:
            count = len(self.left_out)
            ignored = f" ({count} files were left out, the first because: {self.left_out[0].reason})" if count else ""
            raise InputError(
                f"{self.root} has no usable video for the layout {self.layout}; expected {self.expected}{ignored}."
            )
        name_of: dict[Path, str] = {}
        taken: set[str] = set()
        for candidate in sorted(videos, key=lambda c: c.path):
            relative = candidate.path.relative_to(candidate.root or self.root)
            name = relative.with_suffix("").as_posix()
            # a.mp4 and a.avi in one directory: the second keeps its suffix.
            name_of[candidate.path] = name if name not in taken else relative.as_posix()
            taken.add(name_of[candidate.path])
        named = [
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
            for candidate in videos
        ]
        return Dataset(self.root, self.layout, sorted(named, key=lambda video: video.name), self.left_out, self.notes)


def format_summary(summary: Summary) -> str:
    """Return what was found and what was left out, as a few lines and a table of videos by manipulation and split."""
    classes = ", ".join(f"{count} {name}" for name, count in summary.classes.items())
    root = remote.mirrored(summary.root) or summary.root
    lines = [f"{root}: layout {summary.layout}, {summary.videos} videos ({classes})", ""]
    columns = list(summary.splits)
    rows = [["", *columns, "all"]]
    for manipulation, counts in summary.table.items():
        rows.append([manipulation, *(str(counts.get(split, 0)) for split in columns), str(sum(counts.values()))])
    rows.append(["all", *(str(summary.splits[split]) for split in columns), str(summary.videos)])
    widths = [max(len(row[column]) for row in rows) for column in range(len(columns) + 2)]
    for first, *others in rows:
        cells = [first.ljust(widths[0]), *(o.rjust(w) for o, w in zip(others, widths[1:], strict=True))]
        lines.append("  ".join(cells))
    if summary.notes:
        lines += ["", *summary.notes]
    total = sum(summary.left_out.values())
    lines += ["", f"Left out: {total}" if total else "Nothing was left out."]
    lines += [f"  {count}  {reason}" for reason, count in summary.left_out.items()]
    return "\n".join(lines)
