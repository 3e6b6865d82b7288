"""The plugin that gives tests a CUDA device: `PYTHONPATH=tests pytest -p device.plugin tests/device`.

It has to be loaded before torch. Where this torch has a real device, tests run on that, and nothing is counted.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

from device.accounts import Account
from device.building import Missing, torch_folder
from device.pretence import load, pretended


def _real() -> bool:
    """Whether there is a CUDA device.

    Raises:
        Missing: there is none, and this torch cannot be told that there is.
    """
    built_for = re.search(r"^cuda\b.*= '", (torch_folder() / "version.py").read_text(), re.MULTILINE)
    if built_for is None:
        return False
    import torch

    if not torch.cuda.is_available():
        raise Missing(
            "this torch was built for CUDA and finds no device; one is pretended with its build for the CPU alone"
        )
    return True


REAL, REASON = False, ""
try:
    REAL = _real()
    if not REAL:
        load()
except Missing as missing:
    REASON = str(missing)


@contextmanager
def _uncounted() -> Iterator[Account]:
    yield Account(counted=False)


@pytest.fixture
def device() -> Callable[[], AbstractContextManager[Account]]:
    """A context manager: inside it there is a CUDA device, and the account that it gives says what it was asked for."""
    if REASON:
        pytest.skip(f"no CUDA device, and none can be pretended: {REASON}")
    return _uncounted if REAL else pretended


def pytest_report_header() -> str:
    return f"CUDA device: {'real' if REAL else 'none: ' + REASON if REASON else 'pretended, by the CPU'}"
