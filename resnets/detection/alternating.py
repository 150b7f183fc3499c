"""Faster R-CNN's 4-step alternating training (Faster R-CNN, section 3.2), as in appendix A.

1. The proposal network is trained from the initial weights, shared layers included.
2. The region head is trained from the initial weights, shared layers included, on the proposals of
   step 1, whose network has shared layers of its own.
3. The proposal network is trained from its initial weights on the shared layers of step 2, which
   stay.
4. The region head is trained on, on the proposals of step 3; the shared layers stay.

Proposals are computed again for each training image, in the scale and flip in which it is shown.
"""

from __future__ import annotations

import copy
from typing import NamedTuple

from torch import Tensor, nn

from resnets.detection.detector import MASKS, Detector, Part

OTHER = "other."
"""How the names of the other network's tensors begin in a checkpoint."""


class Step(NamedTuple):
    """A step: which losses count, and which parts of the detector learn."""

    part: Part
    shared: bool
    heads: tuple[str, ...]


def steps(detector: Detector) -> tuple[Step, ...]:
    """The four steps for a detector."""
    proposals, regions = ("rpn",), (detector.last, "siblings", MASKS)
    return (
        Step("proposals", True, proposals),
        Step("regions", True, regions),
        Step("proposals", False, proposals),
        Step("regions", False, regions),
    )


class Alternation:
    """What alternating training keeps besides the network: the weights of another one.

    In step 1 these are the initial weights, in step 2 those of step 1, later none.

    Args:
        weights: of the other network, by name; from a checkpoint or the initial ones.
    """

    def __init__(self, weights: dict[str, Tensor]) -> None:
        self.weights = weights
        self.part: Part = "proposals"
        self.proposer: Detector | None = None

    @staticmethod
    def from_start(detector: Detector) -> Alternation:
        """That of a training which begins with these weights."""
        return Alternation(_copied(detector))

    @staticmethod
    def from_checkpoint(tensors: dict[str, Tensor]) -> Alternation:
        """That of a checkpoint."""
        return Alternation(
            {k.removeprefix(OTHER): t for k, t in tensors.items() if k.startswith(OTHER)}
        )

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint needs."""
        return {OTHER + name: tensor for name, tensor in self.weights.items()}

    def begin(self, detector: Detector, step: int) -> None:
        """Change the weights for step number `step`, from 0, which begins."""
        if step == 1:
            trained = _copied(detector)
            detector.load_state_dict(self.weights)
            self.weights = trained
        elif step > 1:
            self.weights = {}

    def enter(self, detector: Detector, step: int) -> None:
        """Be in a step, at its start or later."""
        self.part, self.proposer = steps(detector)[step].part, None
        if step == 1:
            self.proposer = copy.deepcopy(detector).eval().requires_grad_(False)
            self.proposer.load_state_dict(self.weights)


def step_parameters(detector: Detector, step: int) -> list[nn.Parameter]:
    """The parameters that a step trains."""
    one, heads = steps(detector)[step], {"rpn", detector.last, "siblings", MASKS}
    return [
        parameter
        for name, modules in detector.parts().items()
        if name in one.heads or (one.shared and name not in heads)
        for module in modules
        for parameter in module.parameters()
    ]


def _copied(detector: Detector) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in detector.state_dict().items()}
