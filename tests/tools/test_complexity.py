"""The committed counts of the networks are those that the tool writes."""

from tools import complexity


def test_the_committed_counts_are_the_written_ones():
    assert complexity.FILE.read_text("utf-8") == complexity.content(), (
        "run python -m tools.complexity"
    )
