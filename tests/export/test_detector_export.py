"""Exports of detectors find what their sources find, in images of any size."""

import functools
import json
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from resnets.data.boxes.rescaling import Rescaling
from resnets.data.preprocessing import imagenet
from resnets.detection import model as detector_model
from resnets.detection.metrics.detections import Detections
from resnets.export import detector_export, detector_parity, exporter, int8
from resnets.export.calibration import CalibrationOptions
from resnets.export.options import ExportOptions
from resnets.inference import deployable_detector, export_folder
from resnets.inference.deployable_detector import DeployableDetector
from resnets.inference.object_detector import open_detector
from resnets.inference.predictor import open_predictor
from resnets.support.errors import UserError
from tests.detection import shapes
from tests.detection.files import coco_folder, noisy_blocks, save_detector
from tests.export.conftest import skip_without_packages

SIZES = [(48, 40), (80, 7), (33, 97), (300, 200)]
"""Width and height; the last is scaled down."""


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    return save_detector(tmp_path_factory.mktemp("detector") / "mine.safetensors")


@pytest.fixture(scope="module")
def finder_of_masks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("masks")
    return save_detector(folder / "mine.safetensors", masks=True)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return coco_folder(tmp_path_factory.mktemp("boxes"))


@pytest.fixture(scope="module")
def detector_exports(detector, finder_of_masks, tmp_path_factory):
    """The float32 export for an engine, made once; tests must not change it. For ONNX, whose
    exports take long, always with masks."""
    made = {}

    def get(engine, masks=False):
        skip_without_packages(engine)
        masks |= engine == "onnx"
        if (engine, masks) not in made:
            source = finder_of_masks if masks else detector
            made[engine, masks] = tmp_path_factory.mktemp("exports") / "out"
            exporter.export(str(source), made[engine, masks], ExportOptions(engine=engine))
        return made[engine, masks]

    return get


def images():
    return [noisy_blocks(size, seed) for seed, size in enumerate(SIZES)]


def source_of(path):
    model, cpu = detector_model.load(str(path)), torch.device("cpu")
    return list(detector_model.detect(model.network, images(), model.normalize(cpu), cpu, "fp32"))


def check_same(found, wanted):
    assert sum(map(len, wanted)) > 10
    for a, b in zip(found, wanted, strict=True):
        assert len(a) == len(b)
        for i, j in (pairs := detector_parity.pair(a, b)):
            np.testing.assert_allclose(a.boxes[i], b.boxes[j], atol=0.05)
            np.testing.assert_allclose(a.scores[i], b.scores[j], atol=1e-4)
        assert len(pairs) == len(a)


@pytest.mark.parametrize("engine", ["openvino", "onnx"])
def test_an_export_finds_what_its_source_finds(detector_exports, detector, engine):
    opened = open_detector(str(detector_exports(engine)))
    check_same(list(opened.detect(images())), source_of(detector))
    for size in ((1, 1), (1, 90), (500, 2)):
        (found,) = opened.detect([Image.new("RGB", size, "orange")])
        assert (found.boxes >= 0).all()
        assert (found.boxes <= [*size, *size]).all()
    assert opened.engine.name == f"{engine} fp32"
    assert opened.classes == list(shapes.CATEGORIES)


@pytest.mark.parametrize("engine", ["openvino", "onnx"])
def test_an_export_of_masks_finds_its_sources_masks(detector_exports, finder_of_masks, engine):
    folder = detector_exports(engine, masks=True)
    config = json.loads((folder / "config.json").read_bytes())
    assert config["outputs"]["masks"]["shape"] == ["detections", 14, 14]
    assert all(0 <= case["mask"] < 0.1 for case in config["parity"])
    assert config["parity"][0]["mask"] > 0
    assert "`masks` (k, 14, 14)" in (folder / "README.md").read_text()
    opened = open_detector(str(folder))
    found, wanted = list(opened.detect(images())), source_of(finder_of_masks)
    check_same(found, wanted)
    for a, b in zip(found, wanted, strict=True):
        assert a.masks.shape == (len(a), 14, 14)
        for i, j in detector_parity.pair(a, b):
            np.testing.assert_allclose(a.masks[i], b.masks[j], atol=1e-3)
    (nothing,) = opened.predict([images()[0]], score=1.0)
    assert nothing.objects == []
    (some,) = opened.predict([images()[0]], score=0.35)
    assert some.objects[0].mask.shape == (40, 48)


