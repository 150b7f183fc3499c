// 3x3 convolutions in bf16 that halve the maps and double the channels, forward and backward, for AVX-512 BF16.
//
// Each is a sum of products of pairs, read directly from an image with a border of zeros that stays in
// the cache. The functions that make the image and that take the results are arguments: BN, ReLU and their
// sums are computed there, without another pass over the maps.

#pragma once

#include <array>

#include "maps.h"

namespace {

// An image with its border, made pixel by pixel: `make(i, v)` returns the values at flat index i of
// the maps, vector v of the channels. The border is not written: it holds zeros.
template <int CHANNELS, class Make>
void fill(half* padded, const Maps& maps, int64_t image, Make make) {
    for (int64_t row = 0; row < maps.height; ++row) {
        const int64_t from = (image * maps.height + row) * maps.width * CHANNELS;
        half* to = padded + ((row + 1) * maps.padded_width() + 1) * CHANNELS;
        for (int64_t i = 0; i < maps.width * CHANNELS; i += CHANNELS)
#pragma GCC unroll 4
            for (int v = 0; v < CHANNELS / WIDTH; ++v)
                store(to + i + v * WIDTH, make(from + i + v * WIDTH, v));
    }
}

// Weights (outputs, taps, inputs) as `convolve` reads them: for each tap and pair of inputs the pair
// of each output. In the backward pass, outputs and inputs are exchanged.
inline Buffer<half> pack(const float* w, int64_t inputs, int64_t outputs, bool backwards) {
    Buffer<half> packed(TAPS * inputs * outputs);
    const int64_t from = backwards ? outputs : inputs, to = backwards ? inputs : outputs;
#pragma omp parallel for
    for (int64_t tap = 0; tap < TAPS; ++tap)
        for (int64_t out = 0; out < outputs; ++out)
            for (int64_t in = 0; in < inputs; in += WIDTH) {
                half some[WIDTH];
                store(some, load(w + (out * TAPS + tap) * inputs + in));
                for (int64_t i = 0; i < WIDTH; ++i) {
                    const int64_t a = backwards ? out : in + i, b = backwards ? in + i : out;
                    packed[(tap * from + a / 2 * 2) * to + b * 2 + a % 2] = some[i];
                }
            }
    return packed;
}

// The operands of one tap of a convolution: pixels from an offset on, and packed weights.
struct Tap {
    int64_t offset;
    const half* weights;
};

// Rows of results, (rows, width, OUT), of some taps applied to an image with its border.
//
// Neighbouring results are STRIDE pixels apart in the image. ROWS x PIXELS results of VECTORS * 16
// channels are kept in registers.
template <int IN, int OUT, int STRIDE, int VECTORS, int PIXELS, int ROWS>
void convolve(const half* image, int64_t pitch, int64_t rows, int64_t width, const Tap* taps, int64_t count,
              float* to) {
    for (int64_t part = 0; part < OUT; part += VECTORS * WIDTH)
        for (int64_t row = 0; row < rows; row += ROWS)
            for (int64_t column = 0; column < width; column += PIXELS) {
                vec sum[ROWS][PIXELS][VECTORS] = {};
                for (int64_t tap = 0; tap < count; ++tap) {
                    const half* from = image + (taps[tap].offset + STRIDE * (row * pitch + column)) * IN;
                    const half* w = taps[tap].weights + 2 * part;
#pragma GCC unroll 2
                    for (int64_t in = 0; in < IN; in += 2, w += 2 * OUT) {
                        vec many[VECTORS];
#pragma GCC unroll 4
                        for (int v = 0; v < VECTORS; ++v) many[v] = load((const float*)(w + 2 * WIDTH * v));
#pragma GCC unroll 2
                        for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 24
                            for (int p = 0; p < PIXELS; ++p)
#pragma GCC unroll 4
                                for (int v = 0; v < VECTORS; ++v)
                                    sum[r][p][v] = dot(sum[r][p][v], many[v],
                                                       from + STRIDE * (r * pitch + p) * IN + in);
                    }
                }
#pragma GCC unroll 2
                for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 24
                    for (int p = 0; p < PIXELS; ++p)
#pragma GCC unroll 4
                        for (int v = 0; v < VECTORS; ++v)
                            store(to + ((row + r) * width + column + p) * OUT + part + v * WIDTH, sum[r][p][v]);
            }
}

// The same, with as many results in registers as the width, a multiple of 4 or 6, allows.
template <int IN, int OUT, int STRIDE>
void convolve_rows(const half* image, int64_t pitch, int64_t rows, int64_t width, const Tap* taps, int64_t count,
                   float* to) {
    constexpr int VECTORS = OUT == WIDTH ? 1 : 2, LONG = 24 / VECTORS, MIDDLE = 16 / VECTORS;
    if (width % LONG == 0)
        convolve<IN, OUT, STRIDE, VECTORS, LONG, 1>(image, pitch, rows, width, taps, count, to);
    else if (width % MIDDLE == 0)
        convolve<IN, OUT, STRIDE, VECTORS, MIDDLE, 1>(image, pitch, rows, width, taps, count, to);
    else if (width % (LONG / 2) == 0)
        convolve<IN, OUT, STRIDE, VECTORS, LONG / 2, 2>(image, pitch, rows, width, taps, count, to);
    else
        convolve<IN, OUT, STRIDE, VECTORS, 2, 2>(image, pitch, rows, width, taps, count, to);
}

// Row after row of an image with its border, as the pairs that two neighbouring results multiply:
// to[(row, k)] has columns 2k STRIDE + first and (2k + 1) STRIDE + first.
template <int CHANNELS, int STRIDE>
void pair_up(const half* image, int64_t pitch, int64_t first, int64_t rows, int64_t count, pair* to) {
    for (int64_t row = 0; row < rows; ++row)
        for (int64_t k = 0; k < count; ++k)
            for (int64_t c = 0; c < CHANNELS; c += WIDTH) {
                const half* at = image + (row * pitch + 2 * k * STRIDE + first) * CHANNELS + c;
                interleave(at, at + STRIDE * CHANNELS, to + (row * count + k) * CHANNELS + c);
            }
}

// Adds the gradient of the weights that some rows of an image contribute: sums are (taps, inputs, outputs).
//
// inputs: for the three columns of taps, pairs (rows, half_width, IN) of all rows that are read;
// outputs: pairs (rows, half_width, OUT) of gradients.
template <int IN, int OUT, int STRIDE>
void weight_gradient(const pair* const* inputs, const pair* outputs, int64_t rows, int64_t half_width, float* sums) {
    constexpr int VECTORS = OUT == WIDTH ? 1 : 2;
    constexpr int SOME = 8 / VECTORS;  // inputs whose sums are kept in registers, for three taps
    for (int64_t part = 0; part < OUT; part += VECTORS * WIDTH)
        for (int64_t tap_row = 0; tap_row < SIDE; ++tap_row)
            for (int64_t in = 0; in < IN; in += SOME) {
                vec sum[SIDE][SOME][VECTORS] = {};
                for (int64_t row = 0; row < rows; ++row) {
                    const int64_t at = (row * STRIDE + tap_row) * half_width * IN + in;
                    const pair *left = inputs[0] + at, *middle = inputs[1] + at, *right = inputs[2] + at;
                    const pair* out = outputs + row * half_width * OUT + part;
                    for (int64_t k = 0; k < half_width; ++k, left += IN, middle += IN, right += IN, out += OUT) {
                        vec many[VECTORS];
#pragma GCC unroll 4
                        for (int v = 0; v < VECTORS; ++v) many[v] = load((const float*)(out + WIDTH * v));
#pragma GCC unroll 8
                        for (int i = 0; i < SOME; ++i)
#pragma GCC unroll 4
                            for (int v = 0; v < VECTORS; ++v) {
                                sum[0][i][v] = dot(sum[0][i][v], many[v], left + i);
                                sum[1][i][v] = dot(sum[1][i][v], many[v], middle + i);
                                sum[2][i][v] = dot(sum[2][i][v], many[v], right + i);
                            }
                    }
                }
#pragma GCC unroll 3
                for (int t = 0; t < SIDE; ++t)
#pragma GCC unroll 8
                    for (int i = 0; i < SOME; ++i)
#pragma GCC unroll 4
                        for (int v = 0; v < VECTORS; ++v) {
                            float* to = sums + ((tap_row * SIDE + t) * IN + in + i) * OUT + part + v * WIDTH;
                            store(to, load(to) + sum[t][i][v]);
                        }
            }
}

// Sums of the threads (threads, taps, inputs, outputs), added in the order of threads, as (outputs, taps, inputs).
inline void collect(const Buffer<float>& all, int64_t inputs, int64_t outputs, float* to) {
    const int64_t size = TAPS * inputs * outputs, blocks = inputs / WIDTH;
#pragma omp parallel for
    for (int64_t n = 0; n < TAPS * blocks; ++n) {
        const int64_t tap = n / blocks, in = n % blocks * WIDTH;
        for (int64_t out = 0; out < outputs; ++out)
            for (int64_t i = in; i < in + WIDTH; ++i) {
                float sum = 0;
                for (size_t t = 0; t < all.size(); t += size) sum += all[t + (tap * inputs + i) * outputs + out];
                to[(out * TAPS + tap) * inputs + i] = sum;
            }
    }
}

template <int IN, int OUT>
struct Strided {
    typedef half Value;
    static constexpr int64_t STRIDE = 2;

