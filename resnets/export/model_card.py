"""The model card of an export: Markdown with the YAML header that the Hugging Face hub reads."""

from __future__ import annotations

import json
from typing import Any

from resnets.export.opsets import ONNX_RUNTIMES
from resnets.export.parity import TOLERANCES
from resnets.inference import export_folder
from resnets.models import zoo
from resnets.support.markdown import table
from resnets.weights import hub
from resnets.weights.card import measurements_of, provenance_of

_LIBRARIES = {"openvino": "openvino", "onnx": "onnx", "torch-export": "pytorch"}
_HUB_DATASETS = {
    "cifar10": "uoft-cs/cifar10",
    "cifar100": "uoft-cs/cifar100",
    "cifar100-coarse": "uoft-cs/cifar100",
    "imagenet": "ILSVRC/imagenet-1k",
}
"""Names of data sets on the hub."""
_LICENCES = {"BSD 3-Clause": "bsd-3-clause", "MIT": "mit", "Apache 2.0": "apache-2.0"}
_EXAMPLES = {
    "openvino": """import openvino

network = openvino.Core().compile_model("model.xml", "CPU")
outputs = network(pixels)
logits, features = outputs["logits"], outputs["features"]""",
    "onnx": """import onnxruntime

network = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])
logits, features = network.run(["logits", "features"], {"images": pixels})""",
    "torch-export": """import torch

network = torch.export.load("model.pt2").module()
logits, features = network(torch.from_numpy(pixels))""",
}
DESCRIPTIONS = {
    "openvino": 'JSON in the rt_info of `model.xml`: `model.get_rt_info(["resnets", "config"])`',
    "onnx": "JSON in the file's `metadata_props`, key `resnets`",
    "torch-export": "JSON in the file's extra file `resnets.json`",
}
_PRECISIONS = {
    ("openvino", "fp32"): "Weights and arithmetic are float32; OpenVINO itself computes in bf16 "
    'where the CPU does so in hardware, unless `INFERENCE_PRECISION_HINT` is `"f32"`.',
    ("onnx", "fp32"): "Weights and arithmetic are float32.",
    ("torch-export", "fp32"): "Weights and arithmetic are float32.",
    ("openvino", "bf16"): "Weights are stored in bf16. OpenVINO computes in bf16 where the CPU "
    'multiplies it in hardware and `INFERENCE_PRECISION_HINT` is `"bf16"`, elsewhere in float32.',
    ("onnx", "bf16"): "Weights are stored in bf16, which halves the file. ONNX Runtime has no bf16 "
    "convolutions on CPUs: it computes in float32, no faster than the fp32 export.",
    ("torch-export", "bf16"): "Weights and arithmetic are bf16; pixels are scaled, and outputs "
    "returned, in float32. Slow on CPUs that do not multiply bf16 in hardware.",
    ("openvino", "int8"): "Convolutions and classifier are int8; weights use 7 of the 8 bits, so "
    "that CPUs without VNNI give the same answers.",
    ("onnx", "int8"): "Convolutions and classifier are int8 (QuantizeLinear and DequantizeLinear); "
    "weights use 7 of the 8 bits, so that CPUs without VNNI give the same answers.",
}
"""What a precision means, by engine."""


def write(config: dict[str, Any]) -> str:
    """The text of the card, from the config of an export."""
    parts = [
        _header(config),
        f"# {_title(config)}",
        _task(config),
        _use(config),
        data_section(config),
        _errors(config),
        _precision(config),
        _comparison(config),
        _limits(config),
        licence_section(config),
    ]
    return "\n\n".join(parts) + "\n"


def dataset(card: dict[str, Any]) -> str | None:
    """The data set that a network was trained on, such as `cifar10` or `imagenet`, or None.

    The provenance of a card states it: runs in their recipe, converted weights as `dataset`.
    Earlier versions wrote cards without `dataset` for named sources such as `resnet50@msra`; all of
    these were trained on ImageNet. Else it is the data set of the card's tests, if there is one.
    """
    provenance = provenance_of(card)
    recipe = provenance.get("recipe")
    for stated in (recipe.get("dataset") if isinstance(recipe, dict) else None,
                   provenance.get("dataset")):  # fmt: skip
        if isinstance(stated, str):
            return stated
    if str(provenance.get("source")) in hub.sources():
        return "imagenet"
    tested = {str(test["dataset"]) for test in measurements_of(card) if "dataset" in test}
    return tested.pop() if len(tested) == 1 else None


def _title(config: dict[str, Any]) -> str:
    dense = ", dense" if config["dense"] else ""
    return f"{config['network']} for {config['engine']}, {config['precision']}{dense}"


