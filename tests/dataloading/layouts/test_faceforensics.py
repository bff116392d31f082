"""FaceForensics++ trees with their exact names; reading a layout opens no video, so empty files do."""

import json
import pickle
from pathlib import Path

import pytest

from dataloading.errors import InputError
from dataloading.layouts import format_summary, read_dataset

METHODS = ("Deepfakes", "Face2Face", "FaceSwap", "NeuralTextures", "FaceShifter")


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def write_splits(directory: Path, **pairs: list) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for split, content in pairs.items():
        (directory / f"{split}.json").write_text(json.dumps(content))


def official_tree(root: Path, splits: str = "splits", compression: str = "c23") -> Path:
    for a, b in (("953", "974"), ("012", "026"), ("720", "672")):
        for name in (a, b):
            touch(root, f"original_sequences/youtube/{compression}/videos/{name}.mp4")
        for method in METHODS:
            for name in (f"{a}_{b}", f"{b}_{a}"):
                touch(root, f"manipulated_sequences/{method}/{compression}/videos/{name}.mp4")
                if method != "FaceShifter":
                    touch(root, f"manipulated_sequences/{method}/masks/videos/{name}.mp4")
    write_splits(root / splits, train=[["953", "974"]], val=[["012", "026"]], test=[["720", "672"]])
    return root


@pytest.mark.parametrize("splits", ["splits", "."])
def test_the_official_pairs_put_originals_and_fakes_of_both_orders_in_their_split(tmp_path, splits):
    dataset = read_dataset(official_tree(tmp_path, splits))
    assert dataset.layout == "faceforensics"
    summary = dataset.summary()
    assert summary.classes == {"real": 6, "fake": 30}
    assert summary.splits == {"train": 12, "val": 12, "test": 12}
    assert summary.table == {name: {"train": 2, "val": 2, "test": 2} for name in ("original", *METHODS)}
    assert list(summary.table) == ["original", *sorted(METHODS)]
    assert {video.path.stem for video in dataset.select("val", ("original", "Deepfakes")).videos} == {
        "012", "026", "012_026", "026_012",
    }  # fmt: skip
    assert dataset.left_out == []


def test_a_fake_knows_its_target_its_mask_and_its_group(tmp_path):
    dataset = read_dataset(official_tree(tmp_path))
    videos = {video.name: video for video in dataset.videos}
    assert len(videos) == len(dataset)
    fake = videos["manipulated_sequences/Face2Face/c23/videos/974_953"]
    assert fake.label == 1
    assert fake.manipulation == "Face2Face"
    assert fake.source == "original_sequences/youtube/c23/videos/974"
    assert fake.mask == tmp_path / "manipulated_sequences/Face2Face/masks/videos/974_953.mp4"
    assert fake.identity == videos[fake.source].identity == "953_974"
    assert videos["manipulated_sequences/FaceShifter/c23/videos/974_953"].mask is None
    assert videos[fake.source].label == 0
    assert videos[fake.source].source is None


def test_a_data_set_travels_to_another_process(tmp_path):
    dataset = read_dataset(official_tree(tmp_path))
    assert pickle.loads(pickle.dumps(dataset)) == dataset


def test_methods_of_ones_own_are_read_like_the_official_ones(tmp_path):
    for method in ("blend", "flicker", "both"):
        touch(tmp_path, f"manipulated_sequences/{method}/c23/videos/000_001.mp4")
        touch(tmp_path, f"manipulated_sequences/{method}/masks/videos/000_001.mp4")
    touch(tmp_path, *(f"original_sequences/youtube/c23/videos/{name}.mp4" for name in ("000", "001")))
    write_splits(tmp_path / "splits", train=[["000", "001"]], val=[], test=[])
    dataset = read_dataset(tmp_path)
    assert dataset.summary().table["flicker"] == {"train": 1}
    assert all(video.mask for video in dataset.videos if video.label)


