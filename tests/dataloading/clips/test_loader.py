import builtins
import threading
import time

import numpy as np
import pytest
import torch
from video_fixtures import (
    damage_frame,
    read_number,
    uneven_times,
    video_of,
    whole_frame_index,
    write_numbered,
    write_sound,
)

from dataloading.clips.loader import ClipLoader
from dataloading.clips.pipeline import Augmentation
from dataloading.clips.sampling import Clip, TrainingClips, evaluation_clips
from dataloading.errors import InputError
from dataloading.video.decoder import why_not_dali
from dataloading.video.probe import probe

WIDTH, HEIGHT, FRAMES = 128, 96, 50


def _numbers(clip):
    """Frame numbers of one loaded clip [T, 3, H, W]."""
    return [read_number((frame.permute(1, 2, 0).numpy() + 1) * 127.5) for frame in clip]


def _clip(path, start, box=(0.0, 0.0, float(WIDTH), float(HEIGHT)), label=0, frames=6, index=0):
    return Clip(video_of(path, label), np.arange(start, start + frames), box, label, index)


def _dataset(directory, codec="h264_intra", count=4, **kwargs):
    """Videos with alternating labels, their index, and clips of them."""
    videos = {
        video_of(write_numbered(directory, f"{codec}{i}", codec, FRAMES, WIDTH, HEIGHT, **kwargs), i % 2): (
            FRAMES,
            WIDTH,
            HEIGHT,
        )
        for i in range(count)
    }
    return list(videos), whole_frame_index(videos)


def _clips(directory, codec="h264_intra", count=4, clips_per_video=3, **kwargs):
    return evaluation_clips(*_dataset(directory, codec, count, **kwargs), clips_per_video=clips_per_video)


def _check_epoch(loader, clips):
    """Every clip once, in order, with the right frames and label."""
    seen = []
    for batch in loader:
        assert batch.clips.dtype == batch.labels.dtype == torch.float32
        assert batch.indices.dtype == torch.int64
        for frames, label, index in zip(batch.clips, batch.labels, batch.indices, strict=True):
            clip = clips[index]
            assert _numbers(frames) == clip.frames.tolist()
            assert label == clip.label
            seen.append(int(index))
    assert seen == list(range(len(clips)))


RATES = {"constant_rate": None, "variable_rate": uneven_times(FRAMES)}


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("codec", ["h264", "h264_intra", "h264_open_gop", "hevc", "vp9"])
def test_every_clip_comes_once_with_its_frames_and_label_in_every_epoch(tmp_path, codec, rate):
    clips = _clips(tmp_path, codec, count=2, clips_per_video=5, timestamps=RATES[rate])
    loader = ClipLoader(clips, batch_size=4, image_size=48)
    assert len(loader) == 3
    for _ in range(3):
        _check_epoch(loader, clips)
    assert loader.decoder == "pyav"
    assert loader.skipped == []


@pytest.mark.parametrize(
    ("codec", "rate"),
    [("vp9", "constant_rate"), ("vp9", "variable_rate"), ("vp8", "constant_rate"), ("mjpeg", "constant_rate")],
)
def test_dali_decodes_the_same_frames(tmp_path, codec, rate):
    clips = _clips(tmp_path, codec, count=2, clips_per_video=5, timestamps=RATES[rate])
    loader = ClipLoader(clips, batch_size=4, image_size=48, decoder="dali")
    for _ in range(2):
        _check_epoch(loader, clips)
    assert loader.decoder == "dali"


def test_on_a_cpu_dali_is_needed_only_where_it_decodes(tmp_path, monkeypatch):
    clips = _clips(tmp_path, "vp9", count=2)
    real_import = builtins.__import__

    def without_dali(name, *arguments, **named):
        if name.startswith("nvidia"):
            raise ImportError("No module named 'nvidia'")
        return real_import(name, *arguments, **named)

    monkeypatch.setattr(builtins, "__import__", without_dali)
    _check_epoch(ClipLoader(clips, 4, 48, augment=Augmentation(flip=0)), clips)
    with pytest.raises(InputError, match=r"NVIDIA DALI, .*, cannot be imported"):
        ClipLoader(clips, 4, 48, decoder="dali")