def _licence_id(licence: str | None) -> str:
    """The hub's identifier of a licence, or `other`; `unknown` if the source states none."""
    if licence is None:
        return "unknown"
    return next((key for name, key in _LICENCES.items() if licence.startswith(name)), "other")


def _header(config: dict[str, Any]) -> str:
    """The YAML header; strings are written as JSON, which is YAML."""
    quoted = json.dumps
    lines = ["---", *header_lines(config, "image-classification")]
    tags = ("resnet", "image-classification", config["engine"], config["precision"])
    lines += ["tags:", *(f"- {quoted(tag)}" for tag in (*tags, "arxiv:1512.03385"))]
    trained_on = dataset(config["card"])
    if trained_on in _HUB_DATASETS:
        lines += ["datasets:", f"- {_HUB_DATASETS[trained_on]}"]
    results = _results(config)
    if results:
        lines += ["metrics:", "- accuracy", "model-index:"]
        lines += [f"- name: {quoted(_title(config))}", "  results:"]
    for name, tested_on, error in results:
        lines += [
            "  - task:",
            "      type: image-classification",
            "    dataset:",
            f"      name: {quoted(tested_on)}",
            f"      type: {quoted(_HUB_DATASETS.get(tested_on, tested_on))}",
            "    metrics:",
            "    - type: accuracy",
            f"      value: {round(1 - error / 100, 6)}",
            f"      name: {quoted(name)}",
        ]
    return "\n".join([*lines, "---"])


def header_lines(config: dict[str, Any], task: str) -> list[str]:
    """Library, task and licence, as lines of the header."""
    licence = _licence_id(config["licence"])
    lines = [
        f"library_name: {_LIBRARIES[config['engine']]}",
        f"pipeline_tag: {task}",
        f"license: {licence}",
    ]
    if licence == "other":
        lines.append('license_name: "see the section Licence"')
    return lines


def _results(config: dict[str, Any]) -> list[tuple[str, str, float]]:
    """Test results as (name, data set, error in %): the export's, then its source's."""
    results = []
    accuracy = config.get("accuracy")
    if accuracy:
        name = f"top-1 accuracy of this export ({accuracy['images']:,} images)"
        results.append((name, accuracy["dataset"], 100 - accuracy["top1_after"]))
    for test in _source_tests(config):
        name = f"top-1 accuracy of the source in float32 ({test['protocol']})"
        results.append((name, str(test["dataset"]), test["error"]))
    return results


def _source_tests(config: dict[str, Any]) -> list[dict[str, Any]]:
    """The tests in the source's card that state an error, its data set and protocol."""
    return [
        test
        for test in measurements_of(config["card"])
        if {"dataset", "protocol"} <= set(test) and _is_number(test.get("error"))
    ]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)


def _task(config: dict[str, Any]) -> str:
    classes, size = config["classes"], config["preprocessing"]["size"]
    names = ", ".join(classes) if len(classes) <= 12 else ", ".join(classes[:5]) + ", ..."
    sizes = "of any size" if config["dense"] else f"of {size} x {size} pixels"
    outputs = (
        "`logits` (batch, classes, height, width) of single locations, whose mean is the answer "
        "for the whole image, and `features`, the last feature map"
        if config["dense"]
        else "`logits` (batch, classes) and `features`, the pooled input of the classifier"
    )
    paper = '"Deep Residual Learning for Image Recognition" (arXiv 1512.03385)'
    if config["network"] in zoo.VGG_NAMES:
        outputs = "`logits` (batch, classes) and empty `features`"
        paper = (
            '"Very Deep Convolutional Networks for Large-Scale Image Recognition" (arXiv 1409.1556)'
        )
    return (
        f"Task: image classification, {len(classes):,} classes: {names}.\n\n"
        f"The network is `{config['network']}` of {paper}. It takes RGB images {sizes} as "
        f"uint8 (batch, 3, height, width), any number of them at a time, and returns {outputs}. "
        "The network scales pixels and applies mean and deviation itself; batch normalization is "
        "folded into the convolutions."
    )


def _use(config: dict[str, Any]) -> str:
    steps, dense = config["preprocessing"], config["dense"]
    crop = "" if dense else f", cut out the centre of {steps['size']} x {steps['size']}"
    with_resnets = "" if dense else "`resnets predict FOLDER IMAGE`, or without this package:\n\n"
    runtime = ""
    if "opset" in config:
        least = ONNX_RUNTIMES[config["opset"]]
        runtime = f"`model.onnx` is of opset {config['opset']}: ONNX Runtime {least} or newer.\n\n"
    return (
        f"## Use\n\n{with_resnets}{runtime}Scale the shorter side to {steps['resize']} pixels "
        f"({steps['interpolation']}){crop}; then\n\n"
        f"```python\n{_EXAMPLES[config['engine']]}\n```\n\n"
        f"Class names and preprocessing: {DESCRIPTIONS[config['engine']]}, and "
        f"`{export_folder.CONFIG}`. `{export_folder.SOURCE}` is the source model in float32."
    )


