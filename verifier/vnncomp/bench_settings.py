"""How a list of instances is run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from verifier.vnncomp.bench_list import Instance


@dataclass(frozen=True)
class BenchSettings:
    """How a list is run."""

    out: Path | None = None  #: folder for the results; None: they are not kept
    resume: bool = False
    jobs: int = 1
    threads: int | None = None  #: of each instance
    in_process: bool = False  #: the processes are forked by workers that have loaded everything
    stages: str | None = None
    executor: str | None = None  #: "ray", "ray:auto" or "ray:HOST:PORT": a cluster's workers, as of `certify`
    certificates: Path | None = None  #: folder for the certificates of each `unsat`, in a folder of the instance's name

    def certificates_of(self, instance: Instance) -> Path | None:
        """The folder of an instance's certificates."""
        return None if self.certificates is None else self.certificates / instance.name
