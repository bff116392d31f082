"""The machine that runs compiled kernels on CPU tensors: settings, faults and counts of each launch."""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from bench.checks.sass import SHARED_MEMORY, compile_kernel
from bench.ptx.library import FaultRecord, Job, Range, library
from bench.ptx.opcodes import FAULTS
from bench.ptx.parser import Kernel, parse
from dataloading.errors import InputError
from kernels.common import launch
from kernels.common.launch import Launch, launch_options

ARCHITECTURES = (80, 90)
LARGEST_GRID = (2**31 - 1, 65_535, 65_535)  # CUDA C programming guide, compute capabilities
# Bytes before and behind each storage: an access a little past one lands in none.
_GUARD = 1 << 16
_MOST_FAULTS = 256
_NOTE = "note-"
# Of the tensor cores of an architecture: products of 16 and of 32 bits that are added at once, bits below float32's
# last that are kept. See executor/tensor_core.hpp.
_TENSOR_CORES = {80: (8, 4, 1), 90: (16, 8, 2)}
# Classes in which instructions are counted, by beginnings of operations; the rest is `integer`.
_CLASSES = {
    "tensor": ("MMA", "WGMMA"), "global load": ("LDG",), "global store": ("STG",), "atomic": ("ATOM",),
    "async copy": ("CP_",), "shared load": ("LDS", "LDMATRIX"), "shared store": ("STS", "STMATRIX"),
    "shuffle": ("SHFL",), "barrier": ("BAR", "WARPBAR", "PROXY_FENCE"),
    "special": ("FEX2", "FLG2", "FRCP", "FSQRT", "FRSQRT", "FDIV", "FSIN", "FCOS", "FTANH"),
    "convert": ("F32_", "BF16", "F16", "TF32", "S32_F32", "U32_F32", "S64_F32", "U64_F32", "FRND", "PACK", "UNPACK"),
    "float": ("FADD", "FSUB", "FMUL", "FFMA", "FMAX", "FMIN", "FNEG", "FABS", "FCOPYSIGN", "HADD", "HSUB", "HMUL",
              "HFMA", "HMAX", "HMIN", "HNEG", "HABS"),
    "compare/select": ("SETP", "SEL", "PAND", "POR", "PXOR", "PNOT"), "move": ("MOV",), "branch": ("BRA", "RET"),
}  # fmt: skip
# Instructions that move memory: sectors of 32 bytes of global, wavefronts of 128 bytes of shared memory.
MOVES = {
    "LDG": "global load", "CP_ASYNC": "global async", "STG": "global store", "ATOM": "atomic", "LDS": "shared load",
    "LDMATRIX": "ldmatrix", "STS": "shared store", "STMATRIX": "stmatrix",
}  # fmt: skip


@dataclass
class Options:
    """How launches are executed.

    Attributes:
        architecture: 80 or 90.
        threads: that share the programs of a launch.
        check_shared: find races and uninitialized reads of shared memory.
        check_owner: find elements that two programs write, or one writes and another reads.
        statistics: count sectors and wavefronts.
        nearest: round sums of tensor cores to nearest instead of cutting them off.
        noise_ulps: of ex2.approx, rcp.approx and their like.
        reverse: run programs from the last to the first, and warps beginning with another one.
        step_limit: instructions of one warp of one program; beyond it a kernel is taken to never end.
    """

    architecture: int = 90
    threads: int = field(default_factory=lambda: min(os.cpu_count() or 1, 16))
    check_shared: bool = True
    check_owner: bool = True
    statistics: bool = True
    nearest: bool = False
    noise_ulps: float = 1.0
    reverse: bool = False
    step_limit: int = 1 << 28

    def __post_init__(self):
        if self.architecture not in ARCHITECTURES:
            raise InputError(f"architecture {self.architecture}: expected one of {', '.join(map(str, ARCHITECTURES))}.")


