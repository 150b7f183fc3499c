"""Pictures, and files of tiny models."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from resnets.data.preprocessing import Preprocessing
from resnets.weights import model_file
from tests.inference.test_runtimes import used

for package in ("fastapi", "fastapi_offline", "uvicorn", "httptools", "prometheus_client", "httpx"):
    pytest.importorskip(package)


def picture(seed=0, size=(50, 40), kind="PNG"):
    """The content of an image file of blocks of colour."""
    random = np.random.default_rng(seed)
    small = random.integers(0, 256, (4, 5, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(small).resize(size, Image.Resampling.NEAREST).save(file, kind)
    return file.getvalue()


def save_model(path, network="cifar-resnet8", seed=0):
    """A model file with invented weights."""
    torch.manual_seed(seed)
    look = Preprocessing(32, 36, mean=torch.full((3, 1, 1), 0.45), std=torch.full((3, 1, 1), 0.25))
    card = model_file.make_card(network, [f"class {i}" for i in range(7)], {}, [])
    model_file.save(path, used(network, seed=seed).state_dict(), look, card)
    return path


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """Files of a residual and a plain model."""
    folder = tmp_path_factory.mktemp("models")
    return (
        save_model(folder / "tiny.safetensors"),
        save_model(folder / "flat.safetensors", "cifar-plain8", 1),
    )
