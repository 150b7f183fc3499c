"""Responses are the predictions that the library gives, or problem documents."""

import asyncio
import base64
import functools
import io
import json
import os
import re
import threading
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from resnets.data.images import decode
from resnets.inference.image_inputs import SAMPLES
from resnets.inference.object_detector import is_detector, open_detector
from resnets.inference.predictor import open_predictor
from resnets.serve import bodies, decoding, static_files
from resnets.serve.app import create_app
from resnets.serve.decoding import DecoderPool
from resnets.serve.limits import Limits
from resnets.serve.middleware import Metrics, Names
from resnets.serve.served_detector import ServedDetector
from resnets.serve.served_model import ServedModel
from resnets.support.errors import UserError
from resnets.weights import model_file
from tests.serve.conftest import picture


class Client:
    """Requests to an application in this process."""

    def __init__(self, models, limits=None, token=None, samples=None, names=None):
        self.paths = models
        limits, metrics = limits or Limits(), Metrics()
        decoders = DecoderPool(limits)
        shared = limits, metrics, decoders
        self.served = [
            ServedDetector(path.stem, open_detector(str(path), "torch", "fp32"), *shared)
            if is_detector(str(path))
            else ServedModel(path.stem, open_predictor(str(path), "torch", "fp32"), *shared)
            for path in models
        ]
        samples = samples or static_files.samples_in(SAMPLES)
        self.app = create_app(
            self.served, limits=limits, metrics=metrics, samples=samples, token=token, names=names
        )

    def __call__(self, method, path, **options):
        (answer,) = self.several([(method, path, options)])
        return answer

    def several(self, requests):
        async def run():
            transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                return await asyncio.gather(
                    *(client.request(method, path, **options) for method, path, options in requests)
                )

        for served in self.served:  # a batcher belongs to one event loop
            served.batcher = served.new_batcher()
        return asyncio.run(run())


@pytest.fixture(scope="module")
def client(models):
    return Client(models)


@pytest.fixture(scope="module")
def strict(models):
    return Client(models[:1], Limits(bytes=2_000_000))


def raw(content, kind="application/octet-stream"):
    return {"content": content, "headers": {"content-type": kind}}


@functools.cache
def predictor_of(path):
    return open_predictor(str(path), "torch", "fp32")


def offline(path, content, tmp_path):
    file = tmp_path / "image"
    file.write_bytes(content)
    (found,) = predictor_of(path).predict(file, top=3)
    return found


def names_of(prediction):
    return tuple(entry.name for entry in prediction.top)


def check_problem(answer, status):
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    document = answer.json()
    assert document["status"] == status
    assert document["title"]
    assert document["detail"]
    assert document["instance"] == answer.headers["x-request-id"]
    return document


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize("way", ["raw", "image", "form", "json"])
def test_one_image_gets_the_librarys_prediction(client, models, tmp_path, kind, way):
    content = picture(3, (90, 60), kind)
    body = {
        "raw": raw(content),
        "image": raw(content, f"image/{kind.lower()}; charset=binary"),
        "form": {"files": {"image": ("x", content)}},
        "json": {"json": {"image": base64.b64encode(content).decode()}},
    }[way]
    for path in models:
        answer = client("POST", f"/v1/predict?model={path.stem}&top=3", **body)
        assert answer.status_code == 200, answer.text
        found, expected = answer.json(), offline(path, content, tmp_path)
        assert tuple(one["class"] for one in found["top"]) == names_of(expected)
        chances = [one["probability"] for one in found["top"]]
        np.testing.assert_allclose(chances, [c.probability for c in expected.top], atol=1e-4)
        assert found["image"] == {"width": 90, "height": 60, "format": kind}
        assert set(found["milliseconds"]) == {"decode", "queue", "network", "total"}


def test_many_requests_at_once_get_their_own_predictions(client, models, tmp_path):
    contents = [picture(seed) for seed in range(40)]
    requests = [("POST", "/v1/predict?top=3", raw(content)) for content in contents]
    found = client.several(requests)
    assert max(answer.json()["batch"] for answer in found) > 1
    for content, answer in zip(contents, found, strict=True):
        expected = offline(models[0], content, tmp_path)
        assert tuple(one["class"] for one in answer.json()["top"]) == names_of(expected)


@pytest.mark.parametrize("way", ["form", "json"])
def test_several_images_keep_their_order_and_bad_ones_have_problems(client, models, tmp_path, way):
    contents = [picture(1), b"no image", picture(2), b""]
    body = (
        {"files": [("image", (f"{i}.png", c)) for i, c in enumerate(contents)]}
        if way == "form"
        else {"json": {"images": [base64.b64encode(c).decode() for c in contents]}}
    )
    answer = client("POST", "/v1/predict/batch?top=3", **body)
    assert answer.status_code == 200
    found = answer.json()["answers"]
    for number in (0, 2):
        expected = offline(models[0], contents[number], tmp_path)
        assert tuple(one["class"] for one in found[number]["top"]) == names_of(expected)
    assert found[1]["problem"]["status"] == 422
    assert "not an image" in found[1]["problem"]["detail"]
    assert "empty" in found[3]["problem"]["detail"]


