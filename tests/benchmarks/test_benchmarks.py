"""Benchmarks run, compare what they name, and compute ratios and lines correctly."""

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import __main__ as main
from benchmarks import detection, inference, inputs, measure, scaling, startup, training
from benchmarks.isolated import IsolatedContender
from resnets.data import cifar
from resnets.support import timing
from resnets.support.errors import UserError
from tests.benchmarks import busy

CPU = torch.device("cpu")


def quiet(line):
    pass


def test_rounds_alternate_and_count_images():
    calls = []
    values = timing.throughput(
        {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 10, 3, 0.001
    )
    assert [len(found) for found in values.values()] == [3, 3]
    assert all(rate > 0 for found in values.values() for rate in found)
    order = [x for i, x in enumerate(calls) if i == 0 or calls[i - 1] != x]
    assert order == ["a", "b"] * 3


def test_the_command_line_has_short_help_and_one_line_errors(monkeypatch, capsys):
    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["benchmarks", *arguments])
        code = 0
        try:
            main.run(main.app, "python -m benchmarks")
        except SystemExit as stopped:
            code = stopped.code
        return code, *capsys.readouterr()

    code, out, err = call("-h")
    assert (code, err) == (0, "")
    assert "scale" in out
    assert "completion" not in out
    code, out, err = call("scale", "--depest", "20")
    assert (code, out) == (2, "")
    assert err.startswith("resnets: scale: unknown option --depest; did you mean --deepest")
    assert call()[:2] == (2, "")


def test_rows_are_medians_ratios_and_shares_of_the_peak():
    found = measure.rows({"peer": [10, 30, 20], "ours": [50, 70, 60]}, "peer", 2.0, {"ours": 1200})
    assert found[0] == measure.Row("peer", 20, 10, 30, 1.0, None)
    assert found[1] == measure.Row("ours", 60, 50, 70, 3.0, 10.0)
    assert measure.rows({"a": [2.0]}, None)[0].ratio is None


def test_the_peak_is_that_of_a_matrix_product():
    assert 1e8 < measure.peak(torch.float32, CPU, side=256, rounds=3) < 1e15


def test_a_straight_line_is_found_and_what_lies_off_it():
    line = scaling.fit_line([1, 2, 4, 8], [5, 7, 11, 19])
    assert line["fixed"] == pytest.approx(3)
    assert line["each"] == pytest.approx(2)
    assert line["off"] == [0, 0, 0, 0]
    bent = scaling.fit_line([1, 2, 4, 8], [5, 7, 11, 40])
    assert max(map(abs, bent["off"])) > 10
    assert scaling.fit_line([1, 1, 1], [4, 5, 6]) == {"fixed": 5, "each": 0, "off": [-20, 0, 20]}


def test_memory_that_a_step_keeps_grows_with_depth():
    shallow, deep = (scaling._Step(depth, 2, 16, CPU).saved_megabytes() for depth in (8, 20))
    assert 2 < deep / shallow < 3.5  # three times the blocks


def test_growth_is_measured_against_depth_batch_and_resolution(monkeypatch):
    monkeypatch.setattr(scaling, "DEPTHS", (8, 14, 200))
    monkeypatch.setattr(scaling, "BATCHES", (2, 4))
    monkeypatch.setattr(scaling, "SIZES", (8, 16))
    tables = scaling.measure(deepest=20, rounds=1, seconds=0.001, device=CPU, report=quiet)
    assert [table.title.split()[-1] for table in tables] == [
        "depth", "depth", "batch", "batch", "resolution", "resolution",
    ]  # fmt: skip
    assert [row.name for row in tables[0].rows] == ["8 layers", "14 layers"]
    memory = [row.median for row in tables[5].rows]
    assert 3 < memory[1] / memory[0] < 4.5  # four times the pixels
    json.dumps(measure.document("scale", tables, CPU))


def test_a_report_holds_the_command_that_repeats_it(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["__main__.py", "infer", "--network", "a b"])
    document = measure.document("infer", [], CPU)
    assert document["command"] == "python -m benchmarks infer --network 'a b'"


def _counting(limit):
    calls = iter(range(limit))
    return lambda: next(calls)


