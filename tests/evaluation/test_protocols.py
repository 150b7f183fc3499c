"""The three protocols show a network exactly the pixels they say, and average as they say."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from resnets.data.preprocessing import Preprocessing, resize_shorter, to_tensor
from resnets.evaluation import protocols
from resnets.models import zoo
from resnets.models.residual import Architecture, ResidualNetwork
from resnets.support.errors import UserError

CPU = torch.device("cpu")


def preprocessing(size=64, resize=73, mean=None):
    return Preprocessing(size, resize, mean=torch.zeros(3, 1, 1) if mean is None else mean)


def network(stem="imagenet", classes=5, stages=3, seed=0):
    torch.manual_seed(seed)
    widths = (4, 8, 12)[:stages]
    built = ResidualNetwork(Architecture("basic", "B", (1,) * stages, widths, stem, "1x1", classes))
    for module in built.modules():  # so that running statistics are not those of the start
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return built.eval()


def photo(width, height, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def show(views, net, images, budget=10**9, normalize=None):
    scales = zip(*(views.apply(image) for image in images), strict=True)
    stacked = [torch.stack(scale) for scale in scales]
    normalize = normalize or views.preprocessing.normalize(CPU)
    score = protocols.network_scorer(net, normalize, CPU, views.window)
    return protocols.average_views(score, stacked, flips=views.flips, budget=budget, device=CPU)


class Spy(nn.Module):
    """Keeps its inputs; its logits are of very different size from input to input."""

    def forward(self, x):
        self.seen = x.clone()
        return torch.stack([9 * x[:, 0, 0, 0], 5 * x[:, 1, 0, 0], -x[:, 2, 0, 0]], 1)


def test_ten_crops_are_corners_and_centre_and_their_mirror_images():
    image, spy = photo(100, 73), Spy()  # 73 is the scaled side: nothing is scaled
    show(protocols.TenCrop(preprocessing()), spy, [image])
    pixels = to_tensor(image).float() / 255
    corners = [(0, 0), (0, 36), (9, 0), (9, 36), (4, 18)]  # top, left
    crops = torch.stack([pixels[:, t : t + 64, x : x + 64] for t, x in corners])
    assert len(spy.seen) == 10
    torch.testing.assert_close(spy.seen[:5], crops)
    torch.testing.assert_close(spy.seen[5:], crops.flip(3))


def test_ten_crops_of_a_scaled_image_are_those_of_the_whole_scaled_image():
    spy = Spy()
    image = Image.fromarray(np.asarray(photo(20, 12).resize((200, 120), Image.Resampling.BICUBIC)))
    show(protocols.TenCrop(preprocessing()), spy, [image])
    scaled = to_tensor(resize_shorter(image, 73)).float() / 255
    assert scaled.shape == (3, 73, 121)
    difference = (spy.seen[3] - scaled[:, 9:, 57:]).abs()
    assert difference.max() <= 2 / 255


def test_softmax_is_averaged_not_logits():
    spy = Spy()
    found = show(protocols.TenCrop(preprocessing()), spy, [photo(100, 80)])[0]
    logits = spy(spy.seen)
    torch.testing.assert_close(found, logits.softmax(1).mean(0))
    assert not torch.allclose(found, logits.mean(0).softmax(0), atol=1e-3)
    assert found.sum() == pytest.approx(1)


def test_views_are_mirrored_before_the_mean_image_is_subtracted():
    mean, spy = torch.rand(3, 64, 64), Spy()
    image = photo(73, 73)
    show(protocols.TenCrop(preprocessing(mean=mean)), spy, [image])
    corner = to_tensor(image).float()[:, :64, :64] / 255
    torch.testing.assert_close(spy.seen[0], corner - mean)
    torch.testing.assert_close(spy.seen[5], corner.flip(2) - mean)


def test_center_is_one_crop():
    image, spy = photo(73, 99), Spy()
    show(protocols.Center(preprocessing()), spy, [image])
    pixels = to_tensor(image).float() / 255
    torch.testing.assert_close(spy.seen, pixels[None, :, 18:82, 4:68])


def brute_force(net, views, image, size, stride):
    """Window by window: features of each, cut from the map of the whole image, through the head."""
    scales = []
    for side in views.sides:
        whole = to_tensor(resize_shorter(image, side)).float() / 255
        found = []
        for pixels in (whole, whole.flip(2)):
            inputs = (pixels - views.preprocessing.mean)[None]
            last = net.features(inputs)[net.stage_names[-1]]
            window = size // stride
            for top in range(last.shape[2] - window + 1):
                for left in range(last.shape[3] - window + 1):
                    place = last[:, :, top : top + window, left : left + window]
                    found.append(net.head(place).softmax(1)[0])
        scales.append(torch.stack(found).mean(0))
    return torch.stack(scales).mean(0)


@pytest.mark.parametrize(("stem", "size", "stride"), [("imagenet", 64, 16), ("cifar", 32, 4)])
@pytest.mark.parametrize("shape", [(90, 70), (50, 120), (64, 64)])
@torch.no_grad()
def test_dense_is_the_head_at_every_location(stem, size, stride, shape):
    net = network(stem)
    trained = preprocessing(size, size, torch.rand(3, size, size) / 2)
    views = protocols.make("dense", net, trained)
    image = photo(*shape)
    assert views.sides == tuple(round(s * size / 224) for s in (224, 256, 384, 480, 640))
    expected = brute_force(net, views, image, size, stride)
    torch.testing.assert_close(show(views, net, [image])[0], expected, atol=1e-6, rtol=1e-5)


def test_dense_at_the_crops_own_size_is_the_network_itself():
    net, image = network(), photo(64, 64)
    views = protocols.Dense(preprocessing(64, 64), (64,), protocols.map_side(net, 64))
    pixels = to_tensor(image)[None].float() / 255
    both = net(torch.cat((pixels, pixels.flip(3)))).softmax(1).mean(0)
    torch.testing.assert_close(show(views, net, [image])[0], both)


def test_the_papers_network_has_the_papers_window_and_scales():
    net = zoo.build("resnet18", 3).eval()
    views = protocols.make("dense", net, preprocessing(224, 256))
    assert (views.window, views.sides) == (7, (224, 256, 384, 480, 640))
    assert protocols.make("dense", net, preprocessing(224, 256), 320).window == 10


@pytest.mark.parametrize("name", protocols.NAMES)
@pytest.mark.parametrize("budget", [1, 64 * 64 * 25, 10**9])
def test_the_budget_of_pixels_does_not_change_results(name, budget):
    net = network()
    views = protocols.make(name, net, preprocessing())
    images = [photo(90, 80, seed) for seed in range(5)]
    together = show(views, net, images, budget)
    alone = torch.cat([show(views, net, [image]) for image in images])
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=1e-5)
    assert together.std(0).max() > 1e-4, "the images must differ for this test to mean anything"


def test_protocols_in_words():
    net = network()
    words = {
        name: protocols.make(name, net, preprocessing(224, 256)).protocol
        for name in protocols.NAMES
    }
    assert words["center"] == "centre crop of 224 pixels from shorter side 256"
    assert words["ten-crop"] == "10 crops of 224 pixels from shorter side 256, softmax averaged"
    assert "shorter sides 224, 256, 384, 480, 640, with flips" in words["dense"]
    larger = protocols.make("center", net, preprocessing(224, 256), 320)
    assert larger.protocol == "centre crop of 320 pixels from shorter side 366"


def test_shapes_are_those_of_the_views():
    net = network()
    for name in protocols.NAMES:
        views = protocols.make(name, net, preprocessing())
        for image in (photo(91, 70), photo(33, 77), photo(64, 64)):
            shapes = tuple(tuple(v.shape[-2:]) for v in views.apply(image))
            assert shapes == views.shapes(*image.size)


def test_networks_and_images_that_do_not_suit_a_protocol_are_refused():
    with pytest.raises(UserError, match=r"unknown views 'dens'; did you mean dense\?"):
        protocols.make("dens", network(), preprocessing())
    with pytest.raises(UserError, match="use --views ten-crop"):
        protocols.make("dense", nn.Flatten(), preprocessing())
    narrow = Image.new("RGB", (2100, 100))
    with pytest.raises(UserError, match="too narrow"):
        protocols.make("dense", network(), preprocessing()).apply(narrow)
