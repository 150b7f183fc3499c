"""Several processes at one training: the same curve as one, and no harm from a kill."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch

from resnets.support.distributed import World
from resnets.support.errors import UserError
from resnets.training.run_folder import read_metrics
from resnets.training.trainer import micro_batches
from tests.conftest import draw_photos, own_cache
from tests.training.test_resume import make_recipe

ROOT = Path(__file__).parents[2]
WORKER = Path(__file__).with_name("elastic_worker.py")
RECIPE = """
dataset = "photos"
network = "cifar-resnet8"
iterations = 12
batch = 8
test_every = 6
log_every = 1
checkpoint_seconds = 0
precision = "fp32"
[schedule]
kind = "linear"
lr = 0.05
[photos]
size = 24
"""


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    draw_photos(folder / "photos" / "train", {"ant": 9, "bee": 8, "cow": 6})
    draw_photos(folder / "photos" / "val", {"ant": 2, "bee": 3, "cow": 2}, seed=1)
    (folder / "recipe.toml").write_text(RECIPE)
    return folder


def run(photos, out, *options, processes=1, restarts=0, fatal=-1):
    """Train in `processes`; rank 1 dies once before update `fatal`. Returns what was printed."""
    worker = [str(WORKER), str(out) + ".killed", str(fatal), "train", str(photos / "recipe.toml")]
    worker += ["--data", str(photos / "photos"), "--out", str(out), "--resume", *options]
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}",
                f"--max-restarts={restarts}", "--monitor-interval=0.1"]  # fmt: skip
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "RESNETS_CACHE": str(own_cache(photos / "cache")),
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.run(
        [sys.executable, *(launcher if processes > 1 else []), *worker],
        cwd=photos, env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip


def curve(folder):
    return [row["train_loss"] for row in read_metrics(folder) if "train_loss" in row]


def weights(folder):
    return safetensors.torch.load_file(folder / "model.safetensors")


@pytest.fixture(scope="module")
def two(photos):
    out = photos / "two"
    done = run(photos, out, processes=2)
    assert done.returncode == 0, done.stderr
    return out


def test_two_processes_train_like_one_that_takes_the_batch_in_two_parts(photos, two):
    """BN's statistics are of each part's images in both cases."""
    done = run(photos, photos / "one", "--set", "micro_batch=4")
    assert done.returncode == 0, done.stderr
    assert curve(two) == pytest.approx(curve(photos / "one"), abs=2e-4)
    assert len(curve(two)) == 12
    mine, theirs = weights(two), weights(photos / "one")
    for name in mine:
        if "running" not in name and "num_batches" not in name:
            torch.testing.assert_close(mine[name], theirs[name], atol=1e-3, rtol=1e-2)


def test_a_killed_worker_restarts_and_ends_bit_identical(photos, two):
    out = photos / "killed"
    done = run(photos, out, processes=2, restarts=1, fatal=7)
    assert done.returncode == 0, done.stderr
    assert Path(f"{out}.killed").exists()
    assert curve(out) == curve(two)
    mine, theirs = weights(out), weights(two)
    assert mine.keys() == theirs.keys()
    for name in mine:
        assert torch.equal(mine[name], theirs[name]), name
    tested = json.loads((out / "summary.json").read_text())["measured"]
    assert tested["images"] == 7
    assert tested == json.loads((two / "summary.json").read_text())["measured"]


def test_processes_that_disagree_about_the_recipe_are_refused_in_one_line(photos):
    script = photos / "disagree.py"
    script.write_text(
        "import os, sys\n"
        "from resnets.cli.main import main\n"
        "sys.argv += ['--seed', os.environ['RANK']]\n"
        "main()\n"
    )
    cache = own_cache(photos / "cache")
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2",
         str(script), "train", str(photos / "recipe.toml"), "--data", str(photos / "photos"),
         "--out", str(photos / "disagree")],
        env={**os.environ, "PYTHONPATH": str(ROOT), "RESNETS_CACHE": str(cache)},
        cwd=photos, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode != 0
    assert "process 1 has another recipe than process 0" in done.stderr
    assert done.stderr.count("resnets: ") == 1
    assert not (photos / "disagree" / "recipe.json").exists()


@pytest.mark.parametrize(
    ("batch", "micro", "size", "expected"),
    [
        (8, None, 1, [[(0, 8)]]),
        (8, 2, 2, [[(0, 2), (2, 4)], [(4, 6), (6, 8)]]),
        (6, None, 3, [[(0, 2)], [(2, 4)], [(4, 6)]]),
    ],
)
def test_micro_batches_cover_the_batch_once(batch, micro, size, expected):
    recipe = make_recipe(batch=batch, micro_batch=micro)
    assert [micro_batches(recipe, World(rank, size)) for rank in range(size)] == expected


def test_a_batch_that_does_not_divide_is_refused():
    with pytest.raises(UserError, match=r"does not divide among 3 processes.*batch=6"):
        micro_batches(make_recipe(batch=8), World(0, 3))
    with pytest.raises(UserError, match=r"micro_batch = 3 does not divide.*micro_batch=1"):
        micro_batches(make_recipe(batch=8, micro_batch=3), World(0, 1))