def data_section(config: dict[str, Any]) -> str:
    """What the source was trained on, and how."""
    provenance = provenance_of(config["card"])
    lines = [f"- Trained on: {dataset(config['card']) or 'not stated by the source'}"]
    for key, label in (("about", "Source"), ("command", "Made by"), ("finished", "Finished")):
        if isinstance(provenance.get(key), str):
            lines.append(f"- {label}: {provenance[key]}")
    weights = provenance.get("class_weights")
    if isinstance(weights, dict) and all(map(_is_number, weights.values())):
        listed = ", ".join(f"{name} {weight:.3g}" for name, weight in weights.items())
        lines.append(f"- Weights of the classes in the loss: {listed}")
    if config.get("calibrated_with"):
        lines.append(f"- Calibrated with: {config['calibrated_with']}")
    return "## Data\n\n" + "\n".join(lines)


def _errors(config: dict[str, Any]) -> str:
    lines = []
    for test in _source_tests(config):
        top5 = f", top-5 {test['top5_error']:.2f} %" if _is_number(test.get("top5_error")) else ""
        images = f", {test['images']:,} images" if _is_number(test.get("images")) else ""
        lines.append(
            f"- Source in float32: error {test['error']:.2f} %{top5} on {test['dataset']}"
            f"{images}; protocol: {test['protocol']}"
        )
    accuracy = config.get("accuracy")
    if accuracy:
        lines.append(
            f"- This export: error {100 - accuracy['top1_after']:.2f} %, its source "
            f"{100 - accuracy['top1_before']:.2f} %, on {accuracy['tested_on']} "
            f"({accuracy['images']:,} images); protocol: {accuracy['protocol']}"
        )
    elif config["precision"] == "int8":
        lines.append(f"- This export: not measured: {config['not_tested']}")
    return "## Error\n\n" + (
        "\n".join(lines) or "Not stated by the source, and not measured for this export."
    )


def _precision(config: dict[str, Any]) -> str:
    parts = [_PRECISIONS[config["engine"], config["precision"]]]
    accuracy, speed = config.get("accuracy"), config.get("speed")
    if accuracy:
        low, high = accuracy["points_lost_interval"]
        parts.append(
            f"Top-1 lost: {accuracy['points_lost']:.2f} points (95 % interval {low:.2f} "
            f"to {high:.2f})."
        )
    if speed:
        rates = speed["images_per_second"]
        batches = list(next(iter(rates.values())))
        rows = [[name, *(f"{rates[name][batch]:.4g}" for batch in batches)] for name in rates]
        parts += [
            f"Images per second on the machine that made the export ({speed['hardware']}):",
            table(["engine", *(f"batch {batch}" for batch in batches)], rows),
            f"{speed['verdict']}.",
        ]
    return "## Precision\n\n" + "\n\n".join(parts)


def _comparison(config: dict[str, Any]) -> str:
    tolerance = TOLERANCES[config["precision"]]
    where = "on real images" if config["precision"] == "int8" else "everywhere"
    rows = [
        [
            case["pixels"],
            str(case["batch"]),
            str(case["images"]),
            f"{case['largest']:.2g}",
            f"{case['rms']:.2g}",
            f"{case['probability']:.2g}",
            f"{100 * case['agreement']:.1f} %",
        ]
        for case in config["parity"]
    ]
    header = ["pixels", "batch", "images", "largest", "rms", "probability", "same top-1 class"]
    return (
        "## Comparison with the source\n\nLogits and features are compared with those of the "
        "source in PyTorch, in float32, with batch normalization not folded. `largest` is the "
        "largest difference over the largest value, `rms` the root mean square of the differences "
        "over that of the values, `probability` the largest difference of a class probability. "
        f"Tolerated {where}: largest {tolerance.largest:g}, rms {tolerance.rms:g}.\n\n"
        + table(header, rows)
    )


def _limits(config: dict[str, Any]) -> str:
    lines = [
        f"- It names one of its {len(config['classes']):,} classes whatever the image shows. Its "
        "probabilities are not calibrated: unfamiliar images get answers just as confident.",
        "- Errors hold for images like those of the test. For other cameras, other sources or "
        "manipulated images they may be much larger.",
        "- It inherits what its training images over- and underrepresent.",
    ]
    if config["precision"] == "int8":
        lines.append("- The ranges of int8 fit images like the calibration images.")
    return "## Limits\n\n" + "\n".join(lines)


def licence_section(config: dict[str, Any]) -> str:
    """The licence of the weights."""
    return f"## Licence\n\nWeights: {config['licence'] or 'not stated by the source'}."
