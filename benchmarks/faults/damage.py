"""Damaged checkpoints, model files and exports: found when they are read, and nothing wrong loaded.

A file is cut off, or some of its bytes are zeroed, exchanged, or have a bit flipped. Of a run with
a damaged newest checkpoint, the one before must be taken.
"""

from __future__ import annotations

import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.faults import Outcome, Report
from resnets.data.preprocessing import imagenet
from resnets.inference import export_folder
from resnets.models import zoo
from resnets.support.errors import UserError
from resnets.support.files import write_json
from resnets.training import run_folder
from resnets.weights import model_file

NETWORK, CLASSES = "cifar-resnet8", ["ant", "bee", "cow"]
CHECKSUM, FORMAT, HARMLESS = "found by checksum", "found by format", "that changed nothing"
_Draw = random.Random
Damage = Callable[[bytearray, _Draw], None]


def cut(content: bytearray, draw: _Draw) -> None:
    """Keep the beginning only."""
    del content[draw.randrange(len(content)) :]


def zero(content: bytearray, draw: _Draw) -> None:
    """Zeros in the place of a block."""
    start, length = draw.randrange(len(content)), 2 ** draw.randrange(13)
    content[start : start + length] = bytes(len(content[start : start + length]))


def flip(content: bytearray, draw: _Draw) -> None:
    """One other bit."""
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)


def swap(content: bytearray, draw: _Draw) -> None:
    """Two blocks in each other's place."""
    length = 2 ** draw.randrange(4, 10)
    first, second = (draw.randrange(len(content) // length) * length for _ in range(2))
    one, other = (bytes(content[at : at + length]) for at in (first, second))
    content[first : first + length], content[second : second + length] = other, one


DAMAGES: tuple[Damage, ...] = (cut, zero, flip, swap)


def run(count: int, seed: int, report: Report) -> Outcome:
    """Damage `count` files, a third of each kind, and read them."""
    torch.manual_seed(seed)
    found: Counter[str] = Counter()
    failures: list[str] = []
    with tempfile.TemporaryDirectory() as temporary:
        kinds = [kind(Path(temporary)) for kind in (_Checkpoints, _ModelFile, _Export)]
        for number in range(count):
            draw = random.Random(f"{seed} {number}")
            kind, damage = kinds[number % len(kinds)], draw.choice(DAMAGES)
            try:
                found[kind.read(damage, draw)] += 1
            except Exception as error:  # a traceback for a user, or something wrong was loaded
                about = f"{type(error).__name__}: {error}"
                failures.append(f"file {number} ({kind.name}, {damage.__name__}): {about}")
            if (number + 1) % 100 == 0:
                report(f"{number + 1:,} of {count:,} files")
    facts: dict[str, int | float] = {name: found[name] for name in (CHECKSUM, FORMAT, HARMLESS)}
    return Outcome("damage", count, facts, failures)


def _spoil(path: Path, damage: Damage, draw: _Draw) -> None:
    content = bytearray(path.read_bytes())
    damage(content, draw)
    path.write_bytes(content)


def _how(text: str) -> str:
    return CHECKSUM if "checksum" in text else FORMAT


def _random_weights() -> dict[str, Tensor]:
    weights = zoo.build(NETWORK, len(CLASSES)).state_dict()
    # Below 1, and not negative: BN's variances are among them.
    return {n: torch.rand_like(t) if t.is_floating_point() else t for n, t in weights.items()}


def _same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


class _Checkpoints:
    """A run with two checkpoints, of which the newest is damaged."""

    name = "checkpoint"

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "checkpoints"
        self.folder.mkdir()
        self.states = [(_random_weights(), {"step": step, "seconds": 1.5}) for step in (1, 2)]
        self.contents = {
            path: path.read_bytes()
            for path in (run_folder.save_checkpoint(self.folder, *state) for state in self.states)
        }

    def read(self, damage: Damage, draw: _Draw) -> str:
        for path, content in self.contents.items():
            path.write_bytes(content)
        _spoil(max(self.contents), damage, draw)
        notes: list[str] = []
        state = run_folder.latest_checkpoint(self.folder, notes.append)
        assert state is not None, "no checkpoint is left"
        before, newest = self.states
        if not notes and _same(state[0], newest[0]) and state[1] == newest[1]:
            return HARMLESS
        assert len(notes) == 1, f"the damage was not noticed: {notes}"
        assert _same(state[0], before[0]), "other weights than of the checkpoint before"
        assert state[1] == before[1], "other facts than of the checkpoint before"
        return _how(notes[0])


class _ModelFile:
    """A model file, whose card and weights are read."""

    name = "model file"

    def __init__(self, folder: Path) -> None:
        self.path = folder / "model.safetensors"
        card = model_file.make_card(NETWORK, CLASSES, {"recipe": "none"}, [{"error": 5.0}])
        model_file.save(self.path, _random_weights(), imagenet(), card)
        self.content, self.model = self.path.read_bytes(), model_file.load(self.path)

    def read(self, damage: Damage, draw: _Draw) -> str:
        self.path.write_bytes(self.content)
        _spoil(self.path, damage, draw)
        try:
            model = model_file.load(self.path)
        except UserError as error:
            return _how(str(error))
        assert model.card == self.model.card, "another card"
        one, other = (m.network.state_dict() for m in (model, self.model))
        assert _same(one, other), "other weights"
        return HARMLESS


class _Export:
    """The folder of an export, one file of which is damaged."""

    name = "export"

    def __init__(self, folder: Path) -> None:
        self.whole, self.folder = folder / "whole", folder / "export"
        self.whole.mkdir()
        for file in ("model.xml", "model.bin"):
            (self.whole / file).write_bytes(random.Random(file).randbytes(10_000))
        model = model_file.load(folder / "model.safetensors")
        facts = export_folder.describe(model, "openvino", "fp32", False, model.preprocessing)
        config = export_folder.seal({**facts, "card": model.card}, self.whole)
        write_json(self.whole / export_folder.CONFIG, config)
        self.config = export_folder.read(self.whole)

    def read(self, damage: Damage, draw: _Draw) -> str:
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.copytree(self.whole, self.folder)
        file = draw.choice(sorted(self.folder.iterdir()))
        before = file.read_bytes()
        _spoil(file, damage, draw)
        try:
            assert export_folder.is_export(str(self.folder)), "not taken for an export"
            export = export_folder.read(self.folder)
            export.check()
        except UserError as error:
            return _how(str(error))
        facts: list[Any] = [(e.card, e.engine, e.precision) for e in (export, self.config)]
        assert facts[0] == facts[1], "another config"
        assert file.name == export_folder.CONFIG or file.read_bytes() == before, "other contents"
        return HARMLESS
