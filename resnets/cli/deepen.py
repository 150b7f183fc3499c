"""`resnets deepen`: the constructed solution of the introduction."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

import torch

from resnets.analysis import deepen as constructed
from resnets.analysis import inputs
from resnets.data import cifar10
from resnets.evaluation import evaluator
from resnets.support.devices import environment
from resnets.support.errors import UserError
from resnets.weights import model_file
from resnets.weights.model_file import Model


def deepen(name: str, to: str, data: str | None, out: Path | None, as_json: bool) -> None:
    """Write a deeper model that gives the same outputs, and say how exactly it does.

    On the CPU: GPUs round a convolution's input to fewer digits than the comparison allows.
    """
    model = model_file.load(name)
    shallow = model.card["network"]
    wanted = constructed.target(shallow, to)
    path = out or Path(f"{wanted}-from-{shallow}.safetensors")
    _refuse(path, name)
    images = inputs.for_model(model, data, "train", report=_to_stderr)
    deep, found = constructed.deepen(model, wanted, images)
    model_file.save(path, deep.network.state_dict(), deep.preprocessing, deep.card)
    added = deep.card["provenance"]["deepened_from"]["added_blocks"]
    if as_json:
        facts = {
            "from": shallow,
            "added_blocks": added,
            "images": found.images,
            "difference": found.difference,
            "largest_logit": found.largest,
            **_errors(model, deep, data),
        }
        print(json.dumps({**facts, **environment(torch.device("cpu"))}, indent=2))
        return
    print(f"{wanted} from {shallow}: {added} blocks added, each an identity")
    print(
        f"largest difference of logits on {images.about}: {found.difference:.2g} "
        f"(largest logit {found.largest:.3g})"
    )
    print(f"Model: {path}")
    print(
        f"Train on from it: resnets train RECIPE --network {wanted} --init {shlex.quote(str(path))}"
    )


def _errors(shallow: Model, deep: Model, data: str | None) -> dict[str, float]:
    """Test errors of both, measured alike; nothing of models that are not CIFAR-10's."""
    if shallow.classes != list(cifar10.CLASSES):
        return {}
    images = cifar10.load(Path(data) if data else None, _to_stderr).test
    cpu = torch.device("cpu")
    return {
        name: evaluator.run_cifar10(evaluator.classifier_of(model, cpu), images).result().error
        for name, model in (("shallow_error", shallow), ("error", deep))
    }


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr)


def _refuse(path: Path, source: str) -> None:
    """Raise `UserError` if a model cannot or should not be written at `path`."""
    if path.suffix != ".safetensors":
        raise UserError(
            "a model file ends in .safetensors", f"--out {path}", "give it another name"
        )
    if not path.absolute().parent.is_dir():
        raise UserError("no such folder", str(path.parent), "make it first")
    if path.is_dir():
        raise UserError("is a folder", f"--out {path}", "give the name of a file")
    if path.resolve() == model_file.find(source).resolve():
        raise UserError("would overwrite its source", str(path), "give another name")
