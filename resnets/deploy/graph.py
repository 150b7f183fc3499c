"""The network as it is deployed: pixels in, answers out, BN folded."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from resnets.data.preprocessing import Preprocessing
from resnets.models.folding import fold
from resnets.models.residual import ResidualNetwork


class Outputs(NamedTuple):
    """What a network says of a batch.

    Args:
        logits: float32 (N, classes).
        features: float32 (N, channels), pooled, in front of the classifier; (N, 0) where the
            network has none.
    """

    logits: Tensor
    features: Tensor


class Deployable(nn.Module):
    """From uint8 images (N, 3, H, W), RGB, to `Outputs`: preprocessing, network, BN folded.

    Args:
        network: in evaluation mode; it is copied.
        preprocessing: of its card; H and W are its size.
    """

    scale: Tensor
    offset: Tensor

    def __init__(self, network: nn.Module, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.network = fold(network)
        scale, offset = scale_and_offset(preprocessing)
        self.register_buffer("scale", scale)
        self.register_buffer("offset", offset)

    def forward(self, images: Tensor) -> Outputs:
        """uint8 (N, 3, H, W) to float32 logits (N, classes) and features (N, channels)."""
        pixels = (images.float() * self.scale + self.offset).to(self.dtype)
        if not isinstance(self.network, ResidualNetwork):
            logits = self.network(pixels).float()
            return Outputs(logits, logits[:, :0])
        maps = list(self.network.features(pixels).values())[-1]
        features = maps.mean((2, 3))
        return Outputs(self.network.fc(features).float(), features.float())

    @property
    def dtype(self) -> torch.dtype:
        """What the network computes in; pixels are scaled in float32."""
        return next(self.network.parameters()).dtype


def scale_and_offset(preprocessing: Preprocessing) -> tuple[Tensor, Tensor]:
    """The preprocessing as pixels * scale + offset: (1, 3, 1, 1), and (1, 3, H or 1, W or 1)."""
    std = torch.ones(3, 1, 1) if preprocessing.std is None else preprocessing.std
    return (1 / (255 * std))[None], (-preprocessing.mean / std)[None]