def test_maps_come_with_their_stages_and_the_crop_they_cover(client, models):
    content = picture(5, (100, 60))
    answer = client("POST", "/v1/explain?class=2", **raw(content))
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert found["class"] == "class 2"
    assert [stage["stage"] for stage in found["stages"]] == ["stem", "layer1", "layer2", "layer3"]
    assert [stage["method"] for stage in found["stages"]] == ["grad-cam"] * 3 + ["cam"]
    for stage in found["stages"]:
        assert len(stage["values"]) == stage["height"] * stage["width"]
        assert 0 <= min(stage["values"]) <= max(stage["values"]) <= 1
    crop = found["crop"]
    assert crop["width"] == pytest.approx(60 * 32 / 36, abs=0.2)
    assert crop["left"] + crop["width"] / 2 == pytest.approx(50, abs=1)
    model = model_file.load(str(models[0]))
    pixels = asyncio.run(client.served[0].decode(content)).pixels
    chances = model.network(model.normalize(torch.device("cpu"))(pixels[None])).softmax(1)[0]
    assert found["probability"] == pytest.approx(chances[2].item(), abs=1e-4)
    best = client("POST", "/v1/explain", **raw(content)).json()
    assert best["index"] == int(chances.argmax())
    check_problem(client("POST", "/v1/explain?class=7", **raw(content)), 404)


def test_models_are_described(client):
    first, second = client("GET", "/v1/models").json()["models"]
    assert (first["name"], first["default"], second["default"]) == ("tiny", True, False)
    assert first["classes"] == [f"class {i}" for i in range(7)]
    assert first["runtime"] == "torch fp32"
    assert [stage["shortcut"] for stage in first["stages"]] == ["none", "A", "A", "A"]
    assert [stage["shortcut"] for stage in second["stages"]] == ["none"] * 4
    assert (
        first["stages"][-1] | {"stage": "layer3", "channels": 64, "height": 8}
        == first["stages"][-1]
    )


BROKEN = {
    "empty": (raw(b""), 400),
    "words": (raw(b"just words"), 422),
    "cut": (raw(picture(0)[:60]), 422),
    "no kind": ({"content": picture(0)}, 415),
    "wrong kind": (raw(b"a=1", "text/plain"), 415),
    "no json": (raw(b"{", "application/json"), 400),
    "deep json": (raw(b"[" * 100_000, "application/json"), 400),
    "json list": (raw(b"[1]", "application/json"), 400),
    "json number": (raw(b'{"image": 5}', "application/json"), 400),
    "json address": (raw(b'{"image": "file:///etc/passwd"}', "application/json"), 400),
    "not utf-8": (raw(b'{"image": "\xff"}', "application/json"), 400),
    "huge number": (raw(b'{"image": ' + b"9" * 10_000 + b"}", "application/json"), 400),
    "no boundary": (raw(b"x", "multipart/form-data"), 400),
    "no form": (raw(b"x", "multipart/form-data; boundary=a"), 400),
    "cut form": (
        raw(b'--a\r\nContent-Disposition: form-data; name="i"; filename="i"\r\n\r\nabc',
            "multipart/form-data; boundary=a"), 400),
    "two images": ({"files": [("image", ("a", b"a")), ("image", ("b", b"b"))]}, 400),
    "many fields": (
        {"data": {f"f{i}": "x" for i in range(50)}, "files": {"image": ("a", b"a")}}, 400),
    "many files": ({"files": [("image", (f"{i}", b"a")) for i in range(200)]}, 413),
    "large": (raw(b"x" * 2_000_001), 413),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("route", ["/v1/predict", "/v1/explain"])
def test_bad_bodies_are_problems(strict, route, name):
    client = strict
    body, status = BROKEN[name]
    check_problem(client("POST", route, **body), status)
    assert client.served[0].batcher.accepted == client.served[0].batcher.decoding == 0


_FORM = (
    b"--edge\r\nContent-Disposition: form-data; name=image; filename=a\r\n\r\n%s\r\n--edge--\r\n"
)
WHOLE = {
    "jpeg": raw(picture(6, (40, 30), "JPEG"), "image/jpeg"),
    "png": raw(picture(6), "image/png"),
    "form": raw(_FORM % picture(6), "multipart/form-data; boundary=edge"),
    "json": raw(b'{"image": "%s"}' % base64.b64encode(picture(6)), "application/json"),
    "json list": raw(b'{"images": ["%s"]}' % base64.b64encode(picture(6)), "application/json"),
}


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    changes=st.lists(
        st.tuples(st.floats(0, 1), st.integers(0, 9), st.binary(max_size=6)), min_size=1, max_size=4
    )
)
@pytest.mark.parametrize("name", WHOLE)
def test_damaged_requests_never_give_a_500(strict, name, changes):
    content, headers = WHOLE[name]["content"], WHOLE[name]["headers"]
    for place, drop, put in changes:
        at = int(place * len(content))
        content = content[:at] + put + content[at + drop :]
    paths = ("/v1/predict", "/v1/predict/batch", "/v1/explain")
    for answer in strict.several(
        [("POST", path, {"content": content, "headers": headers}) for path in paths]
    ):
        assert answer.status_code in {200, 400, 413, 415, 422, 503, 504}, answer.text
    assert strict.app.state.shared.bodies.held == 0


