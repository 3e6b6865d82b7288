"""Where a run's work is done, as people say it: here, in several processes, or on a Ray cluster."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from verifier.errors import InputError
from verifier.workers.course import Opened


@dataclass(frozen=True)
class Place:
    """Checked, and nothing started."""

    jobs: int = 1
    ray: bool = False
    address: str | None = None  #: of the Ray cluster

    @classmethod
    def of(cls, jobs: Any, executor: Any) -> Place:
        """What is given as `jobs` and `executor`. Raises InputError, also where Ray is asked for and not installed."""
        if jobs is not None and (type(jobs) is not int or jobs < 1):
            raise InputError(f"jobs must be an integer >= 1, the number of processes; got {jobs!r}")
        if executor is None:
            return cls(jobs or 1)
        name, _, address = executor.partition(":") if isinstance(executor, str) else ("", "", "")
        if name != "ray":
            raise InputError(f'executor must be "ray", or "ray:" and an address or auto; got {executor!r}')
        if jobs is not None:
            raise InputError("give jobs or executor, not both: a Ray cluster has as many workers as it has cores")
        from verifier.workers.on_ray import check_ray

        check_ray()
        return cls(ray=True, address=address or None)

    def workers(self, threads: int = 1, cuda: bool = False) -> Opened | None:
        """Those that do it; None: this process does.

        Args:
            threads: of each worker of a cluster; processes of this machine share its cores. cuda: whether each needs a
                GPU.
        """
        if self.ray:
            from verifier.workers.on_ray import ray_tasks

            return ray_tasks(self.address, threads, cuda)
        if self.jobs == 1:
            return None
        from verifier.workers.processes import processes

        return processes(self.jobs)
