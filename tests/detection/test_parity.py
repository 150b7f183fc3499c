"""The detector equals torchvision's Faster R-CNN with the same weights."""

import copy

import pytest
import torch
from torch import nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import MultiScaleRoIAlign

from resnets.detection.detector import LOSSES
from tests.detection.shapes import detector, network, target

SIZE = 96, 128
CHANNELS, CATEGORIES = 32, 2
ANCHORS, RATIOS = (16.0, 32.0, 64.0), (0.5, 1.0, 2.0)
NAMES = ("loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg")


class Backbone(nn.Module):
    out_channels = CHANNELS

    def __init__(self, made):
        super().__init__()
        self.made = made

    def forward(self, x):
        return self.made.features(x)["layer3"]


class Head(nn.Module):
    def __init__(self, made):
        super().__init__()
        self.stage = made.layer4

    def forward(self, x):
        return self.stage(x).mean((2, 3))


class Predictor(nn.Module):
    """torchvision's codes have four rows for the background, which are never used."""

    def __init__(self, siblings):
        super().__init__()
        self.siblings = siblings

    def forward(self, x):
        codes = self.siblings.boxes(x)
        return self.siblings.categories(x), torch.cat((torch.zeros(len(x), 4), codes), 1)


def pair(stride_in="1x1", block="bottleneck"):
    """Ours and torchvision's, which train on all anchors and all regions."""
    widths = (4, 4, 8, 8) if block == "bottleneck" else (4, 4, 32, 32)
    made = network(stride_in=stride_in, block=block, widths=widths)
    whole = copy.deepcopy(made)
    ours = detector(
        made, CATEGORIES, anchors=ANCHORS, ratios=RATIOS, rpn_width=CHANNELS, rpn_batch=10**6,
        rois=10**5, foreground=0.5, candidates=300, proposals=100, test_candidates=200,
        test_proposals=50, score=0.0, nms=0.4, detections=40,
    )  # fmt: skip
    for layer in (ours.siblings.categories, ours.siblings.boxes, ours.rpn.codes):
        nn.init.normal_(layer.weight, std=0.2)
    nn.init.normal_(ours.rpn.objectness.weight, std=0.5)
    head = RPNHead(CHANNELS, len(ANCHORS) * len(RATIOS))
    for own, other in (
        (ours.rpn.conv, head.conv[0][0]),
        (ours.rpn.objectness, head.cls_logits),
        (ours.rpn.codes, head.bbox_pred),
    ):
        other.load_state_dict(own.state_dict())
    theirs = FasterRCNN(
        Backbone(whole), num_classes=None, min_size=SIZE[0], max_size=SIZE[1],
        image_mean=[0, 0, 0], image_std=[1, 1, 1], size_divisible=16,
        rpn_anchor_generator=AnchorGenerator((ANCHORS,), (RATIOS,)), rpn_head=head,
        rpn_batch_size_per_image=10**6, rpn_pre_nms_top_n_train=300, rpn_post_nms_top_n_train=100,
        rpn_pre_nms_top_n_test=200, rpn_post_nms_top_n_test=50,
        box_roi_pool=MultiScaleRoIAlign(["0"], 14, 2), box_head=Head(whole),
        box_predictor=Predictor(copy.deepcopy(ours.siblings)), box_batch_size_per_image=10**5,
        box_positive_fraction=0.5, box_score_thresh=0.0, box_nms_thresh=0.4,
        box_detections_per_img=40,
    )  # fmt: skip
    return ours, theirs.eval()


def images(count=2):
    return torch.randn(count, 3, *SIZE, generator=torch.Generator().manual_seed(5))


OBJECTS = (
    ([[10.0, 12, 60, 80], [50, 5, 120, 90]], [0, 1]),
    ([[30.0, 30, 50, 52]], [1]),
)


@pytest.mark.parametrize(
    ("stride_in", "block"), [("1x1", "bottleneck"), ("3x3", "bottleneck"), ("1x1", "basic")]
)
def test_losses_and_gradients_are_torchvisions(stride_in, block):
    ours, theirs = pair(stride_in, block)
    theirs.train()
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    for number, (boxes, labels) in enumerate(OBJECTS):
        one = images()[number : number + 1]
        own = ours(one, [target(*boxes, size=SIZE, labels=labels)])
        wanted = theirs(
            [one[0]],
            [{"boxes": torch.tensor(boxes), "labels": 1 + torch.tensor(labels)}],
        )
        for name, other in zip(LOSSES, NAMES, strict=True):
            torch.testing.assert_close(own[name], wanted[other], atol=1e-5, rtol=1e-5)
        sum(own[name] for name in LOSSES).backward()
        sum(wanted[name] for name in NAMES).backward()
    torch.testing.assert_close(
        ours.network.layer2[0].conv1.weight.grad,
        theirs.backbone.made.layer2[0].conv1.weight.grad,
        atol=1e-5, rtol=1e-4,
    )  # fmt: skip


@pytest.mark.parametrize("stride_in", ["1x1", "3x3"])
def test_detections_are_torchvisions(stride_in):
    ours, theirs = pair(stride_in)
    batch = images()
    found = ours.detect(batch, [SIZE, SIZE])
    with torch.no_grad():
        wanted = theirs(list(batch))
    for own, other in zip(found, wanted, strict=True):
        assert len(own.boxes) == 40
        torch.testing.assert_close(own.scores, other["scores"], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(own.boxes, other["boxes"], atol=1e-4, rtol=1e-5)
        assert torch.equal(own.categories + 1, other["labels"])


def test_anchors_and_codes_are_torchvisions():
    ours, theirs = pair()
    batch = images()
    maps = ours.maps(batch)
    wanted = theirs.rpn.anchor_generator(ImageList(batch, [SIZE] * 2), [maps])[0]
    assert torch.equal(ours.rpn.anchors(maps, ours.stride), wanted)
    objectness, codes = ours.rpn(maps)
    logits, deltas = theirs.rpn.head([maps])
    from torchvision.models.detection.rpn import concat_box_prediction_layers

    logits, deltas = concat_box_prediction_layers(logits, deltas)
    torch.testing.assert_close(objectness.flatten(), logits.flatten())
    torch.testing.assert_close(codes.flatten(0, 1), deltas)


def test_the_last_stage_uses_49_of_196_bins_where_its_first_1x1_has_the_stride():
    made = network()
    whole = copy.deepcopy(made)
    ours = detector(made)
    maps = ours.maps(images(1))
    boxes = [torch.tensor([[3.0, 4, 70, 90], [20, 10, 100, 50]])]
    assert ours.every == 2
    from torchvision.ops import roi_align

    wanted = whole.eval().layer4(roi_align(maps, boxes, 14, 1 / 16, 2)).mean((2, 3))
    torch.testing.assert_close(ours.features(maps, boxes, [SIZE]), wanted, atol=1e-5, rtol=1e-5)
    assert detector(network(stride_in="3x3")).every == 1
    assert detector(network(block="basic")).every == 1
