"""`resnets convert`: weights of other programs, in and out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from torch import Tensor


def convert(
    source: Annotated[
        str,
        typer.Argument(
            help="A model, a file of another program, or NAME@SOURCE.", metavar="SOURCE"
        ),
    ],
    out: Annotated[
        Path, typer.Argument(help="The file to write (timm, tfjs: a folder).", metavar="OUT")
    ],
    network: Annotated[
        str | None, typer.Option(help="The network; recognized by default.", metavar="NAME")
    ] = None,
    to: Annotated[
        str | None,
        typer.Option(
            help="resnets, torchvision, timm, keras-h5, tfjs or caffe; by default from the "
            "ending of OUT.",
            metavar="FORMAT",
        ),
    ] = None,
) -> None:
    """Read or write weights of torchvision, timm, Keras or Caffe."""
    from resnets.weights import hub
    from resnets.weights.convert import formats

    kind = formats.output_format(out, to)
    path = Path(source) if Path(source).exists() else hub.resolve(source)
    formats.refuse_overwriting(path, out, kind)
    model = formats.read(path, network)
    files = formats.write(model, out, kind)
    preprocessing = model.preprocessing
    print(f"{model.card['network']} with {len(model.classes):,} classes, as {kind}:")
    for file in files:
        print(f"  {file}")
    std = preprocessing.std
    print(
        f"images: shorter side {preprocessing.resize}, centre {preprocessing.size}, "
        f"{preprocessing.interpolation}; mean {_numbers(preprocessing.mean)}, deviation "
        f"{'none' if std is None else _numbers(std)}"
    )


def _numbers(values: Tensor) -> str:
    return " ".join(f"{v:.4f}" for v in values.mean((1, 2)).tolist())
