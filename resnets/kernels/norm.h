// BN in training, the addition of a shortcut and ReLU, forward and backward, each in two passes over the maps.
//
// Maps are rows of `channels` values (channels_last), float32 or bf16. Arithmetic is in float32; sums
// are accumulated in float64, from float32 sums of a few thousand values.

#pragma once

#include <cmath>
#include <vector>

#include <omp.h>

#include "vectors.h"

namespace {

constexpr int64_t LANES = 64;  // values handled together: a piece of a row, or several narrow rows
constexpr int64_t PARTS = LANES / WIDTH;
constexpr int64_t TILE = 64;   // pieces whose sums stay in float32

// Maps as a flat array of pieces of LANES values, one piece in each of several blocks of channels.
//
// Several rows narrower than LANES form one piece, so that a lane always has the same channel.
struct Grid {
    int64_t pieces, step, blocks;

    Grid(int64_t rows, int64_t channels)
        : pieces(channels < LANES ? rows * channels / LANES : rows),
          step(channels < LANES ? LANES : channels),
          blocks(channels < LANES ? 1 : channels / LANES) {}
};

// This thread's share of `count` items.
inline void share(int64_t count, int64_t& first, int64_t& last) {
    const int64_t threads = omp_get_num_threads(), me = omp_get_thread_num();
    first = count * me / threads;
    last = count * (me + 1) / threads;
}

// A value for each lane of a block, from one for each channel.
struct Lanes {
    vec part[PARTS];

    Lanes(const float* channel, int64_t channels, int64_t block) {
        float flat[LANES];
        for (int64_t i = 0; i < LANES; ++i)
            flat[i] = channel[channels < LANES ? i % channels : block * LANES + i];
        for (int64_t p = 0; p < PARTS; ++p) part[p] = load(flat + p * WIDTH);
    }
};

// Two sums for each channel, collected by threads and added in their order, so that results repeat.
struct Sums {
    int64_t channels;
    std::vector<double> each;

    explicit Sums(int64_t channels)
        : channels(channels), each(2 * channels * omp_get_max_threads(), 0.0) {}

    double* mine() { return each.data() + 2 * channels * omp_get_thread_num(); }

    // After the parallel region: the sums of channel c over all threads.
    double first(int64_t c) const { return total(c); }
    double second(int64_t c) const { return total(channels + c); }

  private:
    double total(int64_t index) const {
        double sum = 0;
        for (size_t i = index; i < each.size(); i += 2 * channels) sum += each[i];
        return sum;
    }
};

// Sums over all rows: the function that `prepare(block)` returns adds the values at flat index i,
// part p of a block, to its last two arguments.
template <class Prepare>
Sums two_sums(int64_t rows, int64_t channels, Prepare prepare) {
    const Grid grid(rows, channels);
    Sums sums(channels);
#pragma omp parallel
    {
        double* mine = sums.mine();
        int64_t begin, end;
        share(grid.pieces, begin, end);
        for (int64_t tile = begin; tile < end; tile += TILE) {
            const int64_t stop = tile + TILE < end ? tile + TILE : end;
            for (int64_t block = 0; block < grid.blocks; ++block) {
                const auto add = prepare(block);
                vec a[PARTS] = {}, b[PARTS] = {};
                for (int64_t piece = tile; piece < stop; ++piece)
                    for (int64_t p = 0; p < PARTS; ++p)
                        add(piece * grid.step + block * LANES + p * WIDTH, p, a[p], b[p]);
                float flat[2][LANES];
                for (int64_t p = 0; p < PARTS; ++p) {
                    store(flat[0] + p * WIDTH, a[p]);
                    store(flat[1] + p * WIDTH, b[p]);
                }
                for (int64_t i = 0; i < LANES; ++i) {
                    const int64_t c = channels < LANES ? i % channels : block * LANES + i;
                    mine[c] += flat[0][i];
                    mine[channels + c] += flat[1][i];
                }
            }
        }
    }
    return sums;
}

// Calls the function that `prepare(block)` returns for every flat index i, part p of a block.
template <class Prepare>
void everywhere(int64_t rows, int64_t channels, Prepare prepare) {
    const Grid grid(rows, channels);
#pragma omp parallel
    {
        int64_t begin, end;
        share(grid.pieces, begin, end);
        for (int64_t tile = begin; tile < end; tile += TILE) {
            const int64_t stop = tile + TILE < end ? tile + TILE : end;
            for (int64_t block = 0; block < grid.blocks; ++block) {
                const auto work = prepare(block);
                for (int64_t piece = tile; piece < stop; ++piece)
                    for (int64_t p = 0; p < PARTS; ++p)
                        work(piece * grid.step + block * LANES + p * WIDTH, p);
            }
        }
    }
}

// A BN layer: its parameters and its moving averages. `state` is kept for the backward pass: mean,
// 1 / deviation, scale and shift of each channel of this batch.
struct Norm {
    const float *weight, *bias;
    float *running_mean, *running_var, momentum, eps;
};

struct State {
    float *mean, *inverse, *scale, *shift;

