"""What a training could never do on this machine or with these images, before it begins."""

from __future__ import annotations

import torch
from torch import nn

from resnets.models import complexity
from resnets.models.residual import ResidualNetwork
from resnets.support.distributed import World
from resnets.support.errors import UserError
from resnets.support.memory import refuse_beyond_memory
from resnets.training.recipe import Recipe


def refuse_large_batch(recipe: Recipe, images: int, world: World) -> None:
    """Raise `UserError` for a batch of more images than there are to train on.

    Runs of earlier versions may have one, so only new runs are refused.
    """
    if recipe.batch <= images:
        return
    most = images - images % world.size
    raise UserError(
        f"a batch of {recipe.batch:,} images is more than the {images:,} training images",
        "batch",
        f"use --set batch={most}" if most >= 2 else "take more images",
    )


def refuse_large_maps(
    recipe: Recipe, network: nn.Module, images: int, device: torch.device, precision: str
) -> None:
    """Raise `UserError` if the feature maps of a forward pass exceed the memory of this machine.

    It counts the outputs of half of the convolutions, which the backward pass needs, or the
    largest one where a training keeps fewer. A GPU refuses by itself what does not fit.

    Args:
        recipe: says how large the images are.
        network: the classifier, or the detector's.
        images: that go through it at once.
        device: where it computes.
        precision: `bf16` or `fp32`.
    """
    network = getattr(network, "network", network)
    if device.type != "cpu" or not isinstance(network, ResidualNetwork):
        return
    sizes = {"photos": recipe.photos.size, "boxes": recipe.detection.size}
    maps = complexity.maps(network, sizes.get(recipe.dataset, 32))
    keeps_few = recipe.save_memory or recipe.freeze is not None
    numbers = maps.largest if keeps_few else max(maps.all // 2, maps.largest)
    refuse_beyond_memory(
        images * numbers * (2 if precision == "bf16" else 4),
        f"a training on {images:,} images at once",
        "micro_batch" if recipe.micro_batch else "batch",
        "use fewer at once, such as --set micro_batch=16",
    )
