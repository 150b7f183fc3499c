"""Verbs that use trained models: what the command line takes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from resnets.cli.options import DeviceOption, JsonOption, PrecisionOption, RuntimeOption, example

TestOption = Annotated[
    str | None,
    typer.Option(
        help="Labelled images that tell what is lost; the rest of --calibrate by default.",
        metavar="DATA|cifar10",
    ),
]
LimitOption = Annotated[
    int | None, typer.Option(min=10, help="Calibration images at most; else 300.", metavar="N")
]
MaxLossOption = Annotated[
    float | None, typer.Option(min=0, max=100, help="Points of top-1 that may be lost; else 0.5.")
]


def add_to(app: typer.Typer) -> None:
    """Register the verbs."""
    app.command(epilog=example("resnets predict resnet50@msra photos/ --out answers.jsonl"))(
        predict
    )
    app.command(epilog=example("resnets explain resnet50@msra photo.jpg --out why"))(explain)
    app.command(epilog=example("resnets export cifar-resnet20 --to onnx --out cifar-onnx"))(export)
    app.command(
        epilog=example("resnets quantize runs/finetune-resnet50@msra-seed0 --calibrate photos")
    )(quantize)
    app.command(epilog=example("resnets serve photos=resnet50@msra cifar=cifar-resnet20"))(serve)


def predict(
    model: Annotated[
        str, typer.Argument(help="A shipped model, a model file, a run folder or an export.")
    ],
    images: Annotated[
        list[str], typer.Argument(help="Image files, folders, patterns.", metavar="IMAGE...")
    ],
    out: Annotated[
        Path | None, typer.Option(help="Write .jsonl, .csv or .parquet; go on if it is there.")
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Answers for each image.")] = 5,
    embeddings: Annotated[
        bool, typer.Option("--embeddings", help="The pooled features too.")
    ] = False,
    retry: Annotated[
        bool, typer.Option("--retry", help="Try those again that could not be read.")
    ] = False,
    batch: Annotated[
        int, typer.Option(min=1, max=1024, help="Images at a time.", metavar="N")
    ] = 16,
    launcher: Annotated[str, typer.Option(help="local, or ray: a cluster.")] = "local",
    device: DeviceOption = "auto",
    runtime: RuntimeOption = "auto",
    precision: PrecisionOption = "auto",
    json: Annotated[bool, typer.Option("--json", help="Print JSON lines.")] = False,
) -> None:
    """Name what is on images; exits with 1 if some could not be read."""
    from resnets.cli import predict as verb

    options = verb.Options(
        out, top, embeddings, batch, device, runtime, precision, json, retry, launcher
    )
    verb.predict(model, images, options)


def explain(
    model: Annotated[str, typer.Argument(help="As for predict, but with stages.")],
    images: Annotated[
        list[str], typer.Argument(help="Image files, folders, patterns.", metavar="IMAGE...")
    ],
    out: Annotated[Path, typer.Option(help="A new folder for the pictures.", metavar="FOLDER")],
    class_name: Annotated[
        str | None,
        typer.Option("--class", help="Not the most probable one.", metavar="NAME|INDEX"),
    ] = None,
    stage: Annotated[str, typer.Option(help="One, such as layer3.", metavar="NAME")] = "all",
    opacity: Annotated[float, typer.Option(min=0, max=1, help="Of maps over photographs.")] = 0.5,
    nearest: Annotated[
        Path | None, typer.Option(help="Show which of its images are most alike.", metavar="FOLDER")
    ] = None,
    count: Annotated[
        int | None, typer.Option(min=1, help="How many such images; else 5.", metavar="N")
    ] = None,
    device: DeviceOption = "auto",
    json: JsonOption = False,
) -> None:
    """Draw what each stage of a network looks at, and which images it finds alike.

    Exits with 1 if some could not be read.
    """
    from resnets.cli import explain as verb

    options = verb.Options(out, class_name, stage, opacity, nearest, count, device, json)
    verb.explain(model, images, options)


def export(
    model: Annotated[str, typer.Argument(help="As for predict.")],
    to: Annotated[str, typer.Option(help="openvino, onnx or torch-export.", metavar="ENGINE")],
    precision: Annotated[str, typer.Option(help="fp32, bf16 or int8.", metavar="NAME")] = "fp32",
    out: Annotated[
        Path | None, typer.Option(help="MODEL-ENGINE-PRECISION by default.", metavar="FOLDER")
    ] = None,
    dense: Annotated[
        bool, typer.Option("--dense", help="Any image size, logits at every location.")
    ] = False,
    images: Annotated[
        list[str] | None,
        typer.Option(help="Real images to compare on; repeatable.", metavar="IMAGE"),
    ] = None,
    calibrate: Annotated[
        str | None,
        typer.Option(help="For int8: images like those to come.", metavar="FOLDER|cifar10"),
    ] = None,
    test: TestOption = None,
    limit: LimitOption = None,
    max_loss: MaxLossOption = None,
    json: JsonOption = False,
) -> None:
    """Write a model for another engine, as a folder with its model card.

    Logits and features are compared with the source's at batch 1, 3 and 8, on random pixels and
    real images. Tolerated, of the largest value and in the root mean square: fp32 0.001 and
    0.0001, bf16 0.05 and 0.02, int8 (real images) 1 and 0.25. Beyond that nothing is written.
    """
    from resnets.cli import export as verb
    from resnets.export.exporter import ExportOptions

    options = ExportOptions(
        engine=to,
        precision=precision,
        dense=dense,
        images=images or [],
        calibrate=calibrate,
        test=test,
        limit=limit,
        max_loss=max_loss,
    )
    verb.export(model, out, options, json)


def quantize(
    model: Annotated[str, typer.Argument(help="A model file, a run folder or a named source.")],
    calibrate: Annotated[
        str, typer.Option(help="Images like those to come.", metavar="FOLDER|cifar10")
    ],
    test: TestOption = None,
    limit: LimitOption = None,
    max_loss: MaxLossOption = None,
    json: JsonOption = False,
) -> None:
    """Have predict run a model in int8 on CPUs.

    Writes a small file beside the model's, unless top-1 on labelled images loses too much. Tells
    what was lost and how much faster int8 is.
    """
    from resnets.cli import quantize as verb
    from resnets.export.calibration import CalibrationOptions

    options = CalibrationOptions(calibrate=calibrate, test=test, limit=limit, max_loss=max_loss)
    verb.quantize(model, options, json)


def serve(
    models: Annotated[
        list[str] | None,
        typer.Argument(help="By default cifar-resnet20.", metavar="[NAME=]MODEL..."),
    ] = None,
    host: Annotated[
        str, typer.Option(help="0.0.0.0: for all machines.", metavar="NAME")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 8000,
    token_file: Annotated[
        Path | None,
        typer.Option(help="Requests must carry its word (or RESNETS_TOKEN's).", metavar="FILE"),
    ] = None,
    samples: Annotated[
        Path | None, typer.Option(help="Images to try on the page.", metavar="FOLDER")
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(help="Its name behind a proxy; repeatable.", metavar="NAME"),
    ] = None,
    queue: Annotated[int, typer.Option(min=1, help="Images that may wait.", metavar="N")] = 256,
    max_mb: Annotated[
        int, typer.Option(min=1, max=1024, help="Of a request's body.", metavar="N")
    ] = 32,
    max_megapixels: Annotated[
        int, typer.Option(min=1, max=100, help="Of an image.", metavar="N")
    ] = 50,
    timeout: Annotated[
        float, typer.Option(min=0.1, max=3600, help="Seconds for an answer.", metavar="N")
    ] = 30.0,
    runtime: RuntimeOption = "auto",
    precision: PrecisionOption = "auto",
    device: DeviceOption = "auto",
    log: Annotated[str, typer.Option(help="Of requests: text, json or none.")] = "text",
) -> None:
    """Serve models over HTTP, with a page. Ctrl-C finishes what was taken."""
    from resnets.cli import serve as verb

    options = verb.Options(
        host, port, token_file, samples, allow_host or [], queue, max_mb, max_megapixels,
        timeout, runtime, precision, device, log,
    )  # fmt: skip
    verb.serve(models or [], options)
