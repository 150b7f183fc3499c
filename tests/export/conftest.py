"""A model, and its exports, for the tests of this folder."""

import pytest
import torch

from resnets.data.preprocessing import Preprocessing
from resnets.export import exporter
from resnets.export.exporter import ExportOptions
from resnets.weights import model_file
from tests.inference.test_runtimes import used

PACKAGES = {"openvino": ("openvino",), "onnx": ("onnx", "onnxscript", "onnxruntime")}


def skip_without_packages(engine, *more):
    """Skip the test if a package of the engine, or one of `more`, is not installed."""
    for name in (*PACKAGES.get(engine, ()), *more):
        pytest.importorskip(name)


@pytest.fixture(scope="session")
def source(tmp_path_factory):
    """A model file with a mean image whose classes are those of photographs."""
    path = tmp_path_factory.mktemp("model") / "mine.safetensors"
    torch.manual_seed(3)
    classes = ["red", "green", "blue"]
    card = model_file.make_card("cifar-resnet8", classes, {"licence": "MIT"}, [])
    preprocessing = Preprocessing(32, 36, mean=torch.rand(3, 32, 32))
    network = used("cifar-resnet8", 3)
    model_file.save(path, network.state_dict(), preprocessing, card)
    return path


@pytest.fixture(autouse=True)
def _empty_cache(monkeypatch, tmp_path_factory):
    """Tests do not use the user's cache."""
    monkeypatch.setenv("RESNETS_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="session")
def exported(source, tmp_path_factory):
    """The float32 export for an engine, made once; tests must not change it."""
    made = {}

    def get(engine):
        skip_without_packages(engine)
        if engine not in made:
            folder = tmp_path_factory.mktemp("exports") / "out"
            exporter.export(str(source), folder, ExportOptions(engine=engine))
            made[engine] = folder
        return made[engine]

    return get
