"""benchmarks/device.py as a module, loaded by its path: tests/device is a package of its name."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

PATH = Path(__file__).parents[2] / "benchmarks" / "device.py"


def device_script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A new one each time, with the scripts beside it in reach."""
    monkeypatch.syspath_prepend(str(PATH.parent))
    spec = importlib.util.spec_from_file_location("device_script", PATH)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
