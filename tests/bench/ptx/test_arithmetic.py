"""Kernels of every family of instructions, executed on a CPU, agree with float64."""

import ptx_kernels as kernels
import pytest
import torch

from bench.checks.error_bound import relative_error
from bench.ptx import execute_kernel

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
NAN = float("nan")
pytestmark = pytest.mark.parametrize("architecture", [80, 90])


def random(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_sum_of_two_tensors_is_exact(architecture):
    x, y = random(2, 1000)
    out = torch.full((1000,), NAN)
    report = execute_kernel(kernels.add, 4, x, y, out, n=1000, BLOCK=256, architecture=architecture)
    assert torch.equal(out, x + y)
    assert not report.faults


@pytest.mark.parametrize("dtype", DTYPES)
def test_softmax_reduces_over_the_warps_of_a_program(architecture, dtype):
    x, out = random(37, 91).to(dtype), torch.full((37, 91), NAN)
    report = execute_kernel(kernels.softmax, 37, x, out, rows=37, columns=91, BLOCK=128, architecture=architecture)
    assert relative_error(out, torch.softmax(x.double(), 1)) < 3e-7
    assert not report.faults


@pytest.mark.parametrize("dtype", DTYPES)
def test_transposition_through_shared_memory_is_exact(architecture, dtype):
    x, out = torch.arange(64 * 32).reshape(64, 32).to(dtype), torch.full((32, 64), NAN, dtype=dtype)
    report = execute_kernel(kernels.transpose, 1, x, out, M=64, N=32, architecture=architecture)
    assert torch.equal(out, x.T)
    assert not report.faults


def test_special_functions_and_integer_arithmetic_agree_with_float64(architecture):
    x, out = random(1000), torch.full((1000,), NAN)
    report = execute_kernel(kernels.elementwise, 4, x, out, n=1000, BLOCK=256, architecture=architecture)
    i, a = torch.arange(1000), x.double()
    b = torch.exp2(a) + torch.log2(a.abs() + 1) + a.abs().sqrt() / (a * a + 1) + (a * a + 0.5).rsqrt()
    k = torch.div(i * 7 - 13, 5, rounding_mode="trunc") + (i % 11) * (i >> 1) - (i ^ 85)
    assert relative_error(out, torch.where(i % 3 == 0, b, b.clamp(max=2)) + k) < 1e-6
    assert not report.faults


@pytest.mark.parametrize("dtype", DTYPES[1:])
def test_arithmetic_of_16_bit_floats_rounds_once(architecture, dtype):
    x, y = (random(256, seed=seed).to(dtype) for seed in (1, 2))
    out = torch.full((256,), NAN, dtype=dtype)
    report = execute_kernel(kernels.half_arithmetic, 1, x, y, out, BLOCK=256, architecture=architecture)
    a, b = x.double(), y.double()
    exact = torch.where(a < b, a * b + b, a - b)
    assert relative_error(out, exact) < torch.finfo(dtype).eps
    assert not report.faults


# dtype, precision of the product, largest error
PRODUCTS = (
    (torch.float32, "tf32", 1e-3), (torch.float32, "tf32x3", 2e-6), (torch.float32, "ieee", 1e-6),
    (torch.float16, "ieee", 1e-6), (torch.bfloat16, "ieee", 1e-6),
)  # fmt: skip
# Tile, warps, stages: wgmma, several warps, asynchronous copies in flight, one warp, narrow.
TILES = ((64, 64, 32, 4, 1), (128, 64, 32, 8, 3), (64, 128, 64, 4, 2), (16, 32, 16, 1, 1), (64, 16, 32, 4, 2))


def matrix_products():
    for product, (dtype, precision, bound) in enumerate(PRODUCTS):
        for size in ((100, 90, 200), (128, 128, 96)):
            for number, tile in enumerate(TILES):
                if precision == "ieee" and dtype == torch.float32 and tile[-1] == 3:
                    continue
                for transposed in (False, True):
                    quick = size[0] == 100 and transposed == (product + number) % 2
                    name = f"{str(dtype)[6:]}-{precision}-{'x'.join(map(str, (*size, *tile)))}-{transposed}"
                    marks = () if quick else pytest.mark.exhaustive
                    yield pytest.param(dtype, precision, bound, size, tile, transposed, id=name, marks=marks)


@pytest.mark.parametrize(("dtype", "precision", "bound", "size", "tile", "transposed"), list(matrix_products()))
def test_matrix_product_is_as_exact_as_its_type(architecture, dtype, precision, bound, size, tile, transposed):
    (m, n, k), (block_m, block_n, block_k, warps, stages) = size, tile
    a, b = random(m, k).to(dtype), random(k, n, seed=2).to(dtype)
    stored, c = b.T.contiguous() if transposed else b, torch.full((m, n), NAN)
    report = execute_kernel(
        kernels.matmul, -(-m // block_m) * -(-n // block_n), a, stored, c, m, n, k,
        B_K=1 if transposed else n, B_N=k if transposed else 1, BM=block_m, BN=block_n, BK=block_k, P=precision,
        STAGES=stages, num_warps=warps, architecture=architecture,
    )  # fmt: skip
    assert relative_error(c, a.double() @ b.double()) < bound
    assert not report.faults
    assert bool(report.multiply_adds()) == (precision != "ieee" or dtype != torch.float32)


def chained_products():
    bounds = ((torch.float32, "tf32", 2e-3), (torch.float32, "tf32x3", 3e-6))
    for dtype, precision, bound in (*bounds, (torch.float16, "ieee", 1e-3), (torch.bfloat16, "ieee", 5e-3)):
        for head_dim, block_m, block_n, warps in ((64, 64, 64, 4), (32, 128, 32, 8), (128, 64, 32, 4), (16, 16, 16, 1)):
            name = f"{str(dtype)[6:]}-{precision}-{head_dim}-{block_m}x{block_n}-{warps}"
            marks = () if head_dim in (16, 32) else pytest.mark.exhaustive
            yield pytest.param(dtype, precision, bound, head_dim, block_m, block_n, warps, id=name, marks=marks)


@pytest.mark.parametrize(
    ("dtype", "precision", "bound", "head_dim", "block_m", "block_n", "warps"), list(chained_products())
)
def test_a_product_is_the_operand_of_another_in_registers(
    architecture, dtype, precision, bound, head_dim, block_m, block_n, warps
):
    q, k, v = random(3, 150, head_dim).to(dtype)
    out = torch.full((150, head_dim), NAN)
    report = execute_kernel(
        kernels.chained, -(-150 // block_m), q, k, v, out, S=150, D=head_dim, BM=block_m, BN=block_n, P=precision,
        STAGES=2, num_warps=warps, architecture=architecture,
    )  # fmt: skip
    assert relative_error(out, q.double() @ k.double().T @ v.double()) < bound
    assert not report.faults
