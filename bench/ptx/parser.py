"""Parse the PTX of one kernel to the executor's instruction array: read, lower, give registers their places."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from bench.ptx.lowering import Lowering, Operand, Operation
from bench.ptx.opcodes import NUMBER_OF_OPERATION, SPECIAL_REGISTERS
from bench.ptx.reader import read

_CONSTANT_PREDICATES = 2  # false and true


@dataclass(frozen=True)
class Kernel:
    """A kernel as the executor takes it, a line an instruction.

    Attributes:
        name: of the kernel.
        text: of each instruction.
        where: file and line of its Python source.
        operations: its operation's name.
        code: operation, modifier, guard, count, place of its operands, target.
        operands: places of registers (words of a warp's file), of constants (-1 - place), or plain numbers.
        constants: words; see `Lowering`.
        parameters: type and place in `constants`.
        register_words: of a warp.
        predicates: of a warp.
        threads: of a program.
        unit_shift: log2 of the bytes of the narrowest access to shared memory.
    """

    name: str
    text: list[str]
    where: list[str]
    operations: list[str]
    code: list[tuple[int, int, int, int, int, int]]
    operands: list[int]
    constants: list[int]
    parameters: list[tuple[str, int]]
    register_words: int
    predicates: int
    threads: int
    unit_shift: int


def parse(ptx: str) -> Kernel:
    """Parse the kernel of a module.

    Raises:
        Unsupported: an instruction, operand or directive that is not known; the message names it.
    """
    entry = read(ptx)
    lowering = Lowering(entry)
    places, register_words = allocate_registers(lowering.operations, entry.labels)
    predicates: dict[str, int] = {}
    code, operands = [], []
    for operation in lowering.operations:
        first = len(operands)
        operands += [_place(operand, places, predicates) for operand in operation.operands]
        guard = -1
        if operation.guard:
            register, negated = operation.guard
            guard = _place(Operand("predicate", register), places, predicates) << 1 | negated
        target = operation.target
        if operation.predicate:
            target = _place(operation.predicate, places, predicates)
        number = NUMBER_OF_OPERATION[operation.name]
        code.append((number, operation.modifier, guard, operation.count, first, target))
    return Kernel(
        entry.name,
        [instruction.text for instruction in entry.instructions],
        [instruction.where for instruction in entry.instructions],
        [operation.name for operation in lowering.operations],
        code,
        operands,
        lowering.constants,
        lowering.parameters,
        register_words,
        _CONSTANT_PREDICATES + len(predicates),
        entry.threads,
        max(min(lowering.shared_widths).bit_length() - 1, 1),
    )


def _place(operand: Operand, places: dict[str, int], predicates: dict[str, int]) -> int:
    if operand.kind == "register":
        return places[operand.value]
    if operand.kind == "predicate":
        return predicates.setdefault(operand.value, _CONSTANT_PREDICATES + len(predicates))
    if operand.kind == "constant":
        return -operand.value - 1
    return operand.value  # a special register or a number


class Block(NamedTuple):
    """Instructions that run one after another: first, behind the last, and the blocks that may follow."""

    first: int
    end: int
    following: list[int]


def allocate_registers(operations: Sequence[Operation], labels: dict[str, int]) -> tuple[dict[str, int], int]:
    """Return the first word of each virtual register in a warp's file, and the words of the file.

    A virtual register keeps its place from its first appearance to its last, widened to the blocks that it lives
    through; another takes the place afterwards (linear scan). PTX names thousands, and a file of all of them would
    not fit a processor's cache.
    """
    accesses = [_registers_of(operation) for operation in operations]
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    for register, number in _appearances(accesses, operations, labels):
        first[register] = min(first.get(register, number), number)
        last[register] = max(last.get(register, number), number)
    places: dict[str, int] = {}
    free: dict[int, list[int]] = {32: [], 64: []}
    living: list[tuple[int, str]] = []
    top = 32 * len(SPECIAL_REGISTERS)
    for register in sorted(first, key=first.__getitem__):
        while living and living[0][0] < first[register]:
            _, ended = heapq.heappop(living)
            free[_words(ended)].append(places[ended])
        if not free[_words(register)]:
            free[_words(register)].append(top)
            top += _words(register)
        places[register] = free[_words(register)].pop()
        heapq.heappush(living, (last[register], register))
    return places, top


def _words(register: str) -> int:
    return 64 if register.startswith(("%rd", "%fd")) else 32


def _registers_of(operation: Operation) -> tuple[set[str], set[str]]:
    """Return the registers that an operation reads and writes.

    A guarded write keeps what other lanes held, and wgmma adds to its sums: both read too.
    """
    registers = [operand.value if operand.kind == "register" else None for operand in operation.operands]
    written = {register for register in registers[: operation.results] if register}
    sources = {register for register in registers[operation.results :] if register}
    if operation.guard or operation.name == "WGMMA":
        sources |= written
    return sources, written


def _blocks(operations: Sequence[Operation], labels: dict[str, int]) -> list[Block]:
    ends = [number + 1 for number, operation in enumerate(operations) if operation.name in ("BRA", "RET")]
    starts = sorted({0, *labels.values(), *ends} - {len(operations)})
    number_of = {start: number for number, start in enumerate(starts)}
    blocks = []
    for number, start in enumerate(starts):
        end = starts[number + 1] if number + 1 < len(starts) else len(operations)
        last = operations[end - 1]
        following = [number_of[last.target]] if last.name == "BRA" else []
        if last.name not in ("BRA", "RET") or last.guard:
            following.append(number + 1)
        blocks.append(Block(start, end, [block for block in following if block < len(starts)]))
    return blocks


def _appearances(
    accesses: Sequence[tuple[set[str], set[str]]], operations: Sequence[Operation], labels: dict[str, int]
) -> Iterator[tuple[str, int]]:
    """Yield each register with each instruction that it is used at or has to live to."""
    for number, (sources, results) in enumerate(accesses):
        for register in sources | results:
            yield register, number
    blocks = _blocks(operations, labels)
    used, defined = [], []
    for block in blocks:
        use: set[str] = set()
        define: set[str] = set()
        for sources, results in accesses[block.first : block.end]:
            use |= sources - define
            define |= results
        used.append(use)
        defined.append(define)
    live_in: list[set[str]] = [set() for _ in blocks]
    live_out: list[set[str]] = [set() for _ in blocks]
    changed = True
    while changed:
        changed = False
        for number in reversed(range(len(blocks))):
            live_out[number] = set().union(*(live_in[block] for block in blocks[number].following))
            alive = used[number] | (live_out[number] - defined[number])
            changed |= alive != live_in[number]
            live_in[number] = alive
    for block, entering, leaving in zip(blocks, live_in, live_out, strict=True):
        for register in entering:
            yield register, block.first
        for register in leaving:
            yield register, block.end - 1
