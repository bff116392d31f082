"""Attention rollout: what is kept of each attention during the backward pass, and the heatmaps that come out of it.

With A the attention of a block, R its relevance and G its gradient (Chefer, Gur, Wolf, CVPR 2021; Abnar and Zuidema,
"Quantifying Attention Flow in Transformers", ACL 2020, for `rollout`)::

    lrp         Abar = I + max(mean over heads of (R * G), 0)
    gradient    Abar = I + max(mean over heads of (A * G), 0)
    rollout     Abar = (I + mean over heads of A) / 2
    U = Abar_M ... Abar_2 Abar_1,    heat = row 0 of U, that of the class token

A recorder receives every attention once, last block first, some frames or positions at a time (`AttentionSlice`):

- `RolloutRows` carries row 0 of U: S numbers for each frame row, F for each position.
- `ClassRows` keeps the class token's row of each attention, for methods that read a single block.
- `StoredMaps` keeps every attention, gradient and relevance in full: the plain version, and the oracle of the others.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor

import kernels
from istvt.config import HeatmapSettings, ISTVTConfig
from kernels.relevance import reference

Kind = Literal["temporal", "spatial", "joint"]


@dataclass
class AttentionSlice:
    """One attention over some of its groups (positions for temporal, frame rows for spatial attention).

    Attributes:
        block: index of the block.
        kind: `joint` is one group, all frame rows and positions flattened: [B, 1, F * S, N, D].
        groups: which positions or frame rows these are.
        q, k, v: [B, F, S, N, D], with S or F shortened to `groups`.
        scale: of the scores.
        u: relevance of the attention's output over its stabilized output; None without LRP.
        out_gradient: of the explained logit with respect to the attention's output; None where the method has none.
        capture: the attention matrix and its gradient, where the recorder `captures`.
    """

    block: int
    kind: Kind
    groups: slice
    q: Tensor
    k: Tensor
    v: Tensor
    scale: float
    u: Tensor | None
    out_gradient: Tensor | None
    capture: kernels.AttentionCapture | None


@dataclass
class AttentionMaps:
    """One attention of one block, in full. Groups are positions (temporal), frame rows (spatial) or one (joint).

    Attributes:
        attention, gradient, relevance: [B, groups, N, L, L]; the last two only where the method has them.
        weighted: [B, groups, L, L], the matrix of the rollout (Abar).
    """

    attention: Tensor
    gradient: Tensor | None
    relevance: Tensor | None
    weighted: Tensor


@dataclass
class BlockMaps:
    """The attentions of one block: None where it has no such attention."""

    temporal: AttentionMaps | None = None
    spatial: AttentionMaps | None = None
    joint: AttentionMaps | None = None


@dataclass
class Recorder:
    """Receives the attentions of a model of `config` for `batch` clips; subclasses decide what is kept.

    Attributes:
        captures: whether attention matrices and their gradients are needed in full.
        blocks: every map of every block, of `StoredMaps`.
    """

    captures: ClassVar[bool] = False
    config: ISTVTConfig
    batch: int
    settings: HeatmapSettings
    blocks: list[BlockMaps] | None = field(default=None, init=False)

    @property
    def identity_weight(self) -> float:
        """Weight of I + A in the rollout: `rollout` averages the two so that rows keep the sum 1."""
        return 0.5 if self.settings.method == "rollout" else 1.0

    def record(self, attention: AttentionSlice) -> None:
        """Keep what is needed of one slice."""
        raise NotImplementedError

    def heatmaps(self) -> dict[str, Tensor | None]:
        """Return temporal, spatial, class_row and joint of `istvt.explain.Explanation`, after the first block."""
        raise NotImplementedError

    def sizes(self, kind: Kind) -> tuple[int, int]:
        """Return (groups, length) of an attention of this kind."""
        rows, positions = self.config.frame_rows, self.config.positions
        return {"temporal": (positions, rows), "spatial": (rows, positions), "joint": (1, rows * positions)}[kind]

    def _by_kind(self, kind: Kind, matrix: Tensor) -> dict[Kind, Tensor]:
        """Return a matrix [B, groups, ..., L, L] and, of a joint one, the parts that decomposed attentions would have.

        Temporal: between frame rows of the same position, [B, S, ..., F, F]. Spatial: between positions of the same
        frame row, [B, F, ..., S, S].
        """
        if kind != "joint":
            return {kind: matrix}
        cells = (self.config.frame_rows, self.config.positions)
        cells = matrix.squeeze(1).unflatten(-1, cells).unflatten(-3, cells)  # [B, ..., F, S, F, S]
        temporal, spatial = cells.diagonal(dim1=-3, dim2=-1), cells.diagonal(dim1=-4, dim2=-2)
        return {"joint": matrix, "temporal": temporal.movedim(-1, 1), "spatial": spatial.movedim(-1, 1)}

    def _heatmaps(self, rows: dict[Kind, Tensor]) -> dict[str, Tensor | None]:
        """Return rows of the class token by kind, [B, groups, L], as heatmaps; a kind that is not there is zero."""
        config = self.config
        like = next(iter(rows.values()))
        nothing = like.new_zeros(self.batch, config.frame_rows, config.positions)
        temporal = rows["temporal"].transpose(1, 2) if "temporal" in rows else nothing
        spatial = rows.get("spatial", nothing)
        joint = rows["joint"].reshape(nothing.shape) if "joint" in rows else None
        class_row = self._cells(spatial[:, 0]) if config.has_temporal_row else self._cells(nothing[:, 0])
        frames = slice(int(config.has_temporal_row), None)
        maps = {"temporal": temporal, "spatial": spatial, "joint": joint}
        maps = {name: None if x is None else self._cells(x[:, frames]) for name, x in maps.items()}
        return maps | {"class_row": class_row}

    def _cells(self, x: Tensor) -> Tensor:
        """Return [..., S] as a copy [..., H, W], without the class column."""
        return x[..., int(self.config.has_spatial_column) :].unflatten(-1, self.config.feature_grid).clone()


@dataclass
class RolloutRows(Recorder):
    """One row of the rollout, carried from the last block to the first; no map of all heads, queries and keys exists.

    Of joint attention the head-mean map of one block exists at a time, because three rollouts read it: the whole one,
    and its parts between cells of the same position (temporal) and of the same frame row (spatial).
    With `order="literal"` the product begins at the other end, so head-mean maps are kept until the first block.
    """

    rows: dict[Kind, Tensor] = field(default_factory=dict)
    kept: list[tuple[Kind, slice, Tensor]] = field(default_factory=list)

    def record(self, attention: AttentionSlice) -> None:
        """Advance the row by one block, or keep the map where the order needs it."""
        kind, groups = attention.kind, attention.groups
        tensors = (attention.q, attention.k, attention.v, attention.u, attention.out_gradient)
        options = {"scale": attention.scale, "clamp": self.settings.clamp}
        if kind == "joint" or self.settings.order == "literal":
            map_of = kernels.temporal_relevance_map if kind == "temporal" else kernels.spatial_relevance_map
            part = (kind, groups, map_of(*tensors, **options))
            if self.settings.order == "literal":
                self.kept.append(part)
            else:
                self._advance(*part)
            return
        step = kernels.temporal_rollout_step if kind == "temporal" else kernels.spatial_rollout_step
        row = self._row(kind, attention.q)
        row[:, groups] = self.identity_weight * step(row[:, groups], *tensors, **options)

    def heatmaps(self) -> dict[str, Tensor | None]:
        """Return the carried rows as heatmaps."""
        while self.kept:
            self._advance(*self.kept.pop())
        return self._heatmaps(self.rows)

    def _advance(self, kind: Kind, groups: slice, relevance_map: Tensor) -> None:
        for part, part_map in self._by_kind(kind, relevance_map).items():
            at = groups if part == kind else slice(None)
            row = self._row(part, relevance_map)
            row[:, at] = self.identity_weight * (row[:, at] + (row[:, at, None] @ part_map).squeeze(-2))

    def _row(self, kind: Kind, like: Tensor) -> Tensor:
        """Return the carried row of this kind: at first the class token's row of the identity, in every group."""
        if kind not in self.rows:
            self.rows[kind] = like.new_zeros(self.batch, *self.sizes(kind))
            self.rows[kind][..., 0] = 1
        return self.rows[kind]


