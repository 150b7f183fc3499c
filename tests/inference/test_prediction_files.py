"""Files of predictions hold every image once, wherever the writing was cut off."""

import csv
import json
import os
import sys
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resnets.inference import prediction_files
from resnets.inference.predictions import ClassProbability, Prediction
from resnets.support.errors import UserError, valid_utf8

ORIGIN = {"model": "m", "weights": "w", "top": 2, "embeddings": False}
NAMES = [
    "plain.jpg",
    'quo"te.jpg',
    "com,ma.jpg",
    "new\nline.jpg",
    "carriage\rreturn.jpg",
    "caf\u00e9.jpg",
    os.fsdecode(b"\xff.jpg"),
    "cafe\u0301.jpg",
    "<b>&amp;.jpg",
]


def prediction(image, *top):
    """A prediction of classes and probabilities by turns."""
    pairs = zip(top[::2], top[1::2], strict=True)
    return Prediction(image, [ClassProbability(*pair, n) for n, pair in enumerate(pairs)])


PREDICTIONS = [prediction(name, "cat", 0.75, 'd"og, big', 0.25) for name in NAMES]
PREDICTIONS[2] = Prediction(NAMES[2], error="the file is empty")


def opened(path, origin=ORIGIN):
    return prediction_files.open_file(path, origin, top=2, embeddings=origin["embeddings"])


def written(path, predictions, retry=False):
    opened = prediction_files.open_file(path, ORIGIN, top=2, embeddings=False, retry=retry)
    with opened as output:
        output.write([one for one in predictions if not output.holds(one.image)])


def rows(path):
    if path.suffix == ".jsonl":
        return [row["image"] for row in map(json.loads, path.read_text().splitlines())]
    if path.suffix == ".csv":
        with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
            return [row["image"] for row in csv.DictReader(file)]
    parquet = pytest.importorskip("pyarrow.parquet")
    return parquet.read_table(path)["image"].to_pylist()


@pytest.mark.parametrize("ending", [".jsonl", ".csv", ".parquet"])
def test_predictions_in_the_file_are_not_written_again(tmp_path, ending):
    if ending == ".parquet":
        pytest.importorskip("pyarrow")
    path = tmp_path / f"out{ending}"
    written(path, PREDICTIONS[:3])
    written(path, PREDICTIONS)
    written(path, PREDICTIONS)
    found = rows(path)
    assert len(found) == len(PREDICTIONS)
    assert found[:6] == NAMES[:6]


ODD = ["two\nlines", "carriage\rreturn", 'qu"ote, comma', "<b>", "e\u0301", "\udcff", "\ud800", ""]


@pytest.mark.parametrize("ending", [".jsonl", ".csv", ".parquet"])
def test_class_names_of_every_kind_are_written_and_resumed(tmp_path, ending):
    if ending == ".parquet":
        pytest.importorskip("pyarrow")
    path = tmp_path / f"out{ending}"
    odd = [prediction(f"{n}.jpg", name, 0.75, "cat", 0.25) for n, name in enumerate(ODD)]
    for _ in range(2):
        written(path, odd)
    assert rows(path) == [one.image for one in odd]
    if ending == ".jsonl":
        found = [json.loads(line)["top"][0]["class"] for line in path.read_text().splitlines()]
    elif ending == ".csv":
        with path.open(newline="", encoding="utf-8") as file:
            found = [row["class_1"] for row in csv.DictReader(file)]
    else:
        parquet = pytest.importorskip("pyarrow.parquet")
        found = [names[0] for names in parquet.read_table(path)["classes"].to_pylist()]
    expected = [name.encode("utf-8", "backslashreplace").decode() for name in ODD]
    assert found == expected


@pytest.mark.parametrize("place", ["folder", "pipe", "record", "lock"])
def test_outputs_in_odd_places_are_refused_in_a_line(tmp_path, place):
    path = tmp_path / "out.jsonl"
    written(path, PREDICTIONS)
    if place in ("folder", "pipe"):
        path.unlink()
        path.mkdir() if place == "folder" else os.mkfifo(path)
    else:
        name = "out.jsonl.json" if place == "record" else ".out.jsonl.lock"
        (tmp_path / name).unlink(missing_ok=True)
        (tmp_path / name).mkdir()
    with pytest.raises(UserError, match=r"cannot (write|be read)"), opened(path):
        pass


