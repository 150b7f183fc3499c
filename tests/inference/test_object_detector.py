"""A detector in Python: every kind of image, thresholds, tiles, videos, results."""

import itertools

import numpy as np
import pytest
import torch
from PIL import Image

import resnets
from resnets.detection.metrics.detections import Detections, Thresholds
from resnets.inference import tiles, videos
from resnets.inference.detection_results import DetectedObject, ImageDetections
from resnets.inference.object_detector import ObjectDetector, open_detector
from resnets.support.distributed import World
from resnets.support.errors import UserError
from tests.detection.shapes import draw_boxes

WHOLE = Thresholds(score=0.1, nms=0.3, limit=50)


@pytest.fixture(scope="module")
def model(trained_detector):
    return resnets.load(trained_detector, device="cpu", precision="fp32")


@pytest.fixture(scope="module")
def boxes(tmp_path_factory):
    return draw_boxes(tmp_path_factory.mktemp("boxes"), "test", 3, seed=9)


def test_paths_pictures_arrays_and_tensors_give_the_same(model, boxes):
    assert isinstance(model, ObjectDetector)
    assert repr(model).endswith("run: 2 categories, torch fp32>")
    paths = [image.path for image in boxes.images]
    expected = model.predict(paths, score=0.1)
    assert [one.image for one in expected] == [str(path) for path in paths]
    assert all(one.objects and (one.width, one.height) == (48, 40) for one in expected)
    arrays = [np.asarray(Image.open(path)) for path in paths]
    tensors = [torch.from_numpy(array.copy()).permute(2, 0, 1) for array in arrays]
    for images in (arrays, tensors, np.stack(arrays), [Image.open(path) for path in paths]):
        assert [one.objects for one in model.predict(images, score=0.1)] == [
            one.objects for one in expected
        ]
    (single,) = model.predict(paths[0], score=0.1)
    assert single == expected[0]


def test_a_detector_finds_what_its_own_test_finds(model, boxes):
    found = model.find_all(boxes, World())
    shown = model.predict([image.path for image in boxes.images], model.card["detection"]["score"])
    for one, other in zip(found, shown, strict=True):
        assert one.scores.tolist() == [each.score for each in other.objects]
        assert [tuple(box) for box in one.boxes.tolist()] == [each.box for each in other.objects]


def test_large_files_are_found_alike_whether_drawn_or_not(model, tmp_path):
    image = draw_boxes(tmp_path, "large", 1, seed=2).images[0]
    large = tmp_path / "large.jpg"
    Image.open(image.path).resize((960, 800)).save(large, quality=95)
    seen = []
    drawn = list(model.iter_predictions([large], WHOLE, seen=lambda *one: seen.append(one)))
    assert drawn == model.predict(large, 0.1, limit=50, nms=0.3)
    assert seen[0][1].size == (960, 800) == (drawn[0].width, drawn[0].height)
    assert max(box for one in drawn[0].objects for box in one.box) > 400


def test_thresholds_choose_what_stays(model, boxes):
    path = boxes.images[0].path
    (all_of_them,) = model.predict(path, score=0.0, nms=1.0, limit=1000)
    assert len(all_of_them.objects) > 20
    (few,) = model.predict(path, score=0.0, nms=1.0, limit=7)
    assert few.objects == all_of_them.objects[:7]
    best = all_of_them.objects[0].score
    assert model.predict(path, score=min(1.0, best + 0.01))[0].objects == []
    (apart,) = model.predict(path, score=0.0, nms=0.0)
    for one in apart.objects:
        for other in apart.objects:
            if one is not other and one.index == other.index:
                x1, y1, x2, y2 = one.box
                assert min(x2, other.box[2]) <= max(x1, other.box[0]) or min(
                    y2, other.box[3]
                ) <= max(y1, other.box[1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"score": 1.5}, "score must be from 0 to 1, not 1.5"),
        ({"score": float("nan")}, "score must be from 0 to 1, not nan"),
        ({"nms": -0.1}, "nms must be from 0 to 1"),
        ({"limit": 0}, "limit must be at least 1, not 0"),
        ({"tile": 0}, "tile must be at least 1 pixel"),
    ],
)
def test_options_out_of_range_are_refused(model, boxes, options, message):
    with pytest.raises(UserError, match=message):
        model.predict(boxes.images[0].path, **options)


