// Blocks of two 3x3 convolutions in training, for block.py, channels_last.
//
//   y1 = conv(x, w1);  y2 = conv(relu(bn1(y1)), w2);  out = relu(bn2(y2) + shortcut(x))
//
// Several blocks in a row are computed together: the operations after bn2 are done when the next block reads
// their result, and their backward pass when the next block's gradient is written. The first convolution of a
// single block may halve the maps and double the channels; the shortcut is then option A.
//
// The convolution is a template argument: Winograd's algorithm (winograd.h), or, where it halves the maps, direct
// sums (strided_bf16.h, strided_fp32.h).

#pragma once

#include "maps.h"

namespace {

struct Layer {
    const float* w;
    Norm norm;
    float *state, *to_w, *to_weight, *to_bias;
};

// Maps of one block. g1 and g2 receive the gradients of the outputs of its BN layers, to_x that of x.
template <class T>
struct Tensors {
    const T* x;
    T *y1, *y2, *out, *g1, *g2, *to_x;
};

template <template <int, int, int> class Convolution, int IN, int OUT, int STRIDE>
struct Block {
    typedef typename Convolution<IN, OUT, STRIDE>::Value T;

    const Convolution<IN, OUT, STRIDE> conv1;
    const Convolution<OUT, OUT, 1> conv2;
    const Layer *layer1, *layer2;
    const State state1, state2;
    const Tensors<T> t;
    const bool adds;
    const int64_t rows;

    Block(const Maps& out, bool adds, const Tensors<T>& tensors, const Layer* layers)
        : conv1(out), conv2(out), layer1(layers), layer2(layers + 1), state1(layer1->state, OUT),
          state2(layer2->state, OUT), t(tensors), adds(adds), rows(out.rows()) {}

    // Both convolutions; `make` returns the inputs of the first. Variances are computed from sums of squares: a
    // channel whose mean is 1,000 times its deviation loses five digits. The border of zeros prevents such channels.
    template <class Make>
    void forward(Make make) const {
        finish_statistics(layer1->norm, conv1.forward(layer1->w, t.y1, make), nullptr, rows, state1);
        const Row<OUT> k(state1.scale), s(state1.shift);
        finish_statistics(layer2->norm, conv2.forward(layer2->w, t.y2, [=, y1 = t.y1](int64_t i, int v) {
            const vec value = take_next(y1 + i) * k.part[v] + s.part[v];
            return gated(value, value);
        }), nullptr, rows, state2);
    }

    // The operations after the convolutions, in a pass over the maps of their own.
    void finish() const {
        if constexpr (STRIDE == 1)
            apply(t.y2, adds ? t.x : nullptr, t.out, rows, OUT, true, state2);
        else
            finish_halved();
    }

    // out = relu(bn2(y2) + every other pixel of x, with zeros for the new channels).
    void finish_halved() const {
        const Maps maps = conv1.out, from = conv1.in;
        const Row<OUT> k(state2.scale), s(state2.shift);
#pragma omp parallel for
        for (int64_t line = 0; line < maps.images * maps.height; ++line)
            for (int64_t column = 0; column < maps.width; ++column) {
                const int64_t i = (line * maps.width + column) * OUT;
                const T* x = t.x + (line * STRIDE * from.width + column * STRIDE) * IN;
#pragma GCC unroll 4
                for (int v = 0; v < OUT / WIDTH; ++v) {
                    vec value = load(t.y2 + i + v * WIDTH) * k.part[v] + s.part[v];
                    if (adds && v < IN / WIDTH) value += load(x + v * WIDTH);
                    store(t.out + i + v * WIDTH, gated(value, value));
                }
            }
    }

