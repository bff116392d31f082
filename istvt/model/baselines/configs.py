"""Configurations of the comparison detectors, with their published sizes as defaults. Imports no PyTorch."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal

from istvt.config import LARGEST_HEAD_DIM, DetectorConfig, ISTVTConfig, check_limits, entry_flow_sizes

_LARGEST_WIDTH, _MOST_COUNTS = 65_536, 64
_LIMITS = {
    "frames": (1, 4096),
    "image_size": (16, 8192),
    "width": (1, _LARGEST_WIDTH),
    "dim": (1, _LARGEST_WIDTH),
    "heads": (1, 4096),
    "depth": (1, 1024),
    "mlp_dim": (1, 1_048_576),
    "hidden": (1, _LARGEST_WIDTH),
    "dropout": (0, 0.99),
}


@dataclass(frozen=True)
class BaselineConfig(DetectorConfig):
    """What the configurations of the comparison detectors share: bounds that are checked before memory is taken."""

    LIMITS: ClassVar[dict[str, tuple[float, float]]] = {}

    def __post_init__(self) -> None:
        limits = _LIMITS | self.LIMITS
        single = [field.name for field in fields(self) if not field.type.startswith("tuple")]
        check_limits(self, "model", {name: limits[name] for name in single if name in limits})
        for field in fields(self):
            if field.type.startswith("tuple"):
                counts = None if "..." in field.type else len(field.default)
                self._check_counts(field.name, getattr(self, field.name), counts, field.default)

    def _check_counts(self, name: str, values: Any, count: int | None, published: tuple[int, ...]) -> None:
        smallest, largest = self.LIMITS.get(name, (1, _LARGEST_WIDTH))
        inside = len(values) <= _MOST_COUNTS and all(type(v) is int and smallest <= v <= largest for v in values)
        if not inside or not values or len(values) != (count or len(values)):
            kind = f"{count or 'some'} whole numbers from {smallest} to {largest:,}, such as {list(published)}"
            raise ValueError(f"model.{name} is {list(values)!r:.80}; expected {kind}")
        object.__setattr__(self, name, tuple(values))

    def _require_at_least(self, name: str, least: int, reason: str) -> None:
        if (value := getattr(self, name)) < least:
            raise ValueError(f"model.{name} is {value}; expected {least} or more, because {self.architecture} {reason}")


@dataclass(frozen=True)
class XceptionConfig(BaselineConfig):
    """Configuration of `istvt.model.baselines.xception.Xception`; the defaults are Xception's own sizes.

    Attributes:
        frames: T, frames of a clip, each of which is judged alone.
        image_size: side of the square face crop in pixels.
        backbone_dims: output channels of conv1, conv2, block1 and block2 of the entry flow.
        dim: output channels of block3 and of the middle flow.
        middle_blocks: blocks of the middle flow.
        exit_dims: output channels of block12, conv3 and conv4.
        architecture: always xception.
    """

    LIMITS: ClassVar = {"middle_blocks": (0, 256)}

    backbone_dims: tuple[int, int, int, int] = (32, 64, 128, 256)
    dim: int = 728
    middle_blocks: int = 8
    exit_dims: tuple[int, int, int] = (1024, 1536, 2048)
    architecture: Literal["xception"] = "xception"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_at_least("image_size", 27, "halves the picture five times")


@dataclass(frozen=True)
class CNNLSTMConfig(BaselineConfig):
    """Configuration of `istvt.model.baselines.cnn_lstm.CNNLSTM`; the defaults are DenseNet-121's sizes.

    Attributes:
        frames: T, frames of a clip.
        image_size: side of the square face crop in pixels.
        width: output channels of the first convolution.
        growth: channels that each dense layer adds.
        layers: dense layers of each dense block.
        hidden: width of the recurrent state, in each direction.
        cell: gru or lstm.
        architecture: always cnn_lstm.
    """

    LIMITS: ClassVar = {"growth": (1, 4096), "layers": (1, 256)}

    frames: int = 5
    image_size: int = 224
    width: int = 64
    growth: int = 32
    layers: tuple[int, ...] = (6, 12, 24, 16)
    hidden: int = 128
    cell: Literal["gru", "lstm"] = "gru"
    architecture: Literal["cnn_lstm"] = "cnn_lstm"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cell not in ("gru", "lstm"):
            raise ValueError(f"model.cell is {self.cell!r}; expected gru or lstm")
        self._require_at_least("image_size", 2 ** (len(self.layers) + 1), f"halves it {len(self.layers) + 1} times")


@dataclass(frozen=True)
class LRCNConfig(BaselineConfig):
    """Configuration of `istvt.model.baselines.lrcn.LRCN`; the defaults are the sizes of the authors' code.

    Attributes:
        frames: T, frames of a clip.
        image_size: side of the square crop in pixels.
        width: output channels of the first block of VGG; those after it have 2, 4, 8 and 8 times as many.
        layers: convolutions of each block.
        features: width of fc6.
        hidden: width of the LSTM's state.
        dropout: of the features of a frame.
        batch_norm: a batch normalization after each convolution, with which a small network learns from random weights.
        architecture: always lrcn.
    """

    LIMITS: ClassVar = {"layers": (1, 256), "features": (1, _LARGEST_WIDTH)}

    frames: int = 20
    image_size: int = 224
    width: int = 64
    layers: tuple[int, ...] = (2, 2, 3, 3, 3)
    features: int = 4096
    hidden: int = 256
    dropout: float = 0.5
    batch_norm: bool = False
    architecture: Literal["lrcn"] = "lrcn"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_at_least("image_size", 2 ** len(self.layers), f"halves it {len(self.layers)} times")


@dataclass(frozen=True)
class LipMotionConfig(BaselineConfig):
    """Configuration of `istvt.model.baselines.lip_motion.LipMotion`; its sizes are this project's own.

    Attributes:
        frames: T, frames of a clip, of which T - 1 changes are read; 25 are a second.
        image_size: side of the square crop in pixels.
        width: output channels of the first convolution.
        blocks: of convolutions over space and time; the first has twice the width, each after it twice as much again.
        dropout: of the classifier's input.
        architecture: always lip_motion.
    """

    LIMITS: ClassVar = {"frames": (2, 4096), "blocks": (1, 8), "width": (1, 1024)}

    frames: int = 25
    image_size: int = 112
    width: int = 32
    blocks: int = 3
    dropout: float = 0.5
    architecture: Literal["lip_motion"] = "lip_motion"


@dataclass(frozen=True)
class C3DConfig(BaselineConfig):
    """Configuration of `istvt.model.baselines.c3d.C3D`; the defaults are the paper's sizes.

    Attributes:
        frames: T, frames of a clip; four pools halve them.
        image_size: side of the square face crop in pixels; five pools halve it.
        width: output channels of the first convolution; the others have 2, 4 and 8 times as many.
        hidden: width of the two fully connected layers.
        dropout: of the fully connected layers.
        architecture: always c3d.
    """

    frames: int = 16
    image_size: int = 112
    width: int = 64
    hidden: int = 4096
    dropout: float = 0.5
    architecture: Literal["c3d"] = "c3d"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_at_least("frames", 16, "halves them four times")

    @property
    def pooled_sizes(self) -> tuple[int, int]:
        """Moments and side of the picture after the last pool, which is padded in space: 16 and 112 give 1 and 4."""
        return self.frames // 16, self.image_size // 16 // 2 + 1


@dataclass(frozen=True)
class I3DConfig(BaselineConfig):
    """Configuration of `istvt.model.baselines.i3d.I3D`; the defaults are the paper's sizes.

    Attributes:
        frames: T, frames of a clip.
        image_size: side of the square face crop in pixels.
        width: output channels of the first convolution; all others keep their ratio to it.
        dropout: of the classifier's input.
        architecture: always i3d.
    """

    frames: int = 64
    image_size: int = 224
    width: int = 64
    dropout: float = 0.5
    architecture: Literal["i3d"] = "i3d"


@dataclass(frozen=True)
class SMILConfig(XceptionConfig):
    """Configuration of `istvt.model.baselines.s_mil.SMIL`; the defaults are Xception's own sizes.

    Attributes:
        frames: T, frames of a clip.
        image_size: side of the square face crop in pixels.
        backbone_dims: output channels of conv1, conv2, block1 and block2 of the entry flow.
        dim: output channels of block3 and of the middle flow.
        middle_blocks: blocks of the middle flow.
        exit_dims: output channels of block12, conv3 and conv4.
        lengths: frames of an instance, one bag each.
        embedding: channels of an instance.
        hidden: width of the attention over instances.
        architecture: always s_mil.
    """

    LIMITS: ClassVar = XceptionConfig.LIMITS | {"embedding": (1, _LARGEST_WIDTH), "lengths": (1, 64)}

    lengths: tuple[int, ...] = (1, 2, 3)
    embedding: int = 256
    hidden: int = 128
    architecture: Literal["s_mil"] = "s_mil"

    def __post_init__(self) -> None:
        super().__post_init__()
        longest = max(self.lengths)
        self._require_at_least("frames", longest, f"has instances of {longest} frames (model.lengths)")


@dataclass(frozen=True)
class VideoTransformerConfig(XceptionConfig):
    """Configuration of `istvt.model.baselines.video_transformer.VideoTransformer`; Xception's and ViT-Base's sizes.

    Attributes:
        frames: T, frames of a clip.
        image_size: side of the square face crop in pixels.
        backbone_dims: output channels of conv1, conv2, block1 and block2 of the entry flow.
        dim: output channels of block3 and of the middle flow.
        middle_blocks: blocks of the middle flow.
        exit_dims: output channels of block12, conv3 and conv4.
        embedding: channels of a token.
        depth: blocks of the transformer.
        heads: N, its attention heads.
        mlp_dim: width of the hidden layer of each block's MLP.
        architecture: always video_transformer.
    """

    LIMITS: ClassVar = XceptionConfig.LIMITS | {"embedding": (1, _LARGEST_WIDTH)}

    embedding: int = 768
    depth: int = 12
    heads: int = 12
    mlp_dim: int = 3072
    architecture: Literal["video_transformer"] = "video_transformer"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.embedding % self.heads or self.embedding // self.heads > LARGEST_HEAD_DIM:
            raise ValueError(
                f"model.embedding is {self.embedding} and model.heads is {self.heads}; expected a multiple of heads, "
                f"of at most {LARGEST_HEAD_DIM} channels each"
            )

    @property
    def positions(self) -> int:
        """Tokens of a clip: a class token, and the cells of Xception's last feature maps."""
        side = (entry_flow_sizes(self.image_size)[-1] - 1) // 2 + 1  # block12 halves once more
        return self.frames * side**2 + 1


