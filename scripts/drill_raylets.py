"""A Ray cluster of several raylets on this host's loopback, to be broken; it ends when its standard input does.

    python scripts/drill_raylets.py FOLDER CPUS...

The head has no CPU and is where drivers attach; then comes one raylet for each of CPUS. When all are up it prints its
address and the process ids of the head's raylet and of the GCS. Tokens and whatever else Ray is told come with the
environment (ffpipe/engines/ray/settings.py).
"""

from __future__ import annotations

import os
import select
import sys
from typing import Any

SECONDS_A_LOOK = 0.2


def main() -> None:
    os.environ["RAY_TMPDIR"] = sys.argv[1]  # else Ray notes the address where every program on this host looks for one
    from ray.cluster_utils import Cluster

    cluster = Cluster()
    nodes = [
        cluster.add_node(num_cpus=cpus, wait=False, node_ip_address="127.0.0.1", include_dashboard=False)
        for cpus in (0, *map(int, sys.argv[2:]))
    ]
    cluster.wait_for_nodes(timeout=120)
    print(cluster.address, _process(nodes[0], "raylet"), _process(nodes[0], "gcs_server"), flush=True)
    while not select.select([sys.stdin], [], [], SECONDS_A_LOOK)[0]:
        for node in nodes:
            node.dead_processes()  # buries them, as `ray start` would: workers take a raylet that is not for alive
    cluster.shutdown()


def _process(node: Any, kind: str) -> int:
    process: int = node.all_processes[kind][0].process.pid
    return process


if __name__ == "__main__":
    main()
