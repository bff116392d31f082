"""Explanations of one clip written out a second time, to compare the first with.

Every contribution to every sum is a number of its own here, relevance is shared among them, and gradients are
autograd's: no batch, no chunks, no factored formula, float64 throughout. Of the model only the parameters are read, and
nothing is shared with `istvt.explain` or `kernels.relevance`. Sizes are those of one clip: tokens are [F, S, C], and an
attention over groups of L tokens each is [groups, N, L, L].
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from istvt import ISTVT


@dataclass
class ExplainedByHand:
    """As `istvt.explain.Explanation`, without the dimension of the batch."""

    logit: float
    temporal: Tensor
    spatial: Tensor
    class_row: Tensor
    joint: Tensor | None
    token_relevance: Tensor
    token_gradient: Tensor


@dataclass
class Attended:
    """One attention of one block: what it read and made on the way forward, and what reached it on the way back."""

    kind: str
    weights: dict[str, Tensor]
    normalized: Tensor
    compared: Tensor
    q: Tensor
    k: Tensor
    v: Tensor
    attention: Tensor
    out: Tensor
    result: Tensor
    relevance: Tensor | None = None

    @property
    def gradient(self) -> Tensor:
        """Of the explained logit with respect to the attention."""
        return torch.zeros_like(self.attention) if self.attention.grad is None else self.attention.grad


@dataclass
class Passed:
    """One block: its attentions, in the order of the way forward, and everything that its sums and layers read."""

    attended: list[Attended]
    weights: dict[str, Tensor]
    x: Tensor
    added: Tensor
    middle: Tensor
    normalized: Tensor
    hidden: Tensor
    mlp: Tensor


def explain_by_hand(
    model: ISTVT,
    tokens: Tensor,
    *,
    target: str = "fake",
    method: str = "lrp",
    stabilizer: float | str = 0.01,
    clamp: str = "after_mean",
    order: str = "last_block_first",
) -> ExplainedByHand:
    """The explanation of tokens [F, S, C]; arguments as of `istvt.explain.explain`."""
    return _ByHand(model, stabilizer).explain(tokens, 1 if target == "fake" else -1, method, clamp, order)


class _ByHand:
    def __init__(self, model: ISTVT, stabilizer: float | str) -> None:
        self.config, self.stabilizer = model.config, stabilizer
        parameters = (item for item in model.named_parameters() if not item[0].startswith("backbone."))
        self.weights = {name: value.detach().double() for name, value in parameters}

    def explain(self, tokens: Tensor, sign: int, method: str, clamp: str, order: str) -> ExplainedByHand:
        config = self.config
        with torch.enable_grad():
            x = leaf = tokens.double().clone().requires_grad_()
            blocks = []
            for index in range(config.depth):
                x, passed = self._forward(index, x)
                blocks.append(passed)
            # The class token of each frame row or of each position, where there is not one of both.
            rows = slice(0, 1) if config.has_temporal_row else slice(None)
            columns = slice(0, 1) if config.has_spatial_column else slice(None)
            read = self._layer_norm(x[rows, columns], _below(self.weights, "norm."))
            if config.head_norm:
                read = self._layer_norm(read, _below(self.weights, "head_norm."))
            logit = functional.linear(read.mean((0, 1)), self.weights["head.weight"], self.weights["head.bias"])
            (sign * logit).sum().backward()

        relevance = torch.zeros_like(leaf)
        of_mean = sign * self.weights["head.weight"] / read[..., 0].numel()
        start = torch.ones(1, dtype=torch.float64)
        flat = read.detach().flatten()
        relevance[rows, columns] = self._linear(flat, of_mean.repeat(1, read[..., 0].numel()), start).view_as(read)
        for passed in reversed(blocks):
            relevance = self._backward(passed, relevance)

        heat = self._heat([layer for passed in blocks for layer in passed.attended], method, clamp, order)
        return ExplainedByHand(logit.item(), *heat, relevance, leaf.grad)

    # Forward

    def _layer_norm(self, x: Tensor, weights: dict[str, Tensor]) -> Tensor:
        eps = self.config.layer_norm_eps
        return functional.layer_norm(x, x.shape[-1:], weights["weight"], weights["bias"], eps)

    def _kinds(self, index: int) -> list[str]:
        """The attentions of a block, in order; `parallel` has both side by side."""
        match self.config.attention:
            case "spatial_first":
                return ["spatial", "temporal"]
            case "decomposed_blocks":
                return ["temporal" if 2 * index < self.config.depth else "spatial"]
            case "temporal_only" | "spatial_only" | "joint":
                return [self.config.attention.removesuffix("_only")]
        return ["temporal", "spatial"]

    def _forward(self, index: int, x: Tensor) -> tuple[Tensor, Passed]:
        weights = _below(self.weights, f"blocks.{index}.")
        attended, parallel = [], self.config.attention == "parallel"
        for kind in self._kinds(index):
            before = attended[-1].result if attended and not parallel else x
            attended.append(self._attend(kind, before, weights))
        added = attended[0].result + attended[1].result if parallel else attended[-1].result
        middle = x + added
        normalized = self._layer_norm(middle, _below(weights, "norm_mlp."))
        hidden = functional.gelu(functional.linear(normalized, weights["mlp.fc1.weight"], weights["mlp.fc1.bias"]))
        mlp = functional.linear(hidden, weights["mlp.fc2.weight"], weights["mlp.fc2.bias"])
        return middle + mlp, Passed(attended, weights, x, added, middle, normalized, hidden, mlp)

    def _attend(self, kind: str, x: Tensor, weights: dict[str, Tensor]) -> Attended:
        normalized = self._layer_norm(x, _below(weights, f"norm_{kind}."))
        weights = _below(weights, f"{kind}.")
        compared = normalized
        if self.config.self_subtract and kind != "spatial":
            compared = torch.cat([normalized[:2], normalized[2:] - normalized[1:-1]])
        of_q, of_k, of_v = weights["qkv.weight"].chunk(3)
        q, k, v = (self._grouped(kind, t @ w.T) for t, w in ((compared, of_q), (compared, of_k), (normalized, of_v)))
        attention = torch.softmax(q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5, -1)
        attention.retain_grad()
        out = attention @ v
        result = functional.linear(self._ungrouped(kind, out, x), weights["proj.weight"], weights["proj.bias"])
        return Attended(kind, weights, normalized, compared, q, k, v, attention, out, result)

    def _grouped(self, kind: str, t: Tensor) -> Tensor:
        """[F, S, N*D] -> [groups, N, L, D]: the tokens that look at each other are one group."""
        t = t.unflatten(-1, (self.config.heads, -1))
        if kind == "joint":
            t = t.flatten(0, 1).unsqueeze(0)
        return t.permute(1, 2, 0, 3) if kind == "temporal" else t.permute(0, 2, 1, 3)

    def _ungrouped(self, kind: str, t: Tensor, like: Tensor) -> Tensor:
        """[groups, N, L, D] -> [F, S, N*D], F and S of `like`."""
        t = t.permute(2, 0, 1, 3) if kind == "temporal" else t.permute(0, 2, 1, 3)
        return t.reshape(*like.shape[:2], -1)

    # Back

    def _backward(self, passed: Passed, relevance: Tensor) -> Tensor:
        """Relevance of a block's input from that of its output."""
        middle, mlp = self._add(passed.middle, passed.mlp, relevance)
        hidden = self._linear(passed.hidden, passed.weights["mlp.fc2.weight"], mlp)
        middle = middle + self._linear(passed.normalized, passed.weights["mlp.fc1.weight"], hidden)
        x, branch = self._add(passed.x, passed.added, middle)
        if self.config.attention == "parallel":
            first, second = passed.attended
            branches = self._add(first.result, second.result, branch)
            return x + self._attention(first, branches[0]) + self._attention(second, branches[1])
        for layer in reversed(passed.attended):
            branch = self._attention(layer, branch)
        return x + branch

    def _attention(self, layer: Attended, relevance: Tensor) -> Tensor:
        """Relevance of what an attention read, before its LayerNorm, from that of what it gave."""
        flat = self._ungrouped(layer.kind, layer.out, relevance)
        out = self._grouped(layer.kind, self._linear(flat, layer.weights["proj.weight"], relevance))
        layer.relevance, of_v = self._product(layer.attention, layer.v, out)
        of_q, of_k = self._product(layer.q, layer.k.transpose(-1, -2), layer.relevance)
        parts = (self._ungrouped(layer.kind, part, relevance) for part in (of_q, of_k.transpose(-1, -2), of_v))
        weights = layer.weights["qkv.weight"].chunk(3)
        inputs = (layer.compared, layer.compared, layer.normalized)
        of_q, of_k, of_v = (self._linear(x, w, part) for x, w, part in zip(inputs, weights, parts, strict=True))
        compared = of_q + of_k
        if layer.compared is not layer.normalized:
            compared = _through_differences(layer.normalized.detach(), compared)
        return compared + of_v

    def _shared(self, contributions: Tensor, relevance: Tensor, eps: float | str) -> Tensor:
        """What each of the contributions [..., n] to a sum gets of its relevance [...]: the ratio rule."""
        total = contributions.sum(-1)
        if eps == "reference":
            denominator = torch.where(total == 0, 0.0, total + 1e-9)
        else:
            denominator = total + eps * total.sign() * contributions.abs().sum(-1)
        nothing = denominator == 0
        return contributions * torch.where(nothing, 0.0, relevance / denominator).unsqueeze(-1)

    def _linear(self, x: Tensor, weight: Tensor, relevance: Tensor) -> Tensor:
        """alpha = 1, beta = 0, bias ignored; positive contributions cannot cancel, so their sum needs no stabilizer."""
        contributions = (x.detach().unsqueeze(-2) * weight).clamp(min=0)  # [..., out, in]
        eps = "reference" if self.stabilizer == "reference" else 0.0
        return self._shared(contributions, relevance, eps).sum(-2)

    def _product(self, a: Tensor, b: Tensor, relevance: Tensor) -> tuple[Tensor, Tensor]:
        """Of a [..., I, K] and b [..., K, J] from that of `a @ b`: half to each operand."""
        contributions = a.detach().unsqueeze(-2) * b.detach().transpose(-1, -2).unsqueeze(-3)  # [..., I, J, K]
        shared = self._shared(contributions, relevance, self.stabilizer) / 2
        return shared.sum(-2), shared.sum(-3).transpose(-1, -2)

    def _add(self, a: Tensor, b: Tensor, relevance: Tensor) -> tuple[Tensor, Tensor]:
        """The ratio rule, then each summand rescaled to its share of the two absolute sums."""
        shared = self._shared(torch.stack([a.detach(), b.detach()], -1), relevance, self.stabilizer)
        sums = shared.sum((0, 1, 2))
        if not sums.any():
            return torch.zeros_like(relevance), torch.zeros_like(relevance)
        parts = relevance.sum() * sums.abs() / sums.abs().sum()
        scales = torch.where(sums == 0, 0.0, parts / sums)
        return shared[..., 0] * scales[0], shared[..., 1] * scales[1]

    # Heatmaps

    def _heat(
        self, layers: list[Attended], method: str, clamp: str, order: str
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """temporal, spatial [T, H, W], class_row [H, W] and joint [T, H, W] or None."""
        rows: dict[str, Tensor] = {}
        for kind in dict.fromkeys(layer.kind for layer in layers):
            of_kind = [layer for layer in layers if layer.kind == kind]
            match method:
                case "raw":
                    rows |= {part: x.mean(1)[:, 0] for part, x in self._parts(kind, of_kind[-1].attention).items()}
                case "gradcam":
                    rows |= self._grad_cam(kind, of_kind)
                case _:
                    products: dict[str, Tensor] = {}
                    for layer in of_kind if order == "last_block_first" else reversed(of_kind):
                        weighted = _rollout_matrix(layer, method, clamp).unsqueeze(1)
                        for part, matrix in self._parts(kind, weighted).items():
                            products[part] = matrix @ products[part] if part in products else matrix
                    rows |= {part: product[:, 0, 0] for part, product in products.items()}
        config, grid = self.config, {name: row.detach() for name, row in rows.items()}
        nothing = torch.zeros(config.frame_rows, config.positions, dtype=torch.float64)
        temporal, spatial = grid.get("temporal", nothing.T).T, grid.get("spatial", nothing)
        joint = grid["joint"].view_as(nothing) if "joint" in grid else None
        class_row = spatial[0, int(config.has_spatial_column) :].view(*config.feature_grid)
        return (
            self._frames(temporal),
            self._frames(spatial),
            class_row if config.has_temporal_row else torch.zeros_like(class_row),
            None if joint is None else self._frames(joint),
        )

    def _parts(self, kind: str, matrix: Tensor) -> dict[str, Tensor]:
        """A matrix [groups, N, L, L] by kind; of a joint one also the entries within a position and within a row."""
        if kind != "joint":
            return {kind: matrix}
        rows, positions = self.config.frame_rows, self.config.positions
        cells = matrix[0].unflatten(-1, (rows, positions)).unflatten(1, (rows, positions))  # [N, F, S, F, S]
        return {
            "joint": matrix,
            "temporal": torch.stack([cells[:, :, position, :, position] for position in range(positions)]),
            "spatial": torch.stack([cells[:, row, :, row, :] for row in range(rows)]),
        }

    def _grad_cam(self, kind: str, layers: list[Attended]) -> dict[str, Tensor]:
        """Class tokens' rows [groups, L], of the last block that has any gradient at the cells of the frames.

        Each head counts as much as its mean gradient there, and what is negative of their mean does not.
        """
        config = self.config
        is_cell = torch.ones(config.frame_rows, config.positions, dtype=torch.float64)
        is_cell[: int(config.has_temporal_row)] = 0
        is_cell[:, : int(config.has_spatial_column)] = 0
        inside = {"temporal": is_cell.T, "spatial": is_cell, "joint": is_cell.view(1, -1)}
        found: dict[str, Tensor] = {}
        for layer in layers:
            gradients = self._parts(kind, layer.gradient)
            for part, attention in self._parts(kind, layer.attention.detach()).items():
                seen = [gradients[part][:, head, 0] * inside[part] for head in range(config.heads)]
                if part in found and not any(gradient.any() for gradient in seen):
                    continue
                weights = [gradient.sum() / inside[part].sum() for gradient in seen]
                weighted = [attention[:, head, 0] * inside[part] * weight for head, weight in enumerate(weights)]
                found[part] = torch.stack(weighted).mean(0).clamp(min=0)
        return found

    def _frames(self, x: Tensor) -> Tensor:
        """[F, S] -> [T, H, W]: without class row and class column."""
        x = x[int(self.config.has_temporal_row) :, int(self.config.has_spatial_column) :]
        return x.reshape(self.config.frames, *self.config.feature_grid)


def _rollout_matrix(layer: Attended, method: str, clamp: str) -> Tensor:
    """Abar, [groups, L, L]."""
    identity = torch.eye(layer.attention.shape[-1], dtype=torch.float64)
    if method == "rollout":
        return (identity + layer.attention.detach().mean(1)) / 2
    weighted = (layer.relevance if method == "lrp" else layer.attention.detach()) * layer.gradient
    if clamp == "before_mean":
        weighted = weighted.clamp(min=0)
    return identity + weighted.mean(1).clamp(min=0)


def _through_differences(x: Tensor, relevance: Tensor) -> Tensor:
    """Each difference `x_t - x_{t-1}` gives its relevance to the two frames in proportion to their absolute values."""
    result = torch.zeros_like(x)
    result[:2] = relevance[:2]
    for frame in range(2, len(x)):
        later, earlier = x[frame].abs(), x[frame - 1].abs()
        share = torch.where(later + earlier == 0, 0.5, later / (later + earlier))
        result[frame] += share * relevance[frame]
        result[frame - 1] += (1 - share) * relevance[frame]
    return result


def _below(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The parameters whose names begin with the prefix, by the rest of their names."""
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
