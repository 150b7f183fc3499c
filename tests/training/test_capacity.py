"""Batches that a training cannot have: larger than the training set, or than the memory."""

import pytest
import torch

from resnets.models import complexity, zoo
from resnets.support import memory
from resnets.support.distributed import World
from resnets.support.errors import UserError
from resnets.training.capacity import refuse_large_batch, refuse_large_maps
from tests.training.driver import data
from tests.training.test_resume import Quiet, make_recipe, start, train

CPU = torch.device("cpu")


def test_a_batch_larger_than_the_training_set_is_refused_before_there_is_a_folder(tmp_path):
    images = data()
    count = len(images.train)
    start(tmp_path / "all", make_recipe(batch=count), images)
    message = f"a batch of 100,000 images is more than the {count} training images; .*batch={count}"
    with pytest.raises(UserError, match=message):
        start(tmp_path / "more", make_recipe(batch=100_000), images)
    assert not (tmp_path / "more").exists()


def test_a_run_of_an_earlier_version_with_such_a_batch_resumes(tmp_path, monkeypatch):
    images = data()
    recipe = make_recipe(batch=len(images.train) + 10, iterations=2, test_every=2)
    with monkeypatch.context() as patch:
        patch.setattr("resnets.training.run.refuse_large_batch", lambda *arguments: None)
        start(tmp_path / "run", recipe, images)
    assert train(tmp_path / "run", recipe, images, Quiet())["iterations"] == 2


def test_the_batch_that_is_proposed_divides_among_the_processes():
    with pytest.raises(UserError, match=r"batch=9$"):
        refuse_large_batch(make_recipe(batch=30), 10, World(0, 3))
    with pytest.raises(UserError, match="take more images"):
        refuse_large_batch(make_recipe(batch=3), 2, World(0, 3))


def test_maps_are_the_outputs_of_convolutions():
    network = zoo.build("cifar-resnet8", 10).train()
    maps = complexity.maps(network, 32)
    first, second, third = 16 * 32**2, 32 * 16**2, 64 * 8**2
    assert (maps.largest, maps.all) == (first, 3 * first + 2 * second + 2 * third)
    assert network.training


@pytest.mark.parametrize(
    ("changes", "device", "precision", "numbers"),
    [
        ({}, "cpu", "fp32", 4 * 36864),
        ({}, "cpu", "bf16", 2 * 36864),
        ({"save_memory": True}, "cpu", "fp32", 4 * 16384),
        ({}, "cuda", "fp32", None),
    ],
)
def test_maps_beyond_the_memory_are_refused(monkeypatch, changes, device, precision, numbers):
    network = zoo.build("cifar-resnet8", 10)
    recipe = make_recipe(**changes)
    monkeypatch.setattr(memory, "total_memory", lambda: 100 * (numbers or 1))
    refuse_large_maps(recipe, network, 100, torch.device(device), precision)
    if numbers is None:
        refuse_large_maps(recipe, network, 10**9, torch.device(device), precision)
        return
    with pytest.raises(UserError, match=r"batch: a training on 101 images at once needs more than"):
        refuse_large_maps(recipe, network, 101, torch.device(device), precision)
