"""The detector: images of every size, images without objects, frozen parts, all networks."""

import pytest
import torch

from resnets.detection.detector import LOSSES
from resnets.kernels.fuse import use_cpu_kernels
from resnets.models import zoo
from resnets.models.batch_norm import FOLDED
from resnets.models.residual import ResidualNetwork
from resnets.training.frozen import freeze
from tests.detection.shapes import detector, network, target


def losses(one, height, width, *objects, **facts):
    padded = [-(-side // one.stride) * one.stride for side in (height, width)]
    images = torch.randn(1, 3, *padded)
    return one(images, [target(*objects, size=(height, width), **facts)])


@pytest.mark.parametrize("size", [(1, 1), (1, 80), (16, 16), (300, 3), (41, 77)])
@pytest.mark.parametrize("border", [True, False])
def test_images_of_every_size_train_and_are_searched(size, border):
    one = detector(border_anchors=border)
    box = [0, 0, size[1], size[0]]
    for objects in ([], [box], [[0.0, 0.0, 0.5, 0.5]]):
        found = losses(one, *size, *objects)
        assert all(torch.isfinite(found[name]) for name in LOSSES)
        sum(found[name] for name in LOSSES).backward()
    padded = torch.randn(1, 3, *[-(-side // 16) * 16 for side in size])
    boxes = one.detect(padded, [size])[0].boxes
    assert (boxes >= 0).all()
    assert (boxes <= torch.tensor([size[1], size[0]] * 2)).all()


def test_images_without_objects_train_the_background():
    one = detector(background=0.1)
    found = losses(one, 64, 64)
    assert found["rpn_objectness"] > 0
    assert found["categories"] > 0
    assert found["boxes"] == found["rpn_boxes"] == 0


def test_crowds_and_difficult_objects_train_nothing():
    one = detector(rois=10**4, rpn_batch=10**6, proposals=100, border_anchors=False)
    whole = losses(one, 64, 64, [0, 0, 64, 64], ignore=[True])
    assert [float(whole[name].detach()) for name in LOSSES] == [0, 0, 0, 0]


def test_a_batch_is_the_sum_of_its_images():
    one = detector()
    images = torch.randn(2, 3, 64, 64)
    targets = [target([4, 4, 30, 40], size=(64, 64)), target(size=(60, 50), key=4)]
    both = one(images, targets)
    for name in LOSSES:
        alone = sum(one(images[i : i + 1], targets[i : i + 1])[name] for i in range(2))
        torch.testing.assert_close(both[name], alone)


def test_the_key_of_an_image_decides_what_is_trained_on():
    one = detector()
    torch.manual_seed(0)
    images = torch.randn(1, 3, 64, 64)

    def total(key):
        found = one(images, [target([4, 4, 30, 40], size=(64, 64), key=key)])
        return float(found["rpn_objectness"].detach() + found["categories"].detach())

    assert total(1) == total(1)
    assert total(1) != total(2)


PARTS = ["stem", "layer1", "layer2", "layer3", "layer4", "rpn", "siblings"]


@pytest.mark.parametrize("frozen", [["stem"], ["stem", "layer1", "layer2"], ["rpn", "layer4"]])
def test_frozen_parts_get_no_gradients_and_the_others_do(frozen):
    one = detector()
    assert list(one.parts()) == PARTS
    assert {p for ms in one.parts().values() for m in ms for p in m.parameters()} == {
        *one.parameters()
    }
    freeze(one, ", ".join(frozen))
    found = losses(one, 64, 64, [4, 4, 40, 40])
    sum(found[name] for name in LOSSES).backward()
    for name, modules in one.parts().items():
        trained = {p.grad is not None for module in modules for p in module.parameters()}
        assert trained == {name not in frozen}


def test_frozen_parts_give_the_same_losses():
    def found(frozen=None):
        one = detector()
        if frozen:
            freeze(one, frozen)
        torch.manual_seed(5)
        return losses(one, 64, 64, [4, 4, 40, 40])

    whole, fixed = found(), found("stem, layer1, layer2")
    for name in LOSSES:
        torch.testing.assert_close(whole[name], fixed[name], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "stride"),
    [("cifar-resnet8", 2), ("cifar-plain8", 2), ("cifar-preact110", 2), ("cifar-highway19", 2),
     ("resnet18-small", 8), ("resnet18-a", 16), ("plain18", 16)],
)  # fmt: skip
def test_every_residual_network_can_be_a_detector(name, stride):
    made = zoo.build(name)
    assert isinstance(made, ResidualNetwork)
    one = detector(made)
    assert one.stride == stride
    assert one.maps(torch.randn(1, 3, 48, 64)).shape[2:] == (48 // stride, 64 // stride)
    with torch.no_grad():
        found = losses(one, 48, 64, [4, 4, 40, 40])
    assert all(torch.isfinite(found[name]) for name in LOSSES)


def test_parameter_free_shortcuts_lose_their_stride_too():
    one = detector(network(shortcut="A"))
    assert one.every == 2
    assert one.features(
        one.maps(torch.randn(1, 3, 64, 64)), [torch.tensor([[0.0, 0, 9, 9]])], [(64, 64)]
    ).shape


@pytest.mark.parametrize("changes", [{}, {"shortcut": "A"}, {"shortcut": "none", "block": "basic"}])
def test_blocks_with_folded_norms_compute_the_same(changes):
    made = network(**changes, widths=(4, 4, 32, 32) if "block" in changes else (4, 4, 8, 8)).eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        wanted = made.features(images)
        for _, block in made.blocks():
            block.operations = FOLDED
        for name, maps in made.features(images).items():
            torch.testing.assert_close(maps, wanted[name], atol=1e-4, rtol=1e-4)
    made.train()
    with torch.no_grad():  # statistics of the batch cannot be folded
        assert (made.features(images)["layer4"] - wanted["layer4"]).abs().max() > 1e-2


def test_the_kernels_for_training_leave_folded_norms_alone():
    one = detector()
    use_cpu_kernels(one)
    assert all(block.operations is FOLDED for _, block in one.network.blocks())