@dataclass(frozen=True)
class STILConfig(BaselineConfig):
    """Configuration of `istvt.model.baselines.stil.STIL`; the defaults are those of the authors' code.

    Attributes:
        frames: T, frames of a clip.
        image_size: side of the square face crop in pixels.
        width: output channels of the stem; stages have 4 times as many, and each twice those of the one before.
        layers: blocks of each stage.
        reduction: how many times fewer channels the differences of frames have.
        architecture: always stil.
    """

    LIMITS: ClassVar = {"width": (2, 4096), "layers": (1, 256), "reduction": (1, 4096)}

    frames: int = 8
    image_size: int = 224
    width: int = 64
    layers: tuple[int, ...] = (3, 4, 6, 3)
    reduction: int = 16
    architecture: Literal["stil"] = "stil"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width % 2:
            raise ValueError(f"model.width is {self.width}; expected an even number, because stil halves it")
        self._require_at_least("frames", 2, "compares neighboring ones")
        # Its last stage pools by 4 once more, to look around.
        reason = f"halves it {len(self.layers) + 3} times"
        self._require_at_least("image_size", 2 ** (len(self.layers) + 3), reason)


@dataclass(frozen=True)
class FTCNConfig(BaselineConfig):
    """Configuration of `istvt.model.baselines.ftcn.FTCN`; the defaults are those of the authors' code.

    Attributes:
        frames: T, frames of a clip; one pool halves them.
        image_size: side of the square face crop in pixels.
        width: output channels of the stem; stages have 4 times as many, and each twice those of the one before.
        layers: blocks of each stage.
        depth: layers of the transformer.
        heads: N, its attention heads.
        head_dim: D, channels of a head.
        mlp_dim: width of the hidden layer of its MLP.
        dropout: in the transformer.
        architecture: always ftcn.
    """

    LIMITS: ClassVar = {"frames": (1, 254), "width": (1, 4096), "layers": (1, 256), "head_dim": (1, LARGEST_HEAD_DIM)}

    frames: int = 32
    image_size: int = 224
    width: int = 64
    layers: tuple[int, ...] = (3, 4, 6)
    depth: int = 1
    heads: int = 16
    head_dim: int = 64
    mlp_dim: int = 2048
    dropout: float = 0.1
    architecture: Literal["ftcn"] = "ftcn"

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.layers) > 4:
            raise ValueError(f"model.layers is {list(self.layers)}; expected at most 4 stages")
        self._require_at_least("frames", 2, "halves them once")
        self._require_at_least("image_size", 2 ** (len(self.layers) + 1), f"halves it {len(self.layers) + 1} times")

    @property
    def rows(self) -> int:
        """Rows that the transformer attends over: a class token and the moments."""
        return self.frames // 2 + 1


