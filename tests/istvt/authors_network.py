"""The network of the ISTVT authors' released code, written a second time in plain PyTorch under their names.

From its description alone (names, shapes, wiring); it shares nothing with `istvt.model` or `kernels`. Its state dict is
a plain dict of tensors, and its functions read it by name.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from istvt.model.xception import XceptionEntryFlow

FRAMES, SIDE, DIM, HEADS, HEAD_DIM, MLP, DEPTH = 4, 2, 12, 2, 5, 20, 2
BACKBONE_DIMS = (2, 3, 4, 5)
LAYER_NORM_EPS = 1e-5


def random_state() -> dict[str, Tensor]:
    """Random weights of a small network of theirs, with the later flows of Xception that it does not use."""
    generator = torch.Generator().manual_seed(5)

    def draw(*shape: int, mean: float = 0.0) -> Tensor:
        return mean + 0.3 * torch.randn(*shape, generator=generator)

    def norm(name: str) -> dict[str, Tensor]:
        return {f"{name}.weight": draw(DIM, mean=1.0), f"{name}.bias": draw(DIM)}

    def linear(name: str, out: int, into: int) -> dict[str, Tensor]:
        return {f"{name}.weight": draw(out, into), f"{name}.bias": draw(out)}

    flow = XceptionEntryFlow(BACKBONE_DIMS, DIM).state_dict()
    state = {
        f"xcep.model.{name}": draw(*value.shape, mean=1.0).abs() if value.is_floating_point() else value + 7
        for name, value in flow.items()
    }
    state |= {"xcep.model.block4.rep.1.conv1.weight": draw(12, 1, 3, 3), "xcep.model.conv3.conv1.weight": draw(2)}
    state |= {"xcep.model.bn4.running_mean": draw(2), "xcep.model.last_linear.weight": draw(1, 2)}
    state |= {"vit.space_token": draw(1, 1, DIM), "vit.temporal_token": draw(1, 1, DIM)}
    state["vit.pos_embedding"] = draw(1, FRAMES, SIDE * SIDE + 1, DIM)
    inner = HEADS * HEAD_DIM
    for index in range(DEPTH):
        layer = f"vit.transformer.layers.{index}"
        state |= norm(f"{layer}.0.norm") | norm(f"{layer}.1.norm") | norm(f"{layer}.2.norm")
        state[f"{layer}.0.fn.to_qk.weight"] = draw(2 * inner, DIM)
        state[f"{layer}.0.fn.to_v.weight"] = draw(inner, DIM)
        state[f"{layer}.1.fn.to_qkv.weight"] = draw(3 * inner, DIM)
        state |= linear(f"{layer}.0.fn.to_out.0", DIM, inner) | linear(f"{layer}.1.fn.to_out.0", DIM, inner)
        state |= linear(f"{layer}.2.fn.net.0", MLP, DIM) | linear(f"{layer}.2.fn.net.3", DIM, MLP)
    return state | norm("vit.transformer.norm") | norm("vit.mlp_head.0") | linear("vit.mlp_head.1", 1, DIM)


def tokens_of(state: dict[str, Tensor], features: Tensor) -> Tensor:
    """Features [B, T, HW, C] -> tokens [B, T+1, HW+1, C]; the temporal row comes after the position embedding."""
    batch = len(features)
    x = torch.cat([state["vit.space_token"].expand(batch, FRAMES, 1, DIM), features], 2) + state["vit.pos_embedding"]
    return torch.cat([state["vit.temporal_token"].expand(batch, 1, x.shape[2], DIM), x], 1)


def block(state: dict[str, Tensor], index: int, x: Tensor) -> Tensor:
    """One layer, [B, T+1, HW+1, C]: `x = space(LN(time(LN(x)))) + x`, then `x = MLP(LN(x)) + x`."""
    layer = f"vit.transformer.layers.{index}"
    normalized = _norm(state, f"{layer}.0.norm", x)
    difference = torch.cat([normalized[:, :2], normalized[:, 2:] - normalized[:, 1:-1]], 1)
    q, k = (difference @ state[f"{layer}.0.fn.to_qk.weight"].T).chunk(2, -1)
    v = normalized @ state[f"{layer}.0.fn.to_v.weight"].T
    t = _linear(state, f"{layer}.0.fn.to_out.0", _attend(q, k, v, "bisnd,bjsnd->bsnij", "bsnij,bjsnd->bisnd"))
    q, k, v = (_norm(state, f"{layer}.1.norm", t) @ state[f"{layer}.1.fn.to_qkv.weight"].T).chunk(3, -1)
    s = _linear(state, f"{layer}.1.fn.to_out.0", _attend(q, k, v, "bfind,bfjnd->bfnij", "bfnij,bfjnd->bfind"))
    x = s + x
    hidden = functional.gelu(_linear(state, f"{layer}.2.fn.net.0", _norm(state, f"{layer}.2.norm", x)))
    return _linear(state, f"{layer}.2.fn.net.3", hidden) + x


def logits_of(state: dict[str, Tensor], tokens: Tensor) -> Tensor:
    """Tokens [B, T+1, HW+1, C] -> logits [B]: all layers, two LayerNorms, the linear head of token (0, 0)."""
    for index in range(DEPTH):
        tokens = block(state, index, tokens)
    final = _norm(state, "vit.transformer.norm", tokens)[:, 0, 0]
    return _linear(state, "vit.mlp_head.1", _norm(state, "vit.mlp_head.0", final)).squeeze(-1)


def _attend(q: Tensor, k: Tensor, v: Tensor, products: str, sums: str) -> Tensor:
    q, k, v = (t.unflatten(-1, (HEADS, HEAD_DIM)) for t in (q, k, v))
    attention = torch.softmax(torch.einsum(products, q, k) / HEAD_DIM**0.5, -1)
    return torch.einsum(sums, attention, v).flatten(-2)


def _norm(state: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    mean, variance = x.mean(-1, keepdim=True), x.var(-1, keepdim=True, correction=0)
    return (x - mean) / torch.sqrt(variance + LAYER_NORM_EPS) * state[f"{name}.weight"] + state[f"{name}.bias"]


def _linear(state: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]
