"""Outputs hold every image once, whenever the writing was cut off."""

import csv
import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resnets.deploy import outputs
from resnets.deploy.predicting import Answer
from resnets.support.errors import UserError

MADE_BY = {"model": "m", "weights": "w", "top": 2, "embeddings": False}
NAMES = [
    "plain.jpg",
    'quo"te.jpg',
    "com,ma.jpg",
    "new\nline.jpg",
    "caf\u00e9.jpg",
    os.fsdecode(b"\xff.jpg"),
]
ANSWERS = [Answer(name, ("cat", 'd"og, big'), (0.75, 0.25)) for name in NAMES]
ANSWERS[2] = Answer(NAMES[2], error="the file is empty")


def opened(path, made_by=MADE_BY):
    return outputs.open_output(path, made_by, 2, made_by["embeddings"])


def written(path, answers):
    output = opened(path)
    output.write([a for a in answers if not output.holds(a.image)])
    output.close()


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
    assert found[:5] == NAMES[:5]


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
    output = outputs.open_output(path, made_by, 2, True)
    for number in range(5):
        output.write([Answer(f"{number}.png", ("a", "b"), (0.5, 0.5), (1.0, float(number)))])
    output.close()
    assert len(list(path.iterdir())) == 3
    table = parquet.read_table(path)
    assert table["embedding"].to_pylist()[4] == [1.0, 4.0]
    assert table["classes"].to_pylist()[0] == ["a", "b"]


def test_an_output_of_another_model_or_maker_is_refused(tmp_path):
    path = tmp_path / "out.jsonl"
    written(path, ANSWERS)
    before = path.read_bytes()
    with pytest.raises(UserError, match="another model"):
        opened(path, {**MADE_BY, "weights": "others"})
    foreign = tmp_path / "notes.jsonl"
    foreign.write_text('{"note": 1}\n')
    with pytest.raises(UserError, match="not of this command's making"):
        opened(foreign)
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
    with pytest.raises(UserError, match=message):
        outputs.open_output(tmp_path / name, MADE_BY, 2, embeddings)
    assert list(tmp_path.iterdir()) == []
