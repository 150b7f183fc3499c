"""The paper's numbers as data, and the tables made from them."""

import pytest

from resnets.models import zoo
from resnets.paper import numbers
from resnets.support.errors import UserError
from tools import tables

PROTOCOLS = {
    "count", "ten-crop", "center", "center-320", "dense", "ensemble", "single view", "training",
    "responses", "as published", "detection",
}  # fmt: skip
METRICS = {
    "multiply-adds", "top-1 error", "top-5 error", "test error", "training error", "error",
    "standard deviation", "localization error", "top-5 localization error", "mAP", "AP", "AP50",
}  # fmt: skip
EVERY = [n for table in numbers.tables() for n in numbers.numbers(table)]


def value(table, row, column):
    return numbers.number(table, row, column).value


def test_all_tables_are_there_with_as_many_numbers_as_printed():
    assert {name: len(numbers.numbers(name)) for name in numbers.tables()} == {
        "table1": 7, "table2": 4, "table3": 19, "table4": 18, "table5": 6, "table6": 12,
        "fig1": 4, "fig4": 24, "fig6": 30, "fig7": 19, "authors": 14, "preact": 33,
        "table7": 4, "table8": 4, "table9": 16, "table10": 63, "table11": 63, "table12": 5,
        "table13": 6, "table14": 7,
    }  # fmt: skip
    assert len({(n.table, n.row, n.column) for n in EVERY}) == len(EVERY)
    assert all(numbers.about(name) for name in numbers.tables())


@pytest.mark.parametrize("n", EVERY, ids=lambda n: f"{n.table}, {n.row}, {n.column}")
def test_a_number_says_whole_things(n):
    assert n.protocol in PROTOCOLS
    assert n.metric in METRICS
    assert n.unit == {"multiply-adds": "multiply-adds", "standard deviation": ""}.get(n.metric, "%")
    assert 0 < n.value < (100 if n.unit == "%" else 1e11)
    assert (n.mean is None) == (n.spread is None)
    assert n.mean is None or abs(n.mean - n.value) < 2 * n.spread
    assert (n.uncertainty is not None) == (n.source == "plot" and n.bound is None)
    assert (n.table == "table1") == (n.data == "")
    for name in n.networks:
        try:
            layers = zoo.architecture(name).layers if name not in zoo.VGG_NAMES else int(name[3:])
        except UserError:
            assert name.startswith(("cifar-highway", "cifar-preact")) or "-bottleneck" in name
        else:
            assert n.layers in (None, layers)


def test_top_5_errors_are_below_top_1_errors():
    pairs = 0
    for n in EVERY:
        if n.metric == "top-1 error" and n.column.endswith("top-1"):
            other = numbers.number(n.table, n.row, n.column.replace("top-1", "top-5"))
            assert n.value / 5 < other.value < n.value / 2.5
            pairs += 1
    assert pairs == 31


def test_differences_that_the_text_states():
    plain, residual = (
        [value("table2", f"{d}-layer", c) for d in (18, 34)] for c in ("plain", "ResNet")
    )
    assert residual[0] - residual[1] == pytest.approx(2.85)  # "2.8"
    assert plain[1] - residual[1] == pytest.approx(3.51)  # "3.5"
    costs = {n.layers: n.value for n in numbers.numbers("table1")}
    assert round(100 * costs[34] / costs[19]) == 18
    assert costs[152] < costs[16] < costs[19]
    assert value("fig6", "plain-110", "error") == 60
    assert numbers.number("fig6", "plain-110", "error").bound == "above"


def test_detection_tables_agree_with_each_other_and_the_text():
    for table, column in (("table10", "VOC 2007 test"), ("table11", "VOC 2012 test")):
        rows = {n.row: [] for n in numbers.numbers(table)}
        for n in numbers.numbers(table):
            if n.column != "mAP":
                rows[n.row].append(n.value)
        for row, values in rows.items():
            assert len(values) == 20
            assert sum(values) / 20 == pytest.approx(value(table, row, "mAP"), abs=0.06)
        for row in ("VGG-16", "ResNet-101"):
            assert value(table, row, "mAP") == value("table7", row, column)
    for what in ("AP50", "AP"):
        for row in ("VGG-16", "ResNet-101"):
            assert value("table8", row, what) == value("table9", f"baseline, {row}", f"val, {what}")
    gain = value("table8", "ResNet-101", "AP") - value("table8", "VGG-16", "AP")
    assert gain == pytest.approx(6.0)
    assert round(100 * gain / value("table8", "VGG-16", "AP")) == 28


