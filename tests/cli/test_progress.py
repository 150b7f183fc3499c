"""What a person sees while a run trains."""

import io
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console

from resnets.cli.console import duration
from resnets.cli.training_progress import Bar, Lines, describe_run
from resnets.kernels import native
from resnets.training import recipe_file
from resnets.training.hardware import Settings

METRICS = {
    "step": 50, "epoch": 0.5, "train_loss": 1.25, "train_error": 45.2, "learning_rate": 0.1,
    "images_per_second": 1234.0, "data_wait": 0.021, "seconds": 9.0,
}  # fmt: skip


def fake_run(compiled):
    return SimpleNamespace(
        recipe=recipe_file.load("cifar10-fast", ["iterations=18750"]),
        settings=Settings("bf16", True, compiled, kernels="none" if compiled else "norms"),
        trainer=SimpleNamespace(step=0),
        objective=SimpleNamespace(
            describe=lambda: "50,000 to train, 10,000 to test, 10 classes", classes=("cat", "dog")
        ),
        world=SimpleNamespace(size=1),
        device=torch.device("cpu"),
        folder="runs/x",
    )


@pytest.mark.parametrize("width", [80, 120])
def test_the_bar_shows_everything_at_80_columns(width):
    screen = io.StringIO()
    bar = Bar(Console(file=screen, width=width, force_terminal=True, highlight=False))
    bar.begin(fake_run(compiled=False))
    bar.logged(METRICS)
    bar.stepped(50)
    bar._progress.refresh()
    bar.logged({"step": 50, "test_error": 33.3})
    bar.close()
    shown = screen.getvalue()
    for text in ("50 / 18,750", "left", "epoch   0.5", "loss 1.250", "error 45.20 %", "1,234 img/s",
                 "data 2.1 %", "test error 33.30 %"):  # fmt: skip
        assert text in shown, text
    assert "…" not in shown


def test_lines_say_what_compiles_and_when(capsys):
    lines = Lines(every=0)
    run = fake_run(compiled=True)
    lines.begin(run)
    until = run.recipe.progressive.until
    for step in (until - 1, until, until + 1):
        lines.stepped(step)
    lines.logged(METRICS)
    out = capsys.readouterr().out
    assert out.count("compiling for this image size") == 2
    assert "left 32:20" in out  # 18,700 iterations of 128 images at 1,234 images a second


def test_a_run_without_kernels_says_why(monkeypatch):
    run = fake_run(compiled=False)
    monkeypatch.setattr(native, "unavailable_reason", lambda name, **macros: "")
    assert describe_run(run).endswith("eager, kernels for norms")
    monkeypatch.setattr(
        native, "unavailable_reason", lambda name, **macros: "no C++ compiler (g++)"
    )
    said = "kernels for norms, no C++ compiler (g++): PyTorch's convolutions"
    assert describe_run(run).endswith(said)
    run.settings = Settings("bf16", True, False)
    said = ", no C++ compiler (g++): PyTorch's kernels only"
    assert describe_run(run).endswith(f"eager{said}")
    run.recipe = run.recipe.model_copy(update={"kernels": False})
    assert describe_run(run).endswith("eager")
    run = fake_run(compiled=True)
    run.recipe = run.recipe.model_copy(update={"compile": True})
    assert describe_run(run).endswith("compiled")


def test_lines_are_at_most_one_in_ten_seconds(capsys):
    lines = Lines()
    lines.begin(fake_run(compiled=False))
    for _ in range(5):
        lines.logged(METRICS)
    lines.logged({"step": 1000, "test_error": 20.0})
    out = capsys.readouterr().out
    assert out.count("1,234 img/s") == 1
    assert "test error 20.00 %" in out


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (61, "1:01"), (3723.4, "1:02:03")])
def test_durations(seconds, text):
    assert duration(seconds) == text
