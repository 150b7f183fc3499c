// A block of two 3x3 convolutions of equal width in training, for block.py: bf16, channels_last.
//
//   y1 = conv(x, w1);  y2 = conv(relu(bn1(y1)), w2);  out = relu(bn2(y2) + x)
//
// Convolutions are sums of products of pairs (AVX-512 BF16), straight from an image with a border of
// zeros that stays in the cache. That image is made when it is needed: BN and ReLU on the way
// there, and BN's way back, cost no pass over the maps of their own; nor do BN's sums, which are
// collected where a convolution's results lie in registers.

#include "norm.h"

#if defined(__AVX512BF16__) && !defined(__AMX_BF16__)  // with matrix units oneDNN is faster

namespace {

typedef uint32_t pair;  // two bf16 that are multiplied and added together

constexpr int64_t TAPS = 9;

inline f16 dot(f16 sum, f16 many, const void* one) {
    pair value;
    std::memcpy(&value, one, sizeof value);
    return (f16)_mm512_dpbf16_ps((__m512)sum, (__m512bh)many, (__m512bh)_mm512_set1_epi32(value));
}

struct Maps {
    int64_t images, height, width;

    int64_t pixels() const { return height * width; }
    int64_t padded_width() const { return width + 2; }
    int64_t padded() const { return (height + 2) * padded_width(); }
    int64_t rows() const { return images * pixels(); }
};

// Weights for `convolve`: for each tap and pair of inputs, the pair of each output.
//
// w is (outputs, taps, inputs). Backwards the taps are turned around and inputs become outputs.
std::vector<half> pack(const float* w, int64_t channels, bool backwards) {
    std::vector<half> packed(TAPS * channels * channels);
    std::vector<half> rounded(TAPS * channels * channels);
    for (size_t i = 0; i < rounded.size(); i += WIDTH) store(rounded.data() + i, load(w + i));
    for (int64_t tap = 0; tap < TAPS; ++tap)
        for (int64_t in = 0; in < channels; ++in)
            for (int64_t out = 0; out < channels; ++out)
                packed[((tap * channels + in / 2 * 2) * channels) + out * 2 + in % 2] =
                    backwards ? rounded[(in * TAPS + TAPS - 1 - tap) * channels + out]
                              : rounded[(out * TAPS + tap) * channels + in];
    return packed;
}

// Rows of a convolution's results, (rows, width, CHANNELS), from an image with its border.
//
// ROWS x PIXELS results of VECTORS * 16 channels are kept in registers.
template <int CHANNELS, int VECTORS, int PIXELS, int ROWS>
void convolve(const half* image, int64_t first, int64_t rows, const Maps& maps, const half* weights, float* to) {
    const int64_t wide = maps.padded_width();
    for (int64_t part = 0; part < CHANNELS; part += VECTORS * WIDTH)
        for (int64_t row = 0; row < rows; row += ROWS)
            for (int64_t column = 0; column < maps.width; column += PIXELS) {
                f16 sum[ROWS][PIXELS][VECTORS] = {};
                for (int64_t tap = 0; tap < TAPS; ++tap) {
                    const half* from = image + ((first + row + tap / 3) * wide + column + tap % 3) * CHANNELS;
                    const half* w = weights + tap * CHANNELS * CHANNELS + 2 * part;
#pragma GCC unroll 2
                    for (int64_t in = 0; in < CHANNELS; in += 2, w += 2 * CHANNELS) {
                        f16 many[VECTORS];
#pragma GCC unroll 4
                        for (int v = 0; v < VECTORS; ++v) many[v] = load((const float*)(w + 2 * WIDTH * v));
#pragma GCC unroll 2
                        for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 24
                            for (int p = 0; p < PIXELS; ++p)
#pragma GCC unroll 4
                                for (int v = 0; v < VECTORS; ++v)
                                    sum[r][p][v] = dot(sum[r][p][v], many[v], from + (r * wide + p) * CHANNELS + in);
                    }
                }
#pragma GCC unroll 2
                for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 24
                    for (int p = 0; p < PIXELS; ++p)
#pragma GCC unroll 4
                        for (int v = 0; v < VECTORS; ++v)
                            store(to + ((row + r) * maps.width + column + p) * CHANNELS + part + v * WIDTH, sum[r][p][v]);
            }
}

// Two neighbouring pixels' values of 16 channels, interleaved.
inline void interleave(const half* left, const half* right, pair* to) {
    const __m512i low = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)left));
    const __m512i high = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)right));
    _mm512_storeu_si512(to, _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
}

// Images with a border, as pairs of neighbours in a row that start at even or at odd columns.
struct Pairs {
    std::vector<pair> even, odd;

