"""Crop store: clips from it are those of the originals, and nothing in it is ever out of date in silence."""

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from video_fixtures import CODECS, damage_frame, uneven_times, write_video

from dataloading import FaceIndex, InputError, read_dataset
from dataloading.clips import cutting, store
from dataloading.clips.cutting import verify, write_crops
from dataloading.clips.loader import ClipLoader
from dataloading.clips.reader import decode_windows, size_of_video
from dataloading.clips.sampling import Clip, TrainingClips, evaluation_clips
from dataloading.clips.store import CropOptions, read_journal, read_manifest, read_table
from dataloading.face_index import FaceEntry, FaceTrack
from dataloading.layouts import open_dataset
from dataloading.video.probe import probe
from dataloading.video.processes import Workers

FRAMES = 16
# By name: size, codec, and how it is encoded.
KINDS = {
    "plain": ((128, 96), "h264", {}),
    "variable_rate": ((128, 96), "h264", {"timestamps": uneven_times(FRAMES)}),
    "sub_millisecond": ((64, 64), "vp9", {"timestamps": [*range(FRAMES)]}),
    "rotated_90": ((128, 96), "h264", {"rotation": 90}),
    "rotated_180": ((130, 94), "h264", {"rotation": 180}),
    "rotated_270": ((96, 128), "h264", {"rotation": 270}),
    "odd": ((127, 95), "vp9", {}),
    "odd_width": ((127, 96), "vp9", {}),
    "odd_height": ((128, 95), "vp9", {}),
    "odd_rotated": ((97, 127), "h264", {"rotation": 90, "pixel_format": "yuv444p"}),
    "ten_bits": ((128, 96), "h264", {"pixel_format": "yuv420p10le"}),
    "ten_bits_odd": ((101, 95), "h264", {"pixel_format": "yuv444p10le"}),
    "half_chroma": ((128, 96), "h264", {"pixel_format": "yuv422p"}),
    "full_chroma": ((128, 96), "h264", {"pixel_format": "yuv444p"}),
    "full_range": ((128, 96), "mjpeg", {}),
    "rgb": ((128, 96), "ffv1", {"pixel_format": "bgr0"}),
    "bt709": ((128, 96), "h264_bt709", {}),
    "without_times": ((128, 96), "mpeg4", {}),
    "hevc": ((160, 160), "hevc", {}),
}
ENCODERS = CODECS | {
    "ffv1": ("ffv1", ".mkv", {}),
    "h264_bt709": ("libx264", ".mp4", {"x264-params": "colormatrix=bt709:fullrange=on", "crf": "18"}),
}


def colored(width: int, height: int, seed: int, frames: int = FRAMES) -> list[np.ndarray]:
    """Pictures of which every pixel has a color of its own, that move and flicker."""
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3))
    return [np.roll(noise, (2 * t, 3 * t), (0, 1)).astype(np.uint8) for t in range(frames)]


def write_original(directory: Path, name: str, kind: str, frames: int = FRAMES) -> Path:
    (width, height), codec, kwargs = KINDS[kind]
    encoder, suffix, options = ENCODERS[codec]
    if codec == "mjpeg":
        kwargs = {"pixel_format": "yuvj420p"} | kwargs
    directory.mkdir(parents=True, exist_ok=True)
    pictures = colored(width, height, len(name), frames)
    return write_video(directory / f"{name}{suffix}", pictures, encoder, {**options}, **kwargs)


def face(name: str, path: Path, number: int) -> FaceEntry:
    """A face that wanders, at the border of the picture for some."""
    info = probe(path)
    x, y, size = [(0.5, 0.5, 0.4), (0.1, 0.2, 0.5), (0.9, 0.95, 0.3), (0.5, 0.02, 0.2), (0.4, 0.6, 1.3)][number % 5]
    keys = np.arange(0, info.frames, 5)
    drift = np.linspace(0, 0.1, len(keys))
    track = FaceTrack(
        keys, info.width * (x + drift), info.height * (y - drift), min(info.width, info.height) * size * (1 - drift)
    )
    return FaceEntry(name, info.frames, info.fps, info.width, info.height, "yuface", track)