@dataclass
class ClassRows(Recorder):
    """The class token's row of every attention and of its gradient; one block decides.

    `raw`: the attention of the last block, mean over heads. `gradcam`: each head weighted by the mean of its gradient
    over the clip, positive part, in the last block whose gradient is not zero throughout (spatial attention of the
    last block reaches the logit in the class row alone).
    """

    captures = True
    found: dict[tuple[Kind, int], list[tuple[Tensor, Tensor | None]]] = field(default_factory=dict)

    def record(self, attention: AttentionSlice) -> None:
        """Keep the first row of each group."""
        self.keep(attention.kind, attention.block, attention.capture.attention, attention.capture.gradient)

    def keep(self, kind: Kind, block: int, attention: Tensor, gradient: Tensor | None) -> None:
        """Keep the first row of attention and gradient [B, groups, N, L, L], of the next groups of a block."""
        gradients = {} if gradient is None else self._by_kind(kind, gradient)
        for part, matrix in self._by_kind(kind, attention).items():
            # Copies: a view would hold the matrix.
            rows = [None if x is None else x[..., 0, :].clone() for x in (matrix, gradients.get(part))]
            self.found.setdefault((part, block), []).append(tuple(rows))

    def heatmaps(self) -> dict[str, Tensor | None]:
        """Return the row of the block that decides, clip by clip."""
        return self._heatmaps({kind: self._row(kind) for kind in {kind for kind, _ in self.found}})

    def _row(self, kind: Kind) -> Tensor:
        """Return [B, groups, L]."""
        row, decided = None, None
        for block in sorted((block for found, block in self.found if found == kind), reverse=True):
            attention, gradient = zip(*self.found[kind, block], strict=True)
            attention = torch.cat(attention, 1)
            if self.settings.method == "raw":
                return attention.mean(2)
            gradient = torch.cat(gradient, 1) * self._inside(kind, attention)
            here = self._grad_cam(kind, attention, gradient)
            row = here if row is None else torch.where(decided[:, None, None], row, here)
            reached = gradient.flatten(1).any(1)
            decided = reached if decided is None else decided | reached
        return row

    def _grad_cam(self, kind: Kind, attention: Tensor, gradient: Tensor) -> Tensor:
        """Return Grad-CAM of [B, groups, N, L] as [B, groups, L]; class tokens count nothing and are 0."""
        inside = self._inside(kind, attention)
        weight = gradient.sum((1, 3), keepdim=True) / inside.sum()
        return (attention * weight * inside).mean(2).clamp(min=0)

    def _inside(self, kind: Kind, like: Tensor) -> Tensor:
        """Return [groups, 1, L]: 1 at cells of real frames, 0 at class tokens."""
        cells = like.new_ones(self.config.frame_rows, self.config.positions)
        cells[: int(self.config.has_temporal_row)] = 0
        cells[:, : int(self.config.has_spatial_column)] = 0
        if kind == "joint":
            return cells.reshape(1, 1, -1)
        return (cells.T if kind == "temporal" else cells).unsqueeze(1)


