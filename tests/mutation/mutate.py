"""Does a test fail for every change of the checker's comparisons, signs and payments? `make mutate`.

Every mutant (mutants.py) gets a process of its own, forked from one that has imported everything but the checker, and
runs the checker's tests there until the first failure, those first that killed most so far. What survives must be in
allowed.txt, with the reason why it can do no harm. All of it works on a copy of the tree.

    python -m mutation.mutate [--file backward.py] [--function NodeRanges.walk] [--jobs 2] [--show survivors.txt]
"""

from __future__ import annotations

import argparse
import importlib
import io
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from mutation.mutants import FILES, Mutant, in_place, mutants

HERE = Path(__file__).parent
CORE = (
    "test_checker_roundings.py", "test_checker_nodes.py", "test_checker_lines.py", "test_checker_payments.py",
    "test_checker_claims.py", "test_checker_steps.py", "test_checker_trees.py", "test_checker_audit.py",
    "test_checker_coarse.py", "test_checker.py", "test_corruptions.py",
)  # fmt: skip
#: the tests of each file
TESTS = {
    **dict.fromkeys(FILES, CORE),
    "sets.py": (
        "test_checker_supports.py", "test_checker_transport.py", "test_checker_sets.py", "test_checker_coarse.py",
    ),
    "sdp.py": ("test_checker_coarse.py", "test_checker_sdp.py", "test_corruptions.py"),
    "document.py": ("test_checker_files.py", *CORE),
    "enclosures.py": ("test_checker_enclosures.py", "test_checker_functions.py"),
    "functions.py": ("test_checker_functions.py", "test_checker_enclosures.py", "test_checker_nodes.py"),
    "pieces.py": ("test_checker_functions.py", "test_checker_nodes.py"),
    "products.py": ("test_checker_products.py", "test_checker_nodes.py", "test_checker_payments.py", "test_checker.py"),
    "directed.py": ("test_checker_directed.py", "test_checker_claims.py"),
    "audit.py": ("test_audited_rows.py", "test_checker_files.py"),
    "memory.py": ("test_checker_files.py",),
    "starting.py": ("test_deaf.py",),
    "__main__.py": ("test_audited_rows.py",),
}  # fmt: skip
#: names of tests that `--quick` leaves out
SLOW = (
    "random_changes",
    "flipped",
    "intercepts_of",
    "rules_lie",
    "smooth_values",
    "huge_json",
    "without_a_leaf",
    "files",
)
#: imported before the processes are forked, so that each finds them ready
_READY = ("torch", "hypothesis", "scipy.optimize", "verifier", "properties", "training", "verifier.certificate.build")
#: of one mutant: seconds of a processor, bytes
_SECONDS, _BYTES = 120, 6 << 30


@dataclass(eq=False)  # pytest keeps plugins in sets
class _Plugin:
    """The order of tests, and the first that fails."""

    order: Sequence[str]
    failed: list[str] = field(default_factory=list)

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        place = {name: i for i, name in enumerate(self.order)}
        items.sort(key=lambda item: place.get(item.nodeid, len(place)))

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed:
            self.failed.append(report.nodeid)

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed:
            self.failed.append(f"import of {report.nodeid}")


def run_tests(mutant: Mutant | None, tests: Sequence[str], order: Sequence[str]) -> str:
    """The first test that fails, in this process; empty where none does."""
    from hypothesis import Phase, settings

    # the same examples every time, and no time spent on making them smaller
    phases = (Phase.explicit, Phase.generate)
    settings.register_profile("mutation", derandomize=True, phases=phases, database=None, deadline=None)
    settings.load_profile("mutation")
    plugin, silent = _Plugin(order), io.StringIO()
    arguments = ["-x", "-q", "-p", "no:cacheprovider", "--rootdir", str(HERE.parents[1])]
    with redirect_stdout(silent), redirect_stderr(silent):
        if mutant is None:
            code = pytest.main([*arguments, *tests], plugins=[plugin])
        else:
            with in_place(mutant):
                code = pytest.main([*arguments, *tests], plugins=[plugin])
    if code == 0:
        return ""
    return plugin.failed[0] if plugin.failed else f"pytest ended with {code}"


def _child(mutant: Mutant, tests: Sequence[str], order: Sequence[str], write: int) -> None:
    """What a forked process does; it never returns."""
    found = "a crash"
    try:
        resource.setrlimit(resource.RLIMIT_CPU, (_SECONDS, _SECONDS))
        resource.setrlimit(resource.RLIMIT_DATA, (_BYTES, _BYTES))
        found = run_tests(mutant, tests, order)
    finally:
        os.write(write, found.encode())
        os._exit(0)