def make_set(root: Path, kinds: list[str], frames: int = FRAMES) -> Path:
    """A data set of such videos, alternately real and fake, with faces."""
    for number, kind in enumerate(kinds):
        write_original(root / ("real", "fake")[number % 2], kind, kind, frames)
    videos = read_dataset(root).videos
    lines = [face(video.name, video.path, number).to_json() for number, video in enumerate(videos)]
    (root / "face_index.jsonl").write_text("".join(f"{line}\n" for line in lines))
    return root


def cut(root: Path, target: Path, **kwargs) -> cutting.Report:
    dataset = read_dataset(root)
    return write_crops(dataset, FaceIndex.read(root), target, progress=False, workers=1, **kwargs)


@pytest.fixture(scope="module")
def originals(tmp_path_factory) -> Path:
    return make_set(tmp_path_factory.mktemp("originals") / "set", list(KINDS))


@pytest.fixture(scope="module")
def crops(originals, tmp_path_factory) -> Path:
    target = tmp_path_factory.mktemp("crops") / "store"
    report = cut(originals, target)
    assert report.failed == {}
    assert report.cut == len(KINDS)
    return target


@pytest.fixture(scope="module")
def small_set(tmp_path_factory) -> Path:
    return make_set(tmp_path_factory.mktemp("small") / "set", ["plain", "full_range"])


@pytest.fixture
def small(small_set, tmp_path) -> tuple[Path, Path]:
    """A data set and its store, for a test that changes them."""
    root = shutil.copytree(small_set, tmp_path / "set")
    cut(root, tmp_path / "store")
    return root, tmp_path / "store"


def clips_of(root: Path, frames: int = 6, per_video: int = 3) -> list[Clip]:
    dataset, index = open_dataset(root)
    return [
        *evaluation_clips(dataset.videos, index, frames, per_video),
        *TrainingClips(dataset.videos, index, frames, clips_per_video=1).epoch(0),
    ]


# The same clips


@pytest.mark.parametrize(("image_size", "frames"), [(300, 6), (32, 1), (64, 11)])
def test_clips_from_the_store_are_bit_for_bit_those_of_the_originals(originals, crops, image_size, frames):
    pairs = list(zip(clips_of(originals, frames), clips_of(crops, frames), strict=True))
    assert {clip.video.name.partition("/")[2] for clip, _ in pairs} == set(KINDS)
    for original, stored in pairs:
        assert original.video.name == stored.video.name
        [expected], [found] = (decode_windows([clip], image_size) for clip in (original, stored))
        assert not isinstance(expected, str), expected
        assert not isinstance(found, str), found
        for ours, theirs in zip(found, expected, strict=True):  # frames and box
            np.testing.assert_array_equal(ours, theirs, err_msg=stored.video.name)


def test_clips_of_the_faster_lossless_format_are_bit_for_bit_those_of_the_originals_too(originals, tmp_path):
    assert cut(originals, tmp_path / "store", options=CropOptions("magicyuv")).failed == {}
    for original, stored in zip(clips_of(originals), clips_of(tmp_path / "store"), strict=True):
        [expected], [found] = (decode_windows([clip], 64) for clip in (original, stored))
        for ours, theirs in zip(found, expected, strict=True):
            np.testing.assert_array_equal(ours, theirs, err_msg=stored.video.name)
    videos = {video.name.partition("/")[2]: video for video in read_dataset(tmp_path / "store").videos}
    assert verify(tmp_path / "store") == (2 * len(KINDS), [])
    assert {probe(video.path).codec for video in videos.values()} == {"magicyuv"}
    kept = [read_table(videos[name].crops).pixel_format for name in ("plain", "half_chroma", "odd", "ten_bits")]
    assert kept == ["yuv420p", "yuv422p", "gbrp", "gbrp"]  # more than 8 bits as the RGB of 8 bits that clips have


def test_batches_of_the_model_are_the_same_with_augmentation(originals, crops):
    for expected, found in zip(
        *(ClipLoader(clips_of(root), 8, 48, augment=True, seed=3) for root in (originals, crops)), strict=True
    ):
        assert torch.equal(expected.clips, found.clips)
        assert torch.equal(expected.labels, found.labels)
        assert torch.equal(expected.indices, found.indices)


