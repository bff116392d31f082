"""Y-shaped network: one encoder judges each frame, and a decoder of two branches says where it is forged.

    a_c   = mean |h_c|                    activation of the half h_c of the encoder's features that stands for class c
    logit = mean over frames of a_1 - a_0                  P(fake) of one frame = softmax(a_0, a_1)[1]
    mask, frame' = decoder(h with the half of the other class set to 0)
    loss  = |a_1 - y| + |a_0 - (1 - y)|  +  cross-entropy of the mask  +  mean squared error of frame'

Nguyen, Fang, Yamagishi, Echizen, "Multi-task Learning For Detecting and Segmenting Manipulated Facial Images and
Videos", BTAS 2019; layers and the weights of the losses (all 1) are those of the authors' code
(nii-yamagishilab/ClassNSeg). In training the half of the true class is decoded, afterwards that of the frame's own
verdict. It differs from their code in four things: the mask has one logit a pixel instead of two, whose softmax their
cross-entropy takes a second time; frames are in [-1, 1], which the reconstruction's tanh can reach; initial weights are
PyTorch's own, as theirs give every clip the same logit until normalization has seen some; and a clip has the mean of
its frames. It cannot see what only a comparison of frames shows.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from istvt.model.baselines.configs import YNetworkConfig
from istvt.model.detector import Detector, mask_losses


class YNetwork(Detector):
    """The encoder, what its two branches share of the decoder, and the branches."""

    def __init__(self, config: YNetworkConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or YNetworkConfig()
        w = config.width
        self.encoder = nn.Sequential(
            *_layers(3, w), *_layers(w, w, 2), *_layers(w, 2 * w), *_layers(2 * w, 2 * w, 2), *_layers(2 * w, 4 * w),
            *_layers(4 * w, 4 * w, 2), *_layers(4 * w, 8 * w), *_layers(8 * w, 8 * w, 2), *_layers(8 * w, 16 * w),
        )  # fmt: skip
        self.shared = nn.Sequential(
            *_transposed(16 * w, 8 * w), *_transposed(8 * w, 8 * w, 2),
            *_transposed(8 * w, 4 * w), *_transposed(4 * w, 4 * w, 2),
        )  # fmt: skip
        self.segmentation, self.reconstruction = (
            nn.Sequential(
                *_transposed(4 * w, 2 * w), *_transposed(2 * w, 2 * w, 2), *_transposed(2 * w, w),
                *_transposed(w, w, 2), nn.ConvTranspose2d(w, channels, 3, padding=1),
            )
            for channels in (1, 3)
        )  # fmt: skip

    def forward(
        self, clips: Tensor, labels: Tensor | None = None, masks: Tensor | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Return the logits of clips; in training also what is minimized.

        Args:
            clips: [B, T, 3, H_i, W_i] in [-1, 1].
            labels: [B], 0 real and 1 fake.
            masks: int8 [B, T, H_i, W_i], as of `mask_losses`.

        Returns:
            Logits [B], positive = fake; with masks these, and losses [B].
        """
        self.check_clips(clips)
        halves, active = self._encode(clips)
        logits = (active[:, 1] - active[:, 0]).unflatten(0, clips.shape[:2]).mean(1)
        if masks is None:
            return logits
        of_frames = labels.repeat_interleave(self.config.frames)  # [B*T]
        mask_logits, rebuilt = self._decode(halves, of_frames)
        wanted = torch.stack([1 - of_frames, of_frames], dim=1)
        activation = (active.float() - wanted).abs().sum(1).unflatten(0, clips.shape[:2]).mean(1)
        error = (rebuilt.unflatten(0, clips.shape[:2]).float() - clips).square().flatten(1).mean(1)
        return logits, activation + mask_losses(mask_logits.unflatten(0, clips.shape[:2]), masks) + error

    def segment(self, clips: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits [B] and the probability of each pixel of being forged, [B, T, H_i, W_i]."""
        self.check_clips(clips)
        halves, active = self._encode(clips)
        difference = active[:, 1] - active[:, 0]
        mask_logits, _ = self._decode(halves, (difference >= 0).to(halves))
        masks = mask_logits.float().sigmoid().unflatten(0, clips.shape[:2])
        return difference.unflatten(0, clips.shape[:2]).mean(1), masks

    def _encode(self, clips: Tensor) -> tuple[Tensor, Tensor]:
        """Return the halves of the features, [B*T, 2, 8 w, h, w], and their activations, [B*T, 2]."""
        halves = self.encoder(clips.flatten(0, 1)).unflatten(1, (2, -1))
        return halves, halves.abs().mean((2, 3, 4))

    def _decode(self, halves: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """Decode the half of each frame's class, [B*T]: mask logits [B*T, H_i, W_i] and frames [B*T, 3, H_i, W_i]."""
        chosen = torch.stack([1 - classes, classes], dim=1)[:, :, None, None, None]
        shared = self.shared((halves * chosen.to(halves)).flatten(1, 2))
        return self.segmentation(shared).squeeze(1), self.reconstruction(shared).tanh()


def _layers(into: int, out: int, stride: int = 1) -> Sequence[nn.Module]:
    return nn.Conv2d(into, out, 3, stride, padding=1), nn.BatchNorm2d(out), nn.ReLU()


def _transposed(into: int, out: int, stride: int = 1) -> Sequence[nn.Module]:
    convolution = nn.ConvTranspose2d(into, out, 3, stride, padding=1, output_padding=stride - 1)
    return convolution, nn.BatchNorm2d(out), nn.ReLU()
