"""Small photographs in folders and a small model of their classes, for tests."""

import numpy as np
import torch
from PIL import Image

from resnets.data.preprocessing import Preprocessing
from resnets.models import zoo
from resnets.weights import model_file

CLASSES = ("ant", "bee", "cat", "dog", "eel", "fox")
SIZES = ((40, 32), (32, 40), (40, 32), (60, 45), (33, 33))


def write(folder, count, classes=CLASSES):
    """`count` images in class folders, of several sizes, their classes in turn."""
    random = np.random.default_rng(3)
    for number in range(count):
        width, height = SIZES[number % len(SIZES)]
        colour, contrast = random.integers(0, 200, 3), random.integers(1, 56)
        pixels = colour + random.integers(0, contrast, (height, width, 3))
        path = folder / classes[number % len(classes)] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.astype(np.uint8)).save(path)
    return folder


def save_model(path, classes=CLASSES, ids=None, seed=0):
    """A model of 32-pixel crops that gives every image other scores."""
    torch.manual_seed(seed)
    network = zoo.build("cifar-resnet8", len(classes))
    torch.nn.init.normal_(network.fc.weight, std=0.3)
    preprocessing = Preprocessing(32, 36, mean=torch.rand(3, 32, 32) / 2)
    card = model_file.make_card("cifar-resnet8", list(classes), {}, [], ids)
    model_file.save(path, network.state_dict(), preprocessing, card)
    return path
