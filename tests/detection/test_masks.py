"""Masks: the head's losses and pasted masks are torchvision's, and a tiny network learns discs."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torchvision.models.detection.mask_rcnn import MaskRCNNPredictor
from torchvision.models.detection.roi_heads import (
    expand_boxes,
    maskrcnn_loss,
    paste_masks_in_image,
)

from resnets.data.boxes import run_lengths
from resnets.data.boxes.annotations import BoxSet
from resnets.data.boxes.segments import mask_of
from resnets.data.datasets import BoxSplits
from resnets.data.preprocessing import imagenet
from resnets.detection import mask_pixels, model
from resnets.detection.detector import LOSSES, MASKS, Detector
from resnets.detection.masks import MaskHead, cropped
from resnets.detection.objective import DetectionObjective, copy_detector
from resnets.detection.regions import RegionLabels
from resnets.support.errors import UserError
from resnets.training import recipe_file, run
from resnets.weights.model_file import Model
from tests.detection import shapes
from tests.detection.shapes import detector, disc, discs, draw_boxes, draw_discs, recipe, settings
from tests.training.test_resume import Quiet

CPU = torch.device("cpu")
SIZE = 70, 90


def masks(count=3):
    """Discs in an image of `SIZE`."""
    made = [disc(20 + 20 * i, 25 + 8 * i, 10 + 3 * i) for i in range(count)]
    pixels = [mask_of(one, SIZE[::-1], SIZE[::-1]) for one in made]
    return torch.tensor(np.array(pixels, np.uint8)), torch.tensor([one.box for one in made])


def head(channels=6, categories=2):
    torch.manual_seed(0)
    made = MaskHead(channels, categories)
    made.reset_parameters()
    torch.nn.init.normal_(made.logits.weight, std=0.5)
    return made


def test_the_head_is_torchvisions_last_layers():
    ours, maps = head(), torch.randn(4, 6, 7, 7)
    theirs = MaskRCNNPredictor(6, 256, 2)
    theirs.conv5_mask.load_state_dict(ours.deconv.state_dict())
    theirs.mask_fcn_logits.load_state_dict(ours.logits.state_dict())
    assert ours(maps).shape == (4, 2, 14, 14)
    torch.testing.assert_close(ours(maps), theirs(maps), atol=1e-5, rtol=1e-5)
    chosen = ours.probabilities(maps, torch.tensor([0, 1, 1, 0]))
    torch.testing.assert_close(chosen[1], theirs(maps)[1, 1].sigmoid(), atol=1e-5, rtol=1e-5)


def test_the_loss_is_torchvisions():
    pixels, boxes = masks()
    ours, maps = head(), torch.randn(6, 6, 7, 7, requires_grad=True)
    regions = RegionLabels(
        boxes=torch.cat([boxes + torch.tensor([2.0, 1, -3, 2]), boxes - 1.5]),
        labels=torch.tensor([1, 0, 2, 2, 1, 0]),  # two of the background
        objects=torch.zeros(6, 4),
        matches=torch.tensor([0, 1, 2, 2, 0, 1]),
    )
    target = shapes.target(*boxes.tolist(), size=SIZE)._replace(masks=pixels)
    loss = ours.loss(maps, regions, target)
    rows = regions.labels > 0
    # There, pixel i lies at i instead of i + 0.5.
    wanted = maskrcnn_loss(
        ours(maps)[rows], [regions.boxes[rows] - 0.5], [pixels], [regions.labels[rows] - 1],
        [regions.matches[rows]],
    )  # fmt: skip
    torch.testing.assert_close(loss, wanted, atol=1e-5, rtol=1e-5)
    loss.backward()
    assert (maps.grad.abs().sum((1, 2, 3)) > 0).tolist() == rows.tolist()


def test_without_regions_on_objects_there_is_no_loss():
    ours, maps = head(), torch.randn(2, 6, 7, 7)
    none = RegionLabels(torch.ones(2, 4), torch.zeros(2).long(), torch.zeros(2, 4), torch.zeros(2))
    loss = ours.loss(maps, none, shapes.target(size=SIZE))
    loss.backward()
    assert loss == 0
    assert all((one.grad == 0).all() for one in ours.parameters())


@pytest.mark.parametrize("box", [(10, 12, 38, 40), (-9, 3, 40, 95), (30, 30, 33, 31)])
def test_pasted_masks_are_torchvisions(box):
    """Theirs covers whole pixels, and one more; ours the box that is given."""
    cells = torch.rand(1, 14, 14)
    box = torch.tensor([box], dtype=torch.float32)
    wanted = paste_masks_in_image(cells[:, None], box, SIZE, padding=1)[0, 0]
    covered = expand_boxes(box, 16 / 14).to(torch.int64)[0] + torch.tensor([0, 0, 1, 1])
    centre, half = (covered[:2] + covered[2:]) / 2, (covered[2:] - covered[:2]) / 2 * 14 / 16
    own = torch.cat([centre - half, centre + half]).tolist()
    found = mask_pixels.sampled(cells[0].numpy(), own, (0, 0, SIZE[1], SIZE[0]))
    x1, y1, x2, y2 = covered.clamp(min=0).tolist()
    np.testing.assert_allclose(found[y1:y2, x1:x2], wanted[y1:y2, x1:x2], atol=1e-5)


def test_a_mask_that_was_cropped_by_its_box_and_pasted_is_the_mask():
    pixels, boxes = masks()
    cells = cropped(pixels, torch.arange(3), boxes).numpy()
    for wanted, one, box in zip(pixels.numpy() > 0, cells, boxes.tolist(), strict=True):
        found = mask_pixels.pixels(one, box, SIZE[1], SIZE[0])
        assert (found & wanted).sum() > 0.97 * (found | wanted).sum()
        encoded = mask_pixels.encoded(one, box, SIZE[1], SIZE[0])
        assert (run_lengths.decode(encoded) == found).all()
        outline = mask_pixels.polygons(one, box)
        assert len(outline) == 1
        drawn = mask_of(replace(disc(9, 9, 9), polygons=(tuple(outline[0]),)), SIZE[::-1],
                        SIZE[::-1])  # fmt: skip
        assert (found & drawn).sum() > 0.97 * (found | drawn).sum()


@pytest.mark.parametrize("box", [(-5, -5, 0, 0), (3, 3, 3.01, 3.01), (60, 50, 120, 90.5)])
def test_masks_at_and_beyond_the_edge_have_the_size_of_the_image(box):
    ones = np.ones((14, 14), np.float32)
    found = mask_pixels.pixels(ones, box, 90, 70)
    assert found.shape == (70, 90)
    assert (run_lengths.decode(mask_pixels.encoded(ones, box, 90, 70)) == found).all()
    assert found.any() == (box[2] > 1 and box[2] - box[0] > 1)
    if box[0] == 60:
        assert found[50:70, 60:90].sum() == 20 * 30 - 1  # the corner of a mask is round


def test_a_mask_with_a_hole_has_two_outlines():
    cells = np.ones((14, 14), np.float32)
    cells[5:9, 5:9] = 0
    outer, inner = mask_pixels.polygons(cells, (0, 0, 140, 28))
    assert max(outer[::2]) == pytest.approx(140, abs=1e-3)
    assert (min(inner[::2]), max(inner[1::2])) == pytest.approx((50, 18))
    assert mask_pixels.polygons(0 * cells, (0, 0, 9, 9)) == []


def test_a_detector_trains_and_finds_masks():
    one = detector(masks=True)
    assert list(one.parts())[-1] == MASKS
    pixels, boxes = masks(2)
    target = shapes.target(*boxes.tolist(), size=SIZE, labels=[0, 1])._replace(masks=pixels)
    images = torch.randn(1, 3, 80, 96)
    found = one(images, [target])
    assert [*found] == [*LOSSES, MASKS, "wrong"]
    assert found[MASKS].item() == pytest.approx(np.log(2), abs=0.05)
    found[MASKS].backward()
    assert one.network.layer4[0].conv1.weight.grad.abs().sum() > 0
    (seen,) = one.detect(images, [SIZE])
    assert seen.masks.shape == (len(seen.boxes), 14, 14)
    maps = one.maps(images)
    wanted = one.masks(one.region_maps(maps, [seen.boxes])).sigmoid()
    rows = torch.arange(len(seen.boxes))
    torch.testing.assert_close(seen.masks, wanted[rows, seen.categories], atol=1e-5, rtol=1e-4)


def test_objects_that_are_ignored_need_no_segment_to_train():
    pixels, boxes = masks(2)
    target = shapes.target([0.0, 0, 9, 9], *boxes.tolist(), size=SIZE, ignore=[True, False, False])
    target = target._replace(masks=pixels)
    one = detector(masks=True)
    assert torch.isfinite(one(torch.randn(1, 3, 80, 96), [target])[MASKS])


def learner(tmp_path, **changes):
    made = settings(
        size=56, max_size=64, masks=True, scales=(0.9, 1.1), rois=16, foreground=0.5,
        anchors=(20.0,),
    )  # fmt: skip
    values = {
        "detection": made.model_dump(mode="json"), "freeze": None,
        "schedule": {"kind": "cosine", "lr": 0.1, "warmup": 5}, **changes,
    }  # fmt: skip
    return recipe(tmp_path, **values)


def test_a_tiny_network_learns_the_masks_of_discs(tmp_path, cache):
    plan = learner(tmp_path, iterations=140, test_every=140)
    objective = DetectionObjective(plan, discs(tmp_path / "images", train=40, test=9))
    assert "boxes and masks to train" in objective.describe()
    folder = tmp_path / "run"
    summary = run.start(folder, objective, CPU, Quiet(), command="test").train()
    assert summary["measured"]["mask_AP50"] > 50
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    losses = [row["loss_masks"] for row in rows if "loss_masks" in row]
    assert sum(losses[-10:]) < 0.6 * sum(losses[:10])
    trained = model.load(str(folder))
    assert isinstance(trained.network, Detector)
    assert trained.network.masks is not None
    assert trained.card["measured"][0]["mask_AP50"] > 50


def test_a_detector_of_masks_starts_from_another(tmp_path):
    plan = learner(tmp_path)
    data = discs(tmp_path / "images")
    first = DetectionObjective(plan, data).build_network()
    torch.nn.init.normal_(first.masks.logits.weight)
    second = detector(shapes.zoo.build("cifar-resnet8"), masks=True)
    model_of_first = Model(
        first, {"classes": ["red", "green"], "network": "cifar-resnet8"}, imagenet()
    )
    copy_detector(second, ["green", "blue"], model_of_first)
    assert torch.equal(second.masks.deconv.weight, first.masks.deconv.weight)
    assert torch.equal(second.masks.logits.weight[0], first.masks.logits.weight[1])
    assert not torch.equal(second.masks.logits.weight[1], first.masks.logits.weight[0])
    boxes_only = detector(shapes.zoo.build("cifar-resnet8"))
    copy_detector(boxes_only, ["green"] * 2, model_of_first)  # masks are left out
    copy_detector(second, ["green", "blue"], Model(boxes_only, model_of_first.card, imagenet()))


def test_objects_without_segment_are_refused_in_one_line(tmp_path, cache):
    plan, whole = learner(tmp_path), draw_discs(tmp_path / "a", "train", 4)
    boxes = draw_boxes(tmp_path / "b", "train", 4)
    for data in (BoxSplits(boxes, whole), BoxSplits(whole, boxes)):
        with pytest.raises(UserError) as caught:
            DetectionObjective(plan, data)
        assert caught.value.message == (
            "6 of 6 objects have no segment to train or test masks with, the first a red in "
            "train0.png"
        )
        assert "--set detection.masks=false" in caught.value.hint
    DetectionObjective(learner(tmp_path, detection=settings().model_dump(mode="json")),
                       BoxSplits(boxes, boxes))  # fmt: skip


def test_malformed_run_lengths_are_refused_before_the_first_step(tmp_path, cache):
    whole = draw_discs(tmp_path / "a", "train", 2)
    image = whole.images[1]
    for rle in ({"size": [56, 64], "counts": [1, 2]}, {"size": [9, 9], "counts": [81]}):
        broken = replace(image, objects=(replace(image.objects[0], polygons=None, rle=rle),))
        data = BoxSet((whole.images[0], broken), whole.categories, "train", "drawn")
        with pytest.raises(UserError, match="the segmentation of an object cannot be decoded"):
            DetectionObjective(learner(tmp_path), BoxSplits(data, whole))


def test_the_fingerprint_knows_segments_only_where_masks_are_trained(tmp_path):
    data = discs(tmp_path / "a", train=2)
    first = data.train.images[0]
    moved = replace(first.objects[0], polygons=((0.0, 0, 9, 0, 9, 9),))
    images = (replace(first, objects=(moved,)), *data.train.images[1:])
    other = BoxSplits(replace(data.train, images=images), data.test)
    plain = learner(tmp_path, detection=settings().model_dump(mode="json"))
    for plan, same in ((learner(tmp_path), False), (plain, True)):
        prints = {DetectionObjective(plan, one).fingerprint for one in (data, other)}
        assert (len(prints) == 1) == same


HASHES = {
    "detect-finetune": ("2-4bcdfa0645615033", "6d2afc130f116372"),
    "cifar10-paper": ("2-7df0262255154fc4", "1c42286c5935b3bc"),
}
"""Of both versions, before there were masks."""


@pytest.mark.parametrize("name", HASHES)
def test_recipes_without_masks_keep_their_hashes(name):
    plan = recipe_file.load(name)
    assert plan.content_hash() == HASHES[name][0]
    assert all(plan.matches(one) for one in HASHES[name])
    assert recipe_file.load("segment-finetune").detection.masks
