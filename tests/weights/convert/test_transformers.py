"""Folders of Hugging Face transformers, read and written."""

import json

import pytest
import torch

from resnets.support.errors import UserError
from resnets.weights.convert import formats
from tests.weights.convert.nets import CPU, answers, model, scramble, tiny_zoo  # noqa: F401


@pytest.fixture
def folder(tmp_path, tiny_zoo):  # noqa: F811
    """A folder without our card."""
    formats.write(model("tiny"), tmp_path / "hub", "transformers")[-1].unlink()
    return tmp_path / "hub"


def change(file, **facts):
    file.write_text(json.dumps({**json.loads(file.read_text()), **facts}))


def test_classes_stride_and_preprocessing_come_from_the_configs(folder):
    found, before = formats.read(folder), model("tiny")
    torch.testing.assert_close(answers(found), answers(before), rtol=1e-5, atol=1e-5)
    assert found.card["network"] == "tiny"
    assert found.classes == before.classes
    assert (found.preprocessing.size, found.preprocessing.resize) == (65, 70)
    assert found.preprocessing.interpolation == "bicubic"
    change(folder / "config.json", downsample_in_bottleneck=False)
    assert formats.read(folder).card["network"] == "tiny-v1.5"


def test_microsofts_processor_crops_a_share(folder):
    facts = {"crop_pct": 0.875, "size": 224, "resample": 3, "do_resize": True,
             "image_mean": [0.5] * 3, "image_std": [0.25] * 3}  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(facts))
    steps = formats.read(folder).preprocessing
    assert (steps.size, steps.resize) == (224, 256)
    assert steps.mean.flatten().tolist() == [0.5] * 3
    change(folder / "preprocessor_config.json", size={"shortest_edge": 224})
    assert formats.read(folder).preprocessing.resize == 256


@pytest.mark.parametrize(
    ("file", "facts", "message"),
    [
        ("config.json", {"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ("config.json", {"downsample_in_first_stage": True}, "downsample_in_first_stage is True"),
        ("config.json", {"id2label": {"0": "a", "2": "b"}}, "'1' is missing"),
        ("preprocessor_config.json", {"size": {"height": 9, "width": 9}}, "only shortest_edge"),
        ("preprocessor_config.json", {"do_center_crop": False}, "cuts out no square"),
        ("preprocessor_config.json", {"crop_size": {"height": 9, "width": 8}}, "not square"),
        ("preprocessor_config.json", {"rescale_factor": 1.0}, "rescale_factor is not 1/255"),
    ],
)
def test_what_networks_here_do_not_have_is_refused(folder, file, facts, message):
    change(folder / file, **facts)
    with pytest.raises(UserError, match=rf"{file}: .*{message}"):
        formats.read(folder)


def test_weights_as_a_pickle_of_tensors_are_read_safely(folder):
    from safetensors.torch import load_file

    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    torch.testing.assert_close(
        answers(formats.read(folder)), answers(model("tiny")), rtol=1e-5, atol=1e-5
    )


def test_without_a_processor_the_usual_preprocessing_is_assumed(folder):
    (folder / "preprocessor_config.json").unlink()
    found = formats.read(folder)
    assert found.preprocessing.resize == 256
    assert "--mean" in str(found.card["provenance"]["converted_from"]["assumed"])


@pytest.mark.parametrize("name", ["tiny", "tiny-v1.5", "tiny18"])
def test_transformers_gives_the_same_logits(tmp_path, tiny_zoo, name):  # noqa: F811
    theirs = pytest.importorskip("transformers", reason="transformers is not installed")
    ours = model(name)
    formats.write(ours, tmp_path / "ours", "transformers")
    loaded = theirs.ResNetForImageClassification.from_pretrained(tmp_path / "ours").eval()
    pixels = torch.randint(0, 256, (2, 3, 65, 65), dtype=torch.uint8)
    x = ours.normalize(CPU)(pixels)
    torch.testing.assert_close(loaded(x).logits, ours.network(x), rtol=1e-4, atol=1e-4)
    scramble(loaded)
    loaded.save_pretrained(tmp_path / "theirs")
    again = formats.read(tmp_path / "theirs")
    torch.testing.assert_close(again.network(x), loaded(x).logits, rtol=1e-4, atol=1e-4)
    assert again.classes == ours.classes
