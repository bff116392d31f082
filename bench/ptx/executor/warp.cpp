// The instruction loop of a warp: 32 lanes in lockstep, arithmetic, comparisons, shuffles and branches.
#include "program.hpp"

namespace {

// Arithmetic of 16-bit floats, alone or packed in pairs: exact in float64, rounded once.
// modifier: type | packed << 1 | flush << 2; count: sources.
template <class F>
void each_half(const Step& step, F function) {
    const int type = step.instruction.modifier & 1, sources = step.instruction.count;
    const int halves = step.instruction.modifier >> 1 & 1 ? 2 : 1;
    u32* d = step.write(0);
    const u32* source[3];
    for (int k = 0; k < 3; k++) source[k] = step.read(std::min(k, sources - 1) + 1);
    each_lane(step.active, [&](int i) {
        u32 out = 0;
        for (int half = 0; half < halves; half++) {
            double x[3];
            for (int k = 0; k < 3; k++) x[k] = half_to_float(source[k][i] >> (16 * half), type);
            out |= float_to_half(float(function(x[0], x[1], x[2])), type) << (16 * half);
        }
        d[i] = out;
    });
}

void write_predicate(const Step& step, int operand, u32 lanes) {
    u32& predicate = step.warp.predicates[step.operands[operand]];
    predicate = (predicate & ~step.active) | (lanes & step.active);
}

template <class T, class Is>
void set_predicate(const Step& step, Is is) {
    const T *a = step.read<T>(1), *b = step.read<T>(2);
    u32 lanes = 0;
    for (int i = 0; i < LANES; i++) lanes |= u32(is(a[i], b[i])) << i;
    write_predicate(step, 0, lanes);
}

// modifier & 16: also true where one is not a number.
bool compare_floats(float a, float b, int how) {
    return compare(a, b, how) || ((how & 16) && (a != a || b != b));
}

// setp of a pair of 16-bit floats: a predicate for the low half, one for the high. modifier: comparison | type << 8.
void set_predicates_of_halves(const Step& step) {
    const int type = step.instruction.modifier >> 8 & 1;
    const u32 *a = step.read(2), *b = step.read(3);
    for (int half = 0; half < 2; half++) {
        u32 lanes = 0;
        for (int i = 0; i < LANES; i++) {
            const float x = half_to_float(a[i] >> (16 * half), type), y = half_to_float(b[i] >> (16 * half), type);
            lanes |= u32(compare_floats(x, y, step.instruction.modifier & 31)) << i;
        }
        write_predicate(step, half, lanes);
    }
}

}  // namespace

void Program::branch(const Step& step) {
    Warp& warp = step.warp;
    const u32 rest = warp.lanes & ~step.active;
    if (!rest) {
        if (step.active) warp.next = step.instruction.target;
    } else if (step.active) {
        warp.splits.push_back({step.instruction.target, step.active});
        warp.splits.push_back({step.number + 1, rest});
        warp.lanes = 0;
    }
}

bool Program::leave(const Step& step) {
    Warp& warp = step.warp;
    warp.alive &= ~step.active;
    warp.lanes &= ~step.active;
    if (warp.lanes || !warp.splits.empty()) return false;
    warp.done = true;
    bool copies_left = !warp.copies.empty();
    for (const auto& group : warp.copy_groups) copies_left |= !group.empty();
    if (copies_left) fault(COPY_NOT_WAITED_FOR, step);
    if (!warp.wgmma_groups.empty()) fault(WGMMA_NOT_WAITED_FOR, step);
    return true;
}