def test_undamaged_requests_of_these_kinds_are_predicted(strict):
    for name, request in WHOLE.items():
        path = "/v1/predict/batch" if name == "json list" else "/v1/predict"
        assert strict("POST", path, **request).status_code == 200


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v1/predict?top=abc", 400),
        ("/v1/predict?top=0", 400),
        ("/v1/predict?top=99999999999999999999", 400),
        ("/v1/predict?model=../../etc/passwd", 404),
        ("/v1/predict?model=%00", 404),
        ("/v1/explain?class=-1", 404),
        ("/v1/explain?class=x", 404),
        ("/v1/explain?class=" + "9" * 5000, 404),
        ("/v1/explain?class=%d9%a3", 404),
        ("/v1/nothing", 404),
        ("/samples/../../../etc/passwd", 404),
        ("/page/..%2f..%2fapp.py", 404),
        ("/page//etc/passwd", 404),
    ],
)
def test_bad_addresses_are_problems(client, path, status):
    method = "POST" if path.startswith("/v1") else "GET"
    check_problem(client(method, path, **raw(picture())), status)


@pytest.mark.parametrize(
    "number",
    ["1_0", "+1", "%2B1", "0", "1001", "1.5", "", "%D9%A3", "1e1", " 1", "0x1", "9" * 5000],
)
def test_whole_numbers_are_decimal_digits(client, number):
    for path in ("predict", "explain"):
        answer = client("POST", f"/v1/{path}?top={number}", **raw(picture()))
        problem = check_problem(answer, 400)
        assert problem["detail"].startswith("top: must be a whole number from 1 to 1,000, not '")
        assert problem["hint"] == "digits only"
    assert len(problem["detail"]) < 200


def test_a_class_to_explain_is_named_or_numbered(models, tmp_path):
    model = model_file.load(str(models[0]))
    names = ["3", "cat", "dog", "2", "Cat", "six", "six"]
    card = model_file.make_card("cifar-resnet8", names, {}, [])
    file = tmp_path / "numbers.safetensors"
    model_file.save(file, model.network.state_dict(), model.preprocessing, card)
    client = Client([file])
    for wanted, index in (("3", 3), ("03", 3), ("dog", 2), ("Cat", 4), ("DOG", 2)):
        answer = client("POST", f"/v1/explain?class={wanted}", **raw(picture()))
        assert answer.json()["index"] == index
    for wanted, detail, hint in (
        ("dgo", "no such class: 'dgo'", "dog"),
        ("7", "no such class: '7'", "from 0 to 6"),
        ("six", "several classes have this name: 'six'", "give 5 or 6"),
    ):
        answer = client("POST", f"/v1/explain?class={wanted}", **raw(picture()))
        problem = check_problem(answer, 404)
        assert problem["detail"] == detail
        assert hint in problem["hint"]


def test_a_problem_has_its_hint_and_the_deprecated_key_mend(client):
    problem = check_problem(client("POST", "/v1/predict", **raw(b"")), 400)
    assert problem["hint"] == problem["mend"] == "send an image file"
    images = {"images": ["", base64.b64encode(picture()).decode()]}
    answers = client("POST", "/v1/predict/batch", json=images).json()["answers"]
    assert set(answers[0]["problem"]) == {"type", "title", "status", "detail"}  # it has no hint
    assert set(answers[1]) == {"top", "image"}
    content = picture(0, (200, 300), "BMP")
    strict = Client(client.paths[:1], Limits(pixels=1000))
    images = {"images": [base64.b64encode(content).decode()]}
    (answer,) = strict("POST", "/v1/predict/batch", json=images).json()["answers"]
    assert answer["problem"]["hint"] == answer["problem"]["mend"] == "scale it down first"


