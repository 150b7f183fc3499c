"""A run that is killed or stopped continues as if nothing had happened, bit for bit."""

import json
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from resnets.support import signal_handlers
from resnets.support.errors import UserError
from resnets.training import run, run_folder
from resnets.training.objective import make_objective
from resnets.training.recipe import Recipe
from resnets.training.run_folder import read_metrics
from resnets.training.trainer import Trainer
from resnets.weights import hub, model_file
from tests.training.driver import Steps, data, start_or_resume

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")


def make_recipe(**changes):
    values = {
        "network": "cifar-resnet8",
        "iterations": 24,
        "batch": 50,
        "test_every": 12,
        "log_every": 5,
        "checkpoint_seconds": 0,
        "schedule": {"kind": "linear", "lr": 0.1, "warmup": 6},
        "optimizer": {"nesterov": True, "decay": "weights", "weight_decay": 5e-4},
        "progressive": {"size": 24, "until": 10},
        **changes,
    }
    return Recipe.model_validate_json(json.dumps(values))


def short_recipe(**changes):
    """For the data of `driver.py`."""
    return make_recipe(batch=20, **changes)


@pytest.fixture(scope="module")
def tiny():
    return data()


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """As in the processes of `driver.py`, so that runs here and there are the same bit for bit."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Quiet(Steps):
    def note(self, text):
        pass

    begin = stepped = note


def train(folder, recipe, tiny, watch=None):
    return start_or_resume(folder, recipe, tiny, watch or Quiet()).train()


def start(folder, recipe, tiny):
    return run.start(folder, make_objective(recipe, tiny), CPU, Quiet(), command="test")


@pytest.fixture(scope="module")
def whole(tmp_path_factory, tiny):
    """An uninterrupted run, trained once for all resume points."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    train(folder, short_recipe(), tiny)
    return folder


