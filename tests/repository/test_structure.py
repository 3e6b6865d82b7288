"""Rules of the repository that no single module can keep: imports, registers, versions, no traces of one machine."""

from __future__ import annotations

import ast
import inspect
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import properties
import training
import verifier
from verifier.api import DEFAULT_STAGES
from verifier.ops.base import REGISTRY as OPERATORS
from verifier.ops.base import Operator
from verifier.stages import REGISTRY as STAGES
from verifier.stages import Stage

ROOT = Path(__file__).resolve().parents[2]
#: what each package may import of this repository
ALLOWED = {"properties": {"properties"}, "solvers": {"solvers"}, "verifier": {"verifier", "properties", "solvers"},
           "training": {"training", "verifier", "properties", "solvers"}}  # fmt: skip
#: what all of them may import besides, because it imports nothing but the standard library
GROUND = "verifier.registry"
OWN = {"properties", "solvers", "verifier", "training", "tests", "helpers", "benchmarks", "examples"}
#: loaded on first need only; what torch itself loads is not ours to avoid
HEAVY = {"matplotlib", "sklearn", "scipy", "onnx", "pandas", "sqlite3", "typer", "networkx", "torch.export"}


def imported(path: Path) -> Iterator[tuple[str, int]]:
    """Modules that a file imports, anywhere in it, and the line."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            yield node.module or "", node.lineno
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "import_module" and node.args:
            first = node.args[0]
            if isinstance(first, ast.Constant) and isinstance(first.value, str):
                yield first.value, node.lineno


@pytest.mark.parametrize("package", sorted(ALLOWED))
def test_imports_point_one_way(package: str) -> None:
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    for path in files:
        for module, line in imported(path):
            top = module.partition(".")[0]
            if module == GROUND:
                continue
            assert top not in OWN - ALLOWED[package], f"{path.relative_to(ROOT)}:{line} imports {module}"


def test_the_ground_imports_the_standard_library_alone() -> None:
    for module, line in imported(ROOT / f"{GROUND.replace('.', '/')}.py"):
        assert module.partition(".")[0] in sys.stdlib_module_names, f"line {line} imports {module}"
    assert not {"torch", "numpy", *HEAVY} & loaded_after(f"import {GROUND}")


def test_properties_know_nothing_of_networks() -> None:
    for path in (ROOT / "properties").rglob("*.py"):
        source = path.read_text(encoding="utf-8").replace("from torch.nn import functional as F", "")  # pads and pools
        assert "torch.nn" not in source, path


def loaded_after(statement: str) -> set[str]:
    """Modules that a fresh interpreter has loaded after a statement."""
    code = f"import json, sys\n{statement}\nprint(json.dumps(list(sys.modules)))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment, timeout=300
    )
    return set(json.loads(done.stdout))


def test_import_verifier_is_light() -> None:
    """Not even torch: names are looked up on first use."""
    heavy = {"torch", "numpy", "rich", *HEAVY}
    assert not heavy & loaded_after("import verifier")
    assert not heavy & loaded_after("import verifier; verifier.__version__; verifier.__all__")


def test_verify_and_certify_import_nothing_heavy_beyond_torch() -> None:
    torch_alone = loaded_after("import torch")
    verify = loaded_after("from verifier import verify") - torch_alone
    certify = loaded_after("from verifier import certify") - torch_alone
    assert not HEAVY & verify
    assert not (HEAVY - {"sqlite3"}) & certify  # the store


def test_exports_exist_and_are_documented() -> None:
    for name in verifier.__all__:
        assert getattr(verifier, name).__doc__, name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = verifier.nothing


def package_classes(package: str, base: type) -> dict[str, type]:
    """Concrete classes of the package's files that derive from `base`, found without any register."""
    found: dict[str, type] = {}
    for path in sorted((ROOT / package).glob("[!_]*.py")):
        module = __import__(f"{package}.{path.stem}".replace("/", "."), fromlist=["*"])
        for name, value in vars(module).items():
            own = inspect.isclass(value) and value.__module__ == module.__name__ and issubclass(value, base)
            if own and not inspect.isabstract(value) and not name.startswith("_"):
                found[name] = value
    return found


def documentation() -> str:
    return "\n".join(
        p.read_text(encoding="utf-8") for p in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    )


def test_operators_are_registered_and_documented() -> None:
    classes = package_classes("verifier/ops", Operator)
    assert len(classes) >= 20
    text = documentation()
    for name, kind in classes.items():
        assert OPERATORS.get(name) is kind, f"{name} is not registered"
        assert kind.__doc__ and kind.examples(), name
        assert f"`{name}`" in text, f"no documentation mentions `{name}`"