@pytest.mark.parametrize("codec", ["vp9", "mjpeg"])
@pytest.mark.parametrize("box", [(0, 0, 128, 96), (30, 20, 90, 80), (-25, 40, 75, 140)])
def test_both_decoders_agree_within_a_few_gray_levels(tmp_path, codec, box):
    path = write_numbered(tmp_path, "clip", codec, FRAMES, WIDTH, HEIGHT)
    clips = [_clip(path, start, box) for start in (0, 17, 44)]
    (pyav,) = ClipLoader(clips, 3, 64, decoder="pyav")
    (dali,) = ClipLoader(clips, 3, 64, decoder="dali")
    assert (pyav.clips - dali.clips).abs().mean() * 127.5 <= 3


def test_the_last_batch_is_the_rest(tmp_path):
    clips = _clips(tmp_path, count=2, clips_per_video=5)
    sizes = [len(batch.clips) for batch in ClipLoader(clips, batch_size=4, image_size=16)]
    assert sizes == [4, 4, 2]


def test_an_empty_list_is_an_empty_epoch():
    loader = ClipLoader([], batch_size=4, image_size=16)
    assert len(loader) == 0
    assert list(loader) == []


def test_cropping_before_the_graph_changes_nothing(tmp_path):
    # DALI decodes whole pictures and lets the graph crop; PyAV's pictures are cut down first. Same codec, same box.
    path = write_numbered(tmp_path, "clip", "mjpeg", FRAMES, 320, 240)
    boxes = [
        (100, 50, 160, 110),
        (0, 0, 320, 240),
        (-60, -60, 40, 40),
        (290, 200, 390, 300),
        (250.5, 10.25, 300, 59.75),
    ]
    clips = [_clip(path, 3 * i, box) for i, box in enumerate(boxes)]
    for image_size in (20, 100):
        (pyav,) = ClipLoader(clips, 8, image_size, decoder="pyav")
        (dali,) = ClipLoader(clips, 8, image_size, decoder="dali")
        difference = (pyav.clips - dali.clips).abs().mean(dim=(1, 2, 3, 4)) * 127.5
        assert (difference <= 3).all()


OUTSIDE = [(128, 0, 200, 50), (-50, 0, 0, 50), (0, 96, 50, 146), (500, 500, 600, 600)]


@pytest.mark.parametrize("decoder", ["pyav", "dali"])
@pytest.mark.parametrize("box", OUTSIDE)
def test_a_box_outside_the_picture_is_named(tmp_path, box, decoder):
    path = write_numbered(tmp_path, "clip", "mjpeg", FRAMES, WIDTH, HEIGHT)
    loader = ClipLoader([_clip(path, 0, box)], 1, 16, decoder=decoder)
    assert list(loader) == []
    assert "lies outside its 128x96 picture" in loader.skipped[0][1]


@pytest.mark.parametrize("decoder", ["pyav", "dali"])
def test_where_a_box_leaves_the_picture_the_border_is_repeated(tmp_path, decoder):
    path = write_numbered(tmp_path, "clip", "mjpeg", FRAMES, WIDTH, HEIGHT)
    clips = [_clip(path, 0, (127, 10, 167, 50)), _clip(path, 0, (-39.5, 10, 1, 50))]
    (batch,) = ClipLoader(clips, 2, 16, decoder=decoder)
    assert torch.isfinite(batch.clips).all()
    assert (batch.clips.std(dim=-1) < 0.03).all()


@pytest.mark.parametrize(
    "kwargs", [{"width": 97, "height": 75, "pixel_format": "yuv444p"}, {"pixel_format": "yuv420p10le"}]
)
def test_odd_sizes_and_ten_bit_videos_are_loaded_like_others(tmp_path, kwargs):
    path = write_numbered(tmp_path, "clip", "h264", **kwargs)
    info = probe(path)
    (batch,) = ClipLoader([_clip(path, 11, (0, 0, info.width, info.height))], 1, 48)
    assert _numbers(batch.clips[0]) == list(range(11, 17))


