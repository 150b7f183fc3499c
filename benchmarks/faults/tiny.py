"""Tiny trainings for faults: `python -m benchmarks.faults.tiny VERB ...` is the command line with
a small synthetic CIFAR-10."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[2]
RECIPE = """
dataset = "{dataset}"
{start}
iterations = 60
batch = {batch}
test_every = 20
log_every = 5
checkpoint_seconds = 0.2
kernels = false
schedule = {{kind = "linear", lr = 0.05, warmup = 5}}
photos = {{size = 32, resize = 1.125}}
"""


@dataclass(frozen=True)
class Training:
    """A tiny training.

    Args:
        name: of the kind, such as `photographs`.
        processes: that train together.
        recipe: the file.
        data: the folder of photographs; None for CIFAR-10.
    """

    name: str
    processes: int
    recipe: Path
    data: Path | None

    def __str__(self) -> str:
        processes = "1 process" if self.processes == 1 else f"{self.processes} processes"
        return f"{self.name}, {processes}"

    def command(self, out: Path) -> list[str]:
        """The command that starts the training, or resumes it."""
        words = ["benchmarks.faults.tiny", "train", str(self.recipe), "--device", "cpu"]
        words += ["--out", str(out), "--resume"]
        words += ["--data", str(self.data)] if self.data else []
        if self.processes == 1:
            return [sys.executable, "-m", *words]
        several = ["torch.distributed.run", "--standalone", "--nproc-per-node"]
        return [sys.executable, "-m", *several, str(self.processes), "-m", *words]


def trainings(folder: Path) -> list[Training]:
    """CIFAR-10, photographs and fine-tuning, each by one process and by two; `folder` is filled."""
    photos = folder / "photos"
    _draw_photos(photos)
    cifar = _recipe(folder, "cifar", "cifar10", 'network = "cifar-resnet8"', batch=20)
    own = _recipe(folder, "photos", "photos", 'network = "cifar-resnet8"', batch=4)
    given = folder / "given"
    first = Training("", 1, own, photos).command(given)
    execute([*first, "--set", "iterations=6", "--set", "test_every=6"], check=True)
    tune = _recipe(folder, "tune", "photos", f'init = "{given}"\nbatch_norm = "frozen"', batch=4)
    kinds = (("CIFAR-10", cifar, None), ("photographs", own, photos), ("fine-tuning", tune, photos))
    return [Training(name, n, recipe, data) for name, recipe, data in kinds for n in (1, 2)]


def _recipe(folder: Path, name: str, dataset: str, start: str, batch: int) -> Path:
    path = folder / f"{name}.toml"
    path.write_text(RECIPE.format(dataset=dataset, start=start, batch=batch))
    return path


def _draw_photos(root: Path) -> None:
    random = np.random.default_rng(0)
    for split, count in (("train", 12), ("val", 4)):
        for label, name in enumerate(("ant", "bee")):
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(0, 60, (40, 48, 3))
                pixels[..., label] += 150
                image = Image.fromarray(pixels.astype(np.uint8))
                image.save(root / split / name / f"{number}.png")


def environment() -> dict[str, str]:
    """One thread a process, so that all trainings have the same bits."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def execute(
    command: list[str], *, check: bool = False, before: Callable[[], None] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment(), preexec_fn=before, check=False
    )
    if check and done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr[-2000:]}")
    return done


def same_model(one: Path, other: Path) -> bool:
    """Whether the models of two run folders have the same weights, bit for bit."""
    from safetensors.numpy import load_file

    first, second = (load_file(folder / "model.safetensors") for folder in (one, other))
    return first.keys() == second.keys() and all(
        tensor.tobytes() == second[name].tobytes() for name, tensor in first.items()
    )


def leftovers(folder: Path) -> list[str]:
    """Temporary files that a finished run has left in its folder."""
    hidden = folder.rglob(".*")
    return [str(path.relative_to(folder)) for path in hidden if path.name != ".lock"]


def main() -> None:
    """The command line, with 240 synthetic images to train on and 80 to test on."""
    from resnets.cli.main import main
    from resnets.data import cifar

    def images(count: int) -> cifar.ImageArrays:
        random = np.random.default_rng(count)
        labels = random.integers(0, 10, count).astype(np.uint8)
        pixels = random.integers(0, 40, (count, 3, 32, 32)) + 20 * labels[:, None, None, None]
        return cifar.ImageArrays(pixels.astype(np.uint8), labels)

    data = cifar.Cifar(images(240), images(80))
    cifar.load = lambda *arguments, **options: data
    main()


if __name__ == "__main__":
    main()
