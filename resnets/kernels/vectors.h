// Vectors of as many float32 values as an AVX register holds, loaded from and stored to float32 or bf16.

#pragma once

#include <cstdint>
#include <cstring>

#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

namespace {

typedef uint16_t half;  // the upper half of a float32: bf16

#ifdef __AVX512F__
constexpr int64_t WIDTH = 16;  // values in a vector
#else
constexpr int64_t WIDTH = 8;
#endif
typedef float vec __attribute__((vector_size(4 * WIDTH)));
typedef int32_t ivec __attribute__((vector_size(4 * WIDTH)));
typedef uint32_t uvec __attribute__((vector_size(4 * WIDTH)));
typedef half hvec __attribute__((vector_size(2 * WIDTH)));

inline vec load(const float* p) {
    vec v;
    std::memcpy(&v, p, sizeof v);
    return v;
}

inline vec load(const half* p) {
    hvec v;
    std::memcpy(&v, p, sizeof v);
    return (vec)(__builtin_convertvector(v, uvec) << 16);
}

inline void store(float* p, vec v) { std::memcpy(p, &v, sizeof v); }

inline void store(half* p, vec v) {
#ifdef __AVX512BF16__
    const __m256bh rounded = _mm512_cvtneps_pbh((__m512)v);
#else
    uvec bits = (uvec)v;  // to the nearest, ties to even
    bits = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    bits = v != v ? uvec{} + 0x7fc0 : bits;  // NaN stays NaN
    const hvec rounded = __builtin_convertvector(bits, hvec);
#endif
    std::memcpy(p, &rounded, sizeof rounded);
}

#ifdef __AVX512BF16__

typedef uint32_t pair;  // two bf16 that are multiplied and added together

// sum + the products of each pair of `many` with the pair at `one`.
inline vec dot(vec sum, vec many, const void* one) {
    pair value;
    std::memcpy(&value, one, sizeof value);
    return (vec)_mm512_dpbf16_ps((__m512)sum, (__m512bh)many, (__m512bh)_mm512_set1_epi32(value));
}

// Pairs of the values at `left` and at `right`, in each of 16 channels.
inline void interleave(const half* left, const half* right, pair* to) {
    const __m512i low = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)left));
    const __m512i high = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)right));
    _mm512_storeu_si512(to, _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
}

#endif

// A value as it is read after it was stored.
inline vec rounded(const float*, vec v) { return v; }
inline vec rounded(const half*, vec v) {
    half some[WIDTH];
    store(some, v);
    return load(some);
}

// `value` where `by` is above zero or NaN, else zero: ReLU, and its backward pass.
inline vec gated(vec value, vec by) { return (vec)((ivec)value & ~(by <= 0)); }

}  // namespace