def test_a_phone_video_is_loaded_upright(tmp_path):
    path = write_numbered(tmp_path, "clip", "h264", rotation=90, width=WIDTH, height=HEIGHT)
    (batch,) = ClipLoader([_clip(path, 11, (0, 0, HEIGHT, WIDTH))], 1, 48)
    assert _numbers(batch.clips[0].rot90(-1, dims=(-2, -1))) == list(range(11, 17))


# Damage


@pytest.mark.parametrize(
    ("codec", "decoder"), [("h264_intra", "pyav"), ("vp9", "pyav"), ("vp9", "dali"), ("mjpeg", "dali")]
)
def test_damaged_clips_are_named_and_do_not_stop_the_epoch(tmp_path, codec, decoder):
    clips = _clips(tmp_path, codec, count=3, clips_per_video=4)
    whole = clips[4].video.path
    kept = whole.rename(whole.with_stem("whole"))
    damage_frame(kept, whole, 30)
    damaged = [i for i, clip in enumerate(clips) if clip.video.path == whole and clip.frames[-1] >= 30]
    if codec == "h264_intra":  # the others decode on from the beginning of the file
        damaged = [i for i in damaged if 30 in clips[i].frames]
    assert damaged
    loader = ClipLoader(clips, batch_size=5, image_size=48, decoder=decoder)
    for _ in range(2):
        seen = []
        for batch in loader:
            seen += batch.indices.tolist()
            for frames, index in zip(batch.clips, batch.indices, strict=True):
                assert _numbers(frames) == clips[index].frames.tolist()
        assert seen == [i for i in range(len(clips)) if i not in damaged]
        assert [clip for clip, _ in loader.skipped] == [clips[i] for i in damaged]
        for _, reason in loader.skipped:
            assert str(whole) in reason
            assert "damaged" in reason


@pytest.mark.parametrize("decoder", ["pyav", "dali"])
def test_files_that_are_no_videos_are_named_and_do_not_stop_the_epoch(tmp_path, decoder):
    good = write_numbered(tmp_path, "good", "vp9")
    (tmp_path / "empty.webm").touch()
    (tmp_path / "noise.webm").write_bytes(np.random.default_rng(0).bytes(9999))
    bad = [
        tmp_path / "empty.webm",
        tmp_path / "noise.webm",
        write_sound(tmp_path / "sound.mp4"),
        tmp_path / "gone.webm",
    ]
    clips = [_clip(path, 0) for path in (*bad, good, *bad)]
    loader = ClipLoader(clips, batch_size=2, image_size=48, decoder=decoder)
    (batch,) = loader
    assert batch.indices.tolist() == [4]
    reasons = [reason for _, reason in loader.skipped]
    for i, text in enumerate(["is empty (0 bytes)", "is not a video", "sound only", "does not exist"] * 2):
        assert text in reasons[i]
        assert str(bad[i % 4]) in reasons[i]


@pytest.mark.parametrize("decoder", ["pyav", "dali"])
def test_a_clip_beyond_the_end_of_its_video_is_named(tmp_path, decoder):
    path = write_numbered(tmp_path, "clip", "vp9")
    loader = ClipLoader([_clip(path, 46), _clip(path, 44)], 2, 48, decoder=decoder)
    (batch,) = loader
    assert batch.indices.tolist() == [1]
    assert "has no frame 51: it has 50" in loader.skipped[0][1]


@pytest.mark.parametrize("box", [(10, 10, 10, 20), (10, 20, 30, 10), (0, 0, float("nan"), 5)])
def test_an_impossible_box_is_named(tmp_path, box):
    path = write_numbered(tmp_path, "clip")
    loader = ClipLoader([_clip(path, 0, box)], 1, 16)
    assert list(loader) == []
    assert "expected x0 < x1 and y0 < y1" in loader.skipped[0][1]


