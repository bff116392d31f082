// Arithmetic of single lanes: conversions of 16-bit floats, approximations with their noise, integers that C++ lacks.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>

#include "job.hpp"

template <class To, class From>
inline To bits_as(From from) {
    static_assert(sizeof(To) == sizeof(From), "a pattern keeps its size");
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}

inline float as_float(u32 bits) {
    return bits_as<float>(bits);
}
inline u32 as_bits(float value) {
    return bits_as<u32>(value);
}

inline u32 flush_denormal(u32 bits) {
    return (bits & 0x7f800000u) ? bits : bits & 0x80000000u;
}
inline float flush_denormal(float value) {
    return as_float(flush_denormal(as_bits(value)));
}

// ---- 16-bit floats; to nearest, ties to even, NaN as the chips write it

inline u32 float_to_bf16(float value) {
    u32 bits = as_bits(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fff;
    return (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
}

inline u32 float_to_f16(float value) {
    u32 bits = as_bits(value), sign = (bits >> 16) & 0x8000u;
    bits &= 0x7fffffffu;
    if (bits > 0x7f800000u) return 0x7fff;
    if (bits >= 0x47800000u) return sign | 0x7c00u;                                              // 65536 and more
    if (bits < 0x38800000u) return sign | u32(std::nearbyint(double(as_float(bits)) * 0x1p24));  // a denormal
    bits -= 0x38000000u;  // exponent of float32 to that of float16
    return sign | ((bits + 0xfffu + ((bits >> 13) & 1u)) >> 13);
}

inline float bf16_to_float(u32 half) {
    return as_float(half << 16);
}

inline float f16_to_float(u32 half) {  // exact, denormals included
    u32 bits = as_bits(as_float((half & 0x7fffu) << 13) * 0x1p112f) | ((half & 0x8000u) << 16);
    return as_float((half & 0x7fffu) >= 0x7c00u ? bits | 0x7f800000u : bits);
}

enum ElementType { BF16 = 0, F16 = 1, TF32 = 2 };

inline float half_to_float(u32 half, int type) {
    return type == BF16 ? bf16_to_float(half & 0xffffu) : f16_to_float(half & 0xffffu);
}
inline u32 float_to_half(float value, int type) {
    return type == BF16 ? float_to_bf16(value) : float_to_f16(value);
}

// cvt.rna.tf32: to nearest, ties away from zero. A tensor core that is given float32 cuts the low 13 bits off.
inline u32 float_to_tf32(u32 bits) {
    return (bits & 0x7f800000u) == 0x7f800000u ? bits : (bits + 0x1000u) & 0xffffe000u;
}
inline float cut_to_tf32(u32 bits) {
    return as_float(bits & 0xffffe000u);
}

// ---- approximations: the exact result plus noise that depends on the operand alone, uniform in +- `ulps`

inline double noise(u32 seed) {  // in [-1, 1)
    u32 hash = seed * 2654435761u;
    hash ^= hash >> 15;
    hash *= 2246822519u;
    hash ^= hash >> 13;
    return double(hash) / 2147483648.0 - 1.0;
}

inline float with_noise(double exact, u32 seed, float ulps) {
    float value = float(exact);
    if (ulps == 0 || !std::isfinite(value) || value == 0) return value;
    double ulp = std::ldexp(1.0, std::max(std::ilogb(value), -126) - 23);
    return float(exact + noise(seed) * ulps * ulp);
}

inline double exp2_of(double x) {  // |error| < 1e-13 for x in [-1100, 1100]; the library's function takes longer
    constexpr double inverse_factorial[] = {1,        1,         1 / 2.,     1 / 6.,      1 / 24.,     1 / 120.,
                                            1 / 720., 1 / 5040., 1 / 40320., 1 / 362880., 1 / 3628800.};
    double whole = std::nearbyint(x), f = (x - whole) * 0.693147180559945309417, sum = inverse_factorial[10];
    for (int n = 9; n >= 0; n--) sum = sum * f + inverse_factorial[n];
    i64 exponent = std::min<i64>(std::max<i64>(i64(whole) + 1023, 1), 2046);
    return sum * bits_as<double>(u64(exponent) << 52);
}

inline u32 exp2_approx(u32 bits, float ulps, bool flush) {
    float x = as_float(flush ? flush_denormal(bits) : bits);
    if (x != x) return 0x7fffffff;
    if (x >= 128.f) return 0x7f800000;
    if (x < (flush ? -126.f : -150.f)) return 0;
    double exact = exp2_of(x);
    float value = float(exact);
    if (ulps != 0 && x != std::nearbyint(x)) {  // powers of two are exact on the chips
        double power = bits_as<double>(bits_as<u64>(exact) & 0x7ff0000000000000ull);
        value = float(exact + noise(bits) * ulps * power * 0x1p-23);
    }
    return as_bits(flush ? flush_denormal(value) : value);
}

inline float divide_full(float a, float b) {  // div.full: 2 ulp, operands scaled where the reciprocal would be denormal
    float size = std::fabs(b);
    if (size > 8.507059e37f && size < INFINITY) return (a * 0.25f) * (1.0f / (b * 0.25f));
    if (size < 1.1754944e-38f && size > 0) return (a * 16777216.0f) * (1.0f / (b * 16777216.0f));
    return a * (1.0f / b);
}

// ---- maximum and minimum: -0 below +0; a NaN loses, or wins in the .NaN variants

inline float maximum(float a, float b, bool nan_wins) {
    if (a != a) return nan_wins ? a : b;
    if (b != b) return nan_wins ? b : a;
    return a == b ? (std::signbit(a) ? b : a) : a > b ? a : b;
}
inline float minimum(float a, float b, bool nan_wins) {
    if (a != a) return nan_wins ? a : b;
    if (b != b) return nan_wins ? b : a;
    return a == b ? (std::signbit(a) ? a : b) : a < b ? a : b;
}

// ---- float to integer: saturating, NaN is 0

template <class Integer>
inline Integer to_integer(double rounded) {
    if (rounded != rounded) return 0;
    if (rounded <= double(std::numeric_limits<Integer>::min())) return std::numeric_limits<Integer>::min();
    if (rounded >= double(std::numeric_limits<Integer>::max())) return std::numeric_limits<Integer>::max();
    return Integer(rounded);
}

enum Rounding { TO_NEAREST = 0, TO_ZERO = 1, DOWN = 2, UP = 3 };

inline double round_to_whole(double value, int rounding) {
    switch (rounding) {
        case TO_ZERO: return std::trunc(value);
        case DOWN: return std::floor(value);
        case UP: return std::ceil(value);
        default: return std::nearbyint(value);
    }
}

// ---- comparisons: the numbers that bench/ptx/lowering.py gives them; + 16 where a NaN makes them true

template <class T>
inline bool compare(T a, T b, int how) {
    switch (how & 15) {
        case 0: return a == b;
        case 1: return a < b || a > b;  // not a NaN's
        case 2: return a < b;
        case 3: return a <= b;
        case 4: return a > b;
        case 5: return a >= b;
        case 6: return a == a && b == b;
        default: return a != a || b != b;
    }
}

// ---- bits

inline u32 extract_signed(u32 value, u32 position, u32 length) {  // bfe.s32
    if (!length) return 0;
    u32 top = std::min(position + length - 1, 31u), sign = (value >> top) & 1, out = 0;
    for (u32 bit = 0; bit < 32; bit++) {
        bool inside = bit < length && position + bit <= 31;
        out |= (inside ? (value >> (position + bit)) & 1 : sign) << bit;
    }
    return out;
}

inline u32 extract_unsigned(u32 value, u32 position, u32 length) {  // bfe.u32
    u32 shifted = position > 31 ? 0 : value >> position;
    return length > 31 ? shifted : shifted & ((1u << length) - 1);
}

inline u32 permute_bytes(u32 low, u32 high, u32 selector) {  // prmt
    u64 both = u64(low) | (u64(high) << 32);
    u32 out = 0;
    for (int k = 0; k < 4; k++) {
        u32 pick = (selector >> (4 * k)) & 15, byte = u32(both >> (8 * (pick & 7))) & 255;
        if (pick & 8) byte = (byte & 128) ? 255 : 0;  // replicates the sign
        out |= byte << (8 * k);
    }
    return out;
}

inline u32 logic3(u32 a, u32 b, u32 c, u32 table) {  // lop3
    u32 out = 0;
    for (int k = 0; k < 8; k++)
        if (table >> k & 1) out |= ((k & 4) ? a : ~a) & ((k & 2) ? b : ~b) & ((k & 1) ? c : ~c);
    return out;
}

inline u32 reverse_bits(u32 value) {
    u32 out = 0;
    for (int bit = 0; bit < 32; bit++) out |= (value >> bit & 1) << (31 - bit);
    return out;
}

inline u32 shift_pair(u32 low, u32 high, u32 by, bool left, bool wraps) {  // shf: 32 bits out of 64
    u64 both = (u64(high) << 32) | low;
    u32 n = wraps ? by & 31 : std::min(by, 32u);
    return u32(left ? (both << n) >> 32 : both >> n);
}

// Division by zero gives all ones, as the chips' sequences do, and its remainder the dividend.
template <class T>
inline T quotient(T a, T b) {
    if (b == 0) return T(-1);
    if (T(-1) < T(0) && b == T(-1)) return T(0 - std::make_unsigned_t<T>(a));  // the least integer has no negative
    return a / b;
}
template <class T>
inline T remainder_of(T a, T b) {
    if (b == 0) return a;
    if (T(-1) < T(0) && b == T(-1)) return 0;
    return a % b;
}
