"""Small Triton kernels, one a family of instructions, that the executor is tested with; some with a planted fault."""

import triton
import triton.language as tl


@triton.jit
def add(x, y, out, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + i, tl.load(x + i, mask=i < n, other=0.0) + tl.load(y + i, mask=i < n, other=0.0), mask=i < n)


@triton.jit
def add_beyond(x, y, out, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + i, tl.load(x + i + 1) + tl.load(y + i), mask=i < n)  # planted: no mask, one too far


@triton.jit
def overlap(x, out, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * (BLOCK // 2) + tl.arange(0, BLOCK)  # planted: neighbors write the same half
    tl.store(out + i, tl.load(x + i, mask=i < n, other=0.0), mask=i < n)


@triton.jit
def softmax(x, out, rows, columns, BLOCK: tl.constexpr):
    r = tl.program_id(0)
    i = tl.arange(0, BLOCK)
    a = tl.load(x + r * columns + i, mask=i < columns, other=float("-inf")).to(tl.float32)
    a = tl.exp(a - tl.max(a, 0))
    tl.store(out + r * columns + i, a / tl.sum(a, 0), mask=i < columns)


@triton.jit
def transpose(x, out, M: tl.constexpr, N: tl.constexpr):
    i, j = tl.arange(0, M), tl.arange(0, N)
    a = tl.load(x + i[:, None] * N + j[None, :])
    tl.store(out + j[:, None] * M + i[None, :], tl.trans(a))


@triton.jit
def elementwise(x, out, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    a = tl.load(x + i, mask=i < n, other=1.0)
    b = tl.exp2(a) + tl.log2(tl.abs(a) + 1.0) + tl.sqrt(tl.abs(a)) / (a * a + 1.0) + tl.rsqrt(a * a + 0.5)
    k = (i * 7 - 13) // 5 + (i % 11) * (i >> 1) - (i ^ 85)
    tl.store(out + i, tl.where(i % 3 == 0, b, tl.minimum(b, 2.0)) + k.to(tl.float32), mask=i < n)


@triton.jit
def matmul(
    a, b, c, M, N, K, B_K, B_N, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, P: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    tiles = tl.cdiv(N, BN)
    m = tl.program_id(0) // tiles * BM + tl.arange(0, BM)
    n = tl.program_id(0) % tiles * BN + tl.arange(0, BN)
    total = tl.zeros([BM, BN], tl.float32)
    for k0 in tl.range(0, K, BK, num_stages=STAGES):
        k = k0 + tl.arange(0, BK)
        x = tl.load(a + m[:, None] * K + k[None, :], mask=(m < M)[:, None] & (k < K)[None, :], other=0.0)
        y = tl.load(b + k[:, None] * B_K + n[None, :] * B_N, mask=(k < K)[:, None] & (n < N)[None, :], other=0.0)
        total = tl.dot(x, y, total, input_precision=P)
    tl.store(c + m[:, None] * N + n[None, :], total.to(c.dtype.element_ty), mask=(m < M)[:, None] & (n < N)[None, :])


@triton.jit
def chained(
    q, k, v, out, S, D: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, P: tl.constexpr, STAGES: tl.constexpr
):
    """(q k^T) v, the first product an operand of the second in registers."""
    m = tl.program_id(0) * BM + tl.arange(0, BM)
    d = tl.arange(0, D)
    x = tl.load(q + m[:, None] * D + d[None, :], mask=(m < S)[:, None], other=0.0)
    total = tl.zeros([BM, D], tl.float32)
    for n0 in tl.range(0, S, BN, num_stages=STAGES):
        n = n0 + tl.arange(0, BN)
        y = tl.load(k + n[:, None] * D + d[None, :], mask=(n < S)[:, None], other=0.0)
        z = tl.load(v + n[:, None] * D + d[None, :], mask=(n < S)[:, None], other=0.0)
        s = tl.dot(x, tl.trans(y), input_precision=P)
        total = tl.dot(s.to(z.dtype), z, total, input_precision=P)
    tl.store(out + m[:, None] * D + d[None, :], total, mask=(m < S)[:, None])


@triton.jit
def endless(x):
    while tl.load(x, volatile=True) == 0.0:  # planted: no program writes it
        pass


@triton.jit
def place_of_program(out):
    x, y, z = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    place = (z * tl.num_programs(1) + y) * tl.num_programs(0) + x
    tl.store(out + place, 10000 * z + 100 * y + x)


@triton.jit
def atomics(x, total, largest, order, counter, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    a = tl.load(x + i, mask=i < n, other=0.0)
    tl.atomic_add(total, tl.sum(a, 0))
    tl.atomic_max(largest, tl.max(a, 0))
    tl.store(order + tl.program_id(0), tl.atomic_add(counter, 1))


@triton.jit
def scatter_add(x, index, out, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.atomic_add(out + tl.load(index + i), tl.load(x + i))


@triton.jit
def cached_copy(x, out, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    a = tl.load(x + i, eviction_policy="evict_last") - tl.load(x + i, cache_modifier=".cg")
    tl.store(out + i, a + tl.load(x + i, eviction_policy="evict_first"), eviction_policy="evict_first")


@triton.jit
def half_arithmetic(x, y, out, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    a, b = tl.load(x + i), tl.load(y + i)
    tl.store(out + i, tl.where(a < b, a * b + b, a - b))
