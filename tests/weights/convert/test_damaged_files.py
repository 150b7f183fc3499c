"""Files of weights and their cards that are damaged: an error of one line, or a model."""

import json

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from resnets.support.errors import UserError
from resnets.weights.convert import formats
from tests.weights.convert.nets import model, tiny_zoo  # noqa: F401

pytestmark = pytest.mark.usefixtures("tiny_zoo")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"crop_pct": 0}, "crop_pct is 0"),
        ({"crop_pct": 1.5}, "crop_pct is 1.5"),
        ({"crop_mode": "squash"}, "crop_mode is 'squash'"),
        ({"std": [0, 0, 0]}, "cannot divide by the standard deviation"),
        ({"input_size": [3, 64, 96]}, "not square"),
        ({"label_descriptions": ["ant"]}, "label_descriptions"),
    ],
)
def test_an_unsupported_timm_config_is_refused_with_the_reason(tmp_path, change, message):
    files = formats.write(model("tiny18"), tmp_path / "timm", "timm")
    document = json.loads(files[1].read_text())
    (document if "label_descriptions" in change else document["pretrained_cfg"]).update(change)
    files[1].write_text(json.dumps(document))
    with pytest.raises(UserError, match=rf"config\.json: .*{message}"):
        formats.read(tmp_path / "timm")


def test_a_timm_config_without_descriptions_names_classes_by_identifier(tmp_path):
    files = formats.write(model("tiny18"), tmp_path / "timm", "timm")
    document = json.loads(files[1].read_text())
    files[1].write_text(json.dumps({**document, "label_descriptions": None}))
    files[-1].unlink()
    assert formats.read(tmp_path / "timm").classes[:2] == ["id0", "id1"]


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    cut=st.integers(0, 2000), at=st.integers(0, 500), byte=st.integers(0, 255), old=st.booleans()
)
def test_a_damaged_pth_is_read_or_refused_with_one_line(tmp_path, cut, at, byte, old):
    path = tmp_path / "model.pth"
    torch.save({"fc.bias": torch.zeros(7)}, path, _use_new_zipfile_serialization=not old)
    content = bytearray(path.read_bytes())
    content[at % len(content)] = byte
    path.write_bytes(content[: cut or None])
    with pytest.raises(UserError):
        formats.read(path)


@pytest.mark.parametrize(
    "change",
    [
        {"classes": []},
        {"classes": None},
        {"class_ids": ["one"]},
        {"network": 5},
        {"preprocessing": {"size": 65, "resize": 70, "mean": 1.0, "std": 1.0}},
        {"preprocessing": []},
    ],
)
def test_an_unusable_card_is_refused_with_one_line(tmp_path, change):
    card = formats.write(model("tiny18"), tmp_path / "model.pth", "torchvision")[-1]
    card.write_text(json.dumps({**json.loads(card.read_text()), **change}))
    with pytest.raises(UserError, match="not a readable card"):
        formats.read(tmp_path / "model.pth")
