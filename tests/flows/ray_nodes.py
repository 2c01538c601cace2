"""A Ray cluster of two nodes on this machine, a CPU each: ``python ray_nodes.py``, until its input ends.

It prints a line of JSON: the address, and the process of each node's raylet, the head's first. ``--unshared
PATH``: the second node sees an empty directory there.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import subprocess
import sys
from pathlib import Path

CLONE_NEWNS = 0x20000
NOT_PERMITTED = 77
"""The exit code where no mount namespace can be made."""


def main() -> None:
    from ray.cluster_utils import Cluster  # the tests that import this module need no Ray

    given = argparse.ArgumentParser()
    given.add_argument("--unshared", type=Path)
    unshared = given.parse_args().unshared
    cluster = Cluster()
    here = {"num_cpus": 1, "node_ip_address": "127.0.0.1"}
    nodes = [cluster.add_node(include_dashboard=False, **here)]
    if unshared:
        if ctypes.CDLL(None).unshare(CLONE_NEWNS):
            sys.exit(NOT_PERMITTED)
        subprocess.run(["mount", "--make-rprivate", "/"], check=True)
        subprocess.run(["mount", "-t", "tmpfs", "none", str(unshared)], check=True)
    nodes.append(cluster.add_node(**here))
    raylets = [node.all_processes["raylet"][0].process.pid for node in nodes]
    print(json.dumps({"address": cluster.address, "raylets": raylets}), flush=True)
    sys.stdin.read()
    cluster.shutdown()


if __name__ == "__main__":
    main()