def test_the_api_description_marks_mend_as_deprecated(client):
    description = client("GET", "/openapi.json").json()
    fields = description["components"]["schemas"]["ProblemDocument"]["properties"]
    assert fields["mend"]["deprecated"] is True
    assert "hint" in fields["mend"]["description"]
    assert "deprecated" not in fields["hint"]
    responses = description["paths"]["/v1/predict"]["post"]["responses"]
    schema = responses["422"]["content"]["application/problem+json"]["schema"]
    assert schema == {"$ref": "#/components/schemas/ProblemDocument"}


def test_methods_that_do_not_exist_are_problems(client):
    answer = client("GET", "/v1/predict")
    check_problem(answer, 405)
    assert "POST" in answer.headers["allow"]


def test_an_image_of_too_many_pixels_is_refused_by_its_header(models):
    client = Client(models[:1], Limits(pixels=1000))
    detail = check_problem(client("POST", "/v1/predict", **raw(picture(0, (50, 40)))), 422)[
        "detail"
    ]
    assert "50 x 40" in detail
    assert client("POST", "/v1/predict", **raw(picture(0, (25, 40)))).status_code == 200


def test_a_token_is_needed_for_models_but_not_for_health(models):
    client = Client(models[:1], token="sesame")
    for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "sesame"}):
        for method, path in (
            ("GET", "/v1/models"),
            ("POST", "/v1/predict"),
            ("POST", "/v1/explain"),
        ):
            answer = client(method, path, headers=headers)
            check_problem(answer, 401)
            assert answer.headers["www-authenticate"] == "Bearer"
    headers = {"authorization": "Bearer sesame"}
    assert client("GET", "/v1/models", headers=headers).status_code == 200
    assert client("GET", "/healthz").json() == {"status": "ok"}


def test_a_stopping_server_is_not_ready_and_refuses_requests(models):
    client = Client(models[:1])
    assert client("GET", "/readyz").status_code == 200
    client.app.state.shared.stopping = True
    for answer in (client("GET", "/readyz"), client("POST", "/v1/predict", **raw(picture()))):
        check_problem(answer, 503)
        assert int(answer.headers["retry-after"]) >= 1
    assert client("GET", "/healthz").status_code == 200


def test_requests_end_at_the_time_limit(models):
    client = Client(models[:1], Limits(timeout=0.2))
    go = threading.Event()
    network = client.served[0].predictor.runtime
    object.__setattr__(client.served[0].predictor, "runtime", lambda x: go.wait(2) and network(x))
    check_problem(client("POST", "/v1/predict", **raw(picture())), 504)
    go.set()


def test_a_problem_does_not_quote_the_engines_error(models):
    client = Client(models[:1])

    def fail(images):
        raise RuntimeError("secret path /home/me")

    object.__setattr__(client.served[0].predictor, "runtime", fail)
    answer = client("POST", "/v1/predict", **raw(picture()))
    check_problem(answer, 500)
    assert "secret" not in answer.text


