"""Published layouts of deepfake data sets, read into one form with their official splits and labels.

There are more than nine files because there is one a layout, beside those that they share.
"""

from collections.abc import Callable, Collection
from pathlib import Path
from typing import NamedTuple

from dataloading import remote
from dataloading.clips.store import MANIFEST, read_manifest
from dataloading.dataset import FACE, ORIGINAL, SYNTHETIC_SETTINGS, Dataset, Region
from dataloading.errors import InputError
from dataloading.face_index import FaceIndex
from dataloading.layouts import celeb_df, crop_store, deeper_forensics, dfdc, dfdc_preview, faceforensics, plain
from dataloading.layouts.builder import format_summary
from dataloading.layouts.files import directories

__all__ = [
    "LAYOUTS",
    "format_summary",
    "index_of_region",
    "local_root",
    "open_dataset",
    "read_dataset",
    "require_directory",
]


class _Layout(NamedTuple):
    expected: str
    recognize: Callable[[Path], bool]
    read: Callable[..., Dataset]  # of the root and the options that it has


# In the order of recognition: layouts with the most specific names first.
_LAYOUTS = {
    crop_store.NAME: _Layout(crop_store.EXPECTED, crop_store.recognize, crop_store.read),
    deeper_forensics.NAME: _Layout(deeper_forensics.EXPECTED, deeper_forensics.recognize, deeper_forensics.read),
    faceforensics.NAME: _Layout(faceforensics.EXPECTED, faceforensics.recognize, faceforensics.read),
    celeb_df.NAME: _Layout(celeb_df.EXPECTED, celeb_df.recognize, celeb_df.read),
    faceforensics.KAGGLE_NAME: _Layout(
        faceforensics.KAGGLE_EXPECTED, faceforensics.recognize_kaggle, faceforensics.read_kaggle
    ),
    dfdc_preview.NAME: _Layout(dfdc_preview.EXPECTED, dfdc_preview.recognize, dfdc_preview.read),
    plain.NAME: _Layout(plain.EXPECTED, plain.recognize, plain.read),
    dfdc.NAME: _Layout(dfdc.EXPECTED, dfdc.recognize, dfdc.read),
}
LAYOUTS = tuple(_LAYOUTS)


def read_dataset(
    root: str | Path, layout: str = "auto", compression: str = "c23", originals: str | Path | None = None
) -> Dataset:
    """Read the videos of a data set, with their official split and labels (real 0, fake 1).

    No video is opened. What is not used is in `Dataset.left_out` with the reason; where a set has no official split,
    one is made by identity (by file name where no people are named) and `Dataset.notes` says so.

    Args:
        root: Its directory, or one that holds nothing else; `Dataset.root` is the directory that was recognized. A URL
            that fsspec reads stands for one, see `dataloading.remote`.
        layout: One of `LAYOUTS`, or `"auto"` to recognize it by its names.
        compression: For FaceForensics++: `raw` (or `c0`), `c23` or `c40`.
        originals: For DeeperForensics: the FaceForensics++ root with its real videos, unless that lies beside it.

    Raises:
        InputError: The directory is missing, fits no layout or has no usable video, or a list in it cannot be read.
    """
    if layout != "auto" and layout not in _LAYOUTS:
        raise InputError(f"layout is {layout!r}; expected auto or one of {', '.join(LAYOUTS)}.")
    require_directory(root)
    root = local_root(root)
    if layout == "auto":
        root, layout = _recognize(root)
    if originals is not None and layout != deeper_forensics.NAME:
        raise InputError(f"originals is {originals}, but {root} is read as {layout}; only deeper-forensics takes it.")
    options = {}
    if layout in (deeper_forensics.NAME, faceforensics.NAME):
        options["compression"] = compression
    if originals is not None:
        options["originals"] = Path(originals)
    return _LAYOUTS[layout].read(root, **options)


