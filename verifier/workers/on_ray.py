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

from verifier.errors import InputError
from verifier.workers.course import Opened, WorkerLost, Workers
from verifier.workers.worker import give, has, parts

#: seconds of one wait, between two looks at how large the cluster is
_LOOK = 1.0
#: tasks that lie ready for whoever is free next, so that nobody waits for the driver
_READY = 2


def ray_tasks(address: str | None, threads: int = 1, cuda: bool = False) -> Opened:
    """Tasks of the cluster at an address.

    Args:
        address: host:port, or "auto" for the one that runs on this machine; None: that of RAY_ADDRESS, or else this
            machine alone. Where this process is connected to a cluster already, that is used.
        threads: of each task, and the cores that it asks for. cuda: whether each needs a GPU.
    """

    @contextmanager
    def opened(work: bytes) -> Iterator[Workers]:
        ray, own = _connected(address)
        try:
            _check_size(ray, threads)
            workers = _Tasks(ray, work, threads, cuda)
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
        raise InputError(
            f"there is no Ray cluster at {where}: {' '.join(str(error).split())} (`ray start --head` begins one on a "
            "machine, and `ray start --address=HOST:PORT` has another one join it)"
        ) from error
    return ray, True


def _check_size(ray: Any, threads: int) -> None:
    """Raises InputError where no machine could have a task, which would wait for one for ever."""
    most = max((int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]), default=0)
    if threads > most > 0:
        raise InputError(
            f"no machine of the Ray cluster has {threads} cores, but {most} at most: ask for fewer threads"
        )


def _task(name: str, content: list[Any], threads: int, unit: bytes) -> Iterator[tuple[bytes, bool]]:
    """What a worker does: `content` is a reference to the packed work, fetched once per process."""
    import ray

    if not has(name):
        give(name, ray.get(content[0]), threads)
    yield from parts(unit)


class _Tasks:
    """Ray places them, and tries nothing again by itself: what is lost is known here, and how often."""

    def __init__(self, ray: Any, work: bytes, threads: int, cuda: bool) -> None:
        self._ray, self._threads = ray, threads
        self._name, self._content = hashlib.sha256(work).hexdigest(), ray.put(work)
        self._remote = ray.remote(_task).options(
            num_cpus=threads, num_gpus=1 if cuda else 0, max_retries=0, num_returns="streaming"
        )
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
        return self._cores // self._threads + _READY

    def start(self, unit: bytes) -> Any:
        handle = self._remote.remote(self._name, [self._content], self._threads, unit)
        self._running.add(handle)
        return handle

    def wait(self, handles: Collection[Any]) -> Collection[Any]:
        ready, _ = self._ray.wait(list(handles), num_returns=1, timeout=_LOOK)
        if len(handles) > 1 and ready:
            ready, _ = self._ray.wait(list(handles), num_returns=len(handles), timeout=0)
        return ready

    def take(self, handle: Any) -> tuple[bytes, bool]:
        try:
            part, last = self._ray.get(next(handle))
        except self._losses as error:
            self._end(handle)  # it may go on, where only what it has found is lost
            raise WorkerLost(_how(error)) from error
        except self._ray.exceptions.RayTaskError as error:
            raise error.cause from error
        if last:
            self._running.discard(handle)
        return part, last

    def _end(self, handle: Any) -> None:
        self._running.discard(handle)
        with contextlib.suppress(Exception):  # the cluster may be gone
            self._ray.cancel(handle, force=True)

    def close(self) -> None:
        """Ends what is at work."""
        for handle in tuple(self._running):
            self._end(handle)


def _how(error: Exception) -> str:
    """In a few words: Ray's explanations are pages."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
