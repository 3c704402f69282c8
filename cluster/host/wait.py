"""A wait until a number of hosts have joined a Ray cluster; then it says what they have.

python wait.py ADDRESS COUNT SECONDS
"""

from __future__ import annotations

import logging
import socket
import sys
import time

import ray


def answers(host: str, port: int) -> bool:
    """Return whether a head is there; Ray itself would wait for it only so long, and say much meanwhile."""
    try:
        socket.create_connection((host, port), timeout=5).close()
    except OSError:
        return False
    return True


def join(address: str, deadline: float) -> None:
    """Join the cluster; its head answers before it has a node that can be joined."""
    while True:
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, RuntimeError) as error:
            if time.monotonic() > deadline:
                sys.exit(f"nothing can be joined at {address}: {error}")
            time.sleep(0.5)
        else:
            return


def main() -> None:
    """Wait for the head, and exit with a reason where it does not come."""
    address, count, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    deadline = time.monotonic() + seconds
    host, _, port = address.rpartition(":")
    while not answers(host, int(port)):
        if time.monotonic() > deadline:
            sys.exit(f"nothing answers at {address} after {seconds:g} s")
        time.sleep(0.5)
    join(address, deadline)
    while (joined := sum(node["Alive"] for node in ray.nodes())) < count:
        if time.monotonic() > deadline:
            sys.exit(f"{joined} of {count} hosts have joined after {seconds:g} s")
        time.sleep(0.5)
    have = ray.cluster_resources()
    print(f"{count} host(s) at {address}: {have.get('CPU', 0):g} CPU, {have.get('GPU', 0):g} GPU")


if __name__ == "__main__":
    main()
