"""Box refinement, global context, multi-scale testing and ensembles (appendix B, Table 9)."""

import numpy as np
import pytest
import torch
from PIL import Image

from resnets.data.preprocessing import imagenet
from resnets.detection import ensemble, model, refinement, scales
from resnets.detection.detector import BINS
from resnets.detection.ensemble import Member
from resnets.detection.improvements import Improvements, parse_scales
from resnets.detection.objective import copy_detector
from resnets.detection.regions import Found, Scored, candidates, suppress
from resnets.detection.search import between, search
from resnets.support.errors import UserError
from resnets.weights.model_file import Model
from tests.detection.files import noisy_blocks, save_detector
from tests.detection.shapes import CATEGORIES, detector

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return save_detector(tmp_path_factory.mktemp("detector") / "mine.safetensors", score=0.1)


def member(path, order=(0, 1)):
    loaded = model.load(str(path))
    return Member(loaded.network, loaded.normalize(CPU), list(order))


def found_by(members, image, **improvements):
    return model.detect_improved(members, image, Improvements(**improvements), CPU, "fp32")


def plain(one, image):
    return next(model.detect(one.detector, [image], one.normalize, CPU, "fp32"))


def same(a, b, tolerance=1e-5):
    assert len(a) == len(b) > 3
    np.testing.assert_allclose(a.scores, b.scores, atol=tolerance)
    np.testing.assert_allclose(a.boxes, b.boxes, atol=100 * tolerance)
    assert a.categories.tolist() == b.categories.tolist()


# Box refinement


def test_the_box_of_the_best_category_is_pooled_anew_and_both_predictions_count():
    regions = torch.tensor([[0.0, 0, 10, 10], [20, 20, 30, 40]])
    first = Scored(torch.arange(16.0).view(2, 2, 4), torch.tensor([[0.2, 0.7], [0.6, 0.1]]))
    second = Scored(100 + torch.arange(16.0).view(2, 2, 4), torch.full((2, 2), 0.5))
    seen = []

    def score(boxes):
        seen.append(boxes)
        return first if len(seen) == 1 else second

    both = refinement.refined(regions, score)
    assert torch.equal(seen[0], regions)
    assert seen[1].tolist() == [[4, 5, 6, 7], [8, 9, 10, 11]]
    assert torch.equal(both.boxes, torch.cat((first.boxes, second.boxes)))
    assert torch.equal(both.scores, torch.cat((first.scores, second.scores)))


def test_boxes_vote_with_their_scores():
    voters = Found(
        torch.tensor([
            [0.0, 0, 10, 10], [0, 0, 10, 8], [0, 0, 10, 4.9], [0, 0, 10, 9], [50, 50, 60, 60.3],
        ]),
        torch.tensor([0.8, 0.2, 0.9, 0.7, 0.4]),
        torch.tensor([0, 0, 0, 1, 0]),
    )  # fmt: skip
    kept = Found(*(part[[0, 4]] for part in voters[:3]))
    with torch.autocast("cpu", torch.bfloat16):
        voted = refinement.vote(kept, voters)
    # The second overlaps by 0.8; the third by 0.49 only; the fourth is of another category.
    below = (0.8 * 10 + 0.2 * 8) / (0.8 + 0.2)
    torch.testing.assert_close(voted.boxes, torch.tensor([[0, 0, 10, below], [50, 50, 60, 60.3]]))
    assert torch.equal(voted.scores, kept.scores)
    nothing = Found(*(part[:0] for part in voters[:3]))
    assert len(refinement.vote(nothing, voters).boxes) == 0


def test_refinement_is_two_searches_of_the_regions_one_suppression_and_a_vote(path):
    one, image = member(path), noisy_blocks((48, 40))
    pixels = np.asarray(model.rescaling(one.detector.settings).apply(image))
    batch = model.stack_padded([pixels], one.normalize, CPU, one.detector.stride)
    size = pixels.shape[:2]
    with torch.no_grad():
        maps = one.detector.maps(batch)

        def score(boxes):
            features = one.detector.features(maps, [boxes], [size])
            return one.detector.score(features, [boxes], [size])[0]

        (proposals,) = one.detector.propose(maps, [size])
        first = score(proposals)
        best = first.boxes[range(len(proposals)), first.scores.argmax(1)]
        second = score(best)
    union = Scored(torch.cat((first.boxes, second.boxes)), torch.cat((first.scores, second.scores)))
    every = candidates(union, one.detector.settings.score)
    wanted = refinement.vote(suppress(every, 0.4, 100), every)
    found, _ = search([one], image, Improvements(refine=True), CPU)
    for own, other in zip(found[:3], wanted[:3], strict=True):
        torch.testing.assert_close(own, other)
    assert len(found.boxes) != len(plain(one, image)) or not np.allclose(
        found.boxes, plain(one, image).boxes
    )


