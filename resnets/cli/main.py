"""The command line: `resnets VERB`. Verbs import what they need when they are called."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from resnets.cli import deploy_verbs, paper
from resnets.cli.options import DataOption, DeviceOption, JsonOption, SetOption, example
from resnets.support.errors import UserError

HELP = "Deep residual networks, their plain twins, and the paper's experiments."
app = typer.Typer(
    name="resnets",
    help=HELP,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


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


@app.command(epilog=example("resnets train finetune --data photos/"))
def train(
    recipe: Annotated[str, typer.Argument(help="A shipped recipe or a TOML file.")],
    network: Annotated[str | None, typer.Option(help="Train another network.")] = None,
    init: Annotated[
        str | None, typer.Option(help="Start from the weights of a model.", metavar="MODEL")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Another order, start and crops.")] = None,
    data: DataOption = None,
    limit: Annotated[
        int | None, typer.Option(min=2, help="Train and test on at most so many images.")
    ] = None,
    classes: Annotated[
        int | None, typer.Option(min=2, help="Only the first so many classes.")
    ] = None,
    image_size: Annotated[
        int | None, typer.Option(min=8, max=2048, help="Pixels a side of photographs.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Run folder; runs/RECIPE-NETWORK-SEED by default.", metavar="FOLDER"),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on if the run exists.")] = False,
    device: DeviceOption = "auto",
    settings: SetOption = None,
) -> None:
    """Train by a recipe: cifar10-paper, cifar10-fast, cifar10-smoke; for photographs
    imagenet-paper, imagenet-90, imagenet-short, finetune; or a file of your own."""
    from resnets.cli import train as verb

    keys = {"network": network, "init": init, "seed": seed, "limit": limit, "classes": classes}
    verb.train(recipe, keys, image_size, data, out, resume, device, settings or [])


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


@app.command("eval", epilog=example("resnets eval resnet50.safetensors photos --views ten-crop"))
def evaluate(
    model: Annotated[
        str, typer.Argument(help="A shipped model, a model file, a run folder or an export.")
    ],
    dataset: Annotated[
        str, typer.Argument(help="cifar10, or a folder of photos.", metavar="DATA")
    ] = "cifar10",
    views: Annotated[str, typer.Option(help="center, ten-crop or dense.")] = "center",
    image_size: Annotated[
        int | None, typer.Option(min=32, max=2048, help="Crops of N pixels.", metavar="N")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Only N images, drawn at random.", metavar="N")
    ] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Crops at a time.", metavar="N")] = None,
    save_scores: Annotated[
        Path | None, typer.Option(help="Keep every image's scores.", metavar="FILE")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw the confusion matrix.", metavar="FILE.png")
    ] = None,
    data: DataOption = None,
    device: DeviceOption = "auto",
    json: JsonOption = False,
) -> None:
    """Test a model by a protocol of the paper: errors, worst classes, confusion."""
    from resnets.cli import evaluate as verb

    options = verb.Options(
        Path(data) if data else None,
        views,
        image_size,
        limit,
        batch,
        save_scores,
        plot,
        device,
        as_json=json,
    )
    verb.evaluate(model, dataset, options)


@app.command(epilog=example("resnets ensemble resnet50.scores resnet101.scores"))
def ensemble(
    files: Annotated[
        list[Path], typer.Argument(help="Files from eval --save-scores.", metavar="FILE...")
    ],
    json: JsonOption = False,
) -> None:
    """Test several models as one: the mean of their probabilities."""
    from resnets.cli import evaluate as verb

    verb.ensemble(files, json)


@app.command(epilog=example("resnets convert resnet50.pth mine.safetensors"))
def convert(
    source: Annotated[
        str, typer.Argument(help="A model of ours, a file of another program, or NAME@SOURCE.")
    ],
    out: Annotated[Path, typer.Argument(help="The file to write (timm, tfjs: a folder).")],
    network: Annotated[
        str | None, typer.Option(help="The network; by default what the weights fit.")
    ] = None,
    to: Annotated[
        str | None,
        typer.Option(
            help="resnets, torchvision, timm, keras-h5, tfjs or caffe; by default what the "
            "ending of OUT says.",
            metavar="FORMAT",
        ),
    ] = None,
) -> None:
    """Read weights of torchvision, timm, Keras or Caffe, or write ours for them."""
    from resnets.cli import convert as verb

    verb.convert(source, out, network, to)


@app.command(epilog=example("resnets responses cifar-resnet20 runs/plain20 --plot figure7.png"))
def responses(
    models: Annotated[
        list[str],
        typer.Argument(help="Shipped models, model files or run folders.", metavar="MODEL..."),
    ],
    data: DataOption = None,
    statistics: Annotated[
        str, typer.Option(help="BN's: running, as in use, or batch, as in training.")
    ] = "running",
    limit: Annotated[
        int, typer.Option(min=1, help="Test images, drawn at random.", metavar="N")
    ] = 1000,
    plot: Annotated[
        Path | None, typer.Option(help="Draw them, like Figure 7.", metavar="FILE.png")
    ] = None,
    device: DeviceOption = "auto",
    json: JsonOption = False,
) -> None:
    """Measure how strongly each 3x3 layer answers: standard deviations, as in Figure 7."""
    from resnets.cli import responses as verb

    verb.responses(models, data, statistics, limit, plot, device, json)


@app.command(epilog=example("resnets signals cifar10-short --network cifar-plain56"))
def signals(
    recipe: Annotated[str, typer.Argument(help="A shipped recipe or a TOML file.")],
    network: Annotated[str | None, typer.Option(help="Another network.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Another start and order.")] = 0,
    steps: Annotated[
        str, typer.Option(help="Numbers of updates; 0: a new network.", metavar="N,N,...")
    ] = "0,100",
    data: DataOption = None,
    plot: Annotated[Path | None, typer.Option(help="Draw them.", metavar="FILE.png")] = None,
    device: DeviceOption = "auto",
    settings: SetOption = None,
    json: JsonOption = False,
) -> None:
    """Measure signals and gradients in each layer, when new and in the course of a training."""
    from resnets.cli import signals as verb

    verb.follow(recipe, network, seed, steps, data, plot, device, settings or [], json)


@app.command(epilog=example("resnets deepen cifar-resnet20 --to 56 --out deep.safetensors"))
def deepen(
    model: Annotated[str, typer.Argument(help="A shipped model, a model file or a run folder.")],
    to: Annotated[
        str,
        typer.Option(help="Layers, or the name of a network.", metavar="DEPTH|NETWORK"),
    ],
    data: DataOption = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="NETWORK-from-SHALLOWER.safetensors by default.", metavar="FILE.safetensors"
        ),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Make a deeper network that gives the same outputs: the added layers are identities.

    1,000 training images check that, and give the statistics for the BN of plain networks.
    """
    from resnets.cli import deepen as verb

    verb.deepen(model, to, data, out, json)


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

    Exits with 1 if there are errors, 0 with warnings and notes only, 2 if it cannot begin.
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


deploy_verbs.add_to(app)
app.add_typer(paper.verbs, name="paper")


def main() -> None:
    """Run the command line."""
    run(app, "resnets")


def run(program: typer.Typer, name: str) -> None:
    """Run a command line: a user's mistake is one line on stderr and exit code 2."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # names of files need not be UTF-8
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        program(prog_name=name)
    except UserError as error:
        if os.environ.get("RANK", "0") == "0":  # of several processes one speaks
            print(f"resnets: {error}", file=sys.stderr)
        sys.exit(2)
