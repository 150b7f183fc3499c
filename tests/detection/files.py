"""A tiny detector's model file, and folders with boxes, for tests of exports and the server."""

import json

import numpy as np
import torch
from PIL import Image

from resnets.data.boxes.coco import to_json
from resnets.data.preprocessing import imagenet
from resnets.models import zoo
from resnets.weights import model_file
from resnets.weights.card import DETECTION
from tests.detection.shapes import CATEGORIES, detector, draw_boxes


def save_detector(path, masks=False, **changes):
    """A model file whose invented weights find something in most images; with `masks`, the same
    boxes with masks."""
    torch.manual_seed(5)
    one = detector(zoo.build("cifar-resnet8"), **{"score": 0.3, "nms": 0.4} | changes)
    with torch.no_grad():
        for layer in (one.rpn.objectness, one.rpn.codes, one.siblings.boxes):
            layer.weight.normal_(std=0.2)
        _choose_scores(one)
        if masks:
            one = _with_masks(one)
    card = model_file.make_card("cifar-resnet8", list(CATEGORIES), {"licence": "MIT"}, [])
    card |= {DETECTION: one.settings.model_dump(mode="json")}
    model_file.save(path, one.state_dict(), imagenet(), card)
    return path


def _with_masks(one):
    context = one.settings.context
    made = detector(zoo.build("cifar-resnet8"), masks=True, context=context)
    made.load_state_dict(one.state_dict(), strict=False)
    made.masks.logits.weight.normal_(std=0.1)
    made.masks.logits.bias.fill_(3.0)
    made.settings = one.settings.model_copy(update={"masks": True})
    return made


def noisy_blocks(size, seed=1):
    """Blocks of colour with noise: where pixels are equal, so are scores, and chance decides."""
    random = np.random.default_rng(seed)
    blocks = Image.fromarray(random.integers(40, 216, (4, 5, 3), np.uint8))
    pixels = np.asarray(blocks.resize(size, Image.Resampling.NEAREST))
    return Image.fromarray((pixels + random.integers(-40, 40, pixels.shape)).astype(np.uint8))


def coco_folder(root, train=12, val=4):
    """Drawn images with boxes, which are their segments, too, as COCO JSON."""
    for number, (split, count) in enumerate((("train", train), ("val", val))):
        boxes = draw_boxes(root / split, split, count, seed=number)
        facts = to_json(boxes, [one.name for one in boxes.images], segments=False)
        for one in facts["annotations"]:
            x, y, w, h = one["bbox"]
            one["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
        (root / f"instances_{split}.json").write_text(json.dumps(facts))
    return root


def _choose_scores(one):
    """All categories are as probable in a picture of blocks, and the background in black."""
    layer = one.siblings.categories
    layer.weight.normal_(std=0.7)
    boxes = torch.rand(20, 4) * 10 + torch.tensor([0.0, 0, 12, 12])
    blocks = torch.randn(1, 3, 4, 5).repeat_interleave(10, 2).repeat_interleave(8, 3)
    black = torch.full((1, 3, 40, 40), -2.0)
    mean, dark = (one.features(one.maps(x), [boxes], [(40, 40)]).mean(0) for x in (blocks, black))
    layer.bias.copy_(-(layer.weight @ mean))
    change = torch.tensor([6.0, 0, 0]) - layer(dark)
    layer.weight += torch.outer(change, dark - mean) / (dark - mean).square().sum()
    layer.bias.copy_(-(layer.weight @ mean))
