// Loads, stores, atomics and copies: `count` elements of `modifier` bytes a lane, `target` bytes behind the address.
#include "program.hpp"

namespace {

// Elements in memory and in registers: those of at most 4 bytes take a word, in its low bits.
void to_registers(const Step& step, int lane, const u8* data) {
    const int size = step.instruction.modifier;
    for (int k = 0; k < step.instruction.count; k++, data += size) {
        if (size == 8) {
            memcpy(&step.write<u64>(k)[lane], data, 8);
        } else {
            u32 word = 0;
            memcpy(&word, data, size);
            step.write(k)[lane] = word;
        }
    }
}
void from_registers(const Step& step, int lane, u8* data) {
    const int size = step.instruction.modifier;
    for (int k = 0; k < step.instruction.count; k++, data += size)
        memcpy(data, size == 8 ? static_cast<const void*>(&step.read<u64>(k)[lane]) : &step.read(k)[lane], size);
}

template <class T>
T combine(T before, T operand, T other, int how) {
    switch (how) {
        case ATOMIC_ADD: return before + operand;
        case ATOMIC_MIN: return std::min(before, operand);
        case ATOMIC_MAX: return std::max(before, operand);
        case ATOMIC_EXCHANGE: return operand;
        default: return before == operand ? other : before;  // ATOMIC_CAS
    }
}
template <class T>
T combine_integers(T before, T operand, T other, int how) {
    switch (how) {
        case ATOMIC_AND: return before & operand;
        case ATOMIC_OR: return before | operand;
        case ATOMIC_XOR: return before ^ operand;
        case ATOMIC_INC: return before >= operand ? T(0) : before + 1;
        case ATOMIC_DEC: return before == 0 || before > operand ? operand : before - 1;
        default: return combine(before, operand, other, how);
    }
}
u64 combine_halves(u64 before, u64 operand, int how, int type, int halves) {
    u64 out = 0;
    for (int half = 0; half < halves; half++) {
        const float a = half_to_float(u32(before >> (16 * half)), type),
                    b = half_to_float(u32(operand >> (16 * half)), type);
        out |= u64(float_to_half(combine(a, b, 0.f, how), type)) << (16 * half);
    }
    return out;
}

u64 combine_bits(u64 before, u64 operand, u64 other, int how, int type) {
    switch (type) {
        case ATOMIC_F32:
            return as_bits(combine(as_float(u32(before)), as_float(u32(operand)), as_float(u32(other)), how));
        case ATOMIC_F64:
            return bits_as<u64>(
                combine(bits_as<double>(before), bits_as<double>(operand), bits_as<double>(other), how));
        case ATOMIC_F16: return combine_halves(before, operand, how, F16, 1);
        case ATOMIC_BF16: return combine_halves(before, operand, how, BF16, 1);
        case ATOMIC_F16X2: return combine_halves(before, operand, how, F16, 2);
        case ATOMIC_BF16X2: return combine_halves(before, operand, how, BF16, 2);
        case ATOMIC_S32: return u32(combine_integers(i32(before), i32(operand), i32(other), how));
        case ATOMIC_S64: return u64(combine_integers(i64(before), i64(operand), i64(other), how));
        case ATOMIC_B16: return u16(combine_integers(u16(before), u16(operand), u16(other), how));
        case ATOMIC_U32: return combine_integers(u32(before), u32(operand), u32(other), how);
        default: return combine_integers(before, operand, other, how);
    }
}

}  // namespace

// Fill `address` and return the lanes whose access is allowed; count its sectors.
u32 Program::global_addresses(const Step& step, const u64* base, u64* address, bool write) {
    const int size = step.instruction.count * step.instruction.modifier;
    for (int i = 0; i < LANES; i++) address[i] = base[i] + i64(step.instruction.target);
    const u32 good = global_.check(step.number, step.warp.id, address, step.active, size);
    global_.count_sectors(step.counts, address, good, size, write);
    return good;
}

u32 Program::shared_addresses(const Step& step, const u32* base, u32* address) {
    const int size = step.instruction.count * step.instruction.modifier;
    u32 good = 0;
    for (int i = 0; i < LANES; i++) {
        address[i] = base[i] + step.instruction.target;
        if ((step.active >> i & 1) && shared_.in_bounds(step.accessor(i), address[i], size)) good |= 1u << i;
    }
    shared_.count_wavefronts(step.counts, address, good, size);
    return good;
}

