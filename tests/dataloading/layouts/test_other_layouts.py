"""Celeb-DF, DFDC, DFDC preview, DeeperForensics and plain trees with their exact names."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataloading.errors import InputError
from dataloading.layouts import read_dataset
from dataloading.layouts.files import video_files
from dataloading.layouts.identity_split import THREE_WAY, split_by_identity


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def reasons(dataset) -> dict[str, str]:
    return {item.path.relative_to(dataset.root).as_posix(): item.reason for item in dataset.left_out}


def people_by_split(dataset, parts: int) -> dict[str, set[str]]:
    people: dict[str, set[str]] = {}
    for video in dataset.videos:
        people.setdefault(video.split, set()).update(video.path.stem.split("_")[:parts])
    return people


# Celeb-DF


def celeb_tree(root: Path, level: str = "", youtube: str = "YouTube-real") -> Path:
    for person in range(20):
        touch(root, f"Celeb-real/{level}id{person}_0000.mp4", f"Celeb-real/{level}id{person}_0001.mp4")
        for other in range(20):
            if other != person:
                touch(root, f"Celeb-synthesis/{level}id{person}_id{other}_0000.mp4")
    touch(root, *(f"{youtube}/{level}{number:05}.mp4" for number in range(10)))
    (root / "List_of_testing_videos.txt").write_text(
        "1 YouTube-real/00000.mp4\n1 Celeb-real/id0_0000.mp4\n0 Celeb-synthesis/id0_id1_0000.mp4\n"
        "0 Celeb-synthesis/id99_id1_0000.mp4\n"
    )
    return root


@pytest.mark.parametrize(("level", "youtube"), [("", "YouTube-real"), ("videos/", "Youtube-real")])
def test_the_inverted_labels_of_celeb_df_come_out_as_real_0_and_fake_1(tmp_path, level, youtube):
    dataset = read_dataset(celeb_tree(tmp_path, level, youtube))
    assert dataset.layout == "celeb-df"
    test = {video.path.name: video.label for video in dataset.select("test").videos}
    # The first line of the list counts too: it has no header.
    assert test == {"00000.mp4": 0, "id0_0000.mp4": 0, "id0_id1_0000.mp4": 1}
    assert reasons(dataset)["Celeb-synthesis/id99_id1_0000.mp4"] == "named in List_of_testing_videos.txt but missing"


def test_celeb_df_validation_is_carved_from_training_people_and_shares_none(tmp_path):
    dataset = read_dataset(celeb_tree(tmp_path))
    people = people_by_split(dataset.select(manipulation="Celeb-synthesis"), 2)
    assert people["val"]
    assert not people["train"] & people["val"]
    summary = dataset.summary()
    assert summary.table["Celeb-synthesis"]["val"] == 2
    assert summary.table["original"]["val"] == 5  # two people with two clips each, one of nine YouTube videos
    assert any("no official validation set" in note for note in dataset.notes)
    assert any("2 people of the official test list are also in its training videos" in note for note in dataset.notes)
    straddling = sum(item.reason == "shows people of two different splits" for item in dataset.left_out)
    assert straddling + len(dataset.select(manipulation="Celeb-synthesis")) == 20 * 19


def test_a_celeb_df_fake_knows_the_clip_it_was_made_from(tmp_path):
    videos = {video.name: video for video in read_dataset(celeb_tree(tmp_path)).select("test").videos}
    assert videos["Celeb-synthesis/id0_id1_0000"].source == "Celeb-real/id0_0000"


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("1 Celeb-synthesis/id0_id1_0000.mp4", "line 1: .* is real .*; expected fake, as all videos of its directory"),
        ("label path", "line 1: 'label path'; expected a line such as"),
    ],
)
def test_a_celeb_df_test_list_that_cannot_be_right_is_named(tmp_path, line, sentence):
    celeb_tree(tmp_path)
    (tmp_path / "List_of_testing_videos.txt").write_text(line)
    with pytest.raises(InputError, match=sentence):
        read_dataset(tmp_path)


def test_celeb_df_without_its_test_list_is_split_and_says_so(tmp_path):
    celeb_tree(tmp_path)
    (tmp_path / "List_of_testing_videos.txt").unlink()
    dataset = read_dataset(tmp_path)
    assert set(dataset.summary().splits) == {"train", "val", "test"}
    assert "There is no List_of_testing_videos.txt" in dataset.notes[0]


# DFDC


def dfdc_part(directory: Path, originals: int, prefix: str) -> None:
    metadata: dict[str, dict] = {}
    for number in range(originals):
        real = f"{prefix}r{number:02}.mp4"
        metadata[real] = {"label": "REAL", "split": "train", "original": None}
        for copy in "ab":
            metadata[f"{prefix}f{number:02}{copy}.mp4"] = {"label": "FAKE", "split": "train", "original": real}
    touch(directory, *metadata)
    (directory / "metadata.json").write_text(json.dumps(metadata))


def test_dfdc_parts_are_grouped_by_original(tmp_path):
    dfdc_part(tmp_path / "dfdc_train_part_0", 10, "x")
    dfdc_part(tmp_path / "dfdc_train_part_01" / "dfdc_train_part_1", 10, "y")
    dataset = read_dataset(tmp_path)
    assert dataset.layout == "dfdc"
    assert dataset.summary().classes == {"real": 20, "fake": 40}
    assert set(dataset.summary().splits) == {"train", "val", "test"}
    split_of = {video.name: video.split for video in dataset.videos}
    for video in dataset.videos:
        if video.label:
            assert split_of[video.source] == video.split
            assert video.source.endswith(video.path.stem.replace("f", "r")[:-1])
    assert any("no labeled test set" in note for note in dataset.notes)
    assert any("by original, with which its fakes stay" in note for note in dataset.notes)  # actors recur there


def test_the_kaggle_sample_of_dfdc_is_read(tmp_path):
    dfdc_part(tmp_path / "train_sample_videos", 6, "s")
    touch(tmp_path, "test_videos/unlabeled.mp4")
    dataset = read_dataset(tmp_path)
    assert len(dataset) == 18
    assert reasons(dataset) == {"test_videos/unlabeled.mp4": "in a directory that this layout does not have"}


def test_the_labeled_test_set_of_dfdc_is_its_test_split(tmp_path):
    dfdc_part(tmp_path / "dfdc_train_part_0", 10, "x")
    touch(tmp_path, "test/videos/aa.mp4", "test/videos/bb.mp4", "test/videos/cc.mp4")
    (tmp_path / "test" / "labels.csv").write_text("filename,label\naa.mp4,1\nbb.mp4,0\ndd.mp4,1\n")
    dataset = read_dataset(tmp_path)
    assert {video.path.name: video.label for video in dataset.select("test").videos} == {"aa.mp4": 1, "bb.mp4": 0}
    assert dataset.summary().splits == {"train": 27, "val": 3, "test": 2}
    assert reasons(dataset) == {
        "test/videos/cc.mp4": "not named in labels.csv",
        "test/videos/dd.mp4": "named in labels.csv but missing",
    }


def test_what_dfdc_metadata_leaves_open_is_left_out_with_the_reason(tmp_path):
    dfdc_part(tmp_path, 3, "x")
    metadata = json.loads((tmp_path / "metadata.json").read_text())
    metadata |= {"gone.mp4": {"label": "FAKE"}, "unclear.mp4": {"split": "train"}}
    (tmp_path / "metadata.json").write_text(json.dumps(metadata))
    touch(tmp_path, "unclear.mp4", "extra.mp4")
    assert reasons(read_dataset(tmp_path)) == {
        "gone.mp4": "named in metadata.json but missing",
        "unclear.mp4": "no label (REAL or FAKE) is given",
        "extra.mp4": "not named in the metadata.json beside it",
    }


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("metadata.json", "[]", r"metadata\.json: \[\]; expected an object"),
        ("metadata.json", '{"a.mp4": "FAKE"}', r"metadata\.json: \['a\.mp4'\]: 'FAKE'; expected an object"),
        ("labels.csv", "video,class\na.mp4,1\n", r"labels\.csv: line 2: filename: missing; expected a value"),
    ],
)
def test_a_dfdc_list_that_cannot_be_used_is_named(tmp_path, name, content, sentence):
    touch(tmp_path, "a.mp4")
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=sentence):
        read_dataset(tmp_path)


# DFDC preview


@pytest.mark.parametrize("level", ["", "videos/"])
def test_the_dfdc_preview_set_is_read_from_its_list(tmp_path, level):
    entries = {}
    for person in range(12):
        part = "test" if person >= 10 else "train"
        entries[f"original_videos/{person}/{person}_C_001.mp4"] = {"label": "real", "set": part}
        for method in "AB":
            entries[f"method_{method}/{person}/{person}_{method}/{person}_001.mp4"] = {"label": "fake", "set": part}
    for name in entries:
        first, rest = name.split("/", 1)
        touch(tmp_path, f"{first}/{level}{rest}")
    entries["method_A/77/77_A/gone.mp4"] = {"label": "fake", "set": "train"}
    entries["method_A/78/78_A/odd.mp4"] = {"label": "fake", "set": "holdout"}
    touch(tmp_path, "method_A/78/78_A/odd.mp4", "method_B/79/79_B/extra.mp4", "elsewhere/a.mp4")
    (tmp_path / "dataset.json").write_text(json.dumps(entries))
    dataset = read_dataset(tmp_path)
    assert dataset.layout == "dfdc-preview"
    assert dataset.summary().table == {
        "original": {"train": 9, "val": 1, "test": 2},
        "method_A": {"train": 9, "val": 1, "test": 2},
        "method_B": {"train": 9, "val": 1, "test": 2},
    }
    identities = {split: {v.identity for v in dataset.select(split).videos} for split in ("train", "val", "test")}
    assert not identities["train"] & identities["val"]
    assert reasons(dataset) == {
        "method_A/77/77_A/gone.mp4": "named in dataset.json but missing",
        "method_A/78/78_A/odd.mp4": "its set is neither train nor test",
        "method_B/79/79_B/extra.mp4": "not named in dataset.json",
        "elsewhere/a.mp4": "in a directory that this layout does not have",
    }


@pytest.mark.parametrize("name", ["", "/data/method_A/1/1_A/a.mp4", "../method_A/1/1_A/a.mp4"])
def test_a_dfdc_preview_list_that_names_no_path_below_it_is_one_sentence(tmp_path, name):
    """The first two ended in a traceback."""
    touch(tmp_path, "method_A/1/1_A/a.mp4")
    (tmp_path / "dataset.json").write_text(json.dumps({name: {"label": "fake", "set": "train"}}))
    with pytest.raises(InputError, match=rf"dataset\.json names the video '{name}'; expected a path below"):
        read_dataset(tmp_path)


def test_a_dataset_json_alone_makes_no_dfdc_preview_set(tmp_path):
    """A plain tree that held one was taken for that set, and refused."""
    touch(tmp_path, *(f"real/{n}.mp4" for n in "abcdef"), *(f"fake/{n}.mp4" for n in "klmnop"))
    (tmp_path / "dataset.json").write_text('{"name": "ours", "version": 3}')
    assert read_dataset(tmp_path).layout == "plain"


# DeeperForensics


def deeper_tree(root: Path) -> Path:
    touch(root, *(f"manipulated_videos/end_to_end/{n:03}_{'MW'[n % 2]}{100 + n}.mp4" for n in range(4)))
    touch(root, *(f"manipulated_videos/end_to_end_level_1/{n:03}_{'MW'[n % 2]}{100 + n}.mp4" for n in range(4)))
    touch(root, "source_videos/M100/light_up/happy/camera_front/M100_light_up_happy_camera_front.mp4")
    lists = root / "lists" / "splits"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("000_M100.mp4\n001_W101.mp4\n")
    (lists / "val.txt").write_text("002_M102.mp4\n")
    (lists / "test.txt").write_text("003_W103.mp4\n004_M104.mp4\n")
    return root


@pytest.mark.parametrize("beside", [True, False])
def test_deeper_forensics_takes_its_real_videos_from_faceforensics(tmp_path, beside):
    root = deeper_tree(tmp_path / "sets" / "DeeperForensics-1.0")
    originals = (tmp_path / "sets" if beside else tmp_path / "elsewhere") / "FaceForensics++"
    touch(originals, *(f"original_sequences/youtube/c23/videos/{n:03}.mp4" for n in (0, 1, 2, 3, 9)))
    dataset = read_dataset(root, originals=None if beside else originals)
    assert dataset.layout == "deeper-forensics"
    assert dataset.summary().table == {
        "original": {"train": 2, "val": 1, "test": 1},
        "end_to_end": {"train": 2, "val": 1, "test": 1},
        "end_to_end_level_1": {"train": 2, "val": 1, "test": 1},
    }
    videos = {video.name: video for video in dataset.videos}
    fake = videos["manipulated_videos/end_to_end/002_M102"]
    assert videos[fake.source].path == originals / "original_sequences/youtube/c23/videos/002.mp4"
    why = {item.path.name: item.reason for item in dataset.left_out}
    assert why == {
        "004_M104.mp4": "named in test.txt but missing",
        "009.mp4": "an original that is not the target of a video in the split",
        "M100_light_up_happy_camera_front.mp4": "video of an actor whose face was used; the real class is "
        "FaceForensics++",
    }


def test_deeper_forensics_without_originals_says_that_it_has_no_real_videos(tmp_path):
    dataset = read_dataset(deeper_tree(tmp_path / "DeeperForensics-1.0"))
    assert dataset.summary().classes == {"real": 0, "fake": 8}
    assert "There are no real videos: give the root of FaceForensics++, whose originals they are." in dataset.notes
    with pytest.raises(InputError, match=r"originals is .*nowhere, which has no original_sequences/youtube"):
        read_dataset(tmp_path / "DeeperForensics-1.0", originals=tmp_path / "nowhere")


def test_originals_are_not_ignored_by_a_layout_that_takes_none(tmp_path):
    for name in ("real", "fake"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.mp4").touch()
    with pytest.raises(InputError, match=r"originals is here, but .* is read as plain; only deeper-forensics takes it"):
        read_dataset(tmp_path, originals="here")


def test_deeper_forensics_without_lists_keeps_actors_apart(tmp_path):
    root = tmp_path / "DeeperForensics-1.0"
    touch(root, *(f"manipulated_videos/end_to_end/{n:03}_M{100 + n // 2}.mp4" for n in range(40)))
    dataset = read_dataset(root)
    people = people_by_split(dataset, 2)
    assert set(people) == {"train", "val", "test"}
    assert len(set.union(*people.values())) == sum(map(len, people.values())) == 60


# Plain trees


def test_a_plain_tree_is_split_by_video_and_says_so(tmp_path):
    touch(tmp_path, *(f"real/{n}.mp4" for n in "abcdefghij"), *(f"Fake/{n}.avi" for n in "klmnopqrst"))
    touch(tmp_path, "real/readme.txt", "other/x.mp4")
    dataset = read_dataset(tmp_path)
    assert dataset.layout == "plain"
    assert dataset.summary().table == {
        "original": {"train": 8, "val": 1, "test": 1},
        "fake": {"train": 8, "val": 1, "test": 1},
    }
    # It used to promise "no person in two splits", where a person was no more than a file name.
    assert dataset.notes == [
        "No split is given for real/ and fake/, so it is: made here by file name (72% train, 14% val, 14% test; the "
        "people in them are not known, so a person may be in two splits; the same on every machine)."
    ]
    assert set(reasons(dataset)) == {"real/readme.txt", "other/x.mp4"}


def test_videos_behind_a_link_to_a_directory_are_found_once_and_a_loop_is_not_followed(tmp_path):
    """They were neither found nor listed: "nothing was left out"."""
    root, elsewhere = tmp_path / "set", tmp_path / "elsewhere"
    touch(root, *(f"real/{n}.mp4" for n in "abcdef"), *(f"fake/own/{n}.mp4" for n in "klmnop"))
    touch(elsewhere, "deep/q.mp4", "r.mp4")
    for link, target in {
        "fake/linked": elsewhere,
        "fake/linked_again": elsewhere / "deep",
        "fake/another_name": root / "fake" / "own",
        "fake/up": root,
        "real/up": tmp_path,
    }.items():
        (root / link).symlink_to(target)
    (elsewhere / "deep" / "loop").symlink_to(elsewhere)
    (elsewhere / "back").symlink_to(root)
    dataset = read_dataset(root)
    found = sorted(video.path.relative_to(root).as_posix() for video in dataset.videos)
    assert found == [
        *(f"fake/linked/{n}.mp4" for n in ("deep/q", "r")),
        *(f"fake/own/{n}.mp4" for n in "klmnop"),
        *(f"real/{n}.mp4" for n in "abcdef"),
    ]
    assert reasons(dataset) == {}
    (tmp_path / "named").mkdir()
    (tmp_path / "named" / "linked").symlink_to(elsewhere / "deep")
    assert video_files([tmp_path / "named"])[0][0] == tmp_path / "named" / "linked" / "q.mp4"


def test_a_made_split_counts_the_videos_whose_people_are_unknown(tmp_path):
    touch(tmp_path, *(f"real/{n:03}.mp4" for n in range(4)), "real/holiday.mp4", "fake/000_001.mp4")
    [note] = read_dataset(tmp_path).notes
    assert "made here by identity" in note
    assert "no named person in two splits, but the people in 1 of 6 videos are not known" in note


def test_directories_below_fake_name_the_manipulation_and_splits_may_be_given(tmp_path):
    for split in ("train", "validation", "test"):
        touch(tmp_path, f"{split}/real/a_{split}.mp4", f"{split}/fake/swap/b.mp4", f"{split}/fake/puppet/b.mp4")
    dataset = read_dataset(tmp_path)
    assert dataset.notes == []
    assert dataset.summary().table == {
        name: {"train": 1, "val": 1, "test": 1} for name in ("original", "puppet", "swap")
    }


def test_a_given_split_without_validation_gets_one_from_its_training_videos(tmp_path):
    for split, count in (("train", 10), ("test", 3)):
        touch(tmp_path, *(f"{split}/{kind}/{kind}{split}{n}.mp4" for kind in ("real", "fake") for n in range(count)))
    dataset = read_dataset(tmp_path)
    assert dataset.summary().splits == {"train": 18, "val": 2, "test": 6}
    assert "There is no val/" in dataset.notes[0]


def test_actor_clips_in_a_plain_tree_are_split_by_actor(tmp_path):
    for n in range(1, 7):
        touch(tmp_path, f"FF++/real/{n:02}__walking.mp4", f"FF++/fake/{n:02}_{n + 10}__walking__ABCDEFG{n}.mp4")
    dataset = read_dataset(tmp_path)
    assert dataset.root == tmp_path / "FF++"
    split_of = {video.path.stem.partition("_")[0]: set() for video in dataset.videos}
    for video in dataset.videos:
        split_of[video.path.stem.partition("_")[0]].add(video.split)
    assert all(len(splits) == 1 for splits in split_of.values())
    assert [v.source for v in dataset.videos if v.path.stem.startswith("03_13")] == ["real/03__walking"]


def test_two_files_that_differ_in_their_suffix_have_different_names(tmp_path):
    touch(tmp_path, "real/a.mp4", "real/a.avi", "fake/b.mp4")
    assert [video.name for video in read_dataset(tmp_path).videos] == ["fake/b", "real/a", "real/a.mp4"]


def test_a_tree_with_one_class_says_so(tmp_path):
    touch(tmp_path, "real/a.mp4")
    assert "There is no fake video." in read_dataset(tmp_path).notes


# Recognition and mistakes


def test_a_directory_of_several_data_sets_names_them(tmp_path):
    touch(tmp_path, "mine/real/a.mp4", "mine/fake/b.mp4", "dfdc/part/metadata.json", "notes/todo.txt")
    with pytest.raises(InputError, match=rf"{tmp_path} holds several data sets: dfdc, mine; give one of them\."):
        read_dataset(tmp_path)
    (tmp_path / "dfdc" / "part" / "metadata.json").unlink()
    with pytest.raises(
        InputError, match=rf"{tmp_path} is not a data set itself but holds one: mine; give {tmp_path}/mine\."
    ):
        read_dataset(tmp_path)


def test_a_directory_that_fits_no_layout_says_what_was_looked_for(tmp_path):
    touch(tmp_path, "holiday/beach.mp4", "work/talk.mp4")
    with pytest.raises(InputError) as caught:
        read_dataset(tmp_path)
    for name in (
        "original_sequences",
        "Celeb-synthesis",
        "metadata.json",
        "dataset.json",
        "manipulated_videos",
        "real/",
    ):
        assert name in str(caught.value)


def test_a_missing_directory_a_file_and_an_unknown_layout_are_said(tmp_path):
    with pytest.raises(InputError, match="nowhere does not exist; expected the directory of a data set"):
        read_dataset(tmp_path / "nowhere")
    touch(tmp_path, "a.mp4")
    with pytest.raises(InputError, match=r"a\.mp4 is not a directory"):
        read_dataset(tmp_path / "a.mp4")
    with pytest.raises(
        InputError, match="layout is 'imagenet'; expected auto or one of crop-store, deeper-forensics, faceforensics"
    ):
        read_dataset(tmp_path, layout="imagenet")


@pytest.mark.parametrize(
    "layout",
    ["faceforensics", "faceforensics-kaggle", "celeb-df", "dfdc", "deeper-forensics", "plain"],
)
def test_a_layout_asked_for_by_name_that_finds_no_video_says_what_it_expected(tmp_path, layout):
    with pytest.raises(InputError, match=f"has no usable video for the layout {layout}; expected "):
        read_dataset(tmp_path, layout=layout)
    with pytest.raises(InputError, match=r"has no dataset\.json"):
        read_dataset(tmp_path, layout="dfdc-preview")


# Lists of published sets are read by one reader


NO_TEXT = {"UTF-16": "é".encode("utf-16"), "binary": b"\xff" * 1_000_000}
NO_LIST = {
    "deep": b"[" * 100_000,
    "digits": b'{"a.mp4": ' + b"9" * 5_000 + b"}",
    "other types": b'[["000", "003"], [0, {"a": NaN}]]',
}
LISTS = {
    "metadata.json": ("a.mp4", NO_TEXT | NO_LIST),
    "dataset.json": ("method_A/1/1_A/a.mp4", NO_TEXT | NO_LIST),
    "splits/train.json": ("original_sequences/youtube/c23/videos/000.mp4", NO_TEXT | NO_LIST),
    "labels.csv": ("a.mp4", NO_TEXT),
    "List_of_testing_videos.txt": ("Celeb-real/id0_0000.mp4", NO_TEXT),
    "lists/splits/train.txt": ("manipulated_videos/end_to_end/000_M100.mp4", NO_TEXT),
}


@pytest.mark.parametrize(("name", "what"), [(name, what) for name, (_, odd) in LISTS.items() for what in odd])
def test_a_list_with_odd_content_is_one_sentence_that_names_it(tmp_path, name, what):
    beside, odd = LISTS[name]
    content = odd[what]
    touch(tmp_path, beside, name)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as refused:
        read_dataset(tmp_path)
    assert str(refused.value).startswith(f"{tmp_path / name}: ")
    assert len(str(refused.value)) < len(str(tmp_path)) + 300


# The split itself


@given(
    st.lists(
        st.tuples(st.lists(st.sampled_from("abcdefghijklmnopqrstuvwxyz"), min_size=1, max_size=3), st.booleans()),
        min_size=1,
        max_size=60,
    )
)
@settings(max_examples=300, deadline=None)
def test_no_person_is_ever_in_two_splits(videos):
    people = [tuple(persons) for persons, _ in videos]
    labels = [int(fake) for _, fake in videos]
    places = split_by_identity(people, labels, THREE_WAY)
    split_of: dict[str, str] = {}
    for persons, (_, split) in zip(people, places, strict=True):
        if split is not None:
            assert all(split_of.setdefault(person, split) == split for person in persons)
    groups: dict[str, set] = {}
    for group, split in places:
        groups.setdefault(group, set()).add(split)
    assert all(len(splits - {None}) <= 1 for splits in groups.values())
    assert split_by_identity(people, labels, THREE_WAY) == places


@given(st.integers(3, 200))
@settings(max_examples=50, deadline=None)
def test_every_split_has_both_classes_wherever_there_are_enough_people(count):
    places = split_by_identity([(f"{n}",) for n in range(2 * count)], [n % 2 for n in range(2 * count)], THREE_WAY)
    for label in (0, 1):
        assert {split for _, split in places[label::2]} == {"train", "val", "test"}
    sizes = [split for _, split in places]
    assert abs(sizes.count("test") - 0.14 * 2 * count) <= 2