# Scales


def test_regions_have_the_two_scales_between_which_they_are_224_pixels():
    def square(side):
        return [0.0, 0, side, side]

    # In the scale 400 a region of 600's 336 pixels has 224.
    boxes = torch.tensor([
        square(224), square(223), square(225), square(336.1), square(335.9), square(5000),
        square(1), square(0), [0, 0, 112, 448],
    ])  # fmt: skip
    lower = scales.lower_scales(boxes, 600, (200, 400, 600, 800, 1000), 224)
    assert lower.tolist() == [2, 2, 1, 0, 1, 0, 3, 3, 2]


def test_maxout_has_the_larger_features_of_both_scales():
    table = torch.randn(3, 4, 5)  # scale, region, channel
    lower = torch.tensor([0, 1, 1, 0])
    merged = scales.maxout(lower, 3, lambda scale, rows: table[scale, rows])
    for row, low in enumerate(lower.tolist()):
        assert torch.equal(merged[row], torch.maximum(table[low, row], table[low + 1, row]))
    empty = scales.maxout(lower[:0], 3, lambda scale, rows: table[scale, rows])
    assert empty.shape == (0, 5)


@pytest.mark.parametrize("context", [False, True])
def test_features_of_a_pyramid_are_those_of_each_scale(tmp_path, context):
    one = member(save_detector(tmp_path / "one.safetensors", context=context))
    image, sides = noisy_blocks((60, 40)), (20, 50, 70, 110, 130)
    found = found_by([one], image, scales=sides)
    views, settings = [], one.detector.settings
    with torch.no_grad():
        for side in (40, *sides):
            pixels = np.asarray(model.rescaling(settings).at_side(side).apply(image))
            batch = model.stack_padded([pixels], one.normalize, CPU, one.detector.stride)
            views.append((one.detector.maps(batch), pixels.shape[:2]))
        maps, size = views.pop(0)  # the detector's own scale
        (boxes,) = one.detector.propose(maps, [size])
        each = [
            one.detector.features(maps, [between(boxes, size, its)], [its]) for maps, its in views
        ]
        lower = scales.lower_scales(boxes, 40, sides, one.detector.stride * BINS)
        rows = torch.arange(len(boxes))
        table = torch.stack(each)
        features = torch.maximum(table[lower, rows], table[lower + 1, rows])
        scored = one.detector.score(features, [boxes], [size])[0]
    assert len({*lower.tolist()}) > 1
    wanted = suppress(candidates(scored, settings.score), settings.nms, settings.detections)
    np.testing.assert_allclose(found.scores, wanted.scores, atol=1e-5)
    factor = np.array([60 / size[1], 40 / size[0]] * 2)
    np.testing.assert_allclose(found.boxes, wanted.boxes.numpy() * factor, atol=1e-3)


def test_the_longer_side_of_other_scales_is_limited_in_proportion():
    settings = detector().settings  # 40 and 80
    assert model.rescaling(settings).at_side(60).scaled(1000, 100) == (120, 12)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((600,), "two or more sides that rise"),
        ((600, 400), "two or more sides that rise"),
        ((400, 400), "two or more sides that rise"),
        ((4, 400), "from 8 to 4096"),
    ],
)
def test_scales_that_are_none_are_refused(given, message):
    with pytest.raises(UserError, match=message):
        Improvements(scales=given)


def test_scales_are_read():
    assert parse_scales("200,400", 600) == (200, 400)
    assert parse_scales("paper", 600) == (200, 400, 600, 800, 1000)
    assert parse_scales("paper", 300) == (100, 200, 300, 400, 500)
    with pytest.raises(UserError, match=r"--scales: not shorter sides .* 'big'"):
        parse_scales("big", 600)


# Ensembles


def test_an_ensemble_of_equal_detectors_finds_what_one_finds(path):
    one, image = member(path), noisy_blocks((48, 40))
    same(found_by([one], image), plain(one, image), 0)
    same(found_by([one, member(path), member(path)], image), plain(one, image))


