"""Parts of the face through a data set: what its index needs, and what a crop store holds of them."""

import shutil

import pytest
from face_fixtures import detector_or_skip, talking_face

from dataloading import read_dataset
from dataloading.clips.cutting import write_crops
from dataloading.clips.loader import ClipLoader
from dataloading.clips.sampling import evaluation_clips
from dataloading.errors import InputError
from dataloading.face_index import FaceIndex
from dataloading.faces.prepare import prepare
from dataloading.layouts import open_dataset
from dataloading.synthetic import synthesize

QUIET = {"workers": 1, "progress": False}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    root = tmp_path_factory.mktemp("regions") / "set"
    synthesize(root, identities=2, frames=8, size=48, splits=(1, 0, 0), manipulations=("blend",), **QUIET)
    return root


def pixels(root, region):
    dataset, index = open_dataset(root, region=region)
    [batch] = ClipLoader(list(evaluation_clips(dataset.videos, index, 6, 1)), 8, 32, decoder="pyav", workers=1)
    return batch.clips


def test_an_index_without_landmarks_says_how_it_gets_them_and_does(drawn, tmp_path):
    root = shutil.copytree(drawn, tmp_path / "set")
    faces = root / "faces.json"
    faces.rename(tmp_path / "faces.json")
    prepare(read_dataset(root), detect=False, **QUIET)  # as a version without landmarks did
    with pytest.raises(
        InputError, match=r"has no landmarks, and the eyes are cropped by them: `istvt synthesize .*set`, "
    ):
        open_dataset(root, region="eyes")
    (tmp_path / "faces.json").rename(faces)
    index = prepare(read_dataset(root), detect=False, **QUIET)
    assert len(index) == 4 and all(entry.whole_frame and entry.has_landmarks for entry in index)
    assert pixels(root, "eyes").shape == (4, 6, 3, 32, 32)
    (root / "synthetic.json").unlink()
    faces.unlink()
    (root / "face_index.jsonl").unlink()
    prepare(read_dataset(root), detect=False, **QUIET)
    with pytest.raises(
        InputError, match=r"the mouth is .*: `istvt prepare .*set --detector yuface --replace` looks for"
    ):
        open_dataset(root, region="mouth")


@pytest.mark.parametrize("given", [True, False], ids=["boxes file", "whole pictures"])
def test_parts_read_from_a_crop_store_are_those_of_the_originals_bit_for_bit(drawn, tmp_path, given):
    root, store = shutil.copytree(drawn, tmp_path / "set"), tmp_path / "store"
    dataset = read_dataset(root)
    index = prepare(dataset, **({"boxes": root / "faces.json"} if given else {"detect": False}), **QUIET)
    write_crops(dataset, index, store, **QUIET)
    for region in ("eyes", "mouth"):
        assert pixels(store, region).equal(pixels(root, region))


def test_a_real_face_has_eyes_and_a_mouth_and_an_old_index_of_it_is_looked_at_again(tmp_path):
    detector_or_skip("yuface")
    (tmp_path / "real").mkdir()
    shutil.copy(talking_face(), tmp_path / "real" / "a.mp4")
    (tmp_path / "fake").mkdir()
    shutil.copy(talking_face(), tmp_path / "fake" / "b.mp4")
    dataset = read_dataset(tmp_path)
    index = prepare(dataset, detector="yuface", every=40, **QUIET)
    entry = index.entry(dataset.videos[0].name)
    eyes, mouth = (entry.of_region(region) for region in ("eyes", "mouth"))
    assert (eyes.boxes.y < entry.boxes.y).all() and (entry.boxes.y < mouth.boxes.y).all()  # of the nose
    for part in (eyes, mouth):
        assert (part.boxes.size > 0.3 * entry.boxes.size).all() and (part.boxes.size < entry.boxes.size).all()
    lines = (tmp_path / "face_index.jsonl").read_text().splitlines()
    old = [line[: line.index(', "landmarks"')] + line[line.index("]]}") + 2 :] for line in lines]
    (tmp_path / "face_index.jsonl").write_text("\n".join(old) + "\n")
    assert not any(entry.has_landmarks for entry in FaceIndex.read(tmp_path))
    prepare(dataset, detector="yuface", every=40, **QUIET)  # nothing is looked at again unasked
    assert not any(entry.has_landmarks for entry in FaceIndex.read(tmp_path))
    prepare(dataset, detector="yuface", every=40, replace=True, **QUIET)
    assert (tmp_path / "face_index.jsonl").read_text().splitlines() == lines
