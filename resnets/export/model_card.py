"""The model card of an export: Markdown under the header that the Hugging Face hub reads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from resnets.export.parity import TOLERANCES
from resnets.inference import export_folder
from resnets.models import zoo
from resnets.weights.card import measurements_of, provenance_of

LIBRARIES = {"openvino": "openvino", "onnx": "onnx", "torch-export": "pytorch"}
HUB_NAMES = {"cifar10": "uoft-cs/cifar10", "imagenet": "ILSVRC/imagenet-1k"}
"""Data sets as the hub calls them."""
LICENCES = {"BSD 3-Clause": "bsd-3-clause", "MIT": "mit", "Apache 2.0": "apache-2.0"}
RUN = {
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
INSIDE = {
    "openvino": 'JSON in the rt_info of `model.xml`: `model.get_rt_info(["resnets", "config"])`',
    "onnx": "JSON in the file's `metadata_props`, key `resnets`",
    "torch-export": "JSON in the file's extra file `resnets.json`",
}
PRECISIONS = {
    ("openvino", "fp32"): "Weights and arithmetic are float32; OpenVINO itself computes in bf16 "
    'where the CPU does so in hardware, unless `INFERENCE_PRECISION_HINT` is `"f32"`.',
    ("onnx", "fp32"): "Weights and arithmetic are float32.",
    ("torch-export", "fp32"): "Weights and arithmetic are float32.",
    ("openvino", "bf16"): "Weights are stored in bf16. OpenVINO computes in bf16 where the CPU "
    'multiplies it in hardware and `INFERENCE_PRECISION_HINT` is `"bf16"`, elsewhere in float32.',
    ("onnx", "bf16"): "Weights are stored in bf16, which halves the file. ONNX Runtime has no bf16 "
    "convolutions on CPUs: it computes in float32, no faster than the fp32 export.",
    ("torch-export", "bf16"): "Weights and arithmetic are bf16; pixels are scaled, and outputs "
    "given, in float32. Slow on CPUs that do not multiply bf16 in hardware.",
    ("openvino", "int8"): "Convolutions and classifier are int8; weights use 7 of the 8 bits, so "
    "that CPUs without VNNI give the same answers.",
    ("onnx", "int8"): "Convolutions and classifier are int8 (QuantizeLinear and DequantizeLinear); "
    "weights use 7 of the 8 bits, so that CPUs without VNNI give the same answers.",
}
"""What a precision means in an engine."""


def write(facts: dict[str, Any]) -> str:
    """The card.

    Args:
        facts: the config of the export.
    """
    parts = [
        _header(facts),
        f"# {_title(facts)}",
        _task(facts),
        _use(facts),
        _data(facts),
        _errors(facts),
        _precision(facts),
        _comparison(facts),
        _limits(facts),
        _licence(facts),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _title(facts: dict[str, Any]) -> str:
    dense = ", dense" if facts["dense"] else ""
    return f"{facts['network']} for {facts['engine']}, {facts['precision']}{dense}"


def dataset(facts: dict[str, Any]) -> str | None:
    """What the network was trained on, as far as its card tells: `cifar10`, `imagenet`, a name."""
    source = provenance_of(facts["card"])
    recipe = source.get("recipe")
    if isinstance(recipe, dict) and isinstance(recipe.get("dataset"), str):
        return str(recipe["dataset"])
    if "ImageNet" in str(source.get("licence", "")):
        return "imagenet"
    return None


def _licence_id(facts: dict[str, Any]) -> str:
    """The hub's word: only a licence that the source's card names; otherwise `other`."""
    told = facts["licence"]
    if told is None:
        return "unknown"
    return next((word for name, word in LICENCES.items() if told.startswith(name)), "other")


def _header(facts: dict[str, Any]) -> str:
    """YAML; strings are written as JSON, which is YAML."""
    text = json.dumps
    tags = [
        "resnet",
        "image-classification",
        facts["engine"],
        facts["precision"],
        "arxiv:1512.03385",
    ]
    lines = [
        "---",
        f"library_name: {LIBRARIES[facts['engine']]}",
        "pipeline_tag: image-classification",
        f"license: {_licence_id(facts)}",
    ]
    if _licence_id(facts) == "other":
        lines.append('license_name: "see the section Licence"')
    lines += ["tags:", *(f"- {text(tag)}" for tag in tags)]
    trained = dataset(facts)
    if trained in HUB_NAMES:
        lines += ["datasets:", f"- {HUB_NAMES[trained]}"]
    measured = _measured(facts)
    if measured:
        lines += ["metrics:", "- accuracy", "model-index:"]
        lines += [f"- name: {text(_title(facts))}", "  results:"]
        for one in measured:
            name = text(one["dataset"])
            lines += [
                "  - task:",
                "      type: image-classification",
                "    dataset:",
                f"      name: {name}",
                f"      type: {text(HUB_NAMES.get(one['dataset'], one['dataset']))}",
                "    metrics:",
                "    - type: accuracy",
                f"      value: {round(1 - one['error'] / 100, 6)}",
                f"      name: {text(one['name'])}",
            ]
    return "\n".join([*lines, "---"])


def _measured(facts: dict[str, Any]) -> list[dict[str, Any]]:
    """Errors with what they were measured on: this export's own first, then its source's."""
    found = []
    tested = facts.get("accuracy")
    if tested:
        found.append(
            {
                "dataset": tested["dataset"],
                "error": 100 - tested["top1_after"],
                "name": f"top-1 accuracy of this export ({tested['images']:,} images)",
            }
        )
    for one in _of_source(facts):
        name = f"top-1 accuracy of the source in float32 ({one['protocol']})"
        found.append({"dataset": str(one["dataset"]), "error": one["error"], "name": name})
    return found


def _of_source(facts: dict[str, Any]) -> list[dict[str, Any]]:
    """The source's tests that tell an error and of what."""
    return [
        test
        for test in measurements_of(facts["card"])
        if {"dataset", "protocol"} <= set(test) and _is_number(test.get("error"))
    ]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)


