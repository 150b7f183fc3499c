"""The model card of an exported detector: Markdown with the YAML header of the Hugging Face hub."""

from __future__ import annotations

import json
from typing import Any

from resnets.export import model_card
from resnets.export.opsets import ONNX_RUNTIMES
from resnets.inference import export_folder
from resnets.support.markdown import table
from resnets.weights.card import finds_masks, measurements_of, precisions_of

_MASKS = (
    " With the head of Mask R-CNN it also returns `masks` (k, 14, 14), probabilities of the object "
    "in the 14 x 14 cells of its box: interpolate it over the box, and take what is 0.5 or more."
)
_EXAMPLES = {
    "openvino": """import openvino

network = openvino.Core().compile_model("model.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
outputs = network(pixels)
boxes, scores, categories = (outputs[name] for name in ("boxes", "scores", "categories"))""",
    "onnx": """import onnxruntime

network = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])
boxes, scores, categories = network.run(["boxes", "scores", "categories"], {"images": pixels})""",
}


def write(config: dict[str, Any]) -> str:
    """The text of the card, from the config of an export."""
    parts = [
        _header(config),
        f"# {config['network']} as a detector for {config['engine']}, {config['precision']}",
        _task(config),
        _use(config),
        model_card.data_section(config),
        _precision(config),
        _comparison(config),
        _limits(config),
        model_card.licence_section(config),
    ]
    return "\n\n".join(parts) + "\n"


def _header(config: dict[str, Any]) -> str:
    tags = ("resnet", "faster-rcnn", "object-detection", config["engine"], config["precision"])
    lines = [
        "---",
        *model_card.header_lines(config, "object-detection"),
        "tags:",
        *(f"- {json.dumps(tag)}" for tag in (*tags, "arxiv:1512.03385")),
        "---",
    ]
    return "\n".join(lines)


def _task(config: dict[str, Any]) -> str:
    names = ", ".join(config["classes"][:20]) + (", ..." if len(config["classes"]) > 20 else "")
    steps, count = config["preprocessing"], len(config["classes"])
    masks = _MASKS if finds_masks(config["card"]) else ""
    kinds = "1 category" if count == 1 else f"{count:,} categories"
    return (
        f"Task: object detection, {kinds}: {names}.\n\n"
        f'The detector is Faster R-CNN on `{config["network"]}`, as in appendix A of "Deep '
        'Residual Learning for Image Recognition" (arXiv 1512.03385). It takes one RGB image of '
        "any size as uint8 (1, 3, height, width), and scales it itself (shorter side "
        f"{steps['shorter_side']} pixels, longest {steps['longest_side']}). It returns `boxes` "
        "(k, 4), x1, y1, x2, y2 in pixels of that image; `scores` (k,), best first; `categories` "
        f"(k,) from 0. Scores are above {config['score']:g}, boxes of one category overlap by an "
        f"IoU of {config['nms']:g} at most, and there are {config['detections']} of them at most."
        f"{masks}"
    )


def _use(config: dict[str, Any]) -> str:
    runtime = ""
    if "opset" in config:
        least = ONNX_RUNTIMES[config["opset"]]
        runtime = f"`model.onnx` is of opset {config['opset']}: ONNX Runtime {least} or newer.\n\n"
    return (
        f"## Use\n\n`resnets serve FOLDER`, or without this package:\n\n{runtime}"
        f"```python\n{_EXAMPLES[config['engine']]}\n```\n\n"
        f"Names of the categories: {model_card.DESCRIPTIONS[config['engine']]}, and "
        f"`{export_folder.CONFIG}`. `{export_folder.SOURCE}` is the source model in float32."
    )


def _precision(config: dict[str, Any]) -> str:
    kept = "all else, the region proposals and the boxes among it, is float32"
    lines = [
        f"Convolutions of the network are int8; {kept}."
        if config["precision"] == "int8"
        else "Weights and arithmetic are float32."
    ]
    for test in measurements_of(config["card"]):
        if "AP" in test:
            known = precisions_of(test)
            lines.append(f"Source after its training: {known} on {test['images']:,} test images.")
    tested = config["accuracy"]
    if tested:
        lines.append(
            f"On {tested['images']:,} images of {tested['tested_on']}: "
            + "; ".join(
                f"{key.replace('_', ' ')} {tested[f'{key}_before']:.2f} % before, "
                f"{tested[f'{key}_after']:.2f} % after"
                for key in ("AP", "AP50", "mask_AP", "mask_AP50")
                if tested.get(f"{key}_before") is not None
            )
            + "."
        )
    speed = config["speed"]
    width, height = speed["image"]
    rows = [[name, f"{value:.4g}"] for name, value in speed["milliseconds"].items()]
    return "## Precision and speed\n\n" + "\n\n".join(
        [
            *lines,
            f"An image of {width} x {height} pixels on the machine that made the export "
            f"({speed['hardware']}):",
            table(["engine", "milliseconds"], rows),
        ]
    )


def _comparison(config: dict[str, Any]) -> str:
    rows = [
        [
            case["about"],
            str(case["images"]),
            str(case["detections"]),
            f"{case['pixels']:.2g}",
            f"{case['score']:.2g}",
            f"{case['mask']:.2g}",
            str(case["alone"]),
            str(case["at_limit"]),
        ]
        for case in config["parity"]
    ]
    header = ["images", "number", "detections", "pixels", "score", "mask", "alone", "at a limit"]
    return (
        "## Comparison with the source\n\nDetections are paired greedily with those of the source "
        "in PyTorch, in float32: best first, same category, largest overlap. `pixels` is the "
        "largest difference of a box's side, `score` that of a score, `mask` that of a cell of a "
        "mask; `alone` counts detections "
        "without a counterpart, `at a limit` those for which rounding decides at the lowest score "
        "or at the overlap of NMS.\n\n" + table(header, rows)
    )


def _limits(config: dict[str, Any]) -> str:
    lines = [
        "- Scores are not calibrated probabilities, and objects of other categories may be taken "
        "for one of these.",
        "- Objects much smaller or larger than those of the training images may be missed.",
        "- It inherits what its training images over- and underrepresent.",
    ]
    if config["precision"] == "int8":
        lines.append("- The ranges of int8 fit images like the calibration images.")
    return "## Limits\n\n" + "\n".join(lines)
