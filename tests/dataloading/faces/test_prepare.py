"""Preparing real trees of real videos: the synthetic set, whose drawn faces every detector finds."""

import errno
import json
import os
import resource
import shutil
from pathlib import Path

import numpy as np
import pytest
from broken_decoders import break_video, repair
from video_fixtures import cut_short, write_numbered, write_sound, write_video

from dataloading.dataset import Dataset
from dataloading.errors import InputError
from dataloading.face_index import FaceIndex
from dataloading.faces import installed_detectors, make_detector
from dataloading.faces.prepare import format_preparation, prepare
from dataloading.layouts import read_dataset
from dataloading.synthetic import synthesize
from dataloading.video import processes
from dataloading.video.decode import decode_frames

ORIGINALS = "original_sequences/youtube/c23/videos"


@pytest.fixture(scope="module")
def pristine(tmp_path_factory) -> Path:
    """Four people, four originals and twelve fakes of 12 frames; not to be written to."""
    root = tmp_path_factory.mktemp("set")
    synthesize(root, identities=4, frames=12, size=96, workers=1, splits=(0.5, 0.0, 0.5), progress=False)
    return root


@pytest.fixture
def tree(pristine, tmp_path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "set"))


def run(dataset: Dataset, **options) -> FaceIndex:
    return prepare(dataset, **({"workers": 1, "progress": False} | options))


def lines(root: Path) -> list[dict]:
    return [json.loads(line) for line in (root / "face_index.jsonl").read_text().splitlines()]


def test_every_video_gets_a_box_and_fakes_share_that_of_their_original(tree):
    dataset = read_dataset(tree)
    index = run(dataset)
    assert index.errors == {}
    for video in dataset.videos:
        entry = index.entry(video.name)
        assert (entry.frames, entry.width, entry.height, entry.fps) == (12, 96, 96, 25.0)
        x0, y0, x1, y1 = index.box(video.name, range(6))
        assert x1 - x0 == pytest.approx(y1 - y0)
        assert 30 < x1 - x0 < 150
        if video.label:
            assert entry.boxes_of == video.source
            assert index.box(video.name, range(6)) == index.box(video.source, range(6))
    assert format_preparation(index, dataset.videos).endswith(
        "16 of 16 videos can be used, 12 of them with the boxes of their original."
    )


def test_the_index_on_disk_is_the_one_that_is_returned_and_processes_find_the_same(tree, tmp_path):
    dataset = read_dataset(tree)
    alone = run(dataset)
    read = FaceIndex.read(tree)
    (tree / "face_index.jsonl").rename(tmp_path / "alone.jsonl")
    together = run(dataset, workers=2)
    for video in dataset.videos:
        line = alone.entry(video.name).to_json()
        assert line == read.entry(video.name).to_json() == together.entry(video.name).to_json()
    assert FaceIndex.read(tree).entries.keys() == read.entries.keys()


def test_a_run_that_was_killed_goes_on_and_repairs_its_last_line(tree):
    dataset = read_dataset(tree)
    complete = run(dataset)
    path = tree / "face_index.jsonl"
    written = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(written[:5]) + written[5][:40])
    resumed = run(dataset)
    now = path.read_bytes().splitlines(keepends=True)
    assert now[:5] == written[:5]
    assert sorted(now) == sorted(written)
    assert {name: resumed.entry(name).to_json() for name in complete.entries} == {
        name: entry.to_json() for name, entry in complete.entries.items()
    }


def test_a_complete_last_line_without_its_line_break_is_not_lost(tree):
    dataset = read_dataset(tree)
    run(dataset)
    path = tree / "face_index.jsonl"
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    run(dataset)
    assert len(FaceIndex.read(tree)) == 16
    assert path.read_bytes().endswith(b"\n")


def test_what_is_done_is_not_done_again(tree):
    dataset = read_dataset(tree)
    run(dataset)
    before = (tree / "face_index.jsonl").read_bytes()
    for video in dataset.videos:
        video.path.unlink()  # opened now, it would be recorded as an error
    assert run(dataset).errors == {}
    assert (tree / "face_index.jsonl").read_bytes() == before


def test_another_detector_or_none_does_everything_again_if_that_is_asked_for(tree):
    dataset = read_dataset(tree).select(split="test")
    run(dataset)
    for other in installed_detectors()[1:]:
        # OpenCV misses some of these small faces.
        found = run(dataset, detector=other, replace=True)
        assert {entry.detector for entry in found if entry.error is None} == {other}
    assert {entry.detector for entry in run(dataset, detect=False, replace=True)} == {"none"}
    assert {entry.detector for entry in run(dataset, replace=True)} == {make_detector().name}


