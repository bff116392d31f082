"""Sampling of clips: which frames of which videos an evaluation or a training epoch uses.

Every list of clips is made in full before anything is decoded, from the face index alone, so that it can be counted,
divided among processes, resumed and repeated. A video that gives no clip is listed with its reason.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from dataloading.dataset import CLASSES, FIRST_FRAMES, Video
from dataloading.errors import InputError
from dataloading.face_index import Box, FaceEntry, FaceIndex

CLIP_FRAMES = 6  # T of the paper
# Clips of a face in a video outside a data set, unless their number is chosen.
CLIPS = 8
SECONDS_A_CLIP = 4.0
MOST_CLIPS = 64


@dataclass(frozen=True, slots=True, eq=False)
class Clip:
    """Consecutive frames of one video and the box to crop from them.

    Attributes:
        video: The video.
        frames: int64 [T], the indices of its frames in display order.
        box: x0, y0, x1, y1 in pixels of the upright picture, one for all frames; it may reach beyond the picture.
        label: 0 for real, 1 for fake.
        index: Position in the list of clips the sampler made.
        rehearsed: Whether it is of a data set that a detector learned earlier, among clips of a new one.
    """

    video: Video
    frames: np.ndarray
    box: Box
    label: int
    index: int
    rehearsed: bool = False


@dataclass(frozen=True, slots=True)
class SkippedVideo:
    """A video that gives no clip, and the sentence that says why."""

    video: Video
    reason: str


class Clips(list[Clip]):
    """A list of clips that also holds what could not be sampled.

    Attributes:
        skipped: The videos that gave no clip, each with its reason.
    """

    def __init__(self, clips: Iterable[Clip] = (), skipped: Iterable[SkippedVideo] = ()):
        super().__init__(clips)
        self.skipped = list(skipped)


def evaluation_clips(
    videos: Sequence[Video],
    index: FaceIndex,
    frames: int = CLIP_FRAMES,
    clips_per_video: int = 4,
    first_frames: int | None = FIRST_FRAMES,
) -> Clips:
    """Return the same clips every time: evenly spread over the first frames of each video, as the paper evaluates.

    The first clip starts where the face is first known, the last one ends where it is last known or at
    `first_frames`, whichever comes first, and the starts between are evenly spaced over the frames at which a clip can
    start: none spans a cut. A video with room for fewer different clips gives as many as it has.

    Args:
        videos: The videos, in the order in which their clips are to come.
        index: Their face boxes.
        frames: T, the consecutive frames of a clip.
        clips_per_video: Clips of each video.
        first_frames: Only this many frames from the beginning are used (270 in the paper); None for all.

    Returns:
        The clips, grouped by video, and in `.skipped` the videos that gave none.
    """
    _require_positive(frames=frames, clips_per_video=clips_per_video)
    usable, skipped = _usable_videos(videos, index, frames, first_frames)
    clips = Clips(skipped=skipped)
    for video, starts in usable:
        # np.unique: a video with fewer starts than clips_per_video must not give the same clip twice.
        first = starts[0]
        spread = np.linspace(first, first + len(starts) - 1, min(clips_per_video, len(starts)))
        for start in np.unique(np.rint(spread).astype(np.int64)):
            clips.append(_clip(video, starts[int(start - first)], frames, len(clips), index))
    return clips


def clips_over_shots(video: Video, entry: FaceEntry, frames: int = CLIP_FRAMES, clips: int | None = None) -> Clips:
    """Return clips of one video outside a data set, spread over all of it and over the shots that show the face.

    Each shot that holds a clip gives one, and further ones go to where a clip stands for the most frames; within a shot
    they are evenly spread. A video of one shot gives the clips of `evaluation_clips` over all its frames.

    Args:
        video: The video.
        entry: The boxes of the face.
        frames: T, the consecutive frames of a clip.
        clips: How many; fewer than there are shots are spread over the video instead. None for `CLIPS`, and more where
            there are more shots or the face is seen for longer: one in `SECONDS_A_CLIP`, at most `MOST_CLIPS`.

    Returns:
        The clips in the order of the video, and in `.skipped` the video, where it gives none.
    """
    ranges = _start_ranges(entry, frames, video.first_frames)
    if clips is None:
        seconds = entry.frames_seen / entry.fps if entry.fps else 0
        clips = min(max(CLIPS, len(ranges), int(seconds / SECONDS_A_CLIP)), MOST_CLIPS)
    index = FaceIndex({video.name: entry})
    if len(ranges) < 2 or clips < len(ranges):
        return evaluation_clips([video], index, frames, clips, None)
    shares = np.ones(len(ranges), np.int64)
    room = np.array([len(starts) for starts in ranges])
    while shares.sum() < min(clips, room.sum()):
        shares[np.argmax(np.where(shares < room, room / shares, 0))] += 1
    chosen = Clips()
    for starts, share in zip(ranges, shares.tolist(), strict=True):
        ends = [(starts[0] + starts[-1]) // 2] * 2 if share == 1 else (starts[0], starts[-1])
        for start in np.rint(np.linspace(*ends, share)).astype(np.int64).tolist():
            chosen.append(_clip(video, start, frames, len(chosen), index))
    return chosen


class TrainingClips:
    """Random clips with balanced classes, one explicit list an epoch.

    Each epoch draws the same number of clips of each class: `clips_per_video` for every video of the larger class,
    and for the smaller class as many in all, so that its videos give more, differently placed clips. Starts within
    a video are drawn without replacement as long as it has different ones. No clip spans a cut.

    The list depends on (videos, index, frames, clips_per_video, seed, epoch) and on nothing else. With several
    processes each takes every `world_size`-th clip of it, so that what any number of them have used is the beginning
    of one and the same list, and any other number can go on with the rest. Where it does not divide evenly the last
    ranks have one clip less than the first.

    Args:
        videos, index: What clips are drawn from.
        frames: T, the consecutive frames of a clip.
        clips_per_video: Of each video of the larger class in an epoch.
        seed: Of the draws.
        rank, world_size: Which share of the list is this process's.
        clips_per_class: Of each class in an epoch, in place of what `clips_per_video` gives.

    Attributes:
        skipped: The videos that give no clip, each with its reason.

    Raises:
        InputError: A class has no usable video, or `rank` is not one of `world_size`.
    """

    def __init__(
        self,
        videos: Sequence[Video],
        index: FaceIndex,
        frames: int = CLIP_FRAMES,
        clips_per_video: int = 4,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        clips_per_class: int | None = None,
    ):
        _require_positive(frames=frames, clips_per_video=clips_per_video, world_size=world_size)
        if not 0 <= rank < world_size:
            raise InputError(f"rank is {rank}; expected 0 to {world_size - 1} with a world_size of {world_size}.")
        usable, self.skipped = _usable_videos(videos, index, frames, first_frames=None)
        self.index, self.frames, self.seed, self.rank, self.world_size = index, frames, seed, rank, world_size
        self._by_class = [[entry for entry in usable if entry[0].label == label] for label in range(len(CLASSES))]
        for name, entries in zip(CLASSES, self._by_class, strict=True):
            if not entries:
                raise InputError(
                    f"There is no usable {name} video to train on (usable: {len(usable)}, skipped: "
                    f"{len(self.skipped)}{_example(self.skipped)}); expected at least one of each class."
                )
        largest = max(len(entries) for entries in self._by_class)
        self._clips_per_class = largest * clips_per_video if clips_per_class is None else clips_per_class

    @property
    def clips_in_all(self) -> int:
        """Clips of one epoch on all ranks together."""
        return self._clips_per_class * len(CLASSES)

    def __len__(self) -> int:
        """Clips of one epoch on the first rank; no rank has more."""
        return -(-self.clips_in_all // self.world_size)

    def epoch(self, number: int, position: int = 0) -> Clips:
        """Return this rank's clips of one epoch, shuffled.

        Args:
            number: The epoch, from 0.
            position: How many of this rank's clips of the epoch were used already: resuming from (epoch, position)
                gives exactly the rest. `Clip.index` counts from the beginning of the epoch all the same.

        Returns:
            The clips; `.skipped` is that of the sampler.
        """
        random = np.random.default_rng([self.seed, number])
        drawn = [
            (video, start)
            for entries in self._by_class
            for video, start in _random_starts(entries, self._clips_per_class, random)
        ]
        order = random.permutation(len(drawn))[self.rank :: self.world_size]
        clips = (_clip(*drawn[j], self.frames, i, self.index) for i, j in enumerate(order))
        return Clips((clip for clip in clips if clip.index >= position), self.skipped)


class RehearsedClips:
    """Random clips of a new data set, with clips of earlier ones among them (rehearsal), one explicit list an epoch.

    The new set gives what `TrainingClips` of it does; the earlier ones together give `share / (1 - share)` times as
    many, each as many as any other, the classes balanced in each. Processes share the shuffled list as there.

    Attributes:
        skipped: The videos that give no clip, each with its reason.

    Raises:
        InputError: A class of a set has no usable video.
    """

    def __init__(
        self,
        sets: Sequence[tuple[Sequence[Video], FaceIndex]],
        share: float,
        frames: int = CLIP_FRAMES,
        clips_per_video: int = 4,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ):
        """Check that every set gives clips.

        Args:
            sets: Videos and their face boxes: of the new set, and of one or more earlier ones.
            share: Of an epoch's clips that are of earlier sets, above 0 and below 1.
            frames, clips_per_video, seed, rank, world_size: As of `TrainingClips`.
        """
        if not 0 < share < 1 or len(sets) < 2:
            raise ValueError(
                f"share is {share} of {len(sets) - 1} earlier sets; expected above 0, below 1, of one or more"
            )
        new = TrainingClips(*sets[0], frames, clips_per_video, seed)
        wanted = max(1, round(new.clips_in_all / len(CLASSES) * share / (1 - share) / (len(sets) - 1)))
        # Each set draws numbers of its own: sets may have real videos in common.
        self._samplers = [new] + [
            TrainingClips(*earlier, frames, clips_per_video, seed + place * 1_000_003, clips_per_class=wanted)
            for place, earlier in enumerate(sets[1:], start=1)
        ]
        self.seed, self.rank, self.world_size = seed, rank, world_size
        self.skipped = [item for sampler in self._samplers for item in sampler.skipped]

    @property
    def clips_in_all(self) -> int:
        """Clips of one epoch on all ranks together."""
        return sum(sampler.clips_in_all for sampler in self._samplers)

    @property
    def rehearsed_in_all(self) -> int:
        """Those of them that are of earlier sets."""
        return self.clips_in_all - self._samplers[0].clips_in_all

    def __len__(self) -> int:
        """Clips of one epoch on the first rank; no rank has more."""
        return -(-self.clips_in_all // self.world_size)

    def epoch(self, number: int, position: int = 0) -> Clips:
        """Return this rank's clips of one epoch, shuffled; see `TrainingClips.epoch`."""
        drawn = [(clip, place > 0) for place, one in enumerate(self._samplers) for clip in one.epoch(number)]
        order = np.random.default_rng([self.seed, number, 1]).permutation(len(drawn))[self.rank :: self.world_size]
        clips = (replace(drawn[j][0], index=i, rehearsed=drawn[j][1]) for i, j in enumerate(order))
        return Clips((clip for clip in clips if clip.index >= position), self.skipped)