def test_images_that_cannot_be_read_have_an_error(model, boxes):
    found = model.predict(["absent.png", boxes.images[0].path])
    assert [one.error for one in found] == ["no such image", None]
    assert repr(found[0]) == "<ImageDetections of absent.png: no such image>"
    with pytest.raises(TypeError, match="not an image"):
        model.predict([3])


def test_results_show_themselves():
    objects = [DetectedObject("a<b", 0.987654, (1, 2.345, 30, 40), 0)] * 7
    found = ImageDetections("x.jpg", 64, 48, objects)
    assert repr(found).endswith("a<b 98.8 %, 2 more>")
    assert "a&lt;b" in found._repr_html_()
    assert found.as_dict()["objects"][0] == {
        "category": "a<b", "score": 0.98765, "box": [1, 2.35, 30, 40]
    }  # fmt: skip
    assert repr(ImageDetections("y.jpg", 4, 4)) == "<ImageDetections of y.jpg: no objects>"


@pytest.mark.parametrize("size", [(1, 1), (20, 300), (64, 48), (2000, 1500)])
def test_boxes_are_drawn_into_images_of_every_size(size):
    width, height = size
    box = (width * 0.1, height * 0.1, width * 0.9, height * 0.8)
    found = ImageDetections("x", *size, [DetectedObject("浣熊 $x$ \n", 0.9, box, 3)])
    picture = Image.new("RGB", size, "white")
    drawn = found.draw(picture)
    assert drawn.size == size
    assert np.asarray(picture).min() == 255  # the image itself is as it was
    assert np.asarray(drawn).min() < 200


class Bright:
    """Finds bright pixels: exact boxes, as an engine gives them."""

    name = "bright"

    def __init__(self):
        self.sizes = []

    def __call__(self, image):
        self.sizes.append(image.size)
        found = []
        pixels = np.asarray(image)
        for category in (0, 1):
            rows, columns = np.nonzero(pixels[..., category] > 200)
            if len(rows):
                found.append((columns.min(), rows.min(), columns.max() + 1, rows.max() + 1))
        count = len(found)
        return Detections(
            np.array(found, np.float32).reshape(-1, 4),
            np.full(count, 0.9, np.float32),
            np.arange(count, dtype=np.int64),
        )


def test_tiles_cover_the_image_and_overlap():
    for width, height, side in [(1000, 700, 300), (300, 300, 300), (301, 100, 300), (50, 2000, 64)]:
        covered = np.zeros((height, width), int)
        shown = tiles.windows(width, height, side)
        for x1, y1, x2, y2 in shown:
            assert 0 <= x1 < x2 <= width
            assert 0 <= y1 < y2 <= height
            covered[y1:y2, x1:x2] += 1
        assert covered.min() == 1 or len(shown) > 1
        columns = sorted({(x1, x2) for x1, _, x2, _ in shown})
        for (_, end), (start, _) in itertools.pairwise(columns):
            assert end - start >= int(side * tiles.OVERLAP)


@pytest.mark.parametrize("at", [(3, 5), (145, 60), (290, 190), (160, 95)])
def test_tiles_give_boxes_of_the_whole_frame_once(at):
    pixels = np.zeros((200, 300, 3), np.uint8)
    x, y = at
    pixels[y : y + 8, x : x + 10, 0] = 255
    find = Bright()
    found = tiles.detect(find, Image.fromarray(pixels), 100, WHOLE)
    assert found.boxes.tolist() == [[x, y, min(300, x + 10), min(200, y + 8)]]
    assert find.sizes[0] == (300, 200)
    assert set(find.sizes[1:]) == {(100, 100)}


def test_parts_that_a_tile_cuts_off_stay_only_without_the_whole():
    pixels = np.zeros((100, 300, 3), np.uint8)
    pixels[20:80, 40:260, 0] = 255  # larger than a tile
    image = Image.fromarray(pixels)
    assert tiles.detect(Bright(), image, 100, WHOLE).boxes.tolist() == [[40, 20, 260, 80]]

    class Blind(Bright):
        def __call__(self, part):
            empty = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32),
                               np.zeros(0, np.int64))  # fmt: skip
            return empty if part.size[0] > 100 else super().__call__(part)

    assert len(tiles.detect(Blind(), image, 100, WHOLE)) > 1


