"""Boxes follow an image when EXIF data turn it."""

import json

import numpy as np
import pytest
from PIL import Image, ImageOps

from resnets.data.boxes.annotations import AnnotatedImage, BoxSet, Object
from resnets.data.boxes.cleaning import clean, fault_of_box, summary
from resnets.data.boxes.datasets import box_set, read_source
from resnets.data.boxes.run_lengths import decode
from resnets.support.errors import UserError

BOX = (10, 4, 25, 9)


def coco_with(folder, orientation, declared, box=BOX, size=(40, 24), segmentation=()):
    """One image stored with `size`, bright within `BOX`, and its annotation."""
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    pixels[BOX[1] : BOX[3], BOX[0] : BOX[2]] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    folder.mkdir(exist_ok=True)
    Image.fromarray(pixels).save(folder / "a.jpg", quality=100, exif=exif)
    x1, y1, x2, y2 = box
    annotation = {
        "image_id": 1,
        "category_id": 1,
        "bbox": [x1, y1, x2 - x1, y2 - y1],
        "segmentation": segmentation,
    }
    image = {"id": 1, "file_name": "a.jpg", "width": declared[0], "height": declared[1]}
    content = {
        "images": [image],
        "annotations": [annotation],
        "categories": [{"id": 1, "name": "box"}],
    }
    (folder / "test.json").write_text(json.dumps(content))
    return box_set(read_source(folder), "test").images[0]


def bright(image):
    """The box of the bright pixels of the upright image."""
    with Image.open(image.path) as stored:
        grey = np.asarray(ImageOps.exif_transpose(stored).convert("L")) > 128
    assert (image.width, image.height) == (grey.shape[1], grey.shape[0])
    ys, xs = np.nonzero(grey)
    return (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
@pytest.mark.parametrize("compressed", [False, True])
def test_boxes_drawn_on_the_stored_image_are_turned(orientation, compressed, tmp_path):
    mask = np.zeros((24, 40), np.uint8)
    mask[BOX[1] : BOX[3], BOX[0] : BOX[2]] = 1
    if compressed:
        mask_tools = pytest.importorskip("pycocotools.mask")
        rle = mask_tools.encode(np.asfortranarray(mask))
        rle["counts"] = rle["counts"].decode()
    else:
        edges = np.flatnonzero(np.diff(mask.T.ravel(), prepend=0))
        counts = np.diff(edges, prepend=0, append=mask.size)
        rle = {"size": [24, 40], "counts": counts.tolist()}
    assert (decode(rle) == mask).all()
    image = coco_with(tmp_path / "a", orientation, (40, 24), segmentation=rle)
    assert image.objects[0].box == bright(image)
    ys, xs = np.nonzero(decode(image.objects[0].rle))
    assert (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1) == bright(image)
    outline = [10, 4, 25, 4, 25, 9, 10, 9]
    image = coco_with(tmp_path / "b", orientation, (40, 24), segmentation=[outline])
    xs, ys = image.objects[0].polygons[0][::2], image.objects[0].polygons[0][1::2]
    assert (min(xs), min(ys), max(xs), max(ys)) == bright(image)


@pytest.mark.parametrize("counts", [[1, 2], [-1, 961], ["x"], "0\x00", [2.5, 957.5], [[960]]])
def test_run_lengths_that_are_malformed_are_refused(counts, tmp_path):
    rle = {"size": [24, 40], "counts": counts}
    with pytest.raises(UserError, match="a segmentation cannot be decoded"):
        coco_with(tmp_path, 6, (40, 24), segmentation=rle)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_boxes_of_the_upright_image_stay(orientation, tmp_path):
    size = (24, 40) if orientation > 4 else (40, 24)
    for declared in (size, (0, 0)):
        image = coco_with(tmp_path, orientation, declared, box=(1, 2, 3, 4))
        assert image.objects[0].box == (1, 2, 3, 4)
        assert (image.width, image.height) == size


@pytest.mark.parametrize("orientation", [0, 9, 77])
def test_invalid_orientations_are_ignored(orientation, tmp_path):
    image = coco_with(tmp_path, orientation, (40, 24))
    assert image.objects[0].box == BOX
    assert (image.width, image.height) == (40, 24)


def test_headers_beyond_the_start_of_a_file_are_read(tmp_path):
    image = coco_with(tmp_path, 6, (24, 40), box=(1, 2, 3, 4))
    content = image.path.read_bytes()
    comment = b"\xff\xfe\xff\xff" + bytes(65533)
    image.path.write_bytes(content[:2] + comment * 3 + content[2:])
    again = box_set(read_source(tmp_path), "test").images[0]
    assert (again.width, again.height) == (24, 40)


def test_degenerate_boxes_are_left_out_and_counted():
    boxes = [(2, 2, 8, 8), (5, 5, 5, 9), (50, 0, 60, 9), (-9, -9, 0, 4), (1, 1, 1.5, 9),
             (-4, -3, 60, 50), (39.5, 0, 44, 9)]  # fmt: skip
    reasons = [fault_of_box(box, 40, 24) for box in boxes]
    assert reasons == [None, "empty", "outside", "outside", "small", None, "small"]
    objects = tuple(Object(box, 0) for box in boxes)
    image = AnnotatedImage("a.png", "a.png", 40, 24, objects)
    cleaned, dropped = clean(BoxSet((image,), ("box",), "train", "COCO JSON"))
    assert [one.box for one in cleaned.images[0].objects] == [(2, 2, 8, 8), (0, 0, 40, 24)]
    assert [one.object.box for one in dropped] == [boxes[i] for i in (1, 2, 3, 4, 6)]
    line = "5 boxes left out (2 outside, 2 small, 1 empty), the first in a.png"
    assert summary(dropped) == line
    assert summary([]) == ""
