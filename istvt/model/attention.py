"""The attentions of a block: over frames at each position, over positions in each frame row, and over both jointly.

Tokens are [B, F, S, C]; queries, keys and values [B, F, S, N, D], read in place from one packed projection.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

import kernels
from istvt.config import BACKENDS
from kernels.common.launch import interpreted, padded_head_dim
from kernels.layer_norm.reference import layer_norm_difference as plain_layer_norm_difference
from kernels.spatial.reference import spatial_attention as plain_spatial_attention
from kernels.temporal.reference import temporal_attention as plain_temporal_attention

# The kernels use instructions (asynchronous copies, bfloat16 and tf32 tensor cores) that Ampere introduced.
OLDEST_TRITON_CAPABILITY = (8, 0)


def compute_dtype(x: Tensor) -> torch.dtype:
    """Return the dtype in which a linear layer would run on `x`: autocast's where it is on, else that of `x`."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


@torch.compiler.assume_constant_result  # hardware queries must stay outside the graph of torch.compile
def resolve_backend(backend: str, device: torch.device) -> str:
    """Return the backend that runs for `backend` on `device`: "auto" is triton on CUDA (Ampere or later), else sdpa.

    - `triton`: the kernels of this project.
    - `sdpa`: PyTorch's scaled_dot_product_attention, with the backend that PyTorch chooses.
    - `xformers`: memory_efficient_attention.
    - `reference`: plain PyTorch in float32, the specification; it stores each attention matrix.

    SDPA and xformers do not take temporal attention with its few rows and many positions: all backends but `triton`
    compute it in plain PyTorch.

    Raises:
        ValueError: the backend is unknown, or cannot run there (the sentence says why).
    """
    if backend not in BACKENDS:
        raise ValueError(f"attention backend is {backend!r}; expected one of {', '.join(BACKENDS)}")
    if backend == "auto":
        return "triton" if device.type == "cuda" and why_no_triton(device) is None else "sdpa"
    reason = {"triton": why_no_triton, "xformers": why_no_xformers}.get(backend, lambda device: None)(device)
    if reason is not None:
        raise ValueError(f"attention backend {backend} {reason}")
    return backend


def why_no_triton(device: torch.device) -> str | None:
    """Return why the kernels cannot run on `device`; None where they can."""
    if device.type != "cuda":
        runs = device.type == "cpu" and interpreted()
        return None if runs else f"needs a CUDA device, not {device.type}; use sdpa or reference"
    capability = torch.cuda.get_device_capability(device)
    if capability < OLDEST_TRITON_CAPABILITY:
        found, needed = (".".join(map(str, pair)) for pair in (capability, OLDEST_TRITON_CAPABILITY))
        return f"needs compute capability {needed} or later, and this GPU has {found}; use sdpa or reference"
    return None


def why_no_xformers(device: torch.device) -> str | None:
    """Return why xformers cannot run on `device`; None where it can."""
    if device.type != "cuda":
        return f"has no {device.type} operator; use sdpa or reference"
    try:
        import xformers.ops  # noqa: F401
    except ImportError:
        return "is not installed; pip install xformers, or use triton, sdpa or reference"
    return None