def test_small_images_are_searched_once():
    find = Bright()
    tiles.detect(find, Image.new("RGB", (90, 60)), 100, WHOLE)
    assert find.sizes == [(90, 60)]


def write_video(path, frames=7, noise=0, left=0):
    random = np.random.default_rng(0)
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=5)
        stream.width, stream.height, stream.pix_fmt = 48, 40, "yuv420p"
        for number in range(frames):
            pixels = random.integers(0, noise + 1, (40, 48, 3)) + 210 * number // frames
            pixels[:, :20] = left or pixels[:, :20]
            pixels = pixels.astype(np.uint8)
            for packet in stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return str(path)


def test_every_nth_frame_of_a_video_has_its_number_and_time(model, tmp_path):
    clip = write_video(tmp_path / "clip.mp4")
    assert videos.frame_count(clip, 3) == 3
    found = list(model.iter_predictions(videos.frames(clip, 3)))
    assert [one.image for one in found] == [f"{clip}#{number}" for number in (0, 3, 6)]
    assert [one.frame for one in found] == [0, 3, 6]
    assert [one.seconds for one in found] == pytest.approx([0, 0.6, 1.2], abs=0.01)
    assert found[0].as_dict()["frame"] == 0
    levels = [np.asarray(one.picture).mean() for one in videos.frames(clip)]
    assert levels == pytest.approx([30 * number for number in range(7)], abs=6)
    left = [one.frame for one in videos.frames(clip, 3, lambda name: name.endswith("#3"))]
    assert left == [0, 6]


def test_frames_are_turned_as_the_camera_was_held(tmp_path):
    clip = tmp_path / "clip.mp4"
    write_video(clip, frames=3, left=200)
    (first, *_) = videos.frames(str(clip))
    assert np.asarray(first.picture)[:, :20].mean() > 150
    content = bytearray(clip.read_bytes())
    matrix = content.index(b"tkhd") + 44  # of ISO 14496-12: a quarter turn clockwise
    for at, number in enumerate((0, 1 << 16, 0, -1 << 16, 0)):
        content[matrix + 4 * at : matrix + 4 * at + 4] = number.to_bytes(4, "big", signed=True)
    clip.write_bytes(content)
    (first, *_) = videos.frames(str(clip))
    assert first.picture.size == (40, 48)
    assert np.asarray(first.picture)[:20].mean() > 150
    assert np.asarray(first.picture)[28:].mean() < 50


@pytest.mark.parametrize("content", [b"", b"no video", None])
def test_videos_that_cannot_be_read_yield_their_error(model, tmp_path, content):
    pytest.importorskip("av")
    path = tmp_path / "bad.mp4"
    if content is not None:
        path.write_bytes(content)
    (found,) = model.iter_predictions(videos.frames(str(path)))
    assert found.image == str(path)
    assert "video" in found.error
    assert videos.frame_count(str(path), 1) == 1


@pytest.mark.parametrize("ending", ["avi", "mkv"])
def test_a_video_that_breaks_off_keeps_its_frames(tmp_path, ending):
    clip = tmp_path / f"clip.{ending}"
    write_video(clip, frames=60, noise=40)
    assert len(list(videos.frames(str(clip)))) == 60
    content = clip.read_bytes()
    clip.write_bytes(content[: 2 * len(content) // 3])
    *shown, last = videos.frames(str(clip))
    assert [one.frame for one in shown] == list(range(len(shown)))
    assert shown
    assert (last.name, last.frame) == (str(clip), None)
    assert "breaks off after frame" in str(last.picture)


def test_detectors_are_opened_as_they_can_run(trained_detector):
    assert open_detector(str(trained_detector), precision="bf16").engine.name == "torch bf16"
    for options in ({"runtime": "openvino"}, {"precision": "int8"}):
        with pytest.raises(UserError, match="as an export; export it"):
            open_detector(str(trained_detector), **options)
    with pytest.raises(UserError, match=r"is a classifier, not a detector; .*resnets predict"):
        open_detector("cifar-resnet20")
    with pytest.raises(UserError, match="unknown runtime"):
        resnets.load(trained_detector, runtime="tensorflow")
