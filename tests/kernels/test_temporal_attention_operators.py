"""The operators of normalization and temporal attention under all that PyTorch does with an operator.

On a CPU they run the references.
"""

import pytest
import torch
from operator_checks import assert_same, results
from torch.utils.checkpoint import checkpoint

from kernels import layer_norm_difference, self_subtract, temporal_attention_packed
from kernels.layer_norm import operator as normalization
from kernels.temporal import operator as attention

QKV = torch.randn(2, 4, 5, 3, 2, 8, generator=torch.Generator().manual_seed(0))
GRADIENT = torch.randn(2, 4, 5, 2, 8, generator=torch.Generator().manual_seed(1))
Q, K, V = QKV.unbind(3)
X, W = QKV[..., 0, 0, :], QKV[0, 0, 0, 0, 0]
CALLS = [
    (attention.forward, (Q[:, :2], K, V, 0.3, "telescoped")),
    (attention.forward_with_attention, (Q, K, V, 0.3, "fused")),
    (attention.backward, (Q[:, :1], K, V, GRADIENT[:, :1], 0.3, "off")),
    (attention.backward_with_attention, (Q, K, V, GRADIENT, 0.3, "telescoped")),
    (attention.packed_backward, (QKV, GRADIENT, 0.3, "fused")),
    (normalization.forward, (X, W, W, 1e-6, torch.float16)),
    (normalization.backward, (X, W, X, 1e-6)),
]


@pytest.mark.parametrize(("operator", "arguments"), CALLS, ids=lambda value: getattr(value, "_name", None))
def test_an_operator_passes_opcheck(operator, arguments):
    torch.library.opcheck(operator, arguments)


class Block(torch.nn.Module):
    """Normalize, subtract, project, attend, project: with the operators, whatever the device."""

    def __init__(self, operators: bool):
        super().__init__()
        torch.manual_seed(0)
        self.norm = torch.nn.LayerNorm(16, eps=1e-6)
        self.qkv = torch.nn.Linear(16, 48, bias=False)
        self.proj = torch.nn.Linear(16, 16)
        self.operators = operators

    def forward(self, x):
        if self.operators:
            dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
            x = normalization.LayerNormDifference.apply(x, self.norm.weight, self.norm.bias, 1e-6, dtype)
            qkv = self.qkv(x).unflatten(-1, (3, 2, 8))
            out = attention.PackedTemporalAttention.apply(qkv, 0.3, "telescoped")
            q, k, v = qkv.unbind(3)
            one = attention.TemporalAttention.apply(q[:, :1], k, v, 0.3, "telescoped", None)
            return self.proj(out.flatten(-2)) + one.flatten(-2)
        x = layer_norm_difference(x, self.norm.weight, self.norm.bias)
        out = temporal_attention_packed(self.qkv(x).unflatten(-1, (3, 2, 8)), scale=0.3, self_subtract="telescoped")
        return self.proj(out.flatten(-2)) + out[:, :1].flatten(-2)


@pytest.mark.parametrize("operators", [True, False])
def test_a_block_compiles_as_one_graph_and_checkpoints_to_the_same_numbers(operators):
    block = Block(operators)
    expected = results(Block(operators=False), 4)
    assert_same(results(block, 4), expected)
    assert_same(results(block, 4, torch.compile(block, fullgraph=True, backend="aot_eager")), expected)
    assert_same(results(block, 4, lambda x: checkpoint(block, x, use_reentrant=False)), expected)


def test_autocast_gives_the_numbers_of_casting_by_hand():
    block = Block(operators=True)
    found = results(block, 4, dtype=torch.bfloat16)
    assert_same(found, results(block, 4), tolerance=0.02)
    q = torch.randn(1, 3, 2, 3, 2, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = temporal_attention_packed(q, self_subtract="telescoped")
        assert out.dtype == torch.bfloat16
    assert torch.equal(out, temporal_attention_packed(q.bfloat16(), self_subtract="telescoped"))


def test_the_operators_ask_for_q_k_v_and_the_arriving_gradient_alone():
    """Nothing of the size of the attention matrix goes in or out without a capture, nor a log-sum-exp."""
    forward, backward = attention.forward._schema, attention.backward._schema
    assert [argument.name for argument in forward.arguments] == ["q", "k", "v", "scale", "self_subtract"]
    assert len(forward.returns) == 1
    assert [a.name for a in backward.arguments] == ["q", "k", "v", "grad_out", "scale", "self_subtract"]
    assert len(backward.returns) == 3


def test_the_norm_of_the_operator_is_that_of_its_parts():
    weight, bias = torch.randn(2, 8, generator=torch.Generator().manual_seed(3))
    expected = self_subtract(torch.nn.functional.layer_norm(X, (8,), weight, bias, 1e-6))
    assert torch.allclose(normalization.forward(X, weight, bias, 1e-6, torch.float32), expected, atol=1e-6)
