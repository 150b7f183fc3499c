"""Exports give their source's outputs and work without this package, or are not written."""

import json
import re
import shutil
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from resnets.export import accuracy, exporter, network_file, parity
from resnets.export.exporter import ExportOptions
from resnets.inference import engines, export_folder, openvino_model
from resnets.inference.predictor import open_engine, open_predictor
from resnets.support.errors import UserError
from resnets.weights import model_file
from tests.conftest import draw_photos
from tests.export.conftest import PACKAGES, skip_without_packages
from tests.inference.test_runtimes import used

ENGINES = ("openvino", "onnx", "torch-export")


def run_without_resnets(folder, engine, pixels):
    """Description and logits of an export, read without this package."""
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
def test_an_export_gives_its_sources_outputs_in_any_program(source, exported, engine):
    out = exported(engine)
    config = json.loads((out / "config.json").read_text())
    model = model_file.load(str(source))
    pixels = np.random.default_rng(5).integers(0, 256, (5, 3, 32, 32), np.uint8)
    images = torch.from_numpy(pixels)
    expected = model.network(model.normalize(torch.device("cpu"))(images))
    facts, logits = run_without_resnets(out, engine, pixels)
    np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-4)
    assert facts["classes"] == ["red", "green", "blue"]
    assert facts["preprocessing"]["resize"] == 36
    assert (facts["precision"], facts["network"]) == ("fp32", "cifar-resnet8")
    batches = {(case["pixels"], case["batch"]) for case in config["parity"]}
    assert batches == {
        (kind, n) for kind in (parity.RANDOM_PIXELS, parity.REAL_IMAGES) for n in (1, 3, 8)
    }
    predictor = open_predictor(str(out))
    assert predictor.runtime.name == f"{engine} fp32"
    torch.testing.assert_close(predictor.runtime(images).logits, expected, rtol=1e-3, atol=1e-4)
    beside = model_file.load(str(out / export_folder.SOURCE))
    assert beside.classes == model.classes
    assert [path.name for path in out.parent.iterdir()] == ["out"]
    assert str(Path(exporter.__file__).parent) not in network_text(out, engine)


def network_text(folder, engine):
    """The parts of a network's file that could name paths of this machine."""
    file = folder / export_folder.FILES[engine]
    if engine != "torch-export":
        return file.read_bytes().decode("latin-1")
    with zipfile.ZipFile(file) as archive:
        return "".join(archive.read(name).decode("latin-1") for name in archive.namelist())


@pytest.mark.parametrize("engine", ENGINES)
def test_weights_in_bf16_halve_the_file(source, exported, tmp_path, engine):
    full, half = exported(engine), tmp_path / "half"
    exporter.export(str(source), half, ExportOptions(engine=engine, precision="bf16"))
    name = "model.bin" if engine == "openvino" else export_folder.FILES[engine]
    saved = (full / name).stat().st_size - (half / name).stat().st_size
    weights = sum(p.numel() for p in used("cifar-resnet8", 3).parameters())
    assert saved > 1.8 * weights
    assert open_predictor(str(half)).runtime.name == f"{engine} bf16"


@pytest.mark.parametrize("engine", ENGINES)
def test_dense_exports_take_any_size(source, tmp_path, engine):
    skip_without_packages(engine)
    out = tmp_path / "dense"
    exporter.export(str(source), out, ExportOptions(engine=engine, dense=True))
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
    skip_without_packages(engine, "nncf", "openvino")
    draw_photos(tmp_path / "photos", {"red": 16, "green": 16, "blue": 16})
    out = tmp_path / "int8"
    options = ExportOptions(
        engine=engine, precision="int8", calibrate=str(tmp_path / "photos"), max_loss=50
    )
    config = exporter.export(str(source), out, options)
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
    if engine == "onnx":
        import onnx

        assert onnx.load(str(out / "model.onnx")).opset_import[0].version == config["opset"]


def test_an_allowed_loss_needs_a_test(source, tmp_path):
    skip_without_packages("openvino", "nncf")
    draw_photos(tmp_path / "photos", {"unknown": 12})
    options = ExportOptions(
        engine="openvino", precision="int8", calibrate=str(tmp_path / "photos"), max_loss=1
    )
    with pytest.raises(UserError, match=r"--max-loss: there is no test \(.*no labels"):
        exporter.export(str(source), tmp_path / "out", options)