def test_files_have_media_types_and_are_not_sent_twice(client):
    page = client("GET", "/")
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'self'" in page.headers["content-security-policy"]
    assert "http://" not in page.text
    assert "https://" not in page.text
    script = client("GET", "/page/main.js")
    assert script.headers["content-type"].startswith("text/javascript")
    again = client("GET", "/page/main.js", headers={"if-none-match": script.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    samples = client("GET", "/v1/samples").json()["samples"]
    assert len(samples) == 10
    assert client("GET", samples[0]["url"]).headers["content-type"] == "image/png"


def test_samples_say_for_which_models_they_are(models):
    client = Client(models[:1], samples=static_files.samples_in(SAMPLES, "classification"))
    samples = client("GET", "/v1/samples").json()["samples"]
    assert {sample["task"] for sample in samples} == {"classification"}


def test_files_are_read_when_the_server_starts(models, tmp_path, monkeypatch):
    (tmp_path / "cat.PNG").write_bytes(picture(1))
    client = Client(models[:1], samples=static_files.samples_in(tmp_path))
    (tmp_path / "cat.PNG").unlink()
    monkeypatch.setattr(Path, "open", lambda *given: pytest.fail("a file was opened"))
    (sample,) = client("GET", "/v1/samples").json()["samples"]
    assert sample["name"] == "cat"
    answer = client("GET", sample["url"])
    assert (answer.content, answer.headers["content-type"]) == (picture(1), "image/png")
    assert client("GET", "/docs").status_code == client("GET", "/").status_code == 200
    monkeypatch.undo()
    (tmp_path / "dog.png").write_bytes(picture(2))
    monkeypatch.setattr(static_files, "MAX_SAMPLE_BYTES", len(picture(2)) - 1)
    with pytest.raises(UserError, match="bytes of images"):
        static_files.samples_in(tmp_path)


def test_metrics_and_the_description_name_the_routes(models):
    client = Client(models[:1])
    client("POST", "/v1/predict", **raw(picture()))
    client("GET", "/somewhere/else")
    text = client("GET", "/metrics").text
    assert 'resnets_requests_total{route="/v1/predict",status="200"} 1.0' in text
    assert 'resnets_requests_total{route="other",status="404"} 1.0' in text
    description = client("GET", "/openapi.json").json()
    predict = description["paths"]["/v1/predict"]["post"]
    assert "image/*" in json.dumps(predict["requestBody"])
    assert {"403", "421"} < set(predict["responses"])
    assert "409" in description["paths"]["/v1/explain"]["post"]["responses"]
    assert description["components"]["schemas"]["ProblemDocument"]["properties"]["hint"]
    assert "security" not in description


def test_the_docs_need_no_other_host_and_can_send_the_token(models):
    client = Client(models[:1], token="secret")
    docs = client("GET", "/docs").text
    files = re.findall(r'(?:href|src)="([^"]*)"', docs)
    assert "page/swagger-ui-bundle.js" in files
    for file in files:
        assert client("GET", f"/{file}").status_code == 200
    description = client("GET", "/openapi.json").json()
    assert description["security"] == [{"token": []}]
    scheme = description["components"]["securitySchemes"]["token"]
    assert scheme == {"type": "http", "scheme": "bearer"}


def test_the_memory_for_bodies_is_bounded_and_released(models):
    client = Client(models[:1], Limits(memory=3000))
    content = picture(0, (300, 300), "JPEG")
    assert len(content) > 3000
    answer = client("POST", "/v1/predict", **raw(content))
    check_problem(answer, 503)
    assert answer.headers["retry-after"] == "1"
    assert client("POST", "/v1/predict", **raw(picture()[:2000])).status_code in (200, 422)
    assert client.app.state.shared.bodies.held == 0


def test_json_of_small_values_is_refused_before_it_grows(client):
    for body in (b"[" + b"{}," * 100_000, b'{"images": [' + b"0," * 100_000 + b"0]}"):
        for path in ("/v1/predict", "/v1/predict/batch"):
            check_problem(client("POST", path, **raw(body, "application/json")), 400)


def test_pages_of_other_sites_are_refused(client):
    body = raw(picture())
    body["headers"]["sec-fetch-site"] = "cross-site"
    check_problem(client("POST", "/v1/predict", **body), 403)
    body["headers"]["sec-fetch-site"] = "same-origin"
    assert client("POST", "/v1/predict", **body).status_code == 200


def test_codecs_that_python_decodes_are_refused(client):
    check_problem(client("POST", "/v1/predict", **raw(b"P3 2 1 255 1 2 3 4 5 6\n")), 422)
    assert client("POST", "/v1/predict", **raw(b"P6 2 1 255\nabcdef")).status_code == 200


def test_large_images_are_decoded_one_after_the_other_with_the_same_answer(models):
    few = Client(models[:1], Limits(large_pixels=100))
    content = picture(4, (300, 200), "JPEG")
    answers = few.several([("POST", "/v1/predict", raw(content))] * 5)
    expected = Client(models[:1])("POST", "/v1/predict", **raw(content)).json()["top"]
    assert [answer.json()["top"][0]["class"] for answer in answers] == [expected[0]["class"]] * 5


def test_decoding_of_abandoned_requests_still_counts_its_memory_and_thread(models, monkeypatch):
    content = picture(1, (300, 300), "BMP")
    client = Client(
        models[:1], Limits(large_pixels=100, memory=int(2.5 * len(content)), timeout=0.2)
    )  # fmt: skip
    go, at_work, most = threading.Event(), [], []

    def slow(*arguments):
        at_work.append(content)
        most.append(len(at_work))
        go.wait(10)
        at_work.pop()
        return decode(*arguments)

    monkeypatch.setattr(decoding, "decode", slow)
    request = ("POST", "/v1/predict", raw(content))
    assert client(*request[:2], **request[2]).status_code == 504
    statuses = [answer.status_code for answer in client.several([request] * 2)]
    assert sorted(statuses) == [503, 504]  # with what is left there is room for one more
    go.set()
    assert client(*request[:2], **request[2]).status_code == 200
    assert most == [1, 1]
    assert client.served[0].decoders.abandoned_bytes() == 0


def test_large_photographs_have_nearly_the_same_pixels_at_a_smaller_scale(client, models):
    file = io.BytesIO()
    y, x = np.mgrid[0:600, 0:800]
    smooth = np.stack([x / 4, y / 3, 99 + 60 * np.sin(x / 40)], 2).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(smooth).save(file, "JPEG", quality=95, exif=exif)
    picture = asyncio.run(client.served[0].decode(file.getvalue()))
    assert picture.properties == {"width": 600, "height": 800, "format": "JPEG"}
    predictor = client.served[0].predictor
    whole = torch.from_numpy(predictor.input_array(decode(file.getvalue(), "")))
    assert (picture.pixels.float() - whole.float()).abs().mean() < 1


def test_a_disconnected_client_frees_its_place_in_the_queue(models):
    client = Client(models[:1])
    served, statuses = client.served[0], []
    go = threading.Event()
    network = served.predictor.runtime
    object.__setattr__(served.predictor, "runtime", lambda x: go.wait(5) and network(x))
    served.batcher = served.new_batcher()
    scope = {
        "type": "http", "method": "POST", "path": "/v1/predict", "raw_path": b"/v1/predict",
        "query_string": b"", "root_path": "", "scheme": "http", "http_version": "1.1",
        "headers": [(b"content-type", b"image/png")], "server": ("test", 80), "asgi": {},
    }  # fmt: skip

    async def run():
        said = asyncio.Queue()
        said.put_nowait(
            {"type": "http.request", "body": picture(0, (400, 400)), "more_body": False}
        )

        async def send(message):
            statuses.append(message.get("status"))

        task = asyncio.create_task(client.app(dict(scope), said.get, send))
        await asyncio.sleep(0.3)
        assert served.batcher.accepted == 1
        said.put_nowait({"type": "http.disconnect"})
        await asyncio.wait_for(task, 2)
        assert served.batcher.accepted == served.batcher.decoding == 0

    asyncio.run(run())
    go.set()
    assert statuses[0] == 499


def test_bearer_is_accepted_in_any_letter_case(models):
    client = Client(models[:1], token="sesame")
    for word in ("Bearer sesame", "bearer  sesame", "BEARER sesame"):
        answer = client("GET", "/v1/models", headers={"authorization": word})
        assert answer.status_code == 200
    for word in ("Bearer", "Bearer ", "Basic sesame", "Bearer sesam\xe9"):
        headers = {"authorization": word.encode("latin-1")}
        check_problem(client("GET", "/v1/models", headers=headers), 401)


def in_json(**keys):
    return raw(json.dumps(keys).encode(), "application/json")


def in_form(files=(), **values):
    return {"data": values, "files": [(name, ("x.png", picture())) for name in files]}


ENCODED = base64.b64encode(picture()).decode()


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        ("/v1/predict", in_json(image=ENCODED, model="flat"), "JSON.*'model'.*URL: .model="),
        ("/v1/predict", in_json(image=ENCODED, top=1), "JSON.*'top'.*URL: .top="),
        ("/v1/predict", in_json(image=ENCODED, Model="flat"), "JSON.*'Model'.*URL: .model="),
        ("/v1/predict", in_json(Image=ENCODED), "'Image'.*did you mean image"),
        ("/v1/predict", in_json(images=[ENCODED]), "'images'.*did you mean image"),
        ("/v1/predict", raw(b'{"image": "a", "image": "b"}', "application/json"), "'image' twice"),
        ("/v1/predict", in_form(["image"], model="flat"), "form.*'model'.*URL: .model="),
        ("/v1/predict", in_form(["image", "model"]), "form.*'model'.*URL: .model="),
        ("/v1/predict", in_form(["photo"]), "form.*'photo'"),
        ("/v1/predict?Model=flat", raw(picture()), "query.*'Model'.*did you mean model"),
        ("/v1/predict?class=1", raw(picture()), "query.*'class'.*known: model, top"),
        ("/v1/predict?k=3", raw(picture()), "query.*'k'"),
        ("/v1/predict?model=tiny&model=flat", raw(picture()), "query has 'model' twice"),
        ("/v1/predict?image=" + "a" * 300, raw(picture()), "'image'.*send images in the body"),
        ("/v1/predict/batch?class=1", in_json(images=[ENCODED]), "query.*'class'"),
        ("/v1/predict/batch", in_json(image=ENCODED), "'image'.*did you mean images"),
        ("/v1/predict/batch", in_json(images=[ENCODED], top=1), "JSON.*'top'"),
        ("/v1/explain?index=1", raw(picture()), "query.*'index'"),
        ("/v1/explain", in_json(image=ENCODED, **{"class": 2}), "'class'.*URL: .class="),
        ("/v1/models?model=tiny", None, "query.*'model'.*leave it out"),
        ("/v1/samples?name=cat", None, "query.*'name'"),
    ],
)
def test_a_key_that_would_be_ignored_is_refused_by_its_name(client, path, body, words):
    answer = client("GET", path) if body is None else client("POST", path, **body)
    problem = check_problem(answer, 400)
    assert re.search(words, f"{problem['detail']}; {problem.get('hint')}")


