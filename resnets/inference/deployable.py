"""A network for inference: uint8 pixels to logits and features, BN folded."""

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
    """Outputs of a network for a batch.

    Args:
        logits: float32 (N, classes); of a dense network (N, classes, H', W'), one per location,
            whose mean is the logit of the whole image.
        features: float32 (N, channels), the classifier's input after global average pooling;
            (N, 0) for networks without it (VGG); of a dense network the last feature map
            (N, channels, H', W').
    """

    logits: Tensor
    features: Tensor


class Deployable(nn.Module):
    """Preprocessing and network in one module, with BN folded into the convolutions.

    Args:
        network: in evaluation mode; it is copied.
        preprocessing: from the model's card.
        dense: accept images of any size and return logits at every location. The mean image,
            which fits one size only, is then replaced by the mean of each channel.

    Raises:
        ValueError: if a dense network is not residual.
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
        """uint8 RGB images (N, 3, H, W) to float32 logits and features."""
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
        """Weights of convolutions and classifier, by their names in the network."""
        return {
            name: layer.weight.detach().numpy()
            for name, layer in self.network.named_modules()
            if isinstance(layer, nn.Conv2d | nn.Linear)
        }

    def example_images(self, size: int) -> Tensor:
        """Images to trace with, uint8 (2, 3, H, W).

        For a dense network they are large and not square: a feature map of one pixel, or equal
        sides, would be traced as constants.
        """
        side = max(size, 96) if self.dense else size
        return torch.zeros(2, 3, side, side + 32 if self.dense else side, dtype=torch.uint8)

    @property
    def dtype(self) -> torch.dtype:
        """In which the network computes; preprocessing is always float32."""
        return next(self.network.parameters()).dtype


def of_channels(preprocessing: Preprocessing) -> Preprocessing:
    """The same preprocessing, with a mean image replaced by the mean of each channel."""
    return replace(preprocessing, mean=preprocessing.mean.mean((1, 2), keepdim=True))


def scale_and_offset(preprocessing: Preprocessing) -> tuple[Tensor, Tensor]:
    """Preprocessing as pixels * scale + offset.

    Returns:
        The scale (1, 3, 1, 1), and the offset (1, 3, H, W) or (1, 3, 1, 1).
    """
    std = torch.ones(3, 1, 1) if preprocessing.std is None else preprocessing.std
    return (1 / (255 * std))[None], (-preprocessing.mean / std)[None]
