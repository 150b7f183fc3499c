"""`resnets export` as a user meets it."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from resnets.inference.engine_choice import int8_is_faster
from tests.cli.test_cli import one_line
from tests.evaluation import photos

INT8 = "openvino int8" if int8_is_faster() else "openvino fp32|openvino bf16"


@pytest.fixture
def here(tmp_path, cache):
    """A model and photographs of its classes."""
    photos.save_model(tmp_path / "m.safetensors")
    photos.write(tmp_path / "photos", 6)
    return tmp_path


def test_an_export_predicts(resnets, here):
    code, out, _ = resnets("export", "m.safetensors", "--to", "torch-export", "--images", "photos")
    assert code == 0
    assert "real images, batch 8: largest difference" in out
    assert "Export: m-torch-export-fp32 (model card: m-torch-export-fp32/README.md)" in out
    answers = []
    for model in ("m.safetensors", "m-torch-export-fp32"):
        code, out, err = resnets("predict", model, "photos", "--json")
        assert (code, err) == (0, "")
        answers.append([json.loads(line) for line in out.splitlines()])
    for one, other in zip(*answers, strict=True):
        assert [top["class"] for top in one["top"]] == [top["class"] for top in other["top"]]
    code, _, err = resnets("predict", "m-torch-export-fp32", "photos", "--precision", "int8")
    assert code == 2
    assert "this export is for fp32, not int8" in one_line(err)


def test_eval_tests_the_export(resnets, here):
    photos.write(here / "photos", 13)
    code, _, _ = resnets("export", "m.safetensors", "--to", "torch-export", "--out", "export")
    assert code == 0
    results = []
    for model in ("m.safetensors", "export"):
        code, out, _ = resnets("eval", model, "photos", "--json")
        assert code == 0
        results.append(json.loads(out))
    assert results[1]["runtime"] == "torch-export fp32"
    assert [facts["error"] for facts in results] == [results[0]["error"]] * 2
    code, _, err = resnets("eval", "export", "photos", "--views", "dense")
    assert code == 2
    assert "one size only" in one_line(err)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--to", "torch-export", "--precision", "int8"), "--to openvino or --to onnx"),
        (("--to", "tensorrt"), "unknown engine 'tensorrt'"),
        (("--to", "torch-export", "--out", "photos"), "the folder holds other files (ant)"),
        (("--to", "torch-export", "--out", "no/where"), "no such folder"),
        (("--to", "torch-export", "--images", "absent.png"), "no such image"),
        pytest.param(
            ("--to", "openvino", "--precision", "int8", "--calibrate", "absent"),
            "--calibrate absent: no such folder",
            marks=pytest.mark.skipif(find_spec("nncf") is None, reason="int8 needs nncf"),
        ),
    ],
)
def test_mistakes_are_one_line(resnets, here, options, message):
    before = sorted(here.rglob("*"))
    code, out, err = resnets("export", "m.safetensors", *options)
    assert (code, out) == (2, "")
    assert message in one_line(err)
    assert sorted(here.rglob("*")) == before


def test_a_model_without_calibration_says_how_to_get_int8(resnets, here):
    pytest.importorskip("openvino")
    code, _, err = resnets("predict", "m.safetensors", "photos", "--precision", "int8")
    assert code == 2
    assert "resnets quantize m.safetensors --calibrate FOLDER" in one_line(err)


@pytest.mark.skipif(find_spec("nncf") is None, reason="int8 needs nncf")
def test_a_model_is_quantized_and_then_predicts_in_int8(resnets, here):
    photos.write(here / "many", 40)
    options = ("--calibrate", "many", "--max-loss", "100")
    code, out, _ = resnets("quantize", "m.safetensors", *options)
    assert code == 0
    assert "top-1 on the rest of many" in out
    assert "predict now runs m.safetensors in int8 on CPUs" in out
    assert "probabilities moved by at most" in out
    assert (here / "m.int8").exists()
    for options, name in ((), INT8), (("--embeddings",), "openvino fp32|openvino bf16"):
        out = f"answers{len(options)}.jsonl"
        code, _, err = resnets("predict", "m.safetensors", "photos", "--out", out, *options)
        assert (code, err) == (0, "")
        assert json.loads((here / f"{out}.json").read_text())["runtime"] in name.split("|")
    answers = ("predict", "m.safetensors", "photos", "--out", "answers0.jsonl")
    code, _, err = resnets(*answers, "--precision", "fp32")
    assert code == 2
    assert "was made in openvino int8, not in openvino fp32; resume with its" in one_line(err)
    code, _, err = resnets("quantize", "m.safetensors", "--calibrate", "many", "--test", "many")
    assert code == 2
    assert "the test images are among the calibration images" in one_line(err)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits the size of files")
@pytest.mark.parametrize("engine", ["openvino", "torch-export"])
def test_a_full_disk_is_one_line_and_leaves_nothing(here, engine):
    if engine == "openvino":
        pytest.importorskip("openvino")
    before = sorted(here.glob("*"))
    command = f"ulimit -f 100; exec {sys.executable} -m resnets export m.safetensors --to {engine}"
    found = subprocess.run(
        ["bash", "-c", command], cwd=here, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    assert found.returncode == 2
    lines = found.stderr.strip().splitlines()
    assert lines[-1].startswith(f"resnets: m-{engine}-fp32: cannot write: ")
    assert len(lines) == 2  # the other says what was being done
    assert sorted(here.glob("*")) == before
