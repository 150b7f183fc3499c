"""The network as it is deployed: pixels in, answers out, BN folded."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from resnets.data.preprocessing import Preprocessing
from resnets.models.batch_norm import fold_batch_norm
from resnets.models.residual import ResidualNetwork


class Outputs(NamedTuple):
    """What a network says of a batch.

    Args:
        logits: float32 (N, classes); of a dense network (N, classes, H', W'), those of single
            locations, whose mean is the answer for the whole image.
        features: float32 (N, channels), pooled, in front of the classifier; (N, 0) where the
            network has none; of a dense network the last map (N, channels, H', W').
    """

    logits: Tensor
    features: Tensor


class Deployable(nn.Module):
    """From uint8 images (N, 3, H, W), RGB, to `Outputs`: preprocessing, network, BN folded.

    Args:
        network: in evaluation mode; it is copied.
        preprocessing: of its card; H and W are its size.
        dense: take images of any size and answer at every location; a mean image, which fits
            one size only, gives way to its channels' means.

    Raises:
        ValueError: if a network that is not residual is to be dense.
    """

    scale: Tensor
    offset: Tensor

    def __init__(
        self, network: nn.Module, preprocessing: Preprocessing, dense: bool = False
    ) -> None:
        super().__init__()
        if dense and not isinstance(network, ResidualNetwork):
            raise ValueError("only residual networks answer at every location")
        self.network, self.dense = fold_batch_norm(network), dense
        if dense:
            preprocessing = of_channels(preprocessing)
        scale, offset = scale_and_offset(preprocessing)
        self.register_buffer("scale", scale)
        self.register_buffer("offset", offset)

    def forward(self, images: Tensor) -> Outputs:
        """uint8 (N, 3, H, W) to float32 logits and features."""
        pixels = (images.float() * self.scale + self.offset).to(self.dtype)
        if not isinstance(self.network, ResidualNetwork):
            logits = self.network(pixels).float()
            return Outputs(logits, logits[:, :0])
        maps = list(self.network.features(pixels).values())[-1]
        if self.dense:
            return Outputs(self.network.dense_head(maps).float(), maps.float())
        features = maps.mean((2, 3))
        return Outputs(self.network.fc(features).float(), features.float())

    def weights(self) -> dict[str, NDArray[np.float32]]:
        """Of convolutions and classifier, by their names in the network."""
        return {
            name: layer.weight.detach().numpy()
            for name, layer in self.network.named_modules()
            if isinstance(layer, nn.Conv2d | nn.Linear)
        }

    @property
    def dtype(self) -> torch.dtype:
        """What the network computes in; pixels are scaled in float32."""
        return next(self.network.parameters()).dtype


def of_channels(preprocessing: Preprocessing) -> Preprocessing:
    """The same with the mean of each channel for a mean image."""
    return replace(preprocessing, mean=preprocessing.mean.mean((1, 2), keepdim=True))


def scale_and_offset(preprocessing: Preprocessing) -> tuple[Tensor, Tensor]:
    """The preprocessing as pixels * scale + offset: (1, 3, 1, 1), and (1, 3, H or 1, W or 1)."""
    std = torch.ones(3, 1, 1) if preprocessing.std is None else preprocessing.std
    return (1 / (255 * std))[None], (-preprocessing.mean / std)[None]
