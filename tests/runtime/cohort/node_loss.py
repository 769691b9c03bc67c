"""A cluster of a head and two nodes in this machine, one of which goes in the middle; run as a script by test_ray.py.

Says in JSON how often each study was settled, and in which state it is in the end.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path

os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}

from ray.cluster_utils import Cluster

from runtime.bundle.bundle import open_bundle
from runtime.cohort.driver import CohortDriver
from runtime.cohort.find import find_studies
from runtime.cohort.ledger import Ledger
from runtime.cohort.ray_cluster import ray_cluster
from runtime.cohort.ray_executor import RayExecutor, Share
from runtime.cohort.settings import Settings
from runtime.jobs.job import Job
from runtime.memory import MemoryRules
from tests.runtime.cohort.fakes import Unwatched

STUDIES, OUTPUT = map(Path, sys.argv[1:3])
STORE_BYTES = 80 << 20


class Breaking(Unwatched):
    """Takes a node away once three studies are settled."""

    def __init__(self, cluster: Cluster, node: object) -> None:
        self._cluster, self._node = cluster, node
        self.num_settled = self.num_back = 0

    def ended(self, size_bytes: int, seconds: float, is_done: bool) -> None:
        self.num_settled += 1
        if self.num_settled == 3:
            self._cluster.remove_node(self._node, allow_graceful=False)

    def back(self, size_bytes: int) -> None:
        self.num_back += 1


def main() -> None:
    logging.getLogger("runtime").setLevel(logging.ERROR)
    bundle = open_bundle()
    job = Job(STUDIES, OUTPUT, [], MemoryRules(), is_memory_chosen=False, backend="ort", threads=1)
    settings = Settings(job, bundle.fingerprint, draws=False)
    OUTPUT.mkdir()
    ledger = Ledger(OUTPUT)
    ledger.meet(find_studies(STUDIES), settings.key, retries=False)
    store = {"object_store_memory": STORE_BYTES, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **store})
    nodes = [cluster.add_node(num_cpus=1, object_store_memory=STORE_BYTES) for _ in range(2)]
    with ray_cluster(cluster.address, 0, 0) as ray:
        watch = Breaking(cluster, nodes[0])
        executor = RayExecutor(ray, settings, OUTPUT, 2, Share(threads=1))
        CohortDriver(ledger, executor, settings, watch).run()
        executor.close()
    states = {row["name"]: row["state"] for row in ledger.rows()}
    print(json.dumps({"states": states, "settled": watch.num_settled, "back": watch.num_back}))
    cluster.shutdown()


main()