def test_masks_that_differ_are_refused():
    boxes, scores = np.array([[3.0, 3, 20, 20]], np.float32), np.array([0.9], np.float32)
    one, other = (
        Detections(boxes, scores, np.zeros(1, int), np.full((1, 14, 14), value, np.float32))
        for value in (0.5, 0.53)
    )
    made = detector_parity.compare("x", [one], [other], shapes.settings())
    assert not made.passes
    with pytest.raises(UserError, match=r"masks by 0\.03"):
        detector_parity.check([made], "onnx fp32", "")


def test_an_export_has_thresholds_of_its_own(detector_exports):
    opened = open_detector(str(detector_exports("openvino")))  # score 0.3, nms 0.4
    found = opened.predict(images(), 0.4, limit=3)
    every = opened.predict(images(), 0.3)
    for few, all_of_them in zip(found, every, strict=True):
        assert few.objects == [one for one in all_of_them.objects if one.score > 0.4][:3]
    for changes in ({"score": 0.2}, {"nms": 0.5}, {"limit": 1000}):
        with pytest.raises(UserError, match=r"this export's .*; take the model that was exported"):
            opened.predict(images(), **changes)


@pytest.mark.parametrize("engine", ["openvino", "onnx"])
def test_an_export_says_what_it_is(detector_exports, engine):
    folder = detector_exports(engine)
    config = json.loads((folder / "config.json").read_bytes())
    assert config["task"] == "detection"
    assert config["input"]["shape"] == [1, 3, "height", "width"]
    assert {case["about"] for case in config["parity"]} >= {"parts of odd sizes"}
    assert set(config["speed"]["milliseconds"]) == {"torch fp32", f"{engine} fp32"}
    card = (folder / "README.md").read_text()
    for part in ("pipeline_tag: object-detection", "2 categories: red, green", "IoU of 0.4"):
        assert part in card
    with pytest.raises(UserError, match="is a detector, not a classifier"):
        open_predictor(str(folder))
    with pytest.raises(UserError, match="an export cannot search with box refinement"):
        open_detector(str(folder)).improved(refine=True)
    with pytest.raises(UserError, match="an export cannot be in an ensemble"):
        open_detector(str(folder), ensemble_with=["other"])
    with pytest.raises(UserError, match=f"this export is for {engine}, not torch"):
        open_detector(str(folder), "torch")
    again = export_folder.source_of(str(folder))
    assert detector_model.is_detector(str(again))


def test_the_onnx_file_has_named_axes(detector_exports):
    onnx = pytest.importorskip("onnx")
    graph = onnx.load(detector_exports("onnx") / "model.onnx").graph
    shapes = {one.name: [dim.dim_param or dim.dim_value for dim in one.type.tensor_type.shape.dim]
              for one in (*graph.input, *graph.output)}  # fmt: skip
    assert shapes == {
        "images": [1, 3, "height", "width"], "boxes": ["detections", 4],
        "scores": ["detections"], "categories": ["detections"], "masks": ["detections", 14, 14],
    }  # fmt: skip


def test_int8_tells_its_average_precision(finder_of_masks, data, tmp_path):
    skip_without_packages("openvino", "nncf", "faster_coco_eval")
    options = ExportOptions(
        engine="openvino", precision="int8", calibrate=str(data), max_loss=100, limit=10
    )
    config = exporter.export(str(finder_of_masks), tmp_path / "out", options)
    tested = config["accuracy"]
    assert tested["images"] == 4
    assert {"AP_before", "AP_after", "AP50_before", "AP50_after", "points_lost"} <= set(tested)
    assert config["calibrated_with"].startswith("10 training images")
    network = (tmp_path / "out" / "model.xml").read_text()
    assert network.count("FakeQuantize") > 10
    opened = open_detector(str(tmp_path / "out"))
    assert opened.engine.name == "openvino int8"
    found = list(opened.detect(images()))
    assert [one.masks.shape for one in found] == [(len(one), 14, 14) for one in found]
    assert {"mask_AP_before", "mask_AP50_after"} <= set(tested)


