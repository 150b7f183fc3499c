// Basic blocks in bf16, for block.py.

#if defined(__AVX512BF16__) && !defined(__AMX_BF16__)  // with matrix units oneDNN is faster

#include <type_traits>

#include "block.h"
#include "strided_bf16.h"
#include "winograd.h"

namespace {

template <int IN, int OUT, int STRIDE>
using Either = std::conditional_t<STRIDE == 1, Winograd<OUT, half>, Strided<IN, OUT>>;

template <int IN, int OUT, int STRIDE>
struct Convolution : Either<IN, OUT, STRIDE> {
    explicit Convolution(const Maps& out) : Either<IN, OUT, STRIDE>(out) {}
};

}  // namespace

INTERFACE(Convolution, half)

#else

#include <cstdint>

extern "C" int32_t block_available() { return 0; }

#endif
