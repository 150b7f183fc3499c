"""Outputs hold every image once, whenever the writing was cut off."""

import csv
import json
import os
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resnets.inference import outputs
from resnets.inference.predictions import Answer
from resnets.support.errors import UserError

MADE_BY = {"model": "m", "weights": "w", "top": 2, "embeddings": False}
NAMES = [
    "plain.jpg",
    'quo"te.jpg',
    "com,ma.jpg",
    "new\nline.jpg",
    "carriage\rreturn.jpg",
    "caf\u00e9.jpg",
    os.fsdecode(b"\xff.jpg"),
]
ANSWERS = [Answer(name, ("cat", 'd"og, big'), (0.75, 0.25)) for name in NAMES]
ANSWERS[2] = Answer(NAMES[2], error="the file is empty")


def opened(path, made_by=MADE_BY):
    return outputs.open_output(path, made_by, 2, made_by["embeddings"])


def written(path, answers, retry=False):
    with outputs.open_output(path, MADE_BY, 2, False, retry) as output:
        output.write([a for a in answers if not output.holds(a.image)])


def rows(path):
    if path.suffix == ".jsonl":
        return [row["image"] for row in map(json.loads, path.read_text().splitlines())]
    if path.suffix == ".csv":
        with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
            return [row["image"] for row in csv.DictReader(file)]
    parquet = pytest.importorskip("pyarrow.parquet")
    return parquet.read_table(path)["image"].to_pylist()


@pytest.mark.parametrize("ending", [".jsonl", ".csv", ".parquet"])
def test_what_is_there_is_not_written_again(tmp_path, ending):
    if ending == ".parquet":
        pytest.importorskip("pyarrow")
    path = tmp_path / f"out{ending}"
    written(path, ANSWERS[:3])
    written(path, ANSWERS)
    written(path, ANSWERS)
    found = rows(path)
    assert len(found) == len(ANSWERS)
    assert found[:6] == NAMES[:6]


@given(cut=st.integers(min_value=1, max_value=400), ending=st.sampled_from([".jsonl", ".csv"]))
def test_a_line_that_was_cut_off_is_written_again(tmp_path_factory, cut, ending):
    path = tmp_path_factory.mktemp("cut") / f"out{ending}"
    written(path, ANSWERS)
    whole = path.read_bytes()
    path.write_bytes(whole[: max(0, len(whole) - cut)])
    written(path, ANSWERS)
    assert path.read_bytes() == whole


def test_csv_and_lines_say_the_same(tmp_path):
    for ending in (".csv", ".jsonl"):
        written(tmp_path / f"out{ending}", ANSWERS)
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
    monkeypatch.setattr(outputs, "ROWS_A_PART", 2)
    path = tmp_path / "out.parquet"
    made_by = {**MADE_BY, "embeddings": True}
    with outputs.open_output(path, made_by, 2, True) as output:
        for number in range(5):
            output.write([Answer(f"{number}.png", ("a", "b"), (0.5, 0.5), (1.0, float(number)))])
    assert len(list(path.iterdir())) == 3
    table = parquet.read_table(path)
    assert table["embedding"].to_pylist()[4] == [1.0, 4.0]
    assert table["classes"].to_pylist()[0] == ["a", "b"]


def test_an_output_of_another_model_or_maker_is_refused(tmp_path):
    path = tmp_path / "out.jsonl"
    written(path, ANSWERS)
    before = path.read_bytes()
    others = {**MADE_BY, "weights": "others"}
    with pytest.raises(UserError, match="another model"), opened(path, others):
        pass
    foreign = tmp_path / "notes.jsonl"
    foreign.write_text('{"note": 1}\n')
    with pytest.raises(UserError, match="not of this command's making"), opened(foreign):
        pass
    assert (path.read_bytes(), foreign.read_text()) == (before, '{"note": 1}\n')


@pytest.mark.parametrize(
    ("name", "embeddings", "message"),
    [
        ("a.txt", False, "unknown kind"),
        ("a.csv", True, "no room"),
        ("no/a.csv", False, "no such folder"),
    ],
)
def test_mistakes_leave_nothing(tmp_path, name, embeddings, message):
    output = outputs.open_output(tmp_path / name, MADE_BY, 2, embeddings)
    with pytest.raises(UserError, match=message), output:
        pass
    assert list(tmp_path.iterdir()) == []


