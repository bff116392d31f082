"""Helpers of the attention kernel tests: inputs, output with all gradients, counts of allocations."""

import torch

from kernels.common.launch import interpreted

# In the interpreter float16 takes the way of bfloat16; `bench numerics` compares it there too.
DTYPES = [torch.float32, torch.bfloat16] if interpreted() else [torch.float32, torch.float16, torch.bfloat16]
DEVICE = torch.device("cpu" if interpreted() else "cuda")


def packed(clips, frames, positions, heads, head_dim, dtype, seed=0):
    """Queries, keys and values as one product `[B, F, S, 3, N, D]`."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(clips, frames, positions, 3, heads, head_dim, generator=generator).to(DEVICE, dtype)


def surrounded_by_nan(x):
    """The same numbers as a view: every dimension goes on, with NaN, beyond the last row; heads are not adjacent."""
    clips, frames, positions, three, heads, head_dim = x.shape
    shape = (clips + 1, frames + 2, positions + 3, three, heads + 1, head_dim + 5)
    surrounding = torch.full(shape, torch.nan, dtype=x.dtype, device=x.device)
    inner = surrounding[:clips, 1 : frames + 1, 1 : positions + 1, :, :heads, 2 : head_dim + 2]
    return inner.copy_(x)


def gradient_like(q, seed=1):
    return torch.randn(q.shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE, q.dtype)


def everything(function, q, k, v, grad_out, **arguments):
    """Output, gradients of q, k and v."""
    leaves = [x.detach().requires_grad_() for x in (q, k, v)]
    out = function(*leaves, **arguments)
    return [out.detach(), *torch.autograd.grad(out, leaves, grad_out.to(out.dtype))]


class Allocations(torch.utils._python_dispatch.TorchDispatchMode):
    """Remembers the number of elements of every tensor that comes out of an operation."""

    def __init__(self):
        super().__init__()
        self.sizes = {0}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        self.sizes |= {x.numel() for x in torch.utils._pytree.tree_leaves(out) if isinstance(x, torch.Tensor)}
        return out