def test_stages_are_registered_and_documented() -> None:
    text = documentation()
    registered = {type(factory()) for factory in STAGES.values()}
    for kind in package_classes("verifier/stages", Stage).values():
        assert kind in registered, f"{kind.__name__} is not registered"
    for name, factory in STAGES.items():
        if type(factory()).__module__.startswith("verifier.stages"):
            assert factory().name == name
            known = ", ".join(f"`{alias}`" for alias in factory().aliases)
            row = rf"^\| `{name}` \| {re.escape(known)} ?\|.*\| {factory().cost_rank} \|$"
            assert re.search(row, text, re.MULTILINE), name
    ranks = [STAGES[name]().cost_rank for name in DEFAULT_STAGES]
    assert ranks == sorted(ranks), "the default order is by cost rank"


def tracked() -> list[Path]:
    """Text files of the repository: those that git tracks, or all that it would not ignore."""
    done = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    )
    if done.returncode == 0 and done.stdout:
        paths = [ROOT / line for line in done.stdout.splitlines()]
    else:
        kinds = ("*.py", "*.md", "*.toml", "*.txt", "Makefile", ".ci/run")
        skipped = (".venv", "build", "dist", "out")
        paths = [p for kind in kinds for p in ROOT.rglob(kind) if p.relative_to(ROOT).parts[0] not in skipped]
    return [p for p in paths if p.is_file() and b"\0" not in p.read_bytes()]


def test_no_absolute_paths_of_one_machine() -> None:
    # a root, then a name: "/usr/bin/env" in a first line is everybody's
    pattern = re.compile(r"(?<![\w.~:/])/(?:work|opt|home|root|Users|tmp|mnt|srv|data)/[\w.-]+")
    files = tracked()
    assert len(files) > 50
    for path in files:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if path != Path(__file__).resolve():
                assert not pattern.search(line), f"{path.relative_to(ROOT)}:{number}: {line.strip()}"


def test_version_is_the_same_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == verifier.__version__
    assert re.fullmatch(r"\d+\.\d+\.\d+", verifier.__version__)


def locked() -> dict[str, str]:
    """Versions in requirements.lock by canonical name."""
    from packaging.utils import canonicalize_name

    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    for line in pins:  # no host, no path, no local version such as +cpu, which the package index does not have
        assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*==\d[A-Za-z0-9.]*", line), line
    versions = {canonicalize_name(name): version for name, _, version in (pin.partition("==") for pin in pins)}
    assert len(versions) == len(pins), "a package twice"
    return versions


def test_constraints_are_within_the_ranges() -> None:
    """All that the project asks for, extras too, is in the lock, in a version that pyproject.toml allows."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    project, versions = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"], locked()
    asked = [*project["dependencies"], *(text for extra in project["optional-dependencies"].values() for text in extra)]
    direct = [r for r in map(Requirement, asked) if r.name != project["name"]]
    assert len(direct) > 15
    for requirement in direct:
        name = canonicalize_name(requirement.name)
        assert name in versions, f"{name} is not in requirements.lock"
        assert versions[name] in requirement.specifier, f"{name} {versions[name]} is not {requirement.specifier}"


def test_the_lock_is_complete() -> None:
    """What a locked version needs on this machine is locked. (Not of torch: that depends on how it was built.)"""
    from importlib.metadata import distributions

    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    versions, seen = locked(), 0
    for found in distributions():
        name = canonicalize_name(found.metadata["Name"])
        if versions.get(name) != found.version or name == "torch":
            continue
        seen += 1
        for needed in map(Requirement, found.requires or []):
            if needed.marker is None or needed.marker.evaluate({"extra": ""}):
                other = canonicalize_name(needed.name)
                assert other in versions, f"{name} needs {other}, which is not in requirements.lock"
                assert versions[other] in needed.specifier, f"{name} needs {needed}, not {versions[other]}"
    if not seen:
        pytest.skip("nothing here is of a locked version")


def test_modules_say_what_they_are() -> None:
    for package in (properties, training, verifier):
        assert package.__doc__
    for name in ALLOWED:
        for path in (ROOT / name).rglob("*.py"):
            assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), f"{path} has no docstring"


def test_the_core_of_the_certificate_checker_is_small() -> None:
    """What every certificate goes through can be read in an evening: under 600 lines of code, numpy alone."""
    count = 0
    for name in ("rounding", "lines", "backward", "check"):
        text = (ROOT / "verifier" / "checker" / f"{name}.py").read_text()
        nodes = list(ast.walk(ast.parse(text)))
        words = {
            line
            for node in nodes
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
            for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
        }
        lines = enumerate(text.splitlines(), 1)
        count += sum(bool(line.strip()) and not line.strip().startswith("#") and i not in words for i, line in lines)
    assert 300 < count < 600, count