def test_most_regions_are_kept_in_the_pixel_format_of_the_video(crops):
    kept = {video.name.partition("/")[2]: read_table(video.crops) for video in read_dataset(crops).videos}
    formats = {name: table.pixel_format for name, table in kept.items()}
    assert formats["plain"] == formats["variable_rate"] == formats["rotated_90"] == formats["bt709"] == "yuv420p"
    assert formats["ten_bits"] == "yuv420p10le"
    assert formats["half_chroma"] == "yuv422p"
    assert formats["full_range"] == "yuv420p"
    # FFmpeg converts odd pictures by interpolating chroma in steps that depend on the size of the picture.
    assert formats["odd"] == "bgr0"
    assert kept["variable_rate"].timestamps.tolist() == probe_of(crops, "variable_rate").timestamps.tolist()


def probe_of(crops: Path, name: str):
    [item] = [item for item in read_journal(crops).values() if item.video.endswith(f"/{name}")]
    return probe(item.original.path)


def test_a_stored_video_is_a_matroska_file_of_key_frames_that_plays_anywhere(crops):
    for video in read_dataset(crops).videos:
        info = probe(video.path)
        assert info.codec == "ffv1"
        assert info.keyframes.tolist() == list(range(FRAMES))
        times = probe_of(crops, video.name.partition("/")[2])
        seconds = (times.timestamps - times.timestamps[0]) * times.time_base
        np.testing.assert_allclose(np.float64(info.timestamps * info.time_base), np.float64(seconds), atol=0.02)


def test_the_size_of_the_picture_is_that_of_the_original(originals, crops):
    for original, stored in zip(read_dataset(originals).videos, read_dataset(crops).videos, strict=True):
        assert size_of_video(original, Workers()) == size_of_video(stored, Workers())


def test_a_box_that_reaches_beyond_the_stored_region_is_refused_and_not_filled_up(crops):
    [clip] = [clip for clip in clips_of(crops) if clip.video.name.endswith("/plain")][:1]
    wider = dataclasses.replace(clip, box=(clip.box[0] - 10, clip.box[1], clip.box[2], clip.box[3]))
    [reason] = decode_windows([wider], 48)
    assert "holds a part of each picture" in reason
    [reason] = decode_windows([clip], 8)
    assert "an image size of 8 reaches beyond it" in reason


def test_only_the_bytes_of_the_frames_of_a_clip_are_read(crops, monkeypatch):
    [clip] = [clip for clip in clips_of(crops) if clip.video.name.endswith("/plain")][:1]
    table, read = read_table(clip.video.crops), []
    pread = store.os.pread
    monkeypatch.setattr(store.os, "pread", lambda file, size, start: read.append(size) or pread(file, size, start))
    decode_windows([clip], 48)
    assert len(read) == 1
    sizes = table.size[clip.frames[0] : clip.frames[-1] + 1]
    assert sizes.sum() <= read[0] <= sizes.sum() + 40 * len(sizes)  # headers of Matroska's blocks


def test_only_the_first_frames_are_kept_and_evaluation_clips_are_the_same(tmp_path):
    root = make_set(tmp_path / "set", ["plain", "full_range"], frames=290)
    cut(root, tmp_path / "store")
    cut(root, tmp_path / "whole", options=CropOptions(first_frames=None))
    kept = [{len(read_table(v.crops).offset) for v in read_dataset(tmp_path / n).videos} for n in ("store", "whole")]
    assert kept == [{270}, {290}]
    clips = [evaluation_clips(*_videos_and_index(place), clips_per_video=9) for place in (root, tmp_path / "store")]
    assert max(int(clip.frames[-1]) for clip in clips[0]) == 269
    for expected, found in zip(*clips, strict=True):
        assert expected.frames.tolist() == found.frames.tolist()
        assert expected.box == found.box
    training = TrainingClips(*_videos_and_index(tmp_path / "store"), clips_per_video=300).epoch(0)
    assert max(int(clip.frames[-1]) for clip in training) == 269
    assert any("the first 270 frames" in note for note in read_dataset(tmp_path / "store").notes)


def _videos_and_index(root: Path):
    dataset, index = open_dataset(root)
    return dataset.videos, index


def test_a_damaged_frame_of_an_original_costs_the_same_clips(tmp_path):
    root = make_set(tmp_path / "set", ["plain", "full_range"])
    victim = next((root / "fake").iterdir())
    whole = victim.rename(tmp_path / victim.name)
    damage_frame(whole, victim, 5)
    cut(root, tmp_path / "store")
    reasons = []
    for place in (root, tmp_path / "store"):
        loader = ClipLoader(clips_of(place, frames=2, per_video=20), 4, 32)
        seen = [int(i) for batch in loader for i in batch.indices]
        reasons.append((seen, [(clip.frames.tolist(), reason) for clip, reason in loader.skipped]))
    assert reasons[0][1]
    assert reasons[0] == reasons[1]


