"""The public names: typed for a user's type checker, complete in `dir`, and not hidden by files of the user's own."""

from __future__ import annotations

import ast
import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
#: packages that import their names on first use
LAZY = ("verifier", "training")


@pytest.mark.parametrize("package", LAZY)
def test_names_are_said_once_for_all_who_ask(package: str) -> None:
    """What a star imports, what `dir` shows in a fresh process, and what type checkers see are the same names."""
    module = importlib.import_module(package)
    assert len(set(module.__all__)) == len(module.__all__) > 3
    code = f"import {package} as package\nassert set(package.__all__) <= set(dir(package)), dir(package)"
    subprocess.run([sys.executable, "-c", code], check=True, env=environment(), timeout=300)
    assert module.__file__ is not None
    tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
    (typing,) = (n for n in tree.body if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING")
    typed = {a.name: n.module for n in typing.body if isinstance(n, ast.ImportFrom) for a in n.names}
    assert typed.keys() == set(module.__all__)
    for name, place in typed.items():
        assert getattr(module, name) is getattr(importlib.import_module(str(place)), name)


def environment(*first: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (*first, ROOT)))}


def test_type_checkers_see_the_public_names(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    (tmp_path / "user.py").write_text(
        "from verifier import Verdict, verify\n"
        "from training import train\n"
        "reveal_type(verify), reveal_type(Verdict.VERIFIED), reveal_type(train)\n"
    )
    names = sorted(importlib.import_module("verifier").__all__)
    every = "".join(f"reveal_type({name})\n" for name in names)
    (tmp_path / "every.py").write_text(f"from verifier import {', '.join(names)}\n{every}")
    # what others' packages say is left out: that alone would take a minute
    others = ("torch", "numpy", "scipy", "networkx", "rich", "typer", "onnx", "matplotlib", "sklearn", "safetensors")
    skipped = "".join(f"[mypy-{name}.*]\nfollow_imports = skip\n" for name in others)
    (tmp_path / "mypy.ini").write_text(f"[mypy]\nignore_missing_imports = true\nfollow_imports = silent\n{skipped}")
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "user.py", "every.py"],
        cwd=tmp_path, env={**os.environ, "MYPYPATH": str(ROOT)}, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    revealed = [line for line in done.stdout.splitlines() if "Revealed type" in line]
    verify, verdict, train = (line for line in revealed if line.startswith("user.py"))
    assert "def (model: " in verify and "-> verifier.result.Result" in verify
    assert "verifier.verdict.Verdict.VERIFIED" in verdict
    whole = [line for line in revealed if line.startswith("every.py")]
    assert len(whole) == len(names) and all('"def ' in line or '"Overload(' in line for line in whole), whole
    assert "training.history.History" in train and "training.run.Trained" in train


@pytest.mark.parametrize("name", ["properties", "solvers", "training"])
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_hides_a_package_is_named(tmp_path: Path, name: str, kind: str) -> None:
    own = tmp_path / (f"{name}.py" if kind == "file" else name)
    if kind == "file":
        own.write_text("")
    else:
        own.mkdir()
        (own / "__init__.py").write_text("")
    script = tmp_path / "script.py"  # Python looks in the script's folder first
    script.write_text("import verifier\n")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, env=environment(), timeout=300)
    if name == "training":  # verification needs no trainers: it is said, and that is all
        (said,) = (line for line in done.stderr.splitlines() if "UserWarning: " in line)
        assert done.returncode == 0
    else:
        said = done.stderr.splitlines()[-1]
        assert done.returncode == 1 and said.startswith("ImportError: ")
    assert str(own) in said and str(ROOT / name) in said and "Rename it" in said


def test_folders_that_hide_nothing_are_let_be(tmp_path: Path) -> None:
    """A folder without __init__.py comes after every package; other names are nobody's business."""
    (tmp_path / "training").mkdir()
    (tmp_path / "training" / "data.txt").write_text("")
    (tmp_path / "losses.py").write_text("")
    script = tmp_path / "script.py"
    script.write_text("import verifier, properties, training, losses\nassert training.__all__\n")
    subprocess.run([sys.executable, script], check=True, env=environment(), timeout=300)
