"""Detectors over HTTP: objects in images, beside classifiers."""

import base64
import io
import threading
import urllib.request

import numpy as np
import pytest
from PIL import Image

from resnets.inference.object_detector import open_detector
from resnets.serve.limits import Limits
from tests.detection.files import noisy_blocks, save_detector
from tests.serve.conftest import picture
from tests.serve.test_routes import Client, check_problem, raw


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    return save_detector(tmp_path_factory.mktemp("detectors") / "finder.safetensors", score=0.05)


@pytest.fixture(scope="module")
def client(models, detector):
    return Client([models[0], detector])


def blocks(size=(90, 60), kind="PNG"):
    file = io.BytesIO()
    noisy_blocks(size).save(file, kind)
    return file.getvalue()


def offline(path, content):
    image = Image.open(io.BytesIO(content)).convert("RGB")
    (found,) = open_detector(str(path), "torch", "fp32").detect([image])
    return found


@pytest.mark.parametrize("way", ["raw", "form", "json"])
def test_an_image_gets_the_librarys_objects(client, detector, way):
    content = blocks()
    body = {
        "raw": raw(content),
        "form": {"files": {"image": ("x", content)}},
        "json": {"json": {"image": base64.b64encode(content).decode()}},
    }[way]
    answer = client("POST", "/v1/detect?score=0", **body)
    assert answer.status_code == 200, answer.text
    found, expected = answer.json(), offline(detector, content)
    assert len(expected) > 3
    assert found["model"] == "finder"
    assert found["image"] == {"width": 90, "height": 60, "format": "PNG"}
    assert set(found["milliseconds"]) == {"decode", "queue", "network", "total"}
    np.testing.assert_allclose([one["box"] for one in found["objects"]], expected.boxes, atol=0.01)
    scores = [one["score"] for one in found["objects"]]
    np.testing.assert_allclose(scores, expected.scores, atol=1e-5)
    assert [one["index"] for one in found["objects"]] == expected.categories.tolist()
    assert {one["category"] for one in found["objects"]} <= {"red", "green"}


