"""DeeperForensics-1.0, whose real videos are the YouTube originals of FaceForensics++ (C23).

::

    <root>/manipulated_videos/<variant>/<target>_<actor>.mp4      end_to_end/000_M101.mp4, reenact_postprocess/..., ...
    <root>/lists/splits/{train,val,test}.txt                      one name of a manipulated video a line
    <root>/source_videos/...                                      videos of the actors: not the real class

The first part of a name is the FaceForensics++ original that the actor's face was swapped onto. The official lists keep
actors apart; every original is the target of one actor.
"""

from dataclasses import replace
from pathlib import Path

from dataloading.dataset import FAKE, SPLITS, Dataset
from dataloading.errors import InputError
from dataloading.io import read_text
from dataloading.layouts import faceforensics
from dataloading.layouts.builder import LIST_BYTES, Candidate, DatasetBuilder
from dataloading.layouts.files import directories, walk
from dataloading.layouts.identity_split import THREE_WAY

NAME = "deeper-forensics"
EXPECTED = "manipulated_videos/<variant>/<target>_<actor>.mp4 and lists/splits/{train,val,test}.txt"

SOURCE_VIDEO = "video of an actor whose face was used; the real class is FaceForensics++"
NOT_A_TARGET = "an original that is not the target of a video in the split"


def recognize(root: Path) -> bool:
    """Return whether a directory looks like DeeperForensics-1.0."""
    return (root / "manipulated_videos").is_dir()


def read(root: Path, compression: str = "c23", originals: Path | None = None) -> Dataset:
    """Read the manipulated videos and the originals they were made from.

    Args:
        root: The directory that holds `manipulated_videos` and `lists`.
        compression: That of the originals.
        originals: A FaceForensics++ root; by default `root` itself or a directory beside it.

    Raises:
        InputError: There are no videos, `originals` is not a FaceForensics++ root, or a list cannot be read.
    """
    builder = DatasetBuilder(root, NAME, EXPECTED)
    originals_root = _originals_root(root, originals)
    real: list[Candidate] = []
    if originals_root is None:
        builder.notes.append("There are no real videos: give the root of FaceForensics++, whose originals they are.")
    else:
        # Files left out there are not part of this data set.
        found = faceforensics.originals(DatasetBuilder(originals_root, "", ""), compression)
        real = [replace(video, root=originals_root) for video in found if not faceforensics.shows_actor(video)]
        builder.notes.append(f"The real videos are those of {originals_root}.")
    original_of = {candidate.path.stem: candidate.path for candidate in real}
    fake: list[Candidate] = []
    for variant in directories(root / "manipulated_videos"):
        for path in builder.videos_in(variant):
            target, _, actor = path.stem.partition("_")
            if actor:
                people = (target, f"actor {actor}")
                fake.append(Candidate(path, FAKE, people, variant.name, original=original_of.get(target)))
            else:
                builder.leave_out(path, "a fake whose name is not <target>_<actor>")
    if not fake:
        real = []  # originals alone are not this data set
    split_of = _read_lists(root)
    if split_of is None:
        videos = builder.split("There are no lists/splits, so the split is", THREE_WAY, [*real, *fake])
    else:
        videos = _official(builder, real, fake, split_of)
    for path in walk(root / "source_videos"):
        if path.suffix == ".mp4":
            builder.leave_out(path, SOURCE_VIDEO)
    return builder.finish(videos)


def _originals_root(root: Path, given: Path | None) -> Path | None:
    if given is not None:
        if not (given / "original_sequences" / "youtube").is_dir():
            raise InputError(f"originals is {given}, which has no original_sequences/youtube as FaceForensics++ has.")
        return given
    places = [root, *directories(root.parent)]
    return next((place for place in places if (place / "original_sequences" / "youtube").is_dir()), None)


def _read_lists(root: Path) -> dict[str, str] | None:
    """Return the split of every name in the lists; None where there are none."""
    split_of: dict[str, str] = {}
    for split in SPLITS:
        path = root / "lists" / "splits" / f"{split}.txt"
        for line in read_text(path, LIST_BYTES).splitlines() if path.is_file() else ():
            if line.strip():
                stem = Path(line.strip()).stem
                if split_of.setdefault(stem, split) != split:
                    raise InputError(f"{stem} is in both {split_of[stem]}.txt and {split}.txt of {path.parent}.")
    return split_of or None


def _official(
    builder: DatasetBuilder, real: list[Candidate], fake: list[Candidate], split_of: dict[str, str]
) -> list[Candidate]:
    split_of_target = {stem.partition("_")[0]: split for stem, split in split_of.items()}
    videos = []
    for candidate in (*fake, *real):
        stem = candidate.path.stem
        split = split_of.get(stem) if candidate.label == FAKE else split_of_target.get(stem)
        if split is None:
            reason = "named in none of the lists" if candidate.label == FAKE else NOT_A_TARGET
            builder.leave_out(candidate.path, reason)
        else:
            videos.append(replace(candidate, split=split, identity=candidate.people[0]))
    present = {candidate.path.stem for candidate in fake}
    expected = builder.root / "manipulated_videos" / "end_to_end"
    for stem, split in split_of.items():
        if stem not in present:
            builder.leave_out(expected / f"{stem}.mp4", f"named in {split}.txt but missing")
    return videos