void Program::load_global(const Step& step) {  // operands: destinations, address
    const int size = step.instruction.count * step.instruction.modifier;
    u64 address[LANES];
    const u32 good = global_addresses(step, step.read<u64>(step.instruction.count), address, false);
    lane_by_lane(step.active, [&](int i) {
        u8 data[32] = {0};  // also of an access that is not allowed
        if (good >> i & 1) {
            global_.note_owner(step.number, step.warp.id, i, address[i], size, false);
            memcpy(data, reinterpret_cast<const void*>(address[i]), size);
        }
        to_registers(step, i, data);
    });
}

void Program::store_global(const Step& step) {  // operands: sources, address
    const int size = step.instruction.count * step.instruction.modifier;
    u64 address[LANES];
    const u32 good = global_addresses(step, step.read<u64>(step.instruction.count), address, true);
    lane_by_lane(good, [&](int i) {
        u8 data[32];
        from_registers(step, i, data);
        global_.note_owner(step.number, step.warp.id, i, address[i], size, true);
        memcpy(reinterpret_cast<void*>(address[i]), data, size);
    });
}

void Program::load_shared(const Step& step) {  // operands: destinations, address
    const int size = step.instruction.count * step.instruction.modifier;
    u32 address[LANES];
    const u32 good = shared_addresses(step, step.read(step.instruction.count), address);
    lane_by_lane(step.active, [&](int i) {
        u8 data[32] = {0};
        if (good >> i & 1) {
            shared_.note_read(step.accessor(i), address[i] - SHARED_BASE, size);
            memcpy(data, &shared_.bytes[address[i] - SHARED_BASE], size);
        }
        to_registers(step, i, data);
    });
}

void Program::store_shared(const Step& step) {  // operands: sources, address
    const int size = step.instruction.count * step.instruction.modifier;
    u32 address[LANES];
    const u32 good = shared_addresses(step, step.read(step.instruction.count), address);
    lane_by_lane(good, [&](int i) {
        u8 data[32];
        from_registers(step, i, data);
        u8* place = &shared_.bytes[address[i] - SHARED_BASE];
        shared_.note_write(step.accessor(i), address[i] - SHARED_BASE, size, !memcmp(place, data, size));
        memcpy(place, data, size);
    });
}

// Lane after lane, and with it warp after warp (between barriers) and program after program in the order of the job,
// which then has one thread. operands: what was there, address, operand, value of a compare-and-swap.
// modifier: element bytes; count: 1; target: byte offset; operand 4: operation | type << 8 | shared << 16.
void Program::atomic(const Step& step) {
    const int size = step.instruction.modifier, how = step.operands[4] & 255, type = step.operands[4] >> 8 & 255;
    const bool in_shared = step.operands[4] >> 16 & 1;
    u64 address[LANES];
    u32 shared_address[LANES];
    u32 good;
    if (in_shared) {
        good = shared_addresses(step, step.read(1), shared_address);
        for (int i = 0; i < LANES; i++)
            address[i] = reinterpret_cast<u64>(shared_.bytes.data()) + (shared_address[i] - SHARED_BASE);
    } else {
        good = global_addresses(step, step.read<u64>(1), address, true);
    }
    auto element = [&](int operand, int lane) {
        return size == 8 ? step.read<u64>(operand)[lane] : u64(step.read(operand)[lane]);
    };
    for (int i = 0; i < LANES; i++) {
        if (!(good >> i & 1)) continue;
        if (in_shared)
            shared_.note_write(step.accessor(i), shared_address[i] - SHARED_BASE, size, true);
        else
            global_.note_owner(step.number, step.warp.id, i, address[i], size, true, true);
        u64 before = 0;
        memcpy(&before, reinterpret_cast<const void*>(address[i]), size);
        const u64 after = combine_bits(before, element(2, i), how == ATOMIC_CAS ? element(3, i) : 0, how, type);
        memcpy(reinterpret_cast<void*>(address[i]), &after, size);
        if (size == 8)
            step.write<u64>(0)[i] = before;
        else
            step.write(0)[i] = u32(before);
    }
}