VALUE = raw(
    b"--edge\r\nContent-Disposition: form-data; name=image\r\n\r\n%s\r\n--edge--\r\n"
    % ENCODED.encode(),
    "multipart/form-data; boundary=edge",
)
PART = raw(
    VALUE["content"]
    .replace(b"name=image", b"name=image; filename=x")
    .replace(b"\r\n\r\n", b"\r\nContent-Transfer-Encoding: base64\r\n\r\n", 1),
    VALUE["headers"]["content-type"],
)
CONTENT = bytes(range(256)) * 3  # its base64 has + and / and padding
CONTENT += b"!"


@pytest.mark.parametrize(
    "text",
    [
        base64.b64encode(CONTENT).decode(),
        base64.encodebytes(CONTENT).decode(),
        base64.b64encode(CONTENT).decode().rstrip("="),
        base64.urlsafe_b64encode(CONTENT).decode(),
        base64.urlsafe_b64encode(CONTENT).decode().rstrip("=") + "\r\n",
        "data:image/png;base64," + base64.b64encode(CONTENT).decode(),
        "DATA:;Base64," + base64.encodebytes(CONTENT).decode(),
        " data:image/png;name=x.png;base64," + base64.urlsafe_b64encode(CONTENT).decode(),
    ],
)
def test_base64_of_every_usual_spelling_is_read(text):
    assert bodies._decoded(text, "image") == CONTENT