def test_a_line_of_deep_json_is_refused(tmp_path):
    path = tmp_path / "out.jsonl"
    written(path, PREDICTIONS)
    path.write_bytes(path.read_bytes() + b'{"a": ' + b"[" * 100_000 + b"\n")
    with pytest.raises(UserError, match="not a prediction"), opened(path):
        pass


@settings(deadline=None)  # disks wait
@given(cut=st.integers(min_value=1, max_value=400), ending=st.sampled_from([".jsonl", ".csv"]))
def test_a_line_that_was_cut_off_is_written_again(tmp_path_factory, cut, ending):
    path = tmp_path_factory.mktemp("cut") / f"out{ending}"
    written(path, PREDICTIONS)
    whole = path.read_bytes()
    path.write_bytes(whole[: max(0, len(whole) - cut)])
    written(path, PREDICTIONS)
    assert path.read_bytes() == whole


def test_csv_and_lines_say_the_same(tmp_path):
    for ending in (".csv", ".jsonl"):
        written(tmp_path / f"out{ending}", PREDICTIONS)
    with (tmp_path / "out.csv").open(
        newline="", encoding="utf-8", errors="surrogateescape"
    ) as file:
        table = list(csv.DictReader(file))
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    for row, line in zip(table, lines, strict=True):
        assert row["error"] == line.get("error", "")
        if "top" in line:
            assert row["class_2"] == line["top"][1]["class"]
            assert float(row["probability_1"]) == line["top"][0]["probability"]


def test_parquet_has_embeddings_and_parts(tmp_path, monkeypatch):
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr(prediction_files, "ROWS_PER_PART", 2)
    path = tmp_path / "out.parquet"
    origin = {**ORIGIN, "embeddings": True}
    with prediction_files.open_file(path, origin, top=2, embeddings=True) as output:
        for number in range(5):
            one = prediction(f"{number}.png", "a", 0.5, "b", 0.5)
            output.write([replace(one, embedding=(1.0, float(number)))])
    assert len(list(path.iterdir())) == 3
    table = parquet.read_table(path)
    assert table["embedding"].to_pylist()[4] == [1.0, 4.0]
    assert table["classes"].to_pylist()[0] == ["a", "b"]


def test_a_file_of_another_model_or_program_is_refused(tmp_path):
    path = tmp_path / "out.jsonl"
    written(path, PREDICTIONS)
    before = path.read_bytes()
    others = {**ORIGIN, "weights": "others"}
    with pytest.raises(UserError, match="another model"), opened(path, others):
        pass
    notes = tmp_path / "notes.jsonl"
    notes.write_text('{"note": 1}\n')
    with pytest.raises(UserError, match="not written by this command"), opened(notes):
        pass
    assert (path.read_bytes(), notes.read_text()) == (before, '{"note": 1}\n')


@pytest.mark.parametrize(
    ("name", "embeddings", "message"),
    [
        ("a.txt", False, "unknown kind"),
        ("a.csv", True, "cannot hold"),
        ("no/a.csv", False, "no such folder"),
    ],
)
def test_refused_outputs_leave_no_files(tmp_path, name, embeddings, message):
    output = prediction_files.open_file(tmp_path / name, ORIGIN, top=2, embeddings=embeddings)
    with pytest.raises(UserError, match=message), output:
        pass
    assert list(tmp_path.iterdir()) == []