    explicit Pairs(int64_t size) : even(size), odd(size) {}
};

// Rows of an image with their border on either side, for the rows between.
template <int CHANNELS>
void pair_up(const half* image, int64_t first, int64_t rows, const Maps& maps, Pairs& pairs) {
    const int64_t count = (rows + 2) * maps.padded_width() / 2;
    image += first * maps.padded_width() * CHANNELS;
    for (int64_t k = 0; k < count; ++k)
        for (int64_t c = 0; c < CHANNELS; c += WIDTH) {
            const half* at = image + 2 * k * CHANNELS + c;
            interleave(at, at + CHANNELS, pairs.even.data() + k * CHANNELS + c);
            if (k + 1 < count) interleave(at + CHANNELS, at + 2 * CHANNELS, pairs.odd.data() + k * CHANNELS + c);
        }
}

// Rows of an image without their border.
template <int CHANNELS>
void pair_inside(const half* image, int64_t first, int64_t rows, const Maps& maps, pair* pairs) {
    for (int64_t row = 0; row < rows; ++row)
        for (int64_t k = 0; k < maps.width / 2; ++k)
            for (int64_t c = 0; c < CHANNELS; c += WIDTH) {
                const half* at = image + ((first + row + 1) * maps.padded_width() + 2 * k + 1) * CHANNELS + c;
                interleave(at, at + CHANNELS, pairs + (row * maps.width / 2 + k) * CHANNELS + c);
            }
}

// Adds the gradient of the weights by some rows of an image: (taps, inputs, outputs).
//
// inputs: with their border; outputs: gradients, as pairs without a border.
template <int CHANNELS, int VECTORS>
void weigh(const Pairs& inputs, const pair* outputs, int64_t rows, const Maps& maps, float* sums) {
    constexpr int SOME = 8 / VECTORS;  // inputs whose sums are kept in registers, for three taps
    const int64_t half_width = maps.width / 2, half_padded = maps.padded_width() / 2;
    for (int64_t part = 0; part < CHANNELS; part += VECTORS * WIDTH)
        for (int64_t tap_row = 0; tap_row < 3; ++tap_row)
            for (int64_t in = 0; in < CHANNELS; in += SOME) {
                f16 sum[3][SOME][VECTORS] = {};
                for (int64_t row = 0; row < rows; ++row) {
                    const int64_t at = (row + tap_row) * half_padded * CHANNELS + in;
                    const pair *even = inputs.even.data() + at, *odd = inputs.odd.data() + at;
                    const pair* out = outputs + row * half_width * CHANNELS + part;
                    for (int64_t k = 0; k < half_width; ++k, even += CHANNELS, odd += CHANNELS, out += CHANNELS) {
                        f16 many[VECTORS];
#pragma GCC unroll 4
                        for (int v = 0; v < VECTORS; ++v) many[v] = load((const float*)(out + WIDTH * v));
#pragma GCC unroll 8
                        for (int i = 0; i < SOME; ++i)
#pragma GCC unroll 4
                            for (int v = 0; v < VECTORS; ++v) {
                                sum[0][i][v] = dot(sum[0][i][v], many[v], even + i);
                                sum[1][i][v] = dot(sum[1][i][v], many[v], odd + i);
                                sum[2][i][v] = dot(sum[2][i][v], many[v], even + CHANNELS + i);
                            }
                    }
                }
#pragma GCC unroll 3
                for (int t = 0; t < 3; ++t)
#pragma GCC unroll 8
                    for (int i = 0; i < SOME; ++i)
#pragma GCC unroll 4
                        for (int v = 0; v < VECTORS; ++v) {
                            float* to = sums + ((tap_row * 3 + t) * CHANNELS + in + i) * CHANNELS + part + v * WIDTH;
                            store(to, load(to) + sum[t][i][v]);
                        }
            }
}

// An image with its border, made pixel by pixel: `make(i, v)` gives the values at flat index i of
// the maps, vector v of the channels. The border stays as it is: zeros.
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

// A vector for each WIDTH channels.
template <int CHANNELS>
struct Row {
    f16 part[CHANNELS / WIDTH];

    Row() : part{} {}
    explicit Row(const float* channel) {
        for (int v = 0; v < CHANNELS / WIDTH; ++v) part[v] = load(channel + v * WIDTH);
    }
    void add_to(double* sums) const {
        for (int c = 0; c < CHANNELS; ++c) sums[c] += part[c / WIDTH][c % WIDTH];
    }
};

// The kernels for a number of channels and a width of maps.
template <int CHANNELS>
struct Block {
    static constexpr int VECTORS = CHANNELS == 16 ? 1 : 2;
    static constexpr int MANY = CHANNELS / WIDTH;
    const Maps maps;
    const int64_t strip;  // rows that are worked on together, so that they stay in the cache

