// Shared and global memory of a program, with what is checked and counted at each access.
#pragma once

#include <map>
#include <utility>
#include <vector>

#include "arithmetic.hpp"
#include "operations.inc"  // enum Operation and enum Fault, written by bench/ptx/library.py

// The first fault of each kind at each instruction, and how many there are.
class FaultLog {
public:
    void add(int kind, int instruction, i64 program, int warp, int lane, u64 address, int extra = 0) {
        FaultRecord& record = records_[{kind, instruction}];
        if (!record.count) record = FaultRecord{kind, instruction, i32(program), warp, lane, extra, address, 0};
        record.count++;
    }
    void merge(const FaultLog& other) {
        for (const auto& [key, theirs] : other.records_) {
            FaultRecord& ours = records_[key];
            u64 count = ours.count + theirs.count;
            if (!ours.count || theirs.program < ours.program) ours = theirs;
            ours.count = count;
        }
    }
    const std::map<std::pair<int, int>, FaultRecord>& records() const { return records_; }

private:
    std::map<std::pair<int, int>, FaultRecord> records_;
};

// What accesses memory. `sync` counts the warp's bar.warp.sync and barriers, `fence` its proxy fences.
struct Accessor {
    int instruction, warp, lane;
    u32 sync, fence;
};

// Stand for a whole warp where instructions read or write together.
constexpr int LDMATRIX_LANE = 254, STMATRIX_LANE = 253, WGMMA_LANE = 252, SEVERAL_LANES = 255;
constexpr u32 WRITTEN_BY_COPY = ~0u;  // in place of a fence count: cp.async wrote it

// Columns of a row of Job::counts.
enum Count { EXECUTED, ACTIVE_LANES, UNITS, IDEAL_UNITS, COUNTS };

// The shadow of shared memory holds for each unit (the narrowest access, at most 16 bytes) the last write, the readers
// since the last barrier and what is still under way. Barriers of the program divide its time into epochs. Two accesses
// of one unit by different warps in one epoch, one of them a write, are a race: nothing orders them. A write of what is
// there already is none (Triton lets several threads write the same value).
class SharedMemory {
public:
    std::vector<u8> bytes;

    SharedMemory(const Job& job, FaultLog& faults)
        : bytes(job.shared_bytes + 256), job_(job), faults_(faults), units_((job.shared_bytes >> job.unit_shift) + 2) {}

    void begin(i64 program) {
        program_ = program;
        epoch_ = 1;
        memset(bytes.data(), 0xff, bytes.size());  // NaN in every type
        std::fill(units_.begin(), units_.end(), Unit{});
    }
    void next_epoch() { epoch_++; }
    u32 epoch() const { return epoch_; }

    bool in_bounds(const Accessor& by, u32 address, int size) {
        u32 offset = address - SHARED_BASE;
        if (offset > u32(job_.shared_bytes) || offset + size > u32(job_.shared_bytes)) {
            fault(SHARED_OUT_OF_BOUNDS, by, offset);
            return false;
        }
        if (address & (size - 1)) {
            fault(SHARED_MISALIGNED, by, offset, size);
            return false;
        }
        return true;
    }

    void note_read(const Accessor& by, u32 offset, int size) {
        for_units(offset, size, [&](Unit& unit) {
            if (unit.pending) {
                fault(SHARED_READ_WHILE_COPIED, by, offset, unit.writer);
            } else if (!unit.written) {
                fault(SHARED_UNINITIALIZED_READ, by, offset);
            } else if (unit.writer != by.warp) {
                if (unit.write_epoch == epoch_) fault(SHARED_READ_AFTER_WRITE, by, offset, unit.writer);
            } else if (unit.write_sync == by.sync && unit.writer_lane != by.lane) {
                fault(INTRA_WARP_RACE, by, offset, unit.writer_lane);
            }
            if (unit.read_epoch != epoch_) unit.readers = 0;
            bool several = unit.reader == by.warp && unit.read_sync == by.sync && unit.reader_lane != by.lane;
            unit.read_epoch = epoch_;
            unit.readers |= 1u << by.warp;
            unit.reader = by.warp;
            unit.reader_lane = several ? SEVERAL_LANES : by.lane;
            unit.read_sync = by.sync;
        });
    }

