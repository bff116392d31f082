"""What is kept of each attention on the way from the logit to the tokens, and the heatmaps that come out of it.

A recorder sees every attention once, last block first, some frames or positions at a time (`AttentionSlice`), sends
relevance through it and keeps what its method needs:

- `RolloutRows` carries one row of the rollout: S numbers for each frame row, F for each position.
- `ClassRows` keeps the row of the class token of each attention, for methods that read a single block.
- `StoredMaps` keeps every attention, gradient and relevance in full: the plain version, and the oracle of the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

import kernels
from kernels.relevance import Stabilizer, ratio

Kind = Literal["temporal", "spatial", "joint"]
Parts = tuple[Tensor, Tensor, Tensor]


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
        gradient: of the explained logit with respect to the attention's output; None where the method has none.
    """

    block: int
    kind: Kind
    groups: slice
    q: Tensor
    k: Tensor
    v: Tensor
    scale: float
    u: Tensor | None
    gradient: Tensor | None


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
class Settings:
    """How relevance is computed; see `istvt.explain.explain`."""

    method: str
    stabilizer: Stabilizer
    clamp: str
    order: str

    @property
    def propagates(self) -> bool:
        """Whether relevance is propagated (LRP)."""
        return self.method == "lrp"

    @property
    def uses_gradient(self) -> bool:
        """Whether the gradient of the logit is used."""
        return self.method in ("lrp", "gradient", "gradcam")


@dataclass
class Grid:
    """The token grid: clips, frame rows, positions, and whether row 0 and column 0 are class tokens."""

    batch: int
    rows: int
    positions: int
    class_row: bool
    class_column: bool
    cells: tuple[int, int]

    def frames(self, x: Tensor) -> Tensor:
        """[B, F, S] over the token grid -> [B, T, H, W]: without the class row and the class column."""
        return x[:, int(self.class_row) :, int(self.class_column) :].unflatten(2, self.cells)

    def sizes(self, kind: Kind) -> tuple[int, int]:
        """(groups, length) of an attention of this kind."""
        return {
            "temporal": (self.positions, self.rows),
            "spatial": (self.rows, self.positions),
            "joint": (1, self.rows * self.positions),
        }[kind]


@dataclass
class Heatmaps:
    """What a recorder gives in the end.

    Attributes:
        temporal, spatial: [B, T, H, W].
        class_row: [B, H, W], spatial relevance inside the temporal class row, which the decision reads directly.
        joint: [B, T, H, W] or None: relevance of every cell to the decision through joint attention.
        blocks: the maps of every block, from `StoredMaps`.
    """

    temporal: Tensor
    spatial: Tensor
    class_row: Tensor
    joint: Tensor | None = None
    blocks: list[BlockMaps] | None = None


class Recorder:
    """Sends relevance through attention by the kernels; what is kept is for the subclasses to say."""

    def __init__(self, grid: Grid, settings: Settings) -> None:
        self.grid, self.settings = grid, settings

    def record(self, slab: AttentionSlice) -> None:
        """Keep what is needed of one slab."""
        raise NotImplementedError

    def propagate(self, slab: AttentionSlice) -> Parts:
        """Record one slab and give the relevance of its q, k and v."""
        self.record(slab)
        through = kernels.temporal_relevance if slab.kind == "temporal" else kernels.spatial_relevance
        return through(slab.q, slab.k, slab.v, slab.u, scale=slab.scale, stabilizer=self.settings.stabilizer)

    def heatmaps(self) -> Heatmaps:
        """The result, after the first block."""
        raise NotImplementedError

    def _from_rows(self, rows: dict[Kind, Tensor]) -> Heatmaps:
        """Rows of the class token by kind, [B, groups, L], as heatmaps; a kind that is not there is zero."""
        grid = self.grid
        temporal, spatial, joint = (rows.get(kind) for kind in ("temporal", "spatial", "joint"))
        nothing = next(iter(rows.values())).new_zeros(grid.batch, grid.rows, grid.positions)
        temporal = nothing if temporal is None else temporal.transpose(1, 2)
        spatial = nothing if spatial is None else spatial
        class_row = spatial[:, 0, int(grid.class_column) :].unflatten(1, grid.cells)
        if not grid.class_row:
            class_row = torch.zeros_like(class_row)
        if joint is not None:
            joint = grid.frames(joint.reshape(nothing.shape)).clone()
        return Heatmaps(grid.frames(temporal).clone(), grid.frames(spatial).clone(), class_row.clone(), joint)


