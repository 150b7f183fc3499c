"""Drawn images with one object, a classifier and recipes, for tests of localization."""

import json
from dataclasses import replace

import numpy as np
import torch
from PIL import Image

from resnets.data.boxes.annotations import AnnotatedImage, BoxSet, Object
from resnets.data.boxes.voc import to_xml
from resnets.data.datasets import BoxSplits
from resnets.data.preprocessing import imagenet
from resnets.models import zoo
from resnets.training.recipe import Recipe
from resnets.weights import model_file

CLASSES = ("red", "green", "blue")
WNIDS = tuple(f"n0{number}" for number in range(6))
SIZE = 32


def draw_objects(root, split, count, *, size=(40, 36), seed=0, classes=CLASSES):
    """PNG files with a coloured rectangle each, in turn of each class, and their `BoxSet`."""
    random = np.random.default_rng(seed)
    root.mkdir(parents=True, exist_ok=True)
    images = []
    for number in range(count):
        label = number % len(classes)
        pixels = random.integers(0, 60, (size[1], size[0], 3)).astype(np.uint8)
        w, h = random.integers(14, 26, 2).tolist()
        x, y = (int(random.integers(2, side - w - 2)) for side, w in zip(size, (w, h), strict=True))
        pixels[y : y + h, x : x + w, label % 3] = 230
        path = root / f"{split}{number}.png"
        Image.fromarray(pixels).save(path)
        box = Object((x, y, x + w, y + h), label)
        images.append(AnnotatedImage(path, path.name, *size, (box,)))
    return BoxSet(tuple(images), tuple(classes), split, "drawn")


def drawn(root, train=24, test=9, **options):
    return BoxSplits(
        draw_objects(root, "train", train, **options),
        draw_objects(root, "test", test, seed=9, **options),
    )


def ilsvrc_folder(root, train=24, test=12):
    """A folder laid out as ILSVRC's: of classes, with boxes as VOC XML in `Annotations`."""
    for split, count in (("train", train), ("val", test)):
        boxes = draw_objects(root / split, split, count, seed=count, classes=WNIDS)
        for image in boxes.images:
            name = boxes.categories[image.objects[0].category]
            for kind in (split, f"Annotations/{split}"):
                (root / kind / name).mkdir(parents=True, exist_ok=True)
            image.path.rename(root / split / name / image.path.name)
            content = to_xml(image, image.path.stem, boxes.categories)
            (root / "Annotations" / split / name / f"{image.path.stem}.xml").write_bytes(content)
    return root


def classifier(path, classes=CLASSES):
    """The model file of a small classifier."""
    torch.manual_seed(0)
    network = zoo.build("cifar-resnet8", len(classes))
    card = model_file.make_card("cifar-resnet8", list(classes), {}, [])
    preprocessing = replace(imagenet().resized_to(SIZE), resize=SIZE)
    model_file.save(path, network.state_dict(), preprocessing, card)
    return path


def recipe(tmp_path, **changes):
    """A recipe for `cifar-resnet8`, with a classifier to start from."""
    init = tmp_path / "init.safetensors"
    if not init.exists():
        classifier(init)
    values = {
        "dataset": "localization", "init": str(init), "iterations": 6, "batch": 8,
        "test_every": 3, "log_every": 1, "checkpoint_seconds": 0, "precision": "fp32",
        "batch_norm": "frozen",
        "schedule": {"kind": "cosine", "lr": 0.02},
        "optimizer": {"clip": 10.0},
        "photos": {"size": SIZE, "resize": 1.0, "sides": [256, 300], "colour": 0.0},
        "localization": {"anchors": [12, 24]},
        **changes,
    }  # fmt: skip
    return Recipe.model_validate_json(json.dumps(values))
