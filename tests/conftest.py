"""Shared fixtures: a small synthetic CIFAR-10, and a cache folder of the test's own."""

import os
from pathlib import Path

import numpy as np
import pytest

from resnets.data.cifar10 import Cifar10, Images


def synthetic(count: int, seed: int) -> Images:
    """Images whose class shows in their colour and brightness, so that a net can learn them."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 10, count).astype(np.uint8)
    base = np.linspace(20, 200, 10)[labels][:, None, None, None]
    tint = np.stack([labels % 3, labels % 2, labels % 5], 1)[:, :, None, None] * 12
    noise = random.integers(0, 30, (count, 3, 32, 32))
    return Images((base + tint + noise).clip(0, 255).astype(np.uint8), labels)


@pytest.fixture(scope="session")
def tiny() -> Cifar10:
    return Cifar10(train=synthetic(600, 1), test=synthetic(200, 2))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("RESNETS_CACHE", str(folder))
    return folder


def shared_data(name: str) -> Path:
    """Real data beside the repository or below `RESNETS_SHARED`; skips the test where absent."""
    base = os.environ.get("RESNETS_SHARED") or Path(__file__).parents[2] / "shared" / "data"
    path = Path(base) / name
    if not path.exists():
        pytest.skip(f"no real data at {path}")
    return path
