// BN, the addition of a shortcut and ReLU, for norm.py.

#include "norm.h"

namespace {

template <class T>
void forward(const T* x, const T* shortcut, T* out, int64_t rows, int64_t channels, bool relu,
             const Norm& norm, State state) {
    collect_statistics(x, rows, channels, norm, state);
    apply(x, shortcut, out, rows, channels, relu, state);
}

// From the gradient of `out` to the gradients of x, shortcut, weight and bias.
template <class T>
void backward(const T* gradient, const T* x, const T* out, T* to_x, T* to_shortcut, int64_t rows,
              int64_t channels, bool relu, State state, float* to_weight, float* to_bias) {
    const Sums sums = gradient_sums(gradient, x, out, to_shortcut, rows, channels, relu, state);
    const Slopes slopes(sums, rows, state, to_weight, to_bias);
    const bool again = relu && !out;
    const T* from = out ? to_shortcut : gradient;
    everywhere(rows, channels, [&](int64_t block) {
        return [=, k = Lanes(state.scale, channels, block), s = Lanes(state.shift, channels, block),
                b = Lanes(slopes.slope.data(), channels, block),
                o = Lanes(slopes.offset.data(), channels, block)](int64_t i, int64_t p) {
            vec g = load(from + i);
            const vec v = load(x + i);
            if (again) g = gated(g, v * k.part[p] + s.part[p]);
            store(to_x + i, k.part[p] * g + b.part[p] * v + o.part[p]);
        };
    });
}

}  // namespace

#define INTERFACE(T, NAME)                                                                             \
    extern "C" void norm_forward_##NAME(                                                               \
        const T* x, const T* shortcut, T* out, int64_t rows, int64_t channels, int32_t relu,           \
        const float* weight, const float* bias, float* running_mean, float* running_var,               \
        float momentum, float eps, float* state) {                                                     \
        forward(x, shortcut, out, rows, channels, relu != 0,                                           \
                Norm{weight, bias, running_mean, running_var, momentum, eps}, State(state, channels)); \
    }                                                                                                  \
    extern "C" void norm_backward_##NAME(                                                              \
        const T* gradient, const T* x, const T* out, T* to_x, T* to_shortcut, int64_t rows,            \
        int64_t channels, int32_t relu, float* state, float* to_weight, float* to_bias) {              \
        backward(gradient, x, out, to_x, to_shortcut, rows, channels, relu != 0,                       \
                 State(state, channels), to_weight, to_bias);                                          \
    }
INTERFACE(float, fp32)
INTERFACE(half, bf16)
