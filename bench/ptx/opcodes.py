"""Names that the parser (Python) and the executor (C++) share: operations, faults, atomics, special registers.

An operation works on 32 lanes. Its suffix is the width of its operands in bits, or their type; 64-bit operands take two
words of a lane. `F` is float32, `H` a 16-bit float or two of them packed, `P` a predicate.
"""

_OPERATIONS = """
MOV32 MOV64 MOVP ADD32 SUB32 MUL32 MAD32 MULHI_S32 MULHI_U32 AND32 OR32 XOR32 NOT32 SHL32 SHR_U32 SHR_S32 NEG32
ABS_S32 MIN_S32 MAX_S32 MIN_U32 MAX_U32 DIV_S32 DIV_U32 REM_S32 REM_U32 BFE_U32 BFE_S32 POPC CLZ BREV PRMT LOP3
SHF_L SHF_R ADD64 SUB64 MUL64 MAD64 AND64 OR64 XOR64 NOT64 SHL64 SHR_U64 SHR_S64 NEG64 DIV_S64 DIV_U64 REM_S64
REM_U64 MIN_S64 MAX_S64 MIN_U64 MAX_U64 MULW_S32 MULW_U32 MADW_S32 MADW_U32 AND16 OR16 XOR16 NOT16 SHL16 SHR_U16
SHR_S16 ADD16 SUB16 MUL16 FADD FSUB FMUL FFMA FMAX FMIN FMAX_NAN FMIN_NAN FNEG FABS FCOPYSIGN FDIV FDIV_RN FEX2 FLG2
FRCP FSQRT FRSQRT FSIN FCOS FTANH FRND HADD HSUB HMUL HFMA HMAX HMIN HMAX_NAN HMIN_NAN HNEG HABS SETP_S32 SETP_U32
SETP_S64 SETP_U64 SETP_F32 SETP_U16 SETP_S16 SETP_F16 SETP_BF16 SETP_HALF2 SEL32 SEL64 PAND POR PXOR PNOT SEXT64
ZEXT64 TRUNC32 LOW8 LOW16 SEXT8 SEXT16 F32_BF16 F32_F16 BF16X2_F32 F16X2_F32 BF16_F32 F16_F32 TF32_F32 F32_S32
F32_U32 F32_S64 F32_U64 S32_F32 U32_F32 S64_F32 U64_F32 PACK32 UNPACK32 PACK64 UNPACK64 LDG STG LDS STS ATOM
CP_ASYNC CP_COMMIT CP_WAIT LDMATRIX STMATRIX MMA SHFL_BFLY SHFL_IDX SHFL_DOWN SHFL_UP BAR WARPBAR BRA RET
PROXY_FENCE NOP WGMMA WGMMA_COMMIT WGMMA_WAIT
"""
OPERATIONS = _OPERATIONS.split()

# By name in the executor: how it is reported. A note is no fault: see docs/ptx.md.
FAULTS = {
    "GLOBAL_OUT_OF_BOUNDS": "global-out-of-bounds",
    "GLOBAL_MISALIGNED": "global-misaligned",
    "SHARED_OUT_OF_BOUNDS": "shared-out-of-bounds",
    "SHARED_MISALIGNED": "shared-misaligned",
    "SHARED_UNINITIALIZED_READ": "shared-uninitialized-read",
    "SHARED_READ_AFTER_WRITE": "shared-race-read-after-write",
    "SHARED_WRITE_AFTER_READ": "shared-race-write-after-read",
    "SHARED_WRITE_AFTER_WRITE": "shared-race-write-after-write",
    "SHARED_READ_WHILE_COPIED": "shared-read-while-cp.async-in-flight",
    "SHARED_WRITE_WHILE_COPIED": "shared-write-while-cp.async-in-flight",
    "SHARED_WRITE_WHILE_WGMMA_READS": "shared-write-while-wgmma-reads",
    "NO_PROXY_FENCE": "shared-no-proxy-fence-before-wgmma",
    "INTRA_WARP_RACE": "intra-warp-race-without-bar.warp.sync",
    "TWO_WRITERS": "two-programs-write-one-element",
    "FOREIGN_READ": "program-reads-what-another-wrote",
    "DIVERGENT_COLLECTIVE": "divergent-collective",
    "BARRIER_MISMATCH": "barrier-mismatch",
    "COPY_NOT_WAITED_FOR": "cp.async-not-waited-for-at-exit",
    "WGMMA_NOT_WAITED_FOR": "wgmma-not-waited-for-at-exit",
    "STEP_LIMIT": "step-limit",
    "UNKNOWN_OPERATION": "unknown-operation",
    "NOTE_COPY_WITHOUT_PROXY_FENCE": "note-cp.async-to-wgmma-without-proxy-fence",
}

ATOMIC_OPERATIONS = {
    "add": "ATOMIC_ADD", "min": "ATOMIC_MIN", "max": "ATOMIC_MAX", "exch": "ATOMIC_EXCHANGE", "cas": "ATOMIC_CAS",
    "and": "ATOMIC_AND", "or": "ATOMIC_OR", "xor": "ATOMIC_XOR", "inc": "ATOMIC_INC", "dec": "ATOMIC_DEC",
}  # fmt: skip
ATOMIC_TYPES = {
    "u32": "ATOMIC_U32", "b32": "ATOMIC_U32", "s32": "ATOMIC_S32", "f32": "ATOMIC_F32", "u64": "ATOMIC_U64",
    "b64": "ATOMIC_U64", "s64": "ATOMIC_S64", "f64": "ATOMIC_F64", "f16": "ATOMIC_F16", "bf16": "ATOMIC_BF16",
    "f16x2": "ATOMIC_F16X2", "bf16x2": "ATOMIC_BF16X2", "b16": "ATOMIC_B16",
}  # fmt: skip

# The first words of a warp's registers, 32 a register.
SPECIAL_REGISTERS = (
    "%tid.x", "%ctaid.x", "%ctaid.y", "%ctaid.z", "%nctaid.x", "%nctaid.y", "%nctaid.z", "%ntid.x", "%laneid",
)  # fmt: skip

NUMBER_OF_OPERATION = {name: number for number, name in enumerate(OPERATIONS)}


def numbers(names: dict[str, str]) -> dict[str, int]:
    """Return the number of each name of the executor that occurs among the values, in the order of `header`."""
    return {name: number for number, name in enumerate(dict.fromkeys(names.values()))}


def header() -> str:
    """Return the C++ enumerations of all of this."""
    enumerations = {
        "Operation": OPERATIONS,
        "Fault": FAULTS,
        "AtomicOperation": numbers(ATOMIC_OPERATIONS),
        "AtomicType": numbers(ATOMIC_TYPES),
    }
    return "".join(f"enum {name} {{ {', '.join(names)} }};\n" for name, names in enumerations.items())
