// Shared by all 3x3 convolutions: maps and their rows of channels.

#pragma once

#include <new>

#include "norm.h"

#define NOT_INLINE __attribute__((noinline))  // for functions that take long to compile and long to run

namespace {

constexpr int64_t TAPS = 9, SIDE = 3;

// Allocates whole cache lines: loading a vector that crosses two takes twice the time.
template <class T>
struct CacheLines {
    typedef T value_type;
    static constexpr std::align_val_t SIZE{64};

    T* allocate(size_t count) { return static_cast<T*>(::operator new(count * sizeof(T), SIZE)); }
    void deallocate(T* memory, size_t) { ::operator delete(memory, SIZE); }
    bool operator==(const CacheLines&) const { return true; }
    bool operator!=(const CacheLines&) const { return false; }
};
template <class T>
using Buffer = std::vector<T, CacheLines<T>>;

struct Maps {
    int64_t images, height, width;

    int64_t pixels() const { return height * width; }
    int64_t padded_width() const { return width + 2; }
    int64_t padded() const { return (height + 2) * padded_width(); }
    int64_t rows() const { return images * pixels(); }
};

// Maps in float32 come from main memory: values a row of tiles further (of 512 values a row) are prefetched. In
// bf16 that gains nothing.
constexpr int64_t AHEAD = 2048;

inline vec take_next(const float* p) {
    __builtin_prefetch(p + AHEAD);
    return load(p);
}
inline void put_next(float* p, vec v) {
    __builtin_prefetch(p + AHEAD, 1);
    store(p, v);
}
inline vec take_next(const half* p) { return load(p); }
inline void put_next(half* p, vec v) { store(p, v); }

// A vector for each WIDTH channels.
template <int CHANNELS>
struct Row {
    vec part[CHANNELS / WIDTH];

    Row() : part{} {}
    explicit Row(const float* channel) {
        for (int v = 0; v < CHANNELS / WIDTH; ++v) part[v] = load(channel + v * WIDTH);
    }
    void add_to(double* sums) const {
        for (int c = 0; c < CHANNELS; ++c) sums[c] += part[c / WIDTH][c % WIDTH];
    }
};

}  // namespace