TRAINS_FROM_A_STORE = """
import gc, sys
from pathlib import Path
from dataloading.clips.loader import ClipLoader
from dataloading.clips.sampling import evaluation_clips
from dataloading.layouts import open_dataset

for root in sys.argv[1:]:
    dataset, index = open_dataset(Path(root))
    clips, used = evaluation_clips(dataset.videos, index, clips_per_video=9), []
    for epoch in range(10):
        for batch in ClipLoader(clips, 4, 224, augment=True, seed=epoch):
            assert batch.clips.isfinite().all()
        del batch
        gc.collect()
        used.append(int(Path("/proc/self/statm").read_text().split()[1]) * 4096 >> 20)
    print(*used)
"""


def test_memory_does_not_grow_over_ten_epochs(tmp_path, monkeypatch):
    """DALI's buffers left gaps in the heap of its threads: 50 to 110 MiB in these ten epochs, and more in more."""
    monkeypatch.setitem(KINDS, "large", ((480, 360), "h264", {}))
    monkeypatch.setitem(KINDS, "large_too", ((480, 360), "h264", {}))
    root = make_set(tmp_path / "set", ["large", "large_too"])
    stores = [tmp_path / "ffv1", tmp_path / "jpeg"]
    for target, options in zip(stores, (CropOptions(), CropOptions("jpeg", 90)), strict=True):
        cut(root, target, options=options)
    command = [sys.executable, "-c", TRAINS_FROM_A_STORE, *stores]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    for line in done.stdout.splitlines():
        used = [int(mebibytes) for mebibytes in line.split()]
        assert max(used[2:]) - max(used[:2]) < 30, used  # frames that are read ahead come to 25


# Lossy


def test_jpeg_crops_are_named_lossy_and_are_close_to_the_originals(originals, tmp_path):
    options = CropOptions("jpeg", 95)
    report = cut(originals, tmp_path / "store", options=options)
    assert "lossy" in cutting.format_report(report, tmp_path / "store", options)
    loaders = [ClipLoader(clips_of(root), 8, 64) for root in (originals, tmp_path / "store")]
    assert [loader.decoder for loader in loaders] == ["pyav", "jpeg"]
    for expected, found in zip(*loaders, strict=True):
        assert expected.indices.tolist() == found.indices.tolist()
        # Of noise, the worst case, JPEG keeps the brightness, and half of the resolution of color.
        brightness = torch.tensor([0.299, 0.587, 0.114])[:, None, None]
        difference = ((expected.clips - found.clips) * brightness).sum(dim=2).abs().mean() * 127.5
        assert 0.1 < difference < 4


def test_jpeg_crops_decoded_on_a_cpu_are_those_that_dali_decodes(originals, tmp_path):
    cut(originals, tmp_path / "store", options=CropOptions("jpeg", 95))
    ours, theirs = (ClipLoader(clips_of(tmp_path / "store"), 8, 64) for _ in range(2))
    theirs._by_dali = True  # as on a GPU
    for expected, found in zip(theirs, ours, strict=True):
        assert (expected.clips - found.clips).abs().max() * 127.5 < 1 / 100