    // From g2 and its sums to the gradients of all weights; `take` receives that of x, as in
    // Convolution::backward, including the shortcut's.
    template <class Take>
    Sums backward(const Sums& sums, Take take) const {
        const T *x = t.x, *y1 = t.y1, *y2 = t.y2;
        T *g1 = t.g1, *g2 = t.g2;
        const Slopes by2(sums, rows, state2, layer2->to_weight, layer2->to_bias);
        const Row<OUT> k1(state1.scale), s1(state1.shift), m1(state1.mean), k2(state2.scale);
        const Row<OUT> b2(by2.slope.data()), o2(by2.offset.data());
        const Sums between = conv2.backward(
            layer2->w, layer2->to_w,
            [=](int64_t i, int v) {
                return k2.part[v] * take_next(g2 + i) + b2.part[v] * take_next(y2 + i) + o2.part[v];
            },
            [=](int64_t i, int v) {
                const vec value = take_next(y1 + i) * k1.part[v] + s1.part[v];
                return gated(value, value);
            },
            [=](int64_t i, int v, vec value, int64_t, vec& sum, vec& with_x) {
                const vec y = take_next(y1 + i);
                value = gated(value, y * k1.part[v] + s1.part[v]);
                put_next(g1 + i, value);
                sum += value;
                with_x += value * (y - m1.part[v]);
            });
        const Slopes by1(between, rows, state1, layer1->to_weight, layer1->to_bias);
        const Row<OUT> b1(by1.slope.data()), o1(by1.offset.data());
        return conv1.backward(
            layer1->w, layer1->to_w,
            [=](int64_t i, int v) {
                return k1.part[v] * take_next(g1 + i) + b1.part[v] * take_next(y1 + i) + o1.part[v];
            },
            [=](int64_t i, int) { return take_next(x + i); },
            [=, adds = adds](int64_t i, int v, vec value, int64_t at, vec& sum, vec& other) {
                take(i, v, adds && at >= 0 ? value + take_next(g2 + at) : value, sum, other);
            });
    }
};

// Blocks in a row: the input x of each is the output of the one before.
template <template <int, int, int> class Convolution, int IN, int OUT, int STRIDE>
struct Blocks {
    typedef Block<Convolution, IN, OUT, STRIDE> Each;
    typedef typename Each::T T;
    std::vector<Each> blocks;

    Blocks(int64_t count, const Maps& out, bool adds, const Tensors<T>* tensors, const Layer* layers) {
        for (int64_t n = 0; n < count; ++n) blocks.emplace_back(out, adds, tensors[n], layers + 2 * n);
    }

    void forward() const {
        for (size_t n = 0; n < blocks.size(); ++n) {
            const T* x = blocks[n].t.x;
            if (n == 0 || STRIDE != 1) {
                blocks[n].forward([=](int64_t i, int) { return take_next(x + i); });
            } else {  // the last block's output is computed here
                const Each& last = blocks[n - 1];
                const Row<OUT> k(last.state2.scale), s(last.state2.shift);
                const T *y2 = last.t.y2, *shortcut = last.adds ? last.t.x : nullptr;
                T* out = last.t.out;
                blocks[n].forward([=](int64_t i, int v) {
                    vec value = take_next(y2 + i) * k.part[v] + s.part[v];
                    if (shortcut) value += take_next(shortcut + i);
                    value = gated(value, value);
                    put_next(out + i, value);
                    return rounded(out, value);
                });
            }
        }
        blocks.back().finish();
    }

    void backward(const T* gradient) const {
        const Each& last = blocks.back();
        Sums sums =
            gradient_sums<T>(gradient, last.t.y2, last.t.out, last.t.g2, last.rows, OUT, true, last.state2);
        if constexpr (STRIDE == 1)
            for (size_t n = blocks.size(); n-- > 1;) {
                const Each& before = blocks[n - 1];
                const Row<OUT> m(before.state2.mean);
                const T *out = before.t.out, *y2 = before.t.y2;
                T* g2 = before.t.g2;
                sums = blocks[n].backward(sums, [=](int64_t i, int v, vec value, vec& sum, vec& with_x) {
                    value = gated(value, take_next(out + i));
                    put_next(g2 + i, value);
                    sum += value;
                    with_x += value * (take_next(y2 + i) - m.part[v]);
                });
            }
        T* to_x = blocks[0].t.to_x;
        blocks[0].backward(sums, [=](int64_t i, int, vec value, vec&, vec&) { put_next(to_x + i, value); });
    }
};

}  // namespace

// The functions that block.py calls, for a convolution and the type of its maps. OF_CHANNELS (those of x) and
// OF_STRIDE are macros of the compiler's command line: each kind of block is a library of its own.
//
// count: number of blocks, one if the stride is 2; images, height and width: of the results.
#define INTERFACE(CONVOLUTION, T)                                                                                      \
    typedef Blocks<CONVOLUTION, OF_CHANNELS, OF_CHANNELS * OF_STRIDE, OF_STRIDE> Kind;                                 \
    extern "C" int32_t block_available() { return 1; }                                                                 \
    extern "C" void block_forward(int64_t count, int64_t images, int64_t height, int64_t width, int32_t adds,          \
                                  const Tensors<T>* tensors, const Layer* layers, const T*) {                          \
        Kind(count, {images, height, width}, adds != 0, tensors, layers).forward();                                    \
    }                                                                                                                  \
    extern "C" void block_backward(int64_t count, int64_t images, int64_t height, int64_t width, int32_t adds,         \
                                   const Tensors<T>* tensors, const Layer* layers, const T* gradient) {                \
        Kind(count, {images, height, width}, adds != 0, tensors, layers).backward(gradient);                           \
    }
