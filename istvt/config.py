"""Settings of the model, the data, training, explanations and the service, and the presets.

Imports no PyTorch, which would slow down `istvt --help` by seconds.
"""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from numbers import Real
from pathlib import Path
from typing import Any, Literal, get_args

__version__ = "0.2.0"

Attention = Literal[
    "temporal_first", "spatial_first", "parallel", "decomposed_blocks", "joint", "spatial_only", "temporal_only"
]
ATTENTIONS: tuple[str, ...] = get_args(Attention)

PositionEmbedding = Literal["all", "frames"]
POSITION_EMBEDDINGS: tuple[str, ...] = get_args(PositionEmbedding)

# Implementation of attention; a model's parameters and function do not depend on it.
Backend = Literal["auto", "triton", "sdpa", "xformers", "reference"]
BACKENDS: tuple[str, ...] = get_args(Backend)

Region = Literal["face", "eyes", "mouth"]  # that of `dataloading.dataset`, which this module does not import
REGIONS: tuple[str, ...] = get_args(Region)

LARGEST_HEAD_DIM = 128  # of the kernels
# Smallest and largest values of sizes and counts, checked before memory is taken for them. The largest are far beyond
# what is useful: a file that asks for more is damaged, or made to exhaust the machine.
_MODEL_LIMITS = {
    "frames": (1, 4096),
    "image_size": (7, 8192),
    "dim": (1, 65_536),
    "heads": (1, 4096),
    "head_dim": (1, LARGEST_HEAD_DIM),
    "depth": (1, 1024),
    "mlp_dim": (1, 1_048_576),
    "mask_head": (0, 64),
}
_LARGEST_GRID, _LARGEST_CHANNELS = 512, 65_536
_DATA_LIMITS = {"train_clips": (1, 100_000), "evaluation_clips": (1, 100_000), "workers": (1, 1024)}
LONGEST_TIME_LIMIT = 1_000_000  # minutes
_HEATMAP_LIMITS = {
    "evaluations": (2, 10_000_000),
    "tiles": (1, 64),
    "spans": (1, 4096),
    "seed": (0, 2**63 - 1),
    "bound": (0.001, 255),
    "steps": (1, 100_000),
    "time_limit": (0, LONGEST_TIME_LIMIT),
}
_EXPLANATION_LIMITS = {
    "clips": (1, 100_000),
    "clips_scored": (1, 100_000),
    "person": (1, 100_000),
    "batch_size": (1, 65_536),
    "workers": (1, 1024),
}
_SERVE_LIMITS = {
    "port": (0, 65_535),
    "queue": (1, 10_000),
    "max_mib": (0.001, 1 << 20),
    "max_minutes": (0.001, 10_000),
    "keep_minutes": (0.001, 1_000_000),
    "max_error": (0, 0.499),
    "clips": (1, 100),
}
LOCAL_HOSTS = ("127.0.0.1", "localhost", "::1")
_TRAINING_LIMITS = {
    "epochs": (1, 1_000_000),
    "batch_size": (1, 65_536),
    "accumulation": (1, 65_536),
    "momentum": (0, 1),
    "weight_decay": (0, 1e6),
    "warmup_epochs": (0, 1_000_000),
    "gradient_clip": (0, 1e12),
    "ema_decay": (0, 1),
    "seed": (0, 2**63 - 1),
    "checkpoint_steps": (0, 10**12),
    "checkpoint_minutes": (0, 1e9),
    "log_steps": (1, 10**12),
}


def check_limits(values: Any, group: str, limits: dict[str, tuple[float, float]]) -> None:
    """Check numbers of a dataclass, its integers for being integers.

    Raises:
        ValueError: one is out of its limits.
    """
    annotations = {field.name: field.type for field in fields(values)}
    for name, (smallest, largest) in limits.items():
        value, annotation = getattr(values, name), annotations[name]
        if value is None and "None" in annotation:
            continue
        name = f"{group}.{name}".lstrip(".")
        whole = annotation.startswith("int")
        if isinstance(value, bool) or not isinstance(value, int if whole else Real):
            kind = "a whole number" if whole else "a number"
            raise ValueError(f"{name} is {value!r}; expected {kind} from {smallest:g} to {largest:,}")
        if not smallest <= value <= largest:
            short = f"{value!r:.40}"
            if value < smallest:
                raise ValueError(f"{name} is {short}; expected {smallest:g} or more")
            raise ValueError(f"{name} is {short}; expected {largest:,} or less")


