"""Model cards state what the source's card states, in the format of the Hugging Face hub."""

import json

import pytest

from resnets.export import accuracy, exporter, model_card
from resnets.export.exporter import ExportOptions
from resnets.inference import export_folder
from resnets.support.errors import UserError
from resnets.weights import hub, model_file


def test_cards_of_other_programs_may_contain_anything(source, tmp_path):
    model = model_file.load(str(source))
    odd = {"provenance": "my own work", "measured": None}
    for number, more in enumerate((odd, {"provenance": {"licence": 7}, "measured": [3, {}]})):
        file = tmp_path / f"{number}.safetensors"
        model_file.save(
            file, model.network.state_dict(), model.preprocessing, {**model.card, **more}
        )
        out = tmp_path / f"out{number}"
        exporter.export(str(file), out, ExportOptions(engine="torch-export"))
        assert "Not stated by the source" in (out / export_folder.CARD).read_text()
    config = out / export_folder.CONFIG
    facts = json.loads(config.read_text())
    del facts["sha256"]  # as in exports of earlier versions
    for card in (None, {**facts["card"], "classes": [1, 2]}):
        config.write_text(json.dumps({**facts, "card": card}))
        with pytest.raises(UserError, match="not the config of an exported model"):
            export_folder.read(out)


def test_the_header_has_the_hubs_name_of_a_test_set(exported):
    facts = json.loads((exported("torch-export") / "config.json").read_text())
    loss = accuracy.Loss(10, 9, 9, 0, 0).as_dict()
    test = {"dataset": "cifar10", "tested_on": "CIFAR-10's test set", "protocol": "one view"}
    card = model_card.write({**facts, "accuracy": {**loss, **test}})
    assert '      type: "uoft-cs/cifar10"' in card.splitlines()


@pytest.mark.parametrize(
    ("weights", "line"),
    [({"ant": 0.5, "bee": 1.5}, "loss: ant 0.5, bee 1.5"), ({"ant": "much"}, None), (3, None)],
)
def test_a_card_states_the_weights_of_the_classes(exported, weights, line):
    facts = json.loads((exported("torch-export") / "config.json").read_text())
    facts["card"]["provenance"] = {"class_weights": weights}
    card = model_card.write(facts)
    assert line in card if line else "loss:" not in card


def test_a_card_of_vgg_names_its_paper_and_promises_no_features(exported):
    facts = json.loads((exported("torch-export") / "config.json").read_text())
    for network, paper in (("vgg16", "1409.1556"), ("resnet18", "1512.03385")):
        task = model_card.write({**facts, "network": network}).split("\n## ")[0].split("---\n")[2]
        assert f"`{network}` of" in task
        assert f"(arXiv {paper})" in task
        assert ("empty `features`" in task) == (network == "vgg16")


def test_a_card_has_what_the_hub_needs(exported):
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


def card(measured=(), **provenance):
    """A source's card with this provenance."""
    return model_file.make_card("resnet18", ["a", "b"], provenance, list(measured))


def test_the_data_set_is_the_one_that_the_provenance_states():
    test = {"dataset": "cats", "error": 3.0}
    assert model_card.dataset(card([test], recipe={"dataset": "cifar10"})) == "cifar10"
    assert model_card.dataset(card([test], dataset="imagenet")) == "imagenet"
    assert model_card.dataset(card([test])) == "cats"
    assert model_card.dataset(card([test, {"dataset": "dogs", "error": 4.0}])) is None


def test_a_licence_says_nothing_about_the_data_set():
    licence = "BSD 3-Clause; trained on ImageNet"
    assert model_card.dataset(card(licence=licence)) is None
    assert model_card.dataset(card(licence=licence, recipe={"dataset": "cats"})) == "cats"


@pytest.mark.parametrize("name", hub.sources())
def test_old_cards_of_named_sources_are_of_imagenet(name):
    """Earlier versions wrote them without `dataset`."""
    row = hub.sources()[name]
    old = card(source=name, about=row["about"], licence=row["licence"])
    assert model_card.dataset(old) == "imagenet"