def test_boxes_of_another_kind_are_not_replaced_unasked(tree, caplog):
    """Hours of detection used to be superseded without a word by a forgotten or an added --no-detect."""
    dataset, name = read_dataset(tree).select(manipulation="original"), make_detector().name
    run(dataset)
    before = (tree / "face_index.jsonl").read_bytes()
    with pytest.raises(InputError) as refusal:
        run(dataset, detect=False)
    assert str(refusal.value) == (
        f"{tree}/face_index.jsonl has faces found by {name} for 4 of 4 videos, and this run would have whole pictures "
        f"in their place: --replace does that, and --detector {name} goes on with what is there."
    )
    assert (tree / "face_index.jsonl").read_bytes() == before
    run(dataset, detect=False, replace=True, progress=True)
    said = " ".join(caplog.text.split())
    assert f"4 videos that {tree}/face_index.jsonl has faces found by {name} for are done again (--replace)." in said
    with pytest.raises(InputError, match=r"has whole pictures for 4 of 4 .* and --no-detect goes on"):
        run(dataset)


def test_a_replacement_that_was_stopped_after_the_originals_goes_on_with_the_fakes(tree):
    """The fakes were taken for done, because their originals were, and kept boxes of another detector than these."""
    dataset, name = read_dataset(tree), make_detector().name
    run(dataset)
    path = tree / "face_index.jsonl"
    of_before = [line | ({"detector": "another"} if "boxes_of" in line else {}) for line in lines(tree)]
    path.write_text("".join(json.dumps(line) + "\n" for line in of_before))
    # Neither detector goes on with what is there.
    with pytest.raises(
        InputError, match=rf"by another for 12 of 16 .* by {name} in their place: --replace does that\.$"
    ):
        run(dataset)
    assert {entry.detector for entry in run(dataset, replace=True)} == {name}


def test_boxes_made_elsewhere_reach_the_fakes_of_a_run_that_was_stopped_after_the_originals(tree):
    """The fakes were taken for done, and kept boxes that a detector had found in their originals."""
    dataset, originals = read_dataset(tree), read_dataset(tree).select(manipulation="original")
    found = run(dataset)
    rows = {video.name: [[frame, *found.box(video.name, [frame])] for frame in (0, 11)] for video in originals.videos}
    (tree / "boxes.json").write_text(json.dumps(rows))
    run(originals, boxes=tree / "boxes.json", replace=True)
    index = run(dataset, boxes=tree / "boxes.json", replace=True)
    for fake in (video for video in dataset.videos if video.label):
        assert index.entry(fake.name).boxes_of == fake.source
        assert index.box(fake.name, range(6)) == index.box(fake.source, range(6))
    with pytest.raises(InputError, match=r"--replace does that, and --boxes FILE goes on with what is there\.$"):
        run(dataset)  # --boxes was forgotten: hours of detection were the only way on that was named


def test_two_runs_do_not_write_one_index_at_once(tree):
    """The compressions of a set share an index. The run that was done first replaced the file under the other, and
    what that one found from then on was lost."""
    dataset = read_dataset(tree)
    refusal = rf"^another run \(process {os.getpid()}\) is writing {tree}/face_index\.jsonl; wait for it$"

    def meanwhile() -> None:
        with pytest.raises(InputError, match=refusal):
            run(dataset.select(split="test"), detect=False)

    assert len(run(dataset, detect=False, before=meanwhile)) == len(lines(tree)) == 16
    other = read_dataset(shutil.copytree(tree, tree.parent / "other"))
    run(dataset, detect=False, before=lambda: run(other, detect=False))


def test_only_what_goes_wrong_in_writing_the_index_is_said_of_the_index(tree, monkeypatch):
    """A machine that was out of file handles was said to be an index that cannot be written."""
    dataset, path = read_dataset(tree).select(manipulation="original"), tree / "face_index.jsonl"

    def fill_up() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (200, limits[1]))

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(OSError, match="File too large") as too_large:
            run(dataset, detect=False, before=fill_up)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert too_large.value.filename == str(path)

    def no_handles(*_, **__):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr("dataloading.video.processes.subprocess.Popen", no_handles)
    monkeypatch.setattr("dataloading.video.processes._idle", [])
    with pytest.raises(OSError, match="Too many open files") as no_more:
        run(dataset, detect=False, workers=2)
    assert no_more.value.filename is None