@pytest.mark.parametrize(("asked", "there"), [("raw", "c0"), ("c0", "raw"), ("raw", "raw"), ("c40", "c40")])
def test_the_lossless_compression_has_two_names(tmp_path, asked, there):
    assert len(read_dataset(official_tree(tmp_path, compression=there), compression=asked)) == 36


def test_videos_of_another_compression_are_left_out_with_that_reason(tmp_path):
    official_tree(tmp_path)
    touch(tmp_path, "manipulated_sequences/Deepfakes/c40/videos/953_974.mp4")
    dataset = read_dataset(tmp_path)
    assert len(dataset) == 36
    assert [(item.path.parts[-3], item.reason) for item in dataset.left_out] == [
        ("c40", "of compression c40, c23 was asked for")
    ]


def test_asking_for_a_compression_that_is_not_there_names_those_that_are(tmp_path):
    official_tree(tmp_path)
    with pytest.raises(InputError, match="has no videos of compression c40; it has c23"):
        read_dataset(tmp_path, compression="c40")
    with pytest.raises(InputError, match="compression is 'c32'; expected one of raw, c0, c23, c40"):
        read_dataset(tmp_path, compression="c32")


def test_everything_that_is_left_out_is_listed_with_its_reason(tmp_path):
    root = official_tree(tmp_path)
    write_splits(root / "splits", train=[["953", "974"], ["100", "101"]])
    fakes = "manipulated_sequences/Deepfakes/c23/videos"
    touch(root, "original_sequences/youtube/c23/videos/555.mp4", f"{fakes}/953_012.mp4", f"{fakes}/notes.txt")
    touch(root, f"{fakes}/unknown.mp4", "backup/953.mp4", "original_sequences/youtube/c23/images/953/0001.png")
    dataset = read_dataset(root)
    reasons = {item.path.relative_to(root).as_posix(): item.reason for item in dataset.left_out}
    wrong_suffix = reasons.pop(f"{fakes}/notes.txt")
    assert wrong_suffix.startswith("not a video file name")
    assert reasons == {
        "original_sequences/youtube/c23/videos/555.mp4": "named in none of the split files",
        f"{fakes}/953_012.mp4": "made from originals of two different splits",
        f"{fakes}/unknown.mp4": "a fake whose name is not <target>_<source>",
        "backup/953.mp4": "in a directory that this layout does not have",
        "original_sequences/youtube/c23/videos/100.mp4": "named in train.json but missing",
        "original_sequences/youtube/c23/videos/101.mp4": "named in train.json but missing",
    }
    assert dataset.summary().left_out["named in train.json but missing"] == 2
    text = format_summary(dataset.summary())
    assert "Left out: 7" in text
    assert "2  named in train.json but missing" in text
    assert "layout faceforensics, 36 videos (6 real, 30 fake)" in text


def test_a_split_file_that_names_no_video_of_the_set_is_an_error(tmp_path):
    root = official_tree(tmp_path)
    write_splits(root / "splits", train=[["001", "002"]], val=[], test=[])
    with pytest.raises(InputError, match="none of its 36 videos is named in its split files, which name 2"):
        read_dataset(root)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("[[", r"train\.json: not JSON"),
        ('{"000": "001"}', r"train\.json: \{'000': '001'\}; expected a list"),
        ("[[0, 3]]", r"train\.json: \[0\]\[0\]: 0; expected text"),
        ('[["012", "953"]]', "012 is in both train.json and val.json"),
    ],
)
def test_a_split_file_that_cannot_be_used_is_named(tmp_path, content, sentence):
    root = official_tree(tmp_path)
    (root / "splits" / "train.json").write_text(content)
    with pytest.raises(InputError, match=sentence):
        read_dataset(root)


def test_a_split_file_that_is_missing_beside_others_is_said(tmp_path):
    root = official_tree(tmp_path)
    (root / "splits" / "val.json").unlink()
    dataset = read_dataset(root)
    assert "There are split files but no val.json, so nothing is in val." in dataset.notes
    assert dataset.summary().splits == {"train": 12, "test": 12}


