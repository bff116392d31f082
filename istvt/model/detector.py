"""`Detector`: what training, inference and evaluation ask of a network, and where the networks differ for them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from istvt.config import DetectorConfig
from istvt.model.attention import Attention, resolve_backend


class Detector(nn.Module):
    """A network that gives each clip one logit: `model(clips [B, T, 3, H_i, W_i] in [-1, 1]) -> [B]`, positive = fake.

    Attributes:
        config: everything that determines its parameters and its function.
        pretrained_from: the files that `adapt_pretrained` takes, in words; None where it starts from random weights.
    """

    config: DetectorConfig
    pretrained_from: str | None = None

    def equal_blocks(self) -> Iterable[nn.Module]:
        """Return the equal parts, each of which is compiled, recomputed and sharded by itself; none by default."""
        return ()

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
