"""Lower instructions of PTX to operations of the executor, one family of instructions a function."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from bench.ptx.opcodes import ATOMIC_OPERATIONS, ATOMIC_TYPES, SPECIAL_REGISTERS, numbers
from bench.ptx.reader import Entry, Instruction, Unsupported, split_operands

BITS = {
    "b8": 8, "u8": 8, "s8": 8, "b16": 16, "u16": 16, "s16": 16, "f16": 16, "bf16": 16, "b32": 32, "u32": 32,
    "s32": 32, "f32": 32, "f16x2": 32, "bf16x2": 32, "b64": 64, "u64": 64, "s64": 64, "f64": 64,
}  # fmt: skip
KIND = {8: "h", 16: "h", 32: "r", 64: "d"}  # of an operand by its bits; p is a predicate
_COMPARISONS = {"eq": 0, "ne": 1, "lt": 2, "le": 3, "gt": 4, "ge": 5, "lo": 2, "ls": 3, "hi": 4, "hs": 5}
_OR_NAN = 16
_FLOAT_COMPARISONS = {
    **_COMPARISONS, "num": 6, "nan": 7,
    **{f"{name}u": _COMPARISONS[name] + _OR_NAN for name in ("eq", "ne", "lt", "le", "gt", "ge")},
}  # fmt: skip
MATRIX_TYPES = {"bf16": 0, "f16": 1, "tf32": 2}
_HALF_TYPES = {"bf16": 0, "f16": 1}
_ROUNDINGS = {"rni": 0, "rzi": 1, "rmi": 2, "rpi": 3}
_FLUSH, _APPROXIMATE = 1, 2  # of float32 arithmetic

_INTEGERS = (("32", "r"), ("64", "d"), ("16", "h"))
# Operation and kinds of operands, the destination first, of the opcodes that need nothing else.
SIMPLE: dict[str, tuple[str, str]] = {
    **{f"mov.{t}{bits}": ("MOV64" if kind == "d" else "MOV32", 2 * kind) for bits, kind in _INTEGERS for t in "bus"},
    "mov.f32": ("MOV32", "rr"), "mov.f64": ("MOV64", "dd"), "mov.pred": ("MOVP", "pp"),
    **{
        f"{name}.{t}{bits}": (f"{operation}{bits}", 3 * kind)
        for name, operation in (("add", "ADD"), ("sub", "SUB"), ("mul.lo", "MUL"))
        for bits, kind in _INTEGERS for t in "usb"
    },
    **{f"mad.lo.{t}{bits}": (f"MAD{bits}", 4 * kind) for bits, kind in _INTEGERS[:2] for t in "us"},
    "mul.hi.s32": ("MULHI_S32", "rrr"), "mul.hi.u32": ("MULHI_U32", "rrr"),
    "mul.wide.s32": ("MULW_S32", "drr"), "mul.wide.u32": ("MULW_U32", "drr"),
    "mad.wide.s32": ("MADW_S32", "drrd"), "mad.wide.u32": ("MADW_U32", "drrd"),
    **{f"{o}.b{bits}": (f"{o.upper()}{bits}", 3 * kind) for o in ("and", "or", "xor") for bits, kind in _INTEGERS},
    **{f"not.b{bits}": (f"NOT{bits}", 2 * kind) for bits, kind in _INTEGERS},
    **{f"{o}.pred": (f"P{o.upper()}", "ppp") for o in ("and", "or", "xor")}, "not.pred": ("PNOT", "pp"),
    **{f"shl.b{bits}": (f"SHL{bits}", 2 * kind + "r") for bits, kind in _INTEGERS},
    **{f"shr.{t}{bits}": (f"SHR_U{bits}", 2 * kind + "r") for bits, kind in _INTEGERS for t in "ub"},
    **{f"shr.s{bits}": (f"SHR_S{bits}", 2 * kind + "r") for bits, kind in _INTEGERS},
    **{f"{o}.{t}{bits}": (f"{o.upper()}_{t.upper()}{bits}", 3 * kind)
       for o in ("min", "max", "div", "rem") for t in "us" for bits, kind in _INTEGERS[:2]},
    "neg.s32": ("NEG32", "rr"), "neg.s64": ("NEG64", "dd"), "abs.s32": ("ABS_S32", "rr"),
    "bfe.u32": ("BFE_U32", "rrrr"), "bfe.s32": ("BFE_S32", "rrrr"), "prmt.b32": ("PRMT", "rrrr"),
    "popc.b32": ("POPC", "rr"), "clz.b32": ("CLZ", "rr"), "brev.b32": ("BREV", "rr"),
    **{f"{o}{nan}{ftz}.f32": (f"F{o.upper()}{nan.upper().replace('.', '_')}", "rrr")
       for o in ("min", "max") for nan in ("", ".NaN") for ftz in ("", ".ftz")},
    **{f"{o}{ftz}.f32": (f"F{o.upper()}", "rr") for o in ("neg", "abs") for ftz in ("", ".ftz")},
    "copysign.f32": ("FCOPYSIGN", "rrr"), "tanh.approx.f32": ("FTANH", "rr"),
    "sin.approx.f32": ("FSIN", "rr"), "cos.approx.f32": ("FCOS", "rr"),
    "sin.approx.ftz.f32": ("FSIN", "rr"), "cos.approx.ftz.f32": ("FCOS", "rr"),
    **{f"selp.{t}": ("SEL64" if bits == 64 else "SEL32", 3 * KIND[bits] + "p") for t, bits in BITS.items()},
    "cvt.s64.s32": ("SEXT64", "dr"), "cvt.u64.u32": ("ZEXT64", "dr"), "cvt.s64.s16": ("SEXT64", "dh"),
    **{f"cvt.{t}.{t2}64": ("TRUNC32", "rd") for t in ("u32", "s32") for t2 in "us"},
    "cvt.u64.u16": ("ZEXT64", "dh"), "cvt.u16.u64": ("TRUNC32", "hd"),
    **{f"cvt.{t}16.{t2}32": ("LOW16", "hr") for t in "us" for t2 in "us"},
    **{f"cvt.{t}8.{t2}": ("LOW8", "h" + kind) for t in "us" for t2, kind in (("u32", "r"), ("s32", "r"), ("u16", "h"))},
    "cvt.u32.u16": ("LOW16", "rh"), "cvt.s32.u16": ("LOW16", "rh"), "cvt.s32.s16": ("SEXT16", "rh"),
    "cvt.u32.s16": ("SEXT16", "rh"), "cvt.u16.u8": ("LOW8", "hh"), "cvt.u32.u8": ("LOW8", "rh"),
    "cvt.s16.s8": ("SEXT8", "hh"), "cvt.s32.s8": ("SEXT8", "rh"),
    "cvt.f32.bf16": ("F32_BF16", "rh"), "cvt.f32.f16": ("F32_F16", "rh"), "cvt.rna.tf32.f32": ("TF32_F32", "rr"),
    "cvt.rn.bf16x2.f32": ("BF16X2_F32", "rrr"), "cvt.rn.f16x2.f32": ("F16X2_F32", "rrr"),
    "cvt.rn.bf16.f32": ("BF16_F32", "hr"), "cvt.rn.f16.f32": ("F16_F32", "hr"),
    **{f"cvt.rn.f32.{t}{bits}": (f"F32_{t.upper()}{bits}", "r" + kind)
       for t in "us" for bits, kind in (("32", "r"), ("64", "d"))},
    "cp.async.commit_group": ("CP_COMMIT", ""), "bar.warp.sync": ("WARPBAR", "r"), "ret": ("RET", ""),
    "fence.proxy.async.shared::cta": ("PROXY_FENCE", ""),
    "wgmma.fence.sync.aligned": ("NOP", ""), "wgmma.commit_group.sync.aligned": ("WGMMA_COMMIT", ""),
}  # fmt: skip
_WITHOUT_RESULT = ("CP_COMMIT", "WARPBAR", "RET", "PROXY_FENCE", "NOP", "WGMMA_COMMIT")
# Hints to caches change no result: where a line is kept is not modeled.
_CACHE_HINTS = re.compile(
    r"\.(L[12]::(cache_hint|evict_\w+|no_allocate|\d+B)|evict_\w+|ca|cg|cs|lu|cv|wb|wt|volatile|nc|relaxed|acquire|release|weak|gpu|cta|sys)\b"
)


class Operand(NamedTuple):
    """An operand: a `register` or `predicate` by name, a `constant` or `special` register by place, a plain `number`.

    A dropped result is the number -1.
    """

    kind: str
    value: str | int


DROPPED = Operand("number", -1)


@dataclass
class Operation:
    """An operation and what it is given.

    Attributes:
        name: in `opcodes`.
        operands: results first.
        results: how many of them are written.
        modifier: what the executor's operation says it is.
        count: of elements, columns or sources.
        target: the instruction of a branch, the byte offset of an access.
        predicate: of wgmma: whether the sum so far counts.
        guard: as of the instruction.
    """

    name: str
    operands: list[Operand]
    results: int = 0
    modifier: int = 0
    count: int = 0
    target: int = 0
    predicate: Operand | None = None
    guard: tuple[str, bool] | None = None


class Lowering:
    """The instructions of one kernel as operations, and the constants that they need.

    Attributes:
        constants: words; a constant of 32 bits takes one for each of 32 lanes, one of 64 bits two.
        parameters: type, and place in `constants`, of each parameter of the kernel.
        operations: one an instruction.
        shared_widths: bytes of the accesses to shared memory.
    """

    def __init__(self, entry: Entry):
        self.entry = entry
        self.constants: list[int] = []
        self.parameters: list[tuple[str, int]] = []
        self.shared_widths = {16}
        self._places: dict[tuple[bool, int], int] = {}
        for kind in entry.parameters:
            self.parameters.append((kind, len(self.constants)))
            self.constants += [0] * (64 if BITS[kind] == 64 else 32)
        self.operations = [self._lower(instruction) for instruction in entry.instructions]

    def _lower(self, instruction: Instruction) -> Operation:
        """Lower one instruction.

        Raises:
            Unsupported: it is not known; the message names it.
        """
        opcode, given = instruction.opcode, instruction.operands
        try:
            if opcode.startswith("mov.b") and any(operand.startswith("{") for operand in given):
                operation = self._pack_or_unpack(opcode, given)
            elif opcode in SIMPLE:
                operation = self._simple(opcode, given)
            else:
                family = _FAMILIES[opcode.split(".")[0]]
                operation = family(self, opcode.split("."), given)
        except (KeyError, IndexError, ValueError) as error:
            raise Unsupported(
                f"{self.entry.name}: instruction {instruction.text!r} ({instruction.where}) is not known"
            ) from error
        operation.guard = instruction.guard
        return operation

    # ---- operands

    def _constant(self, value: int, kind: str = "r") -> Operand:
        """Return a constant; kind `d` has 64 bits, `h` 16 and the others 32."""
        wide = kind == "d"
        value &= {"d": 2**64 - 1, "h": 2**16 - 1}.get(kind, 2**32 - 1)
        if (wide, value) not in self._places:
            self._places[wide, value] = len(self.constants)
            self.constants += [value & 0xFFFFFFFF, value >> 32] * 32 if wide else [value] * 32
        return Operand("constant", self._places[wide, value])

    def _operand(self, text: str, kind: str) -> Operand:
        if text == "_":
            return DROPPED
        if text in SPECIAL_REGISTERS:
            return Operand("special", 32 * SPECIAL_REGISTERS.index(text))
        if re.fullmatch(r"%p\d+", text):
            return Operand("predicate", text)
        if re.fullmatch(r"%(rs|rd|r|f|fd|h|hh)\d+", text):
            return Operand("register", text)
        if kind == "p":
            return Operand("number", 1 if int(text, 0) else 0)  # the predicates that never change
        if text == "global_smem":
            return self._constant(1024, kind)
        if text[:2] in ("0f", "0F", "0d", "0D"):
            return self._constant(int(text[2:], 16), kind)
        return self._constant(int(text.rstrip("U"), 0), kind)

    def _operands(self, texts: list[str], kinds: str) -> list[Operand]:
        return [self._operand(text, kind) for text, kind in zip(texts, kinds, strict=True)]

    def _address(self, text: str, kind: str) -> tuple[Operand, int]:
        """Return the register of an address and the bytes that are added to it."""
        found = re.fullmatch(r"\[\s*([%\w.$]+?)\s*(?:\+\s*(-?\d+))?\s*\]", text)
        if not found:
            raise ValueError(text)
        return self._operand(found[1], kind), int(found[2] or 0)

    def _group(self, text: str, kind: str) -> list[Operand]:
        """Return the registers in braces, or the single one without."""
        parts = split_operands(text[1:-1]) if text.startswith("{") else [text]
        return [self._operand(part, kind) for part in parts]

    # ---- registers and arithmetic

    def _simple(self, opcode: str, given: list[str]) -> Operation:
        name, kinds = SIMPLE[opcode]
        if name in _WITHOUT_RESULT:
            return Operation(name, [])
        return Operation(name, self._operands(given, kinds), results=1)

    def _pack_or_unpack(self, opcode: str, given: list[str]) -> Operation:
        whole, half = {"mov.b32": ("r", "h"), "mov.b64": ("d", "r")}[opcode]
        result, source = given
        unpacks = result.startswith("{")
        operands = self._group(result, half if unpacks else whole) + self._group(source, whole if unpacks else half)
        if len(operands) != 3:
            raise ValueError(given)
        return Operation(f"{'UN' * unpacks}PACK{opcode[-2:]}", operands, results=2 if unpacks else 1)

    def _float(self, parts: list[str], given: list[str]) -> Operation:
        """Lower add, sub, mul, fma, min, max, neg and abs of float32 and of 16-bit floats, alone and packed."""
        name, *modifiers, kind = parts
        nan = "_NAN" if "NaN" in modifiers else ""
        if set(modifiers) - {"rn", "ftz", "NaN"}:
            raise ValueError(parts)
        if kind == "f32":
            name = {"add": "FADD", "sub": "FSUB", "mul": "FMUL", "fma": "FFMA"}[name]
            operands = self._operands(given, "rrrr"[: 4 if name == "FFMA" else 3])
            return Operation(name, operands, results=1, modifier=_FLUSH * ("ftz" in modifiers))
        half, packed = kind.removesuffix("x2"), kind.endswith("x2")
        operands = self._operands(given, ("r" if packed else "h") * len(given))
        modifier = _HALF_TYPES[half] | packed << 1
        return Operation(f"H{name.upper()}{nan}", operands, results=1, modifier=modifier, count=len(given) - 1)

    def _approximate(self, parts: list[str], given: list[str]) -> Operation:
        """Lower rcp, sqrt, rsqrt, ex2, lg2 and div of float32."""
        name, how, *flush, kind = parts
        if kind != "f32" or flush not in ([], ["ftz"]) or how not in ("approx", "rn", "full"):
            raise ValueError(parts)
        if name == "div":
            name = {"full": "FDIV", "approx": "FDIV", "rn": "FDIV_RN"}[how]
        else:
            name = {"rcp": "FRCP", "sqrt": "FSQRT", "rsqrt": "FRSQRT", "ex2": "FEX2", "lg2": "FLG2"}[name]
        modifier = _FLUSH * bool(flush) | _APPROXIMATE * (how == "approx")
        return Operation(name, self._operands(given, "r" * len(given)), results=1, modifier=modifier)

    def _convert(self, parts: list[str], given: list[str]) -> Operation:
        """Lower float32 to integers and to whole floats, and what takes a flush or saturation that changes nothing."""
        _, *how, to, source = parts
        rounding, *rest = how
        if source != "f32" or rest not in ([], ["ftz"]):
            raise ValueError(parts)
        name = "FRND" if to == "f32" else f"{to.upper()}_F32"
        if to not in ("f32", "s32", "u32", "s64", "u64"):
            raise ValueError(parts)
        operands = self._operands(given, KIND[BITS[to]] + "r")
        return Operation(name, operands, results=1, modifier=_ROUNDINGS[rounding])

    def _compare(self, parts: list[str], given: list[str]) -> Operation:
        _, comparison, *combined, kind = parts
        if combined not in ([], ["ftz"]):
            raise ValueError(parts)
        if kind in ("f16x2", "bf16x2"):  # a predicate for each half: `%p1|%p2`
            operands = self._operands([*given[0].split("|"), *given[1:]], "pprr")
            how = _FLOAT_COMPARISONS[comparison] | _HALF_TYPES[kind.removesuffix("x2")] << 8
            return Operation("SETP_HALF2", operands, results=2, modifier=how)
        if kind in ("f32", "f16", "bf16"):
            name, how = f"SETP_{kind.upper()}", _FLOAT_COMPARISONS[comparison]
        else:
            sign = "S" if kind.startswith("s") else "U"
            name, how = f"SETP_{sign}{BITS[kind]}", _COMPARISONS[comparison]
        operands = self._operands(given, "p" + 2 * KIND[BITS[kind]])
        return Operation(name, operands, results=1, modifier=how)

    def _logic(self, parts: list[str], given: list[str]) -> Operation:
        if parts != ["lop3", "b32"]:
            raise ValueError(parts)
        return Operation("LOP3", self._operands(given[:4], "rrrr"), results=1, modifier=int(given[4], 0))

    def _shift_pair(self, parts: list[str], given: list[str]) -> Operation:
        _, side, clamp, kind = parts
        if side not in ("l", "r") or clamp not in ("wrap", "clamp") or kind != "b32":
            raise ValueError(parts)
        operands = self._operands(given, "rrrr")
        return Operation(f"SHF_{side.upper()}", operands, results=1, modifier=int(clamp == "wrap"))

    # ---- memory

    def _load_or_store(self, parts: list[str], given: list[str]) -> Operation:
        if parts[1] == "param":
            return self._load_parameter(parts, given)
        # A hint of `createpolicy` is the last operand.
        plain = _CACHE_HINTS.sub("", "." + ".".join(parts)).strip(".").split(".")
        name, space, *vector, kind = plain
        if space not in ("global", "shared") or vector not in ([], ["v2"], ["v4"], ["v8"]):
            raise ValueError(parts)
        load = name == "ld"
        data, place = given[:2] if load else reversed(given[:2])
        size = BITS[kind] // 8
        values = self._group(data, KIND[BITS[kind]])
        address, offset = self._address(place, "d" if space == "global" else "r")
        if space == "shared":
            self.shared_widths.add(size * len(values))
        return Operation(
            {"ld": "LD", "st": "ST"}[name] + space[0].upper(), [*values, address], results=len(values) if load else 0,
            modifier=size, count=len(values), target=offset,
        )  # fmt: skip

    def _load_parameter(self, parts: list[str], given: list[str]) -> Operation:
        _, _, kind = parts
        index = int(re.fullmatch(r"\[\w+_param_(\d+)\]", given[1])[1])
        declared, place = self.parameters[index]
        wide = given[0].startswith("%rd")
        if BITS[kind] > BITS[declared]:
            raise ValueError(parts)
        name = "MOV64" if wide else "MOV32"
        if BITS[kind] == 8:
            name = "SEXT8" if kind == "s8" else "LOW8"
        elif BITS[kind] == 16:
            name = "LOW16"
        elif wide and BITS[kind] == 32:
            name = "SEXT64" if kind == "s32" else "ZEXT64"
        result = self._operand(given[0], "d" if wide else "r")
        return Operation(name, [result, Operand("constant", place)], results=1)

    def _atomic(self, parts: list[str], given: list[str]) -> Operation:
        """Lower atom and red: `atom.global.gpu.acq_rel.add.f32`; scopes and orders change nothing here."""
        returns = parts[0] == "atom"
        what = [part for part in parts[1:] if part not in _ATOMIC_SCOPES and not part.startswith("L2::")]
        space, name, *flush, kind = what
        if space not in ("global", "shared") or flush not in ([], ["noftz"]):
            raise ValueError(parts)
        result, (place, *values) = (given[0], given[1:]) if returns else ("_", given)
        size = BITS[kind] // 8
        operand_kind = KIND[BITS[kind]]
        address, offset = self._address(place, "d" if space == "global" else "r")
        if space == "shared":
            self.shared_widths.add(size)
        sources = [self._operand(value, operand_kind) for value in values]
        sources += [self._constant(0, operand_kind)] * (2 - len(sources))
        number = numbers(ATOMIC_OPERATIONS)[ATOMIC_OPERATIONS[name]]
        number |= numbers(ATOMIC_TYPES)[ATOMIC_TYPES[kind]] << 8 | (space == "shared") << 16
        operands = [self._operand(result, operand_kind), address, *sources[:2], Operand("number", number)]
        return Operation("ATOM", operands, results=1, modifier=size, count=1, target=offset)

    def _create_policy(self, parts: list[str], given: list[str]) -> Operation:
        return Operation("MOV64", [self._operand(given[0], "d"), self._constant(0, "d")], results=1)

    def _copy_async(self, parts: list[str], given: list[str]) -> Operation:
        if parts[:3] == ["cp", "async", "wait_group"]:
            return Operation("CP_WAIT", [], modifier=int(given[0], 0))
        if parts[:3] == ["cp", "async", "wait_all"]:
            return Operation("CP_WAIT", [], modifier=0xFFFF)
        if parts[1] != "async" or parts[2] not in ("ca", "cg") or parts[3:5] != ["shared", "global"]:
            raise ValueError(parts)
        if any(not part.startswith("L2::") for part in parts[5:]):
            raise ValueError(parts)
        hinted = "L2::cache_hint" in parts
        to, to_offset = self._address(given[0], "r")
        source, offset = self._address(given[1], "d")
        size = int(given[2], 0)
        self.shared_widths.add(size)
        read = given[3 : len(given) - hinted]
        bytes_read = self._operand(read[0], "r") if read else self._constant(0)
        operands = [to, source, bytes_read, Operand("number", to_offset), Operand("number", offset)]
        return Operation("CP_ASYNC", operands, modifier=size, count=3 if read else 2)

    def _matrix_move(self, parts: list[str], given: list[str]) -> Operation:
        name, *rest = parts
        if [part for part in rest if part not in ("x1", "x2", "x4", "trans")] != [
            "sync", "aligned", "m8n8", "shared", "b16",
        ]:  # fmt: skip
            raise ValueError(parts)
        load = name == "ldmatrix"
        data, place = given if load else reversed(given)
        values = self._group(data, "r")
        address, offset = self._address(place, "r")
        return Operation(
            name.upper(), [*values, address], results=len(values) if load else 0, modifier=int("trans" in rest),
            count=len(values), target=offset,
        )  # fmt: skip

    # ---- tensor cores

    def _multiply(self, parts: list[str], given: list[str]) -> Operation:
        """Lower `mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32`."""
        shape, kind = parts[3], parts[7]
        expected = "m16n8k8" if kind == "tf32" else "m16n8k16"
        if shape != expected or parts[1:3] + parts[4:] != ["sync", "aligned", "row", "col", "f32", kind, kind, "f32"]:
            raise ValueError(parts)
        operands = [operand for text in given for operand in self._group(text, "r")]
        if len(operands) != 14:
            raise ValueError(given)
        return Operation("MMA", operands, results=4, modifier=MATRIX_TYPES[kind])

    def _multiply_group(self, parts: list[str], given: list[str]) -> Operation:
        """Lower `wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16` and `wgmma.wait_group.sync.aligned`."""
        if parts[1] == "wait_group":
            return Operation("WGMMA_WAIT", [], modifier=int(given[0], 0))
        shape, total, kind, other = parts[4:]
        columns, depth = map(int, re.fullmatch(r"m64n(\d+)k(\d+)", shape).groups())
        type_number = MATRIX_TYPES[kind]
        if parts[1] != "mma_async" or total != "f32" or other != kind or depth != (8 if kind == "tf32" else 16):
            raise ValueError(parts)
        sums = self._group(given[0], "r")
        in_registers = given[1].startswith("{")
        a = self._group(given[1], "r" if in_registers else "d")
        negate_a, negate_b, *by_columns = (int(text) for text in given[4:])
        a_by_columns = by_columns[0] if len(by_columns) == 2 else 0
        b_by_columns = by_columns[-1] if by_columns else 0
        if len(sums) != columns // 2:
            raise ValueError(given)
        modifier = type_number | in_registers << 2 | a_by_columns << 3 | b_by_columns << 4
        modifier |= (negate_a < 0) << 5 | (negate_b < 0) << 6
        return Operation(
            "WGMMA", [*sums, *a, self._operand(given[2], "d")], results=len(sums), modifier=modifier, count=columns,
            predicate=self._operand(given[3], "p"),
        )  # fmt: skip

    # ---- warps and programs

    def _shuffle(self, parts: list[str], given: list[str]) -> Operation:
        _, _, how, kind = parts
        if given[4] != "-1" or kind != "b32":
            raise ValueError(given)
        name = {"bfly": "SHFL_BFLY", "idx": "SHFL_IDX", "down": "SHFL_DOWN", "up": "SHFL_UP"}[how]
        return Operation(name, self._operands(given[:4], "rrrr"), results=1)

    def _barrier(self, parts: list[str], given: list[str]) -> Operation:
        if given != ["0"] or "sync" not in parts:
            raise ValueError(given)
        return Operation("BAR", [])

    def _branch(self, parts: list[str], given: list[str]) -> Operation:
        return Operation("BRA", [], target=self.entry.labels[given[0]])


_ATOMIC_SCOPES = ("gpu", "cta", "sys", "cluster", "relaxed", "acquire", "release", "acq_rel", "sem")
_FAMILIES: dict[str, Callable[[Lowering, list[str], list[str]], Operation]] = {
    **dict.fromkeys(("add", "sub", "mul", "fma", "min", "max", "neg", "abs"), Lowering._float),
    **dict.fromkeys(("rcp", "sqrt", "rsqrt", "ex2", "lg2", "div"), Lowering._approximate),
    **dict.fromkeys(("ld", "st"), Lowering._load_or_store),
    **dict.fromkeys(("atom", "red"), Lowering._atomic),
    **dict.fromkeys(("ldmatrix", "stmatrix"), Lowering._matrix_move),
    **dict.fromkeys(("bar", "barrier"), Lowering._barrier),
    "cvt": Lowering._convert, "setp": Lowering._compare, "lop3": Lowering._logic, "shf": Lowering._shift_pair,
    "createpolicy": Lowering._create_policy, "cp": Lowering._copy_async, "mma": Lowering._multiply,
    "wgmma": Lowering._multiply_group, "shfl": Lowering._shuffle, "bra": Lowering._branch,
}  # fmt: skip
