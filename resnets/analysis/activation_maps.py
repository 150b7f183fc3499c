"""Class activation maps and Grad-CAM of the stem and every stage.

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
    """The evidence for a class at each location of a stage's output maps.

    Args:
        stage: `stem`, `layer1`, `layer2`, ...
        method: `cam` for the last stage, whose map is exact, else `grad-cam`.
        values: float32 (H, W) in 0..1: 0 is no evidence, or evidence against the class; 1 the
            strongest evidence for it. All zeros if there is none.
        channels: number of channels of the stage's output maps.
        mean: mean of all elements of the output maps.
        deviation: standard deviation of all elements.
        active: share of elements above zero.
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
    """A network's logits for one image, and the evidence for one class in every stage.

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
    """Explain the logit of one class for one image, by one forward and one backward pass.

    Weights, their gradients and all modes do not change, so several threads may use the same
    network at a time.

    Args:
        network: in evaluation mode; its weights need not require gradients.
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
        # A copy, because a tensor created in inference mode has no gradient.
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
    """`network`, if it has stages; raises `UserError` if it has none (VGG)."""
    if not isinstance(network, ResidualNetwork):
        kind = type(network).__name__
        raise UserError(f"a network without stages ({kind}) cannot be explained")
    return network


def class_activation_map(network: ResidualNetwork, features: Tensor, index: int) -> Tensor:
    """The contribution of each location to a class's logit (Zhou et al., Equation 2).

    The map's mean plus the classifier's bias is exactly the logit, because only an average pool
    and a linear layer follow the last maps.

    Args:
        network: its classifier is used.
        features: (C, H, W), the last stage's output maps, the input of `ResidualNetwork.head`.
        index: the class.

    Returns:
        (H, W), in logits, negative where the evidence is against the class.
    """
    return torch.einsum("c,chw->hw", network.fc.weight[index], features)


def grad_cam(features: Tensor, gradients: Tensor) -> Tensor:
    """Output maps (C, H, W) weighted by their gradients' means (Selvaraju et al., Equation 1).

    Without the ReLU of its Equation 2: (H, W), negative where the evidence is against the class.
    """
    return torch.einsum("c,chw->hw", gradients.mean((1, 2)), features)


def displayed(values: Tensor) -> Tensor:
    """A map (H, W) scaled to 0..1 for display: negative values become 0, the largest 1."""
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
