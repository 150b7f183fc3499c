// A block of two 3x3 convolutions in training, for block.py: bf16, channels_last.
//
//   y1 = conv(x, w1);  y2 = conv(relu(bn1(y1)), w2);  out = relu(bn2(y2) + shortcut(x))
//
// The first convolution may halve the maps and double the channels; the shortcut is then option A.

#if defined(__AVX512BF16__) && !defined(__AMX_BF16__)  // with matrix units oneDNN is faster

#include "convolution.h"

namespace {

struct Layer {
    const float* w;
    Norm norm;
    float *state, *to_w, *to_weight, *to_bias;
};

// Maps that one block reads and writes; g1 and g2 take the gradients behind the BN layers.
struct Tensors {
    const half *x, *gradient;
    half *y1, *y2, *out, *g1, *g2, *to_x;
};

template <int IN, int OUT, int STRIDE>
struct Block {
    const Convolution<IN, OUT, STRIDE> conv1;
    const Convolution<OUT, OUT, 1> conv2;
    const Layer *layer1, *layer2;
    const State state1, state2;
    const int64_t rows;

    Block(const Maps& out, const Layer* layers)
        : conv1(out), conv2(out), layer1(layers), layer2(layers + 1), state1(layer1->state, OUT),
          state2(layer2->state, OUT), rows(out.rows()) {}

    void forward(bool adds, const Tensors& t) const {
        settle(layer1->norm, conv1.forward(layer1->w, t.y1, [x = t.x](int64_t i, int) { return load(x + i); }),
               nullptr, rows, state1);
        const Row<OUT> k(state1.scale), s(state1.shift);
        settle(layer2->norm, conv2.forward(layer2->w, t.y2, [=, y1 = t.y1](int64_t i, int v) {
            const f16 value = load(y1 + i) * k.part[v] + s.part[v];
            return gated(value, value);
        }), nullptr, rows, state2);
        if (STRIDE == 1)
            apply(t.y2, adds ? t.x : nullptr, t.out, rows, OUT, true, state2);
        else
            finish(adds, t);
    }

    // out = relu(bn2(y2) + every other pixel of x, with zeros for the new channels).
    void finish(bool adds, const Tensors& t) const {
        const Maps maps = conv1.out, from = conv1.in;
        const Row<OUT> k(state2.scale), s(state2.shift);
#pragma omp parallel for
        for (int64_t line = 0; line < maps.images * maps.height; ++line)
            for (int64_t column = 0; column < maps.width; ++column) {
                const int64_t i = (line * maps.width + column) * OUT;
                const half* x = t.x + (line * STRIDE * from.width + column * STRIDE) * IN;
#pragma GCC unroll 4
                for (int v = 0; v < OUT / WIDTH; ++v) {
                    f16 value = load(t.y2 + i + v * WIDTH) * k.part[v] + s.part[v];
                    if (adds && v < IN / WIDTH) value += load(x + v * WIDTH);
                    store(t.out + i + v * WIDTH, gated(value, value));
                }
            }
    }

    void backward(bool adds, const Tensors& t) const {
        const half *x = t.x, *y1 = t.y1, *y2 = t.y2;
        half *g1 = t.g1, *g2 = t.g2, *to_x = t.to_x;
        const Slopes by2(look_back<half>(t.gradient, y2, t.out, g2, rows, OUT, true, state2), rows, state2,
                         layer2->to_weight, layer2->to_bias);
        const Row<OUT> k1(state1.scale), s1(state1.shift), m1(state1.mean), k2(state2.scale);
        const Row<OUT> b2(by2.slope.data()), o2(by2.offset.data());
        const Sums sums = conv2.backward(
            layer2->w, layer2->to_w,
            [=](int64_t i, int v) { return k2.part[v] * load(g2 + i) + b2.part[v] * load(y2 + i) + o2.part[v]; },
            [=](int64_t i, int v) {
                const f16 value = load(y1 + i) * k1.part[v] + s1.part[v];
                return gated(value, value);
            },
            [=](int64_t i, int v, f16 value, int64_t, f16& sum, f16& with_x) {
                const f16 y = load(y1 + i);
                value = gated(value, y * k1.part[v] + s1.part[v]);
                store(g1 + i, value);
                sum += value;
                with_x += value * (y - m1.part[v]);
            });
        const Slopes by1(sums, rows, state1, layer1->to_weight, layer1->to_bias);
        const Row<OUT> b1(by1.slope.data()), o1(by1.offset.data());
        conv1.backward(
            layer1->w, layer1->to_w,
            [=](int64_t i, int v) { return k1.part[v] * load(g1 + i) + b1.part[v] * load(y1 + i) + o1.part[v]; },
            [=](int64_t i, int) { return load(x + i); },
            [=](int64_t i, int, f16 value, int64_t at, f16&, f16&) {
                store(to_x + i, adds && at >= 0 ? value + load(g2 + at) : value);
            });
    }
};

template <class Work>
void choose(int64_t channels, int64_t stride, const Maps& out, const Layer* layers, Work work) {
    if (stride == 2)
        channels == 16 ? work(Block<16, 32, 2>(out, layers)) : work(Block<32, 64, 2>(out, layers));
    else if (channels == 16)
        work(Block<16, 16, 1>(out, layers));
    else
        channels == 32 ? work(Block<32, 32, 1>(out, layers)) : work(Block<64, 64, 1>(out, layers));
}

}  // namespace

extern "C" int32_t block_available() { return 1; }

// channels: of x; images, height and width: of the results.
extern "C" void block_forward(int64_t channels, int64_t stride, int64_t images, int64_t height, int64_t width,
                              int32_t adds, const Tensors* tensors, const Layer* layers) {
    choose(channels, stride, {images, height, width}, layers,
           [&](const auto& block) { block.forward(adds != 0, *tensors); });
}

extern "C" void block_backward(int64_t channels, int64_t stride, int64_t images, int64_t height, int64_t width,
                               int32_t adds, const Tensors* tensors, const Layer* layers) {
    choose(channels, stride, {images, height, width}, layers,
           [&](const auto& block) { block.backward(adds != 0, *tensors); });
}

#else

extern "C" int block_available() { return 0; }

#endif
