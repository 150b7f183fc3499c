// 3x3 convolutions in float32 that halve the maps and double the channels, forward and backward.
//
// Sums of products, read directly from an image with a border of zeros that stays in the cache. The functions
// that make the image and that take the results are arguments, as in winograd.h.

#pragma once

#include <array>

#include "maps.h"

namespace {

// An image with its border, made pixel by pixel: `make(i, v)` returns the values at flat index i of
// the maps, vector v of the channels. The border is not written: it holds zeros.
template <int CHANNELS, class Make>
void fill(float* padded, const Maps& maps, int64_t image, Make make) {
    for (int64_t row = 0; row < maps.height; ++row) {
        const int64_t from = (image * maps.height + row) * maps.width * CHANNELS;
        float* to = padded + ((row + 1) * maps.padded_width() + 1) * CHANNELS;
        for (int64_t i = 0; i < maps.width * CHANNELS; i += CHANNELS)
#pragma GCC unroll 8
            for (int v = 0; v < CHANNELS / WIDTH; ++v)
                store(to + i + v * WIDTH, make(from + i + v * WIDTH, v));
    }
}

// The operands of one tap of a convolution: pixels from an offset on, and weights (from, to).
struct Tap {
    int64_t offset;
    const float* weights;
};

// Applies some taps to rows of an image with its border; `put(row, column, v, values)` takes the results.
//
// Neighbouring results are STEP pixels apart in the image. PIXELS x VECTORS are kept in registers.
template <int FROM, int TO, int STEP, int PIXELS, class Put>
void convolve(const float* image, int64_t pitch, int64_t rows, int64_t width, const Tap* taps, int64_t count,
              Put put) {
    constexpr int VECTORS = TO == WIDTH ? 1 : 2;
    for (int part = 0; part < TO / WIDTH; part += VECTORS)
        for (int64_t row = 0; row < rows; ++row)
            for (int64_t column = 0; column < width; column += PIXELS) {
                vec sum[PIXELS][VECTORS] = {};
                for (int64_t tap = 0; tap < count; ++tap) {
                    const float* from = image + (taps[tap].offset + STEP * (row * pitch + column)) * FROM;
                    const float* w = taps[tap].weights + part * WIDTH;
#pragma GCC unroll 2
                    for (int64_t k = 0; k < FROM; ++k) {
                        vec many[VECTORS];
#pragma GCC unroll 2
                        for (int v = 0; v < VECTORS; ++v) many[v] = load(w + k * TO + v * WIDTH);
#pragma GCC unroll 12
                        for (int p = 0; p < PIXELS; ++p)
#pragma GCC unroll 2
                            for (int v = 0; v < VECTORS; ++v) sum[p][v] += many[v] * from[STEP * p * FROM + k];
                    }
                }
#pragma GCC unroll 12
                for (int p = 0; p < PIXELS; ++p)
#pragma GCC unroll 2
                    for (int v = 0; v < VECTORS; ++v) put(row, column + p, part + v, sum[p][v]);
            }
}

// The same, with as many results in registers as these and the width, a multiple of 4 or 6, allow.
template <int FROM, int TO, int STEP, class Put>
void convolve_rows(const float* image, int64_t pitch, int64_t rows, int64_t width, const Tap* taps, int64_t count,
                   Put put) {
    constexpr int LONG = WIDTH == 16 ? 12 : 6, SHORT = WIDTH == 16 ? 8 : 4;
    if (width % LONG == 0)
        convolve<FROM, TO, STEP, LONG>(image, pitch, rows, width, taps, count, put);
    else if (width % SHORT == 0)
        convolve<FROM, TO, STEP, SHORT>(image, pitch, rows, width, taps, count, put);
    else
        convolve<FROM, TO, STEP, 2>(image, pitch, rows, width, taps, count, put);
}

// Adds the gradient of the weights (taps, inputs, outputs) that some rows of gradients (rows, width, OUT) contribute.
template <int IN, int OUT, int STRIDE>
NOT_INLINE void weight_gradient(const float* image, int64_t pitch, const float* gradients, int64_t rows,
                                int64_t width, float* sums) {
    constexpr int VECTORS = 2, SOME = WIDTH == 16 ? 8 : 4;
    for (int64_t part = 0; part < OUT; part += VECTORS * WIDTH)
        for (int64_t tap = 0; tap < TAPS; ++tap)
            for (int64_t in = 0; in < IN; in += SOME) {
                vec sum[SOME][VECTORS] = {};
                for (int64_t row = 0; row < rows; ++row) {
                    const float* from = image + ((row * STRIDE + tap / SIDE) * pitch + tap % SIDE) * IN + in;
                    const float* by = gradients + row * width * OUT + part;
                    for (int64_t column = 0; column < width; ++column, from += STRIDE * IN, by += OUT) {
                        const vec left = load(by), right = load(by + WIDTH);
#pragma GCC unroll 8
                        for (int s = 0; s < SOME; ++s) {
                            sum[s][0] += left * from[s];
                            sum[s][1] += right * from[s];
                        }
                    }
                }
#pragma GCC unroll 8
                for (int s = 0; s < SOME; ++s)
                    for (int v = 0; v < VECTORS; ++v) {
                        float* to = sums + (tap * IN + in + s) * OUT + part + v * WIDTH;
                        store(to, load(to) + sum[s][v]);
                    }
            }
}

template <int IN, int OUT>
struct Strided {
    typedef float Value;
    static constexpr int64_t STRIDE = 2, STRIP = 4;  // rows of results that are computed together

