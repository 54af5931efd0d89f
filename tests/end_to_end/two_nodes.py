"""A Ray cluster in a process of its own: a head that runs nothing, and two nodes. The test talks to it line by line.

It prints the cluster's address; at `remove` it kills a node; when its standard input ends, it ends.
"""

import sys

from ray.cluster_utils import Cluster


def main() -> None:
    """Hosts the cluster."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    sys.stdout.write(f"{cluster.address}\n")
    sys.stdout.flush()
    for line in sys.stdin:
        if line.strip() == "remove":
            cluster.remove_node(nodes.pop(), allow_graceful=False)
            sys.stdout.write("removed\n")
            sys.stdout.flush()
    cluster.shutdown()


if __name__ == "__main__":
    main()