def weights(folder):
    with model_file.safetensors.safe_open(folder / "model.safetensors", "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118


def assert_same_run(one, other):
    left, right = weights(one), weights(other)
    assert left.keys() == right.keys()
    for name in left:
        assert torch.equal(left[name], right[name]), name
    same = ("step", "epoch", "train_loss", "train_error", "learning_rate", "test_error")
    rows = [[{k: r[k] for k in same if k in r} for r in read_metrics(f)] for f in (one, other)]
    assert rows[0] == rows[1]


def process(folder, recipe, halt=0):
    arguments = [str(folder), recipe.model_dump_json(), str(halt)]
    return subprocess.Popen(
        [sys.executable, "-m", "tests.training.driver", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )


def run_until(started, line):
    """Read the process's lines up to `line`."""
    for text in started.stdout:
        if text.strip() == line:
            return
    raise AssertionError(f"the process never printed {line!r}")


compiles = pytest.mark.skipif(
    not (shutil.which("g++") or shutil.which("clang++")), reason="compiling needs a C++ compiler"
)


@pytest.mark.parametrize(
    "compiled",
    [False, pytest.param(True, marks=[compiles, pytest.mark.slow])],
    ids=["eager", "compiled"],
)
def test_kill_in_the_middle_of_an_epoch_and_resume(whole, tmp_path, compiled):
    # 240 images in batches of 20: an epoch has 12 steps, so 17 is in the middle of one.
    recipe = short_recipe(compile=compiled)
    killed = tmp_path / "killed"
    if compiled:
        whole = tmp_path / "whole"
        uninterrupted = process(whole, recipe)
        output, _ = uninterrupted.communicate()
        assert uninterrupted.returncode == 0, output
    victim = process(killed, recipe, halt=17)
    run_until(victim, "step 17")
    victim.kill()
    victim.communicate()
    assert not (killed / "model.safetensors").exists()
    resumed = process(killed, recipe)
    output, _ = resumed.communicate()
    assert resumed.returncode == 0, output
    assert "begin 16" in output.splitlines()  # the halt came before the checkpoint of step 17
    assert_same_run(whole, killed)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_the_run_and_resuming_is_exact(whole, tmp_path, tiny, number):
    recipe = short_recipe(checkpoint_seconds=1000)
    folder = tmp_path / "run"
    started = process(folder, recipe, halt=13)
    run_until(started, "step 13")
    started.send_signal(number)
    output, _ = started.communicate()
    assert started.returncode == 128 + number
    assert "stopped at iteration 13" in output
    (saved,) = run_folder.checkpoints(folder / "checkpoints")
    assert run_folder.read_checkpoint(saved)[1]["step"] == 13
    train(folder, recipe, tiny)
    assert_same_run(whole, folder)


class Signals(Quiet):
    """Sends signals to this process after the first step."""

    def __init__(self, *numbers):
        self.numbers = numbers

    def stepped(self, step):
        for number in self.numbers if step == 1 else ():
            signal.raise_signal(number)


@pytest.mark.parametrize("number", signal_handlers.STOPPING)
def test_each_signal_saves_and_those_of_batch_systems_may_repeat(tmp_path, tiny, number):
    recipe = short_recipe(iterations=2, checkpoint_seconds=1000)
    repeated = [number] if number == signal.SIGINT else [number, number, signal.SIGTERM]
    with pytest.raises(run.Interrupted) as stopped:
        train(tmp_path / "run", recipe, tiny, Signals(*repeated))
    assert (stopped.value.step, stopped.value.signal) == (1, number)
    assert len(run_folder.checkpoints(tmp_path / "run" / "checkpoints")) == 1


def test_a_second_ctrl_c_ends_at_once(tmp_path, tiny):
    recipe = short_recipe(iterations=2, checkpoint_seconds=1000)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "run", recipe, tiny, Signals(signal.SIGINT, signal.SIGINT))


def test_a_closed_terminal_does_not_stop_what_nohup_started(tmp_path, tiny):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        train(tmp_path / "run", short_recipe(iterations=2), tiny, Signals(signal.SIGHUP))
    finally:
        signal.signal(signal.SIGHUP, before)


def test_two_processes_never_train_in_one_folder(tmp_path, tiny):
    recipe = short_recipe()
    first = process(tmp_path / "run", recipe, halt=3)
    run_until(first, "step 3")
    with pytest.raises(UserError, match="another process is training"):
        train(tmp_path / "run", recipe, tiny)
    first.kill()
    first.communicate()
    train(tmp_path / "run", recipe, tiny)


class StopAt(Quiet):
    """Raises at a step, as a crash would."""

    def __init__(self, step):
        self.step = step

    def stepped(self, step):
        if step == self.step:
            raise RuntimeError("crash")


@given(crash=st.integers(1, 24), every=st.sampled_from([1, 2, 7, 100]))
@example(crash=24, every=1)
@example(crash=12, every=5)
@settings(max_examples=12, deadline=None, derandomize=True)
def test_resuming_after_a_crash_at_any_step_is_exact(whole, tiny, crash, every):
    """`every`: updates between checkpoints; metrics logged after the last one come again."""
    recipe = short_recipe(checkpoint_seconds=1e9)
    original = run.Run._after_update

    def sparse(self, log):
        original(self, log)
        if self.trainer.step % every == 0:
            self.save()

    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(run.Run, "_after_update", sparse)
        part = Path(folder, "run")
        with pytest.raises(RuntimeError, match="crash"):
            train(part, recipe, tiny, StopAt(crash))
        train(part, recipe, tiny)
        assert_same_run(whole, part)


def test_a_kill_between_the_last_checkpoint_and_the_model_is_repaired(whole, tmp_path, tiny):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run.Run, "_finish", lambda self: {})
        train(tmp_path / "part", short_recipe(), tiny)
    assert not (tmp_path / "part" / "model.safetensors").exists()
    train(tmp_path / "part", short_recipe(), tiny)
    assert_same_run(whole, tmp_path / "part")


def test_a_truncated_checkpoint_falls_back_to_the_one_before(whole, tmp_path, tiny):
    recipe = short_recipe()
    with pytest.raises(RuntimeError):
        train(tmp_path / "part", recipe, tiny, StopAt(15))
    _, newest = run_folder.checkpoints(tmp_path / "part" / "checkpoints")
    newest.write_bytes(newest.read_bytes()[:-1000])
    notes = []
    watch = Quiet()
    watch.note = notes.append
    train(tmp_path / "part", recipe, tiny, watch)
    assert any(newest.name in note and "trying the one before" in note for note in notes)
    assert newest.with_suffix(".damaged").exists()
    assert_same_run(whole, tmp_path / "part")


def test_damage_to_every_checkpoint_is_an_error(tmp_path, tiny):
    recipe = short_recipe()
    with pytest.raises(RuntimeError):
        train(tmp_path, recipe, tiny, StopAt(5))
    for path in run_folder.checkpoints(tmp_path / "checkpoints"):
        path.write_bytes(b"")
    with pytest.raises(UserError, match="no checkpoint can be read"):
        train(tmp_path, recipe, tiny)


