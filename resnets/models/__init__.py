"""The networks: plain `torch.nn` modules, without files, kernels or printing.

Read them in this order:

- `blocks`: residual blocks, their shortcuts, and stages of blocks.
- `residual`: `Architecture`, a network as a row of choices, and `ResidualNetwork`, built from it.
- `zoo`: the table of named architectures; `build("resnet50")`.
- `complexity`: parameters, multiply-adds and shapes, counted on the built network.
- `batch_norm`: which statistics BN uses, and BN folded into convolutions.
"""
