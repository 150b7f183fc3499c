"""The campaign of damaged files finds all damage; without checksums it fails."""

import pytest

from benchmarks.faults import damage
from resnets.support import tensor_files


@pytest.mark.parametrize("checked", [True, False])
def test_damage_is_found(monkeypatch, checked):
    if not checked:
        monkeypatch.setattr(tensor_files, "check", lambda path, header_only=False: None)
    outcome = damage.run(60, 0, lambda line: None)
    assert (not outcome.failures) == checked
    assert sum(outcome.facts.values()) + len(outcome.failures) == 60
