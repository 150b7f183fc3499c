// Basic blocks in float32, for block.py.

#if defined(__AVX2__) && defined(__FMA__)

#include <type_traits>

#include "block.h"
#include "strided_fp32.h"
#include "winograd.h"

namespace {

template <int IN, int OUT, int STRIDE>
using Either = std::conditional_t<STRIDE == 1, Winograd<OUT, float>, Strided<IN, OUT>>;

template <int IN, int OUT, int STRIDE>
struct Convolution : Either<IN, OUT, STRIDE> {
    explicit Convolution(const Maps& out) : Either<IN, OUT, STRIDE>(out) {}
};

}  // namespace

INTERFACE(Convolution, float)

#else

#include <cstdint>

extern "C" int32_t block_available() { return 0; }

#endif