def test_without_split_files_pairs_are_kept_together_and_the_summary_says_so(tmp_path):
    for pair in range(20):
        a, b = f"{2 * pair:03}", f"{2 * pair + 1:03}"
        touch(tmp_path, *(f"original_sequences/youtube/c23/videos/{name}.mp4" for name in (a, b)))
        touch(tmp_path, *(f"manipulated_sequences/FaceSwap/c23/videos/{name}.mp4" for name in (f"{a}_{b}", f"{b}_{a}")))
    dataset = read_dataset(tmp_path)
    assert dataset.left_out == []
    assert dataset.summary().splits == {"train": 56, "val": 12, "test": 12}
    assert any("No split files" in note and "by identity" in note for note in dataset.notes)
    split_of = {video.path.stem: video.split for video in dataset.videos}
    assert all(len({split_of[name] for name in (stem, *stem.split("_"))}) == 1 for stem in split_of)
    assert [video.split for video in read_dataset(tmp_path).videos] == [video.split for video in dataset.videos]


def actor_tree(root: Path) -> Path:
    for actor in range(1, 29):
        touch(root, f"original_sequences/actors/c23/videos/{actor:02}__exit_phone_room.mp4")
        for other in range(1, 29):
            if other != actor:
                name = f"{actor:02}_{other:02}__exit_phone_room__{actor:04}{other:04}"
                touch(root, f"manipulated_sequences/DeepFakeDetection/c23/videos/{name}.mp4")
    return root


def test_actors_have_no_official_split_and_no_actor_is_in_two(tmp_path):
    dataset = read_dataset(actor_tree(official_tree(tmp_path)))
    assert any("DeepFakeDetection (actors) has no official split" in note for note in dataset.notes)
    people: dict[str, set[str]] = {}
    for video in dataset.select(manipulation="DeepFakeDetection").videos:
        target, source = video.path.stem.split("__")[0].split("_")
        assert video.source == f"original_sequences/actors/c23/videos/{target}__exit_phone_room"
        people.setdefault(video.split, set()).update((target, source))
    assert len(people) == 3
    assert sum(map(len, people.values())) == len(set.union(*people.values())) == 28
    straddling = [item for item in dataset.left_out if item.reason == "shows people of two different splits"]
    assert len(straddling) + len(dataset.select(manipulation="DeepFakeDetection")) == 28 * 27
    assert len(dataset.select("train", "Deepfakes")) == 2


def test_the_kaggle_mirror_is_read_with_the_official_split(tmp_path):
    root = tmp_path / "FaceForensics++_C23"
    for a, b in (("953", "974"), ("012", "026"), ("720", "672")):
        touch(root, *(f"original/{name}.mp4" for name in (a, b)))
        touch(root, *(f"{method}/{name}.mp4" for method in METHODS for name in (f"{a}_{b}", f"{b}_{a}")))
    touch(root, "DeepFakeDetection/01_02__meeting_serious__YVGY8LOK.mp4", "csv/FF++_Metadata.csv")
    write_splits(root, train=[["953", "974"]], val=[["012", "026"]], test=[["720", "672"]])
    dataset = read_dataset(tmp_path)  # the directory around it
    assert (dataset.root, dataset.layout) == (root, "faceforensics-kaggle")
    assert dataset.summary().splits == {"train": 13, "val": 12, "test": 12}
    videos = {video.name: video for video in dataset.videos}
    assert videos["FaceSwap/974_953"].source == "original/974"
    assert videos["FaceSwap/974_953"].split == "train"
    assert dataset.left_out == []


def test_the_kaggle_mirror_without_split_files_is_split_by_pairs(tmp_path):
    for a, b in (("953", "974"), ("012", "026"), ("720", "672")):
        touch(tmp_path, *(f"original/{name}.mp4" for name in (a, b)), f"Deepfakes/{a}_{b}.mp4")
    dataset = read_dataset(tmp_path)
    assert dataset.summary().splits == {"train": 3, "val": 3, "test": 3}
    assert "dataset/splits" in dataset.notes[0]