def test_scores_and_boxes_of_an_ensemble_are_means_by_category():
    a = Scored(torch.zeros(1, 2, 4), torch.tensor([[0.2, 0.6]]))
    b = Scored(torch.tensor([[[4.0] * 4, [2.0] * 4]]), torch.tensor([[0.1, 0.9]]))
    order = ensemble.category_order(["red", "green"], ["green", "red"], "b")
    assert order == [1, 0]
    mean = ensemble.mean([a, b], [[0, 1], order])
    assert mean.boxes.tolist() == [[[1] * 4, [2] * 4]]
    torch.testing.assert_close(mean.scores, torch.tensor([[0.55, 0.35]]))
    with pytest.raises(UserError, match=r"same categories; only one has .*blue"):
        ensemble.category_order(["red"], ["red", "blue"], "b")


def test_members_may_see_images_in_other_sizes(path, tmp_path):
    other = save_detector(tmp_path / "other.safetensors", size=60, max_size=90)
    image = noisy_blocks((48, 40))
    both = found_by([member(path), member(other)], image, refine=True, scales=(20, 40))
    assert len(both) > 3
    assert (both.boxes[:, 2:] <= [48.001, 40.001]).all()


# Global context


def test_the_context_is_the_whole_image_pooled_like_a_region():
    one = detector(context=True)
    images = torch.randn(2, 3, 48, 64)
    boxes = [torch.tensor([[3.0, 4, 30, 40], [0, 0, 9, 9]]), torch.tensor([[5.0, 5, 40, 40]])]
    sizes = [(40, 60), (48, 50)]
    maps = one.maps(images)
    features = one.features(maps, boxes, sizes)
    alone = detector()
    width = features.shape[1] // 2
    assert one.siblings.categories.in_features == 2 * alone.siblings.categories.in_features
    torch.testing.assert_close(features[:, :width], alone.features(maps, boxes, sizes))
    whole = [torch.tensor([[0.0, 0, w, h]]) for h, w in sizes]
    context = alone.features(maps, whole, sizes)
    torch.testing.assert_close(features[:, width:], context[[0, 0, 1]])


def test_the_context_trains_and_images_without_regions_have_none():
    one = detector(context=True)
    features = one.features(one.maps(torch.randn(1, 3, 48, 64)), [torch.zeros(0, 4)], [(48, 64)])
    assert features.shape[0] == 0
    maps = one.maps(torch.randn(1, 3, 48, 64))
    one.features(maps, [torch.tensor([[0.0, 0, 9, 9]])], [(48, 64)])[:, -1].sum().backward()
    assert one.network.layer4[0].conv1.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("contexts", [(False, True), (True, False)])
def test_a_detector_gets_the_weights_of_one_without_context_or_with_it(contexts):
    own, other = (detector(context=context) for context in contexts)
    before = own.siblings.categories.weight.clone()
    with torch.no_grad():
        other.siblings.categories.weight.normal_()
        other.siblings.boxes.weight.normal_()
    card = {"network": "resnet50", "classes": list(CATEGORIES)}
    copy_detector(own, CATEGORIES, Model(other, card, imagenet()))
    for kind in ("categories", "boxes"):
        weights, theirs = getattr(own.siblings, kind).weight, getattr(other.siblings, kind).weight
        few = min(weights.shape[1], theirs.shape[1])
        assert torch.equal(weights[:, :few], theirs[:, :few])
    assert torch.equal(own.siblings.categories.weight[:, few:], before[:, few:])


def test_images_of_one_pixel_are_searched(path):
    one = member(path)
    for size in ((1, 1), (1, 200)):
        found = found_by([one, one], Image.new("RGB", size), refine=True, scales=(20, 40, 60))
        assert (found.boxes >= 0).all()


def test_improved_detections_have_masks_of_their_boxes(tmp_path):
    one = member(save_detector(tmp_path / "one.safetensors", masks=True, context=True, score=0.1))
    image = noisy_blocks((48, 40))
    found = found_by([one, one], image, refine=True, scales=(20, 40))
    assert found.masks.shape == (len(found), 14, 14)
    assert len(found)
    own, wanted = found_by([one], image), plain(one, image)
    np.testing.assert_array_equal(own.boxes, wanted.boxes)
    np.testing.assert_array_equal(own.masks, wanted.masks)