def test_a_loss_that_is_not_allowed_leaves_nothing(source, tmp_path, monkeypatch):
    skip_without_packages("openvino", "nncf")
    draw_photos(tmp_path / "photos", {"red": 12, "green": 12, "blue": 12})
    monkeypatch.setattr(
        accuracy, "loss", lambda before, after: accuracy.Loss(18, 10, 9, lost=2, gained=1)
    )
    options = ExportOptions(engine="openvino", precision="int8", calibrate=str(tmp_path / "photos"))
    with pytest.raises(UserError, match=r"loses 5\.56 points.*--max-loss"):
        exporter.export(str(source), tmp_path / "out", options)
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


def test_outputs_that_differ_leave_nothing(source, tmp_path, monkeypatch):
    whole = parity.reference

    def other(model, dense):
        answer = whole(model, dense)
        return lambda images: answer(255 - images)

    monkeypatch.setattr(parity, "reference", other)
    with pytest.raises(UserError, match="differs from its source"):
        exporter.export(str(source), tmp_path / "out", ExportOptions(engine="torch-export"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (ExportOptions(engine="onx"), "--to: unknown engine 'onx'"),
        (ExportOptions(engine="onnx", precision="fp16"), "--precision: unknown precision 'fp16'"),
        (
            ExportOptions(engine="torch-export", precision="int8", calibrate="x"),
            "int8 is not available for torch-export",
        ),
        (ExportOptions(engine="openvino", precision="int8"), "--calibrate FOLDER"),
        (ExportOptions(engine="openvino", calibrate="x"), "applies to --precision int8 only"),
        (ExportOptions(engine="torch-export", dense=True, test="x"), "a dense export has no test"),
        (
            ExportOptions(engine="torch-export", images=["nowhere/*.png"]),
            "no file matches this pattern",
        ),
        (ExportOptions(engine="torch-export", test="cifar10"), "not trained on CIFAR-10"),
        (
            ExportOptions(engine="onnx", precision="int8", calibrate="x", test="./x"),
            "the test images are among the calibration images",
        ),
        (
            ExportOptions(engine="onnx", precision="int8", calibrate="x", test="x/val"),
            "the test images are among the calibration images",
        ),
        (ExportOptions(engine="torch-export", limit=20), "--limit: applies to --calibrate only"),
        (ExportOptions(engine="torch-export", max_loss=1), "--max-loss: applies to a test only"),
        (
            ExportOptions(
                engine="openvino", precision="int8", dense=True, calibrate="x", max_loss=1
            ),
            "has no test",
        ),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(source, tmp_path, options, message):
    if options.engine in PACKAGES:
        skip_without_packages(options.engine)
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        exporter.export(str(source), tmp_path / "out", options)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_only_earlier_exports_are_replaced(exported, tmp_path):
    out = shutil.copytree(exported("torch-export"), tmp_path / "out")
    before = (out / "config.json").read_bytes()
    (out / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="holds other files"):
        exporter.export(str(out), out, ExportOptions(engine="torch-export"))
    assert (out / "config.json").read_bytes() == before
    (out / "notes.txt").unlink()
    with pytest.raises(UserError, match="holds an export for torch-export"):
        exporter.check_export(out, ExportOptions(engine="openvino"))
    exporter.export(
        str(out), out, ExportOptions(engine="torch-export", precision="bf16")
    )  # of its own source
    assert export_folder.read(out).precision == "bf16"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="knows a mount point")
def test_folders_that_cannot_be_renamed_are_refused_at_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for out, words in ((".", "that you are in"), (tmp_path, "that you are in"), ("/proc", "mount")):
        with pytest.raises(UserError, match=words):
            exporter.check_export(Path(out), ExportOptions(engine="torch-export"))


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
        exporter._rename(new, out, old)
    assert (out / "which").read_text() == "out"
    assert not old.exists()


def test_other_engines_do_not_need_openvino(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    exporter.check_export(tmp_path / "out", ExportOptions(engine="torch-export"))
    with pytest.raises(UserError, match="openvino is not installed"):
        exporter.check_export(tmp_path / "out", ExportOptions(engine="openvino"))


def test_an_export_without_its_source_cannot_be_exported(exported, tmp_path):
    folder = shutil.copytree(exported("torch-export"), tmp_path / "folder")
    (folder / export_folder.SOURCE).unlink()
    with pytest.raises(UserError, match=r"model\.safetensors: the weights .* are missing"):
        exporter.export(str(folder), tmp_path / "out", ExportOptions(engine="torch-export"))


def test_the_interval_of_a_loss():
    loss = accuracy.Loss(images=1000, before=900, after=890, lost=15, gained=5)
    assert loss.points == pytest.approx(1.0)
    low, high = loss.interval
    assert low < 1.0 < high
    assert (low, high) == pytest.approx((0.10, 1.89), abs=0.02)
    assert accuracy.Loss(50, 40, 40, 0, 0).interval[1] > 3  # few images cannot exclude much


def test_exports_with_other_weights_have_other_digests(exported, source, tmp_path):
    """So that `predict` does not resume the output file of another model."""
    other = model_file.load(str(source))
    weights = {name: tensor * 1.01 for name, tensor in other.network.state_dict().items()}
    model_file.save(tmp_path / "other.safetensors", weights, other.preprocessing, other.card)
    exporter.export(
        str(tmp_path / "other.safetensors"), tmp_path / "out", ExportOptions(engine="openvino")
    )
    digests = {open_predictor(str(f)).digest for f in (exported("openvino"), tmp_path / "out")}
    assert len(digests) == 2


@pytest.mark.parametrize("opset", [None, 21])
def test_an_onnx_export_is_of_the_opset_asked_for_and_its_card_names_the_runtime(
    source, tmp_path, opset
):
    skip_without_packages("onnx")
    import onnx

    out = tmp_path / "out"
    config = exporter.export(str(source), out, ExportOptions(engine="onnx", opset=opset))
    model = onnx.load(str(out / "model.onnx"))
    written, ir, runtime = (18, 8, "1.14") if opset is None else (21, 10, "1.18")
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", written)]
    assert (model.ir_version, config["opset"]) == (ir, written)
    card = (out / "README.md").read_text()
    assert f"is of opset {written}: ONNX Runtime {runtime} or newer" in card
    assert open_predictor(str(out)).runtime.name == "onnx fp32"


@pytest.mark.parametrize(
    ("engine", "opset", "message"),
    [("openvino", 18, "applies to --to onnx only"), ("onnx", 17, "of opset 18 to 23"),
     ("onnx", 99, "of opset 18 to 23")],
)  # fmt: skip
def test_an_opset_that_cannot_be_written_is_refused_first(tmp_path, engine, opset, message):
    with pytest.raises(UserError, match=message):
        exporter.check_export(tmp_path / "out", ExportOptions(engine=engine, opset=opset))


@pytest.mark.parametrize("names", [2, 4])
def test_an_export_whose_card_has_more_or_fewer_classes_is_one_line(exported, tmp_path, names):
    folder = tmp_path / "changed"
    shutil.copytree(exported("torch-export"), folder)
    config = json.loads((folder / "config.json").read_text())
    del config["sha256"]  # as in exports of earlier versions
    config["card"]["classes"] = list("abcd")[:names]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=f"card names {names} classes, but its network has 3 out"):
        open_predictor(str(folder))
    config["outputs"]["logits"]["shape"][1] = names  # so that only the network itself tells
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=f"card names {names} classes, but its network has 3 out"):
        open_predictor(str(folder)).predict(np.zeros((1, 32, 32, 3), np.uint8))


