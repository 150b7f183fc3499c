"""`resnets deepen`: the constructed solution of the paper's introduction."""

from __future__ import annotations

import json as json_format
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from resnets.cli.console import to_stderr
from resnets.cli.options import DataOption, ForceOption, JsonOption
from resnets.support.errors import UserError
from resnets.support.files import refuse_replacing, refuse_unwritable

if TYPE_CHECKING:
    from resnets.weights.model_file import Model


def deepen(
    model: Annotated[
        str, typer.Argument(help="A model name, model file or run folder.", metavar="MODEL")
    ],
    to: Annotated[
        str, typer.Option(help="Layers, or the name of a network.", metavar="DEPTH|NETWORK")
    ],
    data: DataOption = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Default NETWORK-from-SHALLOWER.safetensors.", metavar="FILE.safetensors"
        ),
    ] = None,
    force: ForceOption = False,
    json: JsonOption = False,
) -> None:
    """Make a deeper network with the same outputs.

    The added layers are identities.
    1,000 training images check that, and give the statistics for the BN of plain networks.
    """
    import torch

    from resnets.analysis import deepen as construction
    from resnets.analysis import inputs
    from resnets.support.devices import environment
    from resnets.weights import hub, model_file

    # On the CPU: GPUs round a convolution's input to fewer digits than the comparison allows.
    shallow = hub.load(model)
    shallow_name = shallow.card["network"]
    wanted = construction.target(shallow_name, to)
    path = out or Path(f"{wanted}-from-{shallow_name}.safetensors")
    _refuse(path, model, force)
    images = inputs.for_model(shallow, data, "train", report=to_stderr)
    deep, found = construction.deepen(shallow, wanted, images)
    model_file.save(path, deep.network.state_dict(), deep.preprocessing, deep.card)
    added = deep.card["provenance"]["deepened_from"]["added_blocks"]
    if json:
        facts = {
            "from": shallow_name,
            "added_blocks": added,
            "images": found.images,
            "difference": found.difference,
            "largest_logit": found.largest,
            **_errors(shallow, deep, data),
        }
        print(json_format.dumps({**facts, **environment(torch.device("cpu"))}, indent=2))
        return
    print(f"{wanted} from {shallow_name}: {added} blocks added, each an identity")
    print(
        f"largest difference of logits on {images.about}: {found.difference:.2g} "
        f"(largest logit {found.largest:.3g})"
    )
    print(f"Model: {path}")
    print(f"Train it: resnets train RECIPE --network {wanted} --init {shlex.quote(str(path))}")


def _errors(shallow: Model, deep: Model, data: str | None) -> dict[str, float]:
    """Test errors of both, measured alike; empty for models of other data than CIFAR."""
    import torch

    from resnets.data import cifar
    from resnets.data.cifar_classes import CLASSES, with_classes
    from resnets.evaluation import evaluator

    name = with_classes(shallow.classes)
    if name is None or len(shallow.classes) != len(CLASSES[name]):
        return {}
    images = cifar.load_test(name, Path(data) if data else None, to_stderr)
    cpu = torch.device("cpu")
    return {
        name: evaluator.score_cifar(evaluator.pytorch_classifier(model, cpu), images).result().error
        for name, model in (("shallow_error", shallow), ("error", deep))
    }


def _refuse(path: Path, source: str, force: bool) -> None:
    """Raise `UserError` if a model cannot or should not be written at `path`."""
    from resnets.weights import hub

    refuse_unwritable(path, "--out", (".safetensors",))
    if path.resolve() == hub.resolve(source).resolve():
        raise UserError("would overwrite its source", str(path), "give another name")
    refuse_replacing(path, force)
