"""Clips on a CPU: what the graph of a GPU gives, and the same bits whatever else runs."""

import dataclasses
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from dataloading.clips import cpu_pipeline
from dataloading.clips.cpu_pipeline import BatchMemory, CpuPipeline
from dataloading.clips.pipeline import Augmentation, ClipGraph, Draw, Sample
from dataloading.synthetic.rendering import VideoPlan, render

CPU = torch.device("cpu")
BOXES = {
    "whole": (0, 0, 128, 96),
    "sub_pixel": (20.3, 10.75, 84.6, 75.05),
    "left_top": (-30.5, -20.25, 70, 80),
    "right_bottom": (60, 40, 160.5, 140.5),
    "around": (-40, -40, 200, 200),
    "oblong": (10, 5.5, 120, 60),
}


def noise(seed: int = 0, height: int = 96, width: int = 128, frames: int = 2) -> np.ndarray:
    """The hardest picture: black and white pixels side by side."""
    return 255 * np.random.default_rng(seed).integers(0, 2, (frames, height, width, 3)).astype(np.uint8)


def sample(clip: np.ndarray, box=None, draw: Draw | None = None) -> Sample:
    box = (0, 0, clip.shape[2], clip.shape[1]) if box is None else box
    return Sample(clip, np.arange(len(clip)), np.float32(box), draw or Draw())


@pytest.fixture(scope="module")
def portrait() -> np.ndarray:
    """Frames of a drawn face with a background, uint8 [4, 128, 128, 3]."""
    frames = render(VideoPlan(0, 3, 3, 0, 0, "original", 4, 128))
    return np.stack([picture for picture, _ in frames])


def triangle(start: float, end: float, length: int, size: int) -> np.ndarray:
    """Weights [size, length] of antialiased resampling, by its definition: a loop over pixels, in float64."""
    scale, matrix = (end - start) / size, np.zeros((size, length))
    for i in range(size):
        center = start + (i + 0.5) * scale - 0.5
        for k in range(int(np.floor(center - max(scale, 1))), int(np.ceil(center + max(scale, 1))) + 1):
            weight = max(0.0, 1 - abs(k - center) / max(scale, 1))
            matrix[i, min(max(k, 0), length - 1)] += weight
    return matrix / matrix.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize("image_size", [24, 70, 150])
def test_the_resampling_is_its_definition_within_a_hundredth_of_a_gray_level(box, image_size):
    clip, (x0, y0, x1, y1) = noise(), BOXES[box]
    ours = (CpuPipeline(image_size, augment=False).run([sample(clip, BOXES[box])])[0].double() + 1) * 127.5
    rows, columns = triangle(y0, y1, 96, image_size), triangle(x0, x1, 128, image_size)
    expected = torch.from_numpy(rows @ clip.transpose(0, 3, 1, 2).astype(np.float64) @ columns.T)
    assert (ours - expected).abs().max() < 1 / 100  # whole gray levels would give 1/2


@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize("image_size", [24, 150])
def test_clips_are_those_of_the_graph_of_a_gpu_within_a_hundredth_of_a_gray_level(box, image_size):
    samples = [sample(noise(), BOXES[box]), sample(noise(1), BOXES["oblong"])]
    theirs = ClipGraph(2, image_size, CPU, False, False, 1).run(samples)
    assert (CpuPipeline(image_size, augment=False).run(samples) - theirs).abs().max() * 127.5 < 1 / 100


def test_colors_and_mirrors_are_those_of_the_graph_too(portrait):
    random = np.random.default_rng(1)
    draws = [Augmentation(compression=0.5).draw(random) for _ in range(8)]
    assert 0 < sum(draw.quality < 101 for draw in draws) < 8
    assert 0 < sum(draw.flip for draw in draws) < 8
    samples = [sample(portrait, (9.5, 4.25, 120, 116), draw) for draw in draws]
    theirs = ClipGraph(8, 100, CPU, False, True, 1).run(samples)
    differences = (CpuPipeline(100, augment=True).run(samples) - theirs).abs() * 127.5
    for draw, difference in zip(draws, differences, strict=True):
        # Before JPEG some pixels are rounded to the next gray level, and a block may come out otherwise.
        assert difference.max() < 1 / 100 if draw.quality > 100 else difference.mean() < 1 / 2, draw


