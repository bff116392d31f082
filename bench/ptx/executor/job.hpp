// What one launch is to the executor: the C structures that bench/ptx/library.py fills in.
#pragma once

#include <cstddef>
#include <cstdint>

using u8 = uint8_t;
using u16 = uint16_t;
using u32 = uint32_t;
using u64 = uint64_t;
using i16 = int16_t;
using i32 = int32_t;
using i64 = int64_t;

constexpr int LANES = 32;
constexpr u32 ALL_LANES = 0xffffffffu;
// Where the window of shared memory begins, as on the chips: address 0 is no address of a variable.
constexpr u32 SHARED_BASE = 1024;

struct Instruction {
    i32 operation;  // of operations.inc
    i32 modifier;   // element bytes, comparison, type: see the operation in bench/ptx/lowering.py
    i32 guard;      // predicate << 1 | negated; -1 without one
    i32 count;      // of elements or columns
    i32 operands;   // index of the first of its operands
    i32 target;     // of a branch: the instruction; of an access: the byte offset
};

struct Range {
    u64 begin, end;
};

struct FaultRecord {
    i32 kind, instruction, program, warp, lane, extra;
    u64 address, count;
};

struct Job {
    const Instruction* code;
    i32 code_size;
    // An operand is a register (index of its first word in the file of a warp) or a constant (-1 - index of its word).
    const i32* operands;
    const u32* constants;
    i32 register_words, predicates, warps, shared_bytes;
    i32 unit_shift;        // log2 of the bytes of shared memory that one shadow entry stands for
    const Range* tensors;  // storages that may be accessed
    i32 tensor_count;
    i32 grid[3];
    u64 arena;         // address of the copy of all tensors
    u32* owner;        // which program wrote each 2 bytes of the arena; or null
    u8* sectors_read;  // a flag for each 32 bytes of the arena; or null
    u8* sectors_written;
    i64 programs;
    const i64* order;  // linear numbers of the programs, in the order to run
    i32 first_warp;    // warps of a program begin with this one
    i32 check_shared, statistics, threads;
    i32 block_16, block_32;   // products that a tensor core adds at once: 16-bit types, tf32
    i32 extra_bits, nearest;  // bits kept below float32's in these sums; whether sums are rounded to nearest instead
    float noise_ulps;         // of ex2.approx, rcp.approx and their like
    i32 most_faults;
    i64 step_limit;  // instructions of one warp of one program
    u64* counts;     // [code_size][4]: executed, active lanes, units moved, units that would do
    FaultRecord* faults;
    i32* fault_count;
};
