"""What a detector costs, as known facts."""

import pytest

from resnets.detection.complexity import SHAPES, costs
from resnets.training.recipe import Detection


@pytest.mark.parametrize(
    ("shape", "trunk", "rpn"),
    [(SHAPES[0], 7.55, 2.24), (SHAPES[1], 13.4, 4.01), (SHAPES[2], 30.1, 8.97)],
)
def test_multiply_adds_of_resnet_50(shape, trunk, rpn):
    cost = costs("resnet50", Detection(), *shape)
    assert cost.trunk / 1e9 == pytest.approx(trunk, rel=0.004)
    assert cost.rpn / 1e9 == pytest.approx(rpn, rel=0.004)
    assert cost.region / 1e9 == pytest.approx(0.732, rel=0.001)
    cells = -(-shape[0] // 16) * -(-shape[1] // 16)
    assert cost.rpn_outputs == cells * 512 * 9 * 5


def test_a_region_costs_more_where_all_196_bins_are_used():
    at_3x3 = costs("resnet50-v1.5", Detection(), 300, 400)
    assert at_3x3.region > 1.1 * costs("resnet50", Detection(), 300, 400).region