def test_a_jpeg_round_trip_gives_the_bits_of_dali(portrait):
    """Without a change of size and colors before it, which may round a pixel otherwise."""
    samples = [sample(portrait, draw=Draw(quality=quality, flip=flip)) for quality in (60, 95) for flip in (0, 1)]
    theirs = ClipGraph(4, 128, CPU, False, True, 1).run(samples)
    assert torch.equal(CpuPipeline(128, augment=True).run(samples), theirs)


def test_a_clip_has_the_same_bits_with_any_number_of_threads_in_any_batch_and_at_any_address(portrait):
    """Its sums are exact: those of another processor, which adds in another order, are the same."""
    random = np.random.default_rng(2)
    clips = [noise(), portrait, noise(3, 301, 222), noise(4, 40, 1000)]
    samples = [sample(clip, (-3.3, 2.2, 95.7, 91.9), Augmentation().draw(random)) for clip in clips for _ in range(2)]
    samples = [dataclasses.replace(item, data=item.data[:2]) for item in samples]
    expected = CpuPipeline(75, augment=True).run(samples)
    pipeline, threads = CpuPipeline(75, augment=True), torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        for item, clip in reversed(list(zip(samples, expected, strict=True))):
            buffer = np.empty(item.data.size + 1, np.uint8)[1:].reshape(item.data.shape)
            buffer[:] = item.data
            assert torch.equal(pipeline.run([dataclasses.replace(item, data=buffer)])[0], clip)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(pipeline.run(samples[::-1]), expected.flip(0))


HASHES_CLIPS = """
import hashlib
import numpy as np
from dataloading.clips.cpu_pipeline import CpuPipeline
from dataloading.clips.pipeline import Augmentation, Sample
random = np.random.default_rng(0)
clip, box = random.integers(0, 256, (2, 211, 305, 3)).astype(np.uint8), np.float32((3.3, -9.1, 280.2, 190.7))
samples = [Sample(clip, np.arange(2), box, Augmentation().draw(random)) for _ in range(12)]
print(hashlib.sha256(CpuPipeline(224, augment=True).run(samples).numpy().tobytes()).hexdigest())
"""