def test_skipped_clips_are_counted_anew_in_each_epoch(tmp_path):
    path = write_numbered(tmp_path, "clip")
    kept = path.read_bytes()
    path.write_bytes(b"")
    loader = ClipLoader([_clip(path, 0)], 1, 48)
    assert list(loader) == []
    assert len(loader.skipped) == 1
    path.write_bytes(kept)
    assert len(list(loader)) == 1
    assert loader.skipped == []


# Augmentation


def test_augmentation_does_not_depend_on_batches_workers_or_where_an_epoch_was_resumed(tmp_path):
    videos, index = _dataset(tmp_path)
    sampler = TrainingClips(videos, index, clips_per_video=3, seed=7)

    def load(clips, batch_size, workers):
        loader = ClipLoader(clips, batch_size, 32, augment=True, seed=5, workers=workers)
        return torch.cat([batch.clips for batch in loader])

    whole = load(sampler.epoch(2), 4, 2)
    assert torch.equal(load(sampler.epoch(2), 4, 2), whole)
    assert torch.allclose(load(sampler.epoch(2), 5, 1), whole, atol=1e-6)
    assert torch.allclose(load(sampler.epoch(2, position=7), 4, 2), whole[7:], atol=1e-6)


def test_augmentation_differs_between_clips_seeds_and_passes(tmp_path):
    path = write_numbered(tmp_path, "clip")
    clips = [_clip(path, 20, index=i) for i in range(4)]
    loader = ClipLoader(clips, 4, 32, augment=True)
    (first,), (second,) = list(loader), list(loader)
    (other,) = ClipLoader(clips, 4, 32, augment=True, seed=1)
    for a, b in ((first.clips, second.clips), (first.clips, other.clips), (first.clips[:-1], first.clips[1:])):
        assert ((a - b).abs().mean(dim=(1, 2, 3, 4)) > 0).all()


def test_a_still_video_stays_still_under_augmentation(tmp_path):
    # Augmentation that differed from frame to frame would be a temporal trace of its own.
    still = write_numbered(tmp_path, "still", "mjpeg", frames=1)
    clip = Clip(video_of(still), np.zeros(6, np.int64), (0.0, 0.0, 128.0, 96.0), 0, 0)
    strong = Augmentation(brightness=0.5, contrast=0.5, saturation=0.5, compression=1.0, lowest_quality=20)
    for seed in range(5):
        (batch,) = ClipLoader([clip], 1, 48, augment=strong, seed=seed)
        assert (batch.clips == batch.clips[:, :1]).all()


def test_without_augmentation_the_seed_changes_nothing(tmp_path):
    clips = _clips(tmp_path, count=1)
    (a,), (b,) = list(ClipLoader(clips, 4, 32, seed=1)), list(ClipLoader(clips, 4, 32, seed=2))
    assert torch.equal(a.clips, b.clips)


# Threads


def test_batches_are_prepared_while_the_consumer_works(tmp_path):
    clips = _clips(tmp_path, count=2, clips_per_video=6)
    loader = ClipLoader(clips, batch_size=2, image_size=32)
    loaded: list[int] = []
    load = loader._load
    loader._load = lambda positions, *how: loaded.extend(positions) or load(positions, *how)
    batches = iter(loader)
    next(batches)
    # One batch was asked for. Two more wait in the queue, and the clips after them are being read.
    _wait_until(lambda: len(loaded) > 6)
    assert sorted(loaded) == list(range(len(loaded)))
    assert sum(len(batch.clips) for batch in batches) == 10


