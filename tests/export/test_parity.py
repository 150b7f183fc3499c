"""Exports whose outputs differ from their source's, or depend on the batch size, are refused."""

import pytest
import torch

from resnets.export import parity
from resnets.inference.deployable import Outputs
from resnets.support.errors import UserError
from resnets.weights import model_file


def test_outputs_that_depend_on_the_batch_size_are_refused(source):
    model = model_file.load(str(source))
    expected = parity.reference(model, False)

    def mixing(images):
        logits, features = expected(images)
        return Outputs(logits + 0.1 * (len(images) > 3), features)

    with pytest.raises(UserError, match="depend on the batch size: at 8"):
        parity.compare_outputs(mixing, expected, [], precision="int8", size=32)


def test_outputs_in_bf16_may_depend_on_the_batch_size_within_the_tolerance(source):
    """Kernels for some batches round in another order where hardware multiplies bf16."""
    expected = parity.reference(model_file.load(str(source)), False)
    images = [torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8)] * 8

    def mixing(images):
        logits, features = expected(images)
        return Outputs(logits * (1.01 if len(images) > 3 else 1), features)

    parity.compare_outputs(mixing, expected, images, precision="bf16", size=32)
    with pytest.raises(UserError, match="depend on the batch size: at 8"):
        parity.compare_outputs(mixing, expected, images, precision="fp32", size=32)


@pytest.mark.parametrize("output", [0, 1])
def test_outputs_that_are_not_finite_are_refused(source, output):
    expected = parity.reference(model_file.load(str(source)), False)

    def broken(images):
        outputs = list(expected(images))
        outputs[output] = outputs[output] * float("nan")
        return Outputs(*outputs)

    with pytest.raises(UserError, match="differ by nan"):
        parity.compare_outputs(broken, expected, [], precision="int8", size=32)