def test_a_flipped_bit_falls_back_and_the_last_one_promises_nothing(tmp_path):
    for step in (1, 2):
        tensors = {"w": torch.full((8,), float(step))}
        run_folder.save_checkpoint(tmp_path, tensors, {"step": step})
    first, newest = run_folder.checkpoints(tmp_path)
    notes = []

    def flip(path):
        content = bytearray(path.read_bytes())
        content[-3] ^= 1
        path.write_bytes(content)

    flip(newest)
    whole = newest.read_bytes()
    tensors, facts = run_folder.latest_checkpoint(tmp_path, notes.append)
    assert (facts["step"], tensors["w"][0]) == (1, 1.0)
    assert notes[0].endswith("do not match their checksum); trying the one before")
    newest.write_bytes(whole)
    flip(first)
    notes.clear()
    with pytest.raises(UserError, match="no checkpoint can be read"):
        run_folder.latest_checkpoint(tmp_path, notes.append)
    assert [note.endswith("; trying the one before") for note in notes] == [True, False]


@pytest.mark.parametrize("what", ["network", "recipe"])
def test_a_checkpoint_of_another_network_or_recipe_is_refused(tmp_path, tiny, what):
    other = {"network": {"network": "cifar-resnet14"}, "recipe": {"seed": 9}}[what]
    for folder, changes in (("one", {}), ("other", other)):
        with pytest.raises(RuntimeError):
            train(tmp_path / folder, short_recipe(**changes), tiny, StopAt(3))
    for path in run_folder.checkpoints(tmp_path / "other" / "checkpoints"):
        path.replace(tmp_path / "one" / "checkpoints" / path.name)
    with pytest.raises(UserError, match=f"of another {what}"):
        train(tmp_path / "one", short_recipe(), tiny)


def test_only_two_checkpoints_are_kept(tmp_path, tiny):
    train(tmp_path, short_recipe(), tiny)
    found = run_folder.checkpoints(tmp_path / "checkpoints")
    assert [p.name for p in found] == [
        "checkpoint-00000023.safetensors",
        "checkpoint-00000024.safetensors",
    ]


def test_a_run_folder_has_a_name_of_utf_8(tmp_path):
    with pytest.raises(UserError, match="not a name of UTF-8"):
        run_folder.create(tmp_path / "\udcff", short_recipe(), short_recipe(), {})
    assert not any(tmp_path.iterdir())


def test_a_run_folder_is_never_overwritten(tmp_path, tiny):
    recipe = short_recipe(iterations=2, test_every=2)
    train(tmp_path / "run", recipe, tiny)
    before = weights(tmp_path / "run")
    for other in (recipe, short_recipe(iterations=12)):
        with pytest.raises(UserError, match=r"a finished run .* choose another --out; .* --init"):
            start(tmp_path / "run", other, tiny)
    start(tmp_path / "unfinished", recipe, tiny)
    with pytest.raises(UserError, match=r"exists already.*resnets resume"):
        start(tmp_path / "unfinished", recipe, tiny)
    with pytest.raises(UserError, match="another recipe"):
        start(tmp_path / "unfinished", short_recipe(seed=5), tiny)
    with (
        run_folder.locked(tmp_path / "unfinished"),
        pytest.raises(UserError, match="another process is training in this folder"),
    ):
        run_folder.refuse_running(tmp_path / "unfinished")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(UserError, match="not a run folder"):
        start(tmp_path / "mine", recipe, tiny)
    after = weights(tmp_path / "run")
    cut_off = tmp_path / "cut-off"  # killed between its first files
    (cut_off / "checkpoints").mkdir(parents=True)
    (cut_off / "environment.json").write_text("{}")
    start(cut_off, recipe, tiny)
    assert all(torch.equal(before[k], after[k]) for k in before)


def test_the_summary_explains_the_run(tmp_path, tiny):
    recipe = short_recipe()
    summary = train(tmp_path, recipe, tiny)
    assert json.loads((tmp_path / "summary.json").read_text()) == summary
    model = hub.load(str(tmp_path))
    measured, provenance = model.card["measured"][0], model.card["provenance"]
    assert measured["error"] == summary["measured"]["error"]
    assert Recipe.model_validate_json(json.dumps(provenance["recipe"])) == recipe
    for key in ("hardware", "packages", "commit", "seconds", "command", "settings"):
        assert key in provenance
    last = [r for r in read_metrics(tmp_path) if "test_error" in r][-1]
    assert last["step"] == recipe.iterations
    assert last["test_error"] == pytest.approx(measured["error"], abs=1e-3)
    assert list((tmp_path / "tensorboard").iterdir())


