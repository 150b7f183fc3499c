"""Weights of other programs, read and written.

Read them in this order:

- `formats`: which format a file has; reads and writes all of them.
- `identify`: which network imported weights fit, and the model that they make.
- `pytorch`, `keras`, `caffe`: one program's files each.
- `caffe_convention`: layer names, graph and colours of Caffe and Keras, and what replaces them.
"""