@pytest.mark.parametrize("by_dali", [False, True], ids=["on_a_cpu", "by_dali"])
def test_a_jpeg_that_cannot_be_decoded_costs_its_clip_and_no_other(small_set, tmp_path, by_dali):
    cut(small_set, tmp_path / "store", options=CropOptions("jpeg", 90))
    clips = clips_of(tmp_path / "store", per_video=8)
    victim = clips[0].video
    table, data = read_table(victim.crops), bytearray(victim.path.read_bytes())
    content = json.loads(victim.crops.read_text())
    broken = b"\xff" * int(table.size[0])
    data[table.offset[0] : table.offset[0] + table.size[0]] = broken
    content["crc32"][0] = store.zlib.crc32(broken)
    victim.path.write_bytes(data)
    victim.crops.write_text(json.dumps(content))
    loader = ClipLoader(clips, 4, 32)
    loader._by_dali = by_dali  # as on a GPU
    seen = {int(i) for batch in loader for i in batch.indices}
    lost = {i for i, clip in enumerate(clips) if clip.video == victim and 0 in clip.frames}
    assert lost
    assert seen == set(range(len(clips))) - lost
    sentence = "DALI cannot decode" if by_dali else "is damaged: the JPEG picture of frame 0 cannot be decoded"
    assert all(sentence in reason for _, reason in loader.skipped)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_on_a_gpu_jpeg_crops_are_decoded_there_and_lossless_ones_are_those_of_the_originals(originals, crops, tmp_path):
    cut(originals, tmp_path / "store", options=CropOptions("jpeg", 95))
    batches = [
        list(ClipLoader(clips_of(root), 8, 64, device=device, decoder=decoder))
        for root, device, decoder in (
            (originals, "cuda", "pyav"), (crops, "cuda", "auto"), (tmp_path / "store", "cuda", "auto"),
            (tmp_path / "store", "cpu", "auto"),
        )
    ]  # fmt: skip
    for original, lossless, jpeg, on_cpu in zip(*batches, strict=True):
        assert jpeg.clips.is_cuda
        assert torch.equal(original.clips, lossless.clips)
        assert (jpeg.clips.cpu() - on_cpu.clips).abs().mean() * 127.5 < 3


# Never out of date in silence


def test_a_second_run_cuts_nothing_and_a_run_with_other_boxes_cuts_what_they_concern(small):
    root, target = small
    assert cut(root, target).cut == 0
    before = verify(target)
    _move_a_face(root)
    with pytest.raises(InputError, match=r"1 of its 2 crops were cut for other boxes than .*--crops .* up to date"):
        read_dataset(target)
    assert cut(root, target).cut == 1
    assert read_dataset(target).left_out == []
    assert before == verify(target) == (4, [])
    for original, stored in zip(clips_of(root), clips_of(target), strict=True):
        assert original.box == stored.box