def test_it_learns(tmp_path, tiny):
    recipe = short_recipe(iterations=96, test_every=96, progressive=None, checkpoint_seconds=99)
    assert train(tmp_path, recipe, tiny)["measured"]["error"] < 25


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_disk_that_fills_while_logging_is_one_line(tmp_path, tiny, monkeypatch):
    original = run_folder.MetricsLog.__init__

    def full(self, folder, step, note):
        original(self, folder, step, note)
        self._file = Path("/dev/full").open("a")  # noqa: SIM115

    monkeypatch.setattr(run_folder.MetricsLog, "__init__", full)
    with pytest.raises(UserError, match=r"metrics.jsonl: cannot write: No space left"):
        train(tmp_path, short_recipe(), tiny)


def test_the_card_keeps_the_command_that_began_the_run(tmp_path, tiny):
    with pytest.raises(RuntimeError):
        train(tmp_path, short_recipe(), tiny, StopAt(3))
    assert train(tmp_path, short_recipe(), tiny)["provenance"]["command"] == "test"


def test_a_changed_environment_is_reported(tmp_path, tiny):
    with pytest.raises(RuntimeError):
        train(tmp_path, short_recipe(), tiny, StopAt(3))
    path = tmp_path / "environment.json"
    facts = json.loads(path.read_text())
    facts["threads"] += 1
    path.write_text(json.dumps(facts))
    notes = []
    watch = Quiet()
    watch.note = notes.append
    train(tmp_path, short_recipe(), tiny, watch)
    assert any("not repeat bit for bit" in note and "threads" in note for note in notes)


def test_divergence_stops_with_a_line_and_keeps_the_last_good_checkpoint(tmp_path, tiny):
    original = Trainer.batch

    def poisoned(self, part=0):
        images, labels = original(self, part)
        return images * (float("nan") if self.step >= 7 else 1), labels

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "batch", poisoned)
        recipe = short_recipe(checkpoint_seconds=0)
        with pytest.raises(UserError, match=r"diverged.*checkpoint-00000007"):
            train(tmp_path, recipe, tiny)
    tensors, _ = run_folder.latest_checkpoint(tmp_path / "checkpoints", print)
    assert all(torch.isfinite(t).all() for t in tensors.values())


@pytest.mark.parametrize("step", [0, 3])
def test_a_recipe_that_was_changed_by_hand_is_said(tmp_path, tiny, step):
    """Without a checkpoint the run would begin as another one."""
    recipe = short_recipe(iterations=6, test_every=3)
    made = start(tmp_path, recipe, tiny)
    for _ in range(step):
        made.trainer.update()
    if step:
        made.save()
    made.trainer.batches.close()
    path = tmp_path / "recipe.json"
    whole = path.read_text()
    path.write_text(whole.replace('"lr": 0.1', '"lr": 0.2'))
    message = r"recipe.json: the recipe was changed since the run began; restore it; .*: test$"
    with pytest.raises(UserError, match=message):
        start_or_resume(tmp_path, recipe, tiny, Quiet())
    began = (tmp_path / "environment.json").read_text()
    (tmp_path / "environment.json").unlink()  # then only a checkpoint can tell
    if step:
        message = "checkpoint is of another recipe .* came from, or restore its recipe.json"
        with pytest.raises(UserError, match=message):
            start_or_resume(tmp_path, recipe, tiny, Quiet())
    path.write_text(whole)
    (tmp_path / "environment.json").write_text(began)
    start_or_resume(tmp_path, recipe, tiny, Quiet()).trainer.batches.close()


def test_a_second_start_does_not_change_the_first(tmp_path, tiny):
    first = process(tmp_path / "run", short_recipe(), halt=3)
    run_until(first, "step 3")
    before = {p.name: p.read_bytes() for p in (tmp_path / "run").glob("*.json")}
    with pytest.raises(UserError, match="another process is training"):
        start(tmp_path / "run", short_recipe(seed=1), tiny)
    first.kill()
    first.communicate()
    with pytest.raises(UserError, match="another recipe"):
        start(tmp_path / "run", short_recipe(seed=1), tiny)
    after = {p.name: p.read_bytes() for p in (tmp_path / "run").glob("*.json")}
    assert before == after


class Notes(Quiet):
    """Keeps what a run says."""

    def __init__(self):
        self.lines = []

    def note(self, text):
        self.lines.append(text)


@pytest.mark.parametrize("damage", [b'{"a": 1}\n', b"3\n", b"\xff\xfe not JSON\n"])
def test_damaged_metrics_are_left_out_and_said(whole, tmp_path, tiny, damage):
    part, notes = tmp_path / "part", Notes()
    with pytest.raises(RuntimeError):
        train(part, short_recipe(), tiny, StopAt(15))
    path = part / "metrics.jsonl"
    before = path.read_bytes()
    path.write_bytes(damage + before + b'{"step": 15, "cut')
    train(part, short_recipe(), tiny, notes)
    assert [line for line in notes.lines if "metrics" in line] == [
        f"{path}: 1 line of no metrics left out"
    ]
    assert_same_run(whole, part)


