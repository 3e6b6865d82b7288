"""Training methods, one file each. A file registers its methods when it is imported; `load_all` imports them all."""

from __future__ import annotations

import importlib
import pkgutil

from training.method import METHODS, TrainingMethod


def load_all() -> dict[str, type[TrainingMethod]]:
    """Every method by name."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"training.methods.{module.name}")
    return METHODS


def method_named(name: str) -> type[TrainingMethod]:
    """The method of that name.

    Raises:
        ValueError: there is none.
    """
    methods = load_all()
    if name not in methods:
        raise ValueError(f"no training method is called {name!r}; there are: {', '.join(sorted(methods))}")
    return methods[name]
