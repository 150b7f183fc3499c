"""The same few images with boxes in every format, written by hand and not by our writers."""

import json

import numpy as np
from PIL import Image

SIZES = {"a": (64, 48), "b": (40, 80), "c": (50, 50)}
BOXES = {
    "a": [("dog", (4, 6, 20, 30)), ("cat", (10, 0, 64, 48))],
    "b": [("cat", (0, 0, 12, 79))],
    "c": [],
}
"""Category and x1, y1, x2, y2, continuous, of each image's objects."""
NAMES = ["cat", "dog"]


def draw(path, size, orientation=1, seed=0):
    """A PNG or JPEG of noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng([seed, *size]).integers(0, 255, (size[1], size[0], 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(path, **({"exif": exif} if orientation != 1 else {}))


def draw_all(folder, ending="png"):
    for name, size in SIZES.items():
        draw(folder / f"{name}.{ending}", size)


def write_coco(root, boxes=BOXES, names=NAMES, file="annotations/instances_train2017.json"):
    draw_all(root / "train2017")
    images, annotations = [], []
    for number, (name, objects) in enumerate(boxes.items(), 7):
        width, height = SIZES[name]
        images.append({"id": number, "file_name": f"{name}.png", "width": width, "height": height})
        for category, (x1, y1, x2, y2) in objects:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": 10 * (names.index(category) + 1),
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": 5.0,
                    "iscrowd": 0,
                }
            )
    categories = [{"id": 10 * (i + 1), "name": name} for i, name in enumerate(names)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / file).parent.mkdir(parents=True, exist_ok=True)
    (root / file).write_text(json.dumps(content))
    return root / file


def write_voc(root, boxes=BOXES, annotations="Annotations", images="JPEGImages"):
    draw_all(root / images)
    (root / annotations).mkdir(parents=True, exist_ok=True)
    for name, objects in boxes.items():
        (root / annotations / f"{name}.xml").write_text(voc_xml(name, SIZES[name], objects))


def voc_xml(name, size, objects):
    inner = "".join(
        f"<object><name>{category}</name><difficult>0</difficult><bndbox><xmin>{x1 + 1}</xmin>"
        f"<ymin>{y1 + 1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
        for category, (x1, y1, x2, y2) in objects
    )
    return (
        f"<annotation><filename>{name}.png</filename><size><width>{size[0]}</width>"
        f"<height>{size[1]}</height><depth>3</depth></size>{inner}</annotation>"
    )


def write_yolo(root, boxes=BOXES, images="images/train", labels="labels/train", yaml=True):
    draw_all(root / images)
    (root / labels).mkdir(parents=True, exist_ok=True)
    for name, objects in boxes.items():
        width, height = SIZES[name]
        lines = [
            f"{NAMES.index(category)} {(x1 + x2) / 2 / width} {(y1 + y2) / 2 / height} "
            f"{(x2 - x1) / width} {(y2 - y1) / height}\n"
            for category, (x1, y1, x2, y2) in objects
        ]
        if lines:
            (root / labels / f"{name}.txt").write_text("".join(lines))
    if yaml:
        (root / "data.yaml").write_text(f"train: {images}\nnc: 2\nnames: [cat, dog]\n")


def write_labelme(root, boxes=BOXES):
    draw_all(root)
    for name, objects in boxes.items():
        shapes = [
            {"label": category, "points": [[x2, y1], [x1, y2]], "shape_type": "rectangle"}
            for category, (x1, y1, x2, y2) in objects
        ]
        width, height = SIZES[name]
        content = {"version": "5", "flags": {}, "shapes": shapes, "imagePath": f"{name}.png",
                   "imageWidth": width, "imageHeight": height}  # fmt: skip
        (root / f"{name}.json").write_text(json.dumps(content))


def write_csv(root, boxes=BOXES, headings="filename,width,height,class,xmin,ymin,xmax,ymax"):
    draw_all(root / "images")
    lines = [headings]
    for name, objects in boxes.items():
        width, height = SIZES[name]
        for category, corners in objects:
            numbers = ",".join(str(v) for v in corners)
            lines.append(f"{name}.png,{width},{height},{category},{numbers}")
        if not objects:
            lines.append(f"{name}.png,{width},{height},,,,,")
    (root / "boxes.csv").write_text("\n".join(lines) + "\n")


WRITERS = {
    "COCO JSON": write_coco,
    "VOC XML": write_voc,
    "YOLO txt": write_yolo,
    "labelme JSON": write_labelme,
    "CSV": write_csv,
}


def plain(*sets):
    """Each image's name and size with its objects' category names and boxes, sorted."""
    found = {}
    for boxes in sets:
        for image in boxes.images:
            objects = sorted(
                (boxes.categories[one.category], tuple(round(v, 6) for v in one.box))
                for one in image.objects
            )
            found[image.path.stem] = ((image.width, image.height), objects)
    return found


EXPECTED = {
    name: (SIZES[name], sorted((c, tuple(map(float, b))) for c, b in objects))
    for name, objects in BOXES.items()
}
