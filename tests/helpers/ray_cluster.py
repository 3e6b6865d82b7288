"""A Ray cluster of several nodes on this machine, on the loopback address alone, for tests; import it before ray."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from pathlib import Path
from typing import Any, Self

import psutil

ROOT = Path(__file__).resolve().parents[2]

#: read by Ray when it is imported; its name for "this machine alone, on the loopback address" is an odd one
os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
#: which its processes show each other; otherwise Ray would keep one in the user's home
os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))

#: what a worker that has loaded torch has in memory at least
_LOADED = 200 << 20


class LocalCluster:
    """Nodes of one core each; the first is the head."""

    def __init__(self, nodes: int) -> None:
        self._before = {name: os.environ.get(name) for name in ("PYTHONPATH", "RAY_TMPDIR")}
        self.folder = tempfile.mkdtemp(prefix="r", dir="/tmp")  # sockets have short names
        (Path(self.folder) / "ray").mkdir()
        paths = [str(ROOT), str(ROOT / "tests"), self._before["PYTHONPATH"] or ""]
        os.environ |= {"RAY_TMPDIR": self.folder, "PYTHONPATH": os.pathsep.join(paths)}
        from ray.cluster_utils import Cluster

        self._cluster = Cluster(initialize_head=True, head_node_args=self._settings())
        self.nodes: list[Any] = [self.add() for _ in range(nodes - 1)]

    @staticmethod
    def _settings() -> dict[str, Any]:
        return {
            "num_cpus": 1, "object_store_memory": 80 << 20, "include_dashboard": False, "node_ip_address": "127.0.0.1"
        }  # fmt: skip

    @property
    def address(self) -> str:
        return str(self._cluster.address)

    def add(self) -> Any:
        """One more node joins."""
        return self._cluster.add_node(**self._settings())

    def lose(self, node: Any) -> None:
        """A node dies, with all that runs on it."""
        self._cluster.remove_node(node, allow_graceful=False)

    def at_work(self) -> list[psutil.Process]:
        """The processes that work on a unit now, and are past loading what that takes."""
        found = []
        for node in self._cluster.list_all_nodes():
            for info in node.all_processes.get("raylet", []):
                try:
                    found += [p for p in psutil.Process(info.process.pid).children() if self._busy(p)]
                except psutil.NoSuchProcess:
                    continue
        return found

    @staticmethod
    def _busy(process: psutil.Process) -> bool:
        try:
            return "ray::_task" in process.cmdline()[0] and process.memory_info().rss > _LOADED
        except (psutil.Error, IndexError):
            return False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        self._cluster.shutdown()
        for name, value in self._before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        shutil.rmtree(self.folder, ignore_errors=True)