def test_lines_that_were_replaced_are_gone_at_the_end(tree):
    """They used to pile up in the file."""
    dataset = read_dataset(tree).select(split="test")
    run(read_dataset(tree))
    run(dataset, detect=False, replace=True)
    names = [line["video"] for line in lines(tree)]
    assert len(names) == len(set(names)) == 16
    of_test = {video.name for video in dataset.videos}
    assert {line["video"] for line in lines(tree) if line["boxes"] is None} == of_test
    files = {path.name for path in tree.iterdir() if "face_index" in path.name}
    assert files == {"face_index.jsonl", ".face_index.jsonl.lock"}


@pytest.mark.parametrize(("number", "of_an_original"), [(1, True), (5, False)])
def test_damaged_lines_are_dropped_counted_and_their_videos_looked_at_again(tree, caplog, number, of_an_original):
    """One such line used to be a dead end: every command refused, `prepare` too. Where it was the line of an original,
    `prepare` still refused, because the boxes of its fakes seemed to be of another kind."""
    dataset = read_dataset(tree)
    complete = run(dataset)
    path = tree / "face_index.jsonl"
    *before, damaged = (written := path.read_text().splitlines(keepends=True))[:number]
    lost = json.loads(damaged)["video"]
    assert lost.startswith(ORIGINALS) == of_an_original
    path.write_text("".join([*before, damaged[:30] + "\n", "null\n", *written[number:]]))
    with pytest.raises(InputError, match=rf"jsonl: line {number}: .*`istvt prepare {tree}` drops such lines"):
        FaceIndex.read(tree)
    repaired = run(dataset, progress=True)
    said = " ".join(caplog.text.split())
    numbers = f"{number}, {number + 1}"
    assert f"2 damaged lines (numbers {numbers}) dropped; videos without another line are looked at again." in said
    assert repaired.entry(lost).to_json() == complete.entry(lost).to_json()
    assert len(FaceIndex.read(tree)) == 16


def test_videos_too_short_for_a_clip_are_counted_and_named(tree):
    """They were counted as usable, and only training said that they were not."""
    dataset = read_dataset(tree).select(manipulation="original")
    for number, frames in (("000", 3), ("002", 1)):
        write_numbered(tree.parent, number, frames=frames)
        shutil.move(tree.parent / f"{number}.mp4", tree / ORIGINALS / f"{number}.mp4")
    index = run(dataset, detect=False)
    assert index.entry(f"{ORIGINALS}/000").frames == 3
    said = format_preparation(index, dataset.videos).splitlines()
    assert said[0].endswith("2 of 4 videos can be used, 2 of them as whole pictures.")
    assert said[1:] == [
        "2 give no clip of 6 frames (--model.frames may ask for others):",
        f"  {tree / ORIGINALS / '000.mp4'}: has 3 frames; a clip needs 6.",
        f"  {tree / ORIGINALS / '002.mp4'}: has 1 frame; a clip needs 6.",
    ]


def test_without_detection_the_whole_picture_is_the_box_and_nothing_is_decoded(tree, monkeypatch):
    broken = "import dataloading.faces.prepare as module; module.find_face = module.make_detector = None; "
    monkeypatch.setattr(processes, "COMMAND", processes.COMMAND.replace("from", broken + "from"))
    dataset = read_dataset(tree)
    index = run(dataset, detect=False)
    assert {index.box(video.name, [3, 4]) for video in dataset.videos} == {(0, 0, 96, 96)}
    assert "16 of them as whole pictures" in format_preparation(index, dataset.videos)


def test_shots_are_in_the_index_with_the_faces_and_a_fake_has_those_of_its_original(tree):
    path, other = tree / ORIGINALS / "000.mp4", tree / ORIGINALS / "002.mp4"
    one, two = (decode_frames(name, range(12)) for name in (path, other))
    for fake in (
        "",
        *(p.relative_to(tree).as_posix() for p in tree.glob("manipulated_sequences/*/c23/videos/000_*.mp4")),
    ):
        write_video(tree / fake if fake else path, [*one[:7], *two[7:]], options={"crf": "18"})
    index = run(read_dataset(tree))
    cut = [entry for entry in index if entry.video.split("/")[-1].startswith("000")]
    assert len(cut) == 4
    assert {entry.shots for entry in cut} == {((0, 6), (7, 11))}
    assert {entry.shots for entry in index if entry not in cut} == {((0, 11),)}
    assert sum(entry.boxes_of is not None for entry in cut) == 3
    assert "not known" not in format_preparation(index, read_dataset(tree).videos)


