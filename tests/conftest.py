"""Shared fixtures: a small synthetic CIFAR-10, and a cache folder of the test's own."""

import os
import signal
import sys
from pathlib import Path

# Before torch reads it. Tiny networks gain nothing from threads, which wait for each other where
# other work takes a core.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
from PIL import Image

from resnets.data.cifar import Cifar, ImageArrays
from resnets.support.files import cache_folder

KERNELS = cache_folder("kernels").resolve()

for _signal in (signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(_signal) is signal.SIG_IGN:  # under nohup, or in a shell's background
        signal.signal(_signal, signal.SIG_DFL)


def synthetic(count: int, seed: int) -> ImageArrays:
    """Images whose class shows in their colour and brightness, so that a net can learn them."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 10, count).astype(np.uint8)
    base = np.linspace(20, 200, 10)[labels][:, None, None, None]
    tint = np.stack([labels % 3, labels % 2, labels % 5], 1)[:, :, None, None] * 12
    noise = random.integers(0, 30, (count, 3, 32, 32))
    return ImageArrays((base + tint + noise).clip(0, 255).astype(np.uint8), labels)


@pytest.fixture(scope="session")
def tiny() -> Cifar:
    return Cifar(train=synthetic(600, 1), test=synthetic(200, 2))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    folder = own_cache(tmp_path / "cache")
    monkeypatch.setenv("RESNETS_CACHE", str(folder))
    return folder


def own_cache(folder: Path) -> Path:
    """A cache for some tests; only kernels are the user's: to compile them takes long."""
    if sys.platform == "linux" and not folder.exists():
        folder.mkdir(parents=True)
        KERNELS.mkdir(parents=True, exist_ok=True)
        (folder / "kernels").symlink_to(KERNELS)
    return folder


def draw_photos(root, counts, size=(40, 32), seed=0):
    """PNG files `root/<class>/<number>.png`, a class known by its colour."""
    random = np.random.default_rng(seed)
    for number, (name, count) in enumerate(counts.items()):
        folder = root / name
        folder.mkdir(parents=True, exist_ok=True)
        for i in range(count):
            pixels = random.integers(0, 60, (size[1], size[0], 3))
            pixels[..., number % 3] += 150
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i}.png")


def shared_data(name: str) -> Path:
    """A folder of real data beside the repository, or in `RESNETS_SHARED`; skips without it."""
    root = os.environ.get("RESNETS_SHARED")
    path = (Path(root) if root else Path(__file__).parents[2] / "shared" / "data") / name
    if not path.exists():
        pytest.skip(f"real data are not here: {path}")
    return path


@pytest.fixture(scope="session")
def trained_detector(tmp_path_factory):
    """A run folder with a detector that finds some of `tests.detection.shapes`' rectangles."""
    import torch

    from resnets.detection.objective import DetectionObjective
    from resnets.training import run
    from tests.detection.shapes import drawn, recipe
    from tests.training.test_resume import Quiet

    root = tmp_path_factory.mktemp("detector")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RESNETS_CACHE", str(own_cache(root / "cache")))
        schedule = {"kind": "cosine", "lr": 0.05}
        plan = recipe(root, iterations=40, test_every=40, batch=4, schedule=schedule)
        objective = DetectionObjective(plan, drawn(root / "images", train=12, test=1))
        run.start(root / "run", objective, torch.device("cpu"), Quiet(), command="test").train()
    return root / "run"
