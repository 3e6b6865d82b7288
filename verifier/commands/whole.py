"""Libraries that are loaded whole, whenever Ctrl-C comes. Light: only the standard library.

torch's compiled code imports numpy, and takes what goes wrong there, a KeyboardInterrupt too, for a numpy that is not
installed. Ctrl-C in that moment would be lost, and the run would go on with half of numpy.
"""

from __future__ import annotations

import importlib.machinery
import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from types import ModuleType
from typing import Any

from verifier.checker.starting import deaf_to_interrupts

_WHOLE = ("numpy", "torch")


def loaded_whole() -> None:
    """From now on Ctrl-C waits while numpy or torch is imported, and is raised when it is there."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder):
    """Finds them where they are found anyway, with a loader that is not interrupted."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name not in _WHOLE:
            return None
        return found_with(_WholeLoader, name, path, target)


def found_with(
    loader: Callable[[Any], Loader], name: str, path: Sequence[str] | None, target: ModuleType | None
) -> importlib.machinery.ModuleSpec | None:
    """A module where it is found anyway, with a loader made of its own one."""
    spec = importlib.machinery.PathFinder.find_spec(name, path, target)
    if spec is not None and spec.loader is not None:
        spec.loader = loader(spec.loader)
    return spec


class _WholeLoader(Loader):
    """A library's own loader, which hears of Ctrl-C when it is done."""

    def __init__(self, own: Loader) -> None:
        self.own = own

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self.own.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self.own  # who asks the library for its files or its source asks its own loader
        if module.__spec__ is not None:
            module.__spec__.loader = self.own
        with deaf_to_interrupts():
            self.own.exec_module(module)
