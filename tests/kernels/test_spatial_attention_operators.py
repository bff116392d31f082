"""The operators of spatial attention under all that PyTorch does with an operator; on a CPU they run the reference."""

import pytest
import torch
from operator_checks import assert_same, results
from torch.utils.checkpoint import checkpoint

from kernels import AttentionCapture, spatial_attention, spatial_attention_packed
from kernels.spatial import operator
from kernels.spatial.reference import spatial_attention_backward

QKV = torch.randn(2, 2, 5, 3, 2, 8, generator=torch.Generator().manual_seed(0))
GRADIENT = torch.randn(2, 2, 5, 2, 8, generator=torch.Generator().manual_seed(1))
Q, K, V = QKV.unbind(3)
OUT, KEPT = operator.forward(Q, K, V, 0.3)
FEW_OUT, FEW_KEPT = operator.forward(Q[:, :, :1], K, V, 0.3)
CALLS = [
    (operator.forward, (Q[:, :, :1], K, V, 0.3)),
    (operator.forward_with_attention, (Q, K, V, 0.3)),
    (operator.backward, (Q[:, :, :1], K, V, FEW_OUT, FEW_KEPT, GRADIENT[:, :, :1], 0.3)),
    (operator.backward_with_attention, (Q, K, V, OUT, KEPT, GRADIENT, 0.3)),
    (operator.packed_backward, (QKV, OUT, KEPT, GRADIENT, 0.3)),
]


@pytest.mark.parametrize(("function", "arguments"), CALLS, ids=lambda value: getattr(value, "_name", None))
def test_an_operator_passes_opcheck(function, arguments):
    torch.library.opcheck(function, arguments)


class Block(torch.nn.Module):
    """Project, attend (all queries, and the first alone), project: with the operators or with the plain function."""

    def __init__(self, operators: bool):
        super().__init__()
        torch.manual_seed(0)
        self.qkv = torch.nn.Linear(16, 48, bias=False)
        self.proj = torch.nn.Linear(16, 16)
        self.operators = operators

    def forward(self, x):
        qkv = self.qkv(x).unflatten(-1, (3, 2, 8))
        q, k, v = qkv.unbind(3)
        if self.operators:
            out = operator.PackedSpatialAttention.apply(qkv, 0.3)
            one = operator.SpatialAttention.apply(q[:, :, :1], k, v, 0.3, None)
        else:
            out = spatial_attention_packed(qkv, scale=0.3)
            one = spatial_attention(q[:, :, :1], k, v, scale=0.3)
        return self.proj(out.flatten(-2)) + one.flatten(-2)


@pytest.mark.parametrize("operators", [True, False])
def test_a_block_compiles_as_one_graph_and_checkpoints_to_the_same_numbers(operators):
    block = Block(operators)
    expected = results(Block(operators=False), 2)
    assert_same(results(block, 2), expected)
    assert_same(results(block, 2, torch.compile(block, fullgraph=True, backend="aot_eager")), expected)
    assert_same(results(block, 2, lambda x: checkpoint(block, x, use_reentrant=False)), expected)


def test_autocast_gives_the_numbers_of_casting_by_hand():
    assert_same(results(Block(True), 2, dtype=torch.bfloat16), results(Block(True), 2), tolerance=0.02)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = spatial_attention_packed(QKV)
    assert out.dtype == torch.bfloat16
    assert torch.equal(out, spatial_attention_packed(QKV.bfloat16()))


def test_written_out_gradients_are_those_of_autograd_and_fill_the_capture():
    q, k, v = (x.double().requires_grad_() for x in (Q, K, V))
    capture = AttentionCapture()
    spatial_attention(q, k, v, scale=0.3, capture=capture).backward(GRADIENT.double())
    written = spatial_attention_backward(q.detach(), k.detach(), v.detach(), GRADIENT.double(), 0.3)
    torch.testing.assert_close(written, (q.grad, k.grad, v.grad, capture.gradient))


def test_the_operators_hand_on_nothing_that_grows_as_the_square_of_the_positions():
    """Without a capture: the output and two numbers a query go forward, three gradients come back."""
    assert [tuple(x.shape) for x in operator.forward(Q, K, V, 0.3)] == [(2, 2, 5, 2, 8), (2, 2, 2, 2, 5)]
    assert [a.name for a in operator.backward._schema.arguments] == [
        "q", "k", "v", "out", "normalizer", "grad_out", "scale",
    ]  # fmt: skip
    assert len(operator.backward._schema.returns) == 3