@dataclass
class StoredMaps(Recorder):
    """Attention, gradient, relevance and rollout matrix of every block in full; heatmaps are computed from them."""

    captures = True

    def __post_init__(self) -> None:
        self.blocks = [BlockMaps() for _ in range(self.config.depth)]

    def record(self, attention: AttentionSlice) -> None:
        """Copy the maps of one slice to their place among those of the whole attention."""
        matrix, gradient = attention.capture.attention, attention.capture.gradient
        relevance = None
        if attention.u is not None:
            u, v = (_by_group(attention.kind, x) for x in (attention.u, attention.v))
            relevance = reference.attention_relevance(matrix, u, v)
        weighted = reference.head_mean(matrix if relevance is None else relevance, gradient, self.settings.clamp)
        weighted.diagonal(dim1=-2, dim2=-1).add_(1)
        maps = {"attention": matrix, "gradient": gradient, "relevance": relevance}
        maps["weighted"] = weighted.mul_(self.identity_weight)
        block = self.blocks[attention.block]
        if getattr(block, attention.kind) is None:
            groups, _ = self.sizes(attention.kind)
            whole = {n: None if x is None else x.new_empty(len(x), groups, *x.shape[2:]) for n, x in maps.items()}
            setattr(block, attention.kind, AttentionMaps(**whole))
        for name, part in maps.items():
            if part is not None:
                getattr(getattr(block, attention.kind), name)[:, attention.groups] = part

    def heatmaps(self) -> dict[str, Tensor | None]:
        """Return row 0 of the product of all rollout matrices, written out."""
        found = [
            (index, kind, getattr(block, kind))
            for index, block in enumerate(self.blocks)
            for kind in ("temporal", "spatial", "joint")
            if getattr(block, kind)
        ]
        if self.settings.method in ("raw", "gradcam"):
            class_rows = ClassRows(self.config, self.batch, self.settings)
            for index, kind, maps in found:
                class_rows.keep(kind, index, maps.attention, maps.gradient)
            return class_rows.heatmaps()
        products: dict[Kind, Tensor] = {}
        for _, kind, maps in found if self.settings.order == "last_block_first" else reversed(found):
            for part, matrix in self._by_kind(kind, maps.weighted).items():
                products[part] = matrix @ products[part] if part in products else matrix
        return self._heatmaps({kind: product[..., 0, :] for kind, product in products.items()})


def _by_group(kind: Kind, x: Tensor) -> Tensor:
    """Return [B, F, S, N, D] as [B, groups, N, L, D]."""
    return x.permute(0, 2, 3, 1, 4) if kind == "temporal" else x.transpose(2, 3)
