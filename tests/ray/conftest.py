"""A Ray cluster of several raylets on this machine."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ray = pytest.importorskip("ray", reason="Ray is not installed (make test-ray installs it)")


class RayCluster:
    """A head without work, and nodes of two cores each that the tests add, kill and remove.

    Attributes
    ----------
    address
        Of the head.
    """

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        self._cluster = Cluster(
            initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}
        )
        self.address: str = self._cluster.address
        self._nodes: list[Any] = []

    def has(self, count: int) -> None:
        """See to it that there are so many nodes."""
        self._nodes = [node for node in self._nodes if node.any_processes_alive()]
        while len(self._nodes) > count:
            self._cluster.remove_node(self._nodes.pop())
        while len(self._nodes) < count:
            self.add()

    def add(self) -> None:
        """Add a node."""
        self._nodes.append(self._cluster.add_node(num_cpus=2))

    def signal_raylet(self, number: int) -> None:
        """Send SIGKILL to the raylet of a node; what it has started may live on for a while."""
        self._raylet(number).send_signal(signal.SIGKILL)

    def end_node(self, number: int) -> None:
        """Send SIGTERM to a node, as a machine that is taken away gets it."""
        self._raylet(number).send_signal(signal.SIGTERM)

    def close(self) -> None:
        """End everything."""
        ray.shutdown()
        self._cluster.shutdown()

    def _raylet(self, number: int) -> Any:
        return self._nodes[number].all_processes["raylet"][0].process


@pytest.fixture(scope="session")
def started() -> Iterator[RayCluster]:
    os.environ.setdefault("RAY_DISABLE_IMPORT_WARNING", "1")
    cluster = RayCluster()
    yield cluster
    cluster.close()


@pytest.fixture
def cluster(started: RayCluster) -> RayCluster:
    """The cluster with two nodes."""
    started.has(2)
    return started
