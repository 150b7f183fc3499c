"""Exports answer like their source, explain themselves to other programs, or are not written."""

import json
import re
import shutil
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from resnets.data.preprocessing import Preprocessing
from resnets.export import accuracy, calibration, exporter, model_card, parity
from resnets.export.exporter import Wishes
from resnets.inference import export_folder, pt2
from resnets.inference.predictor import open_engine, open_predictor
from resnets.support.errors import UserError
from resnets.weights import model_file
from tests.conftest import draw_photos
from tests.evaluation import photos
from tests.inference.test_runtimes import used

ENGINES = ("openvino", "onnx", "torch-export")
NEEDS = {"openvino": ("openvino",), "onnx": ("onnx", "onnxscript", "onnxruntime")}


def needs(engine, *more):
    for name in (*NEEDS.get(engine, ()), *more):
        pytest.importorskip(name)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A model file with a mean image whose classes are those of photographs."""
    path = tmp_path_factory.mktemp("model") / "mine.safetensors"
    torch.manual_seed(3)
    classes = ["red", "green", "blue"]
    card = model_file.make_card("cifar-resnet8", classes, {"licence": "MIT"}, [])
    look = Preprocessing(32, 36, torch.rand(3, 32, 32))
    network = used("cifar-resnet8", 3)
    model_file.save(path, network.state_dict(), look, card)
    return path


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path_factory):
    """No test looks into the user's cache."""
    monkeypatch.setenv("RESNETS_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="module")
def exported(source, tmp_path_factory):
    """Gives the float32 export for an engine, made once; not to be changed."""
    made = {}

    def get(engine):
        needs(engine)
        if engine not in made:
            folder = tmp_path_factory.mktemp("exports") / "out"
            exporter.export(str(source), folder, Wishes(engine))
            made[engine] = folder
        return made[engine]

    return get


def in_plain_library(folder, engine, pixels):
    """Facts and logits of an export, read without this package."""
    if engine == "onnx":
        import onnx
        import onnxruntime

        file = str(folder / "model.onnx")
        (entry,) = onnx.load(file).metadata_props
        assert entry.key == "resnets"
        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        return json.loads(entry.value), session.run(["logits", "features"], {"images": pixels})[0]
    if engine == "openvino":
        import openvino

        model = openvino.Core().read_model(folder / "model.xml")
        facts = json.loads(model.get_rt_info(["resnets", "config"]).astype(str))
        exact = {"INFERENCE_PRECISION_HINT": "f32"}  # by default bf16 where the CPU has it
        return facts, openvino.Core().compile_model(model, "CPU", exact)(pixels)["logits"]
    extra = {"resnets.json": ""}
    program = torch.export.load(folder / "model.pt2", extra_files=extra)
    with torch.no_grad():
        logits = program.module()(torch.from_numpy(pixels))[0].numpy()
    return json.loads(extra["resnets.json"]), logits


@pytest.mark.parametrize("engine", ENGINES)
def test_an_export_is_its_source_to_any_program(source, exported, engine):
    out = exported(engine)
    config = json.loads((out / "config.json").read_text())
    model = model_file.load(str(source))
    pixels = np.random.default_rng(5).integers(0, 256, (5, 3, 32, 32), np.uint8)
    images = torch.from_numpy(pixels)
    expected = model.network(model.normalize(torch.device("cpu"))(images))
    facts, logits = in_plain_library(out, engine, pixels)
    np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-4)
    assert facts["classes"] == ["red", "green", "blue"]
    assert facts["preprocessing"]["resize"] == 36
    assert (facts["precision"], facts["network"]) == ("fp32", "cifar-resnet8")
    batches = {(case["pixels"], case["batch"]) for case in config["parity"]}
    assert batches == {(kind, n) for kind in (parity.NOISE, parity.REAL) for n in (1, 3, 8)}
    predictor = open_predictor(str(out))
    assert predictor.runtime.name == f"{engine} fp32"
    torch.testing.assert_close(predictor.runtime(images).logits, expected, rtol=1e-3, atol=1e-4)
    beside = model_file.load(str(out / export_folder.SOURCE))
    assert beside.classes == model.classes
    assert [path.name for path in out.parent.iterdir()] == ["out"]
    assert str(Path(exporter.__file__).parent) not in network_text(out, engine)