    explicit Block(const Maps& maps) : maps(maps), strip(rows_of_strip(maps.height)) {}

    static int64_t rows_of_strip(int64_t height) {
        int64_t rows = 8;
        while (height % rows) rows -= 2;
        return rows;
    }

    // The convolution's results for a strip go to `take(i, v, values)`, as in `fill`.
    template <class Take>
    void conv(const half* padded, int64_t image, int64_t row, const half* weights, float* results, Take take) const {
        choose(padded, row, weights, results);
        const int64_t at = (image * maps.height + row) * maps.width * CHANNELS;
        for (int64_t i = 0; i < strip * maps.width * CHANNELS; i += CHANNELS)
#pragma GCC unroll 4
            for (int v = 0; v < MANY; ++v) take(at + i + v * WIDTH, v, load(results + i + v * WIDTH));
    }

    void choose(const half* padded, int64_t row, const half* weights, float* results) const {
        constexpr int LONG = 24 / VECTORS, MIDDLE = 16 / VECTORS;
        if (maps.width % LONG == 0)
            convolve<CHANNELS, VECTORS, LONG, 1>(padded, row, strip, maps, weights, results);
        else if (maps.width % MIDDLE == 0)
            convolve<CHANNELS, VECTORS, MIDDLE, 1>(padded, row, strip, maps, weights, results);
        else if (maps.width % (LONG / 2) == 0)
            convolve<CHANNELS, VECTORS, LONG / 2, 2>(padded, row, strip, maps, weights, results);
        else
            convolve<CHANNELS, VECTORS, 4, 2>(padded, row, strip, maps, weights, results);
    }

    // to = conv(made, w), and the sums of it and its squares.
    template <class Make>
    Sums forward(const float* w, half* to, Make make) const {
        const std::vector<half> weights = pack(w, CHANNELS, false);
        Sums sums(CHANNELS);
#pragma omp parallel
        {
            std::vector<half> padded(maps.padded() * CHANNELS, 0);
            std::vector<float> results(strip * maps.width * CHANNELS);
            int64_t begin, end;
            share(maps.images, begin, end);
            for (int64_t image = begin; image < end; ++image) {
                fill<CHANNELS>(padded.data(), maps, image, make);
                Row<CHANNELS> sum, square;
                for (int64_t row = 0; row < maps.height; row += strip)
                    conv(padded.data(), image, row, weights.data(), results.data(), [&](int64_t i, int v, f16 value) {
                        store(to + i, value);
                        sum.part[v] += value;
                        square.part[v] += value * value;
                    });
                sum.add_to(sums.mine());
                square.add_to(sums.mine() + CHANNELS);
            }
        }
        return sums;
    }

    // From gradients of a convolution's results and from its inputs, as `make`s, to the gradients
    // of the inputs, for `take(i, v, values, sum, other)` to put away and to sum up, and of the
    // weights.
    template <class Gradient, class Input, class Take>
    Sums backward(const float* w, float* to_w, Gradient gradient, Input input, Take take) const {
        const std::vector<half> weights = pack(w, CHANNELS, true);
        constexpr int64_t SIZE = TAPS * CHANNELS * CHANNELS;
        std::vector<float> all(SIZE * omp_get_max_threads(), 0.0f);
        Sums sums(CHANNELS);
#pragma omp parallel
        {
            std::vector<half> padded(maps.padded() * CHANNELS, 0), inputs(maps.padded() * CHANNELS, 0);
            std::vector<float> results(strip * maps.width * CHANNELS);
            std::vector<pair> outputs(strip * maps.width / 2 * CHANNELS);
            Pairs pairs((strip + 2) * maps.padded_width() / 2 * CHANNELS);
            float* mine = all.data() + SIZE * omp_get_thread_num();
            int64_t begin, end;
            share(maps.images, begin, end);
            for (int64_t image = begin; image < end; ++image) {
                fill<CHANNELS>(padded.data(), maps, image, gradient);
                fill<CHANNELS>(inputs.data(), maps, image, input);
                Row<CHANNELS> sum, other;
                for (int64_t row = 0; row < maps.height; row += strip) {
                    pair_inside<CHANNELS>(padded.data(), row, strip, maps, outputs.data());
                    pair_up<CHANNELS>(inputs.data(), row, strip, maps, pairs);
                    weigh<CHANNELS, VECTORS>(pairs, outputs.data(), strip, maps, mine);
                    conv(padded.data(), image, row, weights.data(), results.data(), [&](int64_t i, int v, f16 value) {
                        take(i, v, value, sum.part[v], other.part[v]);
                    });
                }
                sum.add_to(sums.mine());
                other.add_to(sums.mine() + CHANNELS);
            }
        }
        for (int64_t tap = 0; tap < TAPS; ++tap)
            for (int64_t in = 0; in < CHANNELS; ++in)
                for (int64_t out = 0; out < CHANNELS; ++out) {
                    float sum = 0;
                    for (size_t t = 0; t < all.size(); t += SIZE) sum += all[t + (tap * CHANNELS + in) * CHANNELS + out];
                    to_w[(out * TAPS + tap) * CHANNELS + in] = sum;
                }
        return sums;
    }
};

