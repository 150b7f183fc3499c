"""The command line: `resnets VERB`. Verbs import what they need when they are called."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from resnets.support.errors import UserError

HELP = "Deep residual networks, their plain twins, and the paper's experiments."
# Every option stands in one place, so that verbs spell and explain it alike.
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...", metavar="NAME")]
DataOption = Annotated[
    Path | None,
    typer.Option(help="Folder or tar.gz with the official CIFAR-10 files.", metavar="PATH"),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="Change a key of the recipe; repeatable.", metavar="KEY=VALUE"),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]

app = typer.Typer(
    name="resnets",
    help=HELP,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def example(text: str) -> str:
    return f"Example: {text}"


@app.callback(invoke_without_command=True)
def top(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        import resnets

        print(f"resnets {resnets.__version__}")
        raise typer.Exit


@app.command(epilog=example("resnets info cifar-resnet110"))
def info(
    network: Annotated[
        str | None,
        typer.Argument(help="A network; without it, the table of all.", metavar="NETWORK"),
    ] = None,
    image_size: Annotated[
        int | None, typer.Option(min=32, max=4096, help="Pixels a side; the paper's by default.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Show a network: stages, shortcuts, parameters, multiply-adds, the paper's figures."""
    from resnets.cli import info as verb

    verb.show(network, image_size, json)


@app.command(epilog=example("resnets train cifar10-paper --network cifar-plain56 --seed 1"))
def train(
    recipe: Annotated[str, typer.Argument(help="A shipped recipe or a TOML file.")],
    network: Annotated[str | None, typer.Option(help="Train another network.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Another order, start and crops.")] = None,
    data: DataOption = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Run folder; runs/RECIPE-NETWORK-SEED by default.", metavar="FOLDER"),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on if the run exists.")] = False,
    device: DeviceOption = "auto",
    settings: SetOption = None,
) -> None:
    """Train a network by a recipe: cifar10-paper, cifar10-fast, cifar10-smoke, or your own."""
    from resnets.cli import train as verb

    verb.train(recipe, network, seed, data, out, resume, device, settings or [])


@app.command(epilog=example("resnets resume runs/cifar10-fast-cifar-resnet20-seed0"))
def resume(
    run: Annotated[Path, typer.Argument(help="The run's folder.")],
    data: DataOption = None,
    device: Annotated[
        str | None, typer.Option(help="Another device than at the start.", metavar="NAME")
    ] = None,
) -> None:
    """Go on with a run that was stopped or killed, as if nothing had happened."""
    from resnets.cli import train as verb

    verb.resume(run, data, device)


@app.command("eval", epilog=example("resnets eval cifar-resnet20 cifar10 --plot confusion.png"))
def evaluate(
    model: Annotated[str, typer.Argument(help="A shipped model, a model file or a run folder.")],
    dataset: Annotated[str, typer.Argument(help="The data set to test on: cifar10.")] = "cifar10",
    data: DataOption = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw the confusion matrix.", metavar="FILE.png")
    ] = None,
    device: DeviceOption = "auto",
    json: JsonOption = False,
) -> None:
    """Test a model: error with its protocol, error of each class, confusion matrix."""
    from resnets.cli import use as verb

    verb.evaluate(model, dataset, data, plot, device, json)


@app.command(epilog=example("resnets predict photo.jpg another.png"))
def predict(
    images: Annotated[
        list[Path], typer.Argument(help="Image files of any kind.", metavar="IMAGE...")
    ],
    model: Annotated[
        str, typer.Option(help="A shipped model, a model file or a run folder.")
    ] = "cifar-resnet20",
    top: Annotated[int, typer.Option(min=1, help="Answers for each image.")] = 5,
    device: DeviceOption = "auto",
    json: JsonOption = False,
) -> None:
    """Name what is on images: the most probable classes of each."""
    from resnets.cli import use as verb

    verb.predict(images, model, top, device, json)


@app.command(epilog=example("resnets doctor photos --quarantine photos/.quarantine"))
def doctor(
    data: Annotated[Path, typer.Argument(help="A folder of images.", metavar="DATA")],
    json: JsonOption = False,
    html: Annotated[
        Path | None, typer.Option(help="Write a page with pictures.", metavar="FILE.html")
    ] = None,
    quarantine: Annotated[
        Path | None,
        typer.Option(
            help="Add unreadable images to a list; DATA/.quarantine is heeded everywhere.",
            metavar="LIST",
        ),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Images decoded at once; all cores by default.")
    ] = None,
) -> None:
    """Read every image of a folder and report what would break or distort a training.

    Exits with 1 if there are errors, 0 if there are only warnings and notes.
    """
    from resnets.cli import doctor as verb

    verb.examine(data, json, html, quarantine, threads)


@app.command(epilog=example("resnets shards photos shards --resize 256"))
def shards(
    data: Annotated[Path, typer.Argument(help="A folder of images.", metavar="DATA")],
    out: Annotated[Path, typer.Argument(help="Folder for the shards.", metavar="OUT")],
    resize: Annotated[
        int | None,
        typer.Option(min=16, help="Scale longer shorter sides down to this.", metavar="PIXELS"),
    ] = None,
    quality: Annotated[int, typer.Option(min=1, max=100, help="JPEG quality where scaled.")] = 90,
    images_per_shard: Annotated[
        int | None, typer.Option(min=1, help="As many as 128 MB hold by default.")
    ] = None,
) -> None:
    """Write a folder of images as WebDataset tar shards, to train on from disk or a URL.

    A writing that was interrupted goes on when the command is repeated.
    """
    from resnets.cli import shards as verb

    verb.write(data, out, resize, quality, images_per_shard)


def main() -> None:
    """Run the command line: a user's mistake is one line on stderr and exit code 2."""
    try:
        app(prog_name="resnets")
    except UserError as error:
        print(f"resnets: {error}", file=sys.stderr)
        sys.exit(2)
