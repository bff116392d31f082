"""DeepfakeBench detector `istvt`: the networks of this project in that benchmark's training and testing.

Copy it to `training/detectors/`, `istvt.yaml` to `training/config/detector/`, and add one line to
`training/detectors/__init__.py`; README.md beside it has the commands. The benchmark gives clips
`data_dict["image"]` [B, T, 3, S, S] of RGB pictures in [-1, 1] and labels [B], 1 for fake, and asks for
`cls` [B, 2], `prob` [B] and `feat` [B, C]. The two classes' scores are 0 and the logit z, so that

    softmax([0, z])[1] = sigmoid(z)          cross_entropy([0, z], y) = binary_cross_entropy_with_logits(z, y)
"""

from __future__ import annotations

from typing import Any

import torch
from detectors import DETECTOR
from loss import LOSSFUNC
from metrics.base_metrics_class import calculate_metrics_for_train
from torch import Tensor, nn

import istvt
from istvt.model.architectures import build, model_preset

from .base_detector import AbstractDetector  # noqa: TID252 (of DeepfakeBench's package)


@DETECTOR.register_module(module_name="istvt")
class ISTVTDetector(AbstractDetector):
    """A network of this project as the benchmark's detector.

    Args:
        config: of the benchmark's YAML: `pretrained` (a run, a checkpoint file or OWNER/NAME of the Hugging Face Hub),
            or without it `architecture` and `preset` of a network with random weights.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.backbone = self.build_backbone(config)
        self.loss_func = self.build_loss(config)
        layers = [(name, module) for name, module in self.backbone.named_modules() if isinstance(module, nn.Linear)]
        # What the verdict is read from; a mask head, which no verdict calls, comes after it.
        self._last = next((module for name, module in reversed(layers) if not name.startswith("mask_head.")), None)

    def build_backbone(self, config: dict[str, Any]) -> nn.Module:
        """Return the network of `pretrained`, or one of random weights.

        Raises:
            ValueError: the benchmark's clips are of another length, size or normalization than the network's.
        """
        if config.get("pretrained"):
            network = istvt.from_pretrained(config["pretrained"])
        else:
            network = build(model_preset(config.get("architecture", "istvt"), config.get("preset", "seed")))
        wanted = {"clip_size": network.config.frames, "resolution": network.config.image_size, "video_mode": True}
        wanted |= {"mean": [0.5] * 3, "std": [0.5] * 3}
        wrong = [f"{name} {config.get(name)}, expected {value}" for name, value in wanted.items()
                 if config.get(name) != value]  # fmt: skip
        if wrong:
            raise ValueError(f"istvt.yaml does not fit this network: {'; '.join(wrong)}")
        return network.train()

    def build_loss(self, config: dict[str, Any]) -> nn.Module:
        """Return the loss that the YAML names."""
        return LOSSFUNC[config["loss_func"]]()

    def features(self, data_dict: dict[str, Any]) -> Tensor:
        """Return what the last linear layer reads of each clip, [B, C]; of a detector of frames their mean."""
        return self._run(data_dict["image"])[0]

    def classifier(self, features: Tensor) -> Tensor:
        """Return the scores [B, 2] of both classes by features [B, C]."""
        return self._classes(self._last(features).squeeze(-1))

    def get_losses(self, data_dict: dict[str, Any], pred_dict: dict[str, Any]) -> dict[str, Tensor]:
        """Return the loss as `overall`."""
        return {"overall": self.loss_func(pred_dict["cls"], data_dict["label"])}

    def get_train_metrics(self, data_dict: dict[str, Any], pred_dict: dict[str, Any]) -> dict[str, Any]:
        """Return the benchmark's metrics of a batch."""
        auc, eer, acc, ap = calculate_metrics_for_train(data_dict["label"].detach(), pred_dict["cls"].detach())
        return {"acc": acc, "auc": auc, "eer": eer, "ap": ap}

    def forward(self, data_dict: dict[str, Any], inference: bool = False) -> dict[str, Tensor]:
        """Return `cls` [B, 2], `prob` [B], the probability of a fake, and `feat` [B, C] of a batch."""
        features, logits = self._run(data_dict["image"])
        return {"cls": self._classes(logits), "prob": torch.sigmoid(logits), "feat": features}

    def _run(self, clips: Tensor) -> tuple[Tensor, Tensor]:
        """Return features [B, C] and logits [B]."""
        read: list[Tensor] = []
        if self._last is None:  # the Y-shaped network judges by its encoder's features, without a layer after them
            hook = self.backbone.encoder.register_forward_hook(lambda *given: read.append(given[-1].mean((2, 3))))
        else:
            hook = self._last.register_forward_pre_hook(lambda module, inputs: read.append(inputs[0]))
        with hook:
            logits = self.backbone(clips)
        return read[-1].reshape(len(clips), -1, read[-1].shape[-1]).mean(1), logits

    @staticmethod
    def _classes(logits: Tensor) -> Tensor:
        return torch.stack([torch.zeros_like(logits), logits], dim=1)
