"""The videos and the training of the small model on the synthetic set, alike in the demo and in the experiment."""

from __future__ import annotations

from istvt.config import TrainingSettings

SPLITS = (0.6, 0.15, 0.25)
VIDEO_SIZE = 96
VIDEO_FRAMES = 16
# A model as small as this is trained in less time than its steps take to compile.
TRAINING = TrainingSettings(batch_size=8, learning_rate=7e-4, execution="eager")
