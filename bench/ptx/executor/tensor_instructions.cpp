// Products on tensor cores: mma (operands in registers) and wgmma (operands in shared memory).
#include "program.hpp"
#include "tensor_core.hpp"

namespace {

// The elements of a register or chunk as floats: two of 16 bits or one of tf32 in 4 bytes.
void widen(const u8* bytes, int words, int type, float* to) {
    for (int w = 0; w < words; w++) {
        u32 word;
        memcpy(&word, bytes + 4 * w, 4);
        if (type == TF32) {
            to[w] = cut_to_tf32(word);
        } else {
            to[2 * w] = half_to_float(word, type);
            to[2 * w + 1] = half_to_float(word >> 16, type);
        }
    }
}

}  // namespace

void Program::multiply(const Step& step) {  // mma.m16n8: operands 4 of D, 4 of A, 2 of B, 4 of C; modifier: type
    expect_whole_warp(step);
    const int type = step.instruction.modifier, elements = type == TF32 ? 1 : 2;
    TileA a;
    const u32* fragment[4] = {step.read(4), step.read(5), step.read(6), step.read(7)};
    read_tile(fragment, type, a);
    float b[8][16];  // [column][k]
    for (int half = 0; half < 2; half++) {
        const u32* source = step.read(8 + half);
        for (int i = 0; i < LANES; i++)  // lane 4 n + t holds elements t of column n
            widen(reinterpret_cast<const u8*>(&source[i]), 1, type, &b[i / 4][elements * (4 * half + i % 4)]);
    }
    const u32* const c[4] = {step.read(10), step.read(11), step.read(12), step.read(13)};
    u32* const d[4] = {step.write(0), step.write(1), step.write(2), step.write(3)};
    multiply_tile(job_, a, b[0], type, c, d);
}

// Read 16 bytes of an operand of wgmma.
void Program::read_chunk(const Step& step, u64 descriptor, bool k_major, u32 row, u32 chunk, u8* to) {
    const u32 address = chunk_address(descriptor, k_major, row, chunk);
    if (!shared_.in_bounds(step.accessor(0), address, 16)) {
        memset(to, 0, 16);
        return;
    }
    const u32 offset = address - SHARED_BASE;
    auto fence_of = [&](int warp) { return warps_[warp].fence; };
    shared_.note_wgmma_read(step.accessor(WGMMA_LANE), offset, step.warp.fence_epoch, fence_of, step.warp.wgmma_units);
    memcpy(to, &shared_.bytes[offset], 16);
}

// wgmma.m64: the rows of this warp's quarter. The sum is in its registers at once: what reads them before
// wgmma.wait_group is not found. operands: columns / 2 of D, then 4 of A or its descriptor, then the descriptor of B.
// modifier: type | A in registers << 2 | A by columns << 3 | B by columns << 4 | A negated << 5 | B negated << 6;
// count: columns of D; target: the predicate of the sum so far.
void Program::multiply_group(const Step& step) {
    expect_whole_warp(step);
    const int how = step.instruction.modifier, type = how & 3, columns = step.instruction.count;
    const int depth = type == TF32 ? 8 : 16, in_chunk = type == TF32 ? 4 : 8;
    const bool a_k_major = !(how >> 3 & 1), b_k_major = !(how >> 4 & 1);
    u8 chunk[16];
    float elements[8];
    int next = columns / 2;
    TileA a;
    if (how >> 2 & 1) {
        const u32* fragment[4] = {step.read(next), step.read(next + 1), step.read(next + 2), step.read(next + 3)};
        read_tile(fragment, type, a);
        next += 4;
    } else {
        const u64 descriptor = step.read<u64>(next++)[0];
        const int first = ROWS * (step.warp.id & 3);
        for (int row = 0; row < (a_k_major ? ROWS : depth); row++)
            for (int q = 0; q < 2; q++) {
                read_chunk(step, descriptor, a_k_major, a_k_major ? first + row : row, a_k_major ? q : first / 8 + q,
                           chunk);
                widen(chunk, 4, type, elements);
                for (int e = 0; e < in_chunk; e++) {
                    if (a_k_major)
                        a.column[q * in_chunk + e][row] = elements[e];
                    else
                        a.column[row][q * 8 + e] = elements[e];
                }
            }
        for (int k = 0; k < depth; k++) a.power[k] = power_of_two_part(a.column[k]);
    }
    const u64 descriptor = step.read<u64>(next)[0];
    std::vector<float> b(size_t(columns) * 16);  // [column][k]
    for (int row = 0; row < (b_k_major ? columns : depth); row++)
        for (int q = 0; q < (b_k_major ? 2 : columns / 8); q++) {
            read_chunk(step, descriptor, b_k_major, row, q, chunk);
            widen(chunk, 4, type, elements);
            for (int e = 0; e < in_chunk; e++)
                b[b_k_major ? row * 16 + q * in_chunk + e : (q * 8 + e) * 16 + row] = elements[e];
        }
    if (how >> 5 & 1)
        for (int k = 0; k < depth; k++) a.column[k] = -a.column[k];
    if (how >> 6 & 1)
        for (float& element : b) element = -element;
    const bool adds = step.warp.predicates[step.instruction.target] & 1;
    for (int group = 0; group < columns / 8; group++) {
        u32* const d[4] = {step.write(4 * group), step.write(4 * group + 1), step.write(4 * group + 2),
                           step.write(4 * group + 3)};
        multiply_tile(job_, a, &b[size_t(group) * 8 * 16], type, adds ? d : nullptr, d);
    }
}