class RolloutRows(Recorder):
    """One row of the rollout, carried from the last block to the first; no map of all heads, queries and keys exists.

    Of joint attention the head-mean map of one block exists at a time, because three rollouts read it: the whole one,
    and its parts between cells of the same position (temporal) and of the same frame row (spatial).
    With `order="literal"` the product begins at the other end, so head-mean maps are kept until the first block.
    """

    def __init__(self, grid: Grid, settings: Settings) -> None:
        super().__init__(grid, settings)
        self.rows: dict[Kind, Tensor] = {}
        self.kept: list[tuple[Kind, slice, Tensor]] = []

    def record(self, slab: AttentionSlice) -> None:
        """Advance the row by one block, or keep the map where the order asks for it."""
        if slab.kind == "joint" or self.settings.order == "literal":
            relevance_map = _head_mean_map(slab, self.settings)
            if self.settings.order == "literal":
                self.kept.append((slab.kind, slab.groups, relevance_map))
            else:
                self._advance(slab.kind, slab.groups, relevance_map)
            return
        step = kernels.temporal_rollout_step if slab.kind == "temporal" else kernels.spatial_rollout_step
        row = self._row(slab.kind, slab.q)
        row[:, slab.groups] = _identity_weight(self.settings) * step(
            row[:, slab.groups],
            slab.q,
            slab.k,
            slab.v,
            slab.u,
            slab.gradient,
            scale=slab.scale,
            clamp=self.settings.clamp,
        )

    def heatmaps(self) -> Heatmaps:
        """The carried rows as heatmaps."""
        for kind, groups, relevance_map in reversed(self.kept):
            self._advance(kind, groups, relevance_map)
        self.kept.clear()
        return self._from_rows(self.rows)

    def _advance(self, kind: Kind, groups: slice, relevance_map: Tensor) -> None:
        for part, part_map in _with_parts(kind, relevance_map, self.grid):
            at = groups if part == kind else slice(None)
            row = self._row(part, relevance_map)
            moved = row[:, at] + (row[:, at, None] @ part_map).squeeze(-2)
            row[:, at] = _identity_weight(self.settings) * moved

    def _row(self, kind: Kind, like: Tensor) -> Tensor:
        """The carried row of this kind: at first the class token's row of the identity, in every group."""
        if kind not in self.rows:
            groups, length = self.grid.sizes(kind)
            self.rows[kind] = like.new_zeros(self.grid.batch, groups, length)
            self.rows[kind][..., 0] = 1
        return self.rows[kind]


class ClassRows(Recorder):
    """The class token's row of every attention and of its gradient; the last block that counts decides.

    `raw`: the attention of the last block, mean over heads. `gradcam`: each head weighted by the mean of its gradient
    over the clip, positive part, in the last block whose gradient is not zero throughout (spatial attention of the
    last block reaches the logit in the class row alone).
    """

    def __init__(self, grid: Grid, settings: Settings) -> None:
        super().__init__(grid, settings)
        self.found: dict[tuple[Kind, int], list[tuple[Tensor, Tensor | None]]] = {}

    def record(self, slab: AttentionSlice) -> None:
        """Keep the first row of each group."""
        for kind, attention, gradient in _class_row(slab, self.grid):
            self.found.setdefault((kind, slab.block), []).append((attention, gradient))

    def heatmaps(self) -> Heatmaps:
        """The row of the last block that counts, clip by clip."""
        kinds = {kind for kind, _ in self.found}
        return self._from_rows({kind: self._row(kind) for kind in kinds})

    def _row(self, kind: Kind) -> Tensor:
        """[B, groups, L]."""
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
        """[B, groups, N, L] -> [B, groups, L], class tokens left out of the mean and set to 0."""
        inside = self._inside(kind, attention)
        weight = gradient.sum((1, 3), keepdim=True) / inside.sum()
        return (attention * weight * inside).mean(2).clamp(min=0)

    def _inside(self, kind: Kind, like: Tensor) -> Tensor:
        """[groups, 1, L]: 1 at cells of real frames, 0 at class tokens."""
        grid = self.grid
        cells = like.new_ones(grid.rows, grid.positions)
        cells[: int(grid.class_row)] = 0
        cells[:, : int(grid.class_column)] = 0
        if kind == "joint":
            return cells.reshape(1, 1, -1)
        return (cells.T if kind == "temporal" else cells).unsqueeze(1)


