"""GPU kernels of ISTVT in Triton, and the plain-PyTorch reference of each.

The package imports torch and triton and nothing else of this project, so another one can use it alone: install `torch`
(2.11 to 2.13) and `triton` (3.6 to 3.9), and copy the folder `kernels/` (or `pip install --no-deps` this repository).

    import torch, kernels
    qkv = torch.randn(2, 7, 362, 3, 8, 96, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    kernels.spatial_attention_packed(qkv).sum().backward()

- Shapes: `B` clips, `F = T + 1` frame rows (row 0 is the temporal class row), `S = H * W + 1` positions (column 0 is
  the spatial class column), `N` heads, `D` head dimension, `C` channels. Tokens are `[B, F, S, C]`, queries, keys and
  values `[B, F, S, N, D]`, a packed product of one projection `[B, F, S, 3, N, D]`.
- Dtypes: float32, float16 and bfloat16 (relevance: float32); float64 takes the reference. Any strides, last dimension
  contiguous. Offsets become 64-bit where an operand needs them, and counts that grow with the batch are on grid axis 0.
- Head dimensions 1 to 128. Pad the projection to a multiple of 16 (zero rows: exact, with zero gradients) and pass the
  unpadded `scale`: unpadded, 91 is as right but read 2 bytes at a time.
- Devices: CUDA tensors take the kernels, CPU tensors the references (`kernels.spatial.reference` and so on).
- Errors: `TypeError` and `ValueError`, one sentence that names the argument, what it is and what is taken.
- Gradients: backward runs without atomics and in one order, the same bits each time. A gradient of a gradient is
  refused by the kernels; the references give it. Relevance is not differentiable.
- `torch.compile(fullgraph=True)`, activation checkpointing, autocast and FSDP2 work: each kernel is an operator of
  `torch.ops.istvt` with a fake, and passes `torch.library.opcheck`.
- Interpreter: with `TRITON_INTERPRET=1` before the import the kernels run on CPU tensors, in bfloat16 too, as a GPU
  computes it.
"""

from kernels.common.capture import AttentionCapture
from kernels.common.launch import interpreted
from kernels.frame_difference import self_subtract
from kernels.layer_norm import layer_norm_difference
from kernels.relevance import (
    spatial_relevance,
    spatial_relevance_map,
    spatial_rollout_step,
    temporal_relevance,
    temporal_relevance_map,
    temporal_rollout_step,
)
from kernels.spatial import spatial_attention, spatial_attention_packed
from kernels.temporal import temporal_attention, temporal_attention_packed

if interpreted():
    from kernels.common.interpreter import correct

    correct()

__all__ = [
    "AttentionCapture",
    "layer_norm_difference",
    "self_subtract",
    "spatial_attention",
    "spatial_attention_packed",
    "spatial_relevance",
    "spatial_relevance_map",
    "spatial_rollout_step",
    "temporal_attention",
    "temporal_attention_packed",
    "temporal_relevance",
    "temporal_relevance_map",
    "temporal_rollout_step",
]
