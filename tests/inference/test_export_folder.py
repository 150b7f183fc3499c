"""Folders of exported models that are damaged or incomplete are refused with one line."""

import json
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest

import resnets
from resnets.inference import export_folder, model_facts
from resnets.support.errors import UserError
from tests.cli.test_files_of_0_1 import FILES

ENGINES = ["export-openvino", "export-onnx"]


@pytest.fixture(params=ENGINES)
def old(request, tmp_path, cache):
    """An export of a version before there were checksums."""
    if find_spec("openvino" if "openvino" in request.param else "onnxruntime") is None:
        pytest.skip("the engine is not installed")
    return Path(shutil.copytree(FILES / request.param, tmp_path / "export"))


@pytest.fixture
def new(old):
    """The same with checksums."""
    config = old / export_folder.CONFIG
    config.write_text(json.dumps(export_folder.seal(json.loads(config.read_text()), old)))
    return old


def network(folder):
    return next(path for name in export_folder.ENGINE_FILES if (path := folder / name).exists())


def change(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def refused(folder, message):
    with pytest.raises(UserError, match=message) as caught:
        resnets.load(folder)
    assert caught.value.hint == export_folder.AGAIN
    assert "\n" not in str(caught.value)


def test_an_export_with_checksums_opens_unless_a_file_changed(new):
    assert resnets.load(new).classes
    sums = export_folder.read(new).sums
    assert set(sums) == {p.name for p in new.iterdir()} - {"config.json", "README.md"}
    for name in sorted(sums.keys() - {"model.safetensors"}):
        content = (new / name).read_bytes()
        change(new / name)
        refused(new, f"{name}: does not match its checksum")
        (new / name).unlink()
        refused(new, f"{name}: .*missing")
        (new / name).write_bytes(content)
    if "model.safetensors" in sums:
        assert export_folder.source_of(str(new))
        change(new / "model.safetensors")
        with pytest.raises(UserError, match=r"model.safetensors: does not match"):
            export_folder.source_of(str(new))
    assert resnets.load(new).classes  # which does not need its source


def test_a_changed_config_is_refused(new):
    config = new / export_folder.CONFIG
    facts = json.loads(config.read_text())
    facts["classes"][0] = "another"
    config.write_text(json.dumps(facts))
    refused(new, "config.json: .*does not match its checksum")


@pytest.mark.parametrize("content", [None, b"", b"{", b"[]", b"\xff", b"{}"])
def test_an_export_without_a_whole_config_is_not_opened_as_its_source(old, content):
    config = old / export_folder.CONFIG
    config.unlink()
    if content is not None:
        config.write_bytes(content)
    message = "lost its config" if content is None else "not the config of an exported model"
    refused(old, message)
    with pytest.raises(UserError, match=message):
        model_facts.find(str(old))


@pytest.mark.parametrize("name", [*export_folder.FILES.values(), export_folder.CONFIG])
def test_a_run_folder_with_such_a_file_is_still_a_run(tmp_path, name):
    shutil.copytree(FILES / "run-finished", tmp_path / "run")
    (tmp_path / "run" / name).write_bytes(b"{}")
    assert not export_folder.is_export(str(tmp_path / "run"))
    assert export_folder.source_of(str(tmp_path / "run")).name == export_folder.SOURCE


@pytest.mark.parametrize("content", [b"", b"nothing", 0.5])
def test_engines_say_in_one_line_that_a_file_is_damaged(old, content):
    for path in (network(old), old / "model.bin"):
        if path.exists():
            before = path.read_bytes()
            half = before[: len(before) // 2]
            path.write_bytes(half if isinstance(content, float) else content)
            refused(old, "cannot read this network: it is damaged")
            path.write_bytes(before)
