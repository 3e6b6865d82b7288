"""Workers that are tasks of a Ray cluster: on any number of machines, which may come and go."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

from verifier.certification.spread import Opened, WorkerLost, Workers
from verifier.certification.worker import give, has, work
from verifier.errors import InputError

#: seconds of one wait, between two looks at how large the cluster is
_LOOK = 1.0
#: tasks that lie ready for whoever is free next, so that nobody waits for the driver
_READY = 2


def ray_tasks(address: str | None, cuda: bool = False) -> Opened:
    """Tasks of the cluster at an address, each on one core.

    Args:
        address: host:port, or "auto" for the one that runs on this machine; None: that of RAY_ADDRESS, or else this
            machine alone. Where this process is connected to a cluster already, that is used.
        cuda: whether each needs a GPU.
    """

    @contextmanager
    def opened(runner: bytes) -> Iterator[Workers]:
        ray, own = _connected(address)
        try:
            workers = _Tasks(ray, runner, cuda)
            try:
                yield workers
            finally:
                workers.close()
        finally:
            if own:
                ray.shutdown()

    return opened


def check_ray() -> None:
    """Raises InputError where Ray is not installed."""
    _imported()


def _imported() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # read when it is imported
    try:
        import ray
    except ImportError as error:
        raise InputError(f'Ray is not installed ({error}): pip install "rampart-verifier[ray]"') from error
    return ray


def _connected(address: str | None) -> tuple[Any, bool]:
    """Ray, and whether the connection is ours to close. Raises InputError where there is no such cluster."""
    ray = _imported()
    if ray.is_initialized():
        return ray, False
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, configure_logging=True)
    except (ConnectionError, ValueError, RuntimeError) as error:
        where = address or os.environ.get("RAY_ADDRESS") or "this machine"
        raise InputError(f"there is no Ray cluster at {where}: {' '.join(str(error).split())}") from error
    return ray, True


def _task(name: str, content: list[Any], unit: bytes) -> bytes:
    """What a worker does: `content` is a reference to the packed runner, fetched once per process."""
    import ray

    if not has(name):
        give(name, ray.get(content[0]), threads=1)
    return work(unit)


class _Tasks:
    """Ray places them, and tries nothing again by itself: what is lost is known here, and how often."""

    def __init__(self, ray: Any, runner: bytes, cuda: bool) -> None:
        self._ray = ray
        self._name, self._content = hashlib.sha256(runner).hexdigest(), ray.put(runner)
        self._remote = ray.remote(_task).options(num_cpus=1, num_gpus=1 if cuda else 0, max_retries=0)
        self._running: set[Any] = set()
        self._cores, self._seen = 0, -_LOOK
        errors = ray.exceptions
        self._losses = (
            errors.WorkerCrashedError, errors.NodeDiedError, errors.LocalRayletDiedError, errors.ObjectLostError,
            errors.OutOfMemoryError,
        )  # fmt: skip

    def capacity(self) -> int:
        now = time.monotonic()
        if now - self._seen >= _LOOK:
            self._cores, self._seen = int(self._ray.cluster_resources().get("CPU", 0)), now
        return self._cores + _READY

    def start(self, unit: bytes) -> Any:
        handle = self._remote.remote(self._name, [self._content], unit)
        self._running.add(handle)
        return handle

    def wait(self, handles: Collection[Any]) -> Collection[Any]:
        ended, _ = self._ray.wait(list(handles), num_returns=1, timeout=_LOOK)
        if len(handles) > 1 and ended:
            ended, _ = self._ray.wait(list(handles), num_returns=len(handles), timeout=0)
        return ended

    def result(self, handle: Any) -> bytes:
        self._running.discard(handle)
        try:
            return bytes(self._ray.get(handle))
        except self._losses as error:
            raise WorkerLost(_how(error)) from error
        except self._ray.exceptions.RayTaskError as error:
            raise error.cause from error

    def close(self) -> None:
        """Ends what is at work."""
        for handle in self._running:
            with contextlib.suppress(Exception):  # the cluster may be gone
                self._ray.cancel(handle, force=True)


def _how(error: Exception) -> str:
    """In a few words: Ray's explanations are pages."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
