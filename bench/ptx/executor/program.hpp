// One program (a block of threads): its warps, and the instructions that one warp executes.
#pragma once

#include <deque>

#include "memory.hpp"

// A copy of cp.async on its way to shared memory: the bytes of each lane, read when it was issued.
struct Copy {
    u32 active;
    i32 size, instruction;
    u32 offset[LANES];
    u8 data[LANES][16];
};

// Lanes of a divergent warp that are at another instruction.
struct Split {
    int next;
    u32 lanes;
};

struct Warp {
    int id;
    u32* registers;   // [words][lanes]
    u32* predicates;  // a bit a lane
    int next;         // instruction
    u32 lanes, alive;
    bool waiting, done;
    i64 steps;
    u32 sync, fence, fence_epoch;
    std::vector<Split> splits;
    std::vector<Copy> copies;  // not committed yet
    std::deque<std::vector<Copy>> copy_groups;
    std::vector<u32> wgmma_units;  // of shared memory, read by products not committed yet
    std::deque<std::vector<u32>> wgmma_groups;
};

// One instruction of one warp.
struct Step {
    Warp& warp;
    const Instruction& instruction;
    int number;   // of the instruction
    u32 active;   // lanes
    u64* counts;  // its row
    const i32* operands;
    const u32* constants;

    template <class T = u32>
    const T* read(int k) const {
        const i32 place = operands[k];
        return reinterpret_cast<const T*>(place >= 0 ? warp.registers + place : constants + (-place - 1));
    }
    template <class T = u32>
    T* write(int k) const {  // a negative place is "_": the result is dropped
        static thread_local u64 dropped[LANES];
        const i32 place = operands[k];
        return place >= 0 ? reinterpret_cast<T*>(warp.registers + place) : reinterpret_cast<T*>(dropped);
    }
    Accessor accessor(int lane) const { return {number, warp.id, lane, warp.sync, warp.fence}; }
};

// The end of a warp's turn.
enum class Turn { BARRIER, DONE, FAILED };

class Program {
public:
    FaultLog faults;
    std::vector<u64> counts;

    explicit Program(const Job& job);
    bool run(i64 program);  // false where a warp did not end

private:
    const Job& job_;
    SharedMemory shared_;
    GlobalMemory global_;
    i64 program_ = 0;
    std::vector<Warp> warps_;
    std::vector<u32> register_file_, predicate_file_;

    void begin(i64 program);
    bool release_barrier();
    void fault(int kind, const Step& step, u64 address = 0, int extra = 0) {
        faults.add(kind, step.number, program_, step.warp.id, 0, address, extra);
    }
    void expect_whole_warp(const Step& step) {
        if (step.active != ALL_LANES) fault(DIVERGENT_COLLECTIVE, step, 0, int(step.active));
    }

    // warp.cpp
    Turn run_warp(Warp& warp);
    void branch(const Step& step);
    bool leave(const Step& step);  // true where no lane is left
    void shuffle(const Step& step);

    // memory_instructions.cpp
    u32 global_addresses(const Step& step, const u64* base, u64* address, bool write);
    u32 shared_addresses(const Step& step, const u32* base, u32* address);
    bool matrix_addresses(const Step& step, const u32* base, u32* address);
    void load_global(const Step& step);
    void store_global(const Step& step);
    void load_shared(const Step& step);
    void store_shared(const Step& step);
    void atomic(const Step& step);
    void copy_async(const Step& step);
    void wait_for_copies(const Step& step);
    void load_matrix(const Step& step);
    void store_matrix(const Step& step);

    // tensor_instructions.cpp
    void multiply(const Step& step);
    void multiply_group(const Step& step);
    void read_chunk(const Step& step, u64 descriptor, bool k_major, u32 row, u32 chunk, u8* to);
};

// The lanes of `active`, in order.
template <class F>
inline void lane_by_lane(u32 active, F function) {
    for (int i = 0; i < LANES; i++)
        if (active >> i & 1) function(i);
}

// The lanes of `active` where none depends on another: arithmetic of registers, which the compiler makes vectors of.
template <class F>
inline void each_lane(u32 active, F function) {
    if (active != ALL_LANES) return lane_by_lane(active, function);
#pragma GCC ivdep
    for (int i = 0; i < LANES; i++) function(i);
}
