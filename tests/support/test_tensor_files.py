"""Safetensors files with checksums."""

import json
import random

import pytest
import safetensors
import safetensors.torch
import torch

from resnets.support import tensor_files

TENSORS = {"a": torch.arange(24.0).reshape(4, 6), "b": torch.tensor(7), "c": torch.zeros(0, 3)}


def write(path):
    tensor_files.write(path, safetensors.torch.save(TENSORS), {"card": '{"x": "\u00e9"}'})
    return path.read_bytes()


def test_a_file_is_plain_safetensors_and_the_same_every_time(tmp_path):
    first = write(tmp_path / "one")
    assert write(tmp_path / "two") == first
    found = safetensors.torch.load_file(tmp_path / "one")
    assert all(torch.equal(found[name], TENSORS[name]) for name in TENSORS)
    with safetensors.safe_open(tmp_path / "one", "pt") as file:
        assert json.loads(file.metadata()["card"]) == {"x": "\u00e9"}
    tensor_files.check(tmp_path / "one")


def test_every_changed_byte_is_found_or_changes_nothing(tmp_path):
    path = tmp_path / "file"
    content = write(path)
    draw = random.Random(0)
    for at in range(len(content)):
        damaged = bytearray(content)
        damaged[at] ^= 1 << draw.randrange(8)
        path.write_bytes(damaged)
        try:
            tensor_files.check(path)
            found = safetensors.torch.load(bytes(damaged))
        except (tensor_files.Damaged, safetensors.SafetensorError):
            continue
        raise AssertionError(f"byte {at} was changed unnoticed: {found}")


def test_the_header_is_checked_without_the_tensors(tmp_path):
    path = tmp_path / "file"
    content = write(path)
    path.write_bytes(content[:-1] + b"\7")
    tensor_files.check(path, header_only=True)
    with pytest.raises(tensor_files.Damaged, match="tensors"):
        tensor_files.check(path)


def test_files_without_sums_are_not_checked(tmp_path):
    safetensors.torch.save_file(TENSORS, tmp_path / "old")
    tensor_files.check(tmp_path / "old")
    (tmp_path / "empty").write_bytes(b"")
    tensor_files.check(tmp_path / "empty")