struct Layer {
    const float* w;
    Norm norm;
    float *state, *to_w, *to_weight, *to_bias;
};

template <int CHANNELS>
void forward(const Maps& maps, bool adds, const half* x, half* y1, half* y2, half* out, const Layer* layers) {
    const Block<CHANNELS> block(maps);
    const State first(layers[0].state, CHANNELS), second(layers[1].state, CHANNELS);
    const int64_t rows = maps.rows();
    settle(layers[0].norm, block.forward(layers[0].w, y1, [=](int64_t i, int) { return load(x + i); }),
           nullptr, rows, first);
    const Row<CHANNELS> k(first.scale), s(first.shift);
    settle(layers[1].norm, block.forward(layers[1].w, y2, [=](int64_t i, int v) {
        const f16 value = load(y1 + i) * k.part[v] + s.part[v];
        return gated(value, value);
    }), nullptr, rows, second);
    apply(y2, adds ? x : nullptr, out, rows, CHANNELS, true, second);
}

// g1 and g2 take the gradients behind the two BN layers.
template <int CHANNELS>
void backward(const Maps& maps, bool adds, const half* gradient, const half* x, const half* y1, const half* y2,
              const half* out, half* g1, half* g2, half* to_x, const Layer* layers) {
    const Block<CHANNELS> block(maps);
    const State first(layers[0].state, CHANNELS), second(layers[1].state, CHANNELS);
    const int64_t rows = maps.rows();
    const Slopes by2(look_back(gradient, y2, out, g2, rows, CHANNELS, true, second), rows, second,
                     layers[1].to_weight, layers[1].to_bias);
    const Row<CHANNELS> k1(first.scale), s1(first.shift), m1(first.mean), k2(second.scale);
    const Row<CHANNELS> b2(by2.slope.data()), o2(by2.offset.data());
    const Sums sums = block.backward(
        layers[1].w, layers[1].to_w,
        [=](int64_t i, int v) { return k2.part[v] * load(g2 + i) + b2.part[v] * load(y2 + i) + o2.part[v]; },
        [=](int64_t i, int v) {
            const f16 value = load(y1 + i) * k1.part[v] + s1.part[v];
            return gated(value, value);
        },
        [=](int64_t i, int v, f16 value, f16& sum, f16& with_x) {
            const f16 y = load(y1 + i);
            value = gated(value, y * k1.part[v] + s1.part[v]);
            store(g1 + i, value);
            sum += value;
            with_x += value * (y - m1.part[v]);
        });
    const Slopes by1(sums, rows, first, layers[0].to_weight, layers[0].to_bias);
    const Row<CHANNELS> b1(by1.slope.data()), o1(by1.offset.data());
    block.backward(
        layers[0].w, layers[0].to_w,
        [=](int64_t i, int v) { return k1.part[v] * load(g1 + i) + b1.part[v] * load(y1 + i) + o1.part[v]; },
        [=](int64_t i, int) { return load(x + i); },
        [=](int64_t i, int, f16 value, f16&, f16&) { store(to_x + i, adds ? value + load(g2 + i) : value); });
}

}  // namespace

extern "C" int32_t block_available() { return 1; }

extern "C" void block_forward(int64_t channels, int64_t images, int64_t height, int64_t width, int32_t adds,
                              const half* x, half* y1, half* y2, half* out, const Layer* layers) {
    const Maps maps{images, height, width};
    (channels == 16 ? forward<16> : channels == 32 ? forward<32> : forward<64>)(maps, adds != 0, x, y1, y2, out, layers);
}

extern "C" void block_backward(int64_t channels, int64_t images, int64_t height, int64_t width, int32_t adds,
                               const half* gradient, const half* x, const half* y1, const half* y2, const half* out,
                               half* g1, half* g2, half* to_x, const Layer* layers) {
    const Maps maps{images, height, width};
    (channels == 16 ? backward<16> : channels == 32 ? backward<32> : backward<64>)(
        maps, adds != 0, gradient, x, y1, y2, out, g1, g2, to_x, layers);
}

#else

extern "C" int32_t block_available() { return 0; }

#endif