class StoredMaps(Recorder):
    """Everything in full: attention, gradient, relevance and rollout matrix of every block."""

    def __init__(self, grid: Grid, settings: Settings, depth: int) -> None:
        super().__init__(grid, settings)
        self.blocks = [BlockMaps() for _ in range(depth)]
        self.class_rows = ClassRows(grid, settings) if settings.method in ("raw", "gradcam") else None

    def record(self, slab: AttentionSlice) -> None:
        """Store one slab."""
        self._store(slab)

    def propagate(self, slab: AttentionSlice) -> Parts:
        """Relevance of q, k and v, from the stored relevance of the attention."""
        stored = self._store(slab)
        q, k, v, u = (_grouped(slab.kind, x) for x in (slab.q, slab.k, slab.v, slab.u))
        scores, magnitude = q @ k.transpose(-1, -2), q.abs() @ k.abs().transpose(-1, -2)
        weight = ratio(stored.relevance, scores, magnitude, self.settings.stabilizer)
        r_q = q * (weight @ k) / 2
        r_k = k * (weight.transpose(-1, -2) @ q) / 2
        r_v = v * (stored.attention.transpose(-1, -2) @ u) / 2
        return tuple(_ungrouped(slab.kind, x) for x in (r_q, r_k, r_v))

    def _store(self, slab: AttentionSlice) -> AttentionMaps:
        """The maps of one slab, copied to their place among those of the whole attention."""
        q, k, v, u, gradient = (_grouped(slab.kind, x) for x in (slab.q, slab.k, slab.v, slab.u, slab.gradient))
        attention = torch.softmax(slab.scale * (q @ k.transpose(-1, -2)), -1)
        relevance = None if u is None else attention * (u @ v.transpose(-1, -2)) / 2
        gradient = None if gradient is None else gradient @ v.transpose(-1, -2)
        maps = AttentionMaps(attention, gradient, relevance, self._weighted(attention, gradient, relevance))
        whole = self._whole(slab, maps)
        for name, part in vars(maps).items():
            if part is not None:
                getattr(whole, name)[:, slab.groups] = part
        if self.class_rows:
            self.class_rows.record(slab)
        return maps

    def _whole(self, slab: AttentionSlice, maps: AttentionMaps) -> AttentionMaps:
        """Where the maps of all groups are; made when the first slab comes."""
        block = self.blocks[slab.block]
        if getattr(block, slab.kind) is None:
            groups, _ = self.grid.sizes(slab.kind)
            made = {
                name: None if part is None else part.new_empty(len(part), groups, *part.shape[2:])
                for name, part in vars(maps).items()
            }
            setattr(block, slab.kind, AttentionMaps(**made))
        return getattr(block, slab.kind)

    def heatmaps(self) -> Heatmaps:
        """Row 0 of the product of all rollout matrices, written out."""
        if self.class_rows:
            result = self.class_rows.heatmaps()
        else:
            products: dict[Kind, Tensor] = {}
            for block in self.blocks:
                for kind in ("temporal", "spatial", "joint"):
                    maps = getattr(block, kind)
                    for part, matrix in _with_parts(kind, maps.weighted, self.grid) if maps else ():
                        products[part] = self._product(products.get(part), matrix)
            result = self._from_rows({kind: product[..., 0, :] for kind, product in products.items()})
        result.blocks = self.blocks
        return result

    def _product(self, product: Tensor | None, matrix: Tensor) -> Tensor:
        if product is None:
            return matrix
        return product @ matrix if self.settings.order == "literal" else matrix @ product

    def _weighted(self, attention: Tensor, gradient: Tensor | None, relevance: Tensor | None) -> Tensor:
        weighted = attention if relevance is None else relevance
        if gradient is not None:
            weighted = weighted * gradient
        if self.settings.clamp == "before_mean":
            weighted = weighted.clamp(min=0)
        identity = torch.eye(attention.shape[-1], dtype=attention.dtype, device=attention.device)
        return _identity_weight(self.settings) * (identity + weighted.mean(2).clamp(min=0))