def test_base64_in_unescaped_lines_and_in_data_urls_is_predicted(client):
    lines = base64.encodebytes(picture())
    for text in (lines, b"data:image/png;base64," + lines):
        body = raw(b'{"image": "' + text + b'"}', "application/json")
        assert client("POST", "/v1/predict", **body).status_code == 200
    images = {"images": ["data:image/png;base64," + ENCODED] * 64}
    assert client("POST", "/v1/predict/batch", json=images).status_code == 200


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("/v1/predict", in_json(image="https://x.example/a.png"), 400, "opens no URLs"),
        ("/v1/predict", in_json(image="data:image/svg+xml,%3Csvg"), 400, "without base64"),
        ("/v1/predict/batch", in_json(images=[ENCODED, "%"]), 400, r"images\[1\] is not base64"),
        ("/v1/predict", VALUE, 400, "not a file.*curl: -F image=@"),
        ("/v1/predict", in_form(["image"], image=ENCODED), 400, "not a file.*curl: -F image=@"),
        ("/v1/predict", in_form(["x"], image="a" * 70_000), 400, "not a file.*curl: -F image=@"),
        ("/v1/predict", PART, 415, "transfer encoding 'base64'.*send the file as it is"),
        ("/v1/predict", {"data": {"image": ENCODED}}, 415, "urlencoded.*curl: -F image=@"),
        ("/v1/predict", raw(b"data:image/png;base64,AAAA", "image/png"), 400, "data URL.*image"),
        ("/v1/predict/batch", raw(picture(), "image/png"), 415, "image/png.*send multipart"),
    ],
)
def test_images_sent_in_another_way_get_a_hint_that_fits(client, path, body, status, words):
    problem = check_problem(client("POST", path, **body), status)
    assert re.search(words, f"{problem['detail']}; {problem.get('hint')}")


@pytest.mark.parametrize("coding", ["gzip", "x-gzip", "br", "identity, deflate", "GZIP"])
@pytest.mark.parametrize("path", ["/v1/predict", "/v1/predict/batch", "/v1/explain"])
def test_a_compressed_body_is_refused_with_the_reason(client, path, coding):
    for name, request in WHOLE.items():
        if "batch" in path and name in ("jpeg", "png"):
            continue
        headers = {**request["headers"], "content-encoding": coding}
        answer = client("POST", path, content=request["content"], headers=headers)
        assert coding in check_problem(answer, 415)["detail"]
        assert answer.headers["accept-encoding"] == "identity"
    body = {"content": picture(), "headers": {"content-type": "image/png"}}
    body["headers"]["content-encoding"] = "identity"
    assert client("POST", "/v1/predict", **body).status_code == 200


def test_two_content_types_are_refused(client):
    headers = [("content-type", "image/png"), ("content-type", "application/json")]
    answer = client("POST", "/v1/predict", content=picture(), headers=headers)
    assert "2 Content-Type" in check_problem(answer, 400)["detail"]


GETS = (
    "/", "/docs", "/openapi.json", "/page/main.js", "/favicon.ico", "/samples/0.png", "/v1/models",
    "/v1/samples", "/healthz", "/readyz", "/metrics",
)  # fmt: skip