class Attention(nn.Module):
    """Projections of an attention: packed QKV, without bias in ISTVT, and output with bias.

    Rows of `qkv.weight` are all queries, all keys, all values, each head-major.
    """

    def __init__(self, dim: int, heads: int, head_dim: int, qkv_bias: bool = False) -> None:
        super().__init__()
        self.heads, self.head_dim = heads, head_dim
        self.qkv = nn.Linear(dim, 3 * heads * head_dim, bias=qkv_bias)
        self.proj = nn.Linear(heads * head_dim, dim)
        self.backend: str = "auto"

    @property
    def scale(self) -> float:
        """1 / sqrt(D), of the head dimension before any padding."""
        return self.head_dim**-0.5

    def _padded_head_dim(self, x: Tensor) -> int:
        """Return the head dimension of the projections: on a GPU the next multiple of 16, so that loads are wide.

        Without padding the kernels are slow, and SDPA and xformers either copy to pad or refuse.
        """
        pads = x.device.type == "cuda" or resolve_backend(self.backend, x.device) == "triton"
        return padded_head_dim(self.head_dim) if pads else self.head_dim

    def project_qkv(self, x: Tensor, parts: slice = slice(0, 3)) -> Tensor:
        """Project [B, F, S, C] to [B, F, S, parts, N, D] in one product; `parts` selects among q, k and v.

        Where the kernels run, D is padded by zero rows of the weight: exact, with zero gradient, and the
        parameter itself stays unpadded.
        """
        head_dim = self._padded_head_dim(x)
        weight = self.qkv.weight.view(3, self.heads, self.head_dim, -1)[parts]
        bias = None if self.qkv.bias is None else self.qkv.bias.view(3, self.heads, self.head_dim)[parts]
        if head_dim != self.head_dim:
            weight = functional.pad(weight, (0, 0, 0, head_dim - self.head_dim))
            bias = None if bias is None else functional.pad(bias, (0, head_dim - self.head_dim))
        packed = functional.linear(x, weight.reshape(-1, weight.shape[-1]), None if bias is None else bias.flatten())
        return packed.unflatten(-1, (-1, self.heads, head_dim))

    def project_leading(self, x: Tensor, leading: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries of `leading`, keys and values of `x`: one product where they have one shape, else two."""
        if leading.shape == x.shape:
            q, k, v = self.project_qkv(x).unbind(3)
            return q, k, v
        k, v = self.project_qkv(x, slice(1, 3)).unbind(3)
        return self.project_qkv(leading, slice(0, 1)).squeeze(3), k, v

    def project_out(self, out: Tensor) -> Tensor:
        """Project [B, F, S, N, D] (padded or not) to [B, F, S, C]."""
        weight = self.proj.weight
        if out.shape[-1] != self.head_dim:
            weight = weight.unflatten(1, (self.heads, self.head_dim))
            weight = functional.pad(weight, (0, out.shape[-1] - self.head_dim)).flatten(1)
        return functional.linear(out.flatten(-2), weight, self.proj.bias)


class TemporalAttention(Attention):
    """Attention over frame rows at each position, queries and keys from frame differences if `self_subtract`.

    Its projections can have a bias where nothing is subtracted: a difference of projections has none.
    """

    def __init__(self, dim: int, heads: int, head_dim: int, self_subtract: bool, qkv_bias: bool = False) -> None:
        super().__init__(dim, heads, head_dim, qkv_bias)
        if self_subtract and qkv_bias:
            raise ValueError("self_subtract and qkv_bias are given together; expected one of them")
        self.self_subtract = self_subtract

    def forward(
        self,
        x: Tensor,
        norm: nn.LayerNorm,
        query_rows: int | None = None,
        capture: kernels.AttentionCapture | None = None,
    ) -> Tensor:
        """Return proj(attention(QK from self_subtract(norm(x)), V from norm(x))).

        Args:
            x: [B, F, S, C], before the norm.
            norm: the block's LayerNorm for this attention; the difference may be fused into it.
            query_rows: how many leading rows are queries; None is all.
            capture: receives the attention and, after backward, its gradient.

        Returns:
            [B, query_rows or F, S, C].
        """
        backend = resolve_backend(self.backend, x.device)
        if not self.self_subtract or x.shape[1] < 2:
            tokens, mode = norm(x), "off"
        elif backend == "reference":
            return self._reference(norm(x), query_rows, capture)
        elif compute_dtype(x) in (torch.float16, torch.bfloat16):
            # Rounded projections of nearly equal frames must not be subtracted: difference first, in float32.
            difference = kernels.layer_norm_difference if backend == "triton" else plain_layer_norm_difference
            tokens = difference(x, norm.weight, norm.bias, norm.eps, out_dtype=compute_dtype(x))
            mode = "telescoped"
        else:
            tokens, mode = norm(x), "fused"
        if query_rows is None and backend == "triton":
            qkv = self.project_qkv(tokens)
            return self.project_out(
                kernels.temporal_attention_packed(qkv, scale=self.scale, self_subtract=mode, capture=capture)
            )
        q, k, v = self.project_leading(tokens, tokens[:, :query_rows])
        attend = kernels.temporal_attention if backend == "triton" else plain_temporal_attention
        return self.project_out(attend(q, k, v, scale=self.scale, self_subtract=mode, capture=capture))

    def _reference(self, tokens: Tensor, query_rows: int | None, capture: kernels.AttentionCapture | None) -> Tensor:
        """Compute the specification: subtract, three projections, softmax."""
        difference = kernels.self_subtract(tokens)
        q = self.project_qkv(difference[:, :query_rows], slice(0, 1)).squeeze(3)
        k = self.project_qkv(difference, slice(1, 2)).squeeze(3)
        v = self.project_qkv(tokens, slice(2, 3)).squeeze(3)
        return self.project_out(plain_temporal_attention(q, k, v, scale=self.scale, capture=capture))


class SpatialAttention(Attention):
    """Attention over positions within each frame row."""

    def forward(self, x: Tensor, queries: int | None = None, capture: kernels.AttentionCapture | None = None) -> Tensor:
        """Attend: [B, F, S, C] (normalized) -> [B, F, queries or S, C], with the leading positions as queries."""
        if queries is None:
            out = attend_positions_packed(self.project_qkv(x), self.scale, self.backend, capture)
        else:
            q, k, v = self.project_leading(x, x[:, :, :queries])
            out = attend_positions(q, k, v, self.scale, self.backend, capture)
        return self.project_out(out)


class JointAttention(Attention):
    """Attention over all F*S tokens, O(T^2 H^2 W^2); queries and keys from frame differences if `self_subtract`."""

    def __init__(self, dim: int, heads: int, head_dim: int, self_subtract: bool) -> None:
        super().__init__(dim, heads, head_dim)
        self.self_subtract = self_subtract

    def forward(self, x: Tensor, capture: kernels.AttentionCapture | None = None) -> Tensor:
        """Attend: [B, F, S, C] (normalized) -> [B, F, S, C]."""
        # Spatial attention in one frame row that holds every token.
        if self.self_subtract and x.shape[1] > 1:
            q, k = self.project_qkv(kernels.self_subtract(x), slice(0, 2)).unbind(3)
            v = self.project_qkv(x, slice(2, 3)).squeeze(3)
            q, k, v = (t.flatten(1, 2).unsqueeze(1) for t in (q, k, v))
            out = attend_positions(q, k, v, self.scale, self.backend, capture)
        else:
            qkv = self.project_qkv(x).flatten(1, 2).unsqueeze(1)
            out = attend_positions_packed(qkv, self.scale, self.backend, capture)
        return self.project_out(out.reshape(*x.shape[:3], *out.shape[-2:]))


def attend_positions_packed(
    qkv: Tensor, scale: float, backend: str, capture: kernels.AttentionCapture | None = None
) -> Tensor:
    """Return `attend_positions` of one packed [B, F, S, 3, N, D]; the kernels write its gradient packed too."""
    if resolve_backend(backend, qkv.device) == "triton":
        return kernels.spatial_attention_packed(qkv, scale=scale, capture=capture)
    return attend_positions(*qkv.unbind(3), scale, backend, capture)


def attend_positions(
    q: Tensor, k: Tensor, v: Tensor, scale: float, backend: str, capture: kernels.AttentionCapture | None = None
) -> Tensor:
    """Compute attention over axis 2 of [B, F, S, N, D] with the backend: [B, F, S, N, D].

    SDPA and xformers do not return their attention: with a `capture` the reference runs instead of them.
    """
    backend = resolve_backend(backend, q.device)
    if backend == "triton":
        return kernels.spatial_attention(q, k, v, scale=scale, capture=capture)
    if backend == "reference" or capture is not None:
        return plain_spatial_attention(q, k, v, scale=scale, capture=capture)
    batch, rows = q.shape[:2]
    if backend == "sdpa":
        q, k, v = (t.flatten(0, 1).transpose(1, 2) for t in (q, k, v))
        out = functional.scaled_dot_product_attention(q, k, v, scale=scale).transpose(1, 2)
    else:
        import xformers.ops

        head_dim = q.shape[-1]
        q, k, v = (_padded_to_eight(t.flatten(0, 1)) for t in (q, k, v))
        out = xformers.ops.memory_efficient_attention(q, k, v, scale=scale)[..., :head_dim]
    return out.unflatten(0, (batch, rows))


def _padded_to_eight(t: Tensor) -> Tensor:
    """Pad the head dimension to a multiple of 8, as xformers demands; the model's own projections are already."""
    return functional.pad(t, (0, -t.shape[-1] % 8)) if t.shape[-1] % 8 else t
