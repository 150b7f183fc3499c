"""Tests of classifiers, exact and with the protocol as part of the result.

Read them in this order:

- `protocols`: which views of an image a network gets, and how their probabilities are averaged.
- `evaluator`: every image of a test set once, shared among processes, to scores.
- `scores`: class probabilities of all images, as a file; ensembles.
- `results`: errors, their intervals, and the confusion matrix.
"""