@pytest.mark.parametrize("engine", ENGINES)
def test_exports_may_lie_in_a_folder_whose_name_is_not_utf_8(source, exported, tmp_path, engine):
    out = exported(engine)
    odd = tmp_path / "\udcff"
    odd.mkdir()
    if engine == "onnx":
        import onnx

        network_file.save_onnx(onnx.load(str(out / "model.onnx")), odd / "model.onnx", "mine")
    if engine == "openvino":
        model = engines.core().read_model(out / "model.xml")
        openvino_model.save_openvino(model, odd / "model.xml")
    shutil.copytree(out, odd, dirs_exist_ok=True)
    image = np.random.default_rng(1).integers(0, 256, (40, 36, 3), np.uint8)
    first, second = (open_predictor(str(f)).predict(image)[0].top[0].probability
                     for f in (out, odd))  # fmt: skip
    assert first == pytest.approx(second, abs=1e-6)


def test_a_model_file_whose_name_is_not_utf_8_is_named(source, tmp_path):
    odd = tmp_path / "\udcff.safetensors"
    shutil.copyfile(source, odd)
    with pytest.raises(UserError, match=r"safetensors needs a path of UTF-8; rename the file"):
        exporter.export(str(odd), tmp_path / "out", ExportOptions(engine="openvino"))
    assert [path.name for path in tmp_path.iterdir()] == [odd.name]


def test_ctrl_c_while_a_network_is_converted_leaves_nothing(source, tmp_path, monkeypatch):
    def interrupt(self, file):
        assert file.parent.is_dir()
        raise KeyboardInterrupt

    monkeypatch.setattr(exporter.ClassifierExport, "write", interrupt)
    with pytest.raises(KeyboardInterrupt):
        exporter.export(str(source), tmp_path / "out", ExportOptions(engine="torch-export"))
    assert not any(tmp_path.iterdir())
