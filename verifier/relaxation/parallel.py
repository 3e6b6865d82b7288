"""Chunks of a batch side by side on the cores of a CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import TypeVar

import torch

from verifier.budget import interrupted_at, interruption

Item = TypeVar("Item")
Value = TypeVar("Value")


def workers(device: torch.device) -> int:
    """How many chunks are worked on at once: torch's threads on a CPU, one on an accelerator or when training."""
    return 1 if device.type != "cpu" or torch.is_grad_enabled() else torch.get_num_threads()


def ordered_map(
    function: Callable[[Item], Value], items: Iterable[Item], device: torch.device, stop: Event | None = None
) -> list[Value]:
    """[function(item) for item in items], several at a time where `workers` says so.

    One chunk per core beats one operation over all cores: there is no barrier after each of a chunk's hundreds of
    small operations, so that neither the operations' size nor another program's load on a core holds up the rest.
    A single item gets all the cores. The chunks' results do not depend on how many run at once.

    `stop` is set when an item raises, or on Ctrl-C: the others look at it, so that nobody waits for them.
    """
    items = list(items)
    if len(items) < 2 or workers(device) == 1:
        return [function(item) for item in items]
    return _side_by_side(function, items, workers(device), stop)


def ordered_map_small(
    function: Callable[[Item], Value], items: Iterable[Item], device: torch.device, stop: Event | None = None
) -> list[Value]:
    """As `ordered_map`, for long sequences of operations too small to be shared: one core even for a single item."""
    items = list(items)
    if not items or workers(device) == 1:
        return [function(item) for item in items]
    return _side_by_side(function, items, workers(device), stop)


def _side_by_side(function: Callable[[Item], Value], items: list[Item], count: int, stop: Event | None) -> list[Value]:
    end = interruption()

    def start() -> None:
        interrupted_at(end)
        torch.set_num_threads(1)  # of this worker
        torch.set_grad_enabled(False)  # a property of the thread

    try:
        with ThreadPoolExecutor(min(count, len(items)), initializer=start) as pool:
            try:
                return list(pool.map(function, items))
            except BaseException:
                if stop is not None:
                    stop.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    finally:
        torch.set_num_threads(count)  # the workers' setting reaches the matrix library of the whole process
