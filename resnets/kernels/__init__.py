"""Training on CPUs with this project's own C++; whatever it does not support is left to PyTorch.

Read them in this order:

- `fuse`: `use_cpu_kernels`, which installs the kernels into a network.
- `norm`: BN, an addition and ReLU as one operation (norm.h).
- `block`: whole basic blocks as one operation (block.h) by Winograd's algorithm
  (winograd.h), or directly where they halve the maps (strided_bf16.h, strided_fp32.h).
- `native`: compiles the C++ on first use and keeps the libraries.
"""
