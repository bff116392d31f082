"""Single instructions, in PTX by hand: bank conflicts, sectors, divergence, shuffles, races."""

import pytest
import torch

from bench.ptx import Machine, Options
from bench.ptx.parser import parse

HEAD = """.version 8.7
.target sm_80
.address_size 64
.extern .shared .align 16 .b8 global_smem[];
.visible .entry k(.param .u64 .ptr .global .align 1 k_param_0)
.reqntid {threads}
{{
"""
# %rd3: the address of the thread's element of `out`.
ADDRESS = "ld.param.b64 %rd1, [k_param_0]; mul.wide.u32 %rd2, %r1, 4; add.s64 %rd3, %rd1, %rd2;"


def run(body, threads=32):
    """Execute `body`; return the report and what the threads wrote as integers."""
    out = torch.zeros(4096)
    kernel = parse(HEAD.format(threads=threads) + body + "\nret;\n}\n")
    report = Machine(Options(architecture=80)).execute(kernel, (1, 1, 1), [("out", out)], 8192)
    return report, out[:threads].view(torch.int32).tolist()


@pytest.mark.parametrize(("shift", "wavefronts"), [(2, 1), (3, 2), (4, 4), (7, 32)])
def test_a_stride_in_shared_memory_conflicts_as_often_as_lanes_meet_in_a_bank(shift, wavefronts):
    report, out = run(
        f"""mov.u32 %r1, %tid.x; shl.b32 %r2, %r1, {shift}; mov.b32 %r3, global_smem; add.s32 %r4, %r3, %r2;
        st.shared.b32 [%r4], %r1; bar.sync 0; ld.shared.b32 %r5, [%r4]; {ADDRESS} st.global.b32 [%rd3], %r5;"""
    )
    assert report.moves()["shared load"] == (wavefronts, 1)
    assert report.moves()["global store"] == (4, 4)
    assert out == list(range(32))


def test_a_stride_of_64_bytes_takes_a_sector_a_lane():
    report, _ = run(
        """mov.u32 %r1, %tid.x; ld.param.b64 %rd1, [k_param_0]; mul.wide.u32 %rd2, %r1, 64; add.s64 %rd3, %rd1, %rd2;
        ld.global.b32 %r5, [%rd3]; st.global.b32 [%rd3], %r5;"""
    )
    assert report.moves()["global load"] == (32, 4)


def test_lanes_leave_a_loop_one_by_one():
    report, out = run(
        f"""mov.u32 %r1, %tid.x; {ADDRESS} mov.b32 %r2, 0; mov.b32 %r3, 0;
        $L__BB0_1:
        add.s32 %r2, %r2, 1; add.s32 %r3, %r3, %r2; setp.le.u32 %p1, %r2, %r1;
        @%p1 bra $L__BB0_1;
        st.global.b32 [%rd3], %r3;"""
    )
    assert out == [n * (n + 1) // 2 for n in range(1, 33)]
    assert not report.faults


@pytest.mark.parametrize(
    ("mode", "by", "expected"),
    [
        ("bfly", 5, [i ^ 5 for i in range(32)]), ("idx", 3, [3] * 32),
        ("down", 3, [i + 3 if i + 3 < 32 else i for i in range(32)]),
        ("up", 3, [i - 3 if i >= 3 else i for i in range(32)]),
    ],
)  # fmt: skip
def test_a_shuffle_reads_the_register_of_another_lane(mode, by, expected):
    clamp = 0 if mode == "up" else 31
    _, out = run(
        f"mov.u32 %r1, %tid.x; shfl.sync.{mode}.b32 %r2, %r1, {by}, {clamp}, -1; {ADDRESS} st.global.b32 [%rd3], %r2;"
    )
    assert out == expected


@pytest.mark.parametrize(
    ("barrier", "other", "fault"),
    [
        ("", 128, "shared-race-read-after-write"), ("bar.sync 0;", 128, None),
        ("", 4, "intra-warp-race-without-bar.warp.sync"), ("bar.warp.sync -1;", 4, None),
    ],
)  # fmt: skip
def test_a_race_is_found_unless_a_barrier_orders_it(barrier, other, fault):
    report, _ = run(
        f"""mov.u32 %r1, %tid.x; shl.b32 %r2, %r1, 2; mov.b32 %r3, global_smem; add.s32 %r4, %r3, %r2;
        st.shared.b32 [%r4], %r1; {barrier} xor.b32 %r5, %r2, {other}; add.s32 %r6, %r3, %r5; ld.shared.b32 %r7, [%r6];
        {ADDRESS} st.global.b32 [%rd3], %r7;""",
        threads=128,
    )
    kinds = {found.kind for found in report.faults}
    assert fault in kinds if fault else not kinds


def test_a_barrier_that_some_lanes_do_not_reach_is_found():
    report, _ = run(
        """mov.u32 %r1, %tid.x; setp.lt.u32 %p1, %r1, 5;
        @%p1 bra $L__BB0_1;
        bar.sync 0;
        $L__BB0_1:"""
    )
    assert "divergent-collective" in {found.kind for found in report.faults}


@pytest.mark.parametrize(
    ("instruction", "x", "expected"),
    [
        ("neg.s32 %r2, %r1", 5, -5), ("abs.s32 %r2, %r1", -5, 5), ("popc.b32 %r2, %r1", 255, 8),
        ("clz.b32 %r2, %r1", 255, 24), ("bfe.u32 %r2, %r1, 4, 4", 0xAB, 0xA), ("bfe.s32 %r2, %r1, 4, 4", 0xAB, -6),
        ("prmt.b32 %r2, %r1, 0, 0x0123", 0x01020304, 0x04030201), ("lop3.b32 %r2, %r1, 12, 0, 0xC0", 10, 8),
        ("shf.l.wrap.b32 %r2, %r1, %r1, 4", 0x10000001, 0x11), ("div.s32 %r2, %r1, 3", -7, -2),
        ("rem.s32 %r2, %r1, 3", -7, -1), ("mul.hi.s32 %r2, %r1, %r1", 1 << 20, 256), ("shr.s32 %r2, %r1, 40", -8, -1),
        ("shl.b32 %r2, %r1, 40", 1, 0), ("max.s32 %r2, %r1, 3", -7, 3), ("min.u32 %r2, %r1, 3", -7, 3),
        ("cvt.rn.f32.s32 %r3, %r1; cvt.rzi.s32.f32 %r2, %r3", -7, -7),
        ("cvt.rn.f32.s32 %r3, %r1; mul.f32 %r4, %r3, 0f3F000000; cvt.rmi.s32.f32 %r2, %r4", -7, -4),
    ],
)  # fmt: skip
def test_an_integer_instruction_gives_what_the_isa_says(instruction, x, expected):
    _, out = run(f"mov.u32 %r1, %tid.x; {ADDRESS} mov.b32 %r1, {x}; {instruction}; st.global.b32 [%rd3], %r2;")
    assert out == [expected] * 32
