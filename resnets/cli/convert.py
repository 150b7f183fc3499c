"""`resnets convert`: weights of other programs, in and out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast, get_args

import typer

from resnets.cli.options import ForceOption
from resnets.support.errors import UserError
from resnets.support.files import read_text
from resnets.support.names import composed, printable

if TYPE_CHECKING:
    from torch import Tensor

    from resnets.weights.convert.zero_padding import Zeros

_Colours = tuple[float, float, float]


def convert(
    source: Annotated[
        str,
        typer.Argument(
            help="A model, a file of another program, or NAME@SOURCE.", metavar="SOURCE"
        ),
    ],
    out: Annotated[
        Path,
        typer.Argument(
            help="The file to write (timm, transformers, tfjs: a folder).", metavar="OUT"
        ),
    ],
    network: Annotated[
        str | None, typer.Option(help="The network; recognized by default.", metavar="NAME")
    ] = None,
    to: Annotated[
        str | None,
        typer.Option(
            help="resnets, torchvision, timm, transformers, keras-h5, tfjs or caffe; by default "
            "from the ending of OUT.",
            metavar="FORMAT",
        ),
    ] = None,
    classes: Annotated[
        Path | None, typer.Option(help="SOURCE's class names, one a line.", metavar="FILE")
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(min=1, max=4096, help="Side of SOURCE's images in pixels.", metavar="N"),
    ] = None,
    mean: Annotated[
        _Colours | None, typer.Option(help="SOURCE's mean, of pixels in 0..1.", metavar="R G B")
    ] = None,
    std: Annotated[
        _Colours | None, typer.Option(help="SOURCE's deviation; 1 1 1: none.", metavar="R G B")
    ] = None,
    zeros: Annotated[
        str | None,
        typer.Option(help="Where SOURCE pads the zeros of option A.", metavar="behind|both"),
    ] = None,
    state: Annotated[
        str | None,
        typer.Option(help="The weights to take of a checkpoint with several.", metavar="NAME"),
    ] = None,
    force: ForceOption = False,
) -> None:
    """Read or write weights of torchvision, timm, transformers, Keras, Caffe."""
    from resnets.weights import hub
    from resnets.weights.card import assumptions_of
    from resnets.weights.convert import formats
    from resnets.weights.convert.identify import Statement

    kind = formats.output_format(out, to)
    path = Path(source) if source and Path(source).exists() else hub.resolve(source)
    formats.refuse_overwriting(path, out, kind)
    if not force:
        formats.refuse_existing(out, kind)
    side = None if zeros is None else _side(zeros)
    reads, writes = formats.detect_format(path) != "resnets", kind == "torchvision"
    if side and reads == writes:
        raise UserError(
            "does not say which of the two files has them"
            if reads
            else "applies to files of other programs",
            "--zeros",
            "convert to a model file first" if reads else "leave it out",
        )
    stated = Statement(
        classes=None if classes is None else _read_classes(classes),
        size=size,
        mean=mean,
        std=std,
        zeros=side if reads else None,
        state=state,
    )
    model = formats.read(path, network, stated)
    files = formats.write(model, out, kind, "behind" if reads or side is None else side)
    preprocessing = model.preprocessing
    print(f"{model.card['network']} with {len(model.classes):,} classes, as {kind}:")
    for file in files:
        print(f"  {file}")
    deviation = preprocessing.std
    print(
        f"images: shorter side {preprocessing.resize}, centre {preprocessing.size}, "
        f"{preprocessing.interpolation}; mean {_numbers(preprocessing.mean)}, deviation "
        f"{'none' if deviation is None else _numbers(deviation)}"
    )
    assumed = assumptions_of(model.card) if reads else ""
    if writes and not reads and side is None and formats.has_option_a(model):
        assumed = "zeros of option A behind the channels (--zeros)"
    if assumed:
        print(f"assumed: {assumed}")


def _side(zeros: str) -> Zeros:
    from resnets.weights.convert.zero_padding import Zeros

    for side in get_args(Zeros):
        if zeros == side:
            return cast("Zeros", side)
    raise UserError(f"unknown position {zeros!r}", "--zeros", " or ".join(get_args(Zeros)))


def _read_classes(path: Path) -> list[str]:
    """The class names in a file, one a line."""
    names = [composed(line.strip()) for line in read_text(path).split("\n")]
    while names and not names[-1]:
        names.pop()
    if "" in names:
        line = names.index("") + 1
        raise UserError("the line is empty", f"{path}, line {line}", "name every class")
    first: dict[str, int] = {}
    for line, name in enumerate(names, 1):
        if (other := first.setdefault(name, line)) != line:
            message = f"the class {printable(name)!r} is in line {other} already"
            raise UserError(message, f"{path}, line {line}", "give each class its own name")
    return names


def _numbers(values: Tensor) -> str:
    return " ".join(f"{v:.4f}" for v in values.mean((1, 2)).tolist())