def test_too_great_a_loss_of_precision_is_refused(
    detector_exports, detector, data, tmp_path, monkeypatch
):
    skip_without_packages("openvino", "faster_coco_eval")
    made = detector_exports("openvino")

    def copy(_, file, **options):  # a conversion takes seconds
        for name in ("model.xml", "model.bin"):
            shutil.copy(made / name, file.parent / name)

    monkeypatch.setattr(detector_export.detector_file, "write", copy)
    numbers = iter([{"AP": 0.5, "AP50": 0.8}, {"AP": 0.48, "AP50": 0.8}])

    class Result:
        @property
        def numbers(self):
            return next(numbers)

    monkeypatch.setattr(detector_export.coco, "evaluate", lambda boxes, found: Result())
    options = ExportOptions(engine="openvino", test=str(data))
    with pytest.raises(UserError, match=r"loses 2\.00 points of AP .* more than 1"):
        exporter.export(str(detector), tmp_path / "out", options)
    assert list(tmp_path.iterdir()) == []


def test_unknown_categories_are_refused(detector, data, tmp_path):
    other = tmp_path / "other"
    coco_folder(other)
    for file in other.glob("*.json"):
        file.write_text(file.read_text().replace('"green"', '"blue"'))
    skip_without_packages("openvino")
    with pytest.raises(UserError, match="does not know the category 'blue'"):
        exporter.export(
            str(detector), tmp_path / "out", ExportOptions(engine="openvino", test=str(other))
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engine": "torch-export"}, "to openvino and onnx only"),
        ({"engine": "onnx", "dense": True}, "takes images of any size"),
        ({"engine": "onnx", "precision": "bf16"}, "too coarse in bf16"),
    ],
)
def test_what_detectors_do_not_have_is_refused(detector, tmp_path, options, message):
    skip_without_packages(options["engine"])
    with pytest.raises(UserError, match=message):
        exporter.export(str(detector), tmp_path / "out", ExportOptions(**options))


@pytest.mark.parametrize("engine", ["openvino", "onnx"])
def test_an_export_with_roi_pooling_and_context_finds_the_same(tmp_path, engine):
    skip_without_packages(engine)
    path = save_detector(tmp_path / "max.safetensors", pool="max", context=True, score=0.2)
    exporter.export(str(path), tmp_path / "out", ExportOptions(engine=engine))
    opened = open_detector(str(tmp_path / "out"))
    check_same(list(opened.detect(images())), source_of(path))
    for size in ((1, 1), (1, 90), (500, 2)):  # where regions may have no cell
        (found,) = opened.detect([Image.new("RGB", size, "orange")])
        assert (found.boxes <= [*size, *size]).all()


def test_the_module_that_is_exported_finds_the_same(detector):
    model = detector_model.load(str(detector))
    one = DeployableDetector(model.network, model.preprocessing)
    scale = detector_model.rescaling(model.network.settings)
    found = []
    for image in images():
        scaled = scale.apply(image)
        pixels = torch.from_numpy(np.array(scaled)).permute(2, 0, 1)[None]
        with torch.no_grad():
            boxes, scores, categories = (output.numpy() for output in one(pixels))
        factors = np.array([image.width / scaled.width, image.height / scaled.height] * 2)
        found.append(Detections((boxes * factors).astype(np.float32), scores, categories))
    check_same(found, source_of(detector))


sides = st.integers(1, 400)


@functools.cache
def deployable():
    return DeployableDetector(shapes.detector(size=40, max_size=80), imagenet())