    State(float* state, int64_t channels)
        : mean(state), inverse(mean + channels), scale(inverse + channels), shift(scale + channels) {}
};

// State and moving averages from sums of (x - origin) and of its squares.
inline void finish_statistics(const Norm& norm, const Sums& sums, const float* origin, int64_t rows, State state) {
    for (int64_t c = 0; c < sums.channels; ++c) {
        const double m = sums.first(c) / rows, square = sums.second(c) / rows;
        const double variance = square <= m * m && std::isfinite(m) ? 0 : square - m * m;
        state.mean[c] = static_cast<float>(m + (origin ? origin[c] : 0));
        state.inverse[c] = static_cast<float>(1 / std::sqrt(variance + norm.eps));
        state.scale[c] = norm.weight[c] * state.inverse[c];
        state.shift[c] = norm.bias[c] - state.mean[c] * state.scale[c];
        const double unbiased = variance * rows / (rows - 1);
        norm.running_mean[c] += norm.momentum * (state.mean[c] - norm.running_mean[c]);
        norm.running_var[c] += norm.momentum * (static_cast<float>(unbiased) - norm.running_var[c]);
    }
}

// Statistics of x.
template <class T>
void collect_statistics(const T* x, int64_t rows, int64_t channels, const Norm& norm, State state) {
    std::vector<float> origin(channels);  // avoids cancellation if the mean is large
    for (int64_t c = 0; c < channels; ++c) {
        T one[WIDTH] = {x[c]};
        origin[c] = load(one)[0];
    }
    const Sums sums = two_sums(rows, channels, [&](int64_t block) {
        return [=, base = Lanes(origin.data(), channels, block)](int64_t i, int64_t p, vec& a, vec& b) {
            const vec v = load(x + i) - base.part[p];
            a += v;
            b += v * v;
        };
    });
    finish_statistics(norm, sums, origin.data(), rows, state);
}

// out = relu(scale x + shift + shortcut); the shortcut may be null.
template <class T>
void apply(const T* x, const T* shortcut, T* out, int64_t rows, int64_t channels, bool relu, State state) {
    everywhere(rows, channels, [&](int64_t block) {
        return [=, k = Lanes(state.scale, channels, block),
                s = Lanes(state.shift, channels, block)](int64_t i, int64_t p) {
            vec v = load(x + i) * k.part[p] + s.part[p];
            if (shortcut) v += load(shortcut + i);
            store(out + i, relu ? gated(v, v) : v);
        };
    });
}

// The gradient of x is scale g + slope x + offset, where g is the gradient of the BN layer's output.
struct Slopes {
    std::vector<float> slope, offset;

    // From sums of g and of g (x - mean); also the gradients of weight and bias.
    Slopes(const Sums& sums, int64_t rows, State state, float* to_weight, float* to_bias)
        : slope(sums.channels), offset(sums.channels) {
        for (int64_t c = 0; c < sums.channels; ++c) {
            const double g = sums.first(c), with_x = sums.second(c), inverse = state.inverse[c];
            const double by = -state.scale[c] * inverse * inverse * with_x / rows;
            to_bias[c] = static_cast<float>(g);
            to_weight[c] = static_cast<float>(with_x * inverse);
            slope[c] = static_cast<float>(by);
            offset[c] = static_cast<float>(-state.scale[c] * g / rows - by * state.mean[c]);
        }
    }
};

// Sums of g and g (x - mean). ReLU's gate is read from `out`, and g is stored in `kept`; if `out` is
// null, the gate is computed again from x.
template <class T>
Sums gradient_sums(const T* gradient, const T* x, const T* out, T* kept, int64_t rows, int64_t channels,
               bool relu, State state) {
    return two_sums(rows, channels, [&](int64_t block) {
        return [=, m = Lanes(state.mean, channels, block), k = Lanes(state.scale, channels, block),
                s = Lanes(state.shift, channels, block)](int64_t i, int64_t p, vec& a, vec& b) {
            vec g = load(gradient + i);
            const vec v = load(x + i);
            if (out) {
                g = gated(g, load(out + i));
                store(kept + i, g);
            } else if (relu) {
                g = gated(g, v * k.part[p] + s.part[p]);
            }
            a += g;
            b += g * (v - m.part[p]);
        };
    });
}

}  // namespace