def test_parquet_without_its_library_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match="pip install"), opened(tmp_path / "a.parquet"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_file_beside_the_output_is_not_overwritten(tmp_path):
    beside = tmp_path / "out.csv.json"
    beside.write_text("[1, 2]")
    refused = pytest.raises(UserError, match="not of this command's making")
    with refused, opened(tmp_path / "out.csv"):
        pass
    assert beside.read_text() == "[1, 2]"


def test_two_at_once_are_refused(tmp_path):
    path = tmp_path / "out.jsonl"
    with opened(path) as output:
        with pytest.raises(UserError, match="another process"), opened(path):
            pass
        output.write(ANSWERS[:1])
    written(path, ANSWERS)
    assert rows(path) == NAMES


@pytest.mark.parametrize("ending", [".jsonl", ".csv", ".parquet"])
def test_what_could_not_be_read_is_known(tmp_path, ending):
    if ending == ".parquet":
        pytest.importorskip("pyarrow")
    path = tmp_path / f"out{ending}"
    written(path, ANSWERS)
    with opened(path) as output:
        assert [name for name in NAMES if output.failed(name)] == [NAMES[2]]


@pytest.mark.parametrize("ending", [".jsonl", ".csv", ".parquet"])
def test_what_could_not_be_read_is_tried_again_where_that_is_asked(tmp_path, ending, monkeypatch):
    if ending == ".parquet":
        pytest.importorskip("pyarrow")
    monkeypatch.setattr(outputs, "ROWS_A_PART", 3)
    path = tmp_path / f"out{ending}"
    for answer in ANSWERS:  # some parts with and some without a failure
        written(path, [answer])
    mended = [Answer(NAMES[2], ("dog", "cat"), (0.5, 0.25)) if a.error else a for a in ANSWERS]
    written(path, mended)
    with opened(path) as output:
        assert output.failed(NAMES[2])
    written(path, mended, retry=True)
    with opened(path) as output:
        assert all(output.holds(name) and not output.failed(name) for name in NAMES)
    others = [name for name in NAMES if name != NAMES[2]]
    expected = [*others, NAMES[2]]
    if ending == ".parquet":
        expected = [name.encode("utf-8", "backslashreplace").decode() for name in expected]
    assert rows(path) == expected


@pytest.mark.parametrize("ending", [".jsonl", ".csv", ".parquet"])
def test_a_name_spelt_otherwise_is_held(tmp_path, ending):
    if ending == ".parquet":
        pytest.importorskip("pyarrow")
    path = tmp_path / f"out{ending}"
    written(path, [Answer("./photos//a.jpg", ("cat", "dog"), (0.75, 0.25))])
    with opened(path) as output:
        assert output.holds("photos/a.jpg")
        assert output.holds("photos/./a.jpg")
        assert not output.holds("photos/../photos/a.jpg")  # photos may be a link


def test_lines_that_others_wrote_anew_are_understood(tmp_path):
    path = tmp_path / "out.jsonl"
    written(path, ANSWERS)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    anew = [json.dumps(dict(reversed(line.items())), separators=(",", ":")) for line in lines]
    path.write_text("\n".join(anew) + "\n")
    with opened(path) as output:
        assert [name for name in NAMES if output.failed(name)] == [NAMES[2]]
        assert all(map(output.holds, NAMES))


@pytest.mark.parametrize("ending", [".jsonl", ".csv"])
def test_lines_that_are_no_answers_are_refused(tmp_path, ending):
    path = tmp_path / f"out{ending}"
    written(path, ANSWERS)
    path.write_bytes(path.read_bytes() + b"\n")
    with pytest.raises(UserError, match="no answer"), opened(path):
        pass


def test_a_part_is_not_written_twice_after_an_interruption(tmp_path, monkeypatch):
    pytest.importorskip("pyarrow")
    path = tmp_path / "out.parquet"

    class Interrupted(list):
        def append(self, part):
            raise KeyboardInterrupt

    monkeypatch.setattr(outputs, "ROWS_A_PART", 1)
    with opened(path) as output:
        output._parts = Interrupted()
        with pytest.raises(KeyboardInterrupt):
            output.write(ANSWERS[:1])
        output._parts = [path / "part-000000.parquet"]
    assert len(rows(path)) == 1