def _random_starts(
    entries: list[tuple[Video, Sequence[int]]], count: int, random: np.random.Generator
) -> Iterable[tuple[Video, int]]:
    """Yield `count` clips spread over the videos of one class: each video gives as many as any other, or one more."""
    share = np.full(len(entries), count // len(entries))
    share[random.permutation(len(entries))[: count % len(entries)]] += 1
    for (video, starts), clips in zip(entries, share, strict=True):
        for offset in _draw(len(starts), int(clips), random):
            yield video, starts[int(offset)]


def _draw(choices: int, count: int, random: np.random.Generator) -> np.ndarray:
    """Draw `count` numbers below `choices`; each is drawn again only after all the others were drawn as often."""
    rounds = [random.permutation(choices) for _ in range(count // choices)]
    rounds.append(random.choice(choices, count % choices, replace=False))
    return np.concatenate(rounds)


def _usable_videos(
    videos: Sequence[Video], index: FaceIndex, frames: int, first_frames: int | None
) -> tuple[list[tuple[Video, Sequence[int]]], list[SkippedVideo]]:
    """Return the videos that hold a clip, each with the frames at which one can start, and the others with reasons."""
    usable, skipped = [], []
    for video in videos:
        if video.name not in index:
            skipped.append(SkippedVideo(video, f"{video.path} is not in the face index: run `istvt prepare` again."))
            continue
        entry = index.entry(video.name)
        kept = min(filter(None, (first_frames, video.first_frames)), default=None)
        reason = why_no_clip(video, entry, frames, kept)
        if reason is None:
            usable.append((video, _starts(entry, frames, kept)))
        else:
            skipped.append(SkippedVideo(video, reason))
    return usable, skipped


def why_no_clip(
    video: Video, entry: FaceEntry, frames: int = CLIP_FRAMES, first_frames: int | None = None
) -> str | None:
    """Return the sentence that says why a video gives no clip of so many frames; None where it gives one."""
    if entry.error is not None:
        # It names the file already, as it was called when it was looked at.
        return entry.error if video.name in entry.error else f"{video.path}: {entry.error}"
    if entry.frames < frames:
        return f"{video.path}: has {entry.frames} frame{'s' * (entry.frames != 1)}; a clip needs {frames}."
    if not _starts(entry, frames, first_frames):
        within = "" if first_frames is None else f" within the first {first_frames}"
        needs = f"a clip needs {frames} frames{within}"
        if not entry.clip_ranges:
            what = "only dissolves and fades" if entry.whole_frame else "a face in dissolves and fades only"
            return f"{video.path}: shows {what}; {needs}."
        what = "shows a picture without a cut" if entry.whole_frame else "shows a face"
        first, last = max(entry.clip_ranges, key=lambda shot: shot[1] - shot[0])
        shown = f"frame {first}" if first == last else f"frames {first} to {last}"
        shots = len(entry.clip_ranges)
        only = "only" if shots == 1 else f"at most, the longest of {shots} shots"
        return f"{video.path}: {what} in {shown} {only}; {needs}."
    return None


def _starts(entry: FaceEntry, frames: int, first_frames: int | None) -> Sequence[int]:
    """Return the frames at which a clip can start so that it lies in one shot and where the face is known."""
    ranges = _start_ranges(entry, frames, first_frames)
    return ranges[0] if len(ranges) == 1 else [start for starts in ranges for start in starts]


def _start_ranges(entry: FaceEntry, frames: int, first_frames: int | None) -> list[range]:
    """Return the frames at which a clip can start, of each shot that has any."""
    end = min(entry.frames, first_frames or entry.frames)
    ranges = [range(first, min(last + 1, end) - frames + 1) for first, last in entry.clip_ranges]
    return [starts for starts in ranges if starts]


def _clip(video: Video, start: int, frames: int, position: int, index: FaceIndex) -> Clip:
    at = np.arange(start, start + frames, dtype=np.int64)
    return Clip(video, at, index.box(video.name, at), video.label, position)


def _require_positive(**numbers: int) -> None:
    for name, number in numbers.items():
        if number < 1:
            raise InputError(f"{name} is {number}; expected 1 or more.")


def _example(skipped: list[SkippedVideo]) -> str:
    return f", such as {skipped[0].reason.rstrip('.')}" if skipped else ""
