"""Class activation maps add up to the logits; Grad-CAM of the last stage is the same map."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from resnets.analysis import activation_maps
from resnets.models import zoo
from resnets.support.errors import UserError
from tests.analysis import nets
from tests.analysis.nets import same, state

KINDS = list(nets.ALL)
CLASSES = 5


def network(kind="A"):
    return nets.network(kind).requires_grad_(False).eval()


@pytest.fixture
def image():
    torch.manual_seed(4)
    return torch.randn(1, 3, 24, 24)


@pytest.mark.parametrize("kind", KINDS)
def test_a_class_activation_maps_mean_and_the_bias_are_the_logit(kind, image):
    net = network(kind)
    with torch.no_grad():
        logits = net(image)[0]
        features = net.features(image)["layer2"][0]
    for index in range(CLASSES):
        values = activation_maps.class_activation_map(net, features, index)
        assert values.shape == features.shape[1:]
        assert float(values.mean() + net.fc.bias[index]) == pytest.approx(
            float(logits[index]), abs=1e-4
        )


@pytest.mark.parametrize("kind", KINDS)
def test_grad_cam_of_the_last_stage_is_the_class_activation_map_but_for_its_scale(kind, image):
    net = network(kind)
    features = net.features(image)["layer2"].requires_grad_(True)
    (gradients,) = torch.autograd.grad(net.head(features)[0, 2], features)
    found = activation_maps.grad_cam(features[0].detach(), gradients[0])
    exact = activation_maps.class_activation_map(net, features[0].detach(), 2)
    torch.testing.assert_close(found * exact.numel(), exact, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_every_stage_has_its_map(kind, image):
    net = network(kind)
    found = activation_maps.stage_maps(net, image, 1)
    with torch.no_grad():
        torch.testing.assert_close(found.logits, net(image)[0])
        outputs = net.features(image)
    assert found.index == 1
    assert [stage.stage for stage in found.stages] == ["stem", "layer1", "layer2"]
    assert [stage.method for stage in found.stages] == ["grad-cam"] * 2 + ["cam"]
    for stage in found.stages:
        output = outputs[stage.stage]
        assert stage.values.shape == output.shape[2:]
        assert stage.values.dtype == torch.float32
        assert stage.channels == output.shape[1]
        assert stage.mean == pytest.approx(float(output.mean()), abs=1e-4)
        assert stage.deviation == pytest.approx(float(output.std(correction=0)), abs=1e-4)
        assert stage.active == pytest.approx(int((output > 0).sum()) / output.numel())
        assert float(stage.values.min()) >= 0
        assert float(stage.values.max()) in (0, 1)
    exact = activation_maps.class_activation_map(net, outputs["layer2"][0], 1)
    torch.testing.assert_close(found.stages[-1].values, activation_maps.displayed(exact))


def test_early_maps_weigh_channels_by_the_logits_slope(image):
    """Adding a little to a whole channel changes the logit by its weight times the area."""
    net = network()
    output = net.features(image)["layer1"].double()
    net = net.double()

    def logit(x):
        return net.head(net.get_submodule("layer2")(x))[0, 0]

    slopes = []
    for channel in range(output.shape[1]):
        step = torch.zeros_like(output)
        step[:, channel] = 1e-6
        slopes.append((logit(output + step) - logit(output - step)) / 2e-6)
    weights = torch.stack(slopes) / output[0, 0].numel()
    expected = activation_maps.displayed((weights[:, None, None] * output[0]).sum(0))
    found = activation_maps.stage_maps(net.float(), image, 0).stages[1].values
    torch.testing.assert_close(found, expected.float(), rtol=1e-3, atol=1e-3)


def test_the_most_probable_class_is_explained_by_default(image):
    found = activation_maps.stage_maps(network(), image)
    assert found.index == int(found.logits.argmax())
    assert float(found.probabilities.sum()) == pytest.approx(1)


def test_evidence_against_a_class_is_not_shown():
    torch.testing.assert_close(
        activation_maps.displayed(torch.tensor([[-4.0, 1.0], [0.0, 2.0]])),
        torch.tensor([[0.0, 0.5], [0.0, 1.0]]),
    )
    assert activation_maps.displayed(torch.full((2, 2), -1.0)).sum() == 0


def test_nothing_is_left_behind_and_threads_do_not_disturb_each_other(image):
    net = network("pre")
    images = [image + shift for shift in range(8)]
    alone = [activation_maps.stage_maps(net, x, 2) for x in images]
    before = state(net)

    @torch.inference_mode()
    def explain(x):
        return activation_maps.stage_maps(net, x + 0, 2)  # a tensor of inference mode

    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(explain, images))
    for one, other in zip(alone, together, strict=True):
        torch.testing.assert_close(one.logits, other.logits)
        for mine, its in zip(one.stages, other.stages, strict=True):
            torch.testing.assert_close(mine.values, its.values)
    assert same(state(net), before)
    assert all(p.grad is None and not p.requires_grad for p in net.parameters())
    assert not any(stage.values.requires_grad for stage in together[0].stages)
    assert not together[0].logits.requires_grad


def test_networks_and_classes_that_cannot_be_explained_are_refused(image):
    with torch.device("meta"):
        vgg = zoo.build("vgg16", 2).eval()
    with pytest.raises(UserError, match="without stages"):
        activation_maps.stage_maps(vgg, image)
    for index in (-1, CLASSES):
        with pytest.raises(UserError, match="known: 0 to 4"):
            activation_maps.stage_maps(network(), image, index)
    with pytest.raises(ValueError, match="one image"):
        activation_maps.stage_maps(network(), image.expand(2, -1, -1, -1))
    with pytest.raises(ValueError, match="training mode"):
        activation_maps.stage_maps(network().train(), image)
