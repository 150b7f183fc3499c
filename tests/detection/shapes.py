"""Drawn images with boxes, small networks and settings, for tests of detection."""

import numpy as np
import torch
from PIL import Image

from resnets.data.boxes.annotations import AnnotatedImage, BoxSet, Object
from resnets.data.boxes.batches import Target
from resnets.data.datasets import BoxSplits
from resnets.data.preprocessing import imagenet
from resnets.detection.detector import Detector
from resnets.models import zoo
from resnets.models.residual import Architecture, ResidualNetwork
from resnets.training.recipe import Detection, Recipe
from resnets.weights import model_file

CATEGORIES = ("red", "green")


def draw_boxes(root, split, count, *, size=(48, 40), seed=0, empty=()):
    """PNG files with one or two coloured rectangles each, and their `BoxSet`."""
    random = np.random.default_rng(seed)
    root.mkdir(parents=True, exist_ok=True)
    images = []
    for number in range(count):
        pixels = random.integers(0, 60, (size[1], size[0], 3)).astype(np.uint8)
        objects = []
        for category in range(0 if number in empty else 1 + number % 2):
            w, h = random.integers(12, 24, 2).tolist()
            x, y = (int(random.integers(0, side - w)) for side, w in zip(size, (w, h), strict=True))
            pixels[y : y + h, x : x + w, category] = 230
            objects.append(Object((x, y, x + w, y + h), category))
        path = root / f"{split}{number}.png"
        Image.fromarray(pixels).save(path)
        images.append(AnnotatedImage(path, path.name, *size, tuple(objects)))
    return BoxSet(tuple(images), CATEGORIES, split, "drawn")


def drawn(root, train=8, test=3, **options):
    return BoxSplits(
        draw_boxes(root, "train", train, **options), draw_boxes(root, "test", test, seed=9)
    )


def draw_discs(root, split, count, *, size=(64, 56), seed=0):
    """The same with one or two coloured discs, which have polygons."""
    random = np.random.default_rng([seed, 1])
    root.mkdir(parents=True, exist_ok=True)
    y, x = np.mgrid[: size[1], : size[0]] + 0.5
    images = []
    for number in range(count):
        pixels = random.integers(0, 60, (size[1], size[0], 3)).astype(np.uint8)
        objects = []
        for category in range(1 + number % 2):
            radius = random.uniform(9, 14)
            centre = [random.uniform(radius, side - radius) for side in size]
            pixels[(x - centre[0]) ** 2 + (y - centre[1]) ** 2 < radius**2] = 0
            pixels[(x - centre[0]) ** 2 + (y - centre[1]) ** 2 < radius**2, category] = 230
            objects.append(disc(*centre, radius, category))
        path = root / f"{split}{number}.png"
        Image.fromarray(pixels).save(path)
        images.append(AnnotatedImage(path, path.name, *size, tuple(objects)))
    return BoxSet(tuple(images), CATEGORIES, split, "drawn")


def disc(x, y, radius, category=0, corners=40):
    """An object with a polygon of many corners."""
    angles = np.arange(corners) * 2 * np.pi / corners
    around = np.stack([x + radius * np.cos(angles), y + radius * np.sin(angles)], 1)
    box = (*around.min(0).tolist(), *around.max(0).tolist())
    return Object(box, category, polygons=(tuple(around.ravel().tolist()),))


def discs(root, train=8, test=3):
    return BoxSplits(draw_discs(root, "train", train), draw_discs(root, "test", test, seed=9))


def settings(**changes):
    values = {
        "size": 40, "max_size": 80, "anchors": (12.0, 24.0), "rpn_width": 8, "rpn_batch": 32,
        "candidates": 60, "proposals": 20, "rois": 8, "test_candidates": 60, "test_proposals": 20,
        **changes,
    }  # fmt: skip
    return Detection(**values)


def network(**changes):
    """A residual network with the stem and stages of ImageNet's, but narrow."""
    values = {
        "block": "bottleneck", "shortcut": "B", "depths": (1, 1, 1, 2), "widths": (4, 4, 8, 8),
        "stem": "imagenet", "classes": 3, **changes,
    }  # fmt: skip
    torch.manual_seed(0)
    made = ResidualNetwork(Architecture(**values))
    for module in made.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2)
    return made


def detector(made=None, categories=2, **changes):
    torch.manual_seed(1)
    one = Detector(made or network(), categories, settings(**changes))
    one.rpn.reset_parameters()
    one.siblings.reset_parameters()
    if one.masks is not None:
        one.masks.reset_parameters()
    return one.eval()


def target(*boxes, size, labels=None, ignore=None, key=3):
    count = len(boxes)
    return Target(
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        torch.tensor(labels or [0] * count, dtype=torch.int64),
        torch.tensor(ignore or [False] * count, dtype=torch.bool),
        size,
        key,
    )


def recipe(tmp_path, **changes):
    """A recipe for `cifar-resnet8`, with a model to start from."""
    init = tmp_path / "init.safetensors"
    if not init.exists():
        torch.manual_seed(0)
        card = model_file.make_card("cifar-resnet8", ["a", "b"], {}, [])
        weights = zoo.build("cifar-resnet8", 2).state_dict()
        model_file.save(init, weights, imagenet(), card)
    values = {
        "dataset": "boxes", "init": str(init), "iterations": 6, "batch": 2, "test_every": 3,
        "log_every": 1, "checkpoint_seconds": 0, "precision": "fp32", "batch_norm": "frozen",
        "freeze": "stem",
        "schedule": {"kind": "cosine", "lr": 0.02},
        "optimizer": {"clip": 10.0},
        "detection": settings(scales=(0.8, 1.2)).model_dump(mode="json"),
        **changes,
    }  # fmt: skip
    import json

    return Recipe.model_validate_json(json.dumps(values))
