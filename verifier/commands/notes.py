"""Warnings about data, as lines of our own. Light: torch is loaded where it is used."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from verifier.commands.shared import say


@contextmanager
def data_warnings_said() -> Iterator[None]:
    """Warnings about data become lines on stderr; those about units were said when the file was read."""
    from verifier.certification.doubts import DataWarning, UnitsWarning

    with warnings.catch_warnings():
        plain = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *more: Any, **named: Any) -> None:
            if issubclass(category, DataWarning):
                say(f"note: {message}")
            else:
                plain(message, category, *more, **named)

        warnings.simplefilter("always", DataWarning)
        warnings.simplefilter("ignore", UnitsWarning)
        warnings.showwarning = show
        yield