@dataclass(frozen=True)
class _ViTConfig(BaselineConfig):
    """What transformers over square patches share; the defaults are ViT-Base's.

    Attributes:
        dim: C, channels of a token.
        depth: M, blocks.
        heads: N, attention heads.
        mlp_dim: width of the hidden layer of each block's MLP.
        patch: side of a patch in pixels.
    """

    LIMITS: ClassVar = {"patch": (1, 1024)}

    image_size: int = 224
    dim: int = 768
    depth: int = 12
    heads: int = 12
    mlp_dim: int = 3072
    patch: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dim % self.heads or self.dim // self.heads > LARGEST_HEAD_DIM:
            expected = f"a multiple of heads, of at most {LARGEST_HEAD_DIM} channels each"
            raise ValueError(f"model.dim is {self.dim} and model.heads is {self.heads}; expected {expected}")
        if self.image_size % self.patch:
            raise ValueError(f"model.image_size is {self.image_size}; expected a multiple of model.patch, {self.patch}")

    @property
    def positions(self) -> int:
        """Tokens of a frame: the patches, and a class token."""
        return (self.image_size // self.patch) ** 2 + 1


@dataclass(frozen=True)
class TimeSformerConfig(_ViTConfig):
    """Configuration of `istvt.model.baselines.timesformer.TimeSformer`; the defaults are the paper's sizes.

    Attributes:
        frames: T, frames of a clip.
        image_size: side of the square face crop in pixels.
        dim: C, channels of a token.
        depth: M, blocks.
        heads: N, attention heads.
        mlp_dim: width of the hidden layer of each block's MLP.
        patch: side of a patch in pixels.
        architecture: always timesformer.
    """

    LIMITS: ClassVar = _ViTConfig.LIMITS | {"frames": (1, 128)}

    frames: int = 8
    architecture: Literal["timesformer"] = "timesformer"


@dataclass(frozen=True)
class ViViTConfig(_ViTConfig):
    """Configuration of `istvt.model.baselines.vivit.ViViT`; the defaults are the paper's sizes.

    Attributes:
        frames: T, frames of a clip.
        image_size: side of the square face crop in pixels.
        dim: C, channels of a token.
        depth: blocks of the spatial encoder.
        heads: N, attention heads.
        mlp_dim: width of the hidden layer of each block's MLP.
        patch: side of a tube in pixels.
        tube_frames: frames of a tube.
        temporal_depth: blocks of the temporal encoder.
        architecture: always vivit.
    """

    LIMITS: ClassVar = _ViTConfig.LIMITS | {"tube_frames": (1, 64), "temporal_depth": (1, 1024)}

    frames: int = 32
    tube_frames: int = 2
    temporal_depth: int = 4
    architecture: Literal["vivit"] = "vivit"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.frames % self.tube_frames or self.moments > 127:
            expected = f"a multiple of model.tube_frames, {self.tube_frames}, with at most 127 tubes over time"
            raise ValueError(f"model.frames is {self.frames}; expected {expected}")

    @property
    def moments(self) -> int:
        """Tubes over time."""
        return self.frames // self.tube_frames


@dataclass(frozen=True)
class YNetworkConfig(BaselineConfig):
    """Configuration of `istvt.model.baselines.y_network.YNetwork`; the defaults are those of the authors' code.

    Attributes:
        frames: T, frames of a clip, each of which is judged alone.
        image_size: side of the square face crop in pixels; four convolutions halve it.
        width: output channels of the first convolution; they double at each halving.
        architecture: always y_network.
    """

    LIMITS: ClassVar = {"width": (1, 4096)}

    image_size: int = 256
    width: int = 8
    architecture: Literal["y_network"] = "y_network"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.image_size % 16:
            raise ValueError(f"model.image_size is {self.image_size}; expected a multiple of 16 for y_network")

    @property
    def makes_masks(self) -> bool:
        """Always true: its encoder learns from the masks."""
        return True


@dataclass(frozen=True)
class VTNConfig(ISTVTConfig):
    """Configuration of VTN: `istvt.ISTVT` with joint attention over all tokens and no frame differences.

    The paper's comparison ("VTN*", and "vanilla" among its variants) has the backbone, the tokens and the sizes of
    ISTVT, and vanilla attention over space and time together; the name is that of Neimark et al., "Video Transformer
    Network", ICCV Workshops 2021.

    Attributes:
        head_dim: D, channels of a head; None means `dim // heads`.
        mlp_dim: width of the hidden layer of each block's MLP.
        attention: always joint.
        self_subtract: always false.
        architecture: always vtn.
    """

    head_dim: int | None = 64
    mlp_dim: int = 2912
    attention: Literal["joint"] = "joint"
    self_subtract: bool = False
    architecture: Literal["vtn"] = "vtn"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.attention != "joint" or self.self_subtract:
            raise ValueError(
                f"model.attention is {self.attention!r} and model.self_subtract is {self.self_subtract}; expected "
                "joint and false for vtn (istvt has the other variants)"
            )
