"""A process that yields to all other work, and those that it starts."""

import subprocess
import sys
from pathlib import Path

import pytest

from resnets.support import idle

SHOW = (
    "import os; print(os.nice(0), os.sched_getscheduler(0) == os.SCHED_IDLE);"
    "print(open('/proc/self/autogroup').read().split()[-1])"
)


@pytest.mark.skipif(not Path("/proc/self/autogroup").exists(), reason="no groups of sessions")
def test_a_process_and_its_sessions_have_the_lowest_priority():
    code = (
        "import subprocess, sys\n"
        "from resnets.support import idle\n"
        "print(', '.join(idle.yield_to_others()), flush=True)\n"
        f"subprocess.run([sys.executable, '-c', {SHOW!r}], start_new_session=True,"
        " preexec_fn=idle.yield_session)\n"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, start_new_session=True)
    means, priority, group = done.stdout.splitlines()
    assert means == "nice 19, SCHED_IDLE, autogroup"
    assert priority == "19 True"
    assert group == "19"


def test_other_systems_do_what_they_can(monkeypatch, tmp_path):
    for name in ("nice", "sched_setscheduler"):
        monkeypatch.delattr(idle.os, name)
    monkeypatch.setattr(idle, "_AUTOGROUP", tmp_path / "absent" / "autogroup")
    assert idle.yield_to_others() == []
