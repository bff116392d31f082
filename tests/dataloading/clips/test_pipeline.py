import builtins
import tempfile

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from video_fixtures import numbered_frame, read_number

from dataloading.clips.cpu_pipeline import CpuPipeline
from dataloading.clips.pipeline import Augmentation, ClipGraph, Draw, Sample, require_dali
from dataloading.errors import InputError

CPU = torch.device("cpu")


def _clip(height=96, width=128, frames=4, seed=0):
    """Smooth noise: every place of the picture is different, and nothing is finer than resampling can follow."""
    noise = np.random.default_rng(seed).uniform(0, 255, (frames, 3, height // 8 + 2, width // 8 + 2))
    smooth = F.interpolate(torch.from_numpy(noise), (height, width), mode="bicubic").clamp(0, 255)
    return np.ascontiguousarray(smooth.permute(0, 2, 3, 1).round().numpy().astype(np.uint8))


@pytest.fixture(params=["graph", "cpu_pipeline"])
def run(request):
    """The graph of a GPU, which runs on a CPU too, and what takes its place there."""
    return _run if request.param == "graph" else _run_on_cpu


def _run(samples, image_size=64, augment=False, batch_size=8):
    return ClipGraph(batch_size, image_size, CPU, False, augment, 1).run(samples)


def _run_on_cpu(samples, image_size=64, augment=False):
    return CpuPipeline(image_size, augment).run(samples)


def _sample(clip, box=None, draw=None):
    height, width = clip.shape[1:3]
    box = np.float32((0, 0, width, height) if box is None else box)
    return Sample(clip, np.arange(len(clip)), box, draw or Draw())


def _cropped_and_resized(clip, box, image_size):
    """What the graph should give for a box of whole pixels: the border repeated, then torch's own resampling."""
    x0, y0, x1, y1 = box
    height, width = clip.shape[1:3]
    rows = np.arange(y0, y1).clip(0, height - 1)
    columns = np.arange(x0, x1).clip(0, width - 1)
    part = torch.from_numpy(clip[:, rows][:, :, columns]).permute(0, 3, 1, 2).double()
    return F.interpolate(part, (image_size, image_size), mode="bilinear", antialias=True) / 127.5 - 1


@pytest.mark.parametrize(
    "box",
    [(0, 0, 128, 96), (20, 10, 84, 74), (-30, -20, 70, 80), (60, 40, 160, 140), (-40, -40, 200, 200), (10, 5, 120, 60)],
    ids=["whole", "inside", "left_top", "right_bottom", "around", "oblong"],
)
@pytest.mark.parametrize("image_size", [24, 64, 150])
def test_a_box_is_cropped_and_resized_with_antialiasing_wherever_it_lies(box, image_size, run):
    clip = _clip()
    (ours,) = run([_sample(clip, box)], image_size)
    wanted = _cropped_and_resized(clip, box, image_size)
    # Inside, both are the same arithmetic. At the edge of a box inside the picture DALI's filter sees what lies
    # beyond the box, and torch's does not.
    margin = 2 + image_size // 16
    inner = (slice(None), slice(None), slice(margin, -margin), slice(margin, -margin))
    assert (ours[inner] - wanted[inner]).abs().max() < 0.5 / 127.5
    assert (ours - wanted).abs().mean() < 1 / 127.5


def test_the_output_is_frames_of_planes_from_minus_one_to_one(run):
    black_to_white = np.stack([np.full((48, 64, 3), level, np.uint8) for level in (0, 51, 255)])
    output = run([_sample(black_to_white)], 16)
    assert output.shape == (1, 3, 3, 16, 16)
    assert output.dtype == torch.float32
    np.testing.assert_allclose(output[0, :, 0, 0, 0], [-1, -0.6, 1], atol=1e-6)


def test_channels_stay_red_green_blue(run):
    red = np.zeros((2, 32, 32, 3), np.uint8)
    red[..., 0] = 255
    assert run([_sample(red)], 8)[0, 0, :, 4, 4].tolist() == [1, -1, -1]


def test_clips_of_different_picture_sizes_share_a_batch(run):
    clips = [_clip(96, 128), _clip(75, 97), _clip(240, 50)]
    together = run([_sample(clip) for clip in clips])
    for clip, output in zip(clips, together, strict=True):
        assert torch.equal(run([_sample(clip)])[0], output)


def test_batches_do_not_share_memory_with_later_ones():
    graph = ClipGraph(2, 16, CPU, False, False, 1)
    outputs = [graph.run([_sample(np.full((2, 16, 16, 3), level, np.uint8))]) for level in range(0, 250, 10)]
    del graph
    assert [round(float(output.mean() * 127.5 + 127.5)) for output in outputs] == list(range(0, 250, 10))


def test_small_differences_between_frames_survive(run):
    # A step of one gray level in one of 16 pixels: gone if the resized picture were rounded to gray levels.
    clip = np.full((2, 64, 64, 3), 100, np.uint8)
    clip[1, ::4, ::4] += 1
    output = run([_sample(clip)], 16)[0]
    difference = (output[1] - output[0]) * 127.5
    assert float(difference.mean()) == pytest.approx(1 / 16, rel=0.05)


DRAWS = {
    "flip": Draw(flip=True),
    "brightness": Draw(brightness=1.1),
    "contrast": Draw(contrast=0.8),
    "saturation": Draw(saturation=0.5),
    "compression": Draw(quality=70),
}


@pytest.mark.parametrize("name", DRAWS)
def test_an_augmentation_changes_all_frames_of_a_clip_alike(name, run):
    still = np.repeat(_clip(frames=1), 5, axis=0)
    (output,) = run([_sample(still, draw=DRAWS[name])], augment=True)
    (plain,) = run([_sample(still)])
    assert not torch.allclose(output[0], plain[0], atol=0.5 / 127.5)
    assert all(torch.equal(frame, output[0]) for frame in output)
    assert output.min() >= -1
    assert output.max() <= 1


def test_augmentations_do_what_they_are_called(run):
    clip = _clip()
    plain, *changed = run([_sample(clip), *(_sample(clip, draw=draw) for draw in DRAWS.values())], augment=True)
    flip, bright, contrast, saturation, compressed = changed
    assert torch.allclose(flip, plain.flip(-1), atol=1e-6)
    assert torch.allclose((bright + 1), ((plain + 1) * 1.1).clamp(max=2), atol=2e-2)
    assert contrast.std() == pytest.approx(float(plain.std()) * 0.8, rel=0.1)
    assert saturation.std(dim=1).mean() < 0.7 * plain.std(dim=1).mean()
    assert 0.2 < (compressed - plain).abs().mean() * 127.5 < 15  # colored noise loses half of its color resolution
    assert torch.allclose(plain, run([_sample(clip)])[0], atol=1e-6)


def test_draws_have_the_stated_probabilities_and_ranges():
    random = np.random.default_rng(0)
    draws = [Augmentation(flip=0.3, compression=0.1, brightness=0.2).draw(random) for _ in range(4000)]
    assert np.mean([draw.flip for draw in draws]) == pytest.approx(0.3, abs=0.03)
    assert np.mean([draw.quality <= 95 for draw in draws]) == pytest.approx(0.1, abs=0.02)
    assert min(draw.quality for draw in draws) >= 60
    brightness = np.array([draw.brightness for draw in draws])
    assert brightness.min() == pytest.approx(0.8, abs=0.01)
    assert brightness.max() == pytest.approx(1.2, abs=0.01)


def test_a_missing_dali_is_said_in_one_sentence(monkeypatch):
    real_import = builtins.__import__

    def without_dali(name, *args, **kwargs):
        if name.startswith("nvidia"):
            raise ImportError("No module named 'nvidia'")
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_dali)
    with pytest.raises(InputError, match="NVIDIA DALI, which crops and augments clips, cannot be imported"):
        require_dali()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_the_graph_gives_the_same_on_a_gpu():
    clip = np.stack([numbered_frame(number, 160, 120) for number in range(4)])
    samples = [_sample(clip, (-10, 5, 150, 165)), _sample(clip, draw=DRAWS["brightness"])]
    output = ClipGraph(2, 64, torch.device("cuda", 0), False, True, 1).run(samples)
    assert output.is_cuda
    assert (output.cpu() - _run(samples, augment=True)).abs().mean() < 1 / 127.5
    assert [read_number((frame.permute(1, 2, 0).cpu().numpy() + 1) * 127.5) for frame in output[1]] == [0, 1, 2, 3]


def test_an_augmented_graph_leaves_nothing_in_the_temporary_directory(tmp_path, monkeypatch):
    """DALI wrote the converted source of an if statement there; of a run that was killed it stayed for ever."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    ClipGraph(1, 16, torch.device("cpu"), decode=False, augment=True, threads=1)
    assert list(tmp_path.iterdir()) == []
