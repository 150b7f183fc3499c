"""The command line as a user meets it: output, one-line errors, exit codes."""

import io
import json
import os
import re
import subprocess
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from resnets.cli import predict
from resnets.data import cifar
from resnets.data.cifar_classes import CLASSES
from resnets.data.preprocessing import Preprocessing
from resnets.inference.engines import TorchRuntime
from resnets.models import zoo
from resnets.weights import model_file
from tests.conftest import draw_photos


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "model.safetensors"
    network = zoo.build("cifar-resnet8", 10)
    card = model_file.make_card("cifar-resnet8", list(CLASSES["cifar10"]), {}, [])
    preprocessing = Preprocessing(32, 32, mean=model_file.torch.zeros(3, 32, 32))
    model_file.save(path, network.state_dict(), preprocessing, card)
    return path


def one_line(error):
    """The single line that explains a mistake."""
    lines = error.strip().splitlines()
    assert len(lines) == 1, error
    assert lines[0].startswith("resnets: ")
    return lines[0]


SETTINGS = (
    "batch=50", "iterations=6", "test_every=3", "log_every=2", "schedule.warmup=2",
    "progressive.until=3",
)  # fmt: skip
SMALL = ("--network", "cifar-resnet8", *(word for s in SETTINGS for word in ("--set", s)))


@pytest.mark.parametrize(
    "verb",
    [
        "",
        "info",
        "train",
        "resume",
        "eval",
        "ensemble",
        "predict",
        "explain",
        "serve",
        "export",
        "quantize",
    ],
)
def test_help_fits_a_screen_and_shows_an_example(resnets, verb):
    code, out, _ = resnets(*([verb] if verb else []), "--help")
    assert code == 0
    assert len(out.splitlines()) <= (26 if verb == "eval" else 24)
    assert ("-h, --help" if verb else "[--version] [-h|--help]") in out
    assert not verb or f"Example: resnets {verb}" in out


@pytest.mark.parametrize("verb", [(), ("paper",)])
def test_without_a_verb_the_help_goes_to_stderr_with_exit_code_2(resnets, verb):
    code, out, err = resnets(*verb)
    assert (code, out) == (2, "")
    assert err == resnets(*verb, "-h")[1]
    assert "completion" not in err


def test_info_shows_stages_shortcuts_and_the_papers_figures(resnets):
    code, out, _ = resnets("info", "cifar-resnet110")
    assert code == 0
    for text in ("1,727,962", "1.7M", "252.89 M", "zero-pad", "16 x 32 x 32", "6.43 %", "6.61"):
        assert text in out
    gates = resnets("info", "cifar-highway19")[1]
    assert all(text in gates for text in ("shortcuts with gates", "6 single", "highway", "2.3M"))
    assert "pre-activation" in resnets("info", "cifar-preact164")[1]
    facts = json.loads(resnets("info", "resnet50", "--json")[1])
    assert facts["parameters"] == 25_557_032
    assert facts["paper"]["multiply_adds"] == 3.8e9
    assert [s["kind"] for s in facts["shortcuts"]].count("projection") == 4
    table = resnets("info")[1]
    assert all(name in table for name in zoo.names())
    assert json.loads(resnets("info", "vgg16", "--json")[1])["layers"] == 16


def test_train_eval_predict_resume(resnets, real_shape, tmp_path):
    code, out, _ = resnets("train", "cifar10-smoke", *SMALL, "--out", "run")
    assert code == 0
    assert "test error" in out
    assert (tmp_path / "run" / "curve.png").exists()
    code, out, _ = resnets("eval", "run", "--plot", "c.png")
    assert code == 0
    assert "single view of the original 32x32 image" in out
    assert "airplane" in out
    assert Image.open(tmp_path / "c.png").format == "PNG"
    facts = json.loads(resnets("eval", "run", "--json")[1])
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert facts["confusion"] == summary["measured"]["confusion"]
    assert np.sum(facts["confusion"]) == len(real_shape.test)
    Image.new("RGB", (300, 200), "teal").save(tmp_path / "photo.jpg")
    code, out, _ = resnets("predict", "run", "photo.jpg")
    assert code == 0
    assert len(out.splitlines()) == 6
    code, out, _ = resnets("resume", "run")
    assert code == 0
    assert "finished" in out
    code, _, err = resnets("train", "cifar10-smoke", *SMALL, "--out", "run")
    assert code == 2
    assert "to train on from its weights, use --init run" in one_line(err)
    code, _, err = resnets("train", "cifar10-smoke", *SMALL, "--init", "run", "--out", "run")
    assert (code, one_line(err).partition("; ")[2]) == (2, "choose another --out")
    assert resnets("train", "cifar10-smoke", *SMALL, "--out", "run", "--resume")[0] == 0
    code, _, err = resnets(
        "train", "cifar10-smoke", *SMALL, "--seed", "4", "--out", "run", "--resume"
    )
    assert code == 2
    assert "a finished run is in this folder" in one_line(err)
    code, out, _ = resnets("train", "cifar10-smoke", *SMALL, "--init", "run", "--out", "longer")
    assert (code, "test error" in out) == (0, True)