void Program::shuffle(const Step& step) {  // shfl.sync: operands d, a, b, c
    expect_whole_warp(step);
    const u32 *a = step.read(1), *b = step.read(2), *c = step.read(3);
    u32 out[LANES];
    for (int i = 0; i < LANES; i++) {
        const int clamp = c[i] & 31, segment = (c[i] >> 8) & 31, by = b[i] & 31;
        const int most = (i & segment) | (clamp & ~segment), least = i & segment;
        int from;
        switch (step.instruction.operation) {
            case SHFL_BFLY: from = i ^ by; break;
            case SHFL_IDX: from = least | (by & ~segment); break;
            case SHFL_DOWN: from = i + by; break;
            default: from = i - by; break;
        }
        const bool inside = step.instruction.operation == SHFL_UP ? from >= most : from <= most;
        out[i] = a[inside ? from : i];
    }
    u32* d = step.write(0);
    each_lane(step.active, [&](int i) { d[i] = out[i]; });
}

// A line an operation: the types of its destination `d` and sources `a`, `b`, `c`, and what a lane `i` of `d` becomes.
#define UNARY(OPERATION, D, A, RESULT)                    \
    case OPERATION: {                                     \
        D* d = step.write<D>(0);                          \
        const A* a = step.read<A>(1);                     \
        each_lane(active, [&](int i) { d[i] = RESULT; }); \
        break;                                            \
    }
#define BINARY(OPERATION, D, A, B, RESULT)                \
    case OPERATION: {                                     \
        D* d = step.write<D>(0);                          \
        const A* a = step.read<A>(1);                     \
        const B* b = step.read<B>(2);                     \
        each_lane(active, [&](int i) { d[i] = RESULT; }); \
        break;                                            \
    }
#define TERNARY(OPERATION, D, A, B, C, RESULT)            \
    case OPERATION: {                                     \
        D* d = step.write<D>(0);                          \
        const A* a = step.read<A>(1);                     \
        const B* b = step.read<B>(2);                     \
        const C* c = step.read<C>(3);                     \
        each_lane(active, [&](int i) { d[i] = RESULT; }); \
        break;                                            \
    }
// Float32: where the modifier says .ftz, denormal operands and results are zeros of their sign.
#define FLUSHED(X) (flush ? flush_denormal(X) : (X))
#define SETP(OPERATION, T) \
    case OPERATION: set_predicate<T>(step, [how](T x, T y) { return compare(x, y, how); }); break;
#define HALF(OPERATION, RESULT)                            \
    case OPERATION:                                        \
        each_half(step, [](double a, double b, double c) { \
            (void)b, (void)c;                              \
            return RESULT;                                 \
        });                                                \
        break;

