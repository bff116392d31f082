"""Execution of compiled Triton kernels on a CPU: PTX for sm_80 and sm_90, instruction by instruction.

    from bench.ptx import execute_kernel
    report = execute_kernel(kernel, (4,), x, out, n, BLOCK=256, architecture=90)
    report.faults, report.instructions()

`docs/ptx.md` says what is modeled and what cannot be concluded from it.
"""

from bench.ptx.call import execute_kernel, executed
from bench.ptx.machine import Fault, Machine, Options, Report

__all__ = ["Fault", "Machine", "Options", "Report", "execute_kernel", "executed"]
