"""No warnings while torch says what is its own affair."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from verifier.held import HeldState


@contextmanager
def quiet_warnings() -> Iterator[None]:
    """Warnings are ignored inside, by the whole process: Python has one list of filters.

    `warnings.catch_warnings` alone would not do in several threads: who leaves last puts back what another had set.
    """
    with _IGNORED.held():
        yield


def _ignored() -> Callable[[], object]:
    caught = warnings.catch_warnings()
    caught.__enter__()
    warnings.simplefilter("ignore")
    return partial(caught.__exit__, None, None, None)


_IGNORED = HeldState(_ignored)