@dataclass(frozen=True)
class Fault:
    """One kind of fault at one instruction of a launch: where it happened first, and how often.

    `address` names the byte and the tensor; `extra` is the other program, warp or lane, or the size of the access.
    """

    kernel: str
    kind: str
    text: str
    where: str
    program: int
    warp: int
    lane: int
    address: str
    count: int
    extra: int

    def __str__(self) -> str:
        return (
            f"{self.kind} x{self.count} in {self.kernel}: {self.text[:70]!r} at {self.where}, program {self.program} "
            f"warp {self.warp} lane {self.lane}, {self.address} (extra {self.extra})"
        )


@dataclass
class Report:
    """One executed launch.

    Attributes:
        kernel: as it was parsed.
        grid: programs along x, y and z.
        warps: of a program.
        shared_bytes: of a program.
        faults: the faults; empty for a correct kernel.
        notes: the faults that are none by themselves.
        counts: `[instructions, 4]`, int64: warp instructions executed, lanes that were active, units moved (sectors of
            global, wavefronts of shared memory) and the least units that would hold the bytes.
        sectors_read: distinct sectors of 32 bytes.
        sectors_written: alike.
        seconds: on this processor.
        arguments: by name; tensors as (shape, dtype).
        meta: of the launch config: block sizes.
        launch: of this project's kernels; None of others.
    """

    kernel: Kernel
    grid: tuple[int, int, int]
    warps: int
    shared_bytes: int
    faults: list[Fault]
    notes: list[Fault]
    counts: np.ndarray
    sectors_read: int
    sectors_written: int
    seconds: float
    arguments: dict[str, Any] = field(default_factory=dict)
    meta: dict[str, Any] = field(default_factory=dict)
    launch: Launch | None = None

    @property
    def name(self) -> str:
        """Name of the kernel."""
        return self.kernel.name

    @property
    def programs(self) -> int:
        """Programs of the grid."""
        return int(np.prod(self.grid))

    def instructions(self) -> int:
        """Return the warp instructions that were executed."""
        return int(self.counts[:, 0].sum())

    def by_class(self) -> Counter[str]:
        """Return the warp instructions by class."""
        found: Counter[str] = Counter()
        for operation, row in zip(self.kernel.operations, self.counts, strict=True):
            found[_class_of(operation)] += int(row[0])
        return found

    def moves(self) -> dict[str, tuple[int, int]]:
        """Return (units moved, least units) by the values of `MOVES`."""
        found: dict[str, list[int]] = defaultdict(lambda: [0, 0])
        for operation, row in zip(self.kernel.operations, self.counts, strict=True):
            if operation in MOVES:
                found[MOVES[operation]][0] += int(row[2])
                found[MOVES[operation]][1] += int(row[3])
        return {kind: (moved, least) for kind, (moved, least) in found.items()}

    def multiply_adds(self) -> int:
        """Return the multiply-adds that tensor cores are given."""
        total = 0
        for operation, code, row in zip(self.kernel.operations, self.kernel.code, self.counts, strict=True):
            depth = 8 if code[1] & 3 == 2 else 16
            if operation == "MMA":
                total += int(row[0]) * 16 * 8 * depth
            elif operation == "WGMMA":
                total += int(row[0]) * 16 * code[3] * depth
        return total

    def by_line(self, operations: Iterable[str] | None = None, column: int = 0) -> list[tuple[str, int, int]]:
        """Return (place in Python, count, least units) with the largest counts first.

        Args:
            operations: count these only; None counts all.
            column: of `counts`.
        """
        wanted = None if operations is None else set(operations)
        found: dict[str, list[int]] = defaultdict(lambda: [0, 0])
        for operation, where, row in zip(self.kernel.operations, self.kernel.where, self.counts, strict=True):
            if wanted is None or operation in wanted:
                found[where][0] += int(row[column])
                found[where][1] += int(row[3])
        lines = [(where, count, least) for where, (count, least) in found.items() if count]
        return sorted(lines, key=lambda line: -line[1])


def _class_of(operation: str) -> str:
    return next((name for name, begins in _CLASSES.items() if operation.startswith(begins)), "integer")