Turn Program::run_warp(Warp& warp) {
    const float ulps = job_.noise_ulps;
    for (;;) {
        if (!warp.splits.empty()) {  // divergent: the lowest instruction goes first, and lanes that are there join
            if (warp.lanes) warp.splits.push_back({warp.next, warp.lanes});
            auto earlier = [](const Split& x, const Split& y) { return x.next < y.next; };
            warp.next = std::min_element(warp.splits.begin(), warp.splits.end(), earlier)->next;
            warp.lanes = 0;
            auto joins = [&](const Split& split) {
                if (split.next == warp.next) warp.lanes |= split.lanes;
                return split.next == warp.next;
            };
            warp.splits.erase(std::remove_if(warp.splits.begin(), warp.splits.end(), joins), warp.splits.end());
        }
        const int number = warp.next;
        const Instruction& instruction = job_.code[number];
        u32 active = warp.lanes;
        if (instruction.guard >= 0) {
            const u32 guard = warp.predicates[instruction.guard >> 1];
            active &= (instruction.guard & 1) ? ~guard : guard;
        }
        u64* row = &counts[size_t(number) * COUNTS];
        row[EXECUTED]++;
        row[ACTIVE_LANES] += __builtin_popcount(active);
        const Step step{warp, instruction, number, active, row, job_.operands + instruction.operands, job_.constants};
        if (++warp.steps > job_.step_limit) {
            fault(STEP_LIMIT, step);
            return Turn::FAILED;
        }
        warp.next = number + 1;
        if (!active && instruction.operation != BRA) continue;
        const i32* o = step.operands;
        const int how = instruction.modifier;
        const bool flush = how & 1, approximate = how & 2;  // of float32 arithmetic
        switch (instruction.operation) {
            // clang-format off
            UNARY(MOV32, u32, u32, a[i])
            UNARY(MOV64, u64, u64, a[i])
            BINARY(ADD32, u32, u32, u32, a[i] + b[i])
            BINARY(SUB32, u32, u32, u32, a[i] - b[i])
            BINARY(MUL32, u32, u32, u32, a[i] * b[i])
            TERNARY(MAD32, u32, u32, u32, u32, a[i] * b[i] + c[i])
            BINARY(MULHI_S32, i32, i32, i32, i32((i64(a[i]) * i64(b[i])) >> 32))
            BINARY(MULHI_U32, u32, u32, u32, u32((u64(a[i]) * u64(b[i])) >> 32))
            BINARY(AND32, u32, u32, u32, a[i] & b[i])
            BINARY(OR32, u32, u32, u32, a[i] | b[i])
            BINARY(XOR32, u32, u32, u32, a[i] ^ b[i])
            UNARY(NOT32, u32, u32, ~a[i])
            BINARY(SHL32, u32, u32, u32, b[i] > 31 ? 0 : a[i] << b[i])
            BINARY(SHR_U32, u32, u32, u32, b[i] > 31 ? 0 : a[i] >> b[i])
            BINARY(SHR_S32, i32, i32, u32, a[i] >> (b[i] > 31 ? 31 : b[i]))
            UNARY(NEG32, u32, u32, 0 - a[i])
            UNARY(ABS_S32, u32, u32, i32(a[i]) < 0 ? 0 - a[i] : a[i])
            BINARY(MIN_S32, i32, i32, i32, std::min(a[i], b[i]))
            BINARY(MAX_S32, i32, i32, i32, std::max(a[i], b[i]))
            BINARY(MIN_U32, u32, u32, u32, std::min(a[i], b[i]))
            BINARY(MAX_U32, u32, u32, u32, std::max(a[i], b[i]))
            BINARY(DIV_S32, i32, i32, i32, quotient(a[i], b[i]))
            BINARY(DIV_U32, u32, u32, u32, quotient(a[i], b[i]))
            BINARY(REM_S32, i32, i32, i32, remainder_of(a[i], b[i]))
            BINARY(REM_U32, u32, u32, u32, remainder_of(a[i], b[i]))
            TERNARY(BFE_U32, u32, u32, u32, u32, extract_unsigned(a[i], b[i] & 255, c[i] & 255))
            TERNARY(BFE_S32, u32, u32, u32, u32, extract_signed(a[i], b[i] & 255, c[i] & 255))
            UNARY(POPC, u32, u32, u32(__builtin_popcount(a[i])))
            UNARY(CLZ, u32, u32, a[i] ? u32(__builtin_clz(a[i])) : 32)
            UNARY(BREV, u32, u32, reverse_bits(a[i]))
            TERNARY(PRMT, u32, u32, u32, u32, permute_bytes(a[i], b[i], c[i]))
            TERNARY(LOP3, u32, u32, u32, u32, logic3(a[i], b[i], c[i], how))
            TERNARY(SHF_L, u32, u32, u32, u32, shift_pair(a[i], b[i], c[i], true, how))
            TERNARY(SHF_R, u32, u32, u32, u32, shift_pair(a[i], b[i], c[i], false, how))
            BINARY(ADD64, u64, u64, u64, a[i] + b[i])
            BINARY(SUB64, u64, u64, u64, a[i] - b[i])
            BINARY(MUL64, u64, u64, u64, a[i] * b[i])
            TERNARY(MAD64, u64, u64, u64, u64, a[i] * b[i] + c[i])
            BINARY(AND64, u64, u64, u64, a[i] & b[i])
            BINARY(OR64, u64, u64, u64, a[i] | b[i])
            BINARY(XOR64, u64, u64, u64, a[i] ^ b[i])
            UNARY(NOT64, u64, u64, ~a[i])
            UNARY(NEG64, u64, u64, 0 - a[i])
            BINARY(SHL64, u64, u64, u32, b[i] > 63 ? 0 : a[i] << b[i])
            BINARY(SHR_U64, u64, u64, u32, b[i] > 63 ? 0 : a[i] >> b[i])
            BINARY(SHR_S64, i64, i64, u32, a[i] >> (b[i] > 63 ? 63 : b[i]))
            BINARY(DIV_S64, i64, i64, i64, quotient(a[i], b[i]))
            BINARY(DIV_U64, u64, u64, u64, quotient(a[i], b[i]))
            BINARY(REM_S64, i64, i64, i64, remainder_of(a[i], b[i]))
            BINARY(REM_U64, u64, u64, u64, remainder_of(a[i], b[i]))
            BINARY(MIN_S64, i64, i64, i64, std::min(a[i], b[i]))
            BINARY(MAX_S64, i64, i64, i64, std::max(a[i], b[i]))
            BINARY(MIN_U64, u64, u64, u64, std::min(a[i], b[i]))
            BINARY(MAX_U64, u64, u64, u64, std::max(a[i], b[i]))
            BINARY(MULW_S32, i64, i32, i32, i64(a[i]) * i64(b[i]))
            BINARY(MULW_U32, u64, u32, u32, u64(a[i]) * u64(b[i]))
            TERNARY(MADW_S32, u64, i32, i32, u64, u64(i64(a[i]) * i64(b[i])) + c[i])
            TERNARY(MADW_U32, u64, u32, u32, u64, u64(a[i]) * u64(b[i]) + c[i])
            BINARY(AND16, u32, u32, u32, a[i] & b[i] & 0xffff)
            BINARY(OR16, u32, u32, u32, (a[i] | b[i]) & 0xffff)
            BINARY(XOR16, u32, u32, u32, (a[i] ^ b[i]) & 0xffff)
            UNARY(NOT16, u32, u32, ~a[i] & 0xffff)
            BINARY(SHL16, u32, u32, u32, b[i] > 15 ? 0 : (a[i] << b[i]) & 0xffff)
            BINARY(SHR_U16, u32, u32, u32, b[i] > 15 ? 0 : (a[i] & 0xffff) >> b[i])
            BINARY(SHR_S16, u32, u32, u32, u32(i32(i16(a[i])) >> (b[i] > 15 ? 15 : b[i])) & 0xffff)
            BINARY(ADD16, u32, u32, u32, (a[i] + b[i]) & 0xffff)
            BINARY(SUB16, u32, u32, u32, (a[i] - b[i]) & 0xffff)
            BINARY(MUL16, u32, u32, u32, (a[i] * b[i]) & 0xffff)
            BINARY(FADD, float, float, float, FLUSHED(a[i] + b[i]))
            BINARY(FSUB, float, float, float, FLUSHED(a[i] - b[i]))
            BINARY(FMUL, float, float, float, FLUSHED(a[i] * b[i]))
            TERNARY(FFMA, float, float, float, float, FLUSHED(__builtin_fmaf(a[i], b[i], c[i])))
            BINARY(FMAX, float, float, float, maximum(a[i], b[i], false))
            BINARY(FMIN, float, float, float, minimum(a[i], b[i], false))
            BINARY(FMAX_NAN, float, float, float, maximum(a[i], b[i], true))
            BINARY(FMIN_NAN, float, float, float, minimum(a[i], b[i], true))
            UNARY(FNEG, u32, u32, a[i] ^ 0x80000000u)
            UNARY(FABS, u32, u32, a[i] & 0x7fffffffu)
            BINARY(FCOPYSIGN, u32, u32, u32, (a[i] & 0x80000000u) | (b[i] & 0x7fffffffu))
            BINARY(FDIV, float, float, float, FLUSHED(divide_full(a[i], b[i])))
            BINARY(FDIV_RN, float, float, float, FLUSHED(a[i] / b[i]))
            UNARY(FEX2, u32, u32, exp2_approx(a[i], ulps, flush))
            UNARY(FLG2, float, float, with_noise(std::log2(double(FLUSHED(a[i]))), as_bits(a[i]), ulps))
            UNARY(FRCP, float, float, with_noise(1.0 / double(a[i]), as_bits(a[i]), approximate ? ulps : 0))
            UNARY(FSQRT, float, float, with_noise(std::sqrt(double(FLUSHED(a[i]))), as_bits(a[i]), approximate ? ulps : 0))
            UNARY(FRSQRT, float, float, with_noise(1.0 / std::sqrt(double(FLUSHED(a[i]))), as_bits(a[i]), ulps))
            UNARY(FTANH, float, float, with_noise(std::tanh(double(a[i])), as_bits(a[i]), 4096 * ulps))
            UNARY(FSIN, float, float, float(std::sin(double(a[i])) + noise(as_bits(a[i])) * ulps * 0x1p-21))
            UNARY(FCOS, float, float, float(std::cos(double(a[i])) + noise(as_bits(a[i])) * ulps * 0x1p-21))
            UNARY(FRND, float, float, float(round_to_whole(a[i], how)))
            HALF(HADD, a + b)
            HALF(HSUB, a - b)
            HALF(HMUL, a * b)
            HALF(HFMA, a * b + c)
            HALF(HMAX, maximum(float(a), float(b), false))
            HALF(HMIN, minimum(float(a), float(b), false))
            HALF(HMAX_NAN, maximum(float(a), float(b), true))
            HALF(HMIN_NAN, minimum(float(a), float(b), true))
            HALF(HNEG, -a)
            HALF(HABS, std::fabs(a))
            SETP(SETP_S32, i32)
            SETP(SETP_U32, u32)
            SETP(SETP_S64, i64)
            SETP(SETP_U64, u64)
            case SETP_U16: set_predicate<u32>(step, [how](u32 x, u32 y) { return compare(u16(x), u16(y), how); }); break;
            case SETP_S16: set_predicate<u32>(step, [how](u32 x, u32 y) { return compare(i16(x), i16(y), how); }); break;
            case SETP_F32: set_predicate<float>(step, [how](float x, float y) { return compare_floats(x, y, how); }); break;
            case SETP_BF16: set_predicate<u32>(step, [how](u32 x, u32 y) { return compare_floats(half_to_float(x, BF16), half_to_float(y, BF16), how); }); break;
            case SETP_F16: set_predicate<u32>(step, [how](u32 x, u32 y) { return compare_floats(half_to_float(x, F16), half_to_float(y, F16), how); }); break;
            case SETP_HALF2: set_predicates_of_halves(step); break;
            case SEL32: { u32* d = step.write(0); const u32 *a = step.read(1), *b = step.read(2), s = warp.predicates[o[3]]; each_lane(active, [&](int i) { d[i] = (s >> i & 1) ? a[i] : b[i]; }); break; }
            case SEL64: { u64* d = step.write<u64>(0); const u64 *a = step.read<u64>(1), *b = step.read<u64>(2); const u32 s = warp.predicates[o[3]]; each_lane(active, [&](int i) { d[i] = (s >> i & 1) ? a[i] : b[i]; }); break; }
            case MOVP: write_predicate(step, 0, warp.predicates[o[1]]); break;
            case PNOT: write_predicate(step, 0, ~warp.predicates[o[1]]); break;
            case PAND: write_predicate(step, 0, warp.predicates[o[1]] & warp.predicates[o[2]]); break;
            case POR: write_predicate(step, 0, warp.predicates[o[1]] | warp.predicates[o[2]]); break;
            case PXOR: write_predicate(step, 0, warp.predicates[o[1]] ^ warp.predicates[o[2]]); break;
            UNARY(SEXT64, i64, i32, i64(a[i]))
            UNARY(ZEXT64, u64, u32, u64(a[i]))
            UNARY(TRUNC32, u32, u64, u32(a[i]))
            UNARY(LOW8, u32, u32, a[i] & 0xff)
            UNARY(LOW16, u32, u32, a[i] & 0xffff)
            UNARY(SEXT8, i32, u32, i32(int8_t(a[i])))
            UNARY(SEXT16, i32, u32, i32(i16(a[i])))
            UNARY(F32_BF16, float, u32, bf16_to_float(a[i] & 0xffffu))
            UNARY(F32_F16, float, u32, f16_to_float(a[i] & 0xffffu))
            BINARY(BF16X2_F32, u32, float, float, (float_to_bf16(a[i]) << 16) | float_to_bf16(b[i]))
            BINARY(F16X2_F32, u32, float, float, (float_to_f16(a[i]) << 16) | float_to_f16(b[i]))
            UNARY(BF16_F32, u32, float, float_to_bf16(a[i]))
            UNARY(F16_F32, u32, float, float_to_f16(a[i]))
            UNARY(F32_S32, float, i32, float(a[i]))
            UNARY(F32_U32, float, u32, float(a[i]))
            UNARY(F32_S64, float, i64, float(a[i]))
            UNARY(F32_U64, float, u64, float(a[i]))
            UNARY(S32_F32, i32, float, to_integer<i32>(round_to_whole(a[i], how)))
            UNARY(U32_F32, u32, float, to_integer<u32>(round_to_whole(a[i], how)))
            UNARY(S64_F32, i64, float, to_integer<i64>(round_to_whole(a[i], how)))
            UNARY(U64_F32, u64, float, to_integer<u64>(round_to_whole(a[i], how)))
            UNARY(TF32_F32, u32, u32, float_to_tf32(a[i]))
            BINARY(PACK32, u32, u32, u32, (a[i] & 0xffff) | (b[i] << 16))
            BINARY(PACK64, u64, u32, u32, u64(a[i]) | (u64(b[i]) << 32))
            case UNPACK32: { u32 *low = step.write(0), *high = step.write(1); const u32* a = step.read(2); each_lane(active, [&](int i) { const u32 x = a[i]; low[i] = x & 0xffff; high[i] = x >> 16; }); break; }
            case UNPACK64: { u32 *low = step.write(0), *high = step.write(1); const u64* a = step.read<u64>(2); each_lane(active, [&](int i) { const u64 x = a[i]; low[i] = u32(x); high[i] = u32(x >> 32); }); break; }
            // clang-format on
            case LDG: load_global(step); break;
            case STG: store_global(step); break;
            case LDS: load_shared(step); break;
            case STS: store_shared(step); break;
            case ATOM: atomic(step); break;
            case CP_ASYNC: copy_async(step); break;
            case CP_COMMIT:
                warp.copy_groups.push_back(std::move(warp.copies));
                warp.copies.clear();
                break;
            case CP_WAIT: wait_for_copies(step); break;
            case LDMATRIX: load_matrix(step); break;
            case STMATRIX: store_matrix(step); break;
            case MMA: multiply(step); break;
            case WGMMA: multiply_group(step); break;
            case WGMMA_COMMIT:
                warp.wgmma_groups.push_back(std::move(warp.wgmma_units));
                warp.wgmma_units.clear();
                break;
            case WGMMA_WAIT:
                for (; warp.wgmma_groups.size() > size_t(how); warp.wgmma_groups.pop_front())
                    shared_.release(warp.wgmma_groups.front());
                break;
            case SHFL_BFLY:
            case SHFL_IDX:
            case SHFL_DOWN:
            case SHFL_UP: shuffle(step); break;
            case BAR:
                if (active != warp.alive) fault(DIVERGENT_COLLECTIVE, step, 0, int(active));
                warp.waiting = true;
                return Turn::BARRIER;
            case WARPBAR: warp.sync++; break;
            case PROXY_FENCE:
                warp.fence++;
                warp.fence_epoch = shared_.epoch();
                break;
            case NOP: break;
            case BRA: branch(step); break;
            case RET:
                if (leave(step)) return Turn::DONE;
                break;
            default: fault(UNKNOWN_OPERATION, step, 0, instruction.operation); return Turn::FAILED;
        }
    }
}