def test_a_processor_without_avx_512_gives_the_same_bits(capsys):
    exec(HASHES_CLIPS, {})
    environment = os.environ | {"ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}
    command = [sys.executable, "-c", HASHES_CLIPS]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == capsys.readouterr().out != ""


def test_the_resampling_has_the_bits_of_integer_arithmetic():
    """Weights in units of 2^-16, in int64, and one rounding to float32."""
    clip, box = noise(5, 230, 310), np.float32((3.7, -20.1, 300.2, 214.9))
    x0, y0, x1, y1 = map(float, box)
    columns, rows = np.zeros((90, 310), np.int64), np.zeros((90, 230), np.int64)
    for matrix, ends in ((columns, (x0, x1)), (rows, (y0, y1))):
        places, weights = cpu_pipeline._weights(*ends, matrix.shape[1], 90)
        np.add.at(matrix, (np.arange(90)[:, None], places), weights.astype(np.int64))
        assert (matrix.sum(axis=1) == 1 << 16).all()
    levels = (rows @ (clip.transpose(0, 3, 1, 2).astype(np.int64) @ columns.T)) / (1 << 32)
    expected = (torch.from_numpy(levels).float() - 127.5) * torch.tensor(1 / 127.5)
    assert torch.equal(CpuPipeline(90, augment=False).run([sample(clip, box)])[0], expected)


@pytest.mark.parametrize(("height", "width"), [(1500, 1100), (50000, 40), (30, 100000), (1, 7), (9, 1)])
def test_large_and_tiny_pictures_are_resized_in_parts_to_the_same_bits(height, width, monkeypatch):
    clip = noise(6, height, width, frames=1)
    pipeline = CpuPipeline(96, augment=False)
    ours = pipeline.run([sample(clip)])
    assert sum(buffer.nbytes for buffer in pipeline._buffers.values()) < 64 << 20
    monkeypatch.setattr(cpu_pipeline, "_STRIP", 1 << 40)
    monkeypatch.setattr(cpu_pipeline, "_NARROW", 1 << 40)
    assert torch.equal(CpuPipeline(96, augment=False).run([sample(clip)]), ours)
    assert (ours - ClipGraph(1, 96, CPU, False, False, 1).run([sample(clip)])).abs().max() * 127.5 < 1 / 10


@pytest.mark.parametrize("by_dali", [False, True], ids=["cpu_pipeline", "graph"])
@pytest.mark.parametrize("quality", [101, 95], ids=["uncompressed", "compressed"])
def test_contrast_is_the_distance_from_mid_gray_and_not_a_second_brightness(portrait, by_dali, quality):
    """DALI's operator takes 0.5 as mid-gray, also where the range is 0 to 255: a contrast of 0.85 darkened a face."""
    factors = {"contrast": 0.85, "brightness": 1.1, "saturation": 0.8}
    draws = [Draw(quality=quality), *(Draw(quality=quality, **{name: value}) for name, value in factors.items())]
    draws.append(Draw(quality=quality, **factors))
    samples = [sample(portrait, draw=draw) for draw in draws]
    pipeline = ClipGraph(5, 128, CPU, False, True, 1) if by_dali else CpuPipeline(128, augment=True)
    clips = (pipeline.run(samples).double() + 1) * 127.5
    gray = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)[:, None, None]

    def changed(levels: torch.Tensor, brightness: float = 1, contrast: float = 1, saturation: float = 1):
        mean = (levels * gray).sum(dim=-3, keepdim=True)
        levels = mean + saturation * (levels - mean)
        return (brightness * (127.5 + contrast * (levels - 127.5))).clamp(0, 255)

    plain = torch.from_numpy(portrait).permute(0, 3, 1, 2).double()
    for draw, clip in zip(draws, clips, strict=True):
        expected = changed(plain, draw.brightness, draw.contrast, draw.saturation)
        error = (clip - expected).abs()
        assert error.max() < 0.01 if quality > 100 else error.mean() < 2.5  # JPEG's own
    # A clip that is darker than mid-gray on average becomes lighter, and by how much is known.
    mean = float(plain.mean())
    assert abs(mean - 127.5) > 5
    assert float(clips[1].mean() - clips[0].mean()) == pytest.approx(0.15 * (127.5 - mean), abs=0.2)


def test_memory_is_used_again_only_when_no_part_of_a_batch_is_held():
    memory = BatchMemory()
    pipeline = CpuPipeline(64, augment=False, memory=memory)
    clip = np.full((2, 70, 70, 3), 50, np.uint8)
    first = pipeline.run([sample(clip)])
    place, part = first.data_ptr(), first[0, 1, :, 3:5]
    del first
    other = pipeline.run([sample(clip + np.uint8(100))])
    assert other.data_ptr() != place
    assert (part == part[0, 0, 0]).all()
    assert part[0, 0, 0] < 0 < other.min()
    del part
    assert pipeline.run([sample(clip)]).data_ptr() == place
    larger = pipeline.run([sample(clip)] * 3)
    assert torch.equal(larger[2], larger[0])
    assert CpuPipeline(64, augment=False, memory=memory).run([sample(clip[:0])]).shape == (1, 0, 3, 64, 64)