def _task(facts: dict[str, Any]) -> str:
    classes, look = facts["classes"], facts["preprocessing"]
    few = ", ".join(classes) if len(classes) <= 12 else ", ".join(classes[:5]) + ", ..."
    size = "of any size" if facts["dense"] else f"of {look['size']} x {look['size']} pixels"
    answer = (
        "`logits` (batch, classes, height, width) of single locations, whose mean is the answer "
        "for the whole image, and `features`, the last map"
        if facts["dense"]
        else "`logits` (batch, classes) and `features`, pooled, in front of the classifier"
    )
    paper = '"Deep Residual Learning for Image Recognition" (arXiv 1512.03385)'
    if facts["network"] in zoo.VGG_NAMES:
        answer = "`logits` (batch, classes) and empty `features`"
        paper = (
            '"Very Deep Convolutional Networks for Large-Scale Image Recognition" (arXiv 1409.1556)'
        )
    return (
        f"Task: image classification, {len(classes):,} classes: {few}.\n\n"
        f"The network is `{facts['network']}` of {paper}. It takes RGB images {size} as "
        f"uint8 (batch, 3, height, width), any number of them at a time, and gives {answer}. "
        "Scaling of pixels, mean and deviation are inside; batch normalization is "
        "folded into the convolutions."
    )


def _use(facts: dict[str, Any]) -> str:
    look = facts["preprocessing"]
    crop = "" if facts["dense"] else f", cut out the centre of {look['size']} x {look['size']}"
    with_us = (
        "" if facts["dense"] else "`resnets predict FOLDER IMAGE`, or without this package:\n\n"
    )
    return (
        f"## Use\n\n{with_us}Scale the shorter side to {look['resize']} pixels "
        f"({look['interpolation']}){crop}; then\n\n```python\n{RUN[facts['engine']]}\n```\n\n"
        f"Class names and preprocessing: {INSIDE[facts['engine']]}, and `{export_folder.CONFIG}`. "
        f"`{export_folder.SOURCE}` is the network that this was made from, in float32."
    )


