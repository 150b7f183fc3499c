"""A Ray cluster of two machines, of one CPU each, made of processes here."""

from contextlib import contextmanager

import pytest


@contextmanager
def two_machines():
    pytest.importorskip("ray", reason="Ray is not installed")
    from ray.cluster_utils import Cluster

    few = {"object_store_memory": 80 * 2**20}
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **few})
    made.add = lambda: made.add_node(num_cpus=1, **few)
    made.machines = [made.add(), made.add()]
    yield made
    made.shutdown()
