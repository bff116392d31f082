// Products of tensor cores: 16 rows at once in vectors of the compiler, as wide as the processor has them.
//
// A sum of a tensor core is no sum of float32 additions. The products of a block of columns and the sum so far are
// aligned to the largest exponent among them, cut off a few bits below float32's last, added exactly, and cut to
// float32 (Fasi, Higham, Mikaitis, Pranesh, "Numerical behavior of NVIDIA tensor cores", PeerJ CS 7:e330, 2021; Li et
// al., "FTTN: feature-targeted testing for numerical properties of NVIDIA and AMD matrix accelerators", CCGRID 2024).
// The width of a block and the bits below are those of the job: 8 (tf32: 4) columns and 1 bit for sm_80, 16 (8) and 2
// for sm_90.
#pragma once

#include "arithmetic.hpp"

using Floats = float __attribute__((vector_size(64)));
using Words = u32 __attribute__((vector_size(64)));
using Integers = i32 __attribute__((vector_size(64)));

constexpr int ROWS = 16;  // of a tile: rows of one product of m16n8, a quarter of a wgmma's 64

// The columns of A that one instruction multiplies: 16 rows each, and the powers of two at or below their elements.
struct TileA {
    Floats column[16], power[16];
};

inline Floats power_of_two_part(Floats x) {
    return Floats(Words(x) & 0x7f800000u);
}

inline Floats f16_to_floats(Words half) {  // exact, denormals included
    Words magnitude = half & 0x7fffu;
    Words bits = Words(Floats(magnitude << 13) * 0x1p112f) | ((half & 0x8000u) << 16);
    return Floats(bits | (Words(magnitude >= 0x7c00u) & 0x7f800000u));
}

inline Floats half_of_pair(Words pair, int high, int type) {
    if (type == BF16) return Floats(high ? pair & 0xffff0000u : pair << 16);
    return f16_to_floats(high ? pair >> 16 : pair & 0xffffu);
}

// Fragments of mma: lane 4 g + t holds elements of rows g and g + 8 (upper and lower) and of columns about t.
inline void columns_of_fragment(const u32* upper, const u32* lower, Words columns[4]) {
    for (int t = 0; t < 4; t++)
        for (int g = 0; g < 8; g++) {
            columns[t][g] = upper[t + 4 * g];
            columns[t][8 + g] = lower[t + 4 * g];
        }
}
inline void fragment_of_columns(const Words columns[4], u32* upper, u32* lower) {
    for (int t = 0; t < 4; t++)
        for (int g = 0; g < 8; g++) {
            upper[t + 4 * g] = columns[t][g];
            lower[t + 4 * g] = columns[t][8 + g];
        }
}

// Read A from the four registers of its fragment: [upper left, lower left, upper right, lower right].
inline void read_tile(const u32* const registers[4], int type, TileA& tile) {
    Words columns[4];
    for (int side = 0; side < 2; side++) {
        columns_of_fragment(registers[2 * side], registers[2 * side + 1], columns);
        for (int t = 0; t < 4; t++)
            if (type == TF32) {
                tile.column[4 * side + t] = Floats(columns[t] & 0xffffe000u);
            } else {
                tile.column[8 * side + 2 * t] = half_of_pair(columns[t], 0, type);
                tile.column[8 * side + 2 * t + 1] = half_of_pair(columns[t], 1, type);
            }
    }
    for (int k = 0; k < (type == TF32 ? 8 : 16); k++) tile.power[k] = power_of_two_part(tile.column[k]);
}

inline Integers cut_to_integers(Floats x) {
    return __builtin_convertvector(x, Integers);
}

inline Floats cut_to_floats(Integers x) {  // towards zero, |x| < 2^31
    Words sign = Words(x) & 0x80000000u;
    Integers magnitude = x < 0 ? -x : x;
    Floats nearest = __builtin_convertvector(magnitude, Floats);
    Words rounded_up = Words(cut_to_integers(nearest) > magnitude);  // all ones, which is -1, where true
    return Floats((Words(nearest) + rounded_up) | sign);
}

