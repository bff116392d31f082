"""Kernels of another project, unchanged: Liger-Kernel's functions against PyTorch, forward and backward.

Its functions launch their kernels on CPU tensors with the grids and warps that they would use on a GPU.
"""

import pytest
import torch
from torch.nn import functional

from bench.checks.error_bound import relative_error
from bench.ptx import Machine, Options, executed

pytest.importorskip("liger_kernel", reason="needs liger-kernel, of the extra test")
from liger_kernel.ops.cross_entropy import LigerCrossEntropyFunction
from liger_kernel.ops.geglu import LigerGELUMulFunction
from liger_kernel.ops.group_norm import LigerGroupNormFunction
from liger_kernel.ops.jsd import LigerJSDFunction
from liger_kernel.ops.kl_div import LigerKLDivLossFunction
from liger_kernel.ops.layer_norm import LigerLayerNormFunction
from liger_kernel.ops.rms_norm import LigerRMSNormFunction
from liger_kernel.ops.rope import LigerRopeFunction
from liger_kernel.ops.softmax import LigerSoftmaxFunction
from liger_kernel.ops.swiglu import LigerSiLUMulFunction
from liger_kernel.ops.tvd import LigerTVDLossFunction

EPS = 1e-6


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def check(function, reference, inputs, architecture, dtype, bound):
    """Compare outputs and gradients with float64 on the same rounded inputs; no fault may be found."""
    leaves = [x.to(dtype).clone().requires_grad_() for x in inputs]
    exact_leaves = [x.detach().double().clone().requires_grad_() for x in leaves]
    with executed(Machine(Options(architecture=architecture))) as machine:
        out = function(*leaves)
        grad_out = random(*out.shape, seed=1).to(out.dtype)
        # Some write the gradient into the tensors that they keep.
        out.clone().backward(grad_out) if out.ndim else (out * 1.0).backward()
    exact = reference(*exact_leaves)
    exact.backward(grad_out.double()) if out.ndim else exact.backward()
    assert relative_error(out, exact) < bound
    for leaf, exact_leaf in zip(leaves, exact_leaves, strict=True):
        assert relative_error(leaf.grad, exact_leaf.grad) < bound
    assert machine.reports
    faults = [str(fault) for report in machine.reports for fault in report.faults]
    assert not faults, "\n".join(faults)


def rms_norm(x, weight):
    return x * (x.square().mean(-1, keepdim=True) + EPS).rsqrt() * weight


def jensen_shannon(log_p, log_q):
    mean = ((log_p.exp() + log_q.exp()) / 2).log()
    return sum(functional.kl_div(mean, x, log_target=True, reduction="batchmean") for x in (log_p, log_q)) / 2


def rotate(x, cos, sin):
    half = x.shape[-1] // 2
    return x * cos + torch.cat((-x[..., half:], x[..., :half]), -1) * sin


def angles(positions, head_dim):
    frequency = 10_000 ** (-torch.arange(0, head_dim, 2) / head_dim)
    angle = torch.outer(torch.arange(positions), frequency)
    return torch.cat((angle, angle), -1)[None]


def rope(function):
    def both(q, k):
        angle = angles(q.shape[2], q.shape[3])
        q, k = function(q, k, angle.cos(), angle.sin())
        return torch.cat((q, k), 1)

    return both


# Function, reference on float64 leaves, inputs.
TARGET = torch.randint(0, 91, (5,), generator=torch.Generator().manual_seed(0))
LOG_P = functional.log_softmax(random(5, 91, seed=3), -1)
CASES = {
    "rms_norm": (
        lambda x, w: LigerRMSNormFunction.apply(x, w, EPS, 0.0, "llama", False), rms_norm,
        (random(6, 91), random(91, seed=2)),
    ),
    "layer_norm": (
        lambda x, w, b: LigerLayerNormFunction.apply(x, w, b, EPS),
        lambda x, w, b: functional.layer_norm(x, (91,), w, b, EPS),
        (random(6, 91), random(91, seed=2), random(91, seed=3)),
    ),
    "group_norm": (
        lambda x, w, b: LigerGroupNormFunction.apply(x, w, b, 6, 3, EPS),
        lambda x, w, b: functional.group_norm(x, 3, w, b, EPS),
        (random(2, 6, 33), random(6, seed=2), random(6, seed=3)),
    ),
    "softmax": (LigerSoftmaxFunction.apply, lambda x: torch.softmax(x, -1), (random(5, 91),)),
    "swiglu": (LigerSiLUMulFunction.apply, lambda a, b: functional.silu(a) * b, (random(5, 91), random(5, 91, seed=2))),
    "geglu": (
        LigerGELUMulFunction.apply,
        lambda a, b: functional.gelu(a, approximate="tanh") * b,
        (random(5, 91), random(5, 91, seed=2)),
    ),
    "cross_entropy": (
        lambda x: LigerCrossEntropyFunction.apply(x, TARGET, None)[0],
        lambda x: functional.cross_entropy(x, TARGET),
        (random(5, 91),),
    ),
    "kl_div": (
        lambda x: LigerKLDivLossFunction.apply(x, LOG_P.exp()),
        lambda x: functional.kl_div(x, LOG_P.exp().double(), reduction="batchmean"),
        (functional.log_softmax(random(5, 91), -1),),
    ),
    "jsd": (
        lambda x: LigerJSDFunction.apply(x, LOG_P),
        lambda x: jensen_shannon(x, LOG_P.double()),
        (functional.log_softmax(random(5, 91), -1),),
    ),
    "tvd": (
        lambda x: LigerTVDLossFunction.apply(x, LOG_P.exp()),
        lambda x: (x - LOG_P.exp().double()).abs().sum() / 2 / 5,
        (torch.softmax(random(5, 91), -1),),
    ),
    "rope": (
        rope(LigerRopeFunction.apply),
        rope(lambda q, k, cos, sin: (rotate(q, cos, sin), rotate(k, cos, sin))),
        (random(2, 4, 7, 32), random(2, 2, 7, 32, seed=2)),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("architecture", "dtype", "bound"), [(80, torch.float32, 3e-6), (90, torch.bfloat16, 1e-2)])
@pytest.mark.parametrize("name", CASES)
def test_another_projects_kernels_agree_with_pytorch_forward_and_backward(name, architecture, dtype, bound):
    function, reference, inputs = CASES[name]
    check(function, reference, inputs, architecture, dtype, bound)