def test_parquet_without_its_library_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match="pip install"), opened(tmp_path / "a.parquet"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_record_of_another_program_is_not_overwritten(tmp_path):
    beside = tmp_path / "out.csv.json"
    beside.write_text("[1, 2]")
    refused = pytest.raises(UserError, match="not written by this command")
    with refused, opened(tmp_path / "out.csv"):
        pass
    assert beside.read_text() == "[1, 2]"


def test_two_writers_at_once_are_refused(tmp_path):
    path = tmp_path / "out.jsonl"
    with opened(path) as output:
        with pytest.raises(UserError, match="another process"), opened(path):
            pass
        output.write(PREDICTIONS[:1])
    written(path, PREDICTIONS)
    assert rows(path) == [*map(valid_utf8, NAMES)]


def test_files_are_valid_utf8_and_those_of_version_0_1_are_continued(tmp_path):
    odd = "caf\udce9.jpg"
    one = prediction(odd, "b\udcff", 0.5, "c", 0.25)
    written(tmp_path / "out.csv", [one])
    written(tmp_path / "out.jsonl", [one])
    (tmp_path / "out.csv").read_bytes().decode()
    assert "\\\\udce9" in (tmp_path / "out.jsonl").read_text()  # an escape, not half a letter
    raw = (tmp_path / "out.csv").read_bytes().replace(rb"\udce9", b"\xe9")
    (tmp_path / "out.csv").write_bytes(raw)
    with opened(tmp_path / "out.csv") as output:
        assert output.holds(odd)


@pytest.mark.parametrize("ending", [".jsonl", ".csv", ".parquet"])
def test_images_with_errors_are_known(tmp_path, ending):
    if ending == ".parquet":
        pytest.importorskip("pyarrow")
    path = tmp_path / f"out{ending}"
    written(path, PREDICTIONS)
    with opened(path) as output:
        assert [name for name in NAMES if output.failed(name)] == [NAMES[2]]


@pytest.mark.parametrize("ending", [".jsonl", ".csv", ".parquet"])
def test_retry_replaces_the_images_with_errors(tmp_path, ending, monkeypatch):
    if ending == ".parquet":
        pytest.importorskip("pyarrow")
    monkeypatch.setattr(prediction_files, "ROWS_PER_PART", 3)
    path = tmp_path / f"out{ending}"
    for one in PREDICTIONS:  # some parts with and some without a failure
        written(path, [one])
    readable = prediction(NAMES[2], "dog", 0.5, "cat", 0.25)
    repaired = [readable if one.error else one for one in PREDICTIONS]
    written(path, repaired)
    with opened(path) as output:
        assert output.failed(NAMES[2])
    written(path, repaired, retry=True)
    with opened(path) as output:
        assert all(output.holds(name) and not output.failed(name) for name in NAMES)
    others = [name for name in NAMES if name != NAMES[2]]
    assert rows(path) == [valid_utf8(name) for name in (*others, NAMES[2])]


@pytest.mark.parametrize("ending", [".jsonl", ".csv", ".parquet"])
def test_a_file_under_another_spelling_of_its_path_is_held(tmp_path, ending):
    if ending == ".parquet":
        pytest.importorskip("pyarrow")
    path = tmp_path / f"out{ending}"
    written(path, [prediction("./photos//a.jpg", "cat", 0.75, "dog", 0.25)])
    with opened(path) as output:
        assert output.holds("photos/a.jpg")
        assert output.holds("photos/./a.jpg")
        assert not output.holds("photos/../photos/a.jpg")  # photos may be a link


def test_json_in_another_order_and_spacing_is_read(tmp_path):
    path = tmp_path / "out.jsonl"
    written(path, PREDICTIONS)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    anew = [json.dumps(dict(reversed(line.items())), separators=(",", ":")) for line in lines]
    path.write_text("\n".join(anew) + "\n")
    with opened(path) as output:
        assert [name for name in NAMES if output.failed(name)] == [NAMES[2]]
        assert all(map(output.holds, NAMES))


@pytest.mark.parametrize("ending", [".jsonl", ".csv"])
def test_lines_that_are_not_predictions_are_refused(tmp_path, ending):
    path = tmp_path / f"out{ending}"
    written(path, PREDICTIONS)
    path.write_bytes(path.read_bytes() + b"\n")
    with pytest.raises(UserError, match="not a prediction"), opened(path):
        pass


def test_a_part_is_not_written_twice_after_an_interruption(tmp_path, monkeypatch):
    pytest.importorskip("pyarrow")
    path = tmp_path / "out.parquet"

    class Interrupted(list):
        def append(self, part):
            raise KeyboardInterrupt

    monkeypatch.setattr(prediction_files, "ROWS_PER_PART", 1)
    with opened(path) as output:
        output._parts = Interrupted()
        with pytest.raises(KeyboardInterrupt):
            output.write(PREDICTIONS[:1])
        output._parts = [path / "part-000000.parquet"]
    assert len(rows(path)) == 1
