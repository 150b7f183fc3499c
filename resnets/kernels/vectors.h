// Sixteen float32 values at a time, from and to float32 or bf16 in memory.
//
// GCC's and Clang's vector types compile to what the CPU has.

#pragma once

#include <cstdint>
#include <cstring>

#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

namespace {

typedef uint16_t half;  // the upper half of a float32: bf16
typedef float f16 __attribute__((vector_size(64)));
typedef int32_t i16 __attribute__((vector_size(64)));
typedef uint32_t u16 __attribute__((vector_size(64)));
typedef half h16 __attribute__((vector_size(32)));

constexpr int64_t WIDTH = 16;  // values in a vector

inline f16 load(const float* p) {
    f16 v;
    std::memcpy(&v, p, sizeof v);
    return v;
}

inline f16 load(const half* p) {
    h16 v;
    std::memcpy(&v, p, sizeof v);
    return (f16)(__builtin_convertvector(v, u16) << 16);
}

inline void store(float* p, f16 v) { std::memcpy(p, &v, sizeof v); }

inline void store(half* p, f16 v) {
#ifdef __AVX512BF16__
    const __m256bh rounded = _mm512_cvtneps_pbh((__m512)v);
#else
    u16 bits = (u16)v;  // to the nearest, ties to even
    bits = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    bits = v != v ? u16{} + 0x7fc0 : bits;  // no number stays none
    const h16 rounded = __builtin_convertvector(bits, h16);
#endif
    std::memcpy(p, &rounded, sizeof rounded);
}

// `value` where `by` is above zero or no number, else zero: ReLU, and its way back.
inline f16 gated(f16 value, f16 by) { return (f16)((i16)value & ~(by <= 0)); }

}  // namespace
