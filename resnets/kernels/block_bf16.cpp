// Basic blocks in bf16, for block.py.

#if defined(__AVX512BF16__) && !defined(__AMX_BF16__)  // with matrix units oneDNN is faster

#include "block.h"
#include "convolution.h"

INTERFACE(Convolution, half)

#else

#include <cstdint>

extern "C" int32_t block_available() { return 0; }

#endif
