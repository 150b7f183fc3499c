"""A contender that is busy for a minute, and so is a process that it started."""

import subprocess
import time
from pathlib import Path


def make(note: Path):
    """Write the number of the process that was started, once the run has begun."""

    def run():
        other = subprocess.Popen(["sleep", "60"])
        note.with_suffix(".part").write_text(str(other.pid))
        note.with_suffix(".part").replace(note)
        time.sleep(60)

    return run
