"""Lip movement: how features of the mouth change from frame to frame, read by convolutions over space and time.

    f_t = stem(frame_t),    d_t = f_(t+1) - f_t
    logit = fc(mean over cells and moments of blocks(d_1, ..., d_(T-1)))

Yang, Ma, Wang and Liew, "Preventing DeepFake Attacks on Speaker Authentication by Dynamic Lip Movement Analysis", IEEE
Transactions on Information Forensics and Security 16, 2021: shape and look of lips can be forged, so features of their
movement are emphasized over those of single frames, and a second network reads these over time.

In what it differs: the paper verifies who speaks a given text, by two tasks at once and with the speaker's own videos;
here one logit says real or fake, without a speaker, a text or audio. Static features are left out, not only weakened:
a still mouth has the same logit whatever it looks like. The paper's layers were not at hand, so their number and widths
are this project's. Clips are cropped to the mouth by `--data.region mouth`.
"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from istvt.model.baselines.configs import LipMotionConfig
from istvt.model.detector import Detector


class MotionBlock(nn.Module):
    """Two 3x3x3 convolutions beside a 1x1x1 one, ReLU, and halves of height and width."""

    def __init__(self, into: int, out: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv3d(into, out, 3, padding=1, bias=False), nn.BatchNorm3d(out)
        self.conv2, self.norm2 = nn.Conv3d(out, out, 3, padding=1, bias=False), nn.BatchNorm3d(out)
        self.shortcut = nn.Conv3d(into, out, 1, bias=False)
        self.pool = nn.MaxPool3d((1, 2, 2), ceil_mode=True)

    def forward(self, x: Tensor) -> Tensor:
        """[B, into, T, h, w] -> [B, out, T, ceil(h / 2), ceil(w / 2)], not negative."""
        changed = self.norm2(self.conv2(self.norm1(self.conv1(x)).relu()))
        return self.pool((changed + self.shortcut(x)).relu())


class LipMotion(Detector):
    """Convolutions over the changes of a mouth, with one logit."""

    def __init__(self, config: LipMotionConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or LipMotionConfig()
        width = config.width
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 5, stride=2, padding=2, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
        )
        widths = [2 * width, *(width * 2 ** (block + 1) for block in range(config.blocks))]
        self.blocks = nn.Sequential(*(MotionBlock(into, out) for into, out in pairwise(widths)))
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(widths[-1], 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward(self, clips: Tensor) -> Tensor:
        """[B, T, 3, H_i, W_i] in [-1, 1] -> [B]."""
        self.check_clips(clips)
        features = self.stem(clips.flatten(0, 1)).unflatten(0, clips.shape[:2])
        moved = features.diff(dim=1).transpose(1, 2)  # [B, C, T - 1, h, w]
        return self.head(self.dropout(self.blocks(moved).mean((2, 3, 4)))).squeeze(-1)