def _move_a_face(root: Path) -> None:
    lines = [json.loads(line) for line in (root / "face_index.jsonl").read_text().splitlines()]
    lines[0]["boxes"]["x"] = [x + 3 for x in lines[0]["boxes"]["x"]]
    (root / "face_index.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_a_changed_original_is_named_and_cut_again_and_one_with_a_new_date_is_only_looked_at(small):
    root, target = small
    [other, victim] = [video.path for video in read_dataset(root).videos]
    other.touch()
    with pytest.raises(InputError, match=r"1 of its 2 crops are of originals that have changed, such as .*--crops"):
        read_dataset(target)
    assert cut(root, target).cut == 0
    assert len(read_dataset(target)) == 2
    shutil.move(write_original(root.parent, "another", "plain"), victim)
    assert cutting.changed_originals(read_dataset(root), target) == ["real/plain"]
    problems = verify(target)[1]
    assert len(problems) == 1
    assert "has changed since it was cut" in problems[0]


def test_other_options_are_refused_unless_they_are_to_replace_what_is_there(small):
    root, target = small
    with pytest.raises(InputError, match=r"holds lossless FFV1 crops of the first 270 frames for 2 of 2 .*--replace"):
        cut(root, target, options=CropOptions("jpeg", 80))
    wanted = json.loads((target / store.MANIFEST).read_text())
    wanted["options"] = {"format": "jpeg", "quality": 80, "first_frames": 270}
    (target / store.MANIFEST).write_text(json.dumps(wanted))  # as a run that was stopped leaves it
    with pytest.raises(InputError, match=r"has none of the 2 videos of .* yet; .*--crops .* goes on"):
        read_dataset(target)
    assert cut(root, target, options=CropOptions("jpeg", 80), replace_other=True).cut == 2
    assert {read_table(video.crops).format for video in read_dataset(target).videos} == {"jpeg"}
    assert cut(root, target, options=CropOptions("magicyuv"), replace_other=True).cut == 2
    assert {path.suffix for path in (target / "videos").rglob("*.*")} == {".mov", ".json"}


def test_a_half_written_store_says_what_is_missing_and_the_next_run_goes_on(small):
    root, target = small
    lines = (target / store.JOURNAL).read_text().splitlines()
    (target / store.JOURNAL).write_text(f"{lines[0]}\n{lines[1][:100]}")
    dataset = read_dataset(target)
    assert len(dataset) == 1
    assert dataset.notes[-1] == (
        f"1 of 2 videos are not in the crop store; `istvt prepare {root} --crops {target}` goes on."
    )
    assert [item.reason for item in dataset.left_out] == ["not in the crop store yet"]
    assert cut(root, target).cut == 1
    assert len(read_dataset(target)) == 2
    shutil.rmtree(target / store.VIDEOS)
    assert cut(root, target).cut == 2


def test_damage_is_found_by_verify_and_by_reading_and_cut_again(small):
    root, target = small
    video = read_dataset(target).videos[0]
    table = read_table(video.crops)
    data = bytearray(video.path.read_bytes())
    data[table.offset[3] + 10] ^= 1
    video.path.write_bytes(data)
    assert verify(target) == (4, [f"{video.path}: is not what was written"])
    clips = [clip for clip in clips_of(target) if clip.video == video]
    loader = ClipLoader(clips, 4, 48)
    list(loader)
    assert {clip.index for clip, _ in loader.skipped} == {clip.index for clip in clips if 3 in clip.frames}
    assert all("frame 3 is not what was written. Delete the file" in reason for _, reason in loader.skipped)
    video.path.unlink()
    assert cut(root, target).cut == 1
    assert verify(target) == (4, [])


@pytest.mark.parametrize("name", [store.MANIFEST, "videos/real/plain.json"])
def test_a_store_of_another_version_is_one_sentence(small, name):
    _, target = small
    content = json.loads((target / name).read_text()) | {"version": 7, "more": []}
    (target / name).write_text(json.dumps(content))
    clips = None
    if name != store.MANIFEST:
        clips = clips_of(target)
        loader = ClipLoader(clips, 4, 48)
        list(loader)
        reasons = {reason for clip, reason in loader.skipped}
        assert len(reasons) == 1
        [sentence] = reasons
    else:
        with pytest.raises(InputError) as error:
            read_dataset(target)
        sentence = str(error.value)
    assert sentence.startswith(f"{target / name}: version 7 of a crop store; expected version 1")


def test_a_store_that_was_moved_away_from_its_originals_is_usable_and_complete(small):
    root, target = small
    moved = target.rename(target.with_name("moved"))
    shutil.rmtree(root)
    assert len(clips_of(moved)) == 8
    loader = ClipLoader(clips_of(moved), 4, 48)
    assert sum(len(batch.labels) for batch in loader) == 8
    assert verify(moved) == (4, [])


def test_two_runs_do_not_write_into_one_store(small):
    root, target = small
    with (
        store_lock(target),
        pytest.raises(InputError, match=r"another run \(process \d+\) is writing the crops in .*; wait for it"),
    ):
        cut(root, target)


def store_lock(target: Path):
    from dataloading.io import locked

    return locked(target / cutting.LOCK, "writing")


def test_a_full_disk_is_one_sentence_and_what_was_finished_stays(small_set, tmp_path):
    root = shutil.copytree(small_set, tmp_path / "set")
    sizes = sorted(item.bytes for item in read_journal(_store_of(root, tmp_path / "first")).values())
    limit = (sizes[0] + sizes[1]) // 2
    code = f"""
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
from istvt.cli.main import main
sys.exit(main(["prepare", {str(root)!r}, "--detector=yuface", "--crops={tmp_path}/store", "--workers=1"]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(f"istvt: {tmp_path}/store/videos/"), done.stderr
    assert last.endswith(".mkv: does not fit on the disk (File too large)"), done.stderr
    assert "Traceback" not in done.stderr
    assert list((tmp_path / "store").rglob("*.partial")) == []
    report = cut(root, tmp_path / "store")
    assert len(report.finished) == 2


def _store_of(root: Path, target: Path) -> Path:
    cut(root, target)
    return target


def test_a_directory_with_something_else_or_in_the_data_set_is_refused(small, tmp_path):
    root, target = small
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "thesis.tex").touch()
    with pytest.raises(InputError, match=r"holds thesis\.tex and is no crop store"):
        cut(root, tmp_path / "else")
    with pytest.raises(InputError, match="is in the data set"):
        cut(root, root / "crops")
    with pytest.raises(InputError, match="is a crop store itself"):
        cut(target, tmp_path / "again")
    other = make_set(tmp_path / "other_set", ["hevc", "bt709"])
    with pytest.raises(InputError, match=r"holds crops of .* and none of the videos of .*other_set"):
        cut(other, target)
    assert read_manifest(target).source == str(root)