def test_twins_in_other_tables_agree():
    for depth, kind, row in ((34, "plain", "plain-34"), (34, "ResNet", "ResNet-34 A")):
        assert value("table2", f"{depth}-layer", kind) == value("table3", row, "top-1")
    for n in numbers.numbers("fig1"):
        assert n.value == value("fig6", n.row, n.column)
    for n in numbers.numbers("authors"):  # the same tests with one digit less
        if n.protocol == "ten-crop":
            assert abs(n.value - value("table3", n.row, n.column.split()[1])) < 0.0501
    for n in numbers.numbers("table6"):  # a plot of the same runs
        if n.row.startswith("ResNet"):
            assert value("fig6", n.row, "test") == pytest.approx(n.target, abs=0.1)
    assert (
        value("preact", "ResNet-110", "original")
        == numbers.number("table6", "ResNet-110", "error").mean
    )
    for row in ("ResNet-34 B", "ResNet-34 C", "ResNet-50", "ResNet-101", "ResNet-152"):
        for column in ("top-1", "top-5"):  # the dense test is better than ten crops
            assert 1 < value("table3", row, column) - value("table4", row, column) < 3


def test_curves_fall_with_the_rate_and_responses_with_the_rank():
    for row in ("plain-18", "plain-34", "ResNet-18", "ResNet-34"):
        for kind in ("validation", "train"):
            first, second, last = (
                value("fig4", row, f"{kind}, {window}")
                for window in ("13-15e4", "25-29.5e4", "50-55e4")
            )
            assert first > second > last
    for n in numbers.numbers("fig6"):
        if n.column.startswith("test, "):
            assert n.value > value("fig6", n.row, "test") > value("fig6", n.row, "train")
    by_row = {}
    for n in numbers.numbers("fig7"):
        assert n.value < by_row.get(n.row, 9)
        assert int(n.column.split()[1]) <= n.layers - 1
        by_row[n.row] = n.value


def test_printed_sizes_and_costs_are_those_of_our_networks():
    compared = 0
    for name, row in numbers.complexities().items():
        if row.paper_parameters:
            digits = len(row.paper_parameters.partition(".")[2]) - 1
            off = 0.1 if "1001" in name else 0  # the follow-up's 10.2M are 10.3M by our count
            assert f"{row.parameters / 1e6 - off:.{digits}f}M" == row.paper_parameters, name
            compared += 1
        if row.paper_multiply_adds:  # Table 1 rounds, ResNet-50's downwards
            assert row.paper_multiply_adds == pytest.approx(row.multiply_adds, rel=0.03), name
            compared += 1
    assert compared >= 22


def test_table_6():
    expected = {20: 8.75, 32: 7.51, 44: 7.17, 56: 6.97, 110: 6.43, 1202: 7.93}
    for depth, error in expected.items():
        assert numbers.cifar10_error(f"cifar-resnet{depth}").error == error
    deep = numbers.cifar10_error("cifar-resnet110")
    assert (deep.mean, deep.spread, deep.runs, deep.target) == (6.61, 0.16, 5, 6.61)
    assert str(deep) == "6.43 % (mean 6.61 +- 0.16, 5 runs)"


def test_plain_errors_say_that_they_are_read_off_a_plot():
    assert "Figure 6" in str(numbers.cifar10_error("cifar-plain56"))
    assert numbers.cifar10_error("resnet50") is None


def test_table_1():
    expected = {18: 1.8e9, 34: 3.6e9, 50: 3.8e9, 101: 7.6e9, 152: 11.3e9}
    rows = numbers.complexities()
    for depth, cost in expected.items():
        assert rows[f"resnet{depth}"].paper_multiply_adds == cost


def test_every_table_has_a_header_and_equal_rows():
    for make in tables.TABLES.values():
        lines = make().splitlines()
        assert len(lines) > 2
        assert len({line.count("|") for line in lines}) == 1


def test_rewrite_fills_an_empty_block_and_touches_nothing_around_it():
    text = "before\n<!-- table: cifar10_fast -->\n<!-- end -->\nafter\n"
    table = tables.TABLES["cifar10_fast"]()
    filled = f"before\n<!-- table: cifar10_fast -->\n{table}\n<!-- end -->\nafter\n"
    assert tables.rewrite(text) == filled
    assert tables.rewrite(filled) == filled


def test_rewrite_keeps_the_text_between_an_empty_block_and_the_next():
    empty = "<!-- table: cifar10_fast -->\n<!-- end -->"
    old = "<!-- table: cifar10_fast -->\nold\n<!-- end -->"
    filled = tables.rewrite(empty)
    assert tables.rewrite(f"{empty}\nbetween\n{old}\n") == f"{filled}\nbetween\n{filled}\n"


def test_rewrite_replaces_only_what_is_marked():
    text = "before\n<!-- table: networks -->\nold\n<!-- end -->\nafter"
    new = tables.rewrite(text)
    assert new.startswith("before\n<!-- table: networks -->\n| network |")
    assert new.endswith("\n<!-- end -->\nafter")
    assert tables.rewrite(new) == new