    const Maps in, out;

    explicit Strided(const Maps& out) : in{out.images, out.height * STRIDE, out.width * STRIDE}, out(out) {}

    // Weights (outputs, taps, inputs) as (taps, inputs, outputs), or (taps, outputs, inputs) for the backward pass.
    NOT_INLINE static Buffer<float> pack(const float* w, bool backwards) {
        Buffer<float> packed(TAPS * IN * OUT);
        for (int64_t o = 0; o < OUT; ++o)
            for (int64_t tap = 0; tap < TAPS; ++tap)
                for (int64_t i = 0; i < IN; ++i)
                    packed[tap * IN * OUT + (backwards ? o * IN + i : i * OUT + o)] = w[(o * TAPS + tap) * IN + i];
        return packed;
    }

    // Sums of the threads (threads, taps, inputs, outputs), added in the order of threads, as (outputs, taps, inputs).
    NOT_INLINE static void collect(const Buffer<float>& all, float* to) {
        for (int64_t n = 0; n < TAPS * IN; ++n)
            for (int64_t o = 0; o < OUT; ++o) {
                float sum = 0;
                for (size_t t = 0; t < all.size(); t += TAPS * IN * OUT) sum += all[t + n * OUT + o];
                to[o * TAPS * IN + n] = sum;
            }
    }

    // to = conv(made, w); returns the sums of it and of its squares.
    template <class Make>
    Sums forward(const float* w, float* to, Make make) const {
        const Buffer<float> weights = pack(w, false);
        std::array<Tap, TAPS> taps;
        for (int64_t tap = 0; tap < TAPS; ++tap)
            taps[tap] = {tap / SIDE * in.padded_width() + tap % SIDE, weights.data() + tap * IN * OUT};
        Sums sums(OUT);
#pragma omp parallel
        {
            Buffer<float> padded(in.padded() * IN, 0.0f);
            int64_t begin, end;
            share(out.images, begin, end);
            for (int64_t image = begin; image < end; ++image) {
                fill<IN>(padded.data(), in, image, make);
                Row<OUT> sum, square;
                float* there = to + image * out.pixels() * OUT;
                convolve_rows<IN, OUT, STRIDE>(padded.data(), in.padded_width(), out.height, out.width, taps.data(),
                                               TAPS, [&](int64_t row, int64_t column, int v, vec value) {
                                                   store(there + (row * out.width + column) * OUT + v * WIDTH, value);
                                                   sum.part[v] += value;
                                                   square.part[v] += value * value;
                                               });
                sum.add_to(sums.mine());
                square.add_to(sums.mine() + OUT);
            }
        }
        return sums;
    }