@pytest.mark.parametrize(("classes", "status"), [(11, 2), (10, 0)])
def test_more_classes_than_there_are_is_refused(resnets, real_shape, classes, status):
    stop = ("--set", "iterations=2", "--set", "progressive.until=1", "--set", "log_every=1")
    code, out, err = resnets("train", "cifar10-fast", *SMALL, *stop, "--classes", classes)
    assert code == status, err
    assert ("cifar10: has 10 classes only, not 11" in err) == (status == 2)
    assert ("classes: airplane, automobile, bird" in out) == (status == 0)


def test_names_that_are_not_utf8_are_printed_escaped(resnets, model, tmp_path):
    name = os.fsdecode(b"caf\xe9.png")
    try:
        Image.new("RGB", (32, 32)).save(tmp_path / name)
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    code, out, err = resnets("predict", model, name)
    assert (code, err) == (0, "")
    assert "caf\\udce9.png" in out


def test_names_do_not_break_lines_or_move_the_cursor(resnets, model, tmp_path):
    names = ["a\nb.png", "\x1b[2Jc.png", "empty\n.png"]
    for name in names[:2]:
        Image.new("RGB", (32, 32)).save(tmp_path / name)
    (tmp_path / names[2]).touch()
    code, out, err = resnets("predict", model, *names)
    assert code == 1
    assert "a\\nb.png" in out
    assert "\\x1b[2Jc.png" in out
    assert "empty\\n.png: the file is empty" in one_line(err)


def test_predict_reads_standard_input(resnets, model, tmp_path, monkeypatch):
    content = io.BytesIO()
    Image.new("RGB", (32, 32), "red").save(content, "PNG")
    (tmp_path / "red.png").write_bytes(content.getvalue())

    def given(content):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))

    given(content.getvalue())
    code, out, err = resnets("predict", model, "-", "red.png", "-", "--json")
    assert (code, err) == (0, "")
    piped, read = map(json.loads, out.splitlines())
    assert (piped["image"], read["image"], piped["top"]) == ("-", "red.png", read["top"])
    given(b"words")
    code, out, err = resnets("predict", model, "-")
    assert (code, out) == (1, "")
    assert "-: not an image" in one_line(err)
    code, _, err = resnets("predict", model, "-", "--out", "a.csv")
    assert code == 2
    assert "no name to resume from; leave out --out" in one_line(err)
    for name, words in (
        ("ftp://x.example/a.png", "cannot open ftp URLs; give http"),
        ("", "the name of an image is empty"),
    ):
        code, _, err = resnets("predict", model, name)
        assert code == 2
        assert words in one_line(err)
    ray = ("--launcher", "ray", "--out", "a.csv")
    code, _, err = resnets("predict", model, "https://x.example/a.png", *ray)
    assert "a cluster can read files only" in one_line(err)
    assert not (tmp_path / "a.csv").exists()
    code, _, err = resnets("explain", model, "https://x.example/a.png", "--out", "why")
    assert code == 2
    assert "is a URL, not a file; download it first" in one_line(err)


def test_predict_retries_images_that_could_not_be_read(resnets, model, tmp_path):
    Image.new("RGB", (32, 32)).save(tmp_path / "good.png")
    (tmp_path / "late.png").touch()
    command = ("predict", model, "good.png", "late.png", "./good.png", "--out", "a.csv")
    code, out, _ = resnets(*command)
    assert (code, out) == (1, "2 images predicted in a.csv\n")
    Image.new("RGB", (32, 32)).save(tmp_path / "late.png")
    assert resnets(*command)[0] == 1
    code, out, err = resnets(*command, "--retry")
    assert (code, out, err) == (0, "1 image predicted in a.csv, 1 were there already\n", "")
    for options in (("--retry",), ("--launcher", "ray"), ("--launcher", "rya", "--out", "b.csv"),
                    ("--json", "--out", "b.csv")):  # fmt: skip
        code, _, err = resnets("predict", model, "good.png", *options)
        assert code == 2
        assert options[0] in one_line(err)
    assert not (tmp_path / "b.csv").exists()


