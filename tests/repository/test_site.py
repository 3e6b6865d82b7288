"""The site of the documentation builds without a warning, and its reference has every public name."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import properties
import solvers
import training
import verifier

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "docs" / "reference"


def identifiers(page: Path) -> list[str]:
    return re.findall(r"^::: ([\w.]+)$", page.read_text(encoding="utf-8"), re.MULTILINE)


def resolved(identifier: str) -> object:
    """The module, or what it holds under the last name."""
    try:
        return importlib.import_module(identifier)
    except ModuleNotFoundError:
        module, _, name = identifier.rpartition(".")
        return getattr(importlib.import_module(module), name)


@pytest.mark.parametrize("package", [verifier, properties, solvers, training], ids=lambda p: p.__name__)
def test_the_reference_has_every_public_name(package: object) -> None:
    name = package.__name__  # type: ignore[attr-defined]
    page = REFERENCE / f"{name}.md"
    text, documented = page.read_text(encoding="utf-8"), set(identifiers(page))
    for public in package.__all__:  # type: ignore[attr-defined]
        entry = f"{name}.{public}"
        assert entry in documented or f"`{entry}`" in text, f"{page.name} has no entry of {entry}"


def test_what_the_reference_names_has_a_docstring() -> None:
    pages = sorted(REFERENCE.glob("*.md"))
    assert len(pages) >= 5
    for page in pages:
        found = identifiers(page)
        assert found and len(found) == len(set(found)), page
        for identifier in found:
            assert resolved(identifier).__doc__, f"{page.name}: {identifier}"


def test_the_site_builds_strictly_and_fetches_nothing(tmp_path: Path) -> None:
    pytest.importorskip("mkdocstrings")
    pytest.importorskip("material")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)], cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) >= 20
    loads = re.compile(
        r"<(?:script|img|iframe)[^>]*\ssrc=[\"']?https?://|<link[^>]*rel=[\"']?(?:stylesheet|preconnect)[\"']?[^>]*https?://"
    )
    for page in pages:
        assert not loads.search(page.read_text(encoding="utf-8")), page
    assert 'id="verifier.verify"' in (tmp_path / "reference" / "verifier.html").read_text(encoding="utf-8")
