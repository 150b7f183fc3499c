"""The memory of this machine, and what does not fit into it."""

import pytest

from resnets.support import memory
from resnets.support.errors import UserError


def test_a_container_s_limit_counts(tmp_path, monkeypatch):
    machine = memory.total_memory()
    assert machine is None or machine > 2**28
    limits = tmp_path / "max", tmp_path / "none", tmp_path / "small"
    monkeypatch.setattr(memory, "_LIMITS", tuple(map(str, limits)))
    limits[0].write_text("max\n")
    assert memory.total_memory() == pytest.approx(machine)
    limits[2].write_text("1048576\n")
    assert memory.total_memory() == 1048576


def test_what_does_not_fit_is_refused_and_what_is_unknown_is_not(monkeypatch):
    monkeypatch.setattr(memory, "total_memory", lambda: 2**31)
    memory.refuse_beyond_memory(2**31, "a batch", "--batch", "less")
    line = "--batch: a batch needs more than 3 GiB of memory, and this machine has 2; less"
    with pytest.raises(UserError, match=line):
        memory.refuse_beyond_memory(3 * 2**30, "a batch", "--batch", "less")
    monkeypatch.setattr(memory, "total_memory", lambda: None)
    memory.refuse_beyond_memory(2**60, "a batch", "--batch", "less")