    // `unchanged`: the bytes hold this value already. `pending`: they are written later, by cp.async.
    void note_write(const Accessor& by, u32 offset, int size, bool unchanged, bool pending = false) {
        for_units(offset, size, [&](Unit& unit) {
            if (unit.wgmma_reads) fault(SHARED_WRITE_WHILE_WGMMA_READS, by, offset);
            if (unit.pending) fault(SHARED_WRITE_WHILE_COPIED, by, offset, unit.writer);
            if (!unchanged || !unit.written) {
                const u32 other_readers = unit.read_epoch == epoch_ ? unit.readers & ~(1u << by.warp) : 0;
                if (unit.written && unit.write_epoch == epoch_ && unit.writer != by.warp)
                    fault(SHARED_WRITE_AFTER_WRITE, by, offset, unit.writer);
                if (other_readers) fault(SHARED_WRITE_AFTER_READ, by, offset, __builtin_ctz(other_readers));
                if (unit.read_epoch == epoch_ && unit.reader == by.warp && unit.read_sync == by.sync &&
                    unit.reader_lane != by.lane && unit.write_epoch)
                    fault(INTRA_WARP_RACE, by, offset, unit.reader_lane);
            }
            unit.write_epoch = epoch_;
            unit.writer = by.warp;
            unit.writer_lane = by.lane;
            unit.write_sync = by.sync;
            unit.write_fence = by.fence;
            (pending ? unit.pending : unit.written) = 1;
        });
    }

    // The bytes of a cp.async arrive: the warp that waited for them has written them now.
    void note_arrival(const Accessor& by, u32 offset, int size) {
        for_units(offset, size, [&](Unit& unit) {
            unit.pending = 0;
            unit.written = 1;
            unit.write_epoch = epoch_;
            unit.writer = by.warp;
            unit.writer_lane = by.lane;
            unit.write_sync = by.sync;
            unit.write_fence = WRITTEN_BY_COPY;
        });
    }

    // wgmma reads through the asynchronous proxy: between a write and it, a proxy fence by the writer, or by the reader
    // after a barrier. `fences`: of each warp now. Units that it reads are added to `held` until it is waited for.
    template <class FenceOfWarp>
    void note_wgmma_read(const Accessor& by, u32 offset, u32 fence_epoch, FenceOfWarp fence_of,
                         std::vector<u32>& held) {
        if (!job_.check_shared) return;
        note_read(by, offset, 16);
        for (u32 index = offset >> job_.unit_shift; index <= (offset + 15) >> job_.unit_shift; index++) {
            Unit& unit = units_[index];
            const bool copied = unit.write_fence == WRITTEN_BY_COPY;
            const bool fenced =
                fence_epoch > unit.write_epoch || (!copied && fence_of(unit.writer) != unit.write_fence);
            if (unit.written && !fenced)
                fault(copied ? NOTE_COPY_WITHOUT_PROXY_FENCE : NO_PROXY_FENCE, by, offset, unit.writer);
            unit.wgmma_reads++;
            held.push_back(index);
        }
    }
    void release(const std::vector<u32>& held) {
        for (u32 index : held) units_[index].wgmma_reads--;
    }

    // Wavefronts of one access of a warp: 32 banks of 4 bytes; 8-byte accesses go by half warps, 16-byte ones by
    // quarters.
    void count_wavefronts(u64* counts, const u32* address, u32 active, int size) {
        if (!job_.statistics) return;
        const int words = std::max(size / 4, 1), lanes_at_once = LANES / words;
        std::vector<u32>& all = scratch_;
        all.clear();
        for (int first = 0; first < LANES; first += lanes_at_once) {
            u32 seen[LANES][LANES];
            u8 in_bank[LANES] = {0};
            int worst = 0;
            for (int lane = first; lane < first + lanes_at_once; lane++) {
                if (!(active >> lane & 1)) continue;
                for (int k = 0; k < words; k++) {
                    const u32 word = address[lane] / 4 + k, bank = word % LANES;
                    if (std::find(seen[bank], seen[bank] + in_bank[bank], word) != seen[bank] + in_bank[bank]) continue;
                    seen[bank][in_bank[bank]++] = word;
                    worst = std::max(worst, int(in_bank[bank]));
                    all.push_back(word);
                }
            }
            counts[UNITS] += worst;
        }
        std::sort(all.begin(), all.end());
        const auto distinct = std::unique(all.begin(), all.end()) - all.begin();
        counts[IDEAL_UNITS] += std::max<i64>(1, (distinct + LANES - 1) / LANES);
    }

    // Wavefronts of 8 rows of 16 bytes, which ldmatrix and stmatrix move at once.
    void count_matrix_wavefronts(u64* counts, const u32* rows) {
        if (!job_.statistics) return;
        u32 seen[8][8];
        u8 in_group[8] = {0};
        int worst = 1;
        for (int row = 0; row < 8; row++) {
            const u32 chunk = rows[row] / 16, group = chunk % 8;
            if (std::find(seen[group], seen[group] + in_group[group], chunk) != seen[group] + in_group[group]) continue;
            seen[group][in_group[group]++] = chunk;
            worst = std::max(worst, int(in_group[group]));
        }
        counts[UNITS] += worst;
        counts[IDEAL_UNITS] += 1;
    }

private:
    struct Unit {
        u32 write_epoch, write_sync, write_fence, read_epoch, readers, read_sync;
        u16 wgmma_reads;
        u8 writer, writer_lane, reader, reader_lane, written, pending;
    };

