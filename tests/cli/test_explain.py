"""`resnets explain` from the command line."""

import json
import shutil

import pytest

from resnets.inference import explanation_files
from tests.conftest import draw_photos
from tests.inference.test_explanations import CLASSES, PREPROCESSING, save


@pytest.fixture
def folder(tmp_path, cache):
    """The folder that the verb runs in: a model, photographs, and one that is broken."""
    save(tmp_path / "m.safetensors", "cifar-resnet8", PREPROCESSING)
    draw_photos(tmp_path / "photos", {"ant": 2, "bee": 2})
    (tmp_path / "bad.png").write_bytes(b"no image")
    return tmp_path


def one_line(text):
    (line,) = text.strip().splitlines()
    assert line.startswith("resnets: ")
    return line


def test_help_fits_a_screen_and_shows_an_example(resnets):
    code, out, _ = resnets("explain", "--help")
    assert code == 0
    assert len(out.splitlines()) <= 24
    assert "Example: resnets explain" in out


def test_pictures_are_written_and_predictions_printed(resnets, folder):
    code, out, err = resnets("explain", "m.safetensors", "photos", "--out", "why")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert len(lines) == 5
    assert all("%" in line and "photos/" in line for line in lines[:4])
    assert lines[4].endswith("why/index.html")
    assert (folder / "why" / "index.html").is_file()
    assert len(list((folder / "why").glob("*.png"))) == 4 * 5


def test_a_refused_folder_of_neighbours_leaves_no_folder(resnets, folder):
    (folder / "empty").mkdir()
    code, _, err = resnets(
        "explain", "m.safetensors", "photos", "--out", "why", "--nearest", "empty"
    )
    assert code == 2
    one_line(err)
    assert not (folder / "why").exists()


def test_ctrl_c_leaves_a_page_of_what_was_explained(resnets, folder, monkeypatch):
    explain, calls = explanation_files.explain, []

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return explain(*arguments)

    monkeypatch.setattr(explanation_files, "explain", interrupted)
    assert resnets("explain", "m.safetensors", "photos", "--out", "why")[0] == 130
    record = json.loads((folder / "why" / "explanations.json").read_text())
    assert len(record["images"]) == 2
    assert (folder / "why" / "index.html").is_file()


def test_names_cannot_move_the_cursor(resnets, folder):
    (folder / "photos" / "b\x1b[2J").mkdir()
    for name in ("\nline.png", "bad.png"):
        (folder / "bad.png").rename(folder / "photos" / "b\x1b[2J" / name)
        shutil.copy(folder / "photos" / "ant" / "0.png", folder / "bad.png")
    code, out, err = resnets(
        "explain", "m.safetensors", "photos", "--out", "why", "--nearest", "photos"
    )
    assert code == 1
    assert "\x1b" not in out + err
    assert "b\\x1b[2J/\\nline.png: not an image" in err
    assert "b\\x1b[2J/bad.png" in out


def test_bad_images_are_named_and_the_exit_code_is_1(resnets, folder):
    code, out, err = resnets(
        "explain", "m.safetensors", "bad.png", "photos/ant/0.png", "--out", "why", "--json",
        "--class", "bird", "--stage", "layer3", "--nearest", "photos", "--count", "2",
    )  # fmt: skip
    assert code == 1
    reason = 'not an image, but a text file that begins "no image"'
    assert one_line(err).startswith(f"resnets: bad.png: {reason}")
    first, second = map(json.loads, out.splitlines())  # nothing else on stdout
    assert first["image"] == "bad.png"
    assert first["error"].startswith(reason)
    assert second["class"] == "bird"
    assert second["index"] == CLASSES.index("bird")
    assert list(second["files"]) == ["layer3", "nearest"]
    assert second["itself_left_out"]
    assert len(second["nearest"]) == 2
    assert {one["class"] for one in second["nearest"]} <= {"ant", "bee"}
    assert all(-1 <= one["similarity"] <= 1 for one in second["nearest"])


def test_neighbours_are_printed_and_come_from_the_cache(resnets, folder):
    command = ("explain", "m.safetensors", "photos/ant/0.png", "--nearest", "photos", "--out", "w")
    (folder / "photos" / "bee" / "broken.png").write_bytes(b"no image")
    code, out, err = resnets(*command)
    assert code == 0
    assert "Compared with 4 images of photos, 4 of them computed now" in out
    assert out.count("photos/") == 4  # the image, and the three others
    assert "bee/broken.png (not an image, but a text file" in one_line(err)
    code, out, _ = resnets(*command)
    assert code == 0
    assert "0 of them computed now" in out


def test_a_lack_of_memory_names_no_option_that_the_verb_lacks(resnets, folder, monkeypatch):
    def refuse(*arguments):
        raise MemoryError

    monkeypatch.setattr(explanation_files, "explain", refuse)
    code, _, err = resnets("explain", "m.safetensors", "photos", "--out", "why")
    assert code == 2
    assert "out of memory; close other programs" in one_line(err)


def test_mistakes_are_one_line_and_leave_nothing(resnets, folder):
    (folder / "mine").mkdir()
    (folder / "mine" / "notes.txt").write_text("notes")
    image = "photos/ant/0.png"
    for arguments, message in (
        (("m.safetensors", image, "--class", "brid"), "did you mean bird"),
        (("m.safetensors", image, "--class", "7"), "numbers go from 0 to 6"),
        (("m.safetensors", image, "--stage", "layer9"), "known: all, stem, layer1"),
        (("m.safetensors", "photos/*.gif"), "no file matches this pattern"),
        (("m.safetensors", image, "--device", "cuda:77"), "--device"),
        (("m.safetensors", image, "--nearest", "nowhere"), "no such folder"),
        (("m.safetensors", image, "--count", "3"), "--count: works with --nearest only"),
        (("absent.safetensors", image), "absent.safetensors"),
    ):
        code, out, err = resnets("explain", *arguments, "--out", "why")
        assert (code, out) == (2, ""), err
        assert message in one_line(err)
        assert not (folder / "why").exists()
    code, _, err = resnets("explain", "m.safetensors", image, "--out", "mine")
    assert code == 2
    assert "holds other files" in one_line(err)
    assert [path.name for path in (folder / "mine").iterdir()] == ["notes.txt"]


def test_a_picture_of_an_earlier_call_is_not_deleted_before_it_is_explained(resnets, folder):
    assert resnets("explain", "m.safetensors", "photos", "--out", "why")[0] == 0
    picture = min((folder / "why").glob("*.png"))
    code, _, err = resnets("explain", "m.safetensors", str(picture), "--out", "why")
    assert code == 2
    assert "would be deleted before it is read" in one_line(err)
    assert picture.is_file()
