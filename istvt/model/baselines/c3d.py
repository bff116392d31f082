"""C3D: 3x3x3 convolutions over space and time, and two fully connected layers.

    logit = fc8(drop(relu(fc7(drop(relu(fc6(pool5(conv5b(conv5a(... pool1(conv1a(clip)) ...))))))))

Tran et al., "Learning Spatiotemporal Features with 3D Convolutional Networks", ICCV 2015: eight convolutions with ReLU
and without batch normalization, five max-pools of 2x2x2, the first of 1x2x2. It takes 16 frames of 112 pixels, and
fc6 fixes both.
"""

from __future__ import annotations

from torch import Tensor, nn

from istvt.model.baselines.configs import C3DConfig
from istvt.model.detector import Detector


class C3D(Detector):
    """C3D with one logit."""

    def __init__(self, config: C3DConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or C3DConfig()
        base = config.width
        widths = (3, base, 2 * base, 4 * base, 4 * base, 8 * base, 8 * base, 8 * base, 8 * base)
        names = ("conv1a", "conv2a", "conv3a", "conv3b", "conv4a", "conv4b", "conv5a", "conv5b")
        layers: dict[str, nn.Module] = {}
        for name, into, out in zip(names, widths, widths[1:], strict=False):
            layers[name], layers[f"relu{name[4:]}"] = nn.Conv3d(into, out, 3, padding=1), nn.ReLU()
            if name in ("conv1a", "conv2a", "conv3b", "conv4b"):
                pool = (1, 2, 2) if name == "conv1a" else 2
                layers[f"pool{name[4]}"] = nn.MaxPool3d(pool, pool)
        layers["pool5"] = nn.MaxPool3d(2, 2, padding=(0, 1, 1))
        self.features = nn.Sequential()
        for name, layer in layers.items():
            self.features.add_module(name, layer)
        time, side = config.pooled_sizes
        self.fc6 = nn.Linear(8 * base * time * side**2, config.hidden)
        self.fc7 = nn.Linear(config.hidden, config.hidden)
        self.fc8 = nn.Linear(config.hidden, 1)
        self.dropout = nn.Dropout(config.dropout)
        for module in self.modules():
            if isinstance(module, nn.Conv3d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.fc8.weight, std=0.01)

    def forward(self, clips: Tensor) -> Tensor:
        """[B, T, 3, H_i, W_i] in [-1, 1] -> [B]."""
        self.check_clips(clips)
        x = self.features(clips.transpose(1, 2)).flatten(1)
        x = self.dropout(self.fc6(x).relu())
        return self.fc8(self.dropout(self.fc7(x).relu())).squeeze(-1)