@pytest.mark.parametrize("path", GETS)
def test_head_gets_the_headers_of_get(client, path):
    get, head = client("GET", path), client("HEAD", path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-type"] == get.headers["content-type"]
    if path != "/metrics":  # they count the first request
        assert head.headers["content-length"] == str(len(get.content))
    answer = client("POST", path)
    check_problem(answer, 405)
    assert set(answer.headers["allow"].split(", ")) == {"GET", "HEAD"}


def test_head_of_what_is_not_there_is_like_get(client):
    for path, status in (("/nothing", 404), ("/v1/predict", 405)):
        answer = client("HEAD", path)
        assert (answer.status_code, answer.content) == (status, b"")


@pytest.mark.parametrize("path", [path + "/" for path in GETS[1:]] + ["/v1/predict/"])
def test_a_slash_at_the_end_leads_nowhere_else(client, path):
    problem = check_problem(client("GET", path), 404)
    assert problem.get("hint") == "leave out the slash at the end" or path == "/page/main.js/"


def test_pages_of_an_allowed_origin_may_send_requests(models):
    site = "https://photos.example"
    client = Client(models[:1], token="sesame", names=Names(origins=[site]))
    sent = {"origin": site, "sec-fetch-site": "cross-site"}
    ask = {
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type",
    }
    answer = client("OPTIONS", "/v1/predict", headers={**sent, **ask})
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == site
    allowed = answer.headers["access-control-allow-headers"].lower()
    assert {"authorization", "content-type"} <= set(allowed.split(", "))
    headers = {**sent, "content-type": "image/png", "authorization": "Bearer sesame"}
    answer = client("POST", "/v1/predict", content=picture(), headers=headers)
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == site
    assert "Retry-After" in answer.headers["access-control-expose-headers"]
    answer = client("POST", "/v1/predict", content=picture(), headers=sent)
    check_problem(answer, 401)  # and the page can read it
    assert answer.headers["access-control-allow-origin"] == site
    other = {**headers, "origin": "https://evil.example"}
    answer = client("POST", "/v1/predict", content=picture(), headers=other)
    assert "--allow-origin" in check_problem(answer, 403)["hint"]
    assert "access-control-allow-origin" not in answer.headers


def test_no_other_origin_is_allowed_by_default(client):
    headers = {"origin": "https://photos.example", "access-control-request-method": "POST"}
    check_problem(client("OPTIONS", "/v1/predict", headers=headers), 405)
    answer = client("GET", "/v1/models", headers=headers)
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_below_a_path_everything_has_its_address(models):
    client = Client(models[:1], names=Names(hosts=["test"], root_path="/photos/all"))
    for prefix in ("", "/photos/all"):  # the proxy may remove it or not
        for path in GETS:
            assert client("GET", prefix + path).status_code == 200
        answer = client("POST", f"{prefix}/v1/predict", **raw(picture()))
        assert answer.status_code == 200
        assert answer.headers["cache-control"] == "no-store"
        probe = client("GET", f"{prefix}/healthz", headers={"host": "10.1.2.3"})
        assert probe.status_code == 200
    check_problem(client("GET", "/photos/allv1/models"), 404)
    samples = client("GET", "/v1/samples").json()["samples"]
    assert samples[0]["url"] == "/photos/all/samples/0.png"
    assert client("GET", "/openapi.json").json()["servers"] == [{"url": "/photos/all"}]
    answer = client("GET", "/photos/all")
    assert answer.is_redirect
    assert str(answer.next_request.url) == "http://test/photos/all/"
    assert answer.headers["location"] == "all/"  # whatever scheme the proxy has
    for path in ("/", "/docs"):
        links = re.findall(r'(?:href|src)="([^"]*)"', client("GET", path).text)
        assert links
        assert not [link for link in links if link.startswith(("/", "http"))]


def test_names_that_are_not_utf8_do_not_stop_the_server(models, tmp_path):
    (tmp_path / os.fsdecode(b"\xff<b>\n.png")).write_bytes(picture(1))
    model = model_file.load(str(models[0]))
    names = ["\udcff", "two\nlines", "<b>", "e\u0301", "", "\ud800", "f"]
    card = model_file.make_card("cifar-resnet8", names, {}, [])
    odd = tmp_path / "odd.safetensors"
    model_file.save(odd, model.network.state_dict(), model.preprocessing, card)
    client = Client([odd], samples=static_files.samples_in(tmp_path))
    sent = ["\\udcff", *names[1:5], "\\ud800", "f"]
    assert client("GET", "/v1/models").json()["models"][0]["classes"] == sent
    top = client("POST", "/v1/predict?top=7", **raw(picture())).json()["top"]
    assert {one["index"]: one["class"] for one in top} == dict(enumerate(sent))
    answer = client("POST", "/v1/explain?class=5", **raw(picture()))
    assert answer.json()["class"] == "\\ud800"
    (sample,) = client("GET", "/v1/samples").json()["samples"]
    assert sample["name"] == "\\udcff<b>\n"
    assert client("GET", sample["url"]).status_code == 200