def test_a_contender_in_a_process_of_its_own_runs_and_fails_there():
    contender = IsolatedContender(_counting, 2)
    try:
        contender()
        contender()
        with pytest.raises(RuntimeError, match="StopIteration"):
            contender()
    finally:
        contender.close()
    with pytest.raises(RuntimeError, match="has ended"):
        contender()


def wait_for(true):
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def ended(number):
    """Whether a process is gone, or only waits to be counted."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc")


@needs_proc
def test_a_contender_that_is_busy_ends_at_once_with_all_that_it_started(tmp_path):
    contender = IsolatedContender(busy.make, tmp_path / "note")
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(contender)
        wait_for((tmp_path / "note").exists)
        started = time.monotonic()
        contender.close()
        assert time.monotonic() - started < 5
        with pytest.raises(RuntimeError, match="has ended"):
            running.result()
    wait_for(lambda: ended((tmp_path / "note").read_text()))


@needs_proc
def test_ctrl_c_ends_a_benchmark_with_code_130(tmp_path):
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from benchmarks import training\n"
        "from benchmarks.isolated import IsolatedContender\n"
        "from benchmarks.__main__ import app, run\n"
        "from tests.benchmarks import busy\n"
        "training.cifar.load = lambda name, report: None\n"
        "peer = IsolatedContender(busy.make, Path(sys.argv.pop()))\n"
        "training._cifar_contenders = lambda *_: {training.PUBLISHED: peer}\n"
        "run(app, 'bench')\n"
    )
    bench = subprocess.Popen(
        [sys.executable, "-c", code, "train", "--device", "cpu", tmp_path / "note"],
        cwd=Path(__file__).parents[2],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    wait_for((tmp_path / "note").exists)
    started = time.monotonic()
    os.killpg(bench.pid, signal.SIGINT)  # as a terminal does
    _, said = bench.communicate(timeout=60)
    assert time.monotonic() - started < 5
    assert bench.returncode == 130
    assert "resnets: first step of contender 1 of 1: published loop ..." in said.splitlines()
    assert "Traceback" not in said
    wait_for(lambda: ended((tmp_path / "note").read_text()))


def measure_training(network, batch):
    return training.measure(
        network,
        batch=batch,
        rounds=1,
        seconds=0.001,
        device=CPU,
        compiled=False,
        workers=0,
        report=quiet,
    )


def test_training_is_compared_with_the_published_loop(monkeypatch):
    random = np.random.default_rng(0)
    images = cifar.ImageArrays(
        random.integers(0, 256, (64, 3, 32, 32), np.uint8), random.integers(0, 10, 64)
    )
    monkeypatch.setattr(cifar, "load", lambda name, report: cifar.Cifar(images, images))
    monkeypatch.setattr(training, "peak", lambda *given: measure.peak(*given, side=256, rounds=3))
    table = measure_training("cifar-resnet8", 8)
    assert [row.name for row in table.rows] == ["published loop", "resnets"]
    assert table.rows[0].ratio == 1
    assert table.rows[1].peak > 0
    assert 70e6 < table.facts["operations_per_image"] < 80e6  # 6 x 12.4 million multiply-adds


def test_photographs_are_compared_with_torchvision(monkeypatch):
    monkeypatch.setattr(training, "peak", lambda *given: measure.peak(*given, side=256, rounds=3))
    table = measure_training("resnet18", 2)
    names = [row.name for row in table.rows]
    assert names[0] == table.peer == "torchvision, float32, NCHW"
    assert names[-1] == "resnets"
    with pytest.raises(UserError, match="no peer has 'plain34'"):
        measure_training("plain34", 2)


def test_detectors_are_compared_with_torchvisions():
    table = detection.training(
        "resnet18", size=32, rois=2, rounds=1, seconds=0.01, device=CPU, report=quiet
    )
    assert table.rows[0].name == table.peer == "torchvision FasterRCNN, fp32"
    assert table.rows[1].name == "resnets, fp32"
    assert all(row.median > 0 for row in table.rows)


def test_searches_of_detectors_are_compared_with_torchvisions(monkeypatch):
    monkeypatch.setattr(detection, "find_spec", lambda name: None)  # calibration takes seconds
    table = detection.inference(
        "resnet18", size=32, regions=2, rounds=1, seconds=0.01, device=CPU, report=quiet
    )
    assert table.rows[0].name == table.peer == "torchvision FasterRCNN, fp32"
    assert table.rows[1].name == "resnets, PyTorch fp32"
    assert all(row.median > 0 for row in table.rows)


def test_a_comparison_of_detectors_needs_all_regions():
    with pytest.raises(RuntimeError, match="regions, not 1000"):
        detection.training(
            "resnet18", size=32, rois=1000, rounds=1, seconds=0.01, device=CPU, report=quiet
        )


def test_inference_is_compared_with_other_engines(monkeypatch):
    pytest.importorskip("openvino")
    monkeypatch.setattr(inference, "peak", lambda *given: measure.peak(*given, side=256, rounds=3))
    tables = inference.measure(
        "cifar-resnet8", rounds=1, seconds=0.001, device=CPU, compiled=False, report=quiet
    )
    assert [table.title for table in tables] == [
        "inference cifar-resnet8, batch 1, 32 pixels",
        "inference cifar-resnet8, batch 16, 32 pixels",
    ]
    names = [row.name for row in tables[1].rows]
    assert {"torch, eager, float32", "OpenVINO, float32"} < set(names)
    assert any("the default" in name for name in names)


def test_input_is_compared_with_torchvision(tmp_path):
    from PIL import Image

    random = np.random.default_rng(0)
    for number in range(32):
        pixels = random.integers(0, 256, (30, 40, 3), np.uint8)
        (tmp_path / f"class{number % 2}").mkdir(exist_ok=True)
        picture = Image.fromarray(pixels).resize((320, 260))
        picture.save(tmp_path / f"class{number % 2}" / f"{number}.jpg")
    threads = torch.get_num_threads()
    tables = inputs.measure(tmp_path, images=32, rounds=1, dali=False, report=quiet)
    assert torch.get_num_threads() == threads
    for table in tables:
        assert [row.name for row in table.rows] == ["torchvision", "resnets"]
        assert table.facts["grey_levels_apart"]["resnets"] < 1


def test_a_command_that_fails_is_told(monkeypatch):
    with pytest.raises(UserError, match="unknown model 'resnet999'"):
        startup.measure("resnet999", 1, quiet)


def test_all_benchmarks_one_after_the_other_and_their_ratios(monkeypatch, tmp_path, capsys):
    from benchmarks import __main__ as verbs

    def table(title):
        values = {"peer": [2.0], "other": [3.0], "resnets": [5.0], "resnets, slower": [1.0]}
        return measure.Table(title, "images/s", "peer", measure.rows(values, "peer"), {})

    def train(network, **options):
        if network == "cifar-resnet110":
            raise UserError("out of memory")
        return table(f"training {network}")

    monkeypatch.setattr(training, "measure", train)
    monkeypatch.setattr(inference, "measure", lambda name, **_: [table(f"inference {name}")])
    monkeypatch.setattr(startup, "measure", lambda *_: table("startup"))
    monkeypatch.setattr(scaling, "measure", lambda **_: [table("scale")])
    monkeypatch.setattr(scaling, "processes", lambda *_: table("processes"))
    with pytest.raises(UserError, match="no such folder"):
        verbs.everything(tmp_path / "reports", device="cpu")
    verbs.everything(tmp_path, device="cpu")
    out, err = capsys.readouterr()
    assert "training cifar-resnet56: 2.50 x resnets; 1.50 x other" in out
    assert "processes: 2.50 x resnets; 1.50 x other" in out
    assert "train-cifar-resnet110: out of memory" in err
    assert {path.name for path in tmp_path.iterdir()} == {
        "train-cifar-resnet20-cpu.json", "train-cifar-resnet56-cpu.json",
        "train-resnet50-cpu.json", "infer-resnet50-cpu.json", "infer-cifar-resnet20-cpu.json",
        "startup-cpu.json", "scale-cpu.json",
    }  # fmt: skip