@settings(max_examples=25, deadline=None)
@given(sides, sides)
def test_images_are_scaled_as_pillow_does(width, height):
    wanted = Rescaling(40, 80).scaled(width, height)
    scaled = deployable().scaled(height, width)[::-1]
    assert np.abs(np.subtract(scaled, wanted)).max() <= 1  # exact halves may be rounded up
    pixels = np.random.default_rng(width).integers(0, 256, (height, width, 3), np.uint8)
    x = torch.from_numpy(pixels).permute(2, 0, 1).float()
    rows, _ = deployable_detector.resampling(height, scaled[1], scaled[1])
    columns, _ = deployable_detector.resampling(width, scaled[0], scaled[0])
    found = torch.floor(rows @ torch.floor(x @ columns.T + 0.5) + 0.5).permute(1, 2, 0).numpy()
    shown = Image.fromarray(pixels).resize(scaled, Image.Resampling.BILINEAR)
    assert np.abs(found - np.asarray(shown)).max() <= 1


def found(*rows):
    boxes = np.array([row[0] for row in rows], np.float32).reshape(-1, 4)
    scores = np.array([row[1] for row in rows], np.float32)
    return Detections(boxes, scores, np.array([row[2] for row in rows], np.int64))


LIMITS = shapes.settings(score=0.05, nms=0.5, detections=100)


def compared(a, b):
    return detector_parity.compare("images", [a], [b], LIMITS)


def test_detections_are_paired_by_category_and_overlap():
    a = found(([0, 0, 10, 10], 0.9, 0), ([0, 0, 10, 10], 0.8, 1))
    b = found(([0, 0, 10, 10.2], 0.8005, 1), ([0, 0.3, 10, 10], 0.9, 0))
    one = compared(a, b)
    assert one.passes
    assert one.pixels == pytest.approx(0.3, abs=1e-5)
    assert one.score == pytest.approx(0.0005, abs=1e-5)


@pytest.mark.parametrize(
    ("change", "passes"),
    [
        (([0, 0, 10, 10.6], 0.9, 0), False),
        (([0, 0, 10, 10], 0.902, 0), False),
        (([0, 0, 10, 10], 0.9, 1), False),
        (([0, 0, 10, float("nan")], 0.9, 0), False),
        (([0, 0, 10, 10], float("nan"), 0), False),
        (([0, 0, 10, 10.4], 0.9009, 0), True),
    ],
)
def test_differences_beyond_the_tolerance_do_not_pass(change, passes):
    one = compared(found(([0, 0, 10, 10], 0.9, 0)), found(change))
    assert one.passes is passes
    if not passes:
        with pytest.raises(UserError, match="differs from its source on images"):
            detector_parity.check([one], "engine", "")


def test_detections_that_rounding_decides_about_may_be_missing():
    kept = ([0, 0, 10, 10], 0.9, 0)
    low = ([50, 50, 60, 60], 0.0505, 0)
    beside = ([0, 0, 10, 5.02], 0.6, 0)  # overlaps by the limit of NMS
    apart = ([50, 50, 60, 60], 0.6, 0)
    for extra, alone in ((low, 0), (beside, 0), (apart, 1)):
        for pair in ((found(kept, extra), found(kept)), (found(kept), found(kept, extra))):
            one = compared(*pair)
            assert (one.alone, one.at_limit) == (alone, 1 - alone)


def test_a_classifier_is_no_detector(source):
    with pytest.raises(UserError, match="is a classifier, not a detector"):
        open_detector(str(source))


def test_a_detector_has_no_int8_file(detector, data):
    skip_without_packages("openvino", "nncf")
    options = CalibrationOptions(calibrate=str(data))
    with pytest.raises(UserError, match="runs in int8 as an export"):
        int8.quantize(str(detector), options, print)


@pytest.mark.parametrize("engine", ["openvino", "onnx"])
def test_a_detector_may_lie_in_a_folder_whose_name_is_not_utf_8(detector_exports, tmp_path, engine):
    out, odd = detector_exports(engine), tmp_path / "\udcff"
    shutil.copytree(out, odd)
    first, second = (open_detector(str(folder)).predict(images()[:1])[0] for folder in (out, odd))
    assert [one.score for one in first.objects] == [one.score for one in second.objects]
