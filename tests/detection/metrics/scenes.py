"""Random images with objects and detections that are partly right."""

from pathlib import Path

import numpy as np

from resnets.data.boxes.annotations import AnnotatedImage, BoxSet, Object
from resnets.detection.metrics.detections import Detections

CATEGORIES = ("cat", "dog", "cow", "yak")


def detections(*found):
    """Detections given as (category, score, box)."""
    return Detections(
        np.array([box for _, _, box in found], np.float32).reshape(-1, 4),
        np.array([score for _, score, _ in found], np.float32),
        np.array([category for category, _, _ in found], np.int64),
    )


def image(objects, number=0):
    """An image whose objects are `Object`s or (category, box)."""
    objects = tuple(o if isinstance(o, Object) else Object(o[1], o[0]) for o in objects)
    return AnnotatedImage(Path(f"{number}.png"), f"{number}.png", 400, 300, objects, number)


def scene(*images, categories=CATEGORIES, ids=None):
    return BoxSet(tuple(images), categories, "test", "COCO JSON", ids)


def random_scene(seed, images=30, crowds=True, difficult=False, whole=False):
    """A scene and its detections; `whole` for corners at whole pixels."""
    random = np.random.default_rng(seed)
    all_images, found = [], []
    for number in range(images):
        objects, hits = [], []
        for _ in range(random.integers(0, 7)):
            x, y = random.uniform(0, 200, 2)
            width, height = np.exp(random.uniform(2, 5.2, 2))
            box = np.array([x, y, x + width, y + height])
            box = np.round(box) if whole else box
            category = int(random.integers(0, 3))  # no yak
            crowd = bool(crowds and random.random() < 0.15)
            area = float(random.uniform(0.3, 1) * width * height) if random.random() < 0.5 else None
            objects.append(
                Object(
                    tuple(map(float, box)),
                    category,
                    crowd=crowd,
                    difficult=bool(difficult and random.random() < 0.2),
                    area=area,
                )
            )
            for _ in range(random.integers(0, 4)):
                moved = box + random.normal(0, 0.12, 4) * [width, height, width, height]
                guess = category if random.random() < 0.8 else int(random.integers(0, 4))
                hits.append((guess, round(float(random.random()), 2), moved))
        for _ in range(random.integers(0, 4)):
            x, y = random.uniform(0, 200, 2)
            hits.append((int(random.integers(0, 4)), random.random(), [x, y, x + 30, y + 40]))
        all_images.append(image(objects, int(number * 7 + 3)))
        if whole:
            hits = [(c, s, np.maximum(np.round(b), 0)) for c, s, b in hits]
        found.append(detections(*[hit for hit in hits if (hit[2][2:] > hit[2][:2]).all()]))
    return scene(*all_images, ids=(7, 3, 90, 12)), found
