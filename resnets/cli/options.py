"""Options that several verbs have: spelled and explained alike."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...", metavar="NAME")]
RuntimeOption = Annotated[
    str, typer.Option(help="auto, torch or openvino (on CPUs).", metavar="NAME")
]
PrecisionOption = Annotated[str, typer.Option(help="auto, fp32, bf16 or int8.", metavar="NAME")]
DataOption = Annotated[
    str | None, typer.Option(help="Folder of images, or CIFAR-10's files.", metavar="PATH")
]
ImageSizeOption = Annotated[
    int | None, typer.Option(min=8, max=2048, help="Side of photographs in pixels.", metavar="N")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="Change a key of the recipe; repeatable.", metavar="KEY=VALUE"),
]
IdleOption = Annotated[
    bool, typer.Option("--idle", help="Yield the processor to all other programs.")
]
LauncherOption = Annotated[str, typer.Option(help="local, or ray: a cluster.", metavar="NAME")]
RefineOption = Annotated[
    bool, typer.Option("--refine", help="Detectors: box refinement and voting.")
]
ScalesOption = Annotated[
    str | None,
    typer.Option(help="Detectors: test at several scales.", metavar="N,N,...|paper"),
]
MembersOption = Annotated[
    list[str] | None,
    typer.Option(
        "--with", help="Detectors: ensemble with this one; repeatable.",
        metavar="MODEL",
    ),
]  # fmt: skip
ForceOption = Annotated[bool, typer.Option("--force", help="Replace files that exist.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
TestOption = Annotated[
    str | None,
    typer.Option(
        help="Labelled images; default: rest of --calibrate.",
        metavar="DATA|cifar10",
    ),
]
CalibrationLimitOption = Annotated[
    int | None, typer.Option(min=10, help="Calibration images; default 300.", metavar="N")
]
MaxLossOption = Annotated[
    float | None,
    typer.Option(min=0, max=100, help="Allowed loss of top-1; default 0.5.", metavar="POINTS"),
]
ModelArgument = Annotated[
    str,
    typer.Argument(help="A model name, model file, run folder or export.", metavar="MODEL"),
]
ImagesArgument = Annotated[
    list[str], typer.Argument(help="Image files, folders, patterns.", metavar="IMAGE...")
]


class Verbs(TyperGroup):
    """A program whose usage line states its options, so that its help fits a small terminal."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        return ["[--version]", "[-h|--help]", "COMMAND", "[ARGS]..."]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        self.format_commands(ctx, formatter)


def command_line(help: str, cls: type[TyperGroup] = TyperGroup) -> typer.Typer:
    """A program of verbs: plain help for `-h`, and no options for the shell's completion."""
    return typer.Typer(
        cls=cls,
        help=help,
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    )


def example(text: str) -> str:
    """The last line of a verb's help."""
    return f"Example: {text}"
