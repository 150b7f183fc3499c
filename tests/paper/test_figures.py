"""The paper's figures, drawn from results."""

import re

import pytest

from resnets.paper import experiments, figures
from resnets.paper.document import Figure
from resnets.paper.results import Results
from tests.paper import made_up


def made(experiment, outcomes):
    """The first figure of an experiment's sections."""
    sections = experiments.find(experiment).sections(Results(outcomes))
    parts = [part for section in sections for part in section.parts]
    return next((part for part in parts if isinstance(part, Figure)), None)


@pytest.mark.parametrize(
    ("experiment", "outcomes", "labels"),
    [
        ("fig1", made_up.cifar(), ["20-layer", "56-layer", "iter. (1e4)"]),
        ("fig4", made_up.photos(), ["18-layer", "34-layer", "plain", "ResNet, option A"]),
        ("fig6", made_up.cifar(), ["44-layer", "110-layer", "1202-layer", "ResNet"]),
        ("fig6", made_up.cifar("short"), ["iterations (thousands)"]),
        ("fig7", made_up.cifar(), ["plain-56", "ResNet-110", "std"]),
        ("signals", made_up.cifar(), ["step 0", "step 1,000", "ResNet-56: gradient"]),
    ],
)
def test_a_figure_names_what_it_shows(experiment, outcomes, labels):
    figure = made(experiment, outcomes)
    texts = re.findall(r">([^<>\n]+)</text>", figure.drawing.svg)
    for label in labels:
        assert label in texts
    assert figure.drawing.png.startswith(b"\x89PNG")
    assert figure.badge
    assert figure.sources


def test_the_words_of_a_figure_give_its_final_errors():
    outcomes = [made_up.training("cifar-plain20"), made_up.training("cifar-plain56")]
    figure = made("fig1", outcomes)
    for outcome in outcomes:
        assert f"{outcome.values['measured']['error']:.2f} %" in figure.text
        assert f"{outcome.values['train_error']:.2f} %" in figure.text


@pytest.mark.parametrize("experiment", ["fig1", "fig4", "fig6", "fig7", "signals"])
def test_a_figure_without_results_is_none(experiment):
    figure = made(experiment, [made_up.training("cifar-resnet1202", "smoke")])
    assert figure is None or experiment == "fig6"


def test_a_depth_has_one_colour_in_plain_and_residual_networks():
    figure = made("fig6", made_up.cifar())
    assert figure.drawing.svg.count(figures.DEPTH_COLOURS[56]) >= 4


def test_only_what_was_drawn_is_a_source():
    outcomes = [made_up.training("cifar-plain20"), made_up.training("cifar-resnet20")]
    figure = made("fig1", outcomes)
    assert [source.key for source in figure.sources] == ["cifar10-full/cifar-plain20-seed0"]


def test_the_words_of_the_signals_give_the_gradients_of_every_step():
    run = made_up.signals("cifar-plain56")
    run.values["steps"] = {
        "0": [{"forward": 1, "gradient": g} for g in (6.5, 1e-3)],
        "100": [{"forward": 1, "gradient": g} for g in (2e-3, 1e-3)],
    }
    assert "plain-56 6.5e+03 (step 0), 2 (step 100)." in made("signals", [run]).text


def test_responses_say_by_what_bn_normalised():
    outcomes = [made_up.responses("cifar-plain20"), made_up.responses("cifar-resnet20")]
    assert (
        "BN with running statistics, on 1,000 of the 10,000 test images"
        in made("fig7", outcomes).text
    )
    outcomes[0].values["statistics"] = "batch"
    assert "CIFAR-10 or running statistics, on" in made("fig7", outcomes).text


@pytest.mark.parametrize(
    ("network", "name"),
    [
        ("cifar-plain56", "plain-56"),
        ("cifar-resnet110", "ResNet-110"),
        ("resnet34-a", "ResNet-34 A"),
        ("resnet34-a-small", "ResNet-34 A-small"),
        ("cifar-preact110", "pre-activation ResNet-110"),
        ("cifar-highway19", "Highway-19"),
        ("vgg16", "vgg16"),
    ],
)
def test_networks_are_called_as_in_the_paper(network, name):
    assert figures.network_title(network) == name