def _check_choices(values: Any, choices: dict[str, tuple[str, ...]]) -> None:
    """Check fields of a dataclass that have a few values.

    Raises:
        ValueError: one has another.
    """
    for name, expected in choices.items():
        if getattr(values, name) not in expected:
            raise ValueError(f"{name} is {getattr(values, name)!r}; expected one of {', '.join(expected)}")


@dataclass(frozen=True)
class DetectorConfig:
    """What the configurations of all detectors have; each has an `architecture`, its name, besides.

    Attributes:
        frames: T, consecutive frames in a clip.
        image_size: side of the square face crop in pixels.
    """

    frames: int = 6
    image_size: int = 300

    @property
    def makes_masks(self) -> bool:
        """Whether the network also says which pixels are forged, and is trained on masks."""
        return False

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as values of JSON, as checkpoints store them."""
        return asdict(self)


@dataclass(frozen=True)
class ISTVTConfig(DetectorConfig):
    """Configuration of an `istvt.ISTVT`: everything that determines its parameters and its function.

    Attributes:
        frames: T, consecutive frames in a clip.
        image_size: side of the square face crop in pixels; with the backbone it gives the feature grid.
        grid: (H, W) of the feature grid where it is not what `image_size` gives; None derives it.
        dim: C, channels of a token and of the last backbone stage.
        heads: N, attention heads.
        head_dim: D, channels of a head; None means `dim // heads`.
        depth: M, blocks.
        mlp_dim: width of the hidden layer of each block's MLP.
        attention: the attentions of a block and their order (the paper's Table III).
            `temporal_first`: temporal, then spatial, one residual around both. `spatial_first`: the other order.
            `parallel`: both read the block's input, their outputs are added. `decomposed_blocks`: the first half of
            the blocks holds only temporal, the second half only spatial attention, each with its own MLP.
            `joint`: one attention over all (T+1)(HW+1) tokens. `spatial_only`, `temporal_only`: one of the two.
        self_subtract: queries and keys of temporal (and joint) attention come from frame differences, so that only
            change between frames is compared. Without effect in `spatial_only`, which has no attention across frames.
        position_embedding: which rows of the token grid have a learned position embedding. `all`: every row.
            `frames`: the T frame rows; the temporal class row has none (the authors' code).
        layer_norm_eps: added to the variance in every LayerNorm.
        head_norm: a second LayerNorm between the final one and the linear head (the authors' code).
        backbone_dims: output channels of conv1, conv2, block1 and block2 of the Xception entry flow.
        mask_head: predict which pixels are forged, in so many parts of each feature cell along each side; 0 for no
            masks. It is trained where the data set has masks, and neither verdict nor heatmap reads it.
        architecture: always istvt; another name has another configuration (`istvt.model.architectures`).
    """

    grid: tuple[int, int] | None = None
    dim: int = 728
    heads: int = 8
    head_dim: int | None = None
    depth: int = 12
    mlp_dim: int = 2048
    attention: Attention = "temporal_first"
    self_subtract: bool = True
    position_embedding: PositionEmbedding = "all"
    layer_norm_eps: float = 1e-6
    head_norm: bool = False
    backbone_dims: tuple[int, int, int, int] = (32, 64, 128, 256)
    mask_head: int = 0
    architecture: Literal["istvt"] = "istvt"

    def __post_init__(self) -> None:
        check_limits(self, "model", _MODEL_LIMITS)
        if self.attention not in ATTENTIONS:
            raise ValueError(f"model.attention is {self.attention!r}; expected one of {', '.join(ATTENTIONS)}")
        if self.position_embedding not in POSITION_EMBEDDINGS:
            raise ValueError(
                f"model.position_embedding is {self.position_embedding!r}; "
                f"expected one of {', '.join(POSITION_EMBEDDINGS)}"
            )
        if not 0 < self.layer_norm_eps < math.inf:
            raise ValueError(f"model.layer_norm_eps is {self.layer_norm_eps!r}; expected a number above 0")
        if self.head_dim is None and self.dim % self.heads:
            raise ValueError(
                f"model.dim is {self.dim} and model.heads is {self.heads}; expected dim to be a multiple of heads, "
                "or model.head_dim to be given"
            )
        if self.resolved_head_dim > LARGEST_HEAD_DIM:
            raise ValueError(
                f"model.dim is {self.dim} and model.heads is {self.heads}, which gives a head_dim of "
                f"{self.resolved_head_dim}; expected at most {LARGEST_HEAD_DIM}: give more heads, or model.head_dim"
            )
        if self.attention == "decomposed_blocks" and self.depth < 2:
            raise ValueError("model.depth is 1; expected at least 2 for decomposed_blocks (one temporal, one spatial)")
        for name, count, largest, expected in (
            ("backbone_dims", 4, _LARGEST_CHANNELS, "four channel counts"),
            ("grid", 2, _LARGEST_GRID, "(height, width)"),
        ):
            values = getattr(self, name)
            if values is None and name == "grid":
                continue
            if len(values) != count or not all(type(value) is int and 1 <= value <= largest for value in values):
                raise ValueError(f"model.{name} is {values!r:.80}; expected {expected}, each from 1 to {largest:,}")
            object.__setattr__(self, name, tuple(values))

    @property
    def feature_grid(self) -> tuple[int, int]:
        """Height and width (H, W) of the feature grid."""
        side = entry_flow_sizes(self.image_size)[-1]
        return self.grid or (side, side)

    @property
    def makes_masks(self) -> bool:
        """Whether the network has a mask head."""
        return self.mask_head > 0

    @property
    def has_temporal_row(self) -> bool:
        """Whether the token grid has the temporal class row (row 0); `spatial_only` has none."""
        return self.attention != "spatial_only"

    @property
    def has_spatial_column(self) -> bool:
        """Whether the token grid has the spatial class column (column 0); `temporal_only` has none."""
        return self.attention != "temporal_only"

    @property
    def frame_rows(self) -> int:
        """Rows of the token grid, F."""
        return self.frames + self.has_temporal_row

    @property
    def positions(self) -> int:
        """Columns of the token grid, S."""
        height, width = self.feature_grid
        return height * width + self.has_spatial_column

    @property
    def embedded_rows(self) -> int:
        """Rows of the token grid that have a position embedding, the last ones: F, or T without the class row."""
        return self.frames if self.position_embedding == "frames" else self.frame_rows

    @property
    def resolved_head_dim(self) -> int:
        """Channels of a head, D."""
        return self.head_dim or self.dim // self.heads

    def block_attention(self, index: int) -> str:
        """Return the attention of block `index`: the model's, or that of its half of `decomposed_blocks`."""
        if self.attention != "decomposed_blocks":
            return self.attention
        return "temporal_only" if index < -(-self.depth // 2) else "spatial_only"


def entry_flow_sizes(pixels: int) -> tuple[int, int, int, int, int]:
    """Return the sides after conv1, conv2 and the three blocks of the Xception entry flow, for an input side in pixels.

    conv1 3x3 stride 2 and conv2 3x3, both unpadded, then a 3x3 max-pool of stride 2 padded by 1 in each block:
    300 -> 149, 147, 74, 37, 19.
    """
    conv1 = (pixels - 3) // 2 + 1
    conv2 = conv1 - 2
    block1 = (conv2 - 1) // 2 + 1
    block2 = (block1 - 1) // 2 + 1
    return conv1, conv2, block1, block2, (block2 - 1) // 2 + 1


# `seed`: head dimension C/N. `published`: the network of the authors' released code, exactly (64-wide heads, MLP four
# times C, their LayerNorms and position embedding). `small`: trains in minutes on two CPU cores; the demo uses it.
# `fine`: trains on two CPU cores too; on its grid of 8x8 cells an explanation can be wrong about where.
PRESETS: dict[str, ISTVTConfig] = {
    "seed": ISTVTConfig(),
    "published": ISTVTConfig(
        head_dim=64, mlp_dim=2912, position_embedding="frames", layer_norm_eps=1e-5, head_norm=True
    ),
    "small": ISTVTConfig(image_size=64, dim=64, heads=4, depth=2, mlp_dim=128, backbone_dims=(8, 16, 24, 48)),
    "fine": ISTVTConfig(image_size=128, dim=64, heads=4, depth=4, mlp_dim=128, backbone_dims=(8, 16, 24, 48)),
}


def preset(name: str) -> ISTVTConfig:
    """Return the preset named `name`.

    Raises:
        ValueError: there is none of this name.
    """
    if name not in PRESETS:
        raise ValueError(f"preset is {name!r}; expected one of {', '.join(PRESETS)}")
    return PRESETS[name]


Optimizer = Literal["adamw", "sgd"]
Precision = Literal["auto", "float32", "bfloat16", "float16"]
Execution = Literal["auto", "eager", "compile", "cuda_graphs"]
Parallel = Literal["ddp", "fsdp"]
Tracker = Literal["tensorboard", "wandb", "mlflow", "none"]


@dataclass
class DataSettings:
    """Settings of the data: the videos, and the clips that are taken from them.

    Attributes:
        root: the data set's directory, in one of the layouts that `istvt dataset` reads; or the URL of a crop store,
            which is copied to the cache directory.
        layout: the layout's name; "auto" recognizes it.
        compression: which FaceForensics++ compression to read: raw, c23 or c40.
        originals: the FaceForensics++ root with the real videos of DeeperForensics, unless it lies beside it.
        manipulations: only fakes of these manipulations, such as Deepfakes,FaceSwap, and all originals; without it,
            all fakes.
        train_clips: random clips a video and epoch, of the larger class; the smaller class gets more.
        evaluation_clips: clips a video in evaluation, evenly spread over its first 270 frames.
        decoder: what reads the videos; auto is dali with a GPU that decodes video, and pyav elsewhere.
        workers: processes that read and decode.
        region: what clips are cropped to: the face, or by its landmarks the eyes or the mouth. A checkpoint keeps it.
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
    region: Region = "face"

    @property
    def source(self) -> dict[str, Any]:
        """Fields that select the videos and the crops, as `dataloading.layouts.open_dataset` takes them."""
        names = ("root", "layout", "compression", "originals", "manipulations", "region")
        return {name: getattr(self, name) for name in names}

    def __post_init__(self) -> None:
        self.root = Path(self.root)
        _check_choices(self, {"region": REGIONS})
        check_limits(self, "data", _DATA_LIMITS)


@dataclass
class TrainingSettings:
    """Settings of training.

    Attributes:
        epochs: passes over the training clips.
        batch_size: clips of one forward and backward pass, in each process.
        accumulation: batches whose gradients are added up before a step.
        optimizer: adamw, or sgd with momentum as the paper.
        learning_rate: the peak, reached after the warm-up.
        momentum: of sgd.
        weight_decay: decoupled for adamw.
        warmup_epochs: epochs of linear warm-up; cosine decay to zero follows.
        gradient_clip: largest norm of the gradient; 0 turns clipping off.
        ema_decay: validate and keep an exponential moving average of the weights, of this decay a step, such as 0.999;
            0 turns it off. Over the first steps it is less: (1 + steps) / (10 + steps).
        precision: auto is bfloat16 where the GPU or the processor multiplies it, float32 elsewhere; float16 scales
            the loss. Weights and optimizer state are float32 in each.
        tf32: let a GPU round the factors of float32 products and convolutions to TF32.
        augment: flip and jitter training clips, each clip as a whole.
        backend: the implementation of attention.
        execution: eager; compile (torch.compile of the backbone and of every block); cuda_graphs (the same, replayed
            from CUDA graphs: faster where launching kernels takes longer than running them; not with fsdp).
            auto is compile where this project's kernels run, on a GPU, and eager elsewhere.
        activation_checkpointing: keep only the input of each block and recompute the rest in the backward pass.
        parallel: with several processes, ddp (a copy of the model in each) or fsdp (FSDP2: parameters, gradients and
            optimizer state are sharded; not with sgd).
        backbone_weights: ImageNet weights to start the backbone from: a timm or Cadene Xception checkpoint for istvt,
            what `istvt model --model.architecture NAME` says for another architecture.
        seed: of initial weights, sampling and augmentation.
        checkpoint_steps: steps between checkpoints, besides those before and after the validation of each epoch; 0
            turns these off.
        checkpoint_minutes: minutes between further checkpoints, checked every `log_steps`; 0 turns these off.
        log_steps: steps between log lines, for which the loss is read from the device.
        tracker: where curves go besides the run's CSV files: tensorboard (files in the run), wandb or mlflow (each an
            extra, set up by its own environment variables; mlflow without a server keeps files in the run), or none.
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
    ema_decay: float = 0.0
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
    tracker: Tracker = "tensorboard"

    def __post_init__(self) -> None:
        check_limits(self, "training", _TRAINING_LIMITS)
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"training.learning_rate is {self.learning_rate}; expected a number above 0")
        if self.ema_decay == 1:
            raise ValueError("training.ema_decay is 1, an average that would stay what it was; expected less, or 0")
        if self.warmup_epochs > self.epochs:
            raise ValueError(
                f"training.warmup_epochs is {self.warmup_epochs:g} and training.epochs {self.epochs}: the rate "
                "would never reach its peak; expected at most as many"
            )


_ADAPTATION_LIMITS = {"rehearsal": (0, 0.95), "distillation": (0, 1e6), "temperature": (0.01, 1e6)}


@dataclass(frozen=True)
class AdaptationSettings:
    """Settings of learning a new forgery without forgetting the old ones.

    Attributes:
        rehearsal: share of an epoch's clips that are drawn from the old data sets; 0 is a plain continuation on the new
            one, which forgets.
        distillation: weight of the old network's probabilities as targets on the old clips, beside their labels; 0
            leaves the old network out.
        temperature: by which the logits of both networks are divided for that.
    """

    rehearsal: float = 0.5
    distillation: float = 1.0
    temperature: float = 2.0

    def __post_init__(self) -> None:
        check_limits(self, "adaptation", _ADAPTATION_LIMITS)
        if self.distillation and not self.rehearsal:
            raise ValueError(
                f"adaptation.distillation is {self.distillation:g} and adaptation.rehearsal 0, so that there is no old "
                "clip on which the old network is asked; expected a rehearsal above 0, or a distillation of 0"
            )


@dataclass(frozen=True)
class Adaptation:
    """What an adapted run starts from; see `istvt.comparison.adaptation`.

    Attributes:
        checkpoint: model file of the old network.
        checksum: of the file.
        old: the data sets that it learned, whose clips are rehearsed.
        settings: how much of them.
    """

    checkpoint: Path
    checksum: str
    old: tuple[DataSettings, ...]
    settings: AdaptationSettings

    def to_dict(self) -> dict[str, Any]:
        """Return the values that a run keeps, without settings of the old sets that an adaptation does not read."""
        unread = ("train_clips", "decoder", "workers")
        old = [{name: value for name, value in asdict(each).items() if name not in unread} for each in self.old]
        values = {"checkpoint": str(self.checkpoint), "checksum": self.checksum, "old": old}
        return values | asdict(self.settings)


Target = Literal["fake", "real"]
Method = Literal["lrp", "attnlrp", "gradient", "rollout", "raw", "gradcam", "shap", "counterfactual"]
Clamp = Literal["after_mean", "before_mean"]
Order = Literal["last_block_first", "literal"]
Normalization = Literal["clip", "frame"]
TARGETS: tuple[str, ...] = get_args(Target)
METHODS: tuple[str, ...] = get_args(Method)
# Ask a model for nothing but its logit, and the second for its gradient at the pixels: they explain every architecture.
AGNOSTIC_METHODS: tuple[str, ...] = ("shap", "counterfactual")
PIXEL_METHODS: tuple[str, ...] = ("attnlrp", *AGNOSTIC_METHODS)  # whose heat is of pixels, not of feature cells
CLAMPS: tuple[str, ...] = get_args(Clamp)
ORDERS: tuple[str, ...] = get_args(Order)
NORMALIZATIONS: tuple[str, ...] = get_args(Normalization)

TOKEN_RELEVANCE = "token_relevance"  # LRP's relevance of the tokens themselves, without a rollout
INTEGRATED_GRADIENTS = "integrated_gradients"  # from the original of a fake: a ceiling
EXPLANATION_BASELINES = ("motion", "center_blob", "random")  # know nothing of the model
MEASURED_METHODS: tuple[str, ...] = (*METHODS, TOKEN_RELEVANCE, INTEGRATED_GRADIENTS, *EXPLANATION_BASELINES)
# Without those that take hundreds of forward passes a clip.
QUICK_METHODS: tuple[str, ...] = tuple(method for method in MEASURED_METHODS if method not in AGNOSTIC_METHODS)

DEFAULT_STABILIZER = 0.01
SHAP_RULES = ("evaluations", "tiles", "spans", "seed", "time_limit")
COUNTERFACTUAL_RULES = ("bound", "steps", "time_limit")
LRP_RULES = ("stabilizer", "clamp", "order")
EVERY_RULE = tuple(dict.fromkeys((*LRP_RULES, *SHAP_RULES, *COUNTERFACTUAL_RULES)))
# The rules that each method reads; any other rule has no effect on it.
RULES: dict[str, tuple[str, ...]] = {
    "lrp": LRP_RULES,
    "attnlrp": (),
    "gradient": ("clamp", "order"),
    "rollout": ("order",),
    "raw": (),
    "gradcam": (),
    "shap": SHAP_RULES,
    "counterfactual": COUNTERFACTUAL_RULES,
}


@dataclass(frozen=True)
class HeatmapSettings:
    """Settings of heatmaps: the method and its rules; `istvt.explain.explain` has the equations.

    Attributes:
        method: explanation method: lrp, gradient, rollout, raw or gradcam over feature cells, attnlrp for every pixel;
            and of every architecture shap, Shapley values of tiles and frames, and counterfactual, the smallest
            change of the face that turns the verdict.
        stabilizer: with lrp: relevance is divided by sums that may cancel, so each is enlarged by this fraction of
            its absolute terms; larger is smoother, smaller closer to the rule. reference is the published 1e-9, in
            float64.
        clamp: with lrp or gradient: where evidence for the other class is cut off: after_mean, after the mean over
            the heads, so that heads can cancel; before_mean, in each head, as the published code does.
        order: with lrp, gradient or rollout: how the blocks' maps are multiplied: last_block_first, from the logit
            down to the tokens, or literal, in the order that the paper prints.
        evaluations: with shap: of the model for each clip, at most; four times as many halve the standard error.
        tiles: with shap: rows and columns that each picture is divided into.
        spans: with shap: parts that the frames are divided into, each of neighbors; at most one a frame. With 1 a
            tile is taken away from all frames together.
        seed: with shap: of the orders in which tiles are put back.
        bound: with counterfactual: most that any color of a pixel may change, in gray levels of 255.
        steps: with counterfactual: of the search, each a forward and a backward pass.
        time_limit: with shap or counterfactual: minutes; what would take longer is refused before it begins.
    """

    method: Method = "lrp"
    stabilizer: float | str = DEFAULT_STABILIZER
    clamp: Clamp = "after_mean"
    order: Order = "last_block_first"
    evaluations: int = 2048
    tiles: int = 4
    spans: int = 6
    seed: int = 0
    bound: float = 8.0
    steps: int = 40
    time_limit: float = 60.0

    def __post_init__(self) -> None:
        _check_choices(self, {"method": METHODS, "clamp": CLAMPS, "order": ORDERS})
        check_limits(self, "", _HEATMAP_LIMITS)
        object.__setattr__(self, "stabilizer", checked_stabilizer(self.stabilizer))

    @property
    def propagates(self) -> bool:
        """Whether relevance is propagated from layer to layer (LRP)."""
        return self.method == "lrp"

    @property
    def uses_gradient(self) -> bool:
        """Whether the gradient of the logit is used."""
        return self.method in ("lrp", "gradient", "gradcam")

    def rules(self) -> dict[str, Any]:
        """Return the rules that the method reads, by name.

        Raises:
            ValueError: another one is not the default, and would change nothing.
        """
        for name in EVERY_RULE:
            value = getattr(self, name)
            if name not in RULES[self.method] and value != getattr(type(self), name):
                readers = " or ".join(method for method, read in RULES.items() if name in read)
                raise ValueError(f"{name} is {value!r}, but method {self.method} reads none; expected method {readers}")
        return {name: getattr(self, name) for name in RULES[self.method]}


@dataclass(frozen=True)
class ExplanationSettings(HeatmapSettings):
    """Settings of the explanation of a video: of its heatmaps, of what is explained in it, and of how it is read.

    Attributes:
        target: the class whose evidence is shown: fake, real, or verdict for the class that the model predicts.
        normalization: the colors reach from the coldest to the hottest cell of the whole clip, or of each frame by
            itself.
        clips: how many are explained of each person: those that support the verdict most.
        clips_scored: how many are scored of each person, for the score over time; 8, and more for many or long shots.
        person: explain one person alone: 1 is the main one, the others follow by size times time.
        boxes: JSON file {video: [[frame, x0, y0, x1, y1], ...]} with the boxes of a face; no other is looked for then.
        detector: face detector (yuface, dlib or opencv); auto crops videos as the training videos were.
        detect: False takes whole pictures and True looks for faces, however the training videos were cropped.
        precision: of the score over time: auto is bfloat16 where the hardware multiplies it; heatmaps are computed in
            float32 or float64.
        batch_size: clips in work together.
        workers: processes that decode.
    """

    target: Literal["verdict", "fake", "real"] = "verdict"
    normalization: Normalization = "clip"
    clips: int = 3
    clips_scored: int | None = None
    person: int | None = None
    boxes: Path | None = None
    detector: str = "auto"
    detect: bool | None = None
    precision: Precision = "auto"
    batch_size: int = 4
    workers: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_choices(self, {"target": ("verdict", *TARGETS), "normalization": NORMALIZATIONS})
        check_limits(self, "", _EXPLANATION_LIMITS)

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as values of JSON, without the rules that the method does not read."""
        unread = set(EVERY_RULE).difference(RULES[self.method])
        values = {name: value for name, value in asdict(self).items() if name not in unread}
        return values | {"boxes": None if self.boxes is None else str(self.boxes)}


@dataclass(frozen=True)
class FaithfulnessSettings:
    """Settings of the measurement of explanations (`istvt.explain.faithfulness`).

    Attributes:
        methods: explanation methods; token_relevance is LRP without its rollout, integrated_gradients (from the
            original) a ceiling; motion knows the clip and not the model, center_blob and random neither. By default
            all but shap and counterfactual, which take hundreds of forward passes a clip.
        stabilizer: with lrp and token_relevance: as of explanations.
        evaluations: with shap: as of explanations, for each clip.
        steps: with counterfactual: as of explanations.
        fractions: of the pixels that are taken away, the first being 0.
        clips_per_video: clips of each video, evenly spread over its first 270 frames.
        curve_videos: videos of each class, drawn by chance, with deletion and insertion curves, which take most of the
            time; the others are only explained, to see where and when.
        batch_size: clips in work together.
        sanity: clips for the sanity checks, each of another video; 0 leaves them out.
        seed: of the random order, of ties, of noise and of the weights that replace trained ones.
    """

    methods: tuple[str, ...] = QUICK_METHODS
    stabilizer: float | str = DEFAULT_STABILIZER
    evaluations: int = 1024
    steps: int = 40
    fractions: tuple[float, ...] = (0.0, 0.05, 0.1, 0.2, 0.3)
    clips_per_video: int = 1
    curve_videos: int = 100
    batch_size: int = 8
    sanity: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.methods, str) or not self.methods:
            raise ValueError(f"methods is {self.methods!r}; expected a list of one or more")
        for place, method in enumerate(self.methods):
            if method not in MEASURED_METHODS:
                raise ValueError(f"methods holds {method!r}; expected some of {', '.join(MEASURED_METHODS)}")
            if method in self.methods[:place]:
                raise ValueError(f"methods holds {method!r} twice; expected each once")
        fractions = tuple(self.fractions)
        if len(fractions) < 2 or list(fractions) != sorted(set(fractions)) or fractions[0] != 0 or fractions[-1] > 1:
            raise ValueError(f"fractions are {list(fractions)}; expected 0 and rising shares up to 1")
        for name, least in (("clips_per_video", 1), ("curve_videos", 1), ("batch_size", 1), ("sanity", 0), ("seed", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; expected at least {least}")
        check_limits(self, "", {name: _HEATMAP_LIMITS[name] for name in ("evaluations", "steps")})
        object.__setattr__(self, "methods", tuple(self.methods))
        object.__setattr__(self, "fractions", fractions)
        object.__setattr__(self, "stabilizer", checked_stabilizer(self.stabilizer))


def checked_stabilizer(stabilizer: Any) -> float | str:
    """Return "reference" or the number, which may also be given as text.

    Raises:
        ValueError: it is neither "reference" nor a number above 0.
    """
    number = stabilizer
    if isinstance(stabilizer, str):
        if stabilizer == "reference":
            return stabilizer
        with suppress(ValueError):
            number = float(stabilizer)
    if isinstance(number, bool) or not isinstance(number, Real) or not 0 < number < float("inf"):
        raise ValueError(f'stabilizer is {stabilizer!r}; expected "reference" or a number above 0, such as 0.01')
    return float(number)


@dataclass(frozen=True)
class ServeSettings:
    """Settings of `istvt serve`: where it listens, and its limits.

    Attributes:
        host: address to listen on; any other than one of this machine alone needs token_file.
        port: to listen on; 0 takes a free one.
        hosts: further names in the Host header of requests that are answered, such as that of a reverse proxy.
        token_file: file with the bearer token that requests have to bring.
        queue: uploads and explanations that may wait; further ones are refused with status 429.
        max_mib: MiB of the largest video file.
        max_minutes: length of the longest video.
        keep_minutes: after which a result, its video and its files are removed.
        storage: directory for uploads and results, in a directory of its own that goes with the server; default: that
            of temporary files.
        max_error: say 'not sure' where this share of wrong verdicts could be exceeded, by the model's validation
            videos; default 0.05 where these support it, and no such band where they do not; 0 is no band.
        method: of explanations, where a request names none.
        clips: clips explained a person, where a request does not say.
    """

    host: str = "127.0.0.1"
    port: int = 8765
    hosts: tuple[str, ...] = ()
    token_file: Path | None = None
    queue: int = 16
    max_mib: float = 512
    max_minutes: float = 10
    keep_minutes: float = 60
    storage: Path | None = None
    max_error: float | None = None
    method: Method = "lrp"
    clips: int = 3

    def __post_init__(self) -> None:
        _check_choices(self, {"method": METHODS})
        check_limits(self, "", _SERVE_LIMITS)

    @property
    def is_local(self) -> bool:
        """Whether only processes of this machine can connect."""
        return self.host in LOCAL_HOSTS

    @property
    def max_bytes(self) -> int:
        """Bytes of the largest video file."""
        return int(self.max_mib * (1 << 20))