def test_score_and_limit_choose_the_best(client):
    whole = client("POST", "/v1/detect?score=0", **raw(blocks())).json()["objects"]
    middle = whole[len(whole) // 2]["score"]
    some = client("POST", f"/v1/detect?score={middle - 1e-9}", **raw(blocks())).json()["objects"]
    assert some == [one for one in whole if one["score"] >= middle - 1e-9]
    assert (
        client("POST", "/v1/detect?score=0&limit=2", **raw(blocks())).json()["objects"] == whole[:2]
    )
    for query in (
        "score=1.1",
        "score=x",
        "score=nan",
        "score=1_0",
        "score=-0",
        "limit=1_0",
        "limit=0",
        "limit=2000",
        "top=3",
        "skore=1",
    ):
        check_problem(client("POST", f"/v1/detect?{query}", **raw(blocks())), 400)


def test_an_image_without_objects_has_none(client):
    file = io.BytesIO()
    Image.new("RGB", (57, 41)).save(file, "PNG")
    answer = client("POST", "/v1/detect?score=0.99999", **raw(file.getvalue()))
    assert answer.json()["objects"] == []


def test_boxes_are_in_pixels_of_the_upright_image(client):
    pixels = Image.open(io.BytesIO(blocks((900, 600), "JPEG")))
    upright, turned = io.BytesIO(), io.BytesIO()
    pixels.save(upright, "JPEG", quality=95)
    exif = Image.Exif()
    exif[0x0112] = 8
    pixels.transpose(Image.Transpose.ROTATE_270).save(turned, "JPEG", quality=95, exif=exif)
    answers = [client("POST", "/v1/detect?score=0", **raw(one.getvalue())).json()
               for one in (upright, turned)]  # fmt: skip
    for one in answers:
        assert (one["image"]["width"], one["image"]["height"]) == (900, 600)
        corners = np.array([found["box"] for found in one["objects"]])
        assert (corners >= 0).all()
        assert (corners[:, [0, 2]] <= 900).all()
        assert (corners[:, [1, 3]] <= 600).all()


def test_a_model_of_another_task_names_its_route(client):
    problem = check_problem(client("POST", "/v1/detect?model=tiny", **raw(picture())), 400)
    assert (problem["detail"], problem["hint"]) == (
        "tiny is a classifier", "send images to /v1/predict"
    )  # fmt: skip
    for route in ("predict", "explain"):
        problem = check_problem(client("POST", f"/v1/{route}?model=finder", **raw(picture())), 400)
        assert problem["detail"] == "finder is a detector"
        assert problem["hint"] == "send images to /v1/detect"
    check_problem(client("POST", "/v1/detect?model=none", **raw(picture())), 404)


def test_without_a_name_a_route_takes_the_first_model_of_its_task(client, models, detector):
    assert client("POST", "/v1/detect", **raw(blocks())).json()["model"] == "finder"
    assert client("POST", "/v1/predict", **raw(blocks())).json()["model"] == "tiny"
    only = Client([detector])
    assert check_problem(only("POST", "/v1/predict", **raw(blocks())), 400)["hint"].endswith(
        "detect"
    )


def test_the_list_of_models_tells_tasks(client):
    classifier, detector = client("GET", "/v1/models").json()["models"]
    assert (classifier["task"], detector["task"]) == ("classification", "detection")
    assert classifier["default"]
    assert detector["default"]
    assert (detector["name"], detector["network"]) == ("finder", "cifar-resnet8")
    assert detector["classes"] == ["red", "green"]
    assert detector["explains"] is False
    assert detector["size"] == 40


@pytest.mark.parametrize("content", [b"", b"not an image", blocks()[:200]])
def test_broken_images_are_refused(client, content):
    check_problem(client("POST", "/v1/detect", **raw(content)), 422 if content else 400)


def test_limits_hold_for_detectors_too(detector):
    small = Client([detector], Limits(pixels=1000, bytes=20_000))
    check_problem(small("POST", "/v1/detect", **raw(blocks())), 422)
    check_problem(small("POST", "/v1/detect", **raw(b"x" * 30_000)), 413)


def test_many_requests_at_once_get_their_own_objects(client, detector):
    contents = [blocks((40 + 5 * i, 60)) for i in range(8)]
    found = client.several([("POST", "/v1/detect?score=0", raw(one)) for one in contents])
    for content, answer in zip(contents, found, strict=True):
        expected = offline(detector, content)
        assert len(answer.json()["objects"]) == len(expected)
        assert answer.json()["image"]["width"] == Image.open(io.BytesIO(content)).width
    metrics = client("GET", "/metrics").text
    assert 'resnets_images_total{model="finder"}' in metrics
    assert 'resnets_requests_total{route="/v1/detect",status="200"}' in metrics


def test_the_api_description_has_the_route(client):
    route = client("GET", "/openapi.json").json()["paths"]["/v1/detect"]["post"]
    assert [one["name"] for one in route["parameters"]] == ["model", "score", "limit"]
    assert "image/*" in route["requestBody"]["content"]


def test_a_server_opens_detectors_and_classifiers(models, detector):
    from resnets.serve import server

    found, ready = [], threading.Event()

    def note(where):
        found.append(where)
        ready.set()

    options = server.ServerOptions(
        [str(detector), str(models[0])], port=0, runtime="torch", precision="fp32"
    )
    threading.Thread(target=server.serve, args=(options, "cpu", note), daemon=True).start()
    assert ready.wait(60)
    request = urllib.request.Request(
        f"{found[0]}/v1/detect?score=0", blocks(), {"Content-Type": "image/png"}
    )
    with urllib.request.urlopen(request) as answer:
        assert answer.status == 200


def test_masks_are_polygons_in_pixels_of_the_image(detector, tmp_path):
    found = Client([save_detector(tmp_path / "shapes.safetensors", masks=True, score=0.05)])
    content = blocks()
    answer = found("POST", "/v1/detect?score=0", **raw(content)).json()["objects"]
    plain = Client([detector])("POST", "/v1/detect?score=0", **raw(content)).json()["objects"]
    image = Image.open(io.BytesIO(content)).convert("RGB")
    (wanted,) = open_detector(str(tmp_path / "shapes.safetensors"), "torch", "fp32").predict(
        [image], score=0.05
    )
    assert len(answer) == len(wanted.objects) > 3
    for one, box_only, object_ in zip(answer, plain, wanted.objects, strict=True):
        assert {**box_only, "polygons": one["polygons"]} == one
        np.testing.assert_allclose(one["polygons"][0], object_.polygons[0], atol=0.02)
        xs, ys = one["polygons"][0][::2], one["polygons"][0][1::2]
        x1, y1, x2, y2 = one["box"]
        assert x1 - 0.01 <= min(xs) < max(xs) <= x2 + 0.01
        assert y1 - 0.01 <= min(ys) < max(ys) <= y2 + 0.01