def test_the_bar_of_predictions_ends_at_the_last_image(resnets, model, tmp_path, monkeypatch):
    reports = []
    monkeypatch.setattr(
        predict, "progress_bar", lambda what: nullcontext(lambda *at: reports.append(at))
    )
    for number in range(5):
        Image.new("RGB", (32, 32)).save(tmp_path / f"{number}.png")
    images = [f"{number}.png" for number in range(5)]
    assert resnets("predict", model, *images, "--batch", "2", "--out", "a.csv")[0] == 0
    assert reports == [(2, 5), (4, 5), (5, 5)]


def test_predict_reads_images_of_all_formats(resnets, model, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 4), dtype=np.uint8)
    Image.fromarray(noise[..., :3]).save(tmp_path / "rgb.jpg")
    Image.fromarray(noise).save(tmp_path / "alpha.png")
    Image.fromarray(noise[..., 0]).save(tmp_path / "grey.png")
    Image.fromarray(noise[..., :3]).convert("P").save(tmp_path / "palette.png")
    Image.fromarray(noise[..., :3]).convert("CMYK").save(tmp_path / "cmyk.jpg")
    Image.fromarray(noise[..., 0].astype(np.uint16) * 257).save(tmp_path / "wide.png")
    Image.fromarray(noise[..., :3]).save(tmp_path / "web.webp")
    names = ["rgb.jpg", "alpha.png", "grey.png", "palette.png", "cmyk.jpg", "wide.png", "web.webp"]
    code, out, _ = resnets("predict", model, "--json", "--top", "3", *names)
    assert code == 0
    rows = [json.loads(line) for line in out.splitlines()]
    assert [row["image"] for row in rows] == names
    for row in rows:
        chances = [entry["probability"] for entry in row["top"]]
        assert len(chances) == 3
        assert chances == sorted(chances, reverse=True)


def test_predict_writes_the_predictions_of_folders_and_resumes(resnets, model, tmp_path):
    for number in range(3):
        path = tmp_path / "photos" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (40, 40), (80 * number, 0, 0)).save(path)
    code, out, err = resnets("predict", model, "photos", "--out", "a.jsonl", "--batch", "2")
    assert (code, err) == (0, "")
    assert "3 images predicted in a.jsonl" in out
    (tmp_path / "photos" / "bad.jpg").write_text("nothing")
    code, out, err = resnets("predict", model, "photos", "--out", "a.jsonl")
    assert code == 1
    assert "1 image predicted in a.jsonl, 3 were there already" in out
    assert "1 image could not be read" in one_line(err)
    rows = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert [row["image"] for row in rows] == [
        f"photos/{n}" for n in ("0.png", "1.png", "2.png", "bad.jpg")
    ]
    assert rows[3]["error"].startswith("not an image")
    code, out, err = resnets("predict", model, "photos", "--out", "a.jsonl")
    assert code == 1  # though it was found out before
    assert "0 images predicted in a.jsonl, 4 were there already" in out
    assert "1 image could not be read" in one_line(err)
    code, _, err = resnets("predict", model, "photos", "--out", "a.jsonl", "--top", "2")
    assert code == 2
    assert "other options" in one_line(err)
    code, _, err = resnets("predict", "photos/0.png")
    assert code == 2
    code, _, err = resnets("predict", "photos/0.png", "photos/1.png")
    assert code == 2
    assert "the model comes first" in one_line(err)
    code, _, err = resnets("predict", model, "photos", "--embeddings")
    assert "--out" in one_line(err)


@pytest.mark.parametrize("out", [(), ("--out", "a.csv")])
def test_a_batch_too_large_for_the_memory_is_one_line(resnets, model, tmp_path, monkeypatch, out):
    def refuse(*arguments):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(TorchRuntime, "__call__", refuse)
    Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
    code, _, err = resnets("predict", model, "a.png", "--runtime", "torch", *out)
    assert code == 2
    assert "--batch" in one_line(err)


