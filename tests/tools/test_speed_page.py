"""The speed tables of the docs are the generated ones."""

import pytest

from tools import speed_page
from tools.tables import fill


@pytest.mark.parametrize("page", speed_page.PAGES)
def test_speed_tables_in_the_docs_are_the_generated_ones(page):
    text = (speed_page.ROOT / page).read_text("utf-8")
    assert "<!-- bench: " in text
    assert fill(text, "bench", speed_page._content) == text, "run python -m tools.speed_page"


def test_a_table_without_a_report_stays_as_it_is():
    text = "<!-- bench: no-such-report -->\nkept\n<!-- end -->\n"
    assert fill(text, "bench", speed_page._content) == text