def network_text(folder, engine):
    """All of a network's file that could tell of this machine."""
    file = folder / export_folder.FILES[engine]
    if engine != "torch-export":
        return file.read_bytes().decode("latin-1")
    with zipfile.ZipFile(file) as archive:
        return "".join(archive.read(name).decode("latin-1") for name in archive.namelist())


@pytest.mark.parametrize("engine", ENGINES)
def test_weights_in_bf16_halve_the_file(source, exported, tmp_path, engine):
    full, half = exported(engine), tmp_path / "half"
    exporter.export(str(source), half, Wishes(engine, "bf16"))
    name = "model.bin" if engine == "openvino" else export_folder.FILES[engine]
    saved = (full / name).stat().st_size - (half / name).stat().st_size
    weights = sum(p.numel() for p in used("cifar-resnet8", 3).parameters())
    assert saved > 1.8 * weights
    assert open_predictor(str(half)).runtime.name == f"{engine} bf16"


@pytest.mark.parametrize("engine", ENGINES)
def test_dense_exports_take_any_size(source, tmp_path, engine):
    needs(engine)
    out = tmp_path / "dense"
    exporter.export(str(source), out, Wishes(engine, dense=True))
    model = model_file.load(str(source))
    network = open_engine(export_folder.read(out), keep=False)
    images = torch.randint(0, 256, (2, 3, 41, 70), dtype=torch.uint8)
    logits, features = network(images)
    inputs = images.float() / 255 - model.preprocessing.mean.mean((1, 2), keepdim=True)
    last = model.network.features(inputs)["layer3"]
    assert (logits.shape, features.shape) == ((2, 3, 11, 18), last.shape)
    torch.testing.assert_close(logits, model.network.dense_head(last), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(logits.mean((2, 3)), model.network.head(last), rtol=1e-3, atol=1e-4)
    with pytest.raises(UserError, match="dense export"):
        open_predictor(str(out))


@pytest.mark.parametrize("engine", ["openvino", "onnx"])
def test_int8_is_calibrated_tested_and_timed(source, tmp_path, engine, capfd):
    needs(engine, "nncf", "openvino")
    draw_photos(tmp_path / "photos", {"red": 16, "green": 16, "blue": 16})
    out = tmp_path / "int8"
    wishes = Wishes(engine, "int8", calibrate=str(tmp_path / "photos"), max_loss=50)
    config = exporter.export(str(source), out, wishes)
    assert capfd.readouterr() == ("", "")
    assert config["calibrated_with"] == "24 images of photos"
    tested = config["accuracy"]
    assert tested["images"] == 24
    assert tested["points_lost"] == pytest.approx(tested["top1_before"] - tested["top1_after"])
    rates = config["speed"]["images_per_second"]
    assert list(rates) == [f"{engine} fp32", f"{engine} int8"]
    slower = [rates[f"{engine} int8"][n] < rates[f"{engine} fp32"][n] for n in ("1", "16")]
    assert ("SLOWER" in config["speed"]["verdict"]) == all(slower)
    card = (out / "README.md").read_text()
    assert config["speed"]["verdict"] in card
    assert "Calibrated with: 24 images of photos" in card
    sign = "QuantizeLinear" if engine == "onnx" else 'type="FakeQuantize"'
    assert sign in network_text(out, engine)


def gathered(source, folder, **more):
    return calibration.gather(model_file.load(str(source)), str(folder), None, 300, **more)


def test_few_labelled_images_all_calibrate_and_test_nothing(source, tmp_path):
    draw_photos(tmp_path / "photos", {"red": 8, "green": 8})
    data = gathered(source, tmp_path / "photos")
    assert (len(data.calibration), data.test) == (16, None)
    assert data.tested_on == "16 labelled images are too few to keep some for a test"
    draw_photos(tmp_path / "photos", {"blue": 4})
    data = gathered(source, tmp_path / "photos")
    assert (len(data.calibration), len(data.test)) == (10, 10)


def test_a_broken_labelled_image_is_named_and_calibrates_nothing(source, tmp_path):
    draw_photos(tmp_path / "photos", {"red": 8, "green": 8})
    (tmp_path / "photos" / "red" / "3.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"red.3\.png: not an image"):
        gathered(source, tmp_path / "photos")


def test_a_dense_export_keeps_no_images_for_a_test(source, tmp_path):
    draw_photos(tmp_path / "photos", {"red": 12, "green": 12})
    data = gathered(source, tmp_path / "photos", dense=True)
    assert (len(data.calibration), data.test) == (24, None)


def test_an_allowed_loss_needs_a_test(source, tmp_path):
    needs("openvino", "nncf")
    draw_photos(tmp_path / "photos", {"unknown": 12})
    wishes = Wishes("openvino", "int8", calibrate=str(tmp_path / "photos"), max_loss=1)
    with pytest.raises(UserError, match=r"--max-loss: there is no test \(.*no labels"):
        exporter.export(str(source), tmp_path / "out", wishes)


def test_a_loss_that_is_not_allowed_leaves_nothing(source, tmp_path, monkeypatch):
    needs("openvino", "nncf")
    draw_photos(tmp_path / "photos", {"red": 12, "green": 12, "blue": 12})
    monkeypatch.setattr(
        accuracy, "loss", lambda before, after: accuracy.Loss(18, 10, 9, lost=2, gained=1)
    )
    wishes = Wishes("openvino", "int8", calibrate=str(tmp_path / "photos"))
    with pytest.raises(UserError, match=r"loses 5\.56 points.*--max-loss"):
        exporter.export(str(source), tmp_path / "out", wishes)
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


def test_outputs_that_differ_leave_nothing(source, tmp_path, monkeypatch):
    whole = parity.source

    def other(model, dense):
        answer = whole(model, dense)
        return lambda images: answer(255 - images)

    monkeypatch.setattr(parity, "source", other)
    with pytest.raises(UserError, match="differs from its source"):
        exporter.export(str(source), tmp_path / "out", Wishes("torch-export"))
    assert not (tmp_path / "out").exists()


def test_an_answer_that_depends_on_the_batch_is_refused(source):
    model = model_file.load(str(source))
    answer = parity.source(model, False)

    def mixing(images):
        logits, features = answer(images)
        return parity.Outputs(logits + 0.1 * (len(images) > 3), features)

    with pytest.raises(UserError, match="depend on the batch: at 8"):
        parity.compare(mixing, answer, [], "int8", 32, False)


def test_bf16_may_depend_on_the_batch_as_far_as_it_may_be_off(source):
    """Kernels for some batches round in another order where hardware multiplies bf16."""
    answer = parity.source(model_file.load(str(source)), False)
    images = [torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8)] * 8

    def mixing(images):
        logits, features = answer(images)
        return parity.Outputs(logits * (1.01 if len(images) > 3 else 1), features)

    parity.compare(mixing, answer, images, "bf16", 32, False)
    with pytest.raises(UserError, match="depend on the batch: at 8"):
        parity.compare(mixing, answer, images, "fp32", 32, False)


@pytest.mark.parametrize("output", [0, 1])
def test_outputs_that_are_no_numbers_are_refused(source, output):
    answer = parity.source(model_file.load(str(source)), False)

    def broken(images):
        outputs = list(answer(images))
        outputs[output] = outputs[output] * float("nan")
        return parity.Outputs(*outputs)

    with pytest.raises(UserError, match="differ by nan"):
        parity.compare(broken, answer, [], "int8", 32, False)


@pytest.mark.parametrize(
    ("wishes", "message"),
    [
        (Wishes("onx"), "--to: unknown word 'onx'"),
        (Wishes("onnx", "fp16"), "--precision: unknown word 'fp16'"),
        (Wishes("torch-export", "int8", calibrate="x"), "no int8 here"),
        (Wishes("openvino", "int8"), "--calibrate FOLDER"),
        (Wishes("openvino", calibrate="x"), "is for --precision int8"),
        (Wishes("torch-export", dense=True, test="x"), "no test of its own"),
        (Wishes("torch-export", images=["nowhere/*.png"]), "no file matches this pattern"),
        (Wishes("torch-export", test="cifar10"), "not trained on CIFAR-10"),
        (Wishes("onnx", "int8", calibrate="x", test="./x"), "would calibrate too"),
        (Wishes("onnx", "int8", calibrate="x", test="x/val"), "would calibrate too"),
        (Wishes("torch-export", limit=20), "--limit: is for --calibrate"),
        (Wishes("torch-export", max_loss=1), "--max-loss: is for a test"),
        (Wishes("openvino", "int8", True, calibrate="x", max_loss=1), "has no test"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(source, tmp_path, wishes, message):
    if wishes.engine in NEEDS:
        needs(wishes.engine)
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        exporter.export(str(source), tmp_path / "out", wishes)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_only_earlier_exports_are_replaced(exported, tmp_path):
    out = shutil.copytree(exported("torch-export"), tmp_path / "out")
    before = (out / "config.json").read_bytes()
    (out / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="holds something else"):
        exporter.export(str(out), out, Wishes("torch-export"))
    assert (out / "config.json").read_bytes() == before
    (out / "notes.txt").unlink()
    with pytest.raises(UserError, match="holds an export for torch-export"):
        exporter.refuse(out, Wishes("openvino"))
    exporter.export(str(out), out, Wishes("torch-export", "bf16"))  # of its own source
    assert export_folder.read(out).precision == "bf16"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="knows a mount point")
def test_places_that_cannot_be_renamed_are_refused_at_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for out, words in ((".", "that you are in"), (tmp_path, "that you are in"), ("/proc", "mount")):
        with pytest.raises(UserError, match=words):
            exporter.refuse(Path(out), Wishes("torch-export"))


def test_ctrl_c_between_the_renames_leaves_the_old_export(tmp_path, monkeypatch):
    new, out, old = (tmp_path / name for name in ("new", "out", "old"))
    for folder in (new, out):
        folder.mkdir()
        (folder / "which").write_text(folder.name)
    rename = Path.rename

    def stopped(path, target):
        if path == new:
            raise KeyboardInterrupt
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", stopped)
    with pytest.raises(KeyboardInterrupt):
        exporter._swap(new, out, old)
    assert (out / "which").read_text() == "out"
    assert not old.exists()


def test_other_engines_do_not_ask_for_openvino(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    exporter.refuse(tmp_path / "out", Wishes("torch-export"))
    with pytest.raises(UserError, match="openvino is not installed"):
        exporter.refuse(tmp_path / "out", Wishes("openvino"))


def test_an_export_without_its_source_cannot_be_exported(exported, tmp_path):
    folder = shutil.copytree(exported("torch-export"), tmp_path / "folder")
    (folder / export_folder.SOURCE).unlink()
    with pytest.raises(UserError, match=r"model\.safetensors: the weights .* are missing"):
        exporter.export(str(folder), tmp_path / "out", Wishes("torch-export"))


def test_cards_of_others_may_tell_anything(source, tmp_path):
    model = model_file.load(str(source))
    odd = {"provenance": "my own work", "measured": None}
    for number, more in enumerate((odd, {"provenance": {"licence": 7}, "measured": [3, {}]})):
        file = tmp_path / f"{number}.safetensors"
        model_file.save(
            file, model.network.state_dict(), model.preprocessing, {**model.card, **more}
        )
        out = tmp_path / f"out{number}"
        exporter.export(str(file), out, Wishes("torch-export"))
        assert "Not told by the source" in (out / export_folder.CARD).read_text()
    config = out / export_folder.CONFIG
    facts = json.loads(config.read_text())
    for card in (None, {**facts["card"], "classes": [1, 2]}):
        config.write_text(json.dumps({**facts, "card": card}))
        with pytest.raises(UserError, match="not the config of an exported model"):
            export_folder.read(out)


def test_the_hub_is_told_its_own_name_of_a_test_set(exported):
    facts = json.loads((exported("torch-export") / "config.json").read_text())
    loss = accuracy.Loss(10, 9, 9, 0, 0).as_dict()
    told = {"dataset": "cifar10", "tested_on": "CIFAR-10's test set", "protocol": "one view"}
    card = model_card.write({**facts, "accuracy": {**loss, **told}})
    assert '      type: "uoft-cs/cifar10"' in card.splitlines()


def test_a_card_of_vgg_names_its_paper_and_promises_no_features(exported):
    facts = json.loads((exported("torch-export") / "config.json").read_text())
    for network, paper in (("vgg16", "1409.1556"), ("resnet18", "1512.03385")):
        task = model_card.write({**facts, "network": network}).split("\n## ")[0].split("---\n")[2]
        assert f"`{network}` of" in task
        assert f"(arXiv {paper})" in task
        assert ("empty `features`" in task) == (network == "vgg16")


def test_a_card_says_what_the_hub_asks(exported):
    out = exported("torch-export")
    config = json.loads((out / "config.json").read_text())
    card = (out / "README.md").read_text()
    header = card.split("---\n")[1]
    for line in ("library_name: pytorch", "pipeline_tag: image-classification", "license: mit"):
        assert line in header.splitlines()
    for heading in ("Use", "Data", "Error", "Precision", "Comparison with the source", "Limits"):
        assert f"\n## {heading}\n" in card
    assert "Weights: MIT." in card
    assert card.count("| random pixels |") == 3
    assert config["source"]["name"] == "mine.safetensors"


def test_files_that_could_run_code_are_refused(exported, tmp_path):
    file = tmp_path / "model.pt2"
    with zipfile.ZipFile(exported("torch-export") / "model.pt2") as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}

    def refused(change, message):
        with zipfile.ZipFile(file, "w") as archive:
            for name, content in entries.items():
                archive.writestr(name, change(name, content))
            if change is same:
                archive.writestr("model/data/weights/model.pt", b"a pickle")
        with pytest.raises(UserError, match=message):
            pt2.load(file)

    def same(name, content):
        return content

    def replaced(part, old, new):
        return lambda name, content: content.replace(old, new) if part in name else content

    refused(same, "unknown entry")
    refused(replaced("weights_config", b'"use_pickle": false', b'"use_pickle": true'), "a pickle")
    refused(replaced("models/", b"torch.ops.aten.relu.default", b"torch.hub.load"), "an operator")
    refused(replaced("models/", b"Symbol(", b"__import__("), "an expression")
    refused(replaced("models/", b"{", b"["), "not a readable file")


def test_the_interval_of_a_loss():
    loss = accuracy.Loss(images=1000, before=900, after=890, lost=15, gained=5)
    assert loss.points == pytest.approx(1.0)
    low, high = loss.interval
    assert low < 1.0 < high
    assert (low, high) == pytest.approx((0.10, 1.89), abs=0.02)
    assert accuracy.Loss(50, 40, 40, 0, 0).interval[1] > 3  # few images cannot exclude much


def test_eval_tests_the_export(tmp_path, capsys):
    from resnets.cli import evaluate

    photos.save_model(tmp_path / "m.safetensors")
    photos.write(tmp_path / "photos", 13)
    exporter.export(str(tmp_path / "m.safetensors"), tmp_path / "out", Wishes("torch-export"))
    told = []
    for name in ("m.safetensors", "out"):
        options = evaluate.Options(as_json=True)
        evaluate.evaluate(str(tmp_path / name), str(tmp_path / "photos"), options)
        told.append(json.loads(capsys.readouterr().out))
    assert told[1]["runtime"] == "torch-export fp32"
    assert [facts["error"] for facts in told] == [told[0]["error"]] * 2
    options = evaluate.Options(views="dense")
    with pytest.raises(UserError, match="one size only"):
        evaluate.evaluate(str(tmp_path / "out"), str(tmp_path / "photos"), options)


def test_exports_with_other_weights_are_told_apart(exported, source, tmp_path):
    """Answers of one must not be gone on with by the other, nor features be taken from it."""
    other = model_file.load(str(source))
    weights = {name: tensor * 1.01 for name, tensor in other.network.state_dict().items()}
    model_file.save(tmp_path / "other.safetensors", weights, other.preprocessing, other.card)
    exporter.export(str(tmp_path / "other.safetensors"), tmp_path / "out", Wishes("openvino"))
    digests = {open_predictor(str(f)).digest for f in (exported("openvino"), tmp_path / "out")}
    assert len(digests) == 2
