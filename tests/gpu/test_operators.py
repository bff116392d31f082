"""The operators under opcheck, torch.compile, activation checkpointing and autocast."""

import pytest
import torch
from attention_checks import DEVICE, DTYPES
from operator_checks import BLOCKS, assert_same, results
from torch.utils.checkpoint import checkpoint

from kernels import spatial_attention_packed, temporal_attention_packed
from kernels.layer_norm import operator as layer_norm
from kernels.relevance import operator as relevance
from kernels.spatial import operator as spatial
from kernels.temporal import operator as temporal

QKV = torch.randn(1, 3, 4, 3, 1, 8, generator=torch.Generator().manual_seed(0)).to(DEVICE)
GRADIENT, U = torch.randn(2, 1, 3, 4, 1, 8, generator=torch.Generator().manual_seed(1)).to(DEVICE)
Q, K, V = QKV.unbind(3)
OUT, STATS, _ = spatial.forward(Q, K, V, 0.3, False)
FEW_OUT, FEW_STATS, _ = spatial.forward(Q[:, :, :1], K, V, 0.3, False)
HALF = QKV.to(DTYPES[1])
X, W = QKV[..., 0, 0, :], QKV[0, 0, 0, 0, 0]
OVER_TIME, OVER_SPACE = torch.rand(1, 4, 3).to(DEVICE), torch.rand(1, 3, 4).to(DEVICE)
CALLS = [
    (spatial.forward, (Q[:, :, :1], K, V, 0.3, False)),
    (spatial.forward, (Q, K, V, 0.3, True)),
    (spatial.backward, (Q[:, :, :1], K, V, FEW_OUT, FEW_STATS, GRADIENT[:, :, :1], 0.3, False)),
    (spatial.backward, (Q, K, V, OUT, STATS, GRADIENT, 0.3, True)),
    (spatial.packed_backward, (QKV, OUT, STATS, GRADIENT, 0.3, False)),
    (temporal.forward, (Q[:, :2], K, V, 0.3, "fused", False)),
    (temporal.forward, (*HALF.unbind(3), 0.3, "telescoped", True)),
    (temporal.backward, (Q[:, :1], K, V, GRADIENT[:, :1], 0.3, "off", False)),
    (temporal.backward, (*HALF.unbind(3), GRADIENT.to(HALF.dtype), 0.3, "telescoped", True)),
    (temporal.packed_backward, (QKV, GRADIENT, 0.3, "fused", True)),
    (layer_norm.forward, (X, W, W, 1e-6, torch.float16)),
    (layer_norm.backward, (X, W, X, 1e-6)),
    (relevance.spatial_relevance, (Q, K, V, U, 0.3, 0.01)),
    (relevance.temporal_relevance, (Q, K, V, U, 0.3, 0.01)),
    (relevance.spatial_relevance_map, (None, Q, K, V, U, GRADIENT, 0.3, False)),
    (relevance.spatial_relevance_map, (OVER_SPACE, Q, K, V, None, GRADIENT, 0.3, True)),
    (relevance.temporal_relevance_map, (None, Q, K, V, U, None, 0.3, True)),
    (relevance.temporal_relevance_map, (OVER_TIME, Q, K, V, U, GRADIENT, 0.3, False)),
]


@pytest.mark.parametrize(("operator", "arguments"), CALLS, ids=lambda value: getattr(value, "_name", None))
def test_an_operator_passes_opcheck(operator, arguments):
    torch.library.opcheck(operator, arguments)


@pytest.mark.parametrize("block", BLOCKS)
def test_a_block_compiles_as_one_graph_and_checkpoints_to_the_numbers_of_the_reference(block):
    block, expected = block(), results(block(reference=True), device=DEVICE)
    assert_same(results(block, device=DEVICE), expected)
    compiled = torch.compile(block, fullgraph=True, backend="aot_eager")
    assert_same(results(block, compiled, device=DEVICE), expected)
    assert_same(results(block, lambda x: checkpoint(block, x, use_reentrant=False), device=DEVICE), expected)


@pytest.mark.parametrize("block", BLOCKS)
def test_autocast_gives_the_numbers_of_casting_by_hand(block):
    block = block()
    assert_same(results(block, dtype=torch.bfloat16, device=DEVICE), results(block, device=DEVICE), tolerance=0.02)
    for attend in (spatial_attention_packed, temporal_attention_packed):
        with torch.autocast(DEVICE.type, dtype=torch.bfloat16):
            out = attend(QKV)
        assert out.dtype == torch.bfloat16
        assert torch.equal(out, attend(QKV.bfloat16()))


def test_the_operators_hand_on_nothing_that_grows_as_the_square_of_the_positions_or_frames():
    """Without a capture: the output (and spatial: two numbers a query) goes forward, three gradients come back."""
    assert [tuple(x.shape) for x in spatial.forward(Q, K, V, 0.3, False)] == [Q.shape, (2, 1, 3, 1, 4), (0,)]
    assert [tuple(x.shape) for x in temporal.forward(Q, K, V, 0.3, "off", False)] == [Q.shape, (0,)]
    assert spatial.backward(Q, K, V, OUT, STATS, GRADIENT, 0.3, False)[-1].numel() == 0
    assert temporal.backward(Q, K, V, GRADIENT, 0.3, "off", False)[-1].numel() == 0
    names = [[a.name for a in operator._schema.arguments] for operator in (spatial.backward, temporal.backward)]
    assert names == [
        ["q", "k", "v", "out", "row_stats", "grad_out", "scale", "capture"],
        ["q", "k", "v", "grad_out", "scale", "self_subtract", "capture"],
    ]