// Return sum + A b for one column b: 16 rows. `columns` of A and b are used.
inline Floats tensor_core_sum(const Job& job, const TileA& a, const float* b, int columns, int type, Floats sum) {
    const int block = std::min(type == TF32 ? job.block_32 : job.block_16, columns);
    const int bits = 23 + job.extra_bits;
    bool in_float64 = job.nearest;
    for (int first = 0; first < columns && !in_float64; first += block) {
        Words largest = Words(sum) & 0x7f800000u;
        for (int k = first; k < first + block; k++) {
            Words power = Words(a.power[k] * as_float(as_bits(b[k]) & 0x7f800000u));
            largest = largest > power ? largest : power;
        }
        for (int row = 0; row < ROWS; row++) in_float64 |= largest[row] >= 0x7f000000u;
        if (in_float64) break;
        // The exponent that moves the largest term to `bits` bits before the point.
        Words exponent = u32(bits + 254) - (largest >> 23);
        exponent = exponent < 254u ? exponent : Words{} + 254u;
        Floats scale = Floats(exponent << 23);
        Integers total = cut_to_integers(sum * scale);
        for (int k = first; k < first + block; k++) total += cut_to_integers(a.column[k] * b[k] * scale);
        // Back by 1 / scale in two steps, neither of which is a denormal.
        sum = cut_to_floats(total) * std::ldexp(1.0f, -bits) * Floats((254u - exponent + u32(bits)) << 23);
    }
    if (!in_float64) return sum;
    // Not finite, or rounded to nearest on request: float64 is exact enough for both, from the sum so far on.
    double exact[ROWS];
    for (int row = 0; row < ROWS; row++) exact[row] = sum[row];
    for (int k = 0; k < columns; k++)
        for (int row = 0; row < ROWS; row++) exact[row] += double(a.column[k][row]) * double(b[k]);
    for (int row = 0; row < ROWS; row++) sum[row] = float(exact[row]);
    return sum;
}

// D = A B + C for 16 x 8 elements in fragments of four registers; `b` holds 8 columns, 16 floats apart. C null is zero.
inline void multiply_tile(const Job& job, const TileA& a, const float* b, int type, const u32* const c[4],
                          u32* const d[4]) {
    const int columns = type == TF32 ? 8 : 16;
    Words even[4] = {}, odd[4] = {};
    if (c) {
        columns_of_fragment(c[0], c[2], even);
        columns_of_fragment(c[1], c[3], odd);
    }
    for (int t = 0; t < 4; t++) {
        even[t] = Words(tensor_core_sum(job, a, b + (2 * t) * 16, columns, type, Floats(even[t])));
        odd[t] = Words(tensor_core_sum(job, a, b + (2 * t + 1) * 16, columns, type, Floats(odd[t])));
    }
    fragment_of_columns(even, d[0], d[2]);
    fragment_of_columns(odd, d[1], d[3]);
}

// ---- operands of wgmma in shared memory

// Address of a chunk of 16 bytes of an operand that a matrix descriptor describes (PTX ISA, "Matrix Descriptor
// Format"). K-major: row `row` of M or N, chunk `chunk` of K. Otherwise: row `row` of K, chunk `chunk` of M or N.
inline u32 chunk_address(u64 descriptor, bool k_major, u32 row, u32 chunk) {
    const u32 start = (descriptor & 0x3fff) << 4;
    const u32 leading = ((descriptor >> 16) & 0x3fff) << 4, stride = ((descriptor >> 32) & 0x3fff) << 4;
    const int swizzle = int(descriptor >> 62);  // 0: none, 1: 128 bytes, 2: 64, 3: 32
    const u32 group = row / 8, inside = row % 8;
    if (swizzle == 0)
        return k_major ? start + group * stride + inside * 16 + chunk * leading
                       : start + chunk * stride + inside * 16 + group * leading;
    const u32 width = 256u >> swizzle, chunks = width / 16;
    const u32 address =
        k_major ? start + group * stride + inside * width + chunk * 16
                : start + (chunk / chunks) * leading + (chunk % chunks) * 16 + group * stride + inside * width;
    return address ^ ((address >> 3) & (width - 16));
}
