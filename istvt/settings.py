"""What a person may set about data and training: every field is an option and may stand in the settings file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dataloading.errors import InputError
from istvt.config import Backend

Optimizer = Literal["adamw", "sgd"]
Precision = Literal["auto", "float32", "bfloat16", "float16"]
Execution = Literal["auto", "eager", "compile", "cuda_graphs"]
Parallel = Literal["ddp", "fsdp"]


@dataclass
class DataSettings:
    """Where the videos are and how clips are taken from them.

    Attributes:
        root: the data set's directory, in one of the layouts that `dataloading.read_dataset` knows.
        layout: the layout's name; "auto" recognizes it.
        compression: which FaceForensics++ compression to read: raw, c23 or c40.
        originals: the FaceForensics++ root with the real videos of DeeperForensics, unless it lies beside it.
        manipulations: only fakes of these manipulations (and all originals); None is all.
        train_clips: random clips a video and epoch, of the larger class; the smaller class gets more.
        evaluation_clips: clips a video in evaluation, evenly spread over its first 270 frames.
        decoder: who decodes: "auto", "pyav" or "dali".
        workers: threads that decode.
    """

    root: Path = Path("data/synthetic")
    layout: str = "auto"
    compression: str = "c23"
    originals: Path | None = None
    manipulations: list[str] | None = None
    train_clips: int = 1
    evaluation_clips: int = 4
    decoder: Literal["auto", "pyav", "dali"] = "auto"
    workers: int = 2

    def __post_init__(self) -> None:
        self.root = Path(self.root)
        for name in ("train_clips", "evaluation_clips", "workers"):
            if getattr(self, name) < 1:
                raise InputError(f"data.{name} is {getattr(self, name)}; expected at least 1")


@dataclass
class TrainingSettings:
    """How a model is trained.

    Attributes:
        epochs: passes over the training clips.
        batch_size: clips of one forward and backward pass, in each process.
        accumulation: batches whose gradients are added up before a step.
        optimizer: adamw, or sgd with momentum as the paper.
        learning_rate: the peak, reached after the warm-up.
        momentum: of sgd.
        weight_decay: decoupled for adamw.
        warmup_epochs: epochs of linear warm-up; cosine decay to zero follows.
        gradient_clip: largest norm of the gradient; 0 leaves it alone.
        precision: auto is bfloat16 on a GPU that has it and float32 elsewhere; float16 scales the loss. Weights and
            the optimizer's state are float32 in each.
        tf32: let a GPU round the factors of float32 products and convolutions to TF32.
        augment: flip and jitter training clips, each clip as a whole.
        backend: who computes attention.
        execution: eager; compile (torch.compile of the backbone and of every block); cuda_graphs (the same, replayed
            from CUDA graphs: pays off where the processor launches more slowly than the GPU computes; not with fsdp).
            auto is compile where this project's kernels run, on a GPU, and eager elsewhere.
        activation_checkpointing: keep only the input of each block and compute the rest again in the backward pass.
        parallel: with several processes, ddp (a copy of the model in each) or fsdp (FSDP2: parameters, gradients and
            optimizer state are shared out; not with sgd).
        backbone_weights: a timm or Cadene Xception checkpoint to start the backbone from.
        seed: of initial weights, sampling and augmentation.
        checkpoint_steps: a checkpoint every so many steps, besides those before and after the validation of each
            epoch; 0 is none.
        checkpoint_minutes: a checkpoint whenever so much time has passed; looked at every `log_steps`; 0 is none.
        log_steps: the loss is read from the device, shown and logged every so many steps.
    """

    epochs: int = 20
    batch_size: int = 16
    accumulation: int = 1
    optimizer: Optimizer = "adamw"
    learning_rate: float = 5e-4
    momentum: float = 0.9
    weight_decay: float = 0.01
    warmup_epochs: float = 1.0
    gradient_clip: float = 1.0
    precision: Precision = "auto"
    tf32: bool = False
    augment: bool = True
    backend: Backend = "auto"
    execution: Execution = "auto"
    activation_checkpointing: bool = False
    parallel: Parallel = "ddp"
    backbone_weights: Path | None = None
    seed: int = 0
    checkpoint_steps: int = 0
    checkpoint_minutes: float = 15.0
    log_steps: int = 10

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "accumulation", "log_steps"):
            if getattr(self, name) < 1:
                raise InputError(f"training.{name} is {getattr(self, name)}; expected at least 1")
        if not self.learning_rate > 0:
            raise InputError(f"training.learning_rate is {self.learning_rate}; expected more than 0")
        at_least_zero = ("momentum", "weight_decay", "warmup_epochs", "gradient_clip", "seed")
        for name in (*at_least_zero, "checkpoint_steps", "checkpoint_minutes"):
            if getattr(self, name) < 0:
                raise InputError(f"training.{name} is {getattr(self, name)}; expected 0 or more")
        if self.warmup_epochs > self.epochs:
            raise InputError(
                f"training.warmup_epochs is {self.warmup_epochs:g} and training.epochs {self.epochs}: the rate "
                "would never reach its peak; expected at most as many"
            )