def test_an_index_of_before_there_were_shots_is_read_and_what_is_missing_said(tree):
    dataset, path = read_dataset(tree), tree / "face_index.jsonl"
    run(dataset)
    old = [{name: value for name, value in line.items() if name != "shots"} | {"version": 1} for line in lines(tree)]
    path.write_text("".join(json.dumps(line) + "\n" for line in old))
    index = run(dataset)
    assert {entry.shots for entry in index} == {None}
    said = format_preparation(index, dataset.videos).splitlines()
    assert said[0].endswith("16 of 16 videos can be used, 12 of them with the boxes of their original.")
    assert said[1].startswith("The shots of 16 are not known (")
    assert said[1].endswith(": a clip of theirs may span a cut.")


def test_videos_that_cannot_be_used_are_named_and_stop_nothing(tree, caplog):
    caplog.set_level("INFO")
    directory = tree / ORIGINALS
    original = (directory / "000.mp4").read_bytes()
    (directory / "000.mp4").write_bytes(b"")
    cut_short(directory / "001.mp4", directory / "001.mp4", 0.4)
    shutil.move(write_numbered(tree.parent, "numbers", frames=12), directory / "002.mp4")
    shutil.move(write_sound(tree.parent / "sound.mp4"), directory / "003.mp4")
    dataset = read_dataset(tree)
    index = run(dataset, workers=2, progress=True)
    assert set(index.errors) == {f"{ORIGINALS}/{number:03}" for number in range(4)}
    for name, sentence in (
        ("000", "000.mp4 is empty"),
        ("001", "001.mp4 is cut short"),
        ("002", f"002.mp4 shows no face: {make_detector().name} looked at 4 of its 12 frames"),
        ("003", "003.mp4 is not a video: it has sound only"),
    ):
        assert sentence in index.errors[f"{ORIGINALS}/{name}"]
    # The fakes made from them are looked at for themselves.
    assert all(index.entry(video.name).boxes_of is None for video in dataset.videos if video.label)
    said = " ".join(caplog.text.split())
    assert "12 of 16 videos can be used." in said
    assert "4 cannot be used:" in said
    assert "sound only" in said

    (directory / "000.mp4").write_bytes(original)  # repaired: the next run tries again
    assert set(run(dataset).errors) == {f"{ORIGINALS}/{number:03}" for number in (1, 2, 3)}


def test_videos_that_crash_or_hang_the_decoder_cost_themselves_only(tree, broken_decoders):
    dataset = read_dataset(tree).select(manipulation="original")
    for video, kind in zip(dataset.videos, ("segfault", "hang", "exception"), strict=False):
        break_video(video.path, kind)
    index = run(dataset, workers=2)
    paths = [video.path for video in dataset.videos]
    assert list(index.errors.values()) == [
        f"{paths[0]} made the decoder or the face detector crash (segmentation fault).",
        f"{paths[1]} made the decoder or the face detector stand still: nothing was decoded for 60 s.",
        f"{paths[2]} failed (KeyError: 'a table of the decoder').",
    ]
    assert len(index) == 4
    # Repaired, they are looked at again.
    repair(paths)
    assert run(dataset).errors == {}


def test_the_index_is_in_the_order_of_the_set_however_many_processes_there_were(tree):
    """Its lines were in the order in which processes were done, another one each time."""
    dataset = read_dataset(tree)
    run(dataset, detect=False, workers=3)
    originals, fakes = ([video.name for video in dataset.videos if video.label == label] for label in (0, 1))
    assert [line["video"] for line in lines(tree)] == originals + fakes


def fake_of_000(dataset: Dataset):
    return next(v for v in dataset.videos if v.manipulation == "blend" and v.path.stem.startswith("000"))


