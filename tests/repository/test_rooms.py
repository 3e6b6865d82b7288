"""Every room of the code only looks down: imports point to rooms below, and no files make a circle.

All imports count: those for type checkers alone, and those inside functions.
"""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import networkx as nx
import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("properties", "solvers", "verifier", "training")

#: the rooms, from the ground up: what is in one may import what is in those before it, and its own neighbours
ROOMS = (
    # the register of parts, which every room may use and which knows none
    "verifier.registry",
    # what is asked, and who solves programs; neither knows the other
    "properties", "solvers",
    # the ground: errors, files, records; the checker of certificates, which imports nothing else of the project
    "verifier.shadows", "verifier.version", "verifier.checker", "verifier.errors", "verifier.files", "verifier.tables",
    "verifier.verdict", "verifier.budget", "verifier.held", "verifier.device", "verifier.arithmetic",
    "verifier.kernels", "verifier.quiet", "verifier.layout", "verifier.workers",
    # networks, and questions about them
    "verifier.forms", "verifier.ops", "verifier.graph", "verifier.arguments", "verifier.user_code",
    "verifier.normalisation", "verifier.loading", "verifier.data_files", "verifier.query",
    "verifier.rounding", "verifier.bound_map", "verifier.evidence",
    # the bound engine, and what is built on it
    "verifier.relaxation", "verifier.attacks", "verifier.sdp", "verifier.zonotope", "verifier.encoding",
    "verifier.projection", "verifier.branching",
    # stages, from proofs to files, who runs when, the answer
    "verifier.stages", "verifier.certificate", "verifier.pace", "verifier.policy", "verifier.judge", "verifier.answers",
    "verifier.result", "verifier.outcome", "verifier.progress", "verifier.recheck", "verifier.cascade",
    "verifier.explain", "verifier.union", "verifier.several", "verifier.api", "verifier.questions",
    "verifier.attack_target", "verifier.attacking", "verifier.attack_radii", "verifier.bounding",
    # what people call
    "verifier.network_answer", "verifier.network_cascade", "verifier.bracket", "verifier.radius", "verifier.comparison",
    "verifier.certification", "verifier.vnncomp", "verifier.ci", "verifier.report", "verifier.testing",
    "verifier.plot", "verifier", "verifier.demo", "verifier.commands", "verifier.__main__",
    "training",
)  # fmt: skip


@dataclass(frozen=True)
class Import:
    """One file imports another, or a name of it."""

    source: str
    target: str
    line: int
    name: str

    def __str__(self) -> str:
        where = file_of(self.target).relative_to(ROOT)
        return f"{file_of(self.source).relative_to(ROOT)}:{self.line} imports {where}:{defined(self.target, self.name)}"


@cache
def modules() -> dict[str, Path]:
    """Every module's name, and its file."""
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def file_of(module: str) -> Path:
    return modules()[module]


@cache
def tree_of(module: str) -> ast.Module:
    return ast.parse(file_of(module).read_text(encoding="utf-8"))


def defined(module: str, name: str) -> int:
    """The line where a module says what a name is; its first line where that cannot be seen."""
    for node in tree_of(module).body:
        own = {getattr(node, "name", None), *(getattr(t, "id", None) for t in getattr(node, "targets", ()))}
        if name in own | {getattr(getattr(node, "target", None), "id", None)}:
            return int(node.lineno)
    return 1


