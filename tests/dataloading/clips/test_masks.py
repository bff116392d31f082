"""Masks of clips: those of the mask videos, with the crop and the flip of the frames; what is not known is said."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from video_fixtures import video_of

from dataloading.clips.loader import ClipLoader
from dataloading.clips.pipeline import Augmentation
from dataloading.clips.sampling import Clip
from dataloading.dataset import FAKE, REAL
from dataloading.synthetic.rendering import write_video

WIDTH, HEIGHT, FRAMES = 96, 64, 10


def moving(width: int = WIDTH, height: int = HEIGHT, frames: int = FRAMES) -> list[np.ndarray]:
    """A white block that moves and grows over black, never in the middle: uint8 [height, width, 3]."""
    pictures = np.zeros((frames, height, width, 3), np.uint8)
    for t, picture in enumerate(pictures):
        top, left = (8 + 2 * t) * height // HEIGHT, (10 + 3 * t) * width // WIDTH
        picture[top : top + (16 + t) * height // HEIGHT, left : left + (20 + t) * width // WIDTH] = 255
    return list(pictures)


@pytest.fixture
def fake(tmp_path):
    """A video of a moving block, whose mask video is the video itself."""
    path, mask = tmp_path / "fake.mp4", tmp_path / "mask.mp4"
    for place in (path, mask):
        write_video(place, moving(), 25, crf=1)
    return replace(video_of(path, FAKE), mask=mask)


def clips_of(video, box=(5.0, 3.0, 80.0, 60.0), count: int = 3) -> list[Clip]:
    return [Clip(video, np.arange(start, start + 6), box, video.label, start) for start in range(count)]


def test_a_mask_has_the_crop_and_the_flip_of_its_frames(fake):
    """The video shows its own mask: what is white in a clip is forged in its mask, flipped or not."""
    clips = [clip for box in ((5.0, 3.0, 80.0, 60.0), (-20.0, -9.0, 70.0, 50.0)) for clip in clips_of(fake, box)]
    loader = ClipLoader(clips, 4, 48, augment=Augmentation(flip=0.5, compression=0.3, brightness=0), masks=True)
    plain = ClipLoader(clips, 6, 48, masks=True)
    found = torch.cat([batch.masks for batch in loader])
    for batch, masks in ((next(iter(plain)), None), *((batch, batch.masks) for batch in loader)):
        masks = batch.masks if masks is None else masks
        assert masks.dtype == torch.int8 and masks.shape == batch.clips[:, :, 0].shape
        differs = (masks == 1) != (batch.clips.mean(2) > 0)
        assert differs.float().mean() < 0.01  # JPEG's ringing at edges
        assert 0.02 < (masks == 1).float().mean() < 0.5
    unflipped = next(iter(plain)).masks
    flipped = [not torch.equal(a, b) for a, b in zip(found, unflipped, strict=True)]
    assert any(flipped) and not all(flipped)
    for is_flipped, mask, one in zip(flipped, found, unflipped, strict=True):
        assert not is_flipped or ((mask.flip(-1) == one).float().mean() > 0.99)
    assert loader.unmasked == []


def test_clips_are_the_same_with_their_masks_and_without(fake):
    with_masks, without = (next(iter(ClipLoader(clips_of(fake), 3, 40, masks=masks))) for masks in (True, False))
    assert torch.equal(with_masks.clips, without.clips)
    assert without.masks is None


def test_nothing_is_forged_in_a_real_video(fake):
    real = replace(fake, label=REAL, mask=None)
    [batch] = ClipLoader(clips_of(real), 4, 40, masks=True)
    assert batch.masks.eq(0).all()


def test_a_mask_of_half_the_size_is_the_same_place(fake, tmp_path):
    write_video(tmp_path / "half.mp4", moving(WIDTH // 2, HEIGHT // 2), 25, crf=1)
    whole, half = (
        next(iter(ClipLoader(clips_of(replace(fake, mask=mask)), 3, 40, masks=True))).masks
        for mask in (fake.mask, tmp_path / "half.mp4")
    )
    assert (whole == half).float().mean() > 0.97
    assert half.eq(1).any()


@pytest.mark.parametrize(
    ("pictures", "says"),
    [
        (moving(WIDTH, HEIGHT + 32), "other.mp4 is 96x96 and its video 96x64; expected the same size"),
        (moving(frames=FRAMES - 1), "other.mp4 has 9 frames and its video 10; expected as many."),
        (None, "broken.mp4 has no mask video."),
        (b"no video", "other.mp4"),
    ],
    ids=["another size", "another length", "none", "damaged"],
)
def test_a_mask_that_cannot_be_used_is_said_in_a_sentence_and_its_clip_stays(fake, tmp_path, pictures, says):
    other = tmp_path / "other.mp4"
    if isinstance(pictures, bytes):
        other.write_bytes(pictures)
    elif pictures is not None:
        write_video(other, pictures, 25)
    path = shutil.copy(fake.path, tmp_path / "broken.mp4")
    broken = replace(fake, path=path, mask=other if pictures is not None else None)
    clips = [*clips_of(broken, count=2), *clips_of(fake, count=1)]
    loader = ClipLoader(clips, 4, 40, masks=True)
    [batch] = loader
    assert batch.indices.tolist() == [0, 1, 2] and loader.skipped == []
    assert batch.masks[:2].eq(-1).all()
    assert batch.masks[2].ge(0).all()
    assert [clip for clip, _ in loader.unmasked] == clips[:2]
    assert all(says in reason and "\n" not in reason for _, reason in loader.unmasked)
