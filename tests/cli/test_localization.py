"""Training, testing and use of localizers from the command line, on a folder laid out as ILSVRC."""

import json

import pytest

from resnets.inference.object_detector import open_detector
from resnets.support.errors import UserError
from tests.detection.localization import WNIDS as CLASSES
from tests.detection.localization import classifier, ilsvrc_folder

SETTINGS = (
    "photos.size=32", "photos.resize=1.0", "localization.anchors=[12,24]", "batch=8", "epochs=none",
    "iterations=3", "test_every=3", "schedule.warmup=0", "log_every=1", "precision=fp32",
)  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    return ilsvrc_folder(tmp_path / "ilsvrc")


def test_a_localizer_is_trained_tested_and_used(resnets, folder, tmp_path, cache):
    init, run = classifier(tmp_path / "init.safetensors", CLASSES), tmp_path / "run"
    settings = [word for setting in SETTINGS for word in ("--set", setting)]
    command = ("train", "localize-small", "--data", folder, "--init", init, "--out", run, *settings)
    code, text, error = resnets(*command)
    assert code == 0, error
    assert "24 to train, 12 to test, 6 classes" in text
    assert "localization error" in text
    assert f" detect {run} photo.jpg" in text
    assert (run / "curve.png").exists()

    code, text, _ = resnets("eval", run, folder)
    assert code == 0
    lines = [line.partition(":")[0] for line in text.splitlines() if "95 % interval" in line]
    assert lines == [
        "classification error", "top-5 classification error", "localization error, class given",
        "localization error", "top-5 localization error",
    ]  # fmt: skip
    facts = json.loads(resnets("eval", run, folder, "--json", "--views", "dense")[1])
    assert facts["images"] == 12
    assert facts["protocol"].startswith("fully convolutional at shorter sides 32, ")
    known = json.loads((run / "summary.json").read_text())["measured"]
    center = json.loads(resnets("eval", run, folder, "--json")[1])
    for key in ("error", "top5_error", "localization_error", "top5_localization_error"):
        assert center[key] == known[key]
    classified = json.loads(resnets("eval", init, folder, "--json")[1])
    assert classified["error"] == known["error"]  # the classifier is that of `init`

    image = next((folder / "val" / "n00").iterdir())
    code, text, _ = resnets("detect", run, image, "--score", "0")
    assert code == 0
    assert sum(" from " in line for line in text.splitlines()) == 5
    shown = resnets("info", run)[1]
    assert "localization error on its test images:" in shown
    assert "given the class, top-5" in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--views", "ten-crop"), "--views: localization is tested with center or dense"),
        (("--metric", "coco"), "--metric: is not for localizers"),
        (("--save-scores", "a.scores"), "--save-scores: is not for localizers"),
    ],
)
def test_options_that_localizers_do_not_have_are_refused(
    resnets, folder, tmp_path, cache, arguments, message
):
    model = tmp_path / "model.safetensors"
    _untrained(model)
    code, _, error = resnets("eval", model, folder, *arguments)
    assert code == 2
    assert error.count("\n") == 1
    assert message in error


def test_a_localizer_searches_no_tiles(resnets, folder, tmp_path, cache):
    model, out = tmp_path / "model.safetensors", tmp_path / "found.jsonl"
    _untrained(model)
    image = next((folder / "val" / "n00").iterdir())
    code, _, error = resnets("detect", model, image, "--tile", "32", "--out", out)
    assert code == 2
    assert error.count("\n") == 1
    assert "a localizer cannot search tiles" in error
    assert not out.exists()
    opened = open_detector(str(model))
    with pytest.raises(UserError, match="a localizer cannot search tiles"):
        opened.predict(image, tile=32)
    assert len(opened.predict(image, score=0)[0].objects) == 5


def test_a_localizer_is_no_classifier(resnets, folder, tmp_path, cache):
    model = tmp_path / "model.safetensors"
    _untrained(model)
    image = next((folder / "val" / "n00").iterdir())
    for arguments in (("predict", model, image), ("export", model, "--to", "onnx")):
        code, _, error = resnets(*arguments)
        assert code == 2
        assert "is a localizer, not a classifier; find objects with: resnets detect" in error
    code, _, error = resnets("eval", model, tmp_path / "nothing")
    assert code == 2
    assert "no such folder" in error


def _untrained(path):
    from resnets.detection import localizer_model
    from resnets.training.recipe import Localization
    from resnets.weights import hub, model_file
    from resnets.weights.card import LOCALIZATION

    settings = Localization(anchors=(12.0,))
    first = hub.load(str(classifier(path.with_name("first.safetensors"), CLASSES)))
    card = {**first.card, LOCALIZATION: settings.model_dump(mode="json")}
    localizer = localizer_model.build("cifar-resnet8", len(CLASSES), settings)
    model_file.save(path, localizer.state_dict(), first.preprocessing, card)