    const Maps in, out;
    const int64_t strip;  // rows of results that are computed together, so that they stay in the cache

    explicit Strided(const Maps& out)
        : in{out.images, out.height * STRIDE, out.width * STRIDE}, out(out), strip(rows_of_strip(out.height)) {}

    static int64_t rows_of_strip(int64_t height) {
        int64_t rows = 8;
        while (height % rows) rows -= 2;
        return rows;
    }

    // to = conv(made, w); returns the sums of it and of its squares.
    template <class Make>
    Sums forward(const float* w, half* to, Make make) const {
        const Buffer<half> weights = pack(w, IN, OUT, false);
        std::array<Tap, TAPS> taps;
        for (int64_t tap = 0; tap < TAPS; ++tap)
            taps[tap] = {tap / SIDE * in.padded_width() + tap % SIDE, weights.data() + tap * IN * OUT};
        Sums sums(OUT);
#pragma omp parallel
        {
            Buffer<half> padded(in.padded() * IN, 0);
            Buffer<float> results(strip * out.width * OUT);
            int64_t begin, end;
            share(out.images, begin, end);
            for (int64_t image = begin; image < end; ++image) {
                fill<IN>(padded.data(), in, image, make);
                Row<OUT> sum, square;
                for (int64_t row = 0; row < out.height; row += strip) {
                    convolve_rows<IN, OUT, STRIDE>(padded.data() + row * STRIDE * in.padded_width() * IN,
                                                   in.padded_width(), strip, out.width, taps.data(), TAPS,
                                                   results.data());
                    half* there = to + (image * out.height + row) * out.width * OUT;
                    for (int64_t i = 0; i < strip * out.width * OUT; i += OUT)
#pragma GCC unroll 4
                        for (int v = 0; v < OUT / WIDTH; ++v) {
                            const vec value = load(results.data() + i + v * WIDTH);
                            store(there + i + v * WIDTH, value);
                            sum.part[v] += value;
                            square.part[v] += value * value;
                        }
                }
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
        const Buffer<half> weights = pack(w, IN, OUT, true);
        constexpr int64_t SIZE = TAPS * IN * OUT;
        Buffer<float> all(SIZE * omp_get_max_threads(), 0.0f);
        Sums sums(IN);
#pragma omp parallel
        {
            Buffer<half> padded(out.padded() * OUT, 0), inputs((in.padded() + 1) * IN, 0);
            Buffer<float> results(strip * out.width * IN);
            const int64_t half_width = out.width / 2;
            const int64_t seen = (strip - 1) * STRIDE + SIDE, size = seen * half_width * IN;
            Buffer<pair> outs(strip * half_width * OUT), pairs(SIDE * size);
            const pair* columns[] = {pairs.data(), pairs.data() + size, pairs.data() + 2 * size};
            float* mine = all.data() + SIZE * omp_get_thread_num();
            int64_t begin, end;
            share(out.images, begin, end);
            for (int64_t image = begin; image < end; ++image) {
                fill<OUT>(padded.data(), out, image, gradient);
                fill<IN>(inputs.data(), in, image, input);
                Row<IN> sum, other;
                for (int64_t row = 0; row < out.height; row += strip) {
                    const half* above = inputs.data() + row * STRIDE * in.padded_width() * IN;
                    for (int64_t c = 0; c < SIDE; ++c)
                        pair_up<IN, STRIDE>(above, in.padded_width(), c, seen, half_width, pairs.data() + c * size);
                    const half* there = padded.data() + row * out.padded_width() * OUT;
                    pair_up<OUT, 1>(there + out.padded_width() * OUT, out.padded_width(), 1, strip, half_width,
                                    outs.data());
                    weight_gradient<IN, OUT, STRIDE>(columns, outs.data(), strip, half_width, mine);
                    to_inputs(there, weights.data(), image, row, results.data(),
                              [&](int64_t i, int v, vec value, int64_t at) {
                                  take(i, v, value, at, sum.part[v], other.part[v]);
                              });
                }
                sum.add_to(sums.mine());
                other.add_to(sums.mine() + IN);
            }
        }
        collect(all, IN, OUT, to_w);
        return sums;
    }

    // The gradients of the inputs from a strip of gradients with their border.
    //
    // Inputs in even and odd rows and columns have different taps: the one in the middle,
    // two of an edge or the four corners.
    template <class Take>
    void to_inputs(const half* there, const half* weights, int64_t image, int64_t row, float* results,
                   Take take) const {
        for (int64_t phase = 0; phase < STRIDE * STRIDE; ++phase) {
            const int64_t down = phase / STRIDE, right = phase % STRIDE;
            std::array<Tap, TAPS> taps;
            int64_t count = 0;
            for (int64_t tap = 0; tap < TAPS; ++tap) {
                const int64_t y = down + 1 - tap / SIDE, x = right + 1 - tap % SIDE;
                if (y % STRIDE == 0 && x % STRIDE == 0)
                    taps[count++] = {(y / STRIDE + 1) * out.padded_width() + x / STRIDE + 1,
                                     weights + tap * IN * OUT};
            }
            convolve_rows<OUT, IN, 1>(there, out.padded_width(), strip, out.width, taps.data(), count, results);
            for (int64_t r = 0; r < strip; ++r)
                for (int64_t c = 0; c < out.width; ++c) {
                    const int64_t line = image * in.height + (row + r) * STRIDE + down;
                    const int64_t i = (line * in.width + c * STRIDE + right) * IN;
                    const int64_t at = ((image * out.height + row + r) * out.width + c) * OUT;
#pragma GCC unroll 4
                    for (int v = 0; v < IN / WIDTH; ++v)
                        take(i + v * WIDTH, v, load(results + (r * out.width + c) * IN + v * WIDTH),
                             phase ? -1 : at + v * WIDTH);
                }
        }
    }
};

}  // namespace