    const Job& job_;
    FaultLog& faults_;
    std::vector<Unit> units_;
    std::vector<u32> scratch_;
    i64 program_ = 0;
    u32 epoch_ = 1;

    void fault(int kind, const Accessor& by, u32 offset, int extra = 0) {
        faults_.add(kind, by.instruction, program_, by.warp, by.lane, offset + SHARED_BASE, extra);
    }
    template <class F>
    void for_units(u32 offset, int size, F function) {
        if (!job_.check_shared) return;
        for (u32 index = offset >> job_.unit_shift; index <= (offset + size - 1) >> job_.unit_shift; index++)
            function(units_[index]);
    }
};

// Global memory is the arena: copies of the tensors' storages with a guard before and behind each.
class GlobalMemory {
public:
    GlobalMemory(const Job& job, FaultLog& faults) : job_(job), faults_(faults), tensor_of_(job.code_size, 0) {}

    void begin(i64 program) { program_ = program; }

    // Return the lanes of `active` whose access is inside a tensor and aligned; the others are faults.
    u32 check(int instruction, int warp, const u64* address, u32 active, int size) {
        u32 good = 0;
        for (int lane = 0; lane < LANES; lane++) {
            if (!(active >> lane & 1)) continue;
            if (!inside(instruction, address[lane], size)) {
                faults_.add(GLOBAL_OUT_OF_BOUNDS, instruction, program_, warp, lane, address[lane], size);
            } else if (address[lane] & (size - 1)) {
                faults_.add(GLOBAL_MISALIGNED, instruction, program_, warp, lane, address[lane], size);
            } else {
                good |= 1u << lane;
            }
        }
        return good;
    }

    // Sectors of 32 bytes that one access of a warp moves, and the least that its distinct bytes take.
    void count_sectors(u64* counts, const u64* address, u32 active, int size, bool write) {
        if (!job_.statistics || !active) return;
        u64 sectors[2 * LANES], starts[LANES];
        int sector_count = 0, start_count = 0;
        for (int lane = 0; lane < LANES; lane++)
            if (active >> lane & 1) {
                sectors[sector_count++] = address[lane] >> 5;
                starts[start_count++] = address[lane];
            }
        std::sort(sectors, sectors + sector_count);
        sector_count = int(std::unique(sectors, sectors + sector_count) - sectors);
        std::sort(starts, starts + start_count);
        start_count = int(std::unique(starts, starts + start_count) - starts);
        counts[UNITS] += sector_count;
        counts[IDEAL_UNITS] += (start_count * size + 31) / 32;
        u8* touched = write ? job_.sectors_written : job_.sectors_read;
        if (!touched) return;
        for (int i = 0; i < sector_count; i++) touched[sectors[i] - (job_.arena >> 5)] = 1;
    }

    // Programs run in no order on a chip: an element that two of them write, or one writes and another reads, depends
    // on chance. Atomics of several programs may meet in one element. Single bytes are not followed.
    void note_owner(int instruction, int warp, int lane, u64 address, int size, bool write, bool atomic = false) {
        if (!job_.owner) return;
        constexpr u32 by_atomics = 0x80000000u, by_many = 0xffffffffu;
        const u32 mine = u32(program_) + 1;
        u32* owner = job_.owner + ((address - job_.arena) >> 1);
        for (int i = 0; i < size / 2; i++) {
            const u32 before = owner[i];
            const bool foreign = before && (before & ~by_atomics) != mine;
            if (foreign && !(atomic && (before & by_atomics))) {
                const int other = before == by_many ? -1 : int(before & ~by_atomics) - 1;
                faults_.add(write ? TWO_WRITERS : FOREIGN_READ, instruction, program_, warp, lane, address, other);
                break;
            }
            if (atomic)
                owner[i] = foreign ? by_many : mine | by_atomics;
            else if (write)
                owner[i] = mine;
        }
    }

private:
    const Job& job_;
    FaultLog& faults_;
    std::vector<int> tensor_of_;  // by instruction: the tensor of its last access, tried first
    i64 program_ = 0;

    bool inside(int instruction, u64 address, int size) {
        int& last = tensor_of_[instruction];
        auto within = [&](const Range& tensor) { return address >= tensor.begin && address + size <= tensor.end; };
        if (job_.tensor_count && within(job_.tensors[last])) return true;
        for (int i = 0; i < job_.tensor_count; i++)
            if (within(job_.tensors[i])) {
                last = i;
                return true;
            }
        return false;
    }
};
