"""Where a network looks: class activation maps and Grad-CAM, for the stem and every stage.

Zhou et al. 2016, "Learning Deep Features for Discriminative Localization"; Selvaraju et al. 2017,
"Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from resnets.models.residual import ResidualNetwork
from resnets.support.errors import UserError

Method = Literal["cam", "grad-cam"]


@dataclass(frozen=True)
class StageMap:
    """Where in a stage's output maps the evidence for a class lies.

    Args:
        stage: `stem`, `layer1`, `layer2`, ...
        method: `cam` for the last stage, whose map is exact, else `grad-cam`.
        values: float32 (H, W) in 0..1: evidence against the class is 0, the strongest for it 1.
            All zeros where nothing speaks for the class.
        channels: of the stage's output maps.
        mean: of all numbers of the output maps.
        deviation: likewise.
        active: share of these numbers above zero.
    """

    stage: str
    method: Method
    values: Tensor
    channels: int
    mean: float
    deviation: float
    active: float


@dataclass(frozen=True)
class Explanation:
    """What a network answers for one image, and where each stage has the reasons.

    Args:
        logits: float32 (classes,).
        index: the class that is explained.
        stages: the stem and every stage, from input to output.
    """

    logits: Tensor
    index: int
    stages: tuple[StageMap, ...]

    @property
    def probabilities(self) -> Tensor:
        """Softmax of the logits: float32 (classes,)."""
        return self.logits.softmax(0)


def stage_maps(network: nn.Module, images: Tensor, index: int | None = None) -> Explanation:
    """Explain the answer for one image, by one forward and one backward pass.

    Weights, their gradients and all modes stay as they are, so that several threads may explain
    with one network at a time.

    Args:
        network: in evaluation mode; weights need not want gradients.
        images: float32 (1, 3, H, W), preprocessed, on the network's device.
        index: the class to explain; the most probable one by default.

    Raises:
        UserError: if the network has no stages (VGG), or no such class.
        ValueError: if there is not exactly one image, or the network is in training mode.
    """
    residual = with_stages(network)
    if images.ndim != 4 or len(images) != 1:
        raise ValueError(f"one image (1, 3, H, W) is explained at a time, not {images.shape}")
    if network.training:
        raise ValueError("the network is in training mode")
    with torch.inference_mode(False), torch.enable_grad():
        # A copy, for a tensor of inference mode takes no part in gradients.
        maps = residual.features(images.clone().requires_grad_(True))
        last = residual.stage_names[-1]
        logits = residual.head(maps[last])[0]
        if index is None:
            index = int(logits.argmax())
        elif not 0 <= index < len(logits):
            raise UserError(f"no class {index}", hint=f"known: 0 to {len(logits) - 1}")
        early = [output for stage, output in maps.items() if stage != last]
        gradients = torch.autograd.grad(logits[index], early)
    with torch.no_grad():
        found = [grad_cam(output[0], g[0]) for output, g in zip(early, gradients, strict=True)]
        found.append(class_activation_map(residual, maps[last][0], index))
        stages = tuple(
            _stage_map(stage, "cam" if stage == last else "grad-cam", values, output)
            for (stage, output), values in zip(maps.items(), found, strict=True)
        )
    return Explanation(logits.detach().cpu(), index, stages)


def with_stages(network: nn.Module) -> ResidualNetwork:
    """The same network; raises `UserError` if it has no stages to explain."""
    if not isinstance(network, ResidualNetwork):
        kind = type(network).__name__
        raise UserError(f"a network without stages ({kind}) cannot be explained")
    return network


def class_activation_map(network: ResidualNetwork, features: Tensor, index: int) -> Tensor:
    """What each place adds to a class: its mean plus the classifier's bias is the logit.

    That is exact, for between the last maps and the logits lie only a mean and a linear layer
    (Zhou et al., Equation 2).

    Args:
        network: whose classifier counts.
        features: (C, H, W), the last stage's output maps, as `ResidualNetwork.head` takes them.
        index: the class.

    Returns:
        (H, W), in logits, negative where a place speaks against the class.
    """
    return torch.einsum("c,chw->hw", network.fc.weight[index], features)


def grad_cam(features: Tensor, gradients: Tensor) -> Tensor:
    """Output maps (C, H, W) weighted by their gradients' means (Selvaraju et al., Equation 1).

    Without the ReLU of its Equation 2: (H, W), negative where a place speaks against the class.
    """
    return torch.einsum("c,chw->hw", gradients.mean((1, 2)), features)


def displayed(values: Tensor) -> Tensor:
    """A map (H, W) for the eye, in 0..1: negative values become 0, the largest becomes 1."""
    values = values.clamp(min=0)
    largest = float(values.max())
    return values / largest if largest > 0 else torch.zeros_like(values)


def _stage_map(stage: str, method: Method, values: Tensor, output: Tensor) -> StageMap:
    output = output.float()
    return StageMap(
        stage,
        method,
        displayed(values.float()).cpu(),
        output.shape[1],
        float(output.mean()),
        float(output.std(correction=0)),
        float((output > 0).float().mean()),
    )