def open_dataset(
    root: str | Path,
    layout: str = "auto",
    compression: str = "c23",
    originals: str | Path | None = None,
    manipulations: Collection[str] | None = None,
    region: Region = FACE,
) -> tuple[Dataset, FaceIndex]:
    """Read a data set, restricted to the fakes of some `manipulations` (and all originals), and its face index.

    Args:
        root, layout, compression, originals: As of `read_dataset`.
        manipulations: Names; None for all.
        region: What the index gives the boxes of: the face, or a part of it.

    Raises:
        InputError: As `read_dataset`; a manipulation is not there, there is no face index, the videos are remote
            and not in a crop store, or a part of the face is asked for and no video has landmarks.
    """
    dataset = read_dataset(root, layout, compression, originals)
    url = remote.mirrored(dataset.root)
    if url and dataset.layout != crop_store.NAME:
        raise InputError(
            f"{url} is remote, and clips are read from this machine: `istvt prepare {url} --crops DIR` writes a crop "
            "store, which takes its place."
        )
    if manipulations is not None:
        found = {video.manipulation for video in dataset.videos}
        missing = [name for name in manipulations if name not in found]
        if missing:
            raise InputError(
                f"data.manipulations names {', '.join(missing)}, which {root} does not hold; "
                f"it holds {', '.join(sorted(found - {ORIGINAL}))}"
            )
        dataset = dataset.select(manipulation={ORIGINAL, *manipulations})
    return dataset, index_of_region(FaceIndex.read(dataset.root), dataset, region)


def index_of_region(index: FaceIndex, dataset: Dataset, region: Region) -> FaceIndex:
    """Return the index of a data set with the boxes of a part of the face.

    Raises:
        InputError: It has no landmarks; the sentence says how it gets them.
    """
    if region != FACE and not any(entry.has_landmarks for entry in index):
        crops = "the eyes are cropped by them" if region == "eyes" else f"the {region} is cropped by them"
        raise InputError(f"{index.path} has no landmarks, and {crops}: {_with_landmarks(dataset)}")
    return index.of_region(region)


def _with_landmarks(dataset: Dataset) -> str:
    """Return how a data set is prepared so that its index has landmarks."""
    source, crops = dataset.root, ""
    if dataset.layout == crop_store.NAME:
        source, crops = Path(read_manifest(dataset.root).source), f" --crops {dataset.root}"
    if (source / SYNTHETIC_SETTINGS).is_file():
        return (
            f"`istvt synthesize {source}`, with the options that it was drawn with, writes where its faces are, and "
            f"`istvt prepare {source} --no-detect{crops}` reads that."
        )
    return f"`istvt prepare {source} --detector yuface --replace{crops}` looks for them."


def local_root(root: str | Path) -> Path:
    """Return the directory of a data set; of a URL the one that stands for it: a crop store is copied whole."""
    url = remote.url_of(root)
    return Path(root) if url is None else remote.mirror(url, whole_with=MANIFEST)


def require_directory(root: str | Path) -> None:
    """Raise InputError where there is no such directory: the only check of a data set without reading it.

    Of a URL nothing is checked.
    """
    if remote.url_of(root) is not None:
        return
    root = Path(root)
    if not root.is_dir():
        problem = "is not a directory" if root.exists() else "does not exist"
        raise InputError(f"{root} {problem}; expected the directory of a data set.")


def _recognize(root: Path) -> tuple[Path, str]:
    inside = directories(root)
    name = _layout_of(root)
    # DFDC is recognized by lists up to three levels down, so it comes after the data sets beside it.
    if name is not None and not (name == dfdc.NAME and any(_layout_of(p) not in (None, name) for p in inside)):
        return root, name
    sets = [place.name for place in inside if _layout_of(place)]
    if len(sets) == len(inside) == 1:
        return inside[0], _layout_of(inside[0])
    if sets:
        what = "is not a data set itself but holds one" if len(sets) == 1 else "holds several data sets"
        give = root / sets[0] if len(sets) == 1 else "one of them"
        raise InputError(f"{root} {what}: {', '.join(sets)}; give {give}.")
    looked_for = "; ".join(f"{name}: {layout.expected}" for name, layout in _LAYOUTS.items())
    raise InputError(f"{root} matches no known layout. Looked for {looked_for}.")


def _layout_of(place: Path) -> str | None:
    return next((name for name, layout in _LAYOUTS.items() if layout.recognize(place)), None)