    // From the gradients of the results and from the inputs, which functions return, to the gradients of the
    // weights and of the inputs. `take(i, v, values, at, sum, other)` stores the latter at flat index i and
    // sums them up; `at` is the flat index of the result at the same pixel, -1 if there is none.
    template <class Gradient, class Input, class Take>
    Sums backward(const float* w, float* to_w, Gradient gradient, Input input, Take take) const {
        const Buffer<float> weights = pack(w, true);
        constexpr int64_t SIZE = TAPS * IN * OUT;
        Buffer<float> all(SIZE * omp_get_max_threads(), 0.0f);
        Sums sums(IN);
#pragma omp parallel
        {
            Buffer<float> padded(out.padded() * OUT, 0.0f), inputs(in.padded() * IN, 0.0f);
            Buffer<float> some(STRIP * out.width * OUT);
            float* mine = all.data() + SIZE * omp_get_thread_num();
            int64_t begin, end;
            share(out.images, begin, end);
            for (int64_t image = begin; image < end; ++image) {
                fill<OUT>(padded.data(), out, image, gradient);
                fill<IN>(inputs.data(), in, image, input);
                for (int64_t row = 0; row < out.height; row += STRIP) {
                    const int64_t rows = row + STRIP < out.height ? STRIP : out.height - row;
                    for (int64_t r = 0; r < rows; ++r) {
                        const float* from = padded.data() + ((row + r + 1) * out.padded_width() + 1) * OUT;
                        std::memcpy(some.data() + r * out.width * OUT, from, out.width * OUT * sizeof(float));
                    }
                    weight_gradient<IN, OUT, STRIDE>(inputs.data() + row * STRIDE * in.padded_width() * IN,
                                                     in.padded_width(), some.data(), rows, out.width, mine);
                }
                Row<IN> sum, other;
                for (int64_t phase = 0; phase < STRIDE * STRIDE; ++phase)
                    to_inputs(padded.data(), weights.data(), image, phase / STRIDE, phase % STRIDE,
                              [&](int64_t i, int v, vec value, int64_t at) {
                                  take(i, v, value, at, sum.part[v], other.part[v]);
                              });
                sum.add_to(sums.mine());
                other.add_to(sums.mine() + IN);
            }
        }
        collect(all, to_w);
        return sums;
    }

    // The gradients of the inputs that are `down` and `right` of every second pixel. Each of these four kinds has
    // its own taps: the one in the middle, two of an edge or the four corners.
    template <class Take>
    void to_inputs(const float* padded, const float* weights, int64_t image, int64_t down, int64_t right,
                   Take take) const {
        std::array<Tap, TAPS> taps;
        int64_t count = 0;
        for (int64_t tap = 0; tap < TAPS; ++tap) {
            const int64_t y = down + 1 - tap / SIDE, x = right + 1 - tap % SIDE;
            if (y % STRIDE == 0 && x % STRIDE == 0)
                taps[count++] = {(y / STRIDE + 1) * out.padded_width() + x / STRIDE + 1, weights + tap * IN * OUT};
        }
        convolve_rows<OUT, IN, 1>(
            padded, out.padded_width(), out.height, out.width, taps.data(), count,
            [&](int64_t row, int64_t column, int v, vec value) {
                const int64_t line = image * in.height + row * STRIDE + down;
                const int64_t i = (line * in.width + column * STRIDE + right) * IN + v * WIDTH;
                const int64_t at = ((image * out.height + row) * out.width + column) * OUT + v * WIDTH;
                take(i, v, value, down || right ? -1 : at);
            });
    }
};

}  // namespace
