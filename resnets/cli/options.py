"""Options that several verbs have: spelt and explained alike."""

from __future__ import annotations

from typing import Annotated

import typer

DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...", metavar="NAME")]
RuntimeOption = Annotated[
    str, typer.Option(help="auto, torch or openvino (on CPUs).", metavar="NAME")
]
PrecisionOption = Annotated[str, typer.Option(help="auto, fp32, bf16 or int8.", metavar="NAME")]
DataOption = Annotated[
    str | None,
    typer.Option(help="Folder of images, or CIFAR-10's files.", metavar="PATH"),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="Change a key of the recipe; repeatable.", metavar="KEY=VALUE"),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def example(text: str) -> str:
    return f"Example: {text}"