@dataclass
class _Storage:
    """A storage of tensors, and where its copy begins in the arena."""

    data: np.ndarray
    names: list[str]
    begin: int


_parsed: dict[str, Kernel] = {}


class Machine:
    """Runs launches on CPU tensors and keeps a report of each.

    Attributes:
        options: how; may be changed between launches.
        reports: of the launches so far.
    """

    def __init__(self, options: Options | None = None):
        self.options = options or Options()
        self.reports: list[Report] = []

    @contextlib.contextmanager
    def takes_launches(self) -> Iterator[None]:
        """Run the launches of this project's kernels inside, on CPU tensors, as if on a GPU of the architecture."""
        with launch.executed_by(self._run_launch, self.options.architecture):
            yield

    def _run_launch(self, started: Launch) -> None:
        if started.programs:  # a launch of none is nothing
            options = launch_options(started.config)
            report = self.run(started.kernel, (started.programs,), started.arguments, options, started.config.kwargs)
            report.launch = started

    def run(
        self, kernel: Any, grid: Sequence[int], arguments: dict[str, Any], options: dict[str, Any], meta: dict[str, Any]
    ) -> Report:
        """Compile and run a kernel.

        Args:
            kernel: a `triton.jit` function.
            grid: programs along x, y and z; those that are not given are 1.
            arguments: by name, all parameters of the kernel.
            options: of the compiler; `num_warps` among them.
            meta: kept in the report.

        Raises:
            InputError: a grid, tensor or amount of shared memory that the architecture does not have, or a warp that
                does not end within `step_limit` instructions.
            Unsupported: an instruction that is not known.
        """
        name = kernel.__name__
        grid = _checked_grid(name, grid)
        parsed, shared_bytes, names = self._compile(kernel, arguments, options)
        limit = SHARED_MEMORY[self.options.architecture]
        if shared_bytes > limit:
            raise InputError(
                f"{name} needs {shared_bytes} bytes of shared memory, and sm_{self.options.architecture} has {limit}."
            )
        report = self.execute(parsed, grid, [(key, arguments[key]) for key in names], shared_bytes)
        report.meta = dict(meta)
        report.arguments = {
            key: (tuple(value.shape), value.dtype) if isinstance(value, torch.Tensor) else value
            for key, value in arguments.items()
        }
        return report

    def _compile(
        self, kernel: Any, arguments: dict[str, Any], options: dict[str, Any]
    ) -> tuple[Kernel, int, list[str]]:
        """Return the parsed kernel, its shared bytes and the names of the arguments that it takes at run time."""
        compiled = compile_kernel(kernel, arguments, options, self.options.architecture, machine_code=False)
        key = compiled.hash
        if key not in _parsed:
            _parsed[key] = parse(compiled.asm["ptx"])
        names = [name for name, kind in compiled.src.signature.items() if kind != "constexpr"]
        return _parsed[key], compiled.metadata.shared, names

    def execute(
        self, kernel: Kernel, grid: tuple[int, int, int], values: Sequence[tuple[str, Any]], shared_bytes: int
    ) -> Report:
        """Run a parsed kernel.

        Args:
            kernel: the kernel.
            grid: programs along x, y and z.
            values: name and value (CPU tensor, int, float or bool) of each parameter; those that the compiler adds
                behind them, scratch memory that Triton's kernels do not use, are null.
            shared_bytes: of a program.

        Raises:
            InputError: a tensor on another device, or a warp that does not end within `step_limit` instructions.
        """
        started = time.perf_counter()
        options = self.options
        arena = _Arena(kernel.name, values)
        programs = int(np.prod(grid))
        order = np.arange(programs, dtype=np.int64)
        if options.reverse:
            order = order[::-1].copy()
        code = np.array(kernel.code, np.int32)
        operands = np.array(kernel.operands, np.int32)
        constants = _with_parameters(kernel, values, arena)
        owner = np.zeros(arena.size // 2 + 1, np.uint32) if options.check_owner else None
        sectors = np.zeros((2, arena.size // 32 + 2), np.uint8)
        counts = np.zeros((len(code), 4), np.uint64)
        faults, fault_count = (FaultRecord * _MOST_FAULTS)(), ctypes.c_int32(0)
        ranges = (Range * max(len(arena.storages), 1))(*((begin, end) for begin, end in arena.ranges()))
        warps = kernel.threads // 32
        block_16, block_32, extra_bits = _TENSOR_CORES[options.architecture]
        # The order of atomics decides their results: one thread keeps to the order of programs.
        threads = 1 if "ATOM" in kernel.operations else min(options.threads, programs)
        job = Job(
            code=code.ctypes.data, code_size=len(code), operands=operands.ctypes.data,
            constants=constants.ctypes.data, register_words=kernel.register_words, predicates=kernel.predicates,
            warps=warps, shared_bytes=shared_bytes, unit_shift=kernel.unit_shift,
            tensors=ctypes.addressof(ranges), tensor_count=len(arena.storages), grid=grid, arena=arena.address,
            owner=None if owner is None else owner.ctypes.data,
            sectors_read=sectors[0].ctypes.data, sectors_written=sectors[1].ctypes.data,
            programs=programs, order=order.ctypes.data, first_warp=warps // 2 if options.reverse else 0,
            check_shared=options.check_shared, statistics=options.statistics, threads=threads,
            block_16=block_16, block_32=block_32, extra_bits=extra_bits, nearest=options.nearest,
            noise_ulps=options.noise_ulps, most_faults=_MOST_FAULTS, step_limit=options.step_limit,
            counts=counts.ctypes.data, faults=ctypes.addressof(faults), fault_count=ctypes.addressof(fault_count),
        )  # fmt: skip
        ended = library().ptx_run(ctypes.byref(job))
        arena.write_back()
        found = [_fault(kernel, faults[number], arena) for number in range(fault_count.value)]
        if not ended:
            raise InputError(_endless(kernel, found, options.step_limit))
        report = Report(
            kernel, grid, warps, shared_bytes,
            [fault for fault in found if not fault.kind.startswith(_NOTE)],
            [fault for fault in found if fault.kind.startswith(_NOTE)],
            counts.astype(np.int64), int(sectors[0].sum()), int(sectors[1].sum()), time.perf_counter() - started,
        )  # fmt: skip
        self.reports.append(report)
        return report


class _Arena:
    """One block of memory with a copy of each storage that the tensors of a launch lie in, guards between them."""

    def __init__(self, kernel: str, values: Sequence[tuple[str, Any]]):
        self.storages: dict[int, _Storage] = {}
        self.size = _GUARD
        for name, value in values:
            if not isinstance(value, torch.Tensor):
                continue
            if value.device.type != "cpu":
                raise InputError(f"{kernel}: {name} is on {value.device}; expected a tensor on the CPU.")
            storage = value.untyped_storage()
            if storage.data_ptr() not in self.storages:
                # The bytes of the storage itself, so that results are written where the tensors are.
                data = np.empty(0, np.uint8)
                if storage.nbytes():
                    memory = (ctypes.c_uint8 * storage.nbytes()).from_address(storage.data_ptr())
                    data = np.frombuffer(memory, np.uint8)
                # As aligned as it is: the compiler was told of multiples of 16.
                self.size += storage.data_ptr() % 64
                self.storages[storage.data_ptr()] = _Storage(data, [], self.size)
                self.size = -(-(self.size + data.size) // 512) * 512 + _GUARD
            self.storages[storage.data_ptr()].names.append(name)
        self._memory = np.zeros(self.size + 4096, np.uint8)
        self.address = -(-self._memory.ctypes.data // 4096) * 4096
        for storage in self.storages.values():
            self._copy_of(storage)[:] = storage.data

    def _copy_of(self, storage: _Storage) -> np.ndarray:
        begin = self.address - self._memory.ctypes.data + storage.begin
        return self._memory[begin : begin + storage.data.size]

    def ranges(self) -> Iterator[tuple[int, int]]:
        """Yield the addresses of each storage's copy."""
        for storage in self.storages.values():
            begin = self.address + storage.begin
            yield begin, begin + storage.data.size

    def address_of(self, tensor: torch.Tensor) -> int:
        """Return the address of the copy of the first element."""
        storage = tensor.untyped_storage()
        offset = tensor.storage_offset() * tensor.element_size()
        return self.address + self.storages[storage.data_ptr()].begin + offset

    def write_back(self) -> None:
        """Copy every storage back to its tensors."""
        for storage in self.storages.values():
            storage.data[:] = self._copy_of(storage)

    def described(self, address: int) -> str:
        """Return the byte of the nearest tensor that an address is."""
        if not self.storages:
            return f"address {address:#x}"

        def distance(storage: _Storage) -> int:
            begin = self.address + storage.begin
            return max(begin - address, address - begin - storage.data.size, 0)

        nearest = min(self.storages.values(), key=distance)
        byte = address - self.address - nearest.begin
        return f"byte {byte} of {'/'.join(nearest.names)} ({nearest.data.size} bytes)"


def _checked_grid(name: str, grid: Sequence[int]) -> tuple[int, int, int]:
    grid = tuple(int(size) for size in grid)
    if not 1 <= len(grid) <= 3 or any(size < 1 for size in grid):
        raise InputError(f"{name}: a grid of {grid}; expected one to three numbers of at least 1.")
    whole = (*grid, 1, 1)[:3]
    if any(size > limit for size, limit in zip(whole, LARGEST_GRID, strict=True)):
        raise InputError(f"{name}: a grid of {grid}; a GPU takes at most {LARGEST_GRID}.")
    return whole


def _with_parameters(kernel: Kernel, values: Sequence[tuple[str, Any]], arena: _Arena) -> np.ndarray:
    """Return the constants of the kernel with the parameters filled in."""
    if len(values) > len(kernel.parameters):
        raise InputError(f"{kernel.name} has {len(kernel.parameters)} parameters, and {len(values)} are given.")
    # 64 bytes more, so that they begin where vector loads like it.
    memory = np.zeros(len(kernel.constants) + 16, np.uint32)
    begin = -memory.ctypes.data % 64 // 4
    constants = memory[begin : begin + len(kernel.constants)]
    constants[:] = kernel.constants
    for (kind, place), (_, value) in zip(kernel.parameters, values, strict=False):
        wide = kind.endswith("64")
        if isinstance(value, torch.Tensor):
            bits = arena.address_of(value)
        elif kind == "f64":
            bits = struct.unpack("<Q", struct.pack("<d", value))[0]
        elif isinstance(value, float):
            bits = float_bits(value)
        else:
            bits = int(value) & (2**64 - 1 if wide else 2**32 - 1)
        constants[place : place + (64 if wide else 32)] = [bits & 0xFFFFFFFF, bits >> 32] * 32 if wide else bits
    return constants


def float_bits(value: float) -> int:
    """Return the pattern of a float32."""
    return struct.unpack("<I", struct.pack("<f", value))[0]


def _fault(kernel: Kernel, record: FaultRecord, arena: _Arena) -> Fault:
    kind = list(FAULTS.values())[record.kind]
    in_global = kind.startswith(("global", "two", "program"))
    return Fault(
        kernel.name, kind, kernel.text[record.instruction], kernel.where[record.instruction], record.program,
        record.warp, record.lane, arena.described(record.address) if in_global else f"address {record.address:#x}",
        record.count, record.extra,
    )  # fmt: skip


def _endless(kernel: Kernel, found: Sequence[Fault], limit: int) -> str:
    where = next((f" at {fault.where}" for fault in found if fault.kind == FAULTS["STEP_LIMIT"]), "")
    return f"{kernel.name} does not end: a warp is still running after {limit} instructions{where}."