def _wait_until(condition, seconds=10.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_leaving_an_epoch_early_ends_its_threads_and_the_next_epoch_is_whole(tmp_path):
    clips = _clips(tmp_path)
    loader = ClipLoader(clips, batch_size=1, image_size=48)
    before = threading.active_count()
    for _ in range(3):
        for _ in loader:
            break
    _wait_until(lambda: threading.active_count() == before)
    _check_epoch(loader, clips)


def test_an_unexpected_error_in_a_thread_reaches_the_consumer(tmp_path):
    clips = _clips(tmp_path, count=1)
    loader = ClipLoader(clips, 2, 32)
    loader._load = lambda *_: 1 / 0
    with pytest.raises(ZeroDivisionError):
        list(loader)


# Arguments


@pytest.mark.parametrize("argument", ["batch_size", "image_size", "workers"])
def test_a_number_below_one_is_named(argument):
    arguments = {"batch_size": 1, "image_size": 16, "workers": 1} | {argument: 0}
    with pytest.raises(InputError, match=f"{argument} is 0; expected 1 or more"):
        ClipLoader([], **arguments)


def test_an_unknown_decoder_is_named():
    with pytest.raises(InputError, match="decoder is 'opencv'; expected one of auto, pyav, dali"):
        ClipLoader([], 1, 16, decoder="opencv")


def test_clips_of_different_lengths_are_refused(tmp_path):
    path = write_numbered(tmp_path, "clip")
    with pytest.raises(InputError, match="The clips have 4 to 6 frames"):
        ClipLoader([_clip(path, 0), _clip(path, 0, frames=4)], 2, 16)


def test_asking_dali_for_a_codec_it_cannot_decode_on_this_machine_names_the_file(tmp_path):
    clips = _clips(tmp_path, "h264", count=1)
    with pytest.raises(InputError, match=r"h2640\.mp4 is h264, which DALI cannot decode on cpu"):
        ClipLoader(clips, 2, 16, decoder="dali")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there_is_named():
    with pytest.raises(InputError, match="device is 'cuda', but torch sees no NVIDIA GPU"):
        ClipLoader([], 1, 16, device="cuda")


def test_on_a_gpu_dali_decodes_what_nvdec_decodes_and_nothing_else(tmp_path, trimmed_video):
    def reason(name, codec, **kwargs):
        return why_not_dali(probe(write_numbered(tmp_path, name, codec, frames=8, **kwargs)), "cuda")

    assert reason("a", "h264") is None
    assert reason("b", "mjpeg") is None
    assert reason("c", "vp9", width=160, height=160) is None
    assert "below the 128x128" in reason("d", "vp9", width=128, height=96)
    assert "8-bit 4:2:0 only" in reason("e", "h264", pixel_format="yuv420p10le")
    assert "8-bit 4:2:0 only" in reason("f", "h264", pixel_format="yuv444p")
    assert "rotated by 90 degrees" in reason("g", "h264", rotation=90)
    assert "without times" in reason("h", "mpeg4")
    assert "hidden frames" in why_not_dali(probe(trimmed_video), "cuda")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("decoder", ["pyav", "dali"])
@pytest.mark.parametrize("rate", RATES)
def test_on_a_gpu_every_clip_comes_with_its_frames(tmp_path, decoder, rate):
    clips = _clips(tmp_path, "h264", count=2, clips_per_video=5, timestamps=RATES[rate])
    loader = ClipLoader(clips, 4, 48, device="cuda", decoder=decoder)
    assert ClipLoader(clips, 4, 48, device="cuda").decoder == "dali"
    seen = []
    for batch in loader:
        assert batch.clips.is_cuda
        for frames, index in zip(batch.clips.cpu(), batch.indices, strict=True):
            assert _numbers(frames) == clips[index].frames.tolist()
            seen.append(int(index))
    assert seen == list(range(len(clips)))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_on_a_gpu_a_damaged_video_does_not_stop_the_epoch(tmp_path):
    clips = _clips(tmp_path, "h264_intra", count=2, clips_per_video=4)
    whole = clips[0].video.path
    kept = whole.rename(whole.with_stem("whole"))
    damage_frame(kept, whole, 0)
    loader = ClipLoader(clips, 4, 48, device="cuda", decoder="dali")
    seen = [int(index) for batch in loader for index in batch.indices]
    assert set(range(4, 8)) <= set(seen)
    assert sorted(seen + [clips.index(clip) for clip, _ in loader.skipped]) == list(range(8))