def _data(facts: dict[str, Any]) -> str:
    source = provenance_of(facts["card"])
    lines = [f"- Trained on: {dataset(facts) or 'not told by the source'}"]
    for key, label in (("about", "Source"), ("command", "Made by"), ("finished", "Finished")):
        if isinstance(source.get(key), str):
            lines.append(f"- {label}: {source[key]}")
    if facts.get("calibrated_with"):
        lines.append(f"- Calibrated with: {facts['calibrated_with']}")
    return "## Data\n\n" + "\n".join(lines)


def _errors(facts: dict[str, Any]) -> str:
    lines = []
    for one in _of_source(facts):
        top5 = f", top-5 {one['top5_error']:.2f} %" if _is_number(one.get("top5_error")) else ""
        images = f", {one['images']:,} images" if _is_number(one.get("images")) else ""
        lines.append(
            f"- Source in float32: error {one['error']:.2f} %{top5} on {one['dataset']}"
            f"{images}; protocol: {one['protocol']}"
        )
    tested = facts.get("accuracy")
    if tested:
        lines.append(
            f"- This export: error {100 - tested['top1_after']:.2f} %, its source "
            f"{100 - tested['top1_before']:.2f} %, on {tested['tested_on']} "
            f"({tested['images']:,} images); protocol: {tested['protocol']}"
        )
    elif facts["precision"] == "int8":
        lines.append(f"- This export: not measured: {facts['not_tested']}")
    return "## Error\n\n" + ("\n".join(lines) or "Not told by the source, and not measured here.")


def _precision(facts: dict[str, Any]) -> str:
    lines = [PRECISIONS[facts["engine"], facts["precision"]]]
    if facts.get("accuracy"):
        low, high = facts["accuracy"]["points_lost_interval"]
        lines.append(
            f"Top-1 lost: {facts['accuracy']['points_lost']:.2f} points (95 % interval {low:.2f} "
            f"to {high:.2f})."
        )
    speed = facts.get("speed")
    if speed:
        lines.append(f"Images per second where it was made ({speed['hardware']}):")
        lines.append(_speeds(speed))
        lines += [speed["verdict"] + "."]
    return "## Precision\n\n" + "\n\n".join(lines)


def _speeds(speed: dict[str, Any]) -> str:
    names = list(speed["images_per_second"])
    batches = list(speed["images_per_second"][names[0]])
    return _table(
        ["engine", *(f"batch {batch}" for batch in batches)],
        [[n, *(f"{speed['images_per_second'][n][b]:.4g}" for b in batches)] for n in names],
    )


def _comparison(facts: dict[str, Any]) -> str:
    wanted = TOLERANCES[facts["precision"]]
    asked = "on real images" if facts["precision"] == "int8" else "everywhere"
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
        for case in facts["parity"]
    ]
    heads = ["pixels", "batch", "images", "largest", "rms", "probability", "same first class"]
    return (
        "## Comparison with the source\n\nLogits and features against the source in PyTorch in "
        "float32, batch normalization not folded: the largest difference over the largest value, "
        "the root mean square of the differences over that of the values, the largest difference "
        f"of a probability. Tolerated {asked}: {wanted.largest:g} and {wanted.rms:g}.\n\n"
        + _table(heads, rows)
    )


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _limits(facts: dict[str, Any]) -> str:
    lines = [
        f"- It names one of its {len(facts['classes']):,} classes whatever the image shows, and "
        "probabilities are not calibrated: other images get answers as confident as these.",
        "- Errors hold for images like those of the test; photographs from elsewhere, other "
        "cameras or deliberate changes may raise them much.",
        "- It inherits what its training images over- and underrepresent.",
    ]
    if facts["precision"] == "int8":
        lines.append("- Int8 ranges fit images like those that it was calibrated with.")
    return "## Limits\n\n" + "\n".join(lines)


def _licence(facts: dict[str, Any]) -> str:
    return f"## Licence\n\nWeights: {facts['licence'] or 'not told by the source'}."