def test_embeddings_of_a_network_without_any_leave_nothing(resnets, tmp_path, monkeypatch):
    card = model_file.make_card("vgg16", ["a", "b"], {}, [])
    preprocessing = Preprocessing(32, 32, mean=torch.zeros(3, 1, 1))
    vgg = model_file.Model(nn.Identity(), card, preprocessing)
    monkeypatch.setattr(model_file, "load", lambda name: vgg)
    Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
    model_file.save(tmp_path / "m.safetensors", {}, preprocessing, card)
    before = sorted(tmp_path.iterdir())
    command = ("predict", "m.safetensors", "a.png", "--runtime", "torch", "--embeddings")
    code, _, err = resnets(*command, "--out", "a.jsonl")
    assert code == 2
    assert "no pooled features" in one_line(err)
    assert sorted(tmp_path.iterdir()) == before


def bad_image(path):
    """Make a bad file; its name says of which kind."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    match path.stem:
        case "empty":
            path.write_bytes(b"")
        case "words":
            path.write_text("not an image at all")
        case "cut":
            noise.save(path)
            path.write_bytes(path.read_bytes()[:900])
        case "bomb":  # more pixels than Pillow opens
            Image.new("1", (20_000, 9_000)).save(path)
        case "large":  # more than we do
            Image.new("1", (13_000, 9_000)).save(path)
        case "spoilt":
            noise.save(path)
            content = path.read_bytes()
            start = content.index(b"mdat") + 4
            path.write_bytes(content[:start] + b"\xff" * 40 + content[start + 40 :])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("absent.png", "no such image"),
        ("empty.jpg", "the file is empty"),
        ("words.png", "not an image"),
        ("cut.jpg", "cannot be read"),
        ("bomb.png", "too large"),
        ("large.png", "too large"),
        ("spoilt.avif", "cannot be read"),
    ],
)
def test_a_bad_image_is_one_line_and_the_good_ones_are_predicted(
    resnets, model, tmp_path, name, message
):
    bad_image(tmp_path / name)
    Image.new("RGB", (64, 64), "red").save(tmp_path / "good.png")
    code, out, err = resnets("predict", model, name, "good.png")
    assert code == 1
    assert message in one_line(err)
    assert name in err
    assert "good.png" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("info", "resnet5"), "did you mean resnet50"),
        (("train", "cifar10-fats"), "did you mean cifar10-fast"),
        (("train", "cifar10-fast", "--network", "cifar-resnt56"), "did you mean cifar-resnet56"),
        (("train", "cifar10-fast", "--set", "batchs=3"), "did you mean batch"),
        (("train", "cifar10-fast", "--set", "batch=0"), "should be at least 2, not 0"),
        (("train", "cifar10-fast", "--device", "cuda:7"), "no device 'cuda:7'"),
        (("train", "cifar10-fast", "--data", "nowhere"), "no such file or folder"),
        (("resume", "nowhere"), "not a run folder"),
        (("eval", "cifar-resnet2O"), "did you mean cifar-resnet20"),
        (("eval", "model.safetensors", "cifar11"), "did you mean cifar10"),
        (("eval", "model.safetensors", "--plot", "x.gif"), "ending in .png"),
        (("eval", "nowhere/model.safetensors"), "no such model file"),
        (("predict", "cifar-resnet21", "photo.jpg"), "did you mean cifar-resnet20"),
        (("predict", "resnet50", "photo.jpg"), "a network, not a trained model; did you mean res"),
        (("info", "cifar-resnet1000000004"), "no network, model or recipe called"),
        (("signals", "cifar10-fast", "--network", "cifar-resnet1000000004"), "at most 12,002"),
    ],
)
def test_mistakes_are_one_line_with_a_hint_and_leave_nothing(
    resnets, model, tmp_path, arguments, message
):
    before = sorted(tmp_path.rglob("*"))
    code, _, err = resnets(*arguments)
    assert code == 2
    assert message in one_line(err)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("predit", "a", "b"), "unknown verb 'predit'; did you mean predict?"),
        (("paper", "reprot"), "paper: unknown verb 'reprot'; did you mean report?"),
        (("train", "x", "--sed", "3"), "train: unknown option --sed; did you mean --seed"),
        (("eval", "x", "--veiws", "3"), "eval: unknown option --veiws; did you mean --views"),
        (("paper", "run", "fig6", "--seds", "3"), "paper run: unknown option --seds"),
        (("predict",), "predict: missing MODEL; see: resnets predict --help"),
        (("predict", "cifar-resnet20"), "predict: missing IMAGE"),
        (("export", "cifar-resnet20"), "export: missing --to"),
        (("train", "cifar10-fast", "--seed", "many"), "train: --seed must be a whole number"),
        (("predict", "m", "a.png", "--top", "0"), "--top must be at least 1"),
        (("info", "--image-size"), "option '--image-size' requires an argument"),
        (("info", "resnet50", "resnet18"), "unexpected extra argument"),
        (("--verison",), "unknown option --verison; did you mean --version"),
        (("predict", "m", "a.png", "--json=3"), "option '--json' does not take a value"),
        (("predict", "m", "a.png", "-t"), "predict: unknown option -t"),
    ],
)
def test_the_parsers_errors_are_one_line_that_names_the_nearest_word(resnets, arguments, message):
    code, out, err = resnets(*arguments)
    assert (code, out) == (2, "")
    assert message in one_line(err)


def test_info_shows_models(resnets, model, tmp_path):
    code, out, _ = resnets("info", "model.safetensors")
    assert code == 0
    assert "model.safetensors: cifar-resnet8" in out
    assert "classes: 10: airplane" in out
    out = resnets("info", "cifar-resnet20")[1]  # a network and a shipped model
    assert "269,722" in out
    assert "error on cifar10: 8.46 %" in out
    facts = json.loads(resnets("info", "cifar-resnet20", "--json")[1])
    assert facts["parameters"] == 269_722
    assert facts["model"]["measured"][0]["error"] == 8.46
    assert json.loads(resnets("info", "model.safetensors", "--json")[1])["classes"][9] == "truck"
    wrong = "# wrong\nbacth = 2\n" + resnets("info", "cifar10-short")[1]
    (tmp_path / "wrong.toml").write_text(wrong)
    for arguments, message in (
        (("nowhere/model.safetensors",), "no such model file"),
        (("resnet50@msar",), "did you mean resnet50@msra"),
        (
            ("model.safetensors", "--image-size", "64"),
            "works with networks and recipes of detectors only",
        ),
        (("cifar10-short", "--image-size", "64"), "recipes of detectors only"),
        (("cifar10-shrt",), "did you mean cifar10-short"),
        (("mine.toml",), "mine.toml"),
        (("wrong.toml",), "wrong.toml, line 2"),
    ):
        code, _, err = resnets("info", *arguments)
        assert code == 2
        assert message in one_line(err)


def test_info_prints_a_recipe(resnets, tmp_path):
    shipped = resnets("info", "cifar10-short")[1]
    assert shipped.startswith("# ")
    (tmp_path / "mine.toml").write_text(shipped)
    assert resnets("info", "mine.toml") == (0, shipped, "")
    facts = json.loads(resnets("info", "mine.toml", "--json")[1])
    assert facts["recipe"]["iterations"] == 3000
    assert facts["recipe"]["seed"] == 0  # a default


def test_info_shows_unfinished_runs_and_what_is_not_downloaded(resnets, real_shape, cache):
    out = resnets("info", "resnet50@msra")[1]
    assert "not downloaded yet" in out
    assert not (cache / "weights").exists()
    assert resnets("train", "cifar10-smoke", *SMALL, "--out", "run")[0] == 0
    assert "measured" in json.loads(resnets("info", "run", "--json")[1])
    Path("run/model.safetensors").unlink()
    assert "unfinished: iteration 6 of 6" in resnets("info", "run")[1]


def test_no_network_and_no_cache(resnets, cache, monkeypatch, tmp_path):
    def fetch():
        raise cifar.SourceFailed("no answer")

    monkeypatch.setattr(cifar, "REMOTE_SOURCES", {"cifar10": {"the host": fetch}})
    code, out, err = resnets("train", "cifar10-smoke")
    assert code == 2
    assert "the host: no answer" in one_line(err)
    assert "the host failed" in out
    assert not (tmp_path / "runs").exists()


def refuse_writing(folder, monkeypatch):
    """Let the disk be full for files in `folder`."""
    make = tempfile.mkstemp

    def refusing(*args, **kwargs):
        if str(kwargs.get("dir", "")).startswith(folder):
            raise OSError(28, "No space left on device")
        return make(*args, **kwargs)

    monkeypatch.setattr(tempfile, "mkstemp", refusing)


def test_a_full_disk_is_one_line_and_nothing_half_written(
    resnets, real_shape, monkeypatch, tmp_path
):
    refuse_writing("run", monkeypatch)
    code, _, err = resnets("train", "cifar10-smoke", *SMALL, "--out", "run")
    assert code == 2
    assert "No space left on device" in one_line(err)
    assert {p.name for p in (tmp_path / "run").rglob("*") if p.is_file()} <= {".lock"}
    monkeypatch.undo()  # space again: the same command works
    monkeypatch.setattr(cifar, "load", lambda name, data=None, report=None: real_shape)
    monkeypatch.chdir(tmp_path)
    assert resnets("train", "cifar10-smoke", *SMALL, "--out", "run")[0] == 0


def test_an_unwritable_folder_is_one_line(resnets, real_shape, tmp_path):
    (tmp_path / "file").write_text("in the way")
    code, _, err = resnets("train", "cifar10-smoke", *SMALL, "--out", "file/run")
    assert code == 2
    assert "cannot write" in one_line(err)


def test_version(resnets):
    code, out, _ = resnets("--version")
    first, second = out.splitlines()
    assert (code, first) == (0, "resnets 0.1.0")
    assert re.fullmatch(r"Python [\d.]+, torch .+, openvino .+; .+ cores", second)


def test_doctor_describes_the_system_for_a_report(resnets, cache, monkeypatch):
    code, out, err = resnets("doctor", "--system")
    assert (code, err) == (0, "")
    facts = dict(line.split(maxsplit=1) for line in out.splitlines() if line[0] != "u")
    assert torch.__version__.startswith(facts["torch"])
    assert facts["cache"].startswith(f"{cache}, ")
    assert "compiled" in facts["kernels"] or "not used" in facts["kernels"]
    assert json.loads(resnets("doctor", "--system", "--json")[1])["resnets"] == "0.1.0"
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert "no-such-compiler" in resnets("doctor", "--system")[1] or sys.platform != "linux"
    assert "--system" in one_line(resnets("doctor", "photos", "--system")[2])
    assert "missing DATA" in one_line(resnets("doctor")[2])


@pytest.mark.parametrize(
    ("words", "completed"), [("resnets pred", "predict"), ("resnets predict --runt", "--runtime")]
)
def test_shells_complete_verbs_and_options(words, completed):
    environment = {
        "_RESNETS_COMPLETE": "complete_bash", "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split()) - 1),
    }  # fmt: skip
    command = [sys.executable, "-m", "resnets"]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, [completed], "")


def test_a_run_of_photographs_without_its_environment(resnets, cache, tmp_path):
    draw_photos(tmp_path / "photos" / "train", {"ant": 4, "bee": 4})
    draw_photos(tmp_path / "photos" / "val", {"ant": 2, "bee": 2}, seed=1)
    (tmp_path / "r.toml").write_text(
        'dataset = "photos"\nnetwork = "cifar-resnet8"\niterations = 2\nbatch = 8\n'
        'test_every = 2\nschedule = {kind = "linear", lr = 0.1}\nphotos = {size = 32}\n'
    )
    start = ("train", "r.toml", "--data", "photos", "--out", "run")
    assert resnets(*start)[0] == 0
    environment = tmp_path / "run" / "environment.json"
    environment.unlink()
    assert resnets("info", "run")[0] == 0
    assert resnets("eval", "run", "photos")[0] == 0
    (tmp_path / "run" / "summary.json").unlink()  # as if a kill had come before the end
    code, _, err = resnets("resume", "run")
    line = "environment.json: is missing or damaged, so the location of the images is unknown"
    assert (code, line in one_line(err)) == (2, True)
    code, out, _ = resnets("resume", "run", "--data", "photos")
    assert (code, f"{Path('run', environment.name)} was missing or damaged" in out) == (0, True)
    assert json.loads(environment.read_text())["place"] == str(tmp_path / "photos")
    (tmp_path / "run" / "summary.json").unlink()
    environment.write_text("half")
    assert resnets(*start, "--resume")[0] == 0
    code, _, err = resnets(*start, "--set", "batch=9")
    assert (code, "a finished run" in one_line(err)) == (2, True)


def test_contradictions_and_large_batches_of_a_training_are_one_line(resnets, real_shape, tmp_path):
    for words, message in (
        (("--network", "cifar-plain20", "--set", "network=cifar-resnet20"),
         "--network cifar-plain20: contradicts --set network=cifar-resnet20; give one of them"),
        (("--seed", "1", "--set", "seed=2"), "--seed 1: contradicts --set seed=2"),
        (("--set", "batch=1000"), "a batch of 1,000 images is more than the 600 training images"),
    ):  # fmt: skip
        code, _, err = resnets("train", "cifar10-smoke", *words, "--device", "cpu", "--out", "run")
        assert (code, message in one_line(err)) == (2, True), err
        assert not (tmp_path / "run").exists()