def killers(every: Sequence[Mutant], jobs: int) -> Iterator[tuple[Mutant, str, float]]:
    """Every mutant with the test that killed it (empty: none did) and the seconds that took."""
    kills: Counter[str] = Counter()
    running: dict[int, tuple[Mutant, int, float]] = {}
    left = list(reversed(every))
    while left or running:
        while left and len(running) < jobs:
            mutant, (read, write) = left.pop(), os.pipe()
            pid = os.fork()
            if pid == 0:
                os.close(read)
                paths = (HERE.parent / "checker" / name for name in TESTS[mutant.file])
                tests = [str(path) for path in paths if path.exists()]
                _child(mutant, tests, [name for name, _ in kills.most_common()], write)
            os.close(write)
            running[pid] = mutant, read, time.perf_counter()
        pid, status = os.wait()
        mutant, read, start = running.pop(pid)
        with os.fdopen(read) as pipe:
            found = pipe.read()
        if status != 0:
            found = "time or memory"
        elif found:
            kills[found] += 1
        yield mutant, found, time.perf_counter() - start


def allowed() -> dict[str, str]:
    """Names of mutants that may survive, with the reason: a line in brackets, before the names that it is for."""
    found, reason = {}, ""
    for line in (HERE / "allowed.txt").read_text().splitlines():
        if line.startswith("["):
            reason = line.strip("[]")
        elif line.strip() and not line.startswith("#"):
            found[line.strip()] = reason
    return found


def in_a_copy(arguments: Sequence[str]) -> int:
    """The same on a copy of the tree, so that it may be edited meanwhile."""
    tree = HERE.parents[1]
    with tempfile.TemporaryDirectory(prefix="mutation") as place:
        copy = Path(place) / "tree"
        left_out = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "out", "build", "docs", "benchmarks")
        shutil.copytree(tree, copy, ignore=left_out)
        path = os.pathsep.join([str(copy), str(copy / "tests")])
        command = [sys.executable, "-m", "mutation.mutate", "--here", *arguments]
        return subprocess.run(command, cwd=copy, env={**os.environ, "PYTHONPATH": path}, check=False).returncode


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--file", action="append", choices=FILES, help="only this file; may be repeated")
    parser.add_argument("--function", action="append", help="only functions whose name begins so; may be repeated")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument(
        "--show",
        type=lambda text: Path(text).absolute(),
        help="write the names of survivors that are not allowed to this file",
    )
    parser.add_argument(
        "--again", type=lambda text: Path(text).absolute(), help="only the mutants that this file names"
    )
    parser.add_argument("--quick", action="store_true", help="without tests that take long: more survive")
    parser.add_argument("--here", action="store_true", help="on this tree and not on a copy of it")
    parser.add_argument("--without", action="append", default=[], help="leave out this file of tests")
    parser.add_argument("--every", action="store_true", help="those in allowed.txt as well, to see which still survive")
    asked = parser.parse_args()
    if not asked.here:
        return in_a_copy(sys.argv[1:])
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    for name in _READY:
        importlib.import_module(name)
    for file, names in TESTS.items():
        TESTS[file] = tuple(name for name in names if name not in asked.without)
    if asked.quick:
        os.environ["PYTEST_ADDOPTS"] = f"-k 'not {' and not '.join(SLOW)}'"
    may, wanted = allowed(), set(asked.again.read_text().splitlines()) if asked.again else None
    every = [m for file in asked.file or FILES for m in mutants(file)]
    every = [m for m in every if m.name.split(" ", 1)[1].startswith(tuple(asked.function or [""]))]
    every = [m for m in every if (wanted is None or m.name in wanted) and (asked.every or m.name not in may)]
    if asked.show:
        asked.show.write_text("")
    unchanged = Mutant(FILES[0], 0, "the checker as it is", -1, 0)
    _, killer, seconds = next(killers([unchanged], 1))
    if killer:
        print(f"the checker as it is fails {killer}: nothing can be said of mutants")
        return 2
    print(f"the checker as it is passes in {seconds:.1f} s; {len(every)} mutants", flush=True)
    survivors, start = [], time.perf_counter()
    for count, (mutant, killer, seconds) in enumerate(killers(every, asked.jobs), 1):
        if not killer and mutant.name not in may:
            survivors.append(mutant)
            print(f"SURVIVED {mutant.name} (line {mutant.line}, {seconds:.1f} s)", flush=True)
            if asked.show:
                with asked.show.open("a") as out:
                    out.write(mutant.name + "\n")
        elif killer and asked.every and mutant.name in may:
            print(f"allowed, but killed by {killer}: {mutant.name}", flush=True)
        if count % 20 == 0:
            print(f"{count} of {len(every)}, {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
    print(f"{len(every)} mutants, {len(survivors)} survived, {len(may)} allowed")
    return int(bool(survivors))


if __name__ == "__main__":
    sys.exit(main())
