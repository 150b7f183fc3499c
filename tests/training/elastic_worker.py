"""`resnets ARGUMENTS` whose process of rank 1 is killed once, before update number FATAL.

    elastic_worker.py MARKER FATAL ARGUMENTS...

MARKER is the file that tells the second attempt from the first.
"""

import os
import signal
import sys
from pathlib import Path

import torch

from resnets.cli.main import main
from resnets.training.trainer import Trainer

if __name__ == "__main__":
    marker, fatal, *sys.argv[1:] = sys.argv[1:]
    update = Trainer.update

    def deadly(self):
        if self.world.rank == 1 and self.step == int(fatal) and not Path(marker).exists():
            Path(marker).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return update(self)

    Trainer.update = deadly
    torch.set_num_threads(1)
    main()