def test_a_fake_of_another_size_or_with_more_frames_is_looked_at_for_itself(tree, tmp_path):
    for options in ({"size": 128, "frames": 12}, {"size": 96, "frames": 16}):
        other = tmp_path / f"other{options['size']}"
        synthesize(other, identities=4, workers=1, splits=(0.5, 0.0, 0.5), progress=False, **options)
        fake = fake_of_000(read_dataset(tree))
        shutil.copy(other / fake.path.relative_to(tree), fake.path)
        index = run(read_dataset(tree))
        (tree / "face_index.jsonl").unlink()
        assert index.entry(fake.name).boxes_of is None
        assert index.entry(fake.name).frames == options["frames"]


def test_a_fake_that_ends_earlier_uses_the_boxes_of_its_own_frames(tree, tmp_path):
    other = tmp_path / "other"
    synthesize(other, identities=4, frames=8, size=96, workers=1, splits=(0.5, 0.0, 0.5), progress=False)
    fake = fake_of_000(read_dataset(tree))
    shutil.copy(other / fake.path.relative_to(tree), fake.path)
    entry = run(read_dataset(tree)).entry(fake.name)
    assert entry.boxes_of == fake.source
    assert entry.frames == 8
    assert entry.key_frames.tolist() == [0, 5]


def test_a_fake_whose_face_is_not_where_that_of_its_original_is_does_not_take_its_boxes(tree):
    dataset = read_dataset(tree)
    fake = fake_of_000(dataset)
    boxes = {fake.source: [[frame, 0, 0, 12, 12] for frame in (0, 11)]}  # a corner
    (tree / "boxes.json").write_text(json.dumps(boxes))
    entry = run(dataset, boxes=tree / "boxes.json").entry(fake.name)
    assert entry.boxes_of is None
    assert entry.detector == make_detector().name
    assert min(entry.boxes.size) > 30


@pytest.mark.parametrize("masked", ["large", "small"])
def test_of_two_people_in_a_fake_the_manipulated_one_is_cropped(tree, masked):
    dataset = read_dataset(tree)
    fake = fake_of_000(dataset)
    [original] = [video for video in dataset.videos if video.name == fake.source]
    [other] = [video for video in dataset.videos if video.name == f"{ORIGINALS}/001"]

    def side_by_side(large: Path, small: Path) -> list[np.ndarray]:
        """The first one twice as large on the left, from x = 0 to 192; the second one on the right, to 288."""
        left, right = (decode_frames(path, range(12)) for path in (large, small))
        return [
            np.hstack(
                [big.repeat(2, axis=0).repeat(2, axis=1), np.pad(little, ((48, 48), (0, 0), (0, 0)), mode="edge")]
            )
            for big, little in zip(left, right, strict=True)
        ]

    empty = write_video(tree.parent / "empty.mp4", [np.zeros((96, 96, 3), np.uint8)] * 12)
    pictures = side_by_side(fake.path, other.path)
    masks = side_by_side(*((fake.mask, empty) if masked == "large" else (empty, fake.mask)))
    write_video(original.path, side_by_side(original.path, other.path))
    write_video(fake.path, pictures)
    write_video(fake.mask, [mask[::2, ::2] for mask in masks])  # masks may be smaller than their videos
    index = run(dataset)
    x0, _, x1, _ = index.box(fake.name, range(6))
    assert (0 < (x0 + x1) / 2 < 192) == (masked == "large")
    assert index.entry(fake.name).boxes_of == (fake.source if masked == "large" else None)
    x0, _, x1, _ = index.box(fake.source, range(6))
    assert 0 < (x0 + x1) / 2 < 192