def _identity_weight(settings: Settings) -> float:
    """Attention rollout averages attention and identity so that rows keep the sum 1; relevance is added to identity."""
    return 0.5 if settings.method == "rollout" else 1.0


def _head_mean_map(slab: AttentionSlice, settings: Settings) -> Tensor:
    function = kernels.temporal_relevance_map if slab.kind == "temporal" else kernels.spatial_relevance_map
    return function(slab.q, slab.k, slab.v, slab.u, slab.gradient, scale=slab.scale, clamp=settings.clamp)


def _with_parts(kind: Kind, matrix: Tensor, grid: Grid) -> list[tuple[Kind, Tensor]]:
    """The matrix itself and, of a joint one [B, 1, F*S, F*S], the parts the decomposed attentions would have had.

    Temporal: between frame rows of the same position, [B, S, F, F]. Spatial: between positions of the same frame row,
    [B, F, S, S].
    """
    if kind != "joint":
        return [(kind, matrix)]
    cells = matrix.reshape(grid.batch, grid.rows, grid.positions, grid.rows, grid.positions)
    temporal = cells.diagonal(dim1=2, dim2=4).permute(0, 3, 1, 2)
    spatial = cells.diagonal(dim1=1, dim2=3).permute(0, 3, 1, 2)
    return [("joint", matrix), ("temporal", temporal), ("spatial", spatial)]


def _class_row(slab: AttentionSlice, grid: Grid) -> list[tuple[Kind, Tensor, Tensor | None]]:
    """The class token's query row in each group, attention and gradient [B, groups, N, L], by kind."""
    q, k, v, gradient = (_grouped(slab.kind, x) for x in (slab.q, slab.k, slab.v, slab.gradient))
    if slab.kind != "joint":
        return [(slab.kind, *_query_row(q[..., :1, :], k, v, gradient, slab.scale))]
    # Queries of a joint attention are cells (row, position): (0, s) asks over time, (f, 0) asks over space.
    batch, _, heads, _, _ = q.shape
    sizes = (batch, heads, grid.rows, grid.positions)
    attention, slope = _query_row(q[..., :1, :], k, v, gradient, slab.scale)
    rows: list[tuple[Kind, Tensor, Tensor | None]] = [("joint", attention, slope)]
    for kind, queries in (("temporal", slice(0, grid.positions)), ("spatial", slice(0, None, grid.positions))):
        asked = None if gradient is None else gradient[..., queries, :]
        parts = _all_rows(q[..., queries, :], k, v, asked, slab.scale)
        rows.append((kind, *(None if part is None else _own_cells(part, kind, sizes) for part in parts)))
    return rows


def _own_cells(part: Tensor, kind: Kind, sizes: tuple[int, int, int, int]) -> Tensor:
    """Of [B, 1, N, queries, F*S], where each query is one group, the keys of that group: [B, groups, N, L]."""
    batch, heads, rows, positions = sizes
    cells = part.reshape(batch, heads, part.shape[-2], rows, positions)
    own = cells.diagonal(dim1=2, dim2=4) if kind == "temporal" else cells.diagonal(dim1=2, dim2=3)
    return own.permute(0, 3, 1, 2)


def _query_row(q: Tensor, k: Tensor, v: Tensor, gradient: Tensor | None, scale: float) -> tuple[Tensor, Tensor | None]:
    attention, slope = _all_rows(q, k, v, None if gradient is None else gradient[..., :1, :], scale)
    return attention.squeeze(-2), None if slope is None else slope.squeeze(-2)


def _all_rows(q: Tensor, k: Tensor, v: Tensor, gradient: Tensor | None, scale: float) -> tuple[Tensor, Tensor | None]:
    attention = torch.softmax(scale * (q @ k.transpose(-1, -2)), -1)
    return attention, None if gradient is None else gradient @ v.transpose(-1, -2)


def _grouped(kind: Kind, x: Tensor | None) -> Tensor | None:
    """[B, F, S, N, D] -> [B, groups, N, L, D]."""
    if x is None:
        return None
    return x.permute(0, 2, 3, 1, 4) if kind == "temporal" else x.transpose(2, 3)


def _ungrouped(kind: Kind, x: Tensor) -> Tensor:
    """[B, groups, N, L, D] -> [B, F, S, N, D]."""
    return x.permute(0, 3, 1, 2, 4) if kind == "temporal" else x.transpose(2, 3)