DAMAGE = {
    "environment.json": [None, b"", b"[]", b"{}", b"\xff", "settings"],
    "metrics.jsonl": [None, b""],
    "tensorboard": [None],
    "pictures": [None],
}


@pytest.mark.parametrize("name", DAMAGE)
def test_what_a_run_does_not_need_may_be_missing_or_damaged(whole, tmp_path, tiny, name):
    with pytest.raises(RuntimeError):
        train(tmp_path / "start", short_recipe(), tiny, StopAt(15))
    for number, damage in enumerate(DAMAGE[name]):
        part, notes = tmp_path / str(number), Notes()
        shutil.copytree(tmp_path / "start", part)
        path = part / name
        if damage == "settings":
            damage = json.dumps({**json.loads(path.read_bytes()), "settings": 3}).encode()
        if damage is None:
            shutil.rmtree(path, ignore_errors=True)
            path.unlink(missing_ok=True)
        else:
            path.write_bytes(damage)
        train(part, short_recipe(), tiny, notes)
        for tensor, value in weights(whole).items():
            assert torch.equal(weights(part)[tensor], value)
        said = any("is written anew; whether images and machine" in line for line in notes.lines)
        assert said == (name == "environment.json")
        facts = run_folder.read_environment(part)
        assert facts["plan"] == short_recipe().content_hash()
        assert facts["command"] == (f"resnets resume {part}" if said else "test")
        assert facts["threads"] == torch.get_num_threads()


def test_whose_run_a_folder_without_environment_is(tmp_path, tiny):
    recipe, folder = short_recipe(), tmp_path / "run"
    start(folder, recipe, tiny)
    (folder / "environment.json").unlink()
    assert run_folder.is_run_of(folder, recipe)
    assert not run_folder.is_run_of(folder, short_recipe(seed=5))
    with pytest.raises(UserError, match="exists already"):
        start(folder, recipe, tiny)
    epochs = make_recipe(iterations=None, epochs=2, progressive=None)
    with pytest.raises(UserError, match=r"environment.json: is missing.*resnets resume"):
        run_folder.is_run_of(folder, epochs)


def test_what_a_kill_leaves_is_cleaned(whole, tmp_path, tiny):
    """Temporary files of every file of a run folder, at its start, in it and after its end."""
    names = ("recipe.json", "environment.json", "metrics.jsonl", "summary.json", "curve.png",
             "model.safetensors", "checkpoints/checkpoint-00000003.safetensors",
             "pictures/detections-00000003.jpg")  # fmt: skip
    folder = tmp_path / "run"

    def leave():
        left = []
        for name in names:
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            left.append(path.with_name(f".{path.name[:40]}.x3k_9abz"))
            left[-1].write_bytes(b"half")
        return left

    left = leave()[:2]
    for path in folder.rglob(".*.x3k_9abz"):  # a start writes the first two only
        if path not in left:
            path.unlink()
    (folder / "pictures").rmdir()
    run_folder.refuse_existing(folder, short_recipe())
    start(folder, short_recipe(), tiny)
    assert not any(path.exists() for path in left)
    left = leave()
    with pytest.raises(RuntimeError):
        train(folder, short_recipe(), tiny, StopAt(15))
    assert not any(path.exists() for path in left)
    left = leave()
    train(folder, short_recipe(), tiny)
    assert not any(path.exists() for path in left)
    assert_same_run(whole, folder)


def test_a_run_of_version_1_of_the_recipe_hash_resumes(whole, tmp_path, tiny):
    recipe, folder = short_recipe(), tmp_path / "run"
    with pytest.raises(RuntimeError):
        train(folder, recipe, tiny, StopAt(15))
    path = folder / "environment.json"
    facts = json.loads(path.read_text())
    facts["plan"] = facts["recipe_hash"] = recipe._hash_v1()
    path.write_text(json.dumps(facts))
    for saved in run_folder.checkpoints(folder / "checkpoints"):
        tensors, facts = run_folder.read_checkpoint(saved)
        facts["recipe"] = recipe._hash_v1()
        run_folder.save_checkpoint(saved.parent, tensors, facts)
    assert run_folder.is_run_of(folder, recipe)
    assert not run_folder.is_run_of(folder, short_recipe(seed=5))
    train(folder, recipe, tiny)
    assert_same_run(whole, folder)