def imports(module: str) -> Iterator[Import]:
    """What a module imports of ours, anywhere in it. A package that walks through its folder imports all of it."""
    tree, known = tree_of(module), modules()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (Import(module, a.name, node.lineno, "") for a in node.names if a.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            for alias in node.names:
                if f"{node.module}.{alias.name}" in known:
                    yield Import(module, f"{node.module}.{alias.name}", node.lineno, "")
                elif node.module in known:
                    yield Import(module, node.module, node.lineno, alias.name)
        elif isinstance(node, ast.Attribute) and node.attr == "iter_modules" and file_of(module).name == "__init__.py":
            inside = (m for m in known if m.startswith(f"{module}."))
            yield from (Import(module, m, node.lineno, "") for m in inside)


@cache
def every_import() -> tuple[Import, ...]:
    found = (one for module in modules() for one in imports(module))
    return tuple(one for one in found if one.source != one.target)


def room(module: str) -> str:
    """The room that a module is in."""
    parts = module.split(".")
    return ".".join(parts[:2]) if parts[0] == "verifier" else parts[0]


def test_every_room_has_its_place() -> None:
    assert len(set(ROOMS)) == len(ROOMS)
    assert {room(module) for module in modules()} == set(ROOMS)


def test_rooms_only_look_down() -> None:
    place = {name: i for i, name in enumerate(ROOMS)}
    up = [
        f"{one}, which is in a room above: {room(one.source)} comes before {room(one.target)}"
        for one in every_import()
        if place[room(one.source)] < place[room(one.target)]
    ]
    assert not up, "\n".join(up)


def test_what_is_asked_and_who_solves_it_know_nothing_of_each_other() -> None:
    wrong = [str(one) for one in every_import() if {room(one.source), room(one.target)} == {"properties", "solvers"}]
    assert not wrong, "\n".join(wrong)


def test_no_files_make_a_circle() -> None:
    between = {(one.source, one.target): one for one in reversed(every_import())}
    graph = nx.DiGraph(list(between))
    circles = []
    for files in nx.strongly_connected_components(graph):
        inner = graph.subgraph(files)
        if len(files) > 1:
            round_ = min((nx.shortest_path(inner, b, a) for a, b in inner.edges), key=len)
            steps = zip(round_, [*round_[1:], round_[0]], strict=True)
            circles.append("a circle of files:\n  " + "\n  ".join(str(between[step]) for step in steps))
    assert not circles, "\n".join(circles)


def test_the_checker_needs_numpy_alone() -> None:
    """And python-flint in its exact mode: it knows nothing of how certificates are made."""
    allowed = {*sys.stdlib_module_names, "numpy"}
    for module in modules():
        if room(module) != "verifier.checker":
            continue
        for node in ast.walk(tree_of(module)):
            named = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            named += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in named:
                own = name == "verifier.checker" or name.startswith("verifier.checker.")
                exact = name == "flint" and module.startswith("verifier.checker.exact")
                assert own or exact or name.split(".")[0] in allowed, f"{file_of(module)}:{node.lineno} imports {name}"


#: imports every module named on stdin first in a process of its own, which has none of ours yet; says what fails
_RUNNER = """
import gc, importlib, json, os, sys, traceback
for name in json.loads(sys.argv[1]):
    importlib.import_module(name)
names, failed, running = json.load(sys.stdin), {}, {}
ours = {name.partition(".")[0] for name in names}
assert not ours & set(sys.modules)
gc.disable()  # it would look through all of torch again and again
sys.dont_write_bytecode, sys.pycache_prefix = False, sys.argv[2]  # compile ours once, not once per process

def ended():
    pid, status = os.wait()
    name, read = running.pop(pid)
    with os.fdopen(read) as pipe:
        text = pipe.read()
    if status:
        failed[name] = text or f"the process ended with {status}"

for name in names:
    if len(running) == 2:
        ended()
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read)
        try:
            importlib.import_module(name)
            code = 0
        except BaseException:
            os.write(write, traceback.format_exc(limit=-3).encode()[-4000:])
            code = 1
        os._exit(code)
    os.close(write)
    running[pid] = name, read
while running:
    ended()
print(json.dumps(failed))
"""
#: of others: loaded once, before there is one process per module
_READY = (
    "torch", "numpy", "scipy.optimize", "scipy.sparse.linalg", "networkx", "rich.table", "rich.console", "typer",
    "safetensors.torch",
)  # fmt: skip


@pytest.mark.slow  # without a circle of files, it finds no more than a module that fails by itself
def test_every_module_can_be_imported_first(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", _RUNNER, json.dumps(_READY), str(tmp_path)],
        input=json.dumps(list(modules())), capture_output=True, text=True, env=environment, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    failed = json.loads(done.stdout.splitlines()[-1])
    assert not failed, "\n".join(f"{name}: {text}" for name, text in failed.items())
