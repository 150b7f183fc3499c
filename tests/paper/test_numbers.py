"""The paper's numbers as data, and the tables made from them."""

from resnets.paper import numbers, tables


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
    text = "before\n<!-- table: networks_short -->\n<!-- end -->\nafter\n"
    table = tables.TABLES["networks_short"]()
    filled = f"before\n<!-- table: networks_short -->\n{table}\n<!-- end -->\nafter\n"
    assert tables.rewrite(text) == filled
    assert tables.rewrite(filled) == filled


def test_rewrite_keeps_the_text_between_an_empty_block_and_the_next():
    empty = "<!-- table: networks_short -->\n<!-- end -->"
    old = "<!-- table: networks_short -->\nold\n<!-- end -->"
    filled = tables.rewrite(empty)
    assert tables.rewrite(f"{empty}\nbetween\n{old}\n") == f"{filled}\nbetween\n{filled}\n"


def test_rewrite_replaces_only_what_is_marked():
    text = "before\n<!-- table: networks -->\nold\n<!-- end -->\nafter"
    new = tables.rewrite(text)
    assert new.startswith("before\n<!-- table: networks -->\n| network |")
    assert new.endswith("\n<!-- end -->\nafter")
    assert tables.rewrite(new) == new
