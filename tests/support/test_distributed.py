"""Collective calls, in a single process and among several."""

import json
import os
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from resnets.support.distributed import World, _meet, world
from resnets.support.errors import UserError

ROOT = Path(__file__).parents[2]
TASK = """
import json, sys, torch
from resnets.support.distributed import world
with world() as here:
    names = here.gather_objects(f"rank {here.rank}")
    sent = here.broadcast_object(f"from {here.rank}")
    total = here.all_reduce_sum(torch.tensor([here.rank + 1.0, 2.0])).tolist()
    with world() as inner:
        same = inner == here
    numbers = [here.rank, here.size, here.local_rank, here.is_main]
    print(json.dumps([*numbers, names, sent, total, same]))
assert not torch.distributed.is_initialized()
"""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(task, size):
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(size)}
    return [
        subprocess.Popen(
            [sys.executable, "-c", task],
            stdout=subprocess.PIPE,
            cwd=ROOT,
            env={**os.environ, **common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(size)
    ]


def test_alone_every_call_is_the_identity(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with world() as here:
        assert here == World(0, 1, 0)
        assert here.is_main
        assert here.gather_objects("mine") == ["mine"]
        assert here.broadcast_object("mine") == "mine"
        assert here.all_reduce_sum(torch.ones(2)).tolist() == [1, 1]


def test_three_processes_meet():
    running = start(TASK, 3)
    answers = [json.loads(process.communicate(timeout=120)[0]) for process in running]
    assert [process.returncode for process in running] == [0, 0, 0]
    everyone = ["rank 0", "rank 1", "rank 2"]
    for rank, answer in enumerate(answers):
        names = everyone if rank == 0 else None
        assert answer == [rank, 3, rank, rank == 0, names, "from 0", [6.0, 6.0], True]


DESERTED = """
import os
from resnets.support.distributed import world
from resnets.support.errors import UserError
with world() as here:
    here.broadcast_object("both are here")
    if here.rank == 1:
        os._exit(3)  # at once, as a killed process; Python's own end may abort in gloo's threads
    try:
        here.gather_objects(1)
    except UserError as error:
        print(error)
"""


def test_waiting_for_a_process_that_ended_is_an_error():
    waiting, ended = start(DESERTED, 2)
    assert b"another process ended" in waiting.communicate(timeout=120)[0]
    assert ended.wait(timeout=120) == 3


MISTAKEN = """
import os, sys, torch
from torch.nn.parallel import DistributedDataParallel
from resnets.support.distributed import world
from resnets.support.errors import UserError

def work(here):
    network = DistributedDataParallel(torch.nn.Linear(3, 3))  # it holds the processes' connections
    network(torch.ones(2, 3)).sum().backward()
    if os.environ["RANK"] in os.environ["MISTAKEN"]:
        raise UserError("a mistake")
    here.gather_objects(1)
    here.broadcast_object(1)

try:
    with world() as here:
        work(here)
except UserError as error:
    print(error)
    sys.exit(2)
"""


@pytest.mark.parametrize("mistaken", ["01", "1"])
def test_a_mistake_on_all_or_one_of_the_processes_ends_all_with_code_2(monkeypatch, mistaken):
    monkeypatch.setenv("MISTAKEN", mistaken)
    running = start(MISTAKEN, 2)
    said = [process.communicate(timeout=120)[0].decode() for process in running]
    assert [process.returncode for process in running] == [2, 2]
    for rank, line in enumerate(said):
        assert line.startswith("a mistake" if str(rank) in mistaken else "another process ended")


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"WORLD_SIZE": "2"}, "RANK is None, not a number; start them with torchrun"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE is 'two'"),
        ({"WORLD_SIZE": "2", "RANK": "0"}, "the 2 processes could not connect"),
    ],
)
def test_an_incomplete_environment_is_an_error(monkeypatch, variables, message):
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=message), world():
        pass


def test_processes_meet_where_an_earlier_start_left_its_tokens():
    """Restarted by torchrun, they may be given the store of the ones that died."""
    store = torch.distributed.HashStore()
    for key, word in (("word", "old"), ("old/1", "dead"), ("old/2", "dead"), ("dead", "old")):
        store.set(f"resnets/{key}", word)
    with ThreadPoolExecutor(3) as threads:
        # The first two wait for the third, which asks them.
        late = [threads.submit(_meet, store, rank, 3) for rank in (1, 2)]
        time.sleep(0.1)
        words = {threads.submit(_meet, store, 0, 3).result(60), *(w.result(60) for w in late)}
    assert len(words) == 1
    assert words != {"old"}
