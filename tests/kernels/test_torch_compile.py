"""CPU tensors take the references: compiled, checkpointed and under autocast they give the same numbers."""

import pytest
import torch
from operator_checks import BLOCKS, assert_same, results
from torch.utils.checkpoint import checkpoint

from kernels import spatial_attention_packed, temporal_attention_packed


@pytest.mark.parametrize("block", BLOCKS)
def test_a_block_compiles_as_one_graph_and_checkpoints_to_the_same_numbers(block):
    block, expected = block(), results(block(reference=True))
    assert_same(results(block), expected)
    assert_same(results(block, torch.compile(block, fullgraph=True, backend="aot_eager")), expected)
    assert_same(results(block, lambda x: checkpoint(block, x, use_reentrant=False)), expected)


@pytest.mark.parametrize("attend", [spatial_attention_packed, temporal_attention_packed])
def test_autocast_gives_the_numbers_of_casting_by_hand(attend):
    qkv = torch.randn(1, 3, 5, 3, 2, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = attend(qkv)
    assert out.dtype == torch.bfloat16
    assert torch.equal(out, attend(qkv.bfloat16()))
