"""Where a run's work is done, as people say it: here, in several processes, or on a Ray cluster."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from verifier.certification.executor import Executor, InProcess
from verifier.certification.work import UnitRunner
from verifier.errors import InputError


@dataclass(frozen=True)
class Place:
    """Checked, and nothing started."""

    jobs: int = 1
    ray: bool = False
    address: str | None = None  #: of the Ray cluster

    @classmethod
    def of(cls, jobs: Any, executor: Any) -> Place:
        """What `certify` is given. Raises InputError, also where Ray is asked for and not installed."""
        if jobs is not None and (type(jobs) is not int or jobs < 1):
            raise InputError(f"jobs must be an integer >= 1, the number of processes; got {jobs!r}")
        if executor is None:
            return cls(jobs or 1)
        name, _, address = executor.partition(":") if isinstance(executor, str) else ("", "", "")
        if name != "ray":
            raise InputError(f'executor must be "ray", or "ray:" and an address or auto; got {executor!r}')
        if jobs is not None:
            raise InputError("give jobs or executor, not both: a Ray cluster has as many workers as it has cores")
        from verifier.certification.on_ray import check_ray

        check_ray()
        return cls(ray=True, address=address or None)

    def executor(self, runner: UnitRunner) -> Executor:
        """Who works on the units of a run."""
        if not self.ray and self.jobs == 1:
            return InProcess(runner)
        from verifier.certification.spread import Spread

        if self.ray:
            from verifier.certification.on_ray import ray_tasks

            return Spread(runner, ray_tasks(self.address, cuda=runner.verifier.device.type == "cuda"))
        from verifier.certification.processes import processes

        return Spread(runner, processes(self.jobs))
