"""What a model is: its configuration, the two presets, and the sizes that follow from them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from dataloading.errors import InputError

Attention = Literal[
    "temporal_first", "spatial_first", "parallel", "decomposed_blocks", "joint", "spatial_only", "temporal_only"
]
ATTENTIONS: tuple[str, ...] = get_args(Attention)

# Who computes attention; it decides nothing about the model, which any of them runs.
Backend = Literal["auto", "triton", "sdpa", "xformers", "reference"]
BACKENDS: tuple[str, ...] = get_args(Backend)

LARGEST_HEAD_DIM = 128  # that the kernels take


@dataclass(frozen=True)
class ISTVTConfig:
    """Everything that decides the parameters and the function of an `istvt.ISTVT`.

    Attributes:
        frames: T, consecutive frames in a clip.
        image_size: side of the square face crop in pixels; with the backbone it gives the feature grid.
        grid: (H, W) of the feature grid where it is not what `image_size` gives; None derives it.
        dim: C, channels of a token and of the last backbone stage.
        heads: N, attention heads.
        head_dim: D, channels of a head; None means `dim // heads`.
        depth: M, blocks.
        mlp_dim: width of the hidden layer of each block's MLP.
        attention: which attentions a block holds and in what order (the paper's Table III).
            `temporal_first`: time, then space, one residual around both. `spatial_first`: the other order.
            `parallel`: both read the block's input, their outputs are added. `decomposed_blocks`: the first half of
            the blocks holds only temporal, the second half only spatial attention, each with its own MLP.
            `joint`: one attention over all (T+1)(HW+1) tokens. `spatial_only`, `temporal_only`: one of the two.
        self_subtract: queries and keys of temporal (and joint) attention come from frame differences, so that only
            change between frames is compared. Without effect in `spatial_only`, which never looks across frames.
        backbone_dims: output channels of conv1, conv2, block1 and block2 of the Xception entry flow.
    """

    frames: int = 6
    image_size: int = 300
    grid: tuple[int, int] | None = None
    dim: int = 728
    heads: int = 8
    head_dim: int | None = None
    depth: int = 12
    mlp_dim: int = 2048
    attention: Attention = "temporal_first"
    self_subtract: bool = True
    backbone_dims: tuple[int, int, int, int] = (32, 64, 128, 256)

    def __post_init__(self) -> None:
        for name in ("frames", "dim", "heads", "depth", "mlp_dim"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise InputError(f"model.{name} is {value!r}; expected a whole number of at least 1")
        if self.attention not in ATTENTIONS:
            raise InputError(f"model.attention is {self.attention!r}; expected one of {', '.join(ATTENTIONS)}")
        if self.head_dim is None and self.dim % self.heads:
            raise InputError(
                f"model.dim is {self.dim} and model.heads is {self.heads}; expected dim to be a multiple of heads, "
                "or model.head_dim to be given"
            )
        if self.head_dim is not None and not 1 <= self.head_dim <= LARGEST_HEAD_DIM:
            raise InputError(f"model.head_dim is {self.head_dim}; expected 1 to {LARGEST_HEAD_DIM}")
        if self.resolved_head_dim > LARGEST_HEAD_DIM:
            raise InputError(
                f"model.dim is {self.dim} and model.heads is {self.heads}, which gives a head_dim of "
                f"{self.resolved_head_dim}; expected at most {LARGEST_HEAD_DIM}: give more heads, or model.head_dim"
            )
        if self.attention == "decomposed_blocks" and self.depth < 2:
            raise InputError("model.depth is 1; expected at least 2 for decomposed_blocks (one temporal, one spatial)")
        if len(self.backbone_dims) != 4 or min(self.backbone_dims) < 1:
            raise InputError(f"model.backbone_dims is {self.backbone_dims!r}; expected four positive channel counts")
        object.__setattr__(self, "backbone_dims", tuple(self.backbone_dims))
        if self.grid is not None:
            if len(self.grid) != 2 or min(self.grid) < 1:
                raise InputError(f"model.grid is {self.grid!r}; expected (height, width), each at least 1")
            object.__setattr__(self, "grid", tuple(self.grid))
        elif self.image_size < MINIMUM_IMAGE_SIZE:
            raise InputError(f"model.image_size is {self.image_size}; expected at least {MINIMUM_IMAGE_SIZE} pixels")

    @property
    def feature_grid(self) -> tuple[int, int]:
        """(H, W) of the feature grid."""
        side = entry_flow_sizes(self.image_size)[-1]
        return self.grid or (side, side)

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
        """F: rows of the token grid."""
        return self.frames + self.has_temporal_row

    @property
    def positions(self) -> int:
        """S: columns of the token grid."""
        height, width = self.feature_grid
        return height * width + self.has_spatial_column

    @property
    def resolved_head_dim(self) -> int:
        """D."""
        return self.head_dim or self.dim // self.heads

    def block_attention(self, index: int) -> str:
        """The attention of block `index`: the model's, or one of the two halves of `decomposed_blocks`."""
        if self.attention != "decomposed_blocks":
            return self.attention
        return "temporal_only" if index < -(-self.depth // 2) else "spatial_only"

    def to_dict(self) -> dict[str, Any]:
        """The configuration as JSON-able values, as checkpoints store it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ISTVTConfig:
        """The configuration from what `to_dict` gave; an unknown field is an error that names it."""
        unknown = sorted(set(values) - set(cls.__dataclass_fields__))
        if unknown:
            raise InputError(
                f"model configuration has unknown fields {', '.join(unknown)}; it comes from another version"
            )
        values = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**values)


def entry_flow_sizes(pixels: int) -> tuple[int, int, int, int, int]:
    """Sides after conv1, conv2 and the three blocks of the Xception entry flow, for an input side in pixels.

    conv1 3x3 stride 2 and conv2 3x3, both unpadded, then a 3x3 max-pool of stride 2 padded by 1 in each block:
    300 -> 149, 147, 74, 37, 19.
    """
    conv1 = (pixels - 3) // 2 + 1
    conv2 = conv1 - 2
    block1 = (conv2 - 1) // 2 + 1
    block2 = (block1 - 1) // 2 + 1
    return conv1, conv2, block1, block2, (block2 - 1) // 2 + 1


MINIMUM_IMAGE_SIZE = 7

#: `seed`: head dimension C/N. `published`: the authors' released code (64-wide heads, MLP four times C).
#: `small`: a size that trains in minutes on two CPU cores; it is what the demo uses.
PRESETS: dict[str, ISTVTConfig] = {
    "seed": ISTVTConfig(),
    "published": ISTVTConfig(head_dim=64, mlp_dim=2912),
    "small": ISTVTConfig(image_size=64, dim=64, heads=4, depth=2, mlp_dim=128, backbone_dims=(8, 16, 24, 48)),
}


def preset(name: str) -> ISTVTConfig:
    """The preset of that name."""
    if name not in PRESETS:
        raise InputError(f"preset is {name!r}; expected one of {', '.join(PRESETS)}")
    return PRESETS[name]
