"""Crop store written by `istvt prepare --crops` (`dataloading.clips.store`), in the place of its data set."""

from pathlib import Path

from dataloading.clips import store
from dataloading.clips.sampling import why_no_clip
from dataloading.dataset import Dataset, LeftOut
from dataloading.errors import InputError
from dataloading.face_index import FaceIndex

NAME = "crop-store"
EXPECTED = f"{store.MANIFEST} of a crop store"

NOT_CUT = "not in the crop store yet"
OTHER_BOXES = "in the crop store with other boxes than its face index has"
OTHER_OPTIONS = "in the crop store in another format or with fewer or more frames than it is to have"


def recognize(root: Path) -> bool:
    """Return whether a directory is a crop store."""
    return store.is_store(root)


def read(root: Path) -> Dataset:
    """Read a store; videos of its data set that it does not hold yet are left out, and a note says so.

    Raises:
        InputError: Its files are none of a store of this version, it holds no video, or its crops are of originals or
            boxes that have changed.
    """
    manifest, finished, index = store.read_manifest(root), store.read_journal(root), FaceIndex.read(root)
    stale = store.why_stale(root, manifest, finished)
    if stale:
        raise InputError(stale)
    videos, left_out = [], [LeftOut(Path(path), reason) for path, reason in manifest.left_out]
    for item in manifest.videos:
        entry, cut = index.entries.get(item.video), finished.get(item.video)
        video = store.as_video(root, item, manifest.options)
        unusable = entry is not None and why_no_clip(video, entry, 1, video.first_frames) is not None
        if cut is None and not unusable:
            left_out.append(LeftOut(video.path, NOT_CUT))
        elif not unusable and (entry is None or cut.face != entry.to_json()):
            left_out.append(LeftOut(video.path, OTHER_BOXES))
        elif not unusable and cut.options != manifest.options:
            left_out.append(LeftOut(video.path, OTHER_OPTIONS))
        else:
            videos.append(video)  # of one that cannot be used the index says why
    missing = len(manifest.videos) - len(videos)
    again = f"`istvt prepare {manifest.source} --crops {root}` goes on"
    if not videos:
        raise InputError(f"{root} has none of the {missing} videos of {manifest.source} yet; {again}.")
    notes = [*manifest.notes, f"These are {manifest.options} of {manifest.source}."]
    if missing:
        notes.append(f"{missing} of {len(manifest.videos)} videos are not in the crop store; {again}.")
    return Dataset(root, NAME, sorted(videos, key=lambda video: video.name), left_out, notes)