def test_boxes_made_elsewhere_are_taken_by_name_or_path_and_shared_with_the_fakes(tree):
    dataset = read_dataset(tree)
    found = run(dataset)
    rows = {
        video.name: [[frame, *found.box(video.name, [frame])] for frame in (11, 0)]
        for video in dataset.select(manipulation="original").videos
    }
    by_key = {
        f"{ORIGINALS}/000": rows[f"{ORIGINALS}/000"],
        f"{ORIGINALS}/001.mp4": rows[f"{ORIGINALS}/001"],
        str(tree / ORIGINALS / "002.mp4"): rows[f"{ORIGINALS}/002"],
        "somewhere/else": [[0, 1, 1, 2, 2]],
    }
    (tree / "boxes.json").write_text(json.dumps(by_key))
    with pytest.raises(InputError, match=r"and this run would have faces of a boxes file in their place"):
        run(dataset, boxes=tree / "boxes.json")
    index = run(dataset, boxes=tree / "boxes.json", replace=True)
    detectors = {name[-3:]: index.entry(name).detector for name in rows}
    assert detectors == {"000": "boxes file", "001": "boxes file", "002": "boxes file", "003": make_detector().name}
    # The square is 1.25 times the given box.
    x0, _, x1, _ = rows[f"{ORIGINALS}/000"][1][1:]
    box = index.box(f"{ORIGINALS}/000", [0])
    assert (box[0] + box[2]) / 2 == pytest.approx((x0 + x1) / 2, abs=0.1)
    assert box[2] - box[0] == pytest.approx(1.25 * (x1 - x0), abs=0.2)
    fake = fake_of_000(dataset)
    assert index.entry(fake.name).key_frames.tolist() == [0, 11]
    before = len(lines(tree))
    run(dataset, boxes=tree / "boxes.json")
    assert len(lines(tree)) == before


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("{", r"boxes\.json: not JSON"),
        ("[]", r"boxes\.json: \[\]; expected an object"),
        ('{"unknown": [[0, 0, 0, 1, 1]]}', "None of the 1 videos named in .*boxes.json is in"),
        ('{"NAME": []}', r"000: \[\]; expected a list of \[frame, x0, y0, x1, y1\]"),
        ('{"NAME": [[0, 5, 5, 2, 9]]}', r"000: \[0\.0, 5\.0, 5\.0, 2\.0, 9\.0\]; .*with x0 < x1, y0 < y1"),
        ('{"NAME": [[0, 1, 1, 2]]}', r"000: \[0\.0, 1\.0, 1\.0, 2\.0\]; expected \[frame, x0, y0, x1, y1\], with"),
        ('{"NAME": [[0, 1, 1, 2, 2, 5]]}', "5.0]; expected .* x and y of each of its 5 landmarks after y1"),
        ('{"NAME": [[0, 1, 1, 2, 2], [0, 1, 1, 2, 2]]}', "000: two boxes for one frame; expected one"),
    ],
)
def test_a_boxes_file_that_cannot_be_used_is_named_before_anything_is_done(tree, content, sentence):
    (tree / "boxes.json").write_text(content.replace("NAME", f"{ORIGINALS}/000"))
    with pytest.raises(InputError, match=sentence):
        run(read_dataset(tree), boxes=tree / "boxes.json")
    assert not (tree / "face_index.jsonl").exists()


def test_a_box_for_a_frame_that_is_not_there_is_an_error_of_that_video(tree):
    (tree / "boxes.json").write_text(json.dumps({f"{ORIGINALS}/000": [[12, 1, 1, 2, 2]]}))
    index = run(read_dataset(tree).select(manipulation="original"), boxes=tree / "boxes.json")
    assert index.errors == {f"{ORIGINALS}/000": f"{ORIGINALS}/000 has 12 frames, but its boxes file has frame 12."}


def test_mistakes_in_the_arguments_are_said(tree):
    dataset = read_dataset(tree)
    for options, sentence in (
        ({"every": 0}, "every is 0; expected at least 1"),
        ({"workers": 0}, "workers is 0; expected at least 1"),
        ({"detector": "retina"}, "detector is 'retina'"),
        ({"boxes": tree / "no.json"}, r"boxes is .*no\.json, which is not a file"),
    ):
        with pytest.raises(InputError, match=sentence):
            run(dataset, **options)


def test_a_set_in_which_no_index_can_be_written_is_refused_before_the_work(tree):
    dataset = read_dataset(tree)
    dataset.root = Path("/proc")
    with pytest.raises(InputError, match=r"face index /proc/face_index\.jsonl cannot be written \(No such file"):
        run(dataset, before=lambda: pytest.fail("the work has begun"))


def test_boxes_follow_the_faces_that_were_drawn(tree):
    """The mask of a fake is its face: its middle must be near the middle of the crop, and inside it."""
    dataset = read_dataset(tree)
    index = run(dataset)
    for video in dataset.select(manipulation="blend").videos:
        masks = decode_frames(video.mask, range(6))[..., 0] > 128
        assert masks.any()
        rows, columns = np.nonzero(masks.any(axis=0))
        x0, y0, x1, y1 = index.box(video.name, range(6))
        side = x1 - x0
        assert abs(columns.mean() - (x0 + x1) / 2) < 0.15 * side
        assert abs(rows.mean() - (y0 + y1) / 2) < 0.2 * side
        inside = (columns > x0) & (columns < x1) & (rows > y0) & (rows < y1)
        assert inside.mean() > 0.95
