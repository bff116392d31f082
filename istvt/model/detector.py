"""`Detector`: what training, inference and evaluation ask of a network, and where the networks differ for them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from istvt.config import DetectorConfig
from istvt.model.attention import Attention, resolve_backend


class Detector(nn.Module):
    """A network that gives each clip one logit: `model(clips [B, T, 3, H_i, W_i] in [-1, 1]) -> [B]`, positive = fake.

    Attributes:
        config: everything that determines its parameters and its function.
        pretrained_from: the files that `adapt_pretrained` takes, in words; None where it starts from random weights.
        info: metadata of its checkpoint (`CheckpointInfo`), where `istvt.from_pretrained` loaded it.
    """

    config: DetectorConfig
    info: Any = None
    pretrained_from: str | None = None

    def equal_blocks(self) -> Iterable[nn.Module]:
        """Return the equal parts, each of which is recomputed and sharded by itself; none by default."""
        return ()

    def compiled_parts(self) -> Iterable[nn.Module]:
        """Return the parts that are compiled, each by itself: the equal parts, or else the whole network."""
        return self.equal_blocks() or (self,)

    def set_backend(self, backend: str) -> Detector:
        """Choose the implementation of every attention; return the model.

        Raises:
            ValueError: the backend is unknown, or cannot run on the device that the parameters are on.
        """
        resolve_backend(backend, next(self.parameters()).device)
        for module in self.modules():
            if isinstance(module, Attention):
                module.backend = backend
        return self

    def segment(self, clips: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits and predicted masks of clips, of a model with `config.makes_masks`.

        Args:
            clips: [B, T, 3, H_i, W_i] in [-1, 1].

        Returns:
            logits [B], those of `forward`; and the probability of each pixel of being forged, [B, T, H_i, W_i].

        Raises:
            ValueError: the model makes no masks.
        """
        raise ValueError(
            f"this {self.config.architecture} predicts no masks; expected y_network, or an istvt or vtn that was "
            "trained with model.mask_head"
        )

    def check_clips(self, clips: Tensor) -> None:
        """Refuse clips of another shape than the configuration's.

        Raises:
            ValueError: the sentence says what was expected.
        """
        frames, side = self.config.frames, self.config.image_size
        if clips.dim() != 5 or tuple(clips.shape[1:]) != (frames, 3, side, side):
            raise ValueError(
                f"clips have shape {tuple(clips.shape)}; expected [clips, {frames} frames, 3, {side}, {side}]"
            )

    def adapt_pretrained(self, state: Mapping[str, Tensor]) -> tuple[nn.Module, dict[str, Tensor], list[str]]:
        """Return which part of the network pretrained tensors are for, the tensors under its names, and ignored names.

        Args:
            state: of a file as `pretrained_from` says; nothing about it is checked yet.
        """
        raise NotImplementedError


UNKNOWN = -1  # in a mask: whether the pixel is forged is not known


def mask_losses(logits: Tensor, masks: Tensor) -> Tensor:
    """Return the cross-entropy of predicted masks, the mean over the pixels of each clip, [B]; 0 of an unknown mask.

    Args:
        logits: [B, T, H_i, W_i] of each pixel, positive = forged.
        masks: int8, the same shape: 1 forged, 0 not forged, `UNKNOWN`.
    """
    known = (masks != UNKNOWN).float()
    losses = functional.binary_cross_entropy_with_logits(logits.float(), masks.float() * known, reduction="none")
    return (losses * known).flatten(1).mean(1)


def dice_losses(logits: Tensor, masks: Tensor) -> Tensor:
    """Return 1 - 2 sum(p m) / (sum(p) + sum(m)) over the pixels of each clip, [B]; 0 of a clip without a forged pixel.

    Milletari et al., "V-Net", 3DV 2016. Where few pixels are forged, cross-entropy alone is nearly as low for a
    mask that finds none of them.

    Args:
        logits, masks: as of `mask_losses`.
    """
    probabilities, forged = logits.float().sigmoid().flatten(1), (masks == 1).float().flatten(1)
    overlap = 2 * (probabilities * forged).sum(1) / (probabilities.sum(1) + forged.sum(1))
    return (1 - overlap) * forged.any(1)


class ImageNetNormalization(nn.Module):
    """Pictures in [-1, 1] brought to the mean and the deviation of ImageNet, for weights that were trained so."""

    def __init__(self) -> None:
        super().__init__()
        mean, deviation = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
        self.register_buffer("scale", 0.5 / deviation, persistent=False)
        self.register_buffer("shift", (0.5 - mean) / deviation, persistent=False)

    def forward(self, pictures: Tensor) -> Tensor:
        """[n, 3, h, w] -> [n, 3, h, w]."""
        return pictures * self.scale + self.shift


def init_vit_weights(model: nn.Module) -> None:
    """Initialize as a ViT: linear layers Xavier-uniform, class tokens and embeddings normal with deviation 0.02."""
    for name, parameter in model.named_parameters():
        if name.endswith(("class_token", "_embedding")):
            nn.init.normal_(parameter, std=0.02)
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