// operands: shared address, global address, bytes to read (the rest is zeros), offset of each address.
// modifier: bytes to write; count: 3 where the bytes to read are given.
void Program::copy_async(const Step& step) {
    const int size = step.instruction.modifier;
    const u32* to = step.read(0);
    const u64* from = step.read<u64>(1);
    const u32* given = step.instruction.count > 2 ? step.read(2) : nullptr;
    Copy copy;
    copy.size = size;
    copy.instruction = step.number;
    copy.active = 0;
    u64 address[LANES];
    u32 reads = 0;
    for (int i = 0; i < LANES; i++) {
        address[i] = from[i] + i64(step.operands[4]);
        const u32 place = to[i] + u32(step.operands[3]);
        if (!(step.active >> i & 1) || !shared_.in_bounds(step.accessor(i), place, size)) continue;
        copy.active |= 1u << i;
        copy.offset[i] = place - SHARED_BASE;
        if (!given || given[i]) reads |= 1u << i;
    }
    reads = global_.check(step.number, step.warp.id, address, reads, size);
    global_.count_sectors(step.counts, address, reads, size, false);
    lane_by_lane(copy.active, [&](int i) {
        memset(copy.data[i], 0, sizeof copy.data[i]);
        if (reads >> i & 1) {
            global_.note_owner(step.number, step.warp.id, i, address[i], size, false);
            const u32 bytes = given ? std::min(u32(size), given[i]) : u32(size);
            memcpy(copy.data[i], reinterpret_cast<const void*>(address[i]), bytes);
        }
        shared_.note_write(step.accessor(i), copy.offset[i], size, false, true);
    });
    step.warp.copies.push_back(copy);
}

// The bytes of a copy arrive when it is waited for and no sooner: what is read before is the NaN that was there.
void Program::wait_for_copies(const Step& step) {  // modifier: groups that may be under way, 0xffff: wait_all
    Warp& warp = step.warp;
    size_t allowed = step.instruction.modifier;
    if (allowed == 0xffff) {
        warp.copy_groups.push_back(std::move(warp.copies));
        warp.copies.clear();
        allowed = 0;
    }
    for (; warp.copy_groups.size() > allowed; warp.copy_groups.pop_front())
        for (const Copy& copy : warp.copy_groups.front())
            lane_by_lane(copy.active, [&](int i) {
                memcpy(&shared_.bytes[copy.offset[i]], copy.data[i], copy.size);
                shared_.note_arrival(step.accessor(i), copy.offset[i], copy.size);
            });
}

// ldmatrix and stmatrix: `count` matrices of 8 x 8 16-bit elements; lane i gives the address of row i % 8 of matrix i
// / 8. modifier: 1 where matrices are transposed. Lane i holds elements 2 (i % 4) and the next of row (transposed:
// column) i / 4.
bool Program::matrix_addresses(const Step& step, const u32* base, u32* address) {
    expect_whole_warp(step);
    bool good = true;
    for (int i = 0; i < 8 * step.instruction.count; i++) {
        address[i] = base[i] + step.instruction.target;
        good &= shared_.in_bounds(step.accessor(i), address[i], 16);
    }
    if (good)
        for (int k = 0; k < step.instruction.count; k++) shared_.count_matrix_wavefronts(step.counts, address + 8 * k);
    return good;
}

void Program::load_matrix(const Step& step) {
    u32 address[LANES], out[4][LANES];
    if (!matrix_addresses(step, step.read(step.instruction.count), address)) return;
    for (int k = 0; k < step.instruction.count; k++) {
        u16 matrix[8][8];
        for (int row = 0; row < 8; row++) {
            const u32 offset = address[8 * k + row] - SHARED_BASE;
            shared_.note_read(step.accessor(LDMATRIX_LANE), offset, 16);
            memcpy(matrix[row], &shared_.bytes[offset], 16);
        }
        for (int i = 0; i < LANES; i++) {
            const int a = i / 4, b = 2 * (i % 4);
            out[k][i] = step.instruction.modifier ? matrix[b][a] | u32(matrix[b + 1][a]) << 16
                                                  : matrix[a][b] | u32(matrix[a][b + 1]) << 16;
        }
    }
    for (int k = 0; k < step.instruction.count; k++) memcpy(step.write(k), out[k], sizeof out[k]);
}

void Program::store_matrix(const Step& step) {
    u32 address[LANES];
    if (!matrix_addresses(step, step.read(step.instruction.count), address)) return;
    for (int k = 0; k < step.instruction.count; k++) {
        const u32* value = step.read(k);
        u16 matrix[8][8];
        for (int i = 0; i < LANES; i++) {
            const int a = i / 4, b = 2 * (i % 4);
            const bool transposed = step.instruction.modifier;
            matrix[transposed ? b : a][transposed ? a : b] = u16(value[i]);
            matrix[transposed ? b + 1 : a][transposed ? a : b + 1] = u16(value[i] >> 16);
        }
        for (int row = 0; row < 8; row++) {
            const u32 offset = address[8 * k + row] - SHARED_BASE;
            const bool unchanged = !memcmp(&shared_.bytes[offset], matrix[row], 16);
            shared_.note_write(step.accessor(STMATRIX_LANE), offset, 16, unchanged);
            memcpy(&shared_.bytes[offset], matrix[row], 16);
        }
    }
}
